"""What is known of λ_W = λ_H after numbers were replaced."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerances import rounding

import nc_jax as nc

KEY = jax.random.key(0)


def problem_of(classifier, features):
    decay = nc.WeightDecay(classifier=classifier, features=features)
    return nc.UnconstrainedFeatures((2, 1), 2, loss=nc.SquaredError(), weight_decay=decay)


def replaced(problem, classifier, features):
    return eqx.tree_at(
        lambda p: (p.weight_decay.classifier, p.weight_decay.features),
        problem,
        (classifier, features),
    )


def flow(problem):
    return nc.exact.square_loss_flow(problem, nc.exact.balanced_start(problem, KEY), 0.5)


ONE, OTHER = jnp.asarray(0.1), jnp.asarray(0.2)


@pytest.mark.parametrize(("one", "other"), [(0.1, 0.2), (ONE, OTHER)], ids=["numbers", "arrays"])
def test_replaced_numbers_are_compared(one, other):
    equal, unequal = problem_of(one, one), problem_of(one, other)
    assert equal.weight_decay.balanced
    assert not unequal.weight_decay.balanced
    apart, together = replaced(equal, one, other), replaced(unequal, other, other)
    assert together.weight_decay.balanced
    assert not apart.weight_decay.balanced
    state = nc.exact.balanced_start(equal, KEY)
    assert "balance" in together.invariants(state)
    assert "balance" not in apart.invariants(state)
    with pytest.raises(ValueError, match="closed form where both are equal"):
        flow(apart)
    expected = flow(problem_of(other, other))
    np.testing.assert_allclose(flow(together).features, expected.features, rtol=rounding())


def test_the_derivative_by_one_of_two_decays_is_refused():
    equal = problem_of(ONE, ONE)
    with pytest.raises(ValueError, match="closed form where both are equal"):
        jax.jit(lambda x: flow(eqx.tree_at(lambda p: p.weight_decay.classifier, equal, x)))(ONE)


def test_traced_numbers_that_were_replaced_by_unequal_ones_give_nan():
    equal = problem_of(ONE, ONE)
    apart = replaced(equal, ONE, OTHER)
    # The same program for both, to which the numbers are arguments.
    run, rate = jax.jit(flow), jax.jit(lambda p: p.invariants(start)["balance"].rate)
    start = nc.exact.balanced_start(equal, KEY)
    assert jnp.all(jnp.isfinite(run(equal).features))
    assert jnp.all(jnp.isnan(run(apart).features))
    np.testing.assert_allclose([rate(equal), rate(apart)], [0.2, np.nan], rtol=rounding())


def test_a_number_and_an_array_are_the_same_inside_of_jit_and_outside():
    decay = nc.WeightDecay(classifier=0.1, features=ONE)
    inside = eqx.filter_jit(lambda decay: decay.balanced)(decay)
    assert not decay.balanced
    assert not inside


def test_factors_of_a_deep_net_with_replaced_decays():
    problem = nc.DeepUnconstrainedFeatures(
        (2, 1), (3, 3), loss=nc.SquaredError(), weight_decay=0.05
    )
    apart = eqx.tree_at(lambda p: p.weight_decay[1], problem, 0.06)
    assert problem.has_one_decay
    assert not apart.has_one_decay
    with pytest.raises(ValueError, match="one number for all factors"):
        nc.exact.deep_square_basin(apart)
    rates = apart.invariants(apart.init(KEY))["neighbour_balance"].rate
    np.testing.assert_array_equal(rates, [np.nan, np.nan])
    rates = problem.invariants(problem.init(KEY))["neighbour_balance"].rate
    np.testing.assert_allclose(rates, [0.1, 0.1], rtol=rounding())
