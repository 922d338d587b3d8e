"""`Monitor`: measures of a network while it trains, from the features of each batch."""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import shown
from ..errors import ArgumentError
from ..measures import Measure
from .layers import (
    UNNAMED,
    LayerMoments,
    applicable,
    classes_of,
    heads_of,
    is_finite,
    measures_of,
)
from .measuring import beyond_one_pass, choose
from .passes import FROM_COVARIANCE, sums_from_covariance
from .recording import Measured, Recording

if TYPE_CHECKING:
    import xarray as xr


class Monitor:
    """Measures of collapse by epoch, from features that are read once.

    `update` adds the features of a batch. `result` computes the measures of all batches since the
    last result, adds them as a row to `dataset`, and starts anew: it is `compute` and `reset` of a
    metric of torchmetrics in one call. `record` adds a row of measures that were computed
    otherwise. The data set has the dims of the one of `cnn.train`, (epoch), or (epoch,
    layer) of several layers, so that `plotting.training_figure` draws both.

    While a network trains its weights change within an epoch. The measures are then those of
    features of different weights, as the mean loss of an epoch is. For the features of one set of
    weights call `update` in a loop without training, or `record(metrics.measure(...))`.

    Args:
        num_classes: K.
        names: keys of `metrics.MEASURES`, `Measure` objects, or "all" for each that one pass gives.
            None for all default measures that are one number and need a single pass. Measures that
            need distances of samples from the final class means, such as
            `ji_within_class_variation`, take a second pass and are refused: see `record`.
        class_names: names of the classes, in the order of the rows of the classifier, texts or
            integers; None for 0..K−1.
        ignore_index: a label whose samples are left out, such as −1.
        path: of a Zarr store, to which each row is written: it is on disk when `result` returns. A
            Monitor with the path of an earlier one has its rows and adds to them.

    Raises: ValueError for names that are unknown or need two passes, and for a path whose rows have
    other names or classes; FileExistsError for a path with something else.

    Example: two epochs of a loop. The features (N, d) and labels (N,) are arrays of NumPy, JAX or
    PyTorch.

        >>> monitor = nc.metrics.Monitor(num_classes=2, names=["zhu_nc1", "cdnv", "zhu_nc4"])
        >>> classifier = np.eye(2)
        >>> for epoch in (1, 2):
        ...     for batch in range(3):
        ...         labels = np.array([0, 1, 0, 1])
        ...         noise = np.random.default_rng(batch).normal(size=(4, 2)) / 10**epoch
        ...         monitor.update(classifier[labels] + noise, labels)
        ...     values = monitor.result(classifier, epoch=epoch, train_loss=0.5 / epoch)
        >>> sorted(values)
        ['cdnv', 'zhu_nc1', 'zhu_nc4']
        >>> monitor.dataset["zhu_nc1"].dims, monitor.dataset["train_loss"].values
        (('epoch',), array([0.5 , 0.25]))
        >>> ratio = float(monitor.dataset["cdnv"][1] / monitor.dataset["cdnv"][0])
        >>> 0.005 < ratio < 0.02  # a tenth of the deviations
        True
    """

    def __init__(
        self,
        num_classes: int,
        *,
        names: Sequence[str | Measure] | str | None = None,
        class_names: Sequence[Any] | None = None,
        ignore_index: Any = None,
        path: str | os.PathLike[str] | None = None,
    ) -> None:
        classes = classes_of(num_classes, class_names, ignore_index)
        self._measures = _chosen(names)
        self._named = names is not None and names != "all"
        needed = {need for measure in self._measures for need in measure.needs}
        self._sums = tuple(name for name in FROM_COVARIANCE if name in needed)
        self._samples = LayerMoments(classes, covariance=bool(self._sums))
        attributes = {
            "kind": "monitor", "num_classes": len(classes.names), "class_names": classes.names,
            "names": [m.name for m in self._measures] if self._named else (names or "default"),
        }  # fmt: skip
        equations = {measure.name: measure.equation for measure in self._measures}
        self._recording = Recording(attributes, classes.names, equations, path)

    def __repr__(self) -> str:
        layers, count = self._recording.layers, len(self._samples.classes.names)
        of_layers = "" if layers is None else f"{', '.join(layers)}, "
        return f"Monitor({count} classes, {of_layers}{len(self._recording)} epochs)"

    @property
    def dataset(self) -> "xr.Dataset":
        """All rows, with dims (epoch) or (epoch, layer), and those of classes after them.

        A number that a row lacks is NaN. `storage.load(path)` reads the same data set from disk.

        Example:

            >>> monitor = nc.metrics.Monitor(2)
            >>> _ = monitor.record({"cdnv": 0.5}, train_loss=1.0)
            >>> dict(monitor.dataset.sizes), monitor.dataset["cdnv"].attrs["units"]
            ({'epoch': 1}, '1')
        """
        return self._recording.dataset()

    def update(self, features: Any, labels: Any) -> None:
        """Add the features of a batch.

        Counts, means, scatters and, where a measure needs it, the covariance within the classes are
        summed in float64. The program is compiled once for all batches up to the size of the first,
        rounded up to a power of two. It runs while the caller continues, and the arrays may be
        changed in place afterwards.

        Args:
            features: (N, d) of any real dtype, arrays of NumPy, JAX or PyTorch; or a dict of such
                arrays by the names of their layers, the last layer of the network last.
            labels: (N,) integers in 0..K−1 or names among `class_names`, or one-hot rows (N, K).

        Raises: ValueError for labels out of range, and for layers or widths other than those of the
        batches before.

        Example: two layers.

            >>> monitor = nc.metrics.Monitor(2, names=["cdnv"])
            >>> monitor.update({"first": np.eye(4), "last": np.eye(4)[:, :2]}, np.arange(4) % 2)
            >>> values = monitor.result()
            >>> values["first"]["cdnv"]
            0.5
        """
        self._samples.add(features, labels)

    def result(
        self, classifier: Any = None, bias: Any = None, *, epoch: int | None = None, **scalars: Any
    ) -> Measured:
        """Measures of all batches since the last result, which are also added as a row.

        Args:
            classifier: (K, d) of the last layer, an array of NumPy, JAX or PyTorch; None leaves out
                the measures that need it. A kernel (d, K) of Flax is transposed.
            bias: (K,) or None.
            epoch: number of epochs that are complete, 1 after the first; None for the number of the
                last row plus 1. A stored row of this epoch and later ones are replaced, as a
                training that resumes from a checkpoint needs.
            scalars: further numbers of the row, such as a loss. A row may lack some of them.

        Returns: `Measures`, a dict of floats and arrays; of several layers a dict of these. Where
            features or classifier are not finite, each number is NaN, and there are no arrays.

        Raises: ValueError if a class has no samples, if the classifier has another shape, or if a
        measure of `names` needs a classifier and there is none. The samples then remain.

        Example:

            >>> monitor = nc.metrics.Monitor(2, names=["ji_self_duality"])
            >>> monitor.update(np.array([[3.0, 0.0], [1.0, 0.0]]), np.array([0, 1]))
            >>> monitor.result(classifier=np.array([[1.0, 0.0], [-1.0, 0.0]]))
            2 samples of 2 features, 2 classes of 1
            ...
        """
        if not self._samples.moments:
            raise ValueError("no samples since the last result: call update(features, labels).")
        classes = self._samples.classes
        classes.settle()
        heads = heads_of(self._samples.moments, classifier, bias)
        *_, last = heads
        measured = {}
        for layer, moments in self._samples.moments.items():
            named = self._named and layer == last
            chosen = applicable(self._measures, moments, heads[layer], named=named)
            # A training that diverges has a row of NaN, and continues.
            finite = is_finite(moments, heads[layer])
            sums = sums_from_covariance(moments, self._sums) if finite else {}
            measured[layer] = measures_of(chosen, moments, sums, heads[layer], classes.names)
        measured = measured.get(UNNAMED, measured)
        self.record(measured, epoch=epoch, **scalars)
        self._samples.reset()
        return measured

    def record(self, measured: Measured, *, epoch: int | None = None, **scalars: Any) -> Measured:
        """Add a row of measures that were computed otherwise, such as in two passes.

        Args:
            measured: values by name, or by layer and name: a result of `metrics.measure` or
                `metrics.measure_layers`.
            epoch, scalars: as in `result`.

        Returns: `measured`.

        Raises: ValueError for other layers, or other shapes of a variable, than those before.

        Example: the features of all samples after an epoch.

            >>> monitor = nc.metrics.Monitor(2)
            >>> features, labels = np.eye(4), np.arange(4) % 2
            >>> values = monitor.record(nc.metrics.measure(features, labels), train_accuracy=1.0)
            >>> monitor.dataset["ji_within_class_variation"].values.round(4)
            array([0.8165])
        """
        self._recording.append(epoch, measured, scalars)
        return measured


def _chosen(names: Sequence[str | Measure] | str | None) -> list[Measure]:
    """The measures of these names, each of which one pass over the samples gives."""
    measures = choose(names, with_classifier=True)
    if names is None or names == "all":
        # A row of a long training has no arrays unless they are named.
        single = [m for m in measures if not beyond_one_pass(m)]
        return single if names == "all" else [m for m in single if m.default and not m.dims]
    for measure in measures:
        further = beyond_one_pass(measure)
        if further:
            raise ArgumentError(
                f"names: {measure.name} needs {further[0]}, which one pass does not give: leave it "
                "out, and give monitor.record(metrics.measure(features, labels, ...)).",
                "names",
            )
    return measures


def scalars(measured: Measured) -> dict[str, float]:
    """All single numbers of a result by one name each, "layer/name" of several layers.

    For loggers: `wandb.log(scalars(values))`, or `writer.add_scalar` for each item. Arrays of
    classes and pairs are left out.

    Raises: ValueError for anything but a dict.

    Example:

        >>> nc.metrics.scalars({"conv1": {"cdnv": 2.0}, "conv2": {"cdnv": 1.0}})
        {'conv1/cdnv': 2.0, 'conv2/cdnv': 1.0}
        >>> nc.metrics.scalars({"zhu_nc1": 0.5, "cdnv_by_pair": np.zeros((2, 2))})
        {'zhu_nc1': 0.5}
    """
    if not isinstance(measured, Mapping):
        raise ValueError(
            f"measured = {shown(measured)}: give a dict of values by name, or by layer and name."
        )
    flat = {}
    for name, value in measured.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}/{inner}": number for inner, number in scalars(value).items()}
        elif np.ndim(value) == 0:
            flat[name] = float(value)
    return flat
