"""Measures of collapse, margins and invariants: functions of a `LastLayer`, nothing else."""

from .collapse import (
    collapse_from_statistics as collapse_from_statistics,
    collapse_metrics as collapse_metrics,
)
from .equations import EQUATIONS as EQUATIONS
from .invariants import (
    Invariant as Invariant,
    balance as balance,
    classifier_sum as classifier_sum,
    drift as drift,
)
from .margins import (
    gamma_tilde as gamma_tilde,
    logit_margins as logit_margins,
    margin_metrics as margin_metrics,
    max_margin as max_margin,
    sample_margins as sample_margins,
)
from .streaming import (
    ClassMoments as ClassMoments,
    Spread as Spread,
    class_moments as class_moments,
    merge_moments as merge_moments,
    merge_spreads as merge_spreads,
    spread as spread,
)
