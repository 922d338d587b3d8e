"""Training of image networks by PyTorch, from the weights that nc_jax starts from."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from flax import nnx
from reports.cnn import EAGER
from torch import nn

from nc_jax import cnn
from peers.flax_training import DECAY, MOMENTUM, RATE, Training, Way, apart, distance
from peers.torch_networks import counterpart


class TorchTraining:
    """The same network and data in PyTorch, as its users train it."""

    def __init__(
        self,
        plain: Training,
        expected: tuple[float, Any],
        dtype: str,
        compiled: str | None,
        layout: Any,
    ):
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.batch = plain.settings.batch_size or len(plain.data.labels)
        state, self.dtype = plain.first, dtype
        network = nnx.merge(plain.settings.graph, state.params, state.rest)
        self.net = counterpart(type(network).__name__, cnn.to_torch(network))
        # The gradient has the structure of the parameters.
        gradient = cnn.to_torch(nnx.merge(plain.settings.graph, expected[1], state.rest))
        names = [name for name, _ in self.net.named_parameters()]
        self.expected = expected[0], [gradient[name] for name in names]
        self.layout = layout
        self.net.to(self.device, memory_format=layout)  # pyright: ignore
        self.start = {name: leaf.clone() for name, leaf in self.net.state_dict().items()}
        self.run: Any = self.net if compiled is None else torch.compile(self.net, mode=compiled)
        # Images are NHWC in memory. Their transposed view NCHW is what PyTorch calls channels last.
        images, labels = (torch.from_numpy(np.array(leaf)) for leaf in plain.data)
        self.images, self.labels = images.to(self.device), labels.long().to(self.device)
        self.optimizer = torch.optim.SGD(
            self.net.parameters(), RATE, MOMENTUM, weight_decay=DECAY, fused=True
        )

    def backward(self, rows: Any) -> Any:
        """Compute the gradient of a batch; return its loss without decay."""
        self.optimizer.zero_grad(set_to_none=True)
        mixed = self.dtype == "bfloat16"
        cast = torch.autocast(self.device, torch.bfloat16) if mixed else contextlib.nullcontext()
        images, labels = self.images[rows].permute(0, 3, 1, 2), self.labels[rows]
        # PyTorch chooses its convolutions by the layout in memory; without this call the images
        # would be channels last also where channels first are timed.
        images = images.contiguous(memory_format=self.layout)
        with cast:
            loss = nn.functional.cross_entropy(self.run(images), labels)
        loss.backward()
        return loss.detach()

    def epoch(self) -> float:
        """Train one epoch; return its mean loss."""
        count = len(self.labels) // self.batch
        order = torch.randperm(len(self.labels), device=self.device)[: count * self.batch]
        # Losses are summed on the device, since the host would wait for every step if it read each.
        total = torch.zeros((), device=self.device)
        for rows in order.reshape(count, self.batch):
            total += self.backward(rows)
            self.optimizer.step()
        if self.device == "cuda":
            torch.cuda.synchronize()
        return float(total) / count

    def check(self) -> tuple[float, float]:
        """Errors of loss and gradient at the first weights, at full precision."""
        self.net.load_state_dict(self.start)
        with full_precision():
            loss = self.backward(torch.arange(self.batch, device=self.device))
        leaves, size = list(self.net.parameters()), 0.0
        gradient = []
        for leaf in leaves:
            assert leaf.grad is not None
            # PyTorch's SGD adds the decay in its step, while the gradient of nc_jax contains it.
            gradient.append((leaf.grad + DECAY * leaf.detach()).cpu().numpy())
            size += float((leaf.detach() ** 2).sum())
        value = float(loss) + DECAY / 2 * size
        return distance(value, self.expected[0]), apart(gradient, self.expected[1])

    def exactly(self) -> tuple[float, float]:
        """The errors of the same computation in float64, from the same float32 numbers."""
        images = self.images
        self.net.double()
        self.images = images.double()
        errors = self.check()
        self.net.float()
        self.images = images
        return errors


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Float32 without TF32. On a GPU both libraries are timed with TF32, which is JAX's default."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True


def torch_ways(
    plain: Training, expected: tuple[float, Any], dtypes: Sequence[str], compiled: bool
) -> Iterator[Way]:
    """PyTorch, eager with channels last; if `compiled`, also with channels first and compiled."""
    # With this setting cuDNN chooses its fastest algorithm by trial.
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    last = torch.channels_last
    ways: list[tuple[str, Any, str | None]] = [(EAGER, last, None)]
    if compiled:
        ways += [
            ("PyTorch, channels first", torch.contiguous_format, None),
            (f"{EAGER}, compiled", last, "default"),
        ]
        if torch.cuda.is_available():
            ways.append((f"{EAGER}, CUDA graphs", last, "reduce-overhead"))
    for dtype in dtypes:
        for name, layout, mode in ways:
            training = TorchTraining(plain, expected, dtype, mode, layout)
            # `torch.compile` needs a compiler of the system and may fail where eager PyTorch runs.
            checks = training.check, training.exactly
            yield Way(name, dtype, training.epoch, *checks, may_fail=mode is not None)
