"""The example that measures the features of a file, and its figure."""

import sys
from types import ModuleType

import measure_features
import numpy as np
import pytest
import xarray as xr
import zarr
from figure_layout import check_layout, check_saved_figures, line_data, titles
from figures.measure_features import features_figure
from matplotlib.colors import LogNorm
from matplotlib.patches import Rectangle
from stored_arrays import Stored
from tolerances import rounding

from nc_jax import metrics, storage


@pytest.fixture(autouse=True)
def figures(monkeypatch):
    """The figures that the script saves, by file name; each is checked to have a good layout."""
    return check_saved_figures(monkeypatch)


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {
        "features": rng.normal(size=(30, 4)),
        "labels": np.arange(30) % 3,
        "classifier": rng.normal(size=(3, 4)),
        "bias": rng.normal(size=3),
        "class_names": np.array(["ant", "bee", "cow"]),
    }


def in_zarr(arrays, folder, monkeypatch):
    group = zarr.open_group(folder / "f.zarr", mode="w")
    for name in ("features", "labels", "classifier", "bias"):
        stored = group.create_array(name, shape=arrays[name].shape, dtype=arrays[name].dtype)
        stored[:] = arrays[name]
    return "f.zarr"


def in_torch(arrays, folder, monkeypatch):
    torch = pytest.importorskip("torch")
    numbers = {k: torch.tensor(v) for k, v in arrays.items() if k != "class_names"}
    torch.save(numbers, folder / "f.pt")
    return "f.pt"


def in_hdf5(arrays, folder, monkeypatch):
    # h5py is no dependency of the tests.
    module = ModuleType("h5py")
    stored = {name: Stored(value) for name, value in arrays.items()}
    monkeypatch.setattr(module, "File", lambda path: stored, raising=False)
    monkeypatch.setitem(sys.modules, "h5py", module)
    (folder / "f.h5").touch()
    return "f.h5"


def in_npz(arrays, folder, monkeypatch):
    np.savez(folder / "f.npz", **arrays)
    return "f.npz"


def in_torch_as_numpy(arrays, folder, monkeypatch):
    torch = pytest.importorskip("torch")
    torch.save({**arrays, "epoch": 3}, folder / "n.pt")
    return "n.pt"


@pytest.mark.parametrize("write", [in_npz, in_zarr, in_torch, in_torch_as_numpy, in_hdf5])
def test_a_file_of_any_format_is_measured(arrays, tmp_path, monkeypatch, write):
    file = write(arrays, tmp_path, monkeypatch)
    measure_features.main([str(tmp_path / file), "--no-plot", "--out", str(tmp_path / "out")])
    data = storage.load(tmp_path / "out" / "measures.zarr")
    named = [arrays[name] for name in ("features", "labels", "classifier", "bias")]
    for name, value in metrics.measure(*named).items():
        np.testing.assert_allclose(data[name], value, rtol=rounding())
    names = ["ant", "bee", "cow"] if write not in (in_zarr, in_torch) else [0, 1, 2]
    assert data["class"].values.tolist() == names
    assert not list((tmp_path / "out").glob("*.png"))


def test_arrays_that_are_not_used_are_named_in_one_line(arrays, tmp_path, capsys):
    others = {"weight": arrays["classifier"], "epoch": np.array(3)}
    named = {name: arrays[name] for name in ("features", "labels")}
    for more, line in ((others, "not used: weight (name it classifier), epoch"), ({}, None)):
        np.savez(tmp_path / "f.npz", **named, **more)
        flags = ["--names", "cdnv", "--no-plot", "--out", str(tmp_path)]
        measure_features.main([str(tmp_path / "f.npz"), *flags])
        lines = capsys.readouterr().out.splitlines()
        found = [shown for shown in lines if shown.startswith("not used")]
        assert found == ([line] if line else [])


def test_features_and_labels_in_two_files(arrays, tmp_path, capsys):
    for name in ("features", "labels"):
        np.save(tmp_path / f"{name}.npy", arrays[name])
    files = [str(tmp_path / "features.npy"), "--labels", str(tmp_path / "labels.npy")]
    flags = ["--names", "cdnv", "zhu_nc1", "--ignore", "2", "--batch", "7", "--quiet"]
    measure_features.main([*files, *flags, "--format", "svg", "--out", str(tmp_path)])
    printed = capsys.readouterr()
    assert printed.out == printed.err == ""
    data = storage.load(tmp_path / "measures.zarr")
    kept = arrays["labels"] < 2
    expected = metrics.measure(
        arrays["features"][kept], arrays["labels"][kept], names=["cdnv", "zhu_nc1"]
    )
    shown = {getattr(measure, "name", measure) for measure in measure_features.DRAWN}
    assert set(data.data_vars) == {"cdnv", "zhu_nc1"} | shown
    for name, value in expected.items():
        np.testing.assert_allclose(float(data[name]), value, rtol=rounding())
    assert (tmp_path / "measures.svg").exists()


def test_the_demo_writes_its_file_a_report_and_a_figure(tmp_path, capsys, figures):
    measure_features.main(["--demo", "--out", str(tmp_path)])
    printed = capsys.readouterr()
    assert printed.err == ""
    with np.load(tmp_path / "features.npz") as given:
        arrays = dict(given)
    found = metrics.measure(**arrays)
    assert printed.out.startswith(f"{found}\n")
    report = (tmp_path / "report.md").read_text(encoding="utf-8").splitlines()
    assert f"| cdnv | {found['cdnv']:.6g} | {found.equations['cdnv']} |" in report
    assert "![Class means, variances and pairs](measures.png)" in report
    # A row for each class: its name, samples and variance relative to the means.
    features, labels = arrays["features"].astype(float), arrays["labels"]
    means = np.stack([features[labels == c].mean(axis=0) for c in range(10)])
    size = np.sum((means[3] - means.mean(axis=0)) ** 2)
    variance = np.mean(np.sum((features[labels == 3] - means[3]) ** 2, axis=1)) / size
    [row] = [line for line in report if line.startswith(f"| 3 | {np.sum(labels == 3)} |")]
    assert row.endswith(f"| {variance:.6g} |")
    [header] = [line for line in report if line.startswith("| class | samples |")]
    assert header.endswith("| relative_variance_by_class |")
    assert header.count("|") == row.count("|")
    # Values of pairs are in the file that the report names.
    pair = np.sum((means[3] - means[5]) ** 2)
    both = [np.mean(np.sum((features[labels == c] - means[c]) ** 2, axis=1)) for c in (3, 5)]
    stored = storage.load(tmp_path / "measures.zarr")["cdnv_by_pair"]
    np.testing.assert_allclose(stored[3, 5], sum(both) / (2 * pair), rtol=rounding())
    assert any(line.startswith("- cdnv_by_pair: ") for line in report)
    assert any("measures.zarr" in line for line in report)
    bars = heights_of(figures["measures.png"].axes[1])
    np.testing.assert_allclose(bars[3], variance, rtol=rounding())
    # The classifier is that of least squares: its residuals are orthogonal to the features.
    residuals = features @ arrays["classifier"].T + arrays["bias"] - np.eye(10)[labels]
    scale = np.linalg.norm(features) * np.linalg.norm(residuals)
    assert np.max(np.abs(features.T @ residuals)) < 1e-6 * scale


def heights_of(axes):
    return [bar.get_height() for bar in axes.patches if isinstance(bar, Rectangle)]


def drawn(num_classes, cdnv, names=None):
    rng = np.random.default_rng(0)
    pairs, classes = ("class", "other_class"), np.arange(num_classes) if names is None else names
    return xr.Dataset(
        {
            "feature_cosine_by_pair": (pairs, rng.uniform(-1, 1, (num_classes, num_classes))),
            "cdnv_by_pair": (pairs, cdnv),
            "relative_variance_by_class": ("class", rng.uniform(1, 2, num_classes)),
            "singular_values": ("k", np.sort(rng.uniform(0, 1, num_classes - 1))[::-1]),
        },
        {"class": classes, "other_class": classes},
    )


@pytest.mark.parametrize("num_classes", [2, 5, 130])
def test_the_figure_shows_pairs_and_classes(num_classes):
    cdnv = np.random.default_rng(1).uniform(1, 2, (num_classes, num_classes))
    data = drawn(num_classes, cdnv)
    figure = features_figure(data)
    check_layout(figure)
    means, variances, pairs, rank = figure.axes[:4]
    off_diagonal = ~np.eye(num_classes, dtype=bool)
    for axes, name in ((means, "feature_cosine_by_pair"), (pairs, "cdnv_by_pair")):
        [image] = axes.images
        shown = np.asarray(image.get_array())
        np.testing.assert_array_equal(shown[off_diagonal], data[name].values[off_diagonal])
        assert np.isnan(np.diag(shown)).all()
    assert pairs.images[0].norm.vmin == 0
    heights = heights_of(variances)
    np.testing.assert_array_equal(heights, data["relative_variance_by_class"])
    np.testing.assert_array_equal(line_data(rank)[0][1], data["singular_values"])
    assert titles(figure)[0] == f"Cosines of class means (at collapse −{1 / (num_classes - 1):.3g})"


def test_values_of_many_decades_have_a_log_scale_and_long_names_are_cut():
    names = [f"{word} of a long name" for word in ("the first", "the second", "the third")]
    cdnv = np.array([[0, 1e-9, 1], [1e-9, 0, 1e-4], [1, 1e-4, 0]])
    figure = features_figure(drawn(3, cdnv, names))
    check_layout(figure)
    assert isinstance(figure.axes[2].images[0].norm, LogNorm)
    ticks = [tick.get_text() for tick in figure.axes[2].get_xticklabels()]
    assert ticks == ["the first of a …", "the second of a…", "the third of a …"]
    # Collapsed features have pairs of exactly 0, which no log scale has.
    check_layout(features_figure(drawn(3, np.zeros((3, 3)))))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("", "give a FILE of features, or --demo; see --help"),
        ("f.npz --demo", "give a FILE of features, or --demo; see --help"),
        ("none.npz", "none.npz: there is no such file"),
        ("f.txt", "f.txt: give a file that ends in .npz, .npy,"),
        ("f.npy", "f.npy: give --labels labels.npy with a .npy file"),
        ("f.npz --labels f.npy", "f.npz: give --labels labels.npy with a .npy file"),
        ("h.npz", "h.npz: has no labels, but features, targets; see --help"),
        ("f.zarr", "f.zarr: "),
        ("damaged.npz", "damaged.npz: "),
        (
            "f.npz --names zhu_nc",
            "names: 'zhu_nc' is none of metrics.MEASURES. Close to it: zhu_nc",
        ),
        ("f.npz --batch 0", "--batch: batch_size = 0: give an integer >= 1"),
        ("f.npz --ignore 0", "labels: no samples of 'ant' among class_names"),
        ("f.npz --ignore a", "--ignore a: the labels are integers; give an integer, such as -1"),
        ("f.npz --names cdnv all", '--names cdnv all: give names of measures, or "all" alone'),
        ("objects.npz", "objects.npz: labels is an array of Python objects: save labels.astype("),
        ("cut.npz", "cut.npz: is no file of numpy.savez, or is damaged"),
        ("f.npy --labels no.npy", ": no.npy: there is no such file"),
        ("f.npy --labels objects.npy", ": objects.npy: labels is an array of Python objects"),
    ],
)
def test_a_bad_flag_is_one_line_and_exit_2(flags, message, arrays, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    in_npz(arrays, tmp_path, monkeypatch)
    np.savez("h.npz", features=arrays["features"], targets=arrays["labels"])
    np.save("f.npy", arrays["features"])
    for name in ("f.txt", "damaged.npz"):
        (tmp_path / name).write_text("no arrays")
    objects = arrays["class_names"].astype(object)[arrays["labels"]]
    np.savez("objects.npz", features=arrays["features"], labels=objects)
    np.save("objects.npy", objects)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "f.npz").read_bytes()[:300])
    (tmp_path / "f.zarr").mkdir()
    with pytest.raises(SystemExit) as ended:
        measure_features.main(flags.split())
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


def test_a_label_of_text_is_ignored(arrays, tmp_path):
    names = arrays["class_names"][arrays["labels"]]
    np.savez(tmp_path / "text.npz", features=arrays["features"], labels=names)
    flags = ["--ignore", "bee", "--no-plot", "--out", str(tmp_path)]
    measure_features.main([str(tmp_path / "text.npz"), *flags])
    remaining = names != "bee"
    expected = metrics.measure(arrays["features"][remaining], names[remaining])
    found = storage.load(tmp_path / "measures.zarr")
    np.testing.assert_allclose(float(found["cdnv"]), expected["cdnv"], rtol=rounding())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("tensor", "holds a Tensor and no dict: give torch.save({"),
        ("tuple", "holds a tuple and no dict: give torch.save({"),
        ("module", "objects other than tensors, arrays, numbers and text: give torch.save({"),
        ("bytes", "is damaged, or holds objects other than"),
        ("many", "but w0, w1, w2, w3, w4, w5, w6, w7, and 4 others; see --help"),
    ],
)
def test_a_file_of_pytorch_without_a_dict_of_arrays_is_refused(content, message, tmp_path, capsys):
    torch = pytest.importorskip("torch")
    tensor, file = torch.ones(3, 2), tmp_path / "f.pt"
    contents = {
        "tensor": tensor, "tuple": (tensor, tensor), "module": torch.nn.Linear(2, 3),
        "many": {f"w{i}": tensor for i in range(12)},
    }  # fmt: skip
    if content == "bytes":
        file.write_bytes(b"garbage\n\x00")
    else:
        torch.save(contents[content], file)
    with pytest.raises(SystemExit) as ended:
        measure_features.main([str(file), "--out", str(tmp_path)])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


@pytest.mark.parametrize(("file", "module"), [("f.pt", "torch"), ("f.h5", "h5py")])
def test_a_missing_package_is_one_line_with_the_command(
    file, module, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / file).touch()
    with pytest.raises(SystemExit) as ended:
        measure_features.main([str(tmp_path / file), "--out", str(tmp_path)])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.endswith(f" is not installed: pip install {module}\n")
    assert error.count("\n") == 1
