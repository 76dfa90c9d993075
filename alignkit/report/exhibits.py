"""The pictures of a report: draws before and after, and charts of what they and the fit are like."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

import numpy as np

from alignkit.certificates import TransportCertificate
from alignkit.contracts import Floats
from alignkit.report.distributions import cost_histogram, gap_histogram, rewards_figure
from alignkit.report.findings import Findings
from alignkit.report.numerals import three_digits
from alignkit.report.path import path_figure
from alignkit.report.pictures import Ink
from alignkit.report.samples import Kind, kind_of, panel_figures
from alignkit.report.style import new_figure
from alignkit.report.svg import inline_svg
from alignkit.report.tilts import draw_mean_tilt, draw_tilt_weights

__all__ = ["charts_html", "draws_html"]

#: Of a chart, in inches: small enough for its text to be read on a phone.
_SIZE = (4.5, 3.1)
_PICTURES, _PAIRS = 16, 10
#: Pictures with shorter sides than this show their pixels.
_COARSE = 64


def draws_html(findings: Findings) -> str:
    """Draws before and after: pairs under transport, else two groups."""
    study = findings.study
    shape = study.seen_before.shape[1:]
    if kind_of(shape) is Kind.PICTURE:
        return _pairs(findings) if study.is_paired else _groups(findings)
    panels = {"Base draws": study.seen_before, "Aligned draws": study.seen_after}
    if study.is_paired:
        note = "Each of the second is one of the first, moved."
        if kind_of(shape) is Kind.POINT:
            note += " A line leads to it from where it was."
    else:
        note = "Under KL an aligned draw comes from no particular base draw."
    size = _SIZE if kind_of(shape) is not Kind.POINT else (4.5, 4.0)
    figures = panel_figures(panels, size, is_paired=study.is_paired)
    shown = [
        _chart(figure, f"draws-{place}", f"{name}: {len(panels[name])} of them, each {kind_of(shape).value}", "")
        for place, (name, figure) in enumerate(figures.items())
    ]
    return f'<div class="charts">{"".join(shown)}</div><p class="quiet">{note}</p>'


def _pairs(findings: Findings) -> str:
    study = findings.study
    assert study.costs is not None
    ink, scale, items = Ink.of(study.seen_before), _scale(study.rewards_before), []
    for row in range(min(_PAIRS, len(study.seen_before))):
        before, after = (_number(rewards[row], scale) for rewards in (study.rewards_before, study.rewards_after))
        images = (
            _picture(ink, study.seen_before[row], f"Base draw {row + 1}, reward {before}"),
            _picture(ink, study.seen_after[row], f"The same draw moved, reward {after}"),
        )
        caption = f"r: {before} → {after}<br>cost {_number(study.costs[row], _scale(study.costs))}"
        pair = f'<div class="pair">{images[0]}<span aria-hidden="true">→</span>{images[1]}</div>'
        items.append(f"<li><figure>{pair}<figcaption>{caption}</figcaption></figure></li>")
    return f'<ul class="pictures pairs">{"".join(items)}</ul>'


def _groups(findings: Findings) -> str:
    study, parts = findings.study, []
    ink, scale = Ink.of(study.seen_before), _scale(study.rewards_before)
    for name, draws, rewards in (
        ("Base draws", study.seen_before, study.rewards_before),
        ("Aligned draws", study.seen_after, study.rewards_after),
    ):
        items = []
        for row in range(min(_PICTURES, len(draws))):
            reward = _number(rewards[row], scale)
            image = _picture(ink, draws[row], f"{name[:-1]} {row + 1}, reward {reward}")
            items.append(f"<li><figure>{image}<figcaption>r = {reward}</figcaption></figure></li>")
        parts.append(f'<h3>{name}</h3><ul class="pictures">{"".join(items)}</ul>')
    return "".join(parts)


def _picture(ink: Ink, draw: Floats, label: str) -> str:
    height, width = draw.shape[-2:]
    coarse = ' class="coarse"' if max(height, width) < _COARSE else ""
    return f'<img{coarse} src="{ink.data_uri(draw)}" alt="{escape(label)}" width="{width}" height="{height}">'


def _scale(values: Floats) -> float:
    """The size of the largest of finite values."""
    return float(np.abs(values[np.isfinite(values)]).max(initial=0.0))


def _number(value: float, scale: float) -> str:
    # What rounds to nothing beside the others is nothing.
    return three_digits(0.0 if abs(value) < 1e-6 * scale else float(value))


def charts_html(findings: Findings) -> str:
    """Charts of rewards, and of gaps and costs or of tilts and the path."""
    return f'<div class="charts">{"".join(_charts(findings))}</div>'


def _charts(findings: Findings) -> Iterator[str]:
    study = findings.study
    figure = rewards_figure(study.rewards_before, study.rewards_after, size=_SIZE)
    note = f"Rewards of {len(study.before)} draws each; the line is their mean."
    yield _chart(figure, "rewards", "Rewards before and after", note)
    if study.gaps is not None and study.costs is not None:
        yield from _moves(findings, study.gaps, study.costs)
    if findings.tilts is not None:
        yield from _tilts(findings)
    if findings.certificate.path is not None:
        figure = path_figure((), findings.certificate.path, distance=findings.plan.closeness.distance, size=_SIZE)
        note = "The smaller the price λ of distance, the further the best law is; the radius ρ asks for one of them."
        yield _chart(figure, "search", "The search for λ", note)
    if findings.stages:
        note = "From the base law to the aligned one: the reward is put in force step by step, and particles follow."
        yield _chart(path_figure(findings.stages, size=_SIZE), "path", "The path of annealing", note)


def _moves(findings: Findings, gaps: Floats, costs: Floats) -> Iterator[str]:
    figure, axes = new_figure(1, 1, _SIZE)
    cost_histogram(axes[0, 0], costs)
    note = f"What the moves of {len(costs)} draws cost."
    certificate = findings.certificate
    if isinstance(certificate, TransportCertificate) and certificate.radius is not None:
        note += f" The radius allows {certificate.radius.radius:g} on average."
    yield _chart(figure, "costs", "How far draws are moved", note)
    figure, axes = new_figure(1, 1, _SIZE)
    gap_histogram(axes[0, 0], gaps, tolerance=findings.plan.tolerance)
    note = "By how much any other move could be better, at most, relative to the objective: the certificate of each."
    yield _chart(figure, "gaps", "How far a move may be from the best", note)


def _tilts(findings: Findings) -> Iterator[str]:
    tilts = findings.tilts
    assert tilts is not None
    if tilts.dimension:
        figure, axes = new_figure(1, 1, _SIZE)
        draw_tilt_weights(axes[0, 0], tilts)
        what = "Draws of the tilt of each particle" if tilts.are_draws else f"{len(tilts.nodes)} tilts by their weight"
        yield _chart(figure, "tilts", "The tilts that make up the law", f"{what}, in units of 1 over those of w.")
    figure, axes = new_figure(1, 1, _SIZE)
    draw_mean_tilt(axes[0, 0], tilts.mean)
    reach = three_digits(float(np.linalg.norm(tilts.mean)))
    note = f"The tilt θ, ‖θ‖ = {reach}: the law p·exp⟨θ, x⟩ favours draws that agree with it."
    if tilts.dimension:
        note = f"The mean of the tilts, of length {reach}; where opposite ends are favoured alike they cancel."
    yield _chart(figure, "push", "Where the law is pushed", note)


def _chart(figure: Any, name: str, label: str, note: str) -> str:
    caption = f"<figcaption>{escape(note)}</figcaption>" if note else ""
    over = f"<h3>{escape(label)}</h3>" if note else ""
    return f'<figure class="chart">{over}{inline_svg(figure, name, f"{label}. {note}".strip())}{caption}</figure>'
