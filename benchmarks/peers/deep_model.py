"""The deep unconstrained-features model of any depth in NumPy, and its flow to t = 10^5 by SciPy.

A flat state has the features (N, d_0) first and the matrices W_1, …, W_L after them.
"""

from collections.abc import Sequence

import numpy as np

from peers.ulpm_batches import STOP
from peers.ulpm_model import LARGEST_EXPONENT


def split(flat: np.ndarray, shapes: Sequence[tuple[int, int]]) -> list[np.ndarray]:
    """The factors of a flat state."""
    ends = np.cumsum([rows * columns for rows, columns in shapes])
    parts = np.split(flat, ends[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def log_field(
    u: float, flat: np.ndarray, shapes: Sequence[tuple[int, int]], labels: np.ndarray
) -> np.ndarray:
    """−∇L e^u of the summed cross-entropy in u = log(1 + t), by forward and backward pass."""
    features, *weights = split(flat, shapes)
    layers = [features]
    for weight in weights:
        layers.append(layers[-1] @ weight.T)
    logits, one_hot = layers[-1], np.eye(weights[-1].shape[0])[labels]
    exponents = logits - logits.max(axis=1, keepdims=True)
    exponents = exponents - np.log(np.exp(exponents).sum(axis=1, keepdims=True))
    others = np.exp(np.minimum(u + exponents, LARGEST_EXPONENT)) * (1 - one_hot)
    # The entry of the label is minus the sum of the others: near p = 1 p − 1 would lose all digits.
    slope, slopes = others.sum(axis=1, keepdims=True) * one_hot - others, []
    for weight, before in zip(reversed(weights), reversed(layers[:-1]), strict=True):
        slopes.append(slope.T @ before)
        slope = slope @ weight
    return np.concatenate([part.ravel() for part in (slope, *reversed(slopes))])


def final_states(
    starts: np.ndarray, shapes: Sequence[tuple[int, int]], labels: np.ndarray
) -> np.ndarray:
    """States at t = 10^5 of each start (S, dim), by SciPy's solver of order 8 at rtol 1e-12."""
    from scipy.integrate import solve_ivp

    settings = {"method": "DOP853", "rtol": 1e-12, "atol": 1e-14, "args": (shapes, labels)}
    return np.array(
        [solve_ivp(log_field, (0.0, STOP), start, **settings).y[:, -1] for start in starts]
    )
