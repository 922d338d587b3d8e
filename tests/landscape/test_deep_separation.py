"""Local minima of the separation problem of more than two factors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from tolerances import rounding

import nc_jax as nc
from nc_jax import exact
from nc_jax.landscape import separation_certificate


def certified(code, width):
    problem = nc.DeepUnconstrainedFeatures((1,) * code.num_classes, (width,) * (code.depth - 1))
    state = code.deep_state(problem.widths)
    return problem, state, separation_certificate(problem, state)


@pytest.mark.parametrize(("classes", "depth"), [(4, 3), (5, 4), (6, 3)])
def test_every_code_is_a_strict_local_minimum_also_where_layers_are_wider(classes, depth):
    for code in exact.deep_codes(classes, depth):
        width = min(classes, code.rank + 1)
        _, _, found = certified(code, width)
        assert found.holds, code.name
        np.testing.assert_allclose(found.value, code.value, rtol=rounding())
        rotations = code.rank * (2 * width - code.rank - 1) // 2
        assert found.symmetries == (depth - 1) * rotations
        # Outside of the rotations the least eigenvalue is 1: no direction is nearly flat.
        np.testing.assert_allclose(found.eigenvalues[found.symmetries], 1, atol=1e-6)
        # ‖θ‖² = Σ λ ⟨θ, ∇s⟩ = m Σ λ.
        np.testing.assert_allclose(found.multipliers.sum(), 2 * found.value / depth, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("classes", "depth"), [(7, 3), (7, 4), (7, 6), (8, 3), (8, 5), (8, 7)])
def test_codes_of_seven_and_eight_classes_are_strict_local_minima(classes, depth):
    for code in exact.deep_codes(classes, depth):
        assert certified(code, code.rank)[2].holds, code.name


def test_with_two_factors_a_wider_layer_lets_codes_of_low_rank_escape():
    for code in exact.deep_codes(6, 2):
        narrow, wide = (certified(code, width)[2] for width in (code.rank, 5))
        assert narrow.is_kkt
        assert wide.is_kkt
        assert wide.holds == (code.name == "simplex")
        if code.rank < 5:
            assert wide.eigenvalues[0] < -0.1


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (4, 2, 1)])
@pytest.mark.parametrize("depth", [2, 3, 6])
def test_simplex_encoded_labels_are_a_strict_local_minimum_at_every_depth(sizes, depth):
    seli, widths = exact.seli(sizes, depth=depth), (len(sizes),) * (depth - 1)
    problem = nc.DeepUnconstrainedFeatures(sizes, widths)
    found = separation_certificate(problem, exact.factored_state(seli.logits, sizes, widths))
    assert found.holds
    np.testing.assert_allclose(found.value, seli.value, rtol=rounding())
    # λ_kc = −(L^(1−1/m))_kc, of every sample of class k.
    expected = seli.multipliers[problem.labels]
    np.testing.assert_allclose(found.multipliers, expected, atol=1e-6)


def test_where_the_simplex_is_not_the_least_it_is_still_a_local_minimum():
    least, *_, simplex = exact.deep_codes(6, 4)
    assert (least.name, simplex.name) == ("octahedron", "simplex")
    assert certified(simplex, 6)[2].holds
    assert certified(least, 6)[2].holds


@pytest.mark.parametrize(("classes", "depth"), [(5, 3), (4, 4)])
@pytest.mark.parametrize("distance", [1e-5, 1e-2])
def test_the_certificate_fails_beside_a_code(classes, depth, distance):
    problem, state, _ = certified(exact.deep_code(classes, depth), classes)
    direction = problem.init(jax.random.key(3), 2.0)
    beside = jax.tree.map(lambda leaf, change: leaf + distance * change, state, direction)
    found = separation_certificate(problem, beside)
    assert not found.is_kkt
    assert not found.holds


@pytest.mark.parametrize(("classes", "depth"), [(5, 4)])
def test_stationarity_and_hessian_are_those_of_the_lagrangian(classes, depth):
    _, _, found = certified(exact.deep_code(classes, depth), 3)
    # The certificate orders the entries of W_lᵀ, the state those of W_l.
    assert isinstance(found.point, nc.DeepFeatures)
    features, *weights = found.point.factors()
    flat, unravel = ravel_pytree([features, *(weight.T for weight in weights)])

    def lagrangian(flat):
        first, *rest = unravel(flat)
        logits = first
        for factor in rest:
            logits = logits @ factor
        margins = jnp.diagonal(logits)[:, None] - logits
        return flat @ flat / 2 - jnp.sum(found.multipliers * (margins - 1))

    gradient = jax.jit(jax.grad(lagrangian))(flat)
    np.testing.assert_allclose(np.linalg.norm(gradient), 0, atol=1e-7)
    hessian = np.asarray(jax.jit(jax.hessian(lagrangian))(flat))

    def margins_of(flat):
        first, *rest = unravel(flat)
        for factor in rest:
            first = first @ factor
        return jnp.diagonal(first)[:, None] - first

    rows = np.asarray(jax.jit(jax.jacobian(margins_of))(flat))[found.multipliers > 1e-3]
    _, singular, basis = np.linalg.svd(rows)
    free = basis[int(np.sum(singular > 1e-6)) :].T
    expected = np.linalg.eigvalsh(free.T @ hessian @ free)
    np.testing.assert_allclose(found.eigenvalues, expected, atol=1e-6)


def test_one_width_has_the_certificate_of_features_and_a_classifier():
    problem, (_, state) = nc.ulpm(5, 3, 1), nc.exact.best_known_code(nc.ulpm(5, 3, 1))
    deep = nc.DeepUnconstrainedFeatures((1,) * 5, (3,))
    two = separation_certificate(problem, state)
    one = separation_certificate(deep, nc.DeepFeatures(state.features, (state.classifier,)))
    np.testing.assert_array_equal(one.eigenvalues, two.eigenvalues)
    np.testing.assert_array_equal(one.multipliers, two.multipliers)
    assert isinstance(one.point, nc.DeepFeatures)
    assert one.holds


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (
            nc.DeepUnconstrainedFeatures((1,) * 4, (3, 3), activation=jax.nn.relu),
            "without an activation",
        ),
        (nc.DeepUnconstrainedFeatures((1,) * 4, (3, 3), weight_decay=0.1), "without decay of any"),
        (nc.DeepUnconstrainedFeatures((1,) * 4, (3, 3), loss=nc.SquaredError()), "CrossEntropy"),
        (nc.DeepUnconstrainedFeatures((1,) * 4, (3, 4)), "shape"),
    ],
)
def test_what_has_no_certificate_is_refused_in_one_line(problem, message):
    state = exact.deep_code(4, 3).deep_state((3, 3))
    with pytest.raises(ValueError, match=message) as refused:
        separation_certificate(problem, state)
    assert "\n" not in str(refused.value)
