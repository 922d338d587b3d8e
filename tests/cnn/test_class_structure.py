"""The parts of the Gauss-Newton matrix by class, against their definitions in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.flatten_util import ravel_pytree
from tolerances import rounding

import nc_jax as nc
from nc_jax import cnn, images, landscape
from nc_jax.cnn.layers import Head

NUM_CLASSES, COUNT = 3, 11
LOSSES = {"cross-entropy": nc.CrossEntropy(), "squared error": nc.SquaredError()}
NETWORK = cnn.ConvNet(1, NUM_CLASSES, widths=(2, 3), dtype=jnp.float64, rngs=nnx.Rngs(3))
RNG = np.random.default_rng(0)
# Classes of 4, 4 and 3 samples, in any order.
DATA = images.ImageSet(
    RNG.normal(size=(COUNT, 5, 5, 1)), RNG.permutation(np.arange(COUNT) % 3), ("a", "b", "c")
)


def gauss_newton(loss, **options):
    return cnn.curvature_for(
        NETWORK, DATA, loss=LOSSES[loss], kind="gauss_newton", dtype=jnp.float64, **options
    )


def defined(loss):
    """Papyan's parts as dense matrices, sample by sample, from the Jacobians of the logits."""
    curvature, parameters = gauss_newton(loss, batch_size=None)
    assert isinstance(curvature, landscape.GaussNewtonOf)
    flat, unravel = ravel_pytree(parameters)
    batch = [array[0] for array in curvature.batches]
    logits = np.asarray(curvature.outputs(parameters, *batch))
    jacobians = np.asarray(jax.jacobian(lambda x: curvature.outputs(unravel(x), *batch))(flat))
    softmax = np.exp(logits - logits.max(axis=1, keepdims=True))
    softmax /= softmax.sum(axis=1, keepdims=True)
    entropy = loss == "cross-entropy"
    weights = (softmax if entropy else np.ones_like(softmax)) / COUNT
    gradients = np.stack(
        [
            np.stack(
                [J.T @ ((p if entropy else 0) - np.eye(NUM_CLASSES)[c]) for c in range(NUM_CLASSES)]
            )
            for J, p in zip(jacobians, softmax, strict=True)
        ]
    )
    parts = {name: np.zeros((flat.size,) * 2) for name in ("class", "cross", "within", "label")}

    def add(name, weight, vector):
        parts[name] += weight * np.outer(vector, vector)

    for c in range(NUM_CLASSES):
        members = np.flatnonzero(DATA.labels == c)
        others = [other for other in range(NUM_CLASSES) if other != c]
        of_pair = {other: weights[members, other] for other in others}
        means = {o: of_pair[o] @ gradients[members, o] / of_pair[o].sum() for o in others}
        total = sum(of_pair[o].sum() for o in others)
        center = sum(of_pair[o].sum() * means[o] for o in others) / total
        add("class", total, center)
        for o in others:
            add("cross", of_pair[o].sum(), means[o] - center)
            for i in members:
                add("within", weights[i, o], gradients[i, o] - means[o])
        for i in members:
            add("label", weights[i, c], gradients[i, c])
    return parts


@pytest.fixture(scope="module", params=LOSSES)
def case(request):
    return request.param, defined(request.param)


def test_parts_add_up_to_the_gauss_newton_matrix(case):
    loss, parts = case
    matrix = landscape.dense_hessian(*gauss_newton(loss))
    atol = rounding(operations=1000) * np.abs(matrix).max()
    np.testing.assert_allclose(sum(parts.values()), matrix, rtol=0, atol=atol)


@pytest.mark.parametrize("batch_size", [1, 4, None])
def test_shares_of_directions_are_those_of_the_definition(case, batch_size):
    loss, parts = case
    curvature, parameters = gauss_newton(loss, batch_size=batch_size)
    flat, unravel = ravel_pytree(parameters)
    directions = jnp.asarray(np.random.default_rng(1).normal(size=(3, flat.size)))
    found = cnn.class_shares(curvature, parameters, jax.vmap(unravel)(directions))
    expected = [np.einsum("mi,ij,mj->m", directions, part, directions) for part in parts.values()]
    total = np.sum(expected, axis=0)
    given = (found.classes, found.cross_classes, found.within, found.labels)
    for result, wanted in zip(given, expected, strict=True):
        np.testing.assert_allclose(result, wanted, rtol=0, atol=rounding() * total.max())
    np.testing.assert_allclose(found.total, total, rtol=rounding())
    np.testing.assert_allclose(found.shares, np.stack(expected, axis=1) / total[:, None], rtol=1e-9)


@pytest.mark.parametrize("batch_size", [2, None])
def test_eigenvalues_of_the_outliers_are_those_of_the_definition(case, batch_size):
    loss, parts = case
    found = cnn.class_eigenvalues(*gauss_newton(loss, batch_size=batch_size))
    for result, part in ((found.classes, parts["class"]), (found.cross_classes, parts["cross"])):
        values = np.linalg.eigvalsh(part)[::-1][: len(result)]
        np.testing.assert_allclose(result, values, rtol=0, atol=rounding() * values[0])
    assert len(found.classes) == NUM_CLASSES
    assert len(found.cross_classes) == NUM_CLASSES * (NUM_CLASSES - 2)


def test_parts_of_a_layer_are_those_of_its_block(case):
    loss, parts = case
    curvature, parameters = gauss_newton(loss, layer="head")
    _, every = gauss_newton(loss)
    # The names are sorted in a flat vector, and those of the head are the last.
    size = sum(array.size for array in every.values())
    start = size - sum(array.size for array in parameters.values())
    assert sorted(every)[-len(parameters) :] == sorted(parameters)
    found = cnn.class_eigenvalues(curvature, parameters)
    values = np.linalg.eigvalsh(parts["class"][start:, start:])[::-1][:NUM_CLASSES]
    np.testing.assert_allclose(found.classes, values, rtol=0, atol=rounding() * values[0])


def test_collapsed_features_have_class_outliers_and_nothing_within():
    """Of a head on features that are equal within each class, every gradient is its mean."""
    pixels = np.eye(NUM_CLASSES)[DATA.labels].reshape(COUNT, 1, 1, NUM_CLASSES)

    class Pixels(cnn.Network):
        def features(self, images, train):
            return images

    head = Head(NUM_CLASSES, NUM_CLASSES, rngs=nnx.Rngs(0))
    curvature, parameters = cnn.curvature_for(
        Pixels(jnp.float64, head), DATA._replace(images=pixels), kind="gauss_newton",
        dtype=jnp.float64,
    )  # fmt: skip
    found = landscape.extreme_eigenpairs(curvature, parameters, num=4, end="largest")
    shares = cnn.class_shares(curvature, parameters, found.vectors)
    np.testing.assert_allclose(shares.within, 0, atol=rounding() * float(found.values[0]))
    np.testing.assert_allclose(shares.total, found.values, rtol=1e-8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: cnn.class_eigenvalues(*cnn.curvature_for(NETWORK, DATA)),
            "curvature is of type HessianOf: give that of cnn.curvature_for",
        ),
        (
            lambda: cnn.class_eigenvalues(
                landscape.GaussNewtonOf(lambda x: x, jnp.sum), {"x": jnp.ones(2)}
            ),
            "curvature is of type GaussNewtonOf: give that of cnn.curvature_for",
        ),
        (
            lambda: cnn.class_eigenvalues(
                *gauss_newton("cross-entropy", train=True, batch_size=None)
            ),
            "curvature is one with train = True",
        ),
        (
            lambda: cnn.class_eigenvalues(
                *cnn.curvature_for(NETWORK, DATA, loss=Quartic(), kind="gauss_newton")
            ),
            "curvature has the loss Quartic",
        ),
        (
            lambda: cnn.class_shares(*gauss_newton("squared error"), {}),
            r"vectors have convolutions.0.kernel of shape None where the parameters have \(3, 3",
        ),
        (
            lambda: cnn.class_shares(
                *gauss_newton("squared error"), gauss_newton("squared error")[1]
            ),
            r"of shape \(3, 3, 1, 2\) where the parameters have \(3, 3, 1, 2\): give the same",
        ),
    ],
)
def test_invalid_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message) as raised:
        call()
    assert "\n" not in str(raised.value)


class Quartic(nc.losses.Loss):
    def value(self, logits, labels):
        return jnp.sum(logits**4, axis=1)
