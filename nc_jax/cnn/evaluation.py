"""Measures of a network over a whole data set: collapse, margins, losses and accuracies.

The network reads all images once; its features are stored in float32. Statistics of the features
are then summed in batches, in the widest float that JAX is set to: under deep collapse the distance
of a feature from its class mean is smaller than the rounding error of a mean in float32.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.tree_util import keystr
from jaxtyping import Array, Float, Int, PyTree

from ..checks import close_to
from ..dynamics.observers import check_observed
from ..losses import Loss
from ..measures import (
    EQUATIONS as STATE_EQUATIONS,
    ClassMoments,
    Spread,
    class_moments,
    collapse_from_statistics,
    logit_margins,
    merge_moments,
    merge_spreads,
    spread,
    whitening,
)
from ..state import LastLayer
from .networks import Network
from .training import Samples, TrainingSettings, TrainState

T = TypeVar("T")

# Images in one forward pass: enough to occupy an accelerator, few enough for the maps of a ResNet50
# to fit into its memory.
_BATCH = 500
# Names in the data set of a training that a user's function may not give to its arrays.
_RESERVED = ("result", "seed", "epoch", "sample")

EQUATIONS: Mapping[str, str] = MappingProxyType(
    {
        "train_loss": "mean_i ℓ(z_i, y_i) over the training images, without weight decay",
        "train_accuracy": "share of training images with argmax_c z_ic = y_i",
        "test_loss": "mean_i ℓ(z_i, y_i) over the test images, without weight decay",
        "test_accuracy": "share of test images with argmax_c z_ic = y_i",
        "margins": "z_{i,y_i} − max_{j≠y_i} z_ij of each training image (Ji, section 3.1)",
        **{name: STATE_EQUATIONS[name] for name in ("margin_min", "margin_mean")},
        "norm_product": "ρ = Π_k ‖W_k‖_F over all weight matrices (Rangamani, section 3)",
    }
)
"""One line for each measure that a training records besides `metrics.collapse_metrics`.

Example:
    >>> from nc_jax import cnn
    >>> cnn.EQUATIONS["train_accuracy"]
    'share of training images with argmax_c z_ic = y_i'
"""


class Batches(NamedTuple):
    """Rows of a data set in batches of one size, of which the last is padded.

    Attributes:
        rows: (batches, size) rows of the data set; padding repeats the last row.
        labels: (batches, size) labels; −1 marks padding, which the statistics leave out.
    """

    rows: Int[Array, "batches size"]
    labels: Int[Array, "batches size"]


def batches(labels: Int[Array, " N"]) -> Batches:
    """Batches of all samples, in their order."""
    rows = _rows(labels.shape[0])
    padded = jnp.pad(labels, (0, rows.size - labels.shape[0]), constant_values=-1)
    return Batches(rows, padded.reshape(rows.shape))


def last_layer(settings: TrainingSettings, state: TrainState, data: Samples) -> LastLayer:
    """Features of all images, (N, d), under running statistics, with classifier and bias."""
    return layer_of(nnx.merge(settings.graph, state.params, state.rest), data.images)


def layer_of(network: Network, images: Float[Array, "N H W C"]) -> LastLayer:
    """Features of all images, (N, d), computed batch by batch, with classifier and bias."""
    count = images.shape[0]
    features = jax.lax.map(lambda batch: network(images[batch], train=False).features, _rows(count))
    return network.head(_without_padding(features, count))


def widened_layer(layer: LastLayer) -> LastLayer:
    """A last layer in the widest float that JAX is set to."""
    return jax.tree.map(lambda x: x.astype(_widest()), layer)


def statistics(layer: LastLayer, labels: Int[Array, " N"]) -> tuple[ClassMoments, Spread]:
    """Moments and spread of features (N, d), merged batch by batch, in the widest float."""
    all_batches, num_classes = batches(labels), layer.classifier.shape[0]
    # Under deep collapse the rounding error of a mean in float32 exceeds the spread of the
    # features. The difference of a feature from this approximate mean is exact, since the two are
    # close, so that the mean can be corrected in the widest float.
    rough = class_moments(layer.features, labels, num_classes).means.astype(_widest())

    def moments_of(batch: Batches) -> ClassMoments:
        # The label −1 of padding selects the last class; `class_moments` ignores these rows.
        features = _widened_rows(layer, batch.rows).features - rough[batch.labels]
        return class_moments(features, batch.labels, num_classes)

    moments = _merged(moments_of, merge_moments, all_batches)
    # A shift changes means only: the scatter is relative to them.
    moments = ClassMoments(moments.counts, rough + moments.means, moments.scatter)

    # Outside of the loop over batches, which would compute it for each of them.
    projection = whitening(moments)

    def spread_of(batch: Batches) -> Spread:
        wide = _widened_rows(layer, batch.rows)
        return spread(
            wide.features,
            batch.labels,
            moments,
            wide.classifier,
            bias=wide.bias,
            whitening=projection,
        )

    return moments, _merged(spread_of, merge_spreads, all_batches)


def record(
    settings: TrainingSettings,
    state: TrainState,
    data: Samples,
    test: Samples | None,
    balanced: bool,
) -> tuple[dict[str, Float[Array, "..."]], Float[Array, ""]]:
    """The measures that `settings.observe` names or computes, and the training loss.

    The loss shows whether a run has failed. Under `jax.jit` the compiler removes the computation of
    measures that are not returned.

    Raises: ValueError for a name that is no measure, or a function that returns no dict of arrays.
    """
    layer = last_layer(settings, state, data)
    if callable(settings.observe):
        observed = _checked(settings.observe(widened_layer(layer)))
        fit = _fit("train", settings.loss, _logits(layer, data.labels), data.labels)
        return observed, fit["train_loss"]
    measured = measure(settings, state, layer, data, test, balanced)
    names = measured if settings.observe is None else settings.observe
    for name in names:
        if name not in measured:
            raise ValueError(
                f"observe: {name!r} is no measure of this training.{close_to(name, measured)} "
                f"There are {', '.join(measured)}."
            )
    return {name: measured[name] for name in names}, measured["train_loss"]


def measure(
    settings: TrainingSettings,
    state: TrainState,
    layer: LastLayer,
    data: Samples,
    test: Samples | None,
    balanced: bool,
) -> dict[str, Float[Array, "..."]]:
    """All keys of `collapse_metrics` and `EQUATIONS`; those of test images only if `test` is given.

    Args:
        layer: the last layer of the training images in `data`.
        balanced: whether all classes have equally many images, which `mixon_*` keys require.
    """
    moments, sums = statistics(layer, data.labels)
    # Only classifier and bias are used: with one row the features of all images are not widened.
    head = _widened_rows(layer, jnp.zeros(1, jnp.int32))
    logits = _logits(layer, data.labels)
    margins = logit_margins(logits, data.labels)
    measured = {
        **collapse_from_statistics(
            moments, sums, head.classifier, bias=head.bias, balanced=balanced
        ),
        **_fit("train", settings.loss, logits, data.labels),
        "margins": margins,
        "margin_min": jnp.min(margins),
        "margin_mean": jnp.mean(margins),
        "norm_product": _norm_product(state.params, head),
    }
    if test is not None:
        test_logits = _logits(last_layer(settings, state, test), test.labels)
        measured |= _fit("test", settings.loss, test_logits, test.labels)
    return measured


def _checked(observed: object) -> dict[str, Float[Array, "..."]]:
    """The arrays that an observer returned; ValueError for names that the data set itself uses."""
    checked = check_observed(observed)
    if not checked:
        raise ValueError("observe returns an empty dict: return one array or more by name.")
    for name in checked:
        if name in _RESERVED:
            raise ValueError(
                f"observe returns {name!r}, which the data set of a training uses itself: give "
                "this array another name."
            )
    return {name: jnp.asarray(value) for name, value in checked.items()}


def _merged(
    statistics_of: Callable[[Batches], T], merge: Callable[[T, T], T], all_batches: Batches
) -> T:
    """Statistics of all batches, merged one after another."""
    first = jax.eval_shape(lambda: statistics_of(jax.tree.map(lambda x: x[0], all_batches)))
    # Zeros are the statistics of no samples. A loop that starts with the statistics of the first
    # batch would compile `statistics_of` twice.
    none = jax.tree.map(jnp.zeros_like, first)
    total, _ = jax.lax.scan(
        lambda total, batch: (merge(total, statistics_of(batch)), None), none, all_batches
    )
    return total


def _widened_rows(layer: LastLayer, rows: Int[Array, " B"]) -> LastLayer:
    """Some rows of a last layer in the widest float that JAX is set to."""
    return widened_layer(LastLayer(layer.features[rows], layer.classifier, layer.bias))


def _widest() -> np.dtype:
    """float64 where JAX is set to use it."""
    return jax.dtypes.canonicalize_dtype(np.float64)


def _logits(layer: LastLayer, labels: Int[Array, " N"]) -> Float[Array, "N K"]:
    """Logits of all samples, batch by batch, so that only a batch of features is widened."""
    count = labels.shape[0]
    logits = jax.lax.map(lambda batch: _widened_rows(layer, batch).logits(), _rows(count))
    return _without_padding(logits, count)


def _rows(count: int) -> Int[Array, "batches size"]:
    """Rows of a data set in batches of one size; the last row fills the last batch."""
    # All batches have one size, because a loop (`scan` or `map`) needs one shape.
    size = min(_BATCH, count)
    return jnp.pad(jnp.arange(count), (0, -count % size), mode="edge").reshape(-1, size)


def _without_padding(batched: Float[Array, "batches size d"], count: int) -> Array:
    return batched.reshape(-1, batched.shape[-1])[:count]


def _fit(
    name: str, loss: Loss, logits: Float[Array, "N K"], labels: Int[Array, " N"]
) -> dict[str, Float[Array, ""]]:
    """Mean loss and accuracy, under names that begin with "train" or "test"."""
    correct = jnp.argmax(logits, axis=1).astype(labels.dtype) == labels
    return {
        f"{name}_loss": jnp.mean(loss.value(logits, labels)),
        f"{name}_accuracy": jnp.mean(correct.astype(logits.dtype)),
    }


def _norm_product(params: PyTree, head: LastLayer) -> Float[Array, ""]:
    """Π ‖W_k‖_F over the kernels of the convolutions and the classifier.

    The classifier is taken from the head, since a fixed one is not among the parameters.
    """
    flat, _ = jax.tree_util.tree_flatten_with_path(params)
    kernels = [leaf for path, leaf in flat if keystr(path[-1:]) == "['kernel']"]
    wide = [kernel.astype(head.classifier.dtype) for kernel in kernels]
    # The product of forty norms may leave the range of float32. The exponential of a sum of logs is
    # then 0 or infinity, where partial products could give 0 times infinity, which is NaN.
    logs = [jnp.log(jnp.linalg.norm(matrix)) for matrix in (*wide, head.classifier)]
    return jnp.exp(sum(logs))
