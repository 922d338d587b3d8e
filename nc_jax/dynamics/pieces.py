"""A run as part of a program in progress, or outside of one in pieces under a host loop.

The host loop is where a progress bar, Ctrl-C and writing belong: inside of a program they would be
host callbacks, which keep it out of JAX's persistent cache. A piece ends after a number of steps
that takes about a tenth of a second; where pieces end changes no bit of the result.
"""

import functools
import os
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ..checks import is_traced
from ..compilation import cpu_options
from ..interrupts import lasting_interrupts
from ..progress import Bar
from ..trajectory import Trajectory
from .integrator import Progress
from .program import Ending, Record, Run, advance, begin, trajectory_of

if TYPE_CHECKING:
    import xarray as xr

    from .checkpoints import Checkpoints

# Save times that one call of the program takes. The number is fixed, so that runs with other
# numbers of saves compile nothing.
_SAVES = 64
# Seconds of a piece.
_PIECE_SECONDS = 0.1
# Steps of the first piece; numbers that its steps may compute together, so that large states take
# fewer; and how many times the steps of the last piece the next may have. The speed of a slow model
# is known before a piece can block Ctrl-C for long.
_FIRST_STEPS, _FIRST_NUMBERS, _GROWTH = 64, 1_000_000, 8
# Numbers of a state that is small.
_SMALL_NUMBERS = 100_000


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a flow outside of jit, a sweep or a training; the message names what is saved.

    Attributes:
        trajectory: of a flow what was computed, NaN at later save times, with the `result` of a run
            that met its step limit; None before the first piece.
        data: of a sweep or a training without a path what was computed, NaN and `result` −1 where
            nothing was; None before the first results, and with a path, where they are saved.
    """

    def __init__(
        self,
        message: str,
        trajectory: Trajectory | None = None,
        data: "xr.Dataset | None" = None,
    ):
        super().__init__(message)
        self.trajectory, self.data = trajectory, data


def nothing_computed() -> Interrupted:
    """What Ctrl-C raises before there is a first result."""
    return Interrupted("interrupted before the first result; what was saved before stays as it is")


class Computed(NamedTuple):
    """What there is of a run: all that it needs to continue, records by piece, where it would end.

    Arrays are on the host but for `progress`.
    """

    progress: Progress
    records: tuple[Record, ...]
    ending: Ending

    @property
    def num_saves(self) -> int:
        """Save times that are recorded."""
        return sum(len(record.scalars) for record in self.records)


def is_staged(values: PyTree) -> bool:
    """Whether a jit, vmap or derivative in progress decides what these values are."""
    # A jit in progress traces operations on constants as well.
    return any(map(is_traced, [*jax.tree.leaves(values), jnp.zeros(())]))


@eqx.filter_jit
def integrate_here(run: Run, start: PyTree, data: PyTree) -> Trajectory:
    """The whole run as one program, or as part of that in progress."""
    progress, reference = begin(run, start)
    _, records, ending = advance(run, progress, reference, data, run.save_at, run.max_steps)
    return trajectory_of(run, records, ending)


@jax.debug_nans(False)  # What is not reached is NaN.
def integrate_in_pieces(
    run: Run,
    start: PyTree,
    data: PyTree,
    show_progress: bool,
    path: str | os.PathLike[str] | None,
    described: Mapping[str, object],
) -> Trajectory:
    """The whole run, piece by piece, from the checkpoint at the path if there is one.

    `described` are the settings, for whoever reads the store or the message that refuses it.

    Raises: Interrupted on Ctrl-C; ValueError for a store of another run at the path.
    """
    try:
        if path is None:
            return _integrate(_Pieces(run, start, data), show_progress, None)
        # Here, since it brings xarray and Zarr.
        from .checkpoints import checkpoints_at, configuration

        with checkpoints_at(path, configuration(described, run, start, data)) as checkpoints:
            return _integrate(_Pieces(run, start, data), show_progress, checkpoints)
    except Interrupted:
        raise
    except KeyboardInterrupt:
        # Without the traceback of JAX, which is hundreds of lines.
        raise nothing_computed() from None


class _Programs(NamedTuple):
    begin: Callable[..., Any]
    advance: Callable[..., Any]


@functools.cache
def _programs(small: bool) -> _Programs:
    """`begin` and `advance`, for small states compiled on a CPU by XLA's older emitters of loops.

    They take two thirds of the newer ones' time, and their code is as fast for programs of hundreds
    of small loops. Large states take longer to run than to compile.
    """
    jit: Any = eqx.filter_jit  # options of `jax.jit` are passed on, which its types do not say
    options = cpu_options(xla_cpu_use_fusion_emitters=False) if small else {}
    return _Programs(jit(begin, compiler_options=options), jit(advance, compiler_options=options))


class _Pieces:
    """The compiled programs of a run, with what stays the same from piece to piece."""

    def __init__(self, run: Run, start: PyTree, data: PyTree):
        self._run, self._start, self._data = run, start, data
        self._save_at = np.asarray(run.save_at)
        # The end alone: the number of saves is no part of the program.
        last = jnp.asarray(self._save_at[-1:])
        self._program = eqx.tree_at(lambda run: run.save_at, run, last)
        self._numbers = sum(leaf.size for leaf in jax.tree.leaves(start))
        self._compiled = _programs(small=self._numbers <= _SMALL_NUMBERS)

    def first(self, num_steps: int) -> Computed:
        """The first piece, of so many steps."""
        progress, self._reference = self._compiled.begin(self._program, self._start)
        return self._advance(progress, (), 0, num_steps)

    def next(self, computed: Computed, num_steps: int) -> Computed:
        """One piece more, of so many steps."""
        limit = int(computed.ending.num_steps) + num_steps
        return self._advance(computed.progress, computed.records, computed.num_saves, limit)

    def first_steps(self) -> int:
        """Steps for the first piece."""
        return max(min(_FIRST_NUMBERS // max(self._numbers, 1), _FIRST_STEPS), 1)

    def is_complete(self, computed: Computed) -> bool:
        """Whether there is nothing left to compute."""
        ending = computed.ending
        return bool(ending.over) and computed.num_saves == self._num_reached(ending)

    def fraction(self, computed: Computed) -> float:
        """Share of the interval of the clock's coordinate that is computed."""
        return float(computed.ending.reached / self._save_at[-1])

    def trajectory(self, computed: Computed) -> Trajectory:
        """What there is, NaN at later save times."""
        missing = len(self._save_at) - computed.num_saves
        records = jax.tree.map(lambda *parts: np.concatenate(parts), *computed.records)
        records = jax.tree.map(lambda saved: _padded(saved, missing, np.nan), records)
        # A Python integer, which promotes as the count of a program does.
        ending = computed.ending._replace(num_steps=int(computed.ending.num_steps))
        # All at once, which takes a tenth of the time of one array after another.
        return trajectory_of(self._run, records, ending, jax.device_put)

    def _num_reached(self, ending: Ending) -> int:
        """Save times up to the last accepted step; none before the first."""
        if ending.reached == 0:
            return 0
        return int(np.searchsorted(self._save_at, ending.reached, side="right"))

    def _advance(
        self, progress: Progress, records: tuple[Record, ...], num_saves: int, step_limit: int
    ) -> Computed:
        saves = self._save_at[num_saves : num_saves + _SAVES]
        saves = _padded(saves, _SAVES - len(saves), np.inf)
        progress, *host = self._compiled.advance(
            self._program, progress, self._reference, self._data, saves, np.asarray(step_limit)
        )
        piece, ending = jax.device_get(host)
        # Those of this piece that are reached, which may be fewer than the piece has.
        new = self._num_reached(ending) - num_saves
        piece = jax.tree.map(lambda saved: saved[:new], piece)
        return Computed(progress, (*records, piece), ending)


def _integrate(
    pieces: _Pieces, show_progress: bool, checkpoints: "Checkpoints | None"
) -> Trajectory:
    """Pieces until the run is over, or Ctrl-C."""
    form = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
    with (
        lasting_interrupts() as check_interrupt,
        Bar(1.0, "flow", show_progress, bar_format=form) as bar,
    ):
        # A checkpoint is read into the structure of a run; its first piece has no steps.
        num_steps = pieces.first_steps()
        with bar.doing("compiling"):
            computed = pieces.first(num_steps if checkpoints is None else 0)
        if checkpoints is not None:
            computed = checkpoints.load(computed)
        try:
            while not pieces.is_complete(computed):
                check_interrupt()
                began, taken = time.perf_counter(), int(computed.ending.num_steps)
                computed = pieces.next(computed, num_steps)
                taken = int(computed.ending.num_steps) - taken
                if taken > 0:
                    rate = taken / (time.perf_counter() - began)
                    num_steps = int(min(max(rate * _PIECE_SECONDS, 1), _GROWTH * taken))
                bar.show(pieces.fraction(computed))
                if checkpoints is not None and checkpoints.is_due():
                    checkpoints.save(computed, pieces.trajectory(computed), finished=False)
        except KeyboardInterrupt:
            raise _interrupted(pieces, computed, checkpoints) from None
    trajectory = pieces.trajectory(computed)
    if checkpoints is not None and not checkpoints.finished:
        checkpoints.save(computed, trajectory, finished=True)
    return trajectory


def _interrupted(
    pieces: _Pieces, computed: Computed, checkpoints: "Checkpoints | None"
) -> Interrupted:
    """What Ctrl-C raises, once what was computed is written."""
    trajectory = pieces.trajectory(computed)
    where = f"interrupted at log(1+t) = {trajectory.final_log_time:.6g}"
    if checkpoints is None:
        return Interrupted(
            f"{where}; the exception's `trajectory` is what was computed", trajectory
        )
    checkpoints.save(computed, trajectory, finished=False)
    return Interrupted(f"{where}; the same call resumes from {checkpoints.path}", trajectory)


def _padded(values: np.ndarray, count: int, fill: float) -> np.ndarray:
    """The values with so many more along the first axis."""
    return np.concatenate([values, np.full((count, *values.shape[1:]), fill, values.dtype)])
