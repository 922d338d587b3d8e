"""The compiled programs of a training: the start, one epoch, one record of all measures."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Int, Key, PyTree

from ..compilation import cpu_options
from ..configuration import digest_of_programs
from ..geometry import common_class_size
from ..images import ImageSet
from .evaluation import record
from .networks import Network
from .records import Row
from .training import Samples, TrainingSettings, TrainState, epoch, start

T = TypeVar("T")

# The start runs once, and its compilation takes longer than its run. Without XLA's costly
# optimisations it compiles in a third to a quarter of the time on a CPU.
_COMPILED_FAST = {"xla_llvm_disable_expensive_passes": True, "xla_backend_optimization_level": 0}
# Operations that XLA passes to the library YNNPACK. XLA's default includes convolutions, which take
# twice as long in YNNPACK as in XLA itself.
_LEFT_TO_YNNPACK = "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE"


class TrainingPrograms:
    """The programs of a training, each of them for all seeds."""

    def __init__(
        self,
        settings: TrainingSettings,
        network: Callable[[nnx.Rngs], Network],
        training: ImageSet,
        *,
        test: ImageSet | None,
        num_seeds: int,
        key: Key[Array, ""],
    ):
        balanced = common_class_size(training.labels, len(training.classes)) is not None
        # Data are arguments of the programs. A program that closes over an array contains it as a
        # constant, and is compiled again for other data.
        self._data = _on_device(training)
        self._test = None if test is None else _on_device(test)
        self._keys = jax.jit(jax.vmap(jax.random.fold_in, (None, 0)))(key, np.arange(num_seeds))

        def begin(keys: Array) -> TrainState:
            return _for_each_seed(lambda key: start(network, settings.optimizer, key))(keys)

        def next_epoch(state: TrainState, keys: Array, data: Samples) -> tuple[TrainState, Any]:
            return _for_each_seed(functools.partial(epoch, settings, data))(state, keys)

        def recorded(state: TrainState, data: Samples, test: Samples | None) -> tuple[Any, Array]:
            # By default accelerators round the factors of a float32 product to fewer bits, an error
            # that would enter the measures.
            with jax.default_matmul_precision("highest"):
                return _for_each_seed(lambda state: record(settings, state, data, test, balanced))(
                    state
                )

        self._begin = jax.jit(begin, compiler_options=cpu_options(**_COMPILED_FAST))
        options = cpu_options(xla_cpu_experimental_ynn_fusion_type=_LEFT_TO_YNNPACK)
        # The memory of the old state is reused for the new one (donated), so that a device holds
        # the parameters once. The caller may not use the old state again.
        self._epoch = jax.jit(next_epoch, donate_argnums=0, compiler_options=options)
        self._record = jax.jit(recorded, compiler_options=options)

    def start(self) -> TrainState:
        """States before the first epoch, one for each seed along the leading axis."""
        return self._begin(self._keys)

    def epoch(self, state: TrainState) -> tuple[TrainState, Row]:
        """States after one more epoch, with means of objective and accuracy over it."""
        state, means = self._epoch(state, self._keys, self._data)
        return state, jax.device_get(means)

    def record(self, state: TrainState) -> Row:
        """Observables of the states, and the `result` of each seed as a code."""
        observed, loss = jax.device_get(self._record(state, self._data, self._test))
        return {**observed, "result": _results(loss)}

    def example(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of a row."""
        state = jax.eval_shape(self._begin, self._keys)
        observed, _ = jax.eval_shape(self._record, state, self._data, self._test)
        return {**observed, "result": jax.ShapeDtypeStruct(self._keys.shape, np.int32)}

    def digest(self) -> str:
        """Digest of the lowered programs; it differs after any change of code or of a constant."""
        state = jax.eval_shape(self._begin, self._keys)
        return digest_of_programs(
            (
                self._begin.trace(self._keys),
                self._epoch.trace(state, self._keys, self._data),
                self._record.trace(state, self._data, self._test),
            )
        )


def _for_each_seed(function: Callable[..., T]) -> Callable[..., T]:
    """The function applied along the leading axis of all its arguments."""

    def over_seeds(*arguments: PyTree) -> T:
        if jax.tree.leaves(arguments)[0].shape[0] > 1:
            if jax.default_backend() == "cpu":
                # XLA has no fast kernel for a batch of matrix products on a CPU: under `vmap` ten
                # ConvNets took 20 times as long as one after another.
                return jax.lax.map(lambda one: function(*one), arguments)
            return jax.vmap(function)(*arguments)
        # Under vmap every convolution becomes a grouped one, which is slower even for one seed.
        result = function(*jax.tree.map(lambda leaf: leaf[0], arguments))
        return jax.tree.map(lambda leaf: leaf[None], result)

    return over_seeds


def _on_device(data: ImageSet) -> Samples:
    return Samples(jnp.asarray(data.images, jnp.float32), jnp.asarray(data.labels, jnp.int32))


def _results(loss: np.ndarray) -> Int[np.ndarray, " seeds"]:
    """The code of `diffrax.RESULTS` of each seed: success where its training loss is finite."""
    # The only leaf of such an item is its code, an integer that a store can hold.
    [succeeded] = jax.tree.leaves(diffrax.RESULTS.successful)
    [nonfinite] = jax.tree.leaves(diffrax.RESULTS.nonfinite)
    return np.where(np.isfinite(loss), int(succeeded), int(nonfinite)).astype(np.int32)
