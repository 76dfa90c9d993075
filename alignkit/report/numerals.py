"""Numbers as print has them: minus signs that are no hyphens, and powers of ten."""

from __future__ import annotations

import re

__all__ = ["power_of_ten", "three_digits", "typeset"]

_POWER = re.compile(r"(?<=\d)e([+-]\d+)")
_MINUS = re.compile(r"(?<![^\s(])-(?=\d)")
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def three_digits(value: float) -> str:
    """A number to three digits.

    Example:
        >>> three_digits(-0.12345)
        '−0.123'
    """
    return f"{value:.3g}".replace("-", "−")


def power_of_ten(exponent: int) -> str:
    """A power of ten in one line.

    Example:
        >>> power_of_ten(-7)
        '10⁻⁷'
    """
    return f"10{str(exponent).translate(_RAISED)}"


def typeset(text: str) -> str:
    """A text whose numbers have their minus signs and powers of ten; expressions in it keep theirs.

    Example:
        >>> typeset("-2.5e-07 of x-1")
        '−2.5·10⁻⁷ of x-1'
    """
    text = _POWER.sub(lambda found: f"·{power_of_ten(int(found[1]))}", text)
    return _MINUS.sub("−", text)
