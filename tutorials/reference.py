"""`python tutorials/reference.py [FOLDER]`: the API reference in HTML, made of the docstrings by pdoc, offline."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import pdoc
import pdoc.render

import alignkit
from alignkit.expressions import ENTRIES

#: The modules that users and the authors of backends import from, and what for; every other one is alignkit's own
#: business.
MODULES = {
    "alignkit": "what a user writes, as `ak.…`",
    "alignkit.base": "base laws, `ak.base`",
    "alignkit.transport.costs": "transport costs, `ak.costs`",
    "alignkit.errors": "errors and statuses, `ak.errors`",
    "alignkit.certificates": "what `aligned.certificate` is",
    "alignkit.estimates": "its figures, with their standard errors",
    "alignkit.report.plots": "what `aligned.plot` draws",
    "alignkit.expressions": "what atoms of your own are made of",
    "alignkit.contracts": "what backends are asked, and what they answer",
    "alignkit.registry": "how backends are found",
    "alignkit.noise": "where every random draw comes from",
    "alignkit.testing": "the conformance suite that examines them",
}


def public_names() -> dict[str, tuple[str, ...]]:
    """The public names of each module, in order; of alignkit also those that `__all__` leaves out, as ak.abs."""
    names = {module: list(import_module(module).__all__) for module in MODULES}
    # What a user writes stands on the page of `ak`.
    names["alignkit.expressions"] = [one for one in names["alignkit.expressions"] if not hasattr(alignkit, one)]
    names["alignkit"] += [row.name for row in ENTRIES if row.function and row.name not in alignkit.__all__]
    return {module: tuple(sorted(those, key=str.lower)) for module, those in names.items()}


def write_reference(folder: Path) -> None:
    """Write a page for each module, and an index with a search over all of them.

    Arguments:
        folder: made when it is missing.
    """
    for module, names in public_names().items():
        # pdoc shows what __all__ names and a module holds, and alignkit imports some names when they are asked for.
        loaded = import_module(module)
        for name in names:
            getattr(loaded, name)
        loaded.__all__ = list(names)
    contents = "\n".join(f"- `{module}`: {purpose}" for module, purpose in MODULES.items())
    alignkit.__doc__ = f"{alignkit.__doc__}\n{contents}\n"
    pdoc.render.configure(docformat="google", show_source=False, footer_text=f"alignkit {alignkit.__version__}")
    # A package's name stands for all that is in it, which a pattern takes out again.
    package, *others = MODULES
    pdoc.pdoc(package, r"!alignkit\.", *others, r"!alignkit\.(expressions|testing)\.", output_directory=folder)


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "html" / "reference"
    write_reference(target)
    print(target / "index.html")
