"""Formulas of collapse, margins and invariants; `nc_jax.metrics` applies them to any data."""

from . import (
    angles as angles,
    arrangement as arrangement,
    classical as classical,
    duality as duality,
    fit as fit,
    hulls as hulls,
    imbalance as imbalance,
    ranks as ranks,
    spans as spans,
)
from .collapse import (
    collapse_from_statistics as collapse_from_statistics,
    collapse_metrics as collapse_metrics,
)
from .equations import DIMS as DIMS, EQUATIONS as EQUATIONS
from .invariants import (
    Invariant as Invariant,
    balance as balance,
    classifier_sum as classifier_sum,
    column_balance as column_balance,
    drift as drift,
)
from .kernels import (
    riesz_distance as riesz_distance,
    riesz_log_energy as riesz_log_energy,
    riesz_variation as riesz_variation,
)
from .margins import (
    gamma_tilde as gamma_tilde,
    logit_margins as logit_margins,
    margin_metrics as margin_metrics,
    max_margin as max_margin,
    sample_margins as sample_margins,
)
from .registry import (
    MEASURES as MEASURES,
    SUMS as SUMS,
    Measure as Measure,
    measure_of as measure_of,
)
from .separation import (
    OF_UNEQUAL_CLASSES as OF_UNEQUAL_CLASSES,
    imbalance_metrics as imbalance_metrics,
    logit_offset_spread as logit_offset_spread,
    seli_classifier_gap as seli_classifier_gap,
    seli_logit_gap as seli_logit_gap,
    seli_mean_gap as seli_mean_gap,
    separation_of as separation_of,
    separation_value as separation_value,
    separation_value_from_loss as separation_value_from_loss,
)
from .single import (
    cdnv as cdnv,
    ji_classifier_cosine_gap as ji_classifier_cosine_gap,
    ji_classifier_norm_variation as ji_classifier_norm_variation,
    ji_feature_cosine_gap as ji_feature_cosine_gap,
    ji_feature_norm_variation as ji_feature_norm_variation,
    ji_self_duality as ji_self_duality,
    ji_within_class_variation as ji_within_class_variation,
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
    zhu_nc1 as zhu_nc1,
    zhu_nc2 as zhu_nc2,
    zhu_nc3 as zhu_nc3,
    zhu_nc4 as zhu_nc4,
)
from .square_loss import (
    SquareLossParts as SquareLossParts,
    least_squares_layer as least_squares_layer,
    square_loss_parts as square_loss_parts,
)
from .statistics import Statistics as Statistics
from .streaming import (
    ClassMoments as ClassMoments,
    Spread as Spread,
    class_moments as class_moments,
    merge_moments as merge_moments,
    merge_spreads as merge_spreads,
    spread as spread,
    whitening as whitening,
)
from .variability import cdnv_power as cdnv_power
