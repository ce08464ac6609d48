"""README.md quotes the result files, and nothing else."""

import json

from benchmarks.applications import APPLICATIONS
from benchmarks.quote import BLOCKS, README, main, pages, quoted


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
        assert f"<!-- begin applications/{name} -->\n|" in texts[name]


def test_other_figures_would_be_written(tmp_path):
    """The check can fail: another result file changes the text."""
    text = "<!-- begin claims -->\nold\n<!-- end claims -->"
    facts = {
        "command": "python -m benchmarks.claims",
        "date": "2000-01-01",
        "machine": {"cores": 1, "cpu": "a processor"},
        "verdicts": {"kept": 7},
        "claims": [],
    }
    (tmp_path / "claims.json").write_text(json.dumps(facts), encoding="utf-8")
    written = quoted(text, tmp_path)
    assert "7 kept, 0 missed" in written
    assert "old" not in written
    assert quoted(text, tmp_path / "nowhere") == "<!-- begin claims -->\n<!-- end claims -->"
