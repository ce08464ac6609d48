"""What the how-to pages say of the trainers that they are for: order, ranks and resume."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT
from tests.patience import PATIENCE

SCRIPTS = Path(__file__).parent / "scripts"
TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node", "2")


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ("trainer_resumes.py",),
        (*TORCHRUN, "trainer_resumes.py"),
        ("lightning_resumes.py",),
    ],
    ids=["trainer", "trainer on two ranks", "lightning"],
)
def test_a_trainer_sees_what_the_plan_says(command: tuple[str, ...], tmp_path: Path) -> None:
    *launcher, script = command
    done = subprocess.run(
        [sys.executable, *launcher, str(SCRIPTS / script)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stdout + done.stderr
