"""Descent and flow of one start of the unconstrained layer-peeled model, by other tools.

Each function returns a callable that makes one run.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from peers.ulpm_model import (
    LABELS,
    NUM_SAMPLES,
    ONE_HOT,
    flatten,
    log_field,
    real_field,
    residual,
    split,
)

RATE = 5.0  # of descent on the mean loss
RTOL, ATOL = 1e-6, 1e-8


class FinalState(NamedTuple):
    """The state at the end of a run, and the solver's numbers of steps and evaluations."""

    features: np.ndarray
    classifier: np.ndarray
    steps: int | None = None
    evals: int | None = None


@dataclasses.dataclass(frozen=True)
class Setup:
    """What all rows share: start (float64), descent steps, repeats, PyTorch threads by dtype.

    PyTorch uses its default number of threads for a dtype that is not in `threads`.
    """

    features: np.ndarray
    classifier: np.ndarray
    num_steps: int
    repeats: int
    threads: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def horizon(self) -> float:
        """The time of the flow of the summed loss that corresponds to the descent steps."""
        # The gradient of the mean loss is that of the sum divided by N.
        return RATE * self.num_steps / NUM_SAMPLES


def torch_descent(setup: Setup, dtype: str) -> Callable[[], FinalState]:
    """The training loop that the literature uses: autograd and `torch.optim.SGD`."""
    import torch

    from peers.torch_objective import objective

    labels = torch.from_numpy(LABELS)

    def run() -> FinalState:
        # The number of threads is a global setting of PyTorch, so that every run sets it.
        torch.set_num_threads(setup.threads.get(dtype, torch.get_num_threads()))
        features, classifier = (
            torch.nn.Parameter(torch.tensor(x, dtype=getattr(torch, dtype)))
            for x in (setup.features, setup.classifier)
        )
        optimizer = torch.optim.SGD([features, classifier], lr=RATE)
        for _ in range(setup.num_steps):
            optimizer.zero_grad()
            objective(features, classifier, None, labels).backward()
            optimizer.step()
        return FinalState(features.detach().numpy(), classifier.detach().numpy())

    return run


def numpy_descent(setup: Setup, dtype: str) -> Callable[[], FinalState]:
    """NumPy, with the gradient derived by hand."""

    def run() -> FinalState:
        features, classifier = setup.features.astype(dtype), setup.classifier.astype(dtype)
        for _ in range(setup.num_steps):
            step = (RATE / NUM_SAMPLES) * residual(features, classifier)
            # In one assignment, so that both updates use the old values.
            features, classifier = features - step @ classifier, classifier - step.T @ features
        return FinalState(features, classifier)

    return run


def scan_descent(setup: Setup, dtype: str) -> Callable[[], FinalState]:
    """JAX without nc_jax: `jax.grad` of the loss inside `jax.lax.scan`."""

    def loss(weights):
        features, classifier = weights
        log_softmax = jax.nn.log_softmax(features @ classifier.T)
        return -jnp.mean(log_softmax[np.arange(NUM_SAMPLES), LABELS])

    @jax.jit
    def descend(weights):
        def step(weights, _):
            slope = jax.grad(loss)(weights)
            return jax.tree.map(lambda x, dx: x - RATE * dx, weights, slope), None

        return jax.lax.scan(step, weights, length=setup.num_steps)[0]

    start = jnp.asarray(setup.features, dtype), jnp.asarray(setup.classifier, dtype)

    def run() -> FinalState:
        features, classifier = descend(start)
        return FinalState(np.asarray(features), np.asarray(classifier))

    return run


def scipy_flow(
    setup: Setup,
    dtype: str,
    method: str,
    *,
    in_log_time: bool = False,
    stop_log10: float | None = None,
    rtol: float = RTOL,
    atol: float = ATOL,
) -> Callable[[], FinalState]:
    """`scipy.integrate.solve_ivp` on a NumPy field."""
    from scipy.integrate import solve_ivp

    field, end = real_field, setup.horizon
    if in_log_time:
        log10_t = np.log10(setup.horizon) if stop_log10 is None else stop_log10
        field, end = log_field, np.logaddexp(0.0, log10_t * np.log(10))
    start = flatten(setup.features, setup.classifier).astype(dtype)

    def run() -> FinalState:
        solution = solve_ivp(field, (0.0, end), start, method, rtol=rtol, atol=atol)
        assert solution.success, solution.message
        return FinalState(*split(solution.y[:, -1]), solution.t.size - 1, solution.nfev)

    return run


def torch_flow(setup: Setup, dtype: str) -> Callable[[], FinalState]:
    """`torchdiffeq.odeint`, dopri5, on a field written by hand in PyTorch, in real time."""
    import torch
    import torchdiffeq

    kind = getattr(torch, dtype)
    one_hot = torch.tensor(ONE_HOT, dtype=kind)
    start = tuple(torch.tensor(x, dtype=kind) for x in (setup.features, setup.classifier))
    times = torch.tensor([0.0, setup.horizon], dtype=kind)
    evals = 0

    # torchdiffeq does not report its evaluations, so that the field counts its calls.
    def field(t, state):
        nonlocal evals
        evals += 1
        features, classifier = state
        gradient = torch.softmax(features @ classifier.T, 1) - one_hot
        return -gradient @ classifier, -gradient.T @ features

    def run() -> FinalState:
        nonlocal evals
        evals = 0
        torch.set_num_threads(setup.threads.get(dtype, torch.get_num_threads()))
        with torch.no_grad():
            solution = torchdiffeq.odeint(
                field, start, times, rtol=RTOL, atol=ATOL, method="dopri5"
            )
        return FinalState(*(x[-1].numpy() for x in solution), evals=evals)

    return run
