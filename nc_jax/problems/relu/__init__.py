"""Deep ReLU nets on given samples, in five parametrisations (Rangamani et al.)."""

from .decays import (
    AbstractDecayTarget as AbstractDecayTarget,
    EachLayer as EachLayer,
    WholeNorm as WholeNorm,
)
from .layers import Layers as Layers, SmoothReLU as SmoothReLU
from .net import NormalizedReLUNet as NormalizedReLUNet
from .parametrizations import (
    AbstractParametrization as AbstractParametrization,
    Cartesian as Cartesian,
    Lagrange as Lagrange,
    Polar as Polar,
    UsualPractice as UsualPractice,
    WeightNormalization as WeightNormalization,
)
