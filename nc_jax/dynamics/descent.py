"""Gradient descent with an Optax transformation, as one compiled program."""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, Int, Key, PyTree

from ..checks import check_integer, check_key, check_kind
from ..measures import Invariant
from ..problems import (
    AbstractProblem,
    SampledProblem,
    check_problem,
    check_shapes,
    weakly_typed,
)
from ..trajectory import Trajectory
from .arguments import check_start
from .derivatives import refuse_reverse_mode
from .observers import Observer, check_observe, check_observer, drifts, observed_by
from .outcome import finish, is_nonfinite, mark_nonfinite

# Number of steps in one iteration of XLA's loop. The overhead of an iteration is as large as a step
# of a small model.
_UNROLL = 4


def log_steps(num_steps: int, num: int = 101) -> Int[np.ndarray, " T"]:
    """Up to `num` steps from 0 to num_steps, evenly spaced in log(1 + step), without repetitions.

    Raises: ValueError for numbers that are no integers >= 1.

    Example:

        >>> nc.log_steps(1000, 4).tolist()
        [0, 9, 99, 1000]
    """
    num_steps, num = check_integer("num_steps", num_steps), check_integer("num", num)
    spaced = np.expm1(np.linspace(0, np.log1p(num_steps), num))
    return np.unique(np.rint(spaced).astype(np.int64))


def gradient_descent(
    problem: AbstractProblem,
    state: PyTree,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    *,
    save_steps: Int[ArrayLike, " T"] | None = None,
    observe: Observer | Sequence[str] | None = None,
    save_states: bool = False,
    throw: bool = True,
    batch_size: int | None = None,
    key: Key[Array, ""] | None = None,
) -> Trajectory:
    """Descend the objective with an Optax transformation and record observables.

    x_{k+1} = retract(x_k + update(∇L(x_k))), where the problem's `retract` restores constraints,
    such as directions of norm 1, and is the identity elsewhere. A descent is one compiled program
    without a loop on the host: it shows no progress bar, and Ctrl-C takes effect at its end.
    Derivatives are taken in forward mode; reverse mode raises RuntimeError.

    Args:
        problem: defines the gradient, the objective and the observables.
        state: start, at step 0.
        optimizer: any Optax transformation, as Optax returns it. A transformation with a line
            search, such as `optax.lbfgs()`, is called with the objective that it needs.
        num_steps: number of steps.
        save_steps: (T,) increasing steps in 0..num_steps to record; None means `log_steps`.
        observe, save_states, throw: as for `gradient_flow`. A descent does not conserve the
            invariants of the flow: `{name}_drift` measures its distance from the flow.
        batch_size, key: for stochastic descent on a problem with samples. Every step takes the next
            batch_size samples; each epoch draws a new order of the samples, and leaves out the last
            samples if they do not fill a batch. Use a problem of reduction "mean": with "sum" the
            gradient of each batch contains the whole decay.

    Returns: a `Trajectory` along `steps`, with `log_time` = log(1 + step). k steps at rate η on a
    mean loss over N samples are time ηk/N of the flow of the summed loss:
    `trajectory.with_time_scaled(η/N)` has that time axis.

    Raises: ValueError for save steps that do not increase or leave 0..num_steps, a non-finite
    start, or batches that the problem or its number of samples does not allow; RuntimeError if the
    state becomes non-finite and `throw` is set.

    Example:

        >>> problem = nc.ulpm(3, 4, 2, reduction="mean")
        >>> start = problem.init(jax.random.key(0))
        >>> traj = nc.gradient_descent(
        ...     problem, start, optax.sgd(0.5), 1000, observe=("objective", "margin_min")
        ... )
        >>> traj.steps[-1].item(), bool(traj.observables["margin_min"][-1] > 0)
        (1000, True)
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
    # Steps as arrays are arguments of the program: only their number is compiled in.
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
    observe: Observer | tuple[str, ...] | None,
    save_states: bool,
    batch_size: int | None,
    key: Key[Array, ""] | None,
) -> Trajectory:
    check_shapes(problem, state)
    update = optax.with_extra_args_support(optimizer).update
    conserved_at_start = _conserved(problem, state)
    dtype = jnp.result_type(*jax.tree.leaves(state))
    # The last step is saved too, and its record dropped below. A second loop from the last save to
    # the last step would have the code of a step in the program twice.
    stops = jnp.append(save_steps, num_steps)
    log_time = jnp.log1p(stops.astype(dtype))

    def step(carry):
        state, memory, count, order = carry
        on_batch = problem
        if batch_size is not None:
            on_batch, order = _next_batch(problem, batch_size, key, count, order)
        gradient = on_batch.gradient(state)
        # The arithmetic of Optax mixes integer widths, which strict promotion refuses.
        with jax.numpy_dtype_promotion("standard"):
            # Line searches need the objective; without one the compiler drops the computation.
            updates, memory = update(
                gradient, memory, state,
                value=on_batch.objective(state), grad=gradient,
                # A line search tries states before `retract`, which may leave the constraints.
                value_fn=lambda state: on_batch.objective(problem.retract(state)),
            )  # fmt: skip
            state = problem.retract(optax.apply_updates(state, updates))
            return state, memory, count + 1, order

    def to_next_save(carry, save):
        length, log_time = save
        carry = _repeated(step, carry, length)
        state = carry[0]
        drift = drifts(conserved_at_start, _conserved(problem, state), log_time)
        observed = observed_by(observe, problem, state, drift)
        # All observables in the dtype of the state, as the records of a flow.
        observed = {name: jnp.asarray(x, log_time.dtype) for name, x in observed.items()}
        return carry, (observed, state if save_states else None)

    lengths = jnp.diff(stops, prepend=0)
    # A placeholder: the first step draws the order of the first epoch.
    order = jnp.arange(problem.num_samples) if isinstance(problem, SampledProblem) else None
    carry = (state, optimizer.init(state), jnp.zeros_like(num_steps), order)
    carry, saved = jax.lax.scan(to_next_save, carry, (lengths, log_time))
    observables, states = jax.tree.map(lambda leaf: leaf[:-1], saved)
    final = carry[0]
    result = mark_nonfinite(is_nonfinite(final))
    trajectory = Trajectory(
        log_time=log_time[:-1],
        observables=observables,
        final=final,
        final_log_time=log_time[-1],
        states=states,
        result=result,
        num_steps=num_steps,
        steps=save_steps,
    )
    return refuse_reverse_mode(trajectory)


def _repeated(step: Callable[[PyTree], PyTree], carry: PyTree, length: Int[Array, ""]) -> PyTree:
    """The carry after this number of steps."""

    # Unrolled by hand, since `fori_loop` unrolls only loops whose length is known when they are
    # traced. It saves a tenth of the time of small models.
    def several(_, carry):
        for _ in range(_UNROLL):
            carry = step(carry)
        return carry

    carry = jax.lax.fori_loop(0, length // _UNROLL, several, carry)
    return jax.lax.fori_loop(0, length % _UNROLL, lambda _, carry: step(carry), carry)


def _next_batch(
    problem: AbstractProblem,
    size: int,
    key: Key[Array, ""] | None,
    step: Int[Array, ""],
    order: Int[Array, " N"],
) -> tuple[AbstractProblem, Int[Array, " N"]]:
    """The problem on the samples of one step of stochastic descent, and the order of its epoch."""
    assert isinstance(problem, SampledProblem)
    assert key is not None
    epoch, place = jnp.divmod(step, problem.num_samples // size)
    # Drawn at the first step of an epoch and carried along: each draw sorts all samples.
    order = jax.lax.cond(
        place == 0,
        lambda: jax.random.permutation(jax.random.fold_in(key, epoch), problem.num_samples),
        lambda: order,
    )
    return problem.on_samples(jax.lax.dynamic_slice_in_dim(order, place * size, size)), order


def _conserved(problem: AbstractProblem, state: PyTree) -> dict[str, Invariant]:
    """The flow's invariants that do not decay.

    The others decay with the time of the flow, which a descent does not have.
    """
    # A rate above zero may be an array or traced, but a zero stays a float (`weakly_typed`).
    invariants = problem.invariants(state)
    return {name: x for name, x in invariants.items() if isinstance(x.rate, float) and x.rate == 0}


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
