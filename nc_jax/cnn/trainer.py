"""Training of a network, or of many seeds of it, with measures recorded at chosen epochs."""

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
import optax
import xarray as xr
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from .. import storage
from ..checks import check_integer, check_key
from ..configuration import described_call, short
from ..dynamics import log_steps
from ..dynamics.pieces import nothing_computed
from ..images import ImageSet
from ..interrupts import lasting_interrupts
from ..losses import CrossEntropy, Loss
from ..paths import local_path
from ..problems import WeightDecay
from ..progress import Bar
from ..state import LastLayer
from .networks import Network
from .programs import TrainingPrograms
from .records import Records, Row, records
from .requirements import (
    check_attributes,
    check_classes,
    check_epochs,
    check_kinds,
    check_observe,
    check_settings,
    graph_of,
)
from .training import Augment, TrainingSettings, TrainState

# A checkpoint is written at the end of an epoch if the last checkpoint is older than this. Writing
# takes up to a second. A killed training loses the epochs after its last checkpoint.
_CHECKPOINT_SECONDS = 20.0
# Number of epochs, evenly spaced in log, that are recorded by default. Epochs are integers, so that
# some of them coincide and fewer are recorded.
_NUM_SAVED = 30


class TrainedNetworks(NamedTuple):
    """The result of `train`: recorded measures and the networks after the last epoch.

    Attributes:
        data: recorded measures with dims (seed, epoch); attributes describe the training.
        settings: what the training was compiled for.
        state: arrays of all networks, with a leading axis of seeds.

    Example:
        >>> from nc_jax import cnn, images
        >>> pixels, labels = np.eye(4).reshape(4, 2, 2, 1), np.arange(4) % 2
        >>> data = images.ImageSet(pixels, labels, ("even", "odd"))
        >>> build = lambda rngs: cnn.ConvNet(1, 2, widths=(3,), rngs=rngs)
        >>> cnn.train(build, data, optax.sgd(0.1), 1, batch_size=None, observe=("train_loss",))
        TrainedNetworks(1 seeds of 35 weights, 1 epochs; data: {'seed': 1, 'epoch': 2} of
        train_loss, result)
    """

    data: xr.Dataset
    settings: TrainingSettings
    state: TrainState

    def __repr__(self) -> str:
        seeds = self.state.epoch.size
        weights = sum(leaf.size for leaf in jax.tree.leaves(self.state.params)) // seeds
        variables = ", ".join(map(str, self.data.data_vars))
        return (
            f"TrainedNetworks({seeds} seeds of {weights} weights, {int(self.state.epoch.max())} "
            f"epochs; data: {dict(self.data.sizes)} of {variables})"
        )

    def network(self, *, seed: int = 0) -> Network:
        """The trained network of one seed.

        Args: `seed`, the number of the seed, from 0.

        Raises: ValueError for a number that is not below the number of trained seeds.

        Example:
            >>> from nc_jax import cnn, images
            >>> pixels, labels = np.eye(4).reshape(4, 2, 2, 1), np.arange(4) % 2
            >>> data = images.ImageSet(pixels, labels, ("even", "odd"))
            >>> build = lambda rngs: cnn.ConvNet(1, 2, widths=(3,), rngs=rngs)
            >>> trained = cnn.train(
            ...     build, data, optax.sgd(0.1), 1, batch_size=None, observe=("train_loss",)
            ... )
            >>> trained.network()(pixels, train=False)
            LastLayer(features=f32[4,3], classifier=f32[2,3], bias=f32[2])
        """
        seed = check_integer("seed", seed, least=0, most=self.state.epoch.size - 1)
        params, rest = jax.tree.map(lambda leaf: leaf[seed], (self.state.params, self.state.rest))
        return nnx.merge(self.settings.graph, params, rest)


def train(
    network: Callable[[nnx.Rngs], Network],
    training: ImageSet,
    optimizer: optax.GradientTransformation,
    num_epochs: int,
    *,
    test: ImageSet | None = None,
    loss: Loss = CrossEntropy(),
    weight_decay: float | WeightDecay = 0.0,
    batch_size: int | None = 128,
    augment: Augment | None = None,
    num_seeds: int = 1,
    key: Key[Array, ""] | None = None,
    save_epochs: Sequence[int] | Int[np.ndarray, " T"] | None = None,
    observe: Sequence[str] | Callable[[LastLayer], dict[str, Float[Array, "..."]]] | None = None,
    path: str | os.PathLike[str] | None = None,
    resume: bool = True,
    progress: bool = True,
    attributes: Mapping[str, str | int | float] | None = None,
) -> TrainedNetworks:
    """Train a network on images and record measures of its collapse.

    One compiled program trains an epoch: it draws the batches from the images, which stay on the
    device. Seeds are trained under one `vmap`, on a CPU one after another. At the saved epochs the
    network is evaluated on all training images under running statistics, and every measure is
    recorded: the keys of `metrics.collapse_metrics` and those of `cnn.EQUATIONS`.

    With `path`, rows of results and checkpoints are written while the training runs, each whole or
    not at all. The same call resumes a training that was killed and gives the same numbers as one
    without a kill, on a CPU to the bit. For a finished training it reads the results.

    Args:
        network: function from `nnx.Rngs` to a `Network`, such as
            `lambda rngs: ConvNet(1, 10, rngs=rngs)`.
        training: images (N, H, W, C), at least one of each class, with labels in 0..K−1.
        optimizer: any Optax transformation. It steps once per batch, `N // batch_size` times per
            epoch, so that the schedule of Zhu et al. is
            `optax.exponential_decay(0.05, 40 * steps, 0.1, staircase=True)`. A line search, such as
            that of `optax.lbfgs(memory_size=10)`, evaluates the objective of the batch.
        num_epochs: passes over the images. Images of an incomplete last batch are left out.
        test: images whose loss and accuracy are recorded too.
        loss: loss of the logits; its mean over a batch is minimised.
        weight_decay: λ of the penalty λ/2 ‖θ‖² over all parameters, as `weight_decay` of PyTorch's
            SGD and Adam; or a `WeightDecay` on classifier, features and bias (Zhu, eq. 3).
        batch_size: images per step; None for all of them, in their order.
        augment: function from a key and a batch of images to a batch of images of the same shape,
            such as `crop_and_flip`.
        num_seeds: number of networks; network i starts from `fold_in(key, i)`.
        key: typed key; None for `jax.random.key(0)`.
        save_epochs: increasing epochs in 0..num_epochs; None for about 30, evenly spaced in log.
        observe: names of measures, of which only these are computed and stored; or a function from
            the last layer of all training images, in their order and in the widest float, to a dict
            of arrays, as for `Flow`; the function can close over `training.labels`. None for all.
        path: folder for results and checkpoints.
        resume: resume the training at `path`; False replaces it.
        progress: show a progress bar on stderr, once the run has taken a second on a terminal or in
            a notebook, or a minute elsewhere; with objective, accuracy and NC1.
        attributes: further attributes of the data set. A training is resumed only if they agree.

    Returns: `TrainedNetworks`, whose `data` has dims (seed, epoch).

    Raises: ValueError for arguments that cannot be used, or for a path with another training (the
    message names the settings that differ); RuntimeError if the loss of no seed is finite, or if
    another process writes at `path`; `Interrupted`, a KeyboardInterrupt, on Ctrl-C.

    Example:
        >>> from nc_jax import cnn, images
        >>> pixels, labels = np.eye(4).reshape(4, 2, 2, 1), np.arange(4) % 2
        >>> data = images.ImageSet(pixels, labels, ("even", "odd"))
        >>> build = lambda rngs: cnn.ConvNet(1, 2, widths=(3,), rngs=rngs)
        >>> trained = cnn.train(
        ...     build, data, optax.sgd(0.1), 1, batch_size=None, observe=("train_loss", "zhu_nc4")
        ... )
        >>> trained.data["zhu_nc4"].dims, trained.data["epoch"].values.tolist()
        (('seed', 'epoch'), [0, 1])
    """
    key = jax.random.key(0) if key is None else key
    check_key(key)
    check_kinds(training, test=test, optimizer=optimizer, loss=loss, augment=augment)
    check_observe(observe)
    settings = TrainingSettings(
        graph_of(network), optax.with_extra_args_support(optimizer), loss, weight_decay, batch_size,
        augment, len(training.images),
        observe if observe is None or callable(observe) else tuple(observe),
    )  # fmt: skip
    check_settings(settings, training, test)
    check_classes(network, training, test)
    num_epochs = check_integer("num_epochs", num_epochs)
    num_seeds = check_integer("num_seeds", num_seeds)
    epochs = log_steps(num_epochs, _NUM_SAVED) if save_epochs is None else np.asarray(save_epochs)
    check_epochs(epochs, num_epochs)
    programs = TrainingPrograms(
        settings, network, training, test=test, num_seeds=num_seeds, key=key
    )
    # Everything that determines the results, as text. A store is resumed only if its attributes
    # have the same texts.
    configuration = {
        **described_call("network", network, set()), **_described_settings(settings),
        "num_epochs": num_epochs, "num_seeds": num_seeds,
        "save_epochs": short(epochs.tolist()),
        "training": _described(training), "test": "none" if test is None else _described(test),
        "key": f"{jax.random.key_impl(key)} {np.asarray(jax.random.key_data(key)).tolist()}",
        "platform": jax.default_backend(), **storage.provenance(),
    }  # fmt: skip
    configuration |= check_attributes(attributes or {}, [*configuration, "program"])
    folder = None if path is None else local_path(path)
    if folder is not None and folder.is_file():
        raise ValueError(f"path = {folder}: is a file; give a folder.")
    results = None
    try:
        if folder is not None:
            # The digest covers what no text above describes, such as the numbers in an optimiser's
            # closures. Lowering all programs takes seconds, and a training in memory needs no
            # digest.
            configuration["program"] = programs.digest()
        with records(
            folder,
            resume=resume,
            example=programs.example(),
            epochs=epochs,
            attributes=configuration,
        ) as results:
            state = _run_epochs(programs, results, epochs, num_epochs, progress)
            return TrainedNetworks(results.dataset(), settings, state)
    except KeyboardInterrupt:
        # `from None`, because JAX's part of the traceback has hundreds of lines.
        raise (nothing_computed() if results is None else results.interrupted()) from None


def _run_epochs(
    programs: TrainingPrograms,
    results: Records,
    epochs: Int[np.ndarray, " T"],
    num_epochs: int,
    progress: bool,
) -> TrainState:
    """Train to the last epoch, with rows of results and checkpoints written on the way."""
    rows = {int(epoch): row for row, epoch in enumerate(epochs)}
    # A checkpoint is restored into the shapes and dtypes of the start.
    state = results.resumed(programs.start())
    # All seeds have completed the same number of epochs.
    done, saved_at, nc1 = int(np.asarray(state.epoch)[0]), time.monotonic(), np.nan
    if done == 0 and 0 in rows:
        results.write(rows[0], programs.record(state))
    means = None
    with (
        lasting_interrupts() as check_interrupt,
        Bar(num_epochs, "training", progress, initial=done, unit="epoch") as bar,
    ):
        while done < num_epochs:
            check_interrupt()
            # The first call compiles, which the progress bar says.
            with bar.doing("compiling") if means is None else contextlib.nullcontext():
                state, means = programs.epoch(state)
            done += 1
            _check_finite(means, done)
            if done in rows:
                observed = programs.record(state)
                results.write(rows[done], observed)
                nc1 = _median(observed, "zhu_nc1")
            # A checkpoint is written after the row of its epoch: a training that resumes from it
            # does not compute that row again, so that in the other order a kill would lose the row.
            if done == num_epochs or time.monotonic() - saved_at > _CHECKPOINT_SECONDS:
                results.checkpoint(state)
                saved_at = time.monotonic()
            shown = {name: f"{np.nanmedian(value):.3g}" for name, value in means.items()}
            if not np.isnan(nc1):
                shown["NC1"] = f"{nc1:.2g}"
            bar.show(done, **shown)
    return state


def _median(observed: Row, name: str) -> float:
    """Median over the seeds with a finite value; NaN if there is none, or for another name."""
    values = observed.get(name, np.nan)
    return np.nan if np.all(np.isnan(values)) else float(np.nanmedian(values))


def _check_finite(means: Row, epoch: int) -> None:
    """Raise RuntimeError if no seed has a finite objective: parameters that are NaN stay NaN."""
    if not np.any(np.isfinite(means["loss"])):
        raise RuntimeError(
            f"loss = {means['loss'][0]} in epoch {epoch}: take a smaller learning rate, or check "
            "that the images are finite."
        )


def _described_settings(settings: TrainingSettings) -> dict[str, str]:
    """The settings as text; the optimiser is covered by the digest of the programs alone."""
    decay = settings.weight_decay
    return {
        "loss": short(settings.loss),
        "weight_decay": short(decay if isinstance(decay, WeightDecay) else float(decay)),
        "batch_size": str(settings.batch_size),
        **described_call("augment", settings.augment, set()),
        **described_call("observe", settings.observe, set()),
    }  # fmt: skip


def _described(data: ImageSet) -> str:
    """A data set by its shape and a digest of its arrays."""
    return f"{short(data.images)}, labels {short(data.labels)}"
