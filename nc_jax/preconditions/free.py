"""Preconditions of theorems on free features with one classifier.

n is the number of samples of each class.
"""

import jax
from jaxtyping import Array, Float

from ..checks import check_number, is_traced
from ..errors import ArgumentError
from ..problems import (
    AbstractProblem,
    DeepUnconstrainedFeatures,
    FreeFeatures,
    LinearizedMixon,
    UnconstrainedFeatures,
    check_unconstrained,
    is_unconstrained,
)

_GIVE_ULPM = "give nc_jax.ulpm(num_classes, feature_dim, samples_per_class)"
_GIVE_MIXON = "give nc_jax.mixon(num_classes, feature_dim, samples_per_class)"


def bias_is_free(problem: UnconstrainedFeatures | FreeFeatures) -> bool:
    """Whether there is a bias without a penalty; False for a penalty that is given as an array."""
    decay = problem.weight_decay.bias
    # A traced or swept λ_b may be positive, and what holds for λ_b = 0 must not be claimed for it.
    return problem.bias and isinstance(decay, float) and decay == 0


def bias_shifts_freely(problem: UnconstrainedFeatures | FreeFeatures) -> bool:
    """Whether the same number added to every entry of the bias changes nothing.

    This holds for losses of differences of logits, such as cross-entropy.
    """
    return bias_is_free(problem) and problem.loss.shift_invariant


def check_gradient_flow(problem: AbstractProblem) -> None:
    """Refuse a problem whose flow has no Hessian: see `AbstractProblem.is_gradient_flow`."""
    if not problem.is_gradient_flow:
        raise ValueError(
            f"problem is of type {type(problem).__name__} with is_gradient_flow = False: the flow "
            "has constraints, or is not minus the gradient of the objective, so that there is no "
            "Hessian; give one without constraints, or a NormalizedFeatures, whose spheres are "
            "supported."
        )


def check_uniform(problem: object) -> None:
    """Require free features, and one weight of the loss and one λ for all classes."""
    check_unconstrained(problem)
    # For type checkers: the line above has refused other problems.
    assert isinstance(problem, UnconstrainedFeatures)
    if problem.class_weights is not None:
        raise ValueError(
            "problem has class_weights: this is proved for a loss without weights; give None."
        )
    if problem.weight_decay.per_class:
        raise ValueError(
            "weight decay has a number for each class: this is proved for one number λ_W and one "
            "λ_H; give these."
        )


def check_balanced(problem: UnconstrainedFeatures) -> int:
    """Require balanced classes, as every collapsed point in closed form does; return n."""
    check_uniform(problem)
    return class_size(problem)


def check_without_bias(problem: UnconstrainedFeatures) -> int:
    """Require balanced classes and no bias (Ji, theorem 3.1 and corollary 3.1); return n."""
    check_uniform(problem)
    if problem.bias:
        raise ValueError(f"problem has a bias: Ji's theorems are of models without; {_GIVE_ULPM}.")
    return class_size(problem)


def check_homogeneous(problem: UnconstrainedFeatures) -> None:
    """Require cross-entropy without bias and decay (Ji, theorems 3.2 and 3.4, lemma B.1)."""
    check_uniform(problem)
    plain = problem.loss.is_cross_entropy and problem.weight_decay.absent
    if problem.bias or not plain:
        raise ValueError(
            f"problem has {type(problem.loss).__name__}, bias {problem.bias}, weight decay "
            f"{not problem.weight_decay.absent}: Ji's theorems are of cross-entropy without bias "
            f"and decay; {_GIVE_ULPM}."
        )


def check_balanced_homogeneous(problem: UnconstrainedFeatures) -> int:
    """Require balanced cross-entropy without bias and decay (Ji, theorem 3.3); return n."""
    check_homogeneous(problem)
    return class_size(problem)


def check_undecayed_cross_entropy(problem: UnconstrainedFeatures) -> int:
    """Require balanced cross-entropy without decay; return n.

    Its flow stays on the ray of collapsed points. A bias is allowed: on the ray its gradient is 0.
    """
    check_uniform(problem)
    if not problem.loss.is_cross_entropy or not problem.weight_decay.absent:
        raise ValueError(
            f"problem has {type(problem.loss).__name__}, weight decay "
            f"{not problem.weight_decay.absent}: the flow on the collapsed ray is that of "
            f"cross-entropy without decay; {_GIVE_ULPM}."
        )
    return class_size(problem)


def check_cross_entropy(problem: UnconstrainedFeatures) -> int:
    """Require balanced cross-entropy, for the Hessian at the origin; return n."""
    check_uniform(problem)
    check_cross_entropy_loss(problem)
    return class_size(problem)


def check_decayed_cross_entropy(problem: UnconstrainedFeatures) -> int:
    """Require balanced cross-entropy with decay of W and H (Zhu, theorem 3.1); return n."""
    check_uniform(problem)
    check_cross_entropy_loss(problem)
    check_decays(problem)
    return class_size(problem)


def check_smoothed(problem: UnconstrainedFeatures) -> int:
    """Require balanced label smoothing, with decay of both W and H or with none; return n."""
    size = check_balanced(problem)
    if not problem.loss.is_label_smoothing:
        raise ValueError(f"problem has {problem.loss}: this is the minimum of LabelSmoothing(...).")
    if not problem.weight_decay.absent:
        check_decays(problem)
    return size


def check_focal(problem: UnconstrainedFeatures) -> int:
    """Require balanced focal loss with decay of W and H; return n."""
    size = check_balanced(problem)
    if not problem.loss.is_focal:
        raise ValueError(f"problem has {problem.loss}: this is the minimum of Focal(...).")
    check_decays(problem)
    return size


def check_decays(problem: UnconstrainedFeatures | FreeFeatures) -> None:
    """Require λ_W > 0 and λ_H > 0, as every closed form of a minimum of finite norm does."""
    decay = problem.weight_decay
    for name, value in (("classifier", decay.classifier), ("features", decay.features)):
        # A traced λ has no value to check; the formulas give NaN or ∞ where it is not positive.
        if not is_traced(value) and not value > 0:
            raise ValueError(
                f"weight decay {name} = {value}: give numbers > 0, since without decay there is no "
                "critical point of finite size (a saddle has one with radius=, on a sphere)."
            )


def check_below_threshold(decay_ratio: Float[Array, ""]) -> float:
    """Require a decay ratio τ < 1, since for τ >= 1 only the origin is critical; return τ.

    Zhu's theorem 3.1 leaves this hypothesis out.
    """
    if is_traced(decay_ratio):
        raise ValueError(
            "weight decay is traced: saddles are built for known numbers; close over them."
        )
    # A Python number, since which saddles exist cannot depend on a traced value.
    known = float(decay_ratio)
    if known >= 1:
        raise ValueError(
            f"weight decay: √(λ_W λ_H)/(s√n) = {known:.3g}, which is K√(nλ_W λ_H) for the mean "
            "loss; below 1 there are critical points besides the origin. Lower the decay."
        )
    return known


def check_dimension(problem: UnconstrainedFeatures | FreeFeatures, least: int) -> None:
    """Require enough dimensions: d >= K−1 for a simplex, d >= K for an orthogonal frame."""
    if problem.feature_dim < least:
        raise ArgumentError(
            f"feature_dim = {problem.feature_dim}: the minimum has a closed form for at least "
            f"{least} dimensions.",
            "feature_dim",
        )


def check_sphere(problem: UnconstrainedFeatures, radius: object) -> int:
    """Require balanced cross-entropy without bias and decay, and a number as radius; return n.

    This model has saddles on every sphere ‖W‖_F² + ‖H‖_F² = ρ² (Ji, example 3.1).
    """
    check_number("radius", radius, scalar=True)
    check_uniform(problem)
    check_cross_entropy_loss(problem)
    if problem.bias or not problem.weight_decay.absent:
        raise ValueError(
            f"radius = {radius}: the sphere is for problems without bias and weight decay, "
            "nc_jax.ulpm(...); leave it out."
        )
    return class_size(problem)


def check_mixon(problem: UnconstrainedFeatures) -> int:
    """Require Mixon's model with balanced classes (Mixon, theorem 3, lemmas 1 and 4); return n."""
    # The message of `check_unconstrained` would offer models that this theorem does not cover.
    if not is_unconstrained(problem):
        raise ValueError(f"problem is of type {type(problem).__name__}: {_GIVE_MIXON}.")
    check_uniform(problem)
    decays = not problem.weight_decay.absent
    summed = problem.loss.is_squared_error and problem.reduction == "sum"
    if decays or not (summed and problem.bias):
        raise ValueError(
            f"problem has {type(problem.loss).__name__}, reduction {problem.reduction!r}, "
            f"bias {problem.bias}, weight decay {decays}: {_GIVE_MIXON}."
        )
    return class_size(problem)


def check_linearized_mixon(problem: LinearizedMixon) -> None:
    """Require the linear system near the origin, with the field of Mixon's theorem 2."""
    if not isinstance(problem, LinearizedMixon) or not problem.is_linearized_mixon:
        raise ValueError(
            f"problem is of type {type(problem).__name__}: "
            "give nc_jax.LinearizedMixon(num_classes, feature_dim, samples_per_class)."
        )


def check_decayed_squared_error(problem: UnconstrainedFeatures) -> int:
    """Require balanced squared error with decay of W and H, and no decay of a bias; return n.

    For Rangamani's theorem 3, whose hypothesis is empty without a free bias or d >= K.
    """
    check_uniform(problem)
    check_squared_error(problem)
    decay = problem.weight_decay
    for name, value in (("classifier", decay.classifier), ("features", decay.features)):
        check_number(f"weight decay {name}", value, above_zero=True)
    if problem.bias and not bias_is_free(problem):
        raise ValueError(f"weight decay bias = {decay.bias}: the closed form is for a free one, 0.")
    check_dimension(problem, problem.num_classes - int(problem.bias))
    return class_size(problem)


def check_balanced_square_loss(problem: UnconstrainedFeatures) -> None:
    """Require squared error without a bias and with λ_W = λ_H, for the Riccati equation.

    Classes of any sizes, and any d.
    """
    check_uniform(problem)
    if not problem.loss.is_squared_error or problem.bias:
        raise ValueError(
            f"problem has {type(problem.loss).__name__}, bias {problem.bias}: the flow has a "
            "closed form for SquaredError() without a bias."
        )
    decay = problem.weight_decay
    if not decay.balanced:
        raise ValueError(
            f"weight decay classifier = {decay.classifier}, features = {decay.features}: the flow "
            "has a closed form where both are equal; give one number for both."
        )


def check_decayed_classes(problem: UnconstrainedFeatures) -> None:
    """Require λ_W > 0 and λ_H > 0 for all classes; they may differ between classes."""
    decay = problem.weight_decay
    for name, values in (("classifier", decay.classifier), ("features", decay.features)):
        for value in jax.tree.leaves(values):
            # Each entry alone, since a tuple may have traced entries, which have no value to check.
            check_number(f"weight decay {name}", value, above_zero=True)


def check_squared_error_penalty(problem: UnconstrainedFeatures) -> None:
    """Require balanced squared error with decay and a bias, for the threshold of its decay."""
    check_uniform(problem)
    check_squared_error(problem)
    check_decayed_classes(problem)
    if not problem.bias:
        raise ValueError("problem has no bias: this is a threshold of its decay; give bias=True.")
    class_size(problem)


def check_convex_dual(problem: object) -> None:
    """Require free features and a loss whose Fenchel conjugate is known (Zhu, section 3)."""
    check_uniform(problem)
    # For type checkers: the line above has refused other problems.
    assert isinstance(problem, UnconstrainedFeatures)
    if not problem.loss.is_cross_entropy and not problem.loss.is_squared_error:
        raise ValueError(
            f"problem has {problem.loss}: the dual is known for CrossEntropy() and SquaredError()."
        )


def check_undecayed(problem: UnconstrainedFeatures) -> None:
    """Require no weight decay, for the bound on the sphere ‖W‖_F² + ‖H‖_F² = ρ² (Ji, thm 3.3)."""
    if not problem.weight_decay.absent:
        raise ValueError(
            "OnSphere: the problem has weight decay; give the problem itself, or one without decay."
        )


def check_cross_entropy_loss(problem: UnconstrainedFeatures | DeepUnconstrainedFeatures) -> None:
    """Require cross-entropy, with whatever else the problem has."""
    if not problem.loss.is_cross_entropy:
        raise ValueError(
            f"problem has {problem.loss}: the closed form is known for CrossEntropy() alone; give "
            "a problem with that loss."
        )


def check_squared_error(problem: UnconstrainedFeatures | DeepUnconstrainedFeatures) -> None:
    """Require squared error, with whatever else the problem has."""
    if not problem.loss.is_squared_error:
        raise ValueError(f"problem has {problem.loss}: the closed form is that of SquaredError().")


def class_size(problem: UnconstrainedFeatures | DeepUnconstrainedFeatures) -> int:
    """Require classes of one size; return n."""
    if problem.samples_per_class is None:
        raise ValueError(
            f"class_sizes = {problem.class_sizes}: the closed form needs classes of one size."
        )
    return problem.samples_per_class
