"""Figure of `rangamani_collapse.py`: the frame that the classifiers form."""

from collections.abc import Mapping

import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nc_jax.plotting import curves, recorded_axis
from nc_jax.plotting.style import (
    LINE_STYLES,
    LOG,
    PaperFigure,
    draw_curve,
    draw_range,
    family_colors,
    figure_legend,
    label_log_panel,
    label_panel,
    paper,
    y_label,
)


@paper()
def frames_figure(flows: Mapping[str, xr.Dataset], num_classes: int) -> Figure:
    """Cosines between all pairs of classifiers over time, and the within-class variation.

    Args:
        flows: over (seed, time) by name, with `cosines` over pairs of classifiers (pair) and
            `ji_within_class_variation`.
        num_classes: C of the simplex's cosine −1/(C−1).

    Returns: a Matplotlib `Figure` of two panels: means over pairs and seeds in a band from the
        least to the largest cosine; medians of the variation.
    """
    figure = PaperFigure(3.2)
    left, right = figure.subplots(1, 2)
    # Line styles differ too, since solid curves of two models that coincide would hide each other.
    colors, styles = family_colors(list(flows)), [LINE_STYLES[i % 4] for i in range(len(flows))]
    for data, color, style in zip(flows.values(), colors, styles, strict=True):
        axis = recorded_axis(data)
        x, cosines = LOG.select(axis, curves(data, "cosines"))
        draw_range(left, x, cosines, color=color, ls=style)
        x, variation = LOG.select(axis, curves(data, "ji_within_class_variation"))
        draw_curve(right, x, variation, color=color, ls=style)
    for cosine, name in ((-1 / (num_classes - 1), "simplex"), (0.0, "orthogonal frame")):
        left.axhline(cosine, color="black", lw=0.8, ls=":")
        inside = left.get_yaxis_transform()
        left.text(0.01, cosine, name, va="bottom", transform=inside)
    label_panel(left, "Pairs of classifiers", "time t", "cosine")
    variation = y_label("ji_within_class_variation")
    label_log_panel(right, "Within-class variation", "time t", variation)
    for axes in (left, right):
        LOG.apply(axes)
    lines = [Line2D([], [], color=c, ls=ls) for c, ls in zip(colors, styles, strict=True)]
    figure_legend(figure, lines=dict(zip(flows, lines, strict=True)))
    return figure
