"""Functions on arrays compute in float64 whatever JAX is set to."""

import jax
import numpy as np
import pytest

from nc_jax import metrics


def arguments():
    rng = np.random.default_rng(0)
    labels = np.arange(30) % 3
    features, test, classifier = (rng.normal(size=(n, 4)) for n in (30, 30, 3))
    return features + labels[:, None], labels, test, classifier


CALLS = {
    "held_out": lambda h, y, t, w: metrics.held_out(h, y, t, y, w),
    "out_of_distribution": lambda h, y, t, w: metrics.out_of_distribution(h, y, t, w),
    "regression": lambda h, y, t, w: metrics.regression_collapse(h, t @ w.T, w),
    "cka": lambda h, y, t, w: {"cka": metrics.cka(h, t, debiased=True)},
    "kernels": lambda h, y, t, w: {"nc1": metrics.kernel_nc1(metrics.ntk_kernel(h, 2), y)},
    "fit": lambda h, y, t, w: metrics.measure(
        h, y, w, names=("han_loss_nc1", "han_loss_perp", "zhou_cosine_margin", "garrido_rankme")
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_values_are_the_same_to_the_bit_without_x64(name):
    expected = CALLS[name](*arguments())
    with jax.enable_x64(False):
        found = CALLS[name](*arguments())
    assert list(found) == list(expected)
    for key, value in expected.items():
        np.testing.assert_array_equal(found[key], value, err_msg=key)
