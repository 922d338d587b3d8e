"""Numerics of the test session: float64 on, no implicit promotion of dtypes."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import hypothesis
import jax
import pytest

jax.config.update("jax_enable_x64", True)
# Compilation is most of a test's time: without its costliest passes the whole takes two thirds.
# JAX_DISABLE_MOST_OPTIMIZATIONS=0 compiles as users do.
UNOPTIMIZED = os.environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS", "1") != "0"
jax.config.update("jax_disable_most_optimizations", UNOPTIMIZED)
jax.config.update("jax_numpy_dtype_promotion", "strict")
# XLA's older emitters of loops and one thread of LLVM for each worker: three quarters of the time.
FASTER = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"


def is_known_to_xla(flags: str) -> bool:
    """Whether a process with these flags computes: XLA ends one that has flags it does not know."""
    process = subprocess.run(
        [sys.executable, "-c", "import jax; jax.numpy.zeros(1)"],
        env={**os.environ, "XLA_FLAGS": flags},
        stderr=subprocess.DEVNULL,
    )
    return process.returncode == 0


# Once for all workers, which inherit the environment.
if "PYTEST_XDIST_WORKER" not in os.environ:
    if UNOPTIMIZED and is_known_to_xla(FASTER):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FASTER}"
    # Workers share what they compile, in a folder of this run; never the one in the user's home.
    COMPILED = tempfile.TemporaryDirectory(prefix="nc_jax_compiled_")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = COMPILED.name
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)

# Compilation makes the first example slow and says nothing about a property.
hypothesis.settings.register_profile(
    "nc_jax", deadline=None, max_examples=25, derandomize=True, print_blob=True
)
hypothesis.settings.load_profile("nc_jax")


@pytest.fixture
def optimized():
    """Compile as users do: for tests whose time is in the running, or whose bar is the rounding."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", UNOPTIMIZED)


@pytest.fixture(autouse=True, scope="module")
def bounded_memory_maps():
    """Drop compiled programs before the system's limit on memory maps: past it XLA crashes."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_text().count("\n") > 30_000:  # Linux allows 65 530
        jax.clear_caches()
