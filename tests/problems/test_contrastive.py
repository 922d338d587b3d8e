"""The supervised contrastive loss of features on the sphere: its gradient, flow and constraints."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
from tolerances import integration, rounding

import nc_jax as nc
from nc_jax.geometry import tangent_to_rows
from nc_jax.problems import ContrastiveFeatures

KEY = jax.random.key(5)
SIZES = [(2, 2), (3, 5, 2), (4, 4, 4, 2)]


@pytest.mark.parametrize("sizes", SIZES)
def test_the_loss_is_that_of_its_definition(sizes):
    problem = ContrastiveFeatures(sizes, 4, temperature=0.4)
    state, labels = problem.init(KEY), problem.labels
    rows = np.asarray(state)
    total = 0.0
    for i, label in enumerate(labels):
        others = [a for a in range(len(labels)) if a != i]
        scores = {a: float(rows[i] @ rows[a]) / 0.4 for a in others}
        log_sum = np.log(sum(np.exp(score) for score in scores.values()))
        positives = [a for a in others if labels[a] == label]
        total -= sum(scores[p] - log_sum for p in positives) / len(positives)
    np.testing.assert_allclose(problem.objective(state), total / len(labels), rtol=rounding())


def test_the_loss_is_that_of_an_implementation_in_pytorch():
    torch = pytest.importorskip("torch")
    problem = ContrastiveFeatures((3, 4, 2), 5, temperature=0.2)
    rows = problem.init(KEY)
    features = torch.tensor(np.asarray(rows), requires_grad=True)
    labels = torch.tensor(problem.labels)
    # As in the code of Khosla et al.: the mean over positives of log-probabilities.
    logits = features @ features.T / 0.2
    self_mask = 1 - torch.eye(len(labels), dtype=torch.float64)
    positives = (labels[:, None] == labels[None]).double() * self_mask
    logits = logits - logits.max(dim=1, keepdim=True).values.detach()
    log_prob = logits - torch.log((torch.exp(logits) * self_mask).sum(1, keepdim=True))
    loss = -((positives * log_prob).sum(1) / positives.sum(1)).mean()
    loss.backward()
    np.testing.assert_allclose(problem.objective(rows), loss.item(), rtol=rounding())
    assert features.grad is not None
    tangent = tangent_to_rows(rows, jnp.asarray(features.grad.numpy()))
    np.testing.assert_allclose(problem.gradient(rows), tangent, atol=rounding())


@pytest.mark.parametrize("sizes", SIZES)
def test_the_velocity_is_the_tangent_part_of_the_gradient(sizes):
    problem = ContrastiveFeatures(sizes, 4, temperature=0.4)
    rows = problem.init(KEY)
    tangent = tangent_to_rows(rows, jax.jit(jax.grad(problem.objective))(rows))
    np.testing.assert_allclose(jax.jit(problem.gradient)(rows), tangent, atol=rounding())
    scaled = jax.jit(problem.scaled_descent)(rows, np.log(3.0))
    np.testing.assert_allclose(scaled, -3 * tangent, atol=rounding())
    assert jnp.abs(jnp.sum(scaled * rows, axis=1)).max() < rounding()
    assert not problem.is_gradient_flow


def test_the_velocity_at_the_boundary_is_the_projection_onto_the_tangent_cone():
    """The projection minimises the distance to −∇L over v_i·h_i = 0, v_ij >= 0 where h_ij = 0."""
    problem = ContrastiveFeatures((3, 2), 4, temperature=0.4, nonnegative=True)
    rows = problem.retract(problem.init(KEY) - 0.3)
    assert (rows == 0).sum() > 3
    descent = -np.asarray(jax.jit(jax.grad(problem.objective))(rows))
    velocity = np.asarray(jax.jit(problem.scaled_descent)(rows, 0.0))
    for row, wanted, found in zip(np.asarray(rows), descent, velocity, strict=True):
        nearest = scipy.optimize.minimize(
            lambda v, wanted=wanted: np.sum((v - wanted) ** 2) / 2, np.zeros(4),
            jac=lambda v, wanted=wanted: v - wanted, method="SLSQP",
            bounds=[(0 if entry == 0 else None, None) for entry in row],
            constraints={"type": "eq", "fun": lambda v, row=row: v @ row},
            options={"ftol": 1e-15},
        )  # fmt: skip
        np.testing.assert_allclose(found, nearest.x, atol=1e-7)


def test_features_that_are_not_negative_have_local_minima_with_merged_classes():
    """Class 0 has two coordinates, so that classes 1 and 2 share the third (derived).

    Every motion of first order within the constraints raises the loss, or is a rotation of class 0.
    """
    problem = ContrastiveFeatures((6, 3, 2), 3, temperature=0.5, nonnegative=True)
    least = float(nc.exact.contrastive_minimum(problem))
    vectors = jnp.array([[0.0, 0.6, 0.8], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    state = vectors[problem.labels]
    value = float(problem.objective(state))
    assert value > least + 0.2
    assert jnp.abs(problem.scaled_descent(state, 0.0)).max() < rounding()
    # The loss rises along every coordinate that is 0: a strict minimum in these directions.
    slopes = tangent_to_rows(state, jax.jit(jax.grad(problem.objective))(state))
    assert jnp.min(jnp.where(state == 0, slopes, 1)) > 1e-3
    # Flows from points near it return to its value.
    flow = nc.Flow(
        problem, np.array([100.0]), clock=nc.RealTime(), rtol=1e-6, observe=("objective",),
        min_step=1e-3,
    )  # fmt: skip
    noise = 0.03 * jnp.abs(jax.random.normal(KEY, state.shape))
    run = flow(problem.retract(state + noise))
    assert abs(run.observables["objective"][0] - value) < 1e-4


def test_starts_and_retractions_fulfil_the_constraints():
    for nonnegative in (False, True):
        problem = ContrastiveFeatures((3, 2), 4, temperature=0.4, nonnegative=nonnegative)
        for rows in (problem.init(KEY), problem.retract(2 + jax.random.normal(KEY, (5, 4)))):
            np.testing.assert_allclose(jnp.linalg.norm(rows, axis=1), 1, rtol=rounding())
            assert not nonnegative or jnp.min(rows) >= 0
        single = problem.init(KEY, dtype="float32")
        assert single.dtype == problem.scaled_descent(single, 1.0).dtype == np.float32
        assert problem.objective(single).dtype == np.float32


def test_the_flow_is_that_of_scipy_and_stays_on_the_spheres():
    problem = ContrastiveFeatures((3, 2), 3, temperature=0.5)
    start = problem.init(KEY)
    field = jax.jit(lambda flat: problem.vector_field(0.0, flat.reshape(5, 3), None).ravel())
    reference = scipy.integrate.solve_ivp(
        lambda t, flat: np.asarray(field(flat)), (0, 5), np.asarray(start).ravel(),
        method="DOP853", rtol=1e-12, atol=1e-13,
    )  # fmt: skip
    flow = nc.Flow(problem, np.array([5.0]), clock=nc.RealTime(), rtol=1e-10, atol=1e-11)
    run = flow(start)
    np.testing.assert_allclose(run.final, reference.y[:, -1].reshape(5, 3), atol=integration(1e-10))
    assert run.observables["row_norms_drift"][-1] < integration(1e-10)
    # The same times in the clock of log t, which a short run allows too.
    by_log = nc.Flow(problem, np.log1p([5.0]), rtol=1e-10, atol=1e-11, observe=("objective",))
    np.testing.assert_allclose(by_log(start).final, run.final, atol=integration(1e-10))
