"""Unconstrained features with further layers between them and the logits."""

from .model import (
    DeepUnconstrainedFeatures as DeepUnconstrainedFeatures,
    is_deep_linear as is_deep_linear,
)
from .state import DeepFeatures as DeepFeatures
