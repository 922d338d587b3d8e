"""Figures of runs: flows, descents, sweeps over them, and trainings.

Every figure takes an `xarray.Dataset` with the dimension `time`, `step` or `epoch`: one that
`storage.to_dataset`, `nc_jax.sweep` or `cnn.train` returns, or that `storage.load` reads. A
`Trajectory` is converted. `style` has the functions with which the figures are drawn.
"""

from . import style
from .collapse import collapse_figure, sweep_figure
from .distributions import histograms_figure, sorted_margins_figure
from .explore import explore
from .layers import LAYER_PANELS, layers_figure
from .movie import Movie, collapse_movie
from .page import Page
from .panels import JI_PANELS, MIXON_PANELS, ZHU_PANELS
from .recordings import RecordedAxis, as_dataset, curves, recorded_axis
from .training import training_figure

__all__ = [
    "JI_PANELS",
    "LAYER_PANELS",
    "MIXON_PANELS",
    "ZHU_PANELS",
    "Movie",
    "Page",
    "RecordedAxis",
    "as_dataset",
    "collapse_figure",
    "collapse_movie",
    "curves",
    "explore",
    "histograms_figure",
    "layers_figure",
    "recorded_axis",
    "sorted_margins_figure",
    "style",
    "sweep_figure",
    "training_figure",
]
