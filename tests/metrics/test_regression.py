"""Neural regression collapse against its definitions, in plain NumPy."""

import jax
import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings, strategies as st
from tolerances import rounding

from nc_jax.metrics import cka, regression_collapse

SEEDS = st.integers(0, 2**32 - 1)
COUNT, DIM, TARGETS = 14, 5, 2
OF_CLASSIFIER = {
    "andriopoulos_nrc2", "andriopoulos_nrc2_centered", "andriopoulos_nrc3", "rangamani_nrc3",
    "error",
}  # fmt: skip


def random_data(seed, offset=0.0, targets=TARGETS):
    rng = np.random.default_rng(seed)
    features = offset + rng.normal(size=(COUNT, DIM)) * np.array([3.0, 2.0, 1.0, 0.5, 0.2])
    weights = rng.normal(size=(targets, DIM))
    values = features @ rng.normal(size=(DIM, targets)) + rng.normal(size=(COUNT, targets))
    return features, values, weights, rng.normal(size=targets)


def square_root(matrix):
    return np.real(np.asarray(scipy.linalg.sqrtm(matrix)))


def outside(rows, basis):
    """mean_i ‖h̃_i − P h̃_i‖², with orthonormal columns of the basis."""
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return np.mean(np.sum((unit - unit @ basis @ basis.T) ** 2, axis=1))


def gram_distance(gram, covariance):
    """The minimum over a fine grid; the square root by SciPy."""
    if len(gram) == 1:  # the distance of 1 from 1
        return 0.0
    root = square_root(covariance)
    grid = np.linspace(0, np.sqrt(np.linalg.eigvalsh(covariance)[0]), 200_001)[:, None, None]
    shifted = root - grid * np.eye(len(gram))
    unit = shifted / np.linalg.norm(shifted, axis=(1, 2), keepdims=True)
    return np.min(np.sum((gram / np.linalg.norm(gram) - unit) ** 2, axis=(1, 2)))


def by_definition(features, targets, weights, bias):
    number = targets.shape[1]
    from_mean, from_target = features - features.mean(axis=0), targets - targets.mean(axis=0)
    _, singular, right = np.linalg.svd(from_mean)
    components, span = right[:number].T, scipy.linalg.orth(weights.T)
    columns = np.concatenate([features, np.ones((len(features), 1))], axis=1)
    solution = np.linalg.lstsq(columns, targets, rcond=None)[0]
    top = np.linalg.svd(weights)[2][:number]
    angles = scipy.linalg.subspace_angles(components, top.T)
    predictions = features @ weights.T + bias
    return {
        "andriopoulos_nrc1": outside(features, components),
        "andriopoulos_nrc1_centered": outside(from_mean, components),
        "andriopoulos_nrc2": outside(features, span),
        "andriopoulos_nrc2_centered": outside(from_mean, span),
        "andriopoulos_nrc3": gram_distance(
            weights @ weights.T, from_target.T @ from_target / len(targets)
        ),
        "rangamani_nrc1": 1 - np.sum(singular[:number] ** 2) / np.sum(singular**2),
        "rangamani_nrc2": cka(features, targets),
        "rangamani_nrc3": np.mean(np.cos(angles)),
        "linear_error": np.mean(np.sum((columns @ solution - targets) ** 2, axis=1)),
        "error": np.mean(np.sum((predictions - targets) ** 2, axis=1)),
    }


@pytest.mark.parametrize("targets", [1, 2, 4])
@settings(max_examples=8)
@given(seed=SEEDS)
def test_measures_are_those_of_their_definitions(targets, seed):
    data = random_data(seed, targets=targets)
    found, expected = regression_collapse(*data), by_definition(*data)
    assert list(found) == sorted(expected)
    for name, value in expected.items():
        # The grid has a distance of 5e-6 of the range, and the distance is quadratic around its
        # minimum.
        bound = 1e-9 if name == "andriopoulos_nrc3" else 1e3 * rounding()
        np.testing.assert_allclose(found[name], value, rtol=bound, atol=bound, err_msg=name)
    without = regression_collapse(*data[:2])
    assert set(found) - set(without) == OF_CLASSIFIER
    for name, value in without.items():
        assert value == pytest.approx(found[name], rel=rounding())


def test_measures_of_differences_do_not_depend_on_an_offset():
    features, targets, weights, bias = random_data(0)
    near = regression_collapse(features, targets, weights, bias)
    far = regression_collapse(features + 1024, targets - 512, weights, bias)
    for name in ("andriopoulos_nrc1_centered", "andriopoulos_nrc2_centered", "andriopoulos_nrc3",
                 "rangamani_nrc1", "rangamani_nrc2", "rangamani_nrc3", "linear_error"):  # fmt: skip
        # The features are rounded to eps · 1024.
        np.testing.assert_allclose(far[name], near[name], rtol=1024 * rounding(), err_msg=name)
    assert far["andriopoulos_nrc1"] != pytest.approx(near["andriopoulos_nrc1"], rel=0.01)


@pytest.mark.parametrize("spread", [0.0, 1e-9, 1e-5])
def test_collapsed_features_have_measures_of_the_size_of_their_spread(spread):
    """H = Y_c C with orthonormal rows C, W ∝ (S − tI)^½ C: all conditions hold, but for noise."""
    rng = np.random.default_rng(3)
    targets = rng.normal(size=(COUNT, TARGETS)) * np.array([1.0, 2.0])
    centred = targets - targets.mean(axis=0)
    rows = np.linalg.qr(rng.normal(size=(DIM, DIM)))[0]
    span, rest = rows[:TARGETS], rows[TARGETS:]
    noise = spread * rng.normal(size=(COUNT, DIM - TARGETS))
    noise -= noise.mean(axis=0)
    # Without correlation with the targets, so that it turns no principal component.
    noise -= centred @ np.linalg.lstsq(centred, noise, rcond=None)[0]
    features = centred @ span + noise @ rest
    root = square_root(centred.T @ centred / COUNT)
    shifted = root - 0.3 * np.linalg.eigvalsh(root)[0] * np.eye(TARGETS)
    weights = square_root(shifted) @ span
    found = regression_collapse(features, targets, weights)
    share = np.sum(noise**2) / np.sum(features**2)
    tiny = rounding() ** 2
    assert found["andriopoulos_nrc3"] <= tiny
    np.testing.assert_allclose(found["andriopoulos_nrc2"],
                               np.mean(np.sum(noise**2, 1) / np.sum(features**2, 1)),
                               rtol=1e-6, atol=tiny)  # fmt: skip
    np.testing.assert_allclose(found["rangamani_nrc1"], share, rtol=1e-6, atol=tiny)
    np.testing.assert_allclose(
        found["andriopoulos_nrc1"], found["andriopoulos_nrc2"], rtol=1e-6, atol=tiny
    )
    np.testing.assert_allclose(found["rangamani_nrc2"], cka(centred, targets), rtol=1e-9)
    np.testing.assert_allclose(found["rangamani_nrc3"], 1, rtol=1e-9)
    assert found["linear_error"] <= 10 * spread**2 + tiny


@settings(max_examples=8)
@given(seed=SEEDS)
def test_no_weights_have_a_smaller_error_than_the_linear_prediction(seed):
    features, targets, weights, bias = random_data(seed)
    found = regression_collapse(features, targets, weights, bias)
    assert found["linear_error"] <= found["error"]
    columns = np.concatenate([features, np.ones((COUNT, 1))], axis=1)
    best = np.linalg.lstsq(columns, targets, rcond=None)[0].T
    reached = regression_collapse(features, targets, best[:, :-1], best[:, -1])
    np.testing.assert_allclose(reached["error"], found["linear_error"], rtol=1e3 * rounding())


@settings(max_examples=8)
@given(seed=SEEDS, scale=st.floats(0.1, 10))
def test_measures_do_not_depend_on_rotation_scale_and_order(seed, scale):
    features, targets, weights, _ = random_data(seed)
    rng = np.random.default_rng(seed)
    turn, order = np.linalg.qr(rng.normal(size=(DIM, DIM)))[0], rng.permutation(COUNT)
    found = regression_collapse(features, targets, weights)
    moved = regression_collapse((scale * features @ turn)[order], targets[order], weights @ turn)
    for name in set(found) - {"error"}:
        np.testing.assert_allclose(moved[name], found[name], rtol=1e5 * rounding(), err_msg=name)


def test_batches_and_formats_give_the_same():
    data = random_data(4)
    whole = regression_collapse(*data)
    small = regression_collapse(
        jax.numpy.asarray(data[0]), data[1].tolist(), *data[2:], batch_size=5
    )
    for name, value in whole.items():
        np.testing.assert_allclose(small[name], value, rtol=1e3 * rounding(), err_msg=name)
    one = regression_collapse(data[0], data[1][:, 0], data[2][:1])
    assert one == regression_collapse(data[0], data[1][:, :1], data[2][:1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h, y, w, b: (h, y[:3], w, b), "targets have 3 rows for 14 samples"),
        (lambda h, y, w, b: (h, y[:, :, None], w, b), "targets have shape"),
        (lambda h, y, w, b: (h[0], y, w, b), "features have shape"),
        (lambda h, y, w, b: (h, y, w.T, b), r"classifier has shape \(5, 2\) for m = 2"),
        (lambda h, y, w, b: (h, y, w, b[:1]), r"bias has shape \(1,\) for m = 2"),
        (lambda h, y, w, b: (h, y * np.inf, w, b), "targets have NaN, infinities or"),
        (lambda h, y, w, b: (h, y, None, b), "bias without a classifier"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message) as error:
        regression_collapse(*change(*random_data(5)))
    assert "\n" not in str(error.value)
