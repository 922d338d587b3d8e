"""The flows of many starts of the unconstrained layer-peeled model to t = 10^5, by other tools.

Each function returns a function of the relative tolerance. The latter returns a `Solve`, a function
from states (S, N d + K d) at the start to states at the end.
"""

import importlib
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import diffrax
import jax
import numpy as np

from peers.ulpm_model import STATE_SIZE, jax_log_field, log_field, real_field, torch_log_field

DECADES = 5.0
STOP = float(np.log1p(10**DECADES))

# States (S, dim) at the end, from states (S, dim) at the start.
Solve = Callable[[np.ndarray], np.ndarray]


def scipy_one(task: tuple[np.ndarray, str, bool, float, float]) -> np.ndarray:
    """The final state of one start, in a worker process."""
    from scipy.integrate import solve_ivp

    start, method, in_log_time, rtol, atol = task
    field, stop = (log_field, STOP) if in_log_time else (real_field, 10**DECADES)
    return solve_ivp(field, (0.0, stop), start, method, rtol=rtol, atol=atol).y[:, -1]


def scipy(pool: ProcessPoolExecutor, method: str, in_log_time: bool) -> Callable[[float], Solve]:
    """`solve_ivp` on all cores: SciPy has no batches, so each core takes some of the starts."""

    def at(rtol: float) -> Solve:
        def solve(states: np.ndarray) -> np.ndarray:
            tasks = [(state, method, in_log_time, rtol, rtol / 100) for state in states]
            # Tasks are sent in chunks, because sending a single task takes as long as solving it.
            return np.array(list(pool.map(scipy_one, tasks, chunksize=16)))

        return solve

    return at


def torchdiffeq(batch: int) -> Callable[[float], Solve]:
    """`torchdiffeq.odeint`, dopri5: the batch is one system with one error norm."""
    import torch
    import torchdiffeq

    field, times = torch_log_field(), torch.tensor([0.0, STOP], dtype=torch.float64)

    def at(rtol: float) -> Solve:
        def one_batch(states: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                ends = torchdiffeq.odeint(
                    field, torch.from_numpy(states), times, rtol=rtol, atol=rtol / 100
                )
            return np.asarray(ends[-1])

        return in_batches(one_batch, batch)

    return at


def torchode(batch: int) -> Callable[[float], Solve]:
    """torchode's Tsit5; every state of a batch has its step sizes."""
    import torch

    to = importlib.import_module("torchode")
    term = to.ODETerm(torch_log_field())

    def at(rtol: float) -> Solve:
        controller = to.IntegralController(atol=rtol / 100, rtol=rtol, term=term)
        adjoint = to.AutoDiffAdjoint(to.Tsit5(term=term), controller)

        def one_batch(states: np.ndarray) -> np.ndarray:
            count = len(states)
            problem = to.InitialValueProblem(
                y0=torch.from_numpy(states),
                t_start=torch.zeros(count, dtype=torch.float64),
                t_end=torch.full((count,), STOP, dtype=torch.float64),
            )
            with torch.no_grad():
                return adjoint.solve(problem).ys[:, -1].numpy()

        return in_batches(one_batch, batch)

    return at


def vmapped_diffrax(batch: int) -> Callable[[float], Solve]:
    """`jax.jit(jax.vmap(diffeqsolve))`."""

    @jax.jit
    def ends(states, rtol):
        def one(state):
            solution = diffrax.diffeqsolve(
                diffrax.ODETerm(jax_log_field), diffrax.Tsit5(), 0.0, STOP, None, state,
                stepsize_controller=diffrax.PIDController(rtol=rtol, atol=rtol / 100),
                max_steps=None, adjoint=diffrax.DirectAdjoint(),
            )  # fmt: skip
            assert solution.ys is not None
            return solution.ys[0]

        return jax.vmap(one)(states)

    return lambda rtol: in_batches(lambda states: np.asarray(ends(states, rtol)), batch)


class GradsolveProblem:
    """The flow as gradsolve takes it."""

    name, dim, t0, t1, is_stiff = "ulpm", STATE_SIZE, 0.0, STOP, False

    def f_jax(self, t, y, params):
        """The field."""
        return jax_log_field(t, y, params)


def gradsolve(engine: str, batch: int) -> Callable[[float], Solve]:
    """`gradsolve.solve` with a general engine; its fused engines need few variables and a GPU."""
    gs = importlib.import_module("gradsolve")

    def at(rtol: float) -> Solve:
        def one_batch(states: np.ndarray) -> np.ndarray:
            # `solve` needs an array of parameters, which the field ignores.
            return gs.solve(
                GradsolveProblem(), states, np.zeros((len(states), 1)), engine=engine, rtol=rtol,
                atol=rtol / 100, device=jax.default_backend(),
            ).y_final  # fmt: skip

        return in_batches(one_batch, batch)

    return at


def in_batches(solve: Solve, batch: int) -> Solve:
    """Solve at most `batch` states at once: larger batches exceed the caches and run slower."""

    def whole(states: np.ndarray) -> np.ndarray:
        cuts = range(0, len(states), batch)
        return np.concatenate([solve(states[first : first + batch]) for first in cuts])

    return whole
