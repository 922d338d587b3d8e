"""Text tables of `benchmarks/sweep.py`."""

from reporting import show_machine, show_ratio, show_time

ERROR = 1e-6  # relative error of final states that every row must reach


def show(report: dict) -> str:
    """The tables."""
    rows = {row["way"]: row["rate"] for row in report["rows"]}
    fastest = {
        name: max((rate for way, rate in rows.items() if name in way and rate), default=None)
        for name in ("SciPy", "vmap")
    }
    lines = [*show_machine(report["machine"]), ""]
    lines.append(
        f"K=5 d=20 n=10 to t = 10^5, {report['seeds']} seeds, final states right to {ERROR:g}"
    )
    lines.append(
        f"{'way':38} {'rtol':>6} {'error':>8} {'seeds/s':>8} {'compile':>8} "
        f"{'of SciPy':>9} {'of vmap':>8}"
    )
    for row in report["rows"]:
        rate = row["rate"]
        ratios = [show_ratio(rate and best and rate / best) for best in fastest.values()]
        lines.append(
            f"{row['way']:38} {row['rtol']:6.0e} {row['error']:8.1e} "
            f"{'missed' if rate is None else f'{rate:.4g}':>8} {show_time(row['compile']):>8} "
            f"{ratios[0]:>9} {ratios[1]:>8}"
        )
    lines += ["", f"{'seeds':>7} {'run':>9} {'a seed':>9} {'with compilation':>17}"]
    for row in report["by_seeds"]:
        lines.append(
            f"{row['seeds']:7} {show_time(row['seconds']):>9} {show_time(row['per_seed']):>9} "
            f"{show_time(row['first']):>17}"
        )
    lines += ["", f"{'K':>5} {'d':>5} {'seeds':>6} {'a seed':>9} {'steps':>6}"]
    for row in report["by_size"]:
        lines.append(
            f"{row['K']:5} {row['d']:5} {row['seeds']:6} {show_time(row['per_seed']):>9} "
            f"{row['steps']:6.0f}"
        )
    lines += [
        "",
        f"{'K':>5} {'d':>5} {'field of one state':>24} {'GFlop/s':>8} {'of a product':>13}",
    ]
    for row in report["field"]:
        lines.append(
            f"{row['K']:5} {row['d']:5} {row['dtype'] + ' ' + show_time(row['seconds']):>24} "
            f"{row['rate'] / 1e9:8.3g} {row['share']:13.0%}"
        )
    return "\n".join(lines)
