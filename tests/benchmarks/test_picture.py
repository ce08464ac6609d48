"""README's picture is the one of the committed result."""

import json
import re
import xml.etree.ElementTree as ET

import pytest

pytest.importorskip("matplotlib")

from benchmarks.picture import PARTS, PICTURE, PIPELINE, RESULT, STRATEGIES, main, picture

FACTS = json.loads(RESULT.read_text(encoding="utf-8"))


def test_the_picture_is_the_one_of_the_result():
    assert main(["--check"]) == 0, "run: python -m benchmarks.picture"


def test_another_result_makes_another_picture():
    """The check can fail."""
    changed = json.loads(json.dumps(FACTS))
    changed["runs"][0][0]["evaluations"][-1]["metric"] += 0.5
    assert picture(changed) != picture(FACTS)


def test_it_shows_a_line_and_a_band_for_each_strategy():
    text = PICTURE.read_text(encoding="utf-8")
    shown = "".join(ET.fromstring(text).itertext())  # noqa: S314 (ours)
    for title, colour in STRATEGIES.values():
        assert title in shown
        line = rf'clip-path="[^"]+" style="fill: none; stroke: {colour}; stroke-width: 1.6'
        assert len(re.findall(line, text)) == 1
        assert f"fill: {colour}; fill-opacity: 0.2" in text


def test_the_pipeline_shows_every_part_in_order():
    shown = "".join(ET.fromstring(PIPELINE.read_text(encoding="utf-8")).itertext())  # noqa: S314
    places = [shown.index(name) for name, _ in PARTS]
    assert places == sorted(places)
