"""Experiment: the JSON round trip, what the presets fill in, and every refusal."""

import dataclasses
import itertools
import json
from copy import copy

import pytest

from n3.config.experiment import (
    ARMS,
    METHODS,
    PRESETS,
    Experiment,
    InformationConfig,
    NetworkConfig,
    RunConfig,
    StructureConfig,
    TaskConfig,
    TrainingConfig,
)

UNUSUAL = Experiment(
    task=TaskConfig(
        task="moons",
        data="own/moons.csv",
        target=("y",),
        drop=("id",),
        categorical=("code",),
        separator=";",
        decimal=",",
        encoding="latin-1",
        kind="regression",
        class_weight="balanced",
        samples=96,
        test_samples=7,
        data_seed=0,
    ),
    network=NetworkConfig(
        method="auxiliary",
        capacity=(6, 6),
        mask="linear",
        activation="choose:gelu,sin",
        layerwise=True,
        depth_gates=True,
        size_input=True,
        initialisation="fan-in",
    ),
    training=TrainingConfig(
        steps=12,
        optimiser="sgd",
        learning_rate=0.1 + 0.2,
        members=0,
        readout="trained",
        batch=32,
        size_cost=0.0,
        weight_prior=0.5,
        target_size=4.5,
        initial_size=0.0,
        schedule="cosine",
        choice_first=2.0,
        choice_last=0.1,
        choice_end=1.0,
    ),
    information=InformationConfig(psi="generation"),
    run=RunConfig(
        arms=tuple(arm for arm in ARMS if arm != "shrinking"),
        seeds=(5, 0, 3),
        records=9,
        monitor=("structure", "gap"),
        log_dir="logs",
        out="there",
        name="a-name_1.0",
        device="cpu",
        block=2,
        figure_format=("pdf",),
    ),
)


STAGED = Experiment(
    network=NetworkConfig(method="information"),
    information=InformationConfig(
        price="chi-square",
        price_scale=0.5,
        price_start=0.1,
        select="best",
        budget=70,
        look_ahead=3,
        every=7,
        size_rate=0.2,
        settle=0.5,
        birth=0.0,
        birth_end=0.1,
        reorder=False,
        correct=False,
        redundancy_aware=False,
        importance=0.1,
        psi="detection",
        redundancy=0.2,
        structure=0.3,
        features=True,
    ),
    structure=StructureConfig(
        structure_every=7,
        prune="importance < 0.01 and layer.gain < 1",
        expand=0,
        expand_method="mutate",
        cooldown=0,
        plateau=0.0,
        margin=0.5,
    ),
)


JUDGED = Experiment(
    network=NetworkConfig(method="information"),
    training=TrainingConfig(members=3, readout="trained", refit=True),
    information=InformationConfig(criterion="held-out", errors=0.0, resolution=1e-3),
)


PATHS_REFUSED = ["cheap", "0.1", "0.1:1", "0.1:1:3:4", "0:1:3", "1:1:3", "1:0.1:3", "0.1:inf:3", "nan:1:3"]


PATHS_REFUSED += ["0.1:1:1", "0.1:1:2.5", "-1:1:3", "::", ""]


def of_price(price, *, method="information", arms=("growing", "static")):
    network, information = NetworkConfig(method=method), InformationConfig(price=price)
    return Experiment(network=network, information=information, run=RunConfig(arms=arms))


def test_a_path_of_prices_is_geometric_from_end_to_end():
    assert InformationConfig(price="0.01:1:3").path == pytest.approx((0.01, 0.1, 1.0), rel=1e-12)
    prices = InformationConfig(price="0.03:0.7:8", price_scale=2.0).path
    assert (len(prices), prices[0], prices[-1]) == (8, 0.06, 1.4)
    ratios = [after / before for before, after in itertools.pairwise(prices)]
    assert ratios == pytest.approx([ratios[0]] * 7, rel=1e-12)
    assert all(InformationConfig(price=price).path == () for price in (0.3, "chi-square", "description-length"))


def test_a_choice_of_activations_is_none_or_several():
    assert NetworkConfig(activation="choose:relu,tanh").choices == ("relu", "tanh")
    assert NetworkConfig(activation="relu").choices == ()


def test_a_path_of_prices_comes_back_from_json():
    again = Experiment.from_json(of_price("0.01:0.5:8").to_json())
    assert again == of_price("0.01:0.5:8")
    assert again.information.price == "0.01:0.5:8"
    with pytest.raises(ValueError, match=r"`price` must be .* got 'dear'"):
        Experiment.from_json('{"information": {"price": "dear"}}')


def of_text(**settings):
    return TaskConfig(data="a.csv", target=("y",), **settings)


def of_method(method, **parts):
    return Experiment(network=NetworkConfig(method=method), **parts)


def in_stages(every=10, *, method="information", steps=None, arms=("growing",), price=0.1, **network):
    return Experiment(
        network=NetworkConfig(method=method, **network),
        training=TrainingConfig(steps=steps),
        information=InformationConfig(**({"price": price} if method == "information" else {})),
        structure=StructureConfig(structure_every=every),
        run=RunConfig(arms=arms),
    )


def test_the_unusual_experiments_differ_from_the_default_in_every_field():
    for part in dataclasses.fields(Experiment):
        usual = getattr(Experiment(), part.name)
        ours = [getattr(whole, part.name) for whole in (UNUSUAL, STAGED, JUDGED)]  # each has what others refuse
        for entry in dataclasses.fields(usual):
            assert any(getattr(own, entry.name) != getattr(usual, entry.name) for own in ours), entry.name


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("resolve", [False, True])
def test_json_round_trip_of_every_method(method, resolve):
    experiment = of_method(method)
    experiment = experiment.resolved() if resolve else experiment
    assert Experiment.from_json(experiment.to_json()) == experiment


@pytest.mark.parametrize(
    "experiment", [UNUSUAL, UNUSUAL.resolved(), STAGED, STAGED.resolved(), JUDGED, JUDGED.resolved()]
)
def test_json_round_trip_of_other_values(experiment):
    again = Experiment.from_json(experiment.to_json())
    assert again == experiment
    assert hash(again) == hash(experiment)  # tuples again, not lists


def test_json_holds_every_field_and_ends_with_a_line():
    text = Experiment().to_json()
    assert text.endswith("}\n")
    assert json.loads(text)["training"]["batch"] is None
    for part in dataclasses.fields(Experiment):
        names = {entry.name for entry in dataclasses.fields(getattr(Experiment(), part.name))}
        assert set(json.loads(text)[part.name]) == names


def test_json_may_leave_fields_out():
    experiment = Experiment.from_json('{"training": {"target_size": 3.0, "batch": 8}}')
    assert experiment == Experiment(training=TrainingConfig(target_size=3.0, batch=8))
    assert Experiment.from_json("{}") == Experiment()


def test_load_reads_a_file_and_names_it_in_errors(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(UNUSUAL.to_json())
    assert Experiment.load(path) == UNUSUAL
    assert Experiment.load(str(path)) == UNUSUAL
    path.write_text("{")
    with pytest.raises(ValueError, match=r"config\.json: Expecting"):
        Experiment.load(path)


@pytest.mark.parametrize("method", METHODS)
def test_resolved_fills_the_presets(method):
    preset, resolved = PRESETS[method], of_method(method).resolved()
    for part, usual in preset.items():
        for name, value in usual.items():
            assert getattr(getattr(resolved, part), name) == value, name
    decided = ("steps", "optimiser", "learning_rate", "size_cost", "target_size", "weight_prior")
    assert all(getattr(resolved.training, name) is not None for name in decided)


def test_resolved_by_hand():
    auxiliary, controller = of_method("auxiliary").resolved(), of_method("controller").resolved()
    assert auxiliary.network.capacity == (9,)
    assert auxiliary.network.size_input is True
    assert auxiliary.training.target_size == 5.0
    assert auxiliary.training.optimiser == "sgd"
    assert controller.network.capacity == (10,)
    assert controller.network.size_input is False
    assert controller.training.target_size == 10.0
    assert controller.training.optimiser == "adam"


def test_a_file_names_its_task_and_comes_back_from_json():
    task = TaskConfig(data="some dir/my prices (2).csv", target=("price", "rent"), kind="regression")
    resolved = Experiment(task=task).resolved()
    assert resolved.task.task == "my-prices-2-"
    assert resolved.resolved() == resolved
    assert Experiment.from_json(resolved.to_json()) == resolved
    assert Experiment(task=TaskConfig(data="a.NPZ")).resolved().task.task == "a"
    assert TaskConfig(task="moons").named() == TaskConfig(task="moons")


def test_every_method_has_a_preset():
    assert set(PRESETS) == set(METHODS)


@pytest.mark.parametrize("experiment", [*(of_method(name) for name in METHODS), UNUSUAL])
def test_resolved_is_idempotent(experiment):
    assert experiment.resolved().resolved() == experiment.resolved()


def test_resolved_keeps_what_is_given():
    assert UNUSUAL.resolved() == UNUSUAL


@pytest.mark.parametrize(
    "method, capacity, given, expected",
    [
        ("controller", (7,), None, 7.0),
        ("controller", (7, 4), None, 4.0),
        ("auxiliary", (3,), None, 3.0),
        ("auxiliary", (30,), None, 5.0),
        ("controller", None, 2.5, 2.5),
    ],
)
def test_resolved_target_size(method, capacity, given, expected):
    experiment = Experiment(
        network=NetworkConfig(method=method, capacity=capacity), training=TrainingConfig(target_size=given)
    )
    assert experiment.resolved().training.target_size == expected


def test_a_size_beyond_the_usual_capacity_is_refused_or_cut_when_resolved():
    with pytest.raises(ValueError, match=r"`initial_size` must lie in \[0, 10\]"):
        Experiment(training=TrainingConfig(initial_size=11.0)).resolved()


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: TaskConfig(samples=0), r"`samples` must be positive and finite; got 0\."),
        (lambda: TaskConfig(test_samples=-1), r"`test_samples` must be positive and finite; got -1\."),
        (lambda: TaskConfig(data_seed=-1), r"`data_seed` must be zero or more, and finite; got -1\."),
        (lambda: TaskConfig(target=("y",)), r"`target` goes with a file of `data`; got \('y',\) alone"),
        (lambda: TaskConfig(kind="regression"), r"`kind` goes with a file of `data`; got 'regression' alone"),
        (
            lambda: TaskConfig(data="a.xls", target=("y",)),
            r"`data` must name a \.csv, \.tsv or \.npz file; got 'a\.xls': save the table as csv\.",
        ),
        (
            lambda: TaskConfig(data="a.csv"),
            r"`target` must name a column of a \.csv file, such as price; got \(\) with 'a\.csv'",
        ),
        (
            lambda: TaskConfig(data="a.npz", target=("y",)),
            r"`target` must be left out with \.npz; got \('y',\)",
        ),
        (lambda: TaskConfig(data="a.csv", target=("y", "y")), r"`target` must be distinct; 'y' appears more"),
        (lambda: TaskConfig(decimal=","), r"`decimal` goes with a file of `data`; got ',' alone"),
        (lambda: TaskConfig(data="a.npz", drop=("id",)), r"`drop` goes with a \.csv file; got .* 'a\.npz'"),
        (lambda: of_text(drop=("y",)), "`drop` must name no column of `target` or `drop`; got 'y'"),
        (
            lambda: of_text(drop=("x",), categorical=("x",)),
            "`categorical` must name no column of `target` or `drop`; got 'x'",
        ),
        (lambda: of_text(separator=";;"), "`separator` must be one character, such as ';'; got ';;'"),
        (
            lambda: of_text(separator=",", decimal=","),
            "`separator` and `decimal` must differ; got ',' for both: save the file with another separator",
        ),
        (lambda: of_text(encoding="rot13"), "`encoding` must be known, such as latin-1; got 'rot13'"),
        (lambda: of_text(encoding="hex"), "`encoding` must be known, such as latin-1; got 'hex'"),
        (lambda: of_text(encoding="latin-99"), "`encoding` must be known, such as latin-1; got 'latin-99'"),
        (lambda: TaskConfig(task="moons", data="a.npz"), r"`task` must be left out .* name, 'a'; got 'moons'"),
        (lambda: NetworkConfig(capacity=()), r"`capacity` must name one hidden layer or more\."),
        (lambda: NetworkConfig(capacity=(4, 0)), r"`capacity` must hold positive whole numbers; got 0\."),
        (lambda: NetworkConfig(depth_gates=True), r"`depth_gates` needs two or more .* got None\."),
        (lambda: NetworkConfig(depth_gates=True, capacity=(4,)), r"`depth_gates` needs two .* got \(4,\)\."),
        (lambda: NetworkConfig(depth_gates=True, capacity=(4, 5)), r"`depth_gates` .* got \(4, 5\)\."),
        (lambda: NetworkConfig(activation="tan"), r"`activation` must be one of tanh, .* got 'tan'.* 'tanh'\?"),
        (lambda: NetworkConfig(activation="choose:tanh,rely"), r"identity; got 'rely'\. Did you mean 'relu'\?"),
        (lambda: NetworkConfig(activation="choose:tanh"), r"among two or more of tanh, .* got 'choose:tanh'\."),
        (lambda: NetworkConfig(activation="choose:sin,sin"), r"`activation` must be distinct; 'sin' appears"),
        (
            lambda: NetworkConfig(activation="chose:tanh,sin"),
            r"must be a name or `choose:` and names; got 'cho",
        ),
        (lambda: NetworkConfig(activation="choose:"), r"`activation` must be one of tanh, .* got ''\."),
        (lambda: TrainingConfig(choice_last=0.0), r"`choice_last` must be positive and finite; got 0\.0"),
        (lambda: TrainingConfig(choice_end=1.5), r"`choice_end` must lie in \[0, 1\]; got 1\.5"),
        (lambda: TrainingConfig(choice_end=0.0), r"`choice_end` must be positive and finite; got 0\.0"),
        (lambda: InformationConfig(psi=0.0), r"`psi` must be positive and finite; got 0\.0\."),
        (lambda: InformationConfig(psi=float("inf")), r"`psi` must be positive and finite; got inf\."),
        (lambda: TrainingConfig(steps=0), r"`steps` must be positive and finite; got 0\."),
        (lambda: TrainingConfig(learning_rate=0.0), r"`learning_rate` must be positive and finite; got 0\.0"),
        (lambda: TrainingConfig(size_cost=-0.1), r"`size_cost` must be zero or more, and finite; got -0\.1"),
        (lambda: TrainingConfig(target_size=0.0), r"`target_size` must be positive and finite; got 0\.0"),
        (lambda: TrainingConfig(initial_size=-1.0), r"`initial_size` must be zero or more, .* got -1\.0"),
        (lambda: InformationConfig(price=-0.1), r"`price` must be zero or more, and finite; got -0\.1"),
        *(
            (lambda text=text: InformationConfig(price=text), r"`price` must be .* LOW:HIGH:COUNT .* got '")
            for text in PATHS_REFUSED
        ),
        (lambda: InformationConfig(price="chi-sqare"), r"Did you mean 'chi-square'\?"),
        (lambda: InformationConfig(price="0.1:1:3", budget=9), r"`price` as a path needs `budget` left out"),
        (lambda: InformationConfig(price="0.1:1:3", price_scale=0.0), r"`price_scale` above zero"),
        (lambda: InformationConfig(price_start=0.0), "`price_start` must be positive"),
        (
            lambda: of_price("0.1:1:3", method="controller"),
            r"`price`: only with `method` information; got controller",
        ),
        (
            lambda: of_method("auxiliary", information=InformationConfig(budget=9, psi=2.0, settle=0.5)),
            r"^`budget`, `settle`: only with `method` information; got auxiliary\.$",
        ),
        (lambda: of_price("0.1:1:3", arms=("static",)), r"a path needs growing among `arms`"),
        (lambda: InformationConfig(look_ahead=0), r"`look_ahead` must be positive and finite; got 0"),
        (lambda: InformationConfig(budget=0), r"`budget` must be positive and finite; got 0"),
        (lambda: InformationConfig(birth=-1.0), r"`birth` must be zero or more, and finite; got -1\.0"),
        (lambda: InformationConfig(settle=1.5), r"`settle` must lie in \[0, 1\]; got 1\.5"),
        (lambda: InformationConfig(settle=0.2), r"`birth_end` must not exceed `settle`, 0\.2; got 0\.33"),
        (lambda: Experiment(run=RunConfig(arms=("shrinking",))), r"shrinking needs method information"),
        (lambda: StructureConfig(structure_every=0), r"`structure_every` must be positive and finite; got 0\."),
        *(
            (lambda name=name, low=low: StructureConfig(**{name: low}), rf"`{name}` must be zero .* got {low}")
            for name, low in (("expand", -1), ("cooldown", -1), ("plateau", -1.0), ("margin", -1.0))
        ),
        (
            lambda: StructureConfig(prune="importance"),
            r"`prune` must be a criterion of units: .*needs a comparison",
        ),
        *(
            (
                lambda method=method: in_stages(method=method),
                rf"`structure_every` needs `method` auxiliary or information, .* got {method}",
            )
            for method in ("controller", "released")
        ),
        (
            lambda: in_stages(arms=("static",)),
            r"`structure_every` needs one of growing, grown, shrinking among",
        ),
        (
            lambda: in_stages(capacity=(4, 4), depth_gates=True),
            "`structure_every` does not go with `depth_gates`",
        ),
        (
            lambda: in_stages(method="auxiliary", capacity=(4, 4)),
            "`structure_every` .* needs `layerwise` sizes",
        ),
        (lambda: in_stages(price="0.1:1:3"), "`structure_every` does not go with `price` as a path"),
        (lambda: in_stages(10, steps=10), r"`structure_every` must be below `steps`, 10; got 10\."),
        (lambda: in_stages(5_000).resolved(), r"`structure_every` must be below `steps`, 5000; got 5000\."),
        (lambda: TrainingConfig(batch=0), r"`batch` must be positive and finite; got 0\."),
        (lambda: RunConfig(arms=()), r"`arms` must not be empty\."),
        (lambda: RunConfig(arms=("static", "static")), r"`arms` must be distinct; 'static' appears more"),
        (lambda: RunConfig(seeds=()), r"`seeds` must not be empty\."),
        (lambda: RunConfig(seeds=(3, 5, 3)), r"`seeds` must be distinct; 3 appears more than once\."),
        (lambda: RunConfig(seeds=(-1,)), r"`seeds` must be zero or more; got -1\."),
        (lambda: RunConfig(seeds=(2**31,)), r"`seeds` must be below 2\*\*31; got 2147483648\."),
        (lambda: RunConfig(records=0), r"`records` must be positive and finite; got 0\."),
        (lambda: RunConfig(arms=("equal-size",)), r"`arms` with equal-size needs growing too"),
        (lambda: RunConfig(name=""), r"`name` must match .* got ''\."),
        (lambda: RunConfig(name="../up"), r"`name` must match .* got '\.\./up'\."),
        (lambda: RunConfig(name=".."), r"not be dots alone; got '\.\.'\."),
        (lambda: RunConfig(name="a" * 101), r"`name` must match"),
    ],
)
def test_refused_values(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("name", ["target_size", "initial_size"])
def test_sizes_beyond_the_smallest_layer_are_refused(name):
    network = NetworkConfig(capacity=(8, 4))
    Experiment(network=network, training=TrainingConfig(**{name: 4.0}))
    with pytest.raises(ValueError, match=rf"`{name}` must lie in \[0, 4\], .* got 4\.5\."):
        Experiment(network=network, training=TrainingConfig(**{name: 4.5}))


def test_the_rescaled_arm_needs_a_size_input():
    run = RunConfig(arms=("rescaled",))
    Experiment(network=NetworkConfig(method="auxiliary"), run=run).resolved()
    with pytest.raises(ValueError, match="`arms` with rescaled needs a size input"):
        Experiment(network=NetworkConfig(size_input=False), run=run)
    with pytest.raises(ValueError, match="`arms` with rescaled needs a size input"):
        Experiment(network=NetworkConfig(method="controller"), run=run).resolved()


def test_a_batch_beyond_the_samples_is_refused():
    task = TaskConfig(samples=32)
    Experiment(task=task, training=TrainingConfig(batch=32))
    with pytest.raises(ValueError, match=r"`batch` must lie in \[1, 32\], the training samples; got 33\."):
        Experiment(task=task, training=TrainingConfig(batch=33))
    with pytest.raises(ValueError, match=r"`batch` must lie in \[1, 32\]"):
        of_method("auxiliary", training=TrainingConfig(batch=33)).resolved()


def test_configurations_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TaskConfig().task = "moons"


def test_one_target_is_a_tuple_too():
    """A text in place of a tuple, which the types would refuse here and nothing refuses in a user's process."""
    task = copy(TaskConfig(data="a.csv", target=("price",)))
    object.__setattr__(task, "target", "price")
    with pytest.raises(ValueError, match="`target` must be a tuple of names"):
        task.__post_init__()


def test_a_target_beyond_the_usual_capacity_is_refused_and_not_cut():
    with pytest.raises(ValueError, match=r"`target_size` must lie in \[0, 9\]"):
        Experiment(
            network=NetworkConfig(method="auxiliary"), training=TrainingConfig(target_size=12.0)
        ).resolved()
    small = Experiment(network=NetworkConfig(method="auxiliary", capacity=(4,))).resolved()
    assert small.training.target_size == 4.0  # the method's own target fits itself
    assert small.resolved() == small


def test_layerwise_sizes_do_not_go_with_information():
    with pytest.raises(ValueError, match="`layerwise` does not go with `method` information"):
        Experiment(network=NetworkConfig(method="information", capacity=(4, 4), layerwise=True))


def judged(*, training=None, network=None, **information):
    return Experiment(
        network=NetworkConfig(method="information", **network or {}),
        training=TrainingConfig(**training or {}),
        information=InformationConfig(**{"criterion": "held-out"} | information),
    )


def test_held_out_samples_bring_members_a_solved_readout_and_no_weight_prior():
    found = judged().resolved().training
    assert (found.members, found.readout, found.refit, found.weight_prior) == (5, "solved", False, 0.0)
    found = judged(criterion="price").resolved().training
    assert (found.members, found.readout, found.weight_prior) == (0, "trained", 1.0)


GATED = {"capacity": (4, 4), "depth_gates": True}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"training": {"members": 0}}, "`members` must be 1 or more under criterion held-out; got 0"),
        ({"training": {"refit": True}, "criterion": "price"}, "`refit` needs `members`"),
        ({"training": {"readout": "solved"}, "criterion": "price"}, "`readout` solved needs `members`"),
        ({"training": {"members": 3}, "criterion": "price"}, "`members` need `criterion` held-out, by which"),
        ({"network": GATED}, "`depth_gates` go with `criterion` price"),
        (
            {"network": GATED, "training": {"refit": True, "members": 2}, "criterion": "price"},
            "`refit` does not go with `depth_gates`",
        ),
    ],
)
def test_what_members_do_not_go_with_is_refused(parts, message):
    with pytest.raises(ValueError, match=message):
        judged(**parts)


@pytest.mark.parametrize(
    ("criterion", "field", "value"),
    [
        ("price", "errors", 1.0),
        ("price", "resolution", 1e-4),
        ("held-out", "price", 0.1),
        ("held-out", "reorder", False),
        ("held-out", "select", "best"),
    ],
)
def test_a_setting_of_one_criterion_is_refused_under_the_other(criterion, field, value):
    with pytest.raises(ValueError, match=f"`{field}` does not go with `criterion` {criterion}"):
        InformationConfig(criterion=criterion, **{field: value})


def test_looks_and_pace_by_held_out_samples_are_shares_of_the_run():
    judged = InformationConfig(criterion="held-out")
    assert [(judged.cadence(steps), judged.pace(steps)) for steps in (1000, 5000)] == [(20, 0.25), (100, 0.05)]
    assert (InformationConfig().cadence(1000), InformationConfig().pace(1000)) == (25, 0.05)
    assert (
        dataclasses.replace(judged, every=7).cadence(1000),
        dataclasses.replace(judged, size_rate=0.3).pace(1000),
    ) == (7, 0.3)
