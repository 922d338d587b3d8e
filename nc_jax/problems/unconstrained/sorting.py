"""The model that a state with samples in any order belongs to."""

from typing import Literal

import numpy as np
from jaxtyping import ArrayLike, Integer

from ...checks import is_traced
from ...labels import check_labels, class_sizes
from ...losses import CrossEntropy, Loss
from ...precision import widened
from ...state import LastLayer, check_last_layer
from .decay import WeightDecay
from .model import UnconstrainedFeatures
from .sizes import OfClasses


def problem_for(
    state: LastLayer,
    labels: Integer[ArrayLike, " N"],
    *,
    loss: Loss = CrossEntropy(),
    reduction: Literal["mean", "sum"] = "mean",
    weight_decay: WeightDecay = WeightDecay(),
    class_weights: OfClasses | None = None,
) -> tuple[UnconstrainedFeatures, LastLayer]:
    """The model of a state whose samples are in any order, and the state in the order of the model.

    Features of a network are in the order of its data set. In an `UnconstrainedFeatures`, its flows
    and `nc_jax.landscape`, rows are sorted by class. A state does not contain its order, and a
    wrong order gives a wrong objective without an error. This function sorts the rows by class. The
    rows of one class stay in their order: row i is `features[order[i]]` with
    `order = np.argsort(labels, kind="stable")`.

    Args:
        state: features (N, d), classifier (K, d) and bias (K,) or None, of any real dtype; half
            precision and integers are converted as by `precision.widened`.
        labels: (N,) concrete integers in 0..K−1, in any order, at least one of each class.
        loss, reduction, weight_decay, class_weights: as for `UnconstrainedFeatures`.

    Returns: the problem, with a bias if the state has one, and the sorted state.

    Raises: ValueError for a state that is no `LastLayer` or a batch of them, labels that are traced
    or are not one class of 0..K−1 for each feature, or a class without samples.

    Example:

        >>> features = jnp.array([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]])
        >>> layer = nc.LastLayer(features, classifier=jnp.eye(2))
        >>> problem, state = nc.problem_for(layer, np.array([1, 0, 1]))
        >>> problem.class_sizes, state.features.tolist()
        ((1, 2), [[0.0, 1.0], [1.0, 0.0], [2.0, 0.0]])
    """
    check_last_layer(state)
    num_classes = state.classifier.shape[0]
    labels = check_labels(labels, num_classes, len(state.features), every_class=True)
    # Class sizes are a static field of the problem, and decide its shapes.
    if is_traced(labels):
        raise ValueError("labels are traced: their class sizes are unknown; close over the labels.")
    state, order = widened(state), np.argsort(np.asarray(labels), kind="stable")
    problem = UnconstrainedFeatures(
        class_sizes(labels, num_classes), state.features.shape[1], loss=loss, reduction=reduction,
        bias=state.bias is not None, weight_decay=weight_decay, class_weights=class_weights,
    )  # fmt: skip
    return problem, LastLayer(state.features[order], state.classifier, state.bias)
