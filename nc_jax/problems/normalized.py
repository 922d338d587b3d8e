"""Normalised features: rows of features and classifier on unit spheres."""

from collections.abc import Sequence
from typing import ClassVar, Literal, TypeGuard

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, DTypeLike, Float, Key

from ..checks import check_key, check_number
from ..geometry import unit_rows
from ..lanes import reduce_classes
from ..losses import CrossEntropy, Loss
from ..measures import Invariant, collapse_metrics, sample_margins
from ..precision import check_dtype, largest_exponent, weak_scalar
from ..starts import gaussian_unit_rows
from ..state import LastLayer
from .labelled import AbstractLabelled
from .unconstrained import UnconstrainedFeatures


class NormalizedFeatures(AbstractLabelled):
    """Loss of τHWᵀ over features and classifiers of norm 1, ‖h_i‖ = ‖w_k‖ = 1 (Yaras et al. 2022).

    L(W, H) = s Σ_i ℓ(τ W h_i, y_i) with s = 1/N for reduction "mean" and 1 for "sum". The flow is
    the Riemannian gradient flow on the product of N + K unit spheres,

        h_i' = −(I − h_i h_iᵀ) ∂L/∂h_i,   w_k' = −(I − w_k w_kᵀ) ∂L/∂w_k.

    τ multiplies the cosines ⟨w_k, h_i⟩. Most papers (Jiang et al. 2024, and contrastive learning)
    divide the cosines by a temperature 1/τ; Yaras et al. call τ itself the temperature. Hessians of
    `nc_jax.landscape`, and `landscape.classify`, are Riemannian, on the product of spheres.

    Args:
        class_sizes: samples of each class; unequal sizes are allowed.
        feature_dim: d.
        inverse_temperature: τ > 0. It may be an array, and is no static field: a `jax.vmap` or a
            second run with another τ needs no new compilation.
        loss: `CrossEntropy()` or another `nc_jax.losses.Loss`.
        reduction: "mean" or "sum".

    Raises: ValueError for an inverse temperature that is not above 0, and for the other arguments
    as `UnconstrainedFeatures`.

    Example: with large τ the loss of a simplex ETF is (K−1) e^(−τK/(K−1)).

        >>> problem = nc.NormalizedFeatures((2, 2, 2), 4, inverse_temperature=20.0)
        >>> state = nc.exact.normalized_minimizer(problem)
        >>> print(round(float(problem.log_objective(state)), 6), round(np.log(2) - 20 * 3 / 2, 6))
        -29.306853 -29.306853
    """

    free: UnconstrainedFeatures
    inverse_temperature: float | Float[Array, ""]

    # The claim is about the flow of this class: see `AbstractProblem.has_unit_rows`.
    has_unit_rows: ClassVar[bool] = True
    is_normalized: ClassVar[bool] = True

    _claims: ClassVar[tuple[str, ...]] = ("has_unit_rows", "is_normalized")
    _formulas: ClassVar[tuple[str, ...]] = (
        "labels", "loss_scale", *AbstractLabelled._formulas, "retract",
    )  # fmt: skip

    def __init__(
        self,
        class_sizes: Sequence[int],
        feature_dim: int,
        *,
        inverse_temperature: float | Float[Array, ""],
        loss: Loss = CrossEntropy(),
        reduction: Literal["mean", "sum"] = "mean",
    ):
        self.free = UnconstrainedFeatures(class_sizes, feature_dim, loss=loss, reduction=reduction)
        check_number("inverse_temperature", inverse_temperature, above_zero=True, scalar=True)
        self.inverse_temperature = weak_scalar(inverse_temperature)

    @property
    def feature_dim(self) -> int:
        """d."""
        return self.free.feature_dim

    def init(self, key: Key[Array, ""], *, dtype: DTypeLike = float) -> LastLayer:
        """Independent rows, uniform on the unit sphere: Gaussian rows divided by their norms.

        Args: `key` from `jax.random.key`; `dtype` defaults to JAX's default float. Run i of a
        series uses `jax.random.fold_in(key, i)`.

        Raises: ValueError for a raw (untyped) key.
        """
        check_key(key)
        check_dtype(dtype)
        of_features, of_classifier = jax.random.split(key)
        return LastLayer(
            gaussian_unit_rows(of_features, (self.num_samples, self.feature_dim), dtype),
            gaussian_unit_rows(of_classifier, (self.num_classes, self.feature_dim), dtype),
        )

    def objective(self, state: LastLayer) -> Float[Array, ""]:
        """L(W, H), scalar."""
        return self.free.objective(self.with_scaled_classifier(state))

    def log_objective(self, state: LastLayer) -> Float[Array, ""]:
        """log L(W, H), finite where L underflows to 0."""
        return self.free.log_objective(self.with_scaled_classifier(state))

    def gradient(self, state: LastLayer) -> LastLayer:
        """The Riemannian gradient: ∇L with the part along each row removed."""
        return jax.tree.map(jnp.negative, self.scaled_descent(state, 0.0))

    def scaled_descent(self, state: LastLayer, log_scale: Float[ArrayLike, ""]) -> LastLayer:
        """e^log_scale times the field of the flow; exponents are added before `exp`."""
        descent = self.free.scaled_descent(self.with_scaled_classifier(state), log_scale)
        return self._tangential(state, descent)

    def scaled_descent_lanes(self, states: LastLayer, log_scale: Float[ArrayLike, ""]) -> LastLayer:
        """`scaled_descent` of S states, the last axis: (N, d, S), (K, d, S)."""
        if not is_normalized(self):
            return super().scaled_descent_lanes(states, log_scale)
        descent = self.free.scaled_descent_lanes(self.with_scaled_classifier(states), log_scale)
        return self._tangential(states, descent)

    def retract(self, state: LastLayer) -> LastLayer:
        """The state with each row divided by its norm."""
        return jax.tree.map(unit_rows, state)

    def observe(self, state: LastLayer) -> dict[str, Float[Array, ""]]:
        """Objective, every collapse metric, and margins, as scalars.

        Keys: `objective`, `log_objective`; those of `metrics.collapse_metrics`; `margin_min` and
        `margin_mean` of the logits τ⟨w_k, h_i⟩; `cosine_margin_min`, the smallest of
        ⟨w_y − w_j, h_i⟩, which is at most the value of the best softmax code
        (`exact.softmax_code`).
        """
        margins = sample_margins(self.with_scaled_classifier(state), self.labels)
        return {
            "objective": self.objective(state),
            "log_objective": self.log_objective(state),
            **collapse_metrics(state, self.labels),
            "margin_min": jnp.min(margins),
            "margin_mean": jnp.mean(margins),
            "cosine_margin_min": jnp.min(sample_margins(state, self.labels)),
        }

    def invariants(self, state: LastLayer) -> dict[str, Invariant]:
        """`row_norms`: the squared norms of all rows, which the flow conserves."""
        squares = [jnp.sum(rows**2, axis=1) for rows in jax.tree.leaves(state)]
        return {"row_norms": Invariant(jnp.concatenate(squares), jnp.ones((), squares[0].dtype))}

    def largest_log_scale(self, dtype: DTypeLike) -> float:
        """Log of the largest number of the dtype, since the flow converges to a point."""
        return largest_exponent(dtype)

    def with_scaled_classifier(self, state: LastLayer) -> LastLayer:
        """The state (H, τW), whose logits are those of the model.

        Example:

            >>> problem = nc.NormalizedFeatures((1, 1), 2, inverse_temperature=3.0)
            >>> state = nc.LastLayer(jnp.eye(2), jnp.eye(2))
            >>> problem.with_scaled_classifier(state).logits().tolist()
            [[3.0, 0.0], [0.0, 3.0]]
        """
        # In the dtype of the state, which a float64 array τ would promote.
        scale = jnp.asarray(self.inverse_temperature, state.classifier.dtype)
        # `tree_at` and not `LastLayer`, which would refuse the third axis of lanes.
        return eqx.tree_at(lambda layer: layer.classifier, state, scale * state.classifier)

    def _tangential(self, state: LastLayer, descent: LastLayer) -> LastLayer:
        """The velocity of (H, W), from −∂L/∂(H, τW); the axes after the first two are lanes."""

        def project(rows: Array, field: Array) -> Array:
            # Divided by ‖x‖², so that the flow conserves each norm wherever it starts. Without it
            # norms drift from 1 exponentially where the loss pulls a row inwards.
            along = reduce_classes(jnp.add, rows * field) / reduce_classes(jnp.add, rows**2)
            return field - along * rows

        # ∂L/∂W = τ ∂L/∂(τW) by the chain rule. ∂L/∂H contains its factor τ already.
        return jax.tree.map(project, state, self.with_scaled_classifier(descent))


def is_normalized(problem: object) -> TypeGuard[NormalizedFeatures]:
    """Whether what is proved of `NormalizedFeatures` holds for a problem."""
    return isinstance(problem, NormalizedFeatures) and problem.is_normalized


def check_normalized(problem: object) -> None:
    """Raise ValueError unless what is proved of `NormalizedFeatures` holds for a problem."""
    if not is_normalized(problem):
        raise ValueError(
            f"problem is of type {type(problem).__name__}: give a nc_jax.NormalizedFeatures("
            "class_sizes, feature_dim, inverse_temperature=...)."
        )
