"""Sign flow and spectral flow, and the optimisers of Optax that follow them."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import muon
from tolerances import rounding

import nc_jax as nc
from nc_jax.problems import FreeFeatures, SignFlow, SpectralFlow

KEY = jax.random.key(3)
SIZES = (8, 8, 8, 1, 1, 1)
LABELS = np.repeat(np.arange(6), SIZES)
PROBLEM = nc.UnconstrainedFeatures(SIZES, 6, reduction="sum")


def polar(matrix):
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    return (left * (values > 1e-9 * values[0])) @ right


def loop(features, classifier, direction, step, num_steps):
    """H and W after Euler steps along directions of the summed cross-entropy, in NumPy."""
    for _ in range(num_steps):
        logits = features @ classifier.T
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        residual = np.eye(6)[LABELS] - shares / shares.sum(axis=1, keepdims=True)
        moves = direction(residual @ classifier), direction(residual.T @ features)
        features, classifier = features + step * moves[0], classifier + step * moves[1]
    return features, classifier


# Compiled once for each problem, which takes less time than operation by operation.
@eqx.filter_jit
def velocity(problem, state):
    return problem.vector_field(0.0, state, None)


def euler(problem, start, stop, num_steps):
    """The last state of a flow with Euler steps of one length."""
    steps = diffrax.StepTo(jnp.linspace(0, stop, num_steps + 1))
    flow = nc.Flow(
        problem, np.array([stop]), clock=nc.RealTime(), solver=diffrax.Euler(),
        stepsize_controller=steps, observe=("objective",),
    )  # fmt: skip
    return flow(start).final


@pytest.mark.parametrize(("kind", "direction"), [(SignFlow, np.sign), (SpectralFlow, polar)])
def test_a_flow_is_that_of_an_independent_loop_and_of_descent(kind, direction):
    start = PROBLEM.init(KEY, 0.1)
    step, num_steps = 1 / 128, 64
    features, classifier = np.asarray(start.features), np.asarray(start.classifier)
    expected = loop(features, classifier, direction, step, num_steps)
    flow = euler(kind(PROBLEM), start, step * num_steps, num_steps)
    descent = nc.gradient_descent(
        kind(PROBLEM), start, optax.sgd(step), num_steps, observe=("objective",)
    ).final
    for state in (flow, descent):
        np.testing.assert_allclose(state.features, expected[0], atol=1e-9)
        np.testing.assert_allclose(state.classifier, expected[1], atol=1e-9)


def test_sign_descent_of_optax_is_eulers_method_to_the_bit():
    start = PROBLEM.init(KEY, 0.1)
    descent = nc.gradient_descent(
        PROBLEM, start, optax.sign_sgd(1 / 128), 64, observe=("objective",)
    ).final
    # Times that are multiples of a power of 2 have differences without rounding errors.
    flow = euler(SignFlow(PROBLEM), start, 0.5, 64)
    for found, expected in zip(jax.tree.leaves(flow), jax.tree.leaves(descent), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_muon_is_the_spectral_flow_up_to_its_newton_schulz_iteration():
    """Without momentum. For d = K Optax multiplies neither update by a factor of the shape."""
    start, step = PROBLEM.init(KEY, 0.1), 1 / 128
    spectral = euler(SpectralFlow(PROBLEM), start, 0.5, 64)

    def descent(**options):
        optimizer = muon(step, beta=0.0, nesterov=False, **options)
        return nc.gradient_descent(PROBLEM, start, optimizer, 64, observe=("objective",)).final

    # A cubic iteration that converges to the polar factor.
    exact = descent(ns_coeffs=((1.5, -0.5, 0.0),) * 30, ns_steps=30)
    for found, expected in zip(jax.tree.leaves(exact), jax.tree.leaves(spectral), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-7)
    # The default ends with singular values between 0.68 and 1.13, and so do the contrasts.
    usual = descent()
    for group in (slice(3), slice(3, None)):
        norms = [
            jnp.linalg.norm(nc.geometry.center(state.classifier[group]))
            for state in (usual, spectral)
        ]
        assert 0.65 < norms[0] / norms[1] < 1.2


@pytest.mark.parametrize("kind", [SignFlow, SpectralFlow])
def test_the_error_of_euler_steps_is_of_first_order(kind):
    start = PROBLEM.init(KEY, 1.0)
    steps = [25, 200]
    exact = euler(kind(PROBLEM), start, 0.25, 6400)
    errors = []
    for num_steps in steps:
        state = euler(kind(PROBLEM), start, 0.25, num_steps)
        errors.append(float(jnp.linalg.norm(state.logits() - exact.logits())))
    order = np.log(errors[0] / errors[-1]) / np.log(steps[-1] / steps[0])
    assert 0.75 < order < 1.35


def test_directions_are_right_where_the_gradient_underflows():
    """At margins near 1000, where ∂L/∂x is 0 in float64: those of the gradient times e^1000."""
    state = jax.tree.map(
        lambda x: 30 * x, euler(SpectralFlow(PROBLEM), PROBLEM.init(KEY), 4.0, 100)
    )
    margins = nc.metrics.sample_margins(state, PROBLEM.labels)
    assert margins.min() > 750
    gradient = PROBLEM.gradient(state)
    assert all(jnp.all(leaf == 0) for leaf in jax.tree.leaves(gradient))
    scaled = PROBLEM.scaled_descent(state, float(margins.min()))
    for flow, direction in ((SignFlow(PROBLEM), np.sign), (SpectralFlow(PROBLEM), polar)):
        found = velocity(flow, state)
        for leaf, expected in zip(jax.tree.leaves(found), jax.tree.leaves(scaled), strict=True):
            np.testing.assert_allclose(leaf, direction(np.asarray(expected)), atol=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_vectors_move_along_the_normalised_gradient_and_zeros_stay(dtype):
    problem = nc.UnconstrainedFeatures((5, 2, 1), 4, bias=True)
    flow, state = SpectralFlow(problem), problem.init(KEY, dtype=dtype)
    direction = velocity(flow, state)
    gradient = problem.gradient(state)
    assert {leaf.dtype for leaf in jax.tree.leaves(direction)} == {jnp.dtype(dtype)}
    assert gradient.bias is not None
    expected = -gradient.bias / jnp.linalg.norm(gradient.bias)
    np.testing.assert_allclose(direction.bias, expected, rtol=100 * rounding(dtype))
    values = jnp.linalg.svd(direction.classifier, compute_uv=False)
    # The sum of the classifiers has no gradient.
    np.testing.assert_allclose(values, [1, 1, 0], atol=rounding(dtype))
    still = velocity(flow, jax.tree.map(jnp.zeros_like, state))
    assert jnp.all(still.features == 0)
    assert jnp.all(still.classifier == 0)


def test_the_spectral_flow_conserves_the_sum_of_classifiers_alone():
    flow = SpectralFlow(nc.ulpm(3, 4, (4, 2, 1)))
    start = flow.init(KEY)
    assert list(flow.invariants(start)) == ["classifier_sum"]
    final = euler(flow, start, 1.0, 100)
    np.testing.assert_allclose(
        jnp.sum(final.classifier, axis=0), jnp.sum(start.classifier, axis=0), atol=1e-9
    )
    assert SignFlow(flow.problem).invariants(start) == {}
    assert SpectralFlow(nc.zhu(3, 4, 2, 1e-3)).invariants(start) == {}


def test_samples_with_several_labels_and_real_targets_have_both_flows():
    targets = nc.problems.label_sets([(0,), (1, 2), (2,), (0, 1)], 3)
    for loss in (nc.losses.PickAllLabels(), nc.losses.HalfSquaredDistance()):
        problem = FreeFeatures(targets, 4, loss=loss)
        start = problem.init(KEY, 0.1)
        for kind, direction in ((SignFlow, np.sign), (SpectralFlow, polar)):
            found, descent = velocity(kind(problem), start), velocity(problem, start)
            for leaf, expected in zip(*map(jax.tree.leaves, (found, descent)), strict=True):
                np.testing.assert_allclose(leaf, direction(np.asarray(expected)), atol=1e-9)


def test_adaptive_steps_need_a_smallest_step():
    start, times = PROBLEM.init(KEY, 0.1), np.array([0.5])
    with pytest.raises(ValueError, match=r"of SignFlow jumps.*=diffrax.StepTo") as refused:
        nc.gradient_flow(SignFlow(PROBLEM), start, times, clock=nc.RealTime())
    assert "\n" not in str(refused.value)
    flow = nc.Flow(
        SignFlow(PROBLEM), times, clock=nc.RealTime(), min_step=2e-3, rtol=1e-3, atol=1e-3,
        observe=("objective",),
    )  # fmt: skip
    by_fixed_steps = euler(SignFlow(PROBLEM), start, 0.5, 1000)
    objective = PROBLEM.objective(by_fixed_steps)
    np.testing.assert_allclose(flow(start).observables["objective"][-1], objective, rtol=0.05)
