"""Draws figures of the documentation anew, each by its example: `python docs/figures.py NAME …`.

Without names all of them, in an hour on two cores. `--list` prints the commands. The results of
networks differ a little between machines, since rounding does: their numbers in cnn.md belong to
their figures.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).parent
EXAMPLES = DOCS.parent / "examples"
# Example and flags -> figure in the documentation by the name under which the example saves it.
COMMANDS = {
    "ulpm_flow --gd --seeds 16": {"ulpm_flow": "ulpm_flow"},
    "ulpm_flow --seeds 16 --decades 1000000": {"ulpm_flow": "ulpm_flow_far"},
    "ulpm_kkt": {"ulpm_kkt": "ulpm_kkt"},
    "ulpm_saddle": {"ulpm_saddle": "ulpm_saddle"},
    "mixon_strong_collapse": {"mixon_strong_collapse": "mixon_strong_collapse"},
    "mixon_linear_phase": {"mixon_linear_phase": "mixon_linear_phase"},
    "zhu_landscape": {"zhu_landscape": "zhu_landscape"},
    "seed_sweep": {"seed_sweep": "seed_sweep"},
    "rangamani_norm_dynamics": {
        "figure_2": "rangamani_norms", "figure_3": "rangamani_margins",
        "orders": "rangamani_orders",
    },
    "rangamani_collapse": {"rangamani_collapse": "rangamani_collapse"},
    "cnn_collapse": {"cnn_collapse": "cnn_collapse"},
    "cnn_collapse --dataset fashion-mnist --net resnet18 --samples 500 --epochs 200": {
        "cnn_collapse": "cnn_fashion_mnist"
    },
    "zhu_optimizers": {"zhu_optimizers": "zhu_optimizers"},
    "zhu_fixed_etf": {"zhu_fixed_etf": "zhu_fixed_etf"},
    "zhu_random_labels": {"zhu_random_labels": "zhu_random_labels"},
    "rangamani_binary": {
        "rangamani_norms": "rangamani_binary_norms",
        "rangamani_random_labels": "rangamani_binary_labels",
    },
}  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Run the examples whose figures are asked for, and copy those."""
    known = sorted(figure for figures in COMMANDS.values() for figure in figures.values())
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}")
    parser.add_argument("--list", action="store_true", help="print the commands, run nothing")
    flags = parser.parse_args(arguments)
    unknown = sorted(set(flags.names) - set(known))
    if unknown:
        parser.error(f"{', '.join(unknown)}: give names of {', '.join(known)}.")
    for command, figures in COMMANDS.items():
        if not flags.names or set(flags.names) & set(figures.values()):
            name, *options = command.split()
            print(f"{', '.join(figures.values())}: python examples/{name}.py {' '.join(options)}")
            if not flags.list:
                _draw(name, options, figures)


def _draw(name: str, options: list[str], figures: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, f"{name}.py", *options, "--out", out]
        subprocess.run(command, cwd=EXAMPLES, check=True)
        for saved, figure in figures.items():
            shutil.copyfile(Path(out) / f"{saved}.png", DOCS / f"{figure}.png")


if __name__ == "__main__":
    main()
