"""Errors that name the arguments they are about."""

import numpy as np
import pytest

import nc_jax as nc
from nc_jax.errors import ArgumentError

INPUTS, TARGETS = np.eye(2), np.array([1.0, -1.0])


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: nc.ulpm(0, 4, 2), "num_classes"),
        (lambda: nc.WeightDecay(classifier=-1.0), "classifier"),
        (lambda: nc.NormalizedReLUNet(INPUTS, TARGETS, (0,)), "widths"),
    ],
    ids=["plain", "one of several decays", "entry"],
)
def test_an_error_has_the_name_of_its_argument_without_index_and_description(call, argument):
    with pytest.raises(ArgumentError) as caught:
        call()
    assert caught.value.arguments == (argument,)
