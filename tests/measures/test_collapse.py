"""Collapse metrics against a naive transcription of their definitions, on exact class means."""

import functools
from collections.abc import Collection
from fractions import Fraction

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilation_counts import counted
from hypothesis import given, strategies as st
from tolerances import rounding

import nc_jax as nc
from nc_jax.geometry import simplex_etf
from nc_jax.metrics import collapse_metrics

# (d, class sizes): d below, at and above K-1; balanced and not.
BALANCED = [(1, (3, 3)), (4, (2, 2, 2)), (3, (3, 3, 3, 3))]
UNBALANCED = [(1, (1, 2, 4)), (2, (2, 3, 1, 2, 1, 3)), (8, (1, 3, 2, 2, 4))]
SEEDS = st.integers(0, 2**32 - 1)

MIXON = {"mixon_snc1", "mixon_snc2", "mixon_snc3", "mixon_distance_to_s"}
# These keys depend on differences of features only.
TRANSLATION_INVARIANT = {
    "ji_feature_norm_variation",
    "ji_within_class_variation",
    "ji_feature_cosine_gap",
    "ji_self_duality",
    "zhu_nc1",
    "zhu_nc3",
    "papyan_nc1",
    "papyan_feature_equinorm",
    "papyan_self_duality",
    "cdnv",
}


@functools.cache
def compiled(labels: tuple[int, ...]):
    return eqx.filter_jit(lambda state: collapse_metrics(state, np.array(labels)))


def measure(state, labels):
    """`collapse_metrics`, compiled once for every shape and order of labels."""
    return compiled(tuple(labels.tolist()))(state)


def labels_of(sizes) -> np.ndarray:
    """Labels in an order that is shuffled, but one for all tests, to spare compilations."""
    return np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))


def random_state(seed, dim, sizes, with_bias=True, dtype: type = np.float64):
    """Samples around random class means."""
    rng = np.random.default_rng(seed)
    labels = labels_of(sizes)
    means = rng.normal(size=(len(sizes), dim))
    features = means[labels] + 0.5 * rng.normal(size=(len(labels), dim))
    classifier = rng.normal(size=(len(sizes), dim))
    bias = jnp.asarray(rng.normal(size=len(sizes)), dtype) if with_bias else None
    return nc.LastLayer(jnp.asarray(features, dtype), jnp.asarray(classifier, dtype), bias), labels


class ExactFeatures:
    """Class means, their mean and all differences in rational arithmetic, rounded once at the end.

    The numbers of a float array are rationals, so nothing here cancels, however deep the collapse.
    """

    def __init__(self, features, labels, num_classes: int):
        h = [[Fraction(float(entry)) for entry in row] for row in np.asarray(features)]
        dims = range(len(h[0]))
        members = [[h[i] for i in range(len(h)) if labels[i] == c] for c in range(num_classes)]
        mu = [
            [sum((r[k] for r in rows), Fraction(0)) / len(rows) for k in dims] for rows in members
        ]
        mu_g = [sum((row[k] for row in mu), Fraction(0)) / num_classes for k in dims]

        def minus(left, right):
            return [float(a - b) for a, b in zip(left, right, strict=True)]

        self.features = np.asarray(features, float)
        self.means = np.array([[float(entry) for entry in row] for row in mu])
        self.global_mean = np.array([float(entry) for entry in mu_g])
        self.centered_means = np.array([minus(row, mu_g) for row in mu])
        self.deviations = np.array([minus(h[i], mu[labels[i]]) for i in range(len(h))])
        self.from_global = np.array([minus(row, mu_g) for row in h])
        self.to_means = np.array([[minus(row, m) for m in mu] for row in h])


def naive_metrics(state: nc.LastLayer, labels: np.ndarray) -> dict[str, float]:
    """The table of definitions, row by row: loops, dense covariances and projections."""
    w = np.asarray(state.classifier, float)
    num_classes, dim = w.shape
    b = np.zeros(num_classes) if state.bias is None else np.asarray(state.bias, float)
    exact = ExactFeatures(state.features, labels, num_classes)
    m, classes, samples = exact.centered_means, range(num_classes), range(len(labels))
    w_tilde = np.array([w[c] - sum(w) / num_classes for c in classes])
    pairs = [(c, k) for c in classes for k in classes if c != k]
    eye, ones = np.eye(num_classes), np.ones((num_classes, num_classes))
    simplex = (eye - ones / num_classes) / np.sqrt(num_classes - 1)

    def norm(x):
        return float(np.sqrt(np.sum(np.square(x))))

    def mean(xs):
        xs = list(xs)
        return sum(xs) / len(xs)

    def variation(vectors, ddof):
        norms = [norm(v) for v in vectors]
        variance = sum((x - mean(norms)) ** 2 for x in norms) / (len(norms) - ddof)
        return np.sqrt(variance) / mean(norms)

    def cosine_gap(vectors):
        gaps = []
        for c, k in pairs:
            cosine = vectors[c] @ vectors[k] / (norm(vectors[c]) * norm(vectors[k]))
            gaps.append(abs(cosine + 1 / (num_classes - 1)))
        return mean(gaps)

    sigma_w = sum(np.outer(exact.deviations[i], exact.deviations[i]) for i in samples) / len(labels)
    sigma_b = sum(np.outer(m[c], m[c]) for c in classes) / num_classes
    # Between the rounding of null directions, 1e-16, and the smallest variance drawn.
    nc1 = np.trace(sigma_w @ np.linalg.pinv(sigma_b, rcond=1e-12, hermitian=True))

    mismatches = 0
    for i in samples:
        nearest = min(classes, key=lambda c: norm(exact.to_means[i, c]))
        predicted = max(classes, key=lambda c: w[c] @ exact.features[i] + b[c])
        mismatches += nearest != predicted

    v = [mean(norm(exact.deviations[i]) ** 2 for i in samples if labels[i] == c) for c in classes]

    metrics = {
        "ji_feature_norm_variation": variation(m, ddof=0),
        "ji_classifier_norm_variation": variation(w_tilde, ddof=0),
        "ji_within_class_variation": mean(norm(exact.deviations[i]) for i in samples)
        / mean(norm(exact.from_global[i]) for i in samples),
        "ji_feature_cosine_gap": cosine_gap(m),
        "ji_classifier_cosine_gap": cosine_gap(w_tilde),
        "ji_self_duality": mean(
            norm(m[c] / norm(m[c]) - w_tilde[c] / norm(w_tilde[c])) for c in classes
        ),
        "zhu_nc1": nc1 / num_classes,
        "zhu_nc2": norm(w @ w.T / norm(w @ w.T) - simplex),
        "zhu_nc3": norm(w @ m.T / norm(w @ m.T) - simplex),
        "zhu_nc4": norm(w @ exact.global_mean + b),
        "papyan_nc1": nc1,
        "papyan_feature_equinorm": variation(m, ddof=1),
        "papyan_classifier_equinorm": variation(w, ddof=1),
        "papyan_classifier_cosine_gap": cosine_gap(w),
        "papyan_self_duality": norm(w / norm(w) - m / norm(m)) ** 2,
        "papyan_ncc_mismatch": mismatches / len(labels),
        "cdnv": mean((v[c] + v[k]) / (2 * norm(m[c] - m[k]) ** 2) for c, k in pairs),
    }
    sizes = {int(np.sum(labels == c)) for c in classes}
    if len(sizes) == 1:
        n = sizes.pop()
        residual = np.array([exact.features[i] - w[labels[i]] / np.sqrt(n) for i in samples])
        z = np.concatenate([exact.features.ravel(), w.ravel(), b])
        span = spanning_set_of_s(labels, num_classes, dim, n)
        projected = span @ np.linalg.lstsq(span, z)[0]
        metrics |= {
            "mixon_snc1": norm(w @ w.T - np.sqrt(n) * (eye - ones / num_classes)),
            "mixon_snc2": norm(residual) / norm(exact.features),
            "mixon_snc3": norm(b - 1 / num_classes),
            "mixon_distance_to_s": norm(z - projected) / norm(z),
        }
    return {key: float(value) for key, value in metrics.items()}


def spanning_set_of_s(labels, num_classes: int, dim: int, n: int) -> np.ndarray:
    """Columns (H, W, b) that span S = {H = (W⊗1)ᵀ/√n, 1ᵀW = 0, b ∈ span 1}."""
    columns = []
    for c in range(num_classes - 1):
        for k in range(dim):
            w = np.zeros((num_classes, dim))
            w[c, k], w[c + 1, k] = 1, -1
            h = w[labels] / np.sqrt(n)
            columns.append(np.concatenate([h.ravel(), w.ravel(), np.zeros(num_classes)]))
    size = len(columns[0])
    columns.append(np.r_[np.zeros(size - num_classes), np.ones(num_classes)])
    return np.array(columns).T


def conditioning(state: nc.LastLayer, labels: np.ndarray) -> float:
    """How much rounding grows: Σ_B⁺ squares the condition number of the centred class means."""
    num_classes = state.classifier.shape[0]
    centered = ExactFeatures(state.features, labels, num_classes).centered_means
    singular = np.linalg.svd(centered, compute_uv=False)[: num_classes - 1]
    distances = [
        np.linalg.norm(centered[c] - centered[k]) for c in range(num_classes) for k in range(c)
    ]
    largest = np.max(np.linalg.norm(centered, axis=1))
    smallest = np.min(np.linalg.norm(centered, axis=1))
    return (singular[0] / singular[-1] + largest / smallest + largest / min(distances)) ** 2


def assert_same(found, expected, rtol, but: Collection[str] = ()):
    assert set(found) == set(expected)
    for key in set(expected) - set(but):
        # Gaps that are zero by symmetry (K = 2, d = 1) are zero to rounding of numbers near 1.
        np.testing.assert_allclose(found[key], expected[key], rtol=rtol, atol=rtol, err_msg=key)


def assert_defined(state, labels):
    tolerance = rounding(operations=int(100 * conditioning(state, labels)))
    assert_same(measure(state, labels), naive_metrics(state, labels), tolerance)


@pytest.mark.parametrize("shape", BALANCED + UNBALANCED)
@given(seed=SEEDS)
def test_every_key_equals_its_definition(seed, shape):
    assert_defined(*random_state(seed, *shape))


@given(seed=SEEDS)
def test_every_key_equals_its_definition_without_a_bias(seed):
    assert_defined(*random_state(seed, *BALANCED[1], with_bias=False))


def test_float32_states_give_float32_metrics():
    state, labels = random_state(4, *BALANCED[1], dtype=np.float32)
    found = measure(state, labels)
    assert {value.dtype for value in found.values()} == {jnp.dtype("float32")}
    tolerance = rounding("float32", operations=int(100 * conditioning(state, labels)))
    assert_same(found, naive_metrics(state, labels), tolerance)


@pytest.mark.parametrize(("feature_dim", "sizes"), BALANCED)
def test_all_measures_vanish_at_the_strongly_collapsed_point(feature_dim, sizes):
    num_classes, n, labels = len(sizes), sizes[0], labels_of(sizes)
    frame = simplex_etf(num_classes, feature_dim)
    # WWᵀ = √n (I - 11ᵀ/K) wants ‖w_c‖² = √n (1 - 1/K).
    classifier = frame * np.sqrt(np.sqrt(n) * (1 - 1 / num_classes)).item()
    bias = jnp.full(num_classes, 1 / num_classes)
    state = nc.LastLayer(classifier[labels] / np.sqrt(n).item(), classifier, bias)
    metrics = measure(state, labels)
    # μ_G = 0, so that ‖W μ_G + b‖ is the norm of the bias alone.
    assert_same(metrics, dict.fromkeys(metrics, 0.0) | {"zhu_nc4": num_classes**-0.5}, rounding())
    assert set(metrics) >= MIXON


@pytest.mark.parametrize("feature_scale", [0.01, 7.0])
def test_a_simplex_etf_of_any_scale_is_collapsed_for_ji_zhu_and_papyan(feature_scale):
    labels = labels_of(UNBALANCED[2][1])
    frame = simplex_etf(5, 8)
    metrics = measure(nc.LastLayer(feature_scale * frame[labels], frame, jnp.zeros(5)), labels)
    assert_same(metrics, dict.fromkeys(metrics, 0.0), rounding())


@given(seed=SEEDS, shape=st.sampled_from([BALANCED[2], UNBALANCED[2]]))
def test_metrics_are_invariant_under_rotations_of_feature_space(seed, shape):
    state, labels = random_state(seed, *shape)
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(shape[0], shape[0])))[0]
    turned = nc.LastLayer(state.features @ turn, state.classifier @ turn, state.bias)
    tolerance = rounding(operations=int(100 * conditioning(state, labels)))
    assert_same(measure(turned, labels), measure(state, labels), tolerance)


@given(seed=SEEDS, shape=st.sampled_from([BALANCED[2], UNBALANCED[2]]))
def test_metrics_are_invariant_under_the_order_of_classes_and_samples(seed, shape):
    state, labels = random_state(seed, *shape)
    rng = np.random.default_rng(3)
    classes, samples = rng.permutation(len(shape[1])), rng.permutation(len(labels))
    assert state.bias is not None
    permuted = nc.LastLayer(state.features[samples], state.classifier[classes], state.bias[classes])
    relabelled = np.argsort(classes)[labels][samples]
    assert not np.array_equal(relabelled, labels)
    tolerance = rounding(operations=int(100 * conditioning(state, labels)))
    assert_same(measure(permuted, relabelled), measure(state, labels), tolerance)


@pytest.mark.parametrize("offset", [10.0, 1e3, 1e6])
def test_an_offset_common_to_all_features_does_not_matter_to_centred_metrics(offset):
    state, labels = random_state(5, *BALANCED[1])
    moved = nc.LastLayer(state.features + offset, state.classifier, state.bias)
    found, expected = measure(moved, labels), naive_metrics(moved, labels)
    # Features are rounded at the size of the offset.
    tolerance = rounding(operations=int(100 * offset * conditioning(moved, labels)))
    assert_same(found, expected, tolerance, but={"mixon_snc2", "mixon_distance_to_s"})
    unmoved = naive_metrics(state, labels)
    for key in TRANSLATION_INVARIANT:
        np.testing.assert_allclose(found[key], unmoved[key], rtol=tolerance, err_msg=key)


@pytest.mark.parametrize("gap", [1e-3, 1e-6])
def test_cdnv_is_right_for_classes_whose_means_are_close_to_each_other(gap):
    state, labels = random_state(6, *BALANCED[1])
    features = np.array(state.features)
    features[labels == 1] = features[labels == 0] + gap
    state = nc.LastLayer(jnp.asarray(features), state.classifier, state.bias)
    expected, found = naive_metrics(state, labels)["cdnv"], measure(state, labels)["cdnv"]
    # Means are rounded at their own size, 1/gap times the difference of two of them.
    np.testing.assert_allclose(found, expected, rtol=rounding(operations=int(100 / gap)))


def test_classes_that_share_a_mean_leave_the_between_class_covariance_of_lower_rank():
    # Classes 0 and 1 at (1, 0, 0), class 2 at (-2, 0, 0): Σ_B = diag(2, 0, 0), so that
    # tr(Σ_W Σ_B⁺) takes only the first direction, where the within-class variance is 1/4.
    means = np.array([[1.0, 0, 0], [1.0, 0, 0], [-2.0, 0, 0]])
    steps = np.array([[0.5, 0, 0], [-0.5, 0, 0], [0, 0.25, 0], [0, -0.25, 0]])
    features = jnp.asarray((means[:, None] + steps).reshape(12, 3))
    labels = np.repeat(np.arange(3), 4)
    metrics = measure(nc.LastLayer(features, jnp.asarray(means)), labels)
    np.testing.assert_allclose(metrics["papyan_nc1"], 0.125 / 2, rtol=rounding())


def test_nearest_class_mean_and_largest_logit_disagree_where_the_bias_says_so():
    features = jnp.array([[1.0, 0.0], [1.0, 0.5], [-1.0, 0.0], [-1.0, 0.5]])
    labels, classifier = np.array([0, 0, 1, 1]), jnp.array([[1.0, 0.0], [-1.0, 0.0]])
    for bias, share in [(0.0, 0.0), (1.9, 0.0), (2.1, 0.5), (9.0, 0.5)]:
        state = nc.LastLayer(features, classifier, jnp.array([0.0, bias]))
        assert measure(state, labels)["papyan_ncc_mismatch"] == share


def test_an_all_zero_state_gives_nan_and_no_error():
    dim, sizes = BALANCED[1]
    nothing = nc.LastLayer(jnp.zeros((sum(sizes), dim)), jnp.zeros((len(sizes), dim)))
    metrics = measure(nothing, labels_of(sizes))
    for key in ("ji_within_class_variation", "zhu_nc2", "mixon_snc2", "mixon_distance_to_s"):
        assert np.isnan(metrics[key]), key


@pytest.mark.parametrize(
    ("labels", "present"), [([0, 1, 2, 2, 0, 1], True), ([0, 1, 2, 2, 2, 1], False)]
)
def test_mixon_keys_are_there_for_concrete_balanced_labels_only(labels, present):
    state, _ = random_state(0, 3, (2, 2, 2))
    expected = MIXON if present else set()
    for concrete in (np.array(labels), jnp.array(labels)):
        closed_over = jax.eval_shape(lambda s, y=concrete: collapse_metrics(s, y), state)
        assert MIXON & set(closed_over) == expected
    traced = jax.eval_shape(collapse_metrics, state, jnp.array(labels))
    assert not MIXON & set(traced)
    assert set(traced) | MIXON == set(collapse_metrics(state, np.array([0, 1, 2, 2, 0, 1])))
    assert not MIXON & set(traced)


@pytest.mark.parametrize("spread", [2.0**-20, 2.0**-30])
@pytest.mark.parametrize("shape", [BALANCED[2], UNBALANCED[2]])
def test_metrics_keep_full_precision_at_deep_collapse(spread, shape):
    """Features with exact class means: a spread of 1e-9 costs no digit."""
    dim, sizes = shape
    rng = np.random.default_rng(8)
    labels = labels_of(sizes)
    means = rng.integers(-64, 64, size=(len(sizes), dim)) / 32
    steps = rng.integers(-8, 8, size=(len(labels), dim)).astype(float)
    for c, size in enumerate(sizes):  # The last sample closes the class's sum to zero.
        mine = np.flatnonzero(labels == c)
        steps[mine[-1]] = -np.sum(steps[mine[: size - 1]], axis=0)
    features = jnp.asarray(means[labels] + spread * steps)
    classifier = jnp.asarray(means + 0.1 * rng.normal(size=means.shape))
    state = nc.LastLayer(features, classifier, jnp.zeros(len(sizes)))
    expected, found = naive_metrics(state, labels), measure(state, labels)
    assert expected["ji_within_class_variation"] < 10 * spread
    tolerance = rounding(operations=int(100 * conditioning(state, labels)))
    for key in expected:
        atol = 0 if expected[key] > 0 else tolerance
        np.testing.assert_allclose(found[key], expected[key], rtol=tolerance, atol=atol)


@given(seed=SEEDS, spread=st.sampled_from([1e-6, 1e-9]))
def test_metrics_at_deep_collapse_are_accurate_to_the_rounding_of_features(seed, spread):
    """A feature's last bit over the spread, 2e-7 at a spread of 1e-9 of the means."""
    dim, sizes = BALANCED[2]
    state, labels = random_state(seed, dim, sizes)
    assert state.bias is not None
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(len(sizes), dim))
    features = jnp.asarray(means[labels] + spread * rng.normal(size=(len(labels), dim)))
    collapsed = nc.LastLayer(features, state.classifier, state.bias)
    expected, found = naive_metrics(collapsed, labels), measure(collapsed, labels)
    # Ten roundings of a mean, magnified to the spread.
    tolerance = rounding(operations=int(10 / spread))
    for key in ("ji_within_class_variation", "zhu_nc1", "papyan_nc1", "cdnv"):
        np.testing.assert_allclose(found[key], expected[key], rtol=tolerance, err_msg=key)
    tolerance = rounding(operations=int(100 * conditioning(collapsed, labels)))
    small = {"ji_within_class_variation", "zhu_nc1", "papyan_nc1", "cdnv"}
    assert_same(found, expected, tolerance, but=small)


def test_jit_and_vmap_over_states_give_the_single_results():
    labels = labels_of(BALANCED[1][1])
    states = [random_state(seed, *BALANCED[1])[0] for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    batched = jax.jit(jax.vmap(lambda s: collapse_metrics(s, labels)))(stacked)
    for i, state in enumerate(states):
        tolerance = rounding(operations=int(100 * conditioning(state, labels)))
        single = {key: value[i] for key, value in batched.items()}
        assert_same(single, naive_metrics(state, labels), tolerance)


def test_a_class_without_samples_is_refused_or_nan():
    state, _ = random_state(0, 4, (2, 2, 2), with_bias=False)
    with pytest.raises(ValueError, match="class 2 of 3 has no samples"):
        collapse_metrics(state, np.array([0, 0, 0, 1, 1, 1]))
    traced = jax.jit(collapse_metrics)(state, np.array([0, 0, 0, 1, 1, 1]))
    of_the_classifier = {
        "ji_classifier_norm_variation", "ji_classifier_cosine_gap", "zhu_nc2",
        "papyan_classifier_equinorm", "papyan_classifier_cosine_gap",
    }  # fmt: skip
    for key, value in traced.items():
        assert np.isnan(value) != (key in of_the_classifier), key


def test_no_metric_calls_a_nan_state_collapsed():
    state, labels = random_state(0, 4, (2, 2, 2), with_bias=False)
    state = jax.tree.map(lambda leaf: jnp.asarray(np.nan * np.asarray(leaf)), state)
    metrics = measure(state, labels)
    assert all(np.isnan(value) for key, value in metrics.items() if key != "mixon_snc3")


def test_a_call_outside_of_jit_compiles_once_for_each_shape():
    state, labels = random_state(1, 5, (2, 4, 3))
    collapse_metrics(state, labels)
    again, other_order = random_state(2, 5, (2, 4, 3))[0], labels[::-1].copy()
    with counted() as counts:
        collapse_metrics(again, other_order)
    assert counts.compiled == 0
