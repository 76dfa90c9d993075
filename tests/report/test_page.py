"""What a report holds: every part, escaped, readable to those who do not see, in one file written at once."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from importlib import resources

import numpy as np
import pytest
from matplotlib.image import imread

import alignkit as ak
from alignkit.report.pictures import Ink

VOID = {"br", "hr", "img", "input", "link", "meta"}
X = ak.Variable(2)
PLANE = ak.base.Gaussian([0.0, 0.0], 1.0)


class Page(HTMLParser):
    """The elements of a page with their attributes, and that every one is closed in order."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip() and not {"style", "annotation"} & set(self.open):
            self.texts.append(data.strip())

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(aligned, path, **options):
    return Page(aligned.report(path, **options).read_text(encoding="utf-8"))


class TestEveryReport:
    def test_is_a_small_file_that_needs_nothing_else(self, reported):
        _, path, _ = reported
        text = path.read_text(encoding="utf-8")
        assert path.stat().st_size < 3_000_000
        page = Page(text)
        assert not {"script", "iframe", "object", "form"} & {tag for tag, _ in page.elements}
        assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
        sources = [attributes.get("src") or "" for tag, attributes in page.elements if tag != "a"]
        links = [attributes["href"] for attributes in page.all("link")]
        assert all(address.startswith("data:") for address in [*filter(None, sources), *links])
        assert not re.search(r"@import|url\(\s*['\"]?(?!#)", text)
        (policy,) = [one["content"] for one in page.all("meta") if "http-equiv" in one]
        assert policy.startswith("default-src 'none'")

    def test_has_every_part(self, reported):
        aligned, path, _ = reported
        page = Page(path.read_text(encoding="utf-8"))
        assert [one["id"] for one in page.all("section")] == [
            "problem", "draws", "diagnostics", "certificate", "plan", "environment", "citations",
        ]  # fmt: skip
        assert len(page.all("math")) >= 3
        for name, text in aligned.certificate.rows.items():
            assert name in page.texts and (any(char in text for char in "-()") or text in page.texts)
        for fact in aligned.plan.explain().account.plan:
            assert fact.text in page.texts
        for paper in aligned.plan.citations:
            assert any(paper.title in text for text in page.texts)
        for name in ("alignkit", "device", "seed of the fit", "seed of these draws", "time to solve", "report made"):
            assert name in page.texts

    def test_says_in_words_what_it_shows(self, reported):
        _, path, name = reported
        page = Page(path.read_text(encoding="utf-8"))
        assert page.all("html")[0]["lang"] == "en"
        pictures = page.all("img")
        assert all(picture["alt"] for picture in pictures)
        assert len(pictures) == {"digits": 32, "radius": 32, "symmetric": 20}.get(name, 0)
        charts = page.all("svg")
        assert len(charts) >= 1 and all(chart["role"] == "img" and chart["aria-label"] for chart in charts)
        assert all(one.get("scope") in {"row", "col"} for one in page.all("th"))
        identifiers = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
        assert len(identifiers) == len(set(identifiers))
        referred = re.findall(r'(?:href="|url\(|labelledby=")#?([^")]*)', path.read_text(encoding="utf-8"))
        inside = [one for one in referred if not one.startswith(("http", "data:"))]
        assert inside and set(inside) <= set(identifiers)

    def test_charts_take_the_colours_of_the_page(self, reported):
        _, path, _ = reported
        text = path.read_text(encoding="utf-8")
        charts = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
        styled = set(re.findall(r"(?:fill|stroke): ?(#[0-9a-f]{3,8}|var\([^)]*\))", charts))
        known = {f"var({name})" for name in re.findall(r"(--[a-z]+):", text)}
        # What is left is the white under a bar of colours.
        assert styled - known <= {"#ffffff"}


class TestPictures:
    def test_pictures_keep_their_pixels(self):
        draw = np.linspace(-1.0, 1.0, 30).reshape(5, 6)
        picture = decoded(Ink(-1.0, 1.0).data_uri(draw))
        np.testing.assert_allclose(picture[..., 0], 1.0 - (draw + 1) / 2, atol=1 / 255)

    def test_colours_are_kept(self):
        draw = np.random.default_rng(0).uniform(size=(3, 4, 7))
        np.testing.assert_allclose(decoded(Ink(0.0, 1.0).data_uri(draw)), np.moveaxis(draw, 0, -1), atol=1 / 255)

    def test_one_channel_is_none(self):
        draw = np.random.default_rng(0).uniform(size=(4, 7))
        assert Ink(0.0, 1.0).data_uri(draw[None]) == Ink(0.0, 1.0).data_uri(draw)

    def test_large_pictures_are_means_of_squares(self):
        draw = np.random.default_rng(0).uniform(size=(256, 512))
        means = draw.reshape(64, 4, 128, 4).mean(axis=(1, 3))
        np.testing.assert_allclose(decoded(Ink(0.0, 1.0).data_uri(draw))[..., 0], 1.0 - means, atol=1 / 255)

    def test_values_beyond_the_scale_and_bad_ones_are_drawn(self):
        picture = decoded(Ink(0.0, 1.0).data_uri(np.array([[-5.0, 5.0], [np.nan, 0.5]])))[..., 0]
        np.testing.assert_allclose(picture, [[1.0, 0.0], [1.0, 0.5]], atol=1 / 255)

    def test_large_draws_make_a_small_report(self, tmp_path):
        shape = (3, 160, 160)
        noise = np.random.default_rng(0).normal(size=(20, *shape))
        x = ak.Variable(shape)
        aligned = ak.Problem(ak.mean(x), ak.base.Empirical(noise), ak.KL(weight=1e-3)).solve(seed=0)
        assert aligned.report(tmp_path / "large.html", n=16).stat().st_size < 3_000_000


def decoded(address):
    kind, data = address.split(",", 1)
    assert kind == "data:image/png;base64"
    return imread(io.BytesIO(base64.b64decode(data)))[..., :3]


class TestWhatIsTold:
    def test_constraints_utilities_and_seeds(self, tmp_path):
        reward = X[0] + ak.log(ak.E(X[1] + 3))
        problem = ak.Problem(reward, PLANE, ak.KL(weight=1.0), constraints=[ak.E(X[0]) <= 0.5])
        page = page_of(problem.solve(seed=41), tmp_path / "a.html", n=20, seed=7)
        assert any("log(E(" in text for text in page.texts)
        assert str(problem.constraints[0]) in page.texts
        assert "41" in page.texts and "7" in page.texts
        assert [one["aria-label"] for one in page.all("div") if "aria-label" in one].count("Condition") == 1

    def test_what_users_write_is_escaped(self, tmp_path):
        name = "<script>alert('&')</script>"
        base = ak.base.Gaussian([0.0, 0.0], 1.0, name="</title><b onclick=x>")
        x = ak.Variable(2, name=name)
        page = page_of(ak.Problem(ak.norm1(x), base, ak.KL(weight=1.0)).solve(seed=0), tmp_path / "a.html", n=20)
        assert not {"script", "b"} & {tag for tag, _ in page.elements}
        assert any(name in text for text in page.texts) and any("</title><b" in text for text in page.texts)

    def test_a_status_that_is_not_plain_success_is_said(self, tmp_path):
        problem = ak.Problem(-ak.sum_squares(X), PLANE, ak.Wasserstein(radius=50.0))
        page = page_of(problem.solve(seed=0), tmp_path / "a.html", n=20)
        (status,) = [one for one in page.all("p") if "status" in (one.get("class") or "")]
        assert status["class"] == "status"
        assert any("the radius is inactive" in text for text in page.texts)

    def test_rewards_that_are_functions(self, tmp_path):
        aligned = ak.Problem(lambda x: -((x - 1.0) ** 2).sum(-1), PLANE, ak.KL(weight=1.0)).solve(
            seed=0, heuristic=True
        )
        page = page_of(aligned, tmp_path / "a.html", n=50)
        assert any(chart["aria-label"].startswith("The path of annealing") for chart in page.all("svg"))

    def test_one_draw_will_do(self, tmp_path):
        aligned = ak.Problem(-ak.norm2(X), PLANE, ak.Wasserstein(weight=1.0)).solve(seed=0)
        page_of(aligned, tmp_path / "a.html", n=1)

    @pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3, 4), (200,)])
    def test_every_shape(self, shape, tmp_path):
        x = ak.Variable(shape)
        base = ak.base.Gaussian(np.zeros(shape), 1.0)
        aligned = ak.Problem(ak.sum(x), base, ak.KL(weight=1.0)).solve(seed=0)
        assert len(page_of(aligned, tmp_path / "a.html", n=30).all("svg")) == 4


class TestWriting:
    @pytest.fixture
    def aligned(self):
        return ak.Problem(ak.sum(X), PLANE, ak.KL(weight=1.0)).solve(seed=0)

    def test_the_same_seed_writes_the_same_page(self, aligned, tmp_path):
        first, second = (
            re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d", "", aligned.report(tmp_path / name, n=30, seed=5).read_text())
            for name in ("a.html", "b.html")
        )
        assert first == second
        assert first != aligned.report(tmp_path / "c.html", n=30, seed=6).read_text()

    def test_folders_are_made_and_drafts_are_cleared_away(self, aligned, tmp_path):
        path = aligned.report(str(tmp_path / "new" / "folder" / "a.html"), n=10)
        assert [one.name for one in path.parent.iterdir()] == ["a.html"]

    def test_an_older_report_stays_when_writing_fails(self, aligned, tmp_path, monkeypatch):
        path = aligned.report(tmp_path / "a.html", n=10)
        before = path.read_text()

        def fail(*_):
            raise OSError("the disk is full")

        monkeypatch.setattr("pathlib.Path.replace", fail)
        with pytest.raises(OSError, match="full"):
            aligned.report(path, n=20)
        assert path.read_text() == before and len(list(tmp_path.iterdir())) == 1

    def test_a_folder_is_refused_before_anything_is_drawn(self, aligned, tmp_path):
        with pytest.raises(ak.errors.ParameterError, match="is a folder"):
            aligned.report(tmp_path)

    def test_a_stale_fit_is_refused(self, tmp_path):
        weight = ak.Parameter(value=1.0, nonneg=True, name="w")
        aligned = ak.Problem(ak.sum(X), PLANE, ak.KL(weight=weight)).solve(seed=0)
        weight.value = 2.0
        with pytest.raises(ak.errors.StaleFitError):
            aligned.report(tmp_path / "a.html")
        assert not list(tmp_path.iterdir())


def relative_luminance(colour):
    """As the Web Content Accessibility Guidelines define it."""
    digits = colour[1:] if len(colour) == 7 else "".join(digit * 2 for digit in colour[1:])
    shares = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def contrast(one, other):
    bright, dark = sorted((relative_luminance(one), relative_luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_marks_stand_out(scheme):
    sheet = (resources.files("alignkit.report") / "page.css").read_text()
    blocks = re.findall(r":root \{(.*?)\}", sheet, re.DOTALL)
    colours = dict(re.findall(r"--([a-z]+): (#[0-9a-f]+)", blocks[0] + (blocks[1] if scheme == "dark" else "")))
    for ground in ("paper", "raised"):
        for text in ("ink", "quiet", "accent", "good", "careful"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    for mark in ("before", "after", "highlight"):
        assert contrast(colours[mark], colours["paper"]) >= 3.0, mark
