"""Logits of pairs of classes, which need less norm than the simplex in deep nets, for any sizes.

The logits of the two classes of a pair are (1, −1) and (−1, 1) at these classes, and 0 at all
others. A class without a partner has the logits e_k − 1/K. All margins are then 1 or 2. A pair has
one singular value, so that the rank is K/2 (rounded up), and not the K−1 of the simplex. With m
factors the value is V = (m/2) Σσ^(2/m): from some m on low rank has the lower value (Garrod and
Keating 2024 for classes of one size).
"""

import itertools
from collections.abc import Sequence

import equinox as eqx
import numpy as np
from jaxtyping import Float

from ..checks import check_integer
from ..errors import ArgumentError
from .seli import check_class_sizes, seli


class PairedCode(eqx.Module):
    """Logits of classes in pairs; see `paired_code`.

    Attributes:
        pairs: the pairs of classes; of an odd number of classes one has no partner.
        logits: (K, K) X, a row for each class, with margins 1 and 2.
        singular_values: σ of D^½X, descending.
        depth: m.
        value: V = (m/2) Σσ^(2/m), the least ½Σ‖factors‖² of these logits.

    All arrays are in float64, of NumPy. `factored_state(code.logits, ...)` is its balanced state.

    Example: of classes of 3, 2 and 1 samples the last one is single.

        >>> code = nc.exact.paired_code((3, 2, 1), depth=3)
        >>> code.pairs, (code.singular_values**2).round(6).tolist()
        (((0, 1),), [10.0, 0.666667])
    """

    pairs: tuple[tuple[int, int], ...] = eqx.field(static=True)
    logits: Float[np.ndarray, "K K"]
    singular_values: Float[np.ndarray, " r"]
    depth: int = eqx.field(static=True)
    value: float


def paired_code(class_sizes: Sequence[int], *, depth: int) -> PairedCode:
    """The best pairs of classes for m factors: σ = √(2(n_k + n_k')) of each pair (derived).

    A class without a partner has σ = √(n_k(1 − 1/K)). Classes of similar size are paired, the
    largest with the next largest: by concavity of σ^(2/m) in n_k + n_k' no other pairs have a lower
    value (proved). The class without a partner is the one that gives the lowest value. The value is
    an upper bound of the separation problem, min ½Σ‖factors‖² with all margins >= 1. For unequal
    classes these logits need not be a critical point of it.

    Args:
        class_sizes: samples n_k of each of K >= 3 classes; two classes are a simplex.
        depth: m >= 2 factors.

    Raises: ValueError for fewer than 3 classes, sizes that are no positive integers, or depth < 2.

    Example: with four factors pairs have a lower value than the simplex.

        >>> for depth in (3, 4):
        ...     code = nc.exact.paired_code((1,) * 4, depth=depth)
        ...     print(round(code.value, 4), round(nc.exact.seli((1,) * 4, depth=depth).value, 4))
        4.7622 4.5
        5.6569 6.0
    """
    sizes = _checked(class_sizes)
    depth = check_integer("depth", depth, least=2)
    if len(sizes) % 2 == 0:
        return _code(sizes, None, depth)
    codes = [_code(sizes, single, depth) for single in range(len(sizes))]
    return min(codes, key=lambda code: code.value)


def pairing_depth(class_sizes: Sequence[int]) -> int:
    """The least m at which `paired_code` has a lower value than the simplex-encoded labels.

    With more and more factors Σσ^(2/m) tends to the rank, which is about K/2 for pairs and K−1 for
    `seli`, so that such an m exists for K >= 4. From it on the simplex-encoded labels are not the
    optimum of the separation problem with m factors. Other codes may have a lower value at a
    smaller m.

    Args: `class_sizes` of K >= 4 classes.

    Raises: ValueError for fewer than 4 classes, or sizes that are no positive integers.

    Example:

        >>> [nc.exact.pairing_depth(sizes) for sizes in ((1,) * 4, (8, 4, 2, 1), (100, 100, 1, 1))]
        [4, 4, 3]
    """
    sizes = _checked(class_sizes, least=4)
    return next(
        depth
        for depth in itertools.count(2)
        if paired_code(sizes, depth=depth).value < seli(sizes, depth=depth).value
    )


def logits_of_pairs(
    num_classes: int, pairs: Sequence[tuple[int, int]], singles: Sequence[int]
) -> Float[np.ndarray, "K K"]:
    """(1, −1) and (−1, 1) at the classes of a pair, e_k − 1/K for a single class, else 0.

    A row for each class; rows of classes in neither list are 0.
    """
    logits = np.zeros((num_classes, num_classes))
    for pair in pairs:
        logits[np.ix_(pair, pair)] = [[1, -1], [-1, 1]]
    logits[list(singles)] = np.eye(num_classes)[list(singles)] - 1 / num_classes
    return logits


def _checked(class_sizes: Sequence[int], least: int = 3) -> tuple[int, ...]:
    sizes = check_class_sizes(class_sizes)
    if len(sizes) < least:
        raise ArgumentError(
            f"class_sizes = {sizes}: give {least} or more classes; pairs of fewer have no lower "
            "rank than the simplex.",
            "class_sizes",
        )
    return sizes


def _code(sizes: tuple[int, ...], single: int | None, depth: int) -> PairedCode:
    """Neighbours in the order of their sizes as pairs, without the single class."""
    counts, count = np.array(sizes, float), len(sizes)
    paired = [k for k in np.argsort(-counts, kind="stable").tolist() if k != single]
    pairs = tuple(zip(paired[::2], paired[1::2], strict=True))
    singles = [] if single is None else [single]
    logits = logits_of_pairs(count, pairs, singles)
    squares = [2 * (counts[a] + counts[b]) for a, b in pairs]
    squares += [counts[k] * (1 - 1 / count) for k in singles]
    singular = np.sqrt(np.sort(squares)[::-1])
    value = float(depth / 2 * np.sum(singular ** (2 / depth)))
    return PairedCode(pairs, logits, singular, depth, value)
