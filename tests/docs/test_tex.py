"""Equations in Unicode are found in texts and translated to TeX."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st
from tex import find, to_tex

import nc_jax

ROOT = Path(nc_jax.__file__).parent


def equations(text):
    return [part.text for part in find(text) if part.is_math]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("With n_k samples of class k, D = diag(n_k).", ["n_k", "k", "D = diag(n_k)"]),
        ("the matrix Ẑ = YP has margins z_y − z_c >= 1 (2022).", ["Ẑ = YP", "z_y − z_c >= 1"]),
        ("bias (K,) or None, features (N, d)", ["(N, d)"]),
        ("L(W, H, b) = s Σ_i ℓ(z_i, y_i), s = 1/N", ["L(W, H, b) = s Σ_i ℓ(z_i, y_i)", "s = 1/N"]),
        ("an (ε, δ)-KKT point in the K-class case", ["(ε, δ)", "K"]),
        ("to t = 10^(10^6), as 1/log t falls", ["t = 10^(10^6)", "1/log t"]),
        ("2 L t log t and ‖·‖²/(2q)", ["2 L t log t", "‖·‖²/(2q)"]),
        ("if a > 0, or for 0 < a < 1", ["a > 0", "0 < a < 1"]),
        ("½ dρ²/dt = 2 Σ w s", ["½ dρ²/dt = 2 Σ w s"]),
        ("mean_i ‖h_i − μ_G‖ (Ji 2.3)", ["mean_i ‖h_i − μ_G‖"]),
        # Texts without mathematics: numbers, articles, names, code, equation numbers.
        ("A flow of 16 starts is a batch; I saw it in 2022.", []),
        ("L-BFGS and float32 with save_states=True", []),
        ("see (B.13), Def. 2.1 and tests/exact/test_ulpm.py", []),
        ("NC1 to NC4 of Ji's paper", []),
    ],
)
def test_equations_are_found_in_texts(text, found):
    assert equations(text) == found


@pytest.mark.parametrize(
    ("equation", "tex"),
    [
        ("½‖W‖² + ½‖H‖²", r"\tfrac12 \|W\|^{2} + \tfrac12 \|H\|^{2}"),
        ("(PDP)^(+½)", "(PDP)^{+1/2}"),
        ("(PDP)^½", "(PDP)^{1/2}"),
        ("tr(Σ_W Σ_B⁺)", r"\operatorname{tr}(\Sigma _{W} \Sigma _{B}^{+})"),
        ("Σ_c w_c", r"\sum _{c} w_{c}"),
        ("θ/√q_min", r"θ/\sqrt{q_{\mathrm{min}}}"),
        ("√(2(1−β)/γ̃)", r"\sqrt{2(1-β)/\tilde{γ}}"),
        ("e^(z_j)/Σ_c e^(z_c)", r"e^{z_{j}}/\sum _{c} e^{z_{c}}"),
        ("10^(10^6)", "10^{10^{6}}"),
        ("t = 5e-7", r"t = 5\cdot 10^{-7}"),
        ("abs(λ) <= 1", r"\lvert λ\rvert  \le  1"),
        ("λ_W_k", "λ_{W}{}_{k}"),
        ("W'²", r"W^{\prime}{}^{2}"),
        ("‖Z‖_*", r"\|Z\|_{*}"),
        # An index ends before an exponent and before another letter that has an index.
        ("ω_j² + ‖W‖_F² + M_cᵀ", r"ω_{j}^{2} + \|W\|_{F}^{2} + M_{c}^{\top }"),
        ("cos(M_c, M_c')", r"\cos (M_{c}, M_{c^{\prime}})"),
        ("√(nλ_Wλ_H) < 1", r"\sqrt{nλ_{W}λ_{H}} < 1"),
        ("λ_H,y_i >= 0", r"λ_{H,y_{i}} \ge  0"),
        ("L_NC1 + L_NC2/3", "L_{NC1} + L_{NC2}/3"),
        ("Π_{T⊥} + Σ_{j≠k} x_j", r"\Pi _{T\perp} + \sum _{j\ne k} x_{j}"),
        ("e^log_scale·(−∇L)", r"e^{\text{log scale}}\cdot (-\nabla L)"),
    ],
)
def test_equations_become_tex(equation, tex):
    assert to_tex(equation) == tex


@given(st.text(alphabet="ab K_^(){}[]‖²ᵀΣ√½−=<>.,;'λ1/-|", max_size=30))
def test_no_character_of_a_text_is_lost(text):
    assert "".join(part.text for part in find(text)) == text


def brackets_of(tex):
    return re.sub(r"\\[{}]", "", tex)


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: path.name)
def test_tex_of_every_docstring_has_balanced_groups(path):
    for part in find(path.read_text()):
        if part.is_math:
            groups = brackets_of(to_tex(part.text))
            steps = [(character == "{") - (character == "}") for character in groups]
            depths = np.cumsum([0, *steps])
            assert depths.min() == depths[-1] == 0, part.text
