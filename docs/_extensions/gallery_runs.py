"""Runs of the examples of the gallery: each in a separate process, stored between builds."""

import dataclasses
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gallery_uses import EXAMPLES, sources_of

ROOT = EXAMPLES.parent
TABLE = ROOT / "docs" / "gallery.toml"
# With more at a time each run takes longer on a machine of two cores, such as that of the checks.
AT_A_TIME = 2


class FailedExampleError(RuntimeError):
    """An example ended with an error, or without one of its figures; `details` is its stderr."""

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details


@dataclasses.dataclass(frozen=True)
class Entry:
    """An example in the gallery.

    `figures` has the description of each figure by file name. `flags` are those of the build;
    without any they are the defaults. `needs` is a package without which the example is not run.
    `interactive` has the title of an HTML file that the page embeds by file name.
    """

    name: str
    title: str
    group: str
    read: str
    figures: dict[str, str]
    flags: str = ""
    needs: str = ""
    interactive: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def command(self) -> str:
        """The command of the build."""
        return " ".join(filter(None, ["python", f"examples/{self.name}.py", self.flags]))

    @property
    def files(self) -> list[str]:
        """Names of the files of a run that the page shows."""
        return [*self.figures, *self.interactive]


@dataclasses.dataclass(frozen=True)
class Result:
    """A finished run: wall time in seconds, cores of the machine, printed text, folder of files."""

    seconds: float
    cores: int
    printed: str
    folder: Path


def read_entries(table: Path = TABLE) -> list[Entry]:
    """The entries of the table, in its order."""
    with table.open("rb") as file:
        return [Entry(name=name, **fields) for name, fields in tomllib.load(file).items()]


def can_run(entry: Entry) -> bool:
    """Whether the package that an example needs is installed."""
    return not entry.needs or importlib.util.find_spec(entry.needs) is not None


def results_of(entries: list[Entry], cache: Path) -> dict[str, Result]:
    """Results of the examples that can run, by name; those with a stored result are not run again.

    Compiled programs are stored in a folder of this call. A run time then contains the compilation
    in each build, and not only in the first one of a machine.

    Raises: FailedExampleError.
    """
    runnable = [entry for entry in entries if can_run(entry)]
    with tempfile.TemporaryDirectory() as programs, ThreadPoolExecutor(AT_A_TIME) as pool:
        # Keys are computed before: Python 3.11 parses in one thread at a time only.
        folders = {entry.name: cache / entry.name / key_of(entry) for entry in runnable}
        futures = {
            entry.name: pool.submit(_stored_result, entry, folders[entry.name], Path(programs))
            for entry in runnable
        }
        try:
            return {name: future.result() for name, future in futures.items()}
        except FailedExampleError:
            pool.shutdown(cancel_futures=True)
            raise


def _stored_result(entry: Entry, folder: Path, programs: Path) -> Result:
    if not folder.exists():
        run(entry, folder, programs)
    record = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return Result(**record, folder=folder)


def key_of(entry: Entry) -> str:
    """A hash of all that decides a result: sources of the package and the example, and flags."""
    digest = hashlib.sha256(f"{entry.command} {entry.files}".encode())
    package = sorted((ROOT / "nc_jax").rglob("*.py"))
    for path in [*package, *sources_of(entry.name), EXAMPLES / "script.py"]:
        digest.update(str(path.relative_to(ROOT)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def run(entry: Entry, folder: Path, programs: Path) -> None:
    """Run an example; its files and a record appear in `folder` if it succeeds.

    It runs in an empty folder with its default `--out`, so that it prints what a user sees.
    """
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, str(EXAMPLES / f"{entry.name}.py"), *entry.flags.split()]
        started = time.perf_counter()
        done = subprocess.run(
            command, cwd=scratch, env=_environment(programs), capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        seconds = time.perf_counter() - started
        if done.returncode:
            last = (done.stderr.strip() or "no message").splitlines()[-1]
            message = f"{entry.command}: exit status {done.returncode}: {last}"
            raise FailedExampleError(message, done.stderr)
        found = {path.name: path for path in Path(scratch).glob("results/*/*")}
        missing = sorted(set(entry.files) - set(found))
        if missing:
            raise FailedExampleError(
                f"{entry.command}: did not write {', '.join(missing)}, which {TABLE.name} names."
            )
        record = {"seconds": seconds, "cores": os.cpu_count() or 1, "printed": done.stdout}
        _store(folder, [found[file] for file in entry.files], record)


def _environment(programs: Path) -> dict[str, str]:
    """The environment of a run: without windows, with this copy of the package."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "MPLBACKEND": "agg",
        "PYTHONPATH": os.pathsep.join(paths),
        "JAX_COMPILATION_CACHE_DIR": str(programs),
    }


def _store(folder: Path, files: list[Path], record: dict[str, object]) -> None:
    """Put files and record in the place of all earlier results of the example."""
    shutil.rmtree(folder.parent, ignore_errors=True)
    unfinished = folder.with_name("unfinished")
    unfinished.mkdir(parents=True)
    for file in files:
        shutil.copyfile(file, unfinished / file.name)
    text = json.dumps(record, ensure_ascii=False, indent=1)
    (unfinished / "result.json").write_text(text, encoding="utf-8")
    unfinished.rename(folder)
