"""`batchwright index`: a folder that plans and other commands take, and every failure a line."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from batchwright.sources import index_scores, index_shard, open_index
from batchwright.sources.index_folder import INDEX_FILE
from tests.cli.command import SOURCE, facts_of, invoke, run
from tests.patience import PATIENCE
from tests.sources.corpora import check_index, texts_of, write_corpus

pytest.importorskip("pyarrow")

SIZES = (30, 5, 60)


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """A folder `corpus` beside the current one's files, and the words of its texts by shard."""
    monkeypatch.chdir(tmp_path)
    return write_corpus(tmp_path / "corpus", SIZES)


ARGS = ("index", "corpus", "-o", "index", "--measure", "words", "--workers", "1")


def test_the_folder_opens_as_an_index(corpus):
    facts = facts_of(*ARGS)
    flat = [length for own in corpus for length in own]
    assert (facts["num_samples"], facts["num_shards"], facts["shards_kept_before"]) == (95, 3, 0)
    assert (facts["shortest"], facts["longest"]) == (min(flat), max(flat))
    assert facts["tokens"] == sum(flat)
    check_index(open_index("index"), corpus)
    assert facts_of(*ARGS)["shards_kept_before"] == 3


def test_it_says_what_it_did_and_ends_in_a_planner(corpus):
    facts_of(*ARGS)
    result = invoke(*ARGS)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "95 samples in 3 shards" in result.stdout
    assert "3 of 3 shards were kept from before" in result.stdout
    imported, code = result.stdout.strip().splitlines()[-2:]
    assert code.startswith("planner = bw.Planner(open_index('index'), max_tokens=")
    names = {}
    exec(f"import batchwright as bw\n{imported}\n{code}", names)  # noqa: S102 -- the code that the command shows
    assert len(names["planner"]) >= 1


def test_the_folder_is_a_source_of_other_commands(corpus):
    facts_of(*ARGS)
    plan = facts_of("plan", "index", "--max-tokens", "200", "-o", "plan.safetensors")
    assert plan["num_samples"] == 95
    facts = facts_of("inspect", "plan.safetensors", "index")
    assert facts["num_samples"] == 95


def test_other_commands_refuse_a_folder_whose_shards_were_changed(corpus):
    facts_of(*ARGS)
    shard = next(Path("corpus").iterdir())
    shard.write_bytes(shard.read_bytes() + b" ")
    result = invoke("plan", "index", "--max-tokens", "200")
    assert result.exit_code == 2
    assert shard.name in result.stderr
    assert "changed" in result.stderr


def test_other_commands_refuse_a_folder_that_is_not_finished(corpus):
    facts_of(*ARGS)
    first = min(Path("index").glob("*.parquet"))
    shard = min(Path("corpus").iterdir())
    index_shard(shard, first, measure="characters")  # as by a run that was killed
    result = invoke("plan", "index", "--max-tokens", "20000")
    assert result.exit_code == 2
    assert f"{first.name} is of other lengths than the index" in result.stderr
    Path("index", INDEX_FILE).unlink()
    result = invoke("plan", "index", "--max-tokens", "20000")
    assert result.exit_code == 2
    assert "Run `batchwright index SOURCE -o index` to its end." in result.stderr


def test_a_folder_may_be_named_as_files_of_lengths_are(corpus):
    args = ("index", "corpus", "-o", "corpus.index", "--measure", "words", "--workers", "1")
    facts_of(*args)
    assert facts_of("plan", "corpus.index", "--max-tokens", "200")["num_samples"] == 95


def test_scores_of_texts_are_kept(corpus):
    from batchwright.difficulty import compression

    assert facts_of(*ARGS, "--score", "compression")["scores"] == ["compression"]
    texts = [text for number, size in enumerate(SIZES) for text in texts_of(size, number)]
    expected = compression(texts).astype(np.float32)
    assert index_scores("index", "compression").tolist() == expected.tolist()


@pytest.mark.slow
def test_a_process_prints_one_json_object_and_nothing_else(corpus):
    code, out, err = run("index", "corpus", "-o", "index", "--measure", "words", "--json")
    assert (code, err) == (0, b"")
    assert json.loads(out)["num_samples"] == 95


BAD_INPUTS = [
    (("nowhere", "-o", "out"), ["nowhere"]),
    (("", "-o", "out"), ["SOURCE"]),
    (("corpus",), ["--output"]),
    (("corpus", "-o", "-x"), ["--output", "-x"]),
    (("corpus", "-o", "corpus", "--measure", "words"), ["part-000.parquet", "another folder"]),
    (("corpus", "-o", "corpus/part-000.parquet"), ["is a file"]),
    (("corpus", "-o", "out"), ["part-000.parquet", "measure"]),
    (("corpus", "-o", "out", "--length", "txet", "--measure", "words"), ["txet", "'text'"]),
    (("corpus", "-o", "out", "--measure", "sighs"), ["sighs"]),
    (("corpus", "-o", "out", "--measure", "tokens"), ["tokenizer"]),
    (("corpus", "-o", "out", "--tokenizer", "x.json"), ["x.json"]),
    (("corpus", "-o", "out", "--empty", "drop"), ["drop"]),
    (("corpus", "-o", "out", "--score", "beauty"), ["beauty", "compression"]),
    (("corpus", "-o", "out", "--on", "spark"), ["spark"]),
    (("corpus", "-o", "out", "--workers", "0"), ["--workers"]),
]


@pytest.mark.parametrize(("args", "words"), BAD_INPUTS)
def test_bad_input_is_one_line_and_exit_code_2(corpus, args, words):
    result = invoke("index", *args, *(() if "--workers" in args else ("--workers", "1")))
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("batchwright: ")
    assert len(result.stderr.splitlines()) == 1
    assert [word for word in words if word not in result.stderr] == [], result.stderr


SLEEPS = """
import os, sys, time
from batchwright.cli import index, main
from batchwright.sources import engines

def slow(texts):
    time.sleep(0.5)
    return [1.0] * len(texts)

index.SCORES["compression"] = slow
engines.cores = lambda: 2
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""


def is_any_left(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="interrupts are sent to a group of processes")
def test_ctrl_c_ends_all_processes_with_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lengths = write_corpus(tmp_path / "corpus", [3] * 12)
    (tmp_path / "sleeps.py").write_text(SLEEPS, "utf-8")
    args = ["index", "corpus", "-o", "index", "--measure", "words", "--score", "compression"]
    process = subprocess.Popen(
        [sys.executable, "sleeps.py", *args],
        env=os.environ | {"PYTHONPATH": SOURCE},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    deadline = time.monotonic() + PATIENCE
    folder = tmp_path / "index"
    while len(list(folder.glob("*.parquet"))) < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out, err) == (130, b"", b"batchwright: interrupted\n")
    while is_any_left(process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    finished = len(list(folder.glob("*.parquet")))
    assert finished < 12
    assert not (folder / INDEX_FILE).exists()
    done = facts_of("index", "corpus", "-o", "index", "--measure", "words", "--workers", "1")
    assert done["shards_kept_before"] == 0  # they have scores that are not asked for now
    check_index(open_index("index"), lengths)
