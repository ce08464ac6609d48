"""Pages in a real browser: drawn, legible, and without a request to anywhere.

It is the Chromium that the system has; nothing is downloaded. Screenshots go to the test's
temporary folder, and to the folder that BATCHWRIGHT_SCREENSHOTS names.
"""

import json
import os
import shutil
from itertools import combinations
from pathlib import Path

import pytest

from batchwright.report.compared import compared_report
from batchwright.report.sections import page
from tests.report.conftest import RESULTS, result_of

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")

NAMES = [
    *("padded", "packed", "dropping", "alone"),
    *("advise", "earlier", "compare", "trials", "doctor"),
]

CONTRAST = 4.5
"""WCAG 2.2, success criterion 1.4.3, for text of any size."""

GRAPHIC_CONTRAST = 3.0
"""The same, criterion 1.4.11, for lines, bars and dots."""

SMALLEST_LETTERS = 9.0
"""CSS pixels, of text in plots on a phone."""

# Relative luminance and contrast as WCAG 2.2 defines them.
MEASURE = """
() => {
  const channel = c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const rgba = text => {
    const found = text.match(/[\\d.]+/g).map(Number);
    return [...found.slice(0, 3), found.length > 3 ? found[3] : 1];
  };
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3]));
  const contrast = (one, other) => {
    const [low, high] = [light(one), light(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const scale = matrix => Math.hypot(matrix.a, matrix.b);
  const behind = element => {
    for (let each = element; each; each = each.parentElement) {
      const colour = rgba(getComputedStyle(each).backgroundColor);
      if (colour[3] === 1) return colour;
    }
    return [255, 255, 255, 1];  // nothing is painted: what a browser shows
  };
  const texts = [];
  for (const element of document.body.querySelectorAll("*")) {
    const own = [...element.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || element.closest("script, style")) continue;
    const style = getComputedStyle(element), box = element.getBoundingClientRect();
    const inside = element.closest("svg") !== null;
    const below = behind(element);
    const colour = over(rgba(inside ? style.fill : style.color), below);
    texts.push({
      text: element.textContent.trim().slice(0, 60),
      contrast: contrast(colour, below),
      inPlot: inside,
      plot: inside ? element.closest("svg").getAttribute("aria-label") : null,
      size: parseFloat(style.fontSize) * (inside ? scale(element.getScreenCTM()) : 1),
      box: [box.left, box.top, box.right, box.bottom],
    });
  }
  const boxes = selector => [...document.querySelectorAll(selector)].map(each => {
    const box = each.getBoundingClientRect();
    return {left: box.left, right: box.right, width: box.width, height: box.height,
            label: each.getAttribute("aria-label"),
            scrolls: getComputedStyle(each).overflowX};
  });
  const lines = [...document.querySelectorAll("svg :is(path, use):not(defs *)")].map(each => {
    const style = getComputedStyle(each);
    const colours = [style.stroke, style.fill].filter(c => c !== "none");
    const below = behind(each.closest("svg"));
    // 1 is the colour of the page, which hides what is below a text.
    return Math.max(...colours.map(c => contrast(rgba(c), below)), 1);
  });
  return {
    page: [document.documentElement.scrollWidth, innerWidth],
    texts, plots: boxes("svg"), wide: boxes(".scroll, pre"), lines,
  };
}
"""


@pytest.fixture(scope="module")
def browser():
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        pytest.skip("no Chromium here: make browser, or apt-get install chromium")
    driver = pytest.importorskip("playwright.sync_api")
    with driver.sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=executable, args=["--no-sandbox", "--disable-gpu"]
        )
        yield launched
        launched.close()


def overlapping(texts):
    """Return pairs of texts of one plot that lie on each other by more than a pixel."""
    for one, other in combinations(texts, 2):
        if one["plot"] != other["plot"]:
            continue
        (left, top, right, bottom), (left_, top_, right_, bottom_) = one["box"], other["box"]
        across, down = min(right, right_) - max(left, left_), min(bottom, bottom_) - max(top, top_)
        if across > 1.5 and down > 1.5:
            yield one["plot"], one["text"], other["text"]


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "width"), [("light", 390), ("dark", 1280)])
@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_legible_and_asks_for_nothing(compared, browser, tmp_path, name, scheme, width):
    address = (compared / f"{name}.html").as_uri()
    requests, complaints, height = [], [], 800
    tab = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    tab.on("request", lambda request: requests.append(request.url))
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.goto(address)
    head = tab.locator("h1").bounding_box()
    assert head["y"] + head["height"] < height
    assert tab.locator(".cannot-tell:visible").count() == 0
    tab.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    seen = tab.evaluate(MEASURE)
    shot = tmp_path / f"{name}-{scheme}-{width}.png"
    tab.screenshot(path=shot, full_page=True)
    tab.close()
    if folder := os.environ.get("BATCHWRIGHT_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        shutil.copy(shot, folder)

    assert requests == [address]
    assert complaints == []
    assert seen["page"][0] <= seen["page"][1] == width
    texts = seen["texts"]
    assert len(texts) > 10
    assert [each for each in texts if each["contrast"] < CONTRAST] == []
    in_plots = [each for each in texts if each["inPlot"]]
    assert [each for each in in_plots if each["size"] < SMALLEST_LETTERS] == []
    assert list(overlapping(in_plots)) == []
    assert [each["text"] for each in in_plots if each["box"][2] > width or each["box"][0] < 0] == []
    assert bool(seen["plots"]) == (name != "alone")
    for plot in seen["plots"]:
        assert plot["width"] > 250, plot["label"]
        assert plot["height"] > 100, plot["label"]
        assert plot["left"] >= 0, plot["label"]
        assert plot["right"] <= width, plot["label"]
    for wide in seen["wide"]:  # what is wider than a phone moves by itself, not with the page
        assert wide["scrolls"] == "auto"
        assert wide["right"] <= width
    assert [each for each in seen["lines"] if 1 < each < GRAPHIC_CONTRAST] == []


@pytest.mark.slow
def test_long_names_without_spaces_stay_in_their_cells(browser):
    result = result_of(RESULTS / "translation.json")
    long = "planned" * 20
    text = json.dumps(result).replace('"planned"', f'"{long}"')
    text = text.replace(f'"kind": "{long}"', '"kind": "planned"')
    tab = browser.new_page(viewport={"width": 390, "height": 800})
    tab.set_content(page(compared_report(json.loads(text))))
    tab.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    wider = "e => e.scrollWidth > e.clientWidth + 1 ? [e.textContent] : []"
    assert tab.evaluate(f"[...document.querySelectorAll('th, td')].flatMap({wider})") == []
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    tab.close()


@pytest.mark.slow
@pytest.mark.parametrize("has_clipboard", [True, False])
def test_the_button_copies_the_code(pages, browser, has_clipboard):
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    tab = context.new_page()
    if not has_clipboard:
        tab.add_init_script("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    tab.goto((pages / "advise.html").as_uri())
    code = tab.locator("header code").inner_text()
    tab.get_by_role("button", name="Copy").first.click()
    tab.get_by_role("button", name="Copied").wait_for()
    tab.keyboard.press("Tab")
    tab.keyboard.press("Shift+Tab")
    ring = "getComputedStyle(document.activeElement).outlineStyle"
    assert tab.evaluate("document.activeElement.tagName") == "BUTTON"
    assert tab.evaluate(ring) == "solid"
    other = context.new_page()
    other.set_content("<textarea></textarea>")
    other.locator("textarea").press("ControlOrMeta+V")
    assert other.locator("textarea").input_value().strip() == code.strip() != ""
    context.close()


@pytest.mark.slow
def test_without_scripts_the_code_is_there_and_no_button(pages, browser):
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto((pages / "advise.html").as_uri())
    assert tab.locator("header code").is_visible()
    assert tab.locator("button:visible").count() == 0
    context.close()


@pytest.mark.slow
def test_light_and_dark_are_two_pages(compared, browser):
    address = (compared / "padded.html").as_uri()
    colours = []
    for scheme in ("light", "dark"):
        tab = browser.new_page(color_scheme=scheme)
        tab.goto(address)
        colours.append(tab.evaluate("getComputedStyle(document.body).backgroundColor"))
        tab.close()
    assert colours == ["rgb(255, 255, 255)", "rgb(13, 17, 23)"]
