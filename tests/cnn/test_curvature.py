"""Hessian and Gauss-Newton matrix of networks against dense matrices and double-backward passes."""

import importlib

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.flatten_util import ravel_pytree
from tolerances import rounding

import nc_jax as nc
from nc_jax import cnn, images, landscape

NUM_CLASSES, COUNT, WIDTHS = 3, 10, (3, 4)


def with_random_numbers(network):
    """The network in float64 with random numbers as parameters and running statistics."""
    graph, params, rest = nnx.split(network, nnx.Param, ...)
    rng = np.random.default_rng(1)

    def drawn(path, leaf):
        numbers = rng.normal(0, 0.4, leaf.shape)
        # Variances are positive, and scales of normalised maps about 1.
        last = jax.tree_util.keystr(path[-1:])
        positive = "var" in last or "scale" in last
        return jnp.asarray(1 + 0.3 * np.tanh(numbers) if positive else numbers)

    params, rest = (
        jax.tree_util.tree_map_with_path(drawn, nnx.to_pure_dict(part)) for part in (params, rest)
    )
    return nnx.merge(graph, params, rest)


def small_data(side=5, channels=2, count=COUNT):
    rng = np.random.default_rng(2)
    pixels = rng.normal(size=(count, side, side, channels))
    return images.ImageSet(pixels, rng.permutation(np.arange(count) % NUM_CLASSES), ("a", "b", "c"))


NETWORK = with_random_numbers(
    cnn.ConvNet(2, NUM_CLASSES, widths=WIDTHS, dtype=jnp.float64, rngs=nnx.Rngs(0))
)
DATA = small_data()
LOSSES = {"cross-entropy": nc.CrossEntropy(), "squared error": nc.SquaredError()}


def statistics(network):
    return [(norm.mean[...], norm.var[...]) for norm in network.norms]


def plain_logits(parameters, pixels, moments=None):
    """The ConvNet written plainly; without moments it normalises by those of these images."""
    maps = jnp.asarray(pixels)
    for layer in range(len(WIDTHS)):
        kernel = parameters[f"convolutions.{layer}.kernel"]
        maps = jax.lax.conv_general_dilated(
            maps, kernel, (2, 2), [(1, 1)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        maps = jnp.where(maps > 0, maps, 0)
        mean, var = moments[layer] if moments else (maps.mean((0, 1, 2)), maps.var((0, 1, 2)))
        maps = (maps - mean[None, None, None]) / jnp.sqrt(var + 1e-5)[None, None, None]
    classifier, bias = parameters["head.classifier"], parameters["head.bias"]
    return maps.mean((1, 2)) @ classifier.T + bias[None]


def plain_losses(loss, logits, labels):
    at_label = jnp.asarray(np.eye(NUM_CLASSES)[labels])
    if loss == "cross-entropy":
        return -jnp.sum(at_label * jax.nn.log_softmax(logits, axis=1), axis=1)
    return jnp.sum((logits - at_label) ** 2, axis=1) / 2


def dense(kind, loss, parameters, moments):
    """The matrix by JAX's dense second derivatives of the plain network."""
    flat, unravel = ravel_pytree(parameters)

    def logits(x):
        return plain_logits(unravel(x), DATA.images, moments)

    def mean_loss(z):
        return jnp.mean(plain_losses(loss, z, DATA.labels))

    if kind == "hessian":
        return np.asarray(jax.jit(jax.hessian(lambda x: mean_loss(logits(x))))(flat))
    jacobian = jax.jit(jax.jacobian(logits))(flat).reshape(-1, flat.size)
    outputs = logits(flat)
    of_loss = jax.hessian(lambda z: mean_loss(z.reshape(outputs.shape)))(outputs.ravel())
    return np.asarray(jacobian.T @ of_loss @ jacobian)


@pytest.fixture(scope="module")
def matrices():
    """Dense matrices by kind and loss, under running statistics."""
    _, parameters = cnn.curvature_for(NETWORK, DATA)
    return {
        (kind, loss): dense(kind, loss, parameters, statistics(NETWORK))
        for kind in ("hessian", "gauss_newton")
        for loss in LOSSES
    }


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kind", ["hessian", "gauss_newton"])
def test_matrix_spectrum_and_moments_are_those_of_the_dense_matrix(matrices, kind, loss):
    matrix = matrices[kind, loss]
    scale = np.abs(matrix).max()
    curvature, parameters = cnn.curvature_for(NETWORK, DATA, loss=LOSSES[loss], kind=kind)
    found = landscape.dense_hessian(curvature, parameters)
    np.testing.assert_allclose(found, matrix, rtol=0, atol=rounding(operations=1000) * scale)
    values = np.linalg.eigvalsh(matrix)
    largest = landscape.extreme_eigenpairs(curvature, parameters, num=5, end="largest")
    assert largest.converged
    np.testing.assert_allclose(largest.values, values[::-1][:5], rtol=0, atol=1e-8 * scale)
    vectors = jax.vmap(lambda v: ravel_pytree(v)[0])(largest.vectors)
    residuals = np.linalg.norm(vectors @ matrix - largest.values[:, None] * vectors, axis=1)
    np.testing.assert_allclose(largest.residuals, residuals, rtol=1e-3, atol=rounding() * scale)
    density = landscape.spectral_density(curvature, parameters, jax.random.key(0), num_probes=64)
    for power in (1, 2):
        moments = np.sum(density.weights * density.nodes**power, axis=1)
        error = moments.std(ddof=1) / 8
        # Four standard errors of a mean over 64 seeded probes.
        assert abs(moments.mean() - np.mean(values**power)) < 4 * error
    assert abs(density.trace - np.trace(matrix)) < 4 * density.trace_error


def test_largest_eigenvalue_of_a_layer_is_that_of_its_block(matrices):
    matrix = matrices["hessian", "cross-entropy"]
    _, parameters = cnn.curvature_for(NETWORK, DATA)
    # Rows of the matrix by parameter, in the order of the flat vector.
    ends = np.cumsum([array.size for _, array in sorted(parameters.items())])
    rows = dict(zip(sorted(parameters), np.split(np.arange(ends[-1]), ends[:-1]), strict=True))
    assert cnn.layer_names(NETWORK) == ("convolutions.0", "convolutions.1", "head")
    for layer in (*cnn.layer_names(NETWORK), "convolutions"):
        curvature, of_layer = cnn.curvature_for(NETWORK, DATA, layer=layer)
        block = np.concatenate([rows[name] for name in sorted(of_layer)])
        assert all(name.startswith(layer) for name in of_layer)
        expected = matrix[np.ix_(block, block)]
        found = landscape.dense_hessian(curvature, of_layer)
        atol = rounding(operations=1000) * np.abs(matrix).max()
        np.testing.assert_allclose(found, expected, rtol=0, atol=atol)
        sharpness = landscape.sharpness(curvature, of_layer)
        np.testing.assert_allclose(sharpness, np.linalg.eigvalsh(expected)[-1], rtol=1e-8)


@pytest.mark.parametrize("kind", ["hessian", "gauss_newton"])
@pytest.mark.parametrize("batch_size", [1, 3, 4, 9, 500, None])
def test_batches_of_any_size_give_the_same_matrix(matrices, kind, batch_size):
    curvature, parameters = cnn.curvature_for(NETWORK, DATA, kind=kind, batch_size=batch_size)
    matrix = matrices[kind, "cross-entropy"]
    flat, unravel = ravel_pytree(parameters)
    direction = jnp.asarray(np.random.default_rng(3).normal(size=flat.size))
    product = landscape.hessian_vector_product(curvature, parameters, unravel(direction))
    np.testing.assert_allclose(
        ravel_pytree(product)[0],
        matrix @ direction,
        rtol=0,
        atol=rounding(operations=1000) * np.abs(matrix).max(),
    )


def test_products_are_central_differences_of_gradients_to_second_order():
    curvature, parameters = cnn.curvature_for(NETWORK, DATA)
    flat, unravel = ravel_pytree(parameters)
    direction = jnp.asarray(np.random.default_rng(3).normal(size=flat.size))
    direction = direction / jnp.linalg.norm(direction)

    @jax.jit
    def gradient(x):
        moments = statistics(NETWORK)
        return jax.grad(
            lambda x: jnp.mean(
                plain_losses(
                    "cross-entropy", plain_logits(unravel(x), DATA.images, moments), DATA.labels
                )
            )
        )(x)

    product = landscape.hessian_vector_product(curvature, parameters, unravel(direction))
    errors = []
    for step in (2e-3, 1e-3):
        difference = (gradient(flat + step * direction) - gradient(flat - step * direction)) / 2
        errors.append(np.linalg.norm(difference / step - ravel_pytree(product)[0]))
    np.testing.assert_allclose(errors[0] / errors[1], 4, rtol=0.05)


def test_with_train_the_statistics_are_those_of_all_images():
    curvature, parameters = cnn.curvature_for(NETWORK, DATA, train=True, batch_size=None)
    matrix = dense("hessian", "cross-entropy", parameters, None)
    found = landscape.dense_hessian(curvature, parameters)
    atol = rounding(operations=1000) * np.abs(matrix).max()
    np.testing.assert_allclose(found, matrix, rtol=0, atol=atol)


def test_the_network_is_not_changed():
    before = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(NETWORK)))
    curvature, parameters = cnn.curvature_for(
        NETWORK, DATA, train=True, batch_size=None, dtype=jnp.float32
    )
    landscape.hessian_vector_product(curvature, parameters, parameters)
    after = nnx.to_pure_dict(nnx.state(NETWORK))
    jax.tree.map(np.testing.assert_array_equal, before, after)
    assert NETWORK.dtype == jnp.float64


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_trained_network_is_evaluated_in_the_dtype_that_is_asked_for(matrices, dtype):
    """Parameters are float32 in every training; their bfloat16 layers compute in float32 here."""
    narrow = cnn.ConvNet(2, NUM_CLASSES, widths=WIDTHS, dtype=dtype, rngs=nnx.Rngs(0))
    exact = nnx.split(NETWORK, nnx.Param, ...)[1:]
    params, rest = (
        jax.tree.map(lambda leaf: leaf.astype(jnp.float32), nnx.to_pure_dict(part))
        for part in exact
    )
    narrow = nnx.merge(nnx.graphdef(narrow), params, rest)
    largest = np.linalg.eigvalsh(matrices["hessian", "cross-entropy"])[-1]
    for asked, expected in ((None, jnp.float32), (jnp.float64, jnp.float64)):
        curvature, parameters = cnn.curvature_for(narrow, DATA, dtype=asked)
        found = landscape.sharpness(curvature, parameters)
        assert found.dtype == expected
        np.testing.assert_allclose(found, largest, rtol=rounding("float32", 1000))


def test_memory_is_that_of_one_batch():
    def temporary(count):
        curvature, parameters = cnn.curvature_for(
            NETWORK, small_data(side=12, count=count), batch_size=32
        )
        arrays, static = eqx.partition(curvature, eqx.is_array)

        def product(arrays, parameters):
            curvature = eqx.combine(arrays, static)
            return curvature.hessian(parameters, 0.0)(parameters)

        memory = jax.jit(product).lower(arrays, parameters).compile().memory_analysis()
        assert memory is not None
        return memory.temp_size_in_bytes

    assert temporary(320) < 1.1 * temporary(64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"layer": "convolution.0"},
            r"layer = 'convolution.0' is no layer with parameters. Close to it: convolutions.0, ",
        ),
        ({"layer": "norms.0"}, "Give one of convolutions.0, convolutions.1, head, or the begin"),
        ({"layer": ""}, "layer = '' is no layer"),
        ({"train": True}, r"batch_size = 500 with train = True: give batch_size=None"),
        ({"batch_size": 0}, "batch_size = 0: give an integer >= 1"),
        ({"dtype": jnp.bfloat16}, "dtype = bfloat16: give float32 or float64"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message) as raised:
        cnn.curvature_for(NETWORK, DATA, **options)
    assert "\n" not in str(raised.value)


def test_data_that_does_not_fit_is_refused():
    gray = DATA._replace(images=DATA.images[..., 0])
    with pytest.raises(ValueError, match=r"data: images of shape \(10, 5, 5\); give \(N, H, W, C"):
        cnn.curvature_for(NETWORK, gray)
    with pytest.raises(ValueError, match="data: labels hold 3 in row 0"):
        cnn.curvature_for(NETWORK, DATA._replace(labels=np.full(COUNT, 3)))


# PyTorch's double backward, as PyHessian computes products.


def torch_power_iteration(kind, network, data, tolerance):
    """The eigenvalue of largest size, by power iteration with products of double backward.

    `kind` names the network's counterpart in PyTorch.
    """
    torch = pytest.importorskip("torch")
    peers = importlib.import_module("peers.torch_networks")
    variables = cnn.to_torch(network)
    twin = peers.counterpart(kind, variables).to(torch.float64).eval()
    peers.load(twin, variables)  # again, since it was built in float32
    parameters = list(twin.parameters())
    logits = twin(torch.tensor(data.images.transpose(0, 3, 1, 2)))
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(data.labels, dtype=torch.long))
    gradient = torch.autograd.grad(loss, parameters, create_graph=True)

    def norm(tree):
        return torch.sqrt(sum(torch.sum(x**2) for x in tree))

    torch.manual_seed(0)
    vector = [torch.randn_like(p) for p in parameters]
    value, before = None, np.inf
    while value is None or abs(value - before) > tolerance * abs(value):
        length = norm(vector)
        vector = [v / length for v in vector]
        product = torch.autograd.grad(gradient, parameters, vector, retain_graph=True)
        before = np.inf if value is None else value
        value = float(sum(torch.sum(p * v) for p, v in zip(product, vector, strict=True)))
        vector = list(product)
    return value


def test_sharpness_is_that_of_power_iteration_by_double_backward():
    found = landscape.sharpness(*cnn.curvature_for(NETWORK, DATA))
    expected = torch_power_iteration("ConvNet", NETWORK, DATA, tolerance=1e-12)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ResNet", "VGG"])
def test_extreme_eigenvalues_of_deep_networks_are_those_of_power_iteration(kind):
    """With pooling, skip connections, and normalisation with parameters."""
    network = with_random_numbers(
        getattr(cnn, kind)(3, NUM_CLASSES, width=1 / 16, dtype=jnp.float64, rngs=nnx.Rngs(0))
    )
    data = small_data(side=16, channels=3)
    expected = torch_power_iteration(kind, network, data, tolerance=1e-12)
    # With random weights the eigenvalue of largest size may be negative.
    end = "largest" if expected > 0 else "smallest"
    curvature, parameters = cnn.curvature_for(network, data)
    found = landscape.extreme_eigenpairs(curvature, parameters, end=end)
    np.testing.assert_allclose(found.values[0], expected, rtol=1e-8)
