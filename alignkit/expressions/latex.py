"""Expressions in LaTeX: a table from the class of a node to how it is written, and one pass over the tree."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from alignkit.expressions.affine import Add, Divide, Inner, MatMul, Multiply, Negate
from alignkit.expressions.arrays import is_operator
from alignkit.expressions.atoms import (
    curves,
    distances,
    elementwise,
    exponential,
    norms,
    order,
    piecewise,
    powers,
    products,
    quadratic,
)
from alignkit.expressions.expectation import Constraint, Expectation
from alignkit.expressions.expression import LONGEST_TEXT, Expression
from alignkit.expressions.greek import GREEK
from alignkit.expressions.layout import BroadcastTo, Concatenate, Index, Reshape, Stack, Transpose, Vec
from alignkit.expressions.leaf import Constant, Parameter, Variable
from alignkit.expressions.operators import LinearMap
from alignkit.expressions.reductions import Trace

__all__ = ["Form", "Letters", "constraint_latex", "latex", "latex_name", "latex_number"]

#: How tightly a written form binds, loosest first. A form of POWER takes no further script, one of SUBSCRIPTED takes a
#: superscript alone. An entrywise product stands apart: a ∘ (Bx) is not (a ∘ B)x.
SUM, ENTRYWISE, PRODUCT, POWER, SUBSCRIPTED, CLOSED = range(6)
#: How many arguments of a long sum, or of a long list, are kept at its start.
KEPT = 4
#: Largest constant that is compared by its entries; larger ones have a letter for each object.
LARGEST_COMPARED = 4096
#: Longest argument that a formula may repeat.
LONGEST_REPEATED = 80

_ESCAPES = {character: f"\\{character}" for character in "_%#&${}"} | {
    "\\": r"{\backslash}",
    "^": r"{\wedge}",
    "~": r"{\sim}",
    " ": r"\ ",
}
_COMMA = r",\, "
_LEFT_OUT = r"\left[\cdots\right]"
# Letters that formulas of this module, or of a problem, use themselves.
_RESERVED = frozenset("cdefgijklopqrxz") | frozenset("EQT")


@dataclass(frozen=True)
class Form:
    """A written form and how tightly its outermost operation binds.

    Arguments:
        text: LaTeX, for mathematics mode.
        strength: SUM, ENTRYWISE, PRODUCT, POWER, SUBSCRIPTED or CLOSED.
    """

    text: str
    strength: int

    def at_least(self, strength: int) -> str:
        """The text, in parentheses if it binds less tightly."""
        return self.text if self.strength >= strength else rf"\left({self.text}\right)"


class Letters:
    """Names for constants in one formula: A, B, … for matrices, a, b, … for the others, those of the user left out.

    Arguments:
        taken: names of variables and parameters.
    """

    def __init__(self, taken: Iterable[str]) -> None:
        used = _RESERVED | set(taken)
        self._upper = _unused(string.ascii_uppercase, used)
        self._lower = _unused(string.ascii_lowercase, used)
        self._found: dict[Any, str] = {}
        # An identity is a key only while the object lives.
        self._kept: list[Any] = []

    def of(self, array: Any) -> Form:
        """The letter of an array, over its shape: the same for the same object, and for small arrays of equal entries.

        Arguments:
            array: an ndarray, a scipy sparse array, or a `LinearOperator`, whose letter is calligraphic.
        """
        shape = tuple(int(length) for length in array.shape)
        dense = hasattr(array, "tobytes") and array.size <= LARGEST_COMPARED
        key: Any = (shape, array.tobytes()) if dense else id(array)
        if key not in self._found:
            letter = next(self._upper if len(shape) >= 2 else self._lower)
            self._kept.append(array)
            self._found[key] = rf"\mathcal{{{letter}}}" if is_operator(array) else letter
        return Form(rf"\underset{{{_shape(shape)}}}{{{self._found[key]}}}", CLOSED)


#: Writes a node from the written forms of its arguments; those of `Multiply`, `MatMul` and `Inner` begin with the
#: form of the constant.
Rule = Callable[[Any, Sequence[Form], Letters], Form]


def latex(expression: Expression, letters: Letters | None = None) -> str:
    """An expression in LaTeX, for mathematics mode.

    Constants have letters, with the shape below; vectors are columns; ∘ marks products and powers entry by entry, and
    functions, roots and fractions are entry by entry too; what is too long is left out where three dots stand.

    Arguments:
        expression: any expression.
        letters: names for its constants, to be shared by the parts of a larger formula.

    Returns:
        The formula, without dollar signs.

    Example:
        >>> from alignkit.expressions import Variable, norm1
        >>> x = Variable(2)
        >>> print(latex(3.0 * norm1(x - [1.0, 2.0])))
        3 \\left\\|x - \\underset{2}{a}\\right\\|_{1}
    """
    nodes = _nodes(expression)
    if letters is None:
        letters = Letters(node.name for node in nodes if isinstance(node, Variable | Parameter))
    found: dict[int, Form] = {}
    for node in nodes:
        found[id(node)] = _written(node, [found[id(child)] for child in _children(node)], letters)
    return found[id(expression)].text


def constraint_latex(constraint: Constraint) -> str:
    """A constraint in LaTeX, for mathematics mode.

    Example:
        >>> from alignkit.expressions import E, Variable
        >>> print(constraint_latex(E(Variable(2)[0]) == 1))
        \\mathbb{E}_{q}\\left[x_{0}\\right] = 1
    """
    nodes = [*_nodes(constraint.left), *_nodes(constraint.right)]
    letters = Letters(node.name for node in nodes if isinstance(node, Variable | Parameter))
    sign = {"==": "=", "<=": r"\le", ">=": r"\ge"}[constraint.relation]
    return f"{latex(constraint.left, letters)} {sign} {latex(constraint.right, letters)}"


def latex_name(name: str) -> str:
    """A name as a user gave it, in LaTeX: Greek by its English name, digits at its end as a subscript.

    Example:
        >>> latex_name("theta_0"), latex_name("noise level")
        ('\\\\theta_{0}', '\\\\mathrm{noise\\\\ level}')
    """
    return _name(name).text


def latex_number(number: float) -> str:
    """A number to six digits, powers of ten written out.

    Example:
        >>> latex_number(-1.5e-07)
        '-1.5 \\\\times 10^{-7}'
    """
    return _number(number).text


def _children(node: Expression) -> tuple[Expression, ...]:
    if isinstance(node, Expectation):
        return (node.expression,)
    return (node.constant, *node.args) if isinstance(node, Multiply | MatMul | Inner) else node.args


def _nodes(root: Expression) -> list[Expression]:
    """All nodes of the formula, each once, in reading order, what a node is written from before it."""
    found: list[Expression] = []
    seen: set[int] = set()
    stack: list[tuple[Expression, bool]] = [(root, False)]
    while stack:
        node, expanded = stack.pop()
        if expanded:
            found.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            stack.extend((child, False) for child in reversed(_children(node)))
    return found


def _written(node: Expression, parts: list[Form], letters: Letters) -> Form:
    rule = RULES.get(type(node), _call_by_name)
    form = rule(node, parts, letters)
    if len(form.text) > LONGEST_TEXT and len(parts) > KEPT + 2 and isinstance(node, Add | Concatenate | order.Maximum):
        left_out = Form(rf"\underset{{{len(parts) - KEPT - 1}\ \mathrm{{more}}}}{{\cdots}}", CLOSED)
        parts = [*parts[:KEPT], left_out, parts[-1]]
        form = rule(node, parts, letters)
    while len(form.text) > LONGEST_TEXT and any(part.text != _LEFT_OUT for part in parts):
        longest = max(parts, key=lambda part: len(part.text))
        parts = [Form(_LEFT_OUT, CLOSED) if part is longest else part for part in parts]
        form = rule(node, parts, letters)
    # A leading minus would run into what stands before it.
    return Form(form.text, SUM) if form.text.startswith("-") else form


# ---- pieces


def _unused(alphabet: str, used: set[str] | frozenset[str]) -> Iterator[str]:
    letters = [letter for letter in alphabet if letter not in used]
    yield from letters
    count = 1
    while True:
        yield from (f"{letter}_{{{count}}}" for letter in letters)
        count += 1


def _shape(shape: tuple[int, ...]) -> str:
    return r"\times ".join(str(length) for length in shape)


def _number(number: float) -> Form:
    mantissa, _, exponent = f"{number:.6g}".partition("e")
    if mantissa.lstrip("-") == "inf":
        return Form(mantissa.replace("inf", r"\infty"), SUM if number < 0.0 else CLOSED)
    if not exponent:
        return Form(mantissa, SUM if number < 0.0 else CLOSED)
    power = f"10^{{{int(exponent)}}}"
    if mantissa in ("1", "-1"):
        return Form(mantissa.replace("1", power), SUM if number < 0.0 else POWER)
    return Form(rf"{mantissa} \times {power}", SUM if number < 0.0 else PRODUCT)


def _name(name: str) -> Form:
    stem, number = re.fullmatch(r"(.*?)_?(\d*)", name, re.DOTALL).groups()  # type: ignore[union-attr]
    if not stem:
        stem, number = name, ""
    if stem in GREEK:
        text = f"\\{stem}"
    elif len(stem) == 1 and stem not in _ESCAPES:
        text = stem
    else:
        text = rf"\mathrm{{{_escaped(stem)}}}"
    return Form(f"{text}_{{{number}}}", SUBSCRIPTED) if number else Form(text, CLOSED)


def _escaped(text: str) -> str:
    return "".join(_ESCAPES.get(character, character) for character in text)


def _listed(parts: Sequence[Form]) -> str:
    return _COMMA.join(part.text for part in parts)


def _options(node: Any) -> list[str]:
    """What the node prints beside its arguments, as `axis=0`."""
    found = []
    for option in node._options():
        key, equals, value = option.partition("=")
        found.append(f"{_name(key).text}={_escaped(value)}" if equals else _escaped(option))
    return found


def _subscript(parts: Sequence[str]) -> str:
    return f"_{{{_COMMA.join(parts)}}}" if parts else ""


def _added(terms: Iterable[str]) -> Form:
    first, *others = terms
    signed = (f" - {term[1:]}" if term.startswith("-") else f" + {term}" for term in others)
    return Form(first + "".join(signed), SUM)


def _power(base: Form, exponent: str, *, entrywise: bool) -> Form:
    mark = r"\circ " if entrywise else ""
    return Form(f"{base.at_least(SUBSCRIPTED)}^{{{mark}{exponent}}}", POWER)


def _product(left: Form, right: Form, *, scalar: bool) -> Form:
    first, second = left.at_least(PRODUCT), right.at_least(PRODUCT)
    # A name before a parenthesis would read as a function, and two numbers as one.
    runs_on = scalar and second.startswith(r"\left(") and not first[-1].isdigit()
    dot = r"\cdot " if runs_on or second[0].isdigit() else ""
    return Form(f"{first} {dot}{second}", PRODUCT)


def _entrywise_product(left: Form, right: Form) -> Form:
    sides = [
        part.text if part.strength in (ENTRYWISE, *range(POWER, CLOSED + 1)) else part.at_least(POWER)
        for part in (left, right)
    ]
    return Form(rf"{sides[0]} \circ {sides[1]}", ENTRYWISE)


def _transposed(part: Form) -> Form:
    return Form(rf"{part.at_least(SUBSCRIPTED)}^{{\top}}", POWER)


def _as_vector(node: Any, part: Form) -> Form:
    return part if node.ndim <= 1 else Form(rf"\operatorname{{vec}}\left({part.text}\right)", POWER)


def _blocks(parts: Sequence[Form], joint: str) -> Form:
    return Form(rf"\begin{{bmatrix}} {joint.join(part.text for part in parts)} \end{{bmatrix}}", CLOSED)


# ---- rules


def called(command: str) -> Rule:
    """A rule for f(x, y, …), the options of the node as subscripts of f."""

    def rule(node: Any, parts: Sequence[Form], letters: Letters) -> Form:
        return Form(rf"{command}{_subscript(_options(node))}\left({_listed(parts)}\right)", POWER)

    return rule


def operator(name: str) -> Rule:
    """A rule for f(x, y, …) with f in upright letters."""
    return called(rf"\operatorname{{{_escaped(name)}}}")


def _call_by_name(node: Any, parts: Sequence[Form], letters: Letters) -> Form:
    return operator(node.name)(node, parts, letters)


def delimited(left: str, right: str) -> Rule:
    """A rule for one argument between delimiters."""
    return lambda node, parts, letters: Form(rf"\left{left}{parts[0].text}\right{right}", CLOSED)


def signed_part(sign: str) -> Rule:
    """A rule for (x)₊ and (x)₋."""
    return lambda node, parts, letters: Form(rf"\left({parts[0].text}\right)_{{{sign}}}", SUBSCRIPTED)


def norm(name: Callable[[Any], str], *, squared: bool = False) -> Rule:
    """A rule for ‖x‖ over all entries or along axes, with the order as a subscript."""

    def rule(node: Any, parts: Sequence[Form], letters: Letters) -> Form:
        arg = node.args[0]
        label, inner = name(node), parts[0].text
        if node.axis is None and arg.ndim > 1:
            # ‖X‖₁ of a matrix is another norm than that of its entries.
            label, inner = ("F", inner) if label == "2" else (label, _as_vector(arg, parts[0]).text)
        text = rf"\left\|{inner}\right\|{_subscript([label, *_axis(node)])}"
        return Form(f"{text}^{{2}}", POWER) if squared else Form(text, SUBSCRIPTED)

    return rule


def _axis(node: Any) -> list[str]:
    return [] if node.axis is None else [rf"\mathrm{{axis}}={_escaped(str(node.axis))}"]


def _sum(node: Add, parts: Sequence[Form], letters: Letters) -> Form:
    return _added(part.text for part in parts)


def _multiply(node: Multiply, parts: Sequence[Form], letters: Letters) -> Form:
    constant, arg = parts
    if node.constant.size > 1 and node.size > 1:
        return _entrywise_product(constant, arg)
    if isinstance(node.constant, Constant) and node.constant.shape == () and float(node.constant.array) < 0.0:
        return Form(f"-{_product(_number(-float(node.constant.array)), arg, scalar=True).text}", SUM)
    return _product(constant, arg, scalar=True)


def _divide(node: Divide, parts: Sequence[Form], letters: Letters) -> Form:
    return Form(rf"\frac{{{parts[1].text}}}{{{parts[0].text}}}", PRODUCT)


def _matrix_product(node: MatMul, parts: Sequence[Form], letters: Letters) -> Form:
    constant, arg = parts
    if node.constant.ndim == 1 and node.args[0].ndim == 1:
        return _product(_transposed(constant), arg, scalar=False)
    on_left = node.side == "left"
    # One axis is a column, so that products of products read as they are computed.
    if on_left and node.constant.ndim == 1:
        return _product(_transposed(arg), constant, scalar=False)
    if not on_left and node.args[0].ndim == 1:
        return _product(_transposed(constant), arg, scalar=False)
    return _product(constant, arg, scalar=False) if on_left else _product(arg, constant, scalar=False)


def _multiplied(node: products.Product, parts: Sequence[Form], letters: Letters) -> Form:
    return _product(parts[0], parts[1], scalar=True) if node.size == 1 else _entrywise_product(parts[0], parts[1])


def _index(node: Index, parts: Sequence[Form], letters: Letters) -> Form:
    key = _COMMA.join(_key(part) for part in node.key)
    return Form(f"{parts[0].at_least(CLOSED)}_{{{key}}}", SUBSCRIPTED)


def _key(part: Any) -> str:
    if isinstance(part, slice):
        ends = [part.start, part.stop, *([] if part.step is None else [part.step])]
        return "{:}".join("" if end is None else str(end) for end in ends)
    if part is Ellipsis:
        return r"\ldots"
    if part is None:
        return r"\mathrm{None}"
    if not getattr(part, "shape", ()):
        return str(part)
    kind = "mask" if part.dtype.kind == "b" else "indices"
    return rf"\left[{_shape(part.shape)}\ \mathrm{{{kind}}}\right]"


def _concatenate(node: Concatenate, parts: Sequence[Form], letters: Letters) -> Form:
    if node.ndim <= 2:
        return _blocks(parts, r" \\ " if node.axis == 0 else " & ")
    return Form(rf"\operatorname{{concatenate}}{_subscript(_axis(node))}\left({_listed(parts)}\right)", POWER)


def _stack(node: Stack, parts: Sequence[Form], letters: Letters) -> Form:
    if node.ndim == 1:
        return _blocks(parts, r" \\ ")
    if node.ndim == 2 and node.axis == 1:
        return _blocks(parts, " & ")
    if node.ndim == 2:
        return _blocks([_transposed(part) for part in parts], r" \\ ")
    return Form(rf"\operatorname{{stack}}{_subscript(_axis(node))}\left({_listed(parts)}\right)", POWER)


def _linear_map(node: LinearMap, parts: Sequence[Form], letters: Letters) -> Form:
    matrix = letters.of(node.matrix)
    if is_operator(node.matrix):
        return Form(rf"{matrix.text}\left({parts[0].text}\right)", POWER)
    return _product(matrix, _as_vector(node.args[0], parts[0]), scalar=False)


def _quadratic_form(node: quadratic.QuadForm, parts: Sequence[Form], letters: Letters) -> Form:
    form, arg = letters.of(node.P), _as_vector(node.args[0], parts[0])
    if len(arg.text) > LONGEST_REPEATED:
        return Form(rf"\operatorname{{quad\_form}}\left({arg.text},\, {form.text}\right)", POWER)
    return Form(f"{_transposed(arg).text} {form.text} {arg.at_least(PRODUCT)}", PRODUCT)


def _geometric_mean(node: powers.GeoMean, parts: Sequence[Form], letters: Letters) -> Form:
    uniform = bool((node.weights == node.weights[0]).all())
    weights = [] if uniform else [letters.of(node.weights).text]
    command = rf"\operatorname{{geo\_mean}}{_subscript([*weights, *_axis(node)])}"
    return Form(rf"{command}\left({parts[0].text}\right)", POWER)


def _clip(node: piecewise.Clip, parts: Sequence[Form], letters: Letters) -> Form:
    ends = rf"\left[{_number(node.lower).text},\, {_number(node.upper).text}\right]"
    return Form(rf"\operatorname{{clip}}_{{{ends}}}\left({parts[0].text}\right)", POWER)


def _with_constants(node: Any, parts: Sequence[Form], *constants: Form) -> Form:
    return Form(rf"\operatorname{{{_escaped(node.name)}}}\left({_listed([*parts, *constants])}\right)", POWER)


def _inner(node: Inner, parts: Sequence[Form], letters: Letters) -> Form:
    return Form(rf"\left\langle {_listed(parts)}\right\rangle", CLOSED)


def _raised(exponent: Callable[[Any], float]) -> Rule:
    return lambda node, parts, letters: _power(parts[0], _number(exponent(node)).text, entrywise=node.size > 1)


_squared_norm = norm(lambda node: "2", squared=True)

#: From the class of a node to how it is written; any other is written as a function, by its name.
RULES: dict[type[Expression], Rule] = {
    Variable: lambda node, parts, letters: _name(node.name),
    Expectation: lambda node, parts, letters: Form(rf"\mathbb{{E}}_{{q}}\left[{parts[0].text}\right]", CLOSED),
    Parameter: lambda node, parts, letters: _name(node.name),
    Constant: lambda node, parts, letters: letters.of(node.array) if node.shape else _number(float(node.array)),
    Add: _sum,
    Negate: lambda node, parts, letters: Form(f"-{parts[0].at_least(PRODUCT)}", SUM),
    Multiply: _multiply,
    Divide: _divide,
    MatMul: _matrix_product,
    Inner: _inner,
    LinearMap: _linear_map,
    BroadcastTo: lambda node, parts, letters: parts[0],
    Index: _index,
    Transpose: lambda node, parts, letters: _transposed(parts[0]),
    Reshape: lambda node, parts, letters: Form(
        rf"\operatorname{{reshape}}_{{{_shape(node.shape)}}}\left({parts[0].text}\right)", POWER
    ),
    Vec: operator("vec"),
    Concatenate: _concatenate,
    Stack: _stack,
    Trace: operator("tr"),
    elementwise.Abs: delimited("|", "|"),
    elementwise.Square: _raised(lambda node: 2.0),
    elementwise.Pos: signed_part("+"),
    elementwise.Neg: signed_part("-"),
    exponential.Exp: called(r"\exp"),
    exponential.Log: called(r"\log"),
    exponential.Logistic: lambda node, parts, letters: Form(
        rf"\log\left(1 + \exp\left({parts[0].text}\right)\right)", POWER
    ),
    exponential.Log1p: lambda node, parts, letters: Form(
        rf"\log\left({_added(['1', parts[0].text]).text}\right)", POWER
    ),
    powers.Power: _raised(lambda node: node.p),
    powers.Sqrt: lambda node, parts, letters: Form(rf"\sqrt{{{parts[0].text}}}", CLOSED),
    powers.InvPos: lambda node, parts, letters: Form(rf"\frac{{1}}{{{parts[0].text}}}", PRODUCT),
    powers.GeoMean: _geometric_mean,
    norms.Norm1: norm(lambda node: "1"),
    norms.Norm2: norm(lambda node: "2"),
    norms.NormInf: norm(lambda node: r"\infty"),
    norms.PNorm: norm(lambda node: _number(node.p).text),
    norms.SigmaMax: called(r"\sigma_{\max}"),
    order.Max: called(r"\max"),
    order.Min: called(r"\min"),
    order.Maximum: called(r"\max"),
    order.Minimum: called(r"\min"),
    quadratic.SumSquares: _squared_norm,
    quadratic.QuadForm: _quadratic_form,
    quadratic.QuadOverLin: lambda node, parts, letters: Form(
        rf"\frac{{{_squared_norm(node, parts[:1], letters).text}}}{{{parts[1].text}}}", PRODUCT
    ),
    products.Product: _multiplied,
    curves.Sin: called(r"\sin"),
    curves.Cos: called(r"\cos"),
    curves.Tanh: called(r"\tanh"),
    curves.Arctan: called(r"\arctan"),
    piecewise.Clip: _clip,
    piecewise.PiecewiseLinear: lambda node, parts, letters: _with_constants(
        node, parts, letters.of(node.breakpoints), letters.of(node.values)
    ),
    distances.DistanceToPoints: lambda node, parts, letters: _with_constants(node, parts, letters.of(node.points)),
}
