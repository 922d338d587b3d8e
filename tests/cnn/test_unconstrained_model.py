"""The unconstrained-features model of a network: its objective, and its time in epochs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from tolerances import rounding

import nc_jax as nc
from nc_jax import cnn

K, D, N_PER_CLASS, NUM_STARTS = 3, 4, 2, 3
SAVE_AT = nc.log_times(3, 31)


def training_data(mismatch):
    """The data set of a training with this share of mismatches, (seed, epoch)."""
    epochs = np.array([0, 1, 4, 9, 20])
    return xr.Dataset({"papyan_ncc_mismatch": (("seed", "epoch"), mismatch)}, {"epoch": epochs})


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_the_objective_is_that_of_eq_3_with_the_decay_of_the_network(decay):
    problem = cnn.model_of_network(K, D, weight_decay=decay, samples_per_class=N_PER_CLASS)
    state = problem.init(jax.random.key(0))
    w, h = np.asarray(state.classifier), np.asarray(state.features)
    z = h @ w.T
    labels = np.repeat(np.arange(K), N_PER_CLASS)
    loss = np.mean(np.log(np.sum(np.exp(z), axis=1)) - z[np.arange(len(z)), labels])
    expected = loss + decay / 2 * np.sum(w**2) + decay / 2 * np.sum(h**2) / len(h)
    np.testing.assert_allclose(problem.objective(state), expected, rtol=rounding())


@pytest.fixture(scope="module")
def problem():
    return cnn.model_of_network(K, D, samples_per_class=N_PER_CLASS)


@pytest.fixture(scope="module")
def plain(problem):
    """The flow with its time as it is, from the starts that `model_flow` documents."""
    keys = [jax.random.fold_in(jax.random.key(5), i) for i in range(NUM_STARTS)]
    starts = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(problem.init, keys))
    return nc.Flow(problem, SAVE_AT, rtol=1e-6).batch(starts)


@pytest.mark.parametrize(
    ("mismatch", "epoch"),
    [
        # The median over three seeds is 0 from epoch 4 on.
        ([[0.5, 0.0, 0.0, 0.0, 0.0], [0.5, 0.2, 0.0, 0.0, 0.0], [0.5, 0.2, 0.2, 0.0, 0.0]], 4),
        ([[0.5, 0.2, 0.2, 0.1, 0.1]], 20),
        ([[0.0, 0.0, 0.0, 0.0, 0.0]], 1),
    ],
)
def test_mismatches_end_at_the_same_time_in_training_and_flow(problem, plain, mismatch, epoch):
    flow = cnn.model_flow(
        training_data(mismatch), problem, save_at=SAVE_AT, num_starts=NUM_STARTS,
        key=jax.random.key(5),
    )  # fmt: skip
    measured = np.median(plain.observables["papyan_ncc_mismatch"], axis=0)
    assert measured[0] > 0
    first = int(np.argmax(measured == 0))
    assert first > 0
    time = np.expm1(np.asarray(flow.log_time))
    np.testing.assert_allclose(time[:, first], epoch, rtol=1e-9)
    # One factor for all times, and nothing else changes.
    scale = epoch / np.expm1(SAVE_AT[first])
    np.testing.assert_allclose(time, scale * np.expm1(np.asarray(plain.log_time)), rtol=1e-9)
    for name, values in plain.observables.items():
        np.testing.assert_array_equal(flow.observables[name], values, err_msg=name)


def test_a_data_set_without_the_matched_measure_is_refused(problem):
    with pytest.raises(ValueError, match="data: papyan_ncc_mismatch was not recorded") as error:
        cnn.model_flow(xr.Dataset({"zhu_nc1": ("epoch", [1.0])}), problem)
    assert "\n" not in str(error.value)


def test_times_that_no_float_holds_have_no_epochs(problem):
    data = training_data([[0.5, 0.2, 0.0, 0.0, 0.0]])
    with pytest.raises(ValueError, match=r"save_at\[-1\] = 2302.59: .* up to 710") as error:
        cnn.model_flow(data, problem, save_at=nc.log_times(1000, 3))
    assert "\n" not in str(error.value)
