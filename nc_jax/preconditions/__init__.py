"""Preconditions of the theorems behind closed forms and certificates, with their sources.

Each function refuses a problem for which a theorem is not proved, by a `ValueError` of one line
that has the value, what is accepted, and the fix. A function that applies a theorem calls one of
them once, before it computes. n is the number of samples of each class.
"""

from ..problems import check_unconstrained as check_unconstrained
from .deep import (
    check_deep_homogeneous as check_deep_homogeneous,
    check_deep_linear as check_deep_linear,
    check_deep_ray as check_deep_ray,
    check_deep_simplex as check_deep_simplex,
    check_deep_square as check_deep_square,
    check_equal_decays as check_equal_decays,
    check_undecayed_deep_ray as check_undecayed_deep_ray,
)
from .free import (
    bias_is_free as bias_is_free,
    bias_shifts_freely as bias_shifts_freely,
    check_balanced as check_balanced,
    check_balanced_homogeneous as check_balanced_homogeneous,
    check_balanced_square_loss as check_balanced_square_loss,
    check_below_threshold as check_below_threshold,
    check_convex_dual as check_convex_dual,
    check_cross_entropy as check_cross_entropy,
    check_decayed_classes as check_decayed_classes,
    check_decayed_cross_entropy as check_decayed_cross_entropy,
    check_decayed_squared_error as check_decayed_squared_error,
    check_decays as check_decays,
    check_dimension as check_dimension,
    check_focal as check_focal,
    check_gradient_flow as check_gradient_flow,
    check_homogeneous as check_homogeneous,
    check_linearized_mixon as check_linearized_mixon,
    check_mixon as check_mixon,
    check_smoothed as check_smoothed,
    check_sphere as check_sphere,
    check_squared_error_penalty as check_squared_error_penalty,
    check_undecayed as check_undecayed,
    check_undecayed_cross_entropy as check_undecayed_cross_entropy,
    check_uniform as check_uniform,
    check_without_bias as check_without_bias,
)
from .kernels import (
    check_kernel as check_kernel,
    check_kernel_limit as check_kernel_limit,
    check_kernel_square_loss as check_kernel_square_loss,
)
from .targets import (
    check_pick_all_labels as check_pick_all_labels,
    check_regression as check_regression,
)
from .unequal import (
    check_class_ratios as check_class_ratios,
    check_decayed_square_loss as check_decayed_square_loss,
    check_nonnegative as check_nonnegative,
    check_one_classifier_decay as check_one_classifier_decay,
    check_ridge as check_ridge,
    check_two_groups as check_two_groups,
)
