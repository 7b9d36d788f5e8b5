"""Dimensions: products and sums of axes by hand, notes that reach every part, and layouts that outlive them."""

import numpy as np
import pytest

from n3.nn.groups import Layout
from n3.tracing.axes import Dimension, align, layout_of


def sizes(dimensions):
    return [dimension.size for dimension in dimensions]


def test_a_product_is_cut_where_the_other_side_is():
    whole, parts = Dimension(24), [Dimension(4), Dimension(3), Dimension(2)]
    align([whole], parts, is_sum=False)
    assert sizes(whole.atoms()) == [4, 3, 2]
    assert [atom.root for atom in whole.atoms()] == [part.root for part in parts]


def test_two_cuts_of_one_axis_are_refined_until_they_agree():
    left, right = [Dimension(8), Dimension(3)], [Dimension(2), Dimension(12)]
    align(left, right, is_sum=False)
    assert sizes(left[0].atoms()) == [2, 4]
    assert sizes(right[1].atoms()) == [4, 3]
    assert left[0].atoms()[1] is right[1].atoms()[0]


def test_sums_are_refined_as_well():
    left, right = [Dimension(5), Dimension(4)], [Dimension(3), Dimension(6)]
    align(left, right, is_sum=True)
    assert sizes(left[0].atoms()) == [3, 2]
    assert sizes(right[1].atoms()) == [2, 4]


def test_cuts_that_do_not_fit_are_noted_on_all_of_them():
    left, right = [Dimension(6), Dimension(4)], [Dimension(4), Dimension(6)]
    align(left, right, is_sum=False)
    assert all(
        "cut" in next(iter(atom.notes)) for side in (left, right) for own in side for atom in own.atoms()
    )


def test_a_product_that_is_also_a_sum_is_noted():
    product, total = Dimension(12), Dimension(12)
    product.consist_of([Dimension(3), Dimension(4)], is_sum=False)
    total.consist_of([Dimension(5), Dimension(7)], is_sum=True)
    product.join(total)
    assert all(atom.notes for atom in (*product.atoms(), *total.atoms()))


@pytest.mark.parametrize("is_first", [True, False])
def test_notes_and_roles_reach_what_is_joined_and_cut_before_and_after(is_first):
    here, there = Dimension(6, role="input"), Dimension(6)
    if is_first:
        here.note("why")
    there.consist_of([Dimension(2), Dimension(3)], is_sum=False)
    here.join(there)
    if not is_first:
        here.note("why")
    assert [atom.notes for atom in there.atoms()] == [{"why": None}] * 2
    assert [atom.role for atom in there.atoms()] == ["input"] * 2


def test_joining_is_transitive():
    a, b, c = (Dimension(5) for _ in range(3))
    a.join(b)
    c.join(b)
    a.note("why")
    assert c.root is a.root
    assert c.atoms()[0].notes == {"why": None}


def test_an_axis_of_length_one_has_no_atoms():
    assert Dimension(1).atoms() == []
    align([Dimension(1), Dimension(7)], [Dimension(7)], is_sum=False)


def test_terms_and_factors_stop_at_the_other_kind():
    inner, outer = Dimension(6), Dimension(10)
    inner.consist_of([Dimension(2), Dimension(3)], is_sum=False)
    outer.consist_of([inner, Dimension(4)], is_sum=True)
    assert sizes(outer.terms()) == [6, 4]
    assert sizes(outer.factors()) == [10]
    assert sizes(outer.atoms()) == [2, 3, 4]


def test_a_layout_says_what_the_dimension_said():
    units, positions, others = Dimension(3), Dimension(2, role="position"), Dimension(4)
    flat, whole = Dimension(6), Dimension(10)
    flat.consist_of([units, positions], is_sum=False)
    whole.consist_of([flat, others], is_sum=True)
    layout = layout_of(whole, {units.root: 7})
    assert layout.size == 10
    assert list(layout.groups()) == [7]
    places = layout.fold(
        lambda part: np.full(part.size, part.group),
        lambda a, b: np.maximum(a[:, None], b[None]).reshape(-1),
        np.concatenate,
    )
    assert places.tolist() == [7] * 6 + [-1] * 4
    assert hash(layout) == hash(layout_of(whole, {units.root: 7}))


def test_a_layout_without_parts_is_its_leaf():
    assert Layout(5).fold(lambda part: part.size, max, sum) == 5
