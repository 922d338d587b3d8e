"""Progress bars of long runs: on a terminal after a second, in a log file once a minute."""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

# Seconds before a bar appears, and between two lines of it in a file.
_QUIET_SECONDS, _FILE_SECONDS = 1.0, 60.0


class Bar:
    """How much of a run is done, on stderr.

    Args: `total` amount of work and what was done before, `initial`; the `name` of the run;
    whether a bar is `wanted` at all; what tqdm takes besides, such as `unit`.
    """

    def __init__(self, total: float, name: str, wanted: bool, initial: float = 0, **options: Any):
        self._options = {"total": total, "initial": initial, **options}
        self._name, self._wanted, self._began = name, wanted, time.monotonic()
        self._bar, self._drawing = None, threading.Lock()

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def show(self, done: float, **notes: object) -> None:
        """Draw that so much is done, if it is time to."""
        if not self._wanted:
            return
        quiet = _QUIET_SECONDS if _is_watched() else _FILE_SECONDS
        if self._bar is None and time.monotonic() - self._began < quiet:
            return
        with self._drawing:
            bar = self._drawn()
            bar.set_postfix(notes, refresh=False)
            bar.update(done - bar.n)

    def write(self, line: str) -> None:
        """Print a line above the bar."""
        if not self._wanted:
            return
        with self._drawing:
            if self._bar is None:
                print(line, file=sys.stderr)
            else:
                self._bar.write(line, file=sys.stderr)

    @contextlib.contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Say what is going on, in the place of the run's name, where that takes a second."""
        # A thread, since a compilation returns only once it is over.
        timer = threading.Timer(_QUIET_SECONDS, self._say, (what,))
        timer.daemon = True
        if self._wanted and _is_watched():
            timer.start()
        try:
            yield
        finally:
            timer.cancel()
            with self._drawing:
                if self._bar is not None:
                    self._bar.set_description_str(self._name, refresh=False)

    def _say(self, what: str) -> None:
        with self._drawing:
            self._drawn().set_description_str(f"{self._name}, {what}")

    def _drawn(self) -> Any:
        """The bar, drawn for the first time here, since most runs are over before they need it."""
        if self._bar is None:
            from tqdm import tqdm

            every = 0.1 if _is_watched() else _FILE_SECONDS
            self._bar = tqdm(desc=self._name, mininterval=every, maxinterval=every, **self._options)
            self._bar.start_t -= time.monotonic() - self._began
        return self._bar


def _is_watched() -> bool:
    """Whether somebody reads stderr as it is written: on a terminal or in a notebook."""
    in_notebook = type(sys.stderr).__module__.startswith("ipykernel")
    return in_notebook or sys.stderr.isatty()
