"""Every format of features and labels gives the values of NumPy's float64 arrays."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from compilation_counts import counted
from hypothesis import given, strategies as st
from stored_arrays import Exported, Stored
from tolerances import rounding

from nc_jax import metrics
from nc_jax.metrics import arrays, measuring

DIM = 6
COUNT = 137  # Above the smallest batch, so that there are two batches with `batch_size`.


@pytest.fixture(scope="module")
def data():
    """Features that float16 holds exactly, integer labels, a classifier and a bias."""
    rng = np.random.default_rng(0)
    labels = np.concatenate([np.arange(4), rng.integers(0, 4, COUNT - 4)])
    features = rng.integers(-20, 20, (4, DIM))[labels] + rng.integers(-2, 3, (COUNT, DIM))
    return features / 8, labels, rng.normal(size=(4, DIM)), rng.normal(size=4)


# All measures of the features in other batches, among them the solutions of linear systems.
BATCHED = rounding(operations=1000)


def assert_same(found, expected, tolerance=rounding()):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=tolerance, err_msg=name)


def on_disk(array, folder):
    """The array as a memory map."""
    np.save(folder / "array.npy", array)
    return np.load(folder / "array.npy", mmap_mode="r")


def in_zarr(array, folder):
    stored = zarr.create_array(folder / "array.zarr", shape=array.shape, dtype=array.dtype)
    stored[:] = array
    return stored


ARRAYS = {
    "lists": lambda x, folder: x.tolist(),
    "Fortran order": lambda x, folder: np.asfortranarray(x),
    "every second row and column": lambda x, folder: np.repeat(np.repeat(x, 2, 0), 2, 1)[::2, ::2],
    "other byte order": lambda x, folder: x.astype(x.dtype.newbyteorder()),
    "float128": lambda x, folder: x.astype(np.longdouble),
    "float16": lambda x, folder: x.astype(np.float16),
    "bfloat16": lambda x, folder: x.astype(ml_dtypes.bfloat16),
    "JAX": lambda x, folder: jnp.asarray(x),
    "JAX, bfloat16": lambda x, folder: jnp.asarray(x, jnp.bfloat16),
    "DLPack": lambda x, folder: Exported(x),
    "memory map": on_disk,
    "Zarr": in_zarr,
    "h5py": lambda x, folder: Stored(x),
    "pandas": lambda x, folder: pd.DataFrame(x),
    "xarray": lambda x, folder: xr.DataArray(x, dims=("sample", "feature")),
}
TENSORS = {
    "torch": lambda torch, x: torch.tensor(x),
    "torch, float16": lambda torch, x: torch.tensor(x).half(),
    "torch, bfloat16": lambda torch, x: torch.tensor(x).bfloat16(),
    "torch, bfloat16 of another order": lambda torch, x: torch.tensor(x.T.copy()).bfloat16().T,
    "torch with gradient": lambda torch, x: torch.tensor(x, requires_grad=True),
    "torch parameter": lambda torch, x: torch.nn.Parameter(torch.tensor(x)),
    "torch of another order": lambda torch, x: torch.tensor(x.T.copy()).T,
}


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("batch_size", [None, 50])
def test_features_of_any_format(data, tmp_path, name, batch_size):
    features, labels, classifier, bias = data
    expected = metrics.measure(features, labels, classifier, bias, names="all")
    given = ARRAYS[name](features, tmp_path)
    found = metrics.measure(given, labels, classifier, bias, names="all", batch_size=batch_size)
    assert_same(found, expected, BATCHED)


@pytest.mark.parametrize("name", TENSORS)
def test_features_of_torch(data, name):
    torch = pytest.importorskip("torch")
    features, labels, classifier, bias = data
    layer = torch.nn.Linear(DIM, 4).double()
    layer.weight.data, layer.bias.data = torch.tensor(classifier), torch.tensor(bias)
    given = TENSORS[name](torch, features)
    found = metrics.measure(given, torch.tensor(labels), layer.weight, layer.bias, names="all")
    assert_same(found, metrics.measure(features, labels, classifier, bias, names="all"))


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64", "bool"])
def test_integers_count_as_the_floats_that_they_are(dtype):
    features = np.random.default_rng(1).integers(0, 200, (40, 5)).astype(dtype)
    labels = np.arange(40) % 4
    expected = metrics.measure(features.astype(float), labels)
    assert_same(metrics.measure(features, labels), expected)


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [
        (np.float16, 300),
        (ml_dtypes.bfloat16, 300),
        (ml_dtypes.float8_e4m3fn, 30),
        (np.float32, 300),
    ],
)
def test_narrow_floats_count_as_the_numbers_that_they_are(dtype, scale):
    # Squares of float16 overflow from 256 on, and a sum in bfloat16 stops at 256 ones.
    labels, rng = np.arange(1000) % 4, np.random.default_rng(1)
    wide = scale * rng.normal(size=(4, DIM))[labels] + rng.normal(size=(1000, DIM))
    narrow = wide.astype(dtype)
    assert_same(metrics.measure(narrow, labels), metrics.measure(narrow.astype(float), labels))


def one_hot(labels):
    return np.eye(4)[labels]


WORDS = np.array(["ant", "bee", "cow", "dog"])
LABELS = {
    "int8": lambda y: y.astype(np.int8),
    "uint64": lambda y: y.astype(np.uint64),
    "lists": lambda y: y.tolist(),
    "columns": lambda y: y[:, None],
    "floats": lambda y: y.astype(np.float32),
    "bfloat16": lambda y: jnp.asarray(y, jnp.bfloat16),
    "objects": lambda y: y.astype(object),
    "JAX": lambda y: jnp.asarray(y),
    "one-hot": one_hot,
    "one-hot, bool": lambda y: one_hot(y).astype(bool),
    "one-hot, JAX": lambda y: jnp.asarray(one_hot(y), jnp.float32),
    "h5py": lambda y: Stored(y),
    "h5py, one-hot": lambda y: Stored(one_hot(y)),
    "pandas": lambda y: pd.Series(y),
    "pandas with missing values allowed": lambda y: pd.Series(y, dtype="Int64"),
    "pandas table": lambda y: pd.DataFrame({"label": y}),
    "xarray": lambda y: xr.DataArray(y, dims="sample"),
    "strings": lambda y: WORDS[y],
    "strings in a list": lambda y: WORDS[y].tolist(),
    "strings of one width each": lambda y: WORDS[y].astype(np.dtypes.StringDType()),
    "bytes": lambda y: WORDS[y].astype(bytes),
    "objects of strings": lambda y: WORDS[y].astype(object),
    "pandas strings": lambda y: pd.Series(WORDS[y]),
    "pandas index": lambda y: pd.Index(WORDS[y]),
    "categories": lambda y: pd.Categorical(WORDS[y]),
    "series of categories": lambda y: pd.Series(WORDS[y]).astype("category"),
    "categories of numbers": lambda y: pd.Series(y, dtype="category"),
}


@pytest.mark.parametrize("name", LABELS)
def test_labels_of_any_format(data, name):
    features, labels, classifier, bias = data
    expected = metrics.measure(features, labels, classifier, bias)
    given = LABELS[name](labels)
    for batch_size in (None, 50):
        found = metrics.measure(features, given, classifier, bias, batch_size=batch_size)
        assert_same(found, expected)
        assert found.class_names in (tuple(WORDS), (0, 1, 2, 3))
        assert found.counts.tolist() == np.bincount(labels).tolist()


def test_classes_are_sorted_or_have_the_order_of_their_categories(data):
    features, labels, classifier, _ = data
    order = ["dog", "ant", "cow", "bee"]
    expected = metrics.measure(features, labels, classifier)
    # Sorted names belong to the rows in this order, whatever occurs first.
    for shift in (1, 2):
        moved = np.roll(features, shift, axis=0), WORDS[np.roll(labels, shift)]
        assert_same(metrics.measure(*moved, classifier), expected)
    rows = classifier[[list(WORDS).index(word) for word in order]]
    names = WORDS[labels]
    categories = pd.Categorical(names, categories=order)
    for found in (
        metrics.measure(features, categories, rows),
        metrics.measure(features, names, rows, class_names=order),
        metrics.measure(lambda: iter([(features, names)]), None, rows, class_names=order),
        metrics.measure(lambda: iter([(features, categories)]), None, rows),
    ):
        assert found.class_names == tuple(order)
        for name in ("zhu_nc3", "ji_self_duality", "papyan_ncc_mismatch"):
            np.testing.assert_allclose(found[name], expected[name], rtol=rounding())


def test_class_names_name_integers(data):
    features, labels, classifier, _ = data
    found = metrics.measure(features, labels, classifier, class_names=WORDS.tolist())
    assert_same(found, metrics.measure(features, labels, classifier))
    assert found.class_names == tuple(WORDS)


def test_without_a_classifier_classes_are_the_integers_that_occur(data):
    features, labels, *_ = data
    found = metrics.measure(features, 10 * labels + 3)
    assert_same(found, metrics.measure(features, labels))
    assert found.class_names == (3, 13, 23, 33)


@given(st.data())
def test_ignored_samples_count_as_left_out(data, draws):
    features, labels, classifier, bias = data
    kept = np.array(draws.draw(st.lists(st.booleans(), min_size=COUNT, max_size=COUNT)))
    kept[:4] = True
    given_features = np.where(kept[:, None], features, np.inf)
    expected = metrics.measure(features[kept], labels[kept], classifier, bias)
    for ignored in (-1, -100, 255):
        given_labels = np.where(kept, labels, ignored)
        found = metrics.measure(
            given_features, given_labels, classifier, bias, ignore_index=ignored, batch_size=50
        )
        assert_same(found, expected)


@given(st.lists(st.integers(0, 60), min_size=1, max_size=8), st.sampled_from([None, 1, 7, 64, 500]))
def test_batches_of_any_sizes_give_what_arrays_give(data, sizes, batch_size):
    features, labels, classifier, bias = data
    ends = np.minimum(np.cumsum([*sizes, COUNT]), COUNT)
    starts = [0, *ends[:-1]]
    batches = [(features[a:b], labels[a:b]) for a, b in zip(starts, ends, strict=True)]
    expected = metrics.measure(features, labels, classifier, bias, names="all")
    for given_batches in (batches, lambda: iter(batches)):
        found = metrics.measure(
            given_batches, None, classifier, bias, names="all", batch_size=batch_size
        )
        assert_same(found, expected, BATCHED)


def test_a_loader_may_use_its_arrays_again(data):
    features, labels, classifier, bias = data

    def batches():
        buffer, classes = np.empty((10, DIM)), np.empty(10, int)
        for start in range(0, COUNT, 10):
            size = min(10, COUNT - start)
            buffer[:size], classes[:size] = features[start:][:size], labels[start:][:size]
            yield buffer[:size], classes[:size]
            buffer[:] = np.inf

    expected = metrics.measure(features, labels, classifier, bias)
    for batch_size in (None, 10, 33):
        assert_same(
            metrics.measure(batches, None, classifier, bias, batch_size=batch_size), expected
        )


def test_a_loader_of_images_is_mapped_to_features(data):
    torch = pytest.importorskip("torch")
    features, labels, classifier, bias = data
    images = torch.tensor(features).reshape(COUNT, 1, 2, 3)
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(images, torch.tensor(labels)), batch_size=32
    )
    found = metrics.measure(
        loader, None, classifier, bias, to_features=lambda x: x.flatten(1).requires_grad_()
    )
    assert_same(found, metrics.measure(features, labels, classifier, bias))


def test_an_array_on_disk_is_read_batch_by_batch(data):
    features, labels, *_ = data
    stored = Stored(features)
    metrics.measure(stored, labels, names=["zhu_nc1"], batch_size=20)
    # Two passes of seven batches; the last batch repeats rows to have the size of the others.
    assert stored.read == 14 * [20]


def test_more_classes_than_a_batch_has(data):
    features = np.random.default_rng(2).normal(size=(300, 3))
    labels = np.arange(300) % 100
    batches = [(features[i : i + 20], labels[i : i + 20]) for i in range(0, 300, 20)]
    expected = metrics.measure(features, labels)
    assert_same(metrics.measure(batches, batch_size=20), expected)
    names = [(x, np.char.add("class ", y.astype(str))) for x, y in batches]
    found = metrics.measure(names, names=["cdnv"], batch_size=20)
    np.testing.assert_allclose(found["cdnv"], expected["cdnv"], rtol=rounding())
    assert found.class_names == tuple(sorted(f"class {i}" for i in range(100)))


def test_other_data_of_a_similar_size_compile_nothing():
    rng = np.random.default_rng(3)

    def data(count):
        return rng.normal(size=(count, 5)), np.arange(count) % 3

    classifier = rng.normal(size=(3, 5))
    metrics.measure(*data(1000), classifier)
    metrics.measure(*data(200), classifier, batch_size=64)
    with counted() as counts:
        for count in (513, 700, 1024):
            metrics.measure(*data(count), classifier)
        # Last batches of other sizes.
        for count in (65, 100, 310):
            metrics.measure(*data(count), classifier, batch_size=64)
        features, labels = data(600)
        for size in (7, 50, 599):
            batches = [(features[i : i + size], labels[i : i + size]) for i in range(0, 600, size)]
            metrics.measure(batches, None, classifier)
    assert counts.compiled == 0


def test_an_array_of_jax_on_an_accelerator_is_sliced_there(data, monkeypatch):
    features, labels, classifier, bias = data
    expected = metrics.measure(features, labels, classifier, bias)
    # The tests have no accelerator: any array of JAX counts as one that is there.
    monkeypatch.setattr(arrays, "is_on_host", lambda values: False)
    on_device, batches = jnp.asarray(features), []
    add_moments = measuring.add_moments
    monkeypatch.setattr(
        measuring, "add_moments", lambda *args: batches.append(args[1]) or add_moments(*args)
    )
    for batch_size in (50, None):
        found = metrics.measure(on_device, labels, classifier, bias, batch_size=batch_size)
        assert_same(found, expected)
    # Three batches of 50, and one that is padded to a power of two.
    assert [batch.features.shape[0] for batch in batches] == [50, 50, 50, 256]
    assert [isinstance(b.features, jax.Array) for b in batches] == [True, True, True, False]
    loader = [(on_device[:100], labels[:100]), (on_device[100:], labels[100:])]
    assert_same(metrics.measure(loader, None, classifier, bias), expected)


def test_arrays_of_jax_under_a_transformation_are_refused():
    def inside(features):
        return metrics.measure(features, np.arange(4) % 2)["cdnv"]

    for transformed in (jax.jit(inside), jax.grad(inside), jax.vmap(lambda x: inside(x[None]))):
        with pytest.raises(ValueError, match=r"features: is traced .* metrics.collapse_metrics"):
            transformed(jnp.ones((4, 3)))
