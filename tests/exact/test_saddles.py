"""Saddles in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st
from jax.flatten_util import ravel_pytree
from tolerances import rounding

import nc_jax as nc

KEY = jax.random.key(4)


UNEQUAL = nc.WeightDecay(classifier=5e-3, features=8e-3, bias=0.0)


SADDLES = {
    "grouped 2": lambda problem, radius: nc.exact.grouped_saddle(
        problem, 2, radius=radius, key=KEY
    ),
    "grouped 3": lambda problem, radius: nc.exact.grouped_saddle(
        problem, 3, radius=radius, key=KEY
    ),
    "paired": lambda problem, radius: nc.exact.paired_saddle(problem, radius=radius, key=KEY),
    "subset 2": lambda problem, radius: nc.exact.subset_saddle(problem, 2, radius=radius, key=KEY),
    "subset 5": lambda problem, radius: nc.exact.subset_saddle(problem, 5, radius=radius, key=KEY),
}


@pytest.mark.parametrize("name", SADDLES)
@given(
    decays=st.tuples(st.floats(1e-4, 2e-2), st.floats(1e-4, 2e-2)),
    bias=st.sampled_from([0.0, 1e-3, 0.3]), size=st.integers(1, 3),
)  # fmt: skip
def test_saddles_are_critical_whatever_the_decay(name, decays, bias, size):
    problem = nc.zhu(
        6, 5, size, nc.WeightDecay(classifier=decays[0], features=decays[1], bias=bias)
    )
    state = SADDLES[name](problem, None)
    gradient = np.asarray(ravel_pytree(problem.gradient(state))[0])
    # The root of the subset's equations is found to 1e-13, in units of the residual.
    assert np.abs(gradient).max() < 1e-11
    assert problem.objective(state) > float(nc.exact.regularized_minimum(problem)) + 1e-6


@pytest.mark.parametrize("name", SADDLES)
def test_saddles_are_critical_on_every_sphere(name):
    problem = nc.ulpm(6, 5, 2)
    for radius in (0.3, 20.0):
        state = SADDLES[name](problem, radius)
        np.testing.assert_allclose(state.squared_norm(), radius**2, rtol=rounding())
        tangential, _ = nc.landscape.sphere_gradient(problem, state)
        # Residuals of order 1 cancel.
        assert jnp.abs(ravel_pytree(tangential)[0]).max() < rounding() * radius


def test_example_3_1_is_the_paired_saddle_and_all_groups_the_minimum():
    problem = nc.ulpm(4, 4, 1)
    paired, example = nc.exact.paired_saddle(problem, radius=4.0, key=KEY), nc.exact.example_3_1()
    np.testing.assert_allclose(paired.logits(), example.logits(), atol=rounding())
    decayed = nc.zhu(4, 4, 2, UNEQUAL)
    np.testing.assert_allclose(
        decayed.objective(nc.exact.grouped_saddle(decayed, 4)),
        nc.exact.regularized_minimum(decayed), rtol=rounding(),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: jax.jit(
                lambda x: nc.exact.grouped_saddle(
                    nc.zhu(4, 4, 1, nc.WeightDecay(classifier=x, features=x)), 2
                )
            )(0.01),
            "weight decay is traced",
        ),
        (lambda: nc.exact.grouped_saddle(nc.zhu(4, 4, 1, 0.01), 3), "groups = 3: give a divisor"),
        (lambda: nc.exact.grouped_saddle(nc.ulpm(4, 4, 1), 2), "a saddle has one with radius="),
        (lambda: nc.exact.grouped_saddle(nc.zhu(4, 4, 1, 0.01), 2, radius=1.0), "leave it out"),
        (lambda: nc.exact.paired_saddle(nc.zhu(5, 4, 1, 0.01)), "even number of classes"),
        (lambda: nc.exact.subset_saddle(nc.zhu(4, 4, 1, 0.01), 4), "active = 4: .* 2 to 3"),
        (lambda: nc.exact.subset_saddle(nc.zhu(4, 4, 1, 0.4), 2), "Lower the decay"),
    ],
)
def test_what_has_no_closed_form_is_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)
