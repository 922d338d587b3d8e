"""The normalised model: its field, its flow against SciPy, its batches, sweeps and descents."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compilation_counts import counted
from jax.flatten_util import ravel_pytree
from scipy.integrate import solve_ivp
from tolerances import integration, rounding

import nc_jax as nc

KEY = jax.random.key(0)
PROBLEM = nc.NormalizedFeatures((3, 2, 1), 3, inverse_temperature=2.5)
MODELS = {
    "unequal classes": PROBLEM,
    "summed": nc.NormalizedFeatures((2, 2), 4, inverse_temperature=0.7, reduction="sum"),
    "square loss": nc.NormalizedFeatures(
        (2, 2), 2, inverse_temperature=1.5, loss=nc.SquaredError()
    ),
}


@eqx.filter_jit
def scaled(problem, state, log_scale):
    return problem.scaled_descent(state, log_scale)


@pytest.mark.parametrize("name", MODELS)
def test_the_field_is_minus_the_gradient_of_the_loss_of_normalised_rows(name):
    """Autodiff of L(x/‖x‖) at unit rows, where L is written here without the package's losses."""
    problem = MODELS[name]
    state = problem.init(KEY)
    flat, unravel = ravel_pytree(state)
    targets = np.eye(problem.num_classes)[problem.labels]

    def loss(x):
        rows = jax.tree.map(lambda m: m / jnp.sqrt(jnp.sum(m**2, 1, keepdims=True)), unravel(x))
        logits = problem.inverse_temperature * rows.features @ rows.classifier.T
        if isinstance(problem.loss, nc.SquaredError):
            each = jnp.sum((logits - targets) ** 2, axis=1) / 2
        else:
            each = jax.nn.logsumexp(logits, axis=1) - jnp.sum(targets * logits, axis=1)
        return jnp.mean(each) if problem.reduction == "mean" else jnp.sum(each)

    value, gradient = jax.jit(jax.value_and_grad(loss))(flat)
    np.testing.assert_allclose(problem.objective(state), value, rtol=rounding())
    np.testing.assert_allclose(
        problem.log_objective(state), np.log(value), rtol=rounding(), atol=rounding()
    )
    found = ravel_pytree(scaled(problem, state, 0.0))[0]
    np.testing.assert_allclose(found, -gradient, atol=rounding())
    np.testing.assert_allclose(ravel_pytree(problem.gradient(state))[0], gradient, atol=rounding())


def test_the_field_in_log_space_stays_of_order_one_where_the_loss_underflows():
    problem = nc.NormalizedFeatures((1, 1), 2, inverse_temperature=2000.0)
    # Two classes at an angle of 170°: the loss e^(−τ(1 + cos 10°)) is below e^(−3000).
    angle = np.radians(170)
    rows = jnp.array([[1.0, 0.0], [np.cos(angle), np.sin(angle)]])
    state = nc.LastLayer(rows, rows)
    log_loss = problem.log_objective(state)
    assert log_loss < -3000
    found = scaled(problem, state, -log_loss)
    speed = ravel_norm(found)
    # Along a turn of h by ds the logit gap changes by τ sin(10°) ds; one sample is half of a mean.
    assert 0.1 < speed / (2000 * np.sin(np.pi - angle)) < 2


def ravel_norm(tree):
    return jnp.linalg.norm(ravel_pytree(tree)[0])


@pytest.mark.parametrize("clock", [nc.RealTime(), nc.LogTime()], ids=["real", "log"])
def test_the_flow_is_that_of_scipy(clock):
    rtol = 1e-9
    start = PROBLEM.init(KEY)
    flat = ravel_pytree(start)[0]
    labels, total = np.asarray(PROBLEM.labels), PROBLEM.num_samples

    def field(_, x):
        features, classifier = x[: 3 * total].reshape(total, 3), x[3 * total :].reshape(-1, 3)
        odds = np.exp(2.5 * features @ classifier.T)
        residual = 2.5 * (odds / odds.sum(1, keepdims=True) - np.eye(3)[labels]) / total
        parts = ((features, residual @ classifier), (classifier, residual.T @ features))
        velocity = [-(g - np.sum(g * x, 1, keepdims=True) * x) for x, g in parts]
        return np.concatenate([part.ravel() for part in velocity])

    times = np.array([1.0, 10.0])
    exact = solve_ivp(
        field, (0, 10), np.asarray(flat), method="DOP853", t_eval=times, rtol=1e-12, atol=1e-14
    ).y.T
    save_at = np.log1p(times) if isinstance(clock, nc.LogTime) else times
    traj = nc.gradient_flow(
        PROBLEM, start, save_at, clock=clock, rtol=rtol, atol=1e-12, save_states=True,
        observe=lambda state: {"objective": PROBLEM.objective(state)},
    )  # fmt: skip
    for i, reference in enumerate(exact):
        state = jax.tree.map(lambda leaf, i=i: leaf[i], traj.states)
        np.testing.assert_allclose(ravel_pytree(state)[0], reference, atol=integration(rtol))


def test_a_flow_conserves_the_norms_and_ends_at_the_closed_form():
    problem = nc.NormalizedFeatures((2, 2, 2), 3, inverse_temperature=3.0)
    names = ("objective", "zhu_nc2", "cosine_margin_min", "row_norms_drift", "ji_self_duality")
    flow = nc.Flow(problem, nc.log_times(4, 3), observe=names, rtol=1e-9, atol=1e-12)
    found = flow(problem.init(KEY)).observables
    assert np.max(found["row_norms_drift"]) < integration(1e-9)
    least = nc.exact.normalized_minimum(problem)
    np.testing.assert_allclose(found["objective"][-1], least, rtol=integration(1e-9))
    np.testing.assert_allclose(found["cosine_margin_min"][-1], 3 / 2, rtol=integration(1e-9))
    assert found["zhu_nc2"][-1] < 1e-6 < found["zhu_nc2"][0]
    assert found["ji_self_duality"][-1] < 1e-6


def test_a_flow_of_more_classes_ends_at_a_code_and_never_exceeds_its_value():
    """Six classes in three dimensions: an octahedron, critical at any τ by its symmetry."""
    problem = nc.NormalizedFeatures((1,) * 6, 3, inverse_temperature=4.0)
    flow = nc.Flow(problem, nc.log_times(3.5, 15), observe=("cosine_margin_min", "zhu_nc3"))
    traj = flow(problem.init(KEY))
    margins = np.asarray(traj.observables["cosine_margin_min"])
    value = nc.exact.softmax_code(6, 3).value
    assert np.all(margins <= value + rounding())
    np.testing.assert_allclose(margins[-1], value, rtol=1e-6)
    gnc2 = nc.metrics.measure(
        traj.final.features, problem.labels, classifier=traj.final.classifier, names=["jiang_gnc2"]
    )["jiang_gnc2"]
    np.testing.assert_allclose(gnc2, value, rtol=1e-6)
    assert nc.landscape.classify(problem, traj.final, tolerance=1e-6).kind == "minimum"


def test_norms_off_one_are_conserved_too_so_that_errors_do_not_grow():
    state = jax.tree.map(lambda rows: 1.1 * rows, PROBLEM.init(KEY))
    velocity = scaled(PROBLEM, state, 0.0)
    for rows, field in zip(jax.tree.leaves(state), jax.tree.leaves(velocity), strict=True):
        np.testing.assert_allclose(jnp.sum(rows * field, axis=1), 0, atol=rounding())


@pytest.mark.parametrize("shape", [((2, 1, 2), 3), ((2, 2), 1), ((200, 100), 3)])
def test_lanes_are_single_states(shape):
    problem = nc.NormalizedFeatures(*shape, inverse_temperature=2.0)
    states = [problem.init(key) for key in jax.random.split(KEY, 3)]
    lanes = jax.tree.map(lambda *leaves: jnp.stack(leaves, axis=-1), *states)
    found = eqx.filter_jit(problem.scaled_descent_lanes)(lanes, 0.3)
    for lane, state in enumerate(states):
        one = jax.tree.map(lambda leaf, lane=lane: leaf[..., lane], found)
        expected = scaled(problem, state, 0.3)
        np.testing.assert_allclose(ravel_pytree(one)[0], ravel_pytree(expected)[0], atol=rounding())


def test_the_inverse_temperature_is_an_argument_of_programs():
    def run(tau):
        problem = nc.NormalizedFeatures((1, 1, 1), 2, inverse_temperature=tau)
        start = problem.init(KEY)
        observe = ("objective",)
        flow = nc.Flow(problem, np.array([400.0]), clock=nc.RealTime(), observe=observe)
        return flow(start).observables["objective"][-1]

    alone = [run(1.0)]
    with counted() as counts:
        alone += [run(2.0), run(3.5)]
    assert counts.compiled == 0
    together = jax.jit(jax.vmap(run))(jnp.array([1.0, 2.0, 3.5]))
    np.testing.assert_allclose(together, alone, rtol=integration(1e-8))
    for tau, value in zip((1.0, 2.0, 3.5), alone, strict=True):
        problem = nc.NormalizedFeatures((1, 1, 1), 2, inverse_temperature=tau)
        np.testing.assert_allclose(value, nc.exact.normalized_minimum(problem), rtol=1e-4)


def test_a_batch_a_sweep_and_a_store_have_the_single_runs(tmp_path):
    def run(key, tau):
        problem = nc.NormalizedFeatures((2, 2), 2, inverse_temperature=tau)
        observe = ("objective", "row_norms_drift", "cosine_margin_min")
        flow = nc.Flow(problem, nc.log_times(2, 3), observe=observe)
        return flow, problem.init(key)

    path = tmp_path / "sweep.zarr"
    sweep = functools.partial(nc.sweep, run, 3, grid={"tau": [1.0, 4.0]}, progress=False, path=path)
    data = sweep().load()
    assert data["objective"].sizes == {"tau": 2, "seed": 3, "time": 3}
    assert data["cosine_margin_min"].attrs["long_name"].startswith("min_i min_{j≠y_i}")
    for tau in (1.0, 4.0):
        for seed in range(3):
            flow, start = run(jax.random.fold_in(jax.random.key(0), seed), tau)
            single = flow(start).observables["objective"]
            stored = data["objective"].sel(tau=tau, seed=seed)
            np.testing.assert_allclose(stored, single, rtol=integration(1e-8))
    assert float(abs(data["row_norms_drift"]).max()) < integration(1e-8)
    resumed = sweep().load()
    assert data.equals(resumed)


@pytest.mark.parametrize("optimizer", [optax.sgd(1.0), optax.adam(0.05)], ids=["sgd", "adam"])
def test_descent_stays_on_the_spheres_and_reaches_the_minimum(optimizer):
    problem = nc.NormalizedFeatures((2, 2, 2), 3, inverse_temperature=2.0)
    traj = nc.gradient_descent(problem, problem.init(KEY), optimizer, 600)
    for rows in jax.tree.leaves(traj.final):
        np.testing.assert_allclose(jnp.linalg.norm(rows, axis=1), 1, rtol=rounding())
    least = nc.exact.normalized_minimum(problem)
    np.testing.assert_allclose(traj.observables["objective"][-1], least, rtol=1e-3)


def test_small_steps_of_descent_are_the_flow():
    problem = MODELS["unequal classes"]
    start, rate = problem.init(KEY), 1e-3
    steps = nc.gradient_descent(problem, start, optax.sgd(rate), 1000)
    flow = nc.gradient_flow(problem, start, np.array([1.0]), clock=nc.RealTime())
    end, limit = steps.final.features, flow.final.features
    # Euler's method with retraction is of first order in the rate.
    assert 0 < float(jnp.abs(end - limit).max()) < rate


def test_starts_are_uniform_unit_rows_with_the_same_bits_in_a_batch():
    problem = nc.NormalizedFeatures((500, 500), 3, inverse_temperature=1.0)
    keys = jax.random.split(KEY, 4)
    batch = jax.jit(jax.vmap(problem.init))(keys)
    for i, key in enumerate(keys):
        alone = problem.init(key)
        np.testing.assert_array_equal(batch.features[i], alone.features)
        np.testing.assert_array_equal(batch.classifier[i], alone.classifier)
    rows = np.asarray(batch.features).reshape(-1, 3)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=rounding())
    # On the sphere in three dimensions each coordinate is uniform in [−1, 1].
    moments = [np.mean(rows, axis=0), np.mean(rows**2, axis=0) - 1 / 3]
    assert np.abs(moments).max() < 5 * np.sqrt(1 / 3 / len(rows))


def test_a_run_in_float32_is_that_in_float64():
    narrow = PROBLEM.init(KEY, dtype=np.float32)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(narrow)} == {"float32"}
    wide = jax.tree.map(lambda leaf: leaf.astype(np.float64), narrow)
    array = eqx.tree_at(lambda p: p.inverse_temperature, PROBLEM, jnp.asarray(2.5))
    ends = [
        nc.gradient_flow(problem, start, nc.log_times(2, 2)).observables["objective"]
        for problem, start in ((PROBLEM, narrow), (array, narrow), (PROBLEM, wide))
    ]
    assert ends[0].dtype == ends[1].dtype == np.float32
    np.testing.assert_allclose(ends[0], ends[2], rtol=integration(1e-5))
    np.testing.assert_allclose(ends[1], ends[2], rtol=integration(1e-5))


class Doubled(nc.NormalizedFeatures):
    """Another field, for which the Riemannian Hessian is not known."""

    def scaled_descent(self, state, log_scale):
        return jax.tree.map(lambda leaf: 2 * leaf, super().scaled_descent(state, log_scale))


class Named(nc.NormalizedFeatures):
    """The same formulas, and one more observable."""

    def observe(self, state):
        return super().observe(state) | {"first": state.features[0, 0]}


def test_a_subclass_with_another_field_claims_nothing():
    problem = Doubled((1, 1), 2, inverse_temperature=1.0)  # pyright: ignore[reportCallIssue]
    assert not problem.has_unit_rows
    assert not nc.problems.is_normalized(problem)
    with pytest.raises(ValueError, match="is_gradient_flow = False"):
        nc.landscape.classify(problem, problem.init(KEY))
    with pytest.raises(ValueError, match="give a nc_jax"):
        nc.exact.normalized_minimum(problem)
    same = Named((1, 1), 2, inverse_temperature=1.0)  # pyright: ignore[reportCallIssue]
    assert nc.problems.is_normalized(same)
    assert "first" in same.observables()
    states = [problem.init(key) for key in jax.random.split(KEY, 2)]
    lanes = jax.tree.map(lambda *leaves: jnp.stack(leaves, axis=-1), *states)
    found = problem.scaled_descent_lanes(lanes, 0.0)
    expected = problem.scaled_descent(states[1], 0.0)
    np.testing.assert_allclose(found.features[..., 1], expected.features, atol=rounding())
