"""The landscape of normalised models on the product of spheres, at collapse and elsewhere."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy.optimize import minimize, root_scalar
from tolerances import rounding

import nc_jax as nc
from nc_jax import landscape
from nc_jax.landscape.domains import domain_of

KEY = jax.random.key(0)


def model(sizes, dim, tau, **options):
    return nc.NormalizedFeatures(sizes, dim, inverse_temperature=tau, **options)


@eqx.filter_jit
def classified(problem, state):
    return landscape.classify(problem, state)


def state_of(rows, classifier=None):
    rows = jnp.asarray(rows)
    return nc.LastLayer(rows, rows if classifier is None else jnp.asarray(classifier))


def test_the_hessian_is_the_second_derivative_along_great_circles():
    """At a state that is not critical, where a wrong radial term would show."""
    problem = model((2, 1, 2), 3, 2.0)
    state, noise = problem.init(KEY), problem.init(jax.random.key(1))
    domain = domain_of(problem)
    along = domain.project(state, noise)
    along = jax.tree.map(lambda leaf: leaf / jnp.linalg.norm(ravel_pytree(along)[0]), along)

    def loss(step):
        return problem.objective(domain.move(state, along, step))

    slope, curvature = jax.jit(lambda s: (jax.grad(loss)(s), jax.hessian(loss)(s)))(1e-3)
    at = domain.move(state, along, jnp.asarray(1e-3))
    for rows in jax.tree.leaves(at):
        np.testing.assert_allclose(jnp.linalg.norm(rows, axis=1), 1, rtol=rounding())
    product = landscape.hessian_vector_product(problem, state, along)
    found = np.vdot(ravel_pytree(along)[0], ravel_pytree(product)[0])
    # The curvature at a step of 1e-3 differs from that at 0 by about 1e-3 of it.
    np.testing.assert_allclose(found, curvature, rtol=2e-2)
    first = np.vdot(ravel_pytree(along)[0], ravel_pytree(problem.gradient(state))[0])
    np.testing.assert_allclose(first + 1e-3 * found, slope, rtol=1e-4)


def test_the_dense_matrix_is_symmetric_and_has_the_normals_in_its_kernel():
    problem = model((2, 1, 2), 3, 2.0)
    state = problem.init(KEY)
    hessian = np.asarray(landscape.dense_hessian(problem, state))
    for part in jax.tree.leaves(
        landscape.hessian_vector_product(problem, state, state), is_leaf=eqx.is_array
    ):
        np.testing.assert_allclose(part, 0, atol=rounding())
    values = np.linalg.eigvalsh(hessian)
    assert np.sum(np.abs(values) < 1e-12) >= problem.num_samples + problem.num_classes


@pytest.mark.parametrize(("sizes", "dim"), [((2, 2, 2), 2), ((2, 2, 2, 2), 4), ((1,) * 5, 4)])
def test_collapse_is_a_minimum_whose_zero_eigenvalues_are_rotations(sizes, dim):
    problem = model(sizes, dim, 2.5)
    state = nc.exact.normalized_minimizer(problem, key=KEY)
    found = classified(problem, state)
    assert found.kind == "minimum"
    spectrum = nc.exact.normalized_spectrum(problem)
    rotations = int(spectrum.multiplicities[1])
    assert int(found.symmetries) == int(found.nullity) == rotations
    assert int(found.index) == 0
    np.testing.assert_allclose(found.eigenvalue, spectrum.rate, rtol=1e-9)
    assert int(landscape.symmetry_dimension(problem, state)) == rotations


@pytest.mark.parametrize("tau", [0.5, 3.0])
def test_two_merged_classes_and_antipodal_classifiers_are_strict_saddles(tau):
    problem = model((1, 1, 1), 2, tau)
    # Two of three classes share a direction, and the third is opposite: critical by symmetry.
    merged = classified(problem, state_of([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]]))
    assert merged.kind == "strict saddle"
    # All features opposite to their classifiers: the largest loss.
    state = nc.exact.normalized_minimizer(problem)
    opposite = classified(problem, nc.LastLayer(-state.features, state.classifier))
    assert opposite.kind == "strict saddle"
    assert int(opposite.index) > int(merged.index) >= 1
    # The escape direction lowers the loss along its great circles.
    state = state_of([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    reach = landscape.descent_range(problem, state, merged.escape_direction)
    assert 0.1 < reach <= np.pi * np.sqrt(6)


def test_a_lanczos_search_agrees_with_the_closed_form():
    problem = model((2, 2, 2), 3, 2.5)
    state = nc.exact.normalized_minimizer(problem)
    spectrum = nc.exact.normalized_spectrum(problem)
    found = landscape.extreme_eigenpairs(problem, state, num=4)
    # Of the tangent space, so that the zeros are those of the three rotations alone.
    np.testing.assert_allclose(found.values[:3], 0, atol=1e-9)
    np.testing.assert_allclose(found.values[3], spectrum.rate, rtol=1e-8)
    largest = jnp.max(spectrum.values)
    np.testing.assert_allclose(landscape.sharpness(problem, state), largest, rtol=1e-9)


def test_a_state_whose_loss_underflows_is_classified_at_a_common_scale():
    problem = model((1,) * 4, 3, 800.0)
    state = nc.exact.normalized_minimizer(problem)
    scale = -problem.log_objective(state)
    assert scale > 1000
    assert landscape.classify(problem, state, log_scale=scale).kind == "minimum"


def test_one_sphere_through_a_state_of_unit_rows_is_refused():
    problem = model((1, 1), 2, 1.0)
    with pytest.raises(ValueError, match="is_gradient_flow = False"):
        landscape.classify(landscape.OnSphere(problem), problem.init(KEY))


# The pentagonal bipyramid, K = 7 and d = 3: critical at every τ with H = W, because each row is
# fixed by a symmetry of the code that fixes no other direction.
TURNS = 2 * np.pi * np.arange(5) / 5
RING = np.stack([np.cos(TURNS), np.sin(TURNS), 0 * TURNS], axis=1)
BIPYRAMID = np.concatenate([RING, [[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]]])


@jax.jit
def smallest_at_bipyramid(tau):
    found = landscape.classify(model((1,) * 7, 3, tau), state_of(BIPYRAMID))
    return found.eigenvalue, found.gradient_norm, found.index


def crossing(low, high):
    found = root_scalar(lambda tau: float(smallest_at_bipyramid(tau)[0]), bracket=(low, high))
    return found.root


def test_the_bipyramid_is_a_minimum_between_two_inverse_temperatures():
    """The upper one is the first step from the code of small τ to the code of large τ."""
    upper, lower = crossing(4.7, 4.9), crossing(1.0, 1.2)
    assert f"{upper:.6f}" == "4.809822"
    for tau in (0.97 * lower, 1.03 * lower, 3.0, 0.97 * upper, 1.03 * upper):
        value, gradient, index = smallest_at_bipyramid(tau)
        assert gradient < rounding()
        inside = lower < tau < upper
        assert bool(value > 0) is inside
        # The mode that crosses zero is doubly degenerate.
        assert int(index) == (0 if inside else 2)


class Lowered:
    """Local minima of the log loss over unit rows by SciPy, from rows that H and W start with."""

    def __init__(self, classes, dim):
        like = state_of(np.zeros((classes, dim)))
        unravel = ravel_pytree(like)[1]

        def log_loss(x, tau):
            problem = model((1,) * classes, dim, tau)
            return problem.log_objective(problem.retract(unravel(x)))

        self.value = jax.jit(jax.value_and_grad(log_loss))
        self.shape = classes, dim

    def __call__(self, tau, *rows):
        start = np.concatenate([np.ravel(each) for each in (rows if len(rows) > 1 else 2 * rows)])
        found = minimize(
            self.value, start, jnp.asarray(tau), jac=True, method="L-BFGS-B",
            options={"ftol": 1e-16, "gtol": 1e-12, "maxiter": 5000},
        )  # fmt: skip
        halves = found.x.reshape(2, *self.shape)
        return found.fun, halves / np.linalg.norm(halves, axis=2, keepdims=True)


def test_beyond_the_crossing_the_minimum_leaves_the_bipyramid_continuously():
    """W ≠ H, and the distance grows as √(τ − τ_c), as at a pitchfork."""
    lowered, upper = Lowered(7, 3), 4.809821929
    noise = 1e-2 * np.random.default_rng(0).normal(size=(2, 7, 3))
    distances = []
    for excess in (0.005, 0.02):
        _, (features, classifier) = lowered(upper + excess, *(BIPYRAMID + noise))
        distances.append(np.linalg.norm(features - classifier))
    np.testing.assert_allclose(distances[1] / distances[0], 2, rtol=0.1)
    assert 1e-4 < distances[0] < 1e-3


def test_at_8_the_minimum_is_below_the_bipyramid():
    problem, lowered = model((1,) * 7, 3, 8.0), Lowered(7, 3)
    assert f"{float(problem.objective(state_of(BIPYRAMID))):.10f}" == "0.0066102582"
    log_loss, (features, classifier) = lowered(8.0, nc.exact.softmax_code(7, 3).directions)
    assert f"{np.exp(log_loss):.10f}" == "0.0059195922"
    assert 1e-5 < np.linalg.norm(features - classifier) < 1e-3
    noise = np.random.default_rng(0).normal(size=(2, 7, 3))
    from_bipyramid, _ = lowered(8.0, *(BIPYRAMID + 0.1 * noise))
    np.testing.assert_allclose(from_bipyramid, log_loss, atol=1e-8)


def tilted_pairs(classes, dim):
    """K−d antipodal pairs along the axes, tilted away from 2d−K single directions."""
    pairs, singles = classes - dim, 2 * dim - classes
    rows = np.zeros((classes, dim))
    rows[np.arange(singles), pairs + np.arange(singles)] = 1
    for pair in range(pairs):
        for end, sign in enumerate((1, -1)):
            rows[singles + 2 * pair + end, pair] = sign
            rows[singles + 2 * pair + end, pairs:] = -0.3 / np.sqrt(singles)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


# K, d, τ*, and K e^τ L of tilted pairs and of simplex and pairs at τ = 24.
ORTHOPLEX = [
    (5, 3, "6.8851", 10.478, 12.000),
    (6, 4, "9.844", 13.535, 16.004),
    (7, 5, "12.90", 17.255, 20.049),
    (7, 4, "4.340", 29.001, 32.000),
]


@pytest.mark.parametrize(("classes", "dim", "threshold", "tilted", "aligned"), ORTHOPLEX)
def test_tilted_pairs_are_below_simplex_and_pairs_beyond_a_threshold(
    classes, dim, threshold, tilted, aligned
):
    """Two local minima whose order changes: that no other code is lower is not excluded."""
    lowered = Lowered(classes, dim)
    starts = tilted_pairs(classes, dim), np.asarray(nc.exact.softmax_code(classes, dim).directions)
    for rows, expected in zip(starts, (tilted, aligned), strict=True):
        log_loss, _ = lowered(24.0, rows)
        np.testing.assert_allclose(classes * np.exp(24 + log_loss), expected, atol=6e-4)
    # As τ → ∞ these tend to 4k(k−1) and 4d(k−1), k = K−d.
    pairs = classes - dim
    assert 4 * pairs * (pairs - 1) < tilted < aligned
    np.testing.assert_allclose(aligned, 4 * dim * (pairs - 1), rtol=4e-3)

    def difference(tau):
        return lowered(tau, starts[0])[0] - lowered(tau, starts[1])[0]

    expected = float(threshold)
    root = root_scalar(difference, bracket=(0.97 * expected, 1.03 * expected), xtol=1e-6).root
    decimals = len(threshold.partition(".")[2])
    assert f"{root:.{decimals}f}" == threshold


def test_annealing_from_small_inverse_temperatures_stays_above_the_tilted_pairs():
    """Minima followed as τ grows: hysteresis, since the change of order is not continuous."""
    lowered = Lowered(5, 3)
    rows = np.random.default_rng(0).normal(size=(2, 5, 3))
    for tau in (1.0, 3.0, 6.0, 9.0, 14.0, 24.0):
        log_loss, rows = lowered(tau, *rows)
    np.testing.assert_allclose(5 * np.exp(24 + log_loss), 12.000, atol=6e-4)


def test_both_codes_are_minima_at_the_threshold_so_that_the_change_is_of_first_order():
    lowered, problem = Lowered(5, 3), model((1,) * 5, 3, 6.8851)
    for rows in (tilted_pairs(5, 3), nc.exact.softmax_code(5, 3).directions):
        _, (features, classifier) = lowered(6.8851, np.asarray(rows))
        found = landscape.classify(problem, state_of(features, classifier), tolerance=1e-6)
        assert found.kind == "minimum"
        assert int(found.symmetries) == 3
