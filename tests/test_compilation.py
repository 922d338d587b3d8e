"""Options of XLA, and programs on disk."""

import json
import os
import subprocess
import sys
import zlib

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from nc_jax import cache_programs, compilation
from nc_jax.cnn.programs import _LEFT_TO_YNNPACK
from nc_jax.compilation import cpu_options

on_cpu = pytest.mark.skipif(jax.default_backend() != "cpu", reason="of what CPUs run")


def test_options_that_xla_does_not_know_are_left_out():
    assert cpu_options(xla_cpu_of_another_age=1) == {}
    assert cpu_options(xla_cpu_prefer_vector_width="wide") == {}


@on_cpu
def test_options_that_xla_knows_are_returned():
    assert cpu_options(xla_cpu_prefer_vector_width=512) == {"xla_cpu_prefer_vector_width": 512}


@on_cpu
def test_convolutions_are_not_left_to_ynnpack_and_products_are(optimized):
    options = cpu_options(xla_cpu_experimental_ynn_fusion_type=_LEFT_TO_YNNPACK)
    if not options:
        pytest.skip("this version of XLA has no such option")

    def text(function, *shapes):
        operands = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
        compiled = jax.jit(function, compiler_options=options).lower(*operands).compile()
        return str(compiled.as_text())

    def convolved(images, kernel):
        return jax.lax.conv_general_dilated(
            images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    assert "ynn_fusion" not in text(convolved, (64, 16, 16, 64), (3, 3, 64, 64))
    assert "ynn_fusion" in text(jnp.matmul, (512, 512), (512, 512))


# Prints the folder and counts of the cache's events, after a program compiled before the call.
SCRIPT = """
import collections, json, os, sys
import jax, jax.monitoring
events = collections.Counter()
jax.monitoring.register_event_listener(lambda name, **_: events.update([name.split("/")[-1]]))
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    jax.jit(lambda x: x + 1)(1.0)
events.clear()
import nc_jax
folders = {str(nc_jax.cache_programs(sys.argv[1] if len(sys.argv) > 1 else None)) for _ in "12"}
for power in range(3):
    jax.jit(lambda x: x**power)(2.0)
print(json.dumps([folders.pop(), events["cache_hits"], events["cache_misses"]]))
"""


# Prints what a process misses in the folder, by entry point.
ENTRY_POINTS = """
import collections, json, sys
import jax, jax.monitoring, numpy as np, optax
import nc_jax as nc
jax.config.update("jax_enable_x64", True)
nc.cache_programs(sys.argv[1])
events = collections.Counter()
jax.monitoring.register_event_listener(lambda name, **_: events.update([name.split("/")[-1]]))
problem = nc.ulpm(3, 4, 2)
start, times = problem.init(jax.random.key(0)), nc.log_times(2, 3)
flow = nc.Flow(problem, times, observe=("margin_min",))
found = {}
for name, call in {
    "flow": lambda: flow(start),
    "stiff flow": lambda: nc.gradient_flow(
        problem, start, times, clock=nc.LogLogTime(), solver=nc.RKC(), observe=flow.observe
    ),
    "descent": lambda: nc.gradient_descent(problem, start, optax.sgd(0.1), 10),
    "sweep": lambda: nc.sweep(flow, 3, progress=False),
    "classify": lambda: nc.landscape.classify(problem, start),
}.items():
    events.clear()
    call()
    found[name] = [events["cache_hits"], events["cache_misses"]]
print(json.dumps(found))
"""


def begin(*arguments, script=SCRIPT, **environment):
    unset = {name: value for name, value in os.environ.items() if "COMPILATION_CACHE" not in name}
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments], env=unset | environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def end(process):
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert errors == ""
    return json.loads(output)


def configured(name):
    return getattr(jax.config, f"jax_{name}")


@pytest.fixture
def cache_enabled():
    """As users have it: switched on, with no folder yet, not even that of the test session."""
    names = ("compilation_cache_dir", "persistent_cache_min_compile_time_secs",
             "persistent_cache_min_entry_size_bytes", "enable_compilation_cache")  # fmt: skip
    before = {f"jax_{name}": configured(name) for name in names}
    jax.config.update("jax_enable_compilation_cache", True)
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    reset_cache()  # JAX opens the folder once


def test_a_later_process_loads_what_two_processes_at_once_have_compiled(tmp_path):
    folder = tmp_path / "programs"
    together = [begin(str(folder)) for _ in range(2)]
    for _, hits, misses in map(end, together):
        assert hits + misses >= 3
    entries = sorted(folder.glob("*/*-cache"))
    [path] = {entry.parent for entry in entries}
    # As a process leaves it that is killed while it writes.
    cut, whole = entries[0], entries[0].read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])
    os.utime(cut, (0, 0))
    (path / ".checked").unlink()
    assert end(begin(str(folder))) == [str(path), len(entries) - 1, 1]
    assert zlib.decompress(cut.read_bytes())


def test_a_second_process_compiles_no_program_again(tmp_path):
    first = end(begin(str(tmp_path), script=ENTRY_POINTS))
    assert all(misses > 0 for _, misses in first.values()), first
    second = end(begin(str(tmp_path), script=ENTRY_POINTS))
    assert all(hits > 0 and misses == 0 for hits, misses in second.values()), second


def test_a_folder_that_cannot_be_written_is_harmless(tmp_path):
    file = tmp_path / "programs"
    file.write_text("")
    assert end(begin(JAX_COMPILATION_CACHE_DIR=str(file))) == ["None", 0, 0]
    assert end(begin(XDG_CACHE_HOME=str(file), HOME=str(file))) == ["None", 0, 0]


@pytest.mark.usefixtures("cache_enabled")
def test_nothing_is_configured_where_nothing_can_be_stored(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    for folder in (file, file / "below", "/proc/programs"):
        assert cache_programs(folder) is None
    for folder in ("\0", "s3://bucket/programs"):
        with pytest.raises(ValueError, match="folder = "):
            cache_programs(folder)
    assert configured("compilation_cache_dir") is None


@pytest.mark.usefixtures("cache_enabled")
def test_a_cache_that_is_switched_off_stays_off(tmp_path):
    jax.config.update("jax_enable_compilation_cache", False)
    assert cache_programs(tmp_path) is None
    assert not configured("enable_compilation_cache")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("cache_enabled")
def test_the_folder_that_jax_is_configured_with_is_used_as_it_is(tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
    entry = tmp_path / "jit_f-0-cache"
    entry.write_bytes(b"\x78")
    os.utime(entry, (0, 0))
    assert cache_programs() == tmp_path
    assert entry.exists()
    assert configured("persistent_cache_min_compile_time_secs") == 0


@pytest.mark.usefixtures("cache_enabled")
def test_a_large_folder_loses_what_was_not_used_for_longest(tmp_path, monkeypatch):
    monkeypatch.setattr(compilation, "_MAX_BYTES", 250)
    path = cache_programs(tmp_path)
    assert path is not None
    for age in range(4):
        entry = path / f"jit_f-{age}-cache"
        entry.write_bytes(b"(" * 100)
        os.utime(entry, (1e9 - age, 1e9 - age))
    assert cache_programs() == path
    assert sorted(entry.name for entry in path.glob("*-cache")) == [
        "jit_f-0-cache",
        "jit_f-1-cache",
    ]
