"""The result of `measure` as a dict, a data set, a table, JSON and a pickle."""

import json
import pickle

import numpy as np
import pytest
from tolerances import rounding

from nc_jax import metrics, storage
from nc_jax.measures import Measure

WORDS = ["cow", "ant", "ant", "bee", "cow", "ant"]
FEATURES = np.random.default_rng(0).normal(size=(6, 4))
# A measure of each kind of axes.
SIZES = Measure("sizes", "‖M_c‖ of each class", lambda s: s.norms[0], dims=("class",))
SINGULAR = Measure(
    "singular", "singular values of M", lambda s: s.xp.linalg.svdvals(s.centered), dims=("rank",)
)
NAMES = ["cdnv", "cdnv_by_pair", SIZES, SINGULAR]


@pytest.fixture
def found():
    return metrics.measure(FEATURES, WORDS, names=NAMES)


def test_values_are_floats_and_arrays_by_name(found):
    assert issubclass(metrics.Measures, dict)
    assert isinstance(found, metrics.Measures)
    assert type(found["cdnv"]) is float
    assert {name: np.shape(value) for name, value in found.items()} == {
        "cdnv": (), "cdnv_by_pair": (3, 3), "sizes": (3,), "singular": (3,)
    }  # fmt: skip
    assert found.class_names == ("ant", "bee", "cow")
    assert found.counts.tolist() == [3, 1, 2]
    assert found.dim == 4
    assert found.dims["singular"] == ("rank",)


def test_the_data_set_has_classes_as_coordinates_and_equations_as_long_names(found):
    data = found.to_dataset()
    assert data["cdnv_by_pair"].dims == ("class", "other_class")
    assert data["singular"].dims == ("rank",)
    assert float(data["cdnv"]) == found["cdnv"]
    means = {name: FEATURES[np.array(WORDS) == name].mean(axis=0) for name in found.class_names}
    pair = data["cdnv_by_pair"].sel({"class": "ant", "other_class": "cow"})
    variances = [
        np.mean(np.sum((FEATURES[np.array(WORDS) == name] - means[name]) ** 2, axis=1))
        for name in ("ant", "cow")
    ]
    expected = sum(variances) / (2 * np.sum((means["ant"] - means["cow"]) ** 2))
    np.testing.assert_allclose(float(pair), expected, rtol=rounding())
    size = np.linalg.norm(means["bee"] - np.mean(list(means.values()), axis=0))
    np.testing.assert_allclose(float(data["sizes"].sel({"class": "bee"})), size, rtol=rounding())
    assert int(data["samples"].sel({"class": "cow"})) == 2
    assert data["sizes"].attrs == {"long_name": "‖M_c‖ of each class", "units": "1"}
    for variable in data.variables.values():
        assert set(variable.attrs) >= {"long_name", "units"}
    assert data.attrs["feature_dim"] == 4
    assert "version_nc_jax" in data.attrs


def test_the_data_set_can_be_stored(found, tmp_path):
    for result in (found, metrics.measure(FEATURES, [2, 0, 0, 1, 2, 0], names=NAMES)):
        storage.save(result.to_dataset(), tmp_path / "measures.zarr")
        restored = storage.load(tmp_path / "measures.zarr")
        assert restored["class"].values.tolist() == list(result.class_names)
        np.testing.assert_array_equal(restored["cdnv_by_pair"], result["cdnv_by_pair"])


def test_a_data_set_of_scalars_names_its_classes():
    data = metrics.measure(FEATURES, WORDS, names=["cdnv"]).to_dataset()
    assert dict(data.sizes) == {"class": 3}
    assert data["class"].values.tolist() == ["ant", "bee", "cow"]


def test_the_text_is_a_table_of_values_and_equations(found):
    lines = str(found).splitlines()
    assert lines[0] == "6 samples of 4 features, 3 classes of 1 to 3 samples"
    assert lines[1].split() == ["name", "value", "equation"]
    assert len(lines) == 2 + len(NAMES)
    name, value, equation = lines[2].split(maxsplit=2)
    assert name == "cdnv"
    np.testing.assert_allclose(float(value), found["cdnv"], rtol=1e-3)
    assert equation == found.equations["cdnv"]
    name, least, to, most, _ = lines[4].split(maxsplit=4)
    assert (name, to) == ("sizes", "to")
    np.testing.assert_allclose([float(least), float(most)], np.sort(found["sizes"])[[0, -1]], 1e-3)
    # A range of one value is that value, and no value is NaN.
    constant = [Measure(name, "", lambda s, x=x: x + 0 * s.counts, dims=("class",)) for name, x in
                [("one", 1.0), ("nothing", np.nan)]]  # fmt: skip
    lines = str(metrics.measure(FEATURES, WORDS, names=constant)).splitlines()
    assert [line.split() for line in lines[2:]] == [["one", "1"], ["nothing", "NaN"]]
    assert repr(found) == str(found)
    equal = metrics.measure(FEATURES[:2], [0, 1], names=["cdnv"])
    assert str(equal).startswith("2 samples of 4 features, 2 classes of 1 sample\n")


def test_the_values_go_through_json_and_pickle(found):
    read = json.loads(json.dumps(found, default=np.ndarray.tolist))
    for name, value in read.items():
        np.testing.assert_array_equal(np.array(value), found[name])
    restored = pickle.loads(pickle.dumps(found))
    assert restored["cdnv"] == found["cdnv"]
    assert restored.class_names == found.class_names
    assert str(restored) == str(found)
