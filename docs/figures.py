"""Redraw figures of the documentation, each by its example: `python docs/figures.py NAME …`.

Without names all figures are drawn, which takes an hour on two cores. `--list` prints the commands.
Trainings differ a little between machines, since rounding does: the numbers in cnn.md belong to the
figures that are stored with them.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).parent
EXAMPLES = DOCS.parent / "examples"
# By example with its flags: names of figures in the documentation by the files that it saves; names
# without a suffix are PNGs.
COMMANDS = {
    "ulpm_flow --gd --seeds 16": {"ulpm_flow": "ulpm_flow"},
    "ulpm_flow --seeds 16 --decades 1000000": {"ulpm_flow": "ulpm_flow_far"},
    "ulpm_kkt": {"ulpm_kkt": "ulpm_kkt"},
    "ulpm_saddle": {"ulpm_saddle": "ulpm_saddle"},
    "collapse_movie": {"collapse_movie.gif": "collapse.gif"},
    "mixon_strong_collapse": {"mixon_strong_collapse": "mixon_strong_collapse"},
    "mixon_linear_phase": {"mixon_linear_phase": "mixon_linear_phase"},
    "seli_flow": {"seli_flow": "seli_flow"},
    "minority_collapse": {
        "minority_collapse": "minority_collapse", "minority_transient": "minority_transient"
    },
    "optimisers": {"optimisers": "optimisers"},
    "few_dimensions": {"few_dimensions": "few_dimensions"},
    "depth --K 4 5 6 7 8 --m 2 3 4 5 6 --width 0 3 --norm 0.5 2 --seeds 8": {"depth": "depth"},
    "losses": {"losses": "losses"},
    "layers": {"layers": "layers"},
    "central_path": {"central_path": "central_path"},
    "superclasses": {"superclasses": "superclasses"},
    "kernel_network": {"kernel_network": "kernel_network"},
    "zhu_landscape": {"zhu_landscape": "zhu_landscape"},
    "seed_sweep": {"seed_sweep": "seed_sweep"},
    "rangamani_norm_dynamics": {
        "figure_2": "rangamani_norms", "figure_3": "rangamani_margins",
        "orders": "rangamani_orders",
    },
    "rangamani_collapse": {"rangamani_collapse": "rangamani_collapse"},
    "cnn_collapse": {"cnn_collapse": "cnn_collapse"},
    "torch_loop": {
        "torch_loop_epochs": "torch_loop_epochs", "torch_loop_depth": "torch_loop_depth"
    },
    "cnn_collapse --dataset fashion-mnist --net resnet18 --samples 500 --epochs 200": {
        "cnn_collapse": "cnn_fashion_mnist"
    },
    "network_spectrum": {"network_spectrum": "network_spectrum"},
    "zhu_optimizers": {"zhu_optimizers": "zhu_optimizers"},
    "zhu_fixed_etf": {"zhu_fixed_etf": "zhu_fixed_etf"},
    "zhu_random_labels": {"zhu_random_labels": "zhu_random_labels"},
    "rangamani_binary": {
        "rangamani_norms": "rangamani_binary_norms",
        "rangamani_random_labels": "rangamani_binary_labels",
    },
}  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Run the examples of the given figures, and copy the figures."""
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
            shutil.copyfile(Path(out) / file_name(saved), DOCS / file_name(figure))


def file_name(figure: str) -> str:
    """File of a figure, a PNG unless it has a suffix."""
    return figure if "." in figure else f"{figure}.png"


if __name__ == "__main__":
    main()
