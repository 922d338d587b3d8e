"""Training of image networks by nc_jax, and of the same networks with XLA's convolution."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from nc_jax import CrossEntropy
from nc_jax.cnn import Network
from nc_jax.cnn.layers import Conv
from nc_jax.cnn.programs import TrainingPrograms
from nc_jax.cnn.training import Samples, TrainingSettings, TrainState, objective, step
from nc_jax.images import ImageSet

RATE, MOMENTUM, DECAY = 0.01, 0.9, 5e-4
FLAX = "Flax, lax convolutions"

Factory = Callable[[nnx.Rngs], Network]


@dataclasses.dataclass(frozen=True)
class Way:
    """A row of the comparison: a library, a dtype, and how an epoch runs.

    `check` returns the relative errors of loss and gradient on the first batch at the start;
    `exactly` returns those of the same computation in float64. `may_fail` allows an exception.
    """

    name: str
    dtype: str
    epoch: Callable[[], object]
    check: Callable[[], tuple[float, float]]
    exactly: Callable[[], tuple[float, float]]
    may_fail: bool = False


class LaxConv(Conv):
    """A convolution by XLA, as Flax has it."""

    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps of the images, in their dtype."""
        kernel = self.kernel[...].astype(images.dtype)
        padding = kernel.shape[0] // 2
        return jax.lax.conv_general_dilated(
            images, kernel, (self.stride, self.stride), ((padding, padding),) * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip


def with_lax(network: Factory) -> Factory:
    """The same network with `LaxConv` throughout."""

    def network_with_lax(rngs: nnx.Rngs) -> Network:
        net = network(rngs)
        for _, module in nnx.iter_modules(net):
            # Replacing the class of an existing layer leaves its weights, so that both networks
            # start from the same numbers.
            if type(module) is Conv:
                module.__class__ = LaxConv
        return net

    return network_with_lax


class Training:
    """A network in training: its settings, its programs, its state.

    `begin` is a state to start from, with a leading axis of seeds. With the state of another
    training no program for the start is compiled.
    """

    def __init__(
        self,
        network: Factory,
        data: ImageSet,
        batch: int,
        *,
        num_seeds: int = 1,
        begin: TrainState | None = None,
    ):
        optimizer = optax.with_extra_args_support(optax.sgd(RATE, MOMENTUM))
        self.settings = TrainingSettings(
            graph(network), optimizer, CrossEntropy(), DECAY, batch, None, len(data.labels)
        )
        self.programs = TrainingPrograms(
            self.settings, network, data, test=None, num_seeds=num_seeds, key=jax.random.key(0)
        )
        self.state = self.programs.start() if begin is None else jax.tree.map(jnp.copy, begin)
        # The state of the first seed is copied, because an epoch reuses the memory of its state.
        self.first = jax.tree.map(lambda leaf: leaf[0], self.state)
        self.data = Samples(jnp.asarray(data.images), jnp.asarray(data.labels))

    def epoch(self) -> None:
        """One epoch as one program."""
        self.state, _ = self.programs.epoch(self.state)
        jax.block_until_ready(self.state)

    def steps(self) -> Callable[[], None]:
        """An epoch as a loop in Python over a compiled step, as is usual in Flax."""
        batch, count = self.settings.batch_size, self.settings.steps_per_epoch
        assert batch is not None
        # A copy, because the first step reuses the memory of its state.
        state, random = jax.tree.map(jnp.copy, self.first), np.random.default_rng(0)

        @functools.partial(jax.jit, donate_argnums=0)
        def next_step(state: TrainState, data: Samples, rows: jax.Array):
            return step(self.settings, state, data.images[rows], data.labels[rows])

        def epoch() -> None:
            nonlocal state
            order = random.permutation(len(self.data.labels))[: count * batch]
            # Losses stay on the device until the end: reading each would make every step wait.
            losses = []
            for rows in order.reshape(count, batch):
                state, values = next_step(state, self.data, rows)
                losses.append(values["loss"])
            jax.block_until_ready((state, losses))

        return epoch

    def loss_and_gradient(self, *, wide: Factory | None = None) -> tuple[float, Any]:
        """Loss with penalty, and gradient, of the first batch at full precision.

        With `wide`, the same network in float64, both are computed in float64.
        """
        # Accelerators multiply float32 at reduced precision by default, which would hide errors.
        with jax.enable_x64(wide is not None), jax.default_matmul_precision("highest"):
            settings = self.settings if wide is None else self.settings._replace(graph=graph(wide))
            given = self.first.params, self.first.rest, Samples(*self.data)
            params, rest, data = given if wide is None else jax.tree.map(widened, given)
            batch = jax.tree.map(lambda leaf: leaf[: settings.batch_size], data)

            def of(params: Any, batch: Samples) -> jax.Array:
                return objective(settings, params, rest, *batch)[0]

            value, gradient = jax.jit(jax.value_and_grad(of))(params, batch)
        # On the host float64 does not depend on the setting of x64, which the block above restores.
        return float(value), jax.device_get(gradient)


def graph(network: Factory) -> nnx.GraphDef[Network]:
    """The network without its arrays."""
    return nnx.graphdef(nnx.eval_shape(lambda: network(nnx.Rngs(0))))


def widened(leaf: jax.Array) -> jax.Array:
    """A floating-point array in float64; others unchanged."""
    return leaf.astype(jnp.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf


def distance(value: float, other: float) -> float:
    """Difference of two numbers, relative to the second."""
    return abs(value - other) / abs(other)


def apart(leaves: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> float:
    """Norm of the difference of two gradients, relative to the second's."""
    # Squares are summed in float64, since sums of millions of float32 numbers lose digits.
    pairs = list(zip(leaves, others, strict=True))
    difference = sum(float(np.sum((a - b) ** 2, dtype=np.float64)) for a, b in pairs)
    return (difference / sum(float(np.sum(b**2, dtype=np.float64)) for _, b in pairs)) ** 0.5


def jax_ways(
    network: Callable[[str], Factory],
    data: ImageSet,
    batch: int,
    dtypes: Sequence[str],
    whole: bool,
) -> tuple[list[Way], Training, tuple[float, Any]]:
    """Rows of nc_jax and Flax by dtype; also the Flax network in float32, the reference.

    The last result is the reference's loss and gradient in float64.
    """
    plain = Training(with_lax(network("float32")), data, batch)
    expected = plain.loss_and_gradient(wide=with_lax(network("float64")))

    def check(training: Training, *, wide: Factory | None = None) -> tuple[float, float]:
        value, gradient = training.loss_and_gradient(wide=wide)
        leaves = jax.tree.leaves(gradient), jax.tree.leaves(expected[1])
        return distance(value, expected[0]), apart(*leaves)

    begin = jax.tree.map(lambda leaf: leaf[None], plain.first)
    ways = []
    for dtype in dtypes:
        ours = Training(network(dtype), data, batch, begin=begin)
        theirs = plain if dtype == "float32" else Training(
            with_lax(network(dtype)), data, batch, begin=begin
        )  # fmt: skip
        right = (
            functools.partial(check, ours),
            functools.partial(check, ours, wide=network("float64")),
        )
        ways.append(Way("nc_jax", dtype, ours.epoch, *right))
        wide = with_lax(network("float64"))
        right = functools.partial(check, theirs), functools.partial(check, theirs, wide=wide)
        ways.append(Way(f"{FLAX}, step by step", dtype, theirs.steps(), *right))
        if whole:
            ways.append(Way(f"{FLAX}, whole epochs", dtype, theirs.epoch, *right))
    return ways, plain, expected
