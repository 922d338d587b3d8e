"""Arrays in the formats that people have: of NumPy, JAX, PyTorch and pandas, and on disk.

Arrays are sliced, so that those on disk (memory maps, Zarr, HDF5) are never loaded as a whole.
PyTorch, pandas, Zarr and h5py are recognised by their methods and never imported.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..checks import check_unmasked, is_traced, shown


def rows_of(name: str, values: Any) -> Any:
    """An array of NumPy or JAX, or one on disk, whose slices of rows are read later.

    A tensor of PyTorch is shared, not copied, where it is in the memory of the host or of JAX's
    device. An array of JAX on an accelerator stays there.
    """
    check_unmasked(name, values)
    if is_traced(values):
        raise ValueError(
            f"{name}: is traced by jit, vmap or grad, and measure reads values: call it outside, "
            "or metrics.collapse_metrics(state, labels) inside."
        )
    if isinstance(values, jax.Array):
        return np.asarray(values) if is_on_host(values) else values
    if hasattr(values, "detach"):
        return _from_torch(name, values.detach())
    # pandas and polars; an array of xarray is sliced first, since it may be on disk.
    if hasattr(values, "to_numpy") and not hasattr(values, "isel"):
        return np.asarray(values.to_numpy())
    if isinstance(values, np.ndarray):
        return values
    if hasattr(values, "__dlpack__"):
        return rows_of(name, jax.dlpack.from_dlpack(values))
    if _is_sliced(values):
        return values
    if isinstance(values, Mapping):
        raise ValueError(
            f"{name}: a dict of {shown(list(values))}: give one of its arrays, (N, d)."
        )
    try:
        return np.asarray(values)
    except ValueError:  # Rows of different lengths.
        raise ValueError(
            f"{name} = {shown(values)}: give an array (N, d) with rows of one length."
        ) from None


def labels_of(labels: Any, name: str = "labels") -> Any:
    """Labels in the memory of the host, or on disk, where slices are read later."""
    check_unmasked(name, labels)
    if isinstance(labels, jax.Array) or hasattr(labels, "detach"):
        labels = np.asarray(rows_of(name, labels))
    labels = (
        labels if hasattr(labels, "__len__") and hasattr(labels, "dtype") else np.asarray(labels)
    )
    if labels.shape == ():
        raise ValueError(f"{name} = {shown(labels)}: give the class of each sample, (N,).")
    return labels


def slice_of(rows: Any, start: int, stop: int) -> Any:
    """Rows of an array, in the memory of the host or, of JAX on an accelerator, there."""
    if isinstance(rows, jax.Array):
        # One program for all positions.
        return jax.lax.dynamic_slice_in_dim(rows, start, stop - start)
    part = rows[start:stop]
    check_unmasked("features", part)
    part = np.asarray(part.to_numpy() if hasattr(part, "to_numpy") else part)
    # JAX has neither the other byte order nor more than 64 bits.
    if not part.dtype.isnative or part.dtype == np.longdouble:
        part = part.astype(np.float64 if part.dtype.kind == "f" else part.dtype.newbyteorder("="))
    return part


def is_on_host(values: jax.Array) -> bool:
    """Whether an array of JAX is in the memory of the host, where NumPy shares it."""
    return all(device.platform == "cpu" for device in values.devices())


def is_on_disk(values: Any) -> bool:
    """Whether this is a memory map, or has the methods of an array of h5py or Zarr."""
    if isinstance(values, np.ndarray):
        return isinstance(values, np.memmap)
    return _is_sliced(values) and not hasattr(values, "to_numpy") and not hasattr(values, "codes")


def _is_sliced(values: Any) -> bool:
    """Whether this has the interface of arrays on disk: h5py, Zarr, dask, xarray."""
    sliced = hasattr(values, "shape") and hasattr(values, "__getitem__")
    return sliced and isinstance(getattr(values, "dtype", None), np.dtype)


def _from_torch(name: str, tensor: Any) -> Any:
    """A detached tensor as an array that shares its memory where that is possible."""
    try:
        if tensor.device.type == "cuda" and jax.default_backend() == "gpu":
            return jax.dlpack.from_dlpack(tensor.contiguous())
        tensor = tensor.cpu()
        # NumPy has no bfloat16 of its own; JAX has that of ml_dtypes, for compact tensors.
        if str(tensor.dtype) == "torch.bfloat16":
            return np.asarray(jax.dlpack.from_dlpack(tensor.contiguous()))
        return np.from_dlpack(tensor)
    except (BufferError, RuntimeError, TypeError):
        raise ValueError(
            f"{name}: a {tensor.layout} tensor of {tensor.dtype} cannot be shared: give "
            "tensor.to_dense().float()."
        ) from None


def check_features(name: str, rows: Any) -> int:
    """d; ValueError unless this is an array (N, d) of real numbers."""
    shape = tuple(rows.shape)
    check_real(name, rows.dtype)
    if len(shape) != 2:
        fix = "give two axes, (N, d)"
        if len(shape) > 2:
            fix += f", such as {name}.reshape(len({name}), -1), or means over the other axes"
        elif len(shape) == 1:
            fix += f", such as {name}[:, None] for d = 1"
        raise ValueError(f"{name} have shape {shape}: {fix}.")
    if not shape[1]:
        raise ValueError(f"{name} have shape {shape}: give at least one feature.")
    return shape[1]


def check_real(name: str, dtype: np.dtype) -> None:
    """Raise ValueError unless a dtype is one of real numbers, as bfloat16 is, or of booleans."""
    if dtype.kind not in "fiub" and not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"{name}: dtype {dtype}: give real numbers, such as float32.")
