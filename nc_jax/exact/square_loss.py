"""The collapsed minimum of the square loss with weight decay (Rangamani, theorems 3 and 11).

The geometries describe a last layer under ½ Σ ‖z − y‖² + λ/2 ‖W‖_F², summed over samples. For
`UnconstrainedFeatures` with the square loss λ is λ_W/s, which is Nλ_W for the mean loss. C classes
with N samples each are the paper's symbols; ε is the gap 1 − output at the true class.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, DTypeLike, Float, Key

from ..checks import check_integer, check_number, is_traced
from ..geometry import simplex_etf
from ..precision import widened
from ..preconditions import check_decayed_squared_error
from ..problems import UnconstrainedFeatures
from ..state import LastLayer
from .powers import power_or_zero


class SimplexGeometry(NamedTuple):
    """Last layer at a quasi-interpolating critical point (Rangamani, theorem 3).

    Attributes:
        classifier_over_means: factor in W^c = factor · (μ_c − μ_G) (eq. 33).
        squared_norm: ‖W^c‖² of a row (eq. 34).
        inner_product: ⟨W^c, W^c'⟩ of two rows (eq. 36).
        cosine: of two rows.
        margin: output at the true class minus the output at any other.
        mean_output: ⟨W^c, μ_G⟩ + b_c (eq. 35).

    Example: of C = 2 classes the rows are opposite.

        >>> geometry = nc.exact.simplex_geometry(0.25, 0.5, num_classes=2, samples_per_class=4)
        >>> float(geometry.squared_norm), float(geometry.inner_product)
        (1.0, -1.0)
    """

    classifier_over_means: Float[Array, ""]
    squared_norm: Float[Array, ""]
    inner_product: Float[Array, ""]
    cosine: float
    margin: Float[Array, ""]
    mean_output: float


class NormalizedGeometry(NamedTuple):
    """Last layer W = ρV, ‖V‖_F = 1, at a quasi-interpolating critical point (theorem 11).

    Attributes:
        direction_over_means: factor in V^c = factor · (μ_c − μ_G) (eq. 76).
        squared_norm: ‖V^c‖² of a row (eq. 77).
        inner_product: ⟨V^c, V^c'⟩ of two rows (eq. 79).
        mean_output: ⟨V^c, μ_G⟩ + b_c/ρ (eq. 78).
        equilibrium_decay: the λ for which ρ' = 0.

    Example: of C = 2 classes the rows are opposite, with squared norms 1/2.

        >>> geometry = nc.exact.normalized_geometry(0.25, 2.0, num_classes=2, samples_per_class=4)
        >>> geometry.squared_norm, geometry.inner_product
        (0.5, -0.5)
    """

    direction_over_means: Float[Array, ""]
    squared_norm: float
    inner_product: float
    mean_output: Float[Array, ""]
    equilibrium_decay: Float[Array, ""]


class OrthogonalGeometry(NamedTuple):
    """Last layer at a collapsed critical point without a bias.

    Attributes:
        classifier_over_means: factor in W^c = factor · μ_c, the means not centred.
        squared_norm: ‖W^c‖² of a row.
        cosine: of two rows, and of two means.
        centered_cosine: of two means minus the global mean.
        margin: output at the true class minus the output at any other, which is 0.
        self_duality: ‖W/‖W‖_F − M/‖M‖_F‖_F with M the centred means (NC3).

    Example: the orthogonal frame is not self-dual, and its distance is largest for 2 classes.

        >>> frame = nc.exact.orthogonal_geometry(0.25, 0.5, num_classes=2, samples_per_class=4)
        >>> round(frame.self_duality, 6)
        0.765367
    """

    classifier_over_means: Float[Array, ""]
    squared_norm: Float[Array, ""]
    cosine: float
    centered_cosine: float
    margin: Float[Array, ""]
    self_duality: float


def simplex_geometry(
    gap: Float[ArrayLike, ""],
    decay: Float[ArrayLike, ""],
    num_classes: int,
    samples_per_class: int,
) -> SimplexGeometry:
    """Last layer at a critical point with outputs 1 − ε and ε/(C−1) (theorem 3, eqs. 33 to 36).

    λW^c = Σ_n (y_n^c − f_n^c) h_n gives W^c = CNε/(λ(C−1)) (μ_c − μ_G). The rows sum to zero, so
    that the outputs sum to Σ_c b_c, while assumption 1 has the sum 1: such a point exists with a
    free bias, b = 1/C, or with targets and outputs minus 1/C, and does not exist otherwise.

    Args: `gap` ε; `decay` λ of λ/2 ‖W‖², next to ½ Σ ‖z − y‖²; `samples_per_class` N.

    Raises: ValueError for ε outside (0, (C−1)/C), λ that is not positive, or C < 2.

    Example:

        >>> geometry = nc.exact.simplex_geometry(0.25, 0.5, num_classes=3, samples_per_class=4)
        >>> geometry.cosine, float(geometry.margin), float(geometry.squared_norm)
        (-0.5, 0.625, 1.25)
    """
    check_number("decay", decay, above_zero=True)
    check_integer("samples_per_class", samples_per_class)
    gap, margin = _simplex_margin(gap, num_classes)
    decay = jnp.asarray(decay, gap.dtype)
    squared = samples_per_class / decay * gap * margin
    return SimplexGeometry(
        classifier_over_means=num_classes * samples_per_class * gap / (decay * (num_classes - 1)),
        squared_norm=squared,
        inner_product=-squared / (num_classes - 1),
        cosine=-1 / (num_classes - 1),
        margin=margin,
        mean_output=1 / num_classes,
    )


def normalized_geometry(
    gap: Float[ArrayLike, ""],
    norm: Float[ArrayLike, ""],
    num_classes: int,
    samples_per_class: int,
) -> NormalizedGeometry:
    """Last layer W = ρV, ‖V‖_F = 1, at a critical point (theorem 11, eqs. 76 to 79).

    V^c = ρ/((C−1)(1 − Cε/(C−1))) (μ_c − μ_G), and ρ' = 0 relates ε to the decay by
    ε(1 − Cε/(C−1)) = λρ²/(CN). A bias or centred targets are needed as in `simplex_geometry`.

    Args: `gap` ε; `norm` ρ; `samples_per_class` N.

    Raises: ValueError for ε outside (0, (C−1)/C), ρ that is not positive, or C < 2.

    Example:

        >>> geometry = nc.exact.normalized_geometry(0.25, 2.0, num_classes=3, samples_per_class=4)
        >>> round(geometry.squared_norm, 6), float(geometry.equilibrium_decay)
        (0.333333, 0.46875)
    """
    check_number("norm", norm, above_zero=True)
    check_integer("samples_per_class", samples_per_class)
    gap, margin = _simplex_margin(gap, num_classes)
    norm = jnp.asarray(norm, gap.dtype)
    return NormalizedGeometry(
        direction_over_means=norm / ((num_classes - 1) * margin),
        squared_norm=1 / num_classes,
        inner_product=-1 / (num_classes * (num_classes - 1)),
        mean_output=1 / (norm * num_classes),
        equilibrium_decay=num_classes * samples_per_class * gap * margin / norm**2,
    )


def orthogonal_geometry(
    gap: Float[ArrayLike, ""],
    decay: Float[ArrayLike, ""],
    num_classes: int,
    samples_per_class: int,
) -> OrthogonalGeometry:
    """Last layer at a critical point without a bias, with outputs 1 − ε and 0 (not printed).

    λW^c = Nεμ_c, since samples of other classes have no residual: rows and means are orthogonal,
    with ‖W^c‖² = Nε(1 − ε)/λ. The means minus the global mean are a simplex ETF, and W is not.

    Args: as in `simplex_geometry`.

    Raises: ValueError for ε outside (0, 1), λ that is not positive, or C < 2.

    Example:

        >>> geometry = nc.exact.orthogonal_geometry(0.25, 0.5, num_classes=3, samples_per_class=4)
        >>> geometry.cosine, geometry.centered_cosine, float(geometry.squared_norm)
        (0.0, -0.5, 1.5)
    """
    check_number("decay", decay, above_zero=True)
    check_integer("samples_per_class", samples_per_class)
    check_integer("num_classes", num_classes, least=2)
    gap = _checked_gap(gap, 1.0)
    decay = jnp.asarray(decay, gap.dtype)
    factor = samples_per_class / decay * gap
    return OrthogonalGeometry(
        classifier_over_means=factor,
        squared_norm=factor * (1 - gap),
        cosine=0.0,
        centered_cosine=-1 / (num_classes - 1),
        margin=1 - gap,
        self_duality=math.sqrt(2 - 2 * math.sqrt((num_classes - 1) / num_classes)),
    )


def square_loss_gap(problem: UnconstrainedFeatures) -> Float[Array, ""]:
    """ε = 1 − output at the true class, at the minimum of the square loss with weight decay.

    ε = τ without a bias and τ(K−1)/K with one, τ = √(λ_W λ_H/n)/s. For τ >= 1 the minimum is the
    origin, with the gap of τ = 1 (derived; the paper assumes such a point).

    Raises: ValueError for another loss, unbalanced classes, λ_W or λ_H that are 0, a penalised bias
    (or a λ_b given as an array), or d < K (d < K−1 with a bias).

    Example:

        >>> decay = nc.WeightDecay(classifier=0.5, features=0.5)
        >>> problem = nc.UnconstrainedFeatures(
        ...     (4, 4, 4), 4, loss=nc.SquaredError(), reduction="sum", weight_decay=decay
        ... )
        >>> float(nc.exact.square_loss_gap(problem))
        0.25
    """
    return _gap_at_minimum(problem, check_decayed_squared_error(problem))


def square_loss_minimizer(
    problem: UnconstrainedFeatures, *, key: Key[Array, ""] | None = None, dtype: DTypeLike = float
) -> LastLayer:
    """A global minimum of the square loss with weight decay (theorem 3, repaired).

    In Z = HWᵀ the loss is at least s/2 ‖Z + 1bᵀ − Y‖² + √(λ_W λ_H) ‖Z‖_*, whose minimum is Y with
    singular values lowered from √n to (1 − τ)√n, τ = √(λ_W λ_H/n)/s. Hence
    h_ki = √(λ_W/(λ_H n)) w_k, and the rows w_k are

    - with a free bias, b = 1/K: a simplex ETF with ‖w_k‖² = (1 − τ)(K−1)/K √(λ_H n/λ_W);
    - without a bias: an orthogonal frame with ‖w_k‖² = (1 − τ) √(λ_H n/λ_W), which violates
      assumption 1.

    For τ >= 1 W = H = 0.

    Args: `key` rotates the frame at random; `dtype` of the state.

    Raises: as `square_loss_gap`.

    Example:

        >>> decay = nc.WeightDecay(classifier=0.5, features=0.5)
        >>> problem = nc.UnconstrainedFeatures(
        ...     (4, 4, 4), 4, loss=nc.SquaredError(), reduction="sum", weight_decay=decay
        ... )
        >>> state = nc.exact.square_loss_minimizer(problem)
        >>> np.asarray(state.logits()[0]).round(6).tolist()  # 1 − ε at the label
        [0.75, 0.0, 0.0]
    """
    size = check_decayed_squared_error(problem)
    gap = jnp.asarray(_gap_at_minimum(problem, size), dtype)
    classes, dim, decay = problem.num_classes, problem.feature_dim, problem.weight_decay
    ratio = jnp.sqrt(jnp.asarray(decay.classifier / decay.features, dtype) / size)
    if problem.bias:
        frame, largest = simplex_etf(classes, dim, key=key, dtype=dtype), (classes - 1) / classes
    elif key is None:
        # Without a bias the targets are not centred, and the frame is orthogonal.
        frame, largest = jnp.eye(classes, dim, dtype=dtype), 1.0
    else:
        frame, largest = jax.random.orthogonal(key, dim, dtype=dtype)[:classes], 1.0
    # `largest` is the gap of the origin, where all outputs are equal or, without a bias, 0.
    classifier = power_or_zero((largest - gap) / ratio, 0.5) * frame
    bias = jnp.full(classes, 1 / classes, dtype) if problem.bias else None
    return LastLayer((ratio * classifier)[problem.labels], classifier, bias)


def _gap_at_minimum(problem: UnconstrainedFeatures, size: int) -> Float[Array, ""]:
    """`square_loss_gap` of a problem whose preconditions are checked."""
    decay, classes = problem.weight_decay, problem.num_classes
    threshold = jnp.sqrt(jnp.asarray(decay.classifier * decay.features) / size) / problem.loss_scale
    # For τ >= 1 all singular values of Z are lowered to zero, and the gap is largest.
    return jnp.minimum(threshold, 1) * ((classes - 1) / classes if problem.bias else 1.0)


def _simplex_margin(
    gap: Float[ArrayLike, ""], num_classes: int
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """ε, and the margin 1 − Cε/(C−1) of outputs 1 − ε and ε/(C−1)."""
    check_integer("num_classes", num_classes, least=2)
    gap = _checked_gap(gap, (num_classes - 1) / num_classes)
    return gap, 1 - num_classes / (num_classes - 1) * gap


def _checked_gap(gap: Float[ArrayLike, ""], below: float) -> Float[Array, ""]:
    """ε as an array; ValueError unless it is above 0 and below the bound."""
    check_number("gap", gap, scalar=True)
    # "Not between" in the place of "outside", so that a NaN is refused too.
    if not is_traced(gap) and not 0 < float(np.asarray(gap)) < below:
        raise ValueError(f"gap = {gap}: give a number above 0 and below {below:.6g}.")
    return widened(gap)
