"""Problems on samples that are sorted by class."""

from collections.abc import Sequence

import equinox as eqx
import numpy as np
from jaxtyping import Int

from .base import AbstractProblem


class AbstractClassed(AbstractProblem):
    """A problem with n_k samples of class k."""

    class_sizes: eqx.AbstractVar[tuple[int, ...]]

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_sizes)

    @property
    def num_samples(self) -> int:
        """N, over all classes."""
        return sum(self.class_sizes)

    @property
    def labels(self) -> Int[np.ndarray, " N"]:
        """Class of each row of the features, (N,) int32; a NumPy array, concrete under jit."""
        # The values decide which metrics exist. A JAX array would be traced under jit.
        return labels_of(self.class_sizes)


def labels_of(class_sizes: Sequence[int]) -> Int[np.ndarray, " N"]:
    """The class of each sample, (N,) int32, sorted."""
    return np.repeat(np.arange(len(class_sizes), dtype=np.int32), class_sizes)
