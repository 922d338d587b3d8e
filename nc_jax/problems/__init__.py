"""Problems: what a model is. Each gives a vector field and reads its own state."""

from .base import AbstractProblem as AbstractProblem, check_shapes as check_shapes
from .linearized import LinearizedMixon as LinearizedMixon
from .unconstrained import (
    UnconstrainedFeatures as UnconstrainedFeatures,
    WeightDecay as WeightDecay,
    mixon as mixon,
    ulpm as ulpm,
    zhu as zhu,
)
