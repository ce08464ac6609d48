"""What the how-to pages say of the trainers that they are for: order, ranks and resume."""

import contextlib
import os
import runpy
import sys
import warnings
from pathlib import Path

import pytest
import torch

from tests.docs.blocks import ROOT
from tests.launched import launched

SCRIPTS = Path(__file__).parent / "scripts"
TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node", "2")


@pytest.mark.slow
@pytest.mark.parametrize("script", ["trainer_resumes.py"])
def test_a_trainer_sees_what_the_plan_says(script: str, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        _run_alone(tmp_path, script)  # GPUs are hidden from a process
        return
    random = torch.get_rng_state()
    try:
        with contextlib.chdir(tmp_path), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the frameworks warn of is theirs
            runpy.run_path(str(SCRIPTS / script), run_name="__main__")
    finally:
        torch.set_rng_state(random)


@pytest.mark.slow
def test_ranks_of_a_trainer_see_what_the_plan_says(tmp_path: Path) -> None:
    _run_alone(tmp_path, "trainer_resumes.py", *TORCHRUN)


def _run_alone(folder: Path, script: str, *launcher: str) -> None:
    done = launched(
        [sys.executable, *launcher, str(SCRIPTS / script)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stdout + done.stderr
