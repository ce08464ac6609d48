"""Manifests of speech, as lhotse and NeMo write them: seconds become milliseconds."""

import gzip
import json

import pytest

from batchwright import sources
from batchwright.cli import main
from batchwright.errors import LengthsError, SourceError

SECONDS = [1.5, 16.04, 0.3335, 2]
MILLISECONDS = [1500, 16040, 334, 2000]

CUT = {
    "id": "a-0",
    "start": 0.0,
    "channel": 0,
    "supervisions": [{"id": "a", "recording_id": "r", "start": 0.0, "duration": 9.0, "text": "x"}],
    "recording": {"id": "r", "sampling_rate": 16000, "num_samples": 160000, "duration": 10.0},
    "type": "MonoCut",
}
LINES = {
    "cuts.jsonl.gz": [{**CUT, "duration": each} for each in SECONDS],
    "manifest.json": [
        {"audio_filepath": "a.wav", "duration": each, "text": "to be"} for each in SECONDS
    ],
    "manifest.json.gz": [{"audio_filepath": "a.wav", "duration": each} for each in SECONDS],
    "manifest.jsonl": [{"audio_filepath": "a.wav", "duration": each} for each in SECONDS],
}


@pytest.fixture(params=LINES)
def manifest(request, tmp_path):
    path = tmp_path / request.param
    text = "".join(json.dumps(line) + "\n" for line in LINES[request.param])
    content = text.encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def test_seconds_are_measured_in_milliseconds(manifest):
    assert sources.read_lengths(manifest, measure="milliseconds").tolist() == MILLISECONDS
    named = sources.read_lengths(manifest, column="duration", measure="milliseconds")
    assert named.tolist() == MILLISECONDS


def test_a_pattern_names_shards_of_a_manifest(tmp_path):
    for number, each in enumerate(SECONDS):
        (tmp_path / f"manifest_{number}.json").write_text(json.dumps({"duration": each}))
    (tmp_path / "README.md").write_text("shards")
    pattern = tmp_path / "manifest_*.json"
    assert sources.read_lengths(pattern, measure="milliseconds").tolist() == MILLISECONDS


def test_without_a_measure_it_is_said_which(manifest):
    with pytest.raises(SourceError, match="'duration', pass measure='milliseconds'"):
        sources.read_lengths(manifest)
    with pytest.raises(LengthsError, match=r"is 1.5, .* of seconds, pass measure='milliseconds'"):
        sources.read_lengths(manifest, column="duration")


def test_the_command_line_plans_them(manifest, capsys):
    assert main(["plan", str(manifest), "--measure=milliseconds", "--max-tokens=20000"]) == 0
    assert "milliseconds" in capsys.readouterr().out


def test_a_column_of_any_format_and_type(write):
    seconds = [1, 2, 3]
    for name in ("data.csv", "data.parquet", "data.npy", "data.jsonl"):
        path = write(name, {"length": seconds})
        assert sources.read_lengths(
            path, measure="milliseconds", column="length" if name != "data.npy" else None
        ).tolist() == [1000, 2000, 3000]


@pytest.mark.parametrize("value", [None, float("nan"), 1e300])
def test_a_duration_that_is_none_is_refused(tmp_path, value):
    lines = [{"duration": 1.5}, {"duration": value}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(LengthsError, match="'duration'.* row 1 |row 1 of 'duration'"):
        sources.read_lengths(tmp_path / "a.jsonl", measure="milliseconds")


def test_a_mixed_cut_has_no_duration_of_its_own(tmp_path):
    lines = [{**CUT, "duration": 1.5}, {"id": "b", "type": "MixedCut", "tracks": [{"cut": CUT}]}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(LengthsError, match="1 of 2 rows of 'duration' is missing, row 1 "):
        sources.read_lengths(tmp_path / "a.jsonl", measure="milliseconds")


def test_text_has_no_seconds(write):
    path = write("data.jsonl", {"text": ["a b"]})
    with pytest.raises(SourceError, match="holds text: pass measure='characters'"):
        sources.read_lengths(path, column="text", measure="milliseconds")


def test_json_that_is_no_manifest(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([{"duration": 1.5}]))
    with pytest.raises(SourceError, match="expected an object"):
        sources.read_lengths(tmp_path / "a.json")
