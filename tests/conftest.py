"""Numerics of the test session: float64 on, no implicit promotion of dtypes."""

import os
import time
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
# That of the examples, which lies in the user's home.
jax.config.update("jax_enable_compilation_cache", False)

# Compilation makes the first example slow and says nothing about a property.
hypothesis.settings.register_profile(
    "nc_jax", deadline=None, max_examples=25, derandomize=True, print_blob=True
)
hypothesis.settings.load_profile("nc_jax")

# Continuous integration ends a run after so long. Left out, and counted, are the tests that a slow
# or busy machine has not begun by then; elsewhere none is.
SECONDS = float(os.environ.get("NC_JAX_TEST_SECONDS", "inf"))
BEGAN = time.monotonic()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    if time.monotonic() - BEGAN > SECONDS:
        pytest.skip(f"left out: {SECONDS:g} s, NC_JAX_TEST_SECONDS, are over")


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
