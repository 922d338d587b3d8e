"""The restarted Lanczos search by itself."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nc_jax.landscape import lanczos


def test_lanczos_stays_in_the_range_of_the_projection():
    # diag(0..19) off the span of the first three unit vectors: the smallest left is 3.
    diagonal = jnp.arange(20.0)
    keep = jnp.where(diagonal < 3, 0.0, 1.0)
    found = eqx.filter_jit(lanczos.lanczos)(
        lambda v: diagonal * v,
        lambda v: keep * v,
        diagonal,
        num=2,
        rtol=1e-10,
        basis_size=10,
        max_restarts=50,
        key=jax.random.key(0),
    )
    np.testing.assert_allclose(found.values, [3, 4], atol=1e-8)


@jax.jit
def of_diagonal(values, key):
    return lanczos.lanczos(
        lambda v: values * v,
        lambda v: v,
        values,
        num=2,
        rtol=3.7e-10,
        basis_size=28,
        max_restarts=3000,
        key=key,
    )


@pytest.mark.parametrize("seed", range(4))
def test_a_double_eigenvalue_in_a_tight_cluster_is_found_twice(seed):
    values = np.concatenate([np.zeros(2), 1e-6 * np.arange(1.0, 40), np.linspace(0.5, 1, 300)])
    found = of_diagonal(jnp.asarray(values), jax.random.key(seed))
    assert found.converged
    np.testing.assert_allclose(found.values, 0, atol=1e-8)
