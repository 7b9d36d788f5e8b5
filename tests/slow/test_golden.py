"""Golden runs: small runs of every kind give the numbers that are committed."""

import golden
import numpy as np
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.golden]
ADVICE = (
    "`uv run --group test python tests/slow/golden.py {case}` writes these numbers anew; "
    "a number that changes must be named in the change log."
)


def tolerance(quantity):
    """Relative and absolute tolerance of a quantity, by the words of its name; none of whole numbers."""
    word = quantity.split()[0]
    if word in golden.EXACT:
        return {"rtol": 0.0, "atol": 0.0}
    if word in golden.SIZES:
        return {"rtol": 1e-2, "atol": 1e-2}
    return {"rtol": 1e-3, "atol": 1e-6}


def differences(expected, found):
    """What differs between the numbers of a case, a line each."""
    lines = [f"{name}: committed, but not found" for name in sorted(set(expected) - set(found))]
    lines += [f"{name}: found, but not committed" for name in sorted(set(found) - set(expected))]
    for name in sorted(set(expected) & set(found)):
        own, other = np.array(expected[name], float), np.array(found[name], float)
        if own.shape != other.shape or not np.allclose(other, own, equal_nan=True, **tolerance(name)):
            lines.append(f"{name}: {found[name]}, and {expected[name]} is committed")
    return lines


def test_every_case_is_committed_and_no_other():
    assert set(golden.read()) == set(golden.CASES)


@pytest.mark.parametrize("case", golden.CASES)
def test_a_small_run_gives_the_committed_numbers(case):
    found = differences(golden.read()[case], golden.CASES[case]())
    assert not found, "\n".join([f"golden run `{case}` differs.", *found, ADVICE.format(case=case)])


COMMITTED = {"test_loss last growing": [0.5, 0.25], "size last growing": [3.0], "widths": [4]}


@pytest.mark.parametrize(
    "change, expected",
    [
        ({}, []),
        ({"test_loss last growing": [0.5003, 0.25]}, []),
        ({"test_loss last growing": [0.501, 0.25]}, ["test_loss last growing: "]),
        ({"test_loss last growing": [0.5]}, ["test_loss last growing: "]),
        ({"test_loss last growing": [0.5, np.nan]}, ["test_loss last growing: "]),
        ({"size last growing": [3.03]}, []),
        ({"size last growing": [3.05]}, ["size last growing: "]),
        ({"widths": [5]}, ["widths: "]),
        ({"depth last growing": [1.0]}, ["depth last growing: found, but not committed"]),
    ],
)
def test_what_differs_is_named(change, expected):
    lines = differences(COMMITTED, COMMITTED | change)
    assert [line[: len(start)] for line, start in zip(lines, expected, strict=True)] == expected
    assert differences(COMMITTED | {"depth": [1.0]}, COMMITTED) == ["depth: committed, but not found"]
