"""Arguments: seeds written in short, whole numbers, and mistakes that name their field."""

import pytest

from n3.cli.arguments import Arguments, expand_seeds, parse_experiment, show_seeds
from n3.config import Experiment
from trials import tiny


def parsed(*words):
    """The experiment of some flags of `n3 train`."""
    how = {"program": "n3 train", "description": "", "made": lambda own: own.experiment()}
    return parse_experiment(Arguments, [*map(str, words)], **how)


@pytest.mark.parametrize(
    ("words", "seeds"),
    [
        (("--seeds", "20"), range(20)),
        (("--seeds=3",), range(3)),
        (("--seeds", "1"), (0,)),
        (("--seeds", "0:20"), range(20)),
        (("--seeds", "7:8"), (7,)),
        (("--seeds", "3", "5", "8"), (3, 5, 8)),
        (("--seeds", "3", "6:8"), (3, 6, 7)),
    ],
)
def test_one_number_is_so_many_seeds_and_several_are_themselves(words, seeds):
    assert expand_seeds(["--steps", "5", *words, "--quiet"]) == [
        *("--steps", "5", "--seeds"),
        *map(str, seeds),
        "--quiet",
    ]
    assert parsed(*words).run.seeds == tuple(seeds)


@pytest.mark.parametrize("text", ["0", "5:2", "5:5", "0:99999999999", "9" * 400, "1000001"])
def test_seeds_that_are_none_or_too_many_are_refused(text, capsys):
    with pytest.raises(SystemExit) as end:
        parsed("--seeds", text)
    assert end.value.code == 2
    assert "`seeds` must be" in capsys.readouterr().err


def test_a_configuration_keeps_its_list_of_seeds(tmp_path):
    (tmp_path / "c.json").write_text(tiny(seeds=(7,)).to_json())
    assert parsed("--config", tmp_path / "c.json").run.seeds == (7,)


def test_a_table_has_its_size_found_from_held_out_samples_unless_a_method_is_named():
    own = parsed("--data", "a.csv", "--target", "y")
    assert (own.network.method, own.information.criterion) == ("information", "held-out")
    assert own.run.arms == ("growing", "static", "equal-size")
    assert own.run.seeds == tuple(range(6))
    assert parsed("--data", "a.csv", "--target", "y", "--method", "controller").run == Experiment().run


@pytest.mark.parametrize(
    ("seeds", "line"),
    [
        ((0, 1, 2), "seeds: 0 to 2 (3 seeds)\n"),
        ((4,), "seeds: 4 (1 seed)\n"),
        ((3, 5, 8), "seeds: 3, 5, 8 (3 seeds)\n"),
    ],
)
def test_seeds_are_shown(seeds, line, capsys):
    show_seeds(seeds)
    assert capsys.readouterr() == ("", line)


@pytest.mark.parametrize(("text", "value"), [("1e4", 10_000), ("2.5e3", 2_500), ("12", 12), ("none", None)])
def test_a_whole_number_may_have_an_exponent(text, value):
    assert parsed("--steps", text).training.steps == value


def test_layers_and_prices_may_have_exponents():
    found = parsed("--capacity", "1e2", "50", "--learning-rate", "1e-3", "--method", "information")
    assert found.network.capacity == (100, 50)
    assert found.training.learning_rate == 1e-3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--steps", "1e-4"), "a whole number is needed"),
        (("--steps", "ten"), "a whole number is needed"),
        (("--learning-rate", "fast"), "a number is needed"),
        (("--config", "none.json"), "`config` must be the `config.json` of an earlier run"),
        (
            ("--method", "information", "--target-size", "5"),
            "`target_size` does not go with `method` information",
        ),
        (("--method", "information", "--target_size=5"), "`target_size` does not go with `method` information"),
    ],
)
def test_a_wrong_value_is_refused_with_code_2(words, message, capsys):
    with pytest.raises(SystemExit) as end:
        parsed(*words)
    assert end.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_file_that_is_no_configuration_names_the_field(tmp_path, capsys):
    (tmp_path / "c.json").write_text("{")
    with pytest.raises(SystemExit):
        parsed("--config", tmp_path / "c.json")
    assert capsys.readouterr().err.startswith("error: `config`: ")


def test_the_configuration_of_an_information_run_has_a_target_size_and_is_taken(tmp_path):
    experiment = Experiment.from_json(tiny(network={"method": "information"}).to_json()).resolved()
    (tmp_path / "c.json").write_text(experiment.to_json())
    assert parsed("--config", tmp_path / "c.json").training.target_size == 4.0
