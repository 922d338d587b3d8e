"""Curvature of a trained CNN: density and outliers of the Hessian, sharpness of each layer.

Trains a network as cnn_collapse.py does (the same flags; with the same OUT a finished training is
read, not repeated). Then computes for the mean loss of the training images, without weight decay
and under running statistics, and for its Hessian and its Gauss-Newton matrix: the density of the
eigenvalues, the largest of them, and the largest of the block of each layer. The largest ones of
the Gauss-Newton matrix are divided into the parts of Papyan (2020): gradients of the means of K
classes, of pairs of classes, within them, and towards the label. In the first epochs the largest
eigenvalues are mostly due to pairs of classes; at the end of training the K largest are due to the
means of the K classes, and the next ones to single samples, not to pairs. Prints two tables, and
saves the numbers and a figure. With the defaults everything takes about two minutes on two cores.
"""

import time
from argparse import Namespace
from typing import TYPE_CHECKING

import jax
import numpy as np
from image_runs import add_flags, checked_flags, load, network, sgd, train
from script import Parser, attributes_of, run_script, save_figure, table

import nc_jax as nc
from nc_jax import cnn

if TYPE_CHECKING:
    import xarray as xr

    from nc_jax.images import ImageSet

FIGURE = "network_spectrum"
KINDS = {"Hessian": "hessian", "Gauss-Newton": "gauss_newton"}
PARTS = ("class", "cross-class", "within", "label")
WHOLE = "all layers"


def parse(arguments: list[str] | None = None) -> tuple[Parser, Namespace]:
    """The flags."""
    parser = Parser(description=__doc__)
    add_flags(parser, f"results/{FIGURE}")
    add = parser.add_argument
    add("--num", type=int, default=30, help="number of the largest eigenvalues (%(default)s)")
    add("--probes", type=int, default=6, argument="num_probes",
        help="random vectors of each density (%(default)s)")  # fmt: skip
    add("--images", type=int, default=500, argument="batch_size",
        help="images in memory at a time, for products of the matrices (%(default)s)")  # fmt: skip
    flags = checked_flags(parser, arguments)
    for name, least in (("num", 1), ("probes", 2), ("images", 1)):
        if getattr(flags, name) < least:
            parser.error(f"--{name} {getattr(flags, name)}: give an integer >= {least}.")
    return parser, flags


def main(arguments: list[str] | None = None) -> None:
    """Parse the flags, then run."""
    run_script(parse, run, arguments)


def run(parser: Parser, flags: Namespace) -> None:
    """Train, compute, print, save."""
    data = load(parser, flags)
    make = network(flags, data[0])
    # Few measures are recorded, since the training itself is that of cnn_collapse.py.
    trained = train(
        parser, flags, "run", make, data, sgd(flags, data[0]),
        observe=("train_loss", "train_accuracy", "zhu_nc1"),
    )  # fmt: skip
    begin = time.perf_counter()
    try:
        found = spectrum(flags, trained.network(), data[0])
    except ValueError as error:
        parser.refuse(error)
    last = trained.data.isel(epoch=-1, seed=0)
    print(
        f"training loss {float(last['train_loss']):.3g}, NC1 {float(last['zhu_nc1']):.3g}; "
        f"spectra in {time.perf_counter() - begin:.0f} s"
    )
    print("\nLargest eigenvalue of the whole matrix and of the block of each layer")
    print(show_layers(flags, found))
    print("\nLargest eigenvalues, and the parts of those of the Gauss-Newton matrix")
    print(show_outliers(found))
    save(flags, found)
    if not flags.no_plot:
        from figures.network_spectrum import spectrum_figure

        print(f"figure: {flags.out / save_figure(flags, spectrum_figure(found), FIGURE)}")
    print(f"results: {flags.out / 'spectrum.zarr'}")


def spectrum(flags: Namespace, trained: cnn.Network, data: "ImageSet") -> "xr.Dataset":
    """Densities, largest eigenvalues with their parts, and sharpness of layers."""
    import xarray as xr

    layers, blocks = cnn.layer_names(trained), []
    curvatures, pairs, densities, sharpness = {}, {}, {}, {}
    for name, kind in KINDS.items():
        print(f"{name}: density, outliers and sharpness of {len(layers)} layers", flush=True)
        options = {"kind": kind, "batch_size": flags.images}
        curvature, parameters = curvatures[name] = cnn.curvature_for(trained, data, **options)
        size = sum(array.size for array in parameters.values())
        densities[name] = nc.landscape.spectral_density(
            curvature, parameters, jax.random.key(flags.seed), num_probes=flags.probes
        )
        pairs[name] = nc.landscape.extreme_eigenpairs(
            curvature, parameters, num=min(flags.num, size), end="largest"
        )
        blocks = [cnn.curvature_for(trained, data, layer=layer, **options) for layer in layers]
        of_layers = [float(nc.landscape.sharpness(*block)) for block in blocks]
        sharpness[name] = [float(pairs[name].values[0]), *of_layers]
    sizes = [sum(array.size for array in parameters.values()) for _, parameters in blocks]
    curvature, parameters = curvatures["Gauss-Newton"]
    shares = cnn.class_shares(curvature, parameters, pairs["Gauss-Newton"].vectors)
    alone = cnn.class_eigenvalues(curvature, parameters)
    parts = [shares.classes, shares.cross_classes, shares.within, shares.labels]

    def of_kinds(results: dict, attribute: str) -> np.ndarray:
        return np.stack([np.asarray(getattr(result, attribute)) for result in results.values()])

    return xr.Dataset(
        {
            **{key: (("kind", "point"), of_kinds(densities, key)) for key in ("grid", "density")},
            "density_error": (("kind", "point"), of_kinds(densities, "standard_error")),
            **{key: ("kind", of_kinds(densities, key)) for key in ("trace", "trace_error")},
            "largest": (("kind", "number"), of_kinds(pairs, "values")),
            "residual": (("kind", "number"), of_kinds(pairs, "residuals")),
            "sharpness": (("kind", "layer"), list(sharpness.values())),
            "parameters": ("layer", [sum(sizes), *sizes]),
            "part_value": (("part", "number"), np.stack([np.asarray(part) for part in parts])),
            "class_value": ("class", np.asarray(alone.classes)),
            "cross_value": ("pair", np.asarray(alone.cross_classes)),
        },
        {"kind": list(KINDS), "layer": [WHOLE, *layers], "part": list(PARTS)},
    )


def save(flags: Namespace, found: "xr.Dataset") -> None:
    """Store the results, with the names of kinds, layers and parts as attributes."""
    names = {dim: ", ".join(map(str, found[dim].values)) for dim in ("kind", "layer", "part")}
    # Zarr has no settled format for arrays of text.
    stored = found.drop_vars(list(names)).assign_attrs({**attributes_of(flags), **names})
    nc.storage.save(stored, flags.out / "spectrum.zarr")


def show_layers(flags: Namespace, found: "xr.Dataset") -> str:
    """Table of the largest eigenvalue of each layer."""
    rows = []
    for layer in found["layer"].values:
        hessian, gauss_newton = found["sharpness"].sel(layer=layer).values
        rate = 2 / (hessian + flags.decay)
        size = int(found["parameters"].sel(layer=layer))
        rows.append([layer, str(size), f"{hessian:.4g}", f"{gauss_newton:.4g}", f"{rate:.3g}"])
    traces = ", ".join(
        f"{kind} {float(value):.4g} +- {float(error):.2g}"
        for kind, value, error in zip(
            found["kind"].values, found["trace"], found["trace_error"], strict=True
        )
    )
    columns = {
        "layer": "", "parameters": "", "Hessian": "largest eigenvalue of the block of the layer",
        "Gauss-Newton": "the same of this matrix", "rate": "2/(largest eigenvalue of the Hessian "
        "+ weight decay), above which gradient descent along its eigenvector is unstable",
    }  # fmt: skip
    return f"{table(columns, rows)}\ntrace: {traces} (one standard error)"


def show_outliers(found: "xr.Dataset") -> str:
    """Table of the largest eigenvalues of the Gauss-Newton matrix and their parts."""
    values = found["largest"].sel(kind="Gauss-Newton").values
    residuals = found["residual"].sel(kind="Gauss-Newton").values
    hessian = found["largest"].sel(kind="Hessian").values
    num_classes = found.sizes["class"]
    # The outliers of the class means, and as many after them.
    rows = [
        [str(i + 1), f"{hessian[i]:.4g}", f"{values[i]:.4g}", f"{residuals[i]:.1e}",
         *(f"{100 * float(part[i]) / values[i]:.1f} %" for part in found["part_value"].values)]
        for i in range(min(2 * num_classes, len(values)))
    ]  # fmt: skip
    columns = {
        "number": "", "Hessian": "its eigenvalue of this number", "Gauss-Newton": "the same",
        "residual": "of the eigenpair of Gauss-Newton",
        "class": "share of the means of the classes", "cross-class": "of the means of pairs of "
        "classes, relative to these", "within": "of the samples, relative to all means",
        "label": "of the gradients towards the label itself",
    }  # fmt: skip
    return table(columns, rows)


if __name__ == "__main__":
    main()
