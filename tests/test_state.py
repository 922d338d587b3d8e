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
