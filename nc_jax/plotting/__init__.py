"""Figures of runs: flows, descents, sweeps over them, and trainings.

Every figure takes an `xarray.Dataset` with the dimension `time`, `step` or `epoch`: one that
`storage.to_dataset`, `nc_jax.sweep` or `cnn.train` returns, or that `storage.load` reads. A
`Trajectory` is converted. `style` has the functions with which the figures are drawn.
"""

from . import style
from .collapse import collapse_figure, sweep_figure
from .distributions import histograms_figure, sorted_margins_figure
from .panels import JI_PANELS, MIXON_PANELS, ZHU_PANELS
from .recordings import RecordedAxis, as_dataset, curves, recorded_axis
from .training import training_figure

__all__ = [
    "JI_PANELS",
    "MIXON_PANELS",
    "ZHU_PANELS",
    "RecordedAxis",
    "as_dataset",
    "collapse_figure",
    "curves",
    "histograms_figure",
    "recorded_axis",
    "sorted_margins_figure",
    "style",
    "sweep_figure",
    "training_figure",
]
