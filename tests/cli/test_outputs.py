"""What commands write: never over what they read, whole or not at all, one line if the disk is full."""

import json
import os
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pytest

import batchwright as bw
from tests.cli.command import LENGTHS, invoke, start
from tests.cli.test_compare import TASK
from tests.patience import PATIENCE

SMALL = np.array([3, 1, 4, 1, 5, 9, 2, 6])


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder of one input of each kind."""
    monkeypatch.chdir(tmp_path)
    np.save("lengths.npy", SMALL)
    bw.plan(SMALL, max_tokens=18).save("plan.svg")
    Path("texts.jsonl").write_text('{"text": "to be"}\n{"text": "or"}\n', encoding="utf-8")
    Path("task.py").write_text(TASK.replace("EPOCHS", "1"), encoding="utf-8")
    Path("mine.toml").write_text('[mine]\nkind = "planned"\n', encoding="utf-8")
    Path("shards").mkdir()
    Path("shards", "a.jsonl").write_text('{"length": 3}\n', encoding="utf-8")
    Path("shards", "b.jsonl").write_text('{"length": 5}\n', encoding="utf-8")
    return tmp_path


# A command, and its input that the last word is replaced by.
COMMANDS = [
    (("plan", "lengths.npy", "--max-tokens", "18", "-o"), "lengths.npy"),
    (("plan", "shards", "--max-tokens", "18", "-o"), "shards/b.jsonl"),
    (("plan", "shards/*.jsonl", "--max-tokens", "18", "-o"), "shards/a.jsonl"),
    (("plan", "lengths.npy", "--max-tokens", "18", "--tokenizer", "mine.toml", "-o"), "mine.toml"),
    (("score", "texts.jsonl", "--by", "compression", "-o"), "texts.jsonl"),
    (("score", "shards", "--by", "length", "--column", "length", "-o"), "shards/a.jsonl"),
    (("inspect", "plan.svg", "--html"), "plan.svg"),
    (("inspect", "plan.svg", "lengths.npy", "--html"), "lengths.npy"),
    (("inspect", "plan.svg", "lengths.npy", "--dial", "--plot"), "plan.svg"),
    (("advise", "lengths.npy", "--html"), "lengths.npy"),
    (("advise", "task.py", "--html"), "task.py"),
    (("compare", "task.py", "--quick", "-o"), "task.py"),
    (("compare", "task.py", "--quick", "--restart", "-o"), "task.py"),
    (("compare", "task.py", "--quick", "--html"), "task.py"),
    (("compare", "task.py", "--quick", "--strategies", "mine.toml", "-o"), "mine.toml"),
    (("new-task",), "task.py"),
]


LINKS = ["absolute", "dotted", "symbolic", "hard", "folder"]


@pytest.mark.parametrize(
    ("command", "used", "link"),
    [
        (*each, link)
        for place, each in enumerate(COMMANDS)
        for link in ("itself", LINKS[place % len(LINKS)])
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value)[:40],
)
def test_no_output_overwrites_an_input(here, command, used, link):
    before = Path(used).read_bytes()
    end = Path(used).suffix
    if link == "symbolic":
        Path(f"link{end}").symlink_to(used)
    elif link == "hard":
        Path(f"link{end}").hardlink_to(used)
    elif link == "folder":
        Path("elsewhere").symlink_to(here)
    names = {
        "itself": used,
        "absolute": str(here / used),
        "dotted": f"shards/../{used}",
        "folder": f"elsewhere/{used}",
    }
    result = invoke(*command, names.get(link, f"link{end}"))
    assert result.exit_code == 2, result.output
    assert (result.stdout, result.stderr.count("\n")) == ("", 1)
    assert "used by this command" in result.stderr or "exists already" in result.stderr
    assert Path(used).read_bytes() == before


@pytest.mark.parametrize(
    "command",
    [
        ("compare", "task.py", "-o", "r.json", "--html", "r.json"),
        ("compare", "task.py", "-o", "r.json", "--html", "./r.json.state"),
        ("inspect", "plan.svg", "lengths.npy", "--dial", "--plot", "p.svg", "--html", "p.svg"),
    ],
)
def test_two_outputs_are_two_files(here, command):
    result = invoke(*command)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "used by this command" in result.stderr


@pytest.mark.parametrize("name", ["/dev/null", "pipe"])
def test_results_that_could_not_be_read_again_are_refused(here, name):
    os.mkfifo("pipe")
    result = invoke("compare", "task.py", "--quick", "--restart", "-o", name)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "regular file" in result.stderr


def test_a_state_of_compare_overwrites_no_task(here):
    Path("r.state").write_bytes(Path("task.py").read_bytes())
    result = invoke("compare", "r.state", "-o", "r")
    assert result.exit_code == 2
    assert "used by this command" in result.stderr
    assert Path("r.state").read_bytes() == Path("task.py").read_bytes()


def test_shards_that_are_kept_are_not_overwritten_by_the_scores(here):
    Path("kept").mkdir()
    score = ("score", "texts.jsonl", "--by", "compression", "--folder", "kept")
    assert invoke(*score, "-o", "kept/scores.npy").exit_code == 0
    assert invoke(*score, "-o", "kept/scores.npy").exit_code == 0
    for name in ("manifest.json", "shard-00000000.npy"):
        result = invoke(*score, "-o", f"kept/{name}")
        assert (result.exit_code, "used by this command" in result.stderr) == (2, True)


def test_an_output_beside_the_inputs_may_be_written_again(here):
    for _ in range(2):
        plan = ("plan", "shards", "--max-tokens", "18", "-o", "shards/plan.safetensors")
        assert invoke(*plan).exit_code == 0
        assert invoke("inspect", "plan.svg", "--html", "page.html").exit_code == 0


def small_disk(folder, kilobytes):
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", str(folder)]
    return subprocess.run(mount, capture_output=True, check=False).returncode == 0


@pytest.fixture
def full(here):
    """A folder on a disk that is full but for one page of memory."""
    folder = here / "full"
    folder.mkdir()
    if not small_disk(folder, 64):
        pytest.skip("no disk can be mounted")
    (folder / "filler").write_bytes(bytes(60 << 10))
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize(
    "command",
    [
        ("plan", "long.npy", "--max-tokens", "600", "-o", "full/out"),
        ("score", "long.npy", "--by", "length", "-o", "full/out"),
        ("score", "long.npy", "--by", "length", "--folder", "full/kept", "-o", "out"),
        ("inspect", "plan.svg", "--html", "full/out"),
        ("inspect", "plan.svg", "lengths.npy", "--dial", "--plot", "full/out.svg"),
        ("advise", "lengths.npy", "--html", "full/out"),
    ],
    ids=lambda words: " ".join(words)[:30],
)
@pytest.mark.slow
def test_a_full_disk_is_one_line_and_exit_code_2(here, full, command):
    np.save("long.npy", np.tile(LENGTHS, 5))
    result = invoke(*command)
    assert result.exit_code == 2, (result.stdout, result.exception)
    assert result.stderr.count("\n") == 1
    assert "No space left on device" in result.stderr
    left = [str(each.relative_to(full)) for each in full.rglob("*") if each.is_file()]
    assert sorted(left) in (["filler"], ["filler", "kept/manifest.json"])


@pytest.mark.slow
def test_a_cache_on_a_full_disk_costs_the_cache_only(here, full, monkeypatch):
    monkeypatch.setenv("BATCHWRIGHT_CACHE", str(full / "cache"))
    Path("long.jsonl").write_text('{"text": "to be"}\n' * 5_000, encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        result = invoke("plan", "long.jsonl", "--measure", "words", "--max-tokens", "9", "--json")
    assert result.exit_code == 0
    assert "No space left" in result.stderr
    assert result.stderr.count("\n") == 1
    assert [each.name for each in full.rglob("*") if each.is_file()] == ["filler"]


def test_standard_output_may_be_the_output(here):
    process = start("plan", "lengths.npy", "--max-tokens", "18", "-o", "/dev/stdout", "--json")
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (0, b"")
    begin = out.index(b'{"plan"')
    assert json.loads(out[begin:])["plan"] == "/dev/stdout"
    Path("piped").write_bytes(out[:begin])
    assert bw.Plan.load("piped") == bw.plan(SMALL, max_tokens=18)
    assert Path("/dev/stdout").is_symlink()


@pytest.mark.slow
def test_results_of_compare_are_refused_if_a_bit_was_changed(here):
    from batchwright.compare.result_file import load
    from batchwright.errors import SourceError

    command = ("compare", "task.py", "--quick", "--strategies", "plain", "-o", "r.json")
    assert invoke(*command).exit_code == 0
    path = Path("r.json")
    whole = path.read_bytes()
    result = load(path)[0]
    rng = np.random.default_rng(0)
    for place in rng.choice(len(whole), 400, replace=False).tolist():
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        try:
            assert load(path)[0] == result
        except SourceError as error:
            assert "\n" not in str(error)
    result = invoke(*command)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
