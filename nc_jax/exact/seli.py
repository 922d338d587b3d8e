"""Simplex-encoded labels: the limit of cross-entropy without decay for classes of any sizes.

With n_k samples of class k, D = diag(n_k), P = I − 11ᵀ/K and one-hot labels Y, the matrix Ẑ = YP
has the least nuclear norm among all logits with margins z_y − z_c >= 1 (Thrampoulidis et al. 2022).
The factors H and W of Ẑ of least norm have

    WWᵀ = (PDP)^½,   MMᵀ = (PDP)^(+½) for the class means M,   MWᵀ = P,   V = tr (PDP)^½.

V is the value ½‖W‖² + ½‖H‖². The Lagrange multipliers of the margins are the entries of −L^½ off
its diagonal, where L = (PDP)⁺ is the Laplacian of a weighted complete graph. They are positive for
every choice of class sizes, since L^a = const ∫ (I − e^(−tL)) t^(−1−a) dt for 0 < a < 1 with a
positive constant, and e^(−tL) > 0 in every entry (derived).
"""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, DTypeLike, Float, Int, Key

from ..checks import check_arrays, check_integer, check_key, check_known, check_number
from ..display import summary
from ..errors import ArgumentError
from ..measures.imbalance import label_factors
from ..precision import check_dtype, matmul
from ..problems import DeepFeatures
from ..problems.deep import widths_of
from ..problems.unconstrained.sizes import check_sizes
from ..state import LastLayer
from .deep_factors import state_on_ray


class SeliCertificate(eqx.Module):
    """Numbers that prove, or refute, that logits solve min ‖Z‖_* with all margins >= 1.

    The dual of this problem is max Σλ over λ >= 0 with ‖B‖₂ <= 1, where B_ic = −λ_ic for the wrong
    classes and rows of B sum to 0. Here B = YL^½ with L = (PDP)⁺, for which Σλ = V. By weak duality
    ‖Z‖_* >= V for every Z with margins >= 1.

    Attributes:
        smallest_margin: min z_y − z_c, at least 1 where Z is feasible.
        smallest_multiplier: min λ_ic, above 0 where the dual is feasible and Z is the only optimum.
        spectral_norm: ‖B‖₂, at most 1 where the dual is feasible.
        gap: ‖Z‖_*/V − 1, which is 0 for an optimum.
        residual: ‖Z − B(ZᵀZ)^½‖_F/‖Z‖_F, which is 0 if and only if B is a subgradient of the
            nuclear norm at Z. It changes to first order with Z, and `gap` may to second order only.
        tolerance: relative tolerance of each condition of `holds`.

    Example: see `Seli.certificate`.

        >>> found = nc.exact.seli((4, 2, 1)).certificate()
        >>> round(found.smallest_margin, 6), round(found.spectral_norm, 6)
        (1.0, 1.0)
    """

    smallest_margin: float
    smallest_multiplier: float
    spectral_norm: float
    gap: float
    residual: float
    tolerance: float

    def __repr__(self) -> str:
        return summary(self, holds=self.holds)

    @property
    def holds(self) -> bool:
        """Whether Z is the only optimum, up to a relative tolerance of each condition."""
        primal = self.smallest_margin >= 1 - self.tolerance
        dual = self.smallest_multiplier > 0 and self.spectral_norm <= 1 + self.tolerance
        return primal and dual and max(abs(self.gap), self.residual) <= self.tolerance


class Seli(eqx.Module):
    """Geometry of the simplex-encoded labels, with m factors of the logits; see `seli`.

    Attributes:
        class_sizes: n_k.
        depth: m, the number of factors: 2 for free features and a classifier.
        classifier_gram: (K, K) WWᵀ = (PDP)^(1/m), of the last factor.
        mean_gram: (K, K) MMᵀ = (PDP)^(+(1−1/m)), of the class means in the first factor.
        logits: (K, K) P, the logits of each class at margin 1.
        multipliers: (K, K) λ_kc = −(MMᵀ)_kc > 0 of a sample of class k and the wrong class c,
            0 on the diagonal.
        singular_values: (K−1,) σ of Ẑ = YP, descending; σ² are the roots of Σ_k 1/(n_k − μ) = 0 (a
            size that r classes share is a root r−1 times).
        value: V = (m/2) Σσ^(2/m), the least ½Σ‖factors‖² of these logits.

    All arrays are in float64, of NumPy.

    Example: two classes of one size, with classifiers ±(1/√2) at margin 1.

        >>> nc.exact.seli((1, 1)).classifier_gram.round(6).tolist()
        [[0.5, -0.5], [-0.5, 0.5]]
    """

    class_sizes: tuple[int, ...] = eqx.field(static=True)
    depth: int = eqx.field(static=True)
    classifier_gram: Float[np.ndarray, "K K"]
    mean_gram: Float[np.ndarray, "K K"]
    logits: Float[np.ndarray, "K K"]
    multipliers: Float[np.ndarray, "K K"]
    singular_values: Float[np.ndarray, " K-1"]
    value: float

    def state(
        self,
        feature_dim: int,
        gap: Float[ArrayLike, ""] = 1.0,
        *,
        key: Key[Array, ""] | None = None,
        dtype: DTypeLike = float,
    ) -> LastLayer:
        """Collapsed and balanced state, WᵀW = HᵀH, whose margins all equal the gap.

        Of all states with margins >= gap it has the least ‖W‖² + ‖H‖², which is 2V·gap.

        Args:
            feature_dim: d >= K−1.
            gap: q = z_y − z_c >= 0, the same for all samples and wrong classes.
            key: rotates the state at random; None gives a fixed orientation.
            dtype: of the state.

        Raises: ValueError for d < K−1, a gap that is negative or not finite, or a depth other
        than 2.

        Example:

            >>> labels = nc.UnconstrainedFeatures((2, 1, 1), 2).labels
            >>> state = nc.exact.seli((2, 1, 1)).state(2, gap=3.0)
            >>> np.asarray(nc.metrics.sample_margins(state, labels)).round(6).tolist()
            [3.0, 3.0, 3.0, 3.0]
        """
        self._check_two_factors("a state of features and a classifier")
        check_integer("feature_dim", feature_dim)
        check_number("gap", gap, scalar=True)
        check_dtype(dtype)
        rank = len(self.class_sizes) - 1
        if feature_dim < rank:
            raise ArgumentError(
                f"feature_dim = {feature_dim}: logits of {rank + 1} classes with equal margins "
                f"have rank {rank}; give at least {rank} dimensions.",
                "feature_dim",
            )
        _, singular, right = _factors(self.class_sizes)
        root = jnp.sqrt(jnp.asarray(gap, dtype))
        classifier, means = (
            root * jnp.asarray(right * singular[None] ** power, dtype) for power in (0.5, -0.5)
        )
        if key is None:
            frame = jnp.eye(rank, feature_dim, dtype=dtype)
        else:
            check_key(key)
            frame = jax.random.orthogonal(key, feature_dim, dtype=dtype)[:rank]
        features = matmul(means, frame)[self._labels]
        return LastLayer(features=features, classifier=matmul(classifier, frame))

    def deep_state(
        self,
        widths: Sequence[int],
        gap: Float[ArrayLike, ""] = 1.0,
        *,
        key: Key[Array, ""] | None = None,
        dtype: DTypeLike = float,
    ) -> DeepFeatures:
        """Collapsed and balanced state of m factors whose margins all equal the gap.

        Of all states with these logits it has the least ½Σ‖factors‖², which is V gap^(2/m).

        Args:
            widths: m−1 widths >= K−1, as for `DeepUnconstrainedFeatures`.
            gap: q = z_y − z_c >= 0, the same for all samples and wrong classes.
            key: rotates every layer at random; None gives a fixed orientation.
            dtype: of the state.

        Raises: ValueError for another number of widths, a width below K−1, or a gap that is
        negative or not finite.

        Example:

            >>> seli = nc.exact.seli((2, 1, 1), depth=3)
            >>> state = seli.deep_state((4, 2), gap=3.0)
            >>> norms = state.squared_norms()
            >>> bool(jnp.allclose(jnp.sum(norms) / 2, seli.value * 3 ** (2 / 3)))
            True
        """
        check_number("gap", gap, scalar=True)
        check_dtype(dtype)
        widths = widths_of(widths, self.depth)
        logits = jnp.asarray(self.logits, dtype)
        return state_on_ray(logits, gap, self.class_sizes, widths, key=key)

    def certificate(
        self, logits: Float[ArrayLike, "N K"] | None = None, *, tolerance: float = 1e-10
    ) -> SeliCertificate:
        """Whether logits solve min ‖Z‖_* with all margins >= 1, by duality (derived).

        Args: `logits` (N, K), with samples in the order of the classes; None for Ẑ = YP.
        `tolerance` of each condition, relative.

        Raises: ValueError for another shape, traced logits, or a depth other than 2: with more
        factors the problem is not convex, and YP need not be its optimum.

        Example: the certificate holds for YP and for no other logits.

            >>> seli = nc.exact.seli((3, 1, 1))
            >>> seli.certificate().holds
            True
            >>> other = np.repeat(seli.logits, seli.class_sizes, axis=0)
            >>> other[0, 0] += 0.01
            >>> seli.certificate(other).holds
            False
        """
        self._check_two_factors("the certificate")
        labels, num_classes = self._labels, len(self.class_sizes)
        if logits is None:
            logits = self.logits[labels]
        check_arrays("logits", logits)
        check_known("logits", logits, "the certificate")
        logits = np.asarray(logits, float)
        if logits.shape != (len(labels), num_classes):
            raise ValueError(
                f"logits have shape {logits.shape}: give ({len(labels)}, {num_classes}), a row for "
                "each sample, in the order of the classes."
            )
        wrong = labels[:, None] != np.arange(num_classes)
        margins = logits[np.arange(len(labels)), labels][:, None] - logits
        dual = self.mean_gram[labels]
        _, singular, right = np.linalg.svd(logits, full_matrices=False)
        modulus = (right.T * singular) @ right
        return SeliCertificate(
            smallest_margin=float(np.min(margins[wrong])),
            smallest_multiplier=float(np.min(-dual[wrong])),
            spectral_norm=float(np.linalg.norm(dual, 2)),
            gap=float(np.sum(singular) / np.sum(-dual[wrong])) - 1,
            residual=float(np.linalg.norm(logits - dual @ modulus) / np.linalg.norm(logits)),
            tolerance=tolerance,
        )

    @property
    def _labels(self) -> Int[np.ndarray, " N"]:
        return np.repeat(np.arange(len(self.class_sizes)), self.class_sizes)

    def _check_two_factors(self, what: str) -> None:
        if self.depth != 2:
            raise ArgumentError(f"depth = {self.depth}: {what} exists for depth 2.", "depth")


def seli(class_sizes: Sequence[int], *, depth: int = 2) -> Seli:
    """Simplex-encoded labels of classes of any sizes (Thrampoulidis et al. 2022).

    For two factors they are the only optimum of the separation problem, min ½‖W‖² + ½‖H‖² with all
    margins >= 1, for every choice of class sizes and d >= K−1. Flows of cross-entropy without decay
    converge in direction to critical points of this problem (Lyu and Li 2020). All flows that were
    integrated with d >= K−1 converge to this one (measured). With more factors the simplex-encoded
    labels are a critical point, and not always the one of least value (derived).

    For K_A classes (A) with Rn samples and K_B classes (B) with n samples, the profile "STEP", and
    μ = n(K_A + K_B R)/K:

        σ²: Rn (K_A−1 times), μ, n (K_B−1 times)
        ‖w_A‖² = √(Rn) (1 − 1/K_A) + √μ K_B/(K K_A),   ‖w_B‖² = √n (1 − 1/K_B) + √μ K_A/(K K_B)
        w_A·w_A' = −√(Rn)/K_A + √μ K_B/(K K_A),   w_B·w_B' = −√n/K_B + √μ K_A/(K K_B)
        w_A·w_B = −√μ/K

    The inner products of the class means of `mean_gram` have the same formulas with 1/√(Rn), 1/√n
    and 1/√μ in the place of √(Rn), √n and √μ.

    Args:
        class_sizes: samples n_k of each of K >= 2 classes.
        depth: m >= 2 factors of the logits; 2 for free features and a classifier.

    Raises: ValueError for fewer than 2 classes, sizes that are no positive integers, or depth < 2.

    Example: a class with more samples has a longer classifier, and shorter features.

        >>> seli = nc.exact.seli((10, 10, 1, 1))
        >>> np.diag(seli.classifier_gram).round(4).tolist()
        [2.1674, 2.1674, 1.0863, 1.0863]
        >>> np.diag(seli.mean_gram).round(4).tolist(), round(seli.value, 6)
        ([0.2647, 0.2647, 0.6066, 0.6066], 6.507486)
    """
    sizes = check_class_sizes(class_sizes)
    depth = check_integer("depth", depth, least=2)
    _, singular, right = _factors(sizes)
    num_classes = len(sizes)

    def power(exponent: float) -> Float[np.ndarray, "K K"]:
        return (right * singular[None] ** exponent) @ right.T

    means = power(2 / depth - 2)
    return Seli(
        class_sizes=sizes,
        depth=depth,
        classifier_gram=power(2 / depth),
        mean_gram=means,
        logits=np.eye(num_classes) - 1 / num_classes,
        multipliers=np.where(np.eye(num_classes, dtype=bool), 0.0, -means),
        singular_values=singular,
        value=float(depth / 2 * np.sum(singular ** (2 / depth))),
    )


def check_class_sizes(class_sizes: Sequence[int]) -> tuple[int, ...]:
    """The sizes of 2 or more classes as integers."""
    sizes = check_sizes("class_sizes", class_sizes)
    if len(sizes) < 2:
        raise ArgumentError(
            f"class_sizes = {sizes}: give the samples of 2 or more classes, as (10, 10).",
            "class_sizes",
        )
    return sizes


def _factors(class_sizes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return label_factors(np.array(class_sizes, float))
