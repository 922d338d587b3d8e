"""Measures of collapse, margins and invariants, of states of the package and of any features."""

from ..measures import (
    EQUATIONS as EQUATIONS,
    MEASURES as MEASURES,
    SUMS as SUMS,
    ClassMoments as ClassMoments,
    Invariant as Invariant,
    Measure as Measure,
    Spread as Spread,
    SquareLossParts as SquareLossParts,
    Statistics as Statistics,
    balance as balance,
    cdnv as cdnv,
    cdnv_power as cdnv_power,
    class_moments as class_moments,
    classifier_sum as classifier_sum,
    collapse_from_statistics as collapse_from_statistics,
    collapse_metrics as collapse_metrics,
    column_balance as column_balance,
    drift as drift,
    gamma_tilde as gamma_tilde,
    ji_classifier_cosine_gap as ji_classifier_cosine_gap,
    ji_classifier_norm_variation as ji_classifier_norm_variation,
    ji_feature_cosine_gap as ji_feature_cosine_gap,
    ji_feature_norm_variation as ji_feature_norm_variation,
    ji_self_duality as ji_self_duality,
    ji_within_class_variation as ji_within_class_variation,
    least_squares_layer as least_squares_layer,
    logit_margins as logit_margins,
    logit_offset_spread as logit_offset_spread,
    margin_metrics as margin_metrics,
    max_margin as max_margin,
    merge_moments as merge_moments,
    merge_spreads as merge_spreads,
    mixon_distance_to_s as mixon_distance_to_s,
    mixon_snc1 as mixon_snc1,
    mixon_snc2 as mixon_snc2,
    mixon_snc3 as mixon_snc3,
    papyan_classifier_cosine_gap as papyan_classifier_cosine_gap,
    papyan_classifier_equinorm as papyan_classifier_equinorm,
    papyan_feature_equinorm as papyan_feature_equinorm,
    papyan_nc1 as papyan_nc1,
    papyan_ncc_mismatch as papyan_ncc_mismatch,
    papyan_self_duality as papyan_self_duality,
    riesz_distance as riesz_distance,
    riesz_log_energy as riesz_log_energy,
    riesz_variation as riesz_variation,
    sample_margins as sample_margins,
    seli_classifier_gap as seli_classifier_gap,
    seli_logit_gap as seli_logit_gap,
    seli_mean_gap as seli_mean_gap,
    separation_value as separation_value,
    separation_value_from_loss as separation_value_from_loss,
    spread as spread,
    square_loss_parts as square_loss_parts,
    whitening as whitening,
    zhu_nc1 as zhu_nc1,
    zhu_nc2 as zhu_nc2,
    zhu_nc3 as zhu_nc3,
    zhu_nc4 as zhu_nc4,
)
from .held_out import held_out as held_out
from .hooks import Captured as Captured, capture as capture
from .kernels import (
    kernel_nc1 as kernel_nc1,
    nngp_kernel as nngp_kernel,
    ntk_kernel as ntk_kernel,
)
from .layers import measure_layers as measure_layers
from .measuring import measure as measure
from .monitor import Monitor as Monitor, scalars as scalars
from .out_of_distribution import (
    auroc as auroc,
    false_positive_rate as false_positive_rate,
    out_of_distribution as out_of_distribution,
)
from .regression import regression_collapse as regression_collapse
from .results import Measures as Measures
from .similarity import cka as cka
