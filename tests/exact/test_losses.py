"""Minima of label smoothing and of the focal loss, against L-BFGS, mpmath and their thresholds."""

import functools
import itertools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from exact.minimizers import lowest_of
from jax.flatten_util import ravel_pytree
from tolerances import rounding

import nc_jax as nc
from nc_jax import exact

KEY = jax.random.key(4)
DECAY = nc.WeightDecay(classifier=2e-3, features=3e-3)


def problem_of(loss, classes=4, size=3, dim=None, decay=DECAY, **options):
    return nc.UnconstrainedFeatures(
        (size,) * classes, dim or classes, loss=loss, weight_decay=decay, **options
    )


@pytest.mark.parametrize(
    ("loss", "gap", "value"),
    [
        (nc.LabelSmoothing(0.1), 3.4403103351, 0.3936282793),
        (nc.LabelSmoothing(0.3), 2.2637890032, 0.8096175851),
        (nc.Focal(1.0), 3.5326475375, 0.0517387872),
        (nc.Focal(2.0), 2.7189021123, 0.0395304887),
    ],
)
def test_reference_gaps_and_values(loss, gap, value):
    problem = problem_of(loss)
    smoothed = isinstance(loss, nc.LabelSmoothing)
    gap_of = exact.smoothed_gap if smoothed else exact.focal_gap
    minimum = exact.smoothed_minimum if smoothed else exact.focal_minimum
    # Ten decimals are given.
    np.testing.assert_allclose(gap_of(problem), gap, atol=6e-11, rtol=0)
    np.testing.assert_allclose(minimum(problem), value, atol=6e-11, rtol=0)


def least_of(problem):
    if problem.loss.is_label_smoothing:
        return exact.smoothed_minimum(problem), exact.smoothed_minimizer(problem, key=KEY)
    return exact.focal_minimum(problem), exact.focal_minimizer(problem, key=KEY)


MINIMA = {
    "smoothing, d = K − 1": problem_of(nc.LabelSmoothing(0.2), 4, 2, 3),
    "smoothing, sum, bias": problem_of(
        nc.LabelSmoothing(0.05), 3, 2, 5, nc.WeightDecay(classifier=0.3, features=0.2, bias=0.1),
        bias=True, reduction="sum",
    ),
    "smoothing, past the threshold": problem_of(
        nc.LabelSmoothing(0.5), 3, 2, 3, nc.WeightDecay(classifier=0.2, features=0.2)
    ),
    "focal 0.5": problem_of(nc.Focal(0.5), 3, 2, 4),
    "focal 3, d = K − 1": problem_of(nc.Focal(3.0), 4, 1, 3),
    "focal 2, sum, bias": problem_of(
        nc.Focal(2.0), 3, 2, 2, nc.WeightDecay(classifier=0.3, features=0.2), bias=True,
        reduction="sum",
    ),
    "focal, past the threshold": problem_of(
        nc.Focal(1.0), 3, 2, 3, nc.WeightDecay(classifier=0.4, features=0.4)
    ),
}  # fmt: skip


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("name", MINIMA)
def test_the_minimum_is_what_lbfgs_finds_from_many_starts(name):
    problem = MINIMA[name]
    least, state = least_of(problem)
    found = lowest_of(problem.objective, problem, 4)
    assert np.all(found > least - 1e-9)
    assert np.mean(np.abs(found - least) < 1e-7) >= 0.5
    np.testing.assert_allclose(problem.objective(state), least, rtol=rounding())
    assert jnp.abs(ravel_pytree(problem.gradient(state))[0]).max() < rounding()


@pytest.mark.parametrize("loss", [nc.LabelSmoothing(0.2), nc.Focal(1.0), nc.Focal(2.0)])
def test_the_origin_is_the_minimum_from_the_threshold_on(loss):
    # α + τ = 1, and D(1/K) = (K−1)/K τ, for the mean loss with τ = K √n λ.
    classes, size = 4, 3
    if isinstance(loss, nc.LabelSmoothing):
        threshold = 1 - loss.smoothing
    else:
        p, gamma = 1 / classes, loss.exponent
        slope = (1 - p) ** (gamma + 1) - gamma * p * (1 - p) ** gamma * math.log(p)
        threshold = slope * classes / (classes - 1)
    for share in (0.97, 1.03):
        decay = share * threshold / (classes * math.sqrt(size))
        both = nc.WeightDecay(classifier=decay, features=decay)
        problem = problem_of(loss, classes, size, decay=both)
        _, state = least_of(problem)
        assert (jnp.max(jnp.abs(state.classifier)) > 1e-3) == (share < 1)
        origin = jax.tree.map(jnp.zeros_like, state)
        kind = nc.landscape.classify(problem, origin).kind
        assert kind == ("strict saddle" if share < 1 else "minimum")
        assert nc.landscape.classify(problem, state).kind == "minimum"


def reference_root(classes, exponent, level):
    """The largest root of D(p) = θ at 30 digits, by a scan from p = 1 downwards."""
    with mpmath.workdps(30):

        def excess(p):
            q = 1 - p
            return q ** (exponent + 1) - exponent * p * q**exponent * mpmath.log(p) - level

        grid = [1 - mpmath.mpf(k) / 4000 for k in range(1, 4000)]
        for above, below in itertools.pairwise(grid):
            if excess(above) < 0 <= excess(below):
                p = mpmath.findroot(excess, (below, above), solver="anderson")
                return float(mpmath.log((classes - 1) * p / (1 - p)))
    raise AssertionError(f"no root at {level}")


def gaps_at(classes, size, exponent, decays):
    """`focal_gap` at several λ_W = λ_H."""

    def gap(decay):
        both = nc.WeightDecay(classifier=decay, features=decay)
        return exact.focal_gap(problem_of(nc.Focal(exponent), classes, size, decay=both))

    return np.asarray(jax.jit(jax.vmap(gap))(jnp.asarray(decays)))


@pytest.mark.parametrize("exponent", [0.0, 0.3, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_the_gap_is_that_of_the_largest_root(classes, exponent):
    shares = np.array([1e-3, 0.1, 0.6])
    found = gaps_at(classes, 2, exponent, shares / (classes * math.sqrt(2)))
    roots = [reference_root(classes, exponent, s * (classes - 1) / classes) for s in shares]
    np.testing.assert_allclose(found, np.maximum(roots, 0), rtol=1e-10)


def on_ray(classes, exponent, level, gap):
    p = 1 / (1 + (classes - 1) * np.exp(-gap))
    return -((1 - p) ** exponent) * np.log(p) + level * gap


def test_many_classes_have_a_first_order_transition_on_the_ray():
    # For K = 200, γ = 5 the maximum of D is at p > 1/K: between D(1/K) and the maximum of D the
    # origin is a minimum on the ray, and there is a second one.
    classes, exponent = 200, 5.0
    gaps, levels = np.linspace(0, 12, 100_001), np.linspace(1.0, 1.9, 46)
    jumps = gaps_at(classes, 1, exponent, levels / (classes - 1))
    best = [gaps[np.argmin(on_ray(classes, exponent, level, gaps))] for level in levels]
    np.testing.assert_allclose(jumps, best, rtol=0, atol=1e-3)
    steps = -np.diff(jumps)
    assert np.max(steps) > 1  # the gap jumps to 0
    assert jumps[-1] == 0
    assert np.all(steps >= 0)


def test_without_decay_the_smoothed_minimum_is_flat_and_has_the_finite_gap():
    for classes, size, smoothing in ((4, 3, 0.1), (3, 1, 0.6)):
        problem = problem_of(
            nc.LabelSmoothing(smoothing), classes, size, decay=nc.WeightDecay(), bias=True
        )
        gap = math.log(classes / smoothing - (classes - 1))
        np.testing.assert_allclose(exact.smoothed_gap(problem), gap, rtol=rounding())
        state = exact.smoothed_minimizer(problem, key=KEY)
        margins = nc.metrics.sample_margins(state, problem.labels)
        np.testing.assert_allclose(margins, gap, rtol=rounding())
        assert jnp.abs(ravel_pytree(problem.gradient(state))[0]).max() < rounding()
        targets = np.full(classes, smoothing / classes)
        targets[0] += 1 - smoothing
        entropy = -np.sum(targets * np.log(targets))
        np.testing.assert_allclose(exact.smoothed_minimum(problem), entropy, rtol=rounding())


def test_the_minima_follow_traced_numbers():
    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, None))
    def both(number, decay):
        decays = nc.WeightDecay(classifier=decay, features=2 * decay)
        smoothed = problem_of(nc.LabelSmoothing(number), 3, 2, decay=decays)
        focal = problem_of(nc.Focal(number), 3, 2, decay=decays)
        states = exact.smoothed_minimizer(smoothed), exact.focal_minimizer(focal)
        return (
            exact.smoothed_minimum(smoothed), smoothed.objective(states[0]),
            exact.focal_minimum(focal), focal.objective(states[1]),
        )  # fmt: skip

    for decay in (1e-3, 0.05, 0.4):
        found = both(jnp.array([0.0, 0.3, 0.9]), decay)
        np.testing.assert_allclose(found[0], found[1], rtol=rounding())
        np.testing.assert_allclose(found[2], found[3], rtol=rounding())
        decays = nc.WeightDecay(classifier=decay, features=2 * decay)
        of_cross_entropy = exact.regularized_minimum(
            problem_of(nc.CrossEntropy(), 3, 2, decay=decays)
        )
        np.testing.assert_allclose(found[0][0], of_cross_entropy, rtol=rounding())
        np.testing.assert_allclose(found[2][0], of_cross_entropy, rtol=rounding())


def test_states_have_the_dtype_that_is_asked_for():
    for state in (
        exact.smoothed_minimizer(problem_of(nc.LabelSmoothing(0.1)), dtype="float32"),
        exact.focal_minimizer(problem_of(nc.Focal(1.0)), dtype="float32"),
    ):
        assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype("float32")}


class Doubled(nc.Focal):
    """Another loss, which inherits no claim."""

    def value(self, logits, labels):
        return 2 * super().value(logits, labels)

    def log_value(self, logits, labels):
        return jnp.log(self.value(logits, labels))

    def gradient(self, logits, labels):
        return 2 * super().gradient(logits, labels)

    def scaled_gradient(self, logits, labels, log_scale):
        return 2 * super().scaled_gradient(logits, labels, log_scale)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: exact.smoothed_gap(nc.zhu(3, 4, 2, 0.1)), "minimum of LabelSmoothing"),
        (lambda: exact.focal_gap(nc.zhu(3, 4, 2, 0.1)), "minimum of Focal"),
        (lambda: exact.focal_minimum(problem_of(Doubled(1.0))), "minimum of Focal"),
        (lambda: exact.focal_gap(problem_of(nc.Focal(1.0), decay=nc.WeightDecay())), "decay class"),
        (
            lambda: exact.smoothed_gap(
                problem_of(nc.LabelSmoothing(0.1), decay=nc.WeightDecay(classifier=0.1))
            ),
            "weight decay features = 0",
        ),
        (lambda: exact.focal_gap(problem_of(nc.Focal(1.0), dim=2)), "feature_dim = 2"),
        (
            lambda: exact.smoothed_gap(
                nc.UnconstrainedFeatures((1, 2), 3, loss=nc.LabelSmoothing(0.1))
            ),
            "class_sizes",
        ),
        (
            lambda: exact.focal_gap(problem_of(nc.Focal(1.0), class_weights=(1.0, 1.0, 1.0, 2.0))),
            "class_weights",
        ),
    ],
)
def test_what_has_no_closed_form_is_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)


def test_an_exponent_as_a_leaf_can_be_changed_without_a_new_problem():
    problem = problem_of(nc.Focal(jnp.array(1.0)))
    other = eqx.tree_at(lambda p: p.loss.exponent, problem, jnp.array(2.0))
    np.testing.assert_allclose(exact.focal_gap(other), 2.7189021123, atol=6e-11)
