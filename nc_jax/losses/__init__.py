"""Losses of logits, with gradients that stay finite when probabilities underflow.

A gradient flow in a transformed time needs e^s ∇L with s as large as 10^6. Every loss therefore
gives its gradient times e^s (`scaled_gradient`, in log space where the loss allows it). A loss of
class labels gives the plain gradient too (`gradient`), which descent uses.

Results have the dtype of the logits, and float32 for logits of half precision. Labels are integers
(N,) in 0..K−1. Others raise a ValueError; of traced labels only shape and dtype are checked.

A loss states what has been proved of it as class attributes, such as `shift_invariant`. Theorems,
invariants and closed forms ask for these attributes, and never for a class.
"""

from .base import Loss as Loss, check_loss as check_loss
from .cross_entropy import CrossEntropy as CrossEntropy
from .focal import Focal as Focal
from .label_smoothing import LabelSmoothing as LabelSmoothing
from .pick_all_labels import PickAllLabels as PickAllLabels
from .soft_cross_entropy import SoftCrossEntropy as SoftCrossEntropy
from .squared_error import SquaredError as SquaredError
from .targets import (
    Exponential as Exponential,
    HalfSquaredDistance as HalfSquaredDistance,
    SquaredDistance as SquaredDistance,
    TargetLoss as TargetLoss,
)
