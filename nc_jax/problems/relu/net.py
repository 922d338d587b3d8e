"""Deep ReLU nets on given samples, as problems."""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, DTypeLike, Float, Int, Key

from ...checks import check_arrays, check_integer, check_kind, check_number, shown
from ...losses import SquaredDistance, TargetLoss
from ...measures import Invariant, collapse_metrics
from ...precision import largest_exponent, matmul, weak_scalar, widened
from ...starts import checked_norm, gaussian_directions
from ...state import LastLayer
from ..base import AbstractProblem
from ..penalties import log_with_penalty
from ..reduction import check_reduction, loss_scale_of
from .decays import AbstractDecayTarget, WholeNorm
from .layers import Layers, inner
from .observables import classification_error, norms_and_margins
from .parametrizations import AbstractParametrization, Lagrange, Rates
from .propagation import propagate, remedy_of_kinks
from .samples import check_samples, classes_of

_PARAMETRIZATIONS = "Lagrange(), WeightNormalization(), UsualPractice(), Cartesian() or Polar()"


class NormalizedReLUNet(AbstractProblem):
    """Deep ReLU net W_L σ(W_{L−1} … σ(W_1 x)) on given samples (Rangamani et al., section 3).

    L = s Σ_n ℓ(ρ f_V(x_n), y_n) + λ·(ρ² or Σ_k ‖W_k‖_F²), with W_k = ρ_k V_k, ‖V_k‖_F = 1,
    ρ = Π_k ρ_k, s = 1/N for reduction "mean" and 1 for "sum". Neither ℓ nor the decay has a factor
    ½. The state is a `Layers`. Its variables, and with them the flow, are those of the
    parametrisation: `nc_jax.problems.relu.parametrizations` has the table.

    A ReLU has kinks. Where a flow slides along a kink, step control halves the step size again and
    again. Give `gradient_flow` the solver `RKC()` and a `min_step`, or give the net the activation
    `SmoothReLU()`; docs/relu.md compares both.

    A problem that holds arrays is no static argument of `jax.jit`. Use
    `eqx.filter_jit(problem.gradient)`, or `jax.jit` of a function that closes over the problem.

    Args:
        inputs: (N, d) samples with ‖x_n‖ <= 1.
        targets: (N,) of ±1 for two classes and one output, or (N, C), where the largest entry of a
            row names the class: one-hot rows, or one-hot rows minus 1/C.
        widths: number of units of each hidden layer.
        parametrization: variables of the state: `relu.Lagrange()`, `relu.WeightNormalization()`,
            `relu.UsualPractice()`, `relu.Cartesian()` or `relu.Polar()` of `nc_jax.problems`.
        loss: `SquaredDistance()`, `Exponential()` for two classes, or another
            `nc_jax.losses.TargetLoss`.
        reduction: "mean" or "sum".
        weight_decay: λ.
        decay_on: `relu.WholeNorm()` for λρ², `relu.EachLayer()` for λ Σ_k ‖W_k‖².
        activation: σ, applied to every entry. The theory needs a homogeneous function, such as
            ReLU, the identity or, approximately, `SmoothReLU()`. Pass the same function object in
            every call: a new one is compiled anew.
        test_inputs, test_targets: samples for `test_error`, of the same kind.

    Raises: ValueError for shapes that do not agree, inputs of a norm above 1, targets that are not
    ±1, have no single largest entry or name fewer than 2 classes, a width < 1, or an argument of
    another kind than those above.

    Example: the descent direction lowers the objective.

        >>> inputs, signs = np.eye(3), np.array([1.0, -1.0, 1.0])
        >>> net = nc.NormalizedReLUNet(inputs, signs, widths=(4,), weight_decay=0.01)
        >>> state = net.init(jax.random.key(0), norm=0.1)
        >>> step = jax.tree.map(lambda x, v: x + 0.01 * v, state, net.scaled_descent(state, 0.0))
        >>> bool(net.objective(step) < net.objective(state))
        True
    """

    # Samples are leaves of the pytree, because static fields must be hashable and arrays are not.
    # The activation is static, because a function is no argument of a compiled program.
    inputs: Float[Array, "N d"]
    targets: Float[Array, "N C"]
    widths: tuple[int, ...] = eqx.field(static=True)
    parametrization: AbstractParametrization
    loss: TargetLoss
    reduction: Literal["mean", "sum"] = eqx.field(static=True)
    weight_decay: float | Float[Array, ""]
    decay_on: AbstractDecayTarget
    activation: Callable[[Array], Array] = eqx.field(static=True)
    test_inputs: Float[Array, "M d"] | None
    test_targets: Float[Array, "M C"] | None

    def __init__(
        self,
        inputs: Float[ArrayLike, "N d"],
        targets: Float[ArrayLike, "N *C"],
        widths: Sequence[int],
        *,
        parametrization: AbstractParametrization = Lagrange(),
        loss: TargetLoss = SquaredDistance(),
        reduction: Literal["mean", "sum"] = "mean",
        weight_decay: float | Float[Array, ""] = 0.0,
        decay_on: AbstractDecayTarget = WholeNorm(),
        activation: Callable[[Array], Array] = jax.nn.relu,
        test_inputs: Float[ArrayLike, "M d"] | None = None,
        test_targets: Float[ArrayLike, "M *C"] | None = None,
    ):
        self.inputs, self.targets = check_samples("", inputs, targets)
        self.test_inputs, self.test_targets = None, None
        if test_inputs is not None and test_targets is not None:
            self.test_inputs, self.test_targets = check_samples("test_", test_inputs, test_targets)
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
        self.parametrization = parametrization
        self.loss = loss
        self.reduction = reduction
        self.weight_decay = weak_scalar(weight_decay)
        self.decay_on = decay_on
        self.activation = activation

    def __check_init__(self):
        for name, value, kind, accepted in (
            ("parametrization", self.parametrization, AbstractParametrization, _PARAMETRIZATIONS),
            ("decay_on", self.decay_on, AbstractDecayTarget, "WholeNorm() or EachLayer()"),
        ):
            if not isinstance(value, kind):
                raise ValueError(
                    f"{name} = {shown(value)}: give {accepted} of nc_jax.problems.relu."
                )
        check_reduction(self.reduction)
        if not isinstance(self.loss, TargetLoss):
            raise ValueError(f"loss = {shown(self.loss)}: give SquaredDistance() or Exponential().")
        if self.loss.needs_single_output and not self.binary:
            raise ValueError(
                f"loss = {self.loss!r} with {self.num_outputs} outputs: give targets of shape "
                "(N,), or SquaredDistance()."
            )
        self.loss.check_targets(self.targets)
        if self.test_inputs is None or self.test_targets is None:
            return
        training = self.inputs.shape[1], self.num_outputs
        test = self.test_inputs.shape[1], self.test_targets.shape[1]
        if training != test:
            raise ValueError(
                f"test samples have {test[0]} inputs and {test[1]} outputs where the training "
                f"samples have {training[0]} and {training[1]}: give the same of both."
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
        """Number of outputs: 1 for two classes, which are the signs of the output, else C."""
        return self.targets.shape[1]

    @property
    def binary(self) -> bool:
        """Whether there is one output, with targets ±1."""
        return self.num_outputs == 1

    @property
    def labels(self) -> Int[Array, " N"]:
        """Class of each sample, (N,) int32: 0 for −1, 1 for +1, or that of the largest target."""
        return classes_of(self.targets)

    @property
    def loss_scale(self) -> float:
        """s in L = s Σ ℓ: 1/N for the mean, 1 for the sum."""
        return loss_scale_of(self.reduction, self.num_samples)

    def init(
        self,
        key: Key[Array, ""],
        norm: Float[ArrayLike, ""] = 1.0,
        *,
        dtype: DTypeLike = float,
    ) -> Layers:
        """Gaussian directions of Frobenius norm 1, times `norm` where a layer is not on a sphere.

        Hence ρ = norm for `Lagrange` and `UsualPractice`, and norm^L for the others.

        Raises: ValueError for a raw (untyped) key or a norm that is negative or not finite, or 0
        for `Polar`, where the velocity of a direction would be infinite.
        """
        above_zero = self.parametrization.divides_by_norm
        scale = checked_norm(key, norm, dtype, above_zero=above_zero)
        one, on_spheres = jnp.ones_like(scale), self.parametrization.on_spheres(self.num_layers)
        lengths = [one if on_sphere else scale for on_sphere in on_spheres]
        sizes = (self.inputs.shape[1], *self.widths, self.num_outputs)
        shapes = tuple(zip(sizes[1:], sizes[:-1], strict=True))
        keys = jax.random.split(key, self.num_layers)
        matrices = gaussian_directions(keys, shapes, jnp.stack(lengths))
        count = self.parametrization.num_norms(self.num_layers)
        return Layers(matrices, jnp.full(count, scale) if count else None)

    def features(self, state: Layers, inputs: Float[Array, "N d"]) -> Float[Array, "N p"]:
        """Inputs of the last layer, σ(W_{L−1} … σ(W_1 x)), at any x."""
        state, inputs = widened((self._checked(state), inputs))
        return propagate(inputs, state.weights()[:-1], self.activation)[0]

    def outputs(self, state: Layers, inputs: Float[Array, "N d"]) -> Float[Array, "N C"]:
        """ρ f_V(x) = f_W(x) at any x."""
        state = self._checked(state)
        return matmul(self.features(state, inputs), state.weights()[-1].T)

    def outputs_and_targets(self, state: Layers) -> tuple[Float[Array, "N C"], Float[Array, "N C"]]:
        """Outputs at the training samples and their targets, in the dtype of the state."""
        outputs = self.outputs(state, self.in_dtype_of(state, self.inputs))
        return outputs, self.in_dtype_of(state, self.targets)

    def last_layer(self, state: Layers) -> LastLayer:
        """Features of the samples with the last layer as classifier, which metrics read.

        A single output z stands for the logits (−z/2, z/2), whose margin is y z.
        """
        state = self._checked(state)
        classifier = state.weights()[-1]
        if self.binary:
            classifier = jnp.concatenate([-classifier, classifier]) / 2
        return LastLayer(self.features(state, self.in_dtype_of(state, self.inputs)), classifier)

    def objective(self, state: Layers) -> Float[Array, ""]:
        """L, scalar."""
        state = self._checked(state)
        outputs, targets = self.outputs_and_targets(state)
        data = self.loss_scale * jnp.sum(self.loss.value(outputs, targets))
        return data + self.penalty(state)

    def log_objective(self, state: Layers) -> Float[Array, ""]:
        """log L, finite where an exponential loss underflows to 0; −inf where L is 0."""
        state = self._checked(state)
        outputs, targets = self.outputs_and_targets(state)
        data = jax.nn.logsumexp(self.loss.log_value(outputs, targets))
        data += math.log(self.loss_scale)
        return data if self._undecayed else log_with_penalty(data, self.penalty(state))

    def penalty(self, state: Layers) -> Float[Array, ""]:
        """λρ² or λ Σ_k ‖W_k‖², scalar."""
        return self.weight_decay * self.decay_on.penalty(state)

    def gradient(self, state: Layers) -> Layers:
        """Minus the velocity of the flow: ∇L for `Cartesian`, else by the parametrisation."""
        return self._scaled_gradient(state, 0.0)

    def scaled_descent(self, state: Layers, log_scale: Float[ArrayLike, ""]) -> Layers:
        """e^log_scale times the flow; an exponential loss is scaled in log space."""
        return jax.tree.map(jnp.negative, self._scaled_gradient(state, log_scale))

    def retract(self, state: Layers) -> Layers:
        """The state with its directions scaled to ‖V_k‖_F = 1."""
        on_spheres = self.parametrization.on_spheres(self.num_layers)
        matrices = tuple(
            matrix / jnp.linalg.norm(matrix) if on_sphere else matrix
            for matrix, on_sphere in zip(state.matrices, on_spheres, strict=True)
        )
        return Layers(matrices, state.norms)

    def on_samples(self, samples: Int[Array, " B"]) -> "NormalizedReLUNet":
        """The same problem on these samples alone, for descent on small batches.

        Each batch has the whole decay. For reduction "mean" the gradients of the batches average to
        the gradient on all samples; for "sum" the decay counts N/B times as much.
        """
        # `tree_at` and not `__init__`, which refuses samples that lack a class.
        return eqx.tree_at(
            lambda problem: (problem.inputs, problem.targets),
            self,
            (jnp.asarray(self.inputs)[samples], jnp.asarray(self.targets)[samples]),
        )

    def multipliers(self, state: Layers) -> Float[Array, " c"]:
        """ν_k = ½⟨V_k, −∂L/∂V_k⟩/‖V_k‖² of the constraints ‖V_k‖² = 1 (eqs. 5 and 69), shape (c,).

        `Lagrange` has one for each of the L layers, `UsualPractice` one for each of the first
        L − 1, and the other parametrisations have none. For `UsualPractice` the decay subtracts λ,
        or λρ² with `WholeNorm`. For the mean square loss without decay each ν_k is
        (1/N) Σ ρf̄(1 − ρf̄). It is computed from its layer alone, so that their equality, which the
        theory claims, can be tested.
        """
        state = self._checked(state)
        if not self.parametrization.has_multipliers:
            return jnp.zeros(0, state.matrices[0].dtype)
        slopes, rates = self._slopes(state, 0.0), self._decay_rates(state, 0.0)
        return self.parametrization.multipliers(state, slopes, rates)

    def observe(self, state: Layers) -> dict[str, Float[Array, "..."]]:
        """The quantities of the paper, and every collapse metric of the last layer.

        | key | definition |
        |---|---|
        | `objective`, `log_objective` | L and its logarithm |
        | `norm`, `layer_norms` | abs(ρ) = Π abs(ρ_k); (L,) all abs(ρ_k) |
        | `margins` | (N,) f̄_n = y_n f(x_n)/ρ; of C outputs that over the next class, over ρ |
        | `mean_margin`, `second_moment`, `margin_std` | μ, M, σ (section 3.4.1) |
        | `equilibrium_norm` | ρ_eq = μ/(M + λ) (eq. 11), for the square loss; see below |
        | `lemma_9_residual` | L − (1/N) Σ‖y‖² + ρ(μ + ρ'/2) (lemma 9), square loss and `Lagrange` |
        | `multipliers` | ν_k, where there are constraints |
        | `interpolation_gap` | ε = mean of y_n^c − f_n^c at the true class c |
        | `interpolation_spread` | largest deviation of an output from assumption 1 with that ε |
        | `train_error`, `test_error` | shares classified wrongly |

        ρ may change its sign along a flow. Quantities over ρ are therefore divided by `norm`, which
        is abs(ρ), so that a margin is positive where the net is right; at ρ = 0 they are NaN. For C
        outputs μ and σ are mean and deviation of ⟨y_n, f_n⟩, and M is the mean of ‖f_n‖². For
        reduction "sum" ρ_eq and lemma 9 have Nμ, NM in the place of μ, M. `equilibrium_norm` is
        recorded with `WholeNorm`, and for `Lagrange` and `UsualPractice` with any decay.
        """
        state = self._checked(state)
        outputs, targets = self.outputs_and_targets(state)
        layer_norms = jnp.sqrt(jnp.stack(state.squared_norms()))
        norm = jnp.prod(layer_norms)
        alignment, normalized = jnp.sum(targets * outputs, axis=1) / norm, outputs / norm
        recorded = {
            "objective": self.objective(state),
            "log_objective": self.log_objective(state),
            **norms_and_margins(
                outputs,
                targets,
                self.labels,
                layer_norms=layer_norms,
                alignment=alignment,
                normalized=normalized,
            ),
            **self._theory(state, alignment, normalized, norm),
            **collapse_metrics(self.last_layer(state), self.labels),
        }
        multipliers = self.multipliers(state)
        # `size` is known at tracing: which names are recorded does not depend on values.
        if multipliers.size:
            recorded["multipliers"] = multipliers
        if self.test_inputs is not None and self.test_targets is not None:
            outputs = self.outputs(state, self.in_dtype_of(state, self.test_inputs))
            recorded["test_error"] = classification_error(outputs, self.test_targets)
        return recorded

    def invariants(self, state: Layers) -> dict[str, Invariant]:
        """Quantities of the norms that the flow conserves.

        `direction_norms`: ‖V_k‖² = 1 where there are directions. `layer_balance`: ‖W_k‖² −
        ‖W_{k+1}‖² for `Cartesian`, `Polar` and `WeightNormalization` (lemma 10). It falls as
        e^(−4λt) with `EachLayer` and is conserved with `WholeNorm` (errata E36 to E38 of
        docs/papers.md). `unit_balance`, for `Cartesian` and `Polar`: the squared norm of the
        weights into each hidden unit minus that of the weights out of it, without decay or with
        `EachLayer`.
        """
        state = self._checked(state)
        invariants, one = {}, jnp.ones((), state.matrices[0].dtype)
        scheme, decay_on = self.parametrization, self.decay_on
        parts = zip(state.matrices, scheme.on_spheres(self.num_layers), strict=True)
        directions = [inner(v, v) for v, on_sphere in parts if on_sphere]
        if directions:
            invariants["direction_norms"] = Invariant(jnp.stack(directions), one)
        if not scheme.balances_layers or self.num_layers == 1:
            return invariants
        # λ‖W‖² changes W' by −2λW, hence ‖W‖² at the rate 4λ. λρ² takes 4λρ² from every ‖W_k‖², so
        # that their differences remain.
        rate = 4 * self.weight_decay if decay_on.decays_each_weight else 0.0
        weights, squares = state.weights(), jnp.stack(state.squared_norms())
        # The reference of a drift is the sum of squares, because the differences may start at 0.
        total = jnp.sum(squares)
        invariants["layer_balance"] = Invariant(squares[:-1] - squares[1:], total, rate)
        # λρ² takes the same from every layer, but not from the two sides of a unit.
        if scheme.balances_units and (decay_on.decays_each_weight or self._undecayed):
            pairs = itertools.pairwise(weights)
            units = [jnp.sum(w**2, axis=1) - jnp.sum(after**2, axis=0) for w, after in pairs]
            invariants["unit_balance"] = Invariant(jnp.concatenate(units), total, rate)
        return invariants

    @property
    def comes_to_rest(self) -> bool:
        """False for the exponential loss without decay, under which the norm grows for ever."""
        return not (self.loss.finite_at_any_scale and self._undecayed)

    @property
    def remedy_of_jumps(self) -> str:
        """`SmoothReLU` for an activation with kinks."""
        return remedy_of_kinks(self.activation)

    @property
    def is_gradient_flow(self) -> bool:
        """Whether the state consists of weights without constraints, as for `Cartesian`."""
        # The class overrides `retract` in all cases, so that the default would be False.
        return self.parametrization.is_gradient_flow

    def largest_log_scale(self, dtype: DTypeLike) -> float:
        """Infinite for the exponential loss without decay, else log of the largest number."""
        if not self.comes_to_rest:
            return np.inf
        return largest_exponent(dtype)

    def in_dtype_of(self, state: Layers, samples: Float[ArrayLike, "N _"]) -> Float[Array, "N _"]:
        """Samples converted to the dtype of the state, in which everything is computed."""
        return jnp.asarray(samples, state.matrices[0].dtype)

    @property
    def _undecayed(self) -> bool:
        """Whether λ is the number 0; an array of value 0 may be traced, or change between calls."""
        return isinstance(self.weight_decay, float) and self.weight_decay == 0

    def _checked(self, state: Layers) -> Layers:
        """The state in a dtype to compute in; ValueError for another kind or number of layers.

        A state of another parametrisation passes, since its outputs are defined too.
        """
        check_kind("state", state, Layers, "problem.init(key)")
        check_arrays("state", state)
        if len(state.matrices) != self.num_layers:
            raise ValueError(
                f"state has {len(state.matrices)} layers where the problem has {self.num_layers}; "
                "pass a state like problem.init(key)."
            )
        return widened(state)

    def _theory(
        self,
        state: Layers,
        alignment: Float[Array, " N"],
        normalized: Float[Array, "N C"],
        norm: Float[Array, ""],
    ) -> dict[str, Float[Array, ""]]:
        """ρ_eq of equation 11 and the residual of lemma 9, for nets to which these apply.

        Args: `alignment` ⟨y_n, f_n⟩/ρ and `normalized` f_n/ρ of each sample.
        """
        # With multipliers all layers but one have norm 1: any decay is then λρ², up to a constant.
        decays_rho = self.decay_on.is_whole_norm or self.parametrization.has_multipliers
        if not (decays_rho and self.loss.is_squared_distance):
            return {}
        total = self.loss_scale * jnp.sum(alignment)  # sN μ
        squares = self.loss_scale * jnp.sum(normalized**2)  # sN M
        recorded = {"equilibrium_norm": total / (squares + self.weight_decay)}
        if self.parametrization.has_single_norm:
            velocity = self.scaled_descent(state, 0.0)
            assert state.norms is not None
            assert velocity.norms is not None
            at_zero = self.loss_scale * jnp.sum(self.in_dtype_of(state, self.targets) ** 2)
            # L at ρ = 0. `EachLayer` also penalises the layers of norm 1. This adds a constant to
            # L, which is not in lemma 9, where the penalty is λρ².
            at_zero += self.penalty(state) - self.weight_decay * norm**2
            claimed = at_zero - norm * total - state.norms[0] * velocity.norms[0] / 2
            recorded["lemma_9_residual"] = self.objective(state) - claimed
        return recorded

    def _decay_rates(self, state: Layers, log_scale: Float[ArrayLike, ""]) -> Rates:
        """e^log_scale · 2 ∂(penalty)/∂ρ_k² of every layer."""
        if self._undecayed:  # e^log_scale may be infinite, and 0 times infinity is NaN.
            return [0.0] * self.num_layers
        return self.decay_on.rates(state, 2 * jnp.exp(log_scale) * self.weight_decay)

    def _slopes(
        self, state: Layers, log_scale: Float[ArrayLike, ""]
    ) -> tuple[Float[Array, "_ _"], ...]:
        """e^log_scale times the derivative of s Σ ℓ, without the decay, in every W_k."""
        inputs = self.in_dtype_of(state, self.inputs)
        *hidden, last = state.weights()
        features, pull_back = propagate(inputs, hidden, self.activation)
        layer = LastLayer(features, last)
        scale = log_scale + math.log(self.loss_scale)
        targets = self.in_dtype_of(state, self.targets)
        slope = layer.pull_back(self.loss.scaled_gradient(layer.logits(), targets, scale))
        return *pull_back(slope.features)[1], slope.classifier

    def _scaled_gradient(self, state: Layers, log_scale: Float[ArrayLike, ""]) -> Layers:
        """e^log_scale times minus the velocity of the variables of the state."""
        state = self._checked(state)
        slopes, rates = self._slopes(state, log_scale), self._decay_rates(state, log_scale)
        return self.parametrization.gradient(state, slopes, rates)
