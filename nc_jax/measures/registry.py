"""The table of all measures: name, equation, source, what a measure needs, and its formula."""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType

from .statistics import Array, Statistics

SUMS: Mapping[str, str] = MappingProxyType(
    {
        "within": "Σ ‖h_i − μ_c‖, (K,), in a second pass",
        "around_global": "Σ ‖h_i − μ_G‖, (K,), in a second pass",
        "whitened": "Σ ‖Σ_B^{+½}(h_i − μ_c)‖², (K,), in a second pass",
        "whitened_by_samples": (
            "as `whitened`, with Σ_B around the mean of all samples, (K,), in a second pass"
        ),
        "center_errors": "samples whose nearest class mean is not their class, (K,), second pass",
        "mismatches": (
            "samples whose nearest class mean and largest logit name different classes, (K,), "
            "in a second pass, with a classifier"
        ),
        "covariance": "Σ_i (h_i − μ_{y_i})(h_i − μ_{y_i})ᵀ, (d, d), in the first pass",
        "correct": "samples whose largest logit is that of their class, (K,), with a classifier",
        "cross_entropy": "Σ −log p_{i,y_i}, (K,), with a classifier",
        "squared_error": "Σ ‖z_i − e_{y_i}‖²/2, (K,), with a classifier",
        "margin": "Σ (z_{i,y_i} − max_{j≠y_i} z_ij), (K,), with a classifier",
        "margin_min": "min (z_{i,y_i} − max_{j≠y_i} z_ij), (K,), with a classifier",
        "cosine_margin": "as `margin`, with cos(w_j, h_i) for z_ij, (K,), with a classifier",
        "cosine_margin_min": (
            "as `margin_min`, with cos(w_j, h_i) for z_ij, (K,), with a classifier"
        ),
        "centered_cosine_margin": (
            "as `margin`, with cos(w_j − mean w, h_i − μ_G) for z_ij, (K,), in a second pass, with "
            "a classifier"
        ),
        "centered_cosine_margin_min": (
            "as `margin_min`, with cos(w_j − mean w, h_i − μ_G) for z_ij, (K,), in a second pass, "
            "with a classifier"
        ),
    }
)
"""Sums over samples that a measure may need beside counts, means and scatters of the classes."""


@dataclasses.dataclass(frozen=True)
class Measure:
    """One measure of collapse: a named function of the statistics of features.

    Attributes:
        name: key of the result.
        equation: the formula and its source in one line.
        compute: the formula, a function of `Statistics`.
        needs: keys of `SUMS`, "classifier", or "balanced" for a measure of classes of one size.
        dims: axes of the value: (), ("class",) or ("class", "other_class").
        default: whether `metrics.measure` computes it where no names are given.

    Example: a measure that a user defines; `metrics.measure` takes it among its names.

        >>> from nc_jax.measures import Measure
        >>> size = Measure("mean_norm", "mean_c ‖M_c‖", lambda s: s.norms[0].mean())
        >>> size.needs, size.dims
        ((), ())
    """

    name: str
    equation: str
    compute: Callable[[Statistics], Array]
    needs: tuple[str, ...] = ()
    dims: tuple[str, ...] = ()
    default: bool = True


_registered: dict[str, Measure] = {}
MEASURES: Mapping[str, Measure] = MappingProxyType(_registered)
"""Every measure of a last layer by its name.

Example:
    >>> nc.metrics.MEASURES["zhu_nc2"].equation
    '‖WWᵀ/‖WWᵀ‖_F − E‖_F (Zhu, section 4)'
"""


def measure_of(
    equation: str,
    *,
    needs: tuple[str, ...] = (),
    dims: tuple[str, ...] = (),
    default: bool = True,
) -> Callable[[Callable[[Statistics], Array]], Callable[[Statistics], Array]]:
    """Decorator that enters a function of `Statistics` into `MEASURES` under its name.

    The arguments are attributes of `Measure`.
    """

    def enter(function: Callable[[Statistics], Array]) -> Callable[[Statistics], Array]:
        name = function.__name__
        _registered[name] = Measure(name, equation, function, needs, dims, default)
        return function

    return enter
