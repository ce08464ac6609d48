"""`batchwright score`: the library's scores, from files, restartable, and every failure a line."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from batchwright.difficulty import compression, percentiles, rarity
from tests.cli.command import LENGTHS, facts_of, invoke, run, start
from tests.patience import PATIENCE

RNG = np.random.default_rng(1)
WORDS = [f"word{k}" for k in range(200)]
TEXTS = [
    " ".join(RNG.choice(WORDS, size=int(size), p=np.r_[0.5, np.full(199, 0.5 / 199)]))
    for size in RNG.integers(1, 40, 300)
]
LANGUAGES = [("de", "en", "fr")[k % 3] for k in range(300)]
FORMATS = ("jsonl", "csv", "parquet", "txt")


@pytest.fixture(scope="module", autouse=True)
def texts(files):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.csv
    import pyarrow.parquet

    table = pa.table({"text": TEXTS, "lang": LANGUAGES, "n": range(1, 301)})
    pyarrow.csv.write_csv(table, files / "texts.csv")
    pyarrow.parquet.write_table(table, files / "texts.parquet")
    lines = "".join(json.dumps(row) + "\n" for row in table.to_pylist())
    (files / "texts.jsonl").write_text(lines, encoding="utf-8")
    (files / "texts.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    sizes = "".join(f'{{"n": {k}}}\n' for k in (3, 4, 5, 6, 2.5, 7))
    (files / "half.jsonl").write_text(sizes, encoding="utf-8")
    (files / "null.jsonl").write_text('{"text": "a"}\n{"text": null}\n', encoding="utf-8")


def scored(*args):
    facts = facts_of("score", *args, "-o", "scores.npy")
    scores = np.load("scores.npy")
    assert scores.dtype == np.float64
    assert facts["num_samples"] == scores.size
    assert (facts["min"], facts["max"]) == (scores.min(), scores.max())
    assert facts["median"] == np.median(scores)
    return scores


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("shard_size", ["7", "300", "65536"])
def test_every_format_gives_the_librarys_scores(suffix, shard_size):
    source = (f"texts.{suffix}", "--shard-size", shard_size)
    assert np.array_equal(scored(*source, "--by", "compression"), compression(TEXTS))
    assert np.allclose(scored(*source, "--by", "rarity"), rarity(TEXTS))
    assert np.allclose(scored(*source, "--by", "rarity", "--mean"), rarity(TEXTS, mean=True))
    words = scored(*source, "--by", "length", "--measure", "words")
    assert words.tolist() == [len(text.split()) for text in TEXTS]


def test_lengths_are_read_as_the_plan_reads_them():
    assert scored("lengths.npy", "--by", "length").tolist() == LENGTHS.tolist()
    for suffix in FORMATS[:3]:
        found = scored(f"texts.{suffix}", "--by", "length", "--column", "n")
        assert found.tolist() == list(range(1, 301))
    assert scored("table.csv", "--by", "length").tolist() == [3.0, 5.0]


def test_percentiles_within_a_column():
    ranks = scored("texts.jsonl", "--by", "compression", "--percentiles")
    assert np.array_equal(ranks, percentiles(compression(TEXTS)))
    within = ("--by", "compression", "--within", "lang")
    for suffix in FORMATS[:3]:
        ranks = scored(f"texts.{suffix}", *within)
        assert np.array_equal(ranks, percentiles(compression(TEXTS), groups=LANGUAGES))


def test_text_says_what_json_says():
    args = ("score", "texts.jsonl", "--by", "length", "--measure", "words", "-o", "scores.npy")
    facts = facts_of(*args)
    result = invoke(*args)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "300 samples by length" in result.stdout
    assert "scores.npy" in result.stdout
    assert f"least {facts['min']:.0f}" in result.stdout
    assert f"largest {facts['max']:.0f}" in result.stdout
    assert "percentile ranks" in invoke(*args, "--percentiles").stdout


def test_a_process_prints_one_json_object_and_nothing_else():
    code, out, err = run("score", "texts.csv", "--by", "rarity", "-o", "scores.npy", "--json")
    assert (code, err) == (0, b"")
    assert json.loads(out)["num_samples"] == 300


def test_a_folder_is_gone_on_with_and_kept_from_others(tmp_path):
    folder = ("--folder", str(tmp_path / "shards"), "--shard-size", "50")
    args = ("score", "texts.jsonl", "--by", "rarity", "-o", "scores.npy", *folder)
    assert facts_of(*args)["shards_kept_before"] == 0
    first = np.load("scores.npy")
    (tmp_path / "shards" / "shard-00000003.npy").unlink()
    facts = facts_of(*args)
    assert (facts["shards"], facts["shards_kept_before"]) == (6, 5)
    assert np.array_equal(np.load("scores.npy"), first)
    assert "6 of 6 shards were kept" in invoke(*args).stdout
    for other in (("--mean",), ("--column", "lang"), ("--shard-size", "60")):
        result = invoke(*args, *other)
        assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1), result.stderr
        assert "something else" in result.stderr


STOPS_AT_SHARD_50 = """
import itertools, sys, time
from batchwright.cli import main, score

compression, calls = score.compression, itertools.count(1)

def stops(texts):
    if next(calls) == 50:
        time.sleep(10_000)
    return compression(texts)

score.compression = stops
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_process_that_is_killed_goes_on_where_it_was(tmp_path):
    path, folder = tmp_path / "long.txt", tmp_path / "shards"
    path.write_text("\n".join(" ".join(RNG.choice(WORDS, 300)) for _ in range(2_000)), "utf-8")
    output = tmp_path / "out.npy"
    args = ("score", str(path), "--by", "compression", "-o", str(output), "--json")
    args = (*args, "--folder", str(folder), "--shard-size", "20")
    process = start(*args, code=STOPS_AT_SHARD_50)
    deadline = time.monotonic() + PATIENCE
    while len(list(folder.glob("shard-*.npy"))) < 3:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    process.communicate(timeout=PATIENCE)
    assert not output.exists()
    finished = len(list(folder.glob("shard-*.npy")))
    assert 3 <= finished < 50
    code, out, err = run(*args)
    assert (code, err) == (0, b"")
    assert json.loads(out)["shards_kept_before"] == finished
    assert np.array_equal(np.load(output), compression(path.read_text("utf-8").split("\n")))


BY = ("--by", "rarity", "-o", "scores.npy")
BAD_INPUTS = [
    (("missing.jsonl", *BY), ["missing.jsonl"]),
    (("missing.txt", *BY), ["missing.txt"]),
    (("", *BY), ["SOURCE"]),
    (("texts.jsonl", *BY, "--column", "tetx"), ["tetx", "'text'"]),
    (("texts.jsonl", *BY, "--column", "n"), ["'n'", "no text"]),
    (("texts.jsonl", *BY, "--within", "tongue"), ["tongue"]),
    (("null.jsonl", *BY), ["row 1", "null"]),
    (
        ("half.jsonl", "--by", "length", "-o", "scores.npy", "--shard-size", "3"),
        ["row 4", "2.5"],
    ),
    (("lengths.npy", *BY), ["lengths.npy", "no text"]),
    (("truncated.npy", "--by", "length", "-o", "scores.npy"), ["truncated.npy"]),
    (("nan.npy", "--by", "length", "-o", "scores.npy"), ["nan"]),
    (("texts.csv", "--by", "length", "-o", "scores.npy", "--column", "text"), ["measure"]),
    (("texts.jsonl", "--by", "size", "-o", "scores.npy"), ["'size'", "'rarity'"]),
    (("texts.jsonl", "-o", "scores.npy"), ["--by"]),
    (("texts.jsonl", "--by", "rarity"), ["--output"]),
    (("texts.jsonl", "--by", "rarity", "-o", "nowhere/scores.npy"), ["nowhere", "no folder"]),
    (("texts.jsonl", "--by", "rarity", "-o", "."), ["a folder"]),
    (("texts.jsonl", "--by", "rarity", "-o", "texts.jsonl"), ["--output texts.jsonl"]),
    (("texts.jsonl", *BY, "--measure", "words"), ["--measure", "--by length"]),
    (("texts.jsonl", *BY, "--tokenizer", "x"), ["--tokenizer", "--by length"]),
    (("texts.jsonl", "--by", "length", "-o", "scores.npy", "--mean"), ["--mean", "--by rarity"]),
    (("texts.jsonl", "--by", "length", "-o", "s.npy", "--tokenizer", "x.json"), ["x.json"]),
    (("texts.jsonl", *BY, "--shard-size", "0"), ["--shard-size", "0"]),
    (("texts.jsonl", *BY, "--folder", "lengths.npy"), ["lengths.npy"]),
]


@pytest.mark.parametrize(("args", "words"), BAD_INPUTS)
def test_bad_input_is_one_line_and_exit_code_2(args, words):
    result = invoke("score", *args)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("batchwright: ")
    assert len(result.stderr.splitlines()) == 1
    assert [word for word in words if word not in result.stderr] == [], result.stderr


SHOWS_AT_ONCE = """
import sys
from batchwright.cli import main
from batchwright.sources import progress

progress._PATIENCE_SECONDS = 0
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
@pytest.mark.slow
def test_a_bar_is_shown_in_a_terminal_and_json_stays_clean(tmp_path):
    import pty

    path = tmp_path / "long.txt"
    path.write_text("\n".join(" ".join(RNG.choice(WORDS, 30)) for _ in range(2_500)), "utf-8")
    leader, follower = pty.openpty()
    args = ("score", str(path), "--by", "compression", "-o", str(tmp_path / "out.npy"))
    source = str(Path(__file__).resolve().parents[2] / "src")
    process = subprocess.Popen(
        [sys.executable, "-c", SHOWS_AT_ONCE, *args, "--shard-size", "50", "--json"],
        env=os.environ | {"PYTHONPATH": source, "TERM": "xterm", "COLUMNS": "80"},
        stdout=subprocess.PIPE,
        stderr=follower,
    )
    os.close(follower)
    shown = b""
    try:
        while piece := os.read(leader, 1 << 16):
            shown += piece
    except OSError:  # how Linux says that the other side is closed
        pass
    os.close(leader)
    out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert json.loads(out)["num_samples"] == 2_500
    assert b"Scoring long.txt" in shown
