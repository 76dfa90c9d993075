"""A fitted result in a file: what was declared, the plan, the certificate, and the arrays of the sampler."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignkit.base import BaseLaw
from alignkit.certificates import KLCertificate, TransportCertificate
from alignkit.compiler.closeness import Closeness
from alignkit.compiler.composition import compose
from alignkit.compiler.declaration import Declaration
from alignkit.compiler.explain import explain_solved
from alignkit.compiler.plan import Plan
from alignkit.errors import AlignkitError, ParameterError, SavedResultError, Status
from alignkit.expressions import Constraint, Expression
from alignkit.registry import base_law
from alignkit.saving.container import read_file, write_file
from alignkit.saving.fits import Fitted, fit_from, fit_parts
from alignkit.saving.kinds import kinds
from alignkit.saving.laws import draws_to_tell, looks_of, shipped_name, tell_apart
from alignkit.saving.plans import plan_from, plan_parts
from alignkit.saving.records import NotStorableError, Reader, Writer, described, differing
from alignkit.transport.fitted import scores

__all__ = ["Declared", "Result", "read_account", "read_result", "write_result"]

Certificate = KLCertificate | TransportCertificate

#: What is declared beside the base law.
_DECLARED = ("closeness", "of_draws", "reward", "utility", "constraints")
#: What a result remembers of it.
_REMEMBERED = ("reward", "utility", "constraints", "seed", "seconds")
#: How far directions and rewards may be off those that were saved, relatively, before they count as others.
_SAME = 1e-6


@dataclass(frozen=True, eq=False)
class Result:
    """A solved problem.

    Arguments:
        plan: how it was solved.
        certificate: what was achieved.
        status: how the solve ended.
        fitted: the sampler.
        declaration: the problem as it was written down; None where that is not known.
    """

    plan: Plan
    certificate: Certificate
    status: Status
    fitted: Fitted
    declaration: Declaration | None


@dataclass(frozen=True, eq=False)
class Declared:
    """What a user declared, in a result or to be put in the place of what a file holds of it.

    Arguments:
        base: the base law p.
        closeness: the user's choice.
        of_draws: the reward without utilities of expectations.
        reward, utility, constraints: as for `Declaration`.
    """

    base: BaseLaw
    closeness: Closeness
    of_draws: Expression
    reward: Expression
    utility: Expression | None
    constraints: tuple[Constraint, ...]

    def __str__(self) -> str:
        return ", ".join([f"{self.closeness.objective} with r = {self.reward}", *map(str, self.constraints)])


def write_result(path: str | os.PathLike[str], result: Result) -> None:
    """Write a result to a file, in one step.

    Arguments:
        path: of the file; its folder must exist.
        result: what was found.

    Raises:
        ParameterError: the sampler is of a class that files cannot hold, or the path is a folder.
        OSError: the file cannot be written.
    """
    plan, known, reward = result.plan, result.declaration, result.plan.diagnosis.reward
    whole = (reward, None, ()) if known is None else (known.reward, known.utility, known.constraints)
    writer = Writer(kinds())
    declaration = _declaration(writer, Declared(plan.base, plan.closeness, reward, *whole))
    declaration |= {"seed": known and known.seed, "seconds": known and known.seconds}
    is_known = type(plan.base) in kinds()
    draws = None if is_known and not writer.outside else draws_to_tell(plan.base)
    base: dict[str, Any] = {"draws": writer.value(draws)}
    if is_known:
        base["law"] = writer.value(plan.base)
    else:
        assert draws is not None
        base |= {"looks": writer.value(looks_of(plan.base)), "shipped": shipped_name(plan.base, draws)}
    # A reward of which nothing is known may take the engine's own arrays alone; there particles tell it apart.
    is_told = bool(writer.outside) and not plan.is_heuristic
    document: dict[str, Any] = {
        "declaration": declaration,
        "outside": [described(one) for one in writer.outside],
        "base": base,
        "values": writer.value(scores(reward, draws) if is_told else None),
    }
    writer.close()
    try:
        document["composition"] = writer.value(plan.composition)
    # Of operators the compiler makes new ones; then it has to make them again.
    except NotStorableError:
        document["composition"] = None
    try:
        document |= {
            "plan": writer.value(plan_parts(plan)),
            "certificate": writer.value(result.certificate),
            "status": writer.value(result.status),
            "fitted": writer.value(fit_parts(result.fitted)),
        }
    except NotStorableError as error:
        raise ParameterError(
            f"This result cannot be saved: a file cannot hold {error}.",
            ways_out=["Save draws of it: numpy.save(path, aligned.sample(n, seed=…))."],
        ) from error
    account = {
        "explanation": str(explain_solved(plan, known)),
        "certificate": str(result.certificate),
        "status": str(result.status),
        "citations": "\n".join(map(str, plan.citations)),
        "bibtex": "\n\n".join(paper.bibtex for paper in plan.citations),
    }
    write_file(path, document | {"records": writer.records, "account": account}, writer.arrays)


def read_account(path: str | os.PathLike[str]) -> dict[str, str]:
    """What a saved result says of itself: "explanation", "certificate", "status", "citations" and "bibtex".

    Raises:
        SavedResultError, OSError: as for `read_file`.
    """
    document, _ = read_file(path)
    account = document.get("account")
    if not isinstance(account, dict):
        raise SavedResultError(f"{os.fspath(path)!r} says nothing of itself.")
    return {str(name): str(text) for name, text in account.items()}


def read_result(
    path: str | os.PathLike[str],
    *,
    base: BaseLaw | None = None,
    declared: Declared | None = None,
    device: str | None = None,
) -> Result:
    """Read a result from a file, and open its backend's session.

    Arguments:
        path: of the file.
        base: the base law, where the file does not hold it, as for a network.
        declared: the whole problem, where the file does not hold the reward, as for a function of the user's own.
        device: where to draw, as the engine names it; as for the solve if None.

    Raises:
        SavedResultError, OSError: as for `read_file`, or the file is damaged.
        ParameterError, ShapeError: something that the file does not hold is missing, or is not what was saved.
        BackendUnavailableError: the backend is not installed.
    """
    document, arrays = read_file(path)
    with _damage_named(path):
        outside, declaration = document["outside"], document["declaration"]
    if outside and declared is None:
        raise ParameterError(
            f"The reward holds {', '.join(map(str, outside))}, which a file cannot.",
            ways_out=["Declare the problem again, as it was solved: ak.load(path, problem=problem)."],
        )
    own = Writer(kinds())
    if declared is not None:
        base = declared.base
        _check_same(_declaration(own, declared), own, document, arrays)
    with _damage_named(path):
        reader = Reader(kinds(), document["records"], arrays, outside=own.outside, known=own.objects)
        found = {name: reader.value(declaration[name]) for name in _DECLARED}
        reward, closeness = found["of_draws"], found["closeness"]
        stored = {name: reader.value(one) for name, one in document["base"].items()}
        values, composition = (reader.value(document[name]) for name in ("values", "composition"))
        parts = {name: reader.value(document[name]) for name in ("plan", "certificate", "status", "fitted")}
        found |= {name: declaration[name] for name in ("seed", "seconds")}
        known = None if found["seed"] is None else Declaration(**{name: found[name] for name in _REMEMBERED})
    law = _law(stored, base)
    if values is not None:
        _check_values(reward, stored["draws"], values)
    is_recompiled = composition is None
    if is_recompiled:
        composition = compose(reward)
    plan = plan_from(parts["plan"], law, reward, closeness, composition, device=device)
    if is_recompiled:
        _check_directions(parts["fitted"], plan)
    return Result(plan, parts["certificate"], parts["status"], fit_from(parts["fitted"], plan), known)


def _declaration(writer: Writer, declared: Declared) -> dict[str, Any]:
    """The records of a declaration, which are the first, with its text."""
    found = {name: writer.value(getattr(declared, name)) for name in _DECLARED}
    return found | {"records": len(writer.records), "text": str(declared)}


def _check_same(
    mine: Mapping[str, Any], own: Writer, document: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> None:
    """Raise unless a declaration, written here, is that of a file."""
    saved = document["declaration"]
    if mine["text"] != saved["text"]:
        raise ParameterError(
            f"The problem is not the one that was saved. It maximises {mine['text']}; the file has {saved['text']}.",
            ways_out=["Declare it as it was solved.", "Solve it: problem.solve(seed=…)."],
        )
    place = differing(document["records"][: saved["records"]], arrays, own.records, own.arrays)
    if place is not None or len(own.outside) != len(document["outside"]):
        differs = own.records[place : place + 1] if place is not None else []
        kind = "".join(f", in a {record['kind'].split('.')[-1]}" for record in differs)
        raise ParameterError(
            f"The problem is not the one that was saved: it reads the same, but its numbers differ{kind}.",
            ways_out=["Declare it with the constants and parameters it was solved with.", "problem.solve(seed=…)."],
            expression=saved["text"],
        )


def _law(stored: Mapping[str, Any], given: BaseLaw | None) -> BaseLaw:
    """The base law: the one given, if it is the one that was saved; else what the file knows of it."""
    known: BaseLaw | None = stored.get("law")
    if known is not None:
        if given is None:
            return known
        mine, other = Writer(kinds()), Writer(kinds())
        mine.value(known)
        other.value(given)
        if differing(mine.records, mine.arrays, other.records, other.arrays) is not None:
            raise ParameterError(
                f"The base law {given.name!r} is not the one that was saved, {known.name!r}.",
                ways_out=["Leave base= out: the file holds this law."],
            )
        return given
    looks = stored["looks"]
    if given is None:
        if stored["shipped"] is None:
            raise ParameterError(
                f"The base law {looks['name']!r} is a {looks['class']}, whose network a file cannot hold.",
                ways_out=["Pass the law that the problem was solved with: ak.load(path, base=base)."],
            )
        given = base_law(stored["shipped"])
    tell_apart(given, looks, stored["draws"])
    return given


def _check_values(reward: Expression, draws: NDArray[Any], values: NDArray[np.float64]) -> None:
    """Raise unless a reward with functions of the user's own gives the values that were saved."""
    found = scores(reward, draws)
    if not np.allclose(found, values, rtol=_SAME, atol=_SAME * float(np.abs(values).max(initial=0.0))):
        raise ParameterError(
            f"The reward is not the one that was saved: at the same draw it is {found[0]:.6g}, not {values[0]:.6g}.",
            ways_out=["Declare its functions as they were when the result was saved.", "Solve the problem again."],
            expression=str(reward),
        )


def _check_directions(fitted: Mapping[str, Any], plan: Plan) -> None:
    """Raise where a reward was compiled again, and its coordinates are not those of the sampler's arrays."""
    while "sampler" in fitted:
        fitted = fitted["sampler"]
    if "target" not in fitted or fitted["target"]["is_linear"]:
        return
    k = plan.dimension
    saved = fitted["target"]["program"]["directions"][:k]
    if not np.allclose(plan.composition.subspace.embed(np.eye(k)), saved, rtol=0.0, atol=_SAME):
        raise SavedResultError(
            "The reward has a linear operator, and is compiled to other coordinates here than where it was saved.",
            ways_out=["Solve the problem again.", "Declare the operator as a matrix: then a file holds all of it."],
            expression=str(plan.diagnosis.reward),
        )


@contextlib.contextmanager
def _damage_named(path: str | os.PathLike[str]) -> Iterator[None]:
    """What goes wrong while records are read is told as damage; alignkit's own errors pass."""
    try:
        yield
    except AlignkitError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, AssertionError) as error:
        raise SavedResultError(
            f"{os.fspath(path)!r} is damaged: {type(error).__name__}: {error}.", ways_out=["Save the result again."]
        ) from error
