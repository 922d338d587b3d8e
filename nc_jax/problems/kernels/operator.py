"""A kernel that is given as a function."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ...checks import is_traced, shown
from ...errors import ArgumentError
from .base import AbstractKernel


class LinearOperator(AbstractKernel):
    """Any symmetric, positive semidefinite Θ, given as a function of features.

    Args:
        apply: rows (N, d) → Θ times the rows, a linear function. An `equinox.Module` with arrays as
            fields makes them arguments of compiled programs.
        solve: rows (N, d) → Θ⁻¹ times the rows; without it there are no invariant of the features
            and no closed forms.

    Raises: ValueError for arguments that are no functions. A problem applies them to random rows,
    and refuses another shape or dtype, a Θ that these rows show not to be symmetric or positive
    semidefinite, and a `solve` that is not its inverse.

    Example: a kernel of similarities of 4 samples, as a dense matrix.

        >>> theta = jnp.array(np.diag([2.0, 1.0, 1.0, 1.0]) + 0.1)
        >>> kernel = nc.problems.LinearOperator(
        ...     lambda rows: theta @ rows, lambda rows: jnp.linalg.solve(theta, rows)
        ... )
        >>> problem = nc.KernelFeatures((2, 2), 3, kernel=kernel)
        >>> sorted(problem.invariants(problem.init(jax.random.key(0))))
        ['classifier_sum', 'kernel_balance']
    """

    apply: Callable[[Float[Array, "N d"]], Float[Array, "N d"]]
    solve: Callable[[Float[Array, "N d"]], Float[Array, "N d"]] | None = None

    def __check_init__(self):
        if not callable(self.apply):
            raise ArgumentError(f"apply = {shown(self.apply)}: give a function of rows.", "apply")
        if self.solve is not None and not callable(self.solve):
            raise ArgumentError(f"solve = {shown(self.solve)}: give a function of rows.", "solve")

    def product(
        self, rows: Float[Array, "N *axes"], class_sizes: tuple[int, ...]
    ) -> Float[Array, "N *axes"]:
        """`apply` of the rows, with all axes after the first as columns."""
        del class_sizes
        return self.apply(rows.reshape(len(rows), -1)).reshape(rows.shape)

    def solution(
        self, rows: Float[Array, "N *axes"], class_sizes: tuple[int, ...]
    ) -> Float[Array, "N *axes"]:
        """`solve` of the rows."""
        del class_sizes
        assert self.solve is not None  # `check` is False without it.
        return self.solve(rows.reshape(len(rows), -1)).reshape(rows.shape)

    def check(self, class_sizes: tuple[int, ...]) -> bool:
        """Raise ValueError unless random rows agree with a symmetric Θ >= 0 and its inverse."""
        shape = (sum(class_sizes), 2)
        with jax.ensure_compile_time_eval():
            rows = jnp.asarray(np.random.default_rng(0).normal(size=shape), float)
            image = self.apply(rows)
            back = rows if self.solve is None else self.solve(image)
        for name, result in (("apply", image), ("solve", back)):
            if jnp.shape(result) != shape or result.dtype != rows.dtype:
                raise ArgumentError(
                    f"kernel: {name} of rows of shape {shape} and dtype {rows.dtype} has shape "
                    f"{jnp.shape(result)} and dtype {result.dtype}; give a function that keeps "
                    "both.",
                    "kernel",
                )
        if is_traced(image) or is_traced(back):
            return self.solve is not None
        rows, image, back = (np.asarray(array, float) for array in (rows, image, back))
        products, size = rows.T @ image, np.linalg.norm(rows) * np.linalg.norm(image)
        tolerance = 1e3 * float(jnp.finfo(result.dtype).eps)
        if abs(products[0, 1] - products[1, 0]) > tolerance * size:
            raise ArgumentError("kernel is not symmetric: give a Θ with Θᵀ = Θ.", "kernel")
        if np.linalg.eigvalsh(products)[0] < -tolerance * size:
            raise ArgumentError(
                "kernel has a negative eigenvalue: give a positive semidefinite Θ.", "kernel"
            )
        # A badly conditioned Θ loses digits, so that this check finds wrong functions only.
        if np.linalg.norm(back - rows) > 0.01 * np.linalg.norm(rows):
            raise ArgumentError("kernel: solve is not the inverse of apply.", "kernel")
        return self.solve is not None
