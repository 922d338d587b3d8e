"""Features on the unit sphere under the supervised contrastive loss."""

import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, DTypeLike, Float, Key

from ..checks import check_integer, check_key, check_kind, check_number
from ..errors import ArgumentError
from ..geometry import tangent_to_rows, unit_rows
from ..measures import MEASURES, Invariant, Statistics, class_moments, collapse_metrics
from ..precision import check_dtype, matmul, weak_scalar
from ..starts import gaussian_unit_rows
from ..state import LastLayer
from .base import check_shapes
from .classed import AbstractClassed
from .unconstrained.sizes import check_sizes

# The collapse metrics of features alone; all others need a classifier.
_MEASURES = (
    "ji_within_class_variation", "zhu_nc1", "papyan_nc1", "cdnv", "ji_feature_norm_variation",
    "papyan_feature_equinorm", "ji_feature_cosine_gap",
)  # fmt: skip


class ContrastiveFeatures(AbstractClassed):
    """Supervised contrastive loss of free features on the unit sphere (Graf et al. 2021).

    L = (1/N) Σ_i −(1/(n_y − 1)) Σ_{p≠i, y_p=y_i} log(e^(h_i·h_p/τ)/Σ_{a≠i} e^(h_i·h_a/τ)), the loss
    of Khosla et al. (2020) with all N samples in one batch and y = y_i. The state is the features
    (N, d), rows of norm 1. The flow is X' = −P ∇L, with the projection P onto the tangent space of
    the spheres of the rows. With `nonnegative` all entries stay >= 0 (Kini et al. 2023): P then
    projects onto the tangent cone, so that an entry 0 with a negative velocity stays 0.

    The flow converges at a linear rate: integrate it in `RealTime()`. The least value has the
    closed form `exact.contrastive_minimum`. With `nonnegative` the velocity jumps where an entry
    reaches 0. Entries then overshoot 0 by the tolerance, which `retract` repairs; a `min_step` of
    1e-3 for the flow bounds the number of steps, at an error of about 1e-5. The constraint also
    adds local minima: where one class has several nonzero coordinates, two other classes can share
    one coordinate (derived). 1 of 64 random starts ended there for sizes (6, 3, 2) and d = 3.

    Args:
        class_sizes: samples of each class, 2 or more, since p is another sample of the class.
        feature_dim: d.
        temperature: τ > 0.
        nonnegative: whether the features are constrained to be >= 0.

    Raises: ValueError for fewer than 2 classes, a class of fewer than 2 samples, feature_dim < 1, a
    temperature that is not above 0, or a `nonnegative` that is no boolean.

    Example: two samples in each of two classes, at collapse and at an angle of 180 degrees.

        >>> problem = nc.problems.ContrastiveFeatures((2, 2), 1, temperature=0.5)
        >>> value = problem.objective(jnp.array([[1.0], [1.0], [-1.0], [-1.0]]))
        >>> bool(jnp.allclose(value, jnp.log(1 + 2 * jnp.exp(-4.0))))
        True
    """

    class_sizes: tuple[int, ...] = eqx.field(static=True)
    feature_dim: int = eqx.field(static=True)
    temperature: float | Float[Array, ""]
    nonnegative: bool = eqx.field(static=True)

    def __init__(
        self,
        class_sizes: Sequence[int],
        feature_dim: int,
        *,
        temperature: float | Float[Array, ""],
        nonnegative: bool = False,
    ):
        self.class_sizes = check_sizes("class_sizes", class_sizes)
        if self.num_classes < 2:
            message = f"class_sizes = {self.class_sizes}: collapse needs 2 or more classes."
            raise ArgumentError(message, "class_sizes")
        if min(self.class_sizes) < 2:
            raise ArgumentError(
                f"class_sizes = {self.class_sizes}: the loss compares each sample with others of "
                "its class; give 2 or more samples of each class.",
                "class_sizes",
            )
        self.feature_dim = check_integer("feature_dim", feature_dim)
        check_number("temperature", temperature, above_zero=True, scalar=True)
        self.temperature = weak_scalar(temperature)
        check_kind("nonnegative", nonnegative, (bool, np.bool_), "True")
        self.nonnegative = bool(nonnegative)

    def init(self, key: Key[Array, ""], *, dtype: DTypeLike = float) -> Float[Array, "N d"]:
        """Random unit rows, uniform on the sphere, or on its part >= 0 with `nonnegative`.

        Raises: ValueError for a raw (untyped) key, or a dtype other than float32 and float64.
        """
        check_key(key)
        check_dtype(dtype)
        shape = (self.num_samples, self.feature_dim)
        rows = gaussian_unit_rows(key, shape, dtype)
        return jnp.abs(rows) if self.nonnegative else rows

    def objective(self, state: Float[Array, "N d"]) -> Float[Array, ""]:
        """L, scalar; defined for rows of any norm."""
        check_shapes(self, state, name="state")
        similarity = self._similarity(state)
        positives = jnp.asarray(self._positives(), state.dtype)
        # The diagonal of the similarity is −∞, which the weight 0 would turn into NaN.
        attracted = jnp.sum(jnp.where(positives > 0, positives * similarity, 0), axis=1)
        return jnp.mean(jax.nn.logsumexp(similarity, axis=1) - attracted)

    def gradient(self, state: Float[Array, "N d"]) -> Float[Array, "N d"]:
        """P ∇L, minus the velocity of the flow."""
        return -self.scaled_descent(state, 0.0)

    def scaled_descent(
        self, state: Float[Array, "N d"], log_scale: Float[ArrayLike, ""]
    ) -> Float[Array, "N d"]:
        """e^log_scale · (−P ∇L)."""
        check_shapes(self, state, name="state")
        # With A the `residual`, row i of L has ∂L_i/∂(h_i·h_a/τ) = A_ia/N. The product h_i·h_a
        # occurs in the terms of both samples, hence A + Aᵀ.
        residual = jax.nn.softmax(self._similarity(state), axis=1)
        residual = residual - jnp.asarray(self._positives(), state.dtype)
        scale = jnp.exp(jnp.asarray(log_scale)) / (self.num_samples * self.temperature)
        velocity = tangent_to_rows(state, -scale * matmul(residual + residual.T, state))
        if self.nonnegative:
            return jnp.where(state > 0, velocity, jnp.maximum(velocity, 0))
        return velocity

    def retract(self, state: Float[Array, "N d"]) -> Float[Array, "N d"]:
        """The nearest unit rows, with entries >= 0 if `nonnegative`."""
        return unit_rows(jnp.maximum(state, 0) if self.nonnegative else state)

    def observe(self, state: Float[Array, "N d"]) -> dict[str, Float[Array, ""]]:
        """The loss, the collapse metrics of features alone, and `feature_orthogonality_gap`."""
        moments = class_moments(state, self.labels, self.num_classes)
        # The chosen metrics do not depend on the classifier. The means only fill its place.
        measured = collapse_metrics(LastLayer(state, moments.means), self.labels)
        origin = jnp.zeros(self.feature_dim, state.dtype)
        statistics = Statistics(moments.counts, origin, moments.means, moments.scatter)
        with jax.default_matmul_precision("highest"):
            gap = MEASURES["feature_orthogonality_gap"].compute(statistics)
        return {
            "objective": self.objective(state),
            **{name: measured[name] for name in _MEASURES},
            "feature_orthogonality_gap": gap,
        }

    @property
    def remedy_of_jumps(self) -> str:
        """Larger steps, where entries reach 0; empty for features of any sign."""
        return "give larger rtol and atol, or a min_step" if self.nonnegative else ""

    def invariants(self, state: Float[Array, "N d"]) -> dict[str, Invariant]:
        """`row_norms` ‖h_i‖² = 1."""
        return {"row_norms": Invariant(jnp.sum(state**2, axis=1), jnp.ones((), state.dtype))}

    def largest_log_scale(self, dtype: DTypeLike) -> float:
        """Log of the dtype's largest number."""
        return math.log(np.finfo(dtype).max)

    def state_shapes(self) -> jax.ShapeDtypeStruct:
        """The shape (N, d)."""
        return jax.ShapeDtypeStruct((self.num_samples, self.feature_dim), jnp.result_type(float))

    def _similarity(self, state: Float[Array, "N d"]) -> Float[Array, "N N"]:
        """h_i·h_a/τ, and −∞ for a = i, which leaves the sample itself out."""
        similarity = matmul(state, state.T) / self.temperature
        return jnp.where(np.eye(self.num_samples, dtype=bool), -jnp.inf, similarity)

    def _positives(self) -> Float[np.ndarray, "N N"]:
        """1/(n_y − 1) for two different samples of class y, else 0."""
        same = self.labels[:, None] == self.labels[None]
        others = same & ~np.eye(self.num_samples, dtype=bool)
        return others / others.sum(axis=1, keepdims=True)
