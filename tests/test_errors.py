"""Errors that a user sees whose annotations nobody checks: in a process without the checker."""

import json
import os
import subprocess
import sys

import pytest

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
    "loss class": ("nc.UnconstrainedFeatures((2, 2), 4, loss=nc.CrossEntropy)", "give an instance"),
    "loss by name": ("nc.UnconstrainedFeatures((2, 2), 4, loss='ce')", "loss = 'ce'"),
    "decay as a number": ("nc.UnconstrainedFeatures((2, 2), 4, weight_decay=5e-4)", "WeightDecay("),
    "event by its condition": (
        "nc.gradient_flow(p, p.init(jax.random.key(0)), np.array([1.0]), "
        "event=diffrax.steady_state_event())",
        "give an instance of Event, such as diffrax.Event(diffrax.steady_state_event(rtol=0, atol",
    ),
    "problem for its labels": (
        "nc.geometry.project_onto_S(p.init(jax.random.key(0)), 3)",
        "labels have shape (): give the class of each sample, of shape (6,), such as problem",
    ),
    "labels that count from 1": (
        "nc.metrics.margin_metrics(s, p.labels + 1)",
        "labels hold 3 in row 4: give integers in 0..2, the rows of the classifier. They count",
    ),
    "samples without a class among margins": (
        "nc.metrics.sample_margins(s, np.array([0, 0, -100, 1, 2, 2]))",
        "labels hold -100 in row 2: give integers in 0..2, the rows of the classifier. Leave",
    ),
    "classifier of fewer rows than classes": (
        "nc.metrics.collapse_metrics(s, np.arange(6))",
        "labels hold 3 in row 3: give integers in 0..2, the rows of the classifier. Labels up to ",
    ),
    "class without samples": (
        "nc.metrics.collapse_metrics(s, np.zeros(6, int))",
        "labels: class 1 of 3 has no samples",
    ),
    "labels in a column": (
        "nc.metrics.margin_metrics(s, p.labels[:, None])",
        "labels have shape (6, 1): give the class of each sample, of shape (6,), such as np.ravel(",
    ),
    "one-hot labels under tracing": (
        "jax.jit(nc.CrossEntropy().value)(s.logits(), np.eye(3, dtype=int)[p.labels])",
        "labels have shape (6, 3): give the class of each sample, of shape (6,), such as np.argmax",
    ),
    "labels that are floats, under tracing": (
        "jax.jit(nc.metrics.logit_margins)(s.logits(), p.labels.astype(float))",
        "labels have dtype float32: give integers in 0..2, such as labels.astype(int)",
    ),
    "labels that are booleans": (
        "nc.CrossEntropy().log_value(s.logits(), p.labels > 1)",
        "labels have dtype bool: give integers in 0..2, such as labels.astype(int)",
    ),
    "labels of other samples": (
        "nc.CrossEntropy().gradient(s.logits(), p.labels[1:])",
        "labels have 5 entries for 6 samples: give one label for each",
    ),
    "loss of labels beyond the logits": (
        "nc.CrossEntropy().scaled_gradient(s.logits(), p.labels + 1, 0.0)",
        "labels hold 3 in row 4: give integers in 0..2",
    ),
    "square loss of labels beyond the logits": (
        "nc.SquaredError().value(s.logits(), p.labels + 1)",
        "labels hold 3 in row 4: give integers in 0..2",
    ),
    "labels of a batch beyond the classes": (
        "nc.metrics.class_moments(s.features, p.labels + 1, 3)",
        "labels hold 3 in row 4: give integers in 0..2",
    ),
    "padding that is a class": (
        "nc.metrics.class_moments(s.features, p.labels, 3, ignore_index=0)",
        "ignore_index = 0 is one of the classes 0..2: give a label outside of them, such as -1",
    ),
    "padding by another number": (
        "nc.metrics.class_moments(s.features, np.full(6, -100), 3)",
        "labels hold -100 in row 0: give integers in 0..2",
    ),
    "balanced statistics of classes that are not": (
        "nc.metrics.collapse_from_statistics("
        "nc.metrics.ClassMoments(jnp.array([1.0, 2.0]), jnp.eye(2), jnp.zeros(2)), "
        "nc.metrics.Spread(*map(jnp.asarray, [0.1, 1.0, 0.1, 0.0, 3.0])), jnp.eye(2), "
        "balanced=True)",
        "balanced = True: classes have [1, 2] samples; leave it out",
    ),
    "projection of labels that count from 1": (
        "nc.geometry.project_onto_S(s, p.labels + 1)",
        "labels hold 3 in row 4: give integers in 0..2",
    ),
    "model for labels that count from 1": (
        "nc.problem_for(s, p.labels + 1)",
        "labels hold 3 in row 4: give integers in 0..2",
    ),
    "model for a class without samples": (
        "nc.problem_for(s, np.array([0, 0, 1, 1, 1, 1]))",
        "labels: class 2 of 3 has no samples",
    ),
    "model for traced labels": (
        "jax.jit(nc.problem_for)(s, p.labels)",
        "labels are traced: their class sizes are unknown; close over the labels.",
    ),
    "images whose labels count from 1": (
        "images.choose_classes(i._replace(labels=i.labels + 1), (0, 1))",
        "labels hold 3 in row 2: give integers in 0..2",
    ),
    "one logit for each sample": (
        "nc.CrossEntropy().value(jnp.ones(6), p.labels)",
        "logits have shape (6,): give (N, K)",
    ),
    "targets that would be broadcast": (
        "nc.SquaredDistance().value(jnp.ones((3, 1)), jnp.ones(3))",
        "outputs have shape (3, 1) and targets (3,): give both as (N, C)",
    ),
    "start of half precision": (
        "p.init(jax.random.key(0), dtype=jnp.float16)",
        "dtype = float16: give float32 or float64",
    ),
    "start of a dtype that is none": (
        "p.init(jax.random.key(0), dtype='double precision')",
        "dtype = 'double precision': give float32 or float64",
    ),
    "flow of half precision": (
        "nc.gradient_flow(p, jax.tree.map(lambda x: x.astype(jnp.bfloat16), s), np.array([1.0]))",
        "start: dtypes ['bfloat16']; give one of float32 or float64",
    ),
    "complex features": (
        "nc.metrics.margin_metrics(nc.LastLayer(s.features * 1j, s.classifier), p.labels)",
        "dtype complex64: give real numbers, such as float32 or float64",
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
        "nc.landscape.extreme_eigenpairs(p, p.init(jax.random.key(0)), num=1, end='lowest')",
        "end = 'lowest': give 'smallest' or 'largest'",
    ),
    "one key for many": (
        "nc.landscape.find_critical_points(p, jax.random.key(0), radius=1.0)",
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
    "one-hot target of a label beyond the classes": (
        "nc.NormalizedReLUNet(np.eye(3) / 2, jax.nn.one_hot(np.array([1, 0, 2]), 2), (2,))",
        "targets: row 2 = [0.0, 0.0] has no single largest entry, which names the class",
    ),
    "test samples of another kind": (
        "nc.NormalizedReLUNet(np.eye(2), np.array([1.0, -1.0]), (2,), test_inputs=np.eye(3), "
        "test_targets=np.ones(3))",
        "test samples have 3 inputs and 1 outputs where the training samples have 2 and 1",
    ),
    "parametrization by a word": (
        "nc.NormalizedReLUNet(np.eye(2), np.array([1., -1.]), (2,), parametrization='lagrange')",
        "parametrization = 'lagrange': give Lagrange(), WeightNormalization(), UsualPractice(), "
        "Cartesian() or Polar() of nc_jax.problems.relu.",
    ),
    "decay on a word": (
        "nc.NormalizedReLUNet(np.eye(2), np.array([1., -1.]), (2,), decay_on='layers')",
        "decay_on = 'layers': give WholeNorm() or EachLayer() of nc_jax.problems.relu.",
    ),
    "loss of classes": (
        "nc.NormalizedReLUNet(np.eye(2), np.array([1.0, -1.0]), (2,), loss=nc.SquaredError())",
        "loss = SquaredError(): give SquaredDistance() or Exponential()",
    ),
    "Hessian of a flow on spheres": (
        "nc.landscape.classify(n, n.init(jax.random.key(0)))",
        "NormalizedReLUNet with is_gradient_flow = False: the flow has constraints",
    ),
    "Hessian of the equation of descent": (
        "nc.landscape.dense_hessian(o, o.init(jax.random.key(0)))",
        "GradientDescentODE with is_gradient_flow = False",
    ),
    "start of norm 0 in polar variables": (
        "nc.NormalizedReLUNet(np.eye(2), np.array([1.0, -1.0]), (2,), "
        "parametrization=nc.problems.relu.Polar()).init(jax.random.key(0), 0.0)",
        "norm = 0.0: give a finite number > 0",
    ),
    "several decays": (
        "nc.NormalizedReLUNet(np.eye(2), np.array([1.0, -1.0]), (2,), weight_decay=jnp.ones(2))",
        "weight_decay has shape (2,): give one finite number >= 0, and sweep under jax.vmap",
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
        "num_seeds = 1000.0: give an integer >= 1",
    ),
    "devices for a mesh": (
        "nc.sweep(lambda key: None, 2, mesh=jax.devices())",
        "give a jax.sharding.Mesh, or None for all devices",
    ),
    "float of a grid where an integer is needed": (
        "nc.sweep(lambda key, samples: nc.gradient_flow(nc.ulpm(3, 4, samples), "
        "p.init(key), np.array([1.0])), 2, grid={'samples': [2.0]})",
        "samples_per_class = 2.0: give an integer >= 1",
    ),
    "stem by another size": (
        "cnn.ResNet(3, 10, stem='5x5', rngs=None)",
        "stem = '5x5': give an instance of AbstractStem, such as cnn.ImageNetStem() or "
        "cnn.CIFARStem().",
    ),
    "raw key of a training": (
        "cnn.train(None, None, None, 1, key=jax.random.PRNGKey(0))",
        "give a typed key, jax.random.key(seed)",
    ),
    "attribute that no file keeps": (
        "cnn.train(lambda rngs: cnn.ConvNet(1, 3, widths=(2,), rngs=rngs), i, optax.sgd(0.1), 1, "
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
s = p.init(jax.random.key(0))
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


def test_mistakes_that_no_type_checker_finds_are_refused_in_one_line():
    calls = json.dumps([call for call, _ in CALLS.values()])
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, calls], capture_output=True, text=True, check=True,
        env={"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", **os.environ},  # as in the session
    )  # fmt: skip
    for message, (_, expected) in zip(json.loads(result.stdout), CALLS.values(), strict=True):
        assert expected in message
        assert "\n" not in message


FORKED = """
import os, warnings
import jax, numpy as np, nc_jax as nc
warnings.simplefilter("ignore")  # JAX's, that a fork may hang
problem = nc.ulpm(3, 4, 2)
start = problem.init(jax.random.key(0))
child = os.fork()
if child == 0:
    try:
        nc.gradient_flow(problem, start, np.array([1.0]))
    except RuntimeError as error:
        print(error, flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="of systems that fork")
def test_a_forked_process_ends_in_one_line_where_jax_would_hang():
    result = subprocess.run(
        [sys.executable, "-c", FORKED], capture_output=True, text=True, check=True, timeout=100
    )
    assert "was forked from" in result.stdout
    assert "multiprocessing.get_context('spawn')" in result.stdout
    assert result.stdout.count("\n") == 1
