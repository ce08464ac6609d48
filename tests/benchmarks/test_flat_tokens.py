"""The benchmark of flat tokens compares ways that give the same tensors."""

import pytest
from click.testing import CliRunner

from benchmarks import flat_tokens
from benchmarks.blocks.planner import flat_tokens as block
from tests.benchmarks.test_benchmarks import result_of


@pytest.mark.slow
def test_ways_are_checked_timed_and_quoted(tmp_path, monkeypatch):
    monkeypatch.setattr(flat_tokens, "TOGETHER", 5)
    target = tmp_path / "flat_tokens.json"
    arguments = ["--quick", "--output", str(target)]
    done = CliRunner().invoke(flat_tokens.main, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    result = result_of(target)
    assert [(name, each["to"]) for name, each in result["ratio"].items()] == list(
        flat_tokens.RATIOS
    )
    assert "| slices of a memory map, pad_sequence / FlatTokens, PadCollator |" in block(result)


def test_ways_that_differ_are_found():
    ways = {name: lambda batch: {"input_ids": 1} for pair in flat_tokens.RATIOS for name in pair}
    flat_tokens.check(ways, [0])
    ways[flat_tokens.FLAT] = lambda batch: {"input_ids": 2}
    with pytest.raises(RuntimeError, match="differ in 'input_ids'"):
        flat_tokens.check(ways, [0])
