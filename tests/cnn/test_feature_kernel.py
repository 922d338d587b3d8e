"""The kernel of a network's features by class, against dense Jacobians of all features."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.flatten_util import ravel_pytree
from tolerances import rounding

import nc_jax as nc
from nc_jax import cnn, images
from nc_jax.cnn.curvature import outputs_of

NUM_CLASSES, COUNT = 3, 11
RNG = np.random.default_rng(0)
# Classes of 4, 4 and 3 samples, in any order.
LABELS = RNG.permutation(np.arange(COUNT) % NUM_CLASSES)
DATA = images.ImageSet(RNG.normal(size=(COUNT, 5, 5, 1)), LABELS, ("a", "b", "c"))


def network(widths):
    return cnn.ConvNet(1, NUM_CLASSES, widths=widths, dtype=jnp.float64, rngs=nnx.Rngs(3))


def dense_kernel(net):
    """Θ (N, N), the mean over features of the products of dense Jacobians."""
    outputs, every = outputs_of(net, dtype=jnp.float64, train=False)
    below = {name: array for name, array in every.items() if not name.startswith("head.")}
    above = {name: array for name, array in every.items() if name.startswith("head.")}
    flat, unravel = ravel_pytree(below)
    pixels = jnp.asarray(DATA.images, jnp.float64)

    def features(vector):
        return outputs.last_layer({**unravel(vector), **above}, pixels).features

    jacobian = np.asarray(jax.jacrev(features)(flat))
    return np.einsum("iap,jap->ij", jacobian, jacobian) / jacobian.shape[1]


def means(theta):
    """Means of Θ over single samples, and over pairs of different samples, by class."""
    single, pairs = np.zeros(NUM_CLASSES), np.zeros((NUM_CLASSES,) * 2)
    for a in range(NUM_CLASSES):
        rows = np.flatnonzero(a == LABELS)
        single[a] = np.mean([theta[i, i] for i in rows])
        for b in range(NUM_CLASSES):
            columns = np.flatnonzero(b == LABELS)
            pairs[a, b] = np.mean([theta[i, j] for i in rows for j in columns if i != j])
    return single, pairs


@pytest.mark.parametrize("batch_size", [1, 4])
def test_means_are_those_of_the_dense_kernel(batch_size):
    net = network((2, 3))
    found = cnn.feature_kernel(net, DATA, batch_size=batch_size, dtype=jnp.float64)
    single, pairs = means(dense_kernel(net))
    np.testing.assert_allclose(found.same_sample, single, rtol=rounding(operations=1000))
    size = np.abs(pairs).max()
    np.testing.assert_allclose(found.classes, pairs, atol=size * rounding(operations=1000))
    assert found.class_sizes == tuple(np.bincount(LABELS).tolist())


def test_one_feature_has_one_direction_up_to_its_sign():
    net = network((2, 1))
    exact = cnn.feature_kernel(net, DATA, dtype=jnp.float64)
    random = cnn.feature_kernel(
        net, DATA, num_directions=3, key=jax.random.key(1), dtype=jnp.float64
    )
    np.testing.assert_allclose(random.classes, exact.classes, rtol=rounding(operations=1000))


def test_random_directions_are_right_in_the_mean():
    net = network((2, 3))
    exact = cnn.feature_kernel(net, DATA, dtype=jnp.float64)
    random = cnn.feature_kernel(net, DATA, num_directions=400, dtype=jnp.float64)
    # The standard error of 400 products is about 5 %.
    np.testing.assert_allclose(random.same_sample, exact.same_sample, rtol=0.2)


def test_kernels_of_the_model_have_these_means():
    net = network((2, 3))
    found = cnn.feature_kernel(net, DATA, dtype=jnp.float64)
    sizes = found.class_sizes
    order = np.argsort(LABELS, kind="stable")
    theta = dense_kernel(net)[np.ix_(order, order)]
    of_classes = nc.KernelFeatures(sizes, 3, kernel=found.class_kernel())
    matrix = np.asarray(of_classes.kernel.product(jnp.eye(COUNT), sizes))
    # Means over blocks are equal, those over single samples too.
    members = of_classes.labels == np.arange(NUM_CLASSES)[:, None]
    np.testing.assert_allclose(members @ matrix @ members.T, members @ theta @ members.T)
    np.testing.assert_allclose(members @ np.diag(matrix), members @ np.diag(theta))
    single, pairs = means(dense_kernel(net))
    block = found.block_kernel()
    wrong = ~np.eye(NUM_CLASSES, dtype=bool)
    expected = single.mean(), np.diag(pairs).mean(), pairs[wrong].mean()
    numbers = [float(x) for x in (block.same_sample, block.same_class, block.other_class)]
    np.testing.assert_allclose(numbers, expected, rtol=1e-10)
