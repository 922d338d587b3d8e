"""Simplex-encoded labels against printed digits, SciPy and their optimality conditions."""

import math

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, strategies as st
from tolerances import rounding

import nc_jax as nc

SIZES = st.lists(st.integers(1, 60), min_size=2, max_size=6).map(tuple)


def cosines(gram):
    norms = np.sqrt(np.diag(gram))
    return gram / np.outer(norms, norms)


def test_reference_of_two_large_and_two_small_classes():
    seli = nc.exact.seli((10, 10, 1, 1))
    w, h = seli.classifier_gram, seli.mean_gram
    pairs = (0, 1), (2, 3), (0, 2)
    expected = {
        "value": (seli.value, 6.507485540080, 12),
        "w_A": (w[0, 0], 2.1674408001, 10),
        "w_B": (w[3, 3], 1.0863019700, 10),
        "ratio": (w[0, 0] / w[2, 2], 1.9952470491, 10),
        "h_A": (h[1, 1], 0.2647142412, 10),
        "h_B": (h[2, 2], 0.6066003582, 10),
        "cos_w": ([cosines(w)[p] for p in pairs], [-0.4589914798, 0.0794456536, -0.3820959617], 10),
        "cos_h": (
            [cosines(h)[p] for p in pairs], [-0.1946005043, -0.6485318324, -0.2660226893], 10,
        ),
        "multipliers": (
            [seli.multipliers[p] for p in ((0, 1), (0, 2), (2, 0), (2, 3))],
            [0.0515135248, 0.1066003582, 0.1066003582, 0.3933996418], 10,
        ),
    }  # fmt: skip
    for name, (found, printed, decimals) in expected.items():
        np.testing.assert_allclose(found, printed, rtol=0, atol=0.51 * 10**-decimals, err_msg=name)


def test_reference_value_of_three_classes():
    np.testing.assert_allclose(nc.exact.seli((4, 2, 1)).value, 2.997859313845, atol=5.1e-13, rtol=0)


def step(majorities, minorities, size, ratio):
    """Gram matrices of STEP classes in closed form, and the squares of the singular values."""
    classes = majorities + minorities
    mu = size * (majorities + minorities * ratio) / classes
    a, b, m = math.sqrt(ratio * size), math.sqrt(size), math.sqrt(mu)

    def gram(a, b, m):
        large = m * minorities / (classes * majorities) - a / majorities
        small = m * majorities / (classes * minorities) - b / minorities
        blocks = np.full((classes, classes), -m / classes)
        blocks[:majorities, :majorities] = large
        blocks[majorities:, majorities:] = small
        return blocks + np.diag([a] * majorities + [b] * minorities)

    squares = [ratio * size] * (majorities - 1) + [mu] + [size] * (minorities - 1)
    return gram(a, b, m), gram(1 / a, 1 / b, 1 / m), sorted(squares, reverse=True)


@pytest.mark.parametrize("case", [(2, 2, 1, 10), (3, 4, 5, 8), (1, 5, 3, 100), (2, 2, 1, 10_000)])
def test_step_profiles_have_their_closed_form(case):
    majorities, minorities, size, ratio = case
    seli = nc.exact.seli((ratio * size,) * majorities + (size,) * minorities)
    classifier, means, squares = step(*case)
    # Small singular values have rounding errors of the largest one.
    tolerance = rounding() * math.sqrt(ratio)
    np.testing.assert_allclose(seli.classifier_gram, classifier, atol=tolerance * seli.value)
    np.testing.assert_allclose(seli.mean_gram, means, atol=tolerance)
    np.testing.assert_allclose(seli.singular_values**2, squares, rtol=tolerance)


def test_singular_values_are_the_roots_between_the_sizes():
    sizes = (17, 9, 4, 4, 2)
    found = nc.exact.seli(sizes).singular_values ** 2
    assert 4 in np.round(found, 12)  # a size of two classes is a root once
    with mpmath.workdps(40):
        for lower, upper in ((9, 17), (4, 9), (2, 4)):
            root = mpmath.findroot(
                lambda mu: sum(1 / (n - mu) for n in sizes),
                (lower + 0.01, upper - 0.01),
                "anderson",
            )
            assert np.min(np.abs(found - float(root))) < rounding() * upper


def separation_by_slsqp(sizes, seed, dim):
    """Least ½(‖W‖² + ‖H‖²) with all margins >= 1, of collapsed features, from a random start."""
    num_classes, counts = len(sizes), np.array(sizes, float)
    pairs = [(k, c) for k in range(num_classes) for c in range(num_classes) if c != k]

    def split(x):
        return x.reshape(2, num_classes, dim)

    def norm(x):
        w, m = split(x)
        return (np.sum(w**2) + np.sum(counts[:, None] * m**2)) / 2

    def slope(x):
        w, m = split(x)
        return np.stack([w, counts[:, None] * m]).ravel()

    def margins(x):
        w, m = split(x)
        return np.array([(w[k] - w[c]) @ m[k] - 1 for k, c in pairs])

    def jacobian(x):
        w, m = split(x)
        rows = np.zeros((len(pairs), 2, num_classes, dim))
        for row, (k, c) in zip(rows, pairs, strict=True):
            row[0, k], row[0, c], row[1, k] = m[k], -m[k], w[k] - w[c]
        return rows.reshape(len(pairs), -1)

    start = np.random.default_rng(seed).normal(size=2 * num_classes * dim)
    return scipy.optimize.minimize(
        norm, start, jac=slope, method="SLSQP", options={"maxiter": 500, "ftol": 1e-13},
        constraints={"type": "ineq", "fun": margins, "jac": jacobian},
    ).fun  # fmt: skip


@pytest.mark.parametrize("sizes", [(4, 2, 1), (10, 10, 1, 1), (7, 3, 3, 2), (30, 1, 1)])
def test_the_separation_problem_has_the_value_of_an_independent_solver(sizes):
    value = nc.exact.seli(sizes).value
    found = [separation_by_slsqp(sizes, seed, len(sizes)) for seed in range(4)]
    np.testing.assert_allclose(min(found), value, rtol=1e-9)
    assert np.all(np.array(found) > value * (1 - 1e-9))


def test_too_few_dimensions_cost_more():
    assert separation_by_slsqp((7, 3, 3, 2), 0, 2) > 1.01 * nc.exact.seli((7, 3, 3, 2)).value


@given(sizes=SIZES)
def test_the_certificate_holds_for_every_choice_of_sizes(sizes):
    found = nc.exact.seli(sizes).certificate()
    assert found.holds
    assert found.smallest_multiplier > 0


@given(sizes=SIZES, seed=st.integers(0, 1000), size=st.sampled_from([1e-6, 1e-3, 0.3]))
def test_the_certificate_fails_beside_the_optimum(sizes, seed, size):
    seli = nc.exact.seli(sizes)
    rng = np.random.default_rng(seed)
    optimum = np.repeat(seli.logits, sizes, axis=0)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    change = rng.normal(size=optimum.shape)
    assert not seli.certificate(optimum + size * change).holds
    # A change that leaves all margins at 1: the same number added to the logits of a sample.
    assert not seli.certificate(optimum + size * change[:, :1]).holds
    # A change that raises margins.
    raised = optimum + size * np.abs(change) * (labels[:, None] == np.arange(len(sizes)))
    found = seli.certificate(raised)
    assert found.smallest_margin >= 1 - rounding()
    assert found.gap > 0
    assert not found.holds


@pytest.mark.parametrize("sizes", [(6, 3, 2), (12, 5, 1, 1)])
def test_multipliers_are_the_only_ones_that_linear_programming_finds(sizes):
    # Stationarity W = BᵀH, H = BW with B_ic = −λ_ic is linear in λ.
    seli, num_classes = nc.exact.seli(sizes), len(sizes)
    state = seli.state(num_classes - 1)
    labels = np.repeat(np.arange(num_classes), sizes)
    features, classifier = np.asarray(state.features), np.asarray(state.classifier)
    pairs = [(i, c) for i, y in enumerate(labels) for c in range(num_classes) if c != y]
    columns = []
    for i, c in pairs:
        w, h = np.zeros_like(classifier), np.zeros_like(features)
        w[labels[i]], w[c] = features[i], -features[i]
        h[i] = classifier[labels[i]] - classifier[c]
        columns.append(np.concatenate([w.ravel(), h.ravel()]))
    equations = np.array(columns).T
    wanted = np.concatenate([classifier.ravel(), features.ravel()])
    # The largest and the least value of a random combination of multipliers are one number.
    direction = np.random.default_rng(0).normal(size=len(pairs))
    expected = np.array([seli.multipliers[labels[i], c] for i, c in pairs])
    for sign in (1, -1):
        found = scipy.optimize.linprog(sign * direction, A_eq=equations, b_eq=wanted)
        assert found.status == 0
        np.testing.assert_allclose(found.x, expected, atol=1e-8)
    np.testing.assert_allclose(np.sum(expected), seli.value, rtol=rounding())


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_every_depth_has_factors_that_are_critical(depth):
    sizes = (9, 4, 4, 1)
    seli, counts = nc.exact.seli(sizes, depth=depth), np.array(sizes, float)

    def value(logits):
        weighted = jnp.sqrt(jnp.asarray(counts))[:, None] * logits
        squares = jnp.linalg.eigvalsh(weighted.T @ weighted)[1:]
        return depth / 2 * jnp.sum(squares ** (1 / depth))

    np.testing.assert_allclose(value(jnp.asarray(seli.logits)), seli.value, rtol=rounding())
    # The gradient is D B for the multipliers B: stationary where all margins are 1.
    gradient = jax.grad(value)(jnp.asarray(seli.logits)) @ jnp.asarray(seli.logits)
    np.testing.assert_allclose(gradient, counts[:, None] * seli.mean_gram, atol=rounding())
    assert np.all(seli.multipliers[~np.eye(4, dtype=bool)] > 0)
    total = np.sum(counts[:, None] * seli.multipliers)
    np.testing.assert_allclose(total, 2 * seli.value / depth, rtol=rounding())
    for gram, weights in ((seli.classifier_gram, np.ones(4)), (seli.mean_gram, counts)):
        np.testing.assert_allclose(weights @ np.diag(gram), total, rtol=rounding())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_state_is_balanced_and_has_the_gap_and_the_least_norm(dtype):
    sizes = (5, 2, 1)
    seli = nc.exact.seli(sizes)
    state = seli.state(4, gap=3.0, key=jax.random.key(0), dtype=dtype)
    tolerance = rounding(dtype)
    assert state.features.dtype == dtype
    problem = nc.UnconstrainedFeatures(sizes, 4, reduction="sum")
    assert jnp.abs(problem.invariants(state)["balance"].value).max() < 30 * tolerance
    assert jnp.abs(problem.invariants(state)["classifier_sum"].value).max() < 30 * tolerance
    np.testing.assert_allclose(nc.metrics.sample_margins(state, problem.labels), 3, rtol=tolerance)
    np.testing.assert_allclose(state.squared_norm(), 6 * seli.value, rtol=tolerance)
    gram = state.classifier @ state.classifier.T
    np.testing.assert_allclose(gram, 3 * seli.classifier_gram, rtol=0, atol=30 * tolerance)


def test_balanced_classes_have_the_simplex():
    seli = nc.exact.seli((4, 4, 4))
    np.testing.assert_allclose(seli.classifier_gram, 2 * seli.logits, atol=rounding())
    value, state, multipliers = nc.exact.separation_optimum(nc.ulpm(3, 2, 4))
    np.testing.assert_allclose(seli.value, value, rtol=rounding())
    np.testing.assert_allclose(multipliers[::4], seli.multipliers, atol=rounding())
    np.testing.assert_allclose(seli.state(2).logits(), state.logits(), atol=rounding())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nc.exact.seli((3,)), r"class_sizes = \(3,\)"),
        (lambda: nc.exact.seli((3, 0)), r"class_sizes\[1\] = 0"),
        (lambda: nc.exact.seli((3, 1), depth=1), "depth = 1"),
        (lambda: nc.exact.seli((3, 1), depth=3).certificate(), "depth = 3"),
        (lambda: nc.exact.seli((3, 1), depth=3).state(2), "depth = 3"),
        (lambda: nc.exact.seli((3, 1, 1)).state(1), "feature_dim = 1"),
        (lambda: nc.exact.seli((3, 1)).state(2, gap=-1.0), "gap = -1"),
        (lambda: nc.exact.seli((3, 1)).certificate(np.eye(2)), r"shape \(2, 2\)"),
    ],
)
def test_what_does_not_exist_is_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)
