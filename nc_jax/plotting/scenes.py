"""The geometry of a run in three dimensions: positions, lines and labels, as arrays of NumPy.

Figures of Plotly and of Matplotlib draw the same arrays. T counts frames, N samples, K classes and
d dimensions of the features.
"""

from itertools import combinations
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Integer

# Classes whose means are closer than this share of the mean length are labelled together.
_SAME_PLACE = 0.12


class Axes3(NamedTuple):
    """Three orthonormal directions, and the share of the squared lengths that they hold.

    Attributes:
        directions: (3, d) rows; a row is zero where d < 3.
        share: Σ σ_k² over the three directions, divided by that over all.
    """

    directions: Float[np.ndarray, "3 d"]
    share: float


class Scene(NamedTuple):
    """Positions in three dimensions at the frames of a movie.

    Attributes:
        means: (T, K, 3) class means, relative to their mean.
        classifiers: (T, K, 3) classifiers, relative to their mean.
        features: (T, N, 3) features, relative to the mean of the class means.
        labels: (N,) class of each feature.
        share: share of the squared lengths of the last class means that three dimensions hold.
    """

    means: Float[np.ndarray, "T K 3"]
    classifiers: Float[np.ndarray, "T K 3"]
    features: Float[np.ndarray, "T N 3"]
    labels: Integer[np.ndarray, " N"]
    share: float

    def reach(self) -> float:
        """Distance from the origin of the farthest class mean, classifier, or 99 % of features."""
        means, classifiers, features = (np.linalg.norm(points, axis=-1) for points in self[:3])
        return float(max(means.max(), classifiers.max(), np.quantile(features, 0.99)))


def principal_axes(vectors: Float[np.ndarray, "K d"]) -> Axes3:
    """The three directions in which vectors have the largest squared lengths, by the SVD.

    For d = 3 they are a rotation. The sign of each direction is such that the first vector with a
    component along it has a positive one; for d = 3 the third sign makes the determinant 1.

    Example:
        >>> from nc_jax.plotting.scenes import principal_axes
        >>> axes = principal_axes(np.diag([1.0, 3.0, 2.0, 1.0]))
        >>> np.abs(axes.directions).round(6).tolist()[0], round(axes.share, 6)
        ([0.0, 1.0, 0.0, 0.0], 0.933333)
    """
    dim = vectors.shape[1]
    _, singular, rows = np.linalg.svd(np.asarray(vectors, float))
    directions = np.zeros((3, dim))
    directions[: min(3, dim)] = rows[:3]
    along = vectors @ directions.T
    for k in range(min(3, dim)):
        large = np.abs(along[:, k]) > 1e-6 * np.abs(along).max(initial=0)
        if large.any() and along[np.argmax(large), k] < 0:
            directions[k] *= -1
    if dim == 3 and np.linalg.det(directions) < 0:
        directions[2] *= -1
    total = np.sum(singular**2)
    return Axes3(directions, float(np.sum(singular[:3] ** 2) / total) if total else 1.0)


def scene(
    features: Float[np.ndarray, "T N d"],
    classifiers: Float[np.ndarray, "T K d"],
    labels: Integer[np.ndarray, " N"],
) -> Scene:
    """The positions of a run, projected onto the principal axes of its last class means.

    Norms diverge along flows without weight decay, and only directions converge. Features and class
    means are therefore divided by the root of the mean squared distance of features to the mean of
    the class means (the mean over samples of a class, then over classes), so that the mean squared
    length of the class means is 1 less the share of the variation within the classes. Classifiers
    are divided by the root of their mean squared length. The two scales differ, since the ratio of
    the norms depends on the number of samples: at self-duality class means and classifiers
    coincide.

    Example:
        >>> from nc_jax.plotting.scenes import scene
        >>> state = nc.exact.collapsed_state(nc.ulpm(4, 3, 2), 5.0)
        >>> features, classifier = np.asarray(state.features), np.asarray(state.classifier)
        >>> at = scene(features[None], classifier[None], np.repeat(np.arange(4), 2))
        >>> np.linalg.norm(at.means[0], axis=1).round(6).tolist(), round(at.share, 6)
        ([1.0, 1.0, 1.0, 1.0], 1.0)
    """
    labels = np.asarray(labels)
    features, classifiers = np.asarray(features, float), np.asarray(classifiers, float)
    num_classes = classifiers.shape[1]
    average = np.equal.outer(np.arange(num_classes), labels).astype(float)
    average /= average.sum(axis=1, keepdims=True)
    means = average @ features
    center = means.mean(axis=1, keepdims=True)
    means, features = means - center, features - center
    classifiers = classifiers - classifiers.mean(axis=1, keepdims=True)
    axes = principal_axes(means[-1])
    squares = np.mean(np.sum(features**2, axis=2) @ average.T, axis=1)
    size = np.sqrt(squares)[:, None, None]
    classifier_size = np.sqrt(np.mean(np.sum(classifiers**2, axis=2), axis=1))[:, None, None]
    onto = axes.directions.T
    return Scene(
        _ratio(means @ onto, size),
        _ratio(classifiers @ onto, classifier_size),
        _ratio(features @ onto, size),
        labels,
        axes.share,
    )


def _ratio(
    points: Float[np.ndarray, "T P 3"], size: Float[np.ndarray, "T 1 1"]
) -> Float[np.ndarray, "T P 3"]:
    """Points by their size, 0 where the size is 0."""
    return np.divide(points, size, out=np.zeros_like(points), where=size > 0)


def spokes(points: Float[np.ndarray, "K 3"]) -> Float[np.ndarray, "K 2 3"]:
    """Segments from the origin to each point.

    Example:
        >>> from nc_jax.plotting.scenes import spokes
        >>> spokes(np.ones((1, 3))).tolist()
        [[[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]]
    """
    return np.stack([np.zeros_like(points), points], axis=1)


def edges(points: Float[np.ndarray, "K 3"]) -> Float[np.ndarray, "E 2 3"]:
    """Segments between all pairs of points: the edges of the simplex that they span.

    Example:
        >>> from nc_jax.plotting.scenes import edges
        >>> edges(np.eye(4, 3)).shape
        (6, 2, 3)
    """
    pairs = np.array(list(combinations(range(len(points)), 2)), int).reshape(-1, 2)
    return points[pairs]


def path(segments: Float[np.ndarray, "S P 3"]) -> Float[np.ndarray, "Q 3"]:
    """Segments as one line with NaN between them, as Plotly draws many segments at once.

    Example:
        >>> from nc_jax.plotting.scenes import path
        >>> path(np.zeros((2, 2, 3)))[:, 0].tolist()
        [0.0, 0.0, nan, 0.0, 0.0, nan]
    """
    gaps = np.full((len(segments), 1, 3), np.nan)
    return np.concatenate([segments, gaps], axis=1).reshape(-1, 3)


def trails(
    points: Float[np.ndarray, "T K 3"], frame: int, length: int
) -> Float[np.ndarray, "K P 3"]:
    """The last `length` positions of each point up to a frame; the first one is repeated before.

    Example:
        >>> from nc_jax.plotting.scenes import trails
        >>> points = np.arange(3.0)[:, None, None] * np.ones((3, 1, 3))
        >>> trails(points, 1, 3)[0, :, 0].tolist()
        [0.0, 0.0, 1.0]
    """
    at = np.clip(np.arange(frame - length + 1, frame + 1), 0, None)
    return points[at].swapaxes(0, 1)


def places(points: Float[np.ndarray, "K 3"]) -> list[list[int]]:
    """Classes by place: each class with all that are near it and have no place yet, in order.

    Example:
        >>> from nc_jax.plotting.scenes import places
        >>> places(np.array([[1.0, 0, 0], [-1.0, 0, 0], [1.0, 0, 0.01]]))
        [[0, 2], [1]]
    """
    distances = np.linalg.norm(points[:, None] - points[None], axis=-1)
    near = distances <= _SAME_PLACE * np.sqrt(np.mean(np.sum(points**2, axis=1)))
    found: list[list[int]] = []
    free = np.ones(len(points), bool)
    for k in range(len(points)):
        if free[k]:
            together = np.flatnonzero(near[k] & free)
            free[together] = False
            found.append(together.tolist())
    return found


def place_labels(points: Float[np.ndarray, "K 3"]) -> list[str]:
    """Numbers from 1 on of the classes at a place, at the first of them; empty at the others.

    Example:
        >>> from nc_jax.plotting.scenes import place_labels
        >>> place_labels(np.array([[1.0, 0, 0], [-1.0, 0, 0], [1.0, 0, 0.01]]))
        ['1, 3', '2', '']
    """
    texts = [""] * len(points)
    for classes in places(points):
        texts[classes[0]] = ", ".join(str(k + 1) for k in classes)
    return texts


def marker_sizes(points: Float[np.ndarray, "K 3"]) -> Float[np.ndarray, " K"]:
    """Relative diameters of markers: of several at one place each later one is smaller.

    Drawn in order, all of them are visible as rings.

    Example:
        >>> from nc_jax.plotting.scenes import marker_sizes
        >>> marker_sizes(np.array([[1.0, 0, 0], [-1.0, 0, 0], [1.0, 0, 0.01]])).tolist()
        [1.5, 1.0, 1.0]
    """
    sizes = np.ones(len(points))
    for classes in places(points):
        # At most twice the diameter, however many classes are at one place.
        step = min(0.5, 1 / max(1, len(classes) - 1))
        sizes[classes] += step * np.arange(len(classes))[::-1]
    return sizes
