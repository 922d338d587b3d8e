"""Checks of the arguments of `train`; each violation is an error of one line."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from ..checks import check_integer, check_kind, check_number, shown
from ..configuration import short
from ..dynamics.observers import checked_names
from ..errors import ArgumentError
from ..images import ImageSet
from ..labels import check_labels
from ..losses import Loss
from ..problems import WeightDecay
from .networks import Network
from .training import TrainingSettings


def check_kinds(
    training: object, *, test: object, optimizer: object, loss: object, augment: object
) -> None:
    """Raise ValueError for an argument of another kind than `train` takes."""
    check_kind("optimizer", optimizer, optax.GradientTransformation, "optax.sgd(0.1)")
    check_kind("training", training, ImageSet, "images.load('digits')")
    if test is not None:
        check_kind("test", test, ImageSet, "images.load('digits', 'test')")
    check_kind("loss", loss, Loss, "nc_jax.CrossEntropy()")
    if augment is not None and not callable(augment):
        raise ArgumentError(
            f"augment = {shown(augment)}: give a function of a key and a batch of images, such as "
            "cnn.crop_and_flip, or None.",
            "augment",
        )


def graph_of(network: object) -> nnx.GraphDef[Network]:
    """The graph (structure without arrays) of the network that a function builds.

    The function is evaluated abstractly, so that no weights are drawn.

    Raises: ValueError for what is no function of `nnx.Rngs` that returns a `Network`.
    """
    advice = (
        "give a function from nnx.Rngs to a Network: lambda rngs: cnn.ConvNet(1, 10, rngs=rngs)"
    )
    if isinstance(network, Network):
        raise ArgumentError(
            f"network = {type(network).__name__}(...) is a network, and train draws the weights of "
            f"each seed itself: {advice}.",
            "network",
        )
    # A class has the signature of Flax's metaclass, which takes anything.
    if isinstance(network, type) or not callable(network) or not _takes(network, 1):
        raise ArgumentError(f"network = {shown(network)}: {advice}.", "network")

    # The type is checked inside of the abstract evaluation: for another type `nnx.eval_shape`
    # raises an error of Flax, which does not name the function.
    def build() -> Network:
        built = network(nnx.Rngs(0))
        if not isinstance(built, Network):
            raise ArgumentError(f"network returns a {type(built).__name__}: {advice}.", "network")
        return built

    return nnx.graphdef(nnx.eval_shape(build))


def check_observe(observe: Any) -> None:
    """Raise ValueError unless `observe` is None, a function of one argument, or names.

    Whether the names are measures of the training is checked when its program is traced.
    """
    if observe is None:
        return
    if callable(observe):
        if not _takes(observe, 1):
            raise ArgumentError(
                f"observe = {shown(observe)}: give a function of one argument, the last layer of "
                "the training images; it can close over their labels.",
                "observe",
            )
        return
    checked_names(observe, example="zhu_nc1", everything="cnn.EQUATIONS")


def check_settings(settings: TrainingSettings, training: ImageSet, test: ImageSet | None) -> None:
    """Raise ValueError for image shapes, a batch size or a weight decay that cannot be used."""
    for name, data in (("training", training), ("test", test)):
        if data is not None and np.ndim(data.images) != 4:
            raise ArgumentError(
                f"{name}: images of shape {np.shape(data.images)}; give (N, H, W, C), as "
                "images.normalize returns them.",
                name,
            )
    if test is not None and test.images.shape[1:] != training.images.shape[1:]:
        raise ArgumentError(
            f"test: images of {test.images.shape[1:]}, training images are of "
            f"{training.images.shape[1:]}; give both the same shape.",
            "test",
        )
    size = settings.batch_size
    if size is not None and check_integer("batch_size", size) > settings.num_samples:
        raise ArgumentError(
            f"batch_size = {size}: give an integer from 1 to {settings.num_samples}, the samples, "
            "or None for all.",
            "batch_size",
        )
    decay = settings.weight_decay
    if isinstance(decay, str):
        raise ArgumentError(
            f"weight_decay = {decay!r}: give a number for all parameters, or nc_jax.WeightDecay("
            "classifier=..., features=..., bias=...).",
            "weight_decay",
        )
    if isinstance(decay, WeightDecay) and decay.per_class:
        raise ArgumentError(
            "weight_decay has a number for each class: give one number for the classifier and one "
            "for the features.",
            "weight_decay",
        )
    if not isinstance(decay, WeightDecay):
        check_number("weight_decay", decay, scalar=True)


def check_classes(
    network: Callable[[nnx.Rngs], Network], training: ImageSet, test: ImageSet | None
) -> None:
    """Raise ValueError unless network, training images and test images have the same classes."""
    if test is not None and test.classes != training.classes:
        raise ArgumentError(
            f"test: classes {test.classes}, training images have {training.classes}; choose the "
            "same in both.",
            "test",
        )
    # An abstract evaluation takes a fraction of a second. Without it a mistake would be an error
    # after minutes of compilation, or a wrong gather without an error: JAX does not check indices
    # in compiled programs.
    images = jnp.asarray(training.images[:1], jnp.float32)
    layer = jax.eval_shape(lambda: network(nnx.Rngs(0))(images, train=False))
    num_classes = layer.classifier.shape[0]
    if num_classes != len(training.classes):
        raise ArgumentError(
            f"network: has {num_classes} classes, and the images have {len(training.classes)}: "
            f"{short(training.classes)}; build it with num_classes = {len(training.classes)}.",
            "network",
        )
    for name, data in (("training", training), ("test", test)):
        if data is not None:
            check_labels(
                data.labels, len(data.classes), len(data.images),
                every_class=name == "training", name=f"{name}: labels",
            )  # fmt: skip


def check_epochs(epochs: np.ndarray, num_epochs: int) -> None:
    """Raise ValueError for epochs to record that do not increase or are not in 0..num_epochs."""
    integers = epochs.ndim == 1 and epochs.size > 0 and epochs.dtype.kind == "i"
    if not integers or np.any(np.diff(epochs) <= 0) or epochs[0] < 0 or epochs[-1] > num_epochs:
        raise ArgumentError(
            f"save_epochs = {epochs.tolist()}: give increasing integers in 0..{num_epochs}.",
            "save_epochs",
        )


def check_attributes(
    given: Mapping[str, str | int | float], reserved: Sequence[str]
) -> Mapping[str, str | int | float]:
    """The attributes, if they can be stored and do not replace those that describe the training."""
    # A store writes attributes as JSON, which NumPy's numbers are not.
    for name, value in given.items():
        if name in reserved:
            raise ArgumentError(
                f"attributes: {name!r} is an attribute that train writes; give another name.",
                "attributes",
            )
        if not isinstance(value, (str, int, float)):
            raise ArgumentError(
                f"attributes: {name} = {value!r} is a {type(value).__name__}; give str, int or "
                "float.",
                "attributes",
            )
    return given


def _takes(function: Callable, count: int) -> bool:
    """Whether a function can be called with so many positional arguments."""
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError:
        return False
    except ValueError:  # a function written in C has no signature that can be read
        return True
    return True
