"""Metrics one at a time: entries of `collapse_metrics`, with no other metric in their programs."""

import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerances import rounding

import nc_jax as nc
from nc_jax import metrics
from nc_jax.measures import single

PROBLEM = nc.mixon(3, 4, 2)
LABELS = np.array([2, 0, 1, 0, 2, 1])
STATE = PROBLEM.init(jax.random.key(3))
BIASED = nc.LastLayer(STATE.features, STATE.classifier, jnp.array([0.3, -0.2, 0.5]))
ALL = jax.jit(lambda state: metrics.collapse_metrics(state, LABELS))
NAMES = sorted(jax.eval_shape(ALL, BIASED))


def test_every_key_is_a_function_with_its_equation():
    functions = dict(inspect.getmembers(single, inspect.isfunction))
    functions.pop("collapse_metric")
    assert sorted(functions) == NAMES
    for name, function in functions.items():
        assert getattr(metrics, name) is function
        text = re.sub(r"\s+", " ", inspect.getdoc(function) or "")
        assert text.startswith(metrics.EQUATIONS[name]), name
        assert f"nc.metrics.{name}(" in text, name


@pytest.mark.parametrize("name", NAMES)
def test_a_function_is_the_entry_of_its_name(name):
    value, expected = getattr(metrics, name)(BIASED, LABELS), ALL(BIASED)[name]
    assert value.shape == ()
    np.testing.assert_allclose(value, expected, rtol=rounding(), atol=rounding())


def compiled_text(name):
    function = getattr(metrics, name)
    return str(jax.jit(lambda state: function(state, LABELS)).lower(BIASED).compile().as_text())


def test_a_program_computes_its_metric_only():
    # The rotations of the whitening in NC1 are the only loop.
    assert " while(" in compiled_text("zhu_nc1")
    assert " while(" not in compiled_text("zhu_nc2")


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("mixon_")])
def test_metrics_of_balanced_classes_refuse_other_labels(name):
    function = getattr(metrics, name)
    with pytest.raises(ValueError, match=rf"of class sizes \[1, 3, 2\]: {name} needs"):
        function(BIASED, np.array([0, 1, 1, 1, 2, 2]))
    with pytest.raises(ValueError, match=f"labels are traced: {name} needs concrete labels"):
        jax.jit(function)(BIASED, LABELS)


def test_labels_that_are_traced_give_the_other_metrics():
    found = jax.jit(metrics.zhu_nc2)(BIASED, LABELS)
    np.testing.assert_allclose(found, ALL(BIASED)["zhu_nc2"], rtol=rounding())
