"""Rows that pass through layers with an activation, and the way back of their derivatives."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ...lanes import formed, product
from ...precision import matmul

# A map of one entry to another, applied to every entry of an array; None is the identity.
Activation = Callable[[Array], Array] | None
# From the slope of a function in the outputs to its slopes in the inputs and in every matrix.
PullBack = Callable[[Array], tuple[Array, tuple[Array, ...]]]


class Arithmetic(NamedTuple):
    """How a chain of products is computed: the product of two matrices, and how an operand is held.

    `product` reads every entry of an operand many times. An operand that is itself computed has to
    be held, in lanes by `formed`; otherwise XLA computes it again for each reading.
    """

    product: Callable[[Array, Array], Array] = matmul
    hold: Callable[[Array], Array] = lambda values: values


def arithmetic_of_lanes(witness: Array) -> Arithmetic:
    """Sums over lanes, whose operands are `formed` with this witness.

    Example:

        >>> from nc_jax.problems.relu.propagation import arithmetic_of_lanes
        >>> two = arithmetic_of_lanes(jnp.ones(1))
        >>> two.product(two.hold(jnp.ones((1, 2, 2))), jnp.ones((2, 1, 2))).tolist()
        [[[2.0, 2.0]]]
    """
    return Arithmetic(product, lambda values: formed(values, witness))


def remedy_of_kinks(activation: Activation) -> str:
    """`AbstractProblem.remedy_of_jumps` of a net with this activation: empty without kinks.

    Looks for jumps of the derivative at 0 and at ±1, ±3 and 6, where activations of `jax.nn` have
    their kinks.

    Example:

        >>> from nc_jax.problems.relu.propagation import remedy_of_kinks
        >>> remedy_of_kinks(jnp.tanh), remedy_of_kinks(nc.SmoothReLU())
        ('', '')
        >>> remedy_of_kinks(jax.nn.relu6)
        'give activation=nc_jax.SmoothReLU() and solver=nc_jax.RKC(), or a min_step'
    """
    if activation is None:
        return ""
    with jax.ensure_compile_time_eval():
        # Closer at 0 than the width of a smooth ReLU, and elsewhere than the spacing of float32.
        points = np.array([-3.0, -1.0, 0.0, 1.0, 3.0, 6.0], np.float32)
        distance = np.where(points == 0, 1e-12, 1e-4).astype(np.float32)
        sides = jnp.stack([points - distance, points + distance])
        _, slopes = jax.jvp(activation, (sides,), (jnp.ones_like(sides),))
        kinked = bool(jnp.any(jnp.abs(slopes[1] - slopes[0]) > 1e-2))
    remedy = "give activation=nc_jax.SmoothReLU() and solver=nc_jax.RKC(), or a min_step"
    return remedy if kinked else ""


def propagate(
    inputs: Float[Array, "N _ *lanes"],
    weights: Sequence[Float[Array, "_ _ *lanes"]],
    activation: Activation,
    *,
    arithmetic: Arithmetic = Arithmetic(),
) -> tuple[Float[Array, "N _ *lanes"], PullBack]:
    """σ(…σ(x W_1ᵀ)…W_lᵀ) of rows x, with an activation after every layer, and its pull-back.

    The products of the pull-back are written by hand: reverse-mode differentiation would transpose
    each term of a product that is written as a sum over lanes.

    Args: `arithmetic` of the matrices, whose further axes may be lanes.

    Example: a unit whose input is negative has no slope.

        >>> from nc_jax.problems.relu.propagation import propagate
        >>> weight = jnp.array([[1.0], [-1.0]])
        >>> outputs, pull_back = propagate(jnp.array([[2.0]]), (weight,), jax.nn.relu)
        >>> of_inputs, (of_weight,) = pull_back(jnp.ones((1, 2)))
        >>> outputs.tolist(), of_inputs.tolist(), of_weight.tolist()
        ([[2.0, 0.0]], [[1.0]], [[2.0], [0.0]])
    """
    multiply, hold = arithmetic
    steps = []
    for weight in weights:
        rows, through = multiply(inputs, transposed(weight)), None
        outputs = rows
        if activation is not None:
            outputs, through = jax.vjp(activation, hold(rows))
        steps.append((inputs, weight, through))
        inputs = hold(outputs)

    def pull_back(slope: Array) -> tuple[Array, tuple[Array, ...]]:
        slopes = []
        for inputs, weight, through in reversed(steps):
            if through is not None:
                (slope,) = through(slope)
            slope = hold(slope)
            slopes.append(multiply(transposed(slope), inputs))
            slope = multiply(slope, weight)
        return slope, tuple(reversed(slopes))

    return inputs, pull_back


def transposed(matrix: Float[Array, "m n *lanes"]) -> Float[Array, "n m *lanes"]:
    """The transpose of a matrix, or of the matrix of every lane."""
    return matrix.swapaxes(0, 1)
