"""A stabilised explicit solver for gradient flows: Runge-Kutta-Chebyshev of second order."""

import functools
from collections.abc import Callable
from typing import ClassVar

import diffrax
import jax
import jax.numpy as jnp
import optimistix
from jaxtyping import Array, Float, Int, PyTree

# With fewer than 5 stages most of a step's error comes from stiff modes, and step control stays at
# steps for which 2 stages are stable. Half as many steps of 5 stages are more accurate.
_FEWEST_STAGES = 5
# ε of the paper: w0 = 1 + ε/s². It damps stiff modes by the factor 0.95 in each step.
_DAMPING = 2 / 13
# The stability interval is [-_REACH (s² - 1), 0].
_REACH = 2 / 3 * (1 - 2 / 15 * _DAMPING)
# Terms of T_j(1 + ε/s²) = Σ_k (2 j²ε/s²)^k/(2k)! (1 + O(1/j²)); the next is under 1e-17.
_TERMS = 8
# Numbers of power iterations before the first step and in each step. The third number enlarges the
# estimate of the spectral radius, since the iteration converges from below.
_FIRST_POWERS, _POWERS, _RADIUS_MARGIN = 20, 2, 1.1


class RKC(diffrax.AbstractAdaptiveSolver):
    """Runge-Kutta-Chebyshev, order 2 (Sommeijer, Shampine and Verwer 1998): a Diffrax solver.

    For stiff flows with a symmetric Jacobian, which every gradient flow has. A step of s stages is
    stable for spectral radii up to 0.65 s²/h. A stiff interval thus costs the square root of what
    it costs an explicit method with a fixed number of stages. Each step chooses s from the spectral
    radius of h ∂f/∂y, which is estimated by a power iteration with two Jacobian-vector products in
    each step. Six state vectors are stored, whatever s. Works with every step-size controller of
    Diffrax, with `SaveAt` and under vmap; a batch takes as many stages as its lane with the most.
    Derivatives are taken in forward mode.

    Its order is low: where `diffrax.Tsit5()` reaches the last save time, it is more accurate than
    this solver. docs/solvers.md has the measurements. ROCK4 was tried and rejected: its undamped
    last stages cannot follow a logit gap that grows with log t.

    Attributes:
        max_stages: largest number of stages of a step. A step that needs more has infinite error,
            so that the controller shortens it. If the controller accepts such a step all the same,
            the run ends with `RESULTS.dt_min_reached`.

    Raises: ValueError if max_stages < 5.

    Example:

        >>> problem = nc.ulpm(3, 4, 2)
        >>> save_at = np.log1p(nc.log_times(10_000, 3))  # to t = 10^10000
        >>> flow = nc.Flow(
        ...     problem, save_at, clock=nc.LogLogTime(), solver=nc.RKC(), rtol=1e-4, atol=1e-6,
        ...     observe=("margin_min",),
        ... )
        >>> bool(flow(problem.init(jax.random.key(0))).succeeded)
        True
    """

    max_stages: int = 10_000

    stabilised: ClassVar[bool] = True
    # A rejected step wastes all its stages, and proportional-integral control rejects a third as
    # many steps as integral control. Other solvers use integral control, which takes a tenth fewer
    # steps where accuracy limits the step.
    step_control: ClassVar[dict[str, float]] = {"pcoeff": 0.4, "icoeff": 0.3}
    term_structure: ClassVar = diffrax.AbstractTerm
    interpolation_cls: ClassVar = diffrax.ThirdOrderHermitePolynomialInterpolation

    def __check_init__(self):
        if self.max_stages < _FEWEST_STAGES:
            raise ValueError(
                f"max_stages = {self.max_stages}: give an integer >= {_FEWEST_STAGES}."
            )

    def order(self, terms: PyTree[diffrax.AbstractTerm]) -> int:
        """2."""
        return 2

    def error_order(self, terms: PyTree[diffrax.AbstractTerm]) -> int:
        """3: the estimate, h³y'''/15 plus 4/5 of the error of the step, falls as h³."""
        return 3

    def init(self, terms, t0, t1, y0, args) -> PyTree[Array]:
        """The vector of the power iteration after its first iterations, from a random vector."""
        # Random, since a vector with a symmetry of y0 has no component along modes without that
        # symmetry, and the iteration would not find them.
        del t1
        leaves, structure = jax.tree.flatten(y0)
        keys = jax.random.split(jax.random.key(0), len(leaves))
        random = [
            jax.random.normal(key, leaf.shape, leaf.dtype)
            for key, leaf in zip(keys, leaves, strict=True)
        ]
        start = _unit(jax.tree.unflatten(structure, random))
        # Linearised once, so that the iterations repeat the linear part alone. A derivative of the
        # run does not pass through an estimate that only chooses the number of stages.
        _, multiply = jax.linearize(lambda y: terms.vf(t0, y, args), jax.lax.stop_gradient(y0))
        return jax.lax.fori_loop(0, _FIRST_POWERS, lambda _, v: _unit(multiply(v), v), start)

    def func(self, terms, t0, y0, args) -> PyTree[Array]:
        """The vector field at (t0, y0)."""
        return terms.vf(t0, y0, args)

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        """One step of as many stages as are stable; see `diffrax.AbstractSolver.step`."""
        del made_jump
        t0, t1 = jnp.asarray(t0), jnp.asarray(t1)
        field = _scaled_field(terms, t0, t1, args)
        k0, radius, vector = _spectral_radius(lambda y: field(t0, y), y0, solver_state)
        stages = jnp.ceil(jnp.sqrt(1 + _RADIUS_MARGIN * radius / _REACH))
        stable = stages <= self.max_stages  # False for NaN
        stages = jnp.where(stable, jnp.maximum(stages, _FEWEST_STAGES), _FEWEST_STAGES)
        change = _stages(field, t0, t1, y0, k0, stages.astype(t0.dtype))
        y1 = jax.tree.map(jnp.add, y0, change)
        k1 = field(t1, y1)
        # (12 (y0 − y1) + 6 h (f0 + f1))/15, the error estimate of the paper.
        estimate = _linear_combination((-0.8, change), (0.4, k0), (0.4, k1))
        error = jax.tree.map(lambda leaf: jnp.where(stable, leaf, jnp.inf), estimate)
        dense = {"y0": y0, "y1": y1, "k0": k0, "k1": k1}
        # `result` counts only if a controller accepts the step in spite of its infinite error.
        result = diffrax.RESULTS.where(
            stable, diffrax.RESULTS.successful, diffrax.RESULTS.dt_min_reached
        )
        return y1, error, dense, vector, result


def _scaled_field(terms, t0, t1, args) -> Callable[[Array, PyTree], PyTree]:
    """(t, y) -> h f(t, y), with the step size h = t1 − t0."""
    step = terms.contr(t0, t1)
    return lambda t, y: terms.vf_prod(t, y, args, step)


def _spectral_radius(
    field: Callable[[PyTree], PyTree], y: PyTree, vector: PyTree
) -> tuple[PyTree, Float[Array, ""], PyTree]:
    """field(y), an estimate of the spectral radius of its Jacobian, and the new iteration vector.

    The power iteration starts from the vector of the step before plus a tenth of the field. The
    vector alone may have no component along a mode that has become the stiffest. Such a mode makes
    the step unstable and grows, so that the field has a component along it.
    """
    slope, multiply = jax.linearize(field, y)
    vector = _unit(_linear_combination((1.0, vector), (0.1, _unit(slope))))
    radius = jnp.zeros_like(optimistix.two_norm(vector))
    for _ in range(_POWERS):
        product = multiply(vector)
        radius, vector = optimistix.two_norm(product), _unit(product, vector)
    return slope, jax.lax.stop_gradient(radius), jax.lax.stop_gradient(vector)


def _stages(
    field: Callable[[Array, PyTree], PyTree],
    t0: Float[Array, ""],
    t1: Float[Array, ""],
    y0: PyTree,
    k0: PyTree,
    stages: Float[Array, ""],
) -> PyTree:
    """y1 − y0 by eq. 2.1 to 2.3 of the paper, written for the changes D_j = Y_j − y0 of the stages.

    The recurrence for D_j has no term in y0: D_j = μD_{j−1} + νD_{j−2} + μ̃(F_{j−1} − aF_0). Its
    rounding errors, which grow as s², are then relative to the change instead of the state.
    """
    shift = _DAMPING / stages**2
    _, first, second = _chebyshev(stages, shift)
    w0, w1 = 1 + shift, shift * first / second

    def coefficients(j: Float[Array, ""]) -> tuple[Float[Array, ""], ...]:
        value, first, second = _chebyshev(j, shift)
        b = second / first**2
        return b, 1 - b * value, w1 / shift * second / first  # b_j, a_j, c_j

    b2, _, c2 = coefficients(jnp.full_like(stages, 2))

    def advance(j: Int[Array, ""], carry):
        before, last, b_before, b_last, a_last, c_last = carry
        b, a, c = coefficients(j.astype(stages.dtype))
        mu, nu, mu_field = 2 * w0 * b / b_last, -b / b_before, 2 * w1 * b / b_last
        k = field(t0 + c_last * (t1 - t0), jax.tree.map(jnp.add, y0, last))
        here = _linear_combination(
            (mu, last), (nu, before), (mu_field, k), (-a_last * mu_field, k0)
        )
        return last, here, b_last, b, a, c

    # D_0 = 0 and D_1 = μ̃_1 F_0 with b_0 = b_1 = b_2; c_1 = c_2/T_2'(w0), and T_2' = 4 w0.
    none, one = jax.tree.map(jnp.zeros_like, k0), _linear_combination((w1 * b2, k0))
    start = (none, one, b2, b2, 1 - b2 * w0, c2 / (4 * w0))
    # The number of stages is traced, so that steps of all numbers of stages share one program.
    return jax.lax.fori_loop(2, stages.astype(int) + 1, advance, start)[1]


def _chebyshev(
    degree: Float[Array, ""], shift: Float[Array, ""]
) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""]]:
    """T, δT' and δ²T'' of T_j at 1 + δ, δ = shift, for j²δ of at most a few tenths.

    Computed by Taylor's series at 1, where the k-th derivative is Π_{i<k} (j² − i²)/(2i + 1). No
    term is negative, so that single precision loses no digit for any j. The recurrence in j and
    the hyperbolic functions were rejected, since rounding errors grow as j² in both.
    """
    term = jnp.ones_like(degree)
    value, first, second = term, 0 * term, 0 * term
    for k in range(_TERMS):
        term = term * ((degree**2 - k**2) * shift / ((2 * k + 1) * (k + 1)))
        value, first, second = value + term, first + (k + 1) * term, second + k * (k + 1) * term
    return value, first, second


def _linear_combination(*terms: tuple[Float[Array, ""] | float, PyTree]) -> PyTree:
    """Σ a_i x_i over trees, in the dtype of each leaf."""
    # A factor of another dtype than a leaf would promote it, which strict promotion refuses.
    factors = [factor for factor, _ in terms]

    def combine(*leaves: Array) -> Array:
        parts = [jnp.asarray(a, leaf.dtype) * leaf for a, leaf in zip(factors, leaves, strict=True)]
        return functools.reduce(jnp.add, parts)

    return jax.tree.map(combine, *[tree for _, tree in terms])


def _unit(tree: PyTree, otherwise: PyTree | None = None) -> PyTree:
    """The tree divided by its norm; if the norm is zero, infinite or NaN, `otherwise` or zero."""
    norm = optimistix.two_norm(tree)
    regular = (norm > 0) & jnp.isfinite(norm)

    def divide(leaf: Array, instead: Array) -> Array:
        return jnp.where(regular, leaf / norm.astype(leaf.dtype), instead)

    fallback = jax.tree.map(jnp.zeros_like, tree) if otherwise is None else otherwise
    return jax.tree.map(divide, tree, fallback)
