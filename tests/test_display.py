"""Results as text."""

import re

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

import nc_jax as nc
from nc_jax.cnn.trainer import TrainedNetworks
from nc_jax.cnn.training import TrainState
from nc_jax.landscape import KINDS, Classification

STATE = nc.ulpm(3, 4, 2).init(jax.random.key(0))


def classification(code, eigenvalue=-0.25):
    code, number = jnp.asarray(code), jnp.asarray(eigenvalue)
    return Classification(
        code=code, gradient_norm=number, eigenvalue=number, eigenvector=STATE, residual=number,
        escape_direction=STATE, symmetries=code, nullity=code, index=code, scale=number,
    )  # fmt: skip


def trajectory(result, names=("margin_min",)):
    batch = np.shape(jax.tree.leaves(result)[0])
    return nc.Trajectory(
        log_time=jnp.ones((*batch, 2)), observables={n: jnp.ones((*batch, 2)) for n in names},
        final=STATE, final_log_time=jnp.ones(batch), states=None, result=result,
        num_steps=jnp.full(batch, 7),
    )  # fmt: skip


def test_numbers_and_the_kind_of_a_point_are_readable():
    text = repr(classification(1))
    assert text.startswith("Classification(\n  kind='strict saddle',")
    assert "eigenvalue=-0.25," in text
    assert "eigenvector=LastLayer(features=f64[6,4], classifier=f64[3,4])," in text
    assert "f64[]" not in text


def test_a_batch_is_counted_and_a_traced_result_has_no_kind():
    batch = jax.tree.map(lambda *x: jnp.stack(x), *map(classification, (1, 1, 0)))
    assert f"kind=2 {KINDS[1]}, 1 {KINDS[0]}," in repr(batch)
    texts = []
    jax.eval_shape(lambda code: texts.append(repr(classification(code))), jnp.asarray(0))
    assert "kind" not in texts[0]


def test_a_trajectory_says_how_it_ended_and_what_it_recorded():
    ended = diffrax.RESULTS.successful
    assert "result='succeeded',\n  observables=1 of shape (2,): margin_min," in repr(
        trajectory(ended)
    )
    many = repr(trajectory(ended, [f"m_{i}" for i in range(30)]))
    assert "30 of shape (2,): m_0, m_1, m_2, m_3, m_4, and 25 more" in many
    assert "num_steps=7" in many
    assert many.count("\n") < 12
    stopped = diffrax.RESULTS.max_steps_reached
    assert "maximum number of solver steps" in repr(trajectory(stopped))
    assert "without throw=False, names the probable cause." in repr(trajectory(stopped))
    assert "probable cause" not in many
    both = jax.tree.map(lambda *x: jnp.stack([jnp.asarray(leaf) for leaf in x]), ended, stopped)
    assert re.search(r"result=1 succeeded, 1 The maximum", repr(trajectory(both)))


def test_a_training_is_one_line_whatever_its_weights():
    params = {"kernel": jnp.ones((2, 100, 3))}
    data = xr.Dataset({"loss": (("seed", "epoch"), np.ones((2, 5)))})
    state = TrainState(params, {}, {}, jnp.full(2, 40))
    text = repr(TrainedNetworks(data, eqx.nn.Identity(), state))  # pyright: ignore[reportArgumentType]
    assert text == (
        "TrainedNetworks(2 seeds of 300 weights, 40 epochs; data: {'seed': 2, 'epoch': 5} of loss)"
    )
