"""A batch of flows that takes common steps: states side by side, lanes along the last axis."""

import functools
from collections.abc import Callable
from typing import ClassVar

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ..lanes import formed


class FusedRungeKutta(diffrax.AbstractAdaptiveSolver):
    """An explicit Runge-Kutta solver of Diffrax whose stages are each one pass over memory.

    The same steps as `solver` to rounding. Diffrax keeps the stages' slopes in one array and
    combines all rows of it at every stage, which for systems whose field is cheap takes as long as
    the field; here only the slopes that count are read, and y1 is the last stage where that is so.
    """

    solver: diffrax.AbstractERK

    term_structure: ClassVar = diffrax.AbstractTerm

    @property
    def interpolation_cls(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
    ) -> Callable[..., diffrax.AbstractLocalInterpolation]:
        """The solver's own dense output."""
        return functools.partial(_Interpolation, self.solver.interpolation_cls)

    @property
    def tableau(self) -> diffrax.ButcherTableau:
        """The solver's."""
        tableau = self.solver.tableau
        assert isinstance(tableau, diffrax.ButcherTableau)  # others are for several vector fields
        return tableau

    def order(self, terms):
        """The solver's."""
        return self.solver.order(terms)

    def error_order(self, terms):
        """The solver's."""
        return self.solver.error_order(terms)

    def init(self, terms, t0, t1, y0, args) -> PyTree[Array] | None:
        """The first slope, which later steps take from the one before."""
        return terms.vf(t0, y0, args) if self.tableau.fsal else None

    def func(self, terms, t0, y0, args) -> PyTree[Array]:
        """The vector field at (t0, y0)."""
        return terms.vf(t0, y0, args)

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        """One step; see `diffrax.AbstractSolver.step`."""
        del made_jump
        tableau, step = self.tableau, terms.contr(t0, t1)
        witness = jax.tree.leaves(y0)[0]

        def slope(t, y):
            return formed(terms.vf(t, y, args), witness)

        def advance(row: np.ndarray, slopes: list[PyTree]) -> PyTree:
            return formed(jax.tree.map(jnp.add, y0, _combine(row, step, slopes)), witness)

        slopes, y1 = [slope(t0, y0) if solver_state is None else solver_state], y0
        for row, c in zip(tableau.a_lower, tableau.c, strict=True):
            y1 = advance(row, slopes)
            slopes.append(slope(t0 + c.item() * step, y1))
        if not tableau.ssal:
            y1 = advance(tableau.b_sol, slopes)
        error = _combine(tableau.b_error, step, slopes)
        dense = {"y0": y0, "y1": y1, "slopes": tuple(slopes)}
        last = slopes[-1] if tableau.fsal else None
        return y1, error, dense, last, diffrax.RESULTS.successful


class _Interpolation(diffrax.AbstractLocalInterpolation):
    """A solver's dense output from slopes that are stacked only where it is asked for."""

    make: Callable[..., diffrax.AbstractLocalInterpolation]
    t0: Float[Array, ""]  # pyright: ignore[reportIncompatibleVariableOverride]
    t1: Float[Array, ""]  # pyright: ignore[reportIncompatibleVariableOverride]
    y0: PyTree[Array]
    y1: PyTree[Array]
    slopes: tuple[PyTree[Array], ...]

    def evaluate(self, t0, t1=None, left=True):
        step = self.t1 - self.t0
        # Formed here, or XLA moves the stacking, which is the same for all save times within a
        # step, to before the loop over them: into every step, whether anything is saved or not.
        slopes = formed(self.slopes, t0)
        k = jax.tree.map(lambda *leaves: step * jnp.stack(leaves), *slopes)
        inner = self.make(t0=self.t0, t1=self.t1, y0=self.y0, y1=self.y1, k=k)
        return inner.evaluate(t0, t1, left)


def _combine(row: np.ndarray, step: Float[Array, ""], slopes: list[PyTree]) -> PyTree:
    """step · Σ_i row_i slope_i, zero coefficients left out."""
    used = [i for i, factor in enumerate(row) if factor != 0]

    def combine(*leaves: Array) -> Array:
        terms = [
            (row[i].item() * step).astype(leaf.dtype) * leaf
            for i, leaf in zip(used, leaves, strict=True)
        ]
        return functools.reduce(jnp.add, terms)

    return jax.tree.map(combine, *[slopes[i] for i in used])


def in_lanes(solver: diffrax.AbstractSolver) -> diffrax.AbstractSolver:
    """The solver for states side by side."""
    return FusedRungeKutta(solver) if isinstance(solver, diffrax.AbstractERK) else solver


def worst_lane(error: PyTree[Float[Array, "... S"]]) -> Float[Array, ""]:
    """Largest RMS norm of a lane: a step is good enough once it is so for every lane."""
    leaves = jax.tree.leaves(error)
    squares = [jnp.sum(leaf**2, axis=tuple(range(leaf.ndim - 1))) for leaf in leaves]
    entries = sum(leaf[..., 0].size for leaf in leaves)
    return jnp.sqrt(jnp.max(functools.reduce(jnp.add, squares)) / entries)
