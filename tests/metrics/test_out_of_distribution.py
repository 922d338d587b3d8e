"""Detection of samples out of the distribution against scikit-learn and plain NumPy."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.preprocessing import StandardScaler
from tolerances import rounding

import nc_jax as nc
from nc_jax.metrics import auroc, false_positive_rate, out_of_distribution

SEEDS = st.integers(0, 2**32 - 1)
DIM, CLASSES = 6, 3
# Few values, so that there are ties.
TIED = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=45)


def random_sets(seed):
    """Training data, held-out and other features, classifier and bias."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(CLASSES), (4, 9, 6)))
    means = 2 * rng.normal(size=(CLASSES, DIM))
    features = means[labels] + rng.normal(size=(len(labels), DIM))
    tested = means[rng.integers(0, CLASSES, 30)] + rng.normal(size=(30, DIM))
    other = 0.5 + rng.normal(size=(23, DIM))
    return features, labels, other, tested, rng.normal(size=(CLASSES, DIM)), rng.normal(size=3)


def rates(inside, outside):
    truth = np.repeat([1, 0], [len(inside), len(outside)])
    both = np.concatenate([inside, outside])
    false, true, _ = roc_curve(truth, both, drop_intermediate=False)
    return roc_auc_score(truth, both), false[np.argmax(true >= 0.95)]


def neco(train, rows, components):
    directions = np.asarray(PCA(components).fit(train).components_)
    return np.linalg.norm(rows @ directions.T, axis=1) / np.linalg.norm(rows, axis=1)


def neco_standardized(train, rows, components):
    scaler = StandardScaler().fit(train)
    pca = PCA().fit(scaler.transform(train))
    scaled = scaler.transform(rows)
    reduced = pca.transform(scaled)[:, :components]
    return np.linalg.norm(reduced, axis=1) / np.linalg.norm(scaled, axis=1)


def logit_scores(rows, classifier, bias):
    logits = rows @ classifier.T + bias
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return {
        "msp": 1 / powers.sum(axis=1),
        "max_logit": logits.max(axis=1),
        "energy": np.log(np.exp(logits).sum(axis=1)),
    }


@pytest.mark.parametrize("components", [None, 1, 4])
@settings(max_examples=5)
@given(seed=SEEDS)
def test_rates_are_those_of_scikit_learn(components, seed):
    features, labels, other, tested, classifier, bias = random_sets(seed)
    found = out_of_distribution(
        features, labels, other, classifier, bias, test_features=tested, components=components
    )
    number = components or CLASSES - 1
    pairs = {
        "neco": [neco(features, rows, number) for rows in (tested, other)],
        "neco_standardized": [
            neco_standardized(features, rows, number) for rows in (tested, other)
        ],
    }
    inside, outside = (logit_scores(rows, classifier, bias) for rows in (tested, other))
    pairs |= {name: [inside[name], outside[name]] for name in inside}
    for name, (scores, others) in pairs.items():
        area, rate = rates(scores, others)
        assert found[f"{name}_auroc"] == pytest.approx(area, rel=rounding()), name
        assert found[f"{name}_fpr95"] == pytest.approx(rate, rel=rounding()), name
    means = np.stack([features[labels == c].mean(axis=0) for c in range(CLASSES)])
    mean = other.mean(axis=0)
    cosines = np.abs(means @ mean) / np.linalg.norm(means, axis=1) / np.linalg.norm(mean)
    np.testing.assert_allclose(found["ammar_nc5_by_class"], cosines, rtol=1e3 * rounding())
    assert found["ammar_nc5"] == pytest.approx(cosines.mean(), rel=1e3 * rounding())
    assert len(found) == 12


@given(scores=TIED, others=TIED)
def test_rates_with_ties_are_those_of_scikit_learn(scores, others):
    scores, others = np.array(scores), np.array(others)
    area, rate = rates(scores, others)
    assert auroc(scores, others) == pytest.approx(area, rel=rounding())
    assert false_positive_rate(scores, others) == pytest.approx(rate, rel=rounding())
    pairs = scores[:, None] - others[None]
    assert auroc(scores, others) == np.mean((np.sign(pairs) + 1) / 2)
    assert auroc(others, scores) == pytest.approx(1 - area, rel=rounding(), abs=rounding())


@pytest.mark.parametrize("count", [1, 19, 20, 60, 100, 140, 1000, 10**4])
def test_the_threshold_has_the_recall_and_no_more(count):
    """0.95 N is an integer for some of these, which rounding may exceed."""
    scores = np.arange(float(count))
    reached = np.array([np.mean(scores >= t) for t in scores])
    threshold = scores[reached >= 0.95].max()
    assert false_positive_rate(scores, scores - 0.5) == np.mean(scores - 0.5 >= threshold)


def test_orthogonal_features_are_detected_without_error():
    """Collapsed classes along axes, others in the orthogonal complement: NC5 is 0."""
    rng = np.random.default_rng(0)
    labels = np.arange(4).repeat(5)
    features, other = np.eye(7)[labels], np.zeros((9, 7))
    other[:, 4:] = rng.normal(size=(9, 3))
    found = out_of_distribution(features, labels, other)
    assert set(found) == {
        "ammar_nc5", "ammar_nc5_by_class", "neco_auroc", "neco_fpr95",
        "neco_standardized_auroc", "neco_standardized_fpr95",
    }  # fmt: skip
    assert found["ammar_nc5"] == 0
    assert found["neco_auroc"] == 1
    assert found["neco_fpr95"] == 0


def test_equal_sets_are_not_told_apart():
    features, labels, *_, classifier, bias = random_sets(1)
    found = out_of_distribution(features, labels, features, classifier, bias)
    for name, value in found.items():
        if name.endswith("_auroc"):
            assert value == 0.5


def test_probabilities_that_round_to_1_are_ranked():
    features, labels = np.array([[40.0], [50.0], [-40.0], [-50.0]]), np.array([0, 0, 1, 1])
    classifier, other = np.array([[1.0], [-1.0]]), np.array([[30.0], [45.0]])
    found = out_of_distribution(features, labels, other, classifier)
    # 30 is below all four, and 45 below two.
    assert found["msp_auroc"] == 0.75


@given(seed=SEEDS)
@settings(max_examples=5)
def test_neco_does_not_depend_on_rotation_and_order(seed):
    features, labels, other, *_ = random_sets(seed)
    rng = np.random.default_rng(seed)
    turn, order = np.linalg.qr(rng.normal(size=(DIM, DIM)))[0], rng.permutation(len(labels))
    found = out_of_distribution(features, labels, other)
    turned = out_of_distribution((features @ turn)[order], labels[order], other @ turn)
    for name in ("neco_auroc", "neco_fpr95", "ammar_nc5"):
        assert turned[name] == pytest.approx(found[name], rel=1e3 * rounding())


def test_batches_and_float32_and_jax_arrays_give_the_same():
    features, labels, other, tested, classifier, bias = random_sets(2)
    features, other, tested = (x.astype("float32") for x in (features, other, tested))
    whole = out_of_distribution(features, labels, other, classifier, bias, test_features=tested)
    small = out_of_distribution(
        features, labels, jax.numpy.asarray(other), classifier, bias,
        test_features=tested.tolist(), batch_size=4,
    )  # fmt: skip
    for name, value in whole.items():
        np.testing.assert_allclose(small[name], value, rtol=rounding(), err_msg=name)
    exact = out_of_distribution(
        features.astype(float), labels, other.astype(float), classifier, bias,
        test_features=tested.astype(float),
    )  # fmt: skip
    for name, value in whole.items():
        np.testing.assert_allclose(exact[name], value, rtol=rounding(), err_msg=name)


def test_scores_that_are_no_numbers_give_no_rate():
    scores, bad = np.arange(3.0), np.array([1.0, np.nan])
    for pair in ((scores, bad), (bad, scores)):
        assert np.isnan(auroc(*pair))
        assert np.isnan(false_positive_rate(*pair))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda h, y: out_of_distribution(h, y, h[:, :2]), "other_features have 2 columns, and"),
        (lambda h, y: out_of_distribution(h, y, h[0]), "other_features have shape"),
        (lambda h, y: out_of_distribution(h, y, h, test_features=h[:, :2]), "test_features have 2"),
        (lambda h, y: out_of_distribution(h, y, h, components=0), "components = 0: give an"),
        (lambda h, y: out_of_distribution(h, y, h, components=7), "an integer from 1 to 6"),
        (lambda h, y: out_of_distribution(iter([(h, y)]), None, h), "features: an iterator can"),
        (lambda h, y: auroc(h, h), "scores have shape"),
        (lambda h, y: auroc(h[0], h[0, :0]), "other_scores have shape"),
        (lambda h, y: false_positive_rate(h[0], h[0], recall=2.0), "recall = 2.0: give a share"),
        (lambda h, y: false_positive_rate(h[0], h[0], recall=0.0), "recall = 0.0: give"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(call, message):
    features, labels, *_ = random_sets(3)
    with pytest.raises(ValueError, match=message) as error:
        call(features, labels)
    assert "\n" not in str(error.value)


def test_an_iterator_is_enough_where_held_out_samples_are_scored():
    features, labels, other, tested, *_ = random_sets(4)
    once = out_of_distribution(iter([(features, labels)]), None, other, test_features=tested)
    whole = nc.metrics.out_of_distribution(features, labels, other, test_features=tested)
    for name, value in whole.items():
        np.testing.assert_allclose(once[name], value, rtol=rounding(), err_msg=name)
