"""The record of a state: observables, by name or by a function, and drifts of invariants."""

import functools
import inspect
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ..checks import check_arrays, close_to, shown
from ..errors import ArgumentError
from ..measures import Invariant, drift
from ..problems import AbstractProblem, weakly_typed

# A function of a state, or of a state and the run's data, that returns arrays by name.
Observer = Callable[..., dict[str, Float[Array, "..."]]]


def check_observe(observe: object, problem: AbstractProblem) -> None:
    """Raise ValueError unless `observe` is None, a function or names of the observables."""
    if observe is None or callable(observe):
        return
    names = checked_names(observe, example="margin_min", everything="problem.observe")
    # By shapes, since arrays have no hash and names do not depend on their values.
    leaves, structure = jax.tree.flatten(weakly_typed(problem))
    available = _observables(structure, tuple(map(_without_numbers, leaves)))
    for name in names:
        if name not in available:
            raise ValueError(
                f"observe: {name!r} is no observable of this problem.{close_to(name, available)} "
                "`problem.observables()` lists all."
            )


def checked_names(observe: object, *, example: str, everything: str) -> tuple[str, ...]:
    """The names in `observe`, each once, for an `observe` that is no function.

    Args: `example` and `everything` are a name and what None records, for the message.

    Raises: ValueError for a single text, no name, what is no text, or a name that occurs twice.
    """
    if isinstance(observe, str):
        raise ArgumentError(
            f"observe = {observe!r}: give a tuple of names, ({observe!r},), or a function.",
            "observe",
        )
    names: tuple[Any, ...] = tuple(observe) if isinstance(observe, Iterable) else (observe,)
    if not names or not all(isinstance(name, str) for name in names):
        raise ArgumentError(
            f"observe = {shown(observe)}: give a tuple of names, such as ({example!r},), a "
            f"function of a state that returns a dict, or None for all of {everything}.",
            "observe",
        )
    if len(set(names)) < len(names):
        repeated = next(name for name in names if names.count(name) > 1)
        raise ArgumentError(
            f"observe holds {repeated!r} more than once: give each name once.", "observe"
        )
    return names


@functools.lru_cache
def _observables(structure: Any, leaves: tuple[Hashable, ...]) -> tuple[str, ...]:
    """Names that a run of a problem records, found by tracing the problem without its numbers.

    The cache traces once for each structure and each set of shapes.
    """
    problem = jax.tree.unflatten(structure, leaves)
    return tuple(eqx.filter_eval_shape(lambda problem: problem.observables(), problem))


def _without_numbers(leaf: object) -> object:
    """A leaf without its values: shape and dtype of an array, any other leaf as it is."""
    if isinstance(leaf, (np.ndarray, jax.Array)):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
    return leaf


def check_observer(observe: object, state: PyTree, data: PyTree) -> None:
    """Raise ValueError if an observer cannot be called with a state, or a state and the data."""
    check_arrays("data", data, numbers=True)
    if not callable(observe):
        if data is not None:
            raise ValueError(
                "data: only an observer that is a function, observe(state, data), is called with "
                "data; give one, or leave data out."
            )
        return
    given = (state,) if data is None else (state, data)
    # Bound without a call: a TypeError of a call could come from the body of the function.
    try:
        inspect.signature(observe).bind(*given)
    except TypeError as error:
        called = "(state)" if data is None else "(state, data)"
        raise ValueError(
            f"observe = {shown(observe)}: {error} when it is called with {called}; "
            + ("give the run data=..., or " if data is None else "leave data out, or ")
            + "change its parameters to these."
        ) from None
    except ValueError:  # a function written in C has no signature that Python can read
        return


def check_observed(observed: object) -> dict[str, Float[Array, "..."]]:
    """The dict that an observer returned; ValueError unless its values are real arrays."""
    if not isinstance(observed, Mapping):
        raise ValueError(
            f"observe returns a {type(observed).__name__}: return a dict of arrays by name, such "
            "as {'norm': jnp.linalg.norm(state.classifier)}."
        )
    for name, value in observed.items():
        if not isinstance(name, str):
            raise ValueError(f"observe returns the key {name!r}: give each observable a text.")
        number = isinstance(value, (int, float, np.ndarray, np.generic, jax.Array))
        dtype = jnp.result_type(value) if number else None
        if dtype is None or dtype.kind in "cOSUV":
            kind = f"dtype {dtype}" if number else f"type {type(value).__name__}"
            raise ValueError(
                f"observe returns {name!r} of {kind}: return an array of real numbers."
            )
    return dict(observed)


def drifts(
    start: dict[str, Invariant], now: dict[str, Invariant], log_time: Float[Array, ""]
) -> dict[str, Float[Array, "..."]]:
    """`{name}_drift` of every invariant, relative to its scale at the start."""
    return {f"{name}_drift": drift(start[name], now[name], log_time) for name in now}


def observed_by(
    observe: Observer | tuple[str, ...] | None,
    problem: AbstractProblem,
    state: PyTree,
    drift: dict[str, Array],
    *,
    data: PyTree = None,
) -> dict[str, Array]:
    """The record of a state: the observables that are requested, and drifts of invariants.

    With names, only the drifts that are named; otherwise all.
    """
    if isinstance(observe, tuple):
        # A drift compares with the start of the run, which the problem does not know.
        names = tuple(name for name in observe if name not in drift)
        return {
            **(problem.observe_only(state, names) if names else {}),
            **{name: drift[name] for name in observe if name in drift},
        }
    call: Observer = observe or problem.observe
    return {**check_observed(call(state) if data is None else call(state, data)), **drift}
