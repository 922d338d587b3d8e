"""Equations of the observables that the package's problems record, with their sources.

M_c = μ_c − μ_G are the class means minus their mean, M the matrix of them, w̃_c = w_c − mean_c w_c,
E = (I − 11ᵀ/K)/√(K−1), Σ_W and Σ_B the covariances within and between classes.
"""

from collections.abc import Mapping
from types import MappingProxyType

_OBJECTIVE = {
    "objective": "L, the function whose gradient flow or descent is followed",
    "log_objective": "log L, finite after L has underflowed",
}

_COLLAPSE = {
    "ji_feature_norm_variation": "std_c ‖M_c‖ / mean_c ‖M_c‖ (Ji, section 2.1)",
    "ji_classifier_norm_variation": "std_c ‖w̃_c‖ / mean_c ‖w̃_c‖ (Ji, appendix D)",
    "ji_within_class_variation": "mean_i ‖h_i − μ_{y_i}‖ / mean_i ‖h_i − μ_G‖ (Ji, section 2.1)",
    "ji_feature_cosine_gap": "mean_{c≠c'} |cos(M_c, M_c') + 1/(K−1)| (Ji, section 2.1)",
    "ji_classifier_cosine_gap": "mean_{c≠c'} |cos(w̃_c, w̃_c') + 1/(K−1)| (Ji, appendix D)",
    "ji_self_duality": "mean_c ‖M_c/‖M_c‖ − w̃_c/‖w̃_c‖‖ (Ji, appendix D)",
    "zhu_nc1": "tr(Σ_W Σ_B⁺)/K (Zhu, section 4)",
    "zhu_nc2": "‖WWᵀ/‖WWᵀ‖_F − E‖_F (Zhu, section 4)",
    "zhu_nc3": "‖WMᵀ/‖WMᵀ‖_F − E‖_F with rows M_c (Zhu, section 4)",
    "zhu_nc4": "‖W μ_G + b‖₂ (Zhu, section 4)",
    "papyan_nc1": "tr(Σ_W Σ_B⁺) (Papyan, Han, Donoho 2020)",
    "papyan_feature_equinorm": (
        "std_c ‖M_c‖ / mean_c ‖M_c‖, std over K−1 (Papyan, Han, Donoho 2020)"
    ),
    "papyan_classifier_equinorm": (
        "std_c ‖w_c‖ / mean_c ‖w_c‖, std over K−1 (Papyan, Han, Donoho 2020)"
    ),
    "papyan_classifier_cosine_gap": (
        "mean_{c≠c'} |cos(w_c, w_c') + 1/(K−1)| (Papyan, Han, Donoho 2020)"
    ),
    "papyan_self_duality": "‖W/‖W‖_F − M/‖M‖_F‖_F² with rows M_c (Papyan, Han, Donoho 2020)",
    "papyan_ncc_mismatch": (
        "share of samples with argmin_c ‖h_i − μ_c‖ ≠ argmax_c z_ic (Papyan, Han, Donoho 2020)"
    ),
    "cdnv": (
        "mean_{c≠c'} (v_c + v_c')/(2‖μ_c − μ_c'‖²), v_c = mean_{y_i=c} ‖h_i − μ_c‖² "
        "(Galanti, György, Hutter 2022)"
    ),
    "mixon_snc1": "‖WWᵀ − √n(I − 11ᵀ/K)‖_F (Mixon, SNC1)",
    "mixon_snc2": "‖H − (W⊗1_n)ᵀ/√n‖_F / ‖H‖_F (Mixon, SNC2)",
    "mixon_snc3": "‖b − 1/K‖₂ (Mixon, SNC3)",
    "mixon_distance_to_s": "‖Z − Π_S Z‖ / ‖Z‖ for Z = (H, W, b) (Mixon, theorem 3)",
}

_MARGINS = {
    "margin_min": "q_min = min_i (z_{i,y_i} − max_{j≠y_i} z_ij) (Ji, section 3.1)",
    "margin_mean": "mean_i (z_{i,y_i} − max_{j≠y_i} z_ij) (Ji, section 3.1)",
    "squared_norm": "ρ² = ‖W‖_F² + ‖H‖_F² (Ji, section 3)",
    "normalized_margin": "q_min/ρ² (Ji, section 3.1)",
    "gamma_tilde": "γ̃ = −log(e^L − 1)/ρ² of the summed loss L (Ji, appendix B)",
    "max_margin_ratio": "2(K−1)√n q_min/ρ², at most 1 (Ji, theorem 3.1)",
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
    "balance_norm": "‖WᵀW − HHᵀ‖_F (Ji, eq. C.9)",
    "classifier_sum_norm": "‖Σ_c w_c‖ (cross-entropy: residuals sum to 0 over the classes)",
    "balance_drift": "‖I(t) − e^(−2λt) I(0)‖/ρ(0)² for I = WᵀW − HHᵀ (Ji, eq. C.9)",
    "classifier_sum_drift": "‖I(t) − e^(−λt) I(0)‖/‖W(0)‖_F for I = Σ_c w_c",
    "direction_norms_drift": "‖I(t) − I(0)‖ for I_k = ‖V_k‖² (Rangamani, section 3)",
    "layer_balance_drift": (
        "‖I(t) − e^(−4λt) I(0)‖/Σ_k ‖W_k(0)‖² for I_k = ‖W_k‖² − ‖W_{k+1}‖², λ of the layers "
        "(Rangamani, lemma 10)"
    ),
    "unit_balance_drift": (
        "as layer_balance_drift, for the incoming less the outgoing squared weights of each unit "
        "(Rangamani, lemma 10)"
    ),
}

EQUATIONS: Mapping[str, str] = MappingProxyType(
    {**_OBJECTIVE, **_COLLAPSE, **_MARGINS, **_NETWORK, **_MOTION, **_INVARIANTS}
)
"""Equation and source of every name that a problem of the package records, drifts included.

All quantities are dimensionless. `problem.observables()` has the entries of one problem.

Example: `EQUATIONS["zhu_nc4"]` is '‖W μ_G + b‖₂ (Zhu, section 4)'.
"""
