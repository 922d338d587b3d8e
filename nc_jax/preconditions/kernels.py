"""Preconditions of theorems on free features with a kernel of the samples."""

import jax

from ..checks import is_traced
from ..errors import ArgumentError
from ..problems import KernelFeatures, is_kernel_features
from .free import check_cross_entropy_loss, check_dimension, check_squared_error, class_size


def check_kernel(problem: object, *, inverse: bool = True) -> None:
    """Require features with a kernel, cross-entropy or squared error, and an inverse of Θ."""
    if not is_kernel_features(problem):
        raise ValueError(
            f"problem is of type {type(problem).__name__}: give an nc_jax.KernelFeatures."
        )
    if any(map(is_traced, jax.tree.leaves(problem))):
        raise ValueError(
            "problem has traced numbers: closed forms with a kernel need known ones; close over "
            "the problem in place of giving it to a jit."
        )
    if not (problem.loss.is_cross_entropy or problem.loss.is_squared_error):
        raise ValueError(f"problem has {problem.loss}: give CrossEntropy() or SquaredError().")
    if inverse and not problem.has_inverse:
        raise ValueError(
            "problem has a kernel without an inverse: give a positive definite one, such as "
            "BlockKernel(kd, kc, kn) with kd > kc, a ClassKernel(C, s) with s > 0 where "
            "a class has two samples or more, or a LinearOperator with a solve."
        )


def check_kernel_limit(problem: KernelFeatures) -> None:
    """Require cross-entropy without bias and a kernel with an inverse, in d >= K−1 dimensions."""
    check_kernel(problem)
    check_cross_entropy_loss(problem)
    if problem.bias:
        raise ValueError("problem has a bias: the limit is known without one; give bias=False.")
    if problem.feature_dim < problem.num_classes - 1:
        raise ArgumentError(
            f"feature_dim = {problem.feature_dim}: the limit is known for at least "
            f"{problem.num_classes - 1} dimensions.",
            "feature_dim",
        )


def check_kernel_square_loss(problem: KernelFeatures) -> int:
    """Require squared error, classes of one size, and a kernel with an inverse; return n."""
    check_kernel(problem)
    check_squared_error(problem)
    check_dimension(problem, problem.num_classes - int(problem.bias))
    return class_size(problem)
