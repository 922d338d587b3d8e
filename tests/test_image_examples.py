"""The example scripts on CNNs, run as a user runs them."""

import functools

import cnn_collapse
import image_runs
import jax
import kernel_network
import network_spectrum
import numpy as np
import pytest
import rangamani_binary
import xarray as xr
import zhu_fixed_etf
import zhu_optimizers
import zhu_random_labels
from figure_layout import check_saved_figures, legend_texts, line_data, titles
from tolerances import rounding

import nc_jax as nc
from nc_jax import cnn, storage

pytest.importorskip("sklearn")


@pytest.fixture(autouse=True)
def figures(monkeypatch):
    """The figures that a script saves, by file name; each is checked to have a good layout."""
    return check_saved_figures(monkeypatch)


def last(path):
    """Medians over seeds at the last epoch of a training."""
    return storage.load(path / "results.zarr").isel(epoch=-1).median("seed")


def test_a_training_is_drawn_beside_the_model_and_resumes(tmp_path, capsys, monkeypatch, figures):
    # A small model is drawn as a large one is.
    one_sample = functools.partial(cnn.model_of_network, samples_per_class=1)
    short_flow = functools.partial(cnn.model_flow, save_at=nc.log_times(3, 201))
    monkeypatch.setattr(cnn, "model_of_network", one_sample)
    monkeypatch.setattr(cnn, "model_flow", short_flow)
    flags = f"--samples 12 --batch 24 --epochs 6 --width 0.125 --out {tmp_path}".split()
    cnn_collapse.main(flags)
    printed = capsys.readouterr()
    data = storage.load(tmp_path / "run" / "results.zarr")
    assert data["margins"].dims == ("seed", "epoch", "sample")
    assert data["train_loss"][0, -1] < data["train_loss"][0, 0]
    accuracy = f"{100 * float(last(tmp_path / 'run')['train_accuracy']):.2f} %"
    assert accuracy in printed.out
    figure = figures["cnn_collapse.png"]
    assert titles(figure)[4:] == ["NC1 (Zhu)", "Training loss", "Accuracy", "NC4 (Papyan)"]
    assert legend_texts(figure) == [
        "convnet, digits", "model's flow", "median, 10th to 90th percentile"
    ]  # fmt: skip
    drawn = data["epoch"].values > 0
    network, model = line_data(figure.axes[4])
    np.testing.assert_array_equal(network, [data["epoch"][drawn], data["zhu_nc1"][0, drawn]])
    assert model[0].max() <= 6
    cnn_collapse.main([*flags, "--no-plot"])
    assert capsys.readouterr().out.splitlines()[2:5] == printed.out.splitlines()[2:5]
    with pytest.raises(SystemExit):
        cnn_collapse.main([*flags, "--batch", "12"])
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "batch_size = 24 there, 12 here" in error
    assert ": --out, --anew: " in error
    assert "Give another path, or resume=False" in error


def test_spectrum_of_a_network_by_layer_and_by_class(tmp_path, capsys, figures):
    flags = "--samples 12 --batch 24 --epochs 2 --width 0.125 --num 12 --probes 2"
    network_spectrum.main([*flags.split(), "--images", "50", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    found = storage.load(tmp_path / "spectrum.zarr")
    assert (
        found.attrs["layer"] == "all layers, convolutions.0, convolutions.1, convolutions.2, head"
    )
    assert found["parameters"].values.tolist() == [1646, 36, 288, 1152, 170]
    # The block of a layer has no larger eigenvalue than the matrix (Cauchy's interlacing).
    whole, blocks = found["sharpness"][:, 0], found["sharpness"][:, 1:]
    assert np.all(blocks <= whole * (1 + rounding("float32", 1000)))
    np.testing.assert_array_equal(whole, found["largest"][:, 0])
    tolerance = rounding("float32", 1000) * float(found["largest"][1, 0])
    np.testing.assert_allclose(found["part_value"].sum("part"), found["largest"][1], atol=tolerance)
    assert found.sizes["class"] == 10
    assert f"{float(whole[0]):.4g}" in printed
    figure = figures["network_spectrum.png"]
    assert titles(figure) == [
        "Density (ticks: the largest)", "Largest of Gauss-Newton",
        "Largest of each layer's block",
    ]  # fmt: skip
    assert legend_texts(figure.axes[0]) == ["Hessian", "Gauss-Newton"]
    classes, cross = line_data(figure.axes[1])
    np.testing.assert_array_equal(classes, [np.arange(1, 11), found["class_value"]])
    np.testing.assert_array_equal(cross, [[11, 12], found["cross_value"][:2]])


def small_network(flags=""):
    """Flags of a small run of `kernel_network`, its images and its network at the start."""
    parser, parsed = kernel_network.parse(f"--samples 4 --widths 3 4 {flags}".split())
    data = kernel_network.load(parser, parsed)
    return parsed, data, kernel_network.build(parser, parsed, data)


def test_products_of_derivatives_move_features_as_a_step_of_descent(tmp_path):
    parsed, data, network = small_network(f"--no-bias --rate 1e-4 --time 1e-4 --out {tmp_path}")
    training = kernel_network.train(parsed, network, data)
    features = np.asarray(training.layers.features)
    start = jax.tree.map(lambda leaf: leaf[0], training.layers)
    problem = nc.UnconstrainedFeatures((4, 4, 4), 4)
    gradient = np.asarray(problem.gradient(start).features)
    theta = kernel_network.all_products(network, data)
    velocity = -np.einsum("iajb,jb->ia", theta, gradient)
    # The features are of order 1 in float32, and the step has second order terms.
    error = (features[1] - features[0]) / 1e-4 - velocity
    assert np.linalg.norm(error) < 0.02 * np.linalg.norm(velocity)
    # Four parts that are orthogonal make up the kernel and the fall of the loss.
    found = cnn.feature_kernel(network, data)
    for shares in kernel_network.parts_of_kernel(network, data, found):
        np.testing.assert_allclose(np.sum(shares), 1, atol=rounding("float32", 1000))


def test_a_model_predicts_until_its_first_difference():
    values = xr.DataArray(
        [[4.0, 2, 1, 1], [4, 2.2, 1.3, 1], [4, 2.2, 1.1, 1]], dims=("run", "time")
    )
    comparison = xr.Dataset({"loss": values})
    assert kernel_network.predicted_until(comparison, "loss", 0.2).tolist() == [2, 4]
    assert kernel_network.predicted_until(comparison, "loss", 0.01).tolist() == [1, 1]


def test_a_network_is_drawn_beside_its_kernel_model(tmp_path, capsys, figures):
    kernel_network.main(f"--samples 4 --widths 3 4 --time 2 --out {tmp_path}".split())
    printed = capsys.readouterr().out
    found = storage.load(tmp_path / "kernel_network.zarr")
    np.testing.assert_allclose(found["t"][[0, 1, -1]], [0, 0.01, 2])
    loss = found["loss"].values
    # The three begin together, and fall by the movement of the last layer at least.
    np.testing.assert_array_equal(loss[1:, 0], loss[0, 0])
    assert np.all(np.diff(loss, axis=1) < 0)
    for name in ("share", "fall"):
        np.testing.assert_allclose(found[name].sum("part"), 1, atol=rounding("float32", 1000))
    # The last layer moves by the same rule in all three: at first norms of W agree to first order.
    norm = found["classifier_norm"].values
    np.testing.assert_allclose(norm[1:, 1], norm[0, 1], rtol=1e-3)
    end = [f"{value:.3g}" for value in (loss[0, 0], loss[0, -1], loss[1, -1])]
    assert ["loss", *end] in [line.split()[:4] for line in printed.splitlines()]
    figure = figures["kernel_network.png"]
    assert titles(figure)[::5] == ["(a) Training loss", "(f) Parts of the kernel"]
    assert legend_texts(figure) == ["network", "model, class kernel", "model, block kernel"]
    for line, values in zip(line_data(figure.axes[0]), loss, strict=True):
        np.testing.assert_array_equal(line, [found["t"][1:], values[1:]])


@pytest.mark.slow
def test_random_labels_are_fitted_and_collapse_if_there_is_width(tmp_path, figures):
    zhu_random_labels.main(["--widths", "0.125", "1", "--out", str(tmp_path)])
    narrow, wide = (last(tmp_path / f"width_{width}") for width in ("0.125", "1"))
    assert float(wide["train_accuracy"]) == 1
    assert float(narrow["train_accuracy"]) < 0.9
    start = storage.load(tmp_path / "width_1" / "results.zarr").isel(epoch=0, seed=0)
    for name, share in {"zhu_nc1": 0.1, "zhu_nc2": 0.5, "zhu_nc3": 0.3}.items():
        assert float(wide[name]) < share * float(start[name]), name
    assert float(wide["zhu_nc1"]) < 0.2 * float(narrow["zhu_nc1"])
    figure = figures["zhu_random_labels.png"]
    assert titles(figure) == ["NC1", "NC2", "NC3", "Training accuracy"]
    assert legend_texts(figure) == ["width 0.125", "width 1"]
    ends = [line[1][-1] for line in line_data(figure.axes[0])]
    np.testing.assert_array_equal(ends, [narrow["zhu_nc1"], wide["zhu_nc1"]])


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
def test_a_fixed_frame_does_as_well_as_a_learned_classifier(tmp_path, capsys, figures):
    zhu_fixed_etf.main(["--out", str(tmp_path)])
    printed = capsys.readouterr().out
    learned, fixed, small = (
        last(tmp_path / name) for name in ("learned", "fixed_ETF", "fixed_ETF_d_K")
    )
    for run in (learned, fixed, small):
        assert float(run["train_accuracy"]) == 1
        assert float(run["zhu_nc1"]) < 0.1
    for run in (fixed, small):
        # Of a simplex frame in float32.
        np.testing.assert_allclose(run["zhu_nc2"], 0, atol=rounding("float32"))
        assert abs(float(run["test_accuracy"] - learned["test_accuracy"])) < 0.03
    assert "fixed ETF, d = K: 24490 parameters, 73.87 % fewer" in printed
    figure = figures["zhu_fixed_etf.png"]
    assert titles(figure) == ["NC1", "NC3", "Training accuracy", "Test accuracy"]
    assert legend_texts(figure) == ["learned", "fixed ETF", "fixed ETF, d = K"]
    ends = [line[1][-1] for line in line_data(figure.axes[3])]
    expected = [run["test_accuracy"] for run in (learned, fixed, small)]
    np.testing.assert_array_equal(ends, expected)


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
def test_all_optimisers_collapse(tmp_path, figures):
    zhu_optimizers.main(["--out", str(tmp_path)])
    for name in ("SGD", "Adam", "L-BFGS"):
        run = last(tmp_path / name)
        assert float(run["train_accuracy"]) == 1, name
        assert float(run["zhu_nc1"]) < 0.01, name
        assert float(run["zhu_nc2"]) < 0.1, name
        assert float(run["zhu_nc3"]) < 0.1, name
    figure = figures["zhu_optimizers.png"]
    assert titles(figure) == ["NC1", "NC2", "NC3", "NC4"]
    assert legend_texts(figure)[:4] == ["SGD", "Adam", "L-BFGS", "model's flow"]
    assert all(len(axes.lines) == 4 for axes in figure.axes)


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
def test_decay_makes_the_norm_forget_its_start(tmp_path, figures):
    rangamani_binary.main(["--norms", "0.1", "1", "--shares", "1", "--out", str(tmp_path)])

    def spread(decay):
        norms = [last(tmp_path / f"start_{norm}_decay_{decay}") for norm in ("0.1", "1")]
        return abs(np.log(float(norms[1]["norm_product"] / norms[0]["norm_product"])))

    assert spread("0.02") < 0.4 * spread("0")
    names = ("norms", "margins", "histograms", "random_labels")
    assert sorted(figures) == sorted(f"rangamani_{name}.png" for name in names)
    starts = ["start 0.1", "start 1", "decay 0.02", "decay 0"]
    assert legend_texts(figures["rangamani_norms.png"])[:4] == starts
    assert legend_texts(figures["rangamani_margins.png"])[:4] == starts
    norm = line_data(figures["rangamani_norms.png"].axes[0])[0][1][-1]
    np.testing.assert_array_equal(norm, last(tmp_path / "start_0.1_decay_0.02")["norm_product"])
    assert legend_texts(figures["rangamani_random_labels.png"])[:2] == [
        "true labels", "100 % random"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("example", "flags", "message"),
    [
        (cnn_collapse, "--epochs 0", "--epochs 0: give an integer >= 1"),
        (cnn_collapse, "--rate 0", "--rate 0: give a finite number > 0"),
        (cnn_collapse, "--d 0", "--d 0: give an integer >= 1"),
        (
            cnn_collapse,
            "--stem 3x3",
            "--stem 3x3: convnet has no stem; give --net resnet18 or resnet50",
        ),
        (cnn_collapse, "--momentum 1", "--momentum 1: give a number from 0 to below 1"),
        (cnn_collapse, "--decay -1", "--decay -1: give a finite number >= 0"),
        (cnn_collapse, "--seeds 0", "--seeds 0"),
        (cnn_collapse, "--batch 2000", "--batch 2000: give an integer up to 1438, the images"),
        (cnn_collapse, "--samples 500", "500 samples of class 0: it has"),
        (cnn_collapse, "--dataset imagenet", "invalid choice: 'imagenet'"),
        (cnn_collapse, "--dataset cifar10", "cifar10"),
        (cnn_collapse, "--dataset CIFAR-10", "folder = None: cifar10"),
        (cnn_collapse, "--samples 5 --batch 60", "--batch 60: give an integer up to 50"),
        (cnn_collapse, "--batch 0", "--batch 0: give an integer >= 1"),
        (cnn_collapse, "--dataset fashion-mnist --folder x", "x: no train-images-idx3"),
        (cnn_collapse, "--width 0", "--width 0"),
        (network_spectrum, "--num 0", "--num 0: give an integer >= 1"),
        (network_spectrum, "--probes 1", "--probes 1: give an integer >= 2"),
        (kernel_network, "--classes 3", "--classes 3: give two or more"),
        (kernel_network, "--classes 3 3", "--classes: classes = [3, 3]: give one or more, each"),
        (kernel_network, "--samples 1", "--samples 1: give an integer >= 2"),
        (kernel_network, "--samples 900", "--samples: 900 samples of class 0: it has"),
        (kernel_network, "--samples 100 --widths 64 128", "38400 features have derivatives by"),
        (kernel_network, "--widths 0", "--widths: widths[0] = 0: give an integer"),
        (kernel_network, "--rate 0", "--rate 0: give a finite number > 0"),
        (kernel_network, "--rate 100", "--time 30 --rate 100: give numbers with 1 to 1000000"),
        (kernel_network, "--rate 20 --time 4e3", "--rate 20: the descent diverges"),
        (kernel_network, "--within nan", "--within nan: give a finite number > 0"),
        (kernel_network, "--seed -1", "--seed -1: give an integer from 0"),
        (zhu_optimizers, "--adam-rate 0", "--adam-rate 0: give a number between 0 and 1"),
        (zhu_optimizers, "--lbfgs-epochs 0", "--lbfgs-epochs 0: give an integer >= 1"),
        (zhu_random_labels, "--widths 1 1", "each once"),
        (zhu_random_labels, "--share 2", "2"),
        (zhu_fixed_etf, "--d 3", "--d 3"),
        (rangamani_binary, "--net resnet18", "--net resnet18: the paper's is convnet"),
        (rangamani_binary, "--norms 1 1", "--norms 1.0 1.0: give each once"),
        (rangamani_binary, "--norms 0", "--norms [0.0]: give finite numbers > 0"),
        (zhu_random_labels, "--widths nan", "--widths [nan]: give finite numbers > 0"),
        (rangamani_binary, "--shares 2", "give numbers above 0, up to 1"),
        (rangamani_binary, "--decay 0", "--decay 0: give a number > 0"),
        (rangamani_binary, "--classes 3 3", "classes"),
    ],
)
def test_a_bad_flag_is_one_line_and_exit_2(example, flags, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        example.main(flags.split())
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


@pytest.mark.parametrize(
    ("example", "flags", "batch"),
    [
        (cnn_collapse, "", 128),
        (cnn_collapse, "--samples 5", 50),
        (cnn_collapse, "--samples 5 --batch 7", 7),
        (rangamani_binary, "", 32),
        (rangamani_binary, "--samples 3", 6),
    ],
)
def test_the_default_batch_is_no_larger_than_the_images(example, flags, batch, tmp_path):
    parser, parsed = example.parse([*flags.split(), "--out", str(tmp_path)])
    image_runs.load(parser, parsed, classes=getattr(parsed, "classes", None))
    assert parsed.batch == batch
