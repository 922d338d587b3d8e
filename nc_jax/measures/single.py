"""Collapse metrics one at a time: every key of `collapse_metrics` is a function of that name.

Each function returns the entry of `collapse_metrics` under its name, so that every equation has one
implementation. A call compiles the operations that the metric needs, and XLA removes all others.
For several metrics of a state call `collapse_metrics` under `jax.jit`.

Symbols are those of `metrics.EQUATIONS`. The arguments of all functions:

- state: features (N, d), classifier (K, d) and bias (K,) or None, of any real dtype.
- labels: (N,) integers in 0..K−1, in any order, with a sample of each class.

All return a scalar in the dtype of the state, in float32 for half precision. They raise a
ValueError for other labels; the `mixon_*` functions also for classes of different sizes, and for
traced labels, whose class sizes are unknown.
"""

from jaxtyping import Array, ArrayLike, Float, Integer

from ..state import LastLayer
from .collapse import collapse_metric


def ji_feature_norm_variation(
    state: LastLayer, labels: Integer[ArrayLike, " N"]
) -> Float[Array, ""]:
    """std_c ‖M_c‖ / mean_c ‖M_c‖ (Ji, section 2.1).

    0 at collapse, where all centred class means have one length.

    Example: centred class means of lengths 2, 1 and 1.

        >>> rows = jnp.array([[2.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
        >>> state = nc.LastLayer(features=rows, classifier=rows)
        >>> round(float(nc.metrics.ji_feature_norm_variation(state, jnp.arange(3))), 6)
        0.353553
    """
    return collapse_metric("ji_feature_norm_variation", state, labels)


def ji_classifier_norm_variation(
    state: LastLayer, labels: Integer[ArrayLike, " N"]
) -> Float[Array, ""]:
    """std_c ‖w̃_c‖ / mean_c ‖w̃_c‖ (Ji, appendix D).

    0 at collapse; the classifiers are centred by their mean.

    Example: classifiers of lengths 2, 1 and 1, of mean 0.

        >>> rows = jnp.array([[2.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
        >>> state = nc.LastLayer(features=rows, classifier=rows)
        >>> round(float(nc.metrics.ji_classifier_norm_variation(state, jnp.arange(3))), 6)
        0.353553
    """
    return collapse_metric("ji_classifier_norm_variation", state, labels)


def ji_within_class_variation(
    state: LastLayer, labels: Integer[ArrayLike, " N"]
) -> Float[Array, ""]:
    """mean_i ‖h_i − μ_{y_i}‖ / mean_i ‖h_i − μ_G‖ (Ji, section 2.1).

    0 where the features of every class coincide, 1 where the class means do.

    Example: features at a distance of ½ from class means ±1.

        >>> features = jnp.array([[1.5], [0.5], [-1.5], [-0.5]])
        >>> state = nc.LastLayer(features, classifier=jnp.array([[1.0], [-1.0]]))
        >>> round(float(nc.metrics.ji_within_class_variation(state, jnp.array([0, 0, 1, 1]))), 6)
        0.5
    """
    return collapse_metric("ji_within_class_variation", state, labels)


def ji_feature_cosine_gap(state: LastLayer, labels: Integer[ArrayLike, " N"]) -> Float[Array, ""]:
    """mean_{c≠c'} |cos(M_c, M_c') + 1/(K−1)| (Ji, section 2.1).

    0 at collapse, where all cosines between centred class means are −1/(K−1).

    Example: centred class means on a line, with cosines −1, −1 and 1.

        >>> rows = jnp.array([[2.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
        >>> state = nc.LastLayer(features=rows, classifier=rows)
        >>> round(float(nc.metrics.ji_feature_cosine_gap(state, jnp.arange(3))), 6)
        0.833333
    """
    return collapse_metric("ji_feature_cosine_gap", state, labels)


def ji_classifier_cosine_gap(
    state: LastLayer, labels: Integer[ArrayLike, " N"]
) -> Float[Array, ""]:
    """mean_{c≠c'} |cos(w̃_c, w̃_c') + 1/(K−1)| (Ji, appendix D).

    0 at collapse, where all cosines between centred classifiers are −1/(K−1).

    Example: centred classifiers on a line, with cosines −1, −1 and 1.

        >>> rows = jnp.array([[2.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
        >>> state = nc.LastLayer(features=rows, classifier=rows)
        >>> round(float(nc.metrics.ji_classifier_cosine_gap(state, jnp.arange(3))), 6)
        0.833333
    """
    return collapse_metric("ji_classifier_cosine_gap", state, labels)


def ji_self_duality(state: LastLayer, labels: Integer[ArrayLike, " N"]) -> Float[Array, ""]:
    """mean_c ‖M_c/‖M_c‖ − w̃_c/‖w̃_c‖‖ (Ji, appendix D).

    0 where each centred classifier is parallel to its centred class mean, 2 where all are opposite.

    Example: classifiers opposite to the class means.

        >>> means = jnp.array([[1.0], [-1.0]])
        >>> state = nc.LastLayer(features=means, classifier=-means)
        >>> round(float(nc.metrics.ji_self_duality(state, jnp.arange(2))), 6)
        2.0
    """
    return collapse_metric("ji_self_duality", state, labels)


def zhu_nc1(state: LastLayer, labels: Integer[ArrayLike, " N"]) -> Float[Array, ""]:
    """tr(Σ_W Σ_B⁺)/K (Zhu, section 4).

    0 where the features of every class coincide. Zhu divides by K, Papyan (`papyan_nc1`) does not.

    Example: variance ¼ within, 1 between two classes.

        >>> features = jnp.array([[1.5], [0.5], [-1.5], [-0.5]])
        >>> state = nc.LastLayer(features, classifier=jnp.array([[1.0], [-1.0]]))
        >>> round(float(nc.metrics.zhu_nc1(state, jnp.array([0, 0, 1, 1]))), 6)
        0.125
    """
    return collapse_metric("zhu_nc1", state, labels)


def zhu_nc2(state: LastLayer, labels: Integer[ArrayLike, " N"]) -> Float[Array, ""]:
    """‖WWᵀ/‖WWᵀ‖_F − E‖_F (Zhu, section 4).

    0 where the classifiers are a simplex ETF with mean 0.

    Example: orthogonal classifiers are no simplex.

        >>> state = nc.LastLayer(features=jnp.eye(2), classifier=jnp.eye(2))
        >>> round(float(nc.metrics.zhu_nc2(state, jnp.arange(2))), 6)
        0.765367
    """
    return collapse_metric("zhu_nc2", state, labels)


def zhu_nc3(state: LastLayer, labels: Integer[ArrayLike, " N"]) -> Float[Array, ""]:
    """‖WMᵀ/‖WMᵀ‖_F − E‖_F with rows M_c (Zhu, section 4).

    0 where the products of classifiers and centred class means are those of a simplex ETF.

    Example: classifiers opposite to the class means.

        >>> means = jnp.array([[1.0], [-1.0]])
        >>> state = nc.LastLayer(features=means, classifier=-means)
        >>> round(float(nc.metrics.zhu_nc3(state, jnp.arange(2))), 6)
        2.0
    """
    return collapse_metric("zhu_nc3", state, labels)


def zhu_nc4(state: LastLayer, labels: Integer[ArrayLike, " N"]) -> Float[Array, ""]:
    """‖W μ_G + b‖₂ (Zhu, section 4).

    The norm of the logits at μ_G, the mean of the class means; 0 at Zhu's minimum.

    Example: strong collapse in Mixon's model, where the bias is 1/K.

        >>> problem = nc.mixon(3, 4, 2)
        >>> state = nc.exact.strong_collapse(problem)
        >>> round(float(nc.metrics.zhu_nc4(state, problem.labels)), 6)
        0.57735
    """
    return collapse_metric("zhu_nc4", state, labels)


def papyan_nc1(state: LastLayer, labels: Integer[ArrayLike, " N"]) -> Float[Array, ""]:
    """tr(Σ_W Σ_B⁺) (Papyan, Han, Donoho 2020).

    0 where the features of every class coincide. It is K times `zhu_nc1`.

    Example: variance ¼ within, 1 between two classes.

        >>> features = jnp.array([[1.5], [0.5], [-1.5], [-0.5]])
        >>> state = nc.LastLayer(features, classifier=jnp.array([[1.0], [-1.0]]))
        >>> round(float(nc.metrics.papyan_nc1(state, jnp.array([0, 0, 1, 1]))), 6)
        0.25
    """
    return collapse_metric("papyan_nc1", state, labels)


def papyan_feature_equinorm(state: LastLayer, labels: Integer[ArrayLike, " N"]) -> Float[Array, ""]:
    """std_c ‖M_c‖ / mean_c ‖M_c‖, std over K−1 (Papyan, Han, Donoho 2020).

    0 at collapse. It is √(K/(K−1)) times `ji_feature_norm_variation`.

    Example: centred class means of lengths 2, 1 and 1.

        >>> rows = jnp.array([[2.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
        >>> state = nc.LastLayer(features=rows, classifier=rows)
        >>> round(float(nc.metrics.papyan_feature_equinorm(state, jnp.arange(3))), 6)
        0.433013
    """
    return collapse_metric("papyan_feature_equinorm", state, labels)


def papyan_classifier_equinorm(
    state: LastLayer, labels: Integer[ArrayLike, " N"]
) -> Float[Array, ""]:
    """std_c ‖w_c‖ / mean_c ‖w_c‖, std over K−1 (Papyan, Han, Donoho 2020).

    0 where all classifiers have one length; they are not centred.

    Example: classifiers of lengths 2, 1 and 1.

        >>> rows = jnp.array([[2.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
        >>> state = nc.LastLayer(features=rows, classifier=rows)
        >>> round(float(nc.metrics.papyan_classifier_equinorm(state, jnp.arange(3))), 6)
        0.433013
    """
    return collapse_metric("papyan_classifier_equinorm", state, labels)


def papyan_classifier_cosine_gap(
    state: LastLayer, labels: Integer[ArrayLike, " N"]
) -> Float[Array, ""]:
    """mean_{c≠c'} |cos(w_c, w_c') + 1/(K−1)| (Papyan, Han, Donoho 2020).

    0 where all cosines between classifiers, not centred, are −1/(K−1).

    Example: orthogonal classifiers have cosines 0, not −½.

        >>> state = nc.LastLayer(features=jnp.eye(3), classifier=jnp.eye(3))
        >>> round(float(nc.metrics.papyan_classifier_cosine_gap(state, jnp.arange(3))), 6)
        0.5
    """
    return collapse_metric("papyan_classifier_cosine_gap", state, labels)


def papyan_self_duality(state: LastLayer, labels: Integer[ArrayLike, " N"]) -> Float[Array, ""]:
    """‖W/‖W‖_F − M/‖M‖_F‖_F² with rows M_c (Papyan, Han, Donoho 2020).

    M_c is the centred mean of class c. The value is 0 where W is a positive multiple of M, and 4
    where it is a negative multiple.

    Example: classifiers opposite to the class means.

        >>> means = jnp.array([[1.0], [-1.0]])
        >>> state = nc.LastLayer(features=means, classifier=-means)
        >>> round(float(nc.metrics.papyan_self_duality(state, jnp.arange(2))), 6)
        4.0
    """
    return collapse_metric("papyan_self_duality", state, labels)


def papyan_ncc_mismatch(state: LastLayer, labels: Integer[ArrayLike, " N"]) -> Float[Array, ""]:
    """share of samples with argmin_c ‖h_i − μ_c‖ ≠ argmax_c z_ic (Papyan, Han, Donoho 2020).

    0 where the nearest class mean and the largest logit (bias included) name the same class for all
    samples.

    Example: classifiers opposite to the class means.

        >>> means = jnp.array([[1.0], [-1.0]])
        >>> state = nc.LastLayer(features=means, classifier=-means)
        >>> round(float(nc.metrics.papyan_ncc_mismatch(state, jnp.arange(2))), 6)
        1.0
    """
    return collapse_metric("papyan_ncc_mismatch", state, labels)


def cdnv(state: LastLayer, labels: Integer[ArrayLike, " N"]) -> Float[Array, ""]:
    """mean_{c≠c'} (v_c + v_c')/(2‖μ_c − μ_c'‖²), v_c = mean_{y_i=c} ‖h_i − μ_c‖² (Galanti, György,
    Hutter 2022).

    The class-distance normalised variance, 0 where the features of every class coincide.

    Example: variance ¼ within two classes at a distance of 2.

        >>> features = jnp.array([[1.5], [0.5], [-1.5], [-0.5]])
        >>> state = nc.LastLayer(features, classifier=jnp.array([[1.0], [-1.0]]))
        >>> round(float(nc.metrics.cdnv(state, jnp.array([0, 0, 1, 1]))), 6)
        0.0625
    """
    return collapse_metric("cdnv", state, labels)


def mixon_snc1(state: LastLayer, labels: Integer[ArrayLike, " N"]) -> Float[Array, ""]:
    """‖WWᵀ − √n(I − 11ᵀ/K)‖_F (Mixon, SNC1).

    0 at strong collapse. Classes must have one size n.

    Example: classifiers at the origin, √n √(K−1).

        >>> problem = nc.mixon(3, 4, 2)
        >>> start = problem.init(jax.random.key(0))
        >>> state = nc.LastLayer(start.features, 0 * start.classifier, start.bias)
        >>> round(float(nc.metrics.mixon_snc1(state, problem.labels)), 6)
        2.0
    """
    return collapse_metric("mixon_snc1", state, labels)


def mixon_snc2(state: LastLayer, labels: Integer[ArrayLike, " N"]) -> Float[Array, ""]:
    """‖H − (W⊗1_n)ᵀ/√n‖_F / ‖H‖_F (Mixon, SNC2).

    0 at strong collapse. Classes must have one size n.

    Example: features without classifiers.

        >>> problem = nc.mixon(3, 4, 2)
        >>> start = problem.init(jax.random.key(0))
        >>> state = nc.LastLayer(start.features, 0 * start.classifier, start.bias)
        >>> round(float(nc.metrics.mixon_snc2(state, problem.labels)), 6)
        1.0
    """
    return collapse_metric("mixon_snc2", state, labels)


def mixon_snc3(state: LastLayer, labels: Integer[ArrayLike, " N"]) -> Float[Array, ""]:
    """‖b − 1/K‖₂ (Mixon, SNC3).

    0 at strong collapse; a missing bias counts as 0. Classes must have one size n.

    Example: a bias of 0 is off by 1/√K.

        >>> problem = nc.mixon(3, 4, 2)
        >>> start = problem.init(jax.random.key(0))
        >>> state = nc.LastLayer(start.features, 0 * start.classifier, start.bias)
        >>> round(float(nc.metrics.mixon_snc3(state, problem.labels)), 6)
        0.57735
    """
    return collapse_metric("mixon_snc3", state, labels)


def mixon_distance_to_s(state: LastLayer, labels: Integer[ArrayLike, " N"]) -> Float[Array, ""]:
    """‖Z − Π_S Z‖ / ‖Z‖ for Z = (H, W, b) (Mixon, theorem 3).

    0 on Mixon's invariant subspace S. Classes must have one size n.

    Example: a projection onto S.

        >>> problem = nc.mixon(3, 4, 2)
        >>> state = nc.geometry.project_onto_S(problem.init(jax.random.key(0)), problem.labels)
        >>> round(float(nc.metrics.mixon_distance_to_s(state, problem.labels)), 6)
        0.0
    """
    return collapse_metric("mixon_distance_to_s", state, labels)
