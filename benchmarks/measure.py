"""Time `nc_jax.metrics.measure` beside the formulas of other repositories, with errors.

Features (50 000, 512) of 10 and of 100 classes in float32, a classifier and a bias. Every timing is
a process of its own: imports, a first call with compilation, and a second call, in wall and in CPU
seconds. The ways take turns, and the best time of each counts.

Errors are relative, against sums over samples in extended precision, on two sets. "spread":
deviations from class means are as large as the class means. "collapsed": they are 1e-4, the
features have a mean of 10 in every coordinate, and two of the class means are 200 times closer than
the others, as those of two similar classes are early in a training.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
ZHU = ("zhu_nc1", "zhu_nc2", "zhu_nc3", "zhu_nc4")
# By the name of a way: the peer and its dtype. The library has float32 as its default and takes
# another dtype; the code of the two papers computes in float32.
PEER_WAYS = {
    "rhubarbwu, float32": ("rhubarbwu", "float32"),
    "rhubarbwu, float64": ("rhubarbwu", "float64"),
    "tding1, float32": ("tding1", "float32"),
    "neuralcollapse, float32": ("neuralcollapse", "float32"),
}
# By the name of a way: the names of measures, None for the default ones.
OWN_WAYS: dict[str, tuple[str, ...] | None] = {
    "nc_jax, all default measures": None,
    "nc_jax, NC1 to NC4 of Zhu": ZHU,
    "nc_jax, NC1 to NC4 of Zhu, cached programs": ZHU,
}
SETS = ("spread", "collapsed")
BATCH = 8192


def write_data(folder: Path, num_classes: int, count: int, dim: int) -> None:
    """Both sets of features, labels in an arbitrary order, a classifier and a bias."""
    rng = np.random.default_rng(num_classes)
    labels = rng.permutation(np.arange(count) % num_classes)
    means, noise = rng.normal(size=(num_classes, dim)), rng.normal(size=(count, dim))
    np.save(folder / "spread.npy", (means[labels] + noise).astype(np.float32))
    means[1] = means[0] + 5e-3 * means[1]
    np.save(folder / "collapsed.npy", (10 + means[labels] + 1e-4 * noise).astype(np.float32))
    np.save(folder / "labels.npy", labels)
    np.save(folder / "classifier.npy", rng.normal(size=(num_classes, dim)).astype(np.float32))
    np.save(folder / "bias.npy", rng.normal(size=num_classes).astype(np.float32))


def read_data(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of `write_data` by name."""
    names = (*SETS, "labels", "classifier", "bias")
    return {name: np.load(folder / f"{name}.npy") for name in names}


# One process.


def own_call(names: tuple[str, ...] | None, cached: bool) -> Callable[..., dict[str, float]]:
    """The call of nc_jax."""
    import nc_jax as nc

    if cached:
        nc.cache_programs()

    def call(features: Any, data: dict[str, np.ndarray]) -> dict[str, float]:
        found = nc.metrics.measure(
            features, data["labels"], data["classifier"], data["bias"], names=names
        )
        return {name: value for name, value in found.items() if isinstance(value, float)}

    return call


def peer_call(peer: str, dtype: str) -> Callable[..., dict[str, float]]:
    """The call of a peer's formulas."""
    import torch
    from peers.torch_measures import PEERS, Data

    kind = getattr(torch, dtype)

    def call(features: Any, data: dict[str, np.ndarray]) -> dict[str, float]:
        arrays = (features, data["labels"], data["classifier"], data["bias"])
        tensors = [torch.from_numpy(array) for array in arrays]
        wide = [tensor if i == 1 else tensor.to(kind) for i, tensor in enumerate(tensors)]
        return PEERS[peer](Data(*wide), BATCH)

    return call


def child(way: str, folder: Path) -> None:
    """Print the times and values of one way in this process as JSON."""
    data = read_data(folder)
    start = time.perf_counter()
    if way in OWN_WAYS:
        call = own_call(OWN_WAYS[way], "cached" in way)
    else:
        call = peer_call(*PEER_WAYS[way])
    times = {"import": time.perf_counter() - start}
    values = {}
    for name in ("first", "second"):
        start, cpu = time.perf_counter(), time.process_time()
        values["spread"] = call(data["spread"], data)
        times[name] = time.perf_counter() - start
        times[f"{name}_cpu"] = time.process_time() - cpu
    values["collapsed"] = call(data["collapsed"], data)
    print(json.dumps({"times": times, "values": values}))


# All processes.


def run(way: str, folder: Path) -> dict[str, Any]:
    """Run one way in a fresh process, with a cache of programs in the folder where it has one."""
    command = [sys.executable, __file__, "--child", way, str(folder)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_COMPILATION")}
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    if "cached" in way:
        environment["JAX_COMPILATION_CACHE_DIR"] = str(folder / "programs")
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        reason = (done.stderr.strip() or "no message").splitlines()[-1]
        raise SystemExit(f"{way} failed with exit code {done.returncode}: {reason}")
    return json.loads(done.stdout.splitlines()[-1])


def errors(found: dict[str, float], exact: dict[str, float]) -> dict[str, float]:
    """Relative errors of the measures that both have."""
    return {
        name: abs(value - exact[name]) / abs(exact[name])
        for name, value in found.items()
        if name in exact
    }


def compare(num_classes: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of all ways for one number of classes."""
    from peers.measures_reference import reference
    from tqdm import tqdm

    ways = [*OWN_WAYS, *PEER_WAYS]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(folder, num_classes, options.samples, options.dim)
        data = read_data(folder)
        rest = (data["labels"], data["classifier"], data["bias"])
        exact = {name: reference(data[name], *rest) for name in SETS}
        run("nc_jax, NC1 to NC4 of Zhu, cached programs", folder)
        found: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
        # The ways take turns, so that a change of the machine's speed affects all of them alike.
        for way in tqdm(ways * options.repeats, unit="process", desc=f"K = {num_classes}"):
            found[way].append(run(way, folder))
    return [
        {
            "K": num_classes, "N": options.samples, "d": options.dim, "way": way,
            **{key: min(run["times"][key] for run in runs) for key in runs[0]["times"]},
            "errors": {name: errors(runs[-1]["values"][name], exact[name]) for name in SETS},
        }
        for way, runs in found.items()
    ]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write JSON, print the table."""
    if arguments is None and sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], Path(sys.argv[3]))
        return
    # Imported here, since `reporting` imports JAX, and children measure the import of JAX.
    from reporting import Parser, add_json, machine, parse_with_json, positive
    from reports.metrics import show

    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=positive, help="turns (default 3; with --quick 1)")
    parser.add_argument("--quick", action="store_true", help="few samples, one turn")
    add_json(parser, "results/metrics.json")
    options = parse_with_json(parser, arguments)
    place = machine()
    options.samples, options.dim = (4000, 128) if options.quick else (50_000, 512)
    options.repeats = options.repeats or (1 if options.quick else 3)
    rows = [row for num_classes in (10, 100) for row in compare(num_classes, options)]
    report = {"machine": place, "batch": BATCH, "rows": rows}
    options.json.write_text(json.dumps(report, indent=2) + "\n")
    print(show(report))


if __name__ == "__main__":
    main()
