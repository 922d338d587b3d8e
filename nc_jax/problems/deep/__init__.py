"""Unconstrained features with further layers between them and the logits."""

from .arguments import decays_of as decays_of, widths_of as widths_of
from .model import (
    DeepUnconstrainedFeatures as DeepUnconstrainedFeatures,
    is_deep_linear as is_deep_linear,
)
from .state import DeepFeatures as DeepFeatures
