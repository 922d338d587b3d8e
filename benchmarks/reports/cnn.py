"""Text tables of `benchmarks/cnn.py`."""

from collections.abc import Iterator, Sequence
from typing import Any

from reporting import show_machine, show_ratio, show_time

EAGER = "PyTorch, channels last"


def show_training(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A table for each network, with ratios between rows of the same dtype.

    The ratios are to eager PyTorch with channels last, to the best of PyTorch and to the best of
    Flax.
    """
    for network in dict.fromkeys(row["network"] for row in rows):
        of_network = [row for row in rows if row["network"] == network]
        yield ""
        yield f"{network}: {of_network[0]['batches']} batches of {of_network[0]['batch']}"
        yield (
            f"{'way':36} {'dtype':8} {'images/s':>9} {'of eager':>8} {'of PyTorch':>10} "
            f"{'of Flax':>8} {'compile':>8} {'loss error':>10} {'gradient':>8}"
        )
        for row in of_network:
            if row["failure"]:
                yield f"{row['way']:36} {row['dtype']:8} fails: {row['failure']:.60}"
                continue
            alike = [x for x in of_network if x["dtype"] == row["dtype"] and x["rate"]]
            bases = [
                max((x["rate"] for x in alike if x["way"].startswith(way)), default=None)
                for way in ("PyTorch", "Flax")
            ]
            eager = next((x["rate"] for x in alike if x["way"] == EAGER), None)
            rate, bases = row["rate"], [eager, *bases]
            ratios = [show_ratio(rate and base and rate / base) for base in bases]
            yield (
                f"{row['way']:36} {row['dtype']:8} "
                f"{'differs' if rate is None else f'{rate:.4g}':>9} {ratios[0]:>8} {ratios[1]:>10} "
                f"{ratios[2]:>8} {show_time(row['compile']):>8} {row['loss_error']:10.0e} "
                f"{row['gradient_error']:8.0e}"
            )


def show(report: dict[str, Any]) -> str:
    """The tables."""
    lines = show_machine(report["machine"])
    threads = f", PyTorch on {report['threads']} threads" if report["threads"] else ""
    lines.insert(2, f"device {report['device']}, flax {report['flax']}{threads}")
    if report["left_out"]:
        lines.append(report["left_out"])
    lines += show_training(report["training"])
    if report["metrics"]:
        lines += ["", "recording all metrics of a ConvNet, statistics in the widest float"]
        lines.append(
            f"{'images':18} {'float':8} {'epoch':>8} {'record':>8} {'of an epoch':>11} "
            f"{'forward':>8}"
        )
    for row in report["metrics"]:
        lines.append(
            f"{show_set(row):18} {row['statistics']:8} {show_time(row['epoch']):>8} "
            f"{show_time(row['record']):>8} {row['share']:11.0%} {show_time(row['forward']):>8}"
        )
    if report["seeds"]:
        lines += ["", f"an epoch of {report['seeds'][0]['seeds']} seeds of a ConvNet"]
        lines.append(f"{'images':18} {'in a row':>9} {'together':>9} {'gain':>6}")
    for row in report["seeds"]:
        lines.append(
            f"{show_set(row):18} {show_time(row['in_a_row']):>9} {show_time(row['together']):>9} "
            f"{show_ratio(row['gain']):>6}"
        )
    return "\n".join(lines)


def show_set(row: dict[str, Any]) -> str:
    """The number and shape of images as text, such as "10000 of 28x28x1"."""
    return f"{row['images']} of {'x'.join(map(str, row['shape']))}"
