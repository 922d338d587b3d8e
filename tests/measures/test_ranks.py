"""Ranks against their definitions in 50 digits."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from feature_sets import DIGITS, KINDS, centred, class_means, feature_set, singular_values
from hypothesis import given, strategies as st
from tolerances import rounding

import nc_jax as nc
from nc_jax.geometry import simplex_etf
from nc_jax.measures import MEASURES, Statistics

SEEDS = st.integers(0, 2**32 - 1)
NAMES = [name for name in MEASURES if "_rank" in name or "participation" in name]


def measured(features, labels, classifier, **options):
    return nc.metrics.measure(features, labels, classifier, names=NAMES, **options)


def effective(singular):
    total = mpmath.fsum(singular)
    return mpmath.exp(-mpmath.fsum(v / total * mpmath.log(v / total) for v in singular))


def rankme(singular, number):
    total = mpmath.fsum(singular)
    singular = [*singular, *[mpmath.mpf(0)] * (number - len(singular))]
    shares = [v / total + mpmath.mpf(1e-7) for v in singular]
    return mpmath.exp(-mpmath.fsum(p * mpmath.log(p) for p in shares))


def stable(singular):
    return mpmath.fsum(v**2 for v in singular) / singular[0] ** 2


def participation(singular):
    squares = [v**2 for v in singular]
    return mpmath.fsum(squares) ** 2 / mpmath.fsum(v**2 for v in squares)


def by_definition(features, labels, classifier):
    exact = mpmath.matrix(features.tolist())
    matrices = {
        "features": centred(exact),
        "class_means": centred(class_means(features, labels)),
        "classifier": mpmath.matrix(classifier.tolist()),
    }
    found = {"garrido_rankme": rankme(singular_values(exact), min(features.shape))}
    for name, matrix in matrices.items():
        singular = singular_values(matrix)
        found[f"roy_effective_rank_{name}"] = effective(singular)
        found[f"rudelson_stable_rank_{name}"] = stable(singular)
        found[f"gao_participation_ratio_{name}"] = participation(singular)
        floor = max(matrix.rows, matrix.cols) * np.finfo(float).eps * singular[0]
        found[f"numerical_rank_{name}"] = sum(value > floor for value in singular)
    return {name: float(value) for name, value in found.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_ranks_are_those_of_their_definitions(kind):
    features, labels, classifier, _ = feature_set(kind)
    with mpmath.workdps(DIGITS):
        expected = by_definition(features, labels, classifier)
    found = measured(features, labels, classifier)
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=rounding(), err_msg=name)


@pytest.mark.parametrize("shift", [0.0, 1e3])
def test_a_collapsed_simplex_has_one_dimension_less_than_classes(shift):
    etf = np.asarray(simplex_etf(5, 7))
    found = measured(etf.repeat(3, axis=0) + shift, np.arange(5).repeat(3), etf)
    uncentred = found.pop("garrido_rankme")
    for name, value in found.items():
        # A shift rounds the features to eps · shift.
        np.testing.assert_allclose(value, 4, rtol=rounding() * (1 + shift), err_msg=name)
    # For mean 0, seven shares of which four are ¼: only the constant 1e-7 is added to each.
    floored = 4 * (0.25 + 1e-7) * np.log(0.25 + 1e-7) + 3 * 1e-7 * np.log(1e-7)
    if shift == 0:
        np.testing.assert_allclose(uncentred, np.exp(-floored), rtol=rounding())
    else:
        assert uncentred < 1.1  # the offset is by far the largest singular value


def test_an_orthogonal_frame_has_all_classes_as_dimensions_until_it_is_centred():
    frame = np.eye(6)[:4]
    found = measured(frame, np.arange(4), frame)
    for name in NAMES:
        expected = 4 if "classifier" in name else 3
        if name != "garrido_rankme":
            np.testing.assert_allclose(found[name], expected, rtol=rounding(), err_msg=name)
    # Four samples have four singular values, so that the constant is added to those alone.
    share = 0.25 + 1e-7
    np.testing.assert_allclose(
        found["garrido_rankme"], np.exp(-4 * share * np.log(share)), rtol=rounding()
    )


@given(seed=SEEDS, scale=st.floats(1e-3, 1e3))
def test_ranks_do_not_depend_on_rotation_scale_and_order(seed, scale):
    features, labels, classifier, _ = feature_set("unequal classes", seed)
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(6, 6)))[0] * scale
    order = rng.permutation(len(labels))
    found = measured(features, labels, classifier)
    turned = measured((features @ turn)[order], labels[order], classifier @ turn)
    for name, value in found.items():
        np.testing.assert_allclose(turned[name], value, rtol=rounding(), err_msg=name)


def test_ranks_lie_in_their_order():
    """Stable rank <= participation ratio <= effective rank of σ² <= numerical rank."""
    features, labels, classifier, _ = feature_set("unequal classes")
    found = measured(features, labels, classifier)
    for kind in ("features", "class_means", "classifier"):
        stable, ratio, effective, numerical = (
            found[f"{name}_{kind}"]
            for name in (
                "rudelson_stable_rank", "gao_participation_ratio", "roy_effective_rank",
                "numerical_rank",
            )
        )  # fmt: skip
        assert 1 <= stable <= ratio <= effective <= numerical


def test_ranks_of_zeros_are_no_numbers():
    found = measured(np.ones((6, 3)), np.arange(6) % 2, np.zeros((2, 3)))
    for name, value in found.items():
        if name.startswith("numerical"):
            assert value == 0
        elif name == "garrido_rankme":
            np.testing.assert_allclose(value, 1, rtol=1e-5)
        else:
            assert np.isnan(value), name


def test_ranks_compile_in_float32():
    rng = np.random.default_rng(0)
    means, classifier = rng.normal(size=(2, 4, 6))
    rows = rng.normal(size=(20, 6))
    arrays = [np.full(4, 5.0), rng.normal(size=6), means, np.ones(4), rows.T @ rows, classifier]

    def ranks(counts, origin, means, scatter, covariance, classifier):
        s = Statistics(counts, origin, means, scatter, {"covariance": covariance},
                       classifier=classifier)  # fmt: skip
        return {name: MEASURES[name].compute(s) for name in NAMES}

    found = jax.jit(ranks)(*(jnp.asarray(a, "float32") for a in arrays))
    for name, value in ranks(*arrays).items():
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], value, rtol=rounding("float32"), err_msg=name)
