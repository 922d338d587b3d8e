"""Gradient-flow dynamics behind neural collapse, in pure JAX.

The names here are the core: problems, losses, clocks, flow and descent. `nc_jax.storage` and
`nc_jax.plotting` are imported on their own, since they bring xarray, Zarr and Matplotlib.
"""

from . import exact as exact, geometry as geometry, landscape as landscape, metrics as metrics
from .compilation import cache_programs as cache_programs
from .dynamics import (
    RKC as RKC,
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
    SquaredDistance as SquaredDistance,
    SquaredError as SquaredError,
)
from .problems import (
    GradientDescentODE as GradientDescentODE,
    Layers as Layers,
    LinearizedMixon as LinearizedMixon,
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

__version__ = "0.1.0"
