"""Features of a PyTorch module by hooks, and a Monitor in a loop of PyTorch."""

import numpy as np
import pytest
from tolerances import rounding

from nc_jax import metrics

torch = pytest.importorskip("torch")


def convnet(*, inplace: bool = False):
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 5, 3), torch.nn.ReLU(inplace=inplace), torch.nn.Flatten(),
        torch.nn.Linear(20, 6), torch.nn.ReLU(inplace=inplace), torch.nn.Linear(6, 2),
    )  # fmt: skip


def images(count: int = 8):
    torch.manual_seed(1)
    return torch.randn(count, 1, 4, 4), torch.arange(count) % 2


def hooks_of(model) -> int:
    modules = model.modules()
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)


def test_outputs_are_means_over_positions_and_inputs_are_those_of_the_layer():
    model, (x, _) = convnet(), images()
    with metrics.capture(model, ["0", "1"], inputs=["5"]) as captured:
        logits = model(x)
        found = captured.features()
    maps = model[0](x).detach()
    assert list(found) == ["0", "1", "5"]
    np.testing.assert_allclose(found["0"], maps.numpy().mean((2, 3)), rtol=rounding("float32"))
    relu = np.maximum(maps.numpy(), 0).mean((2, 3))
    np.testing.assert_allclose(found["1"], relu, rtol=rounding("float32"))
    # The classifier of the captured features gives the logits of the network.
    expected = found["5"] @ model[5].weight.detach().T + model[5].bias.detach()
    np.testing.assert_allclose(logits.detach(), expected, rtol=rounding("float32"))
    assert not found["5"].requires_grad


def test_operations_in_place_do_not_change_captured_features():
    x, _ = images()
    model = convnet(inplace=True)
    with metrics.capture(model, ["0", "3"]) as changed:
        model(x)
    other = convnet()
    with metrics.capture(other, ["0", "3"]) as unchanged:
        other(x)
    for layer, values in unchanged.features().items():
        assert values.min() < 0
        np.testing.assert_array_equal(changed.features()[layer], values)


def test_hooks_are_removed_after_the_block_and_after_an_error():
    model = convnet()
    with metrics.capture(model, ["0"], inputs=["5"]):
        assert hooks_of(model) == 2
    assert hooks_of(model) == 0
    with pytest.raises(ZeroDivisionError), metrics.capture(model, ["0"]):
        _ = 1 / 0
    assert hooks_of(model) == 0


def test_a_last_result_stays_after_the_block():
    model, (x, _) = convnet(), images()
    with metrics.capture(model, ["0"]) as captured:
        model(x)
        model(2 * x[:3])
    expected = model[0](2 * x[:3]).mean((2, 3)).detach()
    np.testing.assert_allclose(captured.features()["0"], expected, rtol=rounding("float32"))


def test_half_precision_is_captured_in_float32():
    model, (x, _) = convnet().to(torch.bfloat16), images()
    with metrics.capture(model, ["0", "3"]) as captured:
        model(x.to(torch.bfloat16))
    assert {values.dtype for values in captured.features().values()} == {torch.float32}


def test_a_function_pools_the_tokens_of_a_transformer():
    model, tokens = torch.nn.Sequential(torch.nn.Linear(3, 5)), torch.ones(4, 7, 3)
    with metrics.capture(model, ["0"], pool=lambda h: h[:, 0]) as captured:
        model(tokens)
    assert captured.features()["0"].shape == (4, 5)


def test_the_input_of_a_layer_that_is_called_by_keywords():
    model, x = torch.nn.Sequential(torch.nn.Linear(3, 5)), torch.ones(4, 3)
    with metrics.capture(model, inputs=["0"]) as captured:
        model[0](input=2 * x)
    np.testing.assert_array_equal(captured.features()["0"], 2 * x)


def test_a_monitor_of_a_loop_in_pytorch_measures_what_numpy_measures():
    model, (x, y) = convnet(), images(20)
    names = ["cdnv", "zhu_nc1", "zhu_nc3", "zhu_nc4"]
    monitor = metrics.Monitor(2, names=names)
    with metrics.capture(model, ["1"], inputs=["5"]) as captured:
        for rows in torch.split(torch.arange(20), 8):
            model(x[rows])
            monitor.update(captured.features(), y[rows])
        # Parameters of the network that requires gradients.
        found = monitor.result(model[5].weight, model[5].bias, loss=model[5].bias.sum())
        model(x)
    layers = {name: values.numpy().astype(float) for name, values in captured.features().items()}
    weight, bias = (p.detach().numpy().astype(float) for p in model[5].parameters())
    expected = metrics.measure(layers["5"], y.numpy(), weight, bias, names=names)
    for name, value in expected.items():
        # Batches of other sizes are convolved in float32, with other roundings.
        np.testing.assert_allclose(found["5"][name], value, rtol=rounding("float32", 1000))
    assert set(found["1"]) == {"cdnv", "zhu_nc1"}
    np.testing.assert_allclose(monitor.dataset["loss"], [bias.sum()], rtol=rounding("float32"))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_tensors_of_any_dtype_that_require_gradients(dtype):
    features = torch.randn(12, 3).to(getattr(torch, dtype)).requires_grad_()
    labels = torch.arange(12) % 2
    monitor = metrics.Monitor(2, names=["cdnv"])
    monitor.update(features, labels)
    wide = features.detach().double().numpy()
    expected = metrics.measure(wide, labels.numpy(), names=["cdnv"])["cdnv"]
    np.testing.assert_allclose(monitor.result()["cdnv"], expected, rtol=rounding())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: metrics.capture(m, ["6"]), "'6' is no layer of the module. .*It has 0, 1, 2"),
        (lambda m: metrics.capture(m), "give the name of one layer or more"),
        (lambda m: metrics.capture(m, "0"), r"outputs = '0': give a list of names, \['0'\]"),
        (lambda m: metrics.capture(m, inputs="0"), "inputs = '0': give a list of names"),
        (lambda m: metrics.capture(m, ["0"], inputs=["0"]), "'0' is named twice"),
        (lambda m: metrics.capture(print, ["0"]), "module = .* give a torch.nn.Module"),
    ],
)
def test_mistakes_are_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as error, call(convnet()):
        pass
    assert "\n" not in str(error.value)


def test_what_cannot_be_pooled_or_has_not_run_is_named():
    with metrics.capture(convnet(), ["0"]) as captured, pytest.raises(RuntimeError) as error:
        captured.features()
    assert str(error.value) == (
        "'0' has not run: call the module first, within the block of capture()."
    )
    model = torch.nn.Sequential(torch.nn.Linear(3, 5))
    with (
        metrics.capture(model, ["0"]),
        pytest.raises(ValueError, match=r"shape \(4, 7, 5\): give pool, a function to \(N, d\)"),
    ):
        model(torch.ones(4, 7, 3))
    recurrent = torch.nn.ModuleDict({"lstm": torch.nn.LSTM(3, 5)})
    with (
        metrics.capture(recurrent, ["lstm"]),
        pytest.raises(ValueError, match="'lstm' has a tuple, not a tensor"),
    ):
        recurrent["lstm"](torch.ones(4, 7, 3))
