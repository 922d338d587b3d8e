import numpy as np
import pytest
import xarray as xr

from nc_jax import plotting

TIMES = np.linspace(0, 5, 6)
DATA = xr.Dataset(
    {name: (("norm", "seed", "time"), np.ones((2, 3, 6))) for name in ("mixon_snc1", "mixon_snc2")},
    {"norm": [1.0, 0.1], "seed": [0, 1, 2], "log_time": ("time", np.log1p(TIMES))},
)


@pytest.mark.parametrize(
    ("dim", "values", "log_values"),
    [("step", [0, 9, 99], np.log([1, 10, 100])), ("epoch", [0, 1], np.log([1, 2]))],
)
def test_steps_and_epochs_are_axes(dim, values, log_values):
    data = xr.Dataset({"loss": (dim, np.ones(len(values)))}, {dim: values})
    axis = plotting.recorded_axis(data)
    assert axis.dim == dim
    np.testing.assert_array_equal(axis.values, values)
    np.testing.assert_allclose(axis.log_values, log_values)


def test_times_beyond_the_range_of_floats_have_a_logarithm():
    far = 1000 * np.log(10)
    axis = plotting.recorded_axis(DATA.isel(time=[0, 1]).assign_coords(log_time=("time", [0, far])))
    np.testing.assert_array_equal(axis.values, [0, np.inf])
    np.testing.assert_array_equal(axis.log_values, [0, far])


def test_a_curve_is_a_row_for_each_run_whatever_the_order_of_dimensions():
    values = np.arange(36.0).reshape(2, 3, 6)
    data = DATA.assign(mixon_snc1=(("norm", "seed", "time"), values))
    np.testing.assert_array_equal(plotting.curves(data, "mixon_snc1"), values.reshape(6, 6))
    turned = data.transpose("time", "norm", "seed")
    np.testing.assert_array_equal(plotting.curves(turned, "mixon_snc1"), values.reshape(6, 6))
    one = data.isel(norm=0, seed=1)
    np.testing.assert_array_equal(plotting.curves(one, "mixon_snc1"), values[:1, 1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda data: plotting.collapse_figure(data), "'ji_feature_norm_variation' is no variable"),
        (lambda data: plotting.collapse_figure({}), "runs = {}: give an xarray.Dataset"),
        (
            lambda data: plotting.sweep_figure(data, {"A": ("mixon_snc",)}, by="norm"),
            "'mixon_snc' is no variable of the data set. Close to it: mixon_snc",
        ),
        (
            lambda data: plotting.sweep_figure(data, {"A": ("mixon_snc1",)}, by="nrom"),
            "by = 'nrom': give a dimension of the data set that has a coordinate; it has norm",
        ),
        (
            lambda data: plotting.sweep_figure(data, {"A": ()}, by="norm"),
            "panels['A'] = (): give a tuple of variables, ('zhu_nc1',)",
        ),
        (
            lambda data: plotting.training_figure({"a": data}, {"NC2": ("mixon_snc3",)}),
            "'mixon_snc3' is no variable of the data set. Close to it: mixon_snc",
        ),
        (
            lambda data: plotting.sorted_margins_figure(data),
            "'margins' is no variable of the data set. It has mixon_snc1",
        ),
        (
            lambda data: plotting.histograms_figure(data, variable="mixon_snc1"),
            "'mixon_snc1' has dimensions norm, seed, time: give a variable over time and samples",
        ),
        (lambda data: plotting.sweep_figure(data, {}, by="norm"), "panels = {}: give variables by"),
        (
            lambda data: plotting.collapse_figure(data.isel(time=0)),
            "data set with dimensions norm, seed: give one with time, step or epoch",
        ),
        (
            lambda data: plotting.collapse_figure(data.drop_vars("log_time")),
            "data set over time without coordinate log_time: assign it",
        ),
        (
            lambda data: plotting.sweep_figure(
                data.assign(last=data["mixon_snc1"][..., -1]), {"A": ("last",)}, by="norm"
            ),
            "'last' has dimensions seed: give a variable over time",
        ),
    ],
)
def test_invalid_figure_arguments_are_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=r"give|It has|assign") as error:
        call(DATA)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    # What is there is named too.
    assert "no variable" not in str(error.value) or "mixon_snc1, mixon_snc2" in str(error.value)
