"""Derivatives of a run: forward mode passes, reverse mode is refused in one line."""

import equinox.internal as eqxi

from ..trajectory import Trajectory

_MESSAGE = (
    "reverse mode (jax.grad, jax.vjp, jax.jacrev) cannot pass through a flow or a descent, whose "
    "number of steps is not fixed: take derivatives in forward mode, jax.jvp or jax.jacfwd."
)


def refuse_reverse_mode(trajectory: Trajectory) -> Trajectory:
    """The trajectory unchanged; in reverse mode it raises RuntimeError.

    It adds no operation to a program. Without it JAX raises an error about its while loops, which
    names no function of the caller.
    """
    # An identity with a rule for reverse mode alone, so that forward mode passes through it.
    return eqxi.nondifferentiable_backward(trajectory, msg=_MESSAGE)
