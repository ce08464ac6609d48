"""README's picture is the one of the committed result."""

import json
import re
import xml.etree.ElementTree as ET

import pytest

pytest.importorskip("matplotlib")

from benchmarks.picture import PICTURE, RESULT, STRATEGIES, main, picture

FACTS = json.loads(RESULT.read_text(encoding="utf-8"))


def test_the_picture_is_the_one_of_the_result():
    assert main(["--check"]) == 0, "run: python -m benchmarks.picture"


def test_another_result_makes_another_picture():
    """The check can fail."""
    changed = json.loads(json.dumps(FACTS))
    changed["runs"][0][0]["evaluations"][-1]["metric"] += 0.5
    assert picture(changed) != picture(FACTS)


def test_it_is_a_file_that_shows_a_line_for_each_seed_and_strategy():
    text = PICTURE.read_text(encoding="utf-8")
    root = ET.fromstring(text)  # noqa: S314 (ours)
    assert root.tag.endswith("svg")
    shown = "".join(root.itertext())
    for title in STRATEGIES.values():
        assert title in shown
    lines = re.findall(r"-line2d_\d+\"", text)
    assert len(lines) >= len(FACTS["runs"]) * len(STRATEGIES)
