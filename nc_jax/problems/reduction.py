"""The sum or the mean over samples, s Σ ℓ."""

from ..checks import shown
from ..errors import ArgumentError


def check_reduction(reduction: object) -> None:
    """Raise ValueError unless the reduction is "mean" or "sum"."""
    if not isinstance(reduction, str) or reduction not in ("mean", "sum"):
        raise ArgumentError(f"reduction = {shown(reduction)}: give 'mean' or 'sum'.", "reduction")


def loss_scale_of(reduction: str, num_samples: int) -> float:
    """s: 1/N for the mean, 1 for the sum."""
    return 1 / num_samples if reduction == "mean" else 1.0
