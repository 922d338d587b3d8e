"""Checks of what a flow is given, before anything is compiled, and advice where a run fails."""

import functools
import inspect
from collections.abc import Hashable, Iterable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_leaves_with_path
from jaxtyping import Array, ArrayLike, Float, PyTree

from ..checks import check_arrays, check_number, close_to, is_traced, shown
from ..problems import AbstractProblem, weakly_typed
from ..trajectory import time_text
from .clock import AbstractClock, LogLogTime, LogTime, RealTime

# Defaults of (rtol, atol). Float32 holds 7 digits: a tolerance below 1e-5 spends its steps on
# rounding errors.
DEFAULT_TOLERANCES = {"float64": (1e-8, 1e-10), "float32": (1e-5, 1e-7)}


def check_rtol(rtol: float | Float[Array, ""], dtype: np.dtype) -> None:
    """Raise ValueError for a tolerance that this dtype cannot hold; a traced one passes."""
    smallest = 10 * np.finfo(dtype).eps
    if not is_traced(rtol) and rtol < smallest:
        raise ValueError(
            f"rtol = {rtol:g}: {dtype.name} holds {smallest:.1e} or more; raise rtol"
            + (" or use float64." if dtype == np.float32 else ".")
        )


def check_times(save_at: ArrayLike, dtype: np.dtype = np.dtype("float64")) -> None:
    """Raise ValueError for times that do not increase in this dtype; traced ones pass."""
    check_number("save_at", save_at, signed=True)
    shape = np.shape(save_at)
    if len(shape) != 1 or shape[0] == 0:
        raise ValueError(f"save_at has shape {shape}: give a one-dimensional array of times.")
    if is_traced(save_at):
        return
    # Judged in the state's dtype, in which close times may coincide.
    times = np.asarray(save_at).astype(dtype)
    if times[0] < 0 or times[-1] <= 0:
        raise ValueError(
            f"save_at runs from {times[0]:g} to {times[-1]:g}: start at 0 or later and end after 0."
        )
    steps = np.diff(times)
    if np.any(steps <= 0):
        at = int(np.argmax(steps <= 0))
        raise ValueError(
            f"save_at does not increase at index {at + 1}: {times[at]:g} then {times[at + 1]:g} "
            f"in {dtype.name}; give strictly increasing times."
        )


def check_save_at(
    problem: AbstractProblem, save_at: ArrayLike, clock: AbstractClock, dtype: np.dtype
) -> None:
    """Raise ValueError for times that do not increase, or that clock, dtype or problem forbid."""
    check_times(save_at, dtype)
    if not is_traced(save_at):
        _check_scale(problem, np.asarray(save_at).astype(dtype)[-1], clock, dtype)


def check_observe(observe: object, problem: AbstractProblem) -> None:
    """Raise ValueError for what is neither None, a function nor a tuple of the problem's names."""
    if observe is None or callable(observe):
        return
    if isinstance(observe, str):
        raise ValueError(
            f"observe = {observe!r}: give a tuple of names, ({observe!r},), or a function."
        )
    names = tuple(observe) if isinstance(observe, Iterable) else (observe,)
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError(
            f"observe = {shown(observe)}: give a tuple of names, such as ('margin_min',), a "
            "function of a state that returns a dict, or None for all of problem.observe."
        )
    if len(set(names)) < len(names):
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"observe holds {repeated!r} more than once: give each name once.")
    leaves, structure = jax.tree.flatten(weakly_typed(problem))
    available = _observables(structure, tuple(map(_without_numbers, leaves)))
    for name in names:
        if name not in available:
            raise ValueError(
                f"observe: {name!r} is no observable of this problem.{close_to(name, available)} "
                "`problem.observables()` lists all."
            )


@functools.lru_cache
def _observables(structure: Any, leaves: tuple[Hashable, ...]) -> tuple[str, ...]:
    """Names of what a run of such a problem records, found by tracing, once for a structure."""
    problem = jax.tree.unflatten(structure, leaves)
    return tuple(eqx.filter_eval_shape(lambda problem: problem.observables(), problem))


def _without_numbers(leaf: object) -> object:
    """What decides the names: the shape and dtype of an array, and all else as it is."""
    if isinstance(leaf, (np.ndarray, jax.Array)):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
    return leaf


def check_observer(observe: object, state: PyTree, data: PyTree) -> None:
    """Raise ValueError where an observer does not take what it would be called with."""
    check_arrays("data", data, numbers=True)
    if not callable(observe):
        if data is not None:
            raise ValueError(
                "data: only an observer that is a function, observe(state, data), takes them; give "
                "one, or leave data out."
            )
        return
    given = (state,) if data is None else (state, data)
    try:
        inspect.signature(observe).bind(*given)
    except TypeError as error:
        called = "(state)" if data is None else "(state, data)"
        raise ValueError(
            f"observe = {shown(observe)}: {error} when it is called with {called}; "
            + ("give the run data=..., or " if data is None else "leave data out, or ")
            + "let it take these."
        ) from None
    except ValueError:  # a function of C has no signature that can be read
        return


def check_starts(starts: PyTree, data: PyTree) -> None:
    """Raise ValueError for a batch of starts whose arrays differ in their leading axis."""
    check_arrays("starts", starts)
    check_arrays("data", data)
    size = None
    for name, tree in (("starts", starts), ("data", data)):
        for path, leaf in tree_leaves_with_path(tree):
            where = f"{name}: {keystr(path).lstrip('.')}" if path else name
            shape = np.shape(leaf)
            if not shape or shape[0] == 0:
                raise ValueError(
                    f"{where} has shape {shape}: give one or more starts along a leading axis, as "
                    "jax.vmap(problem.init)(keys) does, with data for each."
                )
            size = shape[0] if size is None else size
            if shape[0] != size:
                raise ValueError(
                    f"{where} has shape {shape} in a batch of {size} starts: give every array a "
                    f"leading axis of {size}."
                )


def _check_scale(
    problem: AbstractProblem, stop: np.floating, clock: AbstractClock, dtype: np.dtype
) -> None:
    """Raise ValueError if dt/du at the last save time is more than floats or the problem hold."""
    with jax.ensure_compile_time_eval():  # a jit in progress would trace even constants
        log_scale = float(clock.log_rate(jnp.asarray(stop)))
    if not np.isfinite(log_scale):
        raise ValueError(
            f"save_at ends at u = {stop:g}, where {clock} overflows {dtype.name}: give times "
            "in its coordinate, such as numpy.log1p(log_times(...)) for LogLogTime()."
        )
    # Cross-entropy's field holds e^(log scale − margin): the difference of two such numbers counts.
    resolution = log_scale * np.finfo(dtype).eps
    if resolution > 0.01:
        raise ValueError(
            f"save_at ends at log(dt/du) = {log_scale:g}, which {dtype.name} holds to "
            f"{resolution:.1g} only: end earlier"
            + (", or use float64. " if dtype == np.float32 else ". ")
            + _end_of(clock, stop).rstrip()
        )
    if log_scale > problem.largest_log_scale(dtype):
        raise ValueError(
            f"save_at ends at log(dt/du) = {log_scale:g}, beyond the "
            f"{problem.largest_log_scale(dtype):.0f} that this loss or its weight decay can be "
            f"scaled by in {dtype.name}; end earlier, or use CrossEntropy without decay (and close "
            "over the problem where it is an argument of a jit, which hides that its decay is 0). "
            + _end_of(clock, stop).rstrip()
        )


def check_common_steps(
    solver: diffrax.AbstractSolver, event: diffrax.Event | None, where: str, instead: str
) -> None:
    """Raise ValueError for what cannot take common steps.

    Args: `where` they were asked for, and what to do `instead`, for the message.
    """
    if event is not None:
        raise ValueError(f"{where}: an event ends runs one by one; give {instead}.")
    if not (isinstance(solver, diffrax.AbstractERK) or is_stabilised(solver)):
        raise ValueError(
            f"{where}: {solver!r} is neither an explicit Runge-Kutta solver nor RKC(); give one, "
            f"or {instead}."
        )


def is_stabilised(solver: diffrax.AbstractSolver) -> bool:
    """Whether the solver is explicit and stabilised for stiff systems, as its class declares."""
    return getattr(solver, "stabilised", False)


def advice(
    problem: AbstractProblem,
    clock: AbstractClock,
    solver: diffrax.AbstractSolver,
    save_at: ArrayLike,
) -> str:
    """What to change where a run of this problem stops early."""
    end = "" if is_traced(save_at) else _end_of(clock, np.asarray(save_at)[-1])
    if problem.comes_to_rest and not isinstance(clock, RealTime):
        return f"In {clock} this flow is ever stiffer: end earlier or use RealTime(). {end}"
    stiff = is_stabilised(solver) or isinstance(solver, diffrax.AbstractImplicitSolver)
    if isinstance(clock, LogLogTime) and not stiff:
        return f"LogLogTime() is ever stiffer: give it solver=nc_jax.RKC(). {end}"
    return end


def _end_of(clock: AbstractClock, stop: np.floating) -> str:
    """The last save time as t, for whoever gave t in the place of the clock's coordinate."""
    if isinstance(clock, RealTime):
        return ""
    with jax.ensure_compile_time_eval():
        last = float(clock.log_time(jnp.asarray(stop, float)))
    coordinate = {LogTime: "numpy.log1p(t)", LogLogTime: "numpy.log1p(numpy.log1p(t))"}
    given = coordinate.get(type(clock), "their coordinate")
    return (
        f"The save times end at {time_text(last)}; if that is not meant, give times t to "
        f"RealTime(), or {given} to {clock}. "
    )
