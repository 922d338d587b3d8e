"""Codes for d < K−1: their values against an independent solver, and their structure."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact.separation_search import random_values, separate
from tolerances import rounding

import nc_jax as nc
from nc_jax import exact

# Sizes of each kind of code, with and without single classes; (4, 2) has two closed forms.
PAIRS = [(4, 2), (5, 3), (6, 3), (6, 4), (7, 4), (7, 5), (8, 5), (8, 6), (9, 5), (9, 7)]
TABLE = [(7, 3), (8, 3), (9, 3), (10, 3)]
POLYGONS = [(3, 2), (5, 2), (6, 2), (8, 2)]
CODES = [*PAIRS, *TABLE, *POLYGONS, (4, 3), (4, 5)]


def margins(problem, state):
    """s_kij of all samples, infinite at the label."""
    logits, labels = np.asarray(state.logits()), problem.labels
    rows = np.arange(len(labels))
    found = logits[rows, labels][:, None] - logits
    found[rows, labels] = np.inf
    return found


def difference(state):
    """‖W − H‖/‖W‖ for one sample of each class."""
    gap = np.linalg.norm(state.classifier - state.features)
    return gap / np.linalg.norm(state.classifier)


def stacked(state, size=1):
    """(W, √n M) of a collapsed state with n samples of each class, the start of `separate`."""
    return np.stack([state.classifier, math.sqrt(size) * np.asarray(state.features)[::size]])


# Reference numbers of independent searches, to the digits that are safe.
@pytest.mark.parametrize(
    ("classes", "dim", "value"),
    [
        (5, 3, 4.8944271910), (6, 4, 5.8164965809), (7, 4, 6.9258200998), (7, 5, 6.7559289460),
        (8, 5, 7.8660254038), (6, 3, 6), (8, 4, 8), (10, 5, 10),
    ],
)  # fmt: skip
def test_pairs_and_singles_have_the_reference_values(classes, dim, value):
    found, _ = exact.pairs_and_singles(nc.ulpm(classes, dim, 1))
    np.testing.assert_allclose(found, value, atol=1e-10)
    closed = classes - 1 + math.sqrt(2 * (classes - dim) / classes)
    np.testing.assert_allclose(found, closed, rtol=rounding())
    assert exact.separation_value(classes, dim) == (found, "conjecture")


@pytest.mark.parametrize(
    ("classes", "value"),
    [(5, 4.89442719), (6, 6), (7, 8.84044819), (8, 8 + 2 * math.sqrt(2)), (9, 13.48667800),
     (10, 16.69578894)],
)  # fmt: skip
def test_the_best_codes_in_three_dimensions_have_the_reference_values(classes, value):
    found, evidence = exact.separation_value(classes, 3)
    np.testing.assert_allclose(found, value, atol=1e-8)
    assert evidence == ("conjecture" if classes <= 6 else "best found")


@pytest.mark.parametrize(
    ("classes", "dim", "ratio", "digits"),
    [
        (5, 3, 0.1964, 4), (6, 4, 0.2270, 4), (7, 4, 0.1408, 4), (7, 5, 0.2337, 4),
        (8, 5, 0.1718, 4), (5, 3, 0.196, 3), (7, 3, 0.054, 3), (9, 3, 0.035, 3), (10, 3, 0.091, 3),
    ],
)  # fmt: skip
def test_classifier_and_means_differ_by_the_reference_ratios(classes, dim, ratio, digits):
    value, state = exact.best_known_code(nc.ulpm(classes, dim, 1))
    np.testing.assert_allclose(difference(state), ratio, atol=0.5 * 10.0**-digits)
    # ‖W − H‖² = ‖W‖² + ‖H‖² − 2 tr Z with both norms squared equal to V.
    closed = math.sqrt(2 - 2 * float(jnp.trace(state.logits())) / value)
    np.testing.assert_allclose(difference(state), closed, rtol=1e-9)


@pytest.mark.parametrize(("classes", "dim"), [*POLYGONS, (4, 2), (6, 3), (8, 4), (8, 3), (4, 3)])
def test_codes_whose_classes_are_all_alike_are_self_dual(classes, dim):
    _, state = exact.best_known_code(nc.ulpm(classes, dim, 1))
    assert difference(state) < rounding()


def test_a_code_can_be_self_dual_with_classes_that_are_not_alike():
    # Poles and pentagon of the bipyramid have other norms, and no symmetry exchanges them.
    value, state = exact.pentagonal_bipyramid(nc.ulpm(7, 3, 1))
    np.testing.assert_allclose(value, 7 + math.sqrt(5), rtol=rounding())
    norms = np.linalg.norm(state.classifier, axis=1)
    assert difference(state) == 0
    assert norms[2:].min() > 1.1 * norms[:2].max()


@pytest.mark.parametrize(("classes", "dim"), CODES)
@pytest.mark.parametrize("size", [1, 3])
def test_a_code_is_feasible_has_its_value_and_is_balanced(classes, dim, size):
    problem = nc.ulpm(classes, dim, size)
    value, state = exact.best_known_code(problem, gap=2.5, key=jax.random.key(1))
    np.testing.assert_allclose(margins(problem, state).min(), 2.5, rtol=rounding())
    norm, balance = jax.jit(lambda x: (x.squared_norm(), nc.metrics.balance(x).value))(state)
    np.testing.assert_allclose(norm / 2, 2.5 * value, rtol=rounding())
    known = exact.separation_value((size,) * classes, dim)
    np.testing.assert_allclose(known.value, value, rtol=rounding())
    np.testing.assert_allclose(balance, 0, atol=rounding())
    np.testing.assert_allclose(np.sum(state.classifier, axis=0), 0, atol=rounding())


@pytest.mark.parametrize(("classes", "dim"), PAIRS)
def test_pairs_and_singles_have_the_logits_and_singular_values_of_their_definition(classes, dim):
    _, state = exact.pairs_and_singles(nc.ulpm(classes, dim, 1))
    logits = np.asarray(state.logits())
    pairs, singles = classes - dim, 2 * dim - classes
    antipodal = np.zeros((2 * pairs, classes))
    for k in range(2 * pairs):
        antipodal[k, k], antipodal[k, k ^ 1] = 1, -1
    np.testing.assert_allclose(logits[: 2 * pairs], antipodal, atol=rounding())
    alone = np.eye(classes)[2 * pairs :] - 1 / classes
    np.testing.assert_allclose(logits[2 * pairs :], alone, atol=rounding())
    expected = [2.0] * pairs + [1.0] * max(singles - 1, 0)
    expected += [math.sqrt(1 - singles / classes)] * (singles > 0)
    found = np.linalg.svd(logits, compute_uv=False)[:dim]
    np.testing.assert_allclose(found, np.sort(expected)[::-1], rtol=rounding())


@pytest.mark.parametrize(("classes", "dim"), [(6, 4), (8, 6), (9, 5), (7, 3), (10, 3), (7, 2)])
def test_no_search_near_a_code_falls_below_it(classes, dim):
    value, state = exact.best_known_code(nc.ulpm(classes, dim, 1))
    rng = np.random.default_rng(0)
    for scale in (1e-2, 0.1, 0.3):
        noise = scale * rng.normal(size=(2, classes, dim))
        found = separate((1,) * classes, dim, stacked(state) + noise)
        assert found > value - 1e-8
        if scale == 1e-2:
            np.testing.assert_allclose(found, value, rtol=1e-8)


@pytest.mark.parametrize(
    ("classes", "dim"),
    [
        (5, 2),
        (6, 2),
        (8, 2),
        (5, 3),
        (7, 3),
        (9, 3),
        (6, 4),
        (8, 4),
        (7, 5),
        (8, 5),
        (9, 5),
        (9, 7),
        (10, 6),
        (10, 8),
        (11, 6),
    ],
)
def test_no_search_from_random_starts_falls_below_the_code(classes, dim):
    value, _ = exact.separation_value(classes, dim)
    found = random_values((1,) * classes, dim, 12 if classes < 10 else 5)
    assert np.all(found > value - 1e-8)
    np.testing.assert_allclose(found[0], value, rtol=1e-8)


@pytest.mark.parametrize(("classes", "dim"), [(5, 3), (7, 3), (6, 2)])
def test_the_value_of_n_samples_is_that_of_one_times_the_root_of_n(classes, dim):
    value, state = exact.best_known_code(nc.ulpm(classes, dim, 4))
    noise = 0.05 * np.random.default_rng(1).normal(size=(2, classes, dim))
    found = separate((4,) * classes, dim, stacked(state, 4) + noise)
    np.testing.assert_allclose(found, value, rtol=1e-8)


@pytest.mark.parametrize("sizes", [(4, 2, 1), (3, 3, 1, 1), (5, 1, 1), (2, 2, 2)])
def test_with_enough_dimensions_the_value_is_the_nuclear_norm_of_the_centred_labels(sizes):
    value, evidence = exact.separation_value(sizes, len(sizes) - 1)
    centred = np.repeat(np.eye(len(sizes)) - 1 / len(sizes), sizes, axis=0)
    np.testing.assert_allclose(value, np.linalg.norm(centred, "nuc"), rtol=rounding())
    assert evidence == "proved"
    found = random_values(sizes, len(sizes) - 1, 3)
    np.testing.assert_allclose(found[0], value, rtol=1e-8)
    assert np.all(found > value - 1e-8)


def test_values_with_enough_dimensions_are_the_reference_numbers():
    assert round(exact.separation_value((10, 10, 1, 1), 3).value, 12) == 6.507485540080
    assert round(exact.separation_value((4, 2, 1), 4).value, 12) == 2.997859313845


def separated(rows):
    """W = H = rows in three dimensions, divided so that the smallest margin is 1."""
    problem, rows = nc.ulpm(len(rows), 3, 1), jnp.asarray(rows)
    return jnp.stack([rows, rows]) / math.sqrt(margins(problem, nc.LastLayer(rows, rows)).min())


TRIANGLE_AND_PAIR = np.zeros((5, 3))
TRIANGLE_AND_PAIR[:3, :2] = nc.geometry.simplex_etf(3, 2)
TRIANGLE_AND_PAIR[3:, 2] = (1, -1)
INCOMPLETE_CROSS_POLYTOPE = np.kron(np.eye(3), [[1], [-1]])[:5]


@pytest.mark.parametrize("rows", [TRIANGLE_AND_PAIR, INCOMPLETE_CROSS_POLYTOPE])
def test_packings_of_five_points_in_three_dimensions_are_no_minima(rows):
    start = np.asarray(separated(rows))
    np.testing.assert_allclose(np.sum(start**2) / 2, 5, rtol=rounding())
    rng = np.random.default_rng(0)
    found = [
        separate((1,) * 5, 3, start + scale * rng.normal(size=start.shape))
        for scale in (1e-4, 1e-3, 1e-2, 0.1)
        for _ in range(6)
    ]
    np.testing.assert_allclose(np.min(found), 4 + 2 / math.sqrt(5), rtol=1e-8)
    assert np.mean(np.array(found) < 4.9) > 0.9


def test_the_stored_codes_are_kkt_points_to_rounding():
    for classes, dim in TABLE:
        problem = nc.ulpm(classes, dim, 1)
        _, state = exact.best_known_code(problem)
        # s = 1 or clearly above.
        above = margins(problem, state) - 1
        assert np.all((np.abs(above) < rounding()) | (above > 0.05))
        samples, others = np.nonzero(above < rounding())
        gradients = np.zeros((len(samples), 2, classes, dim))
        w, h = np.asarray(state.classifier), np.asarray(state.features)
        for i, (k, j) in enumerate(zip(samples, others, strict=True)):
            gradients[i, 0, k], gradients[i, 0, j], gradients[i, 1, k] = h[k], -h[k], w[k] - w[j]
        flat, theta = gradients.reshape(len(samples), -1).T, np.ravel([w, h])
        multipliers, *_ = np.linalg.lstsq(flat, theta, rcond=1e-10)
        np.testing.assert_allclose(flat @ multipliers, theta, atol=rounding())
        assert multipliers.min() > 0.03


def test_a_code_in_float32_is_the_rounded_one():
    value, state = exact.best_known_code(nc.ulpm(7, 3, 2), dtype=jnp.float32)
    assert state.features.dtype == state.classifier.dtype == jnp.float32
    np.testing.assert_allclose(state.squared_norm() / 2, value, rtol=rounding("float32"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: exact.separation_value(9, 4), "num_classes = 9, feature_dim = 4: the least"),
        (lambda: exact.separation_value(11, 3), "num_classes = 11, feature_dim = 3"),
        (lambda: exact.separation_value(3, 1), "in one dimension no state separates more"),
        (lambda: exact.separation_value((2, 1, 1, 1), 2), r"class_sizes = \(2, 1, 1, 1\)"),
        (lambda: exact.best_known_code(nc.ulpm(9, 4, 1)), "num_classes = 9, feature_dim = 4"),
        (lambda: exact.pairs_and_singles(nc.ulpm(5, 4, 1)), "pairs and singles need"),
        (lambda: exact.pairs_and_singles(nc.ulpm(5, 2, 1)), "pairs and singles need"),
        (lambda: exact.polygon(nc.ulpm(3, 1, 1)), "a polygon needs K >= 3 and d >= 2"),
        (lambda: exact.pentagonal_bipyramid(nc.ulpm(6, 3, 1)), "the bipyramid has K = 7"),
        (lambda: exact.polygon(nc.mixon(5, 2, 1)), "problem has a bias"),
    ],
)
def test_codes_that_do_not_exist_are_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)
