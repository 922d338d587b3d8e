"""Closed forms, which the tests compare integrations with. They never import `dynamics`."""

from .central_path import (
    central_path as central_path,
    central_path_gram as central_path_gram,
    central_path_loss as central_path_loss,
)
from .codes import (
    SeparationValue as SeparationValue,
    best_known_code as best_known_code,
    pairs_and_singles as pairs_and_singles,
    pentagonal_bipyramid as pentagonal_bipyramid,
    polygon as polygon,
    separation_value as separation_value,
)
from .codes_at_depth import (
    DeepCode as DeepCode,
    deep_code as deep_code,
    deep_codes as deep_codes,
    deep_separation_value as deep_separation_value,
)
from .contrastive import (
    contrastive_minimizer as contrastive_minimizer,
    contrastive_minimum as contrastive_minimum,
    contrastive_rate as contrastive_rate,
)
from .deep_factors import deep_penalty as deep_penalty, factored_state as factored_state
from .deep_gap import deep_collapsed_gap as deep_collapsed_gap
from .deep_modes import aligned_mode as aligned_mode, aligned_mode_time as aligned_mode_time
from .deep_simplex import (
    deep_minimizer as deep_minimizer,
    deep_minimum as deep_minimum,
    deep_simplex_threshold as deep_simplex_threshold,
)
from .deep_square import (
    deep_square_basin as deep_square_basin,
    deep_square_minimizer as deep_square_minimizer,
    deep_square_minimum as deep_square_minimum,
    deep_square_threshold as deep_square_threshold,
)
from .imbalanced_square_loss import (
    bias_decay_threshold as bias_decay_threshold,
    imbalanced_square_minimizer as imbalanced_square_minimizer,
    imbalanced_square_minimum as imbalanced_square_minimum,
)
from .kernel import kernel_rates as kernel_rates, kernel_square_flow as kernel_square_flow
from .kernel_limit import (
    KernelLimit as KernelLimit,
    kernel_late_geometry as kernel_late_geometry,
    kernel_limit as kernel_limit,
)
from .late import late_gap as late_gap, late_loss as late_loss
from .linear_network import (
    linear_limit as linear_limit,
    linear_path as linear_path,
    linear_time as linear_time,
)
from .linearized import (
    Eigenspace as Eigenspace,
    linearized_bound as linearized_bound,
    linearized_eigenspaces as linearized_eigenspaces,
    linearized_solution as linearized_solution,
)
from .losses import (
    focal_gap as focal_gap,
    focal_minimizer as focal_minimizer,
    focal_minimum as focal_minimum,
    smoothed_gap as smoothed_gap,
    smoothed_minimizer as smoothed_minimizer,
    smoothed_minimum as smoothed_minimum,
)
from .minority import (
    MinorityMinimum as MinorityMinimum,
    layer_peeled_threshold as layer_peeled_threshold,
    minority_minimizer as minority_minimizer,
    minority_minimum as minority_minimum,
    minority_threshold as minority_threshold,
)
from .nonnegative import (
    nonnegative_gaps as nonnegative_gaps,
    nonnegative_minimizer as nonnegative_minimizer,
    nonnegative_minimum as nonnegative_minimum,
    nonnegative_separation_value as nonnegative_separation_value,
    nonnegative_threshold as nonnegative_threshold,
)
from .normalized import (
    NormalizedSpectrum as NormalizedSpectrum,
    normalized_minimizer as normalized_minimizer,
    normalized_minimum as normalized_minimum,
    normalized_spectrum as normalized_spectrum,
)
from .norms import (
    StuckMargins as StuckMargins,
    logistic_norm as logistic_norm,
    norm_time as norm_time,
    normalized_norm as normalized_norm,
    stuck_margins as stuck_margins,
)
from .offsets import (
    OffsetGeometry as OffsetGeometry,
    late_geometry as late_geometry,
    ridge_geometry as ridge_geometry,
)
from .pairs import (
    PairedCode as PairedCode,
    paired_code as paired_code,
    pairing_depth as pairing_depth,
)
from .regularized import (
    minimum_nullity as minimum_nullity,
    origin_eigenvalues as origin_eigenvalues,
    regularized_minimizer as regularized_minimizer,
    regularized_minimum as regularized_minimum,
)
from .riccati import balanced_start as balanced_start, square_loss_flow as square_loss_flow
from .saddles import (
    grouped_saddle as grouped_saddle,
    paired_saddle as paired_saddle,
    subset_saddle as subset_saddle,
)
from .seli import Seli as Seli, SeliCertificate as SeliCertificate, seli as seli
from .soft_labels import SoftLabelLimit as SoftLabelLimit, soft_label_limit as soft_label_limit
from .softmax_codes import SoftmaxCode as SoftmaxCode, softmax_code as softmax_code
from .spectral import (
    sign_threshold as sign_threshold,
    spectral_mode as spectral_mode,
    spectral_mode_time as spectral_mode_time,
    spectral_stage_times as spectral_stage_times,
)
from .spectrum import MinimumSpectrum as MinimumSpectrum, minimum_spectrum as minimum_spectrum
from .sphere import (
    EXAMPLE_3_1_CURVATURE as EXAMPLE_3_1_CURVATURE,
    example_3_1 as example_3_1,
    example_3_1_loss as example_3_1_loss,
    example_3_1_multipliers as example_3_1_multipliers,
    max_margin_bound as max_margin_bound,
    separation_optimum as separation_optimum,
    sphere_optimum as sphere_optimum,
)
from .square_loss import (
    NormalizedGeometry as NormalizedGeometry,
    OrthogonalGeometry as OrthogonalGeometry,
    SimplexGeometry as SimplexGeometry,
    normalized_geometry as normalized_geometry,
    orthogonal_geometry as orthogonal_geometry,
    simplex_geometry as simplex_geometry,
    square_loss_gap as square_loss_gap,
    square_loss_minimizer as square_loss_minimizer,
)
from .stages import Stages as Stages, origin_rates as origin_rates, stage_times as stage_times
from .subspace import (
    strong_collapse as strong_collapse,
    subspace_limit as subspace_limit,
    subspace_objective as subspace_objective,
    subspace_solution as subspace_solution,
)
from .targets import (
    pick_all_labels_minimizer as pick_all_labels_minimizer,
    pick_all_labels_minimum as pick_all_labels_minimum,
    regression_minimizer as regression_minimizer,
    regression_minimum as regression_minimum,
)
from .ulpm import collapsed_gap as collapsed_gap, collapsed_state as collapsed_state
from .unequal import class_decay_ratios as class_decay_ratios
