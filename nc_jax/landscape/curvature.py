"""Curvatures: symmetric linear maps at a state, such as the Hessian of a function.

`HessianOf(function)` and `GaussNewtonOf(outputs, loss)` take the place of a problem in the
functions that compute with a Hessian: `hessian_vector_product`, `dense_hessian`,
`extreme_eigenpairs`, `spectral_density` and `sharpness`. They need no problem, and the state is any
tree of arrays, such as the parameters of a network.
"""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Float, PyTree

from ..checks import check_arrays, check_number, check_process, shown
from ..errors import ArgumentError

LinearMap = Callable[[PyTree], PyTree]


class AbstractCurvature(eqx.Module):
    """A symmetric linear map at each state, which functions on Hessians take instead of a problem.

    A subclass defines `hessian`. Its arrays are arguments of compiled programs, and everything else
    in it is static.

    Example: a diagonal matrix.

        >>> class Diagonal(nc.landscape.AbstractCurvature):
        ...     entries: jax.Array
        ...
        ...     def hessian(self, state, log_scale):
        ...         return lambda direction: self.entries * direction
        >>> found = nc.landscape.dense_hessian(Diagonal(jnp.array([1.0, 2.0])), jnp.zeros(2))
        >>> found.tolist()
        [[1.0, 0.0], [0.0, 2.0]]
    """

    @property
    def codimension(self) -> int:
        """Dimension of the space of states minus that of the subspace on which the map acts."""
        return 0

    @abc.abstractmethod
    def hessian(self, state: PyTree, log_scale: Float[ArrayLike, ""]) -> LinearMap:
        """The map at this state times e^log_scale, as a function of a direction."""

    def project(self, state: PyTree, direction: PyTree) -> PyTree:
        """Orthogonal projection onto the subspace on which the map acts: here the whole space."""
        return direction

    def check_state(self, state: PyTree) -> None:
        """Raise ValueError for what is no state: here anything but a tree of arrays of numbers."""
        check_process()
        check_arrays("state", state)
        if not jax.tree.leaves(state):
            raise ArgumentError("state has no arrays: give one or more.", "state")


class HessianOf(AbstractCurvature):
    """The Hessian of a function of a state: ∇²f(x), or ∇² Σ_b f(x, b) over batches b.

    It takes the place of a problem in `extreme_eigenpairs`, `spectral_density`, `sharpness`,
    `hessian_vector_product` and `dense_hessian`. Products are forward-mode derivatives of
    reverse-mode gradients. Of several batches one is in memory at a time.

    Args:
        function: called as `function(state, *batch)`; returns a real number. Arrays that it closes
            over are constants of the compiled programs; those of an `equinox.Module` are arguments.
        batches: arrays, or trees of arrays, whose first axis is that of the batches; () where the
            function takes the state alone. The function is summed over the batches, so that a mean
            over N samples needs a factor 1/N in it.

    Raises: ValueError for a function that is not callable or returns no real number, and for
    batches whose arrays differ in their first axis.

    Example: f(x) = Σ_b (b·x)²/2 with two batches has the Hessian Σ_b b bᵀ.

        >>> rows = jnp.array([[1.0, 0.0], [1.0, 2.0]])
        >>> curvature = nc.landscape.HessianOf(lambda x, b: jnp.dot(b, x) ** 2 / 2, (rows,))
        >>> nc.landscape.dense_hessian(curvature, jnp.zeros(2)).tolist()
        [[2.0, 2.0], [2.0, 4.0]]
    """

    function: Callable[..., Float[Array, ""]]
    batches: tuple[PyTree, ...] = ()

    def __check_init__(self):
        """Refuse a function that cannot be called, and batches that differ in number."""
        _check_callable("function", self.function, "lambda state: jnp.sum(state**4)")
        _check_batches(self.batches)

    def hessian(self, state: PyTree, log_scale: Float[ArrayLike, ""]) -> LinearMap:
        """e^log_scale times the sum of the Hessians of all batches."""
        return _summed(self.at, self.batches, state, log_scale)

    def at(self, state: PyTree, batch: tuple[PyTree, ...]) -> LinearMap:
        """∇² f(·, batch)."""
        value = jax.eval_shape(self.function, state, *batch)
        _check_number_returned("function", value)
        return jax.linearize(jax.grad(lambda x: self.function(x, *batch)), state)[1]


class GaussNewtonOf(AbstractCurvature):
    """The Gauss-Newton matrix Jᵀ ∇²ℓ(z) J of a loss ℓ of outputs z(x), J = ∂z/∂x.

    It is the Hessian of ℓ(z(x)) without the second derivatives of z, and positive semidefinite if ℓ
    is convex (Schraudolph 2002). Of several batches the matrices are summed. It takes the place of
    a problem as `HessianOf` does.

    Args:
        outputs: called as `outputs(state, *batch)`; returns an array or a tree of arrays.
        loss: called as `loss(outputs, *batch)`; returns a real number.
        batches: as in `HessianOf`.

    Raises: ValueError as `HessianOf`.

    Example: of the outputs z = (x₀x₁, x₁) under ½‖z‖², JᵀJ with J = ((x₁, x₀), (0, 1)).

        >>> curvature = nc.landscape.GaussNewtonOf(
        ...     lambda x: jnp.array([x[0] * x[1], x[1]]), lambda z: jnp.dot(z, z) / 2
        ... )
        >>> nc.landscape.dense_hessian(curvature, jnp.array([3.0, 2.0])).tolist()
        [[4.0, 6.0], [6.0, 10.0]]
    """

    outputs: Callable[..., PyTree]
    loss: Callable[..., Float[Array, ""]]
    batches: tuple[PyTree, ...] = ()

    def __check_init__(self):
        """Refuse functions that cannot be called, and batches that differ in number."""
        _check_callable("outputs", self.outputs, "lambda state: state**2")
        _check_callable("loss", self.loss, "lambda outputs: jnp.sum(outputs**2) / 2")
        _check_batches(self.batches)

    def hessian(self, state: PyTree, log_scale: Float[ArrayLike, ""]) -> LinearMap:
        """e^log_scale times the sum of the matrices of all batches."""
        return _summed(self.at, self.batches, state, log_scale)

    def at(self, state: PyTree, batch: tuple[PyTree, ...]) -> LinearMap:
        """Jᵀ ∇²ℓ J of one batch."""
        outputs, push = jax.linearize(lambda x: self.outputs(x, *batch), state)
        _check_number_returned("loss", jax.eval_shape(self.loss, outputs, *batch))
        pull = jax.linear_transpose(push, state)
        _, curve = jax.linearize(jax.grad(lambda z: self.loss(z, *batch)), outputs)
        return lambda direction: pull(curve(push(direction)))[0]


def _summed(
    at: Callable[[PyTree, tuple[PyTree, ...]], LinearMap],
    batches: tuple[PyTree, ...],
    state: PyTree,
    log_scale: Float[ArrayLike, ""],
) -> LinearMap:
    """e^log_scale times the sum of a linear map over batches, of which one is in memory."""
    check_number("log_scale", log_scale, scalar=True, signed=True)
    factor = jnp.exp(jnp.asarray(log_scale, jax.tree.leaves(state)[0].dtype))
    arrays = jax.tree.leaves(batches)
    if not arrays or len(arrays[0]) == 1:
        # The map is linearised once for all products.
        one = at(state, jax.tree.map(lambda leaf: leaf[0], batches))
        return lambda direction: optax.tree.scale(factor, one(direction))

    def product(direction: PyTree) -> PyTree:
        # Each product linearises anew: the memory is that of one batch, for any number of them.
        def add(total: PyTree, batch: tuple[PyTree, ...]) -> tuple[PyTree, None]:
            return optax.tree.add(total, at(state, batch)(direction)), None

        none = jax.tree.map(jnp.zeros_like, direction)
        total, _ = jax.lax.scan(add, none, batches)
        return optax.tree.scale(factor, total)

    return product


def _check_batches(batches: tuple[PyTree, ...]) -> None:
    """Raise ValueError for batches whose arrays differ in their number of batches."""
    check_arrays("batches", batches)
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(batches)]
    counts = {shape[:1] for shape in shapes}
    if len(counts) > 1 or () in counts or (0,) in counts:
        raise ArgumentError(
            f"batches have arrays of shapes {', '.join(map(str, shapes))}: give the same "
            "number of batches, 1 or more, as first axis of each.",
            "batches",
        )


def _check_callable(name: str, function: object, example: str) -> None:
    if not callable(function):
        raise ArgumentError(
            f"{name} = {shown(function)}: give a function, such as {example}.", name
        )


def _check_number_returned(name: str, value: Any) -> None:
    """Raise ValueError unless a function returns one real number, given its shape and dtype."""
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape != () or dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        what = f"an array of shape {shape} and dtype {dtype}" if dtype else type(value).__name__
        raise ArgumentError(f"{name} returns {what}: return one real number.", name)
