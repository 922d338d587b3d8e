"""Codes at depth: least ½Σ‖factors‖² of m factors whose logits have all margins >= 1.

Flows of cross-entropy without decay over a deep linear net tend in direction to KKT points of

    V = min ½ Σ ‖factor‖² with z_y − z_c >= 1 for all c ≠ y,   Z = H W_1ᵀ ... W_Lᵀ, m = L + 1,

which is (m/2) min S with S = Σσ^(2/m) of the logits. For m = 2 the simplex is the minimum. More
factors prefer logits of low rank, and the simplex, S = K−1, is only a local minimum where another
code has a smaller S. The codes of this file are block matrices with a row for each class:

    | classes | logits | singular values |
    |---|---|---|
    | two, a pair | 1 and −1, other columns 0 | 2 |
    | p >= 5, a regular polygon | cos(2πi/p)/(1 − cos(2π/p)) | p/(2(1 − cos(2π/p))), twice |
    | 7, a capped octahedron | a table, rank 3, which depends on m | 3.24, 2.80, 2.80 (m = 4) |
    | 8, a square antiprism | a table, rank 3 | 4, 4, 2√2 |
    | each other one, a single | e_k − 1/K | 1 (s−1 times) and √(1 − s/K) for s single ones |

With n samples of each class S is n^(1/m) times that of one sample. Blind searches over m square
factors for K <= 8 and m <= 8 end at these codes, and none below the least of them (measured). That
it is the least value is a conjecture for m > 2.
"""

import functools
from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, DTypeLike, Float, Key

from ..checks import check_integer, check_number
from ..display import summary
from ..errors import ArgumentError
from ..precision import check_dtype
from ..problems import DeepFeatures
from ..problems.deep import widths_of
from .codes import Rows, SeparationValue, polygon_rows, read_rows, stored_rows
from .deep_factors import state_on_ray
from .pairs import logits_of_pairs

# Most classes of which searches have looked for codes.
_MOST = 8
_POLYGONS = {"pentagon": 5, "hexagon": 6, "heptagon": 7, "octagon": 8}
_CROSS_POLYTOPES = {2: "square", 3: "octahedron"}
_SOLID = "capped octahedron"


class DeepCode(eqx.Module):
    """Logits of margin 1 with one row for each class, and their least norm as m factors.

    Attributes:
        num_classes: K.
        depth: m, the number of factors: 2 for free features and a classifier.
        name: such as "simplex", "square", "octahedron", "2 pairs + 1 single", "pentagon + 1 pair".
        logits: (K, K), in float64 of NumPy; the smallest z_y − z_c is 1.
        singular_values: the σ > 0 of the logits, descending.
        closed_form: whether the logits are in closed form, and not coordinates that a search found.

    Example:

        >>> code = nc.exact.deep_code(6, 3)
        >>> code.name, code.rank, round(code.singular_sum, 5), round(code.value, 5)
        ('octahedron', 3, 4.7622, 7.1433)
    """

    num_classes: int = eqx.field(static=True)
    depth: int = eqx.field(static=True)
    name: str = eqx.field(static=True)
    logits: Float[np.ndarray, "K K"]
    singular_values: Float[np.ndarray, " r"]
    closed_form: bool = eqx.field(static=True)

    def __repr__(self) -> str:
        return summary(self, singular_sum=self.singular_sum, value=self.value)

    @property
    def rank(self) -> int:
        """Rank of the logits; every width must be at least this."""
        return len(self.singular_values)

    @property
    def singular_sum(self) -> float:
        """S = Σσ^(2/m)."""
        return float(np.sum(self.singular_values ** (2 / self.depth)))

    @property
    def value(self) -> float:
        """V = (m/2) S, the least ½Σ‖factors‖² of the logits with one sample of each class."""
        return self.depth / 2 * self.singular_sum

    def deep_state(
        self,
        widths: Sequence[int],
        gap: Float[ArrayLike, ""] = 1.0,
        *,
        samples_per_class: int = 1,
        key: Key[Array, ""] | None = None,
        dtype: DTypeLike = float,
    ) -> DeepFeatures:
        """Collapsed and balanced state with these logits times the gap.

        Args:
            widths: m − 1 dimensions, that of the features first, each at least the rank.
            gap: the smallest margin, > 0.
            samples_per_class: n equal features of each class.
            key: rotates every layer at random.
            dtype: of the state.

        Raises: ValueError for another number of widths, a width below the rank of the code, or a
        gap that is not positive.

        Example: ½Σ‖factors‖² is V q^(2/m) for the smallest margin q.

            >>> code = nc.exact.deep_code(5, 4)
            >>> state = code.deep_state((3, 5, 4), gap=16.0)
            >>> bool(jnp.isclose(jnp.sum(state.squared_norms()) / 2, code.value * 4))
            True
        """
        check_number("gap", gap, above_zero=True, scalar=True)
        check_dtype(dtype)
        size = check_integer("samples_per_class", samples_per_class)
        widths = widths_of(widths, self.depth)
        logits = jnp.asarray(self.logits, dtype)
        return state_on_ray(logits, gap, (size,) * self.num_classes, widths, key=key)


def deep_code(num_classes: int, depth: int, *, width: int | None = None) -> DeepCode:
    """The code of least S = Σσ^(2/m) that is known, for K <= 8 (candidate: found by search).

    | K | m=2 | 3 | 4 | 5 | 6 |
    |---|---|---|---|---|---|
    | 4 | simplex | simplex | square 2.8284 | square 2.6390 | square 2.5198 |
    | 5 | simplex | simplex | pairs, single 3.7742 | pentagon 3.3452 | pentagon 3.0703 |
    | 6 | simplex | octahedron 4.7622 | octahedron 4.2426 | octahedron 3.9585 | hexagon 3.6342 |
    | 7 | simplex | pairs, single 5.7121 | capped 5.1469 | capped 4.6198 | heptagon 4.2053 |
    | 8 | simplex | cross 6.3496 | cross 5.6569 | antiprism 4.9979 | antiprism 4.5890 |

    The names are short for "2 pairs + 1 single", "3 pairs + 1 single", "capped octahedron", "cross
    polytope" and "square antiprism"; the simplex has S = K−1.

    From m = 7 on it is the regular polygon for all these K >= 4. For four classes the square is
    below the simplex from m = 2/log₂ 1.5 = 3.419 on.

    Args:
        num_classes: K, from 2 to 8.
        depth: m >= 2 factors of the logits.
        width: the smallest width of the net, which bounds the rank of the code; None for K.

    Raises: ValueError for K > 8, depth < 2, or a width that is too small to separate the classes.

    Example:

        >>> [nc.exact.deep_code(4, depth).name for depth in (2, 3, 4)]
        ['simplex', 'simplex', 'square']
        >>> nc.exact.deep_code(5, 2, width=2).name
        'pentagon'
    """
    return deep_codes(num_classes, depth, width=width)[0]


def deep_codes(num_classes: int, depth: int, *, width: int | None = None) -> tuple[DeepCode, ...]:
    """All codes of this module, by ascending S: `deep_code` and KKT points above it.

    Args and raises: as for `deep_code`.

    Example: what a flow of five classes and four factors may tend to.

        >>> [(code.name, round(code.singular_sum, 4)) for code in nc.exact.deep_codes(5, 4)]
        [('2 pairs + 1 single', 3.7742), ('pentagon', 3.8042), ('simplex', 4.0)]
    """
    classes = check_integer("num_classes", num_classes, least=2)
    depth = check_integer("depth", depth, least=2)
    if classes > _MOST:
        raise ArgumentError(
            f"num_classes = {classes}: the least value at depth is known up to K = {_MOST}.",
            "num_classes",
        )
    width = classes if width is None else check_integer("width", width)
    found = [code for code in _codes(classes, depth) if code.rank <= width]
    if not found:
        raise ArgumentError(
            f"num_classes = {classes}, width = {width}: in one dimension no state separates more "
            "than 2 classes.",
            "num_classes",
            "width",
        )
    return tuple(found)


def deep_separation_value(
    num_classes: int, depth: int, *, samples_per_class: int = 1, width: int | None = None
) -> SeparationValue:
    """V = min ½Σ‖factors‖² of m factors with all margins >= 1, or the least value known.

    It is (m/2) n^(1/m) S of `deep_code`. A flow of the summed cross-entropy without decay that
    tends to a KKT point of value V has L t (log t)^(2−2/m) → 2V/m² (derived).

    Args:
        num_classes: K, from 2 to 8.
        depth: m >= 2 factors.
        samples_per_class: n.
        width: the smallest width of the net; None for K.

    Returns: the value, and "proved" (m = 2 and width >= K−1, and K = 2), "conjecture" for a code in
        closed form or "best found".

    Raises: ValueError as `deep_code`.

    Example: a simplex of four classes, and a square.

        >>> nc.exact.deep_separation_value(4, 3)
        SeparationValue(value=4.5, evidence='conjecture')
        >>> print(round(nc.exact.deep_separation_value(4, 4, samples_per_class=16).value, 7))
        11.3137085
    """
    size = check_integer("samples_per_class", samples_per_class)
    code = deep_code(num_classes, depth, width=width)
    value = size ** (1 / code.depth) * code.value
    if code.name == "simplex" and (code.depth == 2 or code.num_classes == 2):
        return SeparationValue(value, "proved")
    return SeparationValue(value, "conjecture" if code.closed_form else "best found")


@functools.cache
def _codes(classes: int, depth: int) -> tuple[DeepCode, ...]:
    """All compositions of one block at most, pairs and single classes, by ascending S."""
    blocks = {"": np.zeros((0, 0)), **_blocks(depth)}
    found = [
        _composed(classes, depth, (name, block), pairs)
        for name, block in blocks.items()
        for pairs in range((classes - len(block)) // 2 + 1)
        # A pair needs other classes than single ones for its multipliers: it is no KKT point else.
        if len(block) <= classes and (name or pairs != 1)
    ]
    return tuple(sorted(found, key=lambda code: code.singular_sum))


def _blocks(depth: int) -> dict[str, np.ndarray]:
    """Logits of the codes that are neither pairs nor single classes."""
    found = {name: _logits(polygon_rows(sides)) for name, sides in _POLYGONS.items()}
    if depth == 2:
        found[_SOLID] = _logits(stored_rows()[7])
    elif depth in _stored():
        found[_SOLID] = _logits(_stored()[depth])
    return found | {"square antiprism": _logits(stored_rows()[8])}


def _composed(classes: int, depth: int, named: tuple[str, np.ndarray], pairs: int) -> DeepCode:
    """The code of a block, pairs and single classes, in this order."""
    block_name, block = named
    paired = len(block) + 2 * pairs
    neighbours = [(k, k + 1) for k in range(len(block), paired, 2)]
    logits = logits_of_pairs(classes, neighbours, range(paired, classes))
    logits[: len(block), : len(block)] = block
    singular = np.linalg.svd(logits, compute_uv=False)
    return DeepCode(
        num_classes=classes,
        depth=depth,
        name=_name(block_name, pairs, classes - paired),
        logits=logits,
        singular_values=singular[singular > 1e-9 * singular[0]],
        closed_form=block_name != _SOLID,
    )


def _name(block: str, pairs: int, singles: int) -> str:
    if not block and not pairs:
        return "simplex"
    if not block and not singles:
        return _CROSS_POLYTOPES.get(pairs, "cross polytope")
    counts = [(pairs, "pair"), (singles, "single")]
    parts = [f"{count} {kind}{'s' * (count > 1)}" for count, kind in counts if count]
    return " + ".join([block] * bool(block) + parts)


def _logits(rows: Rows) -> np.ndarray:
    classifier, features = rows
    return features @ classifier.T


@functools.cache
def _stored() -> dict[int, Rows]:
    """The capped octahedron by depth, solved to rounding."""
    return read_rows("deep_codes.json")
