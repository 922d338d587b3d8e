"""Preconditions of theorems on classes of unequal sizes, weights or decays."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..checks import is_traced
from ..problems import NonnegativeFeatures, UnconstrainedFeatures, check_unconstrained
from .free import (
    bias_is_free,
    check_cross_entropy_loss,
    check_decayed_classes,
    check_dimension,
    check_squared_error,
    check_uniform,
)


def check_ridge(problem: UnconstrainedFeatures) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Require cross-entropy without bias, d >= K−1, and a decay of W and H; return λ_W and λ_H.

    For the minimum of unequal classes at a small decay, √(λ_W λ_H) < s.
    """
    check_uniform(problem)
    check_cross_entropy_loss(problem)
    if problem.bias:
        raise ValueError("problem has a bias: this is known without one; give bias=False.")
    check_dimension(problem, problem.num_classes - 1)
    decay, scale = problem.weight_decay, problem.loss_scale
    known = not (is_traced(decay.classifier) or is_traced(decay.features))
    if known and not 0 < decay.classifier * decay.features < scale**2:
        raise ValueError(
            f"weight decay classifier = {decay.classifier}, features = {decay.features}: give "
            f"numbers > 0 with √(λ_W λ_H) far below the scale {scale:.3g} of the loss."
        )
    return jnp.asarray(decay.classifier), jnp.asarray(decay.features)


def check_two_groups(problem: UnconstrainedFeatures) -> None:
    """Require cross-entropy with decay and without bias, and classes of two sizes.

    Classes of one size must have equal weights and decays.
    """
    check_unconstrained(problem)
    check_decayed_classes(problem)
    check_cross_entropy_loss(problem)
    if problem.bias:
        raise ValueError("problem has a bias: the minimum is known without one; give bias=False.")
    if len(set(problem.class_sizes)) != 2:
        raise ValueError(
            f"class_sizes = {problem.class_sizes}: give classes of two sizes, such as (10, 10, 2)."
        )
    check_one_classifier_decay(problem)
    check_dimension(problem, problem.num_classes - 1)
    for name, values in (
        ("class_weights", problem.class_weights),
        ("weight decay features", problem.weight_decay.features),
    ):
        numbers = jax.tree.leaves(values)
        if any(is_traced(number) for number in numbers) or np.size(np.asarray(numbers)) <= 1:
            continue
        for size in set(problem.class_sizes):
            of_group = np.ravel(numbers)[np.array(problem.class_sizes) == size]
            if np.any(of_group != of_group[0]):
                raise ValueError(
                    f"{name}: numbers of the classes of {size} samples differ; give equal ones."
                )


def check_one_classifier_decay(problem: UnconstrainedFeatures) -> None:
    """Require one λ_W for all classes."""
    if np.ndim(problem.weight_decay.classifier) > 0:
        raise ValueError(
            "weight decay classifier has a number for each class: the minimum is known for one "
            "number for all; give that."
        )


def check_decayed_square_loss(problem: UnconstrainedFeatures) -> None:
    """Require squared error with decay whose minimum is known for unequal classes."""
    check_unconstrained(problem)
    check_squared_error(problem)
    check_decayed_classes(problem)
    if problem.bias or problem.feature_dim < problem.num_classes:
        # Without a bias and for d >= K the classes are independent, whatever their weights are.
        check_uniform(problem)
    if not problem.bias:
        return
    check_dimension(problem, problem.num_classes - int(bias_is_free(problem)))
    if not bias_is_free(problem) and problem.samples_per_class is None:
        raise ValueError(
            f"class_sizes = {problem.class_sizes} and weight decay bias = "
            f"{problem.weight_decay.bias}: a decay of the bias needs classes of one size; give 0."
        )


def check_class_ratios(problem: UnconstrainedFeatures) -> None:
    """Require cross-entropy, or squared error without a bias, for the ratios of classes."""
    check_unconstrained(problem)
    squared = problem.loss.is_squared_error and not problem.bias
    if not (problem.loss.is_cross_entropy or squared):
        raise ValueError(
            f"problem has {problem.loss}, bias {problem.bias}: the ratios are known for "
            "CrossEntropy(), and for SquaredError() without a bias."
        )


def check_nonnegative(problem: object) -> None:
    """Require cross-entropy with decay and features H >= 0, without bias, in d >= K dimensions."""
    if not isinstance(problem, NonnegativeFeatures) or not problem.has_nonnegative_features:
        raise ValueError(
            f"problem is of type {type(problem).__name__}: give an "
            "nc_jax.problems.NonnegativeFeatures."
        )
    check_cross_entropy_loss(problem)
    check_decayed_classes(problem)
    if problem.bias:
        raise ValueError("problem has a bias: the minimum is known without one; give bias=False.")
    check_one_classifier_decay(problem)
    check_dimension(problem, problem.num_classes)
