"""Panels of measures: which variables share a panel, and how a panel is laid out and labelled."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from .style import COLUMN, PAGE, PaperFigure, label_log_panel, label_panel, y_label

# Variables by the title of their panel: Ji's measures (figures 2 to 8), Zhu's (figures 3 to 5),
# Mixon's (figures 1 and 2).
JI_PANELS = {
    "Variation of the norms": ("ji_feature_norm_variation", "ji_classifier_norm_variation"),
    "Within-class variation": ("ji_within_class_variation",),
    "Cosines between pairs": ("ji_feature_cosine_gap", "ji_classifier_cosine_gap"),
    "Self-duality": ("ji_self_duality",),
}
ZHU_PANELS = {f"NC{i}": (f"zhu_nc{i}",) for i in (1, 2, 3, 4)}
MIXON_PANELS = {
    "(SNC1) Frame of the classifiers": ("mixon_snc1",),
    "(SNC2) Features against classifiers": ("mixon_snc2",),
    "(SNC3) Bias": ("mixon_snc3",),
    "Distance from the subspace S": ("mixon_distance_to_s",),
}


def panel_grid(panels: Mapping[str, Sequence[str]]) -> tuple[Figure, list[Axes]]:
    """A figure with one panel for each title, up to three in a row.

    One panel has the width of a column, more have that of a page.

    Raises: ValueError for panels that are no mapping of titles to variables.

    Example:
        >>> figure, axes = panel_grid(ZHU_PANELS)
        >>> len(axes)
        4
    """
    check_panels(panels)
    # More than three panels in a row would leave no room for labels at the width of a page.
    columns = 2 if len(panels) == 4 else min(3, len(panels))
    rows = -(-len(panels) // columns)  # rounded up
    height = 2.3 if columns == 3 else 2.6
    figure = PaperFigure(height * rows, width=PAGE if columns > 1 else COLUMN)
    grid = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    return figure, grid[: len(panels)]


def check_panels(panels: Mapping[str, Sequence[str]]) -> None:
    """Raise ValueError for panels that are no mapping of titles to variables."""
    if not isinstance(panels, Mapping) or not panels:
        raise ValueError(f"panels = {panels!r}: give variables by title, {{'NC1': ('zhu_nc1',)}}.")
    for title, variables in panels.items():
        # A text is a sequence too, so that without this check its letters would be the variables.
        if isinstance(variables, str) or not variables:
            raise ValueError(
                f"panels[{title!r}] = {variables!r}: give a tuple of variables, ('zhu_nc1',)."
            )


def label_measures(axes: Axes, title: str, x_label: str, variables: Sequence[str]) -> None:
    """Set title, labels and the scale of the y axis, which depends on the variables.

    Accuracies and errors have a linear scale; so do margins, unless they exceed 10. Shares of
    samples that disagree have a symlog scale, which includes 0. All others have a logarithmic one.
    The curves must be drawn before, since the scale depends on their range.

    Example:
        >>> _, [axes] = panel_grid({"accuracy": ("train_accuracy",)})
        >>> label_measures(axes, "accuracy", "epoch", ("train_accuracy",))
        >>> axes.get_yscale(), axes.get_ylabel()
        ('linear', 'accuracy')
    """
    label = y_label(variables[0])
    if all(variable.endswith("mismatch") for variable in variables):
        label_panel(axes, title, x_label, label)
        axes.set_yscale("symlog", linthresh=1e-3)
        axes.set_ylim(0, 1.5)
    elif all(variable.endswith("accuracy") for variable in variables):
        label_panel(axes, title, x_label, "accuracy")
    elif all(variable.endswith("error") for variable in variables):
        label_panel(axes, title, x_label, label)
    elif all(variable.startswith("margin") for variable in variables):
        label_panel(axes, title, x_label, label)
        if max(map(abs, axes.get_ylim())) > 10:
            axes.set_yscale("symlog", linthresh=1)
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    else:
        label_log_panel(axes, title, x_label, label)


def words(variable: str) -> str:
    """A variable's name in words, for legends.

    Example:
        >>> words("ji_feature_norm_variation")
        'feature norm variation'
    """
    return variable.removeprefix("ji_").replace("_", " ")
