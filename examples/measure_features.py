"""Measures of neural collapse of your own features: a table, a report and a figure.

FILE holds the features of the last hidden layer and the labels of their samples:

  features    (N, d) numbers of any width
  labels      (N,) integers or strings
  classifier  (K, d) weights of the last layer, if you have them: row c is that of class c
  bias        (K,), if there is one
  class_names (K,) names of the classes 0..K-1, if there are such

It is one of
  .npz        numpy.savez("features.npz", features=h, labels=y, classifier=w, bias=b)
  .npy        of the features alone, with --labels labels.npy; both are read in slices
  .pt         torch.save({"features": h, "labels": y}, "features.pt"), of tensors or NumPy arrays
  .zarr, .h5  a group with arrays of these names, which are read in slices

For PyTorch, h = torch.cat([body(x) for x, _ in loader]) with the network without its last layer,
in evaluation mode and under torch.no_grad(). To try the script without a file, give --demo: it
writes OUT/features.npz with the pixels of the digits of scikit-learn as features, and a classifier
by least squares.
"""

import argparse
import zipfile
import zlib
from argparse import Namespace
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from script import (
    Parser,
    add_output_flags,
    attributes_of,
    configure_jax,
    run_script,
    save_figure,
)

from nc_jax import metrics, storage

NAMES = ("features", "labels", "classifier", "bias", "class_names")
# Names that PyTorch and papers give to these arrays. They are not read as such, since a file of
# several layers may have a `weight` of another one.
USUAL_NAMES = {"weight": "classifier", "W": "classifier", "h": "features", "y": "labels"}
FORMATS = (".npz", ".npy", ".pt", ".pth", ".zarr", ".h5", ".hdf5")
# What the figure shows: registered measures, and one that is defined here.
DRAWN = (
    "feature_cosine_by_pair",
    "relative_variance_by_class",
    "cdnv_by_pair",
    metrics.Measure(
        "singular_values", "σ_k / σ_1 of M, k ≤ min(d, K−1)",
        lambda s: singular_values(s.centered), dims=("k",),
    ),
)  # fmt: skip


def singular_values(means: np.ndarray) -> np.ndarray:
    """Relative singular values of centred class means, without the one that is 0."""
    values = np.linalg.svd(means, compute_uv=False)[: min(means.shape[1], len(means) - 1)]
    return values / values[0]


def parse(arguments: list[str] | None = None) -> tuple[Parser, Namespace]:
    """The flags."""
    parser = Parser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("file", metavar="FILE", nargs="?", type=Path, help="features, labels and classifier")
    add("--labels", type=Path, metavar="FILE", help="labels.npy, for features in a .npy file")
    add("--names", nargs="+", help="measures to compute, such as zhu_nc1 (those that are cheap); "
        '"all" for everything')  # fmt: skip
    add("--ignore", metavar="LABEL", argument="ignore_index",
        help="leave out the samples of this label, such as -1 or unknown")  # fmt: skip
    add("--batch", type=int, argument="batch_size",
        help="samples that are computed at once (4 MiB of them on a CPU)")  # fmt: skip
    add("--demo", action="store_true", help="write OUT/features.npz of digits, and measure it")
    add_output_flags(
        parser, "results/measure_features", contents="the report, the figure and the numbers"
    )
    flags = parser.parse_args(arguments)
    if flags.names and "all" in flags.names[1:] + flags.names[:-1]:
        parser.error(f'--names {" ".join(flags.names)}: give names of measures, or "all" alone.')
    flags.out = Path(flags.out)
    return parser, flags


def write_demo(folder: Path) -> Path:
    """A file of features: pixels of digits, and a classifier by least squares."""
    from nc_jax import images

    digits = images.load_digits()
    features = digits.images.reshape(len(digits.labels), -1)
    inputs = np.column_stack([features, np.ones(len(features))])
    weights = np.linalg.lstsq(inputs, np.eye(10)[digits.labels], rcond=None)[0].T
    file = folder / "features.npz"
    np.savez(
        file, features=features, labels=digits.labels, classifier=weights[:, :-1],
        bias=weights[:, -1],
    )  # fmt: skip
    return file


def load(parser: Parser, file: Path, labels: Path | None) -> dict[str, Any]:
    """The arrays of a file by name; those of .npy, Zarr and HDF5 stay on disk."""
    if not file.exists():
        parser.error(f"{file}: there is no such file.")
    if file.suffix not in FORMATS:
        parser.error(f"{file}: give a file that ends in {', '.join(FORMATS)}.")
    if (file.suffix == ".npy") != (labels is not None):
        parser.error(f"{file}: give --labels labels.npy with a .npy file, and with no other.")
    if labels is not None:
        files = {"features": file, "labels": labels}
        return {name: mapped(parser, path, name) for name, path in files.items()}
    try:
        arrays = opened(file)
    except (ModuleNotFoundError, OSError, ValueError) as error:
        parser.error(f"{file}: {error}".splitlines()[0])
    found = {name: arrays[name] for name in NAMES if arrays.get(name) is not None}
    missing = [name for name in NAMES[:2] if name not in found]
    if missing:
        parser.error(
            f"{file}: has no {' and no '.join(missing)}, but {first_names(arrays)}; see --help."
        )
    if unused := [name for name in arrays if name not in NAMES]:
        print(f"not used: {first_names([advice_on_name(name) for name in unused])}\n")
    for name in ("classifier", "bias"):
        if name in found and not hasattr(found[name], "detach"):
            found[name] = found[name][:]
    if "class_names" in found:
        found["class_names"] = [
            str(name) for name in np.asarray(found["class_names"][:]).astype(str)
        ]
    return found


def mapped(parser: Parser, file: Path, name: str) -> np.ndarray:
    """The array of a .npy file, which stays on disk."""
    try:
        return np.lib.format.open_memmap(file, mode="r")
    except FileNotFoundError:
        parser.error(f"{file}: there is no such file.")
    except (OSError, ValueError) as error:
        parser.error(f"{file}: {advice_on_objects(name, error)}".splitlines()[0])


def advice_on_objects(name: str, error: Exception) -> str:
    """The message of NumPy, or for an array of Python objects how to save it."""
    if "object" in str(error).lower():
        return f"{name} is an array of Python objects: save {name}.astype(str), or .astype(int)."
    return str(error)


def first_names(arrays: Collection[Any]) -> str:
    """Names of arrays in a file, up to eight of them."""
    names = [str(name) for name in arrays]
    more = [f"and {len(names) - 8} others"] if len(names) > 8 else []
    return ", ".join(names[:8] + more) or "nothing"


def advice_on_name(name: Any) -> str:
    """A name that is not read, with the one to give to it if it is a usual one of such an array."""
    advised = USUAL_NAMES.get(name)
    return f"{name} (name it {advised})" if advised else str(name)


def opened(file: Path) -> Mapping[str, Any]:
    """The arrays of a file of several."""
    if file.suffix == ".npz":
        return read_npz(file)
    if file.suffix == ".zarr":
        import zarr

        return dict(zarr.open_group(file, mode="r").arrays())
    if file.suffix in (".h5", ".hdf5"):
        return open_hdf5(file)
    return read_torch(file)


def read_npz(file: Path) -> dict[str, Any]:
    """The arrays of a file by `numpy.savez`; of other names than `NAMES` only the name is read."""
    damaged = "is no file of numpy.savez, or is damaged: save it again."
    if not zipfile.is_zipfile(file):
        raise ValueError(damaged)
    found: dict[str, Any] = {}
    with np.load(file) as arrays:
        for name in arrays.files:
            try:
                found[name] = arrays[name] if name in NAMES else None
            except (EOFError, zipfile.BadZipFile, zlib.error):
                raise ValueError(damaged) from None
            except ValueError as error:
                raise ValueError(advice_on_objects(name, error)) from None
    return found


def open_hdf5(file: Path) -> Mapping[str, Any]:
    """The arrays of an HDF5 file, which stay on disk."""
    try:
        import h5py  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError:
        raise ModuleNotFoundError("h5py is not installed: pip install h5py") from None
    return h5py.File(file)


def read_torch(file: Path) -> dict[Any, Any]:
    """The dict of a file by `torch.save`, of tensors and arrays of NumPy, without other objects."""
    try:
        import torch
    except ModuleNotFoundError:
        raise ModuleNotFoundError("PyTorch is not installed: pip install torch") from None
    save = 'torch.save({"features": h, "labels": y}, path)'
    # What a pickle of an array calls: a function of NumPy and the classes of the dtypes.
    kinds = [getattr(np.dtypes, name) for name in np.dtypes.__all__]
    rebuild = np.zeros(0).__reduce__()[0]
    # NumPy 1 has this function in another module.
    older = (rebuild, "numpy.core.multiarray._reconstruct")
    allowed = [rebuild, older, np.ndarray, np.dtype, *kinds]
    try:
        with torch.serialization.safe_globals(allowed):
            found = torch.load(file, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception:  # Bytes that are no pickle end in errors of many kinds.
        raise ValueError(
            "is damaged, or holds objects other than tensors, arrays, numbers and text: give "
            f"{save}."
        ) from None
    if not isinstance(found, dict):
        raise ValueError(f"holds a {type(found).__name__} and no dict: give {save}.")
    return found


def ignored_label(parser: Parser, text: str | None, labels: Any) -> int | str | None:
    """The label of `--ignore`: text where labels are text, otherwise an integer."""
    if text is None or np.asarray(labels[:1]).dtype.kind not in "iuf":
        return text
    try:
        return int(text)
    except ValueError:
        parser.error(f"--ignore {text}: the labels are integers; give an integer, such as -1.")


def report(file: Path, found: metrics.Measures, drawn: metrics.Measures, figure: str | None) -> str:
    """A page in Markdown: numbers, values of each class, and where those of pairs are."""
    lines = [f"# Measures of collapse of {file.name}", "", str(found).splitlines()[0] + "."]
    if figure:
        lines += ["", f"![Class means, variances and pairs]({figure})"]
    lines += ["", "| measure | value | equation |", "|---|---|---|"]
    scalars = {name: value for name, value in found.items() if not found.dims[name]}
    lines += [
        f"| {name} | {value:.6g} | {escaped(found.equations[name])} |"
        for name, value in scalars.items()
    ]
    columns = {
        name: (np.asarray(values[name]), values.equations[name])
        for values in (found, drawn)
        for name in values
        if values.dims[name] == ("class",)
    }
    lines += ["", " | ".join(["| class", "samples", *columns]) + " |"]
    lines += ["|---" * (2 + len(columns)) + "|"]
    for c, name in enumerate(found.class_names):
        cells = [f"| {escaped(str(name))}", f"{found.counts[c]}"]
        cells += [f"{values[c]:.6g}" for values, _ in columns.values()]
        lines.append(" | ".join(cells) + " |")
    lines += ["", *(f"- {name}: {equation}" for name, (_, equation) in columns.items())]
    pairs = {
        name: values.equations[name]
        for values in (found, drawn)
        for name in values
        if "other_class" in values.dims[name]
    }
    lines += ["", "Values of pairs of classes are arrays (class, other_class) in measures.zarr,"]
    lines += ["which `nc_jax.storage.load` reads:", ""]
    lines += [f"- {name}: {equation}" for name, equation in pairs.items()]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Text in a cell of a table of Markdown."""
    return text.replace("|", "\\|")


def main(arguments: list[str] | None = None) -> None:
    """Parse the flags, then run."""
    run_script(parse, run, arguments)


def run(parser: Parser, flags: Namespace) -> None:
    """Measure, print, save."""
    if flags.demo == (flags.file is not None):
        parser.error("give a FILE of features, or --demo; see --help.")
    configure_jax()
    try:
        file = write_demo(flags.out) if flags.demo else flags.file
    except ModuleNotFoundError as error:
        parser.refuse(error)
    arrays = load(parser, file, flags.labels)
    ignored = ignored_label(parser, flags.ignore, arrays["labels"])
    options = {"ignore_index": ignored, "batch_size": flags.batch}
    names = "all" if flags.names == ["all"] else flags.names
    try:
        found = metrics.measure(**arrays, names=names, **options)
        drawn = metrics.measure(**arrays, names=DRAWN, **options)
    except ValueError as error:
        parser.refuse(error)
    print(found)
    saved = ["measures.zarr", "report.md"]
    shown = drawn.to_dataset()
    data = found.to_dataset().assign(shown.data_vars).assign_attrs(attributes_of(flags))
    storage.save(data, flags.out / "measures.zarr")
    figure = None
    if not flags.no_plot:
        from figures.measure_features import features_figure

        figure = save_figure(flags, features_figure(shown), "measures")
        saved.append(figure)
    (flags.out / "report.md").write_text(report(file, found, drawn, figure), encoding="utf-8")
    print(f"\nsaved in {flags.out}: {', '.join(saved)}")


if __name__ == "__main__":
    main()
