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
