"""Losses of outputs and rows of targets, which need not be classes."""

import abc
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Real

from ..checks import is_traced
from .base import AbstractSampleLoss
from .logits import capped_exp, paired


class TargetLoss(AbstractSampleLoss):
    """A loss of outputs (N, C) and targets (N, C), one number for each sample.

    Targets are real numbers, where those of a `Loss` are classes: ±1 for a single output, one-hot
    rows or any others for several outputs. A subclass writes three formulas and states its claims,
    as a `Loss` does.

    Attributes:
        finite_at_any_scale: as for a `Loss`.
        shift_invariant: ℓ(z + a1, y) = ℓ(z, y) for every number a, as for a `Loss`.
        is_squared_distance: ℓ(z, y) = ‖z − y‖². The equations of Rangamani for ρ then hold.
        is_half_squared_distance: ℓ(z, y) = ½‖z − y‖². The closed form `exact.regression_minimizer`
            then holds.
        is_pick_all_labels: ℓ(z, y) = −Σ_{k: y_k = 1} log softmax(z)_k. The closed form
            `exact.pick_all_labels_minimizer` then holds.
        is_soft_cross_entropy: ℓ(z, p) = −Σ_k p_k log softmax(z)_k, and it has `excess` and
            `log_excess`. The limit `exact.soft_label_limit` then holds.
        needs_single_output: outputs and targets have shape (N, 1), with targets ±1.
        needs_label_sets: targets are 0 or 1, and each row has at least one of both.

    Example: `SquaredDistance` and `Exponential`.

        >>> issubclass(nc.SquaredDistance, nc.losses.TargetLoss)
        True
        >>> isinstance(nc.Exponential(), nc.losses.TargetLoss)
        True
    """

    shift_invariant: ClassVar[bool] = False
    is_squared_distance: ClassVar[bool] = False
    is_half_squared_distance: ClassVar[bool] = False
    is_pick_all_labels: ClassVar[bool] = False
    is_soft_cross_entropy: ClassVar[bool] = False
    needs_single_output: ClassVar[bool] = False
    needs_label_sets: ClassVar[bool] = False

    # `needs_...` are not claims but conditions on the targets, which a subclass inherits.
    _claims: ClassVar[tuple[str, ...]] = (
        "finite_at_any_scale",
        "shift_invariant",
        "is_squared_distance",
        "is_half_squared_distance",
        "is_pick_all_labels",
        "is_soft_cross_entropy",
    )

    def check_targets(self, targets: Float[Array, "N C"]) -> None:
        """Raise ValueError for targets that do not suit the loss; traced values are not checked."""
        if self.needs_single_output and (
            targets.shape[1] != 1 or not (is_traced(targets) or np.all(np.abs(targets) == 1))
        ):
            raise ValueError(
                f"targets have shape {targets.shape}: {type(self).__name__} needs one column of ±1."
            )
        if not self.needs_label_sets or is_traced(targets):
            return
        known = np.asarray(targets)
        mixed = (known.min(axis=1) == 0) & (known.max(axis=1) == 1)
        allowed = mixed & np.all((known == 0) | (known == 1), axis=1)
        if not np.all(allowed):
            row = int(np.argmin(allowed))
            raise ValueError(
                f"targets: row {row} = {known[row].tolist()}: {type(self).__name__} needs 1 at the "
                "labels of a sample and 0 elsewhere, with one or more of both."
            )

    @abc.abstractmethod
    def value(self, outputs: Real[Array, "N C"], targets: Real[Array, "N C"]) -> Float[Array, " N"]:
        """ℓ(z_i, y_i), shape (N,)."""

    @abc.abstractmethod
    def log_value(
        self, outputs: Real[Array, "N C"], targets: Real[Array, "N C"]
    ) -> Float[Array, " N"]:
        """log ℓ(z_i, y_i), shape (N,)."""

    @abc.abstractmethod
    def scaled_gradient(
        self,
        outputs: Real[Array, "N C"],
        targets: Real[Array, "N C"],
        log_scale: Float[ArrayLike, ""],
    ) -> Float[Array, "N C"]:
        """e^log_scale ∂ℓ_i/∂z_i, shape (N, C)."""


class SquaredDistance(TargetLoss):
    """Squared distance of outputs from targets ℓ(z, y) = ‖z − y‖² (Rangamani, eq. 1), without ½.

    Example:

        >>> nc.SquaredDistance().value(jnp.zeros((1, 1)), jnp.ones((1, 1))).tolist()
        [1.0]
    """

    is_squared_distance: ClassVar[bool] = True

    def value(self, outputs: Real[Array, "N C"], targets: Real[Array, "N C"]) -> Float[Array, " N"]:
        """ℓ_i, shape (N,)."""
        outputs, targets = paired(outputs, targets)
        return jnp.sum((outputs - targets) ** 2, axis=1)

    def log_value(
        self, outputs: Real[Array, "N C"], targets: Real[Array, "N C"]
    ) -> Float[Array, " N"]:
        """log ℓ_i, shape (N,); −inf at an exact fit."""
        return jnp.log(self.value(outputs, targets))

    def scaled_gradient(
        self,
        outputs: Real[Array, "N C"],
        targets: Real[Array, "N C"],
        log_scale: Float[ArrayLike, ""],
    ) -> Float[Array, "N C"]:
        """e^log_scale ∂ℓ_i/∂z_i, shape (N, C); overflows with the scale."""
        outputs, targets = paired(outputs, targets)
        return 2 * jnp.exp(log_scale) * (outputs - targets)


class HalfSquaredDistance(TargetLoss):
    """Half squared distance of outputs from targets ℓ(z, y) = ½‖z − y‖², for regression.

    On one-hot targets it is `SquaredError` on their classes.

    Example:

        >>> nc.losses.HalfSquaredDistance().value(jnp.zeros((1, 2)), jnp.ones((1, 2))).tolist()
        [1.0]
    """

    is_half_squared_distance: ClassVar[bool] = True

    def value(self, outputs: Real[Array, "N C"], targets: Real[Array, "N C"]) -> Float[Array, " N"]:
        """ℓ_i, shape (N,)."""
        return SquaredDistance().value(outputs, targets) / 2

    def log_value(
        self, outputs: Real[Array, "N C"], targets: Real[Array, "N C"]
    ) -> Float[Array, " N"]:
        """log ℓ_i, shape (N,); −inf at an exact fit."""
        return jnp.log(self.value(outputs, targets))

    def scaled_gradient(
        self,
        outputs: Real[Array, "N C"],
        targets: Real[Array, "N C"],
        log_scale: Float[ArrayLike, ""],
    ) -> Float[Array, "N C"]:
        """e^log_scale ∂ℓ_i/∂z_i, shape (N, C); overflows with the scale."""
        return SquaredDistance().scaled_gradient(outputs, targets, log_scale) / 2


class Exponential(TargetLoss):
    """Exponential loss ℓ(z, y) = e^(−yz) of one output with y = ±1 (Rangamani, appendix J.2).

    Example: the loss underflows to 0 at a margin of 800, where its logarithm is −800.

        >>> loss, outputs, targets = nc.Exponential(), jnp.array([[800.0]]), jnp.ones((1, 1))
        >>> loss.value(outputs, targets).tolist(), loss.log_value(outputs, targets).tolist()
        ([0.0], [-800.0])
    """

    finite_at_any_scale: ClassVar[bool] = True
    needs_single_output: ClassVar[bool] = True

    def value(self, outputs: Real[Array, "N 1"], targets: Real[Array, "N 1"]) -> Float[Array, " N"]:
        """ℓ_i, shape (N,)."""
        return jnp.exp(self.log_value(outputs, targets))

    def log_value(
        self, outputs: Real[Array, "N 1"], targets: Real[Array, "N 1"]
    ) -> Float[Array, " N"]:
        """log ℓ_i = −y_i z_i, shape (N,)."""
        outputs, targets = paired(outputs, targets)
        return -jnp.sum(targets * outputs, axis=1)

    def scaled_gradient(
        self,
        outputs: Real[Array, "N 1"],
        targets: Real[Array, "N 1"],
        log_scale: Float[ArrayLike, ""],
    ) -> Float[Array, "N 1"]:
        """e^log_scale ∂ℓ_i/∂z_i with the exponents added before `exp`, shape (N, 1).

        Entries are at most the square root of the largest number of the dtype.
        """
        outputs, targets = paired(outputs, targets)
        exponents = log_scale + self.log_value(outputs, targets)
        return -targets * capped_exp(exponents)[:, None]
