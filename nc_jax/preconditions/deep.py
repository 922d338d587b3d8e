"""Preconditions of theorems on deep linear nets over free features."""

from ..checks import is_traced
from ..problems import DeepUnconstrainedFeatures, is_deep_linear
from ..problems.deep.decay import is_absent
from .free import check_cross_entropy_loss, check_squared_error, class_size


def check_deep_homogeneous(problem: DeepUnconstrainedFeatures) -> None:
    """Require a deep linear net with cross-entropy and without decay of any factor."""
    check_deep_linear(problem)
    if not problem.loss.is_cross_entropy:
        raise ValueError(
            f"problem has {problem.loss}: the limits in direction are those of CrossEntropy()."
        )
    _check_undecayed(problem)


def check_deep_linear(problem: object) -> None:
    """Require a deep model without an activation, and formulas that no subclass replaces."""
    if not is_deep_linear(problem):
        raise ValueError(
            f"problem is of type {type(problem).__name__}: give an "
            "nc_jax.DeepUnconstrainedFeatures(...) without an activation."
        )


def check_deep_square(problem: DeepUnconstrainedFeatures) -> None:
    """Require a deep linear model with squared error, and a decay of every factor."""
    check_deep_linear(problem)
    check_squared_error(problem)
    _check_deep_decays(problem)


def check_deep_simplex(problem: DeepUnconstrainedFeatures) -> int:
    """Require balanced cross-entropy, widths >= K−1 and a decay of every factor; return n."""
    size = check_deep_ray(problem)
    _check_deep_decays(problem)
    return size


def check_deep_ray(problem: DeepUnconstrainedFeatures) -> int:
    """Require a deep linear model with balanced cross-entropy and widths >= K−1; return n."""
    check_deep_linear(problem)
    check_cross_entropy_loss(problem)
    size = class_size(problem)
    if min(problem.widths) < problem.num_classes - 1:
        raise ValueError(
            f"widths = {problem.widths}: a simplex of {problem.num_classes} classes needs at least "
            f"{problem.num_classes - 1} dimensions in every layer."
        )
    return size


def check_undecayed_deep_ray(problem: DeepUnconstrainedFeatures) -> int:
    """Require what `check_deep_ray` does, and no decay; return n."""
    size = check_deep_ray(problem)
    _check_undecayed(problem)
    return size


def check_equal_decays(problem: DeepUnconstrainedFeatures) -> None:
    """Require one λ for all factors, whose balance the flow then preserves."""
    if not problem.has_one_decay:
        raise ValueError(
            f"weight_decay = {problem.weight_decay}: this needs one number for all factors, whose "
            "balance the flow then preserves."
        )


def _check_undecayed(problem: DeepUnconstrainedFeatures) -> None:
    """Require λ that are known to be 0, as `is_absent` says."""
    for i, rate in enumerate(problem.weight_decay):
        if not is_absent(rate):
            raise ValueError(
                f"weight_decay[{i}] = {rate}: this is known without decay of any factor; give 0.0."
            )


def _check_deep_decays(problem: DeepUnconstrainedFeatures) -> None:
    for i, rate in enumerate(problem.weight_decay):
        # A traced λ has no value to check; the formulas give NaN or 0 where it is not positive.
        if not is_traced(rate) and not rate > 0:
            raise ValueError(
                f"weight_decay[{i}] = {rate}: give numbers > 0, since without decay of a factor "
                "there is no minimum of finite size."
            )
