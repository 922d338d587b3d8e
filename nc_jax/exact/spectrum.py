"""All eigenvalues of the Hessian at the collapsed minimum with weight decay (derived).

The Hessian commutes with permutations of the classes, permutations of the samples of a class, and
rotations of feature space. On each irreducible part of the states it is therefore one number, or a
matrix of at most 4 × 4 numbers.
"""

import math
from typing import Literal, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..checks import is_traced
from ..preconditions import (
    bias_is_free,
    check_below_threshold,
    check_decayed_cross_entropy,
    check_decayed_squared_error,
    check_dimension,
    check_unconstrained,
)
from ..problems import UnconstrainedFeatures


class MinimumSpectrum(eqx.Module):
    """The different eigenvalues of the Hessian at a minimum, with their multiplicities.

    Rows are in the order of the table of `minimum_spectrum`, which does not depend on λ. Two rows
    may have the same eigenvalue.

    Attributes:
        values: (R,) the eigenvalue of each row of the table.
        multiplicities: of each row; their sum is the number of variables.
        names: of each row; a name stands for the subspace that the eigenvectors span.

    Example: the zeros are the rotations of feature space.

        >>> spectrum = nc.exact.minimum_spectrum(nc.zhu(3, 2, 2, 5e-3))
        >>> float(spectrum.values[spectrum.names.index("rotations")])
        0.0
        >>> spectrum.eigenvalues.shape  # 6·2 features, 3·2 weights, 3 biases
        (21,)
    """

    values: Float[Array, " R"]
    multiplicities: tuple[int, ...] = eqx.field(static=True)
    names: tuple[str, ...] = eqx.field(static=True)

    @property
    def eigenvalues(self) -> Float[Array, " n"]:
        """(n,) every eigenvalue as often as its multiplicity says, ascending."""
        counts = np.array(self.multiplicities)
        return jnp.sort(jnp.repeat(self.values, counts, total_repeat_length=int(counts.sum())))

    @property
    def nullity(self) -> int:
        """How many eigenvalues are 0 because of a symmetry."""
        pairs = zip(self.names, self.multiplicities, strict=True)
        return sum(count for name, count in pairs if name in _SYMMETRIES)

    @property
    def rate(self) -> Float[Array, ""]:
        """The smallest eigenvalue above 0.

        For `part="all"` it is the rate of the flow near the minimum, t in units of the problem's
        loss: the distance from the set of minima falls as e^(−rate · t), and L − min L as
        e^(−2 rate · t).
        """
        chosen = [i for i, name in enumerate(self.names) if name not in _SYMMETRIES]
        values = self.values[np.array(chosen)]
        return jnp.min(jnp.where(values > 0, values, jnp.inf))


# Rows that are 0 for every λ: along these directions a minimum moves to other minima.
_SYMMETRIES = ("rotations", "rotations out of span", "shift of the bias")

_Rows = list[tuple[str, Float[Array, ""], int]]


class _Minimum(NamedTuple):
    """The numbers that the tables depend on; the integers are static, the others may be traced."""

    classes: int
    size: int  # n
    span: int  # dimension of the span of W: K−1 for a simplex, K for an orthogonal frame
    dim: int
    differences: bool  # whether the loss depends on differences of logits only
    decays: tuple[Float[Array, ""], ...]  # λ_W, λ_H, and λ_b where there is a bias
    curvature: Float[Array, ""]  # t(0)
    at_label: Float[Array, ""]  # the coefficient of T in t(T)
    alpha: Float[Array, ""]  # ‖h‖
    beta: Float[Array, ""]  # ‖w‖/√n

    def curvature_of(self, share: float) -> Float[Array, ""]:
        """t(T), for logits of which the share T of the squares is at the labels."""
        return self.curvature + share * self.at_label

    def pair(self, share: float) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """ν+ and ν− of t(T): eigenvalues of a matrix of the classifier and of the class means."""
        classifier, features, *_ = self.decays
        curvature = self.curvature_of(share)
        first = curvature * self.alpha**2 + classifier
        last = curvature * self.beta**2 + features
        off = curvature * self.alpha * self.beta - jnp.sqrt(classifier * features)
        upper = (first + last + jnp.hypot(first - last, 2 * off)) / 2
        # By the determinant, 4tα²λ_H, since the difference of two close numbers would lose digits.
        return upper, 4 * curvature * self.alpha**2 * features / upper


def minimum_spectrum(
    problem: UnconstrainedFeatures, *, part: Literal["all", "classifier"] = "all"
) -> MinimumSpectrum:
    """Every eigenvalue of the Hessian at the collapsed minimum with weight decay (derived).

    For cross-entropy (`regularized_minimizer`) let s be the scale of the loss,
    τ = √(λ_W λ_H)/(s√n) < 1, b = τ/K the probability of each wrong class, γ = Kb(1 − Kb),
    α² = ‖h‖², β² = ‖w‖²/n, and q = d − K + 1 the dimensions orthogonal to the span of W ("out of
    span"). A direction of logits of which the share T of the squares is at the labels has the
    curvature t(T) = nsK (b + γT)/(K−1). S = λ_W + λ_H + t(0)(α² + β²), and ν±(T) are the
    eigenvalues of [[tα² + λ_W, tαβ − √(λ_W λ_H)], [tαβ − √(λ_W λ_H), tβ² + λ_H]] for t = t(T).

    | eigenvalue | multiplicity | name |
    |---|---|---|
    | ν±((K−1)/K) | 1 each | scale |
    | ν±(0) | K(K−3)/2 each | symmetric |
    | 0; S | (K−1)(K−2)/2 each | rotations; antisymmetric |
    | those of a 3 × 3 matrix, 4 × 4 with a bias | K−1 each | standard |
    | 0; λ_W + λ_H | (K−1)q each | rotations out of span; out of span |
    | λ_W | d | sum of classifiers |
    | λ_H | q | common shift of features |
    | t((K−1)/K)β² + λ_H; t(0)β² + λ_H | K(n−1); K(n−1)(K−2) | within class |
    | λ_H | K(n−1)q | within class, out of span |
    | λ_b (with a bias) | 1 | sum of the bias; shift of the bias if λ_b = 0 |

    Rows of multiplicity 0 are left out. For K = 2 the standard part has one row, two with a bias.

    For the square loss (`square_loss_minimizer`) every logit has curvature s. With a free bias the
    table holds with b = 1 and γ = 0, with two exceptions: K−1 of the d sums of classifiers have
    λ_W + t(0)α², and the sum of the bias has sN. Without a bias W spans K dimensions, t = ns, and
    the eigenvalues are ν± ("symmetric", K(K+1)/2 times each); 0 and S (K(K−1)/2 times each); 0 and
    λ_W + λ_H (K(d−K) times each); and within classes tβ² + λ_H (K²(n−1) times) and λ_H
    (K(n−1)(d−K) times).

    Args:
        problem: cross-entropy or square loss, with what the two minimizers need. λ may be traced;
            where τ >= 1 the values are then NaN.
        part: "classifier" gives the eigenvalues of the block ∂²L/∂W² alone, Kd of them. For
            cross-entropy K of them are larger than a group of K² − 3K + 1 equal ones, and all
            others are λ_W.

    Raises: ValueError for τ >= 1, where the minimum is the origin (`origin_eigenvalues`), another
    `part`, and as the minimizers.

    Example: the slowest mode is the decay of a sum of classifiers.

        >>> problem = nc.zhu(3, 2, 2, 5e-3)
        >>> spectrum = nc.exact.minimum_spectrum(problem)
        >>> round(float(spectrum.rate), 6), spectrum.nullity
        (0.005, 1)
        >>> hessian = nc.landscape.dense_hessian(problem, nc.exact.regularized_minimizer(problem))
        >>> bool(np.allclose(np.linalg.eigvalsh(hessian), spectrum.eigenvalues))
        True
    """
    if part not in ("all", "classifier"):
        raise ValueError(f"part = {part!r}: give 'all' or 'classifier'.")
    check_unconstrained(problem)
    point = _minimum_of(problem)
    if part == "classifier":
        rows = _classifier_rows(point)
    else:
        simplex = point.span < point.classes
        rows = _simplex_rows(point) if simplex else _orthogonal_rows(point)
        rows += _within_class_rows(point) + _bias_rows(problem, point)
    names, values, counts = zip(*((name, v, m) for name, v, m in rows if m > 0), strict=True)
    return MinimumSpectrum(jnp.stack(values), counts, names)


def _minimum_of(problem: UnconstrainedFeatures) -> _Minimum:
    """The numbers of the tables; ValueError or NaN for τ >= 1."""
    square = problem.loss.is_squared_error
    check = check_decayed_squared_error if square else check_decayed_cross_entropy
    size, classes, decay = check(problem), problem.num_classes, problem.weight_decay
    span = classes if square and not problem.bias else classes - 1
    check_dimension(problem, span)
    product = jnp.sqrt(jnp.asarray(decay.classifier * decay.features))
    threshold = product / (problem.loss_scale * math.sqrt(size))
    if not is_traced(threshold):
        check_below_threshold(threshold)
    threshold = jnp.where(threshold < 1, threshold, jnp.nan)
    ratio = jnp.sqrt(jnp.asarray(decay.classifier / decay.features)) / math.sqrt(size)
    # ‖w‖² = gap · (span/K)/ratio. For a simplex this number is the logit gap.
    gap = 1 - threshold if square else jnp.log(classes / threshold - (classes - 1))
    squared_row = gap * span / classes / ratio
    other = jnp.ones_like(threshold) if square else threshold / classes  # b
    # nsK/(K−1) for a simplex, and ns for an orthogonal frame.
    unit = size * problem.loss_scale * classes / span
    decays = [decay.classifier, decay.features, *([decay.bias] if problem.bias else [])]
    return _Minimum(
        classes=classes,
        size=size,
        span=span,
        dim=problem.feature_dim,
        differences=problem.loss.shift_invariant,
        # One dtype for all, since a decay may be a Python float or an array.
        decays=tuple(jnp.asarray(value, threshold.dtype) for value in decays),
        curvature=unit * other,
        at_label=unit * (0 * other if square else classes * other * (1 - classes * other)),
        alpha=ratio * jnp.sqrt(squared_row),
        beta=jnp.sqrt(squared_row / size),
    )


def _simplex_rows(point: _Minimum) -> _Rows:
    """The rows of the classifier and the class means where W is a simplex ETF."""
    classes, (classifier, features, *_) = point.classes, point.decays
    contrasts, out = classes - 1, point.dim - point.span
    zero = jnp.zeros_like(classifier)
    scales, symmetric = point.pair((classes - 1) / classes), point.pair(0)
    sums: _Rows = [("sum of classifiers", classifier, point.dim)]
    if not point.differences:
        # Where the loss depends on more than differences of logits, such a sum changes it.
        value = classifier + point.curvature * point.alpha**2
        sums = [
            ("sum of classifiers", value, point.span),
            ("sum of classifiers, out of span", classifier, out),
        ]
    return [
        *(("scale", value, 1) for value in scales),
        *(("symmetric", value, classes * (classes - 3) // 2) for value in symmetric),
        *_antisymmetric_rows(point, contrasts * (classes - 2) // 2),
        *(("standard", value, contrasts) for value in _standard_values(point)),
        ("rotations out of span", zero, contrasts * out),
        ("out of span", classifier + features, contrasts * out),
        *sums,
        ("common shift of features", features, out),
    ]


def _orthogonal_rows(point: _Minimum) -> _Rows:
    """The rows of the classifier and the class means where W is an orthogonal frame."""
    classes, (classifier, features, *_) = point.classes, point.decays
    out = classes * (point.dim - point.span)
    return [
        *(("symmetric", value, classes * (classes + 1) // 2) for value in point.pair(0)),
        *_antisymmetric_rows(point, classes * (classes - 1) // 2),
        ("rotations out of span", jnp.zeros_like(classifier), out),
        ("out of span", classifier + features, out),
    ]


def _antisymmetric_rows(point: _Minimum, count: int) -> _Rows:
    classifier, features, *_ = point.decays
    trace = classifier + features + point.curvature * (point.alpha**2 + point.beta**2)
    return [("rotations", 0 * trace, count), ("antisymmetric", trace, count)]


def _standard_values(point: _Minimum) -> Float[Array, " m"]:
    """Eigenvalues on the standard representation of the permutations of classes, of K−1 dimensions.

    Four kinds of directions transform by it: of W and of the class means by symmetric matrices, a
    common shift of all features, and the bias. For K = 2 the first two kinds do not exist.
    """
    classes, decays = point.classes, point.decays
    zero = jnp.zeros_like(point.alpha)
    at_label = math.sqrt((classes - 2) / classes)
    # How a unit direction of each kind changes the logits: by a symmetric matrix (`matrices`), by
    # one row for all samples (`shifts`), and of both the part at the labels (`labels`).
    matrices = jnp.stack([point.alpha, point.beta, zero])
    shifts = jnp.stack([zero, zero, point.beta])
    if len(decays) == 3:
        bias = jnp.full_like(zero, math.sqrt(classes - 1))
        matrices, shifts = jnp.append(matrices, zero), jnp.append(shifts, bias)
    labels = at_label * matrices + shifts / math.sqrt(classes)
    hessian = point.curvature * (jnp.outer(matrices, matrices) + jnp.outer(shifts, shifts))
    hessian += point.at_label * jnp.outer(labels, labels)
    classifier, features, *bias_decay = decays
    hessian += jnp.diag(jnp.stack([classifier, features, features, *bias_decay]))
    hessian = hessian.at[jnp.array([0, 1]), jnp.array([1, 0])].add(-jnp.sqrt(classifier * features))
    return jnp.linalg.eigvalsh(hessian[2:, 2:] if classes == 2 else hessian)


def _within_class_rows(point: _Minimum) -> _Rows:
    """The rows of deviations of features from their class means, which do not change W."""
    classes, features = point.classes, point.decays[1]
    deviations = classes * (point.size - 1)
    at_label = point.curvature_of((classes - 1) / classes) * point.beta**2 + features
    others = point.curvature * point.beta**2 + features
    return [
        ("within class", at_label, deviations),
        ("within class", others, deviations * (point.span - 1)),
        ("within class, out of span", features, deviations * (point.dim - point.span)),
    ]


def _bias_rows(problem: UnconstrainedFeatures, point: _Minimum) -> _Rows:
    """The row of the same number in every entry of the bias."""
    if not problem.bias:
        return []
    decay = point.decays[2]
    if point.differences:
        free = bias_is_free(problem)
        return [("shift of the bias" if free else "sum of the bias", decay, 1)]
    return [("sum of the bias", decay + problem.loss_scale * problem.num_samples, 1)]


def _classifier_rows(point: _Minimum) -> _Rows:
    """The rows of the block of the classifier alone."""
    classes, decay = point.classes, point.decays[0]

    def value(share: float) -> Float[Array, ""]:
        return point.curvature_of(share) * point.alpha**2 + decay

    # Sums of classifiers, one for each dimension of the span, change the loss unless it depends on
    # differences of logits alone.
    inside = (classes - 1 if point.differences else classes) * point.span
    standard = classes - 1 if classes > 2 else 0
    return [
        ("scale", value((classes - 1) / classes), 1),
        ("standard", value((classes - 2) / classes), standard),
        ("other directions in span", value(0), inside - 1 - standard),
        ("directions without curvature", decay, classes * point.dim - inside),
    ]
