"""The objective of a deep net with its gradient, in NumPy, and descents of it by SciPy."""

import numpy as np
import scipy.optimize


def shapes_of(sizes, widths):
    ends = (*widths, len(sizes))
    return [(sum(sizes), widths[0]), *zip(ends[1:], ends, strict=False)]


def split(x, shapes):
    ends = np.cumsum([rows * columns for rows, columns in shapes])
    return [part.reshape(s) for part, s in zip(np.split(x, ends[:-1]), shapes, strict=True)]


def square_loss(logits, labels):
    residual = logits - np.eye(logits.shape[1])[labels]
    return np.sum(residual**2) / 2, residual


def cross_entropy(logits, labels):
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.sum(np.exp(shifted), axis=1, keepdims=True))
    rows = np.arange(len(labels))
    return -np.sum(log_p[rows, labels]), np.exp(log_p) - np.eye(logits.shape[1])[labels]


def objective(x, sizes, widths, decays, loss, relu=False):
    """Mean loss and penalty of factors in one vector, and the gradient."""
    labels, count = np.repeat(np.arange(len(sizes)), sizes), sum(sizes)
    features, *weights = factors = split(x, shapes_of(sizes, widths))
    inputs, gates = [features], []
    for weight in weights[:-1]:
        linear = inputs[-1] @ weight.T
        gates.append(linear > 0 if relu else np.ones_like(linear))
        inputs.append(linear * gates[-1])
    data, slope = loss(inputs[-1] @ weights[-1].T, labels)
    slope, slopes = slope / count, []
    for rows, weight, gate in zip(inputs[::-1], weights[::-1], [*gates[::-1], 1], strict=True):
        slopes.insert(0, slope.T @ rows)
        slope = slope @ weight * gate
    slopes.insert(0, slope)
    value = (
        data / count + sum(rate * np.sum(f**2) for rate, f in zip(decays, factors, strict=True)) / 2
    )
    gradient = [g + rate * f for g, rate, f in zip(slopes, decays, factors, strict=True)]
    return value, np.concatenate([g.ravel() for g in gradient])


def descents(sizes, widths, decays, loss, *, starts):
    """The least values of L-BFGS from these starts, vectors of all factors."""
    found = [
        scipy.optimize.minimize(
            objective, x, (sizes, widths, decays, loss), jac=True, method="L-BFGS-B",
            options={"maxiter": 20000, "maxfun": 40000, "ftol": 1e-15, "gtol": 1e-10},
        ).fun
        for x in starts
    ]  # fmt: skip
    return np.array(found)


def gaussian_starts(sizes, widths, seeds, size):
    """Factors with entries of this standard deviation."""
    length = sum(rows * columns for rows, columns in shapes_of(sizes, widths))
    return [size * np.random.default_rng(seed).normal(size=length) for seed in seeds]


def vector_of(state):
    return np.concatenate([np.asarray(factor).ravel() for factor in state.factors()])
