"""The flow of the square loss from balanced starts, by the Riccati formula."""

from typing import Literal

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
from exact.mixon_flows import no_observables
from tolerances import integration, rounding

import nc_jax as nc

KEY = jax.random.key(1)


def square_loss(
    sizes: tuple[int, ...],
    dim: int,
    reduction: Literal["mean", "sum"] = "sum",
    decay: float = 0.0,
):
    return nc.UnconstrainedFeatures(
        sizes, dim, loss=nc.SquaredError(), reduction=reduction,
        weight_decay=nc.WeightDecay(classifier=decay, features=decay),
    )  # fmt: skip


def stacked(state):
    """Q = [H; W], which the formula gives up to a rotation of its columns."""
    return np.concatenate([state.features, state.classifier], axis=-2)


def gram(rows):
    return rows @ np.swapaxes(rows, -1, -2)


solve = eqx.filter_jit(nc.exact.square_loss_flow)

# Sizes, d and λ: d < K, d = K and d > K; five classes of unequal sizes; past the decay at which the
# smallest class dies, and at it.
CASES = [
    ((5, 2, 1), 2, "sum", 0.1),
    ((5, 2, 1), 4, "sum", 1.0),
    ((7, 3), 5, "mean", 0.0),
    ((9, 4, 3, 2, 1), 3, "sum", 0.0),
    ((9, 4, 3, 2, 1), 6, "mean", 0.07),
    ((4, 4, 4), 3, "mean", 0.05),
]


def test_the_squared_norms_are_those_of_an_independent_computation():
    # λ = 0.1, and rows of the features in the direction of the classifier of their class.
    problem = square_loss((5, 2, 1), 2, decay=0.1)
    classifier = 0.1 * jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    features = (
        classifier[problem.labels] / jnp.sqrt(jnp.array([5.0, 2.0, 1.0]))[problem.labels, None]
    )
    state = solve(problem, nc.LastLayer(features, classifier), 3.0)
    np.testing.assert_allclose(
        np.sum(np.square(state.classifier), axis=1),
        [2.1321212364, 1.1232694539, 0.0945874325],
        rtol=0, atol=1e-10,
    )  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_formula_is_the_solution_of_scipy(case):
    problem = square_loss(*case)
    start = nc.exact.balanced_start(problem, KEY, 0.1)
    times = np.array([0.0, 1.0, 5.0, 25.0]) / problem.loss_scale
    labels = np.eye(problem.num_classes)[problem.labels]
    scale, decay, split = problem.loss_scale, case[3], problem.num_samples

    def field(t, flat):
        rows = flat.reshape(-1, problem.feature_dim)
        features, classifier = rows[:split], rows[split:]
        residual = scale * (features @ classifier.T - labels)
        moved = np.concatenate([residual @ classifier, residual.T @ features])
        return -(moved + decay * rows).ravel()

    found = scipy.integrate.solve_ivp(
        field, (0, times[-1]), stacked(start).ravel(), "DOP853", times, rtol=1e-13, atol=1e-15
    )
    rows = found.y.T.reshape(len(times), -1, problem.feature_dim)
    expected = gram(rows)
    formula = stacked(solve(problem, start, times))
    error = np.abs(gram(formula) - expected).max(axis=(1, 2))
    assert np.all(error < integration(1e-13) * np.abs(expected).max(axis=(1, 2)))
    # The rotation of feature space is near that of the flow, though it is not exact.
    turned = np.linalg.norm(formula - rows, axis=(1, 2)) / np.linalg.norm(rows, axis=(1, 2))
    assert turned.max() < 0.02
    assert turned[0] < rounding()


def flow_to(problem, start, times, **options):
    return nc.gradient_flow(
        problem, start, times, clock=nc.RealTime(), observe=no_observables, save_states=True,
        **options,
    )  # fmt: skip


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize(
    ("sizes", "dim"), [((5, 2, 1), 2), ((7, 3), 4), ((9, 4, 3, 2, 1), 3), ((9, 4, 3, 2, 1), 6)]
)
def test_an_integrated_flow_is_the_formula(sizes, dim, decay):
    problem = square_loss(sizes, dim, "sum", decay)
    start, times = nc.exact.balanced_start(problem, KEY, 0.3), np.linspace(0, 6, 7)
    traj = flow_to(problem, start, times, solver=diffrax.Dopri8(), rtol=1e-12, atol=1e-14)
    expected = gram(stacked(solve(problem, start, times)))
    found = gram(stacked(traj.states))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10 * np.abs(expected).max())


@pytest.mark.parametrize(("solver", "order"), [(diffrax.Euler(), 1), (diffrax.Bosh3(), 3)])
def test_a_solver_with_fixed_steps_converges_to_the_formula_at_its_order(solver, order):
    problem = square_loss((5, 2, 1), 2, "sum", 0.1)
    start, end = nc.exact.balanced_start(problem, KEY, 0.3), np.array([2.0])
    exact = gram(stacked(solve(problem, start, end)))
    errors = []
    for count in (100, 200, 400):
        steps = diffrax.StepTo(np.linspace(0, 2, count + 1))
        traj = flow_to(problem, start, end, solver=solver, stepsize_controller=steps)
        errors.append(np.abs(gram(stacked(traj.states)) - exact).max())
    np.testing.assert_allclose(np.log2(np.divide(errors[:-1], errors[1:])), order, atol=0.1)


def aligned(problem, values, imbalance=0.0):
    """A start with w_k along coordinate k, with products u of w and √n_k h, and w² − n_k h² = δ."""
    squares = np.sqrt(imbalance**2 + 4 * np.square(values))
    rows = [np.sqrt((squares + sign * imbalance) / 2) for sign in (1, -1)]
    classifier, means = (np.diag(row)[:, : problem.feature_dim] for row in rows)
    features = (means / np.sqrt(problem.class_sizes)[:, None])[problem.labels]
    return nc.LastLayer(jnp.asarray(features), jnp.asarray(classifier))


def test_along_class_vectors_every_class_is_logistic():
    # Saxe et al. 2014: ‖w_k‖² = z with z' = 2z(√n_k − z). Here the rotation is that of the flow.
    problem = square_loss((5, 2, 1), 3)
    start, values = np.array([0.1, 0.02, 3.0]), np.sqrt([5.0, 2.0, 1.0])
    times = np.array([0.3, 1.2, 40.0])
    state = solve(problem, aligned(problem, start), times)
    expected = values / (1 + (values / start - 1) * np.exp(-2 * values * times[:, None]))
    rows = np.sqrt(expected)[:, :, None] * np.eye(3)
    np.testing.assert_allclose(state.classifier, rows, rtol=0, atol=rounding())
    means = rows / np.sqrt(values[:, None]) ** 2
    np.testing.assert_allclose(state.features, means[:, problem.labels], rtol=0, atol=rounding())


@pytest.mark.parametrize("imbalance", [0.5, -2.0])
def test_one_unbalanced_mode_takes_the_time_of_its_integral(imbalance):
    # u = wh moves by u' = (y − u)√(δ² + 4u²), δ = w² − h² constant: an unbalanced start of which
    # the time to reach a value is known, where the Riccati formula does not hold.
    problem, start = square_loss((5, 2), 2), np.array([0.01, 0.02])
    times = np.array([0.2, 0.5, 1.0])
    state = aligned(problem, start, imbalance)
    traj = flow_to(problem, state, times, solver=diffrax.Dopri8(), rtol=1e-12, atol=1e-14)
    assert traj.states is not None
    for k, size in enumerate(problem.class_sizes):
        first = list(problem.labels).index(k)
        u = (
            np.sqrt(size)
            * np.asarray(traj.states.classifier)[:, k, k]
            * np.asarray(traj.states.features)[:, first, k]
        )
        y = np.sqrt(size)
        root = np.sqrt(imbalance**2 + 4 * y**2)

        def primitive(u, y=y, root=root):
            product = imbalance**2 + 4 * u * y + root * np.sqrt(imbalance**2 + 4 * u**2)
            return np.log(product / (y - u)) / root

        taken = primitive(u) - primitive(start[k])
        np.testing.assert_allclose(taken, times, rtol=1e-9)
    with pytest.raises(ValueError, match="closed form is for balanced starts"):
        nc.exact.square_loss_flow(problem, state, 1.0)


@pytest.mark.parametrize(
    ("sizes", "dim", "decay", "alive"),
    [
        ((9, 4, 1), 4, 0.5, 3),
        ((9, 4, 1), 4, 1.03, 2),
        ((9, 4, 1), 4, 0.97, 3),
        ((9, 4, 1), 2, 0, 2),
    ],
)
def test_late_states_are_the_minimum_that_the_decay_and_the_dimension_allow(
    sizes, dim, decay, alive
):
    # ‖w_k‖² = √n_k − λ of the d largest classes, and 0 where λ >= √n_k.
    problem = square_loss(sizes, dim, "sum", decay)
    start = nc.exact.balanced_start(problem, KEY, 0.1)
    late = solve(problem, start, np.array([2e3, 1e300]))
    rows = np.asarray(late.classifier)
    left = np.where(np.arange(3) < alive, np.maximum(np.sqrt(sizes) - decay, 0), 0)
    expected = np.broadcast_to(np.diag(left), (2, 3, 3))
    np.testing.assert_allclose(gram(rows), expected, rtol=0, atol=rounding(operations=10_000))
    assert np.all(np.isfinite(late.features))


def test_a_direction_that_the_start_does_not_have_stays_empty():
    # A singular value of 1e-17 would grow to order 1 by √n t = 37.
    problem = square_loss((9, 4, 1), 3)
    start = nc.exact.balanced_start(problem, KEY, 0.1)
    left, values, right = np.linalg.svd(start.classifier, full_matrices=False)
    classifier = jnp.asarray((left[:, :1] * values[:1]) @ right[:1])
    features = jnp.asarray(start.features) @ jnp.linalg.pinv(start.classifier) @ classifier
    late = solve(problem, nc.LastLayer(features, classifier), 100.0)
    spectrum = np.linalg.svd(late.classifier, compute_uv=False)
    np.testing.assert_allclose(spectrum, [np.sqrt(3), 0, 0], rtol=0, atol=rounding())


def test_tiny_starts_keep_their_precision():
    problem = square_loss((16, 16, 1, 1), 6)
    start = nc.exact.balanced_start(problem, KEY, 1.0)
    # The flow of the smallest class begins when the largest has grown by e^(4 · 40).
    tiny = jax.tree.map(lambda leaf: leaf * np.exp(-40.0), start)
    first, last = solve(problem, tiny, np.array([5.0, 60.0])).classifier
    sums = jax.ops.segment_sum(start.features, problem.labels, problem.num_classes)
    growing = (start.classifier + sums / np.sqrt(problem.class_sizes)[:, None]) / 2
    scale = np.exp(5 * np.sqrt(problem.class_sizes) - 40)[:, None]
    np.testing.assert_allclose(first[:2], (growing * scale)[:2], rtol=1e-8)
    np.testing.assert_allclose(gram(last), np.diag([4.0, 4, 1, 1]), rtol=0, atol=1e-10)
    zero = jax.tree.map(jnp.zeros_like, start)
    assert np.all(solve(problem, zero, 3.0).features == 0)


def test_a_mean_loss_is_the_sum_in_another_unit_of_time():
    start = nc.exact.balanced_start(square_loss((5, 2), 3), KEY)
    summed = solve(square_loss((5, 2), 3, "sum", 0.7), start, 2.0)
    mean = solve(square_loss((5, 2), 3, "mean", 0.1), start, 14.0)
    np.testing.assert_allclose(summed.features, mean.features, rtol=0, atol=rounding())


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("loss", [nc.CrossEntropy(), nc.SquaredError()])
def test_a_balanced_start_stays_balanced_with_every_loss(loss, reduction):
    problem = nc.UnconstrainedFeatures((4, 2, 1), 5, loss=loss, reduction=reduction)
    start = nc.exact.balanced_start(problem, KEY, 0.7)
    np.testing.assert_allclose(jnp.linalg.norm(start.classifier), 0.7, rtol=rounding())
    np.testing.assert_allclose(jnp.linalg.norm(start.features), 0.7, rtol=rounding())
    assert jnp.abs(start.features[0] - start.features[1]).max() > 1e-2
    traj = flow_to(problem, start, np.array([3.0]), rtol=1e-10, atol=1e-12)
    for state in (start, traj.final):
        invariant = problem.invariants(state)["balance"].value
        assert np.abs(invariant).max() < integration(1e-10)


def test_shapes_and_dtypes_follow_time_and_state():
    problem = square_loss((3, 1), 4)
    start = nc.exact.balanced_start(problem, KEY, 0.1, dtype="float32")
    times = np.linspace(0, 1, 6).reshape(2, 3)
    state = solve(problem, start, times)
    assert state.features.shape == (2, 3, 4, 4)
    assert state.classifier.shape == (2, 3, 2, 4)
    assert state.features.dtype == state.classifier.dtype == np.float32
    # In float64 the start is balanced to float32 only; the nearest balanced one is compared.
    features, classifier = (leaf.astype("float64") for leaf in (start.features, start.classifier))
    left, _, right = jnp.linalg.svd(features @ jnp.linalg.pinv(classifier), full_matrices=False)
    wide = nc.LastLayer(left @ right @ classifier, classifier)
    error = gram(stacked(state)) - gram(stacked(solve(problem, wide, times)))
    assert np.abs(error).max() < rounding("float32")


def test_a_traced_start_that_is_not_balanced_gives_nan():
    problem = square_loss((3, 1), 4)
    state = solve(problem, problem.init(KEY), 1.0)
    assert np.all(np.isnan(state.classifier))


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (nc.ulpm(2, 4, (3, 1)), "CrossEntropy, bias False: the flow has a closed form for Squared"),
        (nc.mixon(2, 4, 2), "SquaredError, bias True"),
        (
            nc.UnconstrainedFeatures(
                (3, 1), 4, loss=nc.SquaredError(),
                weight_decay=nc.WeightDecay(classifier=0.1, features=0.2),
            ),
            r"weight decay classifier = 0\.1, features = 0\.2: the flow has a closed form where",
        ),
        (square_loss((3, 1), 4), r"‖WᵀW − HᵀH‖ is 0\.\d+ of ‖W‖² \+ ‖H‖², where 2e-13 is allowed"),
    ],
)  # fmt: skip
def test_what_the_formula_does_not_cover_is_refused_in_one_line(problem, message):
    with pytest.raises(ValueError, match=message) as refused:
        nc.exact.square_loss_flow(problem, problem.init(KEY), 1.0)
    assert "\n" not in str(refused.value)


def test_a_batch_of_starts_is_each_of_them():
    problem = square_loss((5, 2, 1), 2)
    keys = jax.random.split(KEY, 3)
    starts = jax.vmap(lambda key: nc.exact.balanced_start(problem, key, 0.1))(keys)
    batch = jax.jit(jax.vmap(lambda start: nc.exact.square_loss_flow(problem, start, 2.0)))(starts)
    for i in range(3):
        single = solve(problem, jax.tree.map(lambda leaf, i=i: leaf[i], starts), 2.0)
        np.testing.assert_allclose(batch.features[i], single.features, rtol=0, atol=rounding())
