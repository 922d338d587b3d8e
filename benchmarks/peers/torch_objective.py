"""Objectives of unconstrained-features models in PyTorch, whose autograd gives the gradient."""

from typing import Any, Literal

import torch
from torch.nn import functional


def objective(
    features: torch.Tensor,
    classifier: torch.Tensor,
    bias: torch.Tensor | None,
    labels: torch.Tensor,
    *,
    loss: Literal["cross-entropy", "squared error"] = "cross-entropy",
    reduction: Literal["mean", "sum"] = "mean",
    weight_decay: float = 0.0,
) -> Any:
    """Loss of the logits HWᵀ + b, and λ/2 (‖H‖² + ‖W‖² + ‖b‖²)."""
    logits = features @ classifier.T
    if bias is not None:
        logits = logits + bias
    if loss == "cross-entropy":
        value = functional.cross_entropy(logits, labels, reduction=reduction)
    else:
        one_hot = functional.one_hot(labels, len(classifier)).to(logits.dtype)
        value = functional.mse_loss(logits, one_hot, reduction="sum") / 2
        value = value / len(features) if reduction == "mean" else value
    # Without decay no penalty is computed, since the training loop that is timed has none.
    if weight_decay == 0.0:
        return value
    penalty = sum((leaf**2).sum() for leaf in (features, classifier, bias) if leaf is not None)
    return value + weight_decay / 2 * penalty
