"""Problems: what a model is. Each gives a vector field and reads its own state."""

from .base import (
    AbstractProblem as AbstractProblem,
    SampledProblem as SampledProblem,
    check_shapes as check_shapes,
)
from .linearized import LinearizedMixon as LinearizedMixon
from .normalized import (
    Layers as Layers,
    NormalizedReLUNet as NormalizedReLUNet,
    SmoothReLU as SmoothReLU,
)
from .second_order import GradientDescentODE as GradientDescentODE, Moving as Moving
from .unconstrained import (
    UnconstrainedFeatures as UnconstrainedFeatures,
    WeightDecay as WeightDecay,
    mixon as mixon,
    ulpm as ulpm,
    zhu as zhu,
)
