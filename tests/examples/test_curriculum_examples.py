"""The examples of curricula: their data, and the whole of them in the quick form."""

import json
import runpy
import sys
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import curriculum_vowels
import noisy_digits
import numpy as np
import pytest
import speech_curriculum
import torch
from curriculum_command import Experiment, command

from batchwright.errors import SourceError, SourceNotFoundError

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLES = REPOSITORY / "examples" / "studies"


def test_noise_is_symmetric_seeded_and_exact():
    labels = np.arange(50_000) % 10
    noisy, clean = noisy_digits.mislabelled(labels, 0.4, np.random.default_rng(0))
    assert clean.mean() == 0.6
    np.testing.assert_array_equal(noisy == labels, clean)
    shifts = np.bincount((noisy - labels) % 10, minlength=10)
    assert shifts[0] == 30_000
    # 20,000 wrong labels over nine others: 2,222 each, with a deviation of 44.
    assert abs(shifts[1:] - 20_000 / 9).max() < 5 * 44
    assert abs(np.bincount(labels[~clean]) - 2_000).max() < 5 * 45
    again, _ = noisy_digits.mislabelled(labels, 0.4, np.random.default_rng(0))
    other, _ = noisy_digits.mislabelled(labels, 0.4, np.random.default_rng(1))
    np.testing.assert_array_equal(noisy, again)
    assert (noisy != other).any()
    none, all_right = noisy_digits.mislabelled(labels, 0.0, np.random.default_rng(0))
    assert all_right.all()
    np.testing.assert_array_equal(none, labels)


@pytest.mark.slow
def test_digits_are_split_and_the_test_is_right():
    sklearn = pytest.importorskip("sklearn.datasets")
    pixels, truth = sklearn.load_digits(return_X_y=True)
    by_image = dict(zip(map(bytes, pixels.astype(np.uint8)), truth.tolist(), strict=True))
    job, clean = noisy_digits.prepare(0.4, seed=3)

    def true(images: torch.Tensor) -> list[int]:
        return [by_image[bytes((each * 16).round().numpy().astype(np.uint8))] for each in images]

    assert (len(job.samples), len(job.test["labels"])) == (1_200, 597)
    assert true(job.test["images"]) == job.test["labels"].tolist()
    np.testing.assert_array_equal(
        np.array(true(job.samples.images)) == job.samples.labels.numpy(), clean
    )
    assert clean.mean() == 0.6


def text(*utterances: str) -> str:
    return "#by\n@classLabel true 1 2\n@data\n" + "\n".join(utterances) + "\n"


def test_speech_is_read_frame_by_frame():
    one = ":".join(f"{k},{k}.5" for k in range(12)) + ":2"
    other = ":".join(f"-{k}" for k in range(12)) + ":1"
    speech = curriculum_vowels.parse(text(one, other))
    assert [frames.shape for frames in speech.frames] == [(2, 12), (1, 12)]
    assert speech.frames[0][1].tolist() == [k + 0.5 for k in range(12)]
    assert speech.speakers.tolist() == [1, 0]


@pytest.mark.parametrize("wrong", ["", text(), text("1,2:3,4:1")])
def test_other_text_is_refused(wrong):
    with pytest.raises(SourceError, match="12 coefficients"):
        curriculum_vowels.parse(wrong)


def test_a_broken_package_is_refused(tmp_path):
    wheel = tmp_path / "a.whl"
    wheel.write_bytes(b"nothing")
    with pytest.raises(SourceError, match="Delete it"):
        curriculum_vowels.read(wheel, "TRAIN")
    with zipfile.ZipFile(wheel, "w") as opened:
        opened.writestr("other", "")
    with pytest.raises(SourceError, match="Delete it"):
        curriculum_vowels.read(wheel, "TRAIN")


def test_what_is_cached_is_not_fetched_again(tmp_path, monkeypatch):
    monkeypatch.setenv("BATCHWRIGHT_CACHE", str(tmp_path))
    (tmp_path / curriculum_vowels.WHEEL).write_bytes(b"here")
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert curriculum_vowels.fetch(curriculum_vowels.cache()).read_bytes() == b"here"


@pytest.mark.slow
def test_without_a_network_one_line_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(SourceNotFoundError, match="Offline, put aeon-1.6.0") as caught:
        curriculum_vowels.fetch(tmp_path)
    assert "\n" not in str(caught.value)


def test_padding_is_not_heard():
    torch.manual_seed(0)
    model = speech_curriculum.Listener(8)
    frames = torch.randn(2, 9, 12)
    alone = model(frames[:1, :5], torch.tensor([5]))
    padded = model(frames, torch.tensor([5, 9]))
    torch.testing.assert_close(padded[:1], alone)


def call(name: str, output: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    """Run an example as a script in its quick form, of one seed."""
    script = str(EXAMPLES / f"{name}.py")
    monkeypatch.setattr(sys, "argv", [script, "--quick", "--seeds", "1", "--json", str(output)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(script, run_name="__main__")
    return result_of(ended.value, output)


def result_of(ended: SystemExit, output: Path) -> dict:
    assert not ended.code
    written = output.read_text(encoding="utf-8")
    assert str(REPOSITORY) not in written
    result = json.loads(written)
    assert {"command", "commit", "machine", "seeds", "experiments", "seconds"} <= result.keys()
    assert result["seeds"] == [100]
    return result


DIGITS_UPDATES = {0.4: 300, 0.0: 180}
"""How long each share of wrong labels is trained."""


def shorter_digits(**options) -> list[Experiment]:
    return [
        replace(each, trial=partial(noisy_digits.trial, share, DIGITS_UPDATES[share]))
        for each in noisy_digits.experiments(**options)
        for share in [each.settings["noise"]]
    ]


@pytest.mark.slow
def test_a_shorter_form_of_noisy_digits(tmp_path, monkeypatch, one_thread):
    pytest.importorskip("sklearn")
    output = tmp_path / "result.json"
    monkeypatch.setattr(sys, "argv", ["x", "--quick", "--seeds", "1", "--json", str(output)])
    with pytest.raises(SystemExit) as ended:
        command(shorter_digits, "noisy_digits", None, noisy_digits.NOISE, seed=100)
    noisy, right = result_of(ended.value, output)["experiments"]
    for each, num_updates in zip((noisy, right), DIGITS_UPDATES.values(), strict=True):
        by_name = {result["name"]: result for result in each["results"]}
        updates = {name: set(result["num_updates"]) for name, result in by_name.items()}
        assert updates.pop("early stop, longer") == {1.5 * num_updates}
        assert updates.pop("a third as long") == {num_updates // 3}
        assert set.union(*updates.values()) == {num_updates}
        assert all(min(result["accuracies"]) > 0.8 for result in by_name.values())
        assert set(by_name["uniform"]["gains"]) == {"early stop"}
        assert each["said"]
    by_name = {result["name"]: result for result in noisy["results"]}
    for known, one in zip(noisy["known"], right["known"], strict=True):
        assert (known["noise"], one["noise"]) == (pytest.approx(0.4), 0)
        assert known["noise_estimate"] == pytest.approx(0.4, abs=0.06)
        assert one["noise_estimate"] < 0.06
    shares = {name: np.mean(result["clean_share"]) for name, result in by_name.items()}
    assert shares["uniform"] == pytest.approx(0.6, abs=0.01)
    assert shares["random order"] == pytest.approx(0.6, abs=0.05)
    assert shares["hard first"] < 0.5 < shares["easy first"]
    assert shares["static keep"] > 0.85
    assert shares["self-paced"] > 0.7  # it warms up on everything


@pytest.mark.slow
def test_the_quick_form_of_speech(tmp_path, monkeypatch, one_thread):
    try:
        curriculum_vowels.fetch(curriculum_vowels.cache())
    except SourceNotFoundError as error:
        pytest.skip(str(error))
    (speech,) = call("speech_curriculum", tmp_path / "result.json", monkeypatch)["experiments"]
    by_name = {result["name"]: result for result in speech["results"]}
    assert list(by_name) == ["plain", "planned", "short first", "easy first", "random order"]
    frames = np.array([result["num_tokens"] for result in by_name.values()])
    assert np.ptp(frames) < 0.01 * frames.min()
    for result in by_name.values():
        assert min(result["accuracies"]) > 0.8
        assert result["name"] == "plain" or max(result["padding"]) < 0.15
    assert min(by_name["plain"]["padding"]) > 0.2
    job = speech_curriculum.prepare()
    assert (len(job.samples), len(job.test["labels"])) == (270, 370)
    assert (job.lengths.min(), job.lengths.max()) == (7, 26)
