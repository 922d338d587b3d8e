"""Solvers of a flow with soft labels in log t: steps, seconds, and error against SciPy's BDF.

python benchmarks/soft_labels.py
"""

import itertools
import time

import jax

jax.config.update("jax_enable_x64", True)

import diffrax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax.flatten_util import ravel_pytree  # noqa: E402
from scipy.integrate import solve_ivp  # noqa: E402

import nc_jax as nc  # noqa: E402

DECADES = (3, 5, 8, 12, 15)


def problem_of(num_classes, sizes, dim):
    """All subsets of these sizes, each with probabilities in the ratios 2 : 1 : 1."""
    sets = [s for m in sizes for s in itertools.combinations(range(num_classes), m)]
    targets = np.zeros((len(sets), num_classes))
    for row, labels in zip(targets, sets, strict=True):
        row[list(labels)] = np.array([2, *[1] * (len(labels) - 1)]) / (len(labels) + 1)
    return nc.problems.FreeFeatures(
        targets, dim, loss=nc.losses.SoftCrossEntropy(), reduction="sum"
    )


def reference(problem, start, decades):
    """The state at 10^decades by SciPy's BDF, with tight tolerances."""
    flat, unravel = ravel_pytree(start)

    @jax.jit
    def field(u, x):
        return ravel_pytree(problem.scaled_descent(unravel(x), u))[0]

    jacobian = jax.jit(lambda u, x: jax.jacfwd(lambda x: field(u, x))(x))
    found = solve_ivp(
        lambda u, x: np.asarray(field(u, x)), (0, np.log1p(10.0**decades)), np.asarray(flat),
        method="BDF", jac=lambda u, x: np.asarray(jacobian(u, x)), rtol=1e-9, atol=1e-11,
    )  # fmt: skip
    return unravel(jnp.asarray(found.y[:, -1])) if found.success else None


def main():
    """Print a row for each flow, time, solver and tolerance."""
    cases = {
        "pairs of 4 classes, 40 unknowns": (problem_of(4, (2,), 4), DECADES),
        "pairs and triples of 6 classes, 246 unknowns": (problem_of(6, (2, 3), 6), (5, 12)),
    }
    ways = [
        ("Kvaerno5, default", nc.dynamics.stiff_solver(), (1e-6, 1e-8), 99),
        ("Kvaerno5 of Diffrax", diffrax.Kvaerno5(), (1e-6,), 3),
        ("RKC", nc.RKC(), (1e-6,), 5),
    ]
    print("| flow | t | solver | rtol | steps | run | logits | log excess |")
    print("|---|---|---|---|---|---|---|---|")
    for title, (problem, decades) in cases.items():
        start = problem.init(jax.random.key(0))
        for exponent in decades:
            exact = reference(problem, start, exponent) if exponent <= 5 else None
            for name, solver, tolerances, last in ways:
                for rtol in tolerances:
                    if exponent > last:
                        continue
                    measure(title, problem, start, exponent, exact, name, solver, rtol)


def measure(title, problem, start, exponent, exact, name, solver, rtol):
    """Print the row of one run."""
    flow = nc.Flow(
        problem, np.log1p([10.0**exponent]), solver=solver, rtol=rtol, atol=rtol / 100,
        observe=lambda state: {
            "logits": state.logits(), **problem.observe_only(state, ("log_excess_loss",)),
        },
    )  # fmt: skip
    flow(start, progress=False)
    before = time.perf_counter()
    found = flow(start, progress=False)
    logits = np.asarray(found.observables["logits"][0])
    seconds = time.perf_counter() - before
    errors = "– | –"
    if exact is not None:
        expected = np.asarray(exact.logits())
        log_excess = problem.observe(exact)["log_excess_loss"]
        distance = np.linalg.norm(logits - expected) / np.linalg.norm(expected)
        difference = abs(float(found.observables["log_excess_loss"][0] - log_excess))
        errors = f"{distance:.0e} | {difference:.0e}"
    print(
        f"| {title} | 10^{exponent} | {name} | {rtol:.0e} | {int(found.num_steps)} | "
        f"{seconds:.2g} s | {errors} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
