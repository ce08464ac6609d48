"""Whatever is wrong, it is one line on standard error and exit code 2."""

import pytest

import batchwright as bw
from tests.cli.command import BUDGET, PLAN, invoke, run

INSPECT = ("inspect", "plan.safetensors", "lengths.npy")
DIAL = ("inspect", "plan.safetensors", "lengths.npy", "--dial")

# What is wrong, and words that the line about it must have.
BAD_INPUTS = [
    (("plan", "missing.npy", "--max-tokens", "10"), ["missing.npy"]),
    (("plan", "truncated.npy", "--max-tokens", "2048"), ["truncated.npy"]),
    (("plan", "nan.npy", "--max-tokens", "2048"), ["1", "nan"]),
    (("plan", "nan.csv", "--max-tokens", "2048", "--length", "length"), ["nan"]),
    (("plan", "zero.npy", "--max-tokens", "2048"), ["1 of 4 rows", "row 2 ", "--empty drop|one"]),
    (("plan", "two.npy", "--max-tokens", "2048"), ["(1000, 2)"]),
    (("plan", "table.csv", "--max-tokens", "9", "--length", "size"), ["size", "'length'"]),
    (("plan", "table.csv", "--max-tokens", "9", "--length", "words"), ["words", "measure"]),
    ((*BUDGET, "--length", "frames"), ["frames", "lengths.npy"]),
    ((*BUDGET, "--measure", "words"), ["numbers", "words"]),
    ((*BUDGET, "--tokenizer", "missing.json"), ["missing.json"]),
    (("plan", "", "--max-tokens", "9"), ["SOURCE"]),
    (("plan", "x" * 300, "--max-tokens", "9"), ["too long"]),
    (
        (*PLAN, "--max-tokens", "100"),
        ["max_tokens", "index 17", "512 tokens", "Raise", "'drop'", "'truncate'"],
    ),
    ((*PLAN, "--pack", "100"), ["index 17", "512 tokens", "'split'"]),
    ((*BUDGET, "--pack", "2048"), ["--max-tokens and --pack"]),
    ((*BUDGET, "--pack", "2048", "--fixed-size", "2"), ["one of", "--fixed-size"]),
    ((*PLAN, "--max-tokens", "many"), ["--max-tokens", "'many'"]),
    ((*PLAN, "--max-tokens", "1.5"), ["--max-tokens", "'1.5'"]),
    ((*PLAN, "--max-tokens", "0"), ["--max-tokens", "0"]),
    ((*PLAN, "--pack", "-3"), ["--pack", "-3"]),
    ((*PLAN, "--batch-size", str(10**30)), ["--batch-size", "not in the range"]),
    ((*PLAN, "--max-tokens"), ["--max-tokens", "requires an argument"]),
    ((*BUDGET, "--seed", "-1"), ["--seed"]),
    ((*BUDGET, "--mixing", "well"), ["--mixing", "'well'", "'update'"]),
    ((*BUDGET, "--mixing", "0"), ["--mixing", "'0'"]),
    ((*PLAN, "--pack", "2048", "--mixing", "update"), ["--mixing", "--pack"]),
    ((*PLAN, "--pack", "2048", "--slack", "0.1"), ["--slack", "--pack"]),
    ((*BUDGET, "--slack", "2"), ["--slack", "2"]),
    ((*BUDGET, "--slack", "0.1", "--mixing", "update"), ["slack=0.1", "'update'", "stratified"]),
    ((*PLAN, "--fixed-size", "2", "--max-samples", "2"), ["--max-samples", "--fixed-size"]),
    ((*PLAN, "--fixed-size", "2", "--oversize", "drop"), ["--oversize", "--fixed-size"]),
    ((*BUDGET, "--oversize", "split"), ["--oversize split", "--pack"]),
    ((*BUDGET, "--oversize", "shrink"), ["'shrink'", "'truncate'"]),
    ((*BUDGET, "--order", "sorted"), ["'sorted'", "'sequential'"]),
    ((*BUDGET, "--order", "sequential", "--window", "9"), ["--window", "sequential"]),
    ((*BUDGET, "--order", "sequential", "--mixing", "3"), ["--mixing", "sequential"]),
    ((*BUDGET, "--window", "9", "--mixing", "update"), ["--mixing update", "--window"]),
    ((*BUDGET, "--accumulate", "2", "--step-tokens", "9"), ["--accumulate", "--step-tokens"]),
    ((*BUDGET, "--cost", "cubic"), ["'cubic'", "'quadratic'"]),
    ((*BUDGET, "--pad-to-multiple-of", "4096"), ["pad_to_multiple_of=4096"]),
    ((*BUDGET, "-o", "nowhere/plan"), ["nowhere/plan", "no folder"]),
    ((*BUDGET, "-o", "."), ["a folder"]),
    ((*BUDGET, "-o", "lengths.npy"), ["--output lengths.npy", "used by this command"]),
    ((*BUDGET, "--maxtokens", "9"), ["--maxtokens", "--max-tokens"]),
    ((*BUDGET, "another"), ["another"]),
    (("plan",), ["SOURCE"]),
    (("plant",), ["'plant'"]),
    (("--unknown",), ["--unknown"]),
    (("inspect",), ["PLAN"]),
    (("inspect", "missing.safetensors"), ["missing.safetensors"]),
    (("inspect", "."), ["a folder", "Plan.save"]),
    (("inspect", "lengths.npy"), ["lengths.npy"]),
    (("inspect", "cut.safetensors"), ["cut.safetensors", "truncated"]),
    (("inspect", "head.safetensors"), ["head.safetensors"]),
    (("inspect", "middle.safetensors"), ["middle.safetensors", "changed"]),
    (("inspect", "tail.safetensors"), ["tail.safetensors", "changed"]),
    (("inspect", "plan.safetensors", "missing.npy"), ["missing.npy"]),
    (("inspect", "plan.safetensors", "other.npy"), ["other lengths", "fingerprint"]),
    (("inspect", "plan.safetensors", "fewer.npy"), ["2000 lengths", "100"]),
    (("inspect", "plan.safetensors", "--length", "a"), ["SOURCE"]),
    (("inspect", "plan.safetensors", "lengths.npy", "more"), ["more"]),
    (("inspect", "plan.safetensors", "lengths.npy", "--plot", "dial.svg"), ["--plot", "--dial"]),
    ((*DIAL, "--plot", "dial.jpeg"), ["dial.jpeg", ".svg, .png or .pdf"]),
    ((*DIAL, "--plot", "dial"), ["'dial'", ".svg, .png or .pdf"]),
    ((*DIAL, "--plot", "nowhere/dial.svg"), ["nowhere", "no folder"]),
    ((*DIAL, "--plot"), ["--plot", "requires an argument"]),
    (("inspect", "plan.safetensors", "--dial", "--plot", "dial.svg"), ["name the SOURCE"]),
    ((*INSPECT, "--html", "nowhere/page.html"), ["nowhere/page.html", "no folder"]),
    ((*INSPECT, "--html", "."), ["--html", "directory"]),
    ((*INSPECT, "--html", "lengths.npy"), ["--html lengths.npy", "used by this command"]),
    ((*INSPECT, "--html", "plan.safetensors"), ["plan.safetensors", "another file"]),
    ((*INSPECT, "--html", "./lengths.npy"), ["used by this command"]),
    (("compare", "task.py", "-o", "a.json", "--html", "a.json"), ["--html a.json", "used by"]),
    (("inspect", "missing.safetensors", "--html", "page.html"), ["missing.safetensors"]),
    (("advise", "lengths.npy", "--html", "nowhere/page.html"), ["nowhere", "no folder"]),
    (("advise", "lengths.npy", "--html", "lengths.npy"), ["used by this command"]),
    # Neither the source nor the task is there: the page is looked at before anything else.
    (("advise", "missing.npy", "--html", "nowhere/page.html"), ["nowhere/page.html", "no folder"]),
    (("compare", "missing.py", "--html", "nowhere/page.html"), ["nowhere/page.html", "no folder"]),
]


@pytest.mark.parametrize(("args", "words"), BAD_INPUTS)
def test_bad_input_is_one_line_and_exit_code_2(args, words):
    result = invoke(*args)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("batchwright: ")
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.endswith("\n")
    assert [word for word in words if word not in result.stderr] == [], result.stderr


@pytest.mark.slow
def test_processes_say_the_same_of_bad_input():
    # The first and the last of each command: the same code ends the process for all.
    first = {args[0]: args for args, _ in reversed(BAD_INPUTS)}
    last = {args[0]: args for args, _ in BAD_INPUTS}
    for args in {*first.values(), *last.values()}:
        code, out, err = run(*args, "--json")
        assert (code, out) == (2, b""), (args, err)
        assert err.startswith(b"batchwright: "), args
        assert err.count(b"\n") == 1, (args, err)


@pytest.mark.slow
def test_a_plan_that_was_tampered_with_anywhere_is_refused(tmp_path):
    path = tmp_path / "plan.safetensors"
    plan = bw.plan([5, 3, 8, 2, 7, 1], max_tokens=10)
    plan.save(path)
    saved = path.read_bytes()
    header = 8 + int.from_bytes(saved[:8], "little")
    for place in range(len(saved)):
        changed = bytearray(saved)
        changed[place] ^= 1 << (place % 8)
        path.write_bytes(changed)
        result = invoke("inspect", str(path))
        if result.exit_code == 0:  # white space in the header's text, or the like
            assert place < header
            assert bw.Plan.load(path) == plan
            continue
        assert result.exit_code == 2, (place, result.exception)
        assert len(result.stderr.splitlines()) == 1


def test_a_truncated_plan_is_refused_wherever_it_ends(tmp_path, files):
    path = tmp_path / "plan.safetensors"
    saved = (files / "plan.safetensors").read_bytes()
    for size in [*range(60), *range(60, len(saved), 499), len(saved) - 1]:
        path.write_bytes(saved[:size])
        result = invoke("inspect", str(path))
        assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1), size
