"""Runs under torchrun that lose ranks or nodes, and go on with other numbers: see tests/stress."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch.distributed import TCPStore

from tests.integrations.restarts import check_run, end_legs, is_in_mid_epoch, legs_of
from tests.launched import run_anew
from tests.patience import PATIENCE

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).parent / "scripts" / "torchrun_job.py"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--rdzv-backend", "c10d"]
VARIABLES = {
    "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}",
    "GLOO_SOCKET_IFNAME": "lo",
    "CUDA_VISIBLE_DEVICES": "",
}


def test_a_killed_run_goes_on_on_other_ranks_as_if_nothing_had_happened() -> None:
    command = [sys.executable, "-m", "tests.stress.elastic", "--fixed"]
    done = run_anew(command, cwd=ROOT, env=os.environ | VARIABLES)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "killed 4 times, 0 wrong" in done.stdout


def test_torchrun_restarts_a_run_from_its_checkpoint(tmp_path: Path) -> None:
    end_legs(tmp_path, [{"update": 4, "rank": 1}])
    size = ("--nnodes", "1:1", "--nproc-per-node", "2", "--max-restarts", "3")
    command = [*TORCHRUN, *size, "--rdzv-endpoint", "localhost:0", SCRIPT, tmp_path]
    done = run_anew(command, cwd=tmp_path, env=os.environ | VARIABLES)
    assert done.returncode == 0, done.stdout + done.stderr
    assert legs_of(tmp_path)[:2] == [(0, 2), (3, 2)]
    assert is_in_mid_epoch(3)
    check_run(tmp_path)


def test_a_run_goes_on_without_a_node_that_is_lost_and_with_one_that_joins(tmp_path: Path) -> None:
    lost = {"ranks": 2, "update": 4, "rank": 1, "node": True}
    end_legs(tmp_path, [lost, {"update": 10, "waits": True}])
    # Nodes meet here, so that none of them is missed more than another.
    store = TCPStore("localhost", 0, None, is_master=True, wait_for_workers=False)
    nodes = [started(store.port, tmp_path) for _ in range(2)]
    try:
        wait_for(tmp_path / "ended-1", nodes)
        nodes.append(started(store.port, tmp_path))
        codes = [node.wait(PATIENCE) for node in nodes]
    finally:
        for node in nodes:
            node.terminate()  # ends its rank, too
            node.wait()
    assert sorted(codes) == [-signal.SIGKILL, 0, 0], (tmp_path / "log").read_text()
    assert legs_of(tmp_path)[:3] == [(0, 2), (3, 1), (9, 2)]
    assert is_in_mid_epoch(9)
    check_run(tmp_path)


def started(port: int, folder: Path) -> subprocess.Popen[bytes]:
    """Start a node of one rank, of a run on one node or two."""
    times = "last_call_timeout=3,keep_alive_interval=1,keep_alive_max_attempt=5"
    command = [
        *TORCHRUN,
        *("--nnodes", "1:2", "--nproc-per-node", "1", "--max-restarts", "3"),
        *("--rdzv-endpoint", f"localhost:{port}", "--rdzv-id", "run"),
        *("--rdzv-conf", f"is_host=0,{times}", SCRIPT, folder),
    ]
    # Without this, a node that joins later does not find rank 0 (torch 2.13).
    env = os.environ | VARIABLES | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log)


def wait_for(file: Path, nodes: list[subprocess.Popen[bytes]]) -> None:
    end = time.monotonic() + PATIENCE
    while not file.exists():
        assert any(node.poll() is None for node in nodes), (file.parent / "log").read_text()
        assert time.monotonic() < end, (file.parent / "log").read_text()
        time.sleep(0.05)
