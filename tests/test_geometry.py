import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st
from tolerances import rounding

import nc_jax as nc
from nc_jax.geometry import (
    center,
    cosines,
    membership,
    off_diagonal_mean,
    project_onto_S,
    project_onto_T,
    simplex_etf,
    simplex_gram,
    squared_distances,
)

# d = K-1, K and beyond.
FRAMES = [(2, 1), (2, 2), (3, 2), (3, 7), (5, 4), (10, 9), (10, 10), (40, 39)]


def projector(num_classes: int) -> np.ndarray:
    return np.eye(num_classes) - np.ones((num_classes, num_classes)) / num_classes


@pytest.mark.parametrize(
    ("num_classes", "feature_dim", "key_seed", "dtype"),
    [(*frame, None, np.float64) for frame in FRAMES]
    + [(2, 1, 3, np.float64), (3, 3, 3, np.float64), (10, 9, 3, np.float64)]
    + [(3, 7, None, np.float32), (5, 4, 3, np.float32)],
)
def test_simplex_etf_has_the_gram_matrix_of_definition_2_1(
    num_classes, feature_dim, key_seed, dtype
):
    key = None if key_seed is None else jax.random.key(key_seed)
    frame = simplex_etf(num_classes, feature_dim, key=key, dtype=dtype)
    assert frame.shape == (num_classes, feature_dim)
    assert frame.dtype == dtype
    frame = np.asarray(frame, np.float64)
    expected = num_classes / (num_classes - 1) * projector(num_classes)
    np.testing.assert_allclose(frame @ frame.T, expected, rtol=0, atol=rounding(dtype))
    np.testing.assert_allclose(np.linalg.norm(frame, axis=1), 1, rtol=rounding(dtype))
    np.testing.assert_allclose(np.sum(frame, axis=0), 0, atol=rounding(dtype))


def test_a_key_turns_the_frame_and_none_leaves_it_in_the_first_coordinates():
    straight = simplex_etf(3, 6)
    turned = simplex_etf(3, 6, key=jax.random.key(0))
    other = simplex_etf(3, 6, key=jax.random.key(1))
    np.testing.assert_array_equal(straight[:, 2:], 0)
    assert np.linalg.norm(turned[:, 2:]) > 0.1
    assert np.linalg.norm(turned - other) > 0.1


@pytest.mark.parametrize("num_classes", [-1, 0, 1])
def test_simplex_etf_refuses_fewer_than_two_classes(num_classes):
    with pytest.raises(ValueError, match=f"num_classes = {num_classes}"):
        simplex_etf(num_classes, 5)


@pytest.mark.parametrize(("num_classes", "feature_dim"), [(2, 0), (5, 3)])
def test_simplex_etf_refuses_too_few_dimensions(num_classes, feature_dim):
    with pytest.raises(ValueError, match=f"feature_dim = {feature_dim}"):
        simplex_etf(num_classes, feature_dim)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_simplex_gram_is_the_normalised_gram_matrix_of_the_frame(num_classes, dtype):
    gram = simplex_gram(num_classes, dtype=dtype)
    assert gram.dtype == dtype
    expected = projector(num_classes) / np.linalg.norm(projector(num_classes))
    np.testing.assert_allclose(gram, expected, rtol=rounding(dtype))


@given(seed=st.integers(0, 2**32 - 1), offset=st.sampled_from([0.0, 1.0, 1e6]))
def test_center_takes_the_mean_row_off_every_row(seed, offset):
    rows = np.random.default_rng(seed).normal(size=(4, 3)) + offset
    expected = projector(4) @ rows
    tolerance = rounding() * (1 + offset)
    np.testing.assert_allclose(center(jnp.asarray(rows)), expected, rtol=0, atol=tolerance)


@given(st.lists(st.integers(-3, 6), min_size=5, max_size=5))
def test_membership_is_one_hot_and_false_for_labels_out_of_range(labels):
    members = membership(jnp.asarray(labels), 4)
    assert members.dtype == bool
    np.testing.assert_array_equal(members, [[label == c for c in range(4)] for label in labels])


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64])
def test_membership_takes_signed_integers_of_any_width(dtype):
    members = membership(np.array([2, 0, 1], dtype), 3)
    np.testing.assert_array_equal(members, np.eye(3, dtype=bool)[[2, 0, 1]])


@given(seed=st.integers(0, 2**32 - 1), size=st.sampled_from([2, 3, 6]))
def test_off_diagonal_mean_averages_ordered_pairs_whatever_the_diagonal(seed, size):
    matrix = np.random.default_rng(seed).normal(size=(size, size))
    np.fill_diagonal(matrix, np.nan)
    pairs = [matrix[i, j] for i in range(size) for j in range(size) if i != j]
    mean = off_diagonal_mean(jnp.asarray(matrix))
    np.testing.assert_allclose(mean, np.mean(pairs), rtol=rounding(), atol=rounding())


@given(seed=st.integers(0, 2**32 - 1), exponent=st.integers(-100, 100))
def test_cosines_are_those_of_every_pair_at_any_length(seed, exponent):
    vectors = np.random.default_rng(seed).normal(size=(4, 3))
    lengths = np.sqrt(np.sum(vectors**2, axis=1))
    expected = [
        [np.sum(a * b) / (s * t) for b, t in zip(vectors, lengths, strict=True)]
        for a, s in zip(vectors, lengths, strict=True)
    ]
    found = cosines(jnp.asarray(vectors * 10.0**exponent))
    np.testing.assert_allclose(found, expected, rtol=0, atol=rounding())


def test_cosines_with_a_zero_vector_are_nan():
    found = np.asarray(cosines(jnp.array([[1.0, 0.0], [0.0, 0.0]])))
    np.testing.assert_array_equal(np.isnan(found), [[False, True], [True, True]])


def flat(state) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(state)])


def members_of_t(num_classes, dim, labels, with_bias) -> np.ndarray:
    """Columns that span T, from its definition: a classifier summing to 0, and its features."""
    columns = []
    for index in np.ndindex(num_classes - 1, dim):
        classifier = np.zeros((num_classes, dim))
        classifier[index], classifier[-1, index[1]] = 1, -1
        features = classifier[labels] / np.sqrt(len(labels) / num_classes)
        columns.append([features.ravel(), classifier.ravel(), np.zeros(num_classes * with_bias)])
    return np.array([np.concatenate(column) for column in columns]).T


@pytest.mark.parametrize("with_bias", [True, False])
@given(
    # Few shapes, since each is compiled; d below and above K-1.
    shape=st.sampled_from([(2, 3, 1), (3, 1, 2), (4, 4, 3)]),
    seed=st.integers(0, 2**32 - 1),
)
def test_projections_are_the_dense_least_squares_ones(shape, seed, with_bias):
    num_classes, dim, size = shape
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(num_classes), size))

    def draw():
        shapes = [(len(labels), dim), (num_classes, dim), num_classes][: 2 + with_bias]
        return nc.LastLayer(*(jnp.asarray(rng.normal(size=shape)) for shape in shapes))

    state, other = draw(), draw()
    span_t = members_of_t(num_classes, dim, labels, with_bias)
    constant = np.zeros((len(flat(state)), int(with_bias)))
    constant[len(flat(state)) - num_classes :] = 1
    span_s = np.hstack([span_t, constant])
    for project, span in ((project_onto_T, span_t), (project_onto_S, span_s)):
        projected = project(state, labels)
        dense = span @ np.linalg.lstsq(span, flat(state), rcond=None)[0]
        atol = rounding() * float(np.linalg.norm(flat(state)))
        np.testing.assert_allclose(flat(projected), dense, rtol=0, atol=atol)
        np.testing.assert_allclose(flat(project(projected, labels)), dense, rtol=0, atol=atol)
        # <Px, y> = <x, Py>.
        left = flat(projected) @ flat(other)
        right = flat(state) @ flat(project(other, labels))
        assert abs(left - right) <= atol * np.linalg.norm(flat(other))


def test_projections_refuse_what_has_no_balance():
    state = nc.LastLayer(jnp.ones((3, 2)), jnp.ones((2, 2)))
    for project in (project_onto_S, project_onto_T):
        with pytest.raises(ValueError, match=r"have \(2, 1\) samples"):
            project(state, np.array([0, 0, 1]))
        with pytest.raises(ValueError, match=r"labels hold -1 in row 2: give integers in 0\.\.1"):
            project(state, np.array([0, 1, -1]))
        with pytest.raises(ValueError, match="labels have 4 entries for 3 samples"):
            project(state, np.array([0, 1, 0, 1]))
        with pytest.raises(ValueError, match="labels are traced"):
            jax.jit(project)(state, np.array([0, 1, 0]))


def test_projections_follow_the_dtype_and_batch():
    problem = nc.mixon(3, 4, 2)

    def draw(seed):
        return problem.init(jax.random.key(seed), dtype="float32")

    def project(seed):
        return project_onto_S(draw(seed), problem.labels)

    batch, single = jax.jit(jax.vmap(project))(np.arange(3)), jax.jit(project)(2)
    assert single.features.dtype == np.float32
    np.testing.assert_allclose(batch.features[2], single.features, rtol=rounding("float32"))


@pytest.mark.parametrize("shape", [(5, 20), (80, 20)])  # At once; a row after another.
def test_squared_distances_of_close_points_do_not_cancel(shape):
    steps = np.random.default_rng(0).integers(-8, 8, size=shape)
    found = squared_distances(jnp.asarray(1000.0 + steps * 2.0**-30))
    expected = np.sum((steps[:, None] - steps) ** 2, axis=2) * 2.0**-60
    np.testing.assert_allclose(found, expected, rtol=rounding())
    assert ("while" in squared_distances.lower(jnp.ones(shape)).as_text()) == (shape[0] == 80)


def test_tangent_directions_do_not_change_the_norms_of_rows():
    rng = np.random.default_rng(0)
    rows = nc.geometry.unit_rows(jnp.asarray(rng.normal(size=(5, 3))))
    np.testing.assert_allclose(jnp.linalg.norm(rows, axis=1), 1, rtol=rounding())
    direction = jnp.asarray(rng.normal(size=(5, 3)))
    tangent = nc.geometry.tangent_to_rows(rows, direction)
    np.testing.assert_allclose(jnp.sum(tangent * rows, axis=1), 0, atol=rounding())
    # The rest is along the rows.
    np.testing.assert_allclose(jnp.cross(direction - tangent, rows), 0, atol=rounding())
