"""Problems: models, each with a state, an objective, a vector field and observables."""

from . import relu as relu
from .base import (
    AbstractProblem as AbstractProblem,
    SampledProblem as SampledProblem,
    check_like as check_like,
    check_problem as check_problem,
    check_shapes as check_shapes,
    weakly_typed as weakly_typed,
)
from .linearized import LinearizedMixon as LinearizedMixon
from .relu import (
    Layers as Layers,
    NormalizedReLUNet as NormalizedReLUNet,
    SmoothReLU as SmoothReLU,
)
from .second_order import GradientDescentODE as GradientDescentODE, Moving as Moving
from .unconstrained import (
    UnconstrainedFeatures as UnconstrainedFeatures,
    WeightDecay as WeightDecay,
    check_unconstrained as check_unconstrained,
    is_unconstrained as is_unconstrained,
    mixon as mixon,
    problem_for as problem_for,
    ulpm as ulpm,
    zhu as zhu,
)
