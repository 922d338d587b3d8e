import jax
import jax.numpy as jnp
import numpy as np
from tolerances import rounding

import nc_jax as nc


def test_logits_are_the_papers_wh_transposed():
    rng = np.random.default_rng(0)
    h, w, b = rng.normal(size=(6, 4)), rng.normal(size=(3, 4)), rng.normal(size=3)
    state = nc.LastLayer(jnp.asarray(h), jnp.asarray(w), jnp.asarray(b))
    np.testing.assert_allclose(state.logits(), (w @ h.T + b[:, None]).T, rtol=rounding())
    without = nc.LastLayer(jnp.asarray(h), jnp.asarray(w))
    np.testing.assert_allclose(without.logits(), (w @ h.T).T, rtol=rounding())


def test_pull_back_is_the_transpose_of_the_derivative_of_the_logits():
    rng = np.random.default_rng(1)
    h, w, b, residual = (jnp.asarray(rng.normal(size=s)) for s in ((6, 4), (3, 4), 3, (6, 3)))
    for state in (nc.LastLayer(h, w, b), nc.LastLayer(h, w)):
        expected = jax.vjp(nc.LastLayer.logits, state)[1](residual)[0]
        for part in ("features", "classifier", "bias")[: len(jax.tree.leaves(state))]:
            a, e = getattr(state.pull_back(residual), part), np.asarray(getattr(expected, part))
            np.testing.assert_allclose(a, e, rtol=0, atol=rounding() * np.abs(e).max())
