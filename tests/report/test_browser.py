"""Reports as a browser shows them: on a phone and on a desk, by day and by night."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from matplotlib.image import imread

from tests.report.chromium import EXECUTABLE, Chromium

pytestmark = pytest.mark.skipif(EXECUTABLE is None, reason="no Chromium is installed: apt-get install chromium")

WIDTHS, SCHEMES = (390, 1440), ("light", "dark")
#: Of which a screenshot is kept.
KEPT = {(390, "dark"), (1440, "light")}
#: Elements that reach beyond the screen, and are not within something that scrolls.
BEYOND = """[...document.querySelectorAll('body *')].filter(one => {
  const box = one.getBoundingClientRect();
  if (!box.width || (box.right <= innerWidth + 0.5 && box.left >= -0.5)) return false;
  for (let outer = one.parentElement; outer; outer = outer.parentElement)
    if (getComputedStyle(outer).overflowX === 'auto') return false;
  return true;
}).map(one => one.outerHTML.slice(0, 80))"""
#: Labels of charts that stick out of them.
CUT = """[...document.querySelectorAll('svg text')].filter(one => {
  const box = one.getBoundingClientRect(), chart = one.closest('svg').getBoundingClientRect();
  return box.left < chart.left - 1 || box.right > chart.right + 1 || box.top < chart.top - 1
    || box.bottom > chart.bottom + 1;
}).map(one => one.textContent)"""
#: The smallest type on the page, in pixels of the screen.
SMALLEST = """Math.min(...[...document.querySelectorAll('main *')]
  .filter(one => [...one.childNodes].some(node => node.nodeType === 3 && node.textContent.trim())
    && !one.closest('math') && getComputedStyle(one).display !== 'none')
  .map(one => parseFloat(getComputedStyle(one).fontSize)
    * (one.closest('svg') ? Math.hypot(one.getScreenCTM().a, one.getScreenCTM().b) : 1)))"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    found = Chromium(tmp_path_factory.mktemp("chromium"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def gallery(request):
    """Where screenshots stay after the run."""
    return request.config.cache.mkdir("reports")


def test_a_report_is_whole_on_every_screen(reported, browser, gallery):
    aligned, path, name = reported
    paper = {}
    for width, scheme in itertools.product(WIDTHS, SCHEMES):
        browser.open(path, width=width, scheme=scheme)
        assert browser.evaluate("Promise.all([...document.images].map(one => one.decode())).then(() => true)")
        assert browser.complaints == []
        assert browser.requests == [path.as_uri()]
        assert browser.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [width, width]
        assert browser.evaluate(BEYOND) == []
        assert browser.evaluate(CUT) == []
        assert browser.evaluate(SMALLEST) >= 9.5
        sizes = browser.evaluate("[...document.images].map(one => one.naturalWidth)")
        assert set(sizes) == ({8} if len(aligned.plan.base.shape) == 2 else set())
        flat = browser.evaluate("[...document.querySelectorAll('math, svg, img')].map(one => one.clientHeight)")
        assert min(flat) > 8
        paper[width, scheme] = browser.evaluate("getComputedStyle(document.body).backgroundColor")
        if (width, scheme) in KEPT:
            screenshot = gallery / f"{name}-{width}-{scheme}.png"
            browser.screenshot(screenshot)
            picture = imread(screenshot)[..., :3]
            assert picture.shape[1] == width
            # The corner is paper; ink is what differs from it.
            assert picture[0, 0].max() < 0.15 if scheme == "dark" else picture[0, 0].min() > 0.95
            assert 0.005 < (np.abs(picture - picture[0, 0]).max(axis=2) > 0.3).mean() < 0.5
    assert len(set(paper.values())) == 2 and paper[390, "dark"] == paper[1440, "dark"]


def test_the_checks_can_fail(browser, tmp_path):
    path = tmp_path / "broken.html"
    path.write_text(
        '<!DOCTYPE html><body><main><div id="wide" style="width: 500px">x</div>'
        '<img src="data:image/png;base64,AAAA"><svg viewBox="0 0 9 9" width="20" height="20">'
        '<text x="0" y="5">far too long</text></svg></main><script>console.error("no")</script>'
        '<img src="missing.png">'
    )
    browser.open(path, width=390, scheme="light")
    assert len(browser.complaints) >= 2
    assert any(address.endswith("missing.png") for address in browser.requests)
    assert any("wide" in element for element in browser.evaluate(BEYOND))
    assert browser.evaluate(CUT) == ["far too long"]
    decoded = browser.evaluate(
        "Promise.all([...document.images].map(one => one.decode())).then(() => true, () => false)"
    )
    assert decoded is False
