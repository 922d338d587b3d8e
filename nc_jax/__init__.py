"""Gradient-flow dynamics behind neural collapse, in pure JAX.

The names here are the core: problems, losses, clocks, flow and descent. The modules `nc_jax.cnn`,
`nc_jax.images`, `nc_jax.plotting` and `nc_jax.storage` are imported when they are first used, since
they need Flax, Matplotlib, xarray and Zarr, which take longer to import than the core.

Example: the self-duality of classifiers and class means improves along the flow.

>>> problem = nc.ulpm(num_classes=3, feature_dim=4, samples_per_class=2)
>>> flow = nc.Flow(problem, nc.log_times(3, 4), observe=("ji_self_duality",))
>>> distance = flow(problem.init(jax.random.key(0))).observables["ji_self_duality"]
>>> bool(distance[-1] < distance[0])
True
"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

from . import exact as exact, geometry as geometry, landscape as landscape, metrics as metrics
from .compilation import cache_programs as cache_programs
from .dynamics import (
    RKC as RKC,
    AbstractClock as AbstractClock,
    Flow as Flow,
    Interrupted as Interrupted,
    LogLogTime as LogLogTime,
    LogTime as LogTime,
    RealTime as RealTime,
    gradient_descent as gradient_descent,
    gradient_flow as gradient_flow,
    log_steps as log_steps,
    log_times as log_times,
)
from .losses import (
    CrossEntropy as CrossEntropy,
    Exponential as Exponential,
    Focal as Focal,
    LabelSmoothing as LabelSmoothing,
    Loss as Loss,
    SquaredDistance as SquaredDistance,
    SquaredError as SquaredError,
)
from .problems import (
    AbstractProblem as AbstractProblem,
    DeepFeatures as DeepFeatures,
    DeepUnconstrainedFeatures as DeepUnconstrainedFeatures,
    GradientDescentODE as GradientDescentODE,
    KernelFeatures as KernelFeatures,
    Layers as Layers,
    LinearizedMixon as LinearizedMixon,
    NormalizedFeatures as NormalizedFeatures,
    NormalizedReLUNet as NormalizedReLUNet,
    SmoothReLU as SmoothReLU,
    UnconstrainedFeatures as UnconstrainedFeatures,
    WeightDecay as WeightDecay,
    mixon as mixon,
    problem_for as problem_for,
    ulpm as ulpm,
    zhu as zhu,
)
from .state import LastLayer as LastLayer
from .sweeps import sweep as sweep
from .trajectory import Trajectory as Trajectory
from .version import __version__ as __version__

# Type checkers do not run `__getattr__`, and need these imports. A program does not run them.
if TYPE_CHECKING:
    from . import cnn as cnn, images as images, plotting as plotting, storage as storage

# The modules that are imported on first use, each with the extra of the package that installs what
# it needs, or None where the packages of the core suffice.
_EXTRAS = {"cnn": "cnn", "images": None, "plotting": None, "storage": None}


def __getattr__(name: str) -> ModuleType:
    if name not in _EXTRAS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return importlib.import_module(f".{name}", __name__)
    except ModuleNotFoundError as error:
        extra = _EXTRAS[name]
        if extra is None:
            raise
        raise ModuleNotFoundError(
            f"nc_jax.{name} needs {error.name}, which is not installed: "
            f"pip install 'nc_jax[{extra}]'.",
            name=error.name,
        ) from None


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXTRAS})
