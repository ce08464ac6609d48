"""Names from outside are data: no markup, escape sequence, TeX or HTML in them has an effect."""

import copy
import io
import json
import unicodedata
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from rich.console import Console

from batchwright._format import one_line, printable
from batchwright.cli.output import deliver
from batchwright.report.advised import advised_report
from batchwright.report.compared import compared_report
from batchwright.report.sections import Report, Section, page
from batchwright.report.text import print_report
from tests.cli.command import invoke
from tests.report.conftest import RESULTS, result_of
from tests.report.reader import advised_of

PIECES = [
    *("[bold]", "[/]", "[/red]", "[link=x]", "\\[", ":smile:", ":warning:"),
    *("\x1b[2J", "\x1b]0;title\x07", "\x9b31m", "\x00", "\x7f", "\r", "\n", "\t", "\x08"),
    *("\u202e", "\u2066", "\u200b", "\ufeff", "\u2028", "\ue000"),
    *("<b>", "</script>", "<!--", "-->", "]]>", "&amp;", "&", '"', "'", ' id="x', "url(#a)"),
    *("$x^2$", "$", "\\frac", "_", "{{ 7 * 7 }}", "{%", "#808080", "%s", "{0}", "é", "語"),
]
names = st.lists(st.sampled_from(PIECES) | st.text(max_size=4), min_size=1, max_size=6).map("".join)
RESULT = result_of(RESULTS / "translation.json")


class Text(HTMLParser):
    """The text of a page, what is drawn and the facts apart."""

    def __init__(self, page):
        super().__init__()
        self.text, self.facts, self.tags, self._inside = "", "", [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag in {"script", "style", "svg"}:
            is_facts = ("id", "facts") in attrs
            self._inside.append("facts" if is_facts else tag)

    def handle_endtag(self, tag):
        if self._inside and tag in {"script", "style", "svg"}:
            self._inside.pop()

    def handle_data(self, data):
        if not self._inside:
            self.text += data
        elif self._inside[-1] == "facts":
            self.facts += data


def drawn_texts(page):
    """List the texts of all plots of a page."""
    found = []
    while "<svg " in page:
        start, end = page.index("<svg "), page.index("</svg>") + len("</svg>")
        tree = ET.fromstring(page[start:end])  # noqa: S314 -- we wrote it
        found += ["".join(each.itertext()) for each in tree.iter() if each.tag.endswith("}text")]
        page = page[end:]
    return found


def on_a_terminal(report):
    """Print a report on a terminal that is wide enough for any name."""
    screen = io.StringIO()
    print_report(Console(file=screen, width=10_000, emoji=False), report)
    return screen.getvalue()


def controls(text):
    return {each for each in text if unicodedata.category(each) in {"Cc", "Cf", "Cs"}} - {"\n"}


def renamed(result, new):
    """Give every strategy, the metric and the task of a result other names."""
    old = [each["name"] for each in result["strategies"]]
    known = {name: f"{place}{new[place % len(new)]}" for place, name in enumerate(old)}

    def walk(value):
        if isinstance(value, dict):
            # A kind is one of ours, whatever a strategy is called.
            return {
                known.get(key, key): each if key == "kind" else walk(each)
                for key, each in value.items()
            }
        if isinstance(value, list):
            return [walk(each) for each in value]
        return known.get(value, value) if isinstance(value, str) else value

    return walk(copy.deepcopy(result)) | {"metric": new[0], "task": new[-1]}, [*known.values()]


@pytest.mark.slow
@given(st.lists(names, min_size=1, max_size=3))
@example(["[bold]_$x$</script>\x1b[2J\u202e"])
@settings(max_examples=8, suppress_health_check=[HealthCheck.too_slow])
def test_names_of_a_comparison_are_shown_as_they_are(new):
    result, strategies = renamed(RESULT, new)
    report = compared_report(result)
    terminal = on_a_terminal(report)
    assert controls(terminal) == set()
    html = page(report)
    assert controls(html) == set()
    parsed = Text(html)
    assert parsed.tags.count("script") == 2
    assert "b" not in parsed.tags
    assert json.loads(parsed.facts) == report.facts
    assert report.facts.items() >= result.items()
    drawn = drawn_texts(html)
    for name in strategies:
        assert printable(name) in terminal
        assert printable(name) in parsed.text
        assert {one_line(name, 60), one_line(f"{name} (baseline)", 60)}.intersection(drawn)
    assert printable(result["task"]) in parsed.text
    assert printable(result["metric"]) in parsed.text


@pytest.mark.slow
@given(st.lists(names, min_size=2, max_size=2, unique=True))
@settings(max_examples=6, suppress_health_check=[HealthCheck.too_slow])
def test_names_of_advice_are_shown_as_they_are(advice, new):
    result = copy.deepcopy(advice)
    for place, each in enumerate(result["groups"]["largest"]):
        each["name"] = f"{place}{new[place]}"
    for each in result["advice"]:
        each["why"] += new[0]
        each["untested"] = new[1]
    report = advised_report(advised_of(result))
    terminal, html = on_a_terminal(report), page(report)
    parsed = Text(html)
    assert controls(terminal) | controls(html) == set()
    assert json.loads(parsed.facts) == result
    assert parsed.tags.count("script") == 2
    for name in new:
        assert printable(name) in parsed.text
    for place, name in enumerate(new):
        assert one_line(f"{place}{name}") in parsed.text


@pytest.fixture(scope="module")
def advice(tmp_path_factory):
    """What `advise --json` prints of texts of two groups."""
    rows = [{"text": "a b " * (1 + k % 9), "group": f"g{k % 2}"} for k in range(60)]
    path = tmp_path_factory.mktemp("advice") / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    columns = ("--text", "text", "--measure", "words", "--groups", "group")
    told = invoke("advise", str(path), *columns, "--json", "--no-cache")
    assert told.exit_code == 0, told.stderr
    return json.loads(told.stdout)


def file_name(name):
    """Return what of a name a file can have."""
    kept = name.replace("/", "").replace("\x00", "").encode("utf-8", "ignore")
    return f"a{kept[:80].decode('utf-8', 'ignore')}"


@pytest.mark.slow
@given(names)
@example("[bold]$x$</script>\x1b[2J\u202e\n:smile:")
@settings(
    max_examples=4,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_names_of_files_and_columns_are_shown_as_they_are(tmp_path, name):
    stem = file_name(name)
    rows, lengths = tmp_path / f"{stem}.jsonl", tmp_path / f"{stem}.npy"
    plan, html = tmp_path / f"{stem}.plan", tmp_path / "page.html"
    words = [{name: "word " * (1 + k % 7), "id": k} for k in range(40)]
    rows.write_text("\n".join(map(json.dumps, words)), encoding="utf-8")
    np.save(lengths, np.arange(1, 41))
    column = ("--column", name) if not name.startswith("-") else ()
    commands = [
        ("plan", str(lengths), "--max-tokens", "64", "-o", str(plan)),
        ("plan", str(lengths), "--max-tokens", "8"),
        ("inspect", str(plan), str(lengths), "--html", str(html)),
        ("score", str(rows), "--by", "compression", "-o", str(tmp_path / f"{stem}.s"), *column),
        ("score", str(rows), "--by", "compression", "-o", str(tmp_path / "s"), "--column", "id"),
        ("advise", str(rows), f"--length={name}", "--measure", "words", "--no-cache"),
        ("compare", str(tmp_path / f"{stem}.py"), "--strategies", "plain"),
        ("compare", str(rows), f"--strategies={name}"),
        ("new-task", str(tmp_path / f"{stem}.py")),
        ("new-task", str(tmp_path / f"{stem}.py")),
    ]
    codes = []
    for command in commands:
        done = invoke(*command)
        assert controls(done.stdout + done.stderr) == set(), command
        codes.append(done.exit_code)
    assert codes[:4] == [0, 2, 0, 0 if column else 2]
    assert codes[4:] == [2, 0, 2, 2, 0, 2], codes
    parsed = Text(html.read_text(encoding="utf-8"))
    assert printable(Path(plan).name) in parsed.text
    assert "b" not in parsed.tags
    for path in (lengths, rows, plan):
        path.unlink()
    (tmp_path / f"{stem}.py").unlink()


def test_characters_that_an_encoding_lacks_are_replaced(monkeypatch):
    class Ascii(io.TextIOWrapper):
        pass

    stream = Ascii(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", stream)
    report = Report("", "", {}, [], [Section(sentences=["naïve – ×"])])
    deliver(report, as_json=False)
    stream.flush()
    assert stream.buffer.getvalue().strip() == b"na?ve - x"
