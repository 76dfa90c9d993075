"""Expressions and lists of them in the compiler's sentences."""

from __future__ import annotations

from collections.abc import Sequence

from alignkit.expressions import Curvature, Expression

__all__ = ["brief", "described", "named", "seconds"]

#: So many things are named in a sentence, and so many characters shown of each.
_NAMED, _LONGEST = 3, 80


def brief(expression: Expression, longest: int = _LONGEST) -> str:
    """The printed form, without its middle where it is long.

    Example:
        >>> from alignkit.expressions import Variable, norm1
        >>> brief(norm1(Variable(3, name="a_long_name")), 12)
        'norm1( … me)'
    """
    text = str(expression)
    if len(text) <= longest:
        return text
    head = (longest - 3) * 2 // 3
    return f"{text[:head]} … {text[-(longest - 3 - head) :]}"


def described(curvature: Curvature) -> str:
    """A curvature as a predicate."""
    return "of unknown curvature" if curvature is Curvature.UNKNOWN else str(curvature)


def named(texts: Sequence[str], joint: str = ", ") -> str:
    """A list in words, the first few of it.

    Example:
        >>> named(["a", "b"]), named(["a", "b", "c", "d"])
        ('a and b', 'a, b, c and 1 more')
    """
    shown, rest = list(texts[:_NAMED]), len(texts) - _NAMED
    if rest > 0:
        return f"{joint.join(shown)} and {rest} more"
    if joint == ", " and len(shown) > 1:
        return f"{', '.join(shown[:-1])} and {shown[-1]}"
    return joint.join(shown)


def seconds(time: float) -> str:
    """A predicted time; predictions are worth two digits.

    Example:
        >>> seconds(0.000123), seconds(0.331), seconds(1234.0)
        ('0.12 ms', '330 ms', '1200 s')
    """
    rounded = float(f"{time:.2g}")
    return f"{rounded * 1e3:g} ms" if time < 1 else f"{rounded:g} s"
