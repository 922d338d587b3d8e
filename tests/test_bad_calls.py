"""What a user gives by mistake to a public function: one line names it, before anything runs.

In a process without the type checker of the tests, as users have it, with calls that fail before
anything is compiled.
"""

import json
import os
import subprocess
import sys

import pytest

# Names for the calls: problems of three classes with states, and what is no state.
SETUP = """
import json, sys
import diffrax, equinox as eqx, jax, jax.numpy as jnp, numpy as np, optax
import nc_jax as nc
from flax import nnx
from nc_jax import cnn, exact, geometry, images, landscape, metrics, plotting

class Foreign:
    "An array of another library: it has a shape and a dtype, and is neither NumPy's nor JAX's."
    shape, ndim, dtype = (6, 4), 2, "torch.float32"

key = jax.random.key(0)
keys = jax.random.split(key, 2)
p, m, z = nc.ulpm(3, 4, 2), nc.mixon(3, 4, 2), nc.zhu(3, 4, 2, 5e-3)
linear = nc.LinearizedMixon(3, 4, 2)
net = nc.NormalizedReLUNet(np.eye(2), np.array([1.0, -1.0]), (2,))
s, sm, sz, sn = (problem.init(key) for problem in (p, m, z, net))
starts = jax.vmap(p.init)(keys)
State, t = nc.LastLayer, np.array([1.0, 2.0])
transposed = State(s.features, s.classifier.T)
foreign = State(Foreign(), Foreign())
flow, sgd = nc.Flow(p, t, observe=("margin_min",)), optax.sgd(0.1)
data = lambda observe: nc.Flow(p, t, observe=observe)
run = nc.Trajectory(
    log_time=jnp.ones(2), observables={"margin_min": jnp.ones(2)}, final=s,
    final_log_time=jnp.ones(()), states=None, result=diffrax.RESULTS.successful, num_steps=1,
)

few = images.ImageSet(np.zeros((4, 9, 9, 1)), np.array([0, 0, 1, 1]), ("a", "b"))
make = lambda rngs: cnn.ConvNet(1, 2, rngs=rngs)
network = make(nnx.Rngs(0))

class ValueOnly(eqx.Module):
    def value(self, logits, labels):
        return jnp.sum(logits, axis=1)

class Mean(nc.losses.Loss):
    def value(self, logits, labels):
        return jnp.mean(logits)
"""

# By group of functions: a call, and a part of its error message: the value, or what is accepted.
CALLS = {
    "problems": [
        ("nc.ulpm(3.0, 4, 2)", "num_classes = 3.0: give an integer >= 1"),
        ("nc.ulpm('3', 4, 2)", "num_classes = '3'"),
        ("nc.ulpm(None, 4, 2)", "num_classes = None"),
        ("nc.ulpm(1, 4, 2)", "num_classes = 1: collapse needs 2 or more"),
        ("nc.ulpm(3, 4.0, 2)", "feature_dim = 4.0: give an integer >= 1"),
        ("nc.ulpm(3, '4', 2)", "feature_dim = '4'"),
        ("nc.ulpm(3, 4, 2.0)", "samples_per_class = 2.0"),
        ("nc.ulpm(3, 4, '2')", "samples_per_class = '2'"),
        ("nc.ulpm(3, 4, None)", "samples_per_class = None"),
        ("nc.ulpm(3, 4, -2)", "samples_per_class = -2"),
        ("nc.ulpm(3, 4, [2, 3])", "samples_per_class has 2 sizes and num_classes = 3"),
        ("nc.ulpm(3, 4, [2, 3, 0])", "samples_per_class[2] = 0"),
        ("nc.ulpm(3, 4, [2.5, 3, 1])", "samples_per_class[0] = 2.5"),
        ("nc.ulpm(3, 4, [[2, 3, 1]])", "samples_per_class = [[2, 3, 1]]"),
        ("nc.mixon(3.0, 4, 2)", "num_classes = 3.0"),
        ("nc.zhu(3, 4, 2, None)", "weight_decay = None: give a finite number >= 0"),
        ("nc.zhu(3, 4, 2, '5e-4')", "weight_decay = '5e-4'"),
        ("nc.zhu(3, 4, 2, [1e-3, 1e-3])", "weight_decay has shape (2,): give one finite number"),
        ("nc.zhu(3, 4, 2, 1j)", "weight_decay = 1j"),
        ("nc.zhu(3, 4, 2, float('nan'))", "weight_decay = nan"),
        ("nc.LinearizedMixon(3, 4, [2, 2, 3])", "samples_per_class = [2, 2, 3]: give an integer"),
        ("nc.UnconstrainedFeatures(5, 4)", "class_sizes = 5: give the samples of each class"),
        ("nc.UnconstrainedFeatures('22', 4)", "class_sizes = '22'"),
        ("nc.UnconstrainedFeatures((2, 2.5), 4)", "class_sizes[1] = 2.5"),
        ("nc.UnconstrainedFeatures((), 4)", "num_classes = 0"),
        ("nc.UnconstrainedFeatures((2, 2), (4,))", "feature_dim = (4,)"),
        ("nc.UnconstrainedFeatures((2, 2), 4, loss=None)", "loss = None"),
        ("nc.UnconstrainedFeatures((2, 2), 4, loss=nc.SquaredDistance())", "loss = Squared"),
        (
            "nc.UnconstrainedFeatures((2, 2), 4, loss=ValueOnly())",
            "loss = ValueOnly(): give an instance of CrossEntropy, SquaredError or another class "
            "derived from nc_jax.losses.Loss",
        ),
        ("nc.UnconstrainedFeatures((2, 2), 4, loss=Mean())", "its value has shape () for 4"),
        ("nc.UnconstrainedFeatures((2, 2), 4, bias='yes')", "bias = 'yes'"),
        ("nc.UnconstrainedFeatures((2, 2), 4, reduction=None)", "reduction = None"),
        ("nc.WeightDecay(classifier='a')", "weight decay classifier = 'a'"),
        ("nc.WeightDecay(classifier=jnp.ones(2))", "weight decay classifier has shape (2,)"),
        ("nc.NormalizedReLUNet(np.eye(2), np.array([1., -1.]), 2)", "widths = 2"),
        ("nc.NormalizedReLUNet(np.eye(2), np.array([1., -1.]), (2.5,))", "widths[0] = 2.5"),
        ("nc.NormalizedReLUNet(np.eye(2), np.array(['a', 'b']), (2,))", "targets = ndarray"),
        ("nc.NormalizedReLUNet(None, None, (2,))", "inputs = None"),
        ("nc.NormalizedReLUNet(np.eye(2), np.array([np.nan, -1.]), (2,))", "targets = nan"),
        (
            "nc.NormalizedReLUNet(np.eye(2), np.array([1., -1.]), (2,), activation='relu')",
            "activation = 'relu': give a function",
        ),
        ("nc.SmoothReLU(width='a')", "width = 'a'"),
        ("nc.GradientDescentODE(p, '0.1')", "rate = '0.1'"),
        ("nc.GradientDescentODE(0.1, p)", "problem is of type float"),
        ("nc.GradientDescentODE(s, 0.1)", "problem is of type LastLayer"),
    ],
    "starts": [
        ("p.init(0)", "key is 0: give a typed key"),
        ("p.init(None)", "key is None"),
        ("p.init('0')", "key is '0'"),
        ("p.init(keys)", "key has shape (2,): give one key"),
        ("p.init(key, norm='1')", "norm = '1'"),
        ("p.init(key, norm=None)", "norm = None"),
        ("p.init(key, norm=[1.0, 2.0])", "norm has shape (2,)"),
        ("p.init(key, norm=1j)", "norm = 1j"),
        ("net.init(key, norm='1')", "norm = '1'"),
    ],
    "a problem's methods": [
        ("p.objective(p)", "state is of type UnconstrainedFeatures where the problem has"),
        ("p.objective(None)", "state is of type NoneType where the problem has LastLayer"),
        ("p.objective(sm)", "state has bias where the problem has none"),
        ("m.objective(s)", "state has no bias where the problem has one"),
        ("p.objective(transposed)", "classifier has shape (4, 3) where the problem has (3, 4)"),
        ("p.objective(starts)", "where the problem has (6, 4); pass a state like"),
        ("p.objective(nc.ulpm(3, 5, 2).init(key))", "has shape (6, 5) where the problem has"),
        ("p.objective(foreign)", "features is of type __main__.Foreign: give an array of NumPy"),
        ("p.objective((s.features, s.classifier))", "state is of type tuple"),
        ("p.gradient(None)", "state is of type NoneType"),
        ("p.observe(transposed)", "classifier has shape (4, 3)"),
        ("p.scaled_descent(None, 0.0)", "state is of type NoneType"),
        ("linear.gradient(None)", "state is of type NoneType"),
        ("linear.gradient(s)", "state has no bias where the problem has one"),
        ("net.objective(s)", "state = LastLayer("),
        ("net.invariants(s)", "state = LastLayer("),
        ("net.multipliers(None)", "state = None"),
        ("net.last_layer(nc.Layers((Foreign(), Foreign())))", "matrices[0] is of type __main__"),
        ("net.gradient(nc.Layers((jnp.ones((2, 2)),)))", "state has 1 layers where the problem"),
    ],
    "flows": [
        ("nc.Flow(s, t)", "problem is of type LastLayer: give a problem"),
        ("nc.Flow(nc.ulpm, t)", "problem is of type function"),
        ("nc.Flow(t, p)", "problem is of type ndarray"),
        ("nc.Flow(p, None)", "save_at = None"),
        ("nc.Flow(p, 'a')", "save_at = 'a'"),
        ("nc.Flow(p, 3.0)", "save_at has shape ()"),
        ("nc.Flow(p, [])", "save_at has shape (0,)"),
        ("nc.Flow(p, [1.0, 'a'])", "save_at = [1.0, 'a']"),
        ("nc.Flow(p, [[1.0], [1.0, 2.0]])", "save_at = [[1.0], [1.0, 2.0]]"),
        ("nc.Flow(p, [2.0, 1.0])", "save_at does not increase at index 1"),
        ("nc.Flow(p, [1.0, np.nan])", "save_at = nan"),
        ("nc.Flow(p, [1j])", "save_at = [1j]"),
        ("nc.Flow(p, t, clock='log')", "clock = 'log'"),
        ("nc.Flow(p, t, clock=diffrax.Tsit5())", "clock = Tsit5("),
        ("nc.Flow(p, t, solver=None)", "solver = None"),
        ("nc.Flow(p, t, solver=diffrax.Euler())", "Euler() estimates no error"),
        ("nc.Flow(p, t, rtol='a')", "rtol = 'a': give a finite number > 0"),
        ("nc.Flow(p, t, rtol='1e-6')", "rtol = '1e-6'"),
        ("nc.Flow(p, t, rtol=0.0)", "rtol = 0.0"),
        ("nc.Flow(p, t, rtol=[1e-6, 1e-6])", "rtol has shape (2,)"),
        ("nc.Flow(p, t, atol=-1.0)", "atol = -1.0"),
        ("nc.Flow(p, t, atol='1e-6')", "atol = '1e-6'"),
        ("nc.Flow(p, t, max_steps=None)", "max_steps = None: give an integer >= 1"),
        ("nc.Flow(p, t, max_steps=1e6)", "max_steps = 1000000.0"),
        ("nc.Flow(p, t, max_steps=0)", "max_steps = 0"),
        ("nc.Flow(p, t, min_step=None)", "min_step = None"),
        ("nc.Flow(p, t, stepsize_controller='PI')", "stepsize_controller = 'PI': give an instance"),
        ("nc.Flow(p, t, stepsize_controller=1e-6)", "stepsize_controller = 1e-06"),
        ("nc.Flow(p, t, observe='margin_min')", "observe = 'margin_min': give a tuple"),
        ("nc.Flow(p, t, observe=('margin_mni',))", "Close to it: margin_min"),
        ("nc.Flow(m, t, observe=('gamma_tilde',))", "'gamma_tilde' is no observable of this"),
        ("nc.Flow(p, t, observe=())", "observe = (): give a tuple of names"),
        ("nc.Flow(p, t, observe=3)", "observe = 3"),
        ("nc.Flow(p, t, observe=('margin_min', 3))", "observe = ('margin_min', 3)"),
        ("nc.Flow(p, t, observe=('cdnv', 'cdnv'))", "observe holds 'cdnv' more than once"),
        ("nc.Flow(p, t, save_states='no')", "save_states = 'no'"),
        ("data(lambda s: jnp.sum(s.features))(s)", "Tracer: return a dict of arrays"),
        ("data(lambda s: None)(s)", "observe returns a NoneType: return a dict"),
        ("data(lambda s: {'a': 'b'})(s)", "observe returns 'a' of type str"),
        ("data(lambda s: {'a': None})(s)", "observe returns 'a' of type NoneType"),
        ("data(lambda s: {1: s.features})(s)", "observe returns the key 1"),
        ("data(lambda s: {'a': s})(s)", "observe returns 'a' of type LastLayer"),
        ("data(lambda s: {'a': {'b': 1.0}})(s)", "observe returns 'a' of type dict"),
        ("data(lambda s: {'a': 1j * s.features})(s)", "observe returns 'a' of dtype complex"),
        ("data(lambda: {})(s)", "too many positional arguments when it is called with (state)"),
        ("data(lambda s, d: {})(s)", "give the run data=..."),
        ("data(lambda s: {})(s, jnp.ones(2))", "leave data out"),
        ("flow(s, jnp.ones(3))", "data: only an observer that is a function"),
        ("data(lambda s, d: {'a': d})(s, data='x')", "data is of type builtins.str"),
        ("flow(p)", "start is of type UnconstrainedFeatures: give a state"),
        ("flow(None)", "start is of type NoneType"),
        ("flow(3.0)", "start is of type builtins.float: give an array"),
        ("flow(sm)", "start has bias where the problem has none"),
        ("nc.Flow(m, t, clock=nc.RealTime())(s)", "start has no bias where the problem has one"),
        ("flow(starts)", "features has shape (2, 6, 4) where the problem has (6, 4)"),
        ("flow(transposed)", "classifier has shape (4, 3) where the problem has (3, 4)"),
        ("flow(foreign)", "start: features is of type __main__.Foreign"),
        ("flow(State(np.ones((6, 4), '>f8'), np.ones((3, 4))))", "in another byte order"),
        ("flow(State(np.ones((6, 4), 'O'), np.ones((3, 4))))", "features has dtype object"),
        ("flow({'features': s.features})", "start is of type dict where the problem has LastLayer"),
        ("flow.batch(s)", "classifier has shape (3, 4) in a batch of 6 starts"),
        ("flow.batch(jax.tree.map(lambda x: x[:0], starts))", "features has shape (0, 6, 4)"),
        (
            "flow.batch(State(starts.features[:1], starts.classifier))",
            "starts: classifier has shape (2, 3, 4) in a batch of 1 starts",
        ),
        (
            "data(lambda s, d: {'a': d}).batch(starts, jnp.ones(3))",
            "data has shape (3,) in a batch of 2 starts",
        ),
        ("data(lambda s, d: {'a': d}).batch(starts, jnp.ones(()))", "data has shape ()"),
        ("nc.Flow(m, [500.0, 1000.0])(sm)", "The save times end at t = 10^434.294; if that is"),
        ("nc.Flow(p, [1e16])(s)", "end earlier, or use float64. The save times end"),
        ("nc.gradient_flow(s, p, t)", "problem is of type LastLayer"),
        ("nc.gradient_flow(p, t, s)", "save_at = LastLayer("),
        ("nc.gradient_flow(p, s, t, rtol='1e-6')", "rtol = '1e-6'"),
    ],
    "descent": [
        ("nc.gradient_descent(p, s, 0.1, 10)", "optimizer = 0.1: give an instance of Gradient"),
        ("nc.gradient_descent(p, s, 'sgd', 10)", "optimizer = 'sgd'"),
        ("nc.gradient_descent(p, s, optax.sgd, 10)", "such as optax.sgd(0.1)"),
        ("nc.gradient_descent(p, s, 10, sgd)", "optimizer = 10"),
        ("nc.gradient_descent(s, p, sgd, 10)", "problem is of type LastLayer"),
        ("nc.gradient_descent(p, sgd, s, 10)", "start: init is of type builtins.function"),
        ("nc.gradient_descent(p, s, sgd, 10.0)", "num_steps = 10.0"),
        ("nc.gradient_descent(p, s, sgd, None)", "num_steps = None"),
        ("nc.gradient_descent(p, s, sgd, 10, save_steps='a')", "save_steps has shape ()"),
        ("nc.gradient_descent(p, s, sgd, 10, observe='margin_min')", "observe = 'margin_min'"),
        ("nc.gradient_descent(p, s, sgd, 10, observe=('typo',))", "'typo' is no observable"),
        ("nc.gradient_descent(p, s, sgd, 10, observe=lambda s: 1.0)", "observe returns a float"),
        ("nc.gradient_descent(p, s, sgd, 10, batch_size=2)", "has no samples to draw"),
        ("nc.gradient_descent(net, sn, sgd, 10, batch_size='1', key=key)", "batch_size = '1'"),
        ("nc.gradient_descent(net, sn, sgd, 10, batch_size=1, key=0)", "key is 0"),
        ("nc.gradient_descent(net, sn, sgd, 10, batch_size=1, key=keys)", "key has shape (2,)"),
        ("nc.gradient_descent(p, sm, sgd, 10)", "start has bias where the problem has none"),
        ("nc.gradient_descent(p, foreign, sgd, 10)", "features is of type __main__.Foreign"),
    ],
    "times": [
        ("nc.log_times('5', 3)", "stop_log10 = '5'"),
        ("nc.log_times([5], 3)", "stop_log10 has shape (1,)"),
        ("nc.log_times(5, 3.0)", "num = 3.0: give an integer >= 1"),
        ("nc.log_times(5, 0)", "num = 0"),
        ("nc.log_times(5, 3, start_log10=None)", "start_log10 = None"),
        ("nc.log_steps('10')", "num_steps = '10'"),
        ("nc.log_steps(-3)", "num_steps = -3"),
        ("nc.log_steps(10, 2.5)", "num = 2.5"),
        ("run.decay_exponent('margin_mni', 1.0)", "Close to it: margin_min. This run has margin"),
        ("run.decay_exponent(3, 1.0)", "3 was not recorded"),
        ("run.decay_exponent('margin_min', 'a')", "from_log_time = 'a'"),
        ("run.with_time_scaled('a')", "factor = 'a'"),
        ("run.with_time_scaled(-1.0)", "factor = -1.0: give a finite number > 0"),
    ],
    "figures": [
        ("plotting.collapse_figure(3)", "runs = 3: give an xarray.Dataset (of a training"),
        ("plotting.collapse_figure({})", "runs = {}: give an xarray.Dataset (of a training"),
        ("plotting.collapse_figure({'flow': s})", "runs['flow'] = LastLayer("),
        ("plotting.collapse_figure(run)", "no variable of the data set. It has margin_min"),
        ("plotting.sweep_figure(run, 'NC1', by='seed')", "panels = 'NC1': give variables by title"),
        ("plotting.sweep_figure(run, {'A': 'nc1'}, by='a')", "panels['A'] = 'nc1': give a tuple"),
        ("plotting.training_figure(None, plotting.ZHU_PANELS)", "runs = None"),
        ("plotting.histograms_figure([1.0])", "run = [1.0]: give an xarray.Dataset"),
    ],
    "sweeps": [
        ("nc.sweep(p, 2)", "run = UnconstrainedFeatures("),
        ("nc.sweep('a', 2)", "run = 'a': give a function"),
        ("nc.sweep(lambda key: flow, 2, grid=[1.0, 2.0])", "grid = [1.0, 2.0]: give a dict"),
        ("nc.sweep(lambda key: flow, 2, grid='a')", "grid = 'a'"),
        ("nc.sweep(lambda key: flow, 2, key=0)", "key is 0"),
    ],
    "trainings": [
        ("cnn.train(cnn.ConvNet, few, sgd, 3)", "give a function from nnx.Rngs to a Network"),
        ("cnn.ConvNet(1, 3, rngs=0)", "rngs = 0: give an instance of Rngs"),
        ("cnn.from_torch(None, {})", "network = None: give an instance of Network"),
        ("cnn.from_torch(make, {})", ": give an instance of Network, such as cnn.ResNet"),
        ("cnn.from_torch(network, 'a.pt')", "state_dict = 'a.pt': give a dict of arrays"),
        ("cnn.from_torch(network, {0: 1})", "state_dict = {0: 1}: give a dict of arrays"),
        ("cnn.from_torch(network, {'a': {}})", "state_dict['a'] is a dict: give the"),
        ("cnn.from_torch(network, {})", "state_dict lacks 11 names ("),
        ("cnn.to_torch(None)", "network = None: give an instance of Network"),
        ("cnn.last_layer(None, few.images)", "network = None: give an instance of Network"),
        ("cnn.last_layer(network, np.ones((9, 9, 1)))", "images have shape (9, 9, 1)"),
        ("cnn.last_layer(network, few)", "images"),
        ("cnn.last_layer(network, np.ones((2, 2, 9, 9)))", "give (N, H, W, C)"),
        ("cnn.train(make, few, 0.1, 3)", "optimizer = 0.1: give an instance of Gradient"),
        ("cnn.train(make, p, sgd, 3)", "training = UnconstrainedFeatures("),
        ("cnn.train(make, few, sgd, 3, test=p)", "test = UnconstrainedFeatures("),
        ("cnn.train(make, few, sgd, 3.0, batch_size=2)", "num_epochs = 3.0: give an integer >= 1"),
        ("cnn.train(make, few, sgd, 3, batch_size=2, num_seeds='2')", "num_seeds = '2'"),
        ("cnn.train(make, few, sgd, 3, batch_size=2.5)", "batch_size = 2.5: give an integer"),
        ("cnn.train(make, few, sgd, 3, batch_size=2, weight_decay=[1, 2])", "has shape (2,)"),
        ("cnn.train(make, few, sgd, 3, key=0)", "key is 0"),
        ("cnn.train(make, few, sgd, 3, loss='a')", "loss = 'a': give an instance of Loss"),
        ("cnn.train(make, few, sgd, 3, loss=nc.CrossEntropy)", "give an instance of Loss, such"),
        ("cnn.train(make, few, sgd, 3, augment=2)", "augment = 2: give a function of a key"),
        ("cnn.train(make, few, sgd, 3, batch_size=2, weight_decay='a')", "nc_jax.WeightDecay("),
        ("cnn.train(None, few, sgd, 3)", "network = None: give a function from nnx.Rngs"),
        ("cnn.train('convnet', few, sgd, 3)", "network = 'convnet': give a function"),
        ("cnn.train(lambda: None, few, sgd, 3)", ": give a function from nnx.Rngs to a Network"),
        ("cnn.train(lambda rngs: 3, few, sgd, 3)", "network returns a int: give a function"),
        ("cnn.train(network, few, sgd, 3)", "network = ConvNet(...) is a network"),
        ("cnn.train(make, few, sgd, 3, observe='margin_min')", "give a tuple of names, ('margin"),
        ("cnn.train(make, few, sgd, 3, observe=3)", "observe = 3: give a tuple of names, such as"),
        ("cnn.train(make, few, sgd, 3, observe=())", "observe = (): give a tuple of names"),
        ("cnn.train(make, few, sgd, 3, observe=('cdnv', 'cdnv'))", "'cdnv' more than once"),
        ("cnn.train(make, few, sgd, 3, observe=lambda: 3)", "give a function of one argument"),
        ("cnn.ResNet(1, 2, stem='7x7', rngs=None)", "such as cnn.ImageNetStem() or cnn.CIFAR"),
        ("cnn.ResNet(1, 2, depth=34, rngs=None)", "depth = 34: give one of [18, 50]"),
    ],
    "images": [
        ("images.random_labels(few.images, 0.5, 0)", "data = ndarray of shape (4, 9, 9, 1)"),
        ("images.random_labels(few, 'half', 0)", "share = 'half': give a finite number >= 0"),
        ("images.random_labels(few, [0.5], 0)", "share has shape (1,): give one finite number"),
        ("images.random_labels(few, 0.5, 1.5)", "seed = 1.5: give an integer >= 0"),
        ("images.random_labels(few, 0.5, None)", "seed = None: give an integer >= 0"),
        ("images.choose_classes(few.images, (0, 1))", "data = ndarray of shape (4, 9, 9, 1)"),
        ("images.choose_classes(few, 2)", "classes[0] = 2: give an integer from 0 to 1"),
        ("images.choose_classes(few, 'ab')", "classes[0] = 'a': give an integer from 0 to 1"),
        ("images.choose_classes(few, (0, 1.5))", "classes[1] = 1.5: give an integer from 0 to 1"),
        ("images.choose_classes(few, [[0], [1]])", "classes[0] = [0]: give an integer"),
        ("images.choose_classes(few, (0,), samples_per_class=1.5)", "samples_per_class = 1.5"),
        ("images.choose_classes(few, (0,), samples_per_class='1')", "samples_per_class = '1'"),
        ("images.two_classes(few, 0, 1, num_samples=2.0)", "num_samples = 2.0: give an integer"),
        ("images.load('mnist', folder=3)", "folder = 3"),
        ("images.load(3)", "name = 3: give one of digits, mnist-5000"),
    ],
    "curvatures": [
        ("landscape.HessianOf(3)", "function = 3: give a function, such as lambda state"),
        ("landscape.GaussNewtonOf(len, 3)", "loss = 3: give a function"),
        ("landscape.GaussNewtonOf(3, len)", "outputs = 3: give a function"),
        ("landscape.HessianOf(len, (np.ones((2, 3)), np.ones(1)))", "of shapes (2, 3), (1,)"),
        (
            "landscape.dense_hessian(landscape.HessianOf(lambda x: x), np.ones(2))",
            "function returns an array of shape (2,)",
        ),
        (
            "landscape.dense_hessian(landscape.HessianOf(lambda x: None), np.ones(2))",
            "function returns NoneType",
        ),
        ("landscape.sharpness(s, p)", "problem is of type LastLayer"),
        ("landscape.sharpness(landscape.HessianOf(len), {})", "state has no arrays"),
        ("landscape.sharpness(p, s, log_scale='a')", "log_scale = 'a'"),
        ("landscape.classify(landscape.HessianOf(len), s)", "is of type HessianOf: give a problem"),
        ("cnn.curvature_for(make, few)", "network = "),
        ("cnn.curvature_for(network, few.images)", "give an instance of ImageSet"),
        ("cnn.curvature_for(network, few, loss='ce')", "loss = 'ce': give an instance of Loss"),
        ("cnn.curvature_for(network, few, kind='fisher')", "kind = 'fisher': give one of"),
        ("cnn.curvature_for(network, few, layer='convolution.0')", "Close to it: convolutions.0"),
        ("cnn.curvature_for(network, few, train=True)", "batch_size = 500 with train = True: give"),
        ("cnn.layer_names(make)", "network = "),
        ("cnn.class_shares(*cnn.curvature_for(network, few), {})", "is of type HessianOf"),
    ],
    "landscape": [
        ("landscape.classify(s, p)", "problem is of type LastLayer"),
        ("landscape.classify(p, None)", "state is of type NoneType where the problem has Last"),
        ("landscape.classify(landscape.OnSphere(s), s)", "problem is of type LastLayer"),
        ("landscape.OnSphere(landscape.OnSphere(p))", "problem is of type OnSphere"),
        ("landscape.tangent_descent_direction(landscape.OnSphere(p), s)", "is of type OnSphere"),
        ("landscape.global_certificate(landscape.OnSphere(z), sm)", "the problem has weight decay"),
        ("landscape.classify(p, sm)", "state has bias where the problem has none"),
        ("landscape.classify(p, starts)", "features has shape (2, 6, 4)"),
        ("landscape.classify(p, transposed)", "classifier has shape (4, 3)"),
        ("landscape.classify(p, s, tolerance=-1.0)", "tolerance = -1.0"),
        ("landscape.classify(p, s, log_scale='a')", "log_scale = 'a'"),
        ("landscape.global_certificate(p, p)", "state is of type UnconstrainedFeatures"),
        ("landscape.kkt_certificate(p, sm)", "state has bias where the problem has none"),
        ("landscape.escape_direction(z, s)", "state has no bias where the problem has one"),
        ("landscape.tangent_descent_direction(p, None)", "state is of type NoneType"),
        ("landscape.descent_range(p, s, sm)", "direction has bias where the state has none"),
        ("landscape.descent_range(p, s, None)", "direction is of type NoneType"),
        ("landscape.descent_range(p, s, s, num_steps=0)", "num_steps = 0"),
        ("landscape.find_critical_points(z, 3)", "keys: give one dimension of typed keys"),
        ("landscape.find_critical_points(z, keys[:0])", "keys: give one dimension"),
        ("landscape.find_critical_points(z, keys, norm='a')", "norm = 'a'"),
        ("landscape.find_critical_points(z, keys, max_steps=0)", "max_steps = 0"),
        ("landscape.find_critical_points(p, keys, radius='a')", "radius = 'a'"),
        ("landscape.extreme_eigenpairs(p, s, num=2.0)", "num = 2.0: give an integer from 1 to 36"),
        ("landscape.extreme_eigenpairs(p, s, num=1000)", "num = 1000: give an integer from 1"),
        ("landscape.extreme_eigenpairs(p, s, rtol=-1.0)", "rtol = -1.0"),
        ("landscape.extreme_eigenpairs(p, s, basis_size=4.5)", "basis_size = 4.5"),
        ("landscape.extreme_eigenpairs(p, s, key=0)", "key is 0"),
        ("landscape.extreme_eigenpairs(s, p)", "problem is of type LastLayer"),
        ("landscape.spectral_density(p, s, 0)", "key is 0"),
        ("landscape.spectral_density(p, s, key, num_probes=2.5)", "num_probes = 2.5"),
        ("landscape.spectral_density(p, s, key, width='a')", "width = 'a'"),
        ("landscape.dense_hessian(p, None)", "state is of type NoneType"),
        (
            "landscape.hessian_vector_product(p, s, sm)",
            "direction has bias where the state has none",
        ),
        ("landscape.tangent_descent_direction(p, s, log_scale='a')", "log_scale = 'a'"),
        ("landscape.sphere_gradient(p, s, log_scale='a')", "log_scale = 'a'"),
        ("landscape.sphere_gradient(p, None)", "state is of type NoneType: the sphere"),
        ("landscape.sphere_gradient(p, transposed)", "classifier has shape (4, 3)"),
        ("landscape.project_onto_tangent(foreign, s)", "is of type __main__.Foreign and dtype"),
        ("landscape.hessian_vector_product(p, None, s)", "state is of type NoneType"),
        ("landscape.project_onto_symmetries(p, None, s)", "state is of type NoneType"),
        ("landscape.project_onto_symmetries(s, p, s)", "problem is of type LastLayer"),
        ("landscape.symmetry_dimension(p, None)", "state is of type NoneType"),
    ],
    "closed forms": [
        ("exact.collapsed_state(s, 1.0)", "problem is of type LastLayer: give an Unconstrained"),
        ("exact.collapsed_state(p, 'a')", "gap = 'a'"),
        ("exact.collapsed_state(p, [1.0, 2.0])", "gap has shape (2,)"),
        ("exact.collapsed_state(p, 1.0, key=0)", "key is 0"),
        ("exact.collapsed_state(p, 1.0, key=jax.random.PRNGKey(0))", "key has dtype uint32"),
        ("exact.collapsed_gap(p, None, 1.0)", "start_gap = None"),
        ("exact.collapsed_gap(p, 1.0, 'a')", "log_time = 'a'"),
        ("exact.collapsed_gap(p, 1.0, -1.0)", "log_time = -1.0"),
        ("exact.max_margin_bound(None, 1.0)", "problem is of type NoneType"),
        ("exact.max_margin_bound(p, 'a')", "radius = 'a'"),
        ("exact.sphere_optimum(s, 1.0)", "problem is of type LastLayer"),
        ("exact.sphere_optimum(p, jnp.ones(2))", "radius has shape (2,)"),
        ("exact.separation_optimum(None)", "problem is of type NoneType"),
        ("exact.example_3_1('a')", "alpha = 'a'"),
        ("exact.example_3_1_loss(None)", "alpha = None"),
        ("exact.regularized_minimizer(None)", "problem is of type NoneType"),
        ("exact.regularized_minimum(s)", "problem is of type LastLayer"),
        ("exact.minimum_nullity(s)", "problem is of type LastLayer"),
        ("exact.origin_eigenvalues(s)", "problem is of type LastLayer"),
        ("exact.grouped_saddle(s, 2)", "problem is of type LastLayer"),
        ("exact.grouped_saddle(z, 3.0)", "groups = 3.0"),
        ("exact.paired_saddle(s)", "problem is of type LastLayer"),
        ("exact.subset_saddle(z, 2.0)", "active = 2.0: give an integer from 2 to 2"),
        ("exact.linearized_solution(linear, None, 1.0)", "state = None"),
        ("exact.linearized_solution(linear, sm, 'a')", "t = 'a'"),
        ("exact.subspace_solution(sm, m, 1.0)", "problem is of type LastLayer"),
        ("exact.subspace_limit(m, None)", "state = None"),
        ("exact.subspace_limit(m, foreign)", "state: features is of type __main__.Foreign"),
        ("exact.linearized_bound(linear, foreign, 1.0)", "state: features is of type"),
        ("exact.strong_collapse(m, key=0)", "key is 0"),
        ("exact.logistic_norm('a', start=1.0, alignment=1.0, second_moment=1.0)", "time = 'a'"),
        (
            "exact.norm_time(1.0, start=1.0, alignment=1.0, second_moment=1.0, num_layers=2.5)",
            "num_layers = 2.5",
        ),
        (
            "exact.normalized_norm(1.0, start=1.0, mean_margin='a', second_moment=1.0, decay=0.1)",
            "mean_margin = 'a'",
        ),
        ("exact.stuck_margins(1.0, 0.1, 10, 2.5)", "num_stuck = 2.5"),
        ("exact.simplex_geometry('a', 0.1, 3, 2)", "gap = 'a'"),
        ("exact.simplex_geometry(0.1, 0.1, '3', 2)", "num_classes = '3'"),
        ("exact.normalized_geometry(0.1, 0.1, 3, None)", "samples_per_class = None"),
        ("exact.orthogonal_geometry(0.1, 'a', 3, 2)", "decay = 'a'"),
        ("exact.square_loss_minimizer(None)", "problem is of type NoneType"),
        ("exact.linear_path(s, np.ones(2), 1.0)", "start = LastLayer("),
        ("exact.linear_path(sn, np.array([1.0, 0.0]), 'a')", "progress = 'a'"),
        ("exact.linear_time(sn, np.array([1.0, 0.0]), 'a')", "progress = 'a'"),
        ("exact.linear_path(nc.Layers((Foreign(),) * 2), np.ones(2), 1.0)", "start: matrices[0]"),
        ("exact.linear_limit(sn, 'a')", "sample = 'a'"),
    ],
    "metrics": [
        ("metrics.Monitor(1)", "num_classes = 1: give an integer >= 2"),
        ("metrics.Monitor(3, names=['cdvn'])", "Close to it: cdnv"),
        ("metrics.Monitor(3, names=['ncc_accuracy'])", "needs center_errors, which one pass does"),
        ("metrics.Monitor(3, class_names=['a', 'b'])", "class_names: 2 names for 3 classes"),
        ("metrics.Monitor(3, path=3)", "path = 3"),
        ("metrics.Monitor(3).update(s.features, p.labels + 1)", "labels hold 3 in row 4"),
        ("metrics.Monitor(3).update(s.features, None)", "give the class of each sample, (N,)"),
        ("metrics.Monitor(3).update(s.features[0], p.labels)", "features have shape (4,)"),
        ("metrics.Monitor(3).update(Foreign(), p.labels)", "features: dtype object"),
        ("metrics.Monitor(3).update({}, p.labels)", "features have no layer"),
        ("metrics.Monitor(3).result(s.classifier)", "no samples since the last result"),
        ("metrics.Monitor(3).record(3.0)", "measured = 3.0: give a dict"),
        ("metrics.Monitor(3).record({'cdnv': 'a'})", "cdnv = 'a': give a number"),
        ("metrics.Monitor(3).record({}, loss='a')", "loss = 'a': give one number"),
        ("metrics.Monitor(3).record({}, epoch=1.5)", "epoch = 1.5: give an integer >= 0"),
        ("metrics.scalars(3.0)", "measured = 3.0: give a dict"),
        ("metrics.capture(None, ['fc']).__enter__()", "module = None: give a torch.nn.Module"),
        ("metrics.measure(s.features)", "labels are missing for features of shape (6, 4)"),
        ("metrics.measure(s, p.labels)", "features: dtype object"),
        ("metrics.measure(Foreign(), p.labels)", "features: dtype object"),
        ("metrics.measure(s.features, p.labels[:5])", "5 entries for 6 samples"),
        ("metrics.measure(s.features, p.labels + 0.5)", "labels hold 0.5 in row 0"),
        ("metrics.measure(s.features, np.zeros(6, int))", "all 6 samples are of class 0"),
        ("metrics.measure(s.features, p.labels, s.classifier.T)", "give classifier.T, (K, d)"),
        ("metrics.measure(s.features, p.labels, bias=t)", "bias without a classifier"),
        ("metrics.measure(s.features, p.labels, names='cdnv')", "names = 'cdnv': give a list"),
        (
            "metrics.measure(s.features, p.labels, names=[metrics.cdnv_power])",
            "cdnv_power is a function: give the Measure that it returns, such as cdnv_power(2.0)",
        ),
        (
            "metrics.measure(s.features, p.labels, names=[metrics.cdnv])",
            'names: cdnv is a function: give its name, "cdnv"',
        ),
        ("metrics.Monitor(3, names=[])", "names = []: give one name or more"),
        ("metrics.measure(s.features, p.labels, names=['zhu_nc3'])", "need a classifier (K, d)"),
        ("metrics.measure(s.features, p.labels, batch_size=2.5)", "batch_size = 2.5"),
        (
            "metrics.measure([(s.features, p.labels)], to_features='x')",
            "to_features = 'x': give a function from the inputs of a batch to features (B, d)",
        ),
        ("metrics.measure_layers(3, abs, num_classes=3)", "batches = 3: give pairs of inputs"),
        ("metrics.measure_layers(iter([]), abs, num_classes=3)", "that can be read twice"),
        ("metrics.measure_layers([], abs, num_classes=3)", "batches are empty"),
        ("metrics.measure_layers([], abs, num_classes=3.0)", "num_classes = 3.0"),
        ("metrics.measure_layers([], None, num_classes=3)", "to_features = None: give a function"),
        ("metrics.measure_layers([s.features], abs, num_classes=3)", "give pairs (features, label"),
        ("metrics.held_out(None, None, None, None)", "features = None: give an array (N, d)"),
        ("metrics.held_out(s.features, p.labels, iter([]), None)", "test_features: an iterator"),
        ("metrics.out_of_distribution(s.features, p.labels, None)", "other_features: dtype object"),
        ("metrics.out_of_distribution(s.features, p.labels[:5], t)", "5 entries for 6 samples"),
        (
            "metrics.out_of_distribution(s.features, p.labels, s.features[:0])",
            "other_features have shape (0, 4): there are no samples",
        ),
        (
            "metrics.out_of_distribution(s.features, p.labels, np.nan * s.features)",
            "other_features have NaN or infinities: give finite features",
        ),
        (
            "metrics.out_of_distribution(s.features, p.labels, s.features, "
            "test_features=np.inf * s.features)",
            "test_features have NaN or infinities",
        ),
        (
            "metrics.regression_collapse(s.features[:0], np.ones((0, 3)))",
            "features have shape (0, 4): there are no samples",
        ),
        (
            "metrics.regression_collapse(s.features, np.ones(6), np.ones(4))",
            "classifier has shape (4,) for m = 1 target and d = 4 features: it is one row of "
            "weights; give classifier[None], (1, 4)",
        ),
        (
            "metrics.regression_collapse(s.features, np.ones((6, 3)), s.classifier.T)",
            "for m = 3 targets and d = 4 features: it is (d, m); give classifier.T, (m, d)",
        ),
        ("metrics.cka(s.features[:0], s.features[:0])", "features have shape (0, 4): there are no"),
        ("metrics.regression_collapse(s.features, np.ones(5))", "5 rows for 6 samples"),
        ("metrics.regression_collapse(s.features, None)", "targets: dtype object"),
        ("metrics.regression_collapse(s.features, np.ones(6), t)", "classifier has shape (2,) for"),
        ("metrics.regression_collapse(s.features, np.ones(6), bias=t)", "bias without"),
        ("metrics.cka(s.features, np.ones((5, 4)))", "other_features have 5 rows for 6 samples"),
        ("metrics.cka(s.features, 1j * s.features)", "other_features: dtype complex64"),
        ("metrics.cka(s.classifier, s.classifier, debiased=True)", "needs 4 or more"),
        ("metrics.kernel_nc1(s.features, p.labels)", "kernel has shape (6, 4)"),
        ("metrics.kernel_nc1(t, p.labels)", "kernel has shape (2,)"),
        ("metrics.kernel_nc1(np.eye(6), p.labels[:5])", "5 entries for 6 samples"),
        ("metrics.nngp_kernel(np.eye(2), 1.5)", "depth = 1.5: give an integer >= 0"),
        ("metrics.nngp_kernel(t, 1)", "inputs have shape (2,)"),
        ("metrics.ntk_kernel(np.eye(2), 1, bias_variance=-1.0)", "bias_variance = -1.0"),
        ("metrics.auroc([], [1.0])", "scores have shape (0,)"),
        ("metrics.auroc(['a'], [1.0])", "scores: dtype <U1: give real numbers"),
        ("metrics.false_positive_rate([1.0], None)", "other_scores: dtype object"),
        ("metrics.false_positive_rate([1.0], [1.0], recall=2.0)", "recall = 2.0: give a share"),
        ("metrics.cdnv_power(0)", "exponent = 0: give a finite number > 0"),
        ("metrics.riesz_distance(0)", "s = 0: give a number other than 0"),
        ("metrics.riesz_variation(None)", "s = None: give a finite number"),
        ("metrics.riesz_log_energy('a')", "s = 'a': give a finite number"),
    ],
    "metrics of states, geometry": [
        (
            "metrics.collapse_metrics(s, np.ma.masked_equal(p.labels, 1))",
            "labels is a masked array",
        ),
        (
            "metrics.margin_metrics(State(np.ma.masked_less(s.features, 0), s.classifier), "
            "p.labels)",
            "features is a masked array",
        ),
        ("metrics.collapse_metrics(p, p.labels)", "state = UnconstrainedFeatures("),
        ("metrics.collapse_metrics(transposed, p.labels)", "the classifier (4, 3)"),
        ("metrics.collapse_metrics(foreign, p.labels)", "features is of type __main__.Foreign"),
        (
            "metrics.collapse_metrics(State(s.features, s.classifier[:1]), np.zeros(6, int))",
            "the classifier has 1 row, for 1 class: collapse needs 2 or more classes",
        ),
        ("metrics.collapse_metrics(State(s.features, s.classifier, s.classifier), p.labels)",
         "bias has shape (3, 4) where the classifier has 3 rows"),
        ("metrics.zhu_nc1(None, p.labels)", "state = None"),
        ("metrics.cdnv(s, np.zeros(6, int))", "class 1 of 3 has no samples"),
        ("metrics.mixon_snc1(s, np.array([0, 0, 0, 1, 1, 2]))", "of class sizes [3, 2, 1]"),
        ("metrics.margin_metrics(None, p.labels)", "state = None"),
        ("metrics.logit_margins(s, p.labels)", "logits has shape ()"),
        ("metrics.logit_margins(jnp.ones(6), p.labels)", "logits has shape (6,)"),
        ("metrics.max_margin(1.0, 1, 2)", "num_classes = 1: give an integer >= 2"),
        ("metrics.max_margin('a', 3, 2)", "squared_norm = 'a'"),
        ("metrics.balance(None)", "state = None"),
        ("metrics.classifier_sum(p)", "state = UnconstrainedFeatures("),
        ("metrics.gamma_tilde(Foreign(), 1.0)", "is of type __main__.Foreign and dtype torch"),
        ("metrics.class_moments(None, p.labels, 3)", "features has shape ()"),
        ("metrics.class_moments(s.features, p.labels, 3.0)", "num_classes = 3.0"),
        ("metrics.spread(Foreign(), p.labels, None, s.classifier)", "features is of type"),
        ("geometry.center(Foreign())", "is of type __main__.Foreign and dtype torch.float32: give"),
        ("geometry.simplex_etf(3.0, 4)", "num_classes = 3.0: give an integer >= 2"),
        ("geometry.simplex_etf(3, '4')", "feature_dim = '4'"),
        ("geometry.simplex_etf(3, 4, key=0)", "key is 0"),
        ("geometry.simplex_gram(1)", "num_classes = 1"),
        ("geometry.project_onto_S(None, p.labels)", "state = None"),
        ("geometry.project_onto_S(foreign, p.labels)", "state: features is of type __main__."),
        ("nc.problem_for(None, p.labels)", "state = None"),
        ("nc.problem_for(foreign, p.labels)", "state: features is of type __main__.Foreign"),
        ("nc.problem_for(starts, p.labels)", "a batch of states under jax.vmap"),
        ("nc.CrossEntropy().value(Foreign(), p.labels)", "logits is of type __main__.Foreign"),
        ("nc.SquaredDistance().value(jnp.ones((6, 4)), Foreign())", "targets is of type"),
    ],
}  # fmt: skip
PROGRAM = f"""
{SETUP}
outcomes = []
for call in json.loads(sys.argv[1]):
    try:
        eval(call)
        outcomes.append(["", "no error"])
    except Exception as error:
        kind = "ValueError" if isinstance(error, ValueError) else type(error).__name__
        outcomes.append([kind, str(error)])
print(json.dumps(outcomes))
"""


@pytest.fixture(scope="module")
def outcomes():
    calls = json.dumps([call for rows in CALLS.values() for call, _ in rows])
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, calls], capture_output=True, text=True,
        env={"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", **os.environ}, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return dict(zip(json.loads(calls), json.loads(result.stdout), strict=True))


@pytest.mark.parametrize("group", CALLS)
def test_bad_calls_end_in_one_line_that_names_the_value(group, outcomes):
    wrong = [
        (call, expected, *outcomes[call])
        for call, expected in CALLS[group]
        if outcomes[call][0] != "ValueError"
        or expected not in outcomes[call][1]
        or "\n" in outcomes[call][1]
    ]
    assert not wrong
