"""Ranks that are killed in mid-epoch, and go on as another number of ranks."""

import importlib.util
import json
import signal
from pathlib import Path

import numpy as np
import pytest

from tests import fork_server
from tests.patience import PATIENCE

SCRIPT = Path(__file__).parent / "killed_ranks.py"
KILLED_AFTER = 3  # updates


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("keras"), reason="keras is not installed")
def test_ranks_that_are_killed_go_on_on_any_number_of_ranks(tmp_path: Path) -> None:
    log = tmp_path / "log"
    environment = {"KERAS_BACKEND": "torch", "CUDA_VISIBLE_DEVICES": ""}

    def codes(killed_after: int) -> list[int | None]:
        ranks = [
            fork_server.start(
                SCRIPT, tmp_path, rank, killed_after, log=log, environment=environment
            )
            for rank in range(2)
        ]
        for process in ranks:
            process.join(PATIENCE)
        return [process.exitcode for process in ranks]

    def in_turn(ranks: list[list[list[int]]]) -> list[list[int]]:
        return [batch for update in zip(*ranks, strict=True) for batch in update]

    def read(name: str) -> list:
        return [json.loads((tmp_path / f"{name}{rank}.json").read_text()) for rank in range(2)]

    assert codes(KILLED_AFTER) == [-signal.SIGKILL] * 2, log.read_text()
    before = in_turn(read("read"))
    assert codes(0) == [0, 0], log.read_text()
    results = read("result")
    whole = results[0]["whole"]
    assert before + in_turn([each["read"] for each in results]) == whole
    counts = np.bincount([sample for batch in whole for sample in batch])
    assert counts.tolist() == [2] * 60  # both epochs, each sample once
    expected = np.array(results[0]["expected"])  # of one rank that accumulates two batches
    for each in results:
        for way in ("weights", "loop"):
            assert np.linalg.norm(each[way] - expected) <= 1e-6 * np.linalg.norm(expected)
    alone = before + results[0]["alone"]
    assert np.bincount([sample for batch in alone for sample in batch]).tolist() == [2] * 60
