"""Runge-Kutta steps that a batch of flows takes in common, with the batch along the last axis."""

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
    """An explicit Runge-Kutta solver of Diffrax with one pass over memory in each stage.

    The steps are those of `solver` to rounding. Diffrax stores the slopes of the stages in one
    array and combines all rows of that array at every stage, which for small models takes as long
    as the field. Here only slopes with a non-zero coefficient are read, and for solvers whose last
    stage is the solution (SSAL) that stage is y1.
    """

    solver: diffrax.AbstractERK

    term_structure: ClassVar = diffrax.AbstractTerm

    @property
    def interpolation_cls(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
    ) -> Callable[..., diffrax.AbstractLocalInterpolation]:
        """The dense output of `solver`."""
        return functools.partial(_Interpolation, self.solver.interpolation_cls)

    @property
    def tableau(self) -> diffrax.ButcherTableau:
        """The coefficients of `solver`."""
        tableau = self.solver.tableau
        assert isinstance(tableau, diffrax.ButcherTableau)  # others are for several vector fields
        return tableau

    def order(self, terms):
        """The order of `solver`."""
        return self.solver.order(terms)

    def error_order(self, terms):
        """The order of the error estimate of `solver`."""
        return self.solver.error_order(terms)

    def init(self, terms, t0, t1, y0, args) -> PyTree[Array] | None:
        """The first slope, for solvers whose first slope is the last of the step before (FSAL)."""
        return terms.vf(t0, y0, args) if self.tableau.fsal else None

    def func(self, terms, t0, y0, args) -> PyTree[Array]:
        """The vector field at (t0, y0)."""
        return terms.vf(t0, y0, args)

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        """One step; see `diffrax.AbstractSolver.step`."""
        del made_jump
        tableau, step = self.tableau, terms.contr(t0, t1)
        # Without `formed`, XLA computes a slope or a stage again in each operation that reads it.
        witness = jax.tree.leaves(y0)[0]

        def slope(t, y):
            return formed(terms.vf(t, y, args), witness)

        def advance(row: np.ndarray, slopes: list[PyTree]) -> PyTree:
            return formed(jax.tree.map(jnp.add, y0, _scaled_sum(row, step, slopes)), witness)

        slopes, y1 = [slope(t0, y0) if solver_state is None else solver_state], y0
        for row, c in zip(tableau.a_lower, tableau.c, strict=True):
            y1 = advance(row, slopes)
            # A Python float: a NumPy float64 would promote times in float32.
            slopes.append(slope(t0 + c.item() * step, y1))
        if not tableau.ssal:
            y1 = advance(tableau.b_sol, slopes)
        error = _scaled_sum(tableau.b_error, step, slopes)
        dense = {"y0": y0, "y1": y1, "slopes": tuple(slopes)}
        last = slopes[-1] if tableau.fsal else None
        return y1, error, dense, last, diffrax.RESULTS.successful


class _Interpolation(diffrax.AbstractLocalInterpolation):
    """The dense output of a solver; its slopes are stacked when it is evaluated, and not before."""

    make: Callable[..., diffrax.AbstractLocalInterpolation]
    t0: Float[Array, ""]  # pyright: ignore[reportIncompatibleVariableOverride]
    t1: Float[Array, ""]  # pyright: ignore[reportIncompatibleVariableOverride]
    y0: PyTree[Array]
    y1: PyTree[Array]
    slopes: tuple[PyTree[Array], ...]

    def evaluate(self, t0, t1=None, left=True):
        step = self.t1 - self.t0
        # The stack is the same for all save times within a step. Without `formed`, XLA would
        # compute it with the slopes, in every step, whether anything is saved or not.
        slopes = formed(self.slopes, t0)
        k = jax.tree.map(lambda *leaves: step * jnp.stack(leaves), *slopes)
        inner = self.make(t0=self.t0, t1=self.t1, y0=self.y0, y1=self.y1, k=k)
        return inner.evaluate(t0, t1, left)


def _scaled_sum(row: np.ndarray, step: Float[Array, ""], slopes: list[PyTree]) -> PyTree:
    """step · Σ_i row_i slope_i, without the terms whose coefficient is zero."""
    used = [i for i, factor in enumerate(row) if factor != 0]

    def combine(*leaves: Array) -> Array:
        terms = [
            (row[i].item() * step).astype(leaf.dtype) * leaf
            for i, leaf in zip(used, leaves, strict=True)
        ]
        return functools.reduce(jnp.add, terms)

    return jax.tree.map(combine, *[slopes[i] for i in used])


def in_lanes(solver: diffrax.AbstractSolver) -> diffrax.AbstractSolver:
    """The solver for a batch of states along the last axis."""
    return FusedRungeKutta(solver) if isinstance(solver, diffrax.AbstractERK) else solver


def worst_lane(error: PyTree[Float[Array, "... S"]]) -> Float[Array, ""]:
    """The largest RMS norm over the lanes, so that a step is accepted if each lane accepts it."""
    leaves = jax.tree.leaves(error)
    # The largest of the means: with one mean over all lanes, many accurate lanes would hide the
    # error of one.
    squares = [jnp.sum(leaf**2, axis=tuple(range(leaf.ndim - 1))) for leaf in leaves]
    entries = sum(leaf[..., 0].size for leaf in leaves)
    return jnp.sqrt(jnp.max(functools.reduce(jnp.add, squares)) / entries)
