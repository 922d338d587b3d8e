"""One step, one epoch: pure functions of a network's state, seeds side by side."""

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


class Setting(NamedTuple):
    """What is fixed when a training is compiled.

    `graph` is the network without its arrays, split off once. `weight_decay` is λ of λ/2 ‖θ‖² over
    all parameters, or that of Zhu's eq. 3. `batch_size` None takes all samples at once, unshuffled.
    """

    graph: nnx.GraphDef[Network]
    optimizer: optax.GradientTransformationExtraArgs
    loss: Loss
    weight_decay: float | WeightDecay
    batch_size: int | None
    augment: Augment | None
    num_samples: int

    @property
    def steps_per_epoch(self) -> int:
        """Batches of one size; the rest of an epoch is left out, another rest each time."""
        return 1 if self.batch_size is None else self.num_samples // self.batch_size


class Samples(NamedTuple):
    """A data set on the device: images (N, H, W, C) in float32, labels (N,) in int32."""

    images: Float[Array, "N H W C"]
    labels: Int[Array, " N"]


class TrainState(NamedTuple):
    """All that moves: parameters, other variables, the optimiser's memory, epochs done."""

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
    # Epochs, counted from 1, fold their number into the same key.
    rngs = nnx.Rngs(jax.random.fold_in(key, 0))
    _, params, rest = nnx.split(network(rngs), nnx.Param, ...)
    params = nnx.to_pure_dict(params)
    return TrainState(
        params, nnx.to_pure_dict(rest), optimizer.init(params), jnp.zeros((), jnp.int32)
    )


def objective(
    setting: Setting, params: PyTree, rest: PyTree, images: Array, labels: Int[Array, " B"]
) -> tuple[Float[Array, ""], tuple[PyTree, LastLayer]]:
    """Mean loss of a batch with the penalty; beside it the moved statistics and the last layer."""
    network = nnx.merge(setting.graph, params, rest)
    layer = network(images, train=True)
    value = jnp.mean(setting.loss.value(layer.logits(), labels))
    value += _penalty(setting, params, layer)
    return value, (nnx.to_pure_dict(nnx.state(network, nnx.Not(nnx.Param))), layer)


def _penalty(setting: Setting, params: PyTree, layer: LastLayer) -> Float[Array, ""]:
    """λ/2 ‖θ‖², or λ_W/2 ‖W‖² + λ_H/2 ‖H‖² + λ_b/2 ‖b‖² (Zhu, eq. 3).

    ‖H‖² is over all samples: a batch stands for N/B as many. (The authors' code penalises
    normalised features, which has no gradient.)
    """
    decay = setting.weight_decay
    if not isinstance(decay, WeightDecay):
        squares = [jnp.sum(leaf**2) for leaf in jax.tree.leaves(params)]
        return decay / 2 * jnp.sum(jnp.stack(squares))
    share = setting.num_samples / layer.features.shape[0]
    bias = 0.0 if layer.bias is None else jnp.sum(layer.bias**2)
    return (
        decay.classifier / 2 * jnp.sum(layer.classifier**2)
        + decay.features / 2 * share * jnp.sum(layer.features**2)
        + decay.bias / 2 * bias
    )


def step(
    setting: Setting, state: TrainState, images: Array, labels: Int[Array, " B"]
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """One update of the optimiser."""

    def of(params: PyTree) -> tuple[Float[Array, ""], tuple[PyTree, LastLayer]]:
        return objective(setting, params, state.rest, images, labels)

    (value, (rest, layer)), gradient = jax.value_and_grad(of, has_aux=True)(state.params)
    # Optax's own arithmetic mixes integer widths, which strict promotion refuses.
    with jax.numpy_dtype_promotion("standard"):
        # Line searches read the value; where none does, the compiler drops it.
        updates, memory = setting.optimizer.update(
            gradient, state.memory, state.params,
            value=value, grad=gradient, value_fn=lambda params: of(params)[0],
        )  # fmt: skip
        params = optax.apply_updates(state.params, updates)
    right = jnp.argmax(layer.logits(), axis=1).astype(labels.dtype) == labels
    seen = {"loss": value, "accuracy": jnp.mean(right.astype(value.dtype))}
    return TrainState(params, rest, memory, state.epoch), seen


def epoch(
    setting: Setting, data: Samples, state: TrainState, key: Key[Array, ""]
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """Every batch of an epoch, in an order of its own; with means of loss and accuracy over it."""
    order_key, augment_key = jax.random.split(jax.random.fold_in(key, state.epoch + 1))
    size, steps = setting.batch_size or setting.num_samples, setting.steps_per_epoch
    order = jnp.arange(setting.num_samples)
    if setting.batch_size is not None:
        order = jax.random.permutation(order_key, order)[: steps * size]

    def next_step(state: TrainState, batch: tuple[Array, Array]) -> tuple[TrainState, Any]:
        rows, key = batch
        images = data.images[rows]
        if setting.augment is not None:
            images = setting.augment(key, images)
        return step(setting, state, images, data.labels[rows])

    batches = order.reshape(steps, size), jax.random.split(augment_key, steps)
    state, seen = jax.lax.scan(next_step, state, batches)
    return state._replace(epoch=state.epoch + 1), jax.tree.map(jnp.mean, seen)


def crop_and_flip(key: Key[Array, ""], images: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
    """Crops of each image padded by 4 zeros, mirrored or not (Zhu, section 4.3).

    After `images.normalize` a zero is the mean colour, before it black.

    Example: `train(..., augment=crop_and_flip)`.
    """
    count, height, width, channels = images.shape
    shift_key, flip_key = jax.random.split(key)
    padded = jnp.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)))
    shifts = jax.random.randint(shift_key, (count, 2), 0, 9)
    cropped = jax.vmap(
        lambda image, at: jax.lax.dynamic_slice(
            image, (at[0], at[1], jnp.zeros_like(at[0])), (height, width, channels)
        )
    )(padded, shifts)
    mirrored = jax.random.bernoulli(flip_key, 0.5, (count, 1, 1, 1))
    return jnp.where(mirrored, cropped[:, :, ::-1], cropped)
