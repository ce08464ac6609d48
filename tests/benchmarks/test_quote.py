"""README.md quotes the result files, and nothing else."""

import json

from benchmarks.quote import BLOCKS, README, quoted


def test_the_readme_quotes_the_result_files():
    text = README.read_text(encoding="utf-8")
    for name in BLOCKS:
        assert f"<!-- begin {name} -->" in text
        assert f"<!-- end {name} -->" in text
    assert quoted(text) == text, "run: python -m benchmarks.quote"


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
