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
from .central_path import CentralPath as CentralPath
from .contrastive import ContrastiveFeatures as ContrastiveFeatures
from .deep import (
    DeepFeatures as DeepFeatures,
    DeepUnconstrainedFeatures as DeepUnconstrainedFeatures,
    is_deep_linear as is_deep_linear,
)
from .end_to_end import EndToEnd as EndToEnd
from .kernel import KernelFeatures as KernelFeatures, is_kernel_features as is_kernel_features
from .kernels import (
    AbstractKernel as AbstractKernel,
    BlockKernel as BlockKernel,
    ClassKernel as ClassKernel,
    LinearOperator as LinearOperator,
)
from .linearized import LinearizedMixon as LinearizedMixon
from .nonnegative import NonnegativeFeatures as NonnegativeFeatures
from .normalized import (
    NormalizedFeatures as NormalizedFeatures,
    check_normalized as check_normalized,
    is_normalized as is_normalized,
)
from .relu import Layers as Layers, NormalizedReLUNet as NormalizedReLUNet, SmoothReLU as SmoothReLU
from .second_order import GradientDescentODE as GradientDescentODE, Moving as Moving
from .steepest import SignFlow as SignFlow, SpectralFlow as SpectralFlow
from .targets import (
    FreeFeatures as FreeFeatures,
    has_free_features as has_free_features,
    label_sets as label_sets,
)
from .unconstrained import (
    UnconstrainedFeatures as UnconstrainedFeatures,
    WeightDecay as WeightDecay,
    check_sizes as check_sizes,
    check_unconstrained as check_unconstrained,
    is_unconstrained as is_unconstrained,
    mixon as mixon,
    problem_for as problem_for,
    ulpm as ulpm,
    zhu as zhu,
)
