"""Class labels at the doors that take them; messages are in `test_errors.py`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st

from nc_jax import geometry, metrics
from nc_jax.labels import check_labels, class_sizes


@given(st.lists(st.integers(-3, 6), min_size=1, max_size=12), st.integers(2, 5))
def test_labels_are_refused_exactly_where_one_is_no_class(values, num_classes):
    labels = np.array(values)
    if all(0 <= value < num_classes for value in values):
        assert check_labels(labels, num_classes, len(values)) is labels
        expected = tuple(values.count(c) for c in range(num_classes))
        assert class_sizes(labels, num_classes) == expected
        return
    first = next(i for i, value in enumerate(values) if not 0 <= value < num_classes)
    with pytest.raises(ValueError, match=f"labels hold {values[first]} in row {first}:"):
        check_labels(labels, num_classes, len(values))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64", "uint64"])
def test_integers_of_any_width_in_any_container_are_labels(dtype):
    labels = np.array([0, 2, 1], dtype)
    logits = jnp.asarray([[3.0, 1.0, 0.0], [0.0, 0.0, 5.0], [1.0, 8.0, 2.0]])
    for given_labels in (labels, jnp.asarray(labels)):
        check_labels(given_labels, 3, 3, every_class=True)
        assert class_sizes(given_labels, 3) == (1, 1, 1)
        np.testing.assert_array_equal(metrics.logit_margins(logits, given_labels), [2.0, 5.0, 6.0])
    check_labels([0, 2, 1], 3, 3, every_class=True)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_labels_of_a_narrow_dtype_do_not_wrap_among_many_classes(dtype):
    """arange(300) in uint8 would wrap: label 5 would be of class 5 and of class 261."""
    members = geometry.membership(np.array([5, 100], dtype), 300)
    assert np.argwhere(members).tolist() == [[0, 5], [1, 100]]


def test_rows_to_be_left_out_are_named():
    features = jnp.asarray([[1.0], [50.0], [3.0], [7.0]])
    for ignored in (-1, -100, 255):
        labels = np.array([0, ignored, 0, 1])
        moments = metrics.class_moments(features, labels, 2, ignore_index=ignored)
        np.testing.assert_array_equal(moments.counts, [2, 1])
        np.testing.assert_array_equal(moments.means, [[2.0], [7.0]])
        with pytest.raises(ValueError, match=f"labels hold {ignored} in row 1"):
            metrics.class_moments(features, labels, 2, ignore_index=None)


def test_values_of_traced_labels_pass():
    logits = jnp.asarray([[3.0, 1.0], [0.0, 5.0]])
    margins = jax.jit(metrics.logit_margins)(logits, np.array([0, 1]))
    np.testing.assert_array_equal(margins, [2.0, 5.0])
    # Concrete labels are checked under a trace too.
    with pytest.raises(ValueError, match="labels hold 2 in row 1"):
        jax.eval_shape(lambda z: metrics.logit_margins(z, np.array([0, 2])), logits)
