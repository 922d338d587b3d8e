"""Options of XLA, as far as its version has them, and compiled programs on disk."""

import contextlib
import functools
import hashlib
import os
import platform
import tempfile
import time
import warnings
import zlib
from pathlib import Path
from typing import Any

import jax

from .paths import local_path

# Largest size of a folder of programs: some thousand of them.
_MAX_BYTES = 512 * 2**20
# A file that changed more recently than this may still be in the hands of its writer.
_SETTLED_SECONDS = 60.0
_CHECKED = ".checked"
_SMALL_PROGRAMS = {
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}


@functools.cache
def cpu_options(**options: bool | int | str) -> dict[str, bool | int | str]:
    """These options for `jax.jit` on a CPU if XLA knows them all, none otherwise or elsewhere.

    Example: `jax.jit(f, compiler_options=cpu_options(xla_cpu_prefer_vector_width=512))`.
    """
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return options


def cache_programs(folder: str | os.PathLike[str] | None = None) -> Path | None:
    """Store compiled programs on disk, so that the next process loads what this one compiles.

    Call it once in a script or notebook, before or after other uses of JAX. It switches on JAX's
    persistent compilation cache for programs of any size; JAX keys them by their code, options and
    version, so a stale one is never run. A process that cannot read or write an entry compiles
    instead, without a message. JAX trusts what it loads: give no folder that others can write to.

    The folder has a subfolder for each kind of processor, since machine code of one may not run on
    another. When the function is called, incomplete entries of ended processes are removed, and
    above 512 MiB those not used for longest.

    Args:
        folder: where to store. None means the folder that JAX is configured with
            (`JAX_COMPILATION_CACHE_DIR`), used as it is, without subfolder and removals; else the
            user's cache folder, such as `~/.cache/nc_jax` on Linux.

    Returns: the folder of the programs; None, and JAX is configured as before, where the folder
    cannot be written, or `JAX_ENABLE_COMPILATION_CACHE=0` or `JAX_COMPILATION_CACHE_MAX_SIZE=0` is
    set.

    Raises: ValueError for a `folder` that is no path or a URL; `JAX_COMPILATION_CACHE_DIR` may be
    one, which JAX opens.

    Example:

        import nc_jax as nc
        nc.cache_programs()
        nc.gradient_flow(problem, state, save_at)  # the second process loads it
    """
    if (
        not _configured("enable_compilation_cache")
        or _configured("compilation_cache_max_size") == 0
    ):
        return None
    # A failed read or write costs a compilation, never a result.
    warnings.filterwarnings("ignore", "Error (read|writ)ing persistent compilation cache entry")
    configured = _configured("compilation_cache_dir")
    if folder is not None:
        path = local_path(folder, "folder").absolute() / _processor()
    else:
        path = Path(configured) if configured else _default_folder()
    # Folders of other file systems, gs://..., are JAX's to open.
    if not (folder is None and configured and "://" in configured) and not _writable(path):
        return None
    if path.name == _processor():
        with contextlib.suppress(OSError):
            _tidy(path)
    if configured != str(path) and (folder is not None or not configured):
        from jax.experimental.compilation_cache import compilation_cache

        jax.config.update("jax_compilation_cache_dir", str(path))
        compilation_cache.reset_cache()  # JAX opens the folder once
    for name, value in _SMALL_PROGRAMS.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)
    return path


def _configured(name: str) -> Any:
    return getattr(jax.config, f"jax_{name}")


@functools.cache
def _default_folder() -> Path:
    import platformdirs

    return Path(platformdirs.user_cache_dir("nc_jax", appauthor=False)) / "programs" / _processor()


@functools.cache
def _processor() -> str:
    """A name of what decides XLA's machine code: architecture, model and instructions."""
    described = [platform.machine(), platform.processor()]
    names = ("vendor_id", "cpu family", "model", "flags", "CPU implementer", "CPU part", "Features")
    with contextlib.suppress(OSError):
        # Other cores, after an empty line, are alike.
        core = Path("/proc/cpuinfo").read_text(errors="replace").partition("\n\n")[0]
        fields = [line.partition(":") for line in core.splitlines()]
        described += [" ".join(sorted(v.split())) for name, _, v in fields if name.strip() in names]
    digest = hashlib.sha256("\n".join(described).encode()).hexdigest()
    return f"{platform.machine() or 'cpu'}-{digest[:12]}"


def _writable(path: Path) -> bool:
    """Whether files can be written there, in a folder that is created if it is missing."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return True
    except (OSError, ValueError):
        return False


def _tidy(path: Path) -> None:
    """Remove incomplete entries, and the least recently used ones of a large folder.

    The size limit of JAX locks the folder at each read and lists it at each write, and stores
    nothing more once a process was killed between an entry and its time stamp. Without the limit
    JAX does not replace an incomplete entry: it would be compiled in every process.
    """
    now, checked = time.time(), path / _CHECKED
    since = checked.stat().st_mtime if checked.exists() else 0.0
    entries = []
    for entry in os.scandir(path):
        if not entry.name.endswith("-cache"):
            continue
        with contextlib.suppress(OSError):  # another process may remove it
            status = entry.stat()
            new = status.st_mtime >= since
            if new and status.st_mtime < now - _SETTLED_SECONDS and not _complete(entry.path):
                os.unlink(entry.path)
            else:
                used = max(status.st_atime, status.st_mtime)
                entries.append((used, status.st_size, entry.path))
    size = sum(size for _, size, _ in entries)
    for _, freed, name in sorted(entries):
        if size <= _MAX_BYTES:
            break
        with contextlib.suppress(OSError):
            os.unlink(name)
        size -= freed
    checked.touch()
    os.utime(checked, (now, now - _SETTLED_SECONDS))


def _complete(name: str) -> bool:
    """Whether a file is a whole stream of zlib, or of another compression, which is not checked."""
    content = Path(name).read_bytes()
    if content and content[:1] != b"\x78":
        return True
    try:
        zlib.decompress(content)
    except zlib.error:
        return False
    return True
