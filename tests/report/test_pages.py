"""Pages: self-contained, escaped, the same figures as the JSON; looked at where a browser is."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from batchwright.report.page import Card, Section, page
from tests.cli.command import invoke

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "applications"

VOID = {"meta", "br", "hr", "img", "link"}


class Reader(HTMLParser):
    """Collects what a page would fetch, its text, and whether its elements are closed."""

    def __init__(self):
        super().__init__()
        self.open, self.fetched, self.text, self.tags = [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attributes:
            outside = value is not None and re.match(r"(https?:)?//", value)
            if outside and not name.startswith("xmlns"):
                self.fetched.append(value)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in {"script", "style"}:
            self.text.append(data)


def read(html):
    reader = Reader()
    reader.feed(html)
    assert reader.open == []
    return reader


def facts_of(html):
    return json.loads(re.search(r'id="facts">(.*?)</script>', html, re.DOTALL)[1])


def check(html):
    reader = read(html)
    assert reader.fetched == []
    assert not re.search(r"@import|url\((?!#)", html)
    assert len(html.encode()) < 2_000_000
    assert 'name="viewport"' in html
    assert "prefers-color-scheme: dark" in html
    return " ".join(reader.text)


def test_whatever_is_written_is_escaped():
    mean = "</script><script>alert(1)</script>&"
    section = Section(mean, [mean], [Card("use", mean, mean)], [mean], [[mean]], code=mean)
    html = page(mean, [section], {"mean": mean})
    assert read(html).tags.count("script") == 1
    assert facts_of(html) == {"mean": mean}


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The pages of the commands, as files."""
    folder = tmp_path_factory.mktemp("pages")
    lengths = np.clip(np.random.default_rng(0).lognormal(5, 1, 5_000), 1, 1_000).astype(int)
    np.save(folder / "lengths.npy", lengths)
    told = invoke(
        "advise", str(folder / "lengths.npy"), "--json", "--html", str(folder / "advise.html")
    )
    assert told.exit_code == 0, told.stderr
    (folder / "advise.json").write_text(told.stdout)
    from batchwright.report.compared_page import compared_page

    result = json.loads((RESULTS / "translation.json").read_text(encoding="utf-8"))
    (folder / "compare.html").write_text(compared_page(result), encoding="utf-8")
    (folder / "compare.json").write_text(json.dumps(result))
    return folder


@pytest.mark.parametrize("name", ["advise", "compare"])
def test_a_page_asks_nobody_for_anything_and_holds_the_facts(pages, name):
    html = (pages / f"{name}.html").read_text(encoding="utf-8")
    text = check(html)
    assert facts_of(html) == json.loads((pages / f"{name}.json").read_text())
    assert html.count("<svg") == 3
    assert len(set(re.findall(r'\bid="([^"]+)"', html))) == len(re.findall(r'\bid="', html))
    for each in re.findall(r"(?:href=\"|url\()#([^\")]+)", html):
        assert f'id="{each}"' in html
    assert "None" not in text
    assert "nan" not in text


def test_the_page_shows_what_the_text_shows(pages):
    facts = json.loads((pages / "compare.json").read_text())
    text = check((pages / "compare.html").read_text(encoding="utf-8"))
    for each in facts["summary"]:
        assert each["name"] in text
        assert f"{each['speed']['mean']:.2f}" in text


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", ["advise", "compare"])
def test_a_browser_draws_it(pages, name, width):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), "")
    if not browser:
        pytest.skip("no Chromium here: apt-get install chromium")
    shot = pages / f"{name}-{width}.png"
    subprocess.run(
        [
            *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
            *(f"--screenshot={shot}", f"--window-size={width},2400"),
            f"file://{pages / name}.html",
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    assert shot.stat().st_size > 10_000
