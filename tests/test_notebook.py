"""What a notebook shows of results: data sets and trajectories as tables with their equations."""

import html
import pickle
import re

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr

import nc_jax as nc
from nc_jax import storage
from nc_jax.datasets import Dataset, outcome, shown_with_equations
from nc_jax.display import outcomes
from nc_jax.notebook import Described, log_time_text, results_html, values_text

PROBLEM = nc.ulpm(3, 4, 2)
STARTS = jax.vmap(PROBLEM.init)(jax.random.split(jax.random.key(0), 3))
NAMES = ("margin_min", "zhu_nc1")


@pytest.fixture(scope="module")
def batch():
    """Three descents of four steps."""

    def run(start):
        return nc.gradient_descent(PROBLEM, start, optax.sgd(0.1), 4, observe=NAMES)

    return jax.vmap(run)(STARTS)


@pytest.fixture(scope="module")
def data(batch):
    return storage.to_dataset(batch, attributes={"note": "<b>bold</b>"})


def in_sight(text):
    """The cells of each row of the table before anything is opened, by name."""
    text = text.partition("<details>")[0]
    rows = re.findall(r'<th scope="row">(.*?)</th>(.*?)</tr>', text)
    return {name: [html.unescape(c) for c in re.findall("<td>(.*?)</td>", r)] for name, r in rows}


def test_each_variable_and_coordinate_has_its_equation_unit_and_dims_in_sight(data):
    rows = in_sight(data._repr_html_())
    assert rows.keys() == data.variables.keys()
    for name, (meaning, unit, dims, values) in rows.items():
        assert meaning == data[name].attrs["long_name"]
        assert unit == "1"
        assert dims == ", ".join(data[name].dims)
        assert values
    first, last = (np.median(data["margin_min"].isel(step=i)) for i in (0, -1))
    words = rows["margin_min"][3].replace("−", "-")
    assert words.startswith(f"median {first:.4g} → {last:.4g}; at the end ")


def test_the_outcome_of_the_runs_is_in_words(data):
    assert "3 runs, all succeeded; sizes: seed 3 × step 5" in data._repr_html_()
    failed = data.copy()
    failed["result"] = data["result"].copy(data=[0, 0, 5])
    failed["result"].attrs["5"] = "The state became NaN."
    assert "3 runs: 2 succeeded, 1 failed (The state became NaN)" in failed._repr_html_()
    missing = data.assign(result=("seed", [0, -1, -1], {"0": ""}))
    assert outcome(missing) == "3 runs: 2 not complete, 1 succeeded"


def test_a_training_has_the_outcome_of_its_last_epoch():
    codes = (("seed", "epoch"), [[0, 0, 0], [0, 4, 4]], {"0": "", "4": "The loss is NaN."})
    training = xr.Dataset({"result": codes}, {"epoch": [0, 1, 2]})
    assert outcome(training) == "2 runs: 1 succeeded, 1 failed (The loss is NaN)"
    interrupted = training.isel(epoch=[0, 1, 2]).copy()
    interrupted["result"][:, 2] = -1
    assert outcome(interrupted) == "2 runs, all not complete"


def test_words_for_outcomes():
    event = diffrax.RESULTS[diffrax.RESULTS.event_occurred]
    assert outcomes({"": 1}) == "1 run, succeeded"
    assert outcomes({"": 2, event: 3}) == "5 runs: 2 succeeded, 3 ended by an event"
    assert outcomes({event: 3}) == "3 runs, all ended by an event"
    assert outcome(xr.Dataset({"loss": ("epoch", [1.0])})) is None


def test_texts_of_a_user_are_escaped(data):
    text = data._repr_html_().partition("As xarray shows it")[0]
    assert "&lt;b&gt;bold&lt;/b&gt;" in text
    assert "<b>bold" not in text
    row = Described("<i>", "<b>", "<u>", "<s>", "<p>")
    text = results_html("<title>", {"<script>": [row]}, {"<q>": ""})
    assert not re.search("<(i|b|u|s|title|script|q)>", text)


def test_the_table_has_no_colour_of_its_own(data):
    own = data._repr_html_().partition("As xarray shows it")[0]
    assert not re.search(r"background|color:|#[0-9a-f]{3}", own)


def test_xarrays_own_view_and_the_provenance_are_one_click_away(data):
    closed = data._repr_html_().partition("<details>")[2]
    assert xr.Dataset._repr_html_(data).split("<div", 1)[1][:40] in closed
    assert f"<td>{nc.__version__}</td>" in closed
    assert nc.__version__ not in data._repr_html_().partition("<details>")[0]


def test_a_data_set_of_this_package_behaves_as_one_of_xarray(data, tmp_path):
    variables = {name: data[name].variable for name in data.variables}
    coordinates = {name: variables.pop(name) for name in data.coords}
    plain = xr.Dataset(variables, coordinates, data.attrs)
    assert type(plain) is xr.Dataset
    assert data.identical(plain)
    assert plain.identical(data)
    assert repr(shown_with_equations(plain)) == repr(plain)
    for same in (
        data.isel(seed=[0]), data.sel(step=4), data.mean("seed"), data.copy(deep=True),
        data.assign(more=data["zhu_nc1"] * 2), data[["zhu_nc1"]], pickle.loads(pickle.dumps(data)),
    ):  # fmt: skip
        assert type(same) is Dataset
    # xarray returns its own class from some functions, with the same values.
    for function in (lambda x: xr.concat([x, x], "twice"), lambda x: x.where(x["zhu_nc1"] > 0)):
        assert function(data).identical(function(plain))
    xr.testing.assert_identical(pickle.loads(pickle.dumps(data)), data)
    storage.save(data, tmp_path / "data.zarr")
    xr.testing.assert_identical(storage.load(tmp_path / "data.zarr"), data)
    data.to_zarr(tmp_path / "plain.zarr", consolidated=False)
    with xr.open_zarr(tmp_path / "plain.zarr", consolidated=False) as opened:
        assert opened.identical(data)


def test_a_data_set_of_the_user_keeps_its_type(tmp_path):
    plain = xr.Dataset({"loss": ("epoch", [2.0, 1.0])}, {"epoch": [0, 1]})
    storage.save(plain, tmp_path / "plain.zarr")
    xr.testing.assert_identical(storage.load(tmp_path / "plain.zarr"), plain)


def test_variables_on_disk_are_not_read(data, tmp_path):
    storage.save(data, tmp_path / "data.zarr")
    lazy = storage.open_lazily(tmp_path / "data.zarr")
    # A view that read a variable would fail without its files.
    for file in (tmp_path / "data.zarr" / "zhu_nc1").rglob("c/*"):
        file.unlink() if file.is_file() else None
    rows = in_sight(lazy._repr_html_())
    assert rows["zhu_nc1"][3] == "on disk, 0.12 kB; load() reads it"
    assert rows["result"][3] == "3 runs, all succeeded"
    assert not lazy["zhu_nc1"].variable._in_memory
    assert not lazy["result"].variable._in_memory


def test_sweeps_open_as_tables(tmp_path):
    flow = nc.Flow(PROBLEM, nc.log_times(50, 3), observe=("margin_min",))

    def run(key, norm):
        return flow, PROBLEM.init(key, norm=norm)

    for path in (None, tmp_path / "sweep.zarr"):
        found = nc.sweep(run, 2, grid={"norm": [0.5, 1.0]}, path=path, progress=False)
        text = found._repr_html_()
        assert "4 runs, all succeeded; sizes: norm 2 × seed 2 × time 3" in text
        assert in_sight(text)["norm"][3] == "0.5, 1"
        assert in_sight(text)["log_time"][3].endswith("t to 10^50")


def test_a_trajectory_shows_its_observables_with_equations(batch):
    rows = in_sight(batch._repr_html_())
    assert list(rows) == ["step", "margin_min", "zhu_nc1", "num_steps", "final_log_time"]
    assert rows["step"][2:] == ["step", "0 → 4"]
    assert rows["zhu_nc1"][:3] == [nc.metrics.EQUATIONS["zhu_nc1"], "1", "run, step"]
    assert "3 runs, all succeeded; sizes: run 3 × step 5" in batch._repr_html_()
    one = jax.tree.map(lambda leaf: leaf[0], batch)
    assert in_sight(one._repr_html_())["zhu_nc1"][2] == "step"
    assert "1 run, succeeded; sizes: step 5" in one._repr_html_()


def test_a_traced_trajectory_is_shown_as_text(batch):
    texts = []
    jax.eval_shape(lambda traced: texts.append(traced._repr_html_()), batch)
    assert texts[0].startswith("<pre>Trajectory(")


@pytest.mark.parametrize(
    ("values", "axis", "text"),
    [
        ([2.0, -1e-9, np.nan], 0, "2 → −1e−09, then nan"),
        ([np.nan, np.nan], 0, "nan"),
        ([[1.0, 5.0], [3.0, np.nan]], 1, "median 2 → 5; at the end 5 (1 of 2 NaN)"),
        (np.arange(9), None, "0 to 8"),
        ([0.5, 1.0], None, "0.5, 1"),
        (0.25, None, "0.25"),
        ([], None, "none"),
        ([True, False], None, "1 of 2 are true"),
        (list("abcdefgh"), None, "a, b, c, d, e, f, … (8)"),
        ([7, 7, 7], None, "7"),
        (np.full((2, 2), np.nan), 1, "median nan → nan; at the end NaN"),
        (jnp.ones(3), 0, "1 → 1"),
    ],
)
def test_values_in_words(values, axis, text):
    assert values_text(np.asarray(values), axis=axis) == text


def test_times_beyond_the_largest_float_are_powers_of_ten():
    times = np.log(10) * np.array([0.0, 1000.0])
    assert log_time_text(times) == "0 → 2303, t to 10^1000"
    assert log_time_text(np.array([0.0, 1.0])) == "0 → 1"
