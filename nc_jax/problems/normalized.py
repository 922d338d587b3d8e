"""Deep homogeneous nets on given inputs, with their layers normalised or not."""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, DTypeLike, Float, Int, Key

from ..checks import check_arrays, check_integer, check_kind, check_number, is_traced, shown
from ..geometry import membership, split_at_label
from ..losses import Exponential, SquaredDistance, has_formulas_of
from ..metrics import Invariant, collapse_metrics, logit_margins
from ..precision import matmul, weak_scalar, widened
from ..state import LastLayer
from .base import AbstractProblem, random_directions, start_norm

Normalization = Literal["lagrange", "weight", "practice", "none", "polar"]
DecayOn = Literal["norm", "layers"]


class SmoothReLU(eqx.Module):
    """(z + √(z² + w²))/2: a ReLU rounded over a width w, for `activation`.

    It has no kinks, only a bend: a stabilised solver then follows a flow that slides along kinks
    with the accuracy of its tolerance. Homogeneous to O(w), and so are the identities that rest on
    homogeneity. docs/relu.md has the measurements.

    Raises: ValueError for a width that is not finite and above 0.

    Example: `NormalizedReLUNet(inputs, targets, (16,), activation=SmoothReLU())`.
    """

    width: float = 1e-6

    def __check_init__(self):
        check_number("width", self.width, above_zero=True)

    def __call__(self, z: Float[Array, "..."]) -> Float[Array, "..."]:
        """The activation, elementwise."""
        return (z + jnp.sqrt(z**2 + self.width**2)) / 2


class Layers(eqx.Module):
    """The weights of a net, as they are or as norms and directions, W_k = ρ_k V_k.

    Attributes:
        matrices: W_k, or V_k where there are norms; the k-th is (outputs, inputs) of layer k.
        norms: (m,) ρ_k of the last m layers, the others having ρ_k = 1; None for the W_k as such.
    """

    matrices: tuple[Float[Array, "_ _"], ...]
    norms: Float[Array, " m"] | None = None

    def radii(self) -> tuple[Float[Array, ""], ...]:
        """ρ_k of every layer, the factors of the matrices."""
        one = jnp.ones((), self.matrices[0].dtype)
        given = () if self.norms is None else tuple(self.norms)
        return (one,) * (len(self.matrices) - len(given)) + given

    def weights(self) -> tuple[Float[Array, "_ _"], ...]:
        """W_k of every layer."""
        if self.norms is None:
            return self.matrices
        return tuple(rho * v for rho, v in zip(self.radii(), self.matrices, strict=True))


class NormalizedReLUNet(AbstractProblem):
    """Deep ReLU net W_L σ(W_{L−1} … σ(W_1 x)) on given samples (Rangamani et al., section 3).

    L = s Σ_n ℓ(ρ f_V(x_n), y_n) + λ·(ρ² or Σ_k ‖W_k‖_F²), with W_k = ρ_k V_k, ‖V_k‖_F = 1,
    ρ = Π_k ρ_k, s = 1/N for reduction "mean" and 1 for "sum". Neither ℓ nor the decay has a ½. The
    state is a `Layers`, and the flow that of gradient descent in the state's own variables. Holding
    arrays, a problem is no static argument: `eqx.filter_jit(problem.gradient)`, or a function that
    closes over it.

    | normalization | state | flow, P_k projecting onto the tangent space of V_k's sphere |
    |---|---|---|
    | `"lagrange"` | (ρ, V_1…V_L) | ρ' = −∂L/∂ρ, V_k' = −P_k ∂L/∂V_k (eqs. 6, 7), ρ_L = ρ |
    | `"weight"` | (ρ_1…ρ_L, V_1…V_L) | ρ_k' = −∂L/∂ρ_k, V_k' = −P_k ∂L/∂V_k (appendix J.1) |
    | `"practice"` | (V_1…V_{L−1}, W_L) | V_k' = −P_k ∂L/∂V_k, W_L' = −∂L/∂W_L (eqs. 70, 71) |
    | `"none"` | (W_1…W_L) | W_k' = −∂L/∂W_k (eq. 48) |
    | `"polar"` | (ρ_1…ρ_L, V_1…V_L) | the same flow of W_k = ρ_k V_k (eqs. 15, 16, 46, 47) |

    ReLU has kinks, along which flows slide while step control goes on halving: give `gradient_flow`
    the solver `RKC()` and a `min_step`, or the net the activation `SmoothReLU()`; docs/relu.md
    compares them.

    Args:
        inputs: (N, d) samples with ‖x_n‖ <= 1.
        targets: (N,) of ±1 for two classes and one output, or (N, C) of which the largest names the
            class: one-hot, or one-hot minus 1/C.
        widths: units of each hidden layer.
        normalization: which variables the state has and what is kept normalised.
        loss: `SquaredDistance()`, or `Exponential()` for two classes.
        reduction: "mean" or "sum".
        weight_decay: λ.
        decay_on: "norm" for λρ², "layers" for λ Σ_k ‖W_k‖².
        activation: σ, elementwise, homogeneous as far as the theory is to hold (ReLU, the identity,
            `SmoothReLU()`). A function defined once compiles once.
        test_inputs, test_targets: samples for `test_error`, of the same kind.

    Raises: ValueError for shapes that do not agree, inputs beyond norm 1, targets that are not ±1,
    have no single largest entry or name fewer than 2 classes, a width < 1, or an option that is
    none of those above.

    Example:

        problem = NormalizedReLUNet(inputs, targets, widths=(16, 16), weight_decay=0.01)
        start = problem.init(jax.random.key(0), norm=0.1)
        gradient_flow(problem, start, jnp.linspace(0, 99, 100), RealTime(), RKC(), min_step=0.1)
    """

    inputs: Float[Array, "N d"]
    targets: Float[Array, "N C"]
    widths: tuple[int, ...] = eqx.field(static=True)
    normalization: Normalization = eqx.field(static=True)
    loss: SquaredDistance | Exponential
    reduction: Literal["mean", "sum"] = eqx.field(static=True)
    weight_decay: float | Float[Array, ""]
    decay_on: DecayOn = eqx.field(static=True)
    activation: Callable[[Array], Array] = eqx.field(static=True)
    test_inputs: Float[Array, "M d"] | None
    test_targets: Float[Array, "M C"] | None

    def __init__(
        self,
        inputs: Float[ArrayLike, "N d"],
        targets: Float[ArrayLike, "N *C"],
        widths: Sequence[int],
        normalization: Normalization = "lagrange",
        loss: SquaredDistance | Exponential = SquaredDistance(),
        reduction: Literal["mean", "sum"] = "mean",
        weight_decay: float | Float[Array, ""] = 0.0,
        decay_on: DecayOn = "norm",
        activation: Callable[[Array], Array] = jax.nn.relu,
        test_inputs: Float[ArrayLike, "M d"] | None = None,
        test_targets: Float[ArrayLike, "M *C"] | None = None,
    ):
        self.inputs, self.targets = _samples("", inputs, targets)
        self.test_inputs, self.test_targets = None, None
        if test_inputs is not None and test_targets is not None:
            self.test_inputs, self.test_targets = _samples("test_", test_inputs, test_targets)
        elif test_inputs is not None or test_targets is not None:
            raise ValueError("test_inputs without test_targets, or the reverse: give both.")
        check_number("weight_decay", weight_decay, scalar=True)
        if not callable(activation):
            raise ValueError(
                f"activation = {shown(activation)}: give a function, such as jax.nn.relu."
            )
        if isinstance(widths, str) or not isinstance(widths, Iterable):
            raise ValueError(
                f"widths = {shown(widths)}: give those of the hidden layers, as (16,)."
            )
        self.widths = tuple(check_integer(f"widths[{i}]", w) for i, w in enumerate(widths))
        self.normalization = normalization
        self.loss = loss
        self.reduction = reduction
        self.weight_decay = weak_scalar(weight_decay)
        self.decay_on = decay_on
        self.activation = activation

    def __check_init__(self):
        for name, value, kinds in (
            ("normalization", self.normalization, get_args(Normalization)),
            ("reduction", self.reduction, ("mean", "sum")),
            ("decay_on", self.decay_on, get_args(DecayOn)),
        ):
            if value not in kinds:
                raise ValueError(f"{name} = {value!r}: give one of {', '.join(map(repr, kinds))}.")
        if not any(has_formulas_of(self.loss, kind) for kind in (SquaredDistance, Exponential)):
            raise ValueError(f"loss = {self.loss!r}: give SquaredDistance() or Exponential().")
        if isinstance(self.loss, Exponential) and not self.binary:
            raise ValueError(
                f"loss = Exponential() with {self.num_outputs} outputs: give targets of shape "
                "(N,), or SquaredDistance()."
            )
        if self.test_inputs is None or self.test_targets is None:
            return
        mine = self.inputs.shape[1], self.num_outputs
        theirs = self.test_inputs.shape[1], self.test_targets.shape[1]
        if mine != theirs:
            raise ValueError(
                f"test samples have {theirs[0]} inputs and {theirs[1]} outputs where the training "
                f"samples have {mine[0]} and {mine[1]}: give the same of both."
            )

    @property
    def num_samples(self) -> int:
        """N, over all classes."""
        return self.inputs.shape[0]

    @property
    def num_layers(self) -> int:
        """L."""
        return len(self.widths) + 1

    @property
    def num_outputs(self) -> int:
        """Outputs of the net: 1 for two classes told apart by sign, else the number of classes."""
        return self.targets.shape[1]

    @property
    def binary(self) -> bool:
        """Whether there is one output, with targets ±1."""
        return self.num_outputs == 1

    @property
    def labels(self) -> Int[Array, " N"]:
        """Class of each sample, (N,) int32: of the largest target; 0 for −1, 1 for +1."""
        return _labels(self.targets)

    @property
    def loss_scale(self) -> float:
        """s in L = s Σ ℓ: 1/N for the mean, 1 for the sum."""
        return 1 / self.num_samples if self.reduction == "mean" else 1.0

    def init(
        self,
        key: Key[Array, ""],
        norm: Float[ArrayLike, ""] = 1.0,
        dtype: DTypeLike = float,
    ) -> Layers:
        """Gaussian directions of Frobenius norm 1, times `norm` where a layer is not normalised.

        So ρ = norm for "lagrange" and "practice", norm^L for the others.

        Raises: ValueError for a raw (untyped) key or a norm that is negative or not finite, or 0
        for "polar", where directions would turn infinitely fast.
        """
        scale = start_norm(key, norm, dtype, above_zero=self.normalization == "polar")
        sizes = (self.inputs.shape[1], *self.widths, self.num_outputs)
        norms = [jnp.ones_like(scale)] * self.num_layers
        if self.normalization == "none":
            norms = [scale] * self.num_layers
        if self.normalization == "practice":
            norms[-1] = scale
        shapes = tuple(zip(sizes[1:], sizes[:-1], strict=True))
        keys = jax.random.split(key, self.num_layers)
        matrices = random_directions(keys, shapes, jnp.stack(norms))
        if self.normalization in ("none", "practice"):
            return Layers(matrices)
        count = 1 if self.normalization == "lagrange" else self.num_layers
        return Layers(matrices, jnp.full(count, scale))

    def features(self, state: Layers, inputs: Float[Array, "N d"]) -> Float[Array, "N p"]:
        """What the last layer reads, σ(W_{L−1} … σ(W_1 x)), at any inputs."""
        state, inputs = widened((self._checked(state), inputs))
        for weight in state.weights()[:-1]:
            inputs = self.activation(matmul(inputs, weight.T))
        return inputs

    def outputs(self, state: Layers, inputs: Float[Array, "N d"]) -> Float[Array, "N C"]:
        """ρ f_V(x) = f_W(x) at any inputs."""
        state = self._checked(state)
        return matmul(self.features(state, inputs), state.weights()[-1].T)

    def last_layer(self, state: Layers) -> LastLayer:
        """Features of the samples under the last layer, as metrics read them.

        A single output z stands for the logits (−z/2, z/2), whose margin is y z.
        """
        state = self._checked(state)
        classifier = state.weights()[-1]
        if self.binary:
            classifier = jnp.concatenate([-classifier, classifier]) / 2
        return LastLayer(self.features(state, self._typed(self.inputs, state)), classifier)

    def objective(self, state: Layers) -> Float[Array, ""]:
        """L, scalar."""
        state = self._checked(state)
        outputs, targets = self._outputs_and_targets(state)
        data = self.loss_scale * jnp.sum(self.loss.value(outputs, targets))
        return data + self._penalty(state)

    def log_objective(self, state: Layers) -> Float[Array, ""]:
        """log L, finite long after an exponential loss has underflowed; −inf where L is 0."""
        state = self._checked(state)
        outputs, targets = self._outputs_and_targets(state)
        data = jax.nn.logsumexp(self.loss.log_value(outputs, targets))
        data += math.log(self.loss_scale)
        if self._undecayed:
            return data
        penalty = self._penalty(state)
        # Where λ is an array that is 0, log 0 would have a NaN for a derivative.
        both = jnp.logaddexp(data, jnp.log(jnp.where(penalty > 0, penalty, 1)))
        return jnp.where(penalty > 0, both, data)

    def gradient(self, state: Layers) -> Layers:
        """Minus the flow: ∇L where nothing is constrained, else its tangential part."""
        return self._gradient(state, 0.0)

    def scaled_descent(self, state: Layers, log_scale: Float[ArrayLike, ""]) -> Layers:
        """e^log_scale times the flow, the exponential loss scaled in log space."""
        return jax.tree.map(jnp.negative, self._gradient(state, log_scale))

    def retract(self, state: Layers) -> Layers:
        """The state with its directions scaled back to ‖V_k‖_F = 1."""
        matrices = tuple(
            matrix / jnp.linalg.norm(matrix) if on_sphere else matrix
            for matrix, on_sphere in zip(state.matrices, self._on_sphere, strict=True)
        )
        return Layers(matrices, state.norms)

    def on_samples(self, samples: Int[Array, " B"]) -> "NormalizedReLUNet":
        """The same problem on these samples alone, for descent in small batches.

        The decay is whole in each: for reduction "mean" batches average to the gradient of all; for
        "sum" the decay counts N/B times as much.
        """
        return eqx.tree_at(
            lambda problem: (problem.inputs, problem.targets),
            self,
            (jnp.asarray(self.inputs)[samples], jnp.asarray(self.targets)[samples]),
        )

    def multipliers(self, state: Layers) -> Float[Array, " c"]:
        """ν_k = ½⟨V_k, −∂L/∂V_k⟩/‖V_k‖² of every constraint ‖V_k‖² = 1 (eqs. 5 and 69), shape (c,).

        All L of "lagrange" and the first L − 1 of "practice", where the decay takes λ off (λρ² with
        the decay on ρ); none of the others. For the mean square loss (1/N) Σ ρf̄(1 − ρf̄) without the
        decay. Each is computed on its own: that they are equal is a property of the flow.
        """
        state = self._checked(state)
        if self.normalization not in ("lagrange", "practice"):
            return jnp.zeros(0, state.matrices[0].dtype)
        matrices, weights = state.matrices, state.weights()
        slopes, rates = self._slopes(state, 0.0), self._decay_rates(state, 0.0)
        along = [
            -_inner(slope, weight) / _inner(v, v)
            for slope, weight, v in zip(slopes, weights, matrices, strict=True)
        ]
        if self.normalization == "lagrange":
            return jnp.stack(along) / 2
        return jnp.stack([a - rate for a, rate in zip(along[:-1], rates[:-1], strict=True)]) / 2

    def observe(self, state: Layers) -> dict[str, Float[Array, "..."]]:
        """What the paper follows, and every collapse metric of the last layer.

        | key | definition |
        |---|---|
        | `objective`, `log_objective` | L and its logarithm |
        | `norm`, `layer_norms` | abs(ρ) = Π abs(ρ_k); (L,) all abs(ρ_k) |
        | `margins` | (N,) f̄_n = y_n f(x_n)/ρ; of C outputs that over the next class, over ρ |
        | `mean_margin`, `second_moment`, `margin_std` | μ, M, σ (section 3.4.1) |
        | `equilibrium_norm` | ρ_eq = μ/(M + λ) (eq. 11), square loss with decay λρ² |
        | `lemma_9_residual` | L − (1/N) Σ‖y‖² + ρ(μ + ρ'/2) (lemma 9), "lagrange" with the same |
        | `multipliers` | ν_k, where there are constraints |
        | `interpolation_gap` | ε = mean of y_n^c − f_n^c at the true class c |
        | `interpolation_spread` | largest deviation of an output from assumption 1 with that ε |
        | `train_error`, `test_error` | shares classified wrongly |

        ρ may change sign on the way: what is over ρ is over `norm`, so that margins are of the net
        as it stands; at ρ = 0 they are NaN. For C outputs μ and σ are mean and deviation of
        ⟨y_n, f_n⟩, and M is the mean of ‖f_n‖². The sum has Nμ, NM in the place of μ, M in ρ_eq and
        lemma 9.
        """
        state = self._checked(state)
        outputs, targets = self._outputs_and_targets(state)
        layer_norms = jnp.sqrt(jnp.stack(self._squared_norms(state)))
        norm = jnp.prod(layer_norms)
        margins = _margins(outputs, self.labels)
        alignment = jnp.sum(targets * outputs, axis=1) / norm
        gap = jnp.mean(_at_label(targets - outputs, self.labels))
        seen = {
            "objective": self.objective(state),
            "log_objective": self.log_objective(state),
            "norm": norm,
            "layer_norms": layer_norms,
            "margins": margins / norm,
            "mean_margin": jnp.mean(alignment),
            "second_moment": jnp.mean(jnp.sum((outputs / norm) ** 2, axis=1)),
            "margin_std": jnp.std(alignment),
            "interpolation_gap": gap,
            "interpolation_spread": jnp.max(jnp.abs(outputs - self._assumed(targets, gap))),
            "train_error": jnp.mean((margins <= 0).astype(margins.dtype)),
            **self._theory(state, alignment, outputs / norm, norm),
            **collapse_metrics(self.last_layer(state), self.labels),
        }
        multipliers = self.multipliers(state)
        if multipliers.size:
            seen["multipliers"] = multipliers
        if self.test_inputs is not None and self.test_targets is not None:
            outputs = self.outputs(state, self._typed(self.test_inputs, state))
            seen["test_error"] = jnp.mean(
                (_margins(outputs, _labels(self.test_targets)) <= 0).astype(margins.dtype)
            )
        return seen

    def invariants(self, state: Layers) -> dict[str, Invariant]:
        """What the flow keeps of the norms.

        `direction_norms`: ‖V_k‖² = 1 where there are directions. `layer_balance`: ‖W_k‖² −
        ‖W_{k+1}‖² for "none", "polar" and "weight" (lemma 10), falling as e^(−4λt) with the decay
        on the layers and conserved with the decay on ρ (errata E36 to E38). `unit_balance`, "none"
        and "polar": the same of each hidden unit's incoming and outgoing weights, where the decay
        is not on ρ.
        """
        state = self._checked(state)
        kept, one = {}, jnp.ones((), state.matrices[0].dtype)
        on_spheres = zip(state.matrices, self._on_sphere, strict=True)
        directions = [_inner(v, v) for v, on_sphere in on_spheres if on_sphere]
        if directions:
            kept["direction_norms"] = Invariant(jnp.stack(directions), one)
        if self.normalization in ("lagrange", "practice") or self.num_layers == 1:
            return kept
        rate = 4 * self.weight_decay if self.decay_on == "layers" else 0.0
        weights, squares = state.weights(), jnp.stack(self._squared_norms(state))
        kept["layer_balance"] = Invariant(squares[:-1] - squares[1:], jnp.sum(squares), rate)
        if self.normalization != "weight" and (self.decay_on == "layers" or self._undecayed):
            pairs = itertools.pairwise(weights)
            units = [jnp.sum(w**2, axis=1) - jnp.sum(after**2, axis=0) for w, after in pairs]
            kept["unit_balance"] = Invariant(jnp.concatenate(units), jnp.sum(squares), rate)
        return kept

    @property
    def comes_to_rest(self) -> bool:
        """Not the exponential loss without decay, under which the norm grows for ever."""
        return not (self.loss.finite_at_any_scale and self._undecayed)

    def largest_log_scale(self, dtype: DTypeLike) -> float:
        """Infinite for the exponential loss without decay, else log of the largest number."""
        if not self.comes_to_rest:
            return np.inf
        return np.log(np.finfo(dtype).max).item()

    @property
    def _undecayed(self) -> bool:
        """Whether λ is known to be 0."""
        return isinstance(self.weight_decay, float) and self.weight_decay == 0

    @property
    def _on_sphere(self) -> tuple[bool, ...]:
        """Whether each matrix of the state is kept at Frobenius norm 1."""
        if self.normalization == "practice":
            return (True,) * (self.num_layers - 1) + (False,)
        return (self.normalization != "none",) * self.num_layers

    def _typed(self, samples: Float[ArrayLike, "N _"], state: Layers) -> Float[Array, "N _"]:
        """Samples in the dtype of the state, which every computation follows."""
        return jnp.asarray(samples, state.matrices[0].dtype)

    def _outputs_and_targets(
        self, state: Layers
    ) -> tuple[Float[Array, "N C"], Float[Array, "N C"]]:
        outputs = self.outputs(state, self._typed(self.inputs, state))
        return outputs, self._typed(self.targets, state)

    def _checked(self, state: Layers) -> Layers:
        """The state in a dtype to compute in; ValueError for another kind or number of layers."""
        check_kind("state", state, Layers, "problem.init(key)")
        check_arrays("state", state)
        if len(state.matrices) != self.num_layers:
            raise ValueError(
                f"state has {len(state.matrices)} layers where the problem has {self.num_layers}; "
                "pass a state like problem.init(key)."
            )
        return widened(state)

    def _squared_norms(self, state: Layers) -> list[Float[Array, ""]]:
        """ρ_k², of the polar variables as they stand."""
        if state.norms is not None:
            return [rho**2 for rho in state.radii()]
        return [_inner(weight, weight) for weight in state.matrices]

    def _penalty(self, state: Layers) -> Float[Array, ""]:
        squares = self._squared_norms(state)
        return self.weight_decay * jnp.asarray(
            math.prod(squares) if self.decay_on == "norm" else sum(squares)
        )

    def _decay_rates(
        self, state: Layers, log_scale: Float[ArrayLike, ""]
    ) -> list[Float[ArrayLike, ""]]:
        """e^log_scale · 2 ∂(penalty)/∂ρ_k², by products of the others: a norm may be 0."""
        if self._undecayed:  # e^log_scale may be infinite
            return [0.0] * self.num_layers
        rate = 2 * jnp.exp(log_scale) * self.weight_decay
        if self.decay_on == "layers":
            return [rate] * self.num_layers
        squares = self._squared_norms(state)
        return [rate * math.prod(squares[:k] + squares[k + 1 :]) for k in range(len(squares))]

    def _slopes(
        self, state: Layers, log_scale: Float[ArrayLike, ""]
    ) -> tuple[Float[Array, "_ _"], ...]:
        """e^log_scale times the derivative of the loss, without the decay, in every W_k."""
        inputs = self._typed(self.inputs, state)
        outputs, pull_back = jax.vjp(
            lambda weights: self.outputs(Layers(weights), inputs), state.weights()
        )
        scale = log_scale + math.log(self.loss_scale)
        targets = self._typed(self.targets, state)
        return pull_back(self.loss.scaled_gradient(outputs, targets, scale))[0]

    def _gradient(self, state: Layers, log_scale: Float[ArrayLike, ""]) -> Layers:
        """e^log_scale times minus the velocity of the state's variables: the table of the class."""
        state = self._checked(state)
        slopes, rates = self._slopes(state, log_scale), self._decay_rates(state, log_scale)
        norms, radii = state.norms, state.radii()
        if norms is None:
            full = [g + rate * w for g, rate, w in zip(slopes, rates, state.matrices, strict=True)]
            parts = zip(full, state.matrices, self._on_sphere, strict=True)
            return Layers(tuple(_tangent(g, w) if kept else g for g, w, kept in parts))
        polar = self.normalization == "polar"
        # Scaled before `_tangent`, whose pull to the sphere must not change sign with ρ_k.
        turns = [
            _tangent(g / rho if polar else rho * g, v)
            for g, v, rho in zip(slopes, state.matrices, radii, strict=True)
        ]
        along = [
            _inner(g, v) + rate * rho
            for g, v, rate, rho in zip(slopes, state.matrices, rates, radii, strict=True)
        ]
        return Layers(tuple(turns), jnp.stack(along[-len(norms) :]))

    def _theory(
        self,
        state: Layers,
        alignment: Float[Array, " N"],
        normalized: Float[Array, "N C"],
        norm: Float[Array, ""],
    ) -> dict[str, Float[Array, ""]]:
        """Equation 11 and lemma 9, for what they are stated for."""
        constrained = self.normalization in ("lagrange", "practice")
        if not (self.decay_on == "norm" or constrained) or isinstance(self.loss, Exponential):
            return {}
        total = self.loss_scale * jnp.sum(alignment)  # sN μ
        squares = self.loss_scale * jnp.sum(normalized**2)  # sN M
        seen = {"equilibrium_norm": total / (squares + self.weight_decay)}
        if state.norms is not None and self.normalization == "lagrange":
            field = self.scaled_descent(state, 0.0)
            assert field.norms is not None
            at_zero = self.loss_scale * jnp.sum(self._typed(self.targets, state) ** 2)
            # With decay on the layers, what it takes of those of norm 1.
            at_zero += self._penalty(state) - self.weight_decay * norm**2
            claimed = at_zero - norm * total - state.norms[0] * field.norms[0] / 2
            seen["lemma_9_residual"] = self.objective(state) - claimed
        return seen

    def _assumed(self, targets: Float[Array, "N C"], gap: Float[Array, ""]) -> Float[Array, "N C"]:
        """Outputs of assumption 1: each target lowered by ε at its class, raised by ε/(C−1) beside.

        For one output y(1 − ε): twice those of two with targets ±½ and gap ε/2.
        """
        if self.binary:
            return targets * (1 - gap)
        others = gap / (self.num_outputs - 1)
        return targets + jnp.where(membership(self.labels, self.num_outputs), -gap, others)


def _samples(
    prefix: str, inputs: ArrayLike, targets: ArrayLike
) -> tuple[Float[Array, "N d"], Float[Array, "N C"]]:
    """Checked inputs (N, d) and targets (N, C)."""
    for name, values in (("inputs", inputs), ("targets", targets)):
        check_number(prefix + name, values, signed=True)
    shapes = np.shape(inputs), np.shape(targets)
    if len(shapes[0]) != 2 or len(shapes[1]) not in (1, 2) or shapes[0][0] != shapes[1][0]:
        raise ValueError(
            f"{prefix}inputs have shape {shapes[0]} and {prefix}targets {shapes[1]}: give (N, d) "
            "and (N,) or (N, C)."
        )
    if not is_traced(inputs):
        largest = float(np.max(np.linalg.norm(np.asarray(inputs, float), axis=1), initial=0.0))
        if not largest <= 1 + 1e-5:
            raise ValueError(
                f"{prefix}inputs have norms up to {largest:g}: scale them to at most 1, as "
                "inputs / largest norm."
            )
    if not is_traced(targets):
        _check_targets(prefix, np.asarray(targets))
    x, y = widened(inputs), widened(targets)
    return x, y[:, None] if y.ndim == 1 else y


def _check_targets(prefix: str, targets: np.ndarray) -> None:
    signs = targets.ndim == 1 or targets.shape[1] == 1
    if signs and not np.all(np.abs(targets) == 1):
        raise ValueError(
            f"{prefix}targets hold {targets[np.abs(targets) != 1][0]:g}: give ±1, or (N, C) with "
            "one column for each of 2 or more classes."
        )
    if not signs:
        # NaN equals nothing, so that its row has no largest target either.
        largest = np.sum(targets == np.max(targets, axis=1, keepdims=True), axis=1)
        if np.any(largest != 1):
            row = int(np.argmax(largest != 1))
            raise ValueError(
                f"{prefix}targets: row {row} = {targets[row].tolist()} has no single largest "
                "entry, which names the class; give one-hot rows."
            )
    present = np.unique(targets if signs else np.argmax(targets, axis=1)).size
    wanted = 2 if signs else targets.shape[1]
    if not prefix and present < wanted:
        raise ValueError(
            f"targets name {present} of {wanted} classes: every class needs 1 or more samples."
        )


def _labels(targets: Float[Array, "N C"]) -> Int[Array, " N"]:
    if targets.shape[1] == 1:
        return (targets[:, 0] > 0).astype(jnp.int32)
    return jnp.argmax(targets, axis=1).astype(jnp.int32)


def _margins(outputs: Float[Array, "N C"], labels: Int[Array, " N"]) -> Float[Array, " N"]:
    """y z of one output; of several, that of the class over the next."""
    if outputs.shape[1] == 1:
        return _at_label(outputs, labels)
    return logit_margins(outputs, labels)


def _at_label(values: Float[Array, "N C"], labels: Int[Array, " N"]) -> Float[Array, " N"]:
    """The entry of each row at its class; of one column, y times it."""
    if values.shape[1] == 1:
        return jnp.where(labels == 1, values[:, 0], -values[:, 0])
    return split_at_label(values, labels)[0]


def _inner(left: Float[Array, "m n"], right: Float[Array, "m n"]) -> Float[Array, ""]:
    return jnp.sum(left * right)


def _tangent(slope: Float[Array, "m n"], matrix: Float[Array, "m n"]) -> Float[Array, "m n"]:
    """The part of a slope that turns the matrix, and what keeps its norm at 1.

    Equation 7 pulls the norm to 1 where ν > 0 and away from it where ν < 0, as d‖V‖²/dt = 4ν(1 −
    ‖V‖²). Here it is pulled at the speed of the turning: errors of an integration fade with the
    way V has gone, and ‖V‖ = 1 is left alone.
    """
    square = _inner(matrix, matrix)
    turn = slope - _inner(slope, matrix) / square * matrix
    # Off zero by the least number, where the root has no derivative.
    speed = jnp.sqrt(_inner(turn, turn) + jnp.finfo(turn.dtype).tiny)
    return turn + speed * (square - 1) * matrix
