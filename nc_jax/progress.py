"""Progress bars of long runs, the same for a flow, a sweep and a training.

These functions have a bool argument `progress`. True shows one bar on stderr. On a terminal or in a
notebook the bar appears once the run has taken a second; elsewhere, as in a log file, once it has
taken a minute, and then as one line a minute. A run that ends before that writes nothing, and False
writes nothing at all. A descent is one compiled program without a loop on the host, and has no bar.
"""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

# Seconds before the bar appears on a terminal, and in a file. The latter is also the time between
# two lines of a file.
_QUIET_SECONDS, _FILE_SECONDS = 1.0, 60.0


class Bar:
    """A progress bar on stderr, which appears only if the run takes long enough.

    Args:
        total: amount of work of the whole run, in any unit.
        name: what runs, such as "flow".
        wanted: the caller's `progress`; nothing is written without it.
        initial: amount of work that an earlier run of the same store has done.
        options: options of tqdm, such as `unit`.

    Example:

        >>> from nc_jax.progress import Bar
        >>> with Bar(10, "sweep", True, unit="run") as bar:
        ...     bar.show(5, failed=0)  # 5 of 10 runs are done
    """

    def __init__(
        self, total: float, name: str, wanted: bool, *, initial: float = 0, **options: Any
    ):
        self._options = {"total": total, "initial": initial, **options}
        self._name, self._wanted, self._began = name, wanted, time.monotonic()
        # The lock, since the timer of `doing` draws from another thread.
        self._bar, self._drawing = None, threading.Lock()

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def show(self, done: float, **notes: object) -> None:
        """Draw the bar, if it is due, with this amount of work done and with notes after it."""
        if not self._wanted:
            return
        quiet = _QUIET_SECONDS if _is_watched() else _FILE_SECONDS
        if self._bar is None and time.monotonic() - self._began < quiet:
            return
        with self._drawing:
            bar = self._drawn()
            # `update` draws the notes too, and not more often than `mininterval`.
            bar.set_postfix(notes, refresh=False)
            bar.update(done - bar.n)

    def write(self, line: str) -> None:
        """Print a line above the bar, at once."""
        if not self._wanted:
            return
        with self._drawing:
            if self._bar is None:
                print(line, file=sys.stderr)
            else:
                self._bar.write(line, file=sys.stderr)

    def conclude(self, line: str) -> None:
        """Print a last line if the bar has appeared: a short run writes nothing."""
        if self._bar is not None:
            self.write(line)

    @contextlib.contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Name a phase of the run, such as "compiling", beside the bar while the block runs.

        On a terminal or in a notebook, if the phase takes longer than a second.
        """
        # From another thread, since a compilation occupies this one until it ends.
        timer = threading.Timer(_QUIET_SECONDS, self._name_phase, (what,))
        # The end of the process does not wait for a daemon thread.
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

    def _name_phase(self, what: str) -> None:
        with self._drawing:
            self._drawn().set_description_str(f"{self._name}, {what}")

    def _drawn(self) -> Any:
        """The bar of tqdm, created when it first appears."""
        if self._bar is None:
            # Imported here, since most runs end before they need it.
            from tqdm import tqdm

            # In a file each drawing is a line.
            every = 0.1 if _is_watched() else _FILE_SECONDS
            self._bar = tqdm(desc=self._name, mininterval=every, maxinterval=every, **self._options)
            # Elapsed time counts from the start of the run, not from the first drawing.
            self._bar.start_t -= time.monotonic() - self._began
        return self._bar


def _is_watched() -> bool:
    """Whether a person can follow stderr: on a terminal or in a notebook."""
    in_notebook = type(sys.stderr).__module__.startswith("ipykernel")
    return in_notebook or sys.stderr.isatty()
