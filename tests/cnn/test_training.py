"""Steps and epochs against formulas in NumPy, on a network whose gradient is a line or two."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.experimental import io_callback
from linear_network import (
    DIM,
    NUM_CLASSES,
    SIDE,
    two_layers,
    two_layers_with_a_fixed_classifier,
)
from tolerances import rounding

import nc_jax as nc
from nc_jax import cnn
from nc_jax.cnn import training

NUM_SAMPLES, BATCH = 14, 4


@pytest.fixture(scope="module")
def data():
    """Images whose first pixel is their number, so that a batch tells its rows."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(NUM_SAMPLES, SIDE, SIDE, 1)).astype(np.float32)
    images[:, 0, 0, 0] = np.arange(NUM_SAMPLES)
    labels = rng.permutation(np.arange(NUM_SAMPLES, dtype=np.int32) % NUM_CLASSES)
    return training.Samples(jnp.asarray(images / 8), jnp.asarray(labels))


def rows_of(images):
    return np.rint(8 * np.asarray(images)[:, 0, 0, 0]).astype(int)


def settings_of(optimizer, weight_decay=0.0, batch_size=BATCH, augment=None, make=two_layers):
    return training.TrainingSettings(
        nnx.graphdef(nnx.eval_shape(lambda: make(nnx.Rngs(0)))),
        optax.with_extra_args_support(optimizer), nc.CrossEntropy(), weight_decay, batch_size,
        augment, NUM_SAMPLES,
    )  # fmt: skip


@functools.cache
def variables(make):
    """Parameters and the rest at the start."""
    state = jax.jit(lambda key: training.start(make, optax.identity(), key))(jax.random.key(1))
    return state.params, state.rest


def begin(optimizer, *arguments, make=two_layers, **options):
    params, rest = variables(make)
    memory, epoch = jax.jit(optimizer.init)(params), jnp.zeros((), jnp.int32)
    settings = settings_of(optimizer, *arguments, make=make, **options)
    return settings, training.TrainState(params, rest, memory, epoch)


def parts(params):
    """Kernel, classifier and bias, in float64."""
    arrays = params["kernel"], params["head"]["classifier"], params["head"]["bias"]
    return [np.array(array, np.float64) for array in arrays]


def value_and_gradient(theta, data, rows, decays=(0.0, 0.0, 0.0, 0.0)):
    """By hand: cross-entropy of Z = XKWᵀ + b, with λ/2 ‖·‖² of K, W and b, and of H times N/B."""
    kernel, classifier, bias = theta
    of_kernel, of_classifier, of_bias, of_features = decays
    x = np.array(data.images, np.float64)[rows].reshape(len(rows), -1)
    y = np.eye(NUM_CLASSES)[np.array(data.labels)[rows]]
    h = x @ kernel
    z = h @ classifier.T + bias
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    residual, share = (p - y) / len(rows), NUM_SAMPLES / len(rows)
    value = -np.mean(np.log(np.sum(p * y, axis=1))) + of_features / 2 * share * np.sum(h**2)
    for decay, part in zip((of_kernel, of_classifier, of_bias), theta, strict=True):
        value += decay / 2 * np.sum(part**2)
    on_features = residual @ classifier + of_features * share * h
    gradient = [
        x.T @ on_features + of_kernel * kernel,
        residual.T @ h + of_classifier * classifier,
        residual.sum(0) + of_bias * bias,
    ]
    return value, gradient


def assert_close(found, expected, operations=1000):
    for mine, theirs in zip(found, expected, strict=True):
        atol = rounding("float32", operations) * np.max(np.abs(theirs))
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=atol)


# Batches and decays, as the tests' formula has them.
ALL, SOME = tuple(range(NUM_SAMPLES)), (3, 1, 8)
ZHU = nc.WeightDecay(classifier=0.5, features=0.03, bias=2.0)
OBJECTIVES = {
    "no decay": (SOME, 0.0, (0, 0, 0, 0)),
    "all parameters": (SOME, 0.7, (0.7, 0.7, 0.7, 0)),
    # Zhu, eq. 3: nothing on the layers below, and ‖H‖² over all N.
    "last layer": (ALL, ZHU, (0, 0.5, 2.0, 0.03)),
    "last layer of a batch": (SOME, ZHU, (0, 0.5, 2.0, 0.03)),
}


@pytest.fixture(scope="module")
def objectives(data):
    """The start, and each objective with its gradient there, by one program."""
    params, rest = variables(two_layers)

    def of(params, rows, decay):
        settings, rows = settings_of(optax.sgd(0.1), decay), np.array(rows)
        batch = data.images[rows], data.labels[rows]
        objective = jax.value_and_grad(training.objective, 1, has_aux=True)
        (value, _), gradient = objective(settings, params, rest, *batch)
        return value, gradient

    @jax.jit
    def run(params):
        return {name: of(params, rows, decay) for name, (rows, decay, _) in OBJECTIVES.items()}

    return params, run(params)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objective_and_gradient_are_those_by_hand(data, objectives, name):
    params, found = objectives
    (value, gradient), (rows, _, decays) = found[name], OBJECTIVES[name]
    expected, by_hand = value_and_gradient(parts(params), data, np.array(rows), decays)
    np.testing.assert_allclose(value, expected, rtol=rounding("float32"))
    assert_close(parts(gradient), by_hand)


@pytest.fixture(scope="module")
def followed(data):
    """Three epochs of SGD with momentum and decay, with the batches of each step."""
    batches = []

    def record(images, key):
        batches.append((rows_of(images), tuple(np.asarray(key).tolist())))

    def augment(key, images):
        io_callback(record, None, images, jax.random.key_data(key), ordered=True)
        return images

    settings, state = begin(optax.sgd(0.1, momentum=0.9), 0.01, augment=augment)
    run = jax.jit(functools.partial(training.epoch, settings, data))
    states, recorded = [state], []
    for _ in range(3):
        state, means = run(state, jax.random.key(2))
        states.append(state)
        recorded.append(means)
    jax.effects_barrier()
    return run, states, recorded, list(batches)


def test_no_epoch_repeats_a_sample_and_epochs_differ_in_order(followed):
    *_, batches = followed
    steps = NUM_SAMPLES // BATCH
    assert len(batches) == 3 * steps
    orders = [
        np.concatenate([rows for rows, _ in batches[i * steps : (i + 1) * steps]]) for i in range(3)
    ]
    for order in orders:
        assert len(set(order)) == steps * BATCH
        assert set(order) <= set(range(NUM_SAMPLES))
    for one, other in itertools.combinations(orders, 2):
        assert np.any(one != other)
        # What is left out is another part.
        assert set(one) != set(other)
    # Each batch is augmented by another key.
    assert len({key for _, key in batches}) == 3 * steps


def test_epochs_are_sgd_with_momentum_as_pytorch_has_it(data, followed):
    """v ← 0.9 v + ∇L + λθ, θ ← θ − ηv (Sutskever's, PyTorch's), with the batches of each step."""
    _, states, recorded, batches = followed
    theta = parts(states[0].params)
    velocity, losses = [np.zeros_like(part) for part in theta], []
    for rows, _ in batches:
        value, gradient = value_and_gradient(theta, data, rows, (0.01, 0.01, 0.01, 0))
        velocity = [0.9 * v + g for v, g in zip(velocity, gradient, strict=True)]
        theta = [part - 0.1 * v for part, v in zip(theta, velocity, strict=True)]
        losses.append(value)
    assert_close(parts(states[-1].params), theta)
    # What an epoch tells is the mean of the objective over its batches.
    means = np.reshape(losses, (3, -1)).mean(axis=1)
    np.testing.assert_allclose([s["loss"] for s in recorded], means, rtol=rounding("float32", 1000))
    assert [int(state.epoch) for state in states] == [0, 1, 2, 3]


def test_no_epoch_shares_a_key_with_the_start(monkeypatch):
    """Parameter i is drawn from the i-th key of the start, epoch e from the e-th of a training."""
    drawn, used = [], set()

    def network(rngs):
        drawn.append(rngs.params.key[...])
        return two_layers(rngs)

    key = jax.random.key(2)
    training.start(network, optax.sgd(0.1), key)
    for epoch in range(1, 50):
        used.add(tuple(jax.random.key_data(jax.random.fold_in(key, epoch)).tolist()))
    [start] = drawn
    for count in range(50):
        used_at_start = jax.random.key_data(jax.random.fold_in(start, count))
        assert tuple(used_at_start.tolist()) not in used


def test_an_epoch_depends_on_its_number_and_key_alone(followed):
    """So that a training can go on from a state."""
    run, (start, *_), *_ = followed
    later = start._replace(epoch=jnp.asarray(1, jnp.int32))
    runs = (start, 2), (start, 2), (later, 2), (start, 3)
    ends = [parts(run(state, jax.random.key(seed))[0].params)[0] for state, seed in runs]
    np.testing.assert_array_equal(ends[0], ends[1])
    for other in ends[2:]:
        assert np.any(ends[0] != other)


def test_without_batches_an_epoch_is_one_step_on_all_samples(data):
    settings, state = begin(optax.sgd(0.1), batch_size=None)
    theta = parts(state.params)
    state, recorded = jax.jit(functools.partial(training.epoch, settings, data))(
        state, jax.random.key(0)
    )
    value, gradient = value_and_gradient(theta, data, np.arange(NUM_SAMPLES))
    np.testing.assert_allclose(recorded["loss"], value, rtol=rounding("float32"))
    assert_close(
        parts(state.params), [part - 0.1 * g for part, g in zip(theta, gradient, strict=True)]
    )


def test_a_fixed_classifier_stays_a_simplex_etf_to_the_bit(data):
    settings, state = begin(optax.adam(0.1), 0.1, make=two_layers_with_a_fixed_classifier)
    before = np.array(state.rest["head"]["classifier"])
    bias = np.array(state.params["head"]["bias"])
    run = jax.jit(functools.partial(training.epoch, settings, data))
    after, _ = run(state, jax.random.key(0))
    np.testing.assert_array_equal(after.rest["head"]["classifier"], before)
    gram = (np.eye(NUM_CLASSES) - 1 / NUM_CLASSES) * NUM_CLASSES / (NUM_CLASSES - 1)
    np.testing.assert_allclose(before @ before.T, gram, atol=rounding("float32"))
    assert np.all(after.params["head"]["bias"] != bias)
    # Adam remembers two moments of each parameter, and none of the classifier.
    shapes = [leaf.shape for leaf in jax.tree.leaves(after.memory) if leaf.ndim]
    assert sorted(shapes) == 2 * [(NUM_CLASSES,)] + 2 * [(SIDE**2, DIM)]


def test_lbfgs_descends_under_strong_wolfe_conditions(data):
    settings, state = begin(optax.lbfgs(memory_size=10), 0.01, batch_size=None)
    run = jax.jit(functools.partial(training.epoch, settings, data))
    rows, decays = np.arange(NUM_SAMPLES), (0.01, 0.01, 0.01, 0)
    begun = theta = parts(state.params)
    value, gradient = value_and_gradient(theta, data, rows, decays)
    for _ in range(8):
        state, recorded = run(state, jax.random.key(0))
        np.testing.assert_allclose(recorded["loss"], value, rtol=rounding("float32", 1000))
        moved = parts(state.params)
        steps = [b - a for a, b in zip(theta, moved, strict=True)]
        slope = _inner(gradient, steps)
        theta, (new, gradient) = moved, value_and_gradient(moved, data, rows, decays)
        assert slope < 0
        # Optax's constants are those of Nocedal and Wright: 1e-4 and 0.9.
        assert new <= value + 1e-4 * slope + rounding("float32") * value
        assert abs(_inner(gradient, steps)) <= 0.9 * abs(slope)
        value = new
    assert value < min(descended(begun, data, decays, 2.0**-i, 8) for i in range(8))


def descended(theta, data, decays, rate, steps):
    """Objective after steps of gradient descent; inf where they leave the range of floats."""
    value = np.inf
    with np.errstate(all="ignore"):
        for _ in range(steps + 1):
            value, gradient = value_and_gradient(theta, data, np.arange(NUM_SAMPLES), decays)
            theta = [part - rate * g for part, g in zip(theta, gradient, strict=True)]
    return value if np.isfinite(value) else np.inf


def _inner(one, other):
    return sum(np.sum(a * b) for a, b in zip(one, other, strict=True))


@pytest.fixture(scope="module")
def crops():
    """Crops of one image with its number beside, and the windows that there are."""
    height, width, count = 5, 6, 3000
    base = np.arange(1.0, 1 + height * width, dtype=np.float32).reshape(height, width)
    numbers = np.broadcast_to(np.arange(1.0, 1 + count)[:, None, None], (count, height, width))
    images = np.stack([np.broadcast_to(base, numbers.shape), numbers], axis=-1)
    images = jnp.asarray(images, jnp.float32)
    crop = jax.jit(cnn.crop_and_flip)
    padded = np.pad(base, 4)
    windows = {}
    for i, j, mirrored in itertools.product(range(9), range(9), (False, True)):
        window = padded[i : i + height, j : j + width]
        windows[(window[:, ::-1] if mirrored else window).tobytes()] = (i, j, mirrored)
    assert len(windows) == 9 * 9 * 2
    return images, [np.array(crop(jax.random.key(seed), images)) for seed in (0, 0, 1)], windows


def test_crops_are_windows_of_the_padded_image_and_all_of_them_occur(crops):
    images, (cropped, again, other), windows = crops
    assert cropped.shape == images.shape
    assert cropped.dtype == images.dtype
    # 18 of each are expected: the chance that one is missing is 1e-6.
    found = [windows[image.tobytes()] for image in np.ascontiguousarray(cropped[..., 0])]
    assert set(found) == set(windows.values())
    assert (4, 4, False) in found
    np.testing.assert_array_equal(cropped, again)
    assert np.any(cropped != other)
    # Each place as often as any other, to five standard errors; and half are mirrored.
    counts = np.zeros((9, 9, 2))
    for place in found:
        counts[tuple(map(int, place))] += 1
    for axes, share in (((1, 2), 1 / 9), ((0, 2), 1 / 9), ((0, 1), 1 / 2)):
        error = np.sqrt(len(found) * share * (1 - share))
        assert np.all(np.abs(counts.sum(axes) - share * len(found)) < 5 * error)


def test_each_crop_comes_from_the_image_at_its_index(crops):
    _, (cropped, *_), _ = crops
    for number, image in enumerate(cropped, start=1):
        # All channels are moved alike.
        np.testing.assert_array_equal(image[..., 1], np.where(image[..., 0] > 0, number, 0))
