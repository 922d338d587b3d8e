"""The models that benchmarks write down for other tools are those of the package."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from peers import ulpm_model as model
from tolerances import rounding

import nc_jax as nc

PROBLEM = nc.ulpm(model.NUM_CLASSES, model.FEATURE_DIM, model.SAMPLES_PER_CLASS)
STATE = PROBLEM.init(jax.random.key(0), norm=3.0)
FLAT = model.flatten(np.asarray(STATE.features), np.asarray(STATE.classifier))


def descent(log_scale):
    """e^log_scale (−∇L) of the package, flat."""
    slope = jax.jit(PROBLEM.scaled_descent)(STATE, jnp.asarray(log_scale))
    return model.flatten(np.asarray(slope.features), np.asarray(slope.classifier))


def assert_same(field, log_scale):
    expected = descent(log_scale)
    # The exponential turns the rounding of its argument into a relative error of that size.
    scale = np.max(np.abs(expected)) * max(1.0, log_scale)
    np.testing.assert_allclose(field, expected, rtol=0, atol=rounding() * scale)


@pytest.mark.parametrize("u", [0.0, 3.0, 300.0])
def test_fields_in_log_time_are_that_of_the_package(u):
    assert_same(model.log_field(u, FLAT), u)
    assert_same(jax.jit(model.jax_log_field)(jnp.asarray(u), jnp.asarray(FLAT), None), u)


def test_the_field_in_real_time_is_that_of_the_package():
    assert_same(model.real_field(0.0, FLAT), 0.0)


def test_the_field_in_pytorch_is_that_of_the_package_for_each_state_of_a_batch():
    torch = pytest.importorskip("torch")
    times = np.array([0.0, 3.0])
    slopes = model.torch_log_field()(torch.tensor(times), torch.tensor(np.stack([FLAT, FLAT])))
    for slope, u in zip(slopes.numpy(), times, strict=True):
        assert_same(slope, u)


def test_a_flat_state_has_the_features_first():
    features, classifier = model.split(FLAT)
    np.testing.assert_array_equal(features, STATE.features)
    np.testing.assert_array_equal(classifier, STATE.classifier)
