import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st
from landscape_points import (
    DECAY,
    FREE,
    flat,
    minimizer,
    moved,
    objective,
    on_circle,
    origin,
    random_state,
    saddles,
    stacked,
)  # fmt: skip
from tolerances import rounding

import nc_jax as nc
from nc_jax import landscape
from nc_jax.landscape import OnSphere

ULPM = nc.ulpm(4, 6, 3)
DIRECTION = jax.jit(lambda state: landscape.tangent_descent_direction(ULPM, state))
RANGE = jax.jit(lambda s, d: landscape.descent_range(OnSphere(ULPM), s, d))
GRADIENT = jax.jit(lambda state: landscape.sphere_gradient(ULPM, state))
LOSS = jax.jit(ULPM.objective)
# That of example 3.1.
SQUARE = nc.ulpm(4, 4, 1)


def square_direction(state, log_scale=0.0):
    """With the scale as an argument of the program, which all scales then share."""
    return landscape.tangent_descent_direction(SQUARE, state, log_scale=jnp.asarray(log_scale))


def square_kind(state):
    return landscape.classify(OnSphere(SQUARE), state, log_scale=jnp.asarray(0.0))


def scaled(state, features, classifier):
    return nc.LastLayer(
        jnp.asarray(features * np.asarray(state.features)),
        jnp.asarray(classifier * np.asarray(state.classifier)),
    )


RESIDUAL = jax.jit(lambda state: ULPM.loss.gradient(state.logits(), ULPM.labels))


def check_descends(state, found):
    """Unit, tangent, and lower on every step up to the measured range."""
    direction = flat(found.direction)
    np.testing.assert_allclose(np.linalg.norm(direction), 1, rtol=rounding())
    assert abs(direction @ flat(state)) < rounding() * np.linalg.norm(flat(state))
    reach = float(RANGE(state, found.direction))
    assert reach > 1e-3
    start = LOSS(state)
    for share in (0.01, 0.3, 0.99):
        assert LOSS(on_circle(state, found.direction, share * reach)) < start
    if reach < 3:
        assert LOSS(on_circle(state, found.direction, 1.1 * reach)) >= start
    # (3.3) is along the straight line, where the step has the sphere's radius as its unit.
    radius = np.linalg.norm(flat(state))
    assert LOSS(moved(state, found.direction, 0.01 * reach * radius)) < start


def collapsed(gap=2.0, features=1.0, classifier=1.0):
    return scaled(balanced(gap), features, classifier)


@functools.cache
def balanced(gap):
    return nc.exact.collapsed_state(ULPM, gap, key=jax.random.key(5))


def equal_means(seed=0, shift=0.0):
    """No classifier but a common one, class means that coincide: the gradient vanishes."""
    rng = np.random.default_rng(seed)
    features = np.tile(rng.normal(size=(3, 6)), (4, 1))
    common = shift * rng.normal(size=6)
    return nc.LastLayer(jnp.asarray(features), jnp.asarray(np.tile(common, (4, 1))))


@given(seed=st.integers(0, 1000), norm=st.floats(0.3, 5))
def test_a_random_state_goes_down_its_tangential_gradient(seed, norm):
    state = random_state(ULPM, seed, norm)
    found = DIRECTION(state)
    assert found.case == "gradient"
    tangential, _ = GRADIENT(state)
    size = np.linalg.norm(flat(tangential))
    np.testing.assert_allclose(found.slope, -size, rtol=rounding())
    np.testing.assert_allclose(flat(found.direction), -flat(tangential) / size, atol=rounding())
    assert LOSS(on_circle(state, found.direction, 1e-3)) < LOSS(state)


def test_collapse_with_unequal_norms_is_left_by_balancing_them():
    found = DIRECTION(collapsed(features=0.8, classifier=1.25))
    assert found.case == "gradient"
    state = collapsed(features=0.8, classifier=1.25)
    check_descends(state, found)
    # Along (-W/‖W‖², H/‖H‖²) for ‖W‖ > ‖H‖, the one way to change the ratio at fixed directions.
    features, classifier = np.asarray(state.features), np.asarray(state.classifier)
    towards = flat([features / np.sum(features**2), -classifier / np.sum(classifier**2)])
    cosine = flat(found.direction) @ towards / np.linalg.norm(towards)
    np.testing.assert_allclose(cosine, 1, rtol=rounding())


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_where_the_gradient_vanishes_there_need_be_no_null_vector(shift):
    # The printed proof takes a with Wa = 0, Hᵀa = 0, which does not exist for rank d (E14).
    problem = nc.ulpm(4, 3, 3)
    features = np.tile(np.random.default_rng(1).normal(size=(3, 3)), (4, 1))
    state = nc.LastLayer(jnp.asarray(features), jnp.asarray(shift * np.ones((4, 3))))
    assert np.linalg.matrix_rank(np.concatenate([features, state.classifier])) == 3
    found = landscape.tangent_descent_direction(problem, state)
    assert found.case == "zero multiplier"
    assert abs(found.slope) < rounding()
    assert found.curvature < -1e-3
    reach = float(landscape.descent_range(OnSphere(problem), state, found.direction))
    assert reach > 1e-3
    turned = on_circle(state, found.direction, reach / 2)
    assert objective(problem, turned) < objective(problem, state)


def test_at_a_zero_multiplier_the_curvature_is_minus_the_spectral_norm():
    for shift in (0.0, 0.7):
        state = equal_means(shift=shift)
        found = DIRECTION(state)
        assert found.case == "zero multiplier"
        check_descends(state, found)
        # With a in the null space of H and W both, the curvature is -‖G‖₂.
        np.testing.assert_allclose(found.curvature, -found.spectral_norm, rtol=1e-9)


def test_anti_collapse_is_left_by_making_norms_unequal():
    # W = -cHᵀ has |λ| = ‖G‖₂, which the printed proof would call global (E15).
    state = collapsed(features=-1.0)
    found = DIRECTION(state)
    assert found.case == "positive multiplier"
    np.testing.assert_allclose(found.multiplier, found.spectral_norm, rtol=rounding())
    np.testing.assert_allclose(found.curvature, -2 * found.multiplier, rtol=1e-10)
    check_descends(state, found)


def test_saddles_are_left_along_a_null_vector_with_the_curvature_of_the_proof():
    for name, state in saddles(ULPM, radius=3.0).items():
        found = DIRECTION(state)
        assert found.case == "null vector", name
        residual = np.asarray(RESIDUAL(state))
        norm = np.linalg.norm(residual, 2)
        np.testing.assert_allclose(found.spectral_norm, norm, rtol=rounding())
        # (D^T Hess D of the proof is for ‖D‖² = 2.)
        np.testing.assert_allclose(found.curvature, -(norm + found.multiplier), rtol=1e-8)
        check_descends(state, found)
        # Neither W nor H moves along its own rows or columns: the logits stay to first order.
        along, at = (jax.tree.map(np.asarray, x) for x in (found.direction, state))
        first_order = along.features @ at.classifier.T + at.features @ along.classifier.T
        assert np.abs(first_order).max() < rounding()


def test_the_curvature_at_example_3_1_is_that_of_the_curve_in_the_paper():
    state = nc.exact.example_3_1()
    found = square_direction(state)
    assert found.case == "null vector"
    # |λ| = 2/(1+e²), ‖G‖₂ = 1/cosh²(1).
    np.testing.assert_allclose(found.multiplier, -2 / (1 + np.exp(2)), rtol=rounding())
    np.testing.assert_allclose(found.spectral_norm, np.cosh(1.0) ** -2, rtol=rounding())
    # On the paper's curve ‖θ'(0)‖² = 16 + 16: no direction is steeper.
    expected = nc.exact.EXAMPLE_3_1_CURVATURE / 32
    np.testing.assert_allclose(found.curvature, expected, rtol=rounding())
    smallest = square_kind(state).eigenvalue
    np.testing.assert_allclose(smallest, expected, rtol=rounding())


def test_collapse_with_equal_norms_has_no_way_down():
    state = collapsed()
    found = DIRECTION(state)
    assert found.case == "optimal"
    assert np.all(np.isnan(flat(found.direction)))
    # A near miss has one.
    near = moved(state, random_state(ULPM, 0, norm=1.0), 1e-5)
    found = DIRECTION(near)
    assert found.case == "gradient"
    assert LOSS(on_circle(near, found.direction, 1e-6)) < LOSS(near)


def test_with_too_few_dimensions_a_minimum_has_no_direction():
    # d = K-2: four classes in the plane, a minimum that is not the convex problem's.
    pairs = nc.exact.paired_saddle(nc.ulpm(4, 2, 1), radius=4.0)
    assert landscape.classify(OnSphere(nc.ulpm(4, 2, 1)), pairs).kind == "minimum"
    found = landscape.tangent_descent_direction(nc.ulpm(4, 2, 1), pairs)
    assert found.case == "none known"
    assert np.all(np.isnan(flat(found.direction)))
    # Nor has the state of zeros one tangent to its sphere.
    assert landscape.tangent_descent_direction(ULPM, origin(ULPM)).case == "none known"


def test_the_range_on_a_sphere_leaves_the_bias_free():
    problem = nc.UnconstrainedFeatures((1, 1, 1, 1), 4, bias=True, reduction="sum")
    example = nc.exact.example_3_1()
    state = nc.LastLayer(example.features, example.classifier, jnp.zeros(4))
    along = square_direction(example).direction
    with_bias = nc.LastLayer(along.features, along.classifier, jnp.zeros(4))
    plain = landscape.descent_range(OnSphere(SQUARE), example, along)
    free = landscape.descent_range(OnSphere(problem), state, with_bias)
    np.testing.assert_allclose(free, plain, rtol=rounding())
    # A bias that the loss is lost with does not shrink as (W, H) turn.
    skewed = nc.LastLayer(state.features, state.classifier, jnp.array([40.0, -40.0, 40.0, -40.0]))
    away = landscape.descent_range(OnSphere(problem), skewed, with_bias)
    turned = on_circle(example, along, 0.1)
    turned = nc.LastLayer(turned.features, turned.classifier, skewed.bias)
    assert (away > 0.1) == (objective(problem, turned) < objective(problem, skewed))


@pytest.mark.parametrize("gap", [300.0, 380.0, 700.0])
def test_losses_near_underflow_are_still_classified_without_a_log_scale(gap):
    saddle = scaled(nc.exact.example_3_1(), np.sqrt(gap / 2), np.sqrt(gap / 2))
    assert square_direction(saddle).case == "null vector"
    unequal = scaled(nc.exact.collapsed_state(SQUARE, gap), 1.01, 1 / 1.01)
    assert square_direction(unequal).case == "gradient"
    assert square_kind(unequal).kind == "not critical"


def test_states_whose_loss_underflows_have_their_direction_at_a_scale():
    far = scaled(nc.exact.example_3_1(), 40, 40)  # q = 3200
    found = square_direction(far, 3200.0)
    assert found.case == "null vector"
    # ‖G‖₂/|λ| = 2/(1 + e^-q) -> 2.
    np.testing.assert_allclose(-found.spectral_norm / found.multiplier, 2, rtol=1e-9)
    assert landscape.descent_range(OnSphere(SQUARE), far, found.direction) > 0.01


@pytest.mark.parametrize(
    ("shape", "decay"), [((4, 6, 3), FREE), ((4, 3, 1), DECAY), ((6, 6, 1), DECAY)]
)
def test_regularised_saddles_are_left_with_the_curvature_of_the_bound(shape, decay):
    problem = nc.zhu(shape[0], shape[1], shape[2], decay)
    loss = jax.jit(problem.objective)
    for name, state in {"origin": origin(problem), **saddles(problem)}.items():
        found = landscape.escape_direction(problem, state)
        assert found.case == "null vector", name
        norm = float(found.spectral_norm)
        mean, half = (5e-3 + 8e-3) / 2, (5e-3 - 8e-3) / 2
        expected = mean - np.sqrt(half**2 + norm**2)
        np.testing.assert_allclose(found.curvature, expected, rtol=1e-8)
        # At least as steep as the direction of the paper's proof.
        ratio = (8 / 5) ** 0.5
        paper = -2 * (norm - np.sqrt(40) * 1e-3) / (ratio + 1 / ratio)
        assert found.curvature <= paper + rounding()
        # No eigenvalue is below the smallest.
        smallest = landscape.classify(problem, state).eigenvalue
        assert smallest <= found.curvature + rounding()
        reach = float(landscape.descent_range(problem, state, found.direction))
        assert reach > 1e-3
        for share in (0.01, 0.5, 0.99):
            assert loss(moved(state, found.direction, share * reach)) < loss(state)
        assert loss(moved(state, found.direction, 1.06 * reach)) > loss(state)


def test_escape_direction_is_optimal_at_minima_and_the_gradient_elsewhere():
    problem = nc.zhu(4, 3, 1, DECAY)
    assert landscape.escape_direction(problem, minimizer(problem)).case == "optimal"
    assert landscape.escape_direction(problem, random_state(problem, 0)).case == "gradient"
    over = nc.zhu(3, 4, 2, 0.3)  # past the threshold
    assert landscape.escape_direction(over, origin(over)).case == "optimal"


def settle(problem, starts):
    """Flows of a batch to rest, with the loss."""

    def run(start):
        return nc.gradient_flow(
            problem,
            start,
            np.geomspace(1, 3e4, 20),
            clock=nc.RealTime(),
            solver=nc.RKC(),
            rtol=1e-6,
            observe=lambda state: {"loss": problem.objective(state)},
        )

    return jax.vmap(run)(starts)


@pytest.mark.slow
def test_a_flow_kicked_out_of_any_saddle_reaches_the_minimum():
    # A rank-one kick of a state of low rank leaves it of low rank for good, see below; a speck of
    # noise, a millionth of the kick, breaks that.
    for problem in (nc.zhu(4, 6, 3, FREE), nc.zhu(4, 3, 1, DECAY)):
        points = [origin(problem), *saddles(problem).values()]
        kicked = [
            moved(
                moved(state, landscape.escape_direction(problem, state).direction, 1e-2),
                random_state(problem, i, norm=1.0), 1e-8,
            )
            for i, state in enumerate(points)
        ]  # fmt: skip
        batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *kicked)
        flow = settle(problem, batch)
        losses = np.asarray(flow.observables["loss"])
        least = float(nc.exact.regularized_minimum(problem))
        np.testing.assert_allclose(losses[:, -1], least, rtol=0, atol=1e-8)
        assert np.all(np.diff(losses, axis=1) < 1e-12)
        assert np.all(losses[:, 0] < [float(problem.objective(state)) for state in points])


@pytest.mark.slow
def test_a_kick_raises_the_rank_by_one_and_no_flow_raises_it_further():
    # The flow keeps the row space of (W, H): kicked by rank one, the origin ends at rank one.
    problem = nc.zhu(4, 4, 1, DECAY)
    kick = landscape.escape_direction(problem, origin(problem))
    start = moved(origin(problem), kick.direction, 1e-2)
    flow = nc.gradient_flow(
        problem, start, np.array([1e4]), clock=nc.RealTime(), solver=nc.RKC(), rtol=1e-8
    )
    singular = np.linalg.svd(flow.final.classifier, compute_uv=False)
    assert singular[0] > 1 > 1e-12 > singular[1]
    found = landscape.classify(problem, flow.final)
    assert found.kind == "strict saddle"
    assert problem.objective(flow.final) > float(nc.exact.regularized_minimum(problem)) + 0.1


@pytest.mark.parametrize("problem", [nc.mixon(3, 4, 2), nc.zhu(3, 4, 2, 0.1)])
def test_tangent_descent_direction_refuses_all_but_plain_cross_entropy(problem):
    with pytest.raises(ValueError, match="Ji's theorems"):
        landscape.tangent_descent_direction(problem, random_state(problem, 0))


def test_directions_under_vmap_have_an_array_of_cases():
    states = [collapsed(), collapsed(features=-1.0), random_state(ULPM, 0)]
    found = jax.jit(jax.vmap(DIRECTION))(stacked(states))
    assert list(found.case) == ["optimal", "positive multiplier", "gradient"]
