"""Colours and line styles of figures, which readers with any colour vision can tell apart."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.colors import to_rgba

# Colours of Okabe and Ito (2008). Their orange, sky blue and yellow are left out: they have a
# contrast below 3 with white, the least that the guideline WCAG 2 demands of graphics.
BLUE, ORANGE, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
# Dark grey of references and bounds, grey of what lies in the background.
DARK, GREY = "#4a4a4a", "#767676"
CATEGORIES: tuple[str, ...] = (BLUE, ORANGE, GREEN, PURPLE, DARK)
# Colours of classes: of pictures in which numbers beside the points name the classes too.
CLASSES: tuple[str, ...] = (*CATEGORIES, "#8a6d00", "#5c4bd1", "#9b2a2a")
LINE_STYLES: tuple[str, ...] = ("-", "--", ":", "-.")


def shades(count: int) -> Float[np.ndarray, "count 4"]:
    """Colours from dark to light for an ordered family of curves, as RGBA.

    Example:
        >>> from nc_jax.plotting import style
        >>> style.shades(3).shape
        (3, 4)
    """
    # The map is cut at 0.64, where its colour has a contrast of 3 with white. With the square root
    # neighbours among up to eight shades differ by 10 units of CIELAB or more, also for readers
    # without red or green cones; evenly spaced, the dark ones would differ by 4.
    return colormaps["plasma"](0.64 * np.sqrt(np.linspace(0, 1, count)))


def family_colors(names: Sequence[Any]) -> Float[np.ndarray, "count 4"]:
    """Colours for curves with these names: `shades` if all contain numbers, else `CATEGORIES`.

    More names than categories have shades too.

    Example:
        >>> from nc_jax.plotting import style
        >>> from matplotlib.colors import to_hex
        >>> [to_hex(color) for color in style.family_colors(["SGD", "Adam"])]
        ['#0072b2', '#d55e00']
        >>> [to_hex(color) for color in style.family_colors(["width 1", "width 8"])]
        ['#0d0887', '#e87059']
    """
    is_ordered = all(re.search(r"\d", str(name)) for name in names)
    if is_ordered or len(names) > len(CATEGORIES):
        return shades(len(names))
    return np.array([to_rgba(color) for color in CATEGORIES[: len(names)]])


def class_colors(count: int) -> list[str]:
    """Colours of classes 0, 1, …; beyond eight classes they repeat.

    Example:
        >>> from nc_jax.plotting import style
        >>> style.class_colors(2)
        ['#0072b2', '#d55e00']
    """
    return [CLASSES[k % len(CLASSES)] for k in range(count)]
