"""Invariants and cost of models whose classes have different numbers of samples."""

import collections
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from tolerances import integration, rounding

import nc_jax as nc

RTOL = 1e-8


class SmoothHinge(nc.losses.Loss):
    """Σ_c softplus(1 + z_c − z_y): a loss of differences of logits, not of probabilities."""

    shift_invariant = True

    def value(self, logits, labels):
        rows = jnp.arange(logits.shape[0])
        return jnp.sum(jax.nn.softplus(1 + logits - logits[rows, labels][:, None]), axis=1)


class Quartic(nc.losses.Loss):
    """Σ_c (z_c − y_c)⁴, which changes when one number is added to all logits."""

    def value(self, logits, labels):
        return jnp.sum((logits - jax.nn.one_hot(labels, logits.shape[1])) ** 4, axis=1)


LOSSES = [nc.CrossEntropy(), nc.SquaredError(), SmoothHinge(), Quartic()]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize(("dim", "decay"), [(1, 0.0), (2, 0.05), (5, 0.0)])
def test_flows_conserve_the_balance_and_the_sum_of_the_classifiers(loss, dim, decay):
    problem = nc.UnconstrainedFeatures(
        (7, 3, 1, 1), dim, loss=loss, reduction="sum",
        weight_decay=nc.WeightDecay(classifier=decay, features=decay),
    )  # fmt: skip
    state = problem.init(jax.random.key(dim), 2.0)
    names = {"balance", "classifier_sum"} if loss.shift_invariant else {"balance"}
    assert set(problem.invariants(state)) == names
    drifts = tuple(f"{name}_drift" for name in sorted(names))
    run = nc.gradient_flow(
        problem, state, np.array([0.5, 2.0]), rtol=RTOL, observe=("objective", *drifts)
    )
    assert run.observables["objective"][-1] < run.observables["objective"][0]
    moved = np.abs(ravel_pytree(run.final)[0] - ravel_pytree(state)[0]).max()
    assert moved > 0.1
    for name in drifts:
        assert run.observables[name].max() < integration(RTOL), name


@pytest.mark.parametrize("loss", LOSSES[1:], ids=lambda loss: type(loss).__name__)
def test_the_rates_of_change_cancel_at_random_states(loss):
    # (WᵀW − HᵀH)' = 0 and (1ᵀW)' = 0 from the gradient itself, not from a flow.
    problem = nc.UnconstrainedFeatures((7, 3, 1, 1), 3, loss=loss, reduction="mean")
    state = problem.init(jax.random.key(0), 2.0)
    slope = problem.gradient(state)
    across = slope.classifier.T @ state.classifier - slope.features.T @ state.features
    size = np.abs(slope.classifier.T @ state.classifier).max()
    assert np.abs(across + across.T).max() < rounding() * size
    if loss.shift_invariant:
        assert np.abs(slope.classifier.sum(axis=0)).max() < rounding() * size


def operations(sizes):
    """Operations of the field with their shapes, from the input of the compiler."""
    problem = nc.UnconstrainedFeatures(sizes, 10, reduction="sum")
    state = problem.init(jax.random.key(0))
    text = jax.jit(problem.scaled_descent).lower(state, 0.0).as_text()
    return collections.Counter(re.findall(r"stablehlo\.\w+|tensor<[^>]*>", text))


def test_unequal_classes_cost_what_equal_ones_of_as_many_samples_do():
    assert operations((500, 50, 5, 5, 5)) == operations((113,) * 5)
