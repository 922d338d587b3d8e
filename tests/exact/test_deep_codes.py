"""Codes at depth: the table of least S, closed forms, and searches that do not use them."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact.code_search import random_sums, singular_sum_of
from tolerances import rounding

import nc_jax as nc
from nc_jax import exact

# Least S for m = 2, 3, ... 6, with the digits of a search that is not of this package.
TABLE = {
    4: [("simplex", 3), ("simplex", 3), ("square", 2.8284271), ("square", 2.6390158),
        ("square", 2.5198421)],
    5: [("simplex", 4), ("simplex", 4), ("2 pairs + 1 single", 3.7741687), ("pentagon", 3.34518),
        ("pentagon", 3.07035)],
    6: [("simplex", 5), ("octahedron", 4.7622032), ("octahedron", 4.2426407),
        ("octahedron", 3.9585237), ("hexagon", 3.6342412)],
    7: [("simplex", 6), ("3 pairs + 1 single", 5.71212), ("capped octahedron", 5.14694),
        ("capped octahedron", 4.61979), ("heptagon", 4.20527)],
    8: [("simplex", 7), ("cross polytope", 6.3496042), ("cross polytope", 5.6568542),
        ("square antiprism", 4.99792), ("square antiprism", 4.58902)],
}  # fmt: skip
CELLS = [(classes, depth) for classes in range(2, 9) for depth in range(2, 9)]


def code_named(name, classes, depth):
    return next(code for code in exact.deep_codes(classes, depth) if code.name == name)


def polygon_sum(sides, depth):
    return 2 * (sides / (2 * (1 - math.cos(2 * math.pi / sides)))) ** (2 / depth)


def pairs_sum(pairs, singles, depth):
    """S of pairs and single classes: each pair has σ = 2, see `exact.pairs_and_singles`."""
    of_pairs = pairs * 2 ** (2 / depth)
    if not singles:
        return of_pairs
    classes = 2 * pairs + singles
    return of_pairs + singles - 1 + (1 - singles / classes) ** (1 / depth)


@pytest.mark.parametrize("classes", TABLE)
def test_the_least_codes_are_those_of_the_table(classes):
    for depth, (name, value) in enumerate(TABLE[classes], start=2):
        code = exact.deep_code(classes, depth)
        assert code.name == name
        # Half a unit of the last digit that is given.
        decimals = len(str(value).partition(".")[2]) or 12
        np.testing.assert_allclose(code.singular_sum, value, atol=0.51 * 10.0**-decimals)


@pytest.mark.parametrize("depth", [2, 3, 4, 5, 6, 7, 11])
def test_codes_have_the_sums_of_their_closed_forms(depth):
    named = {"pentagon": 5, "hexagon": 6, "heptagon": 7, "octagon": 8}
    for name, sides in named.items():
        found = code_named(name, sides, depth).singular_sum
        np.testing.assert_allclose(found, polygon_sum(sides, depth), rtol=rounding())
    np.testing.assert_allclose(
        code_named("square", 4, depth).singular_sum, polygon_sum(4, depth), rtol=rounding()
    )
    for name, pairs, singles in [
        ("2 pairs + 1 single", 2, 1), ("2 pairs + 2 singles", 2, 2), ("3 pairs + 1 single", 3, 1),
        ("3 pairs + 2 singles", 3, 2), ("octahedron", 3, 0), ("cross polytope", 4, 0),
    ]:  # fmt: skip
        found = code_named(name, 2 * pairs + singles, depth).singular_sum
        np.testing.assert_allclose(found, pairs_sum(pairs, singles, depth), rtol=rounding())
    antiprism = 2 * 4 ** (2 / depth) + 8 ** (1 / depth)
    found = code_named("square antiprism", 8, depth).singular_sum
    np.testing.assert_allclose(found, antiprism, rtol=1e-12)
    for classes in range(2, 9):
        found = code_named("simplex", classes, depth).singular_sum
        np.testing.assert_allclose(found, classes - 1, rtol=rounding())


def test_four_classes_prefer_the_square_from_a_real_depth_on():
    square, simplex = (code_named(name, 4, 3).singular_values for name in ("square", "simplex"))
    flip = 2 / math.log2(1.5)
    assert 3.419 < flip < 3.4191
    np.testing.assert_allclose(
        np.sum(square ** (2 / flip)), np.sum(simplex ** (2 / flip)), rtol=rounding()
    )
    assert exact.deep_code(4, 3).name == "simplex"
    assert exact.deep_code(4, 4).name == "square"


@pytest.mark.parametrize(("classes", "depth"), CELLS)
def test_every_code_has_margin_one_and_the_rank_of_its_singular_values(classes, depth):
    codes = exact.deep_codes(classes, depth)
    sums = [code.singular_sum for code in codes]
    assert sums == sorted(sums)
    for code in codes:
        margins = np.diag(code.logits)[:, None] - code.logits
        smallest = margins[~np.eye(classes, dtype=bool)].min()
        np.testing.assert_allclose(smallest, 1, atol=rounding())
        np.testing.assert_allclose(code.logits.sum(axis=1), 0, atol=rounding())
        assert np.linalg.matrix_rank(code.logits) == code.rank


@pytest.mark.parametrize("classes", range(3, 9))
def test_for_two_factors_the_values_are_those_of_codes_in_few_dimensions(classes):
    for dim in range(2, classes):
        known = nc.exact.separation_value(classes, dim)
        found = exact.deep_separation_value(classes, 2, width=dim)
        np.testing.assert_allclose(found.value, known.value, rtol=rounding())
        assert (found.evidence == "proved") == (known.evidence == "proved")


def test_the_capped_octahedron_depends_on_the_depth_and_has_the_symmetry_of_a_triangle():
    reference = {4: (3.23669, 2.80203), 5: (3.23855, 2.80118), 6: (3.2398, 2.80061)}
    for depth, (axial, planar) in reference.items():
        found = code_named("capped octahedron", 7, depth).singular_values
        np.testing.assert_allclose(found, [axial, planar, planar], atol=6e-6)
        np.testing.assert_allclose(found[1], found[2], rtol=rounding())


@pytest.mark.parametrize(
    ("classes", "depth", "widths", "size"), [(5, 4, (3, 6, 5), 1), (6, 3, (4, 3), 3)]
)
def test_a_state_is_balanced_and_has_the_value_and_the_gap(classes, depth, widths, size):
    code = exact.deep_code(classes, depth, width=min(widths))
    gap = 2.5
    state = code.deep_state(widths, gap, samples_per_class=size, key=jax.random.key(0))
    problem = nc.DeepUnconstrainedFeatures((size,) * classes, widths)
    expected = np.repeat(gap * code.logits, size, axis=0)
    np.testing.assert_allclose(state.logits(), expected, atol=rounding())
    known = exact.deep_separation_value(classes, depth, samples_per_class=size, width=min(widths))
    norm = jnp.sum(state.squared_norms()) / 2
    np.testing.assert_allclose(norm, known.value * gap ** (2 / depth), rtol=rounding())
    features, *weights = state.factors()
    factors = [features.T, *weights]
    for before, after in itertools.pairwise(factors):
        np.testing.assert_allclose(after.T @ after, before @ before.T, atol=rounding())
    assert problem.objective(state) < math.log(classes)


def test_a_state_in_float32_is_the_rounded_one():
    state = exact.deep_code(7, 4).deep_state((3, 4, 3), dtype=jnp.float32)
    assert {factor.dtype for factor in state.factors()} == {np.dtype("float32")}
    value = exact.deep_separation_value(7, 4).value
    found = jnp.sum(state.squared_norms()) / 2
    np.testing.assert_allclose(found, value, rtol=rounding("float32"))


def test_evidence_says_what_is_proved_and_what_a_search_has_found():
    assert exact.deep_separation_value(5, 2).evidence == "proved"
    assert exact.deep_separation_value(2, 6).evidence == "proved"
    assert exact.deep_separation_value(5, 3).evidence == "conjecture"
    assert exact.deep_separation_value(7, 5).evidence == "best found"


def test_narrow_layers_bound_the_rank_of_the_code():
    assert exact.deep_code(6, 3, width=2).name == "hexagon"
    assert exact.deep_code(8, 4, width=3).name == "square antiprism"
    assert exact.deep_code(8, 4, width=4).name == "cross polytope"


@pytest.mark.parametrize(("classes", "depth"), [(4, 3), (5, 4), (6, 3)])
def test_no_search_near_the_least_code_falls_below_it(classes, depth):
    code, rng = exact.deep_code(classes, depth), np.random.default_rng(0)
    state = code.deep_state((classes,) * (depth - 1))
    features, *weights = (np.asarray(factor) for factor in state.factors())
    factors = [features, *(weight.T for weight in weights)]
    start = [factor + 0.1 * rng.normal(size=factor.shape) for factor in factors]
    np.testing.assert_allclose(singular_sum_of(start), code.singular_sum, rtol=1e-6)


@pytest.mark.parametrize(
    ("classes", "depth", "width"),
    [(4, 3, None), (4, 4, None), (5, 3, None), (5, 4, None), (6, 3, None), (7, 5, None),
     (8, 4, None), (5, 4, 2), (6, 3, 2), (7, 4, 3), (8, 3, 3)],
)  # fmt: skip
def test_no_search_from_random_starts_falls_below_the_least_code(classes, depth, width):
    code = exact.deep_code(classes, depth, width=width)
    found = random_sums(classes, depth, 8, width=width)
    assert np.all(found > code.singular_sum * (1 - 1e-9))
    np.testing.assert_allclose(found[0], code.singular_sum, rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: exact.deep_code(9, 3), "num_classes = 9: the least value at depth is known up to"),
        (lambda: exact.deep_code(5, 1), "depth = 1"),
        (lambda: exact.deep_code(5, 3, width=1), "num_classes = 5, width = 1: in one dimension"),
        (
            lambda: exact.deep_code(5, 4).deep_state((3, 3)),
            r"widths = \(3, 3\): give 3 for 4 factors",
        ),
        (lambda: exact.deep_code(5, 4).deep_state((3, 2, 3)), "the logits have rank 3"),
        (lambda: exact.deep_code(5, 4).deep_state((3, 3, 3), 0.0), "gap = 0.0"),
    ],
)
def test_codes_that_do_not_exist_are_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)
