"""The table of observables, and the choice of some of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nc_jax as nc
from nc_jax.metrics import EQUATIONS

INPUTS = np.eye(4) / 2
SIGNS = np.array([1.0, -1.0, 1.0, -1.0])
ULPM = nc.ulpm(3, 4, 2)
KEY = jax.random.key(0)
PROBLEMS = [
    ULPM,
    nc.ulpm(3, 4, (4, 2, 1)),
    nc.zhu(3, 4, 2, 0.1),
    nc.problems.NonnegativeFeatures((2, 2), 4),
    nc.mixon(3, 4, 2),
    nc.LinearizedMixon(3, 4, 2),
    nc.GradientDescentODE(ULPM, 0.1),
    nc.NormalizedFeatures((2, 2, 2), 4, inverse_temperature=2.0),
    nc.NormalizedReLUNet(INPUTS, SIGNS, (3,), test_inputs=INPUTS, test_targets=SIGNS),
    nc.NormalizedReLUNet(
        INPUTS, np.eye(2)[[0, 1, 1, 0]], (3,), parametrization=nc.problems.relu.Cartesian()
    ),
    nc.problems.FreeFeatures(np.eye(3)[[0, 1, 2, 2]], 4, loss=nc.losses.PickAllLabels()),
    nc.problems.FreeFeatures(INPUTS[:, :2], 4, loss=nc.losses.HalfSquaredDistance()),
    nc.problems.FreeFeatures(
        np.eye(3)[[0, 1, 2, 2]] / 2 + 1 / 6, 4, loss=nc.losses.SoftCrossEntropy()
    ),
    nc.problems.CentralPath((2, 3), 2),
    nc.problems.ContrastiveFeatures((2, 3), 2, temperature=0.5),
    nc.problems.EndToEnd((2, 3), 3),
    nc.DeepUnconstrainedFeatures((2, 3), (3, 3)),
    nc.KernelFeatures((2, 3), 2, kernel=nc.problems.BlockKernel(3.0, 1.2, 0.4)),
    nc.problems.SignFlow(ULPM),
    nc.problems.SpectralFlow(ULPM),
]


class Bowl(nc.problems.AbstractProblem):
    """½x² of a number: a model of a user's."""

    def init(self, key):
        return jax.random.normal(key)

    def objective(self, state):
        return state**2 / 2

    def gradient(self, state):
        return state

    def scaled_descent(self, state, log_scale):
        return -jnp.exp(log_scale) * state

    def observe(self, state):
        return {"objective": self.objective(state), "height": state}

    def invariants(self, state):
        return {"sign": nc.metrics.Invariant(jnp.sign(state), jnp.ones(()))}

    def largest_log_scale(self, dtype):
        return 700.0


def test_every_observable_has_an_equation_and_every_equation_an_observable():
    found = {}
    for problem in PROBLEMS:
        found |= problem.observables()
    assert found == dict(EQUATIONS)
    assert all(text and "\n" not in text for text in EQUATIONS.values())


def test_observables_are_what_a_flow_records():
    start = ULPM.init(jax.random.key(0))
    recorded = nc.gradient_flow(ULPM, start, jnp.linspace(0.0, 1.0, 2)).observables
    assert set(recorded) == set(ULPM.observables())


def test_observables_that_a_user_adds_have_no_equation():
    expected = {"objective": EQUATIONS["objective"], "height": "", "sign_drift": ""}
    assert Bowl().observables() == expected
    assert Bowl().observe_only(jnp.asarray(3.0), ("height",)) == {"height": 3.0}


def test_chosen_observables_have_the_values_of_all_of_them():
    state = ULPM.init(jax.random.key(1))
    everything = jax.jit(ULPM.observe)(state)
    for names in (("margin_min",), ("zhu_nc1", "objective")):
        chosen = jax.jit(lambda s, names=names: ULPM.observe_only(s, names))(state)
        assert tuple(sorted(chosen)) == tuple(sorted(names))
        for name in names:
            np.testing.assert_allclose(chosen[name], everything[name], rtol=1e-13)


def lines(function):
    state = jax.eval_shape(ULPM.init, jax.random.key(0))
    return jax.jit(function).lower(state).as_text().splitlines()


def chosen(state):
    return ULPM.observe_only(state, ("margin_min",))


def repeated(observe):
    """Observations of a state that moves, in a loop."""

    def body(state, _):
        return jax.tree.map(lambda leaf: 2 * leaf, state), observe(state)

    return lambda state: jax.lax.scan(body, state, length=3)[1]


def test_what_is_not_chosen_is_not_computed():
    everything, some = lines(ULPM.observe), lines(chosen)
    # The rotations of the whitening are the only loop.
    assert any("stablehlo.while" in line for line in everything)
    assert not any("stablehlo.while" in line for line in some)
    assert len(some) < len(everything) / 10


def test_what_is_not_chosen_is_not_computed_in_a_loop_body():
    everything, some = lines(repeated(ULPM.observe)), lines(repeated(chosen))
    assert sum("stablehlo.while" in line for line in everything) == 2
    assert sum("stablehlo.while" in line for line in some) == 1
    assert len(some) < len(everything) / 5


@pytest.mark.parametrize(
    ("name", "hint"),
    [("margin_mim", "margin_min"), ("zhu_nc5", "zhu_nc"), ("balance_drift", "run")],
)
def test_an_unknown_name_is_refused_in_one_line_with_those_close_to_it(name, hint):
    with pytest.raises(ValueError, match=name) as caught:
        jax.eval_shape(lambda key: ULPM.observe_only(ULPM.init(key), ("margin_min", name)), KEY)
    message = str(caught.value)
    assert hint in message
    assert "problem.observables()" in message
    assert "\n" not in message
