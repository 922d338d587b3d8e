"""The outcome of a run: non-finite states, and the error that a failed run raises on the host."""

import math
from collections.abc import Callable

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PyTree

from ..checks import is_traced
from ..trajectory import Trajectory


def is_nonfinite(state: PyTree) -> Bool[Array, ""]:
    """Whether any entry of the state is NaN or infinite."""
    finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(state)]
    return ~jnp.all(jnp.stack(finite))


def mark_nonfinite(
    occurred: Bool[Array, ""],
    result: diffrax.RESULTS = diffrax.RESULTS.successful,  # pyright: ignore[reportArgumentType]
) -> diffrax.RESULTS:
    """The result `nonfinite` where a non-finite state occurred, else the given result."""
    nonfinite = diffrax.RESULTS.nonfinite
    return diffrax.RESULTS.where(occurred, nonfinite, result)  # pyright: ignore[reportArgumentType]


def time_text(log_time: float) -> str:
    """The time t of log(1 + t), for a message: t itself, or a power of 10 where it is large."""
    # t itself overflows; for t above 10^6, log(t) and log(1 + t) agree to the digits shown.
    decades = log_time / math.log(10)
    return f"t = {math.expm1(log_time):.6g}" if decades < 6 else f"t = 10^{decades:.6g}"


def finish(
    trajectory: Trajectory,
    throw: bool,
    *,
    advise: Callable[[diffrax.RESULTS], str] = lambda result: "",
    timed: bool = False,
) -> Trajectory:
    """Raise RuntimeError if `throw` is set and a concrete run stopped early.

    The outcome of a traced run is in `result` only. The error is raised outside of the compiled
    function: a runtime error of Equinox inside of it would end a whole batch because of one lane,
    and would hide the message below a traceback of the runtime.

    Args: `advise` gives a part of the message from the result of the first run that failed;
    `timed`, whether the message names the time at which the run ended.
    """
    succeeded = trajectory.succeeded
    if not throw or is_traced(succeeded) or bool(np.all(succeeded)):
        return trajectory
    failed = np.flatnonzero(~np.asarray(succeeded))
    first = jax.tree.map(lambda leaf: np.asarray(np.ravel(leaf)[failed[0]]), trajectory.result)
    what = "run" if succeeded.ndim == 0 else f"{failed.size} of {succeeded.size} runs"
    end = float(np.ravel(trajectory.final_log_time)[failed[0]])
    where = f" at {time_text(end)}" if timed and np.isfinite(end) else ""
    dtype = trajectory.final_log_time.dtype
    message = diffrax.RESULTS[first]
    if bool(first == diffrax.RESULTS.dt_min_reached):
        # Diffrax's message names a minimum step size, which the caller may not have set.
        message = (
            f"There the step size fell below the spacing of {dtype.name}, as it does where the "
            "solution grows beyond all bounds in finite time or the field jumps."
        )
    raise RuntimeError(
        f"{what} failed{where} after {np.max(trajectory.num_steps)} steps: {message} "
        f"{advise(first)}Pass throw=False to get the part that was computed."
    )
