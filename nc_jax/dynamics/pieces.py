"""A flow in pieces from a host loop.

The host loop shows the progress bar, handles Ctrl-C and writes checkpoints. Inside of a program
these would be host callbacks, and JAX stores no program with a callback in its persistent cache. A
piece ends after a number of steps that takes about a tenth of a second. Where the pieces end
changes no bit of the result.
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
from .program import Computed, Ending, Integration, Record, advance, begin, trajectory_of

if TYPE_CHECKING:
    import xarray as xr

    from .checkpoints import Checkpoints

# Number of save times in one call of the program. It is fixed, so that a run with another number of
# saves compiles nothing.
_SAVES = 64
# Duration of a piece in seconds.
_PIECE_SECONDS = 0.1
# Limits of a piece: `_FIRST_STEPS` for the steps of the first piece, `_FIRST_NUMBERS` for its steps
# times the numbers of a state, `_GROWTH` for the steps of a later piece over those of the piece
# before. The speed of a slow model is thus measured before a piece can delay Ctrl-C for long.
_FIRST_STEPS, _FIRST_NUMBERS, _GROWTH = 64, 1_000_000, 8
# Largest size of a small state, in numbers.
_SMALL_NUMBERS = 100_000


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a flow outside of jit, a sweep or a training; its message names what is saved.

    Attributes:
        trajectory: of a flow, the part that was computed, NaN at later save times. Its `result` is
            that of a run that reached its step limit. None before the first piece.
        data: of a sweep or a training without a path, the part that was computed, with NaN and
            `result` −1 elsewhere; None before the first results, and with a path, where the results
            are saved.

    Example:

        >>> try:
        ...     raise nc.Interrupted("interrupted at log(1+t) = 2")
        ... except KeyboardInterrupt as interrupted:
        ...     print(interrupted, interrupted.trajectory)
        interrupted at log(1+t) = 2 None
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
    """The error of Ctrl-C before the first result."""
    return Interrupted("interrupted before the first result; earlier results on disk are unchanged")


def is_staged(values: PyTree) -> bool:
    """Whether the call is under a jit, or these values are traced by a vmap or a derivative."""
    # A jit traces operations on constants as well: under it the array of zeros is a tracer, even
    # where no value depends on an argument of the jit.
    return any(map(is_traced, [*jax.tree.leaves(values), jnp.zeros(())]))


@jax.debug_nans(False)  # Records of save times that are not reached are NaN.
def integrate_in_pieces(
    integration: Integration,
    start: PyTree,
    data: PyTree,
    *,
    show_progress: bool,
    path: str | os.PathLike[str] | None,
    described: Mapping[str, object],
) -> Trajectory:
    """Compute a run piece by piece, from the checkpoint at the path if there is one.

    Args: `described` are the settings by name, which become attributes of the store and appear in
    the message that refuses the store of another run.

    Raises: Interrupted on Ctrl-C; ValueError for a store of another run at the path.
    """
    try:
        if path is None:
            return _integrate(_Pieces(integration, start, data), show_progress, None)
        # Imported here, since it loads xarray and Zarr.
        from .checkpoints import checkpoints_at, configuration

        with checkpoints_at(
            path, configuration(described, integration, start, data)
        ) as checkpoints:
            return _integrate(_Pieces(integration, start, data), show_progress, checkpoints)
    except Interrupted:
        raise
    except KeyboardInterrupt:
        # `from None` leaves out the traceback of JAX, which is hundreds of lines.
        raise nothing_computed() from None


class _Programs(NamedTuple):
    begin: Callable[..., Any]
    advance: Callable[..., Any]


@functools.cache
def _programs(small: bool) -> _Programs:
    """`begin` and `advance`, compiled; for small states on a CPU with XLA's older loop emitters.

    The older emitters compile in two thirds of the time, and their code is as fast for programs of
    hundreds of small loops. Large states take longer to run than to compile.
    """
    jit: Any = eqx.filter_jit  # it passes options on to `jax.jit`, which its type does not say
    options = cpu_options(xla_cpu_use_fusion_emitters=False) if small else {}
    return _Programs(jit(begin, compiler_options=options), jit(advance, compiler_options=options))


class _Pieces:
    """The compiled programs of a run, with their arguments that are the same for all pieces."""

    def __init__(self, integration: Integration, start: PyTree, data: PyTree):
        self._integration, self._start, self._data = integration, start, data
        # On the host, where each piece takes its save times from it.
        self._save_at = np.asarray(integration.save_at)
        # The programs get the last save time alone, which is where the run ends: an array of all
        # times would compile anew for another number of them.
        last = jnp.asarray(self._save_at[-1:])
        self._program = eqx.tree_at(lambda integration: integration.save_at, integration, last)
        self._numbers = sum(leaf.size for leaf in jax.tree.leaves(start))
        self._compiled = _programs(small=self._numbers <= _SMALL_NUMBERS)

    def first(self, num_steps: int) -> Computed:
        """Compute the first piece of the run, with this number of steps.

        A run that resumes from a checkpoint calls this method too, because it needs the invariants
        at the start.
        """
        progress, self._reference = self._compiled.begin(self._program, self._start)
        return self._advance(progress, (), 0, num_steps)

    def next(self, computed: Computed, num_steps: int) -> Computed:
        """Compute the next piece, of this number of steps."""
        limit = int(computed.ending.num_steps) + num_steps
        return self._advance(computed.progress, computed.records, computed.num_saves, limit)

    def first_steps(self) -> int:
        """Number of steps of the first piece: fewer for a large state, and at least one."""
        return max(min(_FIRST_NUMBERS // max(self._numbers, 1), _FIRST_STEPS), 1)

    def is_complete(self, computed: Computed) -> bool:
        """Whether there is nothing left to compute."""
        ending = computed.ending
        # A piece records at most `_SAVES` save times, and the last step may reach more of them.
        return bool(ending.over) and computed.num_saves == self._num_reached(ending)

    def fraction(self, computed: Computed) -> float:
        """Fraction of the interval of the clock's coordinate that is computed."""
        return float(computed.ending.reached / self._save_at[-1])

    def trajectory(self, computed: Computed) -> Trajectory:
        """The computed part as a trajectory, NaN at later save times."""
        missing = len(self._save_at) - computed.num_saves
        records = jax.tree.map(lambda *parts: np.concatenate(parts), *computed.records)
        records = jax.tree.map(lambda saved: _padded(saved, missing, np.nan), records)
        # A Python integer is weakly typed, like the number of steps that a run within one program
        # returns, so that both ways to run give a trajectory of one type.
        ending = computed.ending._replace(num_steps=int(computed.ending.num_steps))
        # One transfer of all arrays, which takes a tenth of the time of a transfer for each array.
        return trajectory_of(self._integration, records, ending, to_jax=jax.device_put)

    def _num_reached(self, ending: Ending) -> int:
        """Number of save times up to the last accepted step; 0 before the first step."""
        if ending.reached == 0:
            return 0
        return int(np.searchsorted(self._save_at, ending.reached, side="right"))

    def _advance(
        self, progress: Progress, records: tuple[Record, ...], num_saves: int, step_limit: int
    ) -> Computed:
        saves = self._save_at[num_saves : num_saves + _SAVES]
        # No run reaches an infinite save time.
        saves = _padded(saves, _SAVES - len(saves), np.inf)
        progress, *host = self._compiled.advance(
            self._program, progress, self._reference, self._data, saves, np.asarray(step_limit)
        )
        # This also waits for the device, so that the time of a piece can be measured.
        piece, ending = jax.device_get(host)
        # The records beyond those that the run has reached are NaN.
        new = self._num_reached(ending) - num_saves
        piece = jax.tree.map(lambda saved: saved[:new], piece)
        return Computed(progress, (*records, piece), ending)


def _integrate(
    pieces: _Pieces, show_progress: bool, checkpoints: "Checkpoints | None"
) -> Trajectory:
    """Compute pieces until the run has ended, or until Ctrl-C."""
    # Without tqdm's count and rate, which are fractions of a run here.
    form = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
    with (
        lasting_interrupts() as check_interrupt,
        Bar(1.0, "flow", show_progress, bar_format=form) as bar,
    ):
        # A checkpoint is read into the structure of a computed piece. With checkpoints the first
        # piece thus takes no steps, and then the stored part replaces it.
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
                # A piece takes no step if all its save times lie within the last step.
                if taken > 0:
                    rate = taken / (time.perf_counter() - began)
                    # At least one step, or a run of slow steps would never advance.
                    num_steps = int(min(max(rate * _PIECE_SECONDS, 1), _GROWTH * taken))
                bar.show(pieces.fraction(computed))
                if checkpoints is not None and checkpoints.is_due():
                    checkpoints.save(computed, pieces.trajectory(computed), finished=False)
        except KeyboardInterrupt:
            raise _interrupted(pieces, computed, checkpoints) from None
    trajectory = pieces.trajectory(computed)
    # The store of a run that was finished before this call may be read-only.
    if checkpoints is not None and not checkpoints.finished:
        checkpoints.save(computed, trajectory, finished=True)
    return trajectory


def _interrupted(
    pieces: _Pieces, computed: Computed, checkpoints: "Checkpoints | None"
) -> Interrupted:
    """The error of Ctrl-C, after a checkpoint of the computed part is written."""
    trajectory = pieces.trajectory(computed)
    # A batch has common steps, and an array of equal times.
    where = f"interrupted at log(1+t) = {np.min(trajectory.final_log_time):.6g}"
    if checkpoints is None:
        return Interrupted(
            f"{where}; the exception's `trajectory` has the computed part", trajectory
        )
    checkpoints.save(computed, trajectory, finished=False)
    return Interrupted(f"{where}; the same call resumes from {checkpoints.path}", trajectory)


def _padded(values: np.ndarray, count: int, fill: float) -> np.ndarray:
    """The values, followed by this number of fill values along the first axis."""
    return np.concatenate([values, np.full((count, *values.shape[1:]), fill, values.dtype)])
