"""Compiled programs on disk, and compiler options that the installed version of XLA knows."""

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

# Largest size of a folder of programs, which is some thousand programs.
_MAX_BYTES = 512 * 2**20
# A file that changed more recently than this may be incomplete because its writer is still at work.
_SETTLED_SECONDS = 60.0
# An empty file in the folder: an earlier call has checked the entries that are older than it.
_CHECKED = ".checked"
# By default JAX does not store programs that compile in less than a second.
_SMALL_PROGRAMS = {
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}


@functools.cache
def cpu_options(**options: bool | int | str) -> dict[str, bool | int | str]:
    """Options for `jax.jit` on a CPU: the given options if XLA knows them all, otherwise none.

    On other devices there are none. XLA's options differ between versions, and an unknown option is
    an error.

    Example:

        >>> from nc_jax.compilation import cpu_options
        >>> cpu_options(no_such_option=True)
        {}
        >>> options = cpu_options(xla_cpu_prefer_vector_width=256)
        >>> float(jax.jit(jnp.sum, compiler_options=options)(jnp.ones(3)))
        3.0
    """
    if jax.default_backend() != "cpu":
        return {}
    # JAX has no list of XLA's options: a small program shows whether they are known.
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return options


def cache_programs(folder: str | os.PathLike[str] | None = None) -> Path | None:
    """Store compiled programs on disk, so that the next process loads them instead of compiling.

    Call it once in a script or notebook, before or after other uses of JAX. It switches on JAX's
    persistent compilation cache for programs of any size. JAX identifies programs by their code,
    options and version, so that an outdated program is never run. A process that cannot read or
    write an entry compiles the program instead, without a message. JAX runs the machine code that
    it loads: choose a folder that nobody else can write to.

    The folder has a subfolder for each kind of processor, since machine code for one kind may not
    run on another. Each call removes incomplete entries of processes that have ended, and, while
    the folder is larger than 512 MiB, the least recently used entries.

    Args:
        folder: where to store the programs. None means the folder that JAX is configured with
            (`JAX_COMPILATION_CACHE_DIR`), without a subfolder and without removals; where there is
            none, the user's cache folder, such as `~/.cache/nc_jax` on Linux.

    Returns: the folder of the programs; None, and the configuration of JAX is unchanged, where the
    folder cannot be written, or `JAX_ENABLE_COMPILATION_CACHE=0` or
    `JAX_COMPILATION_CACHE_MAX_SIZE=0` is set.

    Raises: ValueError for a `folder` that is a URL or no path. `JAX_COMPILATION_CACHE_DIR` may be a
    URL, which JAX opens.

    Example: `nc.cache_programs()` takes the user's cache folder. A folder that cannot be written
    leaves JAX as it is:

        >>> print(nc.cache_programs("/dev/null/programs"))
        None
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
        path = local_path(folder, name="folder").absolute() / _processor()
    else:
        path = Path(configured) if configured else _default_folder()
    # A remote folder (gs://...) that JAX is configured with is not checked for write access: JAX
    # can open it, and Python's paths cannot.
    if not (folder is None and configured and "://" in configured) and not _writable(path):
        return None
    # A folder that JAX is configured with may be shared with other programs: nothing is removed
    # there.
    if path.name == _processor():
        with contextlib.suppress(OSError):
            _tidy(path)
    if configured != str(path) and (folder is not None or not configured):
        from jax.experimental.compilation_cache import compilation_cache

        jax.config.update("jax_compilation_cache_dir", str(path))
        # JAX opens a folder at the first compilation, and would continue with that folder.
        compilation_cache.reset_cache()
    # Settings in the environment are the user's choice, and have precedence.
    for name, value in _SMALL_PROGRAMS.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)
    return path


def _configured(name: str) -> Any:
    return getattr(jax.config, f"jax_{name}")


@functools.cache
def _default_folder() -> Path:
    # Imported here, since only calls without a folder need it.
    import platformdirs

    return Path(platformdirs.user_cache_dir("nc_jax", appauthor=False)) / "programs" / _processor()


@functools.cache
def _processor() -> str:
    """A name of the processor: its architecture, and a digest of its model and instructions."""
    described = [platform.machine(), platform.processor()]
    names = ("vendor_id", "cpu family", "model", "flags", "CPU implementer", "CPU part", "Features")
    with contextlib.suppress(OSError):
        # An empty line ends the description of the first core. The others are taken to be the same.
        core = Path("/proc/cpuinfo").read_text(errors="replace").partition("\n\n")[0]
        fields = [line.partition(":") for line in core.splitlines()]
        described += [" ".join(sorted(v.split())) for name, _, v in fields if name.strip() in names]
    digest = hashlib.sha256("\n".join(described).encode()).hexdigest()
    return f"{platform.machine() or 'cpu'}-{digest[:12]}"


def _writable(path: Path) -> bool:
    """Whether files can be written there, in a folder that is created if it is missing."""
    # By writing a file, since permissions do not show a disk that is mounted read-only.
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return True
    except (OSError, ValueError):
        return False


def _tidy(path: Path) -> None:
    """Remove incomplete entries, and the least recently used ones of a large folder.

    JAX has a size limit of its cache, which is not used here. With the limit, JAX locks the folder
    at each read and lists it at each write, and it stores nothing more once a process was killed
    between writing an entry and its time stamp. Without the limit, JAX does not replace an
    incomplete entry, and every process would compile that program again.
    """
    now, checked = time.time(), path / _CHECKED
    since = checked.stat().st_mtime if checked.exists() else 0.0
    entries = []
    for entry in os.scandir(path):
        if not entry.name.endswith("-cache"):
            continue
        with contextlib.suppress(OSError):  # another process may remove the entry meanwhile
            status = entry.stat()
            # Only entries that no earlier call has checked are read, which takes time.
            new = status.st_mtime >= since
            if new and status.st_mtime < now - _SETTLED_SECONDS and not _complete(entry.path):
                os.unlink(entry.path)
            else:
                # A disk may be mounted without times of access.
                used = max(status.st_atime, status.st_mtime)
                entries.append((used, status.st_size, entry.path))
    size = sum(size for _, size, _ in entries)
    for _, freed, name in sorted(entries):
        if size <= _MAX_BYTES:
            break
        with contextlib.suppress(OSError):
            os.unlink(name)
        size -= freed
    # With an earlier time, so that the next call checks entries that were too recent for this one.
    checked.touch()
    os.utime(checked, (now, now - _SETTLED_SECONDS))


def _complete(name: str) -> bool:
    """Whether a file is a complete zlib stream; of other compressions, True without a check."""
    content = Path(name).read_bytes()
    # JAX compresses by zstandard if that is installed, and by zlib otherwise. 0x78 is the first
    # byte of a zlib stream.
    if content and content[:1] != b"\x78":
        return True
    try:
        zlib.decompress(content)
    except zlib.error:
        return False
    return True
