"""What is seen of a network: collapse, margins, accuracy, over a whole data set at once.

The network passes over the images once; features are kept in float32. Their statistics then stream
over them in the widest float that JAX is set to: under deep collapse a class mean in float32 is as
wrong as the features are spread.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.tree_util import keystr
from jaxtyping import Array, Float, Int, PyTree

from ..losses import Loss
from ..metrics import (
    ClassMoments,
    Spread,
    class_moments,
    collapse_from_statistics,
    logit_margins,
    merge_moments,
    merge_spreads,
    spread,
)
from ..state import LastLayer
from .training import Samples, Setting, TrainState

T = TypeVar("T")

# Images at a time: enough to fill an accelerator, little enough for the maps of a ResNet50.
_BATCH = 500


class Batches(NamedTuple):
    """A data set in batches of one size, the last one padded.

    `rows` (batches, size) of the data set, `labels` with −1 where there is no sample.
    """

    rows: Int[Array, "batches size"]
    labels: Int[Array, "batches size"]


def batches(labels: Int[Array, " N"]) -> Batches:
    """All samples in order."""
    count = labels.shape[0]
    size = min(_BATCH, count)
    padding = -count % size
    rows = jnp.pad(jnp.arange(count), (0, padding), mode="edge")
    padded = jnp.pad(labels, (0, padding), constant_values=-1)
    return Batches(rows.reshape(-1, size), padded.reshape(-1, size))


def last_layer(setting: Setting, state: TrainState, data: Samples) -> LastLayer:
    """Features of all images, (N, d), under running statistics, with the head."""
    network = nnx.merge(setting.graph, state.params, state.rest)
    rows = batches(data.labels).rows
    features = jax.lax.map(lambda at: network(data.images[at], train=False).features, rows)
    return network.head(_unpadded(features, data.labels))


def statistics(layer: LastLayer, labels: Int[Array, " N"]) -> tuple[ClassMoments, Spread]:
    """Moments and spread of features (N, d), merged batch by batch, in the widest float."""
    at, num_classes = batches(labels), layer.classifier.shape[0]
    # Sums of float32 lose a deep collapse. Differences from these rough means are exact, there.
    rough = class_moments(layer.features, labels, num_classes).means.astype(_widest())

    def moments_of(batch: Batches) -> ClassMoments:
        features = _widened(layer, batch.rows).features - rough[batch.labels]
        return class_moments(features, batch.labels, num_classes)

    moments = _merged(moments_of, merge_moments, at)
    moments = ClassMoments(moments.counts, rough + moments.means, moments.scatter)

    def spread_of(batch: Batches) -> Spread:
        wide = _widened(layer, batch.rows)
        return spread(wide.features, batch.labels, moments, wide.classifier, wide.bias)

    return moments, _merged(spread_of, merge_spreads, at)


def observe(
    setting: Setting, state: TrainState, data: Samples, test: Samples | None, balanced: bool
) -> dict[str, Float[Array, "..."]]:
    """Everything that is recorded of a state.

    All keys of `collapse_metrics`; `train_loss` (without decay) and `train_accuracy`, and with test
    images `test_loss` and `test_accuracy`; `margins` (N,) with `margin_min` and `margin_mean`;
    `norm_product`, Rangamani's ρ = Π ‖W_k‖_F over weight matrices.
    """
    layer = last_layer(setting, state, data)
    moments, sums = statistics(layer, data.labels)
    head = _widened(layer, jnp.zeros(1, jnp.int32))
    logits = _logits(layer, data.labels)
    margins = logit_margins(logits, data.labels)
    seen = {
        **collapse_from_statistics(moments, sums, head.classifier, head.bias, balanced),
        **_fit("train", setting.loss, logits, data.labels),
        "margins": margins,
        "margin_min": jnp.min(margins),
        "margin_mean": jnp.mean(margins),
        "norm_product": _norm_product(state.params, head),
    }
    if test is not None:
        unseen = _logits(last_layer(setting, state, test), test.labels)
        seen |= _fit("test", setting.loss, unseen, test.labels)
    return seen


def _merged(of: Callable[[Batches], T], merge: Callable[[T, T], T], at: Batches) -> T:
    """Statistics of all batches."""
    first = jax.eval_shape(lambda: of(jax.tree.map(lambda x: x[0], at)))
    # Of no samples; begun with those of the first batch, `of` would be compiled twice.
    none = jax.tree.map(jnp.zeros_like, first)
    total, _ = jax.lax.scan(lambda total, batch: (merge(total, of(batch)), None), none, at)
    return total


def _widened(layer: LastLayer, rows: Int[Array, " B"]) -> LastLayer:
    """Some rows of a last layer in the widest float that JAX is set to."""
    layer = LastLayer(layer.features[rows], layer.classifier, layer.bias)
    return jax.tree.map(lambda x: x.astype(_widest()), layer)


def _widest() -> np.dtype:
    """float64 where JAX is set to have it."""
    return jax.dtypes.canonicalize_dtype(np.float64)


def _logits(layer: LastLayer, labels: Int[Array, " N"]) -> Float[Array, "N K"]:
    """Scores of all samples, batch by batch."""
    rows = batches(labels).rows
    return _unpadded(jax.lax.map(lambda at: _widened(layer, at).logits(), rows), labels)


def _unpadded(batched: Float[Array, "batches size d"], like: Int[Array, " N"]) -> Array:
    return batched.reshape(-1, batched.shape[-1])[: like.shape[0]]


def _fit(
    name: str, loss: Loss, logits: Float[Array, "N K"], labels: Int[Array, " N"]
) -> dict[str, Float[Array, ""]]:
    right = jnp.argmax(logits, axis=1).astype(labels.dtype) == labels
    return {
        f"{name}_loss": jnp.mean(loss.value(logits, labels)),
        f"{name}_accuracy": jnp.mean(right.astype(logits.dtype)),
    }


def _norm_product(params: PyTree, head: LastLayer) -> Float[Array, ""]:
    """Π ‖W_k‖_F over kernels and the classifier, which may be none of the parameters."""
    flat, _ = jax.tree_util.tree_flatten_with_path(params)
    kernels = [leaf for path, leaf in flat if keystr(path[-1:]) == "['kernel']"]
    wide = [kernel.astype(head.classifier.dtype) for kernel in kernels]
    # Of forty layers a product may leave the range of float32; NaN it must not become.
    logs = [jnp.log(jnp.linalg.norm(matrix)) for matrix in (*wide, head.classifier)]
    return jnp.exp(sum(logs))
