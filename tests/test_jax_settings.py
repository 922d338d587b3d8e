"""Public doors under JAX's strictest settings: implicit broadcasting refused, and NaN raised."""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nc_jax as nc
from nc_jax.problems import relu

ULPM, MIXON, ZHU = nc.ulpm(3, 4, 2), nc.mixon(3, 4, 2), nc.zhu(3, 4, 2, 5e-3)
LINEAR = nc.LinearizedMixon(3, 4, 2)
SQUARE = nc.UnconstrainedFeatures(
    (2, 2, 2),
    4,
    loss=nc.SquaredError(),
    bias=True,
    weight_decay=nc.WeightDecay(classifier=1e-3, features=1e-3),
)
FREE = nc.zhu(3, 4, 2, nc.WeightDecay(classifier=5e-3, features=5e-3))
SIGNS, CLASSES = np.array([1.0, -1.0, 1.0]), np.eye(3)
TIMES, X = np.array([0.5, 1.0]), np.array([1.0, 0.0, 0.0])


SCHEMES = {
    "lagrange": relu.Lagrange(),
    "weight": relu.WeightNormalization(),
    "practice": relu.UsualPractice(),
    "cartesian": relu.Cartesian(),
    "polar": relu.Polar(),
}


def net(parametrization, targets=CLASSES, loss: Any = nc.SquaredDistance(), widths=(4,)):
    return nc.NormalizedReLUNet(
        np.eye(3), targets, widths, parametrization=parametrization, loss=loss, weight_decay=0.01,
        test_inputs=np.eye(3), test_targets=targets,
    )  # fmt: skip


BINARY_NET = net(SCHEMES["lagrange"], SIGNS)


def start(problem):
    return problem.init(jax.random.key(0))


def starts(problem):
    return jax.vmap(problem.init)(jax.random.split(jax.random.key(0), 2))


def on_s():
    return nc.geometry.project_onto_S(start(MIXON), MIXON.labels)


def flow(problem, clock: Any = nc.RealTime(), solver: Any = diffrax.Tsit5(), **options):
    return nc.gradient_flow(problem, start(problem), TIMES, clock=clock, solver=solver, **options)


def descend_in_batches(problem):
    key = jax.random.key(1)
    return nc.gradient_descent(problem, start(problem), optax.sgd(0.1), 4, batch_size=2, key=key)


def density(problem):
    return nc.landscape.spectral_density(problem, start(problem), jax.random.key(0), num_steps=4)


# Traced alone: a promotion is refused while tracing.
TRACED = {
    "flow": lambda: flow(ULPM, nc.LogTime()),
    "flow with a bias": lambda: flow(MIXON),
    "flow with decay": lambda: flow(ZHU),
    "linear flow": lambda: flow(LINEAR),
    "stiff flow": lambda: flow(ULPM, nc.LogLogTime(), nc.RKC()),
    "implicit solver": lambda: flow(ULPM, nc.LogTime(), diffrax.Kvaerno5()),
    "shared steps": lambda: flow(ULPM, nc.LogTime(), shared_steps=True),
    "event": lambda: flow(ZHU, event=diffrax.Event(diffrax.steady_state_event(rtol=0, atol=1e-6))),
    "batch": lambda: nc.Flow(MIXON, TIMES, clock=nc.RealTime()).batch(starts(MIXON)),
    "stiff batch": lambda: nc.Flow(ULPM, TIMES, solver=nc.RKC()).batch(starts(ULPM)),
    "descent": lambda: nc.gradient_descent(MIXON, start(MIXON), optax.sgd(0.1), 4),
    "descent in batches": lambda: descend_in_batches(net(SCHEMES["lagrange"])),
    "descent's equation": lambda: flow(nc.GradientDescentODE(net(SCHEMES["lagrange"]), 0.1)),
    "sign flow": lambda: flow(nc.problems.SignFlow(MIXON), min_step=0.1),
    "spectral flow": lambda: flow(nc.problems.SpectralFlow(MIXON), min_step=0.1),
    **{f"net, {name}": lambda name=name: flow(net(SCHEMES[name])) for name in SCHEMES},
    "exponential loss": lambda: flow(net(SCHEMES["lagrange"], SIGNS, nc.Exponential())),
    "exponent": lambda: flow(ULPM, nc.LogTime()).decay_exponent("margin_min", 0.1),
    "classify": lambda: nc.landscape.classify(MIXON, start(MIXON)),
    "classify on a sphere": lambda: nc.landscape.classify(
        nc.landscape.OnSphere(ULPM), start(ULPM)
    ),
    "global certificate": lambda: nc.landscape.global_certificate(SQUARE, start(SQUARE)),
    "global certificate, free bias": lambda: nc.landscape.global_certificate(FREE, start(FREE)),
    "KKT certificate": lambda: nc.landscape.kkt_certificate(ULPM, start(ULPM)),
    "tangent": lambda: nc.landscape.tangent_descent_direction(ULPM, start(ULPM)),
    "escape": lambda: nc.landscape.escape_direction(ZHU, start(ZHU)),
    "range": lambda: nc.landscape.descent_range(ZHU, start(ZHU), start(ZHU)),
    "density": lambda: density(ZHU),
    "eigenpairs": lambda: nc.landscape.extreme_eigenpairs(ZHU, start(ZHU)),
    "metrics": lambda: nc.metrics.collapse_metrics(start(MIXON), MIXON.labels),
    "many classes": lambda: nc.ulpm(24, 30, 2).observe(start(nc.ulpm(24, 30, 2))),
    "simplex": lambda: nc.geometry.simplex_etf(3, 4, key=jax.random.key(0)),
    "collapsed gap": lambda: nc.exact.collapsed_gap(ULPM, 1.0, TIMES),
    "example 3.1": lambda: nc.exact.example_3_1(0.1),
    "separation": lambda: nc.exact.separation_optimum(ULPM),
    "norm by time": lambda: nc.exact.norm_time(
        TIMES, start=0.1, alignment=2.0, second_moment=1.0, num_layers=3
    ),
    "linear phase": lambda: nc.exact.linearized_solution(LINEAR, start(LINEAR), TIMES),
    "bound of the linear phase": lambda: nc.exact.linearized_bound(LINEAR, start(LINEAR), TIMES),
    "flow on S": lambda: nc.exact.subspace_solution(MIXON, on_s(), TIMES),
    "limit on S": lambda: nc.exact.subspace_limit(MIXON, on_s()),
    "objective on S": lambda: nc.exact.subspace_objective(MIXON, on_s()),
    "square loss": lambda: nc.exact.square_loss_minimizer(SQUARE),
    "linear net": lambda: nc.exact.linear_time(start(BINARY_NET), X, TIMES),
    "path of a linear net": lambda: nc.exact.linear_path(start(BINARY_NET), X, TIMES),
}  # fmt: skip


@pytest.mark.parametrize("door", TRACED)
def test_no_public_function_broadcasts_implicitly(door):
    with jax.numpy_rank_promotion("raise"):
        eqx.filter_eval_shape(TRACED[door])


def test_closed_forms_of_known_numbers_broadcast_nothing_implicitly():
    with jax.numpy_rank_promotion("raise"):
        nc.exact.regularized_minimizer(ZHU)
        nc.exact.grouped_saddle(ZHU, 3)
        nc.exact.subset_saddle(ZHU, 2)
        nc.exact.paired_saddle(nc.zhu(4, 4, 2, 1e-3), key=jax.random.key(0))


def test_a_minimum_is_classified_where_nan_is_raised():
    minimum = nc.exact.regularized_minimizer(ZHU)
    with jax.debug_nans(True):
        found = nc.landscape.classify(ZHU, minimum)
        escape = nc.landscape.escape_direction(ZHU, minimum)
    assert found.kind == "minimum"
    assert escape.case == "optimal"
    assert np.all(np.isnan(found.escape_direction.classifier))
    assert np.all(np.isnan(escape.direction.classifier))


def test_states_without_separation_are_certified_where_nan_is_raised():
    with jax.debug_nans(True):
        found = nc.landscape.kkt_certificate(ULPM, start(ULPM))
    assert np.isinf(found.epsilon)
    assert np.all(np.isnan(found.point.classifier))


def test_a_flow_that_stops_early_is_recorded_where_nan_is_raised():
    run = nc.Flow(ULPM, TIMES, observe=("margin_min",), max_steps=3)
    with jax.debug_nans(True):
        found = run(start(ULPM), throw=False)
    assert not found.succeeded
    assert np.isnan(found.observables["margin_min"][-1])
    assert jnp.all(jnp.isfinite(found.final.classifier))
