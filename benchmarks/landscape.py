"""Compare ways to the smallest Hessian eigenvalue: Lanczos, power iteration, ARPACK, dense.

Every row finds the smallest eigenvalue of the Hessian of the regularised cross-entropy model at one
state near its minimum, in float64. Power iteration is that of PyHessian: it finds the eigenvalue
that is largest by magnitude, then that of the matrix shifted by it. It runs with PyHessian's
defaults of 100 iterations and relative change 1e-3, in JAX and on PyTorch's autograd, and in JAX
again to a change of 1e-10 with more iterations.
"""

import dataclasses
import json
import statistics
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from reporting import (
    Parser,
    add_json,
    machine,
    parse_with_json,
    seconds,
    show_machine,
    version,
)  # fmt: skip
from reports.landscape import LANCZOS, show
from tqdm import tqdm

import nc_jax as nc

SLOW = 5.0  # seconds after which a run is not repeated
DENSE_LIMIT = 2000  # numbers of a state
# Above this size Lanczos ends after about 150 products, about as many as power iteration takes,
# because a converged search would take hours.
LARGE, FEW_RESTARTS = 100_000, 8
RTOL = 1e-6
# Largest number of iterations and least relative change: PyHessian's defaults, and tighter limits.
LOOSE, TIGHT = (100, 1e-3), (20_000, 1e-10)


@dataclasses.dataclass(frozen=True)
class Setup:
    """A problem and the state whose Hessian is analysed."""

    title: str
    problem: nc.UnconstrainedFeatures

    @property
    def size(self) -> int:
        """Numbers of the state."""
        like = jax.eval_shape(self.problem.init, jax.random.key(0))
        return sum(leaf.size for leaf in jax.tree.leaves(like))

    def state(self) -> nc.LastLayer:
        """The minimum plus noise of half its norm."""
        key, noise_key = jax.random.split(jax.random.key(0))
        minimum = nc.exact.regularized_minimizer(self.problem, key=key)
        noise = self.problem.init(noise_key, 0.5 * jnp.linalg.norm(minimum.classifier))
        return jax.tree.map(jnp.add, minimum, noise)


def setups(quick: bool) -> list[Setup]:
    """The problems that are measured."""
    shapes = [(4, 6, 5), (6, 10, 6)]
    if not quick:
        shapes = [(4, 6, 5), (10, 18, 10), (10, 100, 19), (50, 200, 99), (100, 1000, 99)]
    found = []
    for classes, dim, size in shapes:
        # A tenth of the decay from which on the origin is the minimum.
        decay = 0.1 / (classes * size**0.5)
        problem = nc.zhu(classes, dim, size, decay)
        setup = Setup(f"K={classes} d={dim} n={size}", problem)
        found.append(dataclasses.replace(setup, title=f"{setup.title}, {setup.size:,} numbers"))
    return found


@dataclasses.dataclass
class Result:
    """The eigenvalue that a way found, and its Hessian-vector products."""

    value: float
    products: int | None


Way = Callable[[Setup], Callable[[], Result]]


def lanczos(setup: Setup) -> Callable[[], Result]:
    """`nc_jax.landscape.extreme_eigenpairs`."""
    state = setup.state()
    restarts = FEW_RESTARTS if setup.size > LARGE else 1000

    def run() -> Result:
        found = jax.block_until_ready(
            nc.landscape.extreme_eigenpairs(setup.problem, state, rtol=RTOL, max_restarts=restarts)
        )
        return Result(float(found.values[0]), int(found.num_products))

    return run


def flat_product(setup: Setup) -> tuple[Callable[[jax.Array], jax.Array], int]:
    """The Hessian on flat vectors, compiled, and their length."""
    flat, unravel = ravel_pytree(setup.state())

    @jax.jit
    def product(vector: jax.Array) -> jax.Array:
        image = nc.landscape.hessian_vector_product(setup.problem, unravel(flat), unravel(vector))
        return ravel_pytree(image)[0]

    return product, flat.size


def jax_power(limits: tuple[int, float]) -> Way:
    """Power iteration in one compiled loop."""
    iterations, change = limits

    def prepare(setup: Setup) -> Callable[[], Result]:
        product, size = flat_product(setup)

        @jax.jit
        def dominant(shift: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
            def step(carry):
                vector, value, _, i = carry
                image = product(vector) - shift * vector
                found = jnp.vdot(vector, image)
                return image / jnp.linalg.norm(image), found, value, i + 1

            def unfinished(carry):
                _, value, previous, i = carry
                moved = jnp.abs(value - previous) / (jnp.abs(previous) + 1e-6)
                # Before the second iteration `previous` is an initial value of the loop.
                return (i < iterations) & ((i < 2) | (moved >= change))

            start = jax.random.normal(key, (size,))
            start = start / jnp.linalg.norm(start)
            _, value, _, i = jax.lax.while_loop(
                unfinished, step, (start, jnp.array(0.0), jnp.array(jnp.inf), jnp.array(0))
            )
            return value + shift, i

        def run() -> Result:
            keys = jax.random.split(jax.random.key(1))
            largest, first = dominant(jnp.array(0.0), keys[0])
            smallest, second = dominant(largest, keys[1])
            # If the eigenvalue of largest magnitude is negative, it is the smallest, and the
            # shifted matrix gives the largest.
            return Result(float(jnp.minimum(smallest, largest)), int(first + second))

        return run

    return prepare


def torch_power(setup: Setup) -> Callable[[], Result]:
    """Power iteration with products by PyTorch's double backward, as in PyHessian."""
    import torch
    from peers.torch_objective import objective

    problem, state = setup.problem, setup.state()
    parameters = [
        torch.tensor(np.asarray(leaf), requires_grad=True) for leaf in jax.tree.leaves(state)
    ]
    features, classifier, bias = parameters
    labels = torch.tensor(problem.labels, dtype=torch.int64)
    decay = float(problem.weight_decay.classifier)
    loss = objective(features, classifier, bias, labels, weight_decay=decay)
    gradient = torch.autograd.grad(loss, parameters, create_graph=True)

    def dominant(shift: float, seed: int) -> tuple[float, int]:
        generator = torch.Generator().manual_seed(seed)
        vector = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
        previous, value, count = None, 0.0, 0
        for _ in range(LOOSE[0]):
            norm = torch.sqrt(sum((v**2).sum() for v in vector))  # pyright: ignore
            vector = [v / norm for v in vector]
            image = torch.autograd.grad(gradient, parameters, vector, retain_graph=True)
            image = [h - shift * v for h, v in zip(image, vector, strict=True)]
            value = float(sum((h * v).sum() for h, v in zip(image, vector, strict=True)))
            vector, count = image, count + 1
            if previous is not None and abs(value - previous) / (abs(previous) + 1e-6) < LOOSE[1]:
                break
            previous = value
        return value + shift, count

    def run() -> Result:
        largest, first = dominant(0.0, 1)
        smallest, second = dominant(largest, 2)
        return Result(min(smallest, largest), first + second)

    return run


def arpack(setup: Setup) -> Callable[[], Result]:
    """SciPy's `eigsh` on the compiled product."""
    import scipy.sparse.linalg as sparse

    product, size = flat_product(setup)

    def run() -> Result:
        count = 0

        def counted(vector: np.ndarray) -> np.ndarray:
            nonlocal count
            count += 1
            return np.asarray(product(jnp.asarray(vector.ravel())))

        shape = (size, size)
        operator = sparse.LinearOperator(shape, matvec=counted, dtype=np.float64)  # pyright: ignore
        start = np.random.default_rng(0).normal(size=size)
        values = sparse.eigsh(
            operator, 1, which="SA", v0=start, tol=RTOL, maxiter=100_000,  # pyright: ignore
            return_eigenvectors=False,
        )  # fmt: skip
        return Result(float(values[0]), count)

    return run


def dense(setup: Setup) -> Callable[[], Result]:
    """All eigenvalues of the matrix."""
    state = setup.state()
    spectrum = jax.jit(
        lambda state: jnp.linalg.eigvalsh(nc.landscape.dense_hessian(setup.problem, state))
    )

    def run() -> Result:
        return Result(float(spectrum(state)[0]), None)

    return run


WAYS: dict[str, Way] = {
    LANCZOS: lanczos,
    "power iteration, 100 x 2, 1e-3": jax_power(LOOSE),
    "power iteration, to 1e-10": jax_power(TIGHT),
    "PyTorch power iteration, 100 x 2, 1e-3": torch_power,
    "SciPy eigsh (ARPACK)": arpack,
    "dense": dense,
}


@dataclasses.dataclass
class Row:
    """One line of the table; times in seconds."""

    setup: str
    way: str
    products: int | None
    compile_s: float
    run_s: float
    value: float
    error: float | None = None


def applies(way: str, setup: Setup) -> bool:
    """Whether a way is measured at this size.

    Ways that would take hours, or more memory than there is for a matrix, are not.
    """
    if way.startswith("PyTorch") and version("torch") is None:
        return False
    if setup.size > LARGE:
        return way in (LANCZOS, "power iteration, 100 x 2, 1e-3")
    return setup.size <= DENSE_LIMIT or way != "dense"


def measure(setup: Setup, way: str) -> Row:
    """Time one way; the first call compiles."""
    run = WAYS[way](setup)
    first, found = seconds(run)
    second, _ = seconds(run)
    times = [second] + [seconds(run)[0] for _ in range(4 if second < SLOW else 0)]
    taken = statistics.median(times)
    return Row(setup.title, way, found.products, max(first - taken, 0.0), taken, found.value)


METHOD = """\
run: median of 5 calls (of 1 where it takes over 5 s); products: Hessian-vector products; Lanczos
and ARPACK to 1e-6 of the largest eigenvalue in the residual, Lanczos beyond 100,000 numbers cut
error: value minus that of the dense matrix, or, where that is too large, minus the lowest found,
relative to the largest eigenvalue met: all but the dense are bounds from above"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the tables, write the JSON file."""
    parser = Parser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two small setups")
    add_json(parser, "results/benchmark_landscape.json")
    options = parse_with_json(parser, arguments)
    jax.config.update("jax_enable_x64", True)
    place = machine()
    print("\n".join([*show_machine(place), "", METHOD]), flush=True)
    todo = [(s, [way for way in WAYS if applies(way, s)]) for s in setups(options.quick)]
    rows = []
    with tqdm(total=sum(len(ways) for _, ways in todo), unit="row", disable=None) as bar:
        for setup, ways in todo:
            found = []
            for way in ways:
                bar.set_description(f"{setup.title}: {way}")
                found.append(measure(setup, way))
                bar.update()
            exact = [row.value for row in found if row.way == "dense"]
            reference = exact[0] if exact else min(row.value for row in found)
            top = nc.landscape.extreme_eigenpairs(
                setup.problem, setup.state(), num=1, end="largest"
            )
            for row in found:
                row.error = (row.value - reference) / float(top.values[0])
            rows += [dataclasses.asdict(row) for row in found]
            bar.write("\n" + show(rows[-len(found) :]))
            # Written after each setup, so that an interrupted run leaves the setups that it
            # measured.
            facts = {"machine": place, "rows": rows}
            options.json.write_text(json.dumps(facts, indent=2) + "\n")
    print(f"\nwrote {options.json}")


if __name__ == "__main__":
    main()
