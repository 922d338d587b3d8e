"""The default solver of a flow that is stiff in a clock of log t, chosen by measurement."""

from collections.abc import Callable
from typing import Any

import diffrax
import jax.numpy as jnp
import optimistix
from jaxtyping import Array, Bool, PyTree

# An increment of Newton's method, relative to the tolerance of the step, with which it ends. The
# convergence is quadratic, so that the next increment would be far smaller.
_LARGEST_INCREMENT = 1e-2
# An increment up to this many eps that no longer shrinks counts as rounding. f is a difference of
# states divided by a step, so that eps is amplified. It matters in float32: at the default rtol of
# float64 the limit is below _LARGEST_INCREMENT.
_LARGEST_ROUNDING = 3000


class PatientNewton(optimistix.Newton):
    """Newton's method that ends when an increment is small, and goes on where increments grow.

    The stages of an implicit solver are solved for f, which in log t has stiff modes of size
    e^log_rate times the rounding errors of the logits. Three root finders of Diffrax and Optimistix
    were rejected, by measurement. The chord method has the Jacobian of the start of a step, whose
    stiff part grows by e^h over a step h: it converges for h < 0.1 only. Newton's method with
    `cauchy_termination` waits for a residual below the tolerance, which rounding errors exceed from
    t = 10^7 on. Without it, an increment twice the last one ends the step as diverged; here the
    second increment is often the larger one, as the first moves along the tangent of the slow
    manifold.
    """

    cauchy_termination: bool = False

    def terminate(
        self,
        fn: Callable[..., Any],
        y: PyTree,
        args: PyTree,
        options: dict[str, Any],
        state: Any,
        tags: frozenset[object],
    ) -> tuple[Bool[Array, ""], optimistix.RESULTS]:
        """Whether to end, and the outcome; too many iterations are counted by the caller."""
        del fn, y, args, options, tags
        failed = (state.step > 0) & ~jnp.isfinite(state.diffsize)
        # At the rounding errors of the state increments are equal at random, and end so too.
        floor = _LARGEST_ROUNDING * jnp.finfo(state.diffsize.dtype).eps / self.rtol
        rounding = (state.step >= 3) & (state.diffsize < floor)
        stalled = rounding & (state.diffsize > state.diffsize_prev / 4)
        ended = failed | (state.diffsize < _LARGEST_INCREMENT) | stalled
        divergence = optimistix.RESULTS.nonlinear_divergence
        outcome = optimistix.RESULTS.where(failed, divergence, optimistix.RESULTS.successful)
        return ended, outcome


def stiff_solver() -> diffrax.Kvaerno5:
    """`Kvaerno5` with a root finder that converges in stiff flows, to the tolerances of the run.

    The default for a problem that `is_stiff_in_log_time`, such as one with soft labels or several
    labels for a sample.

    Example: the logits of the support {0, 1} relax to a difference of log 3.

        >>> targets = np.array([[0.75, 0.25, 0.0], [0.0, 0.0, 1.0]])
        >>> problem = nc.problems.FreeFeatures(targets, 3, loss=nc.losses.SoftCrossEntropy())
        >>> save_at, solver = nc.log_times(12, 2), nc.dynamics.stiff_solver()
        >>> flow = nc.Flow(problem, save_at, solver=solver, observe=("in_support_gap",))
        >>> traj = flow(problem.init(jax.random.key(0)))
        >>> bool(traj.observables["in_support_gap"][-1] < 1e-11), bool(traj.num_steps < 1000)
        (True, True)
    """
    return diffrax.Kvaerno5(root_finder=diffrax.with_stepsize_controller_tols(PatientNewton)())
