"""Flows, descent and the descent equation of nets with normalised layers."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tolerances import integration, rounding

import nc_jax as nc
from nc_jax.problems import relu

RTOL = 1e-9
INPUTS = np.random.default_rng(0).normal(size=(8, 5))
INPUTS /= np.linalg.norm(INPUTS, axis=1).max()
SIGNS = np.array([1.0, -1.0, 1.0, 1.0, -1.0, -1.0, 1.0, -1.0])
TIMES = np.array([0.5, 1.0, 2.0, 4.0, 8.0])

LAGRANGE, WEIGHT, PRACTICE = relu.Lagrange(), relu.WeightNormalization(), relu.UsualPractice()
CARTESIAN, POLAR = relu.Cartesian(), relu.Polar()


def linear(z):
    """An activation that is homogeneous and has no kink: for tight checks."""
    return z


def net(
    parametrization: relu.AbstractParametrization = LAGRANGE, activation=linear, **options
) -> nc.NormalizedReLUNet:
    options = {"widths": (4, 3), "weight_decay": 0.02, **options}
    return nc.NormalizedReLUNet(
        INPUTS, SIGNS, parametrization=parametrization, activation=activation, **options
    )


def start_of(problem, norm=1.2, seed=0):
    state = problem.init(jax.random.fold_in(jax.random.key(0), seed), norm)
    if problem.parametrization == CARTESIAN:
        factors = jnp.linspace(0.7, 1.3, problem.num_layers)
        return nc.Layers(tuple(f * w for f, w in zip(factors, state.matrices, strict=True)))
    return state


def nothing(state):
    """For runs that are judged by their states: one program serves nets of one structure."""
    return {}


@eqx.filter_jit
def objectives(problem, states):
    return jax.vmap(problem.objective)(states)


def flow(
    problem, start, times=TIMES, solver: diffrax.AbstractSolver = diffrax.Dopri8(), **options
) -> nc.Trajectory:
    options = {"rtol": RTOL, "atol": RTOL / 100, "observe": nothing, **options}
    return nc.gradient_flow(
        problem, start, times, clock=nc.RealTime(), solver=solver, save_states=True, **options
    )


@eqx.filter_jit
def outputs(problem, state):
    return problem.outputs(state, jnp.asarray(INPUTS))[:, 0]


CASES = [
    (LAGRANGE, relu.WholeNorm(), {"direction_norms"}),
    (WEIGHT, relu.WholeNorm(), {"direction_norms", "layer_balance"}),
    (PRACTICE, relu.EachLayer(), {"direction_norms"}),
    (CARTESIAN, relu.WholeNorm(), {"layer_balance"}),
    (CARTESIAN, relu.EachLayer(), {"layer_balance", "unit_balance"}),
    (POLAR, relu.EachLayer(), {"direction_norms", "layer_balance", "unit_balance"}),
]


@pytest.mark.parametrize(("parametrization", "decay_on", "conserved"), CASES)
def test_flows_conserve_their_invariants_and_decrease_the_loss(
    parametrization, decay_on, conserved
):
    problem = net(parametrization, decay_on=decay_on, weight_decay=0.05)
    start = start_of(problem)
    if parametrization in (POLAR, WEIGHT):
        start = nc.Layers(start.matrices, jnp.array([0.7, 1.0, 1.3]))
    found = flow(problem, start)
    drifts = {name.removesuffix("_drift") for name in found.observables if "drift" in name}
    assert drifts == conserved
    for name in conserved:
        assert np.max(found.observables[f"{name}_drift"]) < integration(RTOL)
    losses = [problem.objective(start), *objectives(problem, found.states)]
    assert np.all(np.diff(losses) < 0)
    if "layer_balance" in conserved:
        # By hand: differences of squared norms, which fall as e^(−4λt) with decay on the layers.
        def difference(state):
            squares = [float(np.sum(np.square(w))) for w in state.weights()]
            return squares[0] - squares[2]

        left = np.exp(-4 * 0.05 * 8.0) if decay_on == relu.EachLayer() else 1.0
        assert abs(difference(found.final) - left * difference(start)) < integration(RTOL) * 3
        assert abs(difference(start)) > 0.3


@pytest.mark.parametrize("decay_on", [relu.WholeNorm(), relu.EachLayer()], ids=repr)
def test_polar_and_cartesian_variables_have_one_trajectory(decay_on):
    polar, cartesian = net(POLAR, decay_on=decay_on), net(CARTESIAN, decay_on=decay_on)
    directions = polar.init(jax.random.key(5)).matrices
    norms = jnp.array([0.7, 1.0, 1.3])
    one = flow(polar, nc.Layers(directions, norms))
    weights = tuple(rho * v for rho, v in zip(norms, directions, strict=True))
    other = flow(cartesian, nc.Layers(weights))
    assert one.states is not None
    assert other.states is not None
    scaled = jax.vmap(lambda state: state.weights())(one.states)
    for left, right in zip(scaled, other.states.matrices, strict=True):
        np.testing.assert_allclose(left, right, rtol=0, atol=integration(RTOL))


def test_lagrange_and_usual_practice_have_the_same_critical_points():
    # Weight normalisation with gains that stay 1 but for the last is Lagrange's flow: the field of
    # one at the state of the other. Usual practice and Lagrange end at the same critical points.
    lagrange, practice = net(LAGRANGE), net(PRACTICE)
    first = flow(lagrange, start_of(lagrange), np.array([400.0]), nc.RKC(), rtol=1e-6, atol=1e-8)
    [rho] = first.final.norms
    matrices = (*first.final.matrices[:-1], rho * first.final.matrices[-1])
    slope = eqx.filter_jit(lambda problem, state: problem.gradient(state))(
        practice, nc.Layers(matrices)
    )
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(slope)) < 1e-5
    # There equation 12 holds, corrected (E31): Σ (1 − ρf̄)(V_k f̄ − ∂f̄/∂V_k) = 0.
    unit = nc.Layers(first.final.matrices)

    @jax.jit
    def terms(unit, rho):
        f, pull = jax.vjp(lambda s: SIGNS * lagrange.outputs(s, jnp.asarray(INPUTS))[:, 0], unit)
        weight = 1 - rho * f
        return jnp.sum(weight * f), *pull(weight)

    weighted, turned = terms(unit, rho)
    for v, slope in zip(unit.matrices, turned.matrices, strict=True):
        np.testing.assert_allclose(v * weighted, slope, atol=1e-5)


def test_the_flow_of_the_exponential_loss_reaches_ten_to_the_thousand():
    problem = nc.NormalizedReLUNet(
        INPUTS[:4],
        SIGNS[:4],
        (4,),
        parametrization=CARTESIAN,
        loss=nc.Exponential(),
        activation=linear,
    )
    found = nc.gradient_flow(
        problem, problem.init(jax.random.key(1)), nc.log_times(1000, 5), rtol=1e-6, atol=1e-8,
        observe=lambda state: {"log_objective": problem.log_objective(state)},
    )  # fmt: skip
    # L tends to c/(t log t): log L + log t + log log t comes to rest.
    log_time = np.asarray(found.log_time[1:])
    rest = np.asarray(found.observables["log_objective"])[1:] + log_time + np.log(log_time)
    assert np.ptp(rest[-3:]) < 0.1
    # Relative to the start, while ‖W‖² grows as log t.
    drift = found.observables["layer_balance_drift"][-1] / log_time[-1]
    assert drift < integration(1e-6)


def test_relu_kinks_are_integrated_with_a_least_step_or_a_smooth_relu():
    # A flow of a ReLU net slides along kinks. The truth is that of another integrator: descent at
    # a rate so small that its error, of first order, is under 1e-4.
    problem = net(activation=jax.nn.relu)
    start, times = start_of(problem), np.linspace(0.5, 20.0, 40)
    descent = nc.gradient_descent(
        problem, start, optax.sgd(2e-4), 100_000, save_steps=np.array([1]), observe=nothing
    )
    truth = outputs(problem, descent.final)
    assert np.abs(truth).max() > 0.4
    for step, error in ((0.1, 2e-2), (0.0125, 2e-3)):
        found = flow(problem, start, times, nc.RKC(), rtol=1e-5, atol=1e-7, min_step=step)
        # Rejected steps come on top of those that the least step allows.
        assert found.num_steps <= 2 * 20.0 / step
        assert found.observables["direction_norms_drift"][-1] < 0.1 * step
        assert np.abs(outputs(problem, found.final) - truth).max() < error
        assert np.max(np.diff(objectives(problem, found.states))) < 1e-5
    rounded = net(activation=nc.SmoothReLU(width=1e-6))
    found = flow(rounded, start, times, nc.RKC(), rtol=1e-5, atol=1e-7)
    assert found.num_steps < 1000
    assert np.all(np.diff(objectives(rounded, found.states)) < 0)
    assert np.abs(outputs(problem, found.final) - truth).max() < 2e-4


def test_descent_keeps_the_directions_normalised():
    problem = net(LAGRANGE, activation=jax.nn.relu)
    start = start_of(problem)
    found = nc.gradient_descent(
        problem, start, optax.sgd(0.2, momentum=0.9), 200, observe=nothing, save_states=True
    )
    assert np.max(found.observables["direction_norms_drift"]) < rounding()
    losses = objectives(problem, found.states)
    assert losses[-1] < 0.9 * losses[0]


@jax.jit
def sgd_step(state, rate, x, y):
    def loss(state):
        f = x @ state.matrices[0].T @ state.matrices[1].T @ state.matrices[2].T
        return jnp.mean((state.norms[0] * f[:, 0] - y) ** 2) + 0.02 * state.norms[0] ** 2

    slope, matrices = jax.grad(loss)(state), []
    for v, g in zip(state.matrices, slope.matrices, strict=True):
        v = v - rate * (g - jnp.sum(g * v) * v)
        matrices.append(v / jnp.linalg.norm(v))
    return nc.Layers(tuple(matrices), state.norms - rate * slope.norms)


def sgd_by_hand(state, rate, size, key, steps):
    """Stochastic descent written anew: an order for each epoch, the rest of it left out."""
    for step in range(steps):
        epoch, place = divmod(step, 8 // size)
        order = np.asarray(jax.random.permutation(jax.random.fold_in(key, epoch), 8))
        part = order[place * size : (place + 1) * size]
        state = sgd_step(state, rate, INPUTS[part], SIGNS[part])
    return state


def test_stochastic_descent_is_the_textbook_loop():
    problem, key, optimizer = net(LAGRANGE), jax.random.key(7), optax.sgd(0.1)
    start = start_of(problem)

    def descent(**options):
        last = np.array([7])
        return nc.gradient_descent(
            problem, start, optimizer, 7, save_steps=last, observe=nothing, **options
        ).final

    found = descent(batch_size=3, key=key)
    expected = sgd_by_hand(start, 0.1, 3, key, 7)
    for left, right in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(left, right, rtol=0, atol=rounding())
    # All samples in one batch are plain descent, whatever their order.
    whole, plain = descent(batch_size=8, key=key), descent()
    for left, right in zip(jax.tree.leaves(whole), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(left, right, rtol=0, atol=rounding())


@pytest.mark.parametrize(
    ("problem", "options", "message"),
    [
        (net(), {"batch_size": 9, "key": jax.random.key(0)}, "batch_size = 9: give an integer"),
        (net(), {"batch_size": 2}, "key = None: give the batches a key"),
        (net(), {"key": jax.random.key(0)}, "key without batch_size: give both"),
        (nc.ulpm(3, 4, 2), {"batch_size": 2}, "UnconstrainedFeatures has no samples"),
    ],
)  # fmt: skip
def test_invalid_batch_arguments_are_refused(problem, options, message):
    with pytest.raises(ValueError, match=message):
        nc.gradient_descent(problem, problem.init(jax.random.key(0)), optax.sgd(0.1), 5, **options)


RATES = np.array([0.2, 0.1, 0.05, 0.025, 0.0125])
END = 2.0
STEPS = np.round(END / RATES).astype(int)


def order_of(errors):
    """Slope of the errors against the rate, and how far a point is off the line."""
    slope, intercept = np.polyfit(np.log(RATES), np.log(errors), 1)
    return slope, np.abs(np.log(errors) - slope * np.log(RATES) - intercept).max()


moving_start = eqx.filter_jit(lambda equation, position: equation.start(position))


@eqx.filter_jit
def descents(problem, start, rate):
    """States of descent after each of `STEPS`, for a rate that is an argument."""
    return nc.gradient_descent(
        problem,
        start,
        optax.sgd(rate),
        int(STEPS[-1]),
        save_steps=STEPS,
        observe=nothing,
        save_states=True,
    ).states


@pytest.mark.parametrize("parametrization", [LAGRANGE, CARTESIAN], ids=repr)
def test_the_descent_equation_follows_descent_to_second_order(parametrization):
    problem = net(parametrization, widths=(4,))
    start = start_of(problem)
    exact = flow(problem, start, np.array([END])).final

    def ode(rate, velocity_factor):
        # Outside of a jit, where the rate is an argument of the flow's program.
        equation = nc.GradientDescentODE(problem, float(rate))
        moving = moving_start(equation, start)
        velocity = jax.tree.map(lambda v: velocity_factor * v, moving.velocity)
        return flow(
            equation, type(moving)(moving.position, velocity), np.array([END]), diffrax.Tsit5()
        ).final.position

    def error(left, right):
        return max(
            np.abs(x - y).max()
            for x, y in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
        )

    errors = {"moving": [], "at rest": [], "flow": [], "equation and flow": []}
    for i, rate in enumerate(RATES):
        descent = jax.tree.map(lambda leaf, i=i: leaf[i], descents(problem, start, rate))
        moving = ode(rate, 1.0)
        errors["moving"].append(error(moving, descent))
        errors["at rest"].append(error(ode(rate, 0.0), descent))
        errors["flow"].append(error(exact, descent))
        errors["equation and flow"].append(error(moving, exact))
    for name, order in {"moving": 2, "at rest": 1, "flow": 1, "equation and flow": 1}.items():
        slope, off = order_of(np.array(errors[name]))
        assert abs(slope - order) < 0.15, (name, slope, errors[name])
        assert off < 0.15, (name, off)


def test_the_descent_equation_keeps_the_directions_on_their_spheres():
    problem = net(LAGRANGE, widths=(4,))
    equation = nc.GradientDescentODE(problem, 0.3)
    moving = moving_start(equation, start_of(problem))
    found = flow(equation, moving, solver=diffrax.Tsit5())
    assert np.max(found.observables["direction_norms_drift"]) < integration(RTOL)
    assert found.states is not None
    speeds = np.sqrt(
        sum(
            np.sum(np.reshape(leaf, (len(TIMES), -1)) ** 2, axis=1)
            for leaf in jax.tree.leaves(found.states.velocity)
        )
    )
    assert speeds[-1] < speeds[0]
    # A push off the sphere is taken back to it, and so is a velocity.
    pushed = type(moving)(
        nc.Layers(tuple(1.5 * v for v in moving.position.matrices), moving.position.norms),
        moving.position,
    )
    retracted = eqx.filter_jit(lambda equation, state: equation.retract(state))(equation, pushed)
    for v, velocity in zip(retracted.position.matrices, retracted.velocity.matrices, strict=True):
        assert abs(np.linalg.norm(v) - 1) < rounding()
        assert abs(np.sum(v * velocity)) < rounding()


def test_the_scalar_descent_equation_is_the_damped_oscillator_of_equation_23():
    # (23) with frozen μ, M: underdamped where 4η(M + λ) > 1 (E43), with frequency
    # √(4η(M + λ) − 1)/η. One layer, one direction of input: f_V = x, so M is constant.
    problem = nc.NormalizedReLUNet(np.array([[1.0], [-1.0]]), SIGNS[:2], (), weight_decay=0.5)
    rate = 0.4  # 4η(M + λ) = 2.4
    start = nc.Layers((jnp.ones((1, 1)),), jnp.array([2.0]))
    times = np.linspace(0.05, 4, 80)
    equation = nc.GradientDescentODE(problem, rate)
    found = flow(equation, moving_start(equation, start), times)
    rest, omega, decay = 1 / 1.5, np.sqrt(2.4 - 1) / rate, 1 / rate
    away, speed = 2 - rest, 2 * (1 - 1.5 * 2)
    expected = np.exp(-decay * times) * (
        away * np.cos(omega * times) + (speed + decay * away) / omega * np.sin(omega * times)
    )
    assert found.states is not None
    norms = np.asarray(found.states.position.norms)[:, 0]
    np.testing.assert_allclose(norms - rest, expected, rtol=0, atol=integration(RTOL) * 2)
    assert np.any(norms < rest - 1e-3)
