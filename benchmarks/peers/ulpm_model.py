"""The unconstrained layer-peeled model at the size of the benchmarks, in NumPy, JAX and PyTorch.

K = 5 classes, d = 20, n = 10 samples of each class; the flow is that of the summed cross-entropy,
x' = −∇L. A flat state has the features (N, d) first and the classifier (K, d) after them.
"""

from collections.abc import Callable

import numpy as np

# JAX and PyTorch are imported in the functions that use them, since `startup.py` measures imports.

NUM_CLASSES, FEATURE_DIM, SAMPLES_PER_CLASS = 5, 20, 10
NUM_SAMPLES = NUM_CLASSES * SAMPLES_PER_CLASS
FEATURE_SIZE = NUM_SAMPLES * FEATURE_DIM
STATE_SIZE = FEATURE_SIZE + NUM_CLASSES * FEATURE_DIM
LABELS = np.repeat(np.arange(NUM_CLASSES), SAMPLES_PER_CLASS)
ONE_HOT = np.eye(NUM_CLASSES)[LABELS]
# Exponents are limited as in nc_jax: a trial step that is far too long must give a finite number,
# which the step-size control rejects, and not NaN.
LARGEST_EXPONENT = 350.0


def flatten(features: np.ndarray, classifier: np.ndarray) -> np.ndarray:
    """The state as a vector (N d + K d,), for SciPy."""
    return np.concatenate([features.ravel(), classifier.ravel()])


def split(flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Inverse of `flatten`."""
    return (
        flat[:FEATURE_SIZE].reshape(-1, FEATURE_DIM),
        flat[FEATURE_SIZE:].reshape(-1, FEATURE_DIM),
    )


def gaussian_start() -> np.ndarray:
    """Flat start: Gaussian features and classifier, each of norm 1."""
    draw = np.random.default_rng(0).standard_normal
    features, classifier = draw((NUM_SAMPLES, FEATURE_DIM)), draw((NUM_CLASSES, FEATURE_DIM))
    return flatten(features / np.linalg.norm(features), classifier / np.linalg.norm(classifier))


def residual(features: np.ndarray, classifier: np.ndarray) -> np.ndarray:
    """softmax − onehot, shape (N, K)."""
    logits = features @ classifier.T
    # Without the maximum large logits would overflow.
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True) - ONE_HOT


def real_field(t: float, flat: np.ndarray) -> np.ndarray:
    """−∇L in real time, in NumPy."""
    del t
    features, classifier = split(flat)
    gradient = residual(features, classifier)
    return flatten(-gradient @ classifier, -gradient.T @ features)


def log_field(u: float, flat: np.ndarray) -> np.ndarray:
    """−∇L e^u in u = log(1 + t), in NumPy; exponents are summed before `exp` to avoid overflow."""
    features, classifier = split(flat)
    logits = features @ classifier.T
    logits -= logits.max(axis=1, keepdims=True)
    normalizer = np.log(np.exp(logits).sum(axis=1, keepdims=True))
    others = np.exp(np.minimum(u + logits - normalizer, LARGEST_EXPONENT)) * (1 - ONE_HOT)
    # The entry of the label is p − 1, computed as minus the sum of the others: near p = 1 the
    # difference would lose all digits.
    gradient = others - others.sum(axis=1, keepdims=True) * ONE_HOT
    return flatten(-gradient @ classifier, -gradient.T @ features)


def jax_log_field(u, flat, args):
    """The same field in JAX, as a Diffrax user would write it."""
    import jax
    import jax.numpy as jnp

    del args
    features, classifier = split(flat)
    exponents = u + jax.nn.log_softmax(features @ classifier.T)
    others = jnp.exp(jnp.minimum(exponents, LARGEST_EXPONENT)) * (1 - ONE_HOT)
    gradient = others - jnp.sum(others, axis=1, keepdims=True) * ONE_HOT
    return -jnp.concatenate([(gradient @ classifier).ravel(), (gradient.T @ features).ravel()])


def torch_log_field() -> Callable:
    """The same field in PyTorch: (u, states (B, N d + K d)) to slopes; u of shape () or (B,)."""
    import torch

    one_hot = torch.tensor(ONE_HOT)

    def field(u, flat):
        features = flat[:, :FEATURE_SIZE].reshape(-1, NUM_SAMPLES, FEATURE_DIM)
        classifier = flat[:, FEATURE_SIZE:].reshape(-1, NUM_CLASSES, FEATURE_DIM)
        logits = features @ classifier.mT
        exponents = u.reshape(-1, 1, 1) + torch.log_softmax(logits, dim=2)
        others = torch.exp(exponents.clamp(max=LARGEST_EXPONENT)) * (1 - one_hot)
        gradient = others - others.sum(2, keepdim=True) * one_hot
        slopes = gradient @ classifier, gradient.mT @ features
        return -torch.cat([slope.flatten(1) for slope in slopes], 1)

    return field
