"""Errors that a user sees whose annotations nobody checks: in a process without the checker."""

import json
import os
import subprocess
import sys

CALLS = {
    "raw key": ("nc.ulpm(3, 4, 2).init(jax.random.PRNGKey(0))", "jax.random.key"),
    "reduction": ("nc.UnconstrainedFeatures((2, 2), 4, reduction='max')", "reduction = 'max'"),
    "solver by name": (
        "nc.gradient_flow(p, p.init(jax.random.key(0)), np.array([1.0]), solver='Tsit5')",
        "solver = 'Tsit5': give an instance of AbstractSolver, such as diffrax.Tsit5()",
    ),
    "solver class": (
        "nc.gradient_flow(p, p.init(jax.random.key(0)), np.array([1.0]), solver=diffrax.Tsit5)",
        "diffrax.Tsit5()",
    ),
    "clock class": (
        "nc.gradient_flow(p, p.init(jax.random.key(0)), np.array([1.0]), clock=nc.RealTime)",
        "nc_jax.LogTime()",
    ),
    "loss class": ("nc.UnconstrainedFeatures((2, 2), 4, nc.CrossEntropy)", "give an instance"),
    "loss by name": ("nc.UnconstrainedFeatures((2, 2), 4, 'ce')", "loss = 'ce'"),
    "decay as a number": ("nc.UnconstrainedFeatures((2, 2), 4, weight_decay=5e-4)", "WeightDecay("),
    "event by its condition": (
        "nc.gradient_flow(p, p.init(jax.random.key(0)), np.array([1.0]), "
        "event=diffrax.steady_state_event())",
        "give an instance of Event, such as diffrax.Event(diffrax.steady_state_event(rtol=0, atol",
    ),
    "problem for its labels": (
        "nc.geometry.project_onto_S(p.init(jax.random.key(0)), 3)",
        "labels = 3: give the class of each row, problem.labels",
    ),
    "linear problem for the full one": (
        "nc.exact.strong_collapse(nc.LinearizedMixon(3, 4, 2))",
        "problem is of type LinearizedMixon: give nc_jax.mixon(",
    ),
    "full problem for the linear one": (
        "nc.exact.linearized_eigenspaces(nc.mixon(3, 4, 2))",
        "problem is of type UnconstrainedFeatures: give nc_jax.LinearizedMixon(",
    ),
    "state of another shape": (
        "nc.landscape.classify(p, nc.ulpm(3, 5, 2).init(jax.random.key(0)))",
        "state: features has shape (6, 5) where the problem has (6, 4)",
    ),
    "certificate of a state of another shape": (
        "nc.landscape.global_certificate(p, nc.ulpm(3, 4, 3).init(jax.random.key(0)))",
        "state: features has shape (9, 4) where the problem has (6, 4)",
    ),
    "end by another word": (
        "nc.landscape.extreme_eigenpairs(p, p.init(jax.random.key(0)), 1, 'lowest')",
        "end = 'lowest': give 'smallest' or 'largest'",
    ),
    "one key for many": (
        "nc.landscape.find_critical_points(p, jax.random.key(0), 1.0)",
        "keys: give one dimension of typed keys",
    ),
    "certificate of another problem": (
        "nc.landscape.kkt_certificate(nc.LinearizedMixon(3, 4, 2), p.init(jax.random.key(0)))",
        "problem is of type LinearizedMixon: give an UnconstrainedFeatures",
    ),
    "inputs without their targets": (
        "nc.NormalizedReLUNet(np.ones((3, 2)) / 2, np.ones(4), (2,))",
        "inputs have shape (3, 2) and targets (4,): give (N, d) and (N,) or (N, C)",
    ),
    "test samples of another kind": (
        "nc.NormalizedReLUNet(np.eye(2), np.array([1.0, -1.0]), (2,), test_inputs=np.eye(3), "
        "test_targets=np.ones(3))",
        "test samples have 3 inputs and 1 outputs where the training samples have 2 and 1",
    ),
    "normalization by another word": (
        "nc.NormalizedReLUNet(np.eye(2), np.array([1.0, -1.0]), (2,), 'batch')",
        "normalization = 'batch': give one of 'lagrange', 'weight', 'practice', 'none', 'polar'",
    ),
    "loss of classes": (
        "nc.NormalizedReLUNet(np.eye(2), np.array([1.0, -1.0]), (2,), loss=nc.SquaredError())",
        "loss = SquaredError(): give SquaredDistance() or Exponential()",
    ),
    "Hessian of a flow on spheres": (
        "nc.landscape.classify(n, n.init(jax.random.key(0)))",
        "normalization = 'lagrange': its flow is on spheres or in a metric",
    ),
    "Hessian of the equation of descent": (
        "nc.landscape.dense_hessian(o, o.init(jax.random.key(0)))",
        "problem is a GradientDescentODE: give the problem that it descends",
    ),
    "start of norm 0 in polar variables": (
        "nc.NormalizedReLUNet(np.eye(2), np.array([1.0, -1.0]), (2,), 'polar')"
        ".init(jax.random.key(0), 0.0)",
        "norm = 0.0: give a finite number > 0",
    ),
    "several decays": (
        "nc.NormalizedReLUNet(np.eye(2), np.array([1.0, -1.0]), (2,), weight_decay=jnp.ones(2))",
        "weight_decay has shape (2,): give one number, and sweep under jax.vmap",
    ),
    "rate below zero": ("nc.GradientDescentODE(p, -0.1)", "rate = -0.1: give a finite number > 0"),
    "least step below zero": (
        "nc.gradient_flow(p, p.init(jax.random.key(0)), np.array([1.0]), min_step=-1.0)",
        "min_step = -1.0: give a finite number >= 0",
    ),
    "float64 without x64": (
        "p.init(jax.random.key(0), dtype='float64')",
        "dtype = float64: set jax_enable_x64",
    ),
    "seeds that are no integers": (
        "nc.sweep(lambda key: None, seeds=[0.5])",
        "seeds = [0.5]: give a list of integers",
    ),
    "setting that is one text": (
        "nc.sweep(lambda key, reduction: None, 2, grid={'reduction': 'sum'})",
        "grid['reduction'] = 'sum': give a list of values",
    ),
    "number of seeds as a float": (
        "nc.sweep(lambda key: None, 1e3)",
        "num_seeds = 1000.0: give an integer >= 1, or their numbers as seeds=",
    ),
    "devices for a mesh": (
        "nc.sweep(lambda key: None, 2, mesh=jax.devices())",
        "give a jax.sharding.Mesh, or None for all devices",
    ),
    "float of a grid where an integer is needed": (
        "nc.sweep(lambda key, samples: nc.gradient_flow(nc.ulpm(3, 4, samples), "
        "p.init(key), np.array([1.0])), 2, grid={'samples': [2.0]})",
        "grid: floats are traced, and run fails with ['samples'] so",
    ),
    "stem by another size": (
        "cnn.ResNet(3, 10, stem='5x5', rngs=None)",
        "stem = '5x5': give '7x7' or '3x3'.",
    ),
    "raw key of a training": (
        "cnn.train(None, None, None, 1, key=jax.random.PRNGKey(0))",
        "give a typed key, jax.random.key(seed)",
    ),
    "attribute that no file keeps": (
        "cnn.train(lambda rngs: cnn.ConvNet(1, 3, (2,), rngs=rngs), i, optax.sgd(0.1), 1, "
        "batch_size=None, attributes={'rate': np.int64(1)})",
        "attributes: rate = np.int64(1) is a int64; give str, int or float.",
    ),
    "run without a trajectory": (
        "nc.sweep(lambda key: p.init(key), 2)",
        "run returns LastLayer: return one Trajectory, as gradient_flow does, a Flow, or a Flow "
        "with a start, (flow, start).",
    ),
}
PROGRAM = """
import json, sys, diffrax, jax, jax.numpy as jnp, numpy as np, optax, nc_jax as nc
from nc_jax import cnn, images
p, messages = nc.ulpm(3, 4, 2), []
n = nc.NormalizedReLUNet(np.eye(2), np.array([1.0, -1.0]), (2,))
o = nc.GradientDescentODE(p, 0.1)
i = images.ImageSet(np.ones((3, 4, 4, 1), np.float32), np.arange(3, dtype=np.int32), tuple("abc"))
for call in json.loads(sys.argv[1]):
    try:
        eval(call)
        messages.append("no error")
    except ValueError as error:
        messages.append(str(error))
print(json.dumps(messages))
"""


def test_mistakes_that_no_type_checker_sees_are_one_line_each():
    calls = json.dumps([call for call, _ in CALLS.values()])
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, calls], capture_output=True, text=True, check=True,
        env={"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", **os.environ},  # as in the session
    )  # fmt: skip
    for message, (_, expected) in zip(json.loads(result.stdout), CALLS.values(), strict=True):
        assert expected in message
        assert "\n" not in message
