"""Which dtype is computed in: half precision and integers against NumPy in float64."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from landscape_points import random_state
from tolerances import rounding

import nc_jax as nc
from nc_jax import exact, geometry, landscape, metrics
from nc_jax.precision import widened

CLASSES, DIM, SIZE = 10, 2048, 4
LABELS = np.repeat(np.arange(CLASSES), SIZE)
NARROW = ["float16", "bfloat16", "int32"]

collapse_metrics = eqx.filter_jit(lambda state: metrics.collapse_metrics(state, LABELS))
margin_metrics = eqx.filter_jit(lambda state: metrics.margin_metrics(state, LABELS))


def features_of(dtype, scale=1.0):
    """A layer close to collapse of a network's size, in this dtype; and as float64 of NumPy."""
    rng = np.random.default_rng(3)
    means = rng.normal(size=(CLASSES, DIM))
    features = means[LABELS] + 0.1 * rng.normal(size=(len(LABELS), DIM))
    classifier = means + 0.3 * rng.normal(size=means.shape)
    factor = 100.0 * scale if dtype == "int32" else scale
    leaves = [
        jnp.asarray(factor * leaf).astype(dtype)
        for leaf in (features, classifier, rng.normal(size=CLASSES))
    ]
    return nc.LastLayer(*leaves), [np.asarray(leaf.astype(jnp.float64)) for leaf in leaves]


def in_numpy(h, w, b):
    """Measures and margins by their definitions."""
    means = np.stack([h[c == LABELS].mean(axis=0) for c in range(CLASSES)])
    centered, inside = means - means.mean(axis=0), h - means[LABELS]
    # tr(Σ_W Σ_B⁺) in the rows of the centred means: Σ_B⁺ = K M⁺ M⁺ᵀ.
    whitened = inside @ np.linalg.pinv(centered)
    etf = (np.eye(CLASSES) - 1 / CLASSES) / np.sqrt(CLASSES - 1)
    logits = h @ w.T + b
    at_label = logits[np.arange(len(h)), LABELS]
    logits[np.arange(len(h)), LABELS] = -np.inf
    margins = at_label - logits.max(axis=1)
    gram, cross = w @ w.T, w @ centered.T
    variances = np.array([np.sum(inside[c == LABELS] ** 2) / SIZE for c in range(CLASSES)])
    between = np.sum((means[:, None] - means) ** 2, axis=2) + np.diag(np.full(CLASSES, np.inf))
    pairs = (variances[:, None] + variances) / (2 * between)
    return {
        "cdnv": pairs.sum() / (CLASSES * (CLASSES - 1)),
        "zhu_nc1": np.sum(whitened**2) / len(h),
        "zhu_nc2": np.linalg.norm(gram / np.linalg.norm(gram) - etf),
        "zhu_nc3": np.linalg.norm(cross / np.linalg.norm(cross) - etf),
        "mixon_snc2": np.linalg.norm(h - w[LABELS] / np.sqrt(SIZE)) / np.linalg.norm(h),
        "margin_min": margins.min(),
        "squared_norm": np.sum(h**2) + np.sum(w**2),
    }


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("scale", [1.0, 500.0])  # at the second one squares leave float16
def test_measures_and_margins_of_narrow_dtypes_are_those_of_numpy(dtype, scale):
    state, arrays = features_of(dtype, scale)
    found = {**collapse_metrics(state), **margin_metrics(state)}
    computed = jnp.float64 if dtype == "int32" else jnp.float32
    assert {value.dtype for value in found.values()} == {jnp.dtype(computed)}
    for name, expected in in_numpy(*arrays).items():
        tolerance = rounding(computed, operations=300)
        np.testing.assert_allclose(found[name], expected, rtol=tolerance, err_msg=name)


def test_features_of_half_precision_under_a_classifier_of_float32():
    """What a network under mixed precision gives."""
    state, (h, *_) = features_of("float16")
    wide, (_, w, b) = features_of("float32")
    found = collapse_metrics(nc.LastLayer(state.features, wide.classifier, wide.bias))
    expected = in_numpy(h, w, b)
    for name in ("zhu_nc1", "zhu_nc3", "mixon_snc2"):
        np.testing.assert_allclose(found[name], expected[name], rtol=rounding("float32", 300))


def test_streamed_statistics_of_half_precision_are_those_of_numpy():
    state, arrays = features_of("float16", 500.0)

    @jax.jit
    def streamed(state):
        halves = [(state.features[i::2], LABELS[i::2]) for i in range(2)]
        moments = metrics.merge_moments(*(metrics.class_moments(h, y, CLASSES) for h, y in halves))
        head = {"classifier": state.classifier, "bias": state.bias}
        sums = metrics.merge_spreads(*(metrics.spread(h, y, moments, **head) for h, y in halves))
        return metrics.collapse_from_statistics(moments, sums, **head, balanced=True)

    found = streamed(state)
    expected = in_numpy(*arrays)
    for name in ("zhu_nc1", "zhu_nc2", "zhu_nc3", "mixon_snc2", "cdnv"):
        np.testing.assert_allclose(found[name], expected[name], rtol=rounding("float32", 300))


@pytest.mark.parametrize("dtype", NARROW)
def test_losses_of_narrow_logits_are_those_of_numpy(dtype):
    logits = jnp.asarray([[12.0, 3.0, -40.0], [5.0, 6.0, 7.0], [300.0, 250.0, 299.0]], dtype)
    z, labels = np.asarray(logits.astype(jnp.float64)), np.array([0, 1, 2])
    one_hot = np.eye(3)
    weights = np.exp(z - z.max(axis=1, keepdims=True))
    chances = weights / weights.sum(axis=1, keepdims=True)
    tolerance = rounding("float32")
    for loss, value, gradient in (
        (nc.CrossEntropy(), -np.log(chances[range(3), labels]), chances - one_hot),
        (nc.SquaredError(), np.sum((z - one_hot) ** 2, axis=1) / 2, z - one_hot),
    ):
        assert loss.value(logits, labels).dtype in (jnp.float32, jnp.float64)
        np.testing.assert_allclose(loss.value(logits, labels), value, rtol=tolerance)
        np.testing.assert_allclose(loss.log_value(logits, labels), np.log(value), rtol=tolerance)
        scaled = loss.scaled_gradient(logits, labels, 1.0)
        np.testing.assert_allclose(loss.gradient(logits, labels), gradient, rtol=tolerance)
        np.testing.assert_allclose(scaled, np.e * gradient, rtol=tolerance)


def test_losses_of_targets_take_narrow_dtypes():
    outputs, targets = jnp.asarray([[300.0], [-2.0]], jnp.float16), jnp.array([[1], [-1]])
    distance = nc.SquaredDistance().value(outputs, targets)
    np.testing.assert_array_equal(distance, [299.0**2, 1.0])
    np.testing.assert_array_equal(nc.Exponential().log_value(outputs, targets), [-300.0, -2.0])


def test_logits_norms_and_geometry_of_half_precision_do_not_overflow():
    rows = jnp.full((2, 4), 250.0, jnp.float16)
    state = nc.LastLayer(rows, rows)
    np.testing.assert_array_equal(state.logits(), np.full((2, 2), 250_000.0))
    assert state.squared_norm() == 1e6
    np.testing.assert_array_equal(
        geometry.squared_distances(rows * jnp.float16([[1], [-1]])), 1e6 * (1 - np.eye(2))
    )
    np.testing.assert_allclose(geometry.cosines(rows), np.ones((2, 2)), rtol=rounding("float32"))
    np.testing.assert_array_equal(geometry.center(jnp.array([[1], [2]])), [[-0.5], [0.5]])


def test_the_landscape_of_a_state_of_half_precision_is_that_of_its_numbers():
    problem = nc.zhu(3, 4, 2, 5e-3)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.float16), random_state(problem, 0))
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), half)
    found, expected = (
        landscape.hessian_vector_product(problem, state, state) for state in (half, wide)
    )
    for leaf, like in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert leaf.dtype == jnp.float32
        np.testing.assert_allclose(leaf, like, atol=rounding("float32") * np.abs(like).max())
    shapes = jax.eval_shape(lambda state: landscape.classify(problem, state), half)
    assert shapes.eigenvalue.dtype == shapes.escape_direction.features.dtype == jnp.float32
    np.testing.assert_allclose(
        problem.objective(half), problem.objective(wide), rtol=rounding("float32")
    )


def test_half_precision_and_integers_are_no_dtype_of_a_start_or_a_closed_form():
    key = jax.random.key(0)
    net = nc.NormalizedReLUNet(np.eye(2), np.array([1.0, -1.0]), (2,))
    for dtype in (jnp.float16, jnp.bfloat16, "int32"):
        for make in (
            lambda d: nc.ulpm(3, 4, 2).init(key, dtype=d),
            lambda d: net.init(key, dtype=d),
            lambda d: geometry.simplex_etf(3, 4, dtype=d),
            lambda d: exact.example_3_1(dtype=d),
            lambda d: exact.paired_saddle(nc.ulpm(4, 4, 1), radius=4.0, dtype=d),
        ):
            with pytest.raises(ValueError, match=r"dtype = \w+: give float32 or float64") as error:
                make(dtype)
            assert "\n" not in str(error.value)


def test_closed_forms_of_integers_are_those_of_the_same_floats():
    found = exact.logistic_norm(np.arange(3), start=0.01, alignment=2.0, second_moment=1.5)
    # A logistic curve from 0.01 to 4/3 of rate 8.
    expected = (4 / 3) / (1 + (4 / 3 / 0.01 - 1) * np.exp(-8.0 * np.arange(3)))
    np.testing.assert_allclose(found, expected, rtol=rounding())
    # ρ₀/(1 + λρ₀²/M · N) with all stuck.
    assert exact.stuck_margins(3, 0.02, 12, 12).norm == pytest.approx(3 / (1 + 0.02 * 9))


def test_singular_values_of_half_precision_are_separated_from_rounding_errors():
    """eps·max(shape) of float16 is 2 for 2048 columns: no value would be above that share."""
    found = geometry.above_rounding(jnp.asarray([1.0, 0.5, 0.0], jnp.float16), (3, 2048))
    np.testing.assert_array_equal(found, [True, True, False])


def test_widened_returns_float32_as_it_is_and_promotes_mixed_dtypes():
    state, _ = features_of("float32")
    assert all(a is b for a, b in zip(*map(jax.tree.leaves, (widened(state), state)), strict=True))
    mixed = widened((jnp.ones(2, jnp.float32), jnp.ones(2), 3.0, None))
    assert [leaf.dtype for leaf in mixed[:3]] == [jnp.float64] * 3
    assert widened((jnp.ones(2, jnp.float16), 3.0))[1].dtype == jnp.float32
    assert widened(3).dtype == widened(jnp.array([True])).dtype == jnp.float64
    with pytest.raises(ValueError, match="dtype complex128: give real numbers"):
        widened(jnp.ones(2, complex))
