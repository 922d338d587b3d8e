"""Agreement with the losses and autograd of PyTorch, where PyTorch is installed."""

import importlib

import jax
import numpy as np
import pytest
from tolerances import rounding

import nc_jax as nc

torch = pytest.importorskip("torch")
peer = importlib.import_module("peers.torch_objective")


@pytest.mark.parametrize(
    ("loss", "reduction"),
    [(nc.CrossEntropy(), "mean"), (nc.CrossEntropy(), "sum"), (nc.SquaredError(), "sum")],
)
def test_loss_and_gradient_are_those_of_torch(loss, reduction):
    problem = nc.UnconstrainedFeatures((1, 3, 2), 4, loss=loss, reduction=reduction, bias=True)
    state = problem.init(jax.random.key(0), norm=3.0)
    h, w, b = (torch.tensor(np.array(leaf), requires_grad=True) for leaf in jax.tree.leaves(state))
    labels = torch.tensor(problem.labels, dtype=torch.long)
    name = "cross-entropy" if isinstance(loss, nc.CrossEntropy) else "squared error"
    objective = peer.objective(h, w, b, labels, loss=name, reduction=reduction)
    objective.backward()
    value, gradient = jax.jit(lambda s: (problem.objective(s), problem.gradient(s)))(state)
    np.testing.assert_allclose(value, objective.item(), rtol=rounding())
    for ours, theirs in zip(jax.tree.leaves(gradient), (h, w, b), strict=True):
        np.testing.assert_allclose(ours, theirs.grad.numpy(), atol=rounding())
