"""One step and one epoch of a training: pure functions of a network's state."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, Key, PyTree

from ..losses import Loss
from ..problems import WeightDecay
from ..state import LastLayer
from .networks import Network

Augment = Callable[[Key[Array, ""], Float[Array, "B H W C"]], Float[Array, "B H W C"]]
# Names of measures, or a function of the last layer.
Observe = tuple[str, ...] | Callable[[LastLayer], dict[str, Float[Array, "..."]]]

# Zeros that `crop_and_flip` adds on each side of an image, as He et al. and Zhu et al. do.
_PADDING = 4


class TrainingSettings(NamedTuple):
    """Settings that are fixed when the programs of a training are compiled.

    Attributes:
        graph: the network without its arrays. The network is split into its graph and its arrays
            once, not at every step, since Flax takes about a millisecond for it.
        optimizer: an Optax transformation that accepts the objective as an extra argument.
        loss: loss of the logits, averaged over a batch.
        weight_decay: λ of λ/2 ‖θ‖² over all parameters, or the three λ of Zhu's eq. 3.
        batch_size: images per step; None means all images in one batch, in their order.
        augment: random transformation of a batch of images, or None.
        num_samples: N, the number of training images.
        observe: measures to record, by name or by a function of the last layer; None means all.
    """

    graph: nnx.GraphDef[Network]
    optimizer: optax.GradientTransformationExtraArgs
    loss: Loss
    weight_decay: float | WeightDecay
    batch_size: int | None
    augment: Augment | None
    num_samples: int
    observe: Observe | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Number of full batches in an epoch.

        The images of an incomplete last batch are left out. Each epoch draws another order of the
        images and thus leaves out other ones.
        """
        return 1 if self.batch_size is None else self.num_samples // self.batch_size


class Samples(NamedTuple):
    """A data set on the device: images (N, H, W, C) in float32, labels (N,) in int32."""

    images: Float[Array, "N H W C"]
    labels: Int[Array, " N"]


class TrainState(NamedTuple):
    """The arrays that change during a training.

    Attributes:
        params: parameters of the network, a nested dict of arrays.
        rest: its other variables, such as running statistics and a fixed classifier.
        memory: the state of the optimiser.
        epoch: number of completed epochs, a scalar.
    """

    params: PyTree
    rest: PyTree
    memory: PyTree
    epoch: Int[Array, ""]


def start(
    network: Callable[[nnx.Rngs], Network],
    optimizer: optax.GradientTransformation,
    key: Key[Array, ""],
) -> TrainState:
    """The state before the first epoch."""
    # Epochs fold their numbers 1, 2, ... into the same key to draw their batches. The start folds
    # 0, so that no key is used twice.
    rngs = nnx.Rngs(jax.random.fold_in(key, 0))
    _, params, rest = nnx.split(network(rngs), nnx.Param, ...)
    params = nnx.to_pure_dict(params)
    return TrainState(
        params, nnx.to_pure_dict(rest), optimizer.init(params), jnp.zeros((), jnp.int32)
    )


def objective(
    settings: TrainingSettings,
    params: PyTree,
    rest: PyTree,
    images: Array,
    labels: Int[Array, " B"],
) -> tuple[Float[Array, ""], tuple[PyTree, LastLayer]]:
    """Mean loss of a batch plus the penalty; also the new running statistics and the last layer."""
    network = nnx.merge(settings.graph, params, rest)
    # The call updates the running statistics in the network.
    layer = network(images, train=True)
    value = jnp.mean(settings.loss.value(layer.logits(), labels))
    value += _penalty(settings, params, layer)
    return value, (nnx.to_pure_dict(nnx.state(network, nnx.Not(nnx.Param))), layer)


def _penalty(settings: TrainingSettings, params: PyTree, layer: LastLayer) -> Float[Array, ""]:
    """λ/2 ‖θ‖², or λ_W/2 ‖W‖² + λ_H/2 ‖H‖² + λ_b/2 ‖b‖² (Zhu, eq. 3).

    In Zhu's equation ‖H‖² is a sum over all N samples. Here it is estimated by the sum over a batch
    of B samples, multiplied by N/B. (The code of Zhu et al. penalises normalised features, a term
    whose gradient is zero.)
    """
    decay = settings.weight_decay
    if not isinstance(decay, WeightDecay):
        squares = [jnp.sum(leaf**2) for leaf in jax.tree.leaves(params)]
        # The squared norms are stacked and summed once: a chain of forty additions takes longer to
        # compile.
        return decay / 2 * jnp.sum(jnp.stack(squares))
    scale = settings.num_samples / layer.features.shape[0]
    bias = 0.0 if layer.bias is None else jnp.sum(layer.bias**2)
    return (
        decay.classifier / 2 * jnp.sum(layer.classifier**2)
        + decay.features / 2 * scale * jnp.sum(layer.features**2)
        + decay.bias / 2 * bias
    )


def step(
    settings: TrainingSettings, state: TrainState, images: Array, labels: Int[Array, " B"]
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """One update of the parameters; also the objective and the accuracy of the batch."""

    def batch_objective(params: PyTree) -> tuple[Float[Array, ""], tuple[PyTree, LastLayer]]:
        return objective(settings, params, state.rest, images, labels)

    value_and_gradient = jax.value_and_grad(batch_objective, has_aux=True)
    (value, (rest, layer)), gradient = value_and_gradient(state.params)
    # Optax computes with integers of different widths, which is an error where the user has set
    # jax_numpy_dtype_promotion to "strict".
    with jax.numpy_dtype_promotion("standard"):
        # Optimisers with a line search need the value and evaluate the objective again. Others
        # ignore these arguments, and nothing is computed for them.
        updates, memory = settings.optimizer.update(
            gradient, state.memory, state.params,
            value=value, grad=gradient, value_fn=lambda params: batch_objective(params)[0],
        )  # fmt: skip
        params = optax.apply_updates(state.params, updates)
    # `argmax` returns int64 where x64 is on, and under strict promotion int64 and int32 cannot be
    # compared.
    correct = jnp.argmax(layer.logits(), axis=1).astype(labels.dtype) == labels
    means = {"loss": value, "accuracy": jnp.mean(correct.astype(value.dtype))}
    return TrainState(params, rest, memory, state.epoch), means


def epoch(
    settings: TrainingSettings, data: Samples, state: TrainState, key: Key[Array, ""]
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """One step for each batch, in a random order; also the means of objective and accuracy."""
    # The keys of an epoch depend on its number alone, so that a resumed training draws the same
    # batches as one without a kill.
    order_key, augment_key = jax.random.split(jax.random.fold_in(key, state.epoch + 1))
    size, steps = settings.batch_size or settings.num_samples, settings.steps_per_epoch
    order = jnp.arange(settings.num_samples)
    if settings.batch_size is not None:
        order = jax.random.permutation(order_key, order)[: steps * size]

    def next_step(state: TrainState, batch: tuple[Array, Array]) -> tuple[TrainState, Any]:
        rows, key = batch
        images = data.images[rows]
        if settings.augment is not None:
            images = settings.augment(key, images)
        return step(settings, state, images, data.labels[rows])

    batches = order.reshape(steps, size), jax.random.split(augment_key, steps)
    state, means = jax.lax.scan(next_step, state, batches)
    return state._replace(epoch=state.epoch + 1), jax.tree.map(jnp.mean, means)


def crop_and_flip(key: Key[Array, ""], images: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
    """Random crops of the zero-padded images, half of them mirrored (Zhu, section 4.3).

    Each image is padded by 4 zeros on every side and cropped to its size at a random place. A zero
    is the mean colour of the training set in images that `images.normalize` has scaled, and black
    in others.

    Pass this function to `train` as `augment=crop_and_flip`.

    Example:
        >>> from nc_jax import cnn
        >>> batch = jnp.ones((2, 8, 8, 1))
        >>> cnn.crop_and_flip(jax.random.key(0), batch).shape
        (2, 8, 8, 1)
    """
    count, height, width, channels = images.shape
    shift_key, flip_key = jax.random.split(key)
    padded = jnp.pad(images, ((0, 0), (_PADDING, _PADDING), (_PADDING, _PADDING), (0, 0)))
    shifts = jax.random.randint(shift_key, (count, 2), 0, 2 * _PADDING + 1)
    cropped = jax.vmap(
        lambda image, corner: jax.lax.dynamic_slice(
            image, (corner[0], corner[1], jnp.zeros_like(corner[0])), (height, width, channels)
        )
    )(padded, shifts)
    mirrored = jax.random.bernoulli(flip_key, 0.5, (count, 1, 1, 1))
    return jnp.where(mirrored, cropped[:, :, ::-1], cropped)
