"""What `measure` chooses, one pass against two, and what it refuses in one line."""

import dataclasses
import itertools
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, strategies as st
from stored_arrays import Stored
from tolerances import rounding

from nc_jax import metrics
from nc_jax.measures import MEASURES, Measure

RNG = np.random.default_rng(0)
LABELS = np.arange(12) % 3
FEATURES = RNG.normal(size=(12, 4))
CLASSIFIER = RNG.normal(size=(3, 4))
WORDS = np.array(["ant", "bee", "cow"])[LABELS]


def with_value(values, row, value):
    """A copy with another value in one row."""
    changed = np.array(values)
    changed[row] = value
    return changed


def batches(*sizes):
    """Batches of the samples, the first of them of these sizes."""
    ends = np.cumsum([0, *sizes, len(LABELS)])
    return [(FEATURES[a:b], LABELS[a:b]) for a, b in itertools.pairwise(ends)]


def spread_over_two_passes():
    """A loader whose second pass has another label in its first batch."""
    passes = []

    def begin():
        passes.append(1)
        return iter(batches() if len(passes) == 1 else [(FEATURES, with_value(LABELS, 0, 1))])

    return begin


# Arguments of `measure`, keywords of it, and a part of the message.
REFUSED = {
    "one axis": (
        (FEATURES[:, 0], LABELS),
        {},
        "features have shape (12,): give two axes, (N, d), such as features[:, None]",
    ),
    "images": (
        (FEATURES.reshape(12, 2, 2, 1), LABELS),
        {},
        "features have shape (12, 2, 2, 1): give two axes, (N, d), such as "
        "features.reshape(len(features), -1)",
    ),
    "no feature": ((FEATURES[:, :0], LABELS), {}, "give at least one feature"),
    "no sample": ((FEATURES[:0], LABELS[:0]), {}, "labels: there are no samples"),
    "complex": ((FEATURES + 0j, LABELS), {}, "features: dtype complex128: give real numbers"),
    "objects": ((FEATURES.astype(object), LABELS), {}, "features: dtype object"),
    "strings": ((FEATURES.astype(str), LABELS), {}, "features: dtype <U"),
    "masked": ((np.ma.masked_invalid(FEATURES), LABELS), {}, "features is a masked array"),
    "masked labels": ((FEATURES, np.ma.masked_equal(LABELS, 1)), {}, "labels is a masked array"),
    "uneven rows": (
        ([[1.0, 2.0], [3.0]], [0, 1]),
        {},
        "give an array (N, d) with rows of one length",
    ),
    "no labels": ((FEATURES,), {}, "labels are missing for features of shape (12, 4)"),
    "a number": ((3.0,), {}, "features = 3.0: give an array (N, d) and labels, or an iterable"),
    "fewer labels": ((FEATURES, LABELS[:-1]), {}, "labels have 11 entries for 12 samples"),
    "one label": ((FEATURES, 1), {}, "labels = array(1): give the class of each sample"),
    "one row of labels": (
        (FEATURES[:1], LABELS[None]),
        {},
        "labels have shape (1, 12), and row 0 is no one-hot row",
    ),
    "three axes of labels": ((FEATURES, LABELS[:, None, None]), {}, "labels have shape (12, 1, 1)"),
    "probabilities": (
        (FEATURES, np.full((12, 3), 1 / 3)),
        {},
        "row 0 is no one-hot row: give the class of each sample, (N,), such as np.argmax",
    ),
    "two labels of one sample": (
        (FEATURES, with_value(np.eye(3)[LABELS], 7, [0, 1, 1])),
        {},
        "row 7 is no one-hot row",
    ),
    "fractions": (
        (FEATURES, with_value(LABELS * 1.0, 5, 0.5)),
        {},
        "labels hold 0.5 in row 5: give classes as integers",
    ),
    "NaN": (
        (FEATURES, with_value(LABELS * 1.0, 5, np.nan)),
        {},
        "labels: 1 samples have no label, the first in row 5",
    ),
    "None": (
        (FEATURES, with_value(WORDS.astype(object), 4, None)),
        {},
        "labels: 1 samples have no label, the first in row 4",
    ),
    "NA": (
        (FEATURES, pd.Series(with_value(WORDS.astype(object), 4, None), dtype="string")),
        {},
        "the first in row 4",
    ),
    "no category": (
        (FEATURES, pd.Categorical.from_codes(with_value(LABELS, 2, -1), ["ant", "bee", "cow"])),
        {},
        "labels: 1 samples have no label, the first in row 2",
    ),
    "dates": ((FEATURES, LABELS.astype("datetime64[D]")), {}, "labels have dtype datetime64[D]"),
    "numbers and words": (
        (FEATURES, with_value(WORDS.astype(object), 1, 1)),
        {},
        "labels hold int, str: give integers or strings",
    ),
    "out of range": (
        (FEATURES, with_value(LABELS, 8, 7), CLASSIFIER),
        {},
        "labels hold 7 in row 8: give integers in 0..2, the rows of the classifier",
    ),
    "from one": (
        (FEATURES, LABELS + 1, CLASSIFIER),
        {},
        "labels hold 3 in row 2: give integers in 0..2, the rows of the classifier; where they "
        "count from 1, subtract 1",
    ),
    "out of range, on disk": (
        (Stored(FEATURES), Stored(with_value(LABELS, 8, 7)), CLASSIFIER),
        {},
        "labels hold 7 in row 8",
    ),
    "out of range, in a batch": (
        ([*batches(5)[:1], (FEATURES[5:], with_value(LABELS[5:], 3, 7))], None, CLASSIFIER),
        {},
        "labels hold 7 in row 8",
    ),
    "negative": (
        (FEATURES, with_value(LABELS, 3, -100)),
        {},
        "labels hold -100 in row 3: classes are integers >= 0; to leave such rows out give "
        "ignore_index=-100",
    ),
    "minus one and one": (
        (FEATURES, 2 * (LABELS > 0) - 1),
        {},
        "labels are -1 and 1: give the classes 0 and 1, such as labels > 0",
    ),
    "a missing class": (
        (FEATURES, np.where(LABELS == 1, 0, LABELS), CLASSIFIER),
        {},
        "labels: no samples of 1 among the rows of the classifier 0, 1, 2 (counts 8, 0, 4): "
        "give samples of each, or drop their rows of the classifier, np.delete(classifier, [1], "
        "axis=0), and of the bias, and give class_names of the others",
    ),
    "an empty column": ((FEATURES, np.eye(5)[LABELS]), {}, "labels: no samples of 3, 4 among"),
    "an unused category": (
        (FEATURES, pd.Categorical(WORDS, ["ant", "bee", "cow", "dog"])),
        {},
        "labels: no samples of 'dog' among the classes of the labels 'ant', 'bee', 'cow', "
        "'dog' (counts 4, 4, 4, 0)",
    ),
    "a name without a class": (
        (FEATURES, WORDS),
        {"class_names": ["ant", "bee", "cow", "dog"]},
        "no samples of 'dog' among class_names",
    ),
    "a class without a name": (
        (FEATURES, WORDS),
        {"class_names": ["ant", "bee", "cat"]},
        "labels hold 'cow' in row 2: give one of class_names, 'ant', 'bee', 'cat'.",
    ),
    "a misspelled class": (
        (FEATURES, with_value(WORDS, 6, "bae")),
        {"class_names": ["ant", "bee", "cow"]},
        "labels hold 'bae' in row 6: give one of class_names, 'ant', 'bee', 'cow'. Close to "
        "it: bee.",
    ),
    "a name that occurs twice": (
        (FEATURES, LABELS),
        {"class_names": ["ant", "bee", "ant"]},
        "class_names 'ant', 'bee', 'ant' have repeats",
    ),
    "fewer names than rows": (
        (FEATURES, LABELS, CLASSIFIER),
        {"class_names": ["ant", "bee"]},
        "labels have 2 classes, 'ant', 'bee', and the classifier has 3 rows",
    ),
    "fewer words than rows": (
        (FEATURES, with_value(WORDS, LABELS == 2, "ant"), CLASSIFIER),
        {},
        "labels have 2 classes, 'ant', 'bee', and the classifier has 3 rows: give class_names",
    ),
    "one class": (
        (FEATURES, 0 * LABELS),
        {},
        "labels: all 12 samples are of class 0; measures of collapse compare two classes or more",
    ),
    "everything ignored": (
        (FEATURES, 0 * LABELS),
        {"ignore_index": 0},
        "labels: there are no samples",
    ),
    "transposed": (
        (FEATURES, LABELS, CLASSIFIER.T),
        {},
        "classifier has shape (4, 3) for 4 features: it is (d, K); give classifier.T, (K, d)",
    ),
    "transposed, of a loader": (
        (batches(5), None, CLASSIFIER.T),
        {},
        "it is (d, K); give classifier.T",
    ),
    "other width": (
        (FEATURES, LABELS, CLASSIFIER[:, :3]),
        {},
        "classifier has shape (3, 3) for 4 features: give a row of d weights for each class",
    ),
    "one output": (
        (FEATURES, LABELS > 0, CLASSIFIER[:1]),
        {},
        "classifier has 1 row, of one output z for two classes: give those of the logits "
        "(-z/2, z/2)",
    ),
    "one weight": (
        (FEATURES, LABELS, CLASSIFIER[0]),
        {},
        "classifier has shape (4,): give two axes, (K, d)",
    ),
    "words as weights": ((FEATURES, LABELS, CLASSIFIER.astype(str)), {}, "classifier: dtype <U"),
    "transposed, with a bias": (
        (FEATURES, LABELS, CLASSIFIER.T, np.ones(3)),
        {},
        "classifier has shape (4, 3) and bias (3,): give (K, d) and (K,), such as classifier.T "
        "where the classifier is (d, K)",
    ),
    "transposed features": (
        (FEATURES.T, LABELS, CLASSIFIER, np.ones(3)),
        {},
        "labels have 12 entries for 4 samples: features of shape (4, 12) are (d, N); give "
        "features.T, (N, d)",
    ),
    "bias alone": ((FEATURES, LABELS, None, np.ones(3)), {}, "bias without a classifier"),
    "other bias": (
        (FEATURES, LABELS, CLASSIFIER, np.ones(5)),
        {},
        "bias has shape (5,) for 3 rows of the classifier: give (K,)",
    ),
    "misspelled": (
        (FEATURES, LABELS),
        {"names": ["zhu_nc11"]},
        "names: 'zhu_nc11' is none of metrics.MEASURES. Close to it: zhu_nc1",
    ),
    "a short name in capitals": (
        (FEATURES, LABELS),
        {"names": ["NC1"]},
        "names: 'NC1' is none of metrics.MEASURES. Close to it: zhu_nc1, tirer_nc1, papyan_nc1",
    ),
    "no names": (
        (FEATURES, LABELS),
        {"names": []},
        "names = []: give one name or more, or None for the default measures",
    ),
    "one name": (
        (FEATURES, LABELS),
        {"names": "cdnv"},
        "names = 'cdnv': give a list of names, or \"all\"",
    ),
    "twice": (
        (FEATURES, LABELS),
        {"names": ["cdnv", "zhu_nc1", "cdnv"]},
        "names: cdnv occurs twice",
    ),
    "without a classifier": (
        (FEATURES, LABELS),
        {"names": ["zhu_nc2", "cdnv", "zhu_nc3"]},
        "names: zhu_nc2, zhu_nc3: need a classifier (K, d)",
    ),
    "unequal": (
        (FEATURES[1:], LABELS[1:], CLASSIFIER),
        {"names": ["mixon_snc1"]},
        "names: mixon_snc1: need classes of one size, and there are classes of 3 to 4 samples",
    ),
    "unknown sum": (
        (FEATURES, LABELS),
        {"names": [Measure("mine", "", lambda s: 0.0, ("withinn",))]},
        'names: mine needs withinn, and needs are keys of SUMS, "classifier" and "balanced". '
        "Close to it: within",
    ),
    "read once": (
        (iter(batches()),),
        {"names": ["ji_within_class_variation"]},
        "names: ji_within_class_variation: need two passes over the samples: give a list of "
        "batches, a DataLoader, or a function",
    ),
    "classes of a covariance": (
        (iter(batches()),),
        {"names": ["papyan_nc1_by_class"]},
        "names: papyan_nc1_by_class: need two passes",
    ),
    "words of a classifier, read once": (
        (iter([(FEATURES, WORDS)]), None, CLASSIFIER),
        {"names": [Measure("accuracy", "", lambda s: s.total("correct"), ("correct",))]},
        "class_names are missing",
    ),
    "two sets": (
        (spread_over_two_passes(),),
        {},
        "features: the second pass has [3, 5, 4] samples of the classes, and the first [4, 4, 4]",
    ),
    "three parts": (
        ([(FEATURES, LABELS, LABELS)],),
        {},
        "batch 0 is a tuple of 3 parts: give pairs (features, labels)",
    ),
    "dicts": (([{"x": FEATURES, "y": LABELS}],), {}, "batch 0 is a dict of 2 parts: give pairs"),
    "rows alone": (
        (FEATURES.tolist(),),
        {},
        "batch 0 is a list of 4 parts: give pairs (features, labels)",
    ),
    "labels of a batch": (([(FEATURES, LABELS[1:])],), {}, "batch 0 has 11 labels for 12 samples"),
    "dtypes of batches": (
        ([(FEATURES, LABELS), (FEATURES.astype("f4"), LABELS)],),
        {},
        "features of the batches have 4 columns of float64 and 4 of float32",
    ),
    "images of a loader": (
        ([(FEATURES.reshape(12, 2, 2), LABELS)],),
        {},
        "features have shape (12, 2, 2)",
    ),
    "a function for arrays": (
        (FEATURES, LABELS),
        {"to_features": np.ravel},
        "to_features is for an iterable of batches",
    ),
    "a dict of layers": (
        ({"first": FEATURES, "last": FEATURES}, LABELS),
        {},
        "features: a dict of ['first', 'last']: give one of its arrays, (N, d)",
    ),
    "a function of several layers": (
        (batches(5),),
        {"to_features": lambda x: {"first": x, "last": x}},
        "to_features returned a dict of the layers 'first', 'last': return the features (B, d) of "
        "one of them, or call metrics.measure_layers",
    ),
    "a function that returns nothing": (
        (batches(5),),
        {"to_features": lambda x: None},
        "to_features returned None: return the features (B, d)",
    ),
    "NaN among features": (
        (with_value(FEATURES, 4, np.nan), WORDS),
        {},
        "features of class 'bee' have NaN, infinities or numbers whose squares overflow",
    ),
    "an infinity in a batch": (
        ([(with_value(FEATURES, 4, np.inf), WORDS)],),
        {},
        "features of class 'bee'",
    ),
    "squares that overflow": ((1e200 * FEATURES, LABELS), {}, "features of class 0, 1, 2 have"),
    "NaN among weights": (
        (FEATURES, LABELS, np.nan * CLASSIFIER),
        {},
        "classifier has NaN or infinities",
    ),
    "NaN in the bias": (
        (FEATURES, LABELS, CLASSIFIER, np.full(3, np.inf)),
        {},
        "bias has NaN or infinities",
    ),
    "a function of nothing": ((lambda: None,), {}, "features(): returned None: give a function"),
    "batch size": ((FEATURES, LABELS), {"batch_size": 0}, "batch_size = 0: give an integer >= 1"),
}


# Of values without and with a classifier, of values of other names, and a part of the message.
@pytest.mark.parametrize(
    ("arguments", "names", "key", "message"),
    [
        ((), None, "zhu_nc2", "'zhu_nc2' needs a classifier (K, d): give classifier"),
        ((CLASSIFIER,), ["zhu_nc3"], "zhu_nc2", "'zhu_nc2' was not computed: give it among names"),
        ((), ["cdnv"], "zhu_nc1", "'zhu_nc1' was not computed: give it among names"),
        ((), None, "nc1", "'nc1' is none of the values. Close to it: zhu_nc1"),
        ((), None, "CDVN", "'CDVN' is none of the values. Close to it: cdnv"),
        ((), None, 3, "3 is none of the values."),
    ],
)
def test_a_value_that_is_missing_has_a_reason(arguments, names, key, message):
    found = metrics.measure(FEATURES, LABELS, *arguments, names=names)
    with pytest.raises(KeyError) as error:
        found[key]
    assert message in error.value.args[0]
    assert key not in found
    assert found.get(key) is None


@pytest.mark.parametrize("name", REFUSED)
def test_a_mistake_is_named_in_one_line(name):
    arguments, keywords, message = REFUSED[name]
    with pytest.raises(ValueError) as error:  # noqa: PT011
        metrics.measure(*arguments, **keywords)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_sparse_tensor_is_refused():
    torch = pytest.importorskip("torch")
    with pytest.raises(ValueError, match=r"features: .*sparse.* give tensor.to_dense\(\)"):
        metrics.measure(torch.tensor(FEATURES).to_sparse(), LABELS)


def needing(*names):
    return {name for name, m in MEASURES.items() if set(m.needs) & set(names)}


def test_the_default_set_is_what_applies():
    of_features = set(metrics.measure(FEATURES, LABELS))
    of_both = set(metrics.measure(FEATURES, LABELS, CLASSIFIER))
    unequal = set(metrics.measure(FEATURES[1:], LABELS[1:], CLASSIFIER))
    defaults = {name for name, m in MEASURES.items() if m.default}
    assert of_both == defaults
    assert unequal == defaults - needing("balanced")
    assert of_features == {n for n in defaults if "classifier" not in MEASURES[n].needs}
    assert "cdnv" in of_features
    assert of_both > of_features
    assert set(metrics.measure(FEATURES, LABELS, CLASSIFIER, names="all")) == set(MEASURES)


def test_named_measures_and_those_of_a_user_in_their_order():
    mean_norm = Measure("mean_norm", "mean_c ‖M_c‖", lambda s: s.norms[0].mean())
    found = metrics.measure(FEATURES, LABELS, names=[mean_norm, "cdnv"])
    assert list(found) == ["mean_norm", "cdnv"]
    means = np.stack([FEATURES[c == LABELS].mean(axis=0) for c in range(3)])
    expected = np.linalg.norm(means - means.mean(axis=0), axis=1).mean()
    np.testing.assert_allclose(found["mean_norm"], expected, rtol=rounding())
    assert found.equations["mean_norm"] == "mean_c ‖M_c‖"


# Measures of the sums of logits, which one pass gives, with the sums in NumPy.
def of_logits(features, labels, classifier, bias):
    logits = features @ classifier.T + bias
    rows = np.arange(len(labels))

    def margins_of(scores):
        others = np.where(np.eye(scores.shape[1])[labels] == 1, -np.inf, scores)
        return scores[rows, labels] - others.max(axis=1)

    lengths = np.linalg.norm(features, axis=1)[:, None] * np.linalg.norm(classifier, axis=1)
    margins, cosine_margins = margins_of(logits), margins_of(features @ classifier.T / lengths)
    return {
        "correct": np.sum(logits.argmax(axis=1) == labels),
        "cross_entropy": np.sum(np.log(np.exp(logits).sum(axis=1)) - logits[rows, labels]),
        "squared_error": np.sum((logits - np.eye(logits.shape[1])[labels]) ** 2) / 2,
        "margin": margins.sum(),
        "margin_min": margins.min(),
        "cosine_margin": cosine_margins.sum(),
        "cosine_margin_min": cosine_margins.min(),
    }


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 9), max_size=3))
def test_one_pass_is_two_passes(seed, sizes):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(40) % 4)
    means, classifier, bias = rng.normal(size=(4, 5)), rng.normal(size=(4, 5)), rng.normal(size=4)
    features = means[labels] + 0.3 * rng.normal(size=(40, 5))
    ends = np.cumsum([0, *sizes, 40])
    parts = [(features[a:b], labels[a:b]) for a, b in itertools.pairwise(ends)]
    sums = of_logits(features, labels, classifier, bias)

    def total(name):
        reduced = (lambda s: s.sums[name].min()) if name.endswith("min") else (
            lambda s: s.total(name)
        )  # fmt: skip
        return Measure(f"sum_{name}", "", reduced, (name,))

    twice = metrics.measure(parts, None, classifier, bias)
    once = metrics.measure(iter(parts), None, classifier, bias)
    centered = ("centered_cosine_margin", "centered_cosine_margin_min")
    two = needing("within", "around_global", "center_errors", "mismatches", *centered)
    assert {"zhu_nc1", "cdnv"} <= set(once) == set(twice) - two
    every = [
        set(metrics.measure(x, None, classifier, bias, names="all")) for x in (parts, iter(parts))
    ]
    assert every[0] - every[1] == (two & every[0]) | {"papyan_nc1_by_class"}
    # The variances of directions differ by less than a factor of 1e3, which is what tr(Pᵀ C P) of
    # the covariance C loses.
    for name, value in once.items():
        np.testing.assert_allclose(value, twice[name], rtol=1e3 * rounding(), err_msg=name)
    found = metrics.measure(iter(parts), None, classifier, bias, names=[total(n) for n in sums])
    for name, value in sums.items():
        np.testing.assert_allclose(found[f"sum_{name}"], value, rtol=1e3 * rounding())


@pytest.mark.parametrize("ratio", [1.0, 1e2, 1e4])
def test_one_pass_loses_the_ratio_of_variances(ratio):
    # Class means along the first axis, where the samples of a class have the deviation `spread`,
    # and `ratio` times that along the second.
    spread, means = 1e-3, np.array([[3.0, 0.0]])
    signs = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]]) * [spread, ratio * spread]
    features = np.concatenate([signs + means, signs - means])
    labels = np.repeat([0, 1], 4)
    # tr(Σ_W Σ_B⁺) = spread²/3², and 3 ± spread are rounded by half an eps of 2.
    rounded = spread**2 / 9
    twice = metrics.measure(features, labels, names=["papyan_nc1"])["papyan_nc1"]
    once = metrics.measure(iter([(features, labels)]), names=["papyan_nc1"])["papyan_nc1"]
    tolerance = rounding() / spread
    assert abs(twice / rounded - 1) < tolerance
    assert abs(once / rounded - 1) < tolerance + rounding() * ratio**2


def test_only_sums_of_logits_are_read_once():
    passes = []

    def begin():
        passes.append(1)
        return iter(batches(5))

    accuracy = Measure("accuracy", "share", lambda s: s.total("correct") / s.count, ("correct",))
    found = metrics.measure(begin, None, CLASSIFIER, names=[accuracy, "cdnv"])
    predicted = np.argmax(FEATURES @ CLASSIFIER.T, axis=1)
    assert found["accuracy"] == np.mean(predicted == LABELS)
    assert len(passes) == 1
    metrics.measure(begin, names=["zhu_nc1"])
    assert len(passes) == 3


def test_a_measure_that_needs_the_covariance_has_it_in_both_forms():
    trace = Measure("trace", "tr C", lambda s: s.xp.trace(s.sums["covariance"]), ("covariance",))
    size = dataclasses.replace(MEASURES["cdnv"], name="mine")
    expected = sum(
        np.sum((FEATURES[c == LABELS] - FEATURES[c == LABELS].mean(axis=0)) ** 2) for c in range(3)
    )
    for given_features in (batches(5), iter(batches(5))):
        found = metrics.measure(given_features, names=[trace, size])
        np.testing.assert_allclose(found["trace"], expected, rtol=rounding())
        np.testing.assert_allclose(
            found["mine"], metrics.measure(jnp.asarray(FEATURES), LABELS)["cdnv"], rtol=rounding()
        )


@pytest.mark.slow
@pytest.mark.parametrize("passes", ["once", "twice"])
def test_memory_does_not_grow_with_the_samples(passes):
    script = str(Path(__file__).parent / "memory_process.py")

    def peak(count):
        command = [sys.executable, script, str(count), "32", passes]
        run = subprocess.run(command, check=True, capture_output=True, text=True)
        measured, memory = map(int, run.stdout.split())
        assert measured == count
        return memory

    # Features of 5 million samples in float32 have 610 MiB.
    assert peak(5_000_000) - peak(500_000) < 100
