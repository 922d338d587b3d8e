"""Derivatives of all closed forms by their real numbers, against finite differences.

A public name of `nc.exact` has cases in `CASES`, is in `WITHOUT_REAL_NUMBER` with the reason, or
refuses traced numbers in one line (`REFUSALS`). `test_every_public_name_is_listed` fails for a new
name that is in none of the tables.
"""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nc_jax as nc

exact = nc.exact
KEY = jax.random.key(0)


def decayed(x, **options):
    """Different decays of W and H that are proportional to x."""
    return nc.WeightDecay(classifier=x, features=2 * x, **options)


def free(x, *, sizes=(3, 3, 3), dim=4, loss=None, **options):
    loss = nc.CrossEntropy() if loss is None else loss
    return nc.UnconstrainedFeatures(sizes, dim, loss=loss, weight_decay=decayed(x), **options)


def bare(*, sizes=(3, 3, 3), dim=4, **options):
    return nc.UnconstrainedFeatures(sizes, dim, **options)


def deep(x, *, sizes=(2, 2, 2), widths=(4, 4), loss=None):
    loss = nc.CrossEntropy() if loss is None else loss
    decays = [x * (1 + i) for i in range(len(widths) + 1)]
    return nc.DeepUnconstrainedFeatures(sizes, widths, loss=loss, weight_decay=decays)


def deep_square(x, *, sizes=(6, 3, 3, 1), widths=(4, 4)):
    return deep(x, sizes=sizes, widths=widths, loss=nc.SquaredError())


def one_decay(x, *, sizes=(6, 3, 3, 1), widths=(4, 4)):
    return nc.DeepUnconstrainedFeatures(
        sizes, widths, loss=nc.SquaredError(), weight_decay=x
    )  # fmt: skip


def free_of_sets(x):
    sets = nc.problems.label_sets([(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)], 3)
    return nc.problems.FreeFeatures(
        sets, 4, loss=nc.losses.PickAllLabels(), weight_decay=decayed(x)
    )  # fmt: skip


def regression(x, targets=None, **options):
    targets = np.array([[2.0, 0.3], [0.1, 1.0], [0.4, 0.2]]) if targets is None else targets
    return nc.problems.FreeFeatures(
        targets, 3, loss=nc.losses.HalfSquaredDistance(), weight_decay=decayed(x), **options
    )


def nonnegative(x):
    return nc.problems.NonnegativeFeatures((20, 10, 5, 1), 4, weight_decay=decayed(x))


def contrastive(x, dim=4):
    return nc.problems.ContrastiveFeatures((3,) * 4, dim, temperature=x)


def normalized(x):
    return nc.NormalizedFeatures((2, 2, 2), 4, inverse_temperature=x)


def unlike_classes(x):
    """Weights and decays that differ between classes."""
    return nc.UnconstrainedFeatures(
        (4, 2, 1),
        4,
        class_weights=(1.0, x, 2.0),
        weight_decay=nc.WeightDecay(classifier=0.01, features=0.02),
    )


def two_groups(x, **options):
    return free(x, sizes=(9, 9, 9, 2, 2), dim=5, **options)


def kernel_problem(x=1.0, loss=None, sizes=(3, 1, 1), **options):
    loss = nc.CrossEntropy() if loss is None else loss
    kernel = nc.problems.BlockKernel(2.0 * x, 1.0 * x, 0.5 * x)
    return nc.KernelFeatures(sizes, 3, loss=loss, kernel=kernel, **options)


def linear_start(x):
    first = jnp.array([[0.6, 0.3], [0.2, 0.5]])
    second = jnp.array([[0.7, 0.4]])
    unit = [matrix / jnp.linalg.norm(matrix) for matrix in (first, second)]
    return nc.Layers((unit[0], unit[1]), jnp.asarray(x)[None])


SAMPLE = np.array([0.6, 0.8])


def aligned_start(x):
    """A start without a fading part, whose logarithm is −∞."""
    first = jnp.array([[0.6, 0.8], [0.0, 0.0]])
    return nc.Layers((first, jnp.array([[1.0, 0.0]])), jnp.asarray(x)[None])


RICCATI = bare(sizes=(4, 2, 1), loss=nc.SquaredError())
MIXON = nc.mixon(3, 4, 2)
LINEAR = nc.LinearizedMixon(3, 4, 2)
ON_S = exact.strong_collapse(MIXON, key=KEY)
START = LINEAR.init(KEY, norm=0.1)
FLOW = {"alignment": 2.0, "second_moment": 1.0}


def scaled(state, x):
    return jax.tree.map(lambda leaf: x * leaf, state)


def riccati(x):
    """The Riccati problem with one number for both decays."""
    decay = nc.WeightDecay(classifier=x, features=x)
    return bare(sizes=(4, 2, 1), loss=nc.SquaredError(), weight_decay=decay)


BALANCED = exact.balanced_start(RICCATI, key=KEY, norm=0.3)
MODES = np.sqrt([5.0, 2.0])

# By public name: functions of one real number, and where their derivatives are compared.
CASES = {
    "DeepCode": [(lambda x: exact.deep_code(4, 4).deep_state((3, 4, 3), gap=x), 2.0)],
    "Eigenspace": [
        (lambda x: [s.growth(x) for s in exact.linearized_eigenspaces(LINEAR).values()], 0.3),
        (lambda x: [s.eigenvalue(x) for s in exact.linearized_eigenspaces(LINEAR).values()], 0.3),
    ],
    "KernelLimit": [(lambda x: exact.kernel_limit(kernel_problem()).state(x), 2.0)],
    "Seli": [
        (lambda x: exact.seli((2, 1, 1)).state(3, gap=x), 2.0),
        (lambda x: exact.seli((2, 1, 1), depth=3).deep_state((4, 2), gap=x), 2.0),
    ],
    "SoftLabelLimit": [
        (lambda x: SOFT.logits(x), 20.0),
        (lambda x: SOFT.cosine(scaled_features(SOFT.state(3, 20.0), x)), 2.0),
    ],
    "aligned_mode": [
        (lambda x: exact.aligned_mode(x, 0.1, MODES, 4), 1.2),
        (lambda x: exact.aligned_mode(1.2, x, MODES, 4), 0.1),
        (lambda x: exact.aligned_mode(1.2, 0.1, x * MODES, 3), 1.1),
        (lambda x: exact.aligned_mode(0.7, 0.1, x * MODES, 2), 1.1),
        (lambda x: exact.aligned_mode(20.0, x, MODES, 3), 0.01),
    ],
    "aligned_mode_time": [
        (lambda x: exact.aligned_mode_time(x, 0.5, MODES, 3), 0.1),
        (lambda x: exact.aligned_mode_time(0.1, x, MODES, 4), 0.5),
        (lambda x: exact.aligned_mode_time(0.1, 0.5, x * MODES, 2), 1.0),
    ],
    "balanced_start": [(lambda x: exact.balanced_start(RICCATI, key=KEY, norm=x), 0.3)],
    "best_known_code": [(lambda x: exact.best_known_code(bare(sizes=(2,) * 5, dim=2), gap=x), 2.0)],
    "bias_decay_threshold": [
        (lambda x: exact.bias_decay_threshold(imbalanced(x, sizes=(2, 2, 2))), 0.05),
    ],
    "central_path": [
        (
            lambda x: exact.central_path(
                x * np.array([0.1, 2.0]), 3.0, num_classes=3, samples_per_class=4
            ),
            1.0,
        ),
        (
            lambda x: exact.central_path(
                np.array([0.1, 2.0]), x, num_classes=3, samples_per_class=4
            ),
            3.0,
        ),
        (
            lambda x: exact.central_path(
                np.array([0.0, 1e-30]), x, num_classes=3, samples_per_class=4
            ),
            3.0,
        ),
    ],
    "central_path_loss": [(lambda x: exact.central_path_loss(x * np.ones(2), 3), 0.7)],
    "class_decay_ratios": [
        (lambda x: exact.class_decay_ratios(free(x, sizes=(4, 2, 1))), 0.01),
        (lambda x: exact.class_decay_ratios(unlike_classes(x)), 1.5),
    ],
    "collapsed_gap": [
        (lambda x: exact.collapsed_gap(bare(), x, jnp.array([0.5, 200.0])), 0.5),
        (lambda x: exact.collapsed_gap(bare(), 0.5, x * jnp.array([1.0, 200.0])), 1.0),
    ],
    "collapsed_state": [(lambda x: exact.collapsed_state(bare(), x), 0.5)],
    "contrastive_minimum": [(lambda x: exact.contrastive_minimum(contrastive(x)), 0.5)],
    "contrastive_rate": [(lambda x: exact.contrastive_rate(contrastive(x, 5)), 0.5)],
    "deep_collapsed_gap": [
        (lambda x: exact.deep_collapsed_gap(deep(0.0), x, jnp.array([0.5, 200.0])), 0.5),
        (lambda x: exact.deep_collapsed_gap(deep(0.0), 0.5, x * jnp.array([1.0, 200.0])), 1.0),
    ],
    "deep_minimizer": [
        (lambda x: exact.deep_minimizer(deep(x)), 0.01),
        (lambda x: exact.deep_minimizer(deep(x)), 0.5),  # The origin.
        (lambda x: exact.deep_minimizer(deep(x, widths=(4,))), 0.01),
    ],
    "deep_minimum": [
        (lambda x: exact.deep_minimum(deep(x)), 0.01),
        (lambda x: exact.deep_minimum(deep(x)), 0.5),
        (lambda x: exact.deep_minimum(deep(x, widths=(4,))), 0.01),
    ],
    "deep_penalty": [
        (lambda x: exact.deep_penalty(x * np.array([1.0, 2.0]), (0.1, 0.2, 0.3)), 0.7),
        (lambda x: exact.deep_penalty(np.array([1.0, 0.0]), (x, 2 * x, 0.3)), 0.1),
        (lambda x: exact.deep_penalty(jnp.stack([x, 0.0 * x]), (0.1, 0.2, 0.3)), 0.7),
    ],
    "deep_square_basin": [
        (lambda x: exact.deep_square_basin(one_decay(x))[:3], 0.05),
        (lambda x: exact.deep_square_basin(one_decay(x, widths=(4,)))[:3], 0.05),
    ],
    "deep_square_minimizer": [
        (lambda x: exact.deep_square_minimizer(deep_square(x)), 0.03),
        (lambda x: exact.deep_square_minimizer(deep_square(x, widths=(4,))), 0.03),
        (lambda x: exact.deep_square_minimizer(deep_square(x, widths=(2, 4))), 0.03),
    ],
    "deep_square_minimum": [
        (lambda x: exact.deep_square_minimum(deep_square(x)), 0.03),
        (lambda x: exact.deep_square_minimum(deep_square(x, widths=(2, 4))), 0.03),
    ],
    "deep_square_threshold": [(lambda x: exact.deep_square_threshold(x, 3), 2.0)],
    "example_3_1": [(lambda x: exact.example_3_1(x), 0.2)],
    "example_3_1_loss": [(lambda x: exact.example_3_1_loss(x), 0.2)],
    "factored_state": [
        (
            lambda x: exact.factored_state(
                jnp.diag(jnp.stack([x, 2.0 + x, 0.5])),
                (2, 1, 1),
                (3, 3),
                weight_decay=(0.1, 0.2, 0.3),
            ),
            1.0,
        ),
        (
            lambda x: exact.factored_state(
                np.diag([1.0, 2.0, 3.0]), (2, 1, 1), (3, 3), weight_decay=(0.1, x, 0.3)
            ),
            0.1,
        ),
    ],
    "focal_gap": [
        (lambda x: exact.focal_gap(free(x, loss=nc.Focal(2.0))), 0.005),
        (lambda x: exact.focal_gap(free(0.005, loss=nc.Focal(x))), 2.0),
        (lambda x: exact.focal_gap(free(x, loss=nc.Focal(2.0))), 0.5),  # The origin.
    ],
    "focal_minimizer": [
        (lambda x: exact.focal_minimizer(free(x, loss=nc.Focal(2.0))), 0.005),
        (lambda x: exact.focal_minimizer(free(0.005, loss=nc.Focal(x))), 2.0),
        (lambda x: exact.focal_minimizer(free(x, loss=nc.Focal(2.0))), 0.5),
    ],
    "focal_minimum": [
        (lambda x: exact.focal_minimum(free(x, loss=nc.Focal(2.0))), 0.005),
        (lambda x: exact.focal_minimum(free(0.005, loss=nc.Focal(x))), 2.0),
    ],
    "grouped_saddle": [
        (lambda x: exact.grouped_saddle(bare(sizes=(1,) * 4), 2, radius=x), 3.0),
    ],
    "imbalanced_square_minimizer": [
        (lambda x: products(exact.imbalanced_square_minimizer(imbalanced(x))), 0.05),
        (lambda x: products(exact.imbalanced_square_minimizer(imbalanced(x, (4, 4, 1, 1)))), 0.05),
        (lambda x: products(exact.imbalanced_square_minimizer(penalised_bias(x))), 0.1),
        (lambda x: products(exact.imbalanced_square_minimizer(penalised_bias(x))), 3.0),
    ],
    "imbalanced_square_minimum": [
        (lambda x: exact.imbalanced_square_minimum(imbalanced(x)), 0.05),
    ],
    "kernel_late_geometry": [
        (lambda x: exact.kernel_late_geometry(kernel_problem(), x), 40.0),
        (lambda x: exact.kernel_late_geometry(kernel_problem(sizes=(1, 1, 1)), x), 40.0),
    ],
    "kernel_square_flow": [
        (lambda x: exact.kernel_square_flow(KERNEL_SQUARE, x * KERNEL_START, 0.5), 1.0),
        (lambda x: exact.kernel_square_flow(KERNEL_SQUARE, KERNEL_START, x), 0.5),
    ],
    "late_gap": [
        (lambda x: exact.late_gap(x * jnp.array([1.0, 200.0])), 1.0),
        (lambda x: exact.late_gap(jnp.array([1.0, 200.0]), start_gap=x), 0.7),
        (lambda x: exact.late_gap(jnp.array([1.0, 200.0]), tail=x, depth=3), 2.0),
        (lambda x: exact.late_gap(jnp.array([1.0, 200.0]), loss_scale=x, depth=4), 0.2),
    ],
    "late_geometry": [
        (lambda x: exact.late_geometry((4, 2, 1), x), 40.0),
        (lambda x: exact.late_geometry((4, 4, 1, 1), x), 40.0),
        (lambda x: exact.late_geometry((4, 4, 1, 1), x, depth=3), 40.0),
    ],
    "late_loss": [
        (lambda x: exact.late_loss(x, jnp.array([1.0, 200.0])), 2.0),
        (lambda x: exact.late_loss(2.0, x * jnp.array([1.0, 200.0]), depth=3), 1.0),
        (lambda x: exact.late_loss(2.0, 200.0, tail=x, loss_scale=0.5, start_gap=0.3), 2.0),
    ],
    "linear_limit": [
        (lambda x: exact.linear_limit(linear_start(x), SAMPLE), 0.7),
        (lambda x: exact.linear_limit(aligned_start(x), SAMPLE), 0.7),
        (lambda x: exact.linear_limit(turned_start(x), SAMPLE), 0.3),
    ],
    "linear_path": [
        (lambda x: exact.linear_path(linear_start(x), SAMPLE, 0.2), 0.7),
        (lambda x: exact.linear_path(linear_start(0.7), SAMPLE, x), 0.2),
    ],
    "linear_time": [
        (lambda x: exact.linear_time(linear_start(x), SAMPLE, 0.2), 0.7),
        (lambda x: exact.linear_time(linear_start(0.7), SAMPLE, x), 0.2),
        (lambda x: exact.linear_time(aligned_start(x), SAMPLE, 0.1), 0.7),
    ],
    "linearized_bound": [
        (lambda x: exact.linearized_bound(LINEAR, START, x), 0.3),
        (lambda x: exact.linearized_bound(LINEAR, scaled(START, x), 0.3), 1.5),
    ],
    "linearized_solution": [
        (lambda x: exact.linearized_solution(LINEAR, START, x), 0.3),
        (lambda x: exact.linearized_solution(LINEAR, scaled(START, x), 0.3), 1.5),
    ],
    "logistic_norm": [
        (lambda x: exact.logistic_norm(x, start=0.01, **FLOW), 0.5),
        (lambda x: exact.logistic_norm(0.5, start=x, **FLOW), 0.01),
        (lambda x: exact.logistic_norm(0.5, start=0.01, alignment=x, second_moment=2 * x), 2.0),
    ],
    "max_margin_bound": [(lambda x: exact.max_margin_bound(bare(), x), 2.0)],
    "linearized_eigenspaces": [  # Of a problem without real numbers; see `Eigenspace` for times.
        (lambda x: [s.growth(x) for s in exact.linearized_eigenspaces(LINEAR).values()], 0.3),
    ],
    "minimum_spectrum": [
        (lambda x: exact.minimum_spectrum(free(x, bias=True)).eigenvalues, 0.01),
        (lambda x: exact.minimum_spectrum(free(x, loss=nc.SquaredError())).eigenvalues, 0.01),
    ],
    "minority_minimizer": [(lambda x: products(exact.minority_minimizer(two_groups(x))), 0.002)],
    "minority_minimum": [
        (lambda x: exact.minority_minimum(two_groups(x)), 0.002),
        (lambda x: exact.minority_minimum(two_groups(x)), 0.03),
        (lambda x: exact.minority_minimum(two_groups(x)), 1.0),
        (lambda x: exact.minority_minimum(free(x, sizes=(9, 2, 2), dim=3)), 0.002),
    ],
    "minority_threshold": [(lambda x: exact.minority_threshold(3, 3, 5, decay_product=x), 1e-5)],
    "nonnegative_gaps": [(lambda x: exact.nonnegative_gaps(nonnegative(x)), 0.005)],
    "nonnegative_minimizer": [
        (lambda x: exact.nonnegative_minimizer(nonnegative(x)), 0.005),
        (lambda x: exact.nonnegative_minimizer(nonnegative(x)), 0.03),  # A class at the origin.
    ],
    "nonnegative_minimum": [(lambda x: exact.nonnegative_minimum(nonnegative(x)), 0.03)],
    "nonnegative_threshold": [(lambda x: exact.nonnegative_threshold(nonnegative(x)), 0.005)],
    "norm_time": [
        (lambda x: exact.norm_time(x, start=0.01, **FLOW, num_layers=3), 0.5),
        (lambda x: exact.norm_time(0.5, start=x, **FLOW, num_layers=2), 0.01),
        (
            lambda x: exact.norm_time(
                0.5, start=0.01, alignment=x, second_moment=1.0, num_layers=1
            ),
            2.0,
        ),
    ],
    "normalized_geometry": [
        (lambda x: exact.normalized_geometry(x, 2.0, 3, 4), 0.25),
        (lambda x: exact.normalized_geometry(0.25, x, 3, 4), 2.0),
    ],
    "normalized_minimum": [(lambda x: exact.normalized_minimum(normalized(x)), 2.0)],
    "normalized_norm": [
        (
            lambda x: exact.normalized_norm(
                x, start=0.1, mean_margin=1.0, second_moment=1.0, decay=0.2
            ),
            0.4,
        ),
        (
            lambda x: exact.normalized_norm(
                0.4, start=x, mean_margin=1.0, second_moment=1.0, decay=x
            ),
            0.2,
        ),
        (
            lambda x: exact.normalized_norm(
                0.4, start=0.1, mean_margin=x, second_moment=x, decay=0.2
            ),
            1.0,
        ),
    ],
    "normalized_spectrum": [
        (lambda x: jax.tree.leaves(exact.normalized_spectrum(normalized(x))), 2.0)
    ],
    "origin_eigenvalues": [(lambda x: exact.origin_eigenvalues(free(x)), 0.01)],
    "orthogonal_geometry": [
        (lambda x: exact.orthogonal_geometry(x, 0.5, 3, 4), 0.25),
        (lambda x: exact.orthogonal_geometry(0.25, x, 3, 4), 0.5),
    ],
    "paired_saddle": [(lambda x: exact.paired_saddle(bare(sizes=(1,) * 4), radius=x), 3.0)],
    "pairs_and_singles": [
        (lambda x: exact.pairs_and_singles(bare(sizes=(2,) * 4, dim=2), gap=x), 2.0)
    ],
    "pentagonal_bipyramid": [
        (lambda x: exact.pentagonal_bipyramid(bare(sizes=(2,) * 7, dim=3), gap=x), 2.0),
    ],
    "pick_all_labels_minimizer": [
        (lambda x: exact.pick_all_labels_minimizer(free_of_sets(x)), 0.01),
        (lambda x: exact.pick_all_labels_minimizer(free_of_sets(x)), 2.0),  # The origin.
    ],
    "pick_all_labels_minimum": [
        (lambda x: exact.pick_all_labels_minimum(free_of_sets(x)), 0.01),
        (lambda x: exact.pick_all_labels_minimum(free_of_sets(x)), 2.0),
    ],
    "polygon": [(lambda x: exact.polygon(bare(sizes=(2,) * 5, dim=2), gap=x), 2.0)],
    "regression_minimizer": [
        (lambda x: exact.regression_minimizer(regression(x)), 0.05),
        (lambda x: exact.regression_minimizer(regression(x)), 0.25),  # One mode is left.
        (lambda x: exact.regression_minimizer(regression(x, np.diag([2.0, 2.0, 1.0]))), 0.05),
    ],
    "regression_minimum": [
        (lambda x: exact.regression_minimum(regression(x)), 0.05),
        (lambda x: exact.regression_minimum(regression(x, np.diag([2.0, 2.0, 1.0]))), 0.05),
    ],
    "regularized_minimizer": [
        (lambda x: exact.regularized_minimizer(free(x)), 0.01),
        (lambda x: exact.regularized_minimizer(free(x)), 1.0),  # The origin.
    ],
    "regularized_minimum": [
        (lambda x: exact.regularized_minimum(free(x)), 0.01),
        (lambda x: exact.regularized_minimum(free(x)), 1.0),
    ],
    "ridge_geometry": [
        (lambda x: exact.ridge_geometry(free(x, sizes=(4, 2, 1))), 1e-7),
        (lambda x: exact.ridge_geometry(free(x, sizes=(4, 4, 1, 1))), 1e-7),
    ],
    "simplex_geometry": [
        (lambda x: exact.simplex_geometry(x, 0.5, 3, 4), 0.25),
        (lambda x: exact.simplex_geometry(0.25, x, 3, 4), 0.5),
    ],
    "smoothed_gap": [
        (lambda x: exact.smoothed_gap(free(x, loss=nc.LabelSmoothing(0.1))), 0.01),
        (lambda x: exact.smoothed_gap(free(0.01, loss=nc.LabelSmoothing(x))), 0.1),
    ],
    "smoothed_minimizer": [
        (lambda x: exact.smoothed_minimizer(free(x, loss=nc.LabelSmoothing(0.1))), 0.01),
        (lambda x: exact.smoothed_minimizer(bare(loss=nc.LabelSmoothing(x))), 0.1),
        (lambda x: exact.smoothed_minimizer(free(x, loss=nc.LabelSmoothing(0.1))), 1.0),
    ],
    "smoothed_minimum": [
        (lambda x: exact.smoothed_minimum(free(x, loss=nc.LabelSmoothing(0.1))), 0.01),
        (lambda x: exact.smoothed_minimum(free(0.01, loss=nc.LabelSmoothing(x))), 0.1),
    ],
    "spectral_mode": [
        (lambda x: exact.spectral_mode(x, start=0.01, depth=3), 0.7),
        (lambda x: exact.spectral_mode(0.7, start=x, depth=3), 0.01),
    ],
    "spectral_mode_time": [
        (lambda x: exact.spectral_mode_time(x, start=0.01, depth=3), 0.7),
        (lambda x: exact.spectral_mode_time(0.7, start=x, depth=3), 0.01),
    ],
    "sphere_optimum": [(lambda x: exact.sphere_optimum(bare(), x), 3.0)],
    "square_loss_flow": [
        (lambda x: exact.square_loss_flow(RICCATI, BALANCED, x), 0.4),
        (lambda x: exact.square_loss_flow(RICCATI, scaled(BALANCED, x), 0.4), 1.1),
        (lambda x: exact.square_loss_flow(riccati(x), BALANCED, 0.4), 0.1),
    ],
    "square_loss_gap": [(lambda x: exact.square_loss_gap(free(x, loss=nc.SquaredError())), 0.01)],
    "square_loss_minimizer": [
        (lambda x: exact.square_loss_minimizer(free(x, loss=nc.SquaredError())), 0.01),
        (lambda x: exact.square_loss_minimizer(free(x, loss=nc.SquaredError())), 2.0),
    ],
    "stuck_margins": [
        (lambda x: exact.stuck_margins(x, 0.25, num_samples=12, num_stuck=5), 2.0),
        (lambda x: exact.stuck_margins(2.0, x, num_samples=12, num_stuck=5), 0.25),
    ],
    "subset_saddle": [(lambda x: exact.subset_saddle(bare(sizes=(1,) * 3), 2, radius=x), 2.0)],
    "subspace_limit": [(lambda x: exact.subspace_limit(MIXON, scaled(ON_S, x)), 1.1)],
    "subspace_objective": [(lambda x: exact.subspace_objective(MIXON, scaled(ON_S, x)), 1.1)],
    "subspace_solution": [
        (lambda x: exact.subspace_solution(MIXON, scaled(ON_S, 1.1), x), 0.1),
        (lambda x: exact.subspace_solution(MIXON, scaled(ON_S, x), 0.1), 1.1),
    ],
}

# fmt: off
SOFT = exact.soft_label_limit(np.array([[0.75, 0.25, 0.0], [0.0, 0.0, 1.0]]))
KERNEL_SQUARE = kernel_problem(loss=nc.SquaredError(), sizes=(2, 2, 2))
KERNEL_START = 0.1 + 0.01 * np.arange(len(exact.kernel_rates(KERNEL_SQUARE)))
# fmt: on


def scaled_features(state, x):
    return nc.LastLayer(state.features.at[0, 0].multiply(x), state.classifier)


def imbalanced(x, sizes=(4, 2, 1), **options):
    decay = decayed(x, **options)
    return nc.UnconstrainedFeatures(
        sizes, 4, loss=nc.SquaredError(), bias=True, reduction="sum", weight_decay=decay
    )


def penalised_bias(x):
    """Classes of one size with a decay x of the bias, below and above its threshold 0.38."""
    return imbalanced(0.05, (2, 2, 2), bias=x)


def products(state):
    """Logits, Gram matrices and bias, which a rotation of feature space does not change."""
    features, classifier = state.features, state.classifier
    return state.logits(), features @ features.T, classifier @ classifier.T, state.bias


def turned_start(x):
    """A start whose first layer is turned by an angle x."""
    first = jnp.stack([jnp.stack([jnp.cos(x), jnp.sin(x)]), jnp.zeros(2)])
    return nc.Layers((first, jnp.array([[0.8, 0.6]])), jnp.array([0.7]))


# Names without a real number that a caller could trace, and why.
WITHOUT_REAL_NUMBER = {
    "EXAMPLE_3_1_CURVATURE": "a constant",
    **dict.fromkeys(
        (
            "MinimumSpectrum",
            "MinorityMinimum",
            "NormalizedGeometry",
            "NormalizedSpectrum",
            "OffsetGeometry",
            "OrthogonalGeometry",
            "PairedCode",
            "SeliCertificate",
            "SeparationValue",
            "SimplexGeometry",
            "SoftmaxCode",
            "Stages",
            "StuckMargins",
        ),
        "a result, whose numbers are those of the function that returns it",
    ),
    **dict.fromkeys(
        (
            "central_path_gram",
            "deep_code",
            "deep_codes",
            "deep_separation_value",
            "deep_simplex_threshold",
            "example_3_1_multipliers",
            "nonnegative_separation_value",
            "origin_rates",
            "paired_code",
            "pairing_depth",
            "seli",
            "separation_value",
            "sign_threshold",
            "softmax_code",
        ),
        "arguments are integers",
    ),
    "separation_optimum": "no number of the problem but integers is in the result",
    "strong_collapse": "no number of the problem but integers is in the result",
    "contrastive_minimizer": "the features do not depend on the temperature",
    "normalized_minimizer": "the rows do not depend on the temperature",
}

# By public name: calls that refuse a traced number, and a part of the message.
REFUSALS = {
    "SoftLabelLimit": [(lambda x: SOFT.state(3, x), "gap is traced: the rank of the state")],
    "Seli": [
        (lambda x: exact.seli((2, 1, 1)).certificate(x * np.ones((4, 3))), "logits is traced"),
    ],
    "grouped_saddle": [
        (lambda x: exact.grouped_saddle(free(x, sizes=(1,) * 4), 2), "weight decay is traced"),
    ],
    "kernel_limit": [(lambda x: exact.kernel_limit(kernel_problem(x)), "traced numbers")],
    "kernel_rates": [(lambda x: exact.kernel_rates(kernel_problem(x)), "traced numbers")],
    "layer_peeled_threshold": [
        (lambda x: peeled(classifier_energy=x, feature_energy=1.0), "classifier_energy is traced"),
        (lambda x: peeled(classifier_energy=1.0, feature_energy=x), "feature_energy is traced"),
    ],
    "minimum_nullity": [(lambda x: exact.minimum_nullity(free(x)), "weight decay is traced")],
    "paired_saddle": [
        (lambda x: exact.paired_saddle(free(x, sizes=(1,) * 4)), "weight decay is traced"),
    ],
    "soft_label_limit": [(lambda x: exact.soft_label_limit(x * np.eye(2)), "targets are traced")],
    "spectral_stage_times": [
        (lambda x: exact.spectral_stage_times((4, 4, 1, 1), x), "contrast is traced"),
    ],
    "stage_times": [(lambda x: exact.stage_times((4, 4, 1, 1), -x), "log_norm is traced")],
    "subset_saddle": [(lambda x: exact.subset_saddle(free(x), 2), "weight decay is traced")],
}

# Derivatives of these are forward only: their loops have a traced length.
FORWARD_ONLY = {"square_loss_flow"}


def peeled(**energies):
    return exact.layer_peeled_threshold(3, 3, **energies)


def public_names():
    return {
        name
        for name, value in vars(exact).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }


def cases(table):
    return [
        pytest.param(*case, name in FORWARD_ONLY, id=f"{name}-{i}")
        for name, of_name in table.items()
        for i, case in enumerate(of_name)
    ]


def weighted_sum(result):
    """One number that depends on every number of a result."""
    leaves = [jnp.ravel(jnp.asarray(leaf, float)) for leaf in jax.tree.leaves(result)]
    values = jnp.concatenate(leaves)
    return values @ jnp.asarray(1 + np.cos(3 * np.arange(values.size)))


@pytest.mark.parametrize(("function", "point", "forward_only"), cases(CASES))
def test_derivatives_are_those_of_finite_differences(function, point, forward_only):
    def number(x):
        return weighted_sum(function(x))

    @jax.jit
    def compared(x):
        # Of order 4. The values are those of `jax.vmap`, which takes the same rules.
        step = 1e-3 * x
        values = jax.vmap(number)(x + step * jnp.array([-2.0, -1.0, 1.0, 2.0]))
        slope = values @ jnp.array([1.0, -8.0, 8.0, -1.0]) / (12 * step)
        forward = jax.jvp(number, (x,), (jnp.ones(()),))[1]
        reverse = forward if forward_only else jax.grad(number)(x)
        return slope, jnp.stack([forward, reverse]), jnp.max(jnp.abs(values))

    slope, derivatives, size = compared(jnp.asarray(point))
    # The differences have errors of the fourth power of the step, and of rounding over the step.
    largest = 1e-9 * abs(slope) + 1e-11 * size / point
    np.testing.assert_allclose(derivatives, slope, rtol=0, atol=float(largest))


@pytest.mark.parametrize(("function", "message", "_"), cases(REFUSALS))
def test_a_traced_number_is_refused_in_one_line(function, message, _):
    with pytest.raises(ValueError, match=message) as caught:
        jax.jit(function)(0.01)
    assert "\n" not in str(caught.value)


def test_every_public_name_is_listed():
    listed = CASES.keys() | REFUSALS.keys() | WITHOUT_REAL_NUMBER.keys()
    assert public_names() == listed
    assert not WITHOUT_REAL_NUMBER.keys() & (CASES.keys() | REFUSALS.keys())
