"""Ray Train with a planned loader: workers die, the job goes on, and no sample is lost."""

import importlib.util
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import batchwright as bw
from batchwright.torch import PadCollator, PlanLoader
from tests.integrations.restarts import (
    check_run,
    end_legs,
    is_in_mid_epoch,
    legs_of,
    updates_read,
)
from tests.launched import launched

NEEDED = ("ray", "pandas", "pyarrow", "tensorboardX")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"ray[train] is not installed: no {MISSING}"),
]

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).parent / "scripts" / "ray_train_job.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Run a job that dies in updates 4 and 11, with checkpoints after every third."""
    folder = tmp_path_factory.mktemp("job")
    end_legs(folder, [{"update": 4, "rank": 1}, {"update": 11, "rank": 0}])
    variables = {
        "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}",
        "GLOO_SOCKET_IFNAME": "lo",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
    }
    done = launched([sys.executable, SCRIPT, folder], cwd=folder, env=os.environ | variables)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_each_sample_of_an_epoch_is_read_once_although_workers_die(folder):
    check_run(folder)


def test_a_job_is_restarted_in_mid_epoch_and_another_goes_on_with_one_worker(folder):
    assert legs_of(folder) == [(0, 2), (3, 2), (9, 1)]
    assert is_in_mid_epoch(3)
    assert is_in_mid_epoch(9)
    assert updates_read(folder, 0)[-2:] == [3, 4]  # these count where they were read again


def test_a_plain_loader_that_ray_shards_again_is_refused(folder):
    said = (folder / "refused").read_text(encoding="utf-8")
    assert "draws its batches from a" in said
    assert "Give PlanLoader(dataset, planner)" in said


def test_a_loader_takes_no_stream_of_ray_data_for_data():
    import ray.data

    for kind in (ray.data.Dataset, ray.data.DataIterator):
        assert not hasattr(kind, "__getitem__")  # which PlanLoader asks for


def test_rays_wrapper_reads_a_batch_ahead_and_the_position_does_not():
    from ray.train.torch.train_loop_utils import _WrappedDataLoader

    lengths = np.arange(1, 40)
    dataset = [torch.full((n,), n - 1) for n in lengths]
    planner = bw.Planner(lengths, max_tokens=60)

    def wrapped():
        loader = PlanLoader(dataset, planner, collate_fn=PadCollator())
        return loader, _WrappedDataLoader(loader, torch.device("cpu"), auto_transfer=True)

    loader, around = wrapped()
    batches = iter(around)
    for taken in range(len(loader) + 1):
        assert loader.state_dict() == loader.batch_sampler.state_after(taken)
        again, rest = wrapped()
        again.load_state_dict(loader.state_dict())
        read = [batch.max(1).values.tolist() for batch in rest]
        assert read == [batch.tolist() for batch in planner(0)][taken:]
        next(batches, None)
