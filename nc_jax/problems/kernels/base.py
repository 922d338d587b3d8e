"""The interface of a kernel: its product with rows of samples, and that of its inverse."""

import abc

import equinox as eqx
from jaxtyping import Array, Float


class AbstractKernel(eqx.Module):
    """Θ, applied to rows of N samples that are sorted by class."""

    @abc.abstractmethod
    def product(
        self, rows: Float[Array, "N *axes"], class_sizes: tuple[int, ...]
    ) -> Float[Array, "N *axes"]:
        """Θ times the rows; axes after the first are columns."""

    @abc.abstractmethod
    def solution(
        self, rows: Float[Array, "N *axes"], class_sizes: tuple[int, ...]
    ) -> Float[Array, "N *axes"]:
        """Θ⁻¹ times the rows, for a kernel whose `check` is True."""

    @abc.abstractmethod
    def check(self, class_sizes: tuple[int, ...]) -> bool:
        """Raise ValueError where Θ is known not to be positive semidefinite.

        Returns: whether Θ has an inverse, and `solution` computes it.
        """
