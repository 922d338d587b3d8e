"""Constant kernels Θ of the flow of features, H' = −Θ ∂L/∂H, positive semidefinite."""

from .base import AbstractKernel as AbstractKernel
from .of_classes import (
    BlockKernel as BlockKernel,
    ClassKernel as ClassKernel,
    class_sums as class_sums,
)
from .operator import LinearOperator as LinearOperator
