"""Rows and text table of `benchmarks/ulpm.py`."""

import dataclasses
from collections.abc import Sequence

from peers.ulpm_runs import ATOL, RTOL, Setup
from reporting import show_machine, show_ratio, show_time

SLOW = 5.0  # seconds after which a run is not repeated


@dataclasses.dataclass
class Row:
    """One line of the table; None where a column does not apply."""

    group: str
    name: str
    dtype: str = ""
    compile_s: float | None = None
    run_s: float | None = None
    repeats: int = 0
    steps: int | None = None
    evals: int | None = None
    us_per_step: float | None = None
    error: float | None = None
    error_kind: str = ""
    x: float | None = None
    note: str = ""


METHOD = """\
start      one draw, norm 1, float64, cast for float32 rows; every descent row makes all {steps:,}
           steps (nothing is extrapolated), every flow row runs to t = {horizon:g}
compile    first call minus run, ~0 where the row above compiled the same
           run: median of `reps` later calls (1 where a call takes over {slow:g} s, and then the
           first one where nothing compiles)
saves      nc_jax records all its observables: at the end, at 101 saves ("default saves" and
           "101 saves"), at 201 on the way to 10^1000; the others record nothing
tolerance  rtol {rtol:g}, atol {atol:g} unless the name says otherwise (rtol 1e-8: atol 1e-10)
steps      of a solver, rejected ones included for nc_jax; evals: of the field, where counted
error      abs: largest difference of the final state from the NumPy float64 descent (ref)
           rel: ||difference|| / ||reference|| of the final (W, H); reference: DOP853, rtol 1e-12
           drift: largest relative change of an invariant from start to end. 10^1000 is beyond
           any float: a solver gets there only in log time, with the field formed in log space
x          run time of the PyTorch float32 loop over that of the row
"""


def show_row(row: Row) -> str:
    """One aligned line."""
    name = f"{row.name:<38}{row.dtype:<9}"
    if row.run_s is None:
        return f"{name}{row.note}"
    error = "-" if row.error is None else f"{row.error:.1e} {row.error_kind}"
    cells = (
        f"{show_time(row.compile_s):>9}",
        f"{show_time(row.run_s):>9}",
        f"{row.repeats:>5}",
        f"{row.us_per_step:>8.3g}" if row.us_per_step else f"{'-':>8}",
        f"{row.steps:>8}" if row.steps else f"{'-':>8}",
        f"{row.evals:>6}" if row.evals else f"{'-':>6}",
        f"{error:>14}",
        f"{show_ratio(row.x):>7}",
    )
    return name + "".join(cells)


def show(rows: Sequence[Row], facts: dict, setup: Setup) -> str:
    """The printed table."""
    place = facts["machine"]
    lines = show_machine(place)
    for dtype, probed in facts["torch_us_per_step_by_threads"].items():
        tried = ", ".join(f"{us:.0f} us a step with {n}" for n, us in probed.items())
        lines.append(
            f"PyTorch {dtype}: {setup.threads[dtype]} thread(s), the fastest of a trial: {tried}"
        )
    method = METHOD.format(
        steps=setup.num_steps, horizon=setup.horizon, slow=SLOW, rtol=RTOL, atol=ATOL
    )
    header = f"{'':<38}{'dtype':<9}{'compile':>9}{'run':>9}{'reps':>5}{'us/step':>8}{'steps':>8}"
    lines += ["", method, f"{header}{'evals':>6}{'error':>14}{'x':>7}"]
    for group in dict.fromkeys(row.group for row in rows):
        lines.append(f"-- {group}")
        lines += [show_row(row) for row in rows if row.group == group]
    lines += ["", "ratios of run times"]
    lines += [f"  {name:<60}{show_ratio(ratio):>9}" for name, ratio in facts["ratios"].items()]
    return "\n".join(lines)
