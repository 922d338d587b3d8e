"""Equations of the observables that the package's problems record, with their sources.

M_c = μ_c − μ_G are the class means minus their mean, M the matrix of them, w̃_c = w_c − mean_c w_c,
E = (I − 11ᵀ/K)/√(K−1), Σ_W and Σ_B the covariances within and between classes.
"""

from collections.abc import Mapping
from types import MappingProxyType

from .collapse import OF_ANY_CLASSES, OF_BALANCED_CLASSES
from .registry import MEASURES

_OBJECTIVE = {
    "objective": "L, the function whose gradient flow or descent is followed",
    "log_objective": "log L, finite after L has underflowed",
}

_COLLAPSE = {name: MEASURES[name].equation for name in (*OF_ANY_CLASSES, *OF_BALANCED_CLASSES)}

_MARGINS = {
    "margin_min": "q_min = min_i (z_{i,y_i} − max_{j≠y_i} z_ij) (Ji, section 3.1)",
    "margin_mean": "mean_i (z_{i,y_i} − max_{j≠y_i} z_ij) (Ji, section 3.1)",
    "squared_norm": "ρ² = ‖W‖_F² + ‖H‖_F² (Ji, section 3)",
    "normalized_margin": "q_min/ρ² (Ji, section 3.1)",
    "gamma_tilde": "γ̃ = −log(e^L − 1)/ρ² of the summed loss L (Ji, appendix B)",
    "max_margin_ratio": "2(K−1)√n q_min/ρ², at most 1 (Ji, theorem 3.1)",
}

_IMBALANCE = {
    "separation_value": (
        "V = ½Σ‖factor‖_F²/q_min^(2/m) of m factors, ρ²/(2 q_min) for H and W, ∞ for q_min <= 0 "
        "(Ji, section 3.1, inverse of 2q_min/ρ²; m > 2 derived)"
    ),
    "logit_offset_spread": (
        "max − min of z_iy − z_ic + log λ_yc over samples and wrong classes, λ = −(PDP)^(+½) off "
        "the diagonal (derived)"
    ),
    **{
        name: MEASURES[name].equation
        for name in ("seli_classifier_gap", "seli_mean_gap", "seli_logit_gap")
    },
}

_TARGETS = {
    "label_sum_gap": "1 − mean_i cos(h_i, Σ_{k ∈ S_i} w̃_k), labels S_i (after Li et al. 2023)",
    "andriopoulos_nrc1": (
        "mean_i ‖h_i − P h_i‖²/‖h_i‖², P on the first m principal components, of m targets "
        "(Andriopoulos et al. 2024)"
    ),
    "andriopoulos_nrc2": (
        "mean_i ‖h_i − P h_i‖²/‖h_i‖², P on the span of the rows of W (Andriopoulos et al. 2024)"
    ),
    "andriopoulos_nrc3": (
        "min_t ‖WWᵀ/‖WWᵀ‖_F − (S − tI)/‖S − tI‖_F‖_F², S² the covariance of the targets "
        "(Andriopoulos et al. 2024)"
    ),
}

_SOFT_LABELS = {
    "excess_loss": "s Σ_i KL(p_i ‖ softmax(z_i)), the loss less the entropy of its targets",
    "log_excess_loss": "log of the loss less the entropy of its targets, finite where that is 0",
    "in_support_gap": (
        "max_i (max_S − min_S)(z_ik − log p_ik) over the support S = {p_i > 0} (Zhao et al. 2024)"
    ),
    "out_of_support_margin": "min_i (log Σ_{k ∈ S} e^z_ik − max_{j ∉ S} z_ij), S = {p_i > 0}",
    "support_cosine": "cosine of the centred logits and 1_S − |S|/K (after Zhao et al. 2024)",
}

_NORMALIZED = {
    "cosine_margin_min": "min_i min_{j≠y_i} ⟨w_{y_i} − w_j, h_i⟩ of unit rows (Jiang et al. 2024)",
}

_NETWORK = {
    "norm": "|ρ| = Π_k |ρ_k| (Rangamani, section 3)",
    "layer_norms": "|ρ_k| of each layer (Rangamani, section 3)",
    "margins": (
        "y_i f(x_i)/|ρ|; of several outputs (f_{y_i} − max_{j≠y_i} f_j)/|ρ| (Rangamani, section 3)"
    ),
    "mean_margin": "μ = mean_i ⟨y_i, f(x_i)⟩/|ρ| (Rangamani, section 3.4.1)",
    "second_moment": "M = mean_i ‖f(x_i)‖²/ρ² (Rangamani, section 3.4.1)",
    "margin_std": "σ = std_i ⟨y_i, f(x_i)⟩/|ρ| (Rangamani, section 3.4.1)",
    "equilibrium_norm": "ρ_eq = μ/(M + λ) (Rangamani, eq. 11)",
    "lemma_9_residual": "L − mean_i ‖y_i‖² + ρ(μ + ρ'/2) (Rangamani, lemma 9)",
    "multipliers": "ν_k of the constraints ‖V_k‖ = 1 (Rangamani, section 3)",
    "interpolation_gap": "ε = mean_i (y_i − f(x_i)) at the true class (Rangamani, assumption 1)",
    "interpolation_spread": (
        "largest deviation of an output from that of assumption 1 at ε (Rangamani, assumption 1)"
    ),
    "train_error": "share of samples with margin <= 0",
    "test_error": "share of test samples with margin <= 0",
}

_MOTION = {"speed": "‖x'‖, the norm of the velocity (Rangamani, section 5)"}

_INVARIANTS = {
    "balance_norm": "‖WᵀW − HᵀH‖_F (Ji, eq. C.9)",
    "classifier_sum_norm": "‖Σ_c w_c‖ (cross-entropy: residuals sum to 0 over the classes)",
    "balance_drift": "‖I(t) − e^(−2λt) I(0)‖/ρ(0)² for I = WᵀW − HᵀH (Ji, eq. C.9)",
    "classifier_sum_drift": "‖I(t) − e^(−λt) I(0)‖/‖W(0)‖_F for I = Σ_c w_c",
    "direction_norms_drift": "‖I(t) − I(0)‖ for I_k = ‖V_k‖² (Rangamani, section 3)",
    "column_balance_norm": "‖diag(WᵀW − HᵀH)‖₂",
    "column_balance_drift": "as balance_drift, for diag(WᵀW − HᵀH), under H >= 0",
    "layer_balance_drift": (
        "‖I(t) − e^(−4λt) I(0)‖/Σ_k ‖W_k(0)‖² for I_k = ‖W_k‖² − ‖W_{k+1}‖², λ of the layers "
        "(Rangamani, lemma 10)"
    ),
    "unit_balance_drift": (
        "as layer_balance_drift, for the incoming less the outgoing squared weights of each unit "
        "(Rangamani, lemma 10)"
    ),
}

_KERNEL = {
    "kernel_alignment": (
        "⟨WᵀW, HᵀΘ⁻¹H⟩/(‖WᵀW‖_F ‖HᵀΘ⁻¹H‖_F), Θ the kernel of the samples (after Seleznova et al. "
        "2023)"
    ),
    "kernel_separation_value": ("½(‖W‖² + tr HᵀΘ⁻¹H)/q_min, Θ the kernel of the samples (derived)"),
    "kernel_balance_norm": "‖WᵀW − HᵀΘ⁻¹H‖_F, Θ the kernel of the samples (Seleznova et al. 2023)",
    "kernel_balance_drift": (
        "‖I(t) − I(0)‖/(‖W(0)‖² + tr HᵀΘ⁻¹H(0)) for I = WᵀW − HᵀΘ⁻¹H (Seleznova et al. 2023)"
    ),
}

_FEATURES_ALONE = {
    **{
        name: MEASURES[name].equation
        for name in ("han_loss_nc1", "han_loss_nc23", "feature_orthogonality_gap")
    },
    "singular_values": "ω_j, ω_j² = K times the eigenvalues of Σ_W⁻¹Σ_B (Han, Papyan, Donoho 2022)",
    "within_covariance_gap": "‖Σ_W − I‖_F, 0 on the central path's constraint",
    "deviations_drift": "‖E(t) − E(0)‖/‖E(0)‖ of E_i = h_i − μ_{y_i} (central path)",
    "sample_mean_drift": "‖m(t) − m(0)‖/√(mean_i ‖h_i(0)‖²) of m = mean_i h_i (central path)",
    "row_norms_drift": "‖I(t) − I(0)‖ for I_i = ‖x_i‖² of all rows x_i, 1 on the unit sphere",
}

_PRODUCT = {
    "logit_singular_values": "σ of D^½Z, Z the logits of each class, D = diag(n_k), descending",
}

_LAYERS = {
    "factor_norms": "‖H‖_F and ‖W_l‖_F of every layer",
    "layer_nc1": "tr(Σ_W Σ_B⁺)/K of the inputs of each layer (Zhu, section 4)",
    "layer_nc2": (
        "‖MMᵀ/‖MMᵀ‖_F − E‖_F of the inputs of each layer, with rows M_c (Kothapalli 2023)"
    ),
    "layer_nc3": (
        "mean_c ‖M_c/‖M_c‖ − ã_c/‖ã_c‖‖ of the inputs of each layer l, ã_c the centred rows of "
        "W_L…W_l (after Ji, appendix D)"
    ),
    "layer_cdnv": (
        "mean_{c≠c'} (v_c + v_c')/(2‖μ_c − μ_c'‖²) of the inputs of each layer, v_c = "
        "mean_{y_i=c} ‖h_i − μ_c‖² (Galanti, György, Hutter 2022)"
    ),
    "layer_effective_rank": (
        "exp(−Σ p log p), p = σ/Σσ of the centred class means of the inputs of each layer (Roy, "
        "Vetterli 2007)"
    ),
    "layer_singular_values": "σ_1, ..., σ_K of every W_l, 0 where W_l has fewer",
    "neighbour_balance_norm": "‖W_1ᵀW_1 − HᵀH‖_F and ‖W_{l+1}ᵀW_{l+1} − W_l W_lᵀ‖_F (derived)",
    "neighbour_balance_drift": (
        "‖I(t) − e^(−2λt) I(0)‖_F over the squared norms of both factors at 0, for I = W_1ᵀW_1 − "
        "HᵀH and I = W_{l+1}ᵀW_{l+1} − W_l W_lᵀ; with an activation on the diagonal alone, the "
        "first excepted (derived)"
    ),
}

EQUATIONS: Mapping[str, str] = MappingProxyType(
    {
        **_PRODUCT,
        **_OBJECTIVE,
        **_COLLAPSE,
        **_MARGINS,
        **_IMBALANCE,
        **_TARGETS,
        **_SOFT_LABELS,
        **_NORMALIZED,
        **_NETWORK,
        **_MOTION,
        **_INVARIANTS,
        **_KERNEL,
        **_FEATURES_ALONE,
        **_LAYERS,
    }
)
"""Equation and source of every name that a problem of the package records, drifts included.

All quantities are dimensionless. `problem.observables()` has the entries of one problem.

Example: `EQUATIONS["zhu_nc4"]` is '‖W μ_G + b‖₂ (Zhu, section 4)'.
"""

DIMS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "factor_norms": ("factor",),
        "layer_nc1": ("layer",),
        "layer_nc2": ("layer",),
        "layer_nc3": ("layer",),
        "layer_cdnv": ("layer",),
        "layer_effective_rank": ("layer",),
        "layer_singular_values": ("layer", "singular_value"),
        "neighbour_balance_norm": ("layer",),
        "neighbour_balance_drift": ("layer",),
    }
)
"""Names of the axes, after that of time, of observables whose axes have a meaning of their own.

Example: `DIMS["layer_singular_values"]` is ('layer', 'singular_value').
"""
