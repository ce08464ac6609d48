"""README.md quotes the result files, and nothing else."""

import json

from benchmarks.applications import APPLICATIONS
from benchmarks.quote import BLOCKS, README, linked_from, main, pages, quoted


def test_the_readme_quotes_the_result_files():
    text = README.read_text(encoding="utf-8")
    quoting = "".join(page.read_text(encoding="utf-8") for page in pages())
    for name in BLOCKS:
        assert f"<!-- begin {name} -->" in quoting
        assert f"<!-- end {name} -->" in quoting
    assert quoted(text) == text, "run: python -m benchmarks.quote"


def test_every_page_quotes_the_result_files():
    assert main(["--check"]) == 0, "run: python -m benchmarks.quote"


def test_every_application_has_a_page_with_its_figures():
    texts = {page.stem: page.read_text(encoding="utf-8") for page in pages()}
    for name in APPLICATIONS:
        assert f"<!-- begin applications/{name} -->\n**" in texts[name]  # the headline


def test_no_table_of_applications_has_more_than_five_columns():
    names = ("applications", "advice", *(f"applications/{name}" for name in APPLICATIONS))
    for name in names:
        text = quoted(f"<!-- begin {name} -->\n<!-- end {name} -->")
        rows = [line for line in text.splitlines() if line.startswith("|")]
        assert {row.count("|") for row in rows} == {6}


def test_all_applications_are_in_one_table():
    text = quoted("<!-- begin applications -->\n<!-- end applications -->")
    rows = [line for line in text.splitlines() if line.startswith("| [")]
    assert len(rows) == len(APPLICATIONS)
    for name, row in zip(APPLICATIONS, rows, strict=True):
        assert f"(docs/applications/{name}.md)" in row
    assert "planned" in rows[0].rpartition("|")[0].rpartition("|")[2]  # the fastest


def test_links_begin_where_the_page_is():
    text = "[a page](docs/peers.md), [x/y.json](x/y.json), [one](other.md)"
    assert linked_from("docs", text) == "[a page](peers.md), `x/y.json`, [one](other.md)"
    assert "(../peers.md)" in linked_from("docs/applications", text)


def test_other_figures_would_be_written(tmp_path):
    """The check can fail: another result file changes the text."""
    text = "<!-- begin claims -->\nbefore\n<!-- end claims -->"
    facts = {
        "command": "python -m benchmarks.claims",
        "date": "2000-01-01",
        "machine": {"cores": 1, "cpu": "a processor"},
        "verdicts": {"kept": 7},
        "claims": [],
    }
    (tmp_path / "claims.json").write_text(json.dumps(facts), encoding="utf-8")
    written = quoted(text, tmp_path)
    assert "7 hold, 0 do not" in written
    assert "before" not in written
    assert quoted(text, tmp_path / "nowhere") == "<!-- begin claims -->\n<!-- end claims -->"
