"""What is advised of labels, duplicates and groups, on data whose truth is known."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from batchwright.advise import (
    DataProfile,
    Evidence,
    NoiseEstimate,
    advise,
    first_of_each,
    profile_data,
    profile_duplicates,
    profile_groups,
    profile_labels,
)
from batchwright.advise.rules.labels import SELF_PACED_GAIN as GAIN
from batchwright.compare.figures import ratio

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
LENGTHS = np.arange(1, 401) % 50 + 1
LABELS = np.arange(400) % 4


@pytest.fixture(scope="module")
def data() -> DataProfile:
    return profile_data(LENGTHS)


def advice(technique, data, **known):
    (found,) = [each for each in advise(Evidence(data, **known)) if each.technique == technique]
    return found


def labels_with(**estimate):
    """Labels of which so many are said to be wrong."""
    noise = NoiseEstimate(
        **{
            "rate": 0.3,
            "low": 0.25,
            "high": 0.35,
            "num_samples": 400,
            "accuracy": 0.7,
            "majority": 0.25,
            "is_trusted": True,
            "doubt": "",
            **estimate,
        }
    )
    return replace(profile_labels(LABELS), noise=noise, noise_unknown="")


@pytest.mark.parametrize(
    ("estimate", "verdict", "said"),
    [
        ({}, "use", "About 30.0 % of the labels are wrong (25.0 % to 35.0 %)"),
        ({"rate": 0.2, "low": 0.15}, "cannot tell", "known to help if at least a fifth"),
        ({"rate": 0.02, "low": 0.0, "high": 0.04}, "do not use", "little to leave out"),
        ({"is_trusted": False, "doubt": "too weak"}, "cannot tell", "At most 35.0 %"),
        (
            {"is_trusted": False, "doubt": "too weak", "high": 0.9},
            "cannot tell",
            "How many labels are wrong cannot be estimated: too weak.",
        ),
    ],
)
def test_self_paced_is_for_labels_that_are_known_to_be_wrong(data, estimate, verdict, said):
    found = advice("self-paced", data, labels=labels_with(**estimate))
    assert found.verdict == verdict
    assert said in found.why
    assert (found.gain is not None) == (verdict == "use")
    if verdict == "use":
        assert found.settings == {"order": "SelfPaced(LossTable(num_samples), noise_rate=0.30)"}
        assert (found.gain.origin, bool(found.gain.source)) == ("published", True)


def test_what_is_published_is_what_the_study_found():
    study = json.loads((RESULTS / "noisy_digits.json").read_text(encoding="utf-8"))
    arms = {each["name"]: each["accuracies"] for each in study["experiments"][0]["results"]}
    assert study["experiments"][0]["settings"]["noise"] == 0.4
    found = ratio(arms["self-paced"], arms["early stop"])
    for value, measured in (
        (GAIN.ratio, found.mean),
        (GAIN.low, found.low),
        (GAIN.high, found.high),
    ):
        assert value == round(measured, 2)
    stopped = np.mean(arms["early stop"]) - np.mean(arms["uniform"])
    whole = np.mean(arms["self-paced"]) - np.mean(arms["uniform"])
    assert stopped / whole == pytest.approx(3 / 5, abs=0.05)


def test_contradicting_labels_are_reported_and_leave_the_verdict_open(data):
    samples = ["same"] * 40 + [f"other {k}" for k in range(360)]
    duplicates = profile_duplicates(samples, labels=LABELS)
    assert duplicates.num_contradicting == 30
    for labels in (labels_with(rate=0.0, low=0.0, high=0.01), profile_labels(LABELS)):
        found = advice("self-paced", data, labels=labels, duplicates=duplicates)
        assert found.verdict == "cannot tell"
        assert "at least 30 of 400 (7.5 %) must be wrong" in found.why


@pytest.mark.parametrize(
    "technique", ["self-paced", "balanced sampling", "deduplication", "mixture of groups"]
)
def test_of_what_is_not_known_nothing_is_advised(data, technique):
    found = advice(technique, data)
    assert (found.verdict, found.gain, dict(found.settings)) == ("cannot tell", None, {})
    assert found.untested


def test_balance_is_for_uneven_classes_and_another_metric(data):
    even = advice("balanced sampling", data, labels=profile_labels(LABELS))
    assert even.verdict == "do not use"
    uneven = advice("balanced sampling", data, labels=profile_labels([0] * 390 + [1] * 10))
    assert uneven.verdict == "cannot tell"
    assert "39.0 times" in uneven.why
    assert "ClassBalanced" in uneven.settings["order"]
    one = advice("balanced sampling", data, labels=profile_labels([7] * 400))
    assert (one.verdict, one.why) == ("do not use", "There is one class.")


def test_deduplication_saves_what_duplicates_are(data):
    samples = [str(k % 300) for k in range(400)]
    lengths = np.array([int(sample) % 50 + 1 for sample in samples])
    found = advice("deduplication", data, duplicates=profile_duplicates(samples, lengths=lengths))
    assert found.verdict == "use"
    kept = first_of_each(samples)
    assert sorted(set(samples)) == sorted(samples[index] for index in kept)
    assert found.gain.ratio == pytest.approx(lengths.sum() / lengths[kept].sum())
    none = advice("deduplication", data, duplicates=profile_duplicates(list(map(str, range(400)))))
    assert (none.verdict, none.gain) == ("do not use", None)
    few = profile_duplicates([*map(str, range(399)), "0"])
    assert advice("deduplication", data, duplicates=few).verdict == "do not use"
    part = replace(few, is_complete=False)
    assert "that were compared" in advice("deduplication", data, duplicates=part).why


def test_a_mixture_is_for_several_groups_and_a_metric_for_each(data):
    one = advice("mixture of groups", data, groups=profile_groups(["en"] * 400, LENGTHS))
    assert one.verdict == "do not use"
    names = ["en"] * 380 + ["sw"] * 20
    found = advice("mixture of groups", data, groups=profile_groups(names, LENGTHS))
    assert found.verdict == "cannot tell"
    assert "'sw'" in found.why
    assert found.settings == {"order": "Mixture(groups, temperature=5)"}
    names = [f"page {each}" for each in [*range(1_997), *range(3)]]
    found = advice("mixture of groups", data, groups=profile_groups(names, np.full(2_000, 9)))
    assert found.short == "groups are nearly even"  # of one or two samples each
