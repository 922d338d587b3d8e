"""Closed forms of Rangamani's square-loss theory: the norm, the margins, the collapsed minimum.

Norms and margins are of `NormalizedReLUNet`, whose loss s Σ ‖ρf − y‖² + λρ² has no ½. The collapsed
geometries are of a last layer under ½ Σ ‖z − y‖² + λ/2 ‖W‖_F², summed over samples: those of
`UnconstrainedFeatures` with the square loss, where λ is λ_W/s (Nλ_W for the mean loss).
"""

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, DTypeLike, Float, Key, Real

from ..checks import check_arrays, check_integer, check_kind, check_number, is_traced
from ..geometry import simplex_etf
from ..losses import SquaredError, has_formulas_of
from ..precision import matmul, widened
from ..problems import Layers, UnconstrainedFeatures, check_unconstrained
from ..state import LastLayer
from .ulpm import class_size

# Nodes of the tanh-sinh rule on (0, 1), whose error is under rounding for what is integrated here.
_SPACING = 1 / 16
_GRID = _SPACING * np.arange(-56, 57)
_NODES = 1 / (1 + np.exp(-np.pi * np.sinh(_GRID)))
_NODE_WEIGHTS = _SPACING * np.pi * np.cosh(_GRID) * _NODES * _NODES[::-1]


class StuckMargins(NamedTuple):
    """The minimum over ρ where some samples are stuck at a margin (Rangamani, lemma 2).

    Attributes:
        norm: ρ.
        objective: L there.
        gap: 1 − ρ/ρ₀, by which the outputs of the stuck samples miss their targets.
        margin_difference: 1/ρ − 1/ρ₀, by which the margins of the others are larger.
    """

    norm: Float[Array, ""]
    objective: Float[Array, ""]
    gap: Float[Array, ""]
    margin_difference: Float[Array, ""]


class SimplexGeometry(NamedTuple):
    """Last layer at a quasi-interpolating critical point (Rangamani, theorem 3).

    Attributes:
        classifier_over_means: factor in W^c = factor · (μ_c − μ_G) (eq. 33).
        squared_norm: ‖W^c‖² of a row (eq. 34).
        inner_product: ⟨W^c, W^c'⟩ of two rows (eq. 36).
        cosine: of two rows.
        margin: output at the true class minus that at any other.
        mean_output: ⟨W^c, μ_G⟩ + b_c (eq. 35).
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
        centered_cosine: of two means less the global mean.
        margin: output at the true class minus that at any other, which is 0.
        self_duality: ‖W/‖W‖_F − M/‖M‖_F‖_F with M the centred means (NC3).
    """

    classifier_over_means: Float[Array, ""]
    squared_norm: Float[Array, ""]
    cosine: float
    centered_cosine: float
    margin: Float[Array, ""]
    self_duality: float


def logistic_norm(
    time: Real[ArrayLike, "*times"],
    start: Float[ArrayLike, ""],
    alignment: Float[ArrayLike, ""],
    second_moment: Float[ArrayLike, ""],
) -> Float[Array, "*times"]:
    """ρ(t) of two unnormalised layers of equal norm whose margins stand still (eq. 51, L = 2).

    ρ' = 4ρ(A − Bρ) is logistic: ρ = (A/B)/(1 + ((A/B)/ρ₀ − 1)e^(−4At)). This is for the summed
    loss; for the mean loss t counts 1/N as much.

    Args: `time` t >= 0 of any shape; `start` ρ₀ > 0; `alignment` A = Σ f̄_n > 0; `second_moment`
    B = Σ f̄_n² > 0.

    Raises: ValueError for a negative time, or for another argument that is not positive.

    Example: `logistic_norm(jnp.linspace(0, 5, 51), 0.01, 2.0, 1.5)`.
    """
    check_number("time", time)
    _check_growth(start, alignment, second_moment)
    time = widened(time)
    start, alignment, second_moment = _as(time, start, alignment, second_moment)
    passed = 4 * alignment * time
    # Divided through by e^(4At), nothing overflows.
    return start / (jnp.exp(-passed) - start * second_moment / alignment * jnp.expm1(-passed))


def norm_time(
    norm: Real[ArrayLike, "*norms"],
    start: Float[ArrayLike, ""],
    alignment: Float[ArrayLike, ""],
    second_moment: Float[ArrayLike, ""],
    num_layers: int,
) -> Float[Array, "*norms"]:
    """Time at which ρ' = 2Lρ^(2−2/L)(A − Bρ) of any number of layers reaches ρ (eq. 51).

    With u = ρ^(1/L), R = (A/B)^(1/L), v = u/R and the L-th roots of unity ω,
    2At = (u₀^(2−L) − u^(2−L))/(L−2) − R^(2−L)/L [Re Σ_ω ω² log(1 − v/ω)] from v₀ to v, because
    A/(u^(L−1)(A − Bu^L)) = u^(1−L) + Bu/(A − Bu^L). The first term is log(u/u₀) for L = 2, and
    absent for L = 1. Far above A/B both cancel, to a share A/(Bρ). Times as in `logistic_norm`.

    Args: `norm` ρ > 0 of any shape, on the side of A/B where ρ₀ is: ∞ at A/B, NaN beyond, negative
    where the norm was before the start. Others as in `logistic_norm`.

    Raises: ValueError for an argument that is not positive, or fewer than 1 layer.

    Example: `norm_time(jnp.array([0.1, 1.0]), 0.01, 2.0, 1.5, num_layers=3)`.
    """
    check_number("norm", norm, above_zero=True)
    _check_growth(start, alignment, second_moment)
    check_integer("num_layers", num_layers)
    norm = widened(norm)
    start, alignment, second_moment = _as(norm, start, alignment, second_moment)
    values = norm, start, alignment / second_moment
    u, u0, limit = (value ** (1 / num_layers) for value in values)
    if num_layers == 1:
        rise = jnp.zeros_like(u)
    elif num_layers == 2:
        rise = jnp.log(u / u0)
    else:
        rise = (u0 ** (2 - num_layers) - u ** (2 - num_layers)) / (num_layers - 2)
    # ω = 1 by the ratio of both ends, which is negative, and its logarithm NaN, across the limit.
    logs = jnp.log((limit - u) / (limit - u0))
    logs += _complex_roots(u / limit, num_layers) - _complex_roots(u0 / limit, num_layers)
    return (rise - limit ** (2 - num_layers) / num_layers * logs) / (2 * alignment)


def normalized_norm(
    time: Real[ArrayLike, "*times"],
    start: Float[ArrayLike, ""],
    mean_margin: Float[ArrayLike, ""],
    second_moment: Float[ArrayLike, ""],
    decay: Float[ArrayLike, ""],
) -> Float[Array, "*times"]:
    """ρ(t) of normalised layers whose margins stand still: that of eq. 8, which is linear.

    ρ' = 2(μ − ρ(M + λ)) gives ρ = ρ_eq + (ρ₀ − ρ_eq)e^(−2(M+λ)t) with ρ_eq = μ/(M + λ) (eq. 11).
    This is for the mean loss; for the sum give Nμ and NM.

    Args: `time` t >= 0 of any shape; `start` ρ₀; `mean_margin` μ = (1/N) Σ f̄_n, of any sign;
    `second_moment` M = (1/N) Σ f̄_n² > 0; `decay` λ.

    Raises: ValueError for M that is not positive, or another argument but μ that is negative.

    Example: `normalized_norm(jnp.linspace(0, 5, 51), 0.1, 1.0, 1.0, 0.01)`, an aligned net.
    """
    for name, value in (("time", time), ("start", start), ("decay", decay)):
        check_number(name, value)
    check_number("mean_margin", mean_margin, signed=True)
    check_number("second_moment", second_moment, above_zero=True)
    time = widened(time)
    start, mean_margin, rate = _as(time, start, mean_margin, second_moment + decay)
    return mean_margin / rate + (start - mean_margin / rate) * jnp.exp(-2 * rate * time)


def stuck_margins(
    smallest_norm: Float[ArrayLike, ""],
    decay: Float[ArrayLike, ""],
    num_samples: int,
    num_stuck: int,
    reduction: Literal["mean", "sum"] = "mean",
) -> StuckMargins:
    """The least loss over ρ where M samples keep f̄ = 1/ρ₀ and the others interpolate (lemma 2).

    Of L = s Σ (1 − ρf̄)² + λρ² only M terms (1 − ρ/ρ₀)² are left, so that with λ_e = λ/s
    ρ = ρ₀/(1 + λ_e ρ₀²/M), L = λρ₀²/(1 + λ_e ρ₀²/M) (eqs. 42, 43), 1 − ρ/ρ₀ = λ_e ρ₀²/(M + λ_e ρ₀²)
    and 1/ρ − 1/ρ₀ = λ_e ρ₀/M. All N stuck is the first case, all margins equal, with the larger
    loss; its printed gap 1 − ρ₀/ρ = λρ₀ is inverted.

    Args: `smallest_norm` ρ₀ > 0, at which the stuck samples would be interpolated; `decay` λ;
    `num_samples` N; `num_stuck` M.

    Raises: ValueError for M outside 1 … N, ρ₀ that is not positive, a negative λ, or an unknown
    reduction.

    Example: `stuck_margins(3.0, 0.02, num_samples=12, num_stuck=12)`.
    """
    check_number("smallest_norm", smallest_norm, above_zero=True)
    check_number("decay", decay)
    check_integer("num_samples", num_samples)
    check_integer("num_stuck", num_stuck, most=num_samples)
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction = {reduction!r}: give 'mean' or 'sum'.")
    smallest_norm = widened(smallest_norm)
    [decay] = _as(smallest_norm, decay)
    share = (num_samples if reduction == "mean" else 1) / num_stuck  # λ_e/M over λ
    excess = share * decay * smallest_norm**2
    apart = share * decay * smallest_norm
    return StuckMargins(
        norm=smallest_norm / (1 + excess),
        objective=decay * smallest_norm**2 / (1 + excess),
        gap=excess / (1 + excess),
        margin_difference=apart if num_stuck < num_samples else jnp.zeros_like(apart),
    )


def simplex_geometry(
    gap: Float[ArrayLike, ""],
    decay: Float[ArrayLike, ""],
    num_classes: int,
    samples_per_class: int,
) -> SimplexGeometry:
    """What theorem 3 says of a critical point with outputs 1 − ε and ε/(C−1) (eqs. 33 to 36).

    λW^c = Σ_n (y_n^c − f_n^c) h_n makes W^c = CNε/(λ(C−1)) (μ_c − μ_G). So the rows sum to zero and
    the outputs to Σ_c b_c, where the assumption has their sum at 1: there is such a point with a
    free bias, b = 1/C, or with targets and outputs less 1/C, and none without either.

    Args: `gap` ε; `decay` λ of λ/2 ‖W‖², beside ½ Σ ‖z − y‖²; `samples_per_class` N.

    Raises: ValueError for ε outside (0, (C−1)/C), λ that is not positive, or C < 2.

    Example: `simplex_geometry(square_loss_gap(problem), 0.1, 10, 100)`.
    """
    check_number("decay", decay, above_zero=True)
    check_integer("samples_per_class", samples_per_class)
    gap, margin = _simplex_margin(gap, num_classes)
    [decay] = _as(gap, decay)
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
    """What theorem 11 says of W = ρV with ‖V‖_F = 1 at such a point (eqs. 76 to 79).

    V^c = ρ/((C−1)(1 − Cε/(C−1))) (μ_c − μ_G), and ρ' = 0 ties ε to the decay by
    ε(1 − Cε/(C−1)) = λρ²/(CN). A bias or centred targets are needed as in `simplex_geometry`.

    Args: `gap` ε; `norm` ρ; `samples_per_class` N.

    Raises: ValueError for ε outside (0, (C−1)/C), ρ that is not positive, or C < 2.

    Example: `normalized_geometry(0.05, 3.0, 10, 100).equilibrium_decay`.
    """
    check_number("norm", norm, above_zero=True)
    check_integer("samples_per_class", samples_per_class)
    gap, margin = _simplex_margin(gap, num_classes)
    [norm] = _as(gap, norm)
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
    """The last layer at a critical point without a bias, with outputs 1 − ε and 0 (not printed).

    λW^c = Nεμ_c, since samples of other classes have no residual: rows and means are orthogonal,
    with ‖W^c‖² = Nε(1 − ε)/λ. The means less their mean are a simplex ETF as ever, but W is none.

    Args: as in `simplex_geometry`.

    Raises: ValueError for ε outside (0, 1), λ that is not positive, or C < 2.

    Example: `orthogonal_geometry(square_loss_gap(problem), 0.1, 10, 100)`.
    """
    check_number("decay", decay, above_zero=True)
    check_integer("samples_per_class", samples_per_class)
    check_integer("num_classes", num_classes, least=2)
    gap = _checked_gap(gap, 1.0)
    [decay] = _as(gap, decay)
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

    ε = τ without a bias and τ(K−1)/K with one, τ = √(λ_W λ_H/n)/s; from τ = 1 on, where the minimum
    is the origin, that of τ = 1.

    Raises: ValueError for another loss, unbalanced classes, λ_W or λ_H that are 0, a penalised bias
    (or a λ_b given as an array), or d < K (d < K−1 with a bias).

    Example: `square_loss_gap(problem)` with a problem as in `square_loss_minimizer`.
    """
    size = _check_square_loss(problem)
    decay, classes = problem.weight_decay, problem.num_classes
    ratio = jnp.sqrt(jnp.asarray(decay.classifier * decay.features) / size) / problem.loss_scale
    return jnp.minimum(ratio, 1) * ((classes - 1) / classes if problem.bias else 1.0)


def square_loss_minimizer(
    problem: UnconstrainedFeatures, key: Key[Array, ""] | None = None, dtype: DTypeLike = float
) -> LastLayer:
    """A global minimum of the square loss with weight decay: the point of theorem 3, repaired.

    In Z = HWᵀ the loss is s/2 ‖Z + 1bᵀ − Y‖² + √(λ_W λ_H) ‖Z‖_*, and its minimum Y with singular
    values lowered from √n to (1 − τ)√n, τ = √(λ_W λ_H/n)/s. So h_ki = √(λ_W/(λ_H n)) w_k, and w is
    - with a free bias, b = 1/K: a simplex ETF with ‖w_k‖² = (1 − τ)(K−1)/K √(λ_H n/λ_W);
    - without: an orthogonal frame, ‖w_k‖² = (1 − τ) √(λ_H n/λ_W), which misses assumption 1.

    `key` turns the frame at random. From τ = 1 on W = H = 0.

    Raises: as `square_loss_gap`.

    Example:

        decay = WeightDecay(classifier=0.1, features=0.1)
        problem = UnconstrainedFeatures((5, 5, 5), 4, SquaredError(), "sum", True, decay)
        square_loss_minimizer(problem, jax.random.key(0))
    """
    gap, size = jnp.asarray(square_loss_gap(problem), dtype), problem.class_sizes[0]
    classes, dim, decay = problem.num_classes, problem.feature_dim, problem.weight_decay
    ratio = jnp.sqrt(jnp.asarray(decay.classifier / decay.features, dtype) / size)
    if problem.bias:
        frame, at_zero = simplex_etf(classes, dim, key, dtype), (classes - 1) / classes
    elif key is None:
        frame, at_zero = jnp.eye(classes, dim, dtype=dtype), 1.0
    else:
        frame, at_zero = jax.random.orthogonal(key, dim, dtype=dtype)[:classes], 1.0
    classifier = jnp.sqrt((at_zero - gap) / ratio) * frame
    bias = jnp.full(classes, 1 / classes, dtype) if problem.bias else None
    return LastLayer((ratio * classifier)[problem.labels], classifier, bias)


def linear_path(
    start: Layers, sample: Float[ArrayLike, " d"], progress: Float[ArrayLike, "*points"]
) -> Layers:
    """The normalised flow of a linear net of two layers, without decay, on one sample (derived).

    With b = v_2ᵀ, P = V_1 x and ds = 2ρ(1 − ρf) dt the flow of `"lagrange"` is V_1' = bxᵀ − fV_1,
    b' = P − fb, ρ' = f/ρ. Up to a common factor 1/α it is linear: P' = b, b' = P, and what V_1 does
    off x stays. Of these α = ‖b‖ = ‖cosh(s) b₀ + sinh(s) P₀‖ and f = ⟨b, P⟩/α², and
    ρ² = ρ₀² + 2 log α as α' = fα: the norm grows by as much as the net has aligned, and no more.

    Args:
        start: (ρ; V_1, V_2) of shapes (1,), (h, d), (1, h) with ‖V_k‖_F = 1 and ρ > 0.
        sample: x = y_n x_n of norm 1, the same for all samples n.
        progress: s of any shape, from 0 to `linear_limit`, which is negative for ρ₀f₀ > 1.

    Returns: states with the leading axes of `progress`. NaN for s where ρ would have passed 0.

    Raises: ValueError for a start or sample of another shape or norm.

    Example: `linear_path(start, x, linear_limit(start, x))` is where the flow ends.
    """
    modes = _modes(start, sample)
    check_number("progress", progress, signed=True)
    progress = jnp.asarray(progress, modes.growing.dtype)
    x = jnp.asarray(sample, modes.growing.dtype)

    def at(s: Float[Array, ""]) -> Layers:
        fading = jnp.exp(-2 * s) * modes.fading
        length = jnp.linalg.norm(modes.growing + fading)
        first = jnp.outer(modes.growing - fading, x) + jnp.exp(-s) * modes.across
        second = (modes.growing + fading)[None]
        norm, _ = _norm_and_output(modes, s)
        return Layers((first / length, second / length), norm[None])

    states = jax.vmap(at)(progress.reshape(-1))
    return jax.tree.map(lambda leaf: leaf.reshape(*progress.shape, *leaf.shape[1:]), states)


def linear_limit(start: Layers, sample: Float[ArrayLike, " d"]) -> Float[Array, ""]:
    """s at which the flow of `linear_path` comes to rest, ρf = 1.

    ρf increases where it is positive, since f' = 1 + ‖P/α‖² − 2f² >= 1 − f²: there is one root,
    which is bracketed and halved to rounding. ρ there depends on the start: without decay the flow
    ends where it first interpolates, and not at the largest margin f = 1, ρ = 1. Derivatives are
    those of the root.

    Args and errors: as `linear_path`; ValueError where ρ falls to 0 before f has risen to 0 (a
    traced start gives NaN).

    Example: `linear_path(start, x, linear_limit(start, x)).norms`, the ρ at the end.
    """
    modes = _modes(start, sample)
    known = jax.lax.stop_gradient(modes)
    growing, fading = jnp.sum(known.growing**2), jnp.sum(known.fading**2)
    bottom = jnp.log(fading / growing) / 4  # where α is least and f changes its sign
    reached = _norm_and_output(known, jnp.maximum(bottom, 0))[0] > 0
    if not is_traced(reached) and not bool(reached):
        raise ValueError(
            f"start: norm {modes.norm:.3g} falls to 0 before the output has turned positive; "
            "start from a larger norm."
        )

    def residual(s: Float[Array, ""], modes: _Modes) -> Float[Array, ""]:
        norm, output = _norm_and_output(modes, s)
        return norm * output - 1

    def halve(_: ArrayLike, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        lower, upper = ends
        middle = (lower + upper) / 2
        # NaN, from a norm that does not exist, is on the low side.
        beyond = residual(middle, known) > 0
        return jnp.where(beyond, lower, middle), jnp.where(beyond, middle, upper)

    # From the bottom on f >= tanh, so that ρ² >= 2 log cosh and ρf > 1 from 2 on. Backwards it
    # makes ρ² <= ρ₀² − 2|s| + 2 log 2, and ρf = 1 asks for ρ >= 1.
    ends = jnp.maximum(bottom, -(known.norm**2) / 2 - 1), jnp.maximum(bottom, 0) + 2
    root = jax.lax.fori_loop(0, 80, halve, ends)[1]
    # A step of Newton leaves the value, and gives it the derivatives of the root.
    root -= residual(root, modes) / jax.grad(residual)(root, known)
    return jnp.where(reached, root, jnp.nan)


def linear_time(
    start: Layers, sample: Float[ArrayLike, " d"], progress: Float[ArrayLike, "*points"]
) -> Float[Array, "*points"]:
    """t = ∫ ds/(2ρ(1 − ρf)) at which the flow of `linear_path` has come to s, for the mean loss.

    In log(s* − s), s* the limit, the integrand is smooth, and a tanh-sinh rule takes it to rounding
    unless ρ dips to 0 on the way. Near the limit t is only as sure as s* − s is. For the summed
    loss t counts N times as much.

    Args and errors: as `linear_limit`. ∞ at the limit, NaN beyond.

    Example: `linear_time(start, x, jnp.linspace(0, 0.99, 20) * linear_limit(start, x))`.
    """
    modes, limit = _modes(start, sample), linear_limit(start, sample)
    check_number("progress", progress, signed=True)
    progress = jnp.asarray(progress, limit.dtype)
    # s = s*(1 − e^(−v)).
    span = -jnp.log1p(-progress / limit)[..., None]
    nodes, weights = _last_axis(_NODES, span), _last_axis(_NODE_WEIGHTS, span)
    s, left = -limit * jnp.expm1(-span * nodes), limit * jnp.exp(-span * nodes)
    norm, output = _norm_and_output(modes, s)
    integral = span[..., 0] * jnp.sum(weights * left / (2 * norm * (1 - norm * output)), axis=-1)
    return jnp.where(progress == limit, jnp.inf, integral)


class _Modes(NamedTuple):
    """A start of the linear flow: b = e^s growing + e^(−s) fading, P = e^s growing − e^(−s) fading.

    `across` is the part of V_1 off the sample, and `norm` ρ₀.
    """

    growing: Float[Array, " h"]
    fading: Float[Array, " h"]
    across: Float[Array, "h d"]
    norm: Float[Array, ""]


def _modes(start: Layers, sample: Float[ArrayLike, " d"]) -> _Modes:
    check_kind("start", start, Layers, "NormalizedReLUNet(..., widths=(h,)).init(key)")
    check_arrays("start", start)
    start = widened(start)
    check_number("sample", sample, signed=True)
    if np.ndim(sample) != 1:
        raise ValueError(f"sample has shape {np.shape(sample)}: give one dimension of inputs.")
    shapes = [matrix.shape for matrix in start.matrices]
    dim = np.shape(sample)[0]
    if start.norms is None or len(start.norms) != 1 or shapes != [shapes[0], (1, shapes[0][0])]:
        raise ValueError(
            f"start has matrices of shapes {shapes} and norms {start.norms}: give one norm, (h, d) "
            "and (1, h), as NormalizedReLUNet(..., widths=(h,)).init(key) does."
        )
    if shapes[0][1] != dim:
        raise ValueError(
            f"sample has {dim} entries where the start's first layer reads {shapes[0][1]}."
        )
    first, second = start.matrices
    x = jnp.asarray(sample, first.dtype)
    for name, value in (("sample", x), ("start: V_1", first), ("start: V_2", second)):
        length = jnp.linalg.norm(value)
        if not is_traced(length) and not abs(length - 1) < 1e-5:
            raise ValueError(f"{name} has norm {length:.6g}: scale it to 1.")
    check_number("start: norm", start.norms, above_zero=True)
    output, along = second[0], matmul(first, x)
    return _Modes(
        growing=(output + along) / 2,
        fading=(output - along) / 2,
        across=first - jnp.outer(along, x),
        norm=start.norms[0],
    )


def _norm_and_output(
    modes: _Modes, s: Float[Array, "*points"]
) -> tuple[Float[Array, "*points"], Float[Array, "*points"]]:
    """ρ = √(ρ₀² + 2 log α) and f at s."""
    growing, fading = jnp.sum(modes.growing**2), jnp.sum(modes.fading**2)
    # α² over e^(2s). Where nothing fades, nothing may overflow.
    shrunk = jnp.exp(-2 * jnp.where(fading > 0, s, 0))
    both = growing + shrunk**2 * fading + 2 * shrunk * jnp.sum(modes.growing * modes.fading)
    # Near the start, where α = 1, by differences: a small ρ₀ keeps its digits.
    near = jnp.clip(s, -0.5, 0.5)
    change = growing * jnp.expm1(2 * near) + fading * jnp.expm1(-2 * near)
    growth = jnp.where(jnp.abs(s) < 0.5, jnp.log1p(change), 2 * s + jnp.log(both))
    return jnp.sqrt(modes.norm**2 + growth), (growing - shrunk**2 * fading) / both


def _complex_roots(v: Float[Array, "*norms"], num_layers: int) -> Float[Array, "*norms"]:
    """Re Σ ω² log(1 − v/ω) over the roots of unity ω = e^(iθ) other than 1."""
    v = v[..., None]
    angle = _last_axis(2 * np.pi * np.arange(1, num_layers) / num_layers, v)
    modulus = jnp.log1p(v**2 - 2 * v * jnp.cos(angle)) / 2
    argument = jnp.arctan2(v * jnp.sin(angle), 1 - v * jnp.cos(angle))
    return jnp.sum(jnp.cos(2 * angle) * modulus - jnp.sin(2 * angle) * argument, axis=-1)


def _last_axis(
    values: Float[np.ndarray, " n"], like: Float[Array, "... 1"]
) -> Float[Array, "... n"]:
    """The values along the last axis of an array of as many axes."""
    return jnp.asarray(np.expand_dims(values, tuple(range(like.ndim - 1))), like.dtype)


def _as(like: Float[Array, "..."], *values: Float[ArrayLike, ""]) -> list[Float[Array, ""]]:
    """The values in the dtype of the first."""
    return [jnp.asarray(value, like.dtype) for value in values]


def _simplex_margin(
    gap: Float[ArrayLike, ""], num_classes: int
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """ε, and the margin 1 − Cε/(C−1) that it leaves."""
    check_integer("num_classes", num_classes, least=2)
    gap = _checked_gap(gap, (num_classes - 1) / num_classes)
    return gap, 1 - num_classes / (num_classes - 1) * gap


def _checked_gap(gap: Float[ArrayLike, ""], below: float) -> Float[Array, ""]:
    check_number("gap", gap, scalar=True)
    if not is_traced(gap) and not 0 < float(np.asarray(gap)) < below:
        raise ValueError(f"gap = {gap}: give a number above 0 and below {below:.6g}.")
    return widened(gap)


def _check_growth(
    start: Float[ArrayLike, ""],
    alignment: Float[ArrayLike, ""],
    second_moment: Float[ArrayLike, ""],
) -> None:
    values = (("start", start), ("alignment", alignment), ("second_moment", second_moment))
    for name, value in values:
        check_number(name, value, above_zero=True)


def _check_square_loss(problem: UnconstrainedFeatures) -> int:
    """n, of a problem whose minimum `square_loss_minimizer` knows."""
    check_unconstrained(problem)
    if not has_formulas_of(problem.loss, SquaredError):
        raise ValueError(f"problem has {problem.loss}: this is the minimum of SquaredError().")
    decay = problem.weight_decay
    for name in ("classifier", "features"):
        check_number(f"weight decay {name}", getattr(decay, name), above_zero=True)
    if problem.bias and not (isinstance(decay.bias, float) and decay.bias == 0):
        raise ValueError(f"weight decay bias = {decay.bias}: the closed form is for a free one, 0.")
    needed = problem.num_classes - int(problem.bias)
    if problem.feature_dim < needed:
        raise ValueError(
            f"feature_dim = {problem.feature_dim}: the minimum has a closed form for at least "
            f"{needed} dimensions."
        )
    return class_size(problem)
