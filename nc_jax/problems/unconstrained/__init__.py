"""Unconstrained-features models: last-layer features move as freely as the classifier."""

from .decay import WeightDecay as WeightDecay
from .instances import mixon as mixon, ulpm as ulpm, zhu as zhu
from .model import (
    UnconstrainedFeatures as UnconstrainedFeatures,
    check_unconstrained as check_unconstrained,
    is_unconstrained as is_unconstrained,
)
from .sizes import check_sizes as check_sizes
from .sorting import problem_for as problem_for
