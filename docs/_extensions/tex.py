"""Equations in plain Unicode, such as `‖W‖² <= √(2V)`, as TeX for MathJax.

Docstrings, tables and pages of this project write mathematics in Unicode, since they are also read
in terminals and editors, where TeX is hard to read. `find` gives the parts of a text that are
mathematics, and `to_tex` translates one of them.
"""

import itertools
import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

FUNCTIONS = ("log", "exp", "det", "max", "min", "sup", "inf", "lim", "cos", "sin", "tan", "arg")
OPERATORS = ("tr", "diag", "rank", "sign", "softmax", "Ei", "const", "onehot", "std", "mean")
# Indices that are words, and upright in print; other indices, such as `ki`, are variables.
_WORDS = ("min", "max", "mean", "test", "train", "crit", "in", "out", "tot", "eff", "ref", "opt")

_SYMBOLS = {
    "<=": r"\le ", ">=": r"\ge ", "->": r"\to ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ",
    "→": r"\to ", "↦": r"\mapsto ", "⇒": r"\Rightarrow ", "‖": r"\|", "∇": r"\nabla ",
    "∂": r"\partial ", "∫": r"\int ", "∞": r"\infty ", "≈": r"\approx ", "∝": r"\propto ",
    "∼": r"\sim ", "~": r"\sim ", "∈": r"\in ", "⊗": r"\otimes ", "∘": r"\circ ", "·": r"\cdot ",
    "×": r"\times ", "±": r"\pm ", "−": "-", "…": r"\ldots ", "½": r"\tfrac12 ", "¼": r"\tfrac14 ",
    "⅓": r"\tfrac13 ", "⟨": r"\langle ", "⟩": r"\rangle ", "⊥": r"\perp ", "°": r"^{\circ}",
    "%": r"\%", "#": r"\#", "&": r"\&", "$": r"\$", "≪": r"\ll ", "≫": r"\gg ", "⊙": r"\odot ",
    "∏": r"\prod ", "⊆": r"\subseteq ", "∪": r"\cup ", "∩": r"\cap ", "⪰": r"\succeq ",
    "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "∀": r"\forall ",
    "ℓ": r"\ell ", "ℝ": r"\mathbb{R}",
    "𝟏": r"\mathbf{1}", "\u2009": r"\,",
}  # fmt: skip
_RAISED = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ᵀᵢⁿ", [*"0123456789+-", r"\top ", "i", "n"], strict=True))
_LOWERED = dict(zip("₀₁₂₃₄₅₆₇₈₉ᵢⱼₖ₊₋", [*"0123456789ijk+-"], strict=True))
_ACCENTS = {"\u0302": "hat", "\u0303": "tilde", "\u0304": "bar", "\u0307": "dot"}
_BRACKETS = {"(": ")", "[": "]", "{": "}", "⟨": "⟩"}
_GREEK = "α-ωΑ-Ωϑϕϵ"

_NAMES = "|".join((*FUNCTIONS, *OPERATORS, "abs"))
# Characters that occur in mathematics alone.
_SURE = re.compile(
    f"[{_GREEK}⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ᵀⁿ₀₁₂₃₄₅₆₇₈₉‖∇∂∫∞√≠≤≥≈∝∼→∈⊗∘·×±−½¼∏⟨⟩⊥⊙≪≫ℓℝ^=<>\u0302\u0303\u0304\u0307]"
)
_LETTER = rf"[A-Za-z{_GREEK}ℓ]"
# Words such as n_k, 2d, K/2, K-1, f(x), L(W, w', tr(A), 1/log, mean_i, with brackets around them.
_ATOM = rf"\d*{_LETTER}(?:_\w{{1,4}}|_\{{[^}}]*\}})?'*"
_FACTOR = rf"(?:{_ATOM}|\d+(?=/)|d[qrtuxzρ]/dt)(?:[-+/*]\(*(?:{_ATOM}|\d+|{_NAMES}))*"
_LIKELY = re.compile(
    rf"[(\[{{|]*(?:{_FACTOR}|{_LETTER}\([^()]*\)?|\d*/?(?:{_NAMES})\(.*|\d/(?:{_NAMES})|"
    rf"(?:{_NAMES})_\w{{1,2}})[)\]}}|]*"
)
_OPERATOR = re.compile(r"[-+−±/*|:=<>≤≥≠≈∝∼→~∈·×⊗∘]+")
# Words that are mathematics beside mathematics.
_LINK = re.compile(
    rf"[(\[]?(?:{_OPERATOR.pattern}|…|{_NAMES}|[aAIs])[)\]]?|[(\[]\d[\d.]*|\d[\d.]*%?[)\]]?"
)
# Products such as WH and differentials such as dt, which are mathematics after an operator.
_PRODUCT = re.compile(r"[A-Z]{2,3}|d[qrtuxz]|\d+[a-z]{2}|k[qz]|s[tV]")
# What no equation has: words, code, addresses. Names and indices are removed before.
_TEXT = re.compile(r"[A-Za-z]?[a-z]{3,}|://|__|==|\"|'[a-z]")
_WITHOUT_TEXT = re.compile(rf"(?<![a-z])(?:{_NAMES})(?![a-z])|_\w+|_\{{.*?\}}")
_PUNCTUATION = ".,;:!?"


class Part(NamedTuple):
    """A part of a text, and whether it is mathematics."""

    text: str
    is_math: bool


def find(text: str) -> list[Part]:
    """The parts of a text, in order, each either mathematics or not."""
    words = _words(text)
    parts: list[Part] = []
    start, position = 0, 0
    while position < len(words):
        end = _end_of_equation(words, position)
        if end == position:
            position += 1
            continue
        first, last = words[position].start(), words[end - 1].end()
        equation = text[first:last]
        trimmed = _trimmed(equation)
        if trimmed:
            first += equation.index(trimmed)
            last = first + len(trimmed)
            parts += [Part(text[start:first], False), Part(trimmed, True)]
            start = last
        position = end
    parts.append(Part(text[start:], False))
    return [part for part in parts if part.text]


def _words(text: str) -> list[re.Match]:
    """Words of a text; of "K-class" and "(ε, δ)-KKT" what is before and from the hyphen on."""
    return list(re.finditer(r"-[A-Za-z]{2,}\S*|\S+?(?=-[a-z]{2,}|(?<=\))-[A-Z]{2,})|\S+", text))


def _core(word: str) -> str:
    return word.rstrip(_PUNCTUATION)


def _has_text(word: str) -> bool:
    return bool(_TEXT.search(_WITHOUT_TEXT.sub("", word)))


def _is_sure(word: str) -> bool:
    """Whether a word is mathematics wherever it stands."""
    core = _decomposed(_core(word))
    # Articles and pronouns: "a", "A", "I", and "s", the end of a plural.
    if not core or _has_text(core) or core.strip("()[]") in ("a", "A", "I", "s"):
        return False
    return bool(_SURE.search(core) or _LIKELY.fullmatch(core))


def _end_of_equation(words: list[re.Match], start: int) -> int:
    """Index after the last word of the equation that begins at a word; `start` if there is none."""
    depth, end, has_sure, previous = 0, start, False, ""
    for index in range(start, len(words)):
        word = words[index].group()
        core = _core(word)
        is_sure = _is_sure(word)
        following = words[index + 1].group() if index + 1 < len(words) else ""
        is_article = index == start and core in ("a", "A", "I", "s")
        if is_article and not (is_sure or _is_relation(following)):
            break
        neighbour = following if index == start else previous
        is_product = _PRODUCT.fullmatch(core) and (core[0] == "d" or _is_relation(neighbour))
        if not (is_sure or _LINK.fullmatch(core) or is_product):
            break
        has_sure |= is_sure
        depth += _depth(word)
        end, previous = index + 1, word
        # Outside of brackets an equation ends at punctuation.
        if word[-1] in _PUNCTUATION and depth <= 0:
            break
    return end if has_sure else start


def _is_relation(word: str) -> bool:
    return bool(_OPERATOR.fullmatch(word)) and word not in ("/", "-", "|", ":")


def _depth(word: str) -> int:
    return sum(word.count(c) for c in _BRACKETS) - sum(word.count(c) for c in _BRACKETS.values())


def _trimmed(equation: str) -> str | None:
    """The equation without punctuation and brackets of the sentence; None if brackets differ."""
    equation = equation.rstrip(_PUNCTUATION)
    for opening, closing in _BRACKETS.items():
        surplus = equation.count(opening) - equation.count(closing)
        if surplus > 0 and equation.startswith(opening):
            equation = equation[1:]
        if surplus < 0 and equation.endswith(closing):
            equation = equation[:-1].rstrip(_PUNCTUATION)
    words = equation.split(" ")
    while words and (_OPERATOR.fullmatch(words[-1]) or words[-1] in ("a", "A", "I", "")):
        words.pop()
    while words and re.fullmatch(r"[=<>≤≥≠≈→/*:|]+|", words[0]):
        words.pop(0)
    trimmed = " ".join(words)
    is_equation = any(map(_is_sure, words)) and _is_balanced(trimmed)
    return trimmed if is_equation else None


def _is_balanced(equation: str) -> bool:
    stack = []
    for character in equation:
        if character in _BRACKETS:
            stack.append(_BRACKETS[character])
        elif character in _BRACKETS.values() and (not stack or stack.pop() != character):
            return False
    return not stack and equation.count("‖") % 2 == 0


def to_tex(equation: str) -> str:
    """TeX of an equation in Unicode."""
    # The vector of ones.
    text = re.sub(r"(?<![\d.])11?(?=ᵀ)", lambda match: "𝟏" * len(match[0]), _decomposed(equation))
    # TeX ignores the space between a matrix and its shape, as in H (N, d).
    text = re.sub(r"(?<=[\w)]) (?=\(\w)|(?<=\)) (?=\w)", "\u2009", text)
    return "".join(_separated(_translated(text))).strip()


def _separated(pieces: Iterator[str]) -> Iterator[str]:
    """Pieces with an empty group between two exponents or two indices, which TeX refuses."""
    previous = ""
    for piece in pieces:
        yield f"{{}}{piece}" if piece[:1] in ("^", "_") and piece[0] == previous[:1] else piece
        previous = piece


def _decomposed(text: str) -> str:
    """Letters with an accent as two characters; operators such as ≠ stay one character."""
    return "".join(unicodedata.normalize("NFD", c) if c.isalpha() else c for c in text)


def _translated(text: str) -> Iterator[str]:
    position = 0
    while position < len(text):
        piece, position = _next(text, position)
        yield piece


def _next(text: str, at: int) -> tuple[str, int]:
    """TeX of the next piece of the text, and the position after it."""
    character, pair = text[at], text[at : at + 2]
    if pair in _SYMBOLS:
        return _SYMBOLS[pair], at + 2
    if character in _RAISED:
        return _script("^", _RAISED, text, at)
    if character in _LOWERED:
        return _script("_", _LOWERED, text, at)
    if character in "^_" and at + 1 < len(text):
        argument, end = _argument(text, at + 1, is_index=character == "_")
        return (f"{character}{{{argument}}}" if argument else rf"\{character}{{}}"), end
    if character == "√":
        # The index of a letter is under the root: √q_min.
        indexed = re.compile(r"[^\W\d_][\u0302-\u0307]?_\w+").match(text, at + 1)
        if indexed:
            return rf"\sqrt{{{to_tex(indexed[0])}}}", indexed.end()
        argument, end = _argument(text, at + 1, is_index=False)
        return rf"\sqrt{{{argument}}}", end
    number = re.compile(r"(\d[\d.]*)e([-−]?\d+)").match(text, at)
    if number:
        factor = "" if number[1] == "1" else rf"{number[1]}\cdot "
        return rf"{factor}10^{{{number[2].replace('−', '-')}}}", number.end()
    if character in "ΣΠ":
        return _sum_or_matrix(text, at), at + 1
    if character.isalpha():
        return _word(text, at)
    if character == "'":
        return r"^{\prime}", at + 1
    return _SYMBOLS.get(character, {"{": r"\{", "}": r"\}"}.get(character, character)), at + 1


def _script(mark: str, table: dict[str, str], text: str, at: int) -> tuple[str, int]:
    end = at
    while end < len(text) and text[end] in table:
        end += 1
    return f"{mark}{{{''.join(table[c] for c in text[at:end])}}}", end


# An index: letters and digits, such as ki, NC2 and the H,k of λ_H,k, or one letter of another
# script, with primes. An exponent is a number or one letter.
_INDEX = re.compile(
    rf"(?:[A-Za-z]+\d*(?:,[a-z](?:_[a-z])?)?|[{_GREEK}ℓ][\u0302-\u0307]?|[-−+]?\d+(?:\.\d+)?|"
    r"[*∞⊥+−·])'*"
)
_EXPONENT = re.compile(rf"[-−+]?(?:\d+(?:\.\d+)?|[A-Za-z{_GREEK}ℓ][\u0302-\u0307]?|[*∞⊥+−·])")
_IDENTIFIER = re.compile(r"[a-z]{2,}_[a-z]+")


def _argument(text: str, at: int, *, is_index: bool) -> tuple[str, int]:
    """TeX of what follows ^, _ or √: a group without its brackets, a number, or a word."""
    if at < len(text) and text[at] in "({":
        end = _closing(text, at)
        return to_tex(text[at + 1 : end].replace("½", "1/2")), end + 1
    if text[at] == "½":
        return "1/2", at + 1
    identifier = _IDENTIFIER.match(text, at)
    if identifier and not is_index:
        return rf"\text{{{identifier[0].replace('_', ' ')}}}", identifier.end()
    match = (_INDEX if is_index else _EXPONENT).match(text, at)
    if not match:
        return "", at
    word = match[0]
    if is_index and word in _WORDS:
        return rf"\mathrm{{{word}}}", match.end()
    return "".join(_letters(word)) if is_index and word.isalpha() else to_tex(word), match.end()


def _letters(word: str) -> Iterator[str]:
    for letter in word:
        yield _SYMBOLS.get(letter, letter)


def _closing(text: str, at: int) -> int:
    depth = 0
    for position in range(at, len(text)):
        depth += (text[position] in _BRACKETS) - (text[position] in _BRACKETS.values())
        if depth == 0:
            return position
    return len(text)


def _sum_or_matrix(text: str, at: int) -> str:
    """A sum or product; with the index of a matrix, as in Σ_W, Σ_B and Π_S, a letter."""
    is_matrix = bool(re.compile(r"_(?:[A-Z](?!\w)|\{[A-Z][^=≠<>∈]*\})|[⁺²]|\)").match(text, at + 1))
    names = {"Σ": ("Sigma", "sum"), "Π": ("Pi", "prod")}[text[at]]
    return f"\\{names[0 if is_matrix else 1]} "


def _word(text: str, at: int) -> tuple[str, int]:
    """The name of a function, an upright word, or one letter with its accent."""
    word = "".join(itertools.takewhile(lambda c: c.isascii() and c.isalpha(), text[at:]))
    after = at + len(word)
    is_accented = at + 1 < len(text) and text[at + 1] in _ACCENTS
    if word == "abs" and text[after : after + 1] == "(":
        end = _closing(text, after)
        return rf"\lvert {to_tex(text[after + 1 : end])}\rvert ", end + 1
    if word in FUNCTIONS:
        return rf"\{word} ", after
    if word in OPERATORS:
        return rf"\operatorname{{{word}}}", after
    if len(word) > 2 and word[1:].islower():
        return rf"\text{{{word}}}", after
    if is_accented:
        return rf"\{_ACCENTS[text[at + 1]]}{{{text[at]}}}", at + 2
    return _SYMBOLS.get(text[at], text[at]), at + 1
