"""Softmax codes against Tammes's problem, hulls by quadratic programmes, and random searches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog
from tolerances import rounding

import nc_jax as nc

# Values of the best codes in three dimensions, K = 4..24.
IN_3D = [
    "1.3333333", "1.0000000", "1.0000000", "0.7898617", "0.7387961", "0.6666667", "0.5956057",
    "0.5527864", "0.5527864", "0.4573635", "0.4360497", "0.4073941", "0.3877054", "0.3719056",
    "0.3513042", "0.3268831", "0.3235229", "0.3005016", "0.2896937", "0.2771530", "0.2769215",
]  # fmt: skip
# In four dimensions, K = 9..16.
IN_4D = [
    "0.8379848", "0.8333333", "0.7695944", "0.7500000", "0.6927043", "0.6804814", "0.6490078",
    "0.6123718",
]  # fmt: skip
KNOWN = [(2, 1), (3, 5), (6, 5), (7, 2), (20, 2), (5, 3), (6, 4), (7, 4), (8, 4), (9, 6), (12, 6)]


def margins(features, classifier):
    """(K, K−1) of ⟨w_k − w_j, h_k⟩."""
    found = np.sum(features * classifier, axis=1, keepdims=True) - features @ classifier.T
    return found[~np.eye(len(found), dtype=bool)].reshape(len(found), -1)


def measured(directions, name="jiang_gnc2"):
    classes = len(directions)
    found = nc.metrics.measure(directions, np.arange(classes), classifier=directions, names=[name])
    return found[name]


@pytest.mark.parametrize(
    ("dim", "classes", "value"),
    [(3, k, value) for k, value in enumerate(IN_3D, start=4)]
    + [(4, k, value) for k, value in enumerate(IN_4D, start=9)],
)
def test_codes_in_three_and_four_dimensions_have_the_values_of_the_table(dim, classes, value):
    code = nc.exact.softmax_code(classes, dim)
    rows = np.asarray(code.directions)
    assert f"{code.value:.7f}" == value
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=rounding())
    # The distances to the hulls are at least 1 − cos θ_min: equal to the Tammes value of the code.
    np.testing.assert_allclose(measured(rows), code.value, rtol=1e-12)
    cosines = rows @ rows.T
    smallest = 1 - np.max(cosines[~np.eye(classes, dtype=bool)])
    np.testing.assert_allclose(smallest, code.value, rtol=rounding())
    np.testing.assert_allclose(margins(rows, rows).min(), code.value, rtol=rounding())
    assert code.evidence == ("proved" if classes <= 6 else "best found")


@pytest.mark.parametrize(("classes", "dim"), KNOWN)
def test_closed_form_codes_have_their_values(classes, dim):
    code = nc.exact.softmax_code(classes, dim)
    rows = np.asarray(code.directions)
    assert rows.shape == (classes, dim)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=rounding())
    np.testing.assert_allclose(measured(rows), code.value, rtol=1e-12)
    np.testing.assert_allclose(margins(rows, rows).min(), code.value, rtol=1e-12)
    np.testing.assert_allclose(rows.sum(axis=0), 0, atol=rounding())
    if classes <= dim + 1:
        expected = classes / (classes - 1)
    elif dim == 2:
        expected = 1 - np.cos(2 * np.pi / classes)
    else:
        expected = 1.0
    np.testing.assert_allclose(code.value, expected, rtol=rounding())
    # Self-duality: at h = w the classifiers agree with the centred features.
    assert measured(rows, "jiang_gnc3") < rounding()


@pytest.mark.parametrize(("classes", "dim"), [(5, 3), (6, 4), (8, 5), (10, 5)])
def test_no_code_of_at_least_d_plus_2_classes_exceeds_1(classes, dim):
    """The bound of the third row of the table: random codes, and codes near the optimal one."""
    rng = np.random.default_rng(0)
    optimal = np.asarray(nc.exact.softmax_code(classes, dim).directions)
    for size in (1e-3, 0.1, 10.0, 1e3):
        rows = optimal + size * rng.normal(size=optimal.shape)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        assert measured(rows) <= 1 + 1e-12


def ascend(rows, rounds):
    """Margins raised by linear programmes for all rows of H and W, within shrinking steps."""
    classes, dim = rows.shape
    both, reach = np.stack([rows, rows]), 0.3
    value = margins(*both).min()
    of, against = np.nonzero(~np.eye(classes, dtype=bool))
    pairs = np.arange(len(of))
    for _ in range(rounds):
        features, classifier = both
        gradient = np.zeros((len(of), 2, classes, dim))
        gradient[pairs, 0, of] = classifier[of] - classifier[against]
        gradient[pairs, 1, of] = features[of]
        gradient[pairs, 1, against] = -features[of]
        gradient -= np.sum(gradient * both, axis=3, keepdims=True) * both
        inequality = np.hstack([-gradient.reshape(len(of), -1), np.ones((len(of), 1))])
        slack = np.sum((classifier[of] - classifier[against]) * features[of], axis=1)
        bounds = [(-reach, reach)] * both.size + [(None, None)]
        step = linprog(np.append(np.zeros(both.size), -1), inequality, slack, bounds=bounds).x[:-1]
        moved = both + step.reshape(both.shape)
        moved /= np.linalg.norm(moved, axis=2, keepdims=True)
        if margins(*moved).min() > value:
            both, value = moved, margins(*moved).min()
        else:
            reach /= 2
    return value


@pytest.mark.parametrize(
    ("classes", "dim", "value", "seeds"),
    # Of 80 starts of nine classes in four dimensions 4 reach the best code, that of seed 20 among
    # them; most end at 0.8371335.
    [(7, 3, 0.7898617, (0, 1, 2)), (6, 4, 1.0, (0, 1)), (7, 4, 1.0, (0, 1)), (8, 4, 1.0, (0, 1)),
     (9, 4, 0.8379848, (0, 20)), (10, 4, 0.8333333, (0, 1, 2))],
)  # fmt: skip
def test_a_search_with_free_features_finds_these_values_and_none_above(classes, dim, value, seeds):
    """Independent of the table; values in four dimensions are best found, not proved."""
    found = []
    for seed in seeds:
        rows = np.random.default_rng(seed).normal(size=(classes, dim))
        found.append(ascend(rows / np.linalg.norm(rows, axis=1, keepdims=True), 70))
    assert max(found) < value + 1e-6
    np.testing.assert_allclose(max(found), value, atol=1e-5)


@pytest.mark.parametrize(("classes", "dim"), [(3, 4), (6, 4), (9, 3)])
def test_codes_are_constants_under_jit(classes, dim):
    found = jax.jit(lambda: nc.exact.softmax_code(classes, dim).directions)()
    np.testing.assert_array_equal(found, nc.exact.softmax_code(classes, dim).directions)


def test_codes_have_the_dtype_that_is_asked_for():
    assert nc.exact.softmax_code(9, 3, dtype=np.float32).directions.dtype == jnp.float32
    assert nc.exact.softmax_code(9, 3).directions.dtype == jnp.float64


@pytest.mark.parametrize(("classes", "dim"), [(25, 3), (3, 1), (17, 4), (11, 5)])
def test_sizes_without_a_code_are_refused_in_one_line(classes, dim):
    with pytest.raises(ValueError, match=f"num_classes = {classes} in {dim} dim") as refused:
        nc.exact.softmax_code(classes, dim)
    assert "\n" not in str(refused.value)
