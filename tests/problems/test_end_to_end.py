"""The equation of the product of balanced factors against the net with factors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerances import integration, rounding

import nc_jax as nc

KEY = jax.random.key(2)
SIZES = (5, 2, 1)
FIRST = np.array([0, 5, 7])
LOSSES = [nc.CrossEntropy(), nc.SquaredError()]


def pair(depth, widths, **options):
    """The problem without factors, and that with them; a start of each with the same logits."""
    product = nc.problems.EndToEnd(SIZES, depth, **options)
    net = nc.DeepUnconstrainedFeatures(SIZES, widths, **options)
    start = product.init(KEY, 1.5)
    return product, net, start, nc.exact.factored_state(product.logits(start), SIZES, widths)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("depth", "widths"), [(2, (4,)), (3, (3, 5)), (5, (4, 3, 3, 6))])
def test_the_velocity_is_that_of_the_product_of_the_factors(loss, depth, widths):
    product, net, start, state = pair(depth, widths, loss=loss, weight_decay=0.03)
    velocity = jax.jit(net.vector_field)(0.0, state, None)
    _, change = jax.jvp(jax.jit(lambda x: x.logits()), (state,), (velocity,))
    found = product.logits(jax.jit(product.vector_field)(0.0, start, None))
    np.testing.assert_allclose(found, change[FIRST], atol=rounding())
    np.testing.assert_allclose(change, change[FIRST][net.labels], atol=rounding())
    values = [
        jax.jit(lambda x, p=problem: (p.objective(x), p.log_objective(x)))(x)
        for problem, x in ((product, start), (net, state))
    ]
    np.testing.assert_allclose(*values, rtol=rounding())


# With a class of one sample, widths that differ, and a width of K.
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("depth", "widths"), [(2, (4,)), (3, (3, 5)), (4, (4, 3, 6))])
def test_both_flows_have_the_same_logits(loss, depth, widths):
    product, net, start, state = pair(depth, widths, loss=loss, reduction="sum")
    times = np.array([0.5, 20.0]) if loss.finite_at_any_scale else np.array([0.5, 2.0])
    ends = [
        nc.gradient_flow(problem, x, times, rtol=1e-11, atol=1e-12)
        for problem, x in ((product, start), (net, state))
    ]
    found, logits = product.logits(ends[0].final), ends[1].final.logits()
    np.testing.assert_allclose(found, logits[FIRST], rtol=0, atol=1e-9 * np.abs(logits).max())
    # The loss of squares near 0 has no relative accuracy.
    for name in ("log_objective" if loss.is_cross_entropy else "objective", "margin_min"):
        values = [run.observables[name] for run in ends]
        np.testing.assert_allclose(*values, rtol=10 * integration(1e-11), atol=1e-10)


def test_two_factors_with_square_loss_and_decay_have_the_riccati_flow():
    plain = nc.UnconstrainedFeatures(
        SIZES, 3, loss=nc.SquaredError(), reduction="sum",
        weight_decay=nc.WeightDecay(classifier=0.1, features=0.1),
    )  # fmt: skip
    product = nc.problems.EndToEnd(
        SIZES, 2, loss=nc.SquaredError(), reduction="sum", weight_decay=0.1
    )
    start = product.init(KEY, 0.5)
    state = nc.exact.factored_state(product.logits(start), SIZES, (3,))
    layer = nc.LastLayer(state.features, state.weights[0])
    exact = nc.exact.square_loss_flow(plain, layer, 3.0).logits()[FIRST]
    run = nc.gradient_flow(
        product, start, np.array([3.0]), clock=nc.RealTime(), rtol=1e-11, atol=1e-12
    )
    np.testing.assert_allclose(product.logits(run.final), exact, atol=integration(1e-11))


@pytest.mark.parametrize("depth", [2, 4])
def test_the_field_has_no_part_that_would_raise_the_rank(depth):
    # Noise of 1e-17 in the place of a singular value 0 would have a root of order 1e-4 for m = 4.
    product = nc.problems.EndToEnd(SIZES, depth, reduction="sum")
    left, right = np.array([1.0, -0.5, 0.2]), np.array([0.7, -0.4, -0.3])
    field = np.asarray(product.vector_field(0.0, jnp.asarray(np.outer(left, right)), None))
    beside = [np.eye(3) - np.outer(x, x) / (x @ x) for x in (left, right)]
    assert np.abs(field).max() > 0.1
    np.testing.assert_allclose(beside[0] @ field @ beside[1], 0, atol=rounding())


def test_the_field_is_finite_at_any_scale_and_in_float32():
    product = nc.problems.EndToEnd(SIZES, 3)
    start = product.state_of(jnp.eye(3) * 1e5)
    field = product.scaled_descent(start, 1e5)
    assert bool(jnp.all(jnp.isfinite(field)))
    assert float(jnp.abs(field).max()) > 1
    assert product.largest_log_scale(jnp.float64) == np.inf
    assert not product.comes_to_rest
    assert not product.is_gradient_flow
    small = product.init(KEY, dtype="float32")
    assert product.vector_field(0.0, small, None).dtype == jnp.float32
    assert nc.problems.EndToEnd(SIZES, 3, weight_decay=0.1).comes_to_rest


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nc.problems.EndToEnd((3,), 2), "collapse needs 2 or more"),
        (lambda: nc.problems.EndToEnd(SIZES, 1), "depth = 1: give an integer >= 2"),
        (lambda: nc.problems.EndToEnd(SIZES, 3, weight_decay=-1.0), "weight_decay = -1"),
        (lambda: nc.problems.EndToEnd(SIZES, 3).objective(jnp.ones((2, 2))), r"shape \(2, 2\)"),
    ],
)
def test_what_is_no_end_to_end_problem_is_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)
