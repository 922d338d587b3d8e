"""Stand-ins for arrays of libraries that the tests do not have."""

import numpy as np


class Stored:
    """An array on disk with the methods of a data set of h5py, which records what it reads."""

    def __init__(self, array: np.ndarray) -> None:
        self._array, self.read = array, []
        self.shape, self.dtype = array.shape, array.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key) -> np.ndarray:
        # h5py reads slices with a step of 1 only, and `__array__` would load the whole array.
        assert isinstance(key, slice)
        assert key.step in (None, 1)
        part = self._array[key].copy()
        self.read.append(len(part))
        return part


class Exported:
    """An array that other libraries reach by DLPack only."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array

    def __dlpack__(self, **options):
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()
