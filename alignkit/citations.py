"""Papers as data: what a result rests on, printed as text or BibTeX."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = [
    "ACCELERATED_PROXIMAL_GRADIENT",
    "DISCIPLINED_CONVEX_PROGRAMMING",
    "PRECONDITIONED_CRANK_NICOLSON",
    "PROXIMAL_MAPS",
    "QUADRATIC_REWARDS",
    "RISK_VIA_TRANSPORT",
    "TRACTABILITY_LANDSCAPE",
    "Citation",
]

_LATEX = str.maketrans({"&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_"})


@dataclass(frozen=True)
class Citation:
    """A publication.

    Arguments:
        key: the BibTeX key.
        title: as printed.
        year: of publication.
        authors: in order, `"M. Grant"`; empty where unknown.
        venue: the journal or book, with volume and pages; a note for a preprint.
        kind: the BibTeX entry type.
        arxiv: the arXiv number, `"2605.11361"`.
        doi: the DOI.

    Example:
        >>> print(TRACTABILITY_LANDSCAPE)
        “The tractability landscape of diffusion alignment”, 2026, arXiv 2605.11361
    """

    key: str
    title: str
    year: int
    authors: tuple[str, ...] = ()
    venue: str = ""
    kind: Literal["article", "incollection", "inproceedings", "misc"] = "misc"
    arxiv: str | None = None
    doi: str | None = None

    @property
    def short(self) -> str:
        """Title and number, for use inside a sentence."""
        return f"“{self.title}”, {self._number or self.year}"

    @property
    def bibtex(self) -> str:
        """A BibTeX entry."""
        place = {"article": "journal", "misc": "note"}.get(self.kind, "booktitle")
        fields = {
            "title": f"{{{self.title.translate(_LATEX)}}}",
            "author": " and ".join(self.authors).translate(_LATEX),
            place: self.venue.translate(_LATEX),
            "year": str(self.year),
            "eprint": self.arxiv,
            "archiveprefix": "arXiv" if self.arxiv else None,
            "doi": self.doi,
        }
        lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value]
        return "\n".join([f"@{self.kind}{{{self.key},", *lines, "}"])

    @property
    def _number(self) -> str:
        if self.arxiv:
            return f"arXiv {self.arxiv}"
        return f"doi {self.doi}" if self.doi else ""

    def __str__(self) -> str:
        parts = [", ".join(self.authors), f"“{self.title}”", self.venue, str(self.year), self._number]
        return ", ".join(part for part in parts if part)


TRACTABILITY_LANDSCAPE = Citation(
    key="tractability_landscape_2026",
    title="The tractability landscape of diffusion alignment",
    year=2026,
    arxiv="2605.11361",
)

QUADRATIC_REWARDS = Citation(
    key="quadratic_rewards_2026",
    title="Steering diffusion models with quadratic rewards",
    year=2026,
    venue="COLT 2026",
    arxiv="2602.16570",
)

DISCIPLINED_CONVEX_PROGRAMMING = Citation(
    key="grant_boyd_ye_2006",
    title="Disciplined convex programming",
    year=2006,
    authors=("M. Grant", "S. Boyd", "Y. Ye"),
    venue="Global Optimization: From Theory to Implementation, pages 155–210",
    kind="incollection",
    doi="10.1007/0-387-30528-9_7",
)

PRECONDITIONED_CRANK_NICOLSON = Citation(
    key="cotter_roberts_stuart_white_2013",
    title="MCMC methods for functions: modifying old algorithms to make them faster",
    year=2013,
    authors=("S. L. Cotter", "G. O. Roberts", "A. M. Stuart", "D. White"),
    venue="Statistical Science 28(3), pages 424–446",
    kind="article",
    arxiv="1202.0709",
    doi="10.1214/13-STS421",
)

RISK_VIA_TRANSPORT = Citation(
    key="blanchet_murthy_2019",
    title="Quantifying distributional model risk via optimal transport",
    year=2019,
    authors=("J. Blanchet", "K. Murthy"),
    venue="Mathematics of Operations Research 44(2), pages 565–600",
    kind="article",
    arxiv="1604.01446",
    doi="10.1287/moor.2018.0936",
)

PROXIMAL_MAPS = Citation(
    key="parikh_boyd_2014",
    title="Proximal algorithms",
    year=2014,
    authors=("N. Parikh", "S. Boyd"),
    venue="Foundations and Trends in Optimization 1(3), 127–239",
    kind="article",
    doi="10.1561/2400000003",
)

ACCELERATED_PROXIMAL_GRADIENT = Citation(
    key="beck_teboulle_2009",
    title="A fast iterative shrinkage-thresholding algorithm for linear inverse problems",
    year=2009,
    authors=("A. Beck", "M. Teboulle"),
    venue="SIAM Journal on Imaging Sciences 2(1), 183–202",
    kind="article",
    doi="10.1137/080716542",
)
