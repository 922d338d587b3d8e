"""Linear networks of two layers that the tests of closed forms share."""

import numpy as np

import nc_jax as nc

SAMPLE = np.array([0.48, 0.64, 0.6])  # of norm 1


def identity(z):
    return z


def antipodal(**options):
    return nc.NormalizedReLUNet(
        np.stack([SAMPLE, -SAMPLE]), np.array([1.0, -1.0]), (4,),
        activation=identity, **options,
    )  # fmt: skip


def output_of(state):
    return (state.matrices[1] @ state.matrices[0] @ SAMPLE)[..., 0]


def norm_of(state):
    assert state.norms is not None
    return state.norms[..., 0]
