"""The unconstrained-features models of the papers, by name."""

from typing import Literal

from jaxtyping import Array, Float

from ...checks import check_number
from ...losses import CrossEntropy, SquaredError
from .decay import WeightDecay
from .model import UnconstrainedFeatures
from .sizes import ClassSizes, sizes_of


def ulpm(
    num_classes: int,
    feature_dim: int,
    samples_per_class: ClassSizes,
    *,
    reduction: Literal["mean", "sum"] = "sum",
) -> UnconstrainedFeatures:
    """The unconstrained layer-peeled model of Ji (eq. 2.3): cross-entropy, no bias, no decay.

    Args: `samples_per_class` is one size for all classes, or a size for each class, such as
    `[20] * 3 + [5] * 2`.

    Raises: ValueError as `UnconstrainedFeatures`, and for a number of sizes that is not K.

    Example: the model of the paper's figure 2.

        >>> problem = nc.ulpm(num_classes=5, feature_dim=20, samples_per_class=10)
        >>> problem.num_samples, problem.bias, problem.reduction
        (50, False, 'sum')
    """
    sizes = sizes_of(num_classes, samples_per_class)
    return UnconstrainedFeatures(sizes, feature_dim, loss=CrossEntropy(), reduction=reduction)


def mixon(
    num_classes: int, feature_dim: int, samples_per_class: ClassSizes
) -> UnconstrainedFeatures:
    """Mixon's model (section 2): R(H, W, b) = ½‖WH + b1ᵀ − I⊗1ᵀ‖_F², summed, with bias.

    Arguments and errors are those of `ulpm`. The `mixon_*` metrics and the closed forms need
    classes of one size.

    Example: the model of the paper's figures.

        >>> problem = nc.mixon(num_classes=3, feature_dim=15, samples_per_class=3)
        >>> problem.loss, problem.bias, problem.reduction
        (SquaredError(), True, 'sum')
    """
    sizes = sizes_of(num_classes, samples_per_class)
    return UnconstrainedFeatures(
        sizes, feature_dim, loss=SquaredError(), reduction="sum", bias=True
    )


def zhu(
    num_classes: int,
    feature_dim: int,
    samples_per_class: ClassSizes,
    weight_decay: WeightDecay | float | Float[Array, ""],
) -> UnconstrainedFeatures:
    """Zhu's regularised model (eq. 3): mean cross-entropy, bias, weight decay.

    Args: `weight_decay` as a number is one λ for classifier, features and bias. The other
    arguments, and errors, are those of `ulpm`.

    Example:

        >>> problem = nc.zhu(3, 4, 2, 5e-4)
        >>> problem.weight_decay.features, problem.reduction
        (0.0005, 'mean')
    """
    if not isinstance(weight_decay, WeightDecay):
        check_number("weight_decay", weight_decay, scalar=True)
        # One object for all three, by which `balanced` is known for a traced λ too.
        weight_decay = WeightDecay(
            classifier=weight_decay, features=weight_decay, bias=weight_decay
        )
    sizes = sizes_of(num_classes, samples_per_class)
    return UnconstrainedFeatures(
        sizes,
        feature_dim,
        loss=CrossEntropy(),
        reduction="mean",
        bias=True,
        weight_decay=weight_decay,
    )
