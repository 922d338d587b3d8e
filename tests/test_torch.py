"""Agreement with PyTorch's own loss and autograd, where PyTorch is installed."""

import jax
import numpy as np
import pytest
from tolerances import rounding

import nc_jax as nc

torch = pytest.importorskip("torch")


@pytest.mark.parametrize(
    ("loss", "reduction"),
    [(nc.CrossEntropy(), "mean"), (nc.CrossEntropy(), "sum"), (nc.SquaredError(), "sum")],
)
def test_loss_and_gradient_are_those_of_torch(loss, reduction):
    problem = nc.UnconstrainedFeatures((1, 3, 2), 4, loss, reduction, bias=True)
    state = problem.init(jax.random.key(0), norm=3.0)
    h, w, b = (torch.tensor(np.array(leaf), requires_grad=True) for leaf in jax.tree.leaves(state))
    labels = torch.tensor(problem.labels, dtype=torch.long)
    scores = h @ w.T + b
    if isinstance(loss, nc.CrossEntropy):
        objective = torch.nn.functional.cross_entropy(scores, labels, reduction=reduction)
    else:
        one_hot = torch.nn.functional.one_hot(labels, 3).double()
        objective = torch.nn.functional.mse_loss(scores, one_hot, reduction="sum") / 2
    objective.backward()
    value, gradient = jax.jit(lambda s: (problem.objective(s), problem.gradient(s)))(state)
    np.testing.assert_allclose(value, objective.item(), rtol=rounding())
    for ours, theirs in zip(jax.tree.leaves(gradient), (h, w, b), strict=True):
        np.testing.assert_allclose(ours, theirs.grad.numpy(), atol=rounding())
