"""Local minima of the separation problem, and the flows that tend to them."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from jax.flatten_util import ravel_pytree
from landscape_points import moved, random_state
from tolerances import integration, rounding

import nc_jax as nc
from nc_jax.landscape import separation_certificate

CODES = [
    (5, 3), (6, 4), (7, 4), (7, 5), (8, 5), (8, 6), (9, 5), (6, 3), (7, 3), (8, 3), (9, 3), (10, 3),
    *((classes, 2) for classes in range(3, 9)), (4, 3), (4, 5),
]  # fmt: skip


def code(classes, dim, size=1):
    problem = nc.ulpm(classes, dim, size)
    return problem, *nc.exact.best_known_code(problem, key=jax.random.key(0))


def packing(rows):
    """Five vectors in three dimensions with W = H."""
    rows = jnp.asarray(rows)
    return nc.LastLayer(rows, rows)


TRIANGLE_AND_PAIR = packing(
    jax.scipy.linalg.block_diag(nc.geometry.simplex_etf(3, 2), np.array([[1.0], [-1.0]]))
)
INCOMPLETE_CROSS_POLYTOPE = packing(np.kron(np.eye(3), [[1.0], [-1.0]])[:5])


@pytest.mark.parametrize(
    ("classes", "dim", "size"), [*((*sizes, 1) for sizes in CODES), (5, 3, 2), (7, 3, 3), (6, 2, 2)]
)
def test_every_code_is_a_local_minimum_with_no_zero_eigenvalues_but_rotations(classes, dim, size):
    problem, value, state = code(classes, dim, size)
    found = separation_certificate(problem, state)
    assert found.holds
    rank = min(dim, classes - 1)
    assert found.symmetries == rank * (2 * dim - rank - 1) // 2
    assert np.sum(np.abs(found.eigenvalues) < 1e-6) == found.symmetries
    assert found.eigenvalues[found.symmetries] > 0.5
    np.testing.assert_allclose(found.value, value, rtol=rounding())
    # ‖θ‖² = Σ λ ⟨θ, ∇s⟩ = 2 Σ λ.
    np.testing.assert_allclose(found.multipliers.sum(), value, rtol=1e-6)


def test_the_bipyramid_is_a_local_minimum_above_the_best_code():
    problem = nc.ulpm(7, 3, 1)
    value, state = nc.exact.pentagonal_bipyramid(problem)
    found = separation_certificate(problem, state)
    assert found.holds
    np.testing.assert_allclose([found.value, value], 7 + math.sqrt(5), rtol=rounding())
    assert value > nc.exact.separation_value(7, 3).value + 0.39


@pytest.mark.parametrize(("classes", "dim"), [(5, 3), (7, 3), (6, 2), (6, 4)])
@pytest.mark.parametrize("distance", [1e-5, 1e-3, 1e-2])
def test_the_certificate_fails_beside_a_code(classes, dim, distance):
    problem, _, state = code(classes, dim)
    found = separation_certificate(problem, moved(state, random_state(problem, 3), distance))
    assert not found.is_kkt
    assert not found.holds


def test_a_triangle_and_a_pair_are_a_kkt_point_and_no_minimum():
    found = separation_certificate(nc.ulpm(5, 3, 1), TRIANGLE_AND_PAIR)
    assert found.is_kkt
    assert not found.holds
    np.testing.assert_allclose(found.value, 5, rtol=rounding())
    assert found.eigenvalues[0] < -0.2


def test_a_cross_polytope_without_a_point_is_no_kkt_point():
    found = separation_certificate(nc.ulpm(5, 3, 1), INCOMPLETE_CROSS_POLYTOPE)
    assert not found.is_kkt
    assert found.epsilon > 0.4
    np.testing.assert_allclose(found.value, 5, rtol=rounding())


@pytest.mark.parametrize(("classes", "dim"), [(5, 3), (9, 5), (7, 3)])
def test_stationarity_and_hessian_are_those_of_the_lagrangian(classes, dim):
    problem, _, state = code(classes, dim)
    found = separation_certificate(problem, state)
    flat, unravel = ravel_pytree(found.point)

    def lagrangian(flat):
        state = unravel(flat)
        logits = state.logits()
        margins = jnp.diagonal(logits)[:, None] - logits
        return state.squared_norm() / 2 - jnp.sum(found.multipliers * (margins - 1))

    gradient = jax.jit(jax.grad(lagrangian))(flat)
    np.testing.assert_allclose(np.linalg.norm(gradient), found.epsilon, rtol=1e-5, atol=1e-12)
    assert found.epsilon < 1e-7
    hessian = np.asarray(jax.jit(jax.hessian(lagrangian))(flat))
    # The Hessian on the directions orthogonal to the gradients of the constraints with λ > 0.
    weighted = np.argwhere(found.multipliers > 1e-3)
    jacobian = jax.jit(jax.jacobian(lambda flat: unravel(flat).logits()))(flat)
    rows = np.array([jacobian[i, i] - jacobian[i, j] for i, j in weighted])
    _, singular, basis = np.linalg.svd(rows)
    free = basis[int(np.sum(singular > 1e-6)) :].T
    expected = np.linalg.eigvalsh(free.T @ hessian @ free)
    np.testing.assert_allclose(found.eigenvalues, expected, atol=1e-6)


@pytest.mark.parametrize(("classes", "dim"), [(5, 3), (6, 4), (8, 5), (9, 7), (8, 4)])
def test_pairs_and_singles_are_kkt_points_with_multipliers_in_closed_form(classes, dim):
    _, _, state = code(classes, dim)
    pairs, singles = classes - dim, 2 * dim - classes
    root = math.sqrt(2 * pairs / classes)
    multipliers = np.zeros((classes, classes))
    # Of a class in a pair: those of other pairs alone.
    multipliers[: 2 * pairs, : 2 * pairs] = 1 / (2 * (pairs - 1))
    for k in range(0, 2 * pairs, 2):
        multipliers[k : k + 2, k : k + 2] = 0
    # Of a single class: −(XXᵀ)^{−1/2} X off its label, for the rows X of the logits.
    if singles:
        multipliers[2 * pairs :, : 2 * pairs] = 1 / (classes * root)
        multipliers[2 * pairs :, 2 * pairs :] = (1 - root) / singles
    np.fill_diagonal(multipliers, 0)
    coupling = np.diag(multipliers.sum(1)) - multipliers
    w, h = np.asarray(state.classifier), np.asarray(state.features)
    np.testing.assert_allclose(coupling.T @ h, w, atol=rounding())
    np.testing.assert_allclose(coupling @ w, h, atol=rounding())
    assert multipliers.min() >= 0


def test_multipliers_of_a_degenerate_code_are_as_positive_as_they_can_be():
    # (9, 5) has 4 pairs, whose constraints against each other have multipliers that are not unique.
    problem, _, state = code(9, 5)
    found = separation_certificate(problem, state)
    within = found.multipliers[:8, :8]
    wrong = np.kron(1 - np.eye(4), np.ones((2, 2))) > 0
    assert np.all(within[wrong] > 0.01)
    # The constraints of pairs against the single class are active without a multiplier.
    assert np.all(found.multipliers[:8, 8] < 1e-6)


def test_classes_of_different_sizes_have_their_certificate():
    sizes = (4, 2, 1)
    problem = nc.UnconstrainedFeatures(sizes, 2, reduction="sum")
    centred = (np.eye(3) - 1 / 3)[problem.labels]
    left, singular, right = np.linalg.svd(centred)
    root = np.sqrt(singular[:2])
    state = nc.LastLayer(jnp.asarray(left[:, :2] * root), jnp.asarray(right.T[:, :2] * root))
    found = separation_certificate(problem, state)
    assert found.holds
    np.testing.assert_allclose(found.value, 2.997859313845, atol=1e-12)
    # λ_ic = −(L^{1/2})_{y_i c} with L the pseudo-inverse of the centred sizes.
    projector = np.eye(3) - 1 / 3
    values, vectors = np.linalg.eigh(projector @ np.diag(sizes) @ projector)
    inverse_root = vectors[:, 1:] / np.sqrt(values[1:]) @ vectors[:, 1:].T
    expected = np.where(np.eye(3, dtype=bool), 0, -inverse_root)[problem.labels]
    np.testing.assert_allclose(found.multipliers, expected, atol=1e-6)


def test_a_state_in_float32_has_a_certificate_at_its_tolerance():
    problem = nc.ulpm(7, 3, 1)
    _, state = nc.exact.best_known_code(problem, dtype=jnp.float32)
    found = separation_certificate(problem, state)
    assert found.tolerance == 1e-3
    assert found.holds


def test_the_flow_from_the_code_of_five_classes_is_the_reference_run():
    problem, _, state = code(5, 3)
    flow = nc.gradient_flow(
        problem,
        state,
        np.array([100.0]),
        clock=nc.RealTime(),
        rtol=1e-12,
        atol=1e-13,
        observe=("objective",),
    )
    final = flow.final
    np.testing.assert_allclose(problem.objective(final), 0.003419041024, atol=5e-13)
    norm = jnp.linalg.norm(final.classifier)
    gap = jnp.linalg.norm(final.classifier - final.features) / norm
    np.testing.assert_allclose(gap, 0.0725534143, atol=1e-10)
    squared = np.sum(np.asarray(final.classifier) ** 2, axis=1)
    np.testing.assert_allclose(squared[[0, 4]], [8.4692167358, 6.6559614815], atol=1e-9)


def late_value(log_loss, log_time):
    """V = L e^q with the q of Ei(q) = 2t, which is what a loss far along a flow says of V."""
    q = log_time
    for _ in range(60):  # Ei(q) = e^q/q (1 + 1/q + 2/q² + 6/q³ + …)
        q = math.log(2) + log_time + np.log(q) - np.log1p(1 / q + 2 / q**2 + 6 / q**3)
    return np.exp(log_loss + q)


def test_the_gap_of_late_times_is_the_inverse_exponential_integral():
    q = 40.0
    log_time = math.log(scipy.special.expi(q) / 2)
    np.testing.assert_allclose(late_value(-q, log_time), 1, rtol=24 / q**4 * 1.5)


# Starts by number, with the value of the code that each flow tends to.
LIMITS = {
    # Seed 6 tends to the bipyramid.
    (7, 3): ([4, 7, 6], [8.84044819] * 2 + [7 + math.sqrt(5)]),
    (5, 2): ([0, 1, 2, 3], [5 / (1 - math.cos(2 * math.pi / 5))] * 4),
    (6, 3): ([0, 1, 2, 5], [6.0] * 4),
}


@pytest.fixture(scope="module", params=LIMITS)
def flows(request):
    """Flows to t = 10^1000: the problem, the runs, and the values of their limits."""
    (classes, dim), (seeds, values) = request.param, LIMITS[request.param]
    problem = nc.ulpm(classes, dim, 1)
    keys = [jax.random.fold_in(jax.random.key(0), seed) for seed in seeds]
    starts = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(problem.init, keys))
    stop = 1000 * math.log(10)
    names = ("log_objective", "squared_norm", "margin_min")
    runs = nc.Flow(problem, np.array([0.7, 1.0]) * stop, rtol=1e-7, observe=names).batch(starts)
    return problem, runs, np.array(values)


def test_values_from_the_norm_and_from_the_loss_agree_to_three_over_log_time(flows):
    _, runs, limits = flows
    recorded = {name: np.asarray(values) for name, values in runs.observables.items()}
    log_time = runs.common_log_time()
    from_norm = recorded["squared_norm"] / 2 / recorded["margin_min"]
    from_loss = late_value(recorded["log_objective"], log_time)
    assert np.all(np.abs(from_loss / from_norm - 1) < 3 / log_time)
    assert np.all(np.abs(from_norm[:, -1] / limits - 1) < 3 / log_time[-1])
    # L t log t itself is V/2 · log t/q (1 + 1/q), short of V/2 by log log t/log t.
    crude = 2 * np.exp(recorded["log_objective"][:, -1] + log_time[-1] + math.log(log_time[-1]))
    q = log_time[-1] + math.log(2 * log_time[-1])
    np.testing.assert_allclose(
        crude / limits, log_time[-1] / q * (1 + 1 / q), atol=3 / log_time[-1]
    )
    assert np.all(np.abs(crude / limits - 1) > 3 / log_time[-1])


def test_the_growth_of_norm_and_gap_extrapolates_to_the_value(flows):
    # ½(‖W‖² + ‖H‖²) = V q + const + O(1/q) with q = log V − log L.
    _, runs, limits = flows
    squared, log_loss = (np.asarray(runs.observables[n]) for n in ("squared_norm", "log_objective"))
    slope = np.diff(squared)[:, 0] / 2 / -np.diff(log_loss)[:, 0]
    np.testing.assert_allclose(slope, limits, atol=1e-3)
    crude = squared[:, -1] / 2 / np.asarray(runs.observables["margin_min"])[:, -1]
    assert np.all(crude >= limits - integration(1e-7))


def test_the_limits_of_flows_are_certified_at_the_tolerance_of_their_time(flows):
    problem, runs, limits = flows
    tolerance = 1 / math.sqrt(runs.common_log_time()[-1])
    for i, limit in enumerate(limits):
        final = jax.tree.map(lambda leaf, i=i: leaf[i], runs.final)
        found = separation_certificate(problem, final, tolerance=tolerance)
        assert found.holds, (i, found.epsilon, found.eigenvalues[:6])
        np.testing.assert_allclose(found.value, limit, rtol=1e-3)
        assert not separation_certificate(problem, final).holds  # 1e-6 is not reached


def test_a_flow_leaves_a_triangle_and_a_pair_as_the_logarithm_of_log_time():
    # Measured: 5 − V grows by 0.003 to 0.005 when log t doubles, in 5 of 16 runs.
    problem, log_time = nc.ulpm(5, 3, 1), np.array([200.0, 400.0, 800.0, 1600.0])
    start = problem.init(jax.random.fold_in(jax.random.key(0), 11))
    run = nc.Flow(problem, log_time, rtol=1e-7, observe=("normalized_margin",))(start)
    values = 1 / (2 * np.asarray(run.observables["normalized_margin"]))
    assert np.all(values < 5)
    steps = -np.diff(values)
    assert np.all((steps > 0.002) & (steps < 0.006))
    assert values[-1] > 4.98  # far from 4.894, where other starts are at log t = 200


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p, s: separation_certificate(nc.zhu(5, 3, 1, 5e-3), s), "Ji's theorems are of"),
        (
            lambda p, s: separation_certificate(p, jax.tree.map(jnp.zeros_like, s)),
            "state has the smallest margin 0: give one that separates all samples",
        ),
        (lambda p, s: separation_certificate(p, s, tolerance=0.0), "tolerance = 0.0"),
        (
            lambda p, s: jax.jit(lambda s: separation_certificate(p, s).epsilon)(s),
            "state is traced",
        ),
        (lambda p, s: separation_certificate(nc.ulpm(5, 2, 1), s), "features has shape"),
    ],
)
def test_what_has_no_certificate_is_refused_in_one_line(call, message):
    problem, _, state = code(5, 3)
    with pytest.raises(ValueError, match=message) as refused:
        call(problem, state)
    assert "\n" not in str(refused.value)
