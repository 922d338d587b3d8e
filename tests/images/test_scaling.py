import numpy as np
import pytest
from hypothesis import given, strategies as st

from nc_jax import images


def image_set(rng, *shape, scale=1.0):
    pixels = (scale * rng.uniform(size=shape)).astype(np.float32)
    return images.ImageSet(pixels, np.zeros(shape[0], np.int32), ("a", "b"))


def test_inputs_without_a_norm_are_refused():
    for inputs in (np.zeros((2, 3)), np.full((1, 2), np.nan)):
        with pytest.raises(ValueError, match="the largest norm is"):
            images.unit_ball(inputs)


@given(st.integers(0, 1000), st.floats(1e-3, 1e3))
def test_the_unit_ball_is_just_filled(seed, scale):
    rng = np.random.default_rng(seed)
    parts = [scale * rng.normal(size=(n, 4)) for n in (3, 5)]
    scaled = images.unit_ball(*parts)
    assert abs(max(np.linalg.norm(x, axis=1).max() for x in scaled) - 1) < 1e-12
    for part, found in zip(parts, scaled, strict=True):
        np.testing.assert_allclose(found * part[0, 0], part * found[0, 0], rtol=1e-12)


@given(st.integers(0, 1000), st.floats(1e-3, 1e3))
def test_image_sets_fill_the_unit_ball_as_their_flat_inputs_do(seed, scale):
    rng = np.random.default_rng(seed)
    sets = [image_set(rng, n, 4, 3, 2, scale=scale) for n in (3, 5)]
    scaled = images.within_unit_ball(*sets)
    flat = images.unit_ball(*(data.images.reshape(len(data.images), -1) for data in sets))
    for data, found, inputs in zip(sets, scaled, flat, strict=True):
        np.testing.assert_array_equal(found.images.reshape(len(inputs), -1), inputs)
        assert found.images.shape == data.images.shape
        assert found.images.dtype == np.float32
        assert found.labels is data.labels


@given(st.integers(0, 1000), st.sampled_from([(), (1,), (3,)]), st.floats(1e-2, 1e2))
def test_each_channel_of_the_training_images_has_mean_0_and_deviation_1(seed, channels, scale):
    rng = np.random.default_rng(seed)
    train, test = (image_set(rng, n, 4, 5, *channels, scale=scale) for n in (7, 6))
    found, other = images.normalize(train, test)
    assert found.images.shape == (7, 4, 5, *(channels or (1,)))
    assert other.images.shape[0] == 6
    assert found.images.dtype == other.images.dtype == np.float32
    np.testing.assert_allclose(found.images.mean((0, 1, 2), np.float64), 0, atol=1e-6)
    np.testing.assert_allclose(found.images.std((0, 1, 2), np.float64), 1, rtol=1e-6)
    # The test images are scaled by the training images' numbers.
    plain = test.images.reshape(other.images.shape).astype(np.float64)
    reference = train.images.reshape(found.images.shape).astype(np.float64)
    expected = (plain - reference.mean((0, 1, 2))) / reference.std((0, 1, 2))
    np.testing.assert_allclose(other.images, expected, atol=1e-5)


def test_sets_that_cannot_be_normalized_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(
        ValueError, match=r"sets have \[3, 1\] channels: give sets with the same number"
    ):
        images.normalize(image_set(rng, 2, 4, 4, 3), image_set(rng, 2, 4, 4))
    flat = image_set(rng, 2, 4, 4, 2)
    flat.images[..., 1] = 0.5
    with pytest.raises(ValueError, match=r"its channels have standard deviations .* 0\. *\]; give"):
        images.normalize(flat)
