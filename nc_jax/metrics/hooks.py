"""Features of the layers of a PyTorch module, by forward hooks."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..checks import close_to, shown


class Captured:
    """Features of the layers in the last forward pass.

    Example: see `capture`.

        >>> from nc_jax.metrics.hooks import Captured
        >>> Captured(("fc",)).layers
        ('fc',)
    """

    def __init__(self, layers: tuple[str, ...]) -> None:
        self.layers = layers
        self._features: dict[str, Any] = {}

    def features(self) -> dict[str, Any]:
        """Features (N, d) by layer, as detached tensors, in the order of `layers`.

        Raises: RuntimeError for a layer that has not run.
        """
        for layer in self.layers:
            if layer not in self._features:
                raise RuntimeError(
                    f"{layer!r} has not run: call the module first, within the block of capture()."
                )
        return {layer: self._features[layer] for layer in self.layers}

    def _store(self, layer: str, pool: Callable[[Any], Any], values: Any) -> None:
        if not hasattr(values, "detach"):
            raise ValueError(
                f"{layer!r} has a {type(values).__name__}, not a tensor: give a layer with one "
                "tensor as its output, or as its first argument."
            )
        self._features[layer] = pool(values.detach())


@contextlib.contextmanager
def capture(
    module: Any,
    outputs: Sequence[str] = (),
    *,
    inputs: Sequence[str] = (),
    pool: Callable[[Any], Any] | None = None,
) -> Iterator[Captured]:
    """Capture the features of some layers of a `torch.nn.Module` at each forward pass.

    The hooks are removed at the end of the block. A layer that runs several times in a forward pass
    gives the features of its last run. The features are detached copies, which in-place operations
    of the network, such as `ReLU(inplace=True)`, do not change.

    Args:
        module: a `torch.nn.Module`.
        outputs: names of layers, as in `module.named_modules()`, whose outputs are captured.
        inputs: names of layers whose first arguments are captured. That of the classifier, such as
            "fc", has the features that `result(model.fc.weight, model.fc.bias)` needs.
        pool: function from a tensor with samples first to a tensor (N, d). None for the mean over
            all positions of maps (N, C, H, W); tensors (N, d) stay as they are.

    Yields: `Captured`, whose `features()` are those of the last forward pass, outputs first.

    Raises: ValueError for a layer that the module does not have, or without any layer.

    Example: two layers of a network that a `Monitor` measures while it trains.

        >>> import torch
        >>> convolution, classifier = torch.nn.Conv2d(1, 5, 3), torch.nn.Linear(20, 2)
        >>> model = torch.nn.Sequential(
        ...     convolution, torch.nn.ReLU(), torch.nn.Flatten(), classifier
        ... )
        >>> monitor = nc.metrics.Monitor(2, names=["cdnv"])
        >>> images, labels = torch.randn(8, 1, 4, 4), torch.arange(8) % 2
        >>> with nc.metrics.capture(model, ["1"], inputs=["3"]) as captured:
        ...     logits = model(images)
        ...     monitor.update(captured.features(), labels)
        >>> {layer: tuple(h.shape) for layer, h in captured.features().items()}
        {'1': (8, 5), '3': (8, 20)}
        >>> values = monitor.result(classifier.weight, classifier.bias)
        >>> list(values)
        ['1', '3']
    """
    modules = _checked(module, outputs, inputs)
    captured = Captured((*outputs, *inputs))
    pooled = _mean_over_positions if pool is None else pool
    with contextlib.ExitStack() as stack:
        for layer in outputs:
            handle = modules[layer].register_forward_hook(_after(captured, layer, pooled))
            stack.callback(handle.remove)
        for layer in inputs:
            hook = _before(captured, layer, pooled)
            handle = modules[layer].register_forward_pre_hook(hook, with_kwargs=True)
            stack.callback(handle.remove)
        yield captured


def _after(captured: Captured, layer: str, pool: Callable[[Any], Any]) -> Callable[..., None]:
    return lambda module, arguments, output: captured._store(layer, pool, output)


def _before(captured: Captured, layer: str, pool: Callable[[Any], Any]) -> Callable[..., None]:
    def hook(module: Any, arguments: tuple, options: dict[str, Any]) -> None:
        # A layer may be called with keywords only.
        captured._store(layer, pool, next(iter((*arguments, *options.values())), None))

    return hook


def _checked(module: Any, outputs: Sequence[str], inputs: Sequence[str]) -> dict[str, Any]:
    """All modules by name; ValueError for layers that cannot be captured."""
    if not hasattr(module, "named_modules"):
        raise ValueError(f"module = {shown(module)}: give a torch.nn.Module.")
    for argument, layers in (("outputs", outputs), ("inputs", inputs)):
        if isinstance(layers, str):
            raise ValueError(f"{argument} = {layers!r}: give a list of names, [{layers!r}].")
    modules, layers = dict(module.named_modules()), [*outputs, *inputs]
    if not layers:
        raise ValueError("outputs = []: give the name of one layer or more.")
    for layer in layers:
        if layer not in modules:
            raise ValueError(
                f"{layer!r} is no layer of the module.{close_to(layer, modules)} It has "
                f"{', '.join(filter(None, modules))}."
            )
        if layers.count(layer) > 1:
            raise ValueError(f"{layer!r} is named twice: give its output or its input.")
    return modules


def _mean_over_positions(features: Any) -> Any:
    """Means over H, W, ... of (N, C, H, W, ...), and a copy of (N, d); in float32 at least."""
    # A mean that is rounded to half precision would lose digits of the class means.
    wide = features.float() if features.element_size() < 4 else features
    if features.ndim == 2:
        return wide.clone() if wide is features else wide
    if features.ndim < 4:
        raise ValueError(
            f"features have shape {tuple(features.shape)}: give pool, a function to (N, d), such "
            "as lambda h: h.mean(1) over the tokens of (N, T, d)."
        )
    return wide.flatten(2).mean(2)
