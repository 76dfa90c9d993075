"""MathML of the LaTeX that `alignkit` itself writes, for pages that show formulas without a network.

It reads the dialect of `alignkit.expressions.latex` and `alignkit.compiler.formula`, and no more of LaTeX; what it does
not know stands in the formula as it was written.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from html import escape

from alignkit.expressions.greek import GREEK

__all__ = ["mathml"]

_TOKEN = re.compile(r"\\[A-Za-z]+\*?|\\.|\d+(?:\.\d+)?|\s+|.", re.DOTALL)
_SYMBOLS = {
    "times": "×", "infty": "∞", "top": "⊤", "cdot": "⋅", "circ": "∘", "cdots": "⋯", "ldots": "…", "le": "≤", "ge": "≥",
    "geq": "≥", "sim": "∼", "propto": "∝", "int": "∫", "langle": "⟨", "rangle": "⟩", "|": "‖", "wedge": "∧",
    "backslash": "\\", "{": "{", "}": "}", "_": "_", "%": "%", "#": "#", "&": "&", "$": "$",
}  # fmt: skip
_FUNCTIONS = frozenset(["exp", "log", "sin", "cos", "tanh", "arctan"])
#: Functions whose subscript stands below them.
_LIMITS = frozenset(["max", "min", "sup", "inf"])
_SPACES = {";": "0.28em", ",": "0.17em", "quad": "1em", " ": "0.28em"}
_SCRIPT = {"B": "ℬ", "E": "ℰ", "F": "ℱ", "H": "ℋ", "I": "ℐ", "L": "ℒ", "M": "ℳ", "R": "ℛ"}
_DOUBLE = {"C": "ℂ", "H": "ℍ", "N": "ℕ", "P": "ℙ", "Q": "ℚ", "R": "ℝ", "Z": "ℤ"}
_CAPITALS = frozenset(string.ascii_uppercase)
_OPERATORS = {"-": "−", "*": "∗"}


def mathml(formula: str) -> str:
    """A formula as a `<math>` element on lines of its own.

    Arguments:
        formula: as alignkit writes it in LaTeX, for mathematics mode.

    Returns:
        the element, with everything that a user wrote escaped, and the LaTeX beside it for those who copy it.

    Example:
        >>> print(mathml("x_{0}").split("<annotation")[0])
        <math display="block"><semantics><msub><mi>x</mi><mn>0</mn></msub>
    """
    body = _Reader(formula).whole()
    source = f'<annotation encoding="application/x-tex">{escape(formula)}</annotation>'
    return f'<math display="block"><semantics>{body}{source}</semantics></math>'


class _Reader:
    """One pass over a formula.

    Arguments:
        formula: the LaTeX.
    """

    def __init__(self, formula: str) -> None:
        self._tokens = _TOKEN.findall(formula)
        self._at = 0

    def whole(self) -> str:
        """The formula as one row."""
        parts: list[str] = []
        while self._at < len(self._tokens):
            # A brace or an end too many is shown, rather than lost.
            parts.append(self._row(lambda token: False))
        return _row(parts)

    def _peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _next(self) -> str:
        token = self._peek()
        self._at += 1
        return token

    def _skip_spaces(self) -> None:
        while self._peek().isspace():
            self._at += 1

    def _row(self, ends: Callable[[str], bool]) -> str:
        """What stands before a token that ends it, which is left to the caller."""
        parts: list[str] = []
        while True:
            self._skip_spaces()
            token = self._peek()
            if not token or ends(token):
                return _row(parts)
            parts.append(self._scripted())

    def _group(self) -> str:
        """The next argument: what is in braces, or one token."""
        self._skip_spaces()
        if self._peek() != "{":
            return self._atom()[0]
        self._next()
        found = self._row(lambda token: token == "}")
        self._next()
        return found

    def _words(self) -> str:
        """The next argument, in braces, as text."""
        self._skip_spaces()
        if self._peek() != "{":
            return self._next()
        self._next()
        depth, parts = 1, []
        while self._peek():
            token = self._next()
            depth += (token == "{") - (token == "}")
            if not depth:
                break
            if token in "{}":
                continue
            if token.startswith("\\"):
                name = token[1:]
                parts.append(" " if name in _SPACES else _SYMBOLS.get(name, GREEK.get(name, token)))
            else:
                parts.append(token)
        return "".join(parts)

    def _scripted(self) -> str:
        """An atom with its scripts."""
        base, has_limits = self._atom()
        below = above = ""
        while True:
            mark = self._at
            self._skip_spaces()
            if self._peek() == "_" and not below:
                self._next()
                below = self._group()
            elif self._peek() == "^" and not above:
                self._next()
                above = self._group()
            else:
                self._at = mark
                break
        under, over, both = ("munder", "mover", "munderover") if has_limits else ("msub", "msup", "msubsup")
        if below and above:
            return f"<{both}>{base}{below}{above}</{both}>"
        if below:
            return f"<{under}>{base}{below}</{under}>"
        return f"<{over}>{base}{above}</{over}>" if above else base

    def _atom(self) -> tuple[str, bool]:
        """One thing without scripts, and whether its scripts stand below and above it."""
        token = self._peek()
        if token == "{":
            return self._group(), False
        if not token:
            return "<mrow></mrow>", False
        self._next()
        if token.startswith("\\"):
            return self._command(token[1:])
        if token[0].isdigit():
            return f"<mn>{token}</mn>", False
        if token.isalpha():
            return f"<mi>{escape(token)}</mi>", False
        return _operator(_OPERATORS.get(token, token)), False

    def _command(self, name: str) -> tuple[str, bool]:
        if name in _SPACES:
            return f'<mspace width="{_SPACES[name]}"></mspace>', False
        if name in GREEK:
            return f"<mi>{GREEK[name]}</mi>", False
        if name in _LIMITS:
            return f"<mi>{name}</mi>", True
        if name in _FUNCTIONS:
            return f"<mi>{name}</mi>", False
        if name in _SYMBOLS:
            return _operator(_SYMBOLS[name]), False
        if name in {"operatorname", "operatorname*"}:
            return f"<mi>{escape(self._words())}</mi>", name.endswith("*")
        if name in {"mathrm", "text"}:
            words = self._words()
            # One letter would be slanted as a variable is.
            variant = ' mathvariant="normal"' if len(words) == 1 else ""
            tag = "mtext" if name == "text" or " " in words else "mi"
            return f"<{tag}{variant}>{escape(words).replace(' ', chr(160))}</{tag}>", False
        if name in {"mathbb", "mathcal"}:
            return self._ornate(*((_DOUBLE, 0x1D538) if name == "mathbb" else (_SCRIPT, 0x1D49C))), False
        if name == "frac":
            return f"<mfrac>{self._group()}{self._group()}</mfrac>", False
        if name == "sqrt":
            return f"<msqrt>{self._group()}</msqrt>", False
        if name == "underset":
            below = self._group()
            return f"<munder>{self._group()}{below}</munder>", False
        if name == "left":
            return self._fenced(), False
        if name == "begin":
            return self._table(), False
        return f"<mtext>{escape(chr(92) + name)}</mtext>", False

    def _ornate(self, exceptions: dict[str, str], first: int) -> str:
        """A capital letter of an alphabet whose A has the code `first`, with its number."""
        letter, _, number = self._words().partition("_")
        found = exceptions.get(letter) or (chr(first + ord(letter) - ord("A")) if letter in _CAPITALS else letter)
        return f"<msub><mi>{found}</mi><mn>{escape(number)}</mn></msub>" if number else f"<mi>{escape(found)}</mi>"

    def _fenced(self) -> str:
        first = self._delimiter("prefix")
        inner = self._row(lambda token: token == r"\right")
        self._next()
        return f"<mrow>{first}{inner}{self._delimiter('postfix')}</mrow>"

    def _delimiter(self, form: str) -> str:
        self._skip_spaces()
        token = self._next()
        return _fence(_SYMBOLS.get(token[1:], token[1:]) if token.startswith("\\") else token, form)

    def _table(self) -> str:
        """An environment of rows of cells, as an equation under equations or as a matrix."""
        kind = self._words()
        rows: list[list[str]] = [[]]
        while self._peek():
            rows[-1].append(self._row(lambda token: token in {"&", r"\\", r"\end"}))
            mark = self._next()
            if mark == r"\\":
                rows.append([])
            elif mark != "&":
                break
        if self._peek() == "{":
            self._words()
        is_aligned = kind == "aligned"
        # MathML Core has no columnalign: cells are aligned by CSS, for which the class stands.
        cells = ("".join(f"<mtd>{cell}</mtd>" for cell in row) for row in rows)
        body = "".join(f"<mtr>{row}</mtr>" for row in cells)
        table = f'<mtable class="{"aligned" if is_aligned else "matrix"}" displaystyle="true">{body}</mtable>'
        return table if is_aligned else f"<mrow>{_fence('[', 'prefix')}{table}{_fence(']', 'postfix')}</mrow>"


def _fence(text: str, form: str) -> str:
    return f'<mo form="{form}" fence="true" stretchy="true">{escape(text)}</mo>'


def _operator(text: str) -> str:
    # Outside \left and \right nothing grows.
    stretch = ' stretchy="false"' if text in "()[]{}|‖⟨⟩" else ""
    return f"<mo{stretch}>{escape(text)}</mo>"


def _row(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"<mrow>{''.join(parts)}</mrow>"
