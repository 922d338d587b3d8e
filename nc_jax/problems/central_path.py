"""The renormalised flow of whitened features with the least-squares classifier (central path)."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, DTypeLike, Float, Key

from ..checks import check_integer
from ..errors import ArgumentError
from ..measures import (
    Invariant,
    class_moments,
    collapse_metrics,
    least_squares_layer,
    square_loss_parts,
)
from ..precision import largest_exponent, matmul
from ..starts import checked_norm, gaussian_directions
from ..state import LastLayer
from .base import check_shapes
from .classed import AbstractClassed
from .unconstrained.sizes import check_sizes


class CentralPath(AbstractClassed):
    """X' = −P ∇L_LS(X) on {Σ_W(X) = I}: the central path of Han, Papyan, Donoho (2022).

    L_LS(X) = min_{W,b} ½ mean_i ‖W h_i + b − e_{y_i}‖² is the square loss of the least-squares
    classifier on the features X (N, d), the state. Σ_W = (1/N) Σ_i (h_i − μ_{y_i})(h_i − μ_{y_i})ᵀ
    is their covariance within the classes, and P the orthogonal projection onto the tangent space
    of the constraint. With the deviations E of the features from their class means, the normal
    space is {ES : S symmetric}. The within-class part E WᵀW/N of ∇L_LS lies in it, so that the flow
    changes the class means alone, and the deviations are constant (derived). For classes of one
    size `exact.central_path` is the closed form of the flow. Other sizes are allowed; for their
    limit see `exact.central_path_gram`.

    A start must fulfil the constraint, as those of `init` and `retract` do; `within_covariance_gap`
    records ‖Σ_W − I‖. The norms of the means grow as t^(1/4) without bound. Since a feature is
    stored as the sum of its mean and its deviation, in float64 the deviations have lost half of
    their digits at t = 10^32, and all digits at t = 10^64. `deviations_drift` records this.

    Args:
        class_sizes: samples of each class.
        feature_dim: d, at most N − K, since Σ_W has rank N − K at most.

    Raises: ValueError for fewer than 2 classes, an empty class, or feature_dim outside 1..N−K.

    Example: the velocity of a start has no part within the classes.

        >>> problem = nc.problems.CentralPath((3, 3), 2)
        >>> velocity = problem.vector_field(0.0, problem.init(jax.random.key(0)), None)
        >>> bool(jnp.all(velocity[:3] == velocity[0]))
        True
    """

    class_sizes: tuple[int, ...] = eqx.field(static=True)
    feature_dim: int = eqx.field(static=True)

    def __init__(self, class_sizes: Sequence[int], feature_dim: int):
        self.class_sizes = check_sizes("class_sizes", class_sizes)
        if self.num_classes < 2:
            message = f"class_sizes = {self.class_sizes}: collapse needs 2 or more classes."
            raise ArgumentError(message, "class_sizes")
        self.feature_dim = check_integer("feature_dim", feature_dim)
        most = self.num_samples - self.num_classes
        if self.feature_dim > most:
            raise ArgumentError(
                f"feature_dim = {feature_dim}: N − K = {most} deviations from class means span at "
                "most as many dimensions, so that Σ_W = I needs more samples or fewer dimensions.",
                "feature_dim",
            )

    def init(
        self, key: Key[Array, ""], norm: Float[ArrayLike, ""] = 1.0, *, dtype: DTypeLike = float
    ) -> Float[Array, "N d"]:
        """Gaussian deviations, whitened, around Gaussian class means of ‖M‖_F = norm.

        Raises: ValueError for a raw (untyped) key or a norm that is negative or not finite.
        """
        scale = checked_norm(key, norm, dtype)
        rows = (self.num_samples, self.num_classes)
        shapes = tuple((count, self.feature_dim) for count in rows)
        norms = jnp.stack([jnp.ones_like(scale), scale])
        spread, means = gaussian_directions(jax.random.split(key), shapes, norms)
        _, deviations = self.split(spread)
        return means[self.labels] + self._whitened(deviations)

    def split(self, state: Float[Array, "N d"]) -> tuple[Float[Array, "K d"], Float[Array, "N d"]]:
        """Class means (K, d), and the deviations (N, d) of the features from them."""
        means = class_moments(state, self.labels, self.num_classes).means
        return means, state - means[self.labels]

    def retract(self, state: Float[Array, "N d"]) -> Float[Array, "N d"]:
        """The nearest features with Σ_W = I; the class means are unchanged."""
        means, deviations = self.split(state)
        return means[self.labels] + self._whitened(deviations)

    def objective(self, state: Float[Array, "N d"]) -> Float[Array, ""]:
        """L_LS at any features, with Σ_W = I or not: ½ tr B (I + C Σ_W^(-1) Cᵀ)^(-1), scalar.

        C = Qᵀ diag(√p) M (K−1, d) are contrasts of the class means and B = Qᵀ diag(p) Q, with
        p_c = n_c/N and an orthonormal basis Q of the complement of √p (derived).
        """
        check_shapes(self, state, name="state")
        contrasts, shares = self._contrasts(state)
        whitened = self._whitened_contrasts(state)
        gram = jnp.eye(len(whitened), dtype=state.dtype) + matmul(whitened, whitened.T)
        return jnp.trace(jnp.linalg.solve(gram, self._weights(contrasts, shares))) / 2

    def gradient(self, state: Float[Array, "N d"]) -> Float[Array, "N d"]:
        """P ∇L_LS, the part of the gradient that is tangent to the constraint."""
        return -self.scaled_descent(state, 0.0)

    def scaled_descent(
        self, state: Float[Array, "N d"], log_scale: Float[ArrayLike, ""]
    ) -> Float[Array, "N d"]:
        """e^log_scale · (−P ∇L_LS): C' = (1/N)(I + CCᵀ)^(-1) B (I + CCᵀ)^(-1) C for the contrasts.

        The residual of the class means is of order 1/ω² relative to the targets, for a singular
        value ω. Computed as outputs minus targets it would lose its digits late in the flow. This
        formula has no such difference.
        """
        check_shapes(self, state, name="state")
        contrasts, shares = self._contrasts(state)
        means = self._contrasts_of_means(state)
        gram = jnp.eye(len(means), dtype=state.dtype) + matmul(means, means.T)
        # The size of the Gram matrix is split off and joins the scale in log space, because
        # e^log_scale may be near the largest float.
        size = jnp.trace(gram) / len(gram)
        inner = jnp.linalg.solve(gram / size, means)
        inner = jnp.linalg.solve(gram / size, matmul(self._weights(contrasts, shares), inner))
        scale = jnp.exp(log_scale - 2 * jnp.log(size) - np.log(self.num_samples).item())
        return matmul(contrasts / jnp.sqrt(shares)[:, None], scale * inner)[self.labels]

    def observe(self, state: Float[Array, "N d"]) -> dict[str, Float[Array, "..."]]:
        """Loss, its parts, singular values, and every collapse metric with the classifier W_LS.

        `singular_values` (K−1,), in descending order: ω_j, where ω_j² is K times an eigenvalue of
        Σ_W^(-1) Σ_B.
        """
        layer = self.last_layer(state)
        parts = square_loss_parts(layer, self.labels)
        whitened = self._whitened_contrasts(state)
        singular = jnp.linalg.svd(whitened, compute_uv=False)
        missing = self.num_classes - 1 - len(singular)  # where d < K−1
        return {
            "objective": self.objective(state),
            "within_covariance_gap": self._constraint_gap(state),
            "singular_values": np.sqrt(self.num_classes).item() * jnp.pad(singular, (0, missing)),
            "han_loss_nc1": parts.nc1,
            "han_loss_nc23": parts.nc23,
            **collapse_metrics(layer, self.labels),
        }

    def last_layer(self, state: Float[Array, "N d"]) -> LastLayer:
        """The features with W_LS and b_LS, the state that metrics take."""
        check_shapes(self, state, name="state")
        return least_squares_layer(state, self.labels, self.num_classes)

    def invariants(self, state: Float[Array, "N d"]) -> dict[str, Invariant]:
        """`deviations` h_i − μ_{y_i} and `sample_mean` mean_i h_i, which the flow conserves."""
        deviations = self.split(state)[1]
        mean = jnp.mean(state, axis=0)
        return {
            "deviations": Invariant(deviations, jnp.linalg.norm(deviations)),
            "sample_mean": Invariant(mean, jnp.sqrt(jnp.mean(jnp.sum(state**2, axis=1)))),
        }

    @property
    def comes_to_rest(self) -> bool:
        """False: the norms of the class means grow without bound."""
        return False

    def largest_log_scale(self, dtype: DTypeLike) -> float:
        """Log of the dtype's largest number."""
        return largest_exponent(dtype)

    def state_shapes(self) -> jax.ShapeDtypeStruct:
        """The shape (N, d)."""
        return jax.ShapeDtypeStruct((self.num_samples, self.feature_dim), jnp.result_type(float))

    def _constraint_gap(self, state: Float[Array, "N d"]) -> Float[Array, ""]:
        """‖Σ_W − I‖_F."""
        deviations = self.split(state)[1]
        covariance = matmul(deviations.T, deviations) / self.num_samples
        return jnp.linalg.norm(covariance - jnp.eye(self.feature_dim, dtype=state.dtype))

    def _contrasts(
        self, state: Float[Array, "N d"]
    ) -> tuple[Float[Array, "K K-1"], Float[Array, " K"]]:
        """Q and p in the dtype of the state."""
        contrasts, shares = class_contrasts(self.class_sizes)
        return jnp.asarray(contrasts, state.dtype), jnp.asarray(shares, state.dtype)

    def _weights(
        self, contrasts: Float[Array, "K r"], shares: Float[Array, " K"]
    ) -> Float[Array, "r r"]:
        """B = Qᵀ diag(p) Q."""
        return matmul(contrasts.T, shares[:, None] * contrasts)

    def _contrasts_of_means(self, state: Float[Array, "N d"]) -> Float[Array, "r d"]:
        """C = Qᵀ diag(√p) M."""
        contrasts, shares = self._contrasts(state)
        means, _ = self.split(state)
        # QᵀD^½ maps a common offset to 0 in exact arithmetic. It is subtracted first, since a large
        # one would leave rounding errors.
        centred = means - matmul(shares[None], means)
        return matmul(contrasts.T, jnp.sqrt(shares)[:, None] * centred)

    def _whitened_contrasts(self, state: Float[Array, "N d"]) -> Float[Array, "r d"]:
        """C with C Cᵀ = C₀ Σ_W^(-1) C₀ᵀ for the contrasts C₀ of the means."""
        deviations = self.split(state)[1] / np.sqrt(self.num_samples).item()
        # The triangular R of E = OR has RᵀR = Σ_W. EᵀE itself would square the condition number.
        triangle = jnp.linalg.qr(deviations, mode="r")
        contrasts = self._contrasts_of_means(state)
        return jax.scipy.linalg.solve_triangular(triangle, contrasts.T, trans="T").T

    def _whitened(self, deviations: Float[Array, "N d"]) -> Float[Array, "N d"]:
        """The nearest deviations with Σ_W = I: √N times the orthogonal polar factor."""
        left, _, right = jnp.linalg.svd(deviations, full_matrices=False)
        return np.sqrt(self.num_samples).item() * matmul(left, right)


def class_contrasts(
    class_sizes: Sequence[int],
) -> tuple[Float[np.ndarray, "K K-1"], Float[np.ndarray, " K"]]:
    """An orthonormal basis Q of the complement of √p, (K, K−1), and p_c = n_c/N, (K,), float64.

    Raises: ValueError for sizes that are no integers >= 1, or fewer than 2 classes.

    Example:

        >>> from nc_jax.problems.central_path import class_contrasts
        >>> basis, shares = class_contrasts((1, 3))
        >>> bool(np.abs(np.sqrt(shares) @ basis).max() < 1e-15), shares.tolist()
        (True, [0.25, 0.75])
    """
    sizes = check_sizes("class_sizes", class_sizes)
    if len(sizes) < 2:
        message = f"class_sizes = {sizes}: collapse needs 2 or more classes."
        raise ArgumentError(message, "class_sizes")
    shares = np.array(sizes) / sum(sizes)
    basis, _ = np.linalg.qr(np.sqrt(shares)[:, None], mode="complete")
    return basis[:, 1:], shares
