"""The interface of a problem: what flows, descent and the landscape call."""

import abc
from collections.abc import Sequence
from typing import ClassVar, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import KeyPath, keystr, tree_leaves_with_path
from jaxtyping import Array, ArrayLike, DTypeLike, Float, Int, Key, PyTree

from ..capabilities import inherited_beside, void_inherited_claims
from ..checks import check_arrays, check_process, close_to
from ..measures import EQUATIONS, Invariant


class AbstractProblem(eqx.Module):
    """A model with random starts, an objective L and the flow x' = −∇L(x) of its state.

    A subclass writes the seven abstract methods. Flow, descent, observables, storage and plotting
    then work without further code. A model may have a modified gradient in the place of ∇L, as
    `LinearizedMixon` does.

    Example: L(x) = ½‖x‖², whose flow is e^(−t) x.

        >>> class Bowl(nc.problems.AbstractProblem):
        ...     def init(self, key):
        ...         return jax.random.normal(key, (3,))
        ...
        ...     def objective(self, state):
        ...         return jnp.sum(state**2) / 2
        ...
        ...     def gradient(self, state):
        ...         return state
        ...
        ...     def scaled_descent(self, state, log_scale):
        ...         return -jnp.exp(log_scale) * state
        ...
        ...     def observe(self, state):
        ...         return {"norm": jnp.linalg.norm(state)}
        ...
        ...     def invariants(self, state):
        ...         return {}
        ...
        ...     def largest_log_scale(self, dtype):
        ...         return np.log(np.finfo(dtype).max).item()
        >>> Bowl().vector_field(0.0, jnp.array([1.0, 2.0, 3.0]), None).tolist()
        [-1.0, -2.0, -3.0]
    """

    # Whether all arrays of a state are matrices whose rows have norm 1, and the flow is minus the
    # Riemannian gradient of `objective` on this product of spheres. Functions of `landscape` then
    # compute the Riemannian Hessian.
    has_unit_rows: ClassVar[bool] = False

    # Whether the field jumps as a function of the state. Adaptive step control would then shorten
    # its steps without end, so that a flow demands fixed steps or a smallest step.
    has_jumps: ClassVar[bool] = False

    # `_claims` names class attributes that state what has been proved of a class. `_formulas` names
    # the members that such a proof is about. A subclass may replace both tuples.
    _claims: ClassVar[tuple[str, ...]] = ()
    _formulas: ClassVar[tuple[str, ...]] = ("objective", "gradient", "scaled_descent")

    def __init_subclass__(cls, **options: object) -> None:
        """Set the claims of a parent to False where a subclass replaces one of its formulas."""
        super().__init_subclass__(**options)
        void_inherited_claims(cls, cls._claims, cls._formulas)

    def __check_init__(self):
        """Refuse a subclass that has a new objective but the gradient of its parent."""
        inherited = inherited_beside(type(self), "objective", ("gradient", "scaled_descent"))
        if inherited:
            kind = type(self).__name__
            raise ValueError(
                f"problem: {kind} replaces the objective of its parent but not "
                f"{' and '.join(inherited)}; define these in {kind} too."
            )

    @abc.abstractmethod
    def init(self, key: Key[Array, ""]) -> PyTree:
        """A random start, from a typed key."""

    @abc.abstractmethod
    def objective(self, state: PyTree) -> Float[Array, ""]:
        """L at a state."""

    @abc.abstractmethod
    def gradient(self, state: PyTree) -> PyTree:
        """∇L, in the structure of the state."""

    @abc.abstractmethod
    def scaled_descent(self, state: PyTree, log_scale: Float[ArrayLike, ""]) -> PyTree:
        """e^log_scale · (−∇L), the field in a clock with dt/du = e^log_scale."""

    @abc.abstractmethod
    def observe(self, state: PyTree) -> dict[str, Float[Array, "..."]]:
        """Numbers or arrays to record along a trajectory, by name."""

    @abc.abstractmethod
    def invariants(self, state: PyTree) -> dict[str, Invariant]:
        """Quantities that the exact flow conserves, or lets decay at a known rate, by name."""

    @abc.abstractmethod
    def largest_log_scale(self, dtype: DTypeLike) -> float:
        """The largest log_scale for which `scaled_descent` is finite along the flow; may be inf."""

    @property
    def comes_to_rest(self) -> bool:
        """Whether the flow converges to a point, so that it becomes stiff in a clock of log t.

        False for a flow without a limit, such as that of cross-entropy without decay.
        """
        return True

    @property
    def is_stiff_in_log_time(self) -> bool:
        """Whether some modes of a flow without a limit relax at a rate that does not fall with t.

        In a clock of log t the rate of these modes grows as t, so that an explicit solver needs
        about t steps. Flows then take an implicit solver by default, and refuse explicit ones.
        False for a flow that comes to rest, which `RealTime()` suits, and for cross-entropy.
        """
        return False

    @property
    def remedy_of_jumps(self) -> str:
        """What to change where the field jumps and step control halves its steps without end.

        The end of a sentence in the message of a run that fails; empty for a continuous field.

        Example:

            >>> nc.DeepUnconstrainedFeatures((2, 2), (3, 3), activation=jax.nn.relu).remedy_of_jumps
            'give activation=nc_jax.SmoothReLU() and solver=nc_jax.RKC(), or a min_step'
        """
        return "give a larger min_step, or fixed steps" if self.has_jumps else ""

    @property
    def is_gradient_flow(self) -> bool:
        """Whether the flow is −∇L of `objective` in the coordinates of the state, unconstrained.

        The linearised flow is then minus the Hessian of L. The default is False for a model that
        overrides `retract`, because such a model has constraints. A model that descends no
        function, or descends one in another metric, overrides this property.
        """
        # Compared on the class: `self.retract` is a new bound method at each access.
        return type(self).retract is AbstractProblem.retract

    def state_shapes(self) -> PyTree:
        """A state with `jax.ShapeDtypeStruct`s in the place of arrays; nothing is computed."""
        # The key is created inside of the function, so that not even the key is computed.
        return jax.eval_shape(lambda: self.init(jax.random.key(0)))

    def observables(self) -> dict[str, str]:
        """Names of all that a run records, each with its equation from `metrics.EQUATIONS`.

        The names are those of `observe`, and `{name}_drift` for each of the `invariants`. A name
        that only a user's problem has gets an empty equation. Nothing is computed.

        Example:

            >>> nc.ulpm(3, 4, 2).observables()["max_margin_ratio"]
            '2(K−1)√n q_min/ρ², at most 1 (Ji, theorem 3.1)'
        """
        state = self.state_shapes()
        invariants = jax.eval_shape(self.invariants, state)
        names = [*jax.eval_shape(self.observe, state), *(f"{name}_drift" for name in invariants)]
        return {name: EQUATIONS.get(name, "") for name in names}

    def observe_only(self, state: PyTree, names: Sequence[str]) -> dict[str, Float[Array, "..."]]:
        """The named observables of `observe`, in the order of `names`.

        Under `jax.jit`, and in loops of JAX, nothing is computed that these names do not need.

        Raises: ValueError for a name that `observe` does not return.

        Example:

            >>> problem = nc.ulpm(3, 4, 2)
            >>> observe = jax.jit(lambda state: problem.observe_only(state, ("squared_norm",)))
            >>> round(float(observe(problem.init(jax.random.key(0)))["squared_norm"]), 6)
            2.0
        """
        # All observables are traced; XLA removes the operations whose results are not returned.
        observed = self.observe(state)
        for name in names:
            if name not in observed:
                raise ValueError(
                    f"{name!r} is no observable of this problem.{close_to(name, observed)} "
                    "`problem.observables()` lists all names; drifts of invariants need a run."
                )
        return {name: observed[name] for name in names}

    def scaled_descent_lanes(self, states: PyTree, log_scale: Float[ArrayLike, ""]) -> PyTree:
        """`scaled_descent` of many states, which lie along the last axis of every array.

        A batch of flows spends most of its time here. The default is a `jax.vmap`. A model of small
        matrices overrides it with products that are written as sums over lanes.
        """
        return jax.vmap(self.scaled_descent, (-1, None), -1)(states, log_scale)

    def retract(self, state: PyTree) -> PyTree:
        """The nearest state that fulfils the constraints of the model; by default the state.

        Descent applies `retract` after each step. Its second derivative along a velocity is the
        acceleration with which `GradientDescentODE` stays on the constraints.
        """
        return state

    def vector_field(self, t: object, state: PyTree, args: object) -> PyTree:
        """−∇L in real time, with the signature of a `diffrax.ODETerm`; ignores `t` and `args`."""
        del t, args
        return self.scaled_descent(state, 0.0)


@runtime_checkable
class SampledProblem(Protocol):
    """A problem on given samples, which allows descent on batches of them."""

    @property
    def num_samples(self) -> int:
        """N."""
        ...

    def on_samples(self, samples: Int[Array, " B"]) -> AbstractProblem:
        """The same problem on these samples alone."""
        ...


def weakly_typed(problem: AbstractProblem) -> AbstractProblem:
    """The problem with its floats as weakly typed arrays, which are arguments of a program.

    A Python float is a constant of the program, so that another λ needs a new compilation. Like a
    Python float, a weakly typed array does not promote a float32 state. Zeros, integers and static
    fields are not converted.
    """

    def convert(leaf: object) -> object:
        # A zero stays a Python float: code that tests for 0 leaves its term out of the program. The
        # value of an array is unknown when a program is traced.
        return jnp.asarray(float(leaf)) if isinstance(leaf, float) and leaf != 0 else leaf

    return jax.tree.map(convert, problem)


def check_problem(problem: object) -> None:
    """Raise ValueError unless the value is a problem."""
    if not isinstance(problem, AbstractProblem):
        raise ValueError(
            f"problem is of type {type(problem).__name__}: give a problem, such as "
            "nc_jax.ulpm(num_classes, feature_dim, samples_per_class)."
        )


def check_shapes(problem: AbstractProblem, state: PyTree, *, name: str = "start") -> None:
    """Raise ValueError unless a state has the structure and the shapes of the problem's states.

    The check reads shapes only, and adds no operation to a compiled program.
    """
    # Before any call of JAX, which may hang in a forked process.
    check_process()
    check_problem(problem)
    expected = problem.state_shapes()
    check_like(
        expected,
        state,
        name=name,
        owner="the problem",
        advice="pass a state like problem.init(key).",
    )


def check_like(expected: PyTree, given: PyTree, *, name: str, owner: str, advice: str) -> None:
    """Raise ValueError unless a tree of arrays has the structure and the shapes of another.

    Args:
        expected: a tree with the structure and the shapes that are required.
        given: the tree to check.
        name: name of the given tree in the message.
        owner: words for what has the expected tree, such as "the problem".
        advice: the end of the message.
    """
    # Types are compared first: a tuple in the place of a `LastLayer` would otherwise be described
    # by the names of leaves that it lacks.
    if _type_name(given) != _type_name(expected):
        raise ValueError(
            f"{name} is of type {_type_name(given)} where {owner} has {_type_name(expected)}; "
            f"{advice}"
        )
    check_arrays(name, given)
    found, wanted = (dict(tree_leaves_with_path(tree)) for tree in (given, expected))
    # In the order of the trees: a set would name another leaf in another process.
    for path in (*wanted, *found):
        if path in wanted and path in found:
            continue
        lack, other = ("", "has none") if path in found else ("no ", "has one")
        raise ValueError(f"{name} has {lack}{_place(path)} where {owner} {other}; {advice}")
    for path, leaf in found.items():
        if np.shape(leaf) != wanted[path].shape:
            raise ValueError(
                f"{name}: {_place(path)} has shape {np.shape(leaf)} where {owner} has "
                f"{wanted[path].shape}; {advice}"
            )


def _type_name(tree: PyTree) -> str:
    # One name for all kinds of arrays, because an expected tree has `ShapeDtypeStruct`s.
    if isinstance(tree, (np.ndarray, jax.Array, jax.ShapeDtypeStruct)):
        return "array"
    return type(tree).__name__


def _place(path: KeyPath) -> str:
    """The name of a leaf within its tree."""
    # A tree that is a single array has an empty path.
    return keystr(path).lstrip(".") or "it"
