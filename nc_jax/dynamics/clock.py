"""Clocks: the coordinate u in which a flow is integrated, as log(dt/du)."""

import abc
import math

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..checks import check_integer, check_number


class AbstractClock(eqx.Module):
    """A monotone map from a coordinate u to time t, with u = 0 at t = 0.

    t itself never appears: it overflows long before the flows here have settled.
    """

    @abc.abstractmethod
    def log_rate(self, u: Float[Array, "..."]) -> Float[Array, "..."]:
        """log(dt/du)."""

    @abc.abstractmethod
    def log_time(self, u: Float[Array, "..."]) -> Float[Array, "..."]:
        """log(1 + t)."""


class RealTime(AbstractClock):
    """u = t: for flows that converge exponentially, as under the square loss."""

    def log_rate(self, u: Float[Array, "..."]) -> Float[Array, "..."]:
        """log(dt/du) = 0."""
        return jnp.zeros_like(u)

    def log_time(self, u: Float[Array, "..."]) -> Float[Array, "..."]:
        """log(1 + u)."""
        return jnp.log1p(u)


class LogTime(AbstractClock):
    """u = log(1 + t): for flows that settle on the scale of log t, as under cross-entropy."""

    def log_rate(self, u: Float[Array, "..."]) -> Float[Array, "..."]:
        """log(dt/du) = u."""
        return u

    def log_time(self, u: Float[Array, "..."]) -> Float[Array, "..."]:
        """u."""
        return u


class LogLogTime(AbstractClock):
    """u = log(1 + log(1 + t)): for flows that go on settling on powers of log t.

    t = 10^(10^6) is u = 14.6. Save times are `np.log1p(log_times(...))`. The field is ever stiffer,
    its spectral radius growing as log t under cross-entropy: give it `RKC()`.
    """

    def log_rate(self, u: Float[Array, "..."]) -> Float[Array, "..."]:
        """log(dt/du) = (e^u − 1) + u."""
        return jnp.expm1(u) + u

    def log_time(self, u: Float[Array, "..."]) -> Float[Array, "..."]:
        """e^u − 1."""
        return jnp.expm1(u)


def log_times(stop_log10: float, num: int, start_log10: float = -2.0) -> Float[np.ndarray, " num"]:
    """Save times for `LogTime`: t from 10^start to 10^stop, evenly spaced in log t, as log(1+t).

    `np.log1p` of them are save times for `LogLogTime`. Returns float64 of shape (num,), increasing.
    The exponents may be in the millions.

    Raises: ValueError if num < 1 or stop does not exceed start.

    Example: `log_times(1000, 201)` runs from t = 0.01 to t = 10^1000.
    """
    num = check_integer("num", num)
    for name, value in (("start_log10", start_log10), ("stop_log10", stop_log10)):
        check_number(name, value, scalar=True, signed=True)
    if stop_log10 <= start_log10:
        raise ValueError(
            f"stop_log10 = {stop_log10} does not exceed start_log10 = {start_log10}: "
            "pass start_log10 below it."
        )
    log10_t = np.linspace(start_log10, stop_log10, num) if num > 1 else np.array([stop_log10])
    return np.logaddexp(0.0, log10_t * math.log(10))
