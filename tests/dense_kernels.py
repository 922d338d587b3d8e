"""Kernels of samples as dense matrices, and their flow by SciPy: an oracle without class sums."""

import numpy as np
import scipy.integrate

import nc_jax as nc


def dense_block(sizes, same_sample, same_class, other_class):
    """(N, N) matrix of a `BlockKernel`."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    same = labels[:, None] == labels[None]
    matrix = np.where(same, float(same_class), float(other_class))
    np.fill_diagonal(matrix, same_sample)
    return matrix


def dense_classes(sizes, matrix, diagonal):
    """(N, N) matrix of a `ClassKernel`."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return np.asarray(matrix)[np.ix_(labels, labels)] + np.diag(np.asarray(diagonal)[labels])


def random_class_kernel(sizes, seed):
    """A positive definite `ClassKernel` with a diagonal entry for each class."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(len(sizes), len(sizes)))
    return nc.problems.ClassKernel(root @ root.T / len(sizes), rng.uniform(0.2, 1.0, len(sizes)))


def dense_flow(problem, matrix, start, times):
    """H, W and b at times t by `DOP853`, from the residuals and the dense kernel alone."""
    labels, num_classes = problem.labels, problem.num_classes
    one_hot = np.eye(num_classes)[labels]
    scale = 1 / len(labels) if problem.reduction == "mean" else 1.0
    parts = [np.asarray(leaf) for leaf in (start.features, start.classifier)]
    bias = np.zeros(num_classes) if start.bias is None else np.asarray(start.bias)
    shapes = [*(part.shape for part in parts), bias.shape]
    ends = np.cumsum([0, *(int(np.prod(shape)) for shape in shapes)])

    def split(flat):
        return [flat[a:b].reshape(s) for a, b, s in zip(ends, ends[1:], shapes, strict=False)]

    def field(_, flat):
        features, classifier, bias = split(flat)
        logits = features @ classifier.T + bias
        if problem.loss.is_cross_entropy:
            powers = np.exp(logits - logits.max(axis=1, keepdims=True))
            logits = powers / powers.sum(axis=1, keepdims=True)
        residual = scale * (one_hot - logits)
        of_bias = residual.sum(axis=0) if problem.bias else np.zeros(num_classes)
        velocity = matrix @ (residual @ classifier), residual.T @ features, of_bias
        return np.concatenate([part.ravel() for part in velocity])

    flat = np.concatenate([part.ravel() for part in (*parts, bias)])
    run = scipy.integrate.solve_ivp(
        field, (0.0, times[-1]), flat, "DOP853", times, rtol=1e-12, atol=1e-13
    )
    return [split(column) for column in run.y.T]
