"""Real processes: ranks that plan without talking, and a run that is killed and resumed."""

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests import fork_server
from tests.patience import PATIENCE
from tests.torch.planners import dealt_back
from tests.torch.scripts.train import planner_of

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parent / "scripts" / "train.py"
SAMPLES = 400


def start(out, *arguments):
    return fork_server.start(
        *(SCRIPT, out, "--samples", SAMPLES, *arguments),
        log=out / "log",
        environment={"GLOO_SOCKET_IFNAME": "lo"},
    )


def start_ranks(out, world_size, workers, *arguments):
    store = out / "store"
    return [
        start(
            out,
            *("--rank", rank, "--world-size", world_size, "--store", store),
            *("--workers", workers[rank], *arguments),
        )
        for rank in range(world_size)
    ]


def finish(processes, out):
    try:
        for process in processes:
            process.join(PATIENCE)
        codes = [process.exitcode for process in processes]
    finally:
        for process in processes:
            fork_server.end(process)
    assert codes == [0] * len(processes), (out / "log").read_text()
    return [json.loads((out / f"done-{rank}.json").read_text()) for rank in range(len(processes))]


def of_epoch(seen, epoch):
    return [batch for number, batch in seen if number == epoch]


def test_two_ranks_share_each_epoch_without_talking(tmp_path):
    ranks = finish(start_ranks(tmp_path, 2, [0, 1], "--epochs", 2), tmp_path)
    plans = planner_of(SAMPLES).resized(2)
    assert ranks[0]["counts"] == ranks[1]["counts"] == dict.fromkeys("01", len(plans) // 2)
    assert ranks[0]["length"] == ranks[1]["length"] == len(plans) // 2
    assert ranks[0]["digests"] == ranks[1]["digests"] == [plans(1).digest()] * 2
    for epoch in (0, 1):
        per_rank = [of_epoch(rank["seen"], epoch) for rank in ranks]
        first, second = ({i for batch in batches for i in batch} for batches in per_rank)
        assert first | second == set(range(SAMPLES))
        assert not first & second
        assert dealt_back(per_rank) == plans(epoch).indices.tolist()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_run_is_resumed_on_two_ranks_and_other_workers(tmp_path, workers):
    killed, resumed = tmp_path / "killed", tmp_path / "resumed"
    killed.mkdir()
    resumed.mkdir()
    plan = planner_of(SAMPLES)(1)
    enough = random.randint(2, len(plan) - 20)  # noqa: S311 (which moment does not matter)
    saved = kill_in_epoch_1(killed, workers, after=enough)
    consumed = len(of_epoch(saved["seen"], 1))
    assert enough <= consumed < len(plan)
    assert saved["state"]["legs"] == [[1, 1, consumed]]
    assert [i for batch in of_epoch(saved["seen"], 0) for i in batch] == indices_of(1, 0)

    resume = ("--epochs", 3, "--resume", killed / "rank-0.json")
    ranks = finish(start_ranks(resumed, 2, [1, 1 if workers == 0 else 0], *resume), resumed)
    per_rank = [of_epoch(rank["seen"], 1) for rank in ranks]
    before = [i for batch in of_epoch(saved["seen"], 1) for i in batch]
    after = dealt_back(per_rank)
    assert sorted(before + after) == list(range(SAMPLES))
    assert before + after == plan.indices.tolist()
    assert dealt_back([of_epoch(rank["seen"], 2) for rank in ranks]) == indices_of(2, 2)
    assert [rank["length"] for rank in ranks] == [len(planner_of(SAMPLES).resized(2)) // 2] * 2


def indices_of(world_size, epoch):
    return planner_of(SAMPLES).resized(world_size)(epoch).indices.tolist()


def kill_in_epoch_1(out, workers, *, after):
    """Let a run work until some batches of epoch 1 are done, kill it, return what it saved."""
    # It is killed at any moment up to fifteen batches later, where it stops.
    stop_at = len(planner_of(SAMPLES)(0)) + after + 15
    process = start(out, "--epochs", 2, "--workers", workers, "--stop-at", stop_at)
    file = out / "rank-0.json"
    deadline = time.monotonic() + PATIENCE
    try:
        while True:
            assert process.is_alive(), (out / "log").read_text()
            assert time.monotonic() < deadline
            saved = json.loads(file.read_text()) if file.exists() else {"seen": []}
            if len(of_epoch(saved["seen"], 1)) >= after:
                break
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.join(PATIENCE)
        assert process.exitcode == -signal.SIGKILL
    finally:
        fork_server.end(process)
    return json.loads(file.read_text())
