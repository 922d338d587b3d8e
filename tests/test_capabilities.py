"""What is known of a class is not said of a subclass that computes something else."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from tolerances import rounding

import nc_jax as nc
from nc_jax import exact, landscape

KEY = jax.random.key(0)


class Tempered(nc.CrossEntropy):
    """Cross-entropy of z/T, with all that belongs to it."""

    temperature: float = 2.0

    def value(self, logits, labels):
        return super().value(logits / self.temperature, labels)

    def log_value(self, logits, labels):
        return super().log_value(logits / self.temperature, labels)

    def gradient(self, logits, labels):
        return super().gradient(logits / self.temperature, labels) / self.temperature

    def scaled_gradient(self, logits, labels, log_scale):
        scaled = super().scaled_gradient(logits / self.temperature, labels, log_scale)
        return scaled / self.temperature

    finite_at_any_scale = True


class TemperedValue(nc.CrossEntropy):
    """The value alone: gradients are those of another function."""

    def value(self, logits, labels):
        return super().value(logits / 2, labels)


class Named(nc.CrossEntropy):
    """Cross-entropy under another name."""


class Halved:
    """Formulas that a class of several parents takes before those of the loss."""

    def value(self, logits, labels):
        return nc.CrossEntropy().value(logits, labels) / 2

    log_value = gradient = scaled_gradient = value


class HalvedCrossEntropy(Halved, nc.CrossEntropy):
    """Half of cross-entropy, whose parent with the formulas is no loss."""


class Shifting(Tempered):
    """A loss that states again what still holds for its formulas."""

    shift_invariant = True

    def value(self, logits, labels):
        return nc.CrossEntropy().value(logits / self.temperature, labels)

    log_value = Tempered.log_value
    gradient = Tempered.gradient
    scaled_gradient = Tempered.scaled_gradient


class Noted(nc.UnconstrainedFeatures):
    """The model with one more observable."""

    def observe(self, state):
        return {**super().observe(state), "offset": jnp.sum(state.features)}


class Tilted(nc.UnconstrainedFeatures):
    """Another objective."""

    def objective(self, state):
        return super().objective(state) + jnp.sum(state.features)

    def gradient(self, state):
        gradient = super().gradient(state)
        return eqx.tree_at(lambda g: g.features, gradient, gradient.features + 1)

    def scaled_descent(self, state, log_scale):
        descent = super().scaled_descent(state, log_scale)
        features = descent.features - jnp.exp(log_scale)
        return eqx.tree_at(lambda d: d.features, descent, features)


class Hastened(nc.UnconstrainedFeatures):
    """Another field."""

    def scaled_descent(self, state, log_scale):
        return super().scaled_descent(state, log_scale + jnp.log(2.0))


class Damped(nc.LinearizedMixon):
    """Another field."""

    def gradient(self, state):
        return jax.tree.map(lambda leaf: leaf / 2, super().gradient(state))


class FarDistance(nc.SquaredDistance):
    """Another distance."""

    def value(self, outputs, targets):
        return 3 * super().value(outputs, targets)


def model(loss, kind: type[nc.UnconstrainedFeatures] = nc.UnconstrainedFeatures, **changes):
    options = {"class_sizes": (2, 2, 2), "feature_dim": 4, "loss": loss, "reduction": "sum"}
    return kind(**(options | changes))


TILTED = model(nc.CrossEntropy(), Tilted)
DAMPED: type[nc.LinearizedMixon] = Damped
DECAY = nc.WeightDecay(classifier=5e-3, features=5e-3, bias=0.0)
PLAIN, DECAYED = model(Tempered()), model(Tempered(), weight_decay=DECAY)
THEOREMS = {
    "collapsed ray": lambda: exact.collapsed_gap(PLAIN, 0.5, jnp.ones(1)),
    "least loss on a sphere": lambda: exact.sphere_optimum(PLAIN, 3.0),
    "minimum": lambda: exact.regularized_minimizer(DECAYED),
    "saddle": lambda: exact.grouped_saddle(DECAYED, 3),
    "separation": lambda: landscape.kkt_certificate(PLAIN, PLAIN.init(KEY)),
    "tangent": lambda: landscape.tangent_descent_direction(PLAIN, PLAIN.init(KEY)),
    "duality": lambda: landscape.global_certificate(DECAYED, DECAYED.init(KEY)),
    "other objective": lambda: landscape.escape_direction(TILTED, PLAIN.init(KEY)),
    "closed form of another field": lambda: exact.linearized_eigenspaces(DAMPED(3, 4, 2)),
    "closed form of another objective": lambda: exact.collapsed_state(TILTED, 1.0),
}


@pytest.mark.parametrize("theorem", THEOREMS)
def test_theorems_are_refused_for_a_subclass_with_other_formulas(theorem):
    with pytest.raises(ValueError, match=r"Tempered|Tilted|Damped") as error:
        THEOREMS[theorem]()
    assert "\n" not in str(error.value)


CLAIMS = ("finite_at_any_scale", "shift_invariant", "is_cross_entropy", "accepts_lanes")


@pytest.mark.parametrize(
    ("kind", "claims"),
    [
        (nc.CrossEntropy, CLAIMS),
        (Named, CLAIMS),
        (Tempered, ("finite_at_any_scale",)),
        (HalvedCrossEntropy, ()),
        (Shifting, ("shift_invariant",)),
        (nc.SquaredError, ("accepts_lanes",)),
        (nc.losses.Loss, ()),
    ],
)
def test_a_subclass_with_other_formulas_has_the_claims_that_it_states_itself(kind, claims):
    assert [claim for claim in CLAIMS if getattr(kind, claim)] == list(claims)


def test_the_loss_with_a_temperature_that_is_shift_invariant_conserves_the_sum_of_classifiers():
    """The claim of a user is enough; γ̃, a formula of cross-entropy alone, is not recorded."""
    names = model(Shifting()).observables()
    assert "classifier_sum_drift" in names
    assert {"gamma_tilde", "max_margin_ratio"}.isdisjoint(names)


@pytest.mark.parametrize(
    ("problem", "expected"),
    [
        (nc.ulpm(3, 4, 2), True),
        (nc.LinearizedMixon(3, 4, 2), False),
        (nc.GradientDescentODE(nc.ulpm(3, 4, 2), 0.1), False),
    ],
)
def test_a_problem_says_whether_its_flow_is_minus_the_gradient(problem, expected):
    """Judged by whether the Jacobian of the field is symmetric, as that of a gradient is."""
    assert problem.is_gradient_flow is expected
    flat, unravel = ravel_pytree(problem.init(KEY))
    moved = flat + 0.1 * jnp.sin(jnp.arange(flat.size))

    def field(x):
        return ravel_pytree(problem.scaled_descent(unravel(x), 0.0))[0]

    jacobian = np.asarray(jax.jit(jax.jacfwd(field))(moved))
    assert np.allclose(jacobian, jacobian.T, atol=rounding()) is expected


def test_a_tempered_loss_is_observed_without_what_holds_of_cross_entropy_alone():
    state = PLAIN.init(KEY)
    observed = eqx.filter_jit(PLAIN.observe)(state)
    assert {"gamma_tilde", "max_margin_ratio", "classifier_sum_norm"}.isdisjoint(observed)
    assert "balance_norm" in observed  # which any loss of WH conserves
    logits = np.asarray(state.features) @ np.asarray(state.classifier).T / 2
    values = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(6), PLAIN.labels]
    np.testing.assert_allclose(observed["objective"], values.sum(), rtol=rounding())


def test_many_tempered_models_side_by_side_have_the_fields_of_each():
    """The products of lanes are written for the losses of the package; another is vmapped."""
    states = jax.vmap(PLAIN.init)(jax.random.split(KEY, 3))
    lanes = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, -1), states)
    found = jax.jit(lambda s: PLAIN.scaled_descent_lanes(s, 0.5))(lanes)
    for i in range(3):
        one = PLAIN.gradient(jax.tree.map(lambda leaf, i=i: leaf[i], states))
        for lane, leaf in zip(jax.tree.leaves(found), jax.tree.leaves(one), strict=True):
            np.testing.assert_allclose(lane[..., i], -np.exp(0.5) * leaf, atol=rounding())


def test_many_models_with_another_field_side_by_side_have_that_field():
    problem = model(nc.CrossEntropy(), Hastened)
    states = jax.vmap(problem.init)(jax.random.split(KEY, 3))
    lanes = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, -1), states)
    found = jax.jit(lambda s: problem.scaled_descent_lanes(s, 0.5))(lanes)
    expected = jax.vmap(lambda s: problem.scaled_descent(s, 0.5))(states)
    for leaf, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(jnp.moveaxis(leaf, -1, 0), wanted, rtol=0, atol=rounding())


class Steeper(nc.UnconstrainedFeatures):
    """The objective alone: gradients are those of another function."""

    def objective(self, state):
        return 2 * super().objective(state)


class Shifted(nc.NormalizedReLUNet):
    """The objective alone, of another model."""

    def objective(self, state):
        return 1 + super().objective(state)


SHIFTED: type[nc.NormalizedReLUNet] = Shifted


def test_replacing_the_objective_without_its_gradient_is_refused():
    expected = "replaces the objective of its parent but not gradient and scaled_descent; define"
    with pytest.raises(ValueError, match=f"Steeper {expected}"):
        model(nc.CrossEntropy(), Steeper)
    with pytest.raises(ValueError, match=f"Shifted {expected}"):
        SHIFTED(np.eye(2), np.array([1.0, -1.0]), (3,))


def test_another_model_records_nothing_that_holds_of_its_parent_alone():
    problem = model(nc.CrossEntropy(), Tilted)
    names = problem.observables()
    assert {"gamma_tilde", "max_margin_ratio", "balance_drift"}.isdisjoint(names)
    state = problem.init(KEY)
    found, expected = problem.gradient(state), jax.grad(problem.objective)(state)
    np.testing.assert_allclose(found.features, expected.features, atol=rounding())


def test_a_subclass_that_changes_no_formula_keeps_the_theorems():
    problem = model(Named(), Noted)
    assert exact.separation_optimum(problem)[0] == exact.separation_optimum(nc.ulpm(3, 4, 2))[0]
    assert set(problem.invariants(problem.init(KEY))) == {"balance", "classifier_sum"}


def test_invariants_are_not_claimed_for_another_objective():
    assert TILTED.invariants(TILTED.init(KEY)) == {}


def test_a_value_with_the_derivatives_of_another_function_is_refused():
    expected = (
        r"loss = TemperedValue\(\): TemperedValue replaces the value of its parent but not "
        r"log_value, gradient, scaled_gradient; define these in TemperedValue too"
    )
    with pytest.raises(ValueError, match=expected):
        model(TemperedValue())
    with pytest.raises(ValueError, match="FarDistance replaces the value of its parent but not"):
        FarDistance()
