"""`use_plan` on two ranks, killed and resumed on other numbers of ranks: real processes."""

import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import batchwright as bw
from batchwright.integrations.transformers import use_plan
from tests.integrations.trainers import LENGTHS, trainer_of, weights
from tests.launched import launched

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).parent / "scripts" / "train.py"
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node")

pytestmark = pytest.mark.slow


def train(folder: Path, ranks: int, *options: object, killed: bool = False) -> list[Any]:
    """Train on a number of ranks; return what each wrote."""
    launcher = (*TORCHRUN, ranks) if ranks > 1 else ()
    for file in folder.glob("rank-*.json"):
        file.unlink()
    command = map(str, [sys.executable, *launcher, SCRIPT, folder, *options])
    paths = {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "CUDA_VISIBLE_DEVICES": ""}
    done = launched(list(command), env=os.environ | paths | {"OMP_NUM_THREADS": "1"})
    assert bool(done.returncode) == killed, done.stdout + done.stderr
    return [json.loads(file.read_text()) for file in sorted(folder.glob("rank-*.json"))]


def read(*runs: list[Any]) -> Counter[int]:
    return Counter(sample for run in runs for rank in run for sample in rank["read"])


def test_a_run_goes_on_on_other_ranks_as_if_it_had_not_been_killed(tmp_path: Path) -> None:
    planner = bw.Planner(LENGTHS, max_tokens=120, order=bw.Sequential(), accumulate=2)
    updates = len(planner) // 2
    assert updates > 5
    first = train(tmp_path, 2, "--sequential", "--save", 1, "--kill", updates + 3, killed=True)
    options = ("--sequential", "--save", 1, "--resume")
    second = train(
        tmp_path,
        1,
        *options,
        f"{tmp_path}/checkpoint-{updates + 2}",
        "--kill",
        updates + 5,
        killed=True,
    )
    third = train(tmp_path, 2, *options, f"{tmp_path}/checkpoint-{updates + 4}")
    assert [run[0]["step"] for run in (first, second)] == [updates + 2, updates + 4]
    shared = bw.Planner(LENGTHS, max_tokens=120, order=bw.Sequential(), world_size=2)
    for rank, each in enumerate(first):
        batches = [batch for epoch in range(2) for batch in shared(epoch).shard(rank, 2)]
        planned = [sample for batch in batches[: updates + 2] for sample in batch]
        assert each["read"] == planned
    assert read(first, second, third) == dict.fromkeys(range(len(LENGTHS)), 2)
    trainer = trainer_of(
        "classifier", tmp_path / "whole", num_train_epochs=2, gradient_accumulation_steps=2
    )
    use_plan(trainer, planner).train()
    for rank in third:
        assert rank["weights"] == pytest.approx(weights(trainer).tolist(), abs=1e-6)
        assert (rank["step"], rank["epoch"]) == (trainer.state.global_step, 2)
        assert rank["losses"] == pytest.approx([rank["losses"][-1]] * 3, abs=1e-6)
        assert rank["right"][0] == rank["right"][1]
        assert rank["off"] < 1e-5


def test_a_plan_that_depends_on_the_ranks_loses_nothing(tmp_path: Path) -> None:
    options = ("--step-tokens", 190, "--cost", "padded", "--save", 1)
    first = train(tmp_path, 2, *options, "--kill", 4, killed=True)
    rest = train(tmp_path, 1, *options, "--resume", f"{tmp_path}/checkpoint-3")
    assert read(first, rest) == dict.fromkeys(range(len(LENGTHS)), 2)
    assert (rest[0]["step"], rest[0]["epoch"]) == (10, 2)
