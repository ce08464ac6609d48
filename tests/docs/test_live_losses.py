"""What the page on live losses says of our study is what the study found."""

import json
from statistics import fmean

import pytest

from tests.docs.blocks import ROOT


def test_gains_are_those_of_the_study():
    file = ROOT / "benchmarks" / "results" / "noisy_digits.json"
    study = json.loads(file.read_text(encoding="utf-8"))["experiments"][0]
    assert study["settings"]["noise"] == 0.4
    mean = {each["name"]: fmean(each["accuracies"]) for each in study["results"]}
    page = (ROOT / "docs" / "live_losses.md").read_text(encoding="utf-8")
    assert "ends 9.7 points above a plain\nshuffle and 3.7 above stopping early" in page
    scale = 100 if mean["uniform"] < 1 else 1
    assert scale * (mean["self-paced"] - mean["uniform"]) == pytest.approx(9.7, abs=0.05)
    assert scale * (mean["self-paced"] - mean["early stop"]) == pytest.approx(3.7, abs=0.05)
