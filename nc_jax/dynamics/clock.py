"""Clocks: the coordinate u in which a flow is integrated, by log(dt/du) and log(1 + t)."""

import abc
import math

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..checks import check_integer, check_number


class AbstractClock(eqx.Module):
    """A monotone map from a coordinate u to the time t of a flow, with u = 0 at t = 0.

    A subclass defines log(dt/du) and log(1 + t) as functions of u. Time t itself is never computed:
    it overflows long before the flows of this package have converged.

    Example:

        >>> class SquareTime(nc.AbstractClock):  # t = u²
        ...     def log_rate(self, u):
        ...         return jnp.log(2 * u)
        ...     def log_time(self, u):
        ...         return jnp.log1p(u**2)
        >>> round(float(jnp.expm1(SquareTime().log_time(jnp.asarray(3.0)))), 6)
        9.0
    """

    @abc.abstractmethod
    def log_rate(self, u: Float[Array, "..."]) -> Float[Array, "..."]:
        """log(dt/du)."""

    @abc.abstractmethod
    def log_time(self, u: Float[Array, "..."]) -> Float[Array, "..."]:
        """log(1 + t)."""


class RealTime(AbstractClock):
    """u = t: for flows that converge exponentially, as with the square loss or weight decay.

    Example:

        >>> problem = nc.mixon(3, 4, 2)
        >>> save_at = np.array([1.0, 10.0])  # times t
        >>> flow = nc.Flow(problem, save_at, clock=nc.RealTime(), observe=("objective",))
        >>> traj = flow(problem.init(jax.random.key(0)))
        >>> np.round(np.expm1(traj.log_time), 6).tolist()
        [1.0, 10.0]
    """

    def log_rate(self, u: Float[Array, "..."]) -> Float[Array, "..."]:
        """log(dt/du) = 0."""
        return jnp.zeros_like(u)

    def log_time(self, u: Float[Array, "..."]) -> Float[Array, "..."]:
        """log(1 + u)."""
        return jnp.log1p(u)


class LogTime(AbstractClock):
    """u = log(1 + t): for flows that converge as powers of log t, as with cross-entropy.

    The default clock of `Flow`.

    Example:

        >>> float(nc.LogTime().log_time(jnp.asarray(3.0)))  # u is log(1 + t) itself
        3.0
    """

    def log_rate(self, u: Float[Array, "..."]) -> Float[Array, "..."]:
        """log(dt/du) = u."""
        return u

    def log_time(self, u: Float[Array, "..."]) -> Float[Array, "..."]:
        """u."""
        return u


class LogLogTime(AbstractClock):
    """u = log(1 + log(1 + t)): for flows that converge as powers of log t, at extreme times.

    t = 10^(10^6) is u = 14.6. Save times are `np.log1p(log_times(...))`. The flow becomes stiffer
    with time: under cross-entropy the spectral radius of the field's Jacobian grows as log t. Use
    the solver `RKC()`, whose cost grows as the square root of that radius.

    Example:

        >>> save_at = np.log1p(nc.log_times(1e6, 3, start_log10=0))
        >>> round(float(save_at[-1]), 1)
        14.6
        >>> flow = nc.Flow(nc.ulpm(3, 4, 2), save_at, clock=nc.LogLogTime(), solver=nc.RKC())
    """

    def log_rate(self, u: Float[Array, "..."]) -> Float[Array, "..."]:
        """log(dt/du) = (e^u − 1) + u."""
        # dt/du = (1 + t) · d log(1 + t)/du, of which the logs are e^u − 1 and u.
        return jnp.expm1(u) + u

    def log_time(self, u: Float[Array, "..."]) -> Float[Array, "..."]:
        """e^u − 1."""
        return jnp.expm1(u)


def log_times(
    stop_log10: float, num: int, *, start_log10: float = -2.0
) -> Float[np.ndarray, " num"]:
    """Save times for `LogTime`: log(1 + t) at times t that are evenly spaced in log t.

    `np.log1p(log_times(...))` are save times for `LogLogTime`.

    Args:
        stop_log10: log10 of the last t, which may be in the millions.
        num: number of times; for num = 1 the time is the last one.
        start_log10: log10 of the first t.

    Returns: (num,) float64, increasing, in units of log(1 + t).

    Raises: ValueError if num < 1 or stop_log10 does not exceed start_log10.

    Example:

        >>> np.round(np.expm1(nc.log_times(2, 4, start_log10=-1)), 6).tolist()
        [0.1, 1.0, 10.0, 100.0]
        >>> nc.log_times(1000, 201).shape  # to t = 10^1000
        (201,)
    """
    num = check_integer("num", num)
    for name, value in (("start_log10", start_log10), ("stop_log10", stop_log10)):
        check_number(name, value, scalar=True, signed=True)
    if stop_log10 <= start_log10:
        raise ValueError(
            f"stop_log10 = {stop_log10} does not exceed start_log10 = {start_log10}: give a "
            "start_log10 below stop_log10."
        )
    # NumPy, not JAX: the result is float64 whether or not JAX has float64 switched on.
    log10_t = np.linspace(start_log10, stop_log10, num) if num > 1 else np.array([stop_log10])
    # log(e^0 + e^(log t)), which is finite where t overflows.
    return np.logaddexp(0.0, log10_t * math.log(10))
