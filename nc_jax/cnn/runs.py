"""The training of a network, or of many seeds of it: programs, progress, results."""

import contextlib
import functools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from flax import nnx
from jaxtyping import Array, Int, Key, PyTree

from .. import storage
from ..checks import check_integer, check_key, check_kind, check_number
from ..compilation import cpu_options
from ..configuration import described_call, digest_of_programs, short
from ..dynamics import log_steps
from ..dynamics.pieces import nothing_computed
from ..geometry import common_class_size
from ..images import ImageSet
from ..interrupts import lasting_interrupts
from ..labels import check_labels
from ..losses import CrossEntropy, Loss
from ..paths import local_path
from ..problems import WeightDecay
from ..progress import Bar
from .evaluation import observe
from .networks import Network
from .records import Records, Row, records, with_result
from .training import Augment, Samples, Setting, TrainState, epoch, start

T = TypeVar("T")

# Seconds of work that a kill may cost, beside an epoch; writing a state takes up to one.
_SECONDS = 20.0
# Options of XLA on a CPU: three to four times as fast for the start of a network.
_QUICKLY = {"xla_llvm_disable_expensive_passes": True, "xla_backend_optimization_level": 0}
# What XLA leaves to YNNPACK: not convolutions, where that takes twice as long as XLA itself.
_LEFT_TO_YNNPACK = "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE"


class Run(NamedTuple):
    """A finished training.

    Attributes:
        data: observables over (seed, epoch), with the configuration as attributes.
        setting, state: what `network` is put together from; arrays of `state` have a leading axis
            of seeds.
    """

    data: xr.Dataset
    setting: Setting
    state: TrainState

    def __repr__(self) -> str:
        seeds = self.state.epoch.size
        weights = sum(leaf.size for leaf in jax.tree.leaves(self.state.params)) // seeds
        variables = ", ".join(map(str, self.data.data_vars))
        return (
            f"Run({seeds} seeds of {weights} weights, {int(self.state.epoch.max())} epochs; "
            f"data: {dict(self.data.sizes)} of {variables})"
        )

    def network(self, seed: int = 0) -> Network:
        """The trained network of a seed."""
        params, rest = jax.tree.map(lambda leaf: leaf[seed], (self.state.params, self.state.rest))
        return nnx.merge(self.setting.graph, params, rest)


def train(
    network: Callable[[nnx.Rngs], Network],
    training: ImageSet,
    optimizer: optax.GradientTransformation,
    num_epochs: int,
    test: ImageSet | None = None,
    loss: Loss = CrossEntropy(),
    weight_decay: float | WeightDecay = 0.0,
    batch_size: int | None = 128,
    augment: Augment | None = None,
    num_seeds: int = 1,
    key: Key[Array, ""] | None = None,
    save_epochs: Sequence[int] | Int[np.ndarray, " T"] | None = None,
    path: str | os.PathLike[str] | None = None,
    resume: bool = True,
    progress: bool = True,
    attributes: Mapping[str, str | int | float] | None = None,
) -> Run:
    """Train a network and watch it collapse.

    Data lie on the device once; an epoch is one compiled program that gathers its batches there.
    Seeds train side by side under one vmap, on a CPU in turn. At chosen epochs the network passes
    over the whole training set, under running statistics, and everything of `collapse_metrics` is
    recorded with margins, losses and accuracies.

    With `path`, results and the last state are written as they come, each whole or not at all. A
    training that was killed and is called again goes on from there to the same numbers, on a CPU
    to the bit.

    Args:
        network: from `nnx.Rngs` to a `Network`, such as `lambda rngs: ConvNet(1, 10, rngs=rngs)`.
        training: images (N, H, W, C), of every class one at least, with labels in 0..K−1.
        optimizer: an Optax transformation, used as it is. Its steps are batches,
            `N // batch_size` an epoch, so that a schedule of Zhu et al. is
            `optax.exponential_decay(0.05, 40 * steps, 0.1, staircase=True)`. Those with a line
            search, such as `optax.lbfgs(memory_size=10)` with its strong Wolfe conditions, get the
            objective of the batch.
        num_epochs: passes over the data; what is left of an epoch after its batches is left out.
        test: images whose loss and accuracy are recorded too.
        loss: of logits, its mean over a batch is descended.
        weight_decay: λ of λ/2 ‖θ‖² over all parameters, as PyTorch's `weight_decay` of SGD and
            Adam; or a `WeightDecay`, that of Zhu's eq. 3 on last-layer features and classifier.
        batch_size: None for all samples at once, in order.
        augment: from a key and a batch of images to such a batch: `crop_and_flip`.
        num_seeds: networks to train, number i from `fold_in(key, i)`.
        key: from `jax.random.key`; None for `jax.random.key(0)`.
        save_epochs: increasing epochs in 0..num_epochs; None for about 30, evenly in log.
        path: of a folder for the results and the state.
        resume: go on with what is at `path`; False starts anew in its place.
        progress: show a bar with loss, accuracy and NC1, in a log file once a minute.
        attributes: of the data set; what they say must agree when a run is gone on with.

    Returns: a `Run`.

    Raises: ValueError for arguments that make no training, or a path that holds another, with the
    keys that differ; RuntimeError if no seed's loss is a number any more, or another process
    writes at `path`; `Interrupted`, a KeyboardInterrupt, on Ctrl-C.

    Example:

        data, test = images.normalize(images.load("digits"), images.load("digits", "test"))
        run = train(lambda rngs: ConvNet(1, 10, rngs=rngs), data, optax.sgd(0.05, 0.9), 50, test)
        run.data["zhu_nc1"].plot()
    """
    key = jax.random.key(0) if key is None else key
    check_key(key)
    check_kind("optimizer", optimizer, optax.GradientTransformation, "optax.sgd(0.1)")
    check_kind("training", training, ImageSet, "images.load('digits')")
    if test is not None:
        check_kind("test", test, ImageSet, "images.load('digits', 'test')")
    graph = nnx.graphdef(nnx.eval_shape(lambda: network(nnx.Rngs(0))))
    setting = Setting(
        graph, optax.with_extra_args_support(optimizer), loss, weight_decay, batch_size, augment,
        len(training.images),
    )  # fmt: skip
    _check(setting, training, test)
    _check_classes(network, training, test)
    _check_labels(training, test)
    num_epochs = check_integer("num_epochs", num_epochs)
    num_seeds = check_integer("num_seeds", num_seeds)
    epochs = log_steps(num_epochs, 30) if save_epochs is None else np.asarray(save_epochs)
    _check_epochs(epochs, num_epochs)
    programs = Programs(setting, network, training, test, num_seeds, key)
    own = {
        **described_call("network", network, set()), **_described_setting(setting),
        "num_epochs": num_epochs, "num_seeds": num_seeds,
        "save_epochs": short(epochs.tolist()),
        "training": _described(training), "test": "none" if test is None else _described(test),
        "key": f"{jax.random.key_impl(key)} {np.asarray(jax.random.key_data(key)).tolist()}",
        "platform": jax.default_backend(), **storage.provenance(),
    }  # fmt: skip
    described = {**own, **_attributes(attributes or {}, [*own, "program"])}
    folder = None if path is None else local_path(path)
    if folder is not None and folder.is_file():
        raise ValueError(f"path = {folder}: is a file; give a folder.")
    results = None
    try:
        if folder is not None:
            described["program"] = programs.digest()
        with records(folder, resume, programs.example(), epochs, described) as results:
            state = _fill(programs, results, epochs, num_epochs, progress)
            return Run(results.dataset(), setting, state)
    except KeyboardInterrupt:
        # Without the traceback of JAX, which is hundreds of lines.
        raise (nothing_computed() if results is None else results.interrupted()) from None


class Programs:
    """What is compiled: a start, an epoch, a look at everything, for all seeds."""

    def __init__(
        self,
        setting: Setting,
        network: Callable[[nnx.Rngs], Network],
        training: ImageSet,
        test: ImageSet | None,
        num_seeds: int,
        key: Key[Array, ""],
    ):
        balanced = common_class_size(training.labels, len(training.classes)) is not None
        # On the device once, and handed over as arguments: constants would be compiled in.
        self._data = _samples(training)
        self._test = None if test is None else _samples(test)
        self._keys = jax.jit(jax.vmap(jax.random.fold_in, (None, 0)))(key, np.arange(num_seeds))

        def begin(keys: Array) -> TrainState:
            return _each(lambda key: start(network, setting.optimizer, key))(keys)

        def next_epoch(state: TrainState, keys: Array, data: Samples) -> tuple[TrainState, Any]:
            return _each(functools.partial(epoch, setting, data))(state, keys)

        def look(state: TrainState, data: Samples, test: Samples | None) -> dict[str, Array]:
            # An accelerator rounds products of float32 to fewer digits unless told not to.
            with jax.default_matmul_precision("highest"):
                return _each(lambda state: observe(setting, state, data, test, balanced))(state)

        # It runs once: on a CPU compiling is what takes time, and most of that is for speed.
        self._begin = jax.jit(begin, compiler_options=cpu_options(**_QUICKLY))
        fast = cpu_options(xla_cpu_experimental_ynn_fusion_type=_LEFT_TO_YNNPACK)
        # The old state makes room for the new.
        self._epoch = jax.jit(next_epoch, donate_argnums=0, compiler_options=fast)
        self._look = jax.jit(look, compiler_options=fast)

    def start(self) -> TrainState:
        """States before the first epoch."""
        return self._begin(self._keys)

    def epoch(self, state: TrainState) -> tuple[TrainState, Row]:
        """States after one more epoch, with means of loss and accuracy over it."""
        state, seen = self._epoch(state, self._keys, self._data)
        return state, jax.device_get(seen)

    def look(self, state: TrainState) -> Row:
        """A row of observables."""
        return with_result(jax.device_get(self._look(state, self._data, self._test)))

    def example(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of a row."""
        state = jax.eval_shape(self._begin, self._keys)
        seen = jax.eval_shape(self._look, state, self._data, self._test)
        return {**seen, "result": jax.ShapeDtypeStruct(self._keys.shape, np.int32)}

    def digest(self) -> str:
        """Of the compiler's input: whatever code or constant is changed."""
        state = jax.eval_shape(self._begin, self._keys)
        return digest_of_programs(
            (
                self._begin.trace(self._keys),
                self._epoch.trace(state, self._keys, self._data),
                self._look.trace(state, self._data, self._test),
            )
        )


def _each(function: Callable[..., T]) -> Callable[..., T]:
    """The function for each seed, along the leading axis of all arguments."""

    def over_seeds(*arguments: PyTree) -> T:
        if jax.tree.leaves(arguments)[0].shape[0] > 1:
            if jax.default_backend() == "cpu":
                # Products of matrices side by side take XLA 20 times as long there as in turn.
                return jax.lax.map(lambda one: function(*one), arguments)
            return jax.vmap(function)(*arguments)
        # A batch of one would turn every convolution into one of groups.
        result = function(*jax.tree.map(lambda leaf: leaf[0], arguments))
        return jax.tree.map(lambda leaf: leaf[None], result)

    return over_seeds


def _fill(
    programs: Programs,
    results: Records,
    epochs: Int[np.ndarray, " T"],
    num_epochs: int,
    progress: bool,
) -> TrainState:
    """Train to the end, and keep what is seen on the way."""
    places = {int(epoch): place for place, epoch in enumerate(epochs)}
    state = results.resumed(programs.start())
    done, kept, nc1 = int(np.asarray(state.epoch)[0]), time.monotonic(), np.nan
    if done == 0 and 0 in places:
        results.write(places[0], programs.look(state))
    seen = None
    with (
        lasting_interrupts() as check_interrupt,
        Bar(num_epochs, "training", progress, done, unit="epoch") as bar,
    ):
        while done < num_epochs:
            check_interrupt()
            # Compiled at its first call.
            with bar.doing("compiling") if seen is None else contextlib.nullcontext():
                state, seen = programs.epoch(state)
            done += 1
            if not np.any(np.isfinite(seen["loss"])):
                raise RuntimeError(
                    f"loss = {seen['loss'][0]} in epoch {done}: take a smaller learning rate, or "
                    "look at the images."
                )
            if done in places:
                row = programs.look(state)
                results.write(places[done], row)
                nc1 = np.nanmedian(row["zhu_nc1"])
            if done == num_epochs or time.monotonic() - kept > _SECONDS:
                results.checkpoint(state)
                kept = time.monotonic()
            shown = {name: f"{np.nanmedian(value):.3g}" for name, value in seen.items()}
            # Not known before the first look.
            known = {} if np.isnan(nc1) else {"NC1": f"{nc1:.2g}"}
            bar.show(done, **shown, **known)
    return state


def _samples(data: ImageSet) -> Samples:
    return Samples(jnp.asarray(data.images, jnp.float32), jnp.asarray(data.labels, jnp.int32))


def _described_setting(setting: Setting) -> dict[str, str]:
    """What decides the steps, as far as it can be read; all of it is in the digest."""
    decay = setting.weight_decay
    return {
        "loss": short(setting.loss),
        "weight_decay": short(decay if isinstance(decay, WeightDecay) else float(decay)),
        "batch_size": str(setting.batch_size),
        **described_call("augment", setting.augment, set()),
    }  # fmt: skip


def _described(data: ImageSet) -> str:
    """A data set by its shape and a digest of what it holds."""
    return f"{short(data.images)}, labels {short(data.labels)}"


def _check(setting: Setting, training: ImageSet, test: ImageSet | None) -> None:
    """Refuse data, batches and penalties that make no training."""
    for name, data in (("training", training), ("test", test)):
        if data is not None and data.images.ndim != 4:
            raise ValueError(
                f"{name}: images of shape {data.images.shape}; give (N, H, W, C), as "
                "images.normalize makes them."
            )
    if test is not None and test.images.shape[1:] != training.images.shape[1:]:
        raise ValueError(
            f"test: images of {test.images.shape[1:]}, training images are of "
            f"{training.images.shape[1:]}; give both alike."
        )
    size = setting.batch_size
    if size is not None and check_integer("batch_size", size) > setting.num_samples:
        raise ValueError(
            f"batch_size = {size}: give an integer from 1 to {setting.num_samples}, the samples, "
            "or None for all."
        )
    if not isinstance(setting.weight_decay, WeightDecay):
        check_number("weight_decay", setting.weight_decay, scalar=True)


def _check_classes(
    network: Callable[[nnx.Rngs], Network], training: ImageSet, test: ImageSet | None
) -> None:
    """Refuse data and a network that do not tell the same classes apart."""
    if test is not None and test.classes != training.classes:
        raise ValueError(
            f"test: classes {test.classes}, training images have {training.classes}; choose the "
            "same in both."
        )
    images = jnp.asarray(training.images[:1], jnp.float32)
    layer = jax.eval_shape(lambda: network(nnx.Rngs(0))(images, train=False))
    num_classes = layer.classifier.shape[0]
    if num_classes != len(training.classes):
        raise ValueError(
            f"network: tells {num_classes} classes apart, and the images have "
            f"{len(training.classes)}: {short(training.classes)}; build it with num_classes = "
            f"{len(training.classes)}."
        )


def _check_labels(training: ImageSet, test: ImageSet | None) -> None:
    """Refuse labels that are not classes of the images, and training images without some class."""
    for name, data in (("training", training), ("test", test)):
        if data is not None:
            check_labels(
                data.labels, len(data.classes), len(data.images),
                every_class=name == "training", name=f"{name}: labels",
            )  # fmt: skip


def _attributes(
    given: Mapping[str, str | int | float], own: Sequence[str]
) -> Mapping[str, str | int | float]:
    """Attributes that can be kept beside those of a training itself."""
    for name, value in given.items():
        if name in own:
            raise ValueError(f"attributes: {name!r} is the training's own; give another name.")
        if not isinstance(value, (str, int, float)):
            raise ValueError(
                f"attributes: {name} = {value!r} is a {type(value).__name__}; give str, int or "
                "float."
            )
    return given


def _check_epochs(epochs: np.ndarray, num_epochs: int) -> None:
    integers = epochs.ndim == 1 and epochs.size > 0 and epochs.dtype.kind == "i"
    if not integers or np.any(np.diff(epochs) <= 0) or epochs[0] < 0 or epochs[-1] > num_epochs:
        raise ValueError(
            f"save_epochs = {epochs.tolist()}: give increasing integers in 0..{num_epochs}."
        )
