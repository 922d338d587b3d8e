"""The formulas of peers that the benchmark of measures times are those of the package."""

import numpy as np
import pytest
from peers.measures_reference import reference
from tolerances import rounding

import nc_jax as nc

K, D, N = 5, 24, 400


def arrays(sizes):
    """Features in float64 of classes of these sizes, in an arbitrary order, and a classifier."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(K), sizes))
    means = rng.normal(size=(K, D))
    features = means[labels] + 0.3 * rng.normal(size=(len(labels), D))
    return features, labels, means + rng.normal(size=(K, D)), rng.normal(size=K)


EQUAL, UNEQUAL = arrays([N // K] * K), arrays([120, 100, 80, 60, 40])


@pytest.mark.parametrize("data", [EQUAL, UNEQUAL], ids=["equal", "unequal"])
def test_measures_are_those_of_the_reference_in_extended_precision(data):
    exact = reference(*data)
    names = [name for name in exact if name in nc.metrics.MEASURES]
    assert len(names) > 10
    found = nc.metrics.measure(*data, names=names)
    for name in names:
        assert found[name] == pytest.approx(exact[name], rel=rounding()), name


@pytest.mark.parametrize("peer", ["rhubarbwu", "neuralcollapse"])
@pytest.mark.parametrize("data", [EQUAL, UNEQUAL], ids=["equal", "unequal"])
def test_formulas_of_peers_are_those_of_the_reference(peer, data):
    assert_the_same(peer, data)


def test_formulas_of_zhu_are_those_of_the_reference_for_classes_of_one_size():
    # Its global mean is that of all samples.
    assert_the_same("tding1", EQUAL)


def assert_the_same(peer, data):
    torch = pytest.importorskip("torch")
    from peers.torch_measures import PEERS, Data

    exact = reference(*data)
    found = PEERS[peer](Data(*map(torch.from_numpy, data)), 128)
    for name, value in found.items():
        # A (d, d) matrix of squared contrasts is inverted.
        assert value == pytest.approx(exact[name], rel=rounding(operations=10_000)), name
