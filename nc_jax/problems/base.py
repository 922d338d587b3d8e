"""What dynamics asks of a problem."""

import abc
import functools
import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import KeyPath, keystr, tree_leaves_with_path
from jaxtyping import Array, ArrayLike, DTypeLike, Float, Int, Key, PyTree

from ..capabilities import inherited_beside
from ..checks import check_arrays, check_key, check_number, check_process, close_to
from ..lanes import formed
from ..metrics import EQUATIONS, Invariant
from ..precision import check_dtype

# Most numbers of each of several directions that one loop draws. Larger ones take longer to draw
# than to compile, and a small one would cost as much as the largest.
_DRAWN_TOGETHER = 1 << 13


class AbstractProblem(eqx.Module):
    """A model with a start, an objective and the flow x' = −∇L(x) on its state.

    A model may put a modified gradient in the place of ∇L, as `LinearizedMixon` does.

    To add a model, write these seven methods in one file; dynamics, observables, storage and
    plotting then work unchanged.
    """

    def __check_init__(self):
        """Refuse a subclass that would descend along the gradient of its parent's objective."""
        inherited = inherited_beside(type(self), "objective", ("gradient", "scaled_descent"))
        if inherited:
            kind = type(self).__name__
            raise ValueError(
                f"problem: {kind} replaces the objective of its parent but not "
                f"{' and '.join(inherited)}; define these in {kind} too."
            )

    @abc.abstractmethod
    def init(self, key: Key[Array, ""]) -> PyTree:
        """Random start."""

    @abc.abstractmethod
    def objective(self, state: PyTree) -> Float[Array, ""]:
        """L at a state."""

    @abc.abstractmethod
    def gradient(self, state: PyTree) -> PyTree:
        """∇L, in the state's structure."""

    @abc.abstractmethod
    def scaled_descent(self, state: PyTree, log_scale: Float[ArrayLike, ""]) -> PyTree:
        """e^log_scale · (−∇L): the flow in a clock with dt/du = e^log_scale."""

    @abc.abstractmethod
    def observe(self, state: PyTree) -> dict[str, Float[Array, "..."]]:
        """Numbers, or arrays of them, worth recording along a trajectory."""

    @abc.abstractmethod
    def invariants(self, state: PyTree) -> dict[str, Invariant]:
        """Quantities the exact flow keeps, or lets decay at a known rate."""

    @abc.abstractmethod
    def largest_log_scale(self, dtype: DTypeLike) -> float:
        """The log_scale up to which `scaled_descent` stays finite along the flow; may be inf."""

    @property
    def comes_to_rest(self) -> bool:
        """Whether the flow ends at a point, so that it is ever stiffer in a clock of log t.

        False for what goes on for ever, as pure cross-entropy does.
        """
        return True

    def observables(self) -> dict[str, str]:
        """Names of what a run records, each with its equation from `metrics.EQUATIONS`.

        Those of `observe`, and `{name}_drift` of each of the `invariants`. The equation of a name
        that only a user's problem has is empty. Nothing is computed.

        Example: `ulpm(5, 20, 10).observables()["margin_min"]`.
        """
        state = jax.eval_shape(lambda: self.init(jax.random.key(0)))
        invariants = jax.eval_shape(self.invariants, state)
        names = [*jax.eval_shape(self.observe, state), *(f"{name}_drift" for name in invariants)]
        return {name: EQUATIONS.get(name, "") for name in names}

    def observe_only(self, state: PyTree, names: Sequence[str]) -> dict[str, Float[Array, "..."]]:
        """Some of what `observe` returns, in the order of `names`.

        Under `jax.jit` or in a loop of JAX's, what these names do not need is not computed.

        Raises: ValueError for a name that `observe` does not return.

        Example: `jax.jit(lambda state: problem.observe_only(state, ("margin_min", "zhu_nc2")))`.
        """
        observed = self.observe(state)
        for name in names:
            if name not in observed:
                raise ValueError(
                    f"{name!r} is no observable of this problem.{close_to(name, observed)} "
                    "`problem.observables()` lists all; drifts of invariants come with a run."
                )
        return {name: observed[name] for name in names}

    def scaled_descent_lanes(self, states: PyTree, log_scale: Float[ArrayLike, ""]) -> PyTree:
        """`scaled_descent` of many states beside each other, along the last axis of every array.

        What a batch of flows spends its time on; a model that can do better than one state after
        another overrides it.
        """
        return jax.vmap(self.scaled_descent, (-1, None), -1)(states, log_scale)

    def retract(self, state: PyTree) -> PyTree:
        """The nearest state that keeps the model's constraints; a model that has some overrides it.

        Descent applies it after each step, and its second derivative along a velocity is the
        acceleration that keeps `GradientDescentODE` on the constraints.
        """
        return state

    def vector_field(self, t: object, state: PyTree, args: object) -> PyTree:
        """−∇L in real time, with the signature of a `diffrax.ODETerm`; `t`, `args` are unused."""
        del t, args
        return self.scaled_descent(state, 0.0)


@runtime_checkable
class SampledProblem(Protocol):
    """A problem on given samples, for descent on a few of them at a time."""

    @property
    def num_samples(self) -> int:
        """N."""
        ...

    def on_samples(self, samples: Int[Array, " B"]) -> AbstractProblem:
        """The same problem on these samples alone."""
        ...


def start_norm(
    key: Key[Array, ""], norm: Float[ArrayLike, ""], dtype: DTypeLike, above_zero: bool = False
) -> Float[Array, ""]:
    """The norm of a random start in its dtype, once all that `init` is given is checked."""
    check_key(key)
    check_number("norm", norm, above_zero, scalar=True)
    check_dtype(dtype)
    return jnp.asarray(norm, dtype)


def random_direction(
    key: Key[Array, ""], shape: tuple[int, int], norm: Float[Array, ""]
) -> Float[Array, "rows columns"]:
    """A Gaussian direction of this Frobenius norm: `random_directions` of one key."""
    return random_directions(key[None], (shape,), norm[None])[0]


@functools.partial(jax.jit, static_argnums=1)
def random_directions(
    keys: Key[Array, " M"], shapes: tuple[tuple[int, int], ...], norms: Float[Array, " M"]
) -> tuple[Float[Array, "_ _"], ...]:
    """Gaussian directions of these Frobenius norms, with the same bits in any program.

    A compiler is free to contract products with sums, to sum in another order and to merge factors,
    as it does when it fuses a start with the operations that read it. So each operation stays
    separate, and the sum of squares is one of pairs.

    Small ones are drawn by one loop over arrays of the largest size, where each shape would be a
    program to compile: JAX's default random numbers are the same at the start of a longer array.
    """
    sizes = [math.prod(shape) for shape in shapes]
    if len(shapes) > 1 and max(sizes) > _DRAWN_TOGETHER:
        each = zip(keys, shapes, norms, strict=True)
        return tuple(random_direction(key, shape, norm) for key, shape, norm in each)
    place = jnp.arange(max(sizes))

    def draw(
        key: Key[Array, ""],
        size: Int[ArrayLike, ""],
        halves: Int[Array, " L"],
        norm: Float[Array, ""],
    ) -> Float[Array, " largest"]:
        normal = jax.random.normal(key, place.shape, norm.dtype)
        gaussian = formed(jnp.where(place < size, normal, 0), norm)
        squares = formed(gaussian**2, norm)
        length = formed(jnp.sqrt(_sum_of_pairs(squares, halves)), norm)
        return formed(gaussian * formed(norm / length, norm), norm)

    data = keys, jnp.asarray(sizes), jnp.asarray(_halves(sizes), int).reshape(len(sizes), -1), norms
    if len(shapes) == 1:
        # Without a loop, in which XLA uses one core.
        return (draw(*jax.tree.map(lambda leaf: leaf[0], data)).reshape(shapes[0]),)
    # A loop: under vmap each direction would read its halves by a gather, five times as slow.
    rows = jax.lax.map(lambda data: draw(*data), data)
    return tuple(
        row[:size].reshape(shape) for row, size, shape in zip(rows, sizes, shapes, strict=True)
    )


def _halves(sizes: list[int]) -> list[list[int]]:
    """For each size the halves, rounded up, of what a sum of pairs has left; 1 after its end."""
    rows = [[] for _ in sizes]
    for row, left in zip(rows, sizes, strict=True):
        for _ in range((max(sizes) - 1).bit_length()):
            left = -(-left // 2)
            row.append(left)
    return rows


def _sum_of_pairs(values: Float[Array, " N"], halves: Int[Array, " L"]) -> Float[Array, ""]:
    """The sum in an order that no compiler may change: of halves, of halves of them, …

    A loop over arrays of one size, where ten sizes would be ten programs to compile.
    """
    place = jnp.arange(values.size)

    def add_second_half(values: Float[Array, " N"], half: Int[Array, ""]):
        # Beyond the first half all is zero afterwards, so that an odd last number adds zero.
        second = jax.lax.dynamic_slice_in_dim(jnp.pad(values, (0, values.size)), half, values.size)
        return jnp.where(place < half, values + second, 0), None

    return jax.lax.scan(add_second_half, values, halves)[0][0]


def weakly_typed(problem: AbstractProblem) -> AbstractProblem:
    """The problem with its numbers above zero as arrays: arguments of a program, not part of it.

    Weakly typed, as Python's numbers are: they do not promote a float32 state. A zero stays what it
    is, since it leaves a term out; so do integers and static fields.
    """

    def convert(leaf: object) -> object:
        return jnp.asarray(float(leaf)) if isinstance(leaf, float) and leaf != 0 else leaf

    return jax.tree.map(convert, problem)


def check_problem(problem: object) -> None:
    """Raise ValueError for what is no problem."""
    if not isinstance(problem, AbstractProblem):
        raise ValueError(
            f"problem is of type {type(problem).__name__}: give a problem, such as "
            "nc_jax.ulpm(num_classes, feature_dim, samples_per_class)."
        )


def check_shapes(problem: AbstractProblem, state: PyTree, name: str = "start") -> None:
    """Refuse a state that is not of the problem's shape; called while tracing, where it is free."""
    check_process()
    check_problem(problem)
    expected = jax.eval_shape(lambda: problem.init(jax.random.key(0)))
    check_like(expected, state, name, "the problem", "pass a state like problem.init(key).")


def check_like(expected: PyTree, given: PyTree, name: str, owner: str, advice: str) -> None:
    """Refuse a tree of arrays of another structure or of other shapes than the owner's."""
    if _type_name(given) != _type_name(expected):
        raise ValueError(
            f"{name} is of type {_type_name(given)} where {owner} has {_type_name(expected)}; "
            f"{advice}"
        )
    check_arrays(name, given)
    found, wanted = (dict(tree_leaves_with_path(tree)) for tree in (given, expected))
    for path in wanted.keys() ^ found.keys():
        lack, other = ("", "has none") if path in found else ("no ", "has one")
        raise ValueError(f"{name} has {lack}{_place(path)} where {owner} {other}; {advice}")
    for path, leaf in found.items():
        if np.shape(leaf) != wanted[path].shape:
            raise ValueError(
                f"{name}: {_place(path)} has shape {np.shape(leaf)} where {owner} has "
                f"{wanted[path].shape}; {advice}"
            )


def _type_name(tree: PyTree) -> str:
    if isinstance(tree, (np.ndarray, jax.Array, jax.ShapeDtypeStruct)):
        return "array"
    return type(tree).__name__


def _place(path: KeyPath) -> str:
    """A leaf's name within its tree."""
    return keystr(path).lstrip(".") or "it"
