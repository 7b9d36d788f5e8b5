"""Several inputs: a model of two arguments trains as one that takes them apart itself."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from n3.config.experiment import InformationConfig, StructureConfig
from n3.nn.sized import stack_runs
from n3.surgery.compact import compact
from n3.surgery.expand import expand
from n3.surgery.export import export
from n3.surgery.prune import prune
from n3.tracing.grow import grow
from n3.training.batches import checksums, source_of
from n3.training.fit import fit

KEYS, SAMPLES = jr.split(jr.key(17), 3), 120
RANDOM = np.random.default_rng(17)
LEFT = RANDOM.normal(size=(SAMPLES, 2)).astype(np.float32)
RIGHT = RANDOM.normal(size=(SAMPLES, 3)).astype(np.float32)
BOTH = np.concatenate([LEFT, RIGHT], axis=1)
TARGETS = (LEFT[:, :1] * RIGHT[:, :1] + RIGHT[:, 1:2]).astype(np.float32)
JUDGED = InformationConfig(criterion="held-out", every=5, size_rate=0.1)


class Apart(eqx.Module):
    """Two branches, of two arguments or of one that is cut in two."""

    left: eqx.nn.Linear
    right: eqx.nn.Linear
    out: eqx.nn.Linear

    def __init__(self):
        self.left = eqx.nn.Linear(2, 6, key=KEYS[0])
        self.right = eqx.nn.Linear(3, 4, key=KEYS[1])
        self.out = eqx.nn.Linear(10, 1, key=KEYS[2])

    def __call__(self, left, right=None):
        if right is None:
            left, right = left[:2], left[2:]
        return self.out(jnp.tanh(jnp.concatenate([self.left(left), self.right(right)])))


def trained(inputs, *, as_batches=False, runs=0, **settings):
    data, key, model = (inputs, TARGETS), KEYS[0], Apart()
    examples = tuple(own[0] for own in inputs) if isinstance(inputs, tuple) else inputs[0]
    if runs:
        key, model = jr.split(KEYS[0], runs), stack_runs([model] * runs)
    sized = grow(model, example=examples, key=key)
    if as_batches:
        cut = jax.tree.map(lambda own: np.split(own, 4), data, is_leaf=lambda own: isinstance(own, np.ndarray))
        sides = cut[0] if isinstance(inputs, tuple) else (cut[0],)
        columns = [own if isinstance(inputs, tuple) else own[0] for own in zip(*sides, strict=True)]
        data = list(zip(columns, cut[1], strict=True))
    validation = {"validation_data": (inputs, TARGETS)}
    usual = {"steps": 25, "key": key, "batch": 30, "learning_rate": 0.02, "quiet": True}
    return fit(sized, data, **validation, **usual | settings)


CASES = {
    "plain": {},
    "members": {"members": 2, "information": JUDGED},
    "runs of members": {"members": 2, "information": JUDGED, "runs": 2},
    "batches": {"as_batches": True},
    "batches held out": {"as_batches": True, "members": 1, "information": JUDGED},
    "structure": {"structure": StructureConfig(structure_every=10, prune="importance < 0.01")},
    "monitor": {"monitor": "importance"},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore:`fit`:RuntimeWarning")
def test_two_inputs_train_as_one_that_is_cut_in_two(case):
    (two, told), (one, other) = (trained(inputs, **CASES[case]) for inputs in ((LEFT, RIGHT), BOTH))
    np.testing.assert_allclose(told.validation_loss, other.validation_loss, rtol=1e-4)
    np.testing.assert_allclose(told.sizes, other.sizes, atol=1e-3)
    if told.held_out_loss is not None:
        np.testing.assert_allclose(told.held_out_loss, other.held_out_loss, rtol=1e-3)
    if not CASES[case].get("runs"):
        expected = one(BOTH[0])
        np.testing.assert_allclose(two(LEFT[0], RIGHT[0]), expected, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(compact(two)(LEFT[0], RIGHT[0]), expected, rtol=1e-3, atol=1e-5)


def test_samples_of_several_inputs_are_told_apart_by_all_of_them():
    changed = RIGHT.copy()
    changed[3] += 1.0
    sums = [
        checksums(source_of(((LEFT, own), TARGETS), batch=30, steps=1, key=KEYS[0]).whole().inputs)
        for own in (RIGHT, changed)
    ]
    assert np.flatnonzero(sums[0] != sums[1]).tolist() == [3]


def test_several_inputs_have_samples_of_one_shape_in_every_batch():
    batches = [((LEFT[:9], RIGHT[:9]), TARGETS[:9]), ((LEFT[:9], RIGHT[:9, :2]), TARGETS[:9])]
    with pytest.raises(ValueError, match="samples of one shape"):
        fit(Apart(), batches, steps=4, key=KEYS[0], quiet=True)


@pytest.mark.parametrize("is_grown", [False, True])
def test_pruning_takes_two_inputs_as_one_that_is_cut_in_two(is_grown):
    samples = {"two": ((LEFT, RIGHT), (LEFT[0], RIGHT[0])), "one": (BOTH, BOTH[0])}
    removed = []
    for inputs, example in samples.values():
        model = grow(Apart(), example=example, key=KEYS[0]) if is_grown else Apart()
        found = prune(model, "importance < 0.005", (inputs, TARGETS)).removed
        removed.append([(own.layer, own.unit) for own in found])
    assert removed[0] == removed[1] != []


def test_a_layer_without_which_two_inputs_still_count_can_be_pruned():
    silent = eqx.tree_at(lambda own: own.right.weight, Apart(), jnp.zeros((4, 3)))
    pruned = prune(silent, "layer.importance < 0.001", ((LEFT, RIGHT), TARGETS))
    assert [(own.layer, own.unit) for own in pruned.removed] == [(1, None)]


@pytest.mark.parametrize("inputs", [BOTH, (LEFT,), (LEFT, RIGHT[:9]), (LEFT, LEFT)])
def test_pruning_refuses_inputs_that_the_model_does_not_take(inputs):
    grown = grow(Apart(), example=(LEFT[0], RIGHT[0]), key=KEYS[0])
    with pytest.raises(
        ValueError, match=r"inputs \[samples, 2\] and \[samples, 3\] and targets \[samples, 1\]"
    ):
        prune(grown, "importance < 0.05", (inputs, TARGETS))


def test_models_of_two_inputs_are_expanded_and_exported():
    example = LEFT[0], RIGHT[0]
    wider, _ = expand(Apart(), units=2, method="split", example=example)
    np.testing.assert_allclose(wider(*example), Apart()(*example), rtol=1e-5, atol=1e-6)
    program = jax.export.deserialize(bytearray(export(wider, example=example)))
    np.testing.assert_allclose(program.call(LEFT, RIGHT), jax.vmap(wider)(LEFT, RIGHT), rtol=1e-5, atol=1e-6)
