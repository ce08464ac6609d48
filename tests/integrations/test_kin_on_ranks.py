"""`use_plan` on trainers of TRL, PEFT and sentence-transformers: one rank, two, and in between."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integrations.scripts.kin import PLANS, STEP, evaluated, found, planned
from tests.integrations.test_transformers_on_ranks import ROOT, TORCHRUN
from tests.launched import launched

SCRIPT = Path(__file__).parent / "scripts" / "kin.py"

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Train every kind on one rank, then all of them on two, in one launch."""
    folder = tmp_path_factory.mktemp("kin")
    one = {}
    for kind in PLANS:
        trainer = planned(kind, folder / kind / "one", 1)
        trainer.train()
        one[kind] = found(kind, trainer) | {"metrics": evaluated(kind, trainer)}
    paths = {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, *TORCHRUN, "2", SCRIPT, folder]
    done = launched(list(map(str, command)), env=os.environ | paths | {"OMP_NUM_THREADS": "1"})
    assert not done.returncode, done.stdout + done.stderr
    return folder, one


def shared(batches: list[Any], rank: int) -> list[Any]:
    return batches[rank::2]


@pytest.mark.parametrize("kind", PLANS)
def test_one_rank_and_two_read_and_learn_the_same(kind: str, runs: Any) -> None:
    folder, one = runs
    whole = one[kind]
    assert sorted(sum(whole["read"], [])) == sorted([*range(61)] * 2)
    for rank in (0, 1):
        other = json.loads((folder / kind / f"rank-{rank}.json").read_text())
        assert other["fresh"]["read"] == shared(whole["read"], rank)
        assert other["resumed"]["read"] == shared(whole["read"][2 * STEP :], rank)
        for name in ("fresh", "resumed"):
            assert other[name]["place"] == whole["place"]
            assert other[name]["weights"] == pytest.approx(whole["weights"], abs=1e-6)
        assert other["metrics"] == pytest.approx(whole["metrics"], abs=1e-6)


@pytest.mark.parametrize("kind", PLANS)
def test_one_rank_goes_on_where_two_left_off(kind: str, runs: Any) -> None:
    folder, one = runs
    trainer = planned(kind, folder / kind / "again", 1)
    trainer.train(resume_from_checkpoint=f"{folder}/{kind}/two/checkpoint-{STEP}")
    own = found(kind, trainer)
    assert own["read"] == one[kind]["read"][2 * STEP :]
    assert own["place"] == one[kind]["place"]
    assert own["weights"] == pytest.approx(one[kind]["weights"], abs=1e-6)
