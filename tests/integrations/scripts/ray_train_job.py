"""A job of Ray Train that dies twice, and goes on: on as many workers, then on one.

python ray_train_job.py FOLDER

Ray restarts it after the first death, from the last checkpoint that was reported. The second ends
the job. Another of the same name, which takes one worker or two, goes on: there is room for one.
What is trained and noted: see restarted.py.
"""

import sys
import tempfile
from pathlib import Path

import ray.train
import torch
from ray.train import Checkpoint, FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchConfig, TorchTrainer, prepare_data_loader
from torch import distributed
from torch.utils.data import DataLoader

from batchwright.errors import PlanError
from batchwright.torch import PlanBatchSampler, planned_sampler
from tests.integrations.scripts.restarted import SAMPLES, planner_of, train


def load():
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        return torch.load(Path(folder, "state.pt"))


def save(state):
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = None
        if distributed.get_rank() == 0:
            torch.save(state, Path(folder, "state.pt"))
            checkpoint = Checkpoint.from_directory(folder)
        ray.train.report({"update": state["update"]}, checkpoint=checkpoint)


def what_is_said_of_a_plain_loader():
    """Return why a loader that Ray shards again is refused; None if it is not."""
    sampler = PlanBatchSampler(planner_of(distributed.get_world_size()))
    try:
        planned_sampler(prepare_data_loader(DataLoader(SAMPLES, batch_sampler=sampler)))
    except PlanError as error:
        return str(error)
    return None


def work(config):
    folder = Path(config["folder"])
    if distributed.get_world_size() > 1:
        (folder / "refused").write_text(str(what_is_said_of_a_plain_loader()), encoding="utf-8")
    # A checkpoint that Ray has not taken note of when a worker dies is lost.
    ray_knows = ray.train.get_all_reported_checkpoints
    options = {"workers": config["workers"], "before_end": ray_knows}
    train(folder, load, save, prepare=prepare_data_loader, **options)


def job(folder, scaling, *, loader_workers=0):
    return TorchTrainer(
        work,
        train_loop_config={"folder": str(folder), "workers": loader_workers},
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=scaling,
        run_config=RunConfig(
            name="job",
            storage_path=str(folder / "runs"),
            failure_config=FailureConfig(max_failures=1),
        ),
    )


def main(folder):
    ray.init(num_cpus=2, include_dashboard=False)
    try:
        try:
            job(folder, ScalingConfig(num_workers=2)).fit()
        except WorkerGroupError:
            pass
        else:
            raise AssertionError("the job has survived a second death")
        elastic = ScalingConfig(num_workers=(1, 2), resources_per_worker={"CPU": 2})
        job(folder, elastic, loader_workers=1).fit()
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
