"""Problems with the classes, the samples and the loss of an unconstrained-features model."""

from typing import Literal

import equinox as eqx
import numpy as np
from jaxtyping import Int

from ..losses import Loss
from .base import AbstractProblem
from .unconstrained import UnconstrainedFeatures


class AbstractLabelled(AbstractProblem):
    """A problem whose loss is that of `free`, at logits of its own."""

    free: eqx.AbstractVar[UnconstrainedFeatures]

    @property
    def class_sizes(self) -> tuple[int, ...]:
        """Samples of each class."""
        return self.free.class_sizes

    @property
    def loss(self) -> Loss:
        """ℓ."""
        return self.free.loss

    @property
    def reduction(self) -> Literal["mean", "sum"]:
        """Whether L is the mean or the sum over samples."""
        return self.free.reduction

    @property
    def num_classes(self) -> int:
        """K."""
        return self.free.num_classes

    @property
    def num_samples(self) -> int:
        """N, over all classes."""
        return self.free.num_samples

    @property
    def samples_per_class(self) -> int | None:
        """n if all classes have one size, else None."""
        return self.free.samples_per_class

    @property
    def labels(self) -> Int[np.ndarray, " N"]:
        """Class of each row of the features, (N,) int32; a NumPy array, concrete under jit."""
        return self.free.labels

    @property
    def loss_scale(self) -> float:
        """s in L = s Σ ℓ: 1/N for the mean, 1 for the sum."""
        return self.free.loss_scale
