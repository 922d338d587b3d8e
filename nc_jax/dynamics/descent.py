"""Gradient descent by Optax, as one scan."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, Int, Key, PyTree

from ..checks import check_integer, check_key, check_kind
from ..metrics import Invariant
from ..problems import (
    AbstractProblem,
    SampledProblem,
    check_problem,
    check_shapes,
    weakly_typed,
)
from ..trajectory import (
    Observe,
    Trajectory,
    check_start,
    drifts,
    finish,
    is_nonfinite,
    mark_nonfinite,
)
from .arguments import check_observe, check_observer
from .program import observed_by

_UNROLL = 4


def log_steps(num_steps: int, num: int = 101) -> Int[np.ndarray, " T"]:
    """Up to `num` steps from 0 to num_steps, evenly spaced in log(1 + step), without repeats.

    Raises: ValueError for numbers that are no integers >= 1.
    """
    num_steps, num = check_integer("num_steps", num_steps), check_integer("num", num)
    spaced = np.expm1(np.linspace(0, np.log1p(num_steps), num))
    return np.unique(np.rint(spaced).astype(np.int64))


def gradient_descent(
    problem: AbstractProblem,
    state: PyTree,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    save_steps: Int[ArrayLike, " T"] | None = None,
    observe: Observe | Sequence[str] | None = None,
    save_states: bool = False,
    throw: bool = True,
    batch_size: int | None = None,
    key: Key[Array, ""] | None = None,
) -> Trajectory:
    """Descend the objective with an Optax transformation and record observables.

    Each step ends with the problem's `retract`, which keeps what its constraints normalise.

    Args:
        problem: gives the gradient, the objective and the observables.
        state: start, at step 0.
        optimizer: any Optax transformation, used as it is; those with a line search, such as
            `optax.lbfgs()`, get the objective they ask for.
        num_steps: updates to make.
        save_steps: (T,) increasing steps in 0..num_steps to record; None means `log_steps`.
        observe, save_states, throw: as for `gradient_flow`. Descent keeps no invariant: the
            `{name}_drift` of those that the flow conserves tells how far from the flow it is.
        batch_size, key: for stochastic descent on a problem with samples: every step sees the next
            batch_size of them, in an order drawn anew each epoch; the rest of an epoch is left out.
            Give a problem of reduction "mean": of "sum" each batch has all of the decay.

    Returns: a `Trajectory` with `log_time` = log(1 + step). k steps at rate η on a mean loss over
    N samples are time ηk/N of the flow of the summed loss.

    Raises: ValueError for save steps that do not increase or leave 0..num_steps, a non-finite
    start, or batches that the problem or its number of samples does not allow; RuntimeError if the
    state becomes non-finite and `throw` is set.

    Example: `gradient_descent(ulpm(5, 20, 10, "mean"), start, optax.sgd(5.0), 100_000)`.
    """
    check_problem(problem)
    check_start(state)
    check_observe(observe, problem)
    check_observer(observe, state, None)
    check_kind("optimizer", optimizer, optax.GradientTransformation, "optax.sgd(0.1)")
    num_steps = check_integer("num_steps", num_steps)
    steps = log_steps(num_steps) if save_steps is None else np.asarray(save_steps)
    _check_save_steps(steps, num_steps)
    _check_batches(problem, batch_size, key)
    trajectory = _descend(
        weakly_typed(problem), state, optimizer, jnp.asarray(steps), jnp.asarray(num_steps),
        observe if observe is None or callable(observe) else tuple(observe), save_states,
        batch_size, key,
    )  # fmt: skip
    return finish(trajectory, throw)


@eqx.filter_jit
def _descend(
    problem: AbstractProblem,
    state: PyTree,
    optimizer: optax.GradientTransformation,
    save_steps: Int[Array, " T"],
    num_steps: Int[Array, ""],
    observe: Observe | tuple[str, ...] | None,
    save_states: bool,
    batch_size: int | None,
    key: Key[Array, ""] | None,
) -> Trajectory:
    check_shapes(problem, state)
    update = optax.with_extra_args_support(optimizer).update
    conserved_at_start = _conserved(problem, state)
    dtype = jnp.result_type(*jax.tree.leaves(state))
    # The end is a save like the others, lest the step be compiled once more to reach it.
    stops = jnp.append(save_steps, num_steps)
    log_time = jnp.log1p(stops.astype(dtype))

    def step(carry):
        state, memory, count, order = carry
        seen = problem
        if batch_size is not None:
            seen, order = _next_batch(problem, batch_size, key, count, order)
        gradient = seen.gradient(state)
        # Optax's own arithmetic mixes integer widths, which strict promotion refuses.
        with jax.numpy_dtype_promotion("standard"):
            # Line searches read the objective; where none does, the compiler drops it.
            updates, memory = update(
                gradient, memory, state,
                value=seen.objective(state), grad=gradient,
                value_fn=lambda state: seen.objective(problem.retract(state)),
            )  # fmt: skip
            state = problem.retract(optax.apply_updates(state, updates))
            return state, memory, count + 1, order

    def advance(carry, length):
        # Unrolled by hand, since `fori_loop` unrolls known lengths only: a tenth off small models.
        def several(_, carry):
            for _ in range(_UNROLL):
                carry = step(carry)
            return carry

        carry = jax.lax.fori_loop(0, length // _UNROLL, several, carry)
        return jax.lax.fori_loop(0, length % _UNROLL, lambda _, carry: step(carry), carry)

    def to_next_save(carry, save):
        length, log_time = save
        carry = advance(carry, length)
        state = carry[0]
        kept = drifts(conserved_at_start, _conserved(problem, state), log_time)
        recorded = observed_by(observe, problem, state, kept)
        recorded = {name: jnp.asarray(x, log_time.dtype) for name, x in recorded.items()}
        return carry, (recorded, state if save_states else None)

    lengths = jnp.diff(stops, prepend=0)
    order = jnp.arange(problem.num_samples) if isinstance(problem, SampledProblem) else None
    carry = (state, optimizer.init(state), jnp.zeros_like(num_steps), order)
    carry, saved = jax.lax.scan(to_next_save, carry, (lengths, log_time))
    observables, states = jax.tree.map(lambda leaf: leaf[:-1], saved)
    final = carry[0]
    result = mark_nonfinite(is_nonfinite(final))
    return Trajectory(
        log_time=log_time[:-1],
        observables=observables,
        final=final,
        final_log_time=log_time[-1],
        states=states,
        result=result,
        num_steps=num_steps,
    )


def _next_batch(
    problem: AbstractProblem,
    size: int,
    key: Key[Array, ""] | None,
    step: Int[Array, ""],
    order: Int[Array, " N"],
) -> tuple[AbstractProblem, Int[Array, " N"]]:
    """The problem on the samples of one step of stochastic descent, and the order of this epoch."""
    assert isinstance(problem, SampledProblem)
    assert key is not None
    epoch, place = jnp.divmod(step, problem.num_samples // size)
    order = jax.lax.cond(
        place == 0,
        lambda: jax.random.permutation(jax.random.fold_in(key, epoch), problem.num_samples),
        lambda: order,
    )
    return problem.on_samples(jax.lax.dynamic_slice_in_dim(order, place * size, size)), order


def _conserved(problem: AbstractProblem, state: PyTree) -> dict[str, Invariant]:
    """The flow's invariants that do not decay; descent has no time to decay them by."""
    kept = problem.invariants(state)
    return {name: x for name, x in kept.items() if isinstance(x.rate, float) and x.rate == 0}


def _check_batches(
    problem: AbstractProblem, batch_size: int | None, key: Key[Array, ""] | None
) -> None:
    if batch_size is None:
        if key is not None:
            raise ValueError("key without batch_size: give both, or neither for all samples.")
        return
    if not isinstance(problem, SampledProblem):
        raise ValueError(
            f"batch_size = {batch_size}: {type(problem).__name__} has no samples to draw; descend "
            "it whole, or give a NormalizedReLUNet."
        )
    check_integer("batch_size", batch_size, most=problem.num_samples)
    if key is None:
        raise ValueError("key = None: give the batches a key, jax.random.key(seed).")
    check_key(key)


def _check_save_steps(save_steps: Int[np.ndarray, " T"], num_steps: int) -> None:
    if save_steps.ndim != 1 or save_steps.size == 0:
        raise ValueError(f"save_steps has shape {save_steps.shape}: give one dimension of steps.")
    if not np.issubdtype(save_steps.dtype, np.integer):
        raise ValueError(f"save_steps has dtype {save_steps.dtype}: give integers.")
    if save_steps[0] < 0 or save_steps[-1] > num_steps or np.any(np.diff(save_steps) <= 0):
        raise ValueError(
            f"save_steps = {save_steps}: give strictly increasing steps in 0..{num_steps}."
        )
