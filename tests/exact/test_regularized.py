"""Zhu's minimum in closed form."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact.minimizers import lowest_of
from jax.flatten_util import ravel_pytree
from tolerances import rounding

import nc_jax as nc

KEY = jax.random.key(4)


UNEQUAL = nc.WeightDecay(classifier=5e-3, features=8e-3, bias=0.0)


REGULARISED = {
    "d > K": nc.zhu(3, 5, 2, UNEQUAL),
    "d = K": nc.zhu(4, 4, 1, nc.WeightDecay(classifier=2e-2, features=1e-2, bias=3e-2)),
    "d = K - 1": nc.zhu(4, 3, 2, 5e-3),
    "past the threshold": nc.zhu(3, 4, 2, 0.3),
    "summed, no bias": nc.UnconstrainedFeatures(
        (3, 3, 3), 3, reduction="sum", weight_decay=nc.WeightDecay(classifier=0.3, features=0.2)
    ),
}


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("name", REGULARISED)
def test_the_regularised_minimum_is_what_lbfgs_finds_from_100_starts(name):
    problem = REGULARISED[name]
    least = float(nc.exact.regularized_minimum(problem))
    found = lowest_of(problem.objective, problem, 100)
    assert np.all(found > least - 1e-8)
    assert np.mean(np.abs(found - least) < 1e-8) > 0.95  # a start may stop short at a saddle
    state = nc.exact.regularized_minimizer(problem, key=KEY)
    np.testing.assert_allclose(problem.objective(state), least, rtol=rounding())
    gradient = ravel_pytree(problem.gradient(state))[0]
    assert jnp.abs(gradient).max() < rounding()


def test_the_minimum_follows_a_traced_decay():
    def least(decay):
        problem = nc.zhu(3, 4, 2, nc.WeightDecay(classifier=decay, features=decay, bias=decay))
        return nc.exact.regularized_minimum(problem), problem.objective(
            nc.exact.regularized_minimizer(problem)
        )

    decays = jnp.array([1e-3, 1e-2, 0.2, 0.3])
    closed, evaluated = jax.jit(jax.vmap(least))(decays)
    np.testing.assert_allclose(closed, evaluated, rtol=rounding())
    # √2·3·λ >= 1 from λ = 0.236 on.
    np.testing.assert_allclose(closed[-1], math.log(3), rtol=rounding())
    assert closed[2] < math.log(3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nc.exact.regularized_minimizer(nc.ulpm(3, 4, 1)), "weight decay classifier = 0"),
        (lambda: nc.exact.regularized_minimum(nc.mixon(3, 4, 1)), "CrossEntropy"),
        (lambda: nc.exact.regularized_minimum(nc.zhu(4, 2, 1, 5e-3)), "feature_dim = 2: .* 3 dim"),
        (lambda: nc.exact.minimum_nullity(nc.zhu(4, 2, 1, 5e-3)), "feature_dim = 2: .* 3 dim"),
        (lambda: nc.exact.minimum_nullity(nc.zhu(3, 4, 1, 0.4)), "below 1 there are critical"),
    ],
)
def test_what_has_no_closed_form_is_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)
