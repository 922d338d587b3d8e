"""Weights under PyTorch's names and in its layout, read and written without PyTorch."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.tree_util import keystr
from jaxtyping import ArrayLike, Float

from ..checks import check_arrays, check_kind, shown
from ..errors import ArgumentError
from ..precision import widened
from .features import check_network, check_weights
from .networks import VGG, ConvNet, Network, ResNet

Shapes = Mapping[str, tuple[int, ...]]

# PyTorch's names of the variables of a layer, where they differ from those of Flax.
_VARIABLES = {
    "kernel": "weight", "scale": "weight", "classifier": "weight",
    "mean": "running_mean", "var": "running_var",
}  # fmt: skip
# DataParallel and torch.compile put these before all names of a module.
_WRAPPERS = ("module.", "_orig_mod.")
# The number of batches that a batch normalisation was called with. PyTorch uses it only where
# running statistics are means over all batches.
_COUNTER = "num_batches_tracked"
# The stem by the size of its convolution.
_STEMS = {7: "cnn.ImageNetStem()", 3: "cnn.CIFARStem()"}
# Number of names that an error message has at most.
_MOST_NAMES = 3


class _Variables(NamedTuple):
    """Variables of a network in the order of its flattened state.

    Attributes:
        names: PyTorch's name of each.
        is_kernel: whether inputs and outputs are its last axes, which are PyTorch's first ones.
        leaves: arrays, or their shapes where the network has no numbers.
        structure: structure of the state.
    """

    names: list[str]
    is_kernel: list[bool]
    leaves: list[Any]
    structure: Any

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each variable in PyTorch's layout."""
        return {
            name: (leaf.shape[-1], leaf.shape[-2], *leaf.shape[:-2]) if kernel else leaf.shape
            for name, kernel, leaf in zip(self.names, self.is_kernel, self.leaves, strict=True)
        }


def to_torch(network: Network) -> dict[str, Float[np.ndarray, "..."]]:
    """The weights and running statistics of a network as a state dict of PyTorch.

    A `ResNet` has the names of torchvision, such as `conv1.weight`, `layer1.0.bn1.running_mean` and
    `fc.weight`. Other networks have the names of their attributes, such as `convolutions.0.weight`,
    `norms.0.running_mean` and `head.weight`. Kernels (height, width, inputs, outputs) become
    (outputs, inputs, height, width). A fixed classifier is one of the arrays.

    Two lines load the result into the same network in PyTorch:

        weights = {name: torch.from_numpy(value) for name, value in cnn.to_torch(network).items()}
        model.load_state_dict(weights)

    Returns: copies of the arrays by name, in their dtypes.

    Raises: ValueError for anything but a `Network`, or for one without numbers.

    Example:
        >>> from nc_jax import cnn
        >>> from flax import nnx
        >>> network = cnn.ConvNet(1, 10, widths=(4,), rngs=nnx.Rngs(0))
        >>> for name, value in cnn.to_torch(network).items():
        ...     print(name, value.shape)
        convolutions.0.weight (4, 1, 3, 3)
        head.bias (10,)
        head.weight (10, 4)
        norms.0.running_mean (4,)
        norms.0.running_var (4,)
    """
    check_weights(network)
    variables = _variables(network)
    named = zip(variables.names, variables.is_kernel, variables.leaves, strict=True)
    return {
        name: np.array(_outputs_first(leaf) if kernel else leaf, order="C")
        for name, kernel, leaf in named
    }


def from_torch(network: Network, state_dict: Mapping[str, Any]) -> Network:
    """A network with the weights and running statistics of a state dict of PyTorch.

    The state dict is that of the same network in PyTorch, with the names of `to_torch`. It comes
    from `model.state_dict()`, `torch.load(path, weights_only=True)` or
    `safetensors.numpy.load_file(path)`. torchvision's ResNet18 and ResNet50 for 1000 classes are
    `cnn.ResNet(3, 1000, depth=18, rngs=...)` and `depth=50`. The prefixes `module.` (DataParallel)
    and `_orig_mod.` (torch.compile) are removed, and `num_batches_tracked` is ignored. With
    `etf=True` the classifier of the state dict becomes the fixed classifier of the network. Whether
    it is a simplex ETF is not checked.

    Args:
        network: a network of any weights, which stays as it is. Without numbers, as
            `nnx.eval_shape(lambda: cnn.ResNet(...))`, it is built in less time.
        state_dict: arrays of floating-point numbers by name: tensors of PyTorch on any device, or
            arrays of NumPy or JAX. They are copied, and all converted to the widest of their
            dtypes, at least float32. For logits in float64 the network needs `dtype=jnp.float64`
            too.

    Raises: ValueError for a state dict that lacks names or has others, for an array of another
    shape, or for integers and complex numbers.

    Example:
        >>> from nc_jax import cnn
        >>> from flax import nnx
        >>> trained, start = (cnn.ConvNet(1, 2, widths=(3,), rngs=nnx.Rngs(i)) for i in (0, 1))
        >>> wrapped = {f"module.{name}": value for name, value in cnn.to_torch(trained).items()}
        >>> loaded = cnn.from_torch(start, wrapped)
        >>> bool(jnp.all(loaded.head.bias[...] == trained.head.bias[...]))
        True
    """
    check_network(network)
    variables = _variables(network)
    expected, named = variables.shapes(), _without_wrappers(state_dict)
    _check_names(network, expected, named)
    arrays = [_array(name, named[name]) for name in variables.names]
    _check_shapes(network, expected, named)
    # Copies: `jnp.asarray` may use the memory of its argument, which is that of a tensor, and
    # PyTorch changes tensors in place.
    leaves = [
        np.array(_outputs_last(array) if kernel else array, order="C")
        for array, kernel in zip(arrays, variables.is_kernel, strict=True)
    ]
    state = jax.tree.unflatten(variables.structure, widened(leaves))
    return nnx.merge(nnx.graphdef(network), state)


def _variables(network: Network) -> _Variables:
    """The variables of a network under PyTorch's names."""
    layers = _torchvision_layers(network) if isinstance(network, ResNet) else {}
    flat, structure = jax.tree_util.tree_flatten_with_path(nnx.to_pure_dict(nnx.state(network)))
    paths = [keystr(path, simple=True, separator=".").rpartition(".") for path, _ in flat]
    return _Variables(
        names=[
            f"{layers.get(layer, layer)}{dot}{_VARIABLES.get(variable, variable)}"
            for layer, dot, variable in paths
        ],
        is_kernel=[variable == "kernel" for _, _, variable in paths],
        leaves=[leaf for _, leaf in flat],
        structure=structure,
    )


def _torchvision_layers(network: ResNet) -> dict[str, str]:
    """torchvision's names of the layers of a ResNet, by their names here."""
    names = {"stem.convolution": "conv1", "stem.norm": "bn1", "head": "fc"}
    stage = place = 0
    for i, block in enumerate(network.blocks):
        # The first block of every stage but the first one halves the maps.
        first = i == 0 or any(layer.stride > 1 for layer in block.layers)
        stage, place = (stage + 1, 0) if first else (stage, place + 1)
        here, there = f"blocks.{i}", f"layer{stage}.{place}"
        for j in range(len(block.layers)):
            names[f"{here}.layers.{j}"] = f"{there}.conv{j + 1}"
            names[f"{here}.norms.{j}"] = f"{there}.bn{j + 1}"
        # A convolution and its normalisation, where there is a projection.
        for j in range(2):
            names[f"{here}.skip.{j}"] = f"{there}.downsample.{j}"
    return names


def _outputs_first(kernel: Float[ArrayLike, "..."]) -> Float[np.ndarray, "..."]:
    """The axes (..., inputs, outputs) as (outputs, inputs, ...)."""
    return np.moveaxis(np.asarray(kernel), (-1, -2), (0, 1))


def _outputs_last(kernel: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """The axes (outputs, inputs, ...) as (..., inputs, outputs)."""
    return np.moveaxis(kernel, (0, 1), (-1, -2))


def _without_wrappers(state_dict: object) -> dict[str, Any]:
    """Entries of a state dict without prefixes of wrappers and without counters of batches."""
    if not isinstance(state_dict, Mapping) or not all(isinstance(name, str) for name in state_dict):
        raise ArgumentError(
            f"state_dict = {shown(state_dict)}: give a dict of arrays by name, such as "
            "model.state_dict() or torch.load(path, weights_only=True).",
            "state_dict",
        )
    for name, value in state_dict.items():
        # Checkpoints often have the weights beside the state of the optimiser.
        if isinstance(value, Mapping):
            raise ArgumentError(
                f"state_dict[{name!r}] is a dict: give the inner dict that has the weights.",
                "state_dict",
            )
    named = {name: value for name, value in state_dict.items() if not name.endswith(_COUNTER)}
    # A module that is both compiled and parallel has both prefixes.
    while prefix := _wrapper(named):
        named = {name.removeprefix(prefix): value for name, value in named.items()}
    return named


def _wrapper(names: Collection[str]) -> str:
    """The prefix of a wrapper with which all names begin; empty where there is none."""
    common = [prefix for prefix in _WRAPPERS if all(name.startswith(prefix) for name in names)]
    return common[0] if names and common else ""


def _array(name: str, value: Any) -> Float[np.ndarray, "..."]:
    """An entry of a state dict as an array of NumPy, which may share its memory."""
    # A tensor of PyTorch is recognised by this method, since PyTorch is not imported here.
    is_tensor = hasattr(value, "detach")
    if is_tensor:
        is_float = value.dtype.is_floating_point
    else:
        where = f"state_dict[{name!r}]"
        check_kind(where, value, (np.ndarray, jax.Array), "a tensor of PyTorch")
        check_arrays(where, value)
        is_float = jnp.issubdtype(value.dtype, jnp.floating)
    if not is_float:
        raise ArgumentError(
            f"state_dict[{name!r}] has dtype {value.dtype}: give floating-point numbers, such as "
            "float32.",
            "state_dict",
        )
    if not is_tensor:
        return np.asarray(value)
    tensor = value.detach().cpu()
    # NumPy has no bfloat16.
    return (tensor.float() if tensor.element_size() < 4 else tensor).numpy()


def _check_names(network: Network, expected: Shapes, named: Mapping[str, Any]) -> None:
    """Raise ValueError unless the names of a state dict are those of the network."""
    missing = [name for name in expected if name not in named]
    others = [name for name in named if name not in expected]
    kind, differences = type(network).__name__, []
    if missing:
        differences.append(f"lacks {_listed(missing)} of this {kind}")
    if others:
        differences.append(f"has {_listed(others)} that this {kind} does not have")
    if differences:
        raise ArgumentError(
            f"state_dict {' and '.join(differences)}: {_advice(network, expected, named)}.",
            "state_dict",
        )


def _check_shapes(network: Network, expected: Shapes, named: Mapping[str, Any]) -> None:
    """Raise ValueError unless the arrays of a state dict have the shapes of the network."""
    for name, shape in expected.items():
        found = tuple(named[name].shape)
        if found != shape:
            raise ArgumentError(
                f"state_dict[{name!r}] has shape {found} where this {type(network).__name__} has "
                f"{shape}: {_advice(network, expected, named)}.",
                "state_dict",
            )


def _listed(names: Sequence[str]) -> str:
    """The number of names, and the first ones."""
    first = [repr(name) for name in names[:_MOST_NAMES]] + ["..."] * (len(names) > _MOST_NAMES)
    return f"{len(names)} name{'s' if len(names) > 1 else ''} ({', '.join(first)})"


def _advice(network: Network, expected: Shapes, named: Mapping[str, Any]) -> str:
    """What to change where a state dict is not one of this network."""
    found = {name: tuple(getattr(value, "shape", ())) for name, value in named.items()}
    here, there = _arguments(network, expected), _arguments(network, found)
    changed = [f"{name}={value}" for name, value in there.items() if here.get(name) != value]
    if changed:
        return f"build the network with {', '.join(changed)}"
    # Prefixes of other wrappers, such as "model." of Lightning.
    one = next(iter(expected))
    prefixes = [name.removesuffix(one) for name in found if name.endswith(f".{one}")]
    if prefixes and one not in found:
        return f"remove {prefixes[0]!r} from the beginning of its names"
    return "give the state dict of the same network, with the names of cnn.to_torch(network)"


def _arguments(network: Network, shapes: Shapes) -> dict[str, object]:
    """Arguments of the class of a network, as far as the shapes of a state dict show them."""
    head, first = ("fc", "conv1") if isinstance(network, ResNet) else ("head", "convolutions.0")
    matrix, kernel = shapes.get(f"{head}.weight", ()), shapes.get(f"{first}.weight", ())
    arguments: dict[str, object] = {}
    if isinstance(network, ResNet) and "layer1.0.conv1.weight" in shapes:
        arguments["depth"] = 50 if "layer1.0.conv3.weight" in shapes else 18
    if len(kernel) == 4:
        if isinstance(network, ConvNet):
            # Shorter names first, so that number 10 is after number 9.
            layers = sorted(shapes, key=lambda name: (len(name), name))
            kernels = [shapes[name] for name in layers if name.startswith("convolutions.")]
            arguments["widths"] = tuple(shape[0] for shape in kernels if shape)
        if isinstance(network, ResNet) and kernel[3] in _STEMS:
            arguments["stem"] = _STEMS[kernel[3]]
        if isinstance(network, ResNet | VGG):
            # Both networks have 64 channels at first, times `width`.
            arguments["width"] = kernel[0] / 64
        arguments["channels"] = kernel[1]
    if len(matrix) == 2:
        arguments |= {"num_classes": matrix[0], "bias": f"{head}.bias" in shapes}
        if isinstance(network, ResNet | VGG):
            arguments["feature_dim"] = matrix[1]
    return arguments
