"""What Lightning's model reads of a plan, on any ranks, and what is logged of it."""

import csv
import json
import os
import sys
import warnings
from collections import Counter
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch

import batchwright as bw
from batchwright.errors import LossError, PlanError
from batchwright.integrations.lightning import EfficiencyMonitor, PlanDataModule
from batchwright.torch import PadCollator, PlanLoader
from tests.integrations import lightning_runs as runs
from tests.integrations.events import no_tensorflow, scalars  # noqa: F401 (a fixture)
from tests.launched import launched

ROOT = Path(__file__).resolve().parents[2]
PLANNER = bw.Planner(runs.LENGTHS, max_tokens=256, accumulate=2)
PLANNED = [[epoch, batch.tolist()] for epoch in range(runs.EPOCHS) for batch in PLANNER(epoch)]
EACH = len(PLANNER) // 2
"""Updates of an epoch."""
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """A run of one rank × 2 batches, which saves after each update and each epoch."""
    folder = tmp_path_factory.mktemp("one")
    return folder, runs.fitted(folder, runs.made(2), saves=True)


@pytest.fixture(scope="module")
def two(tmp_path_factory, one):
    """Runs of two ranks: from the beginning, and where one rank was."""
    folder = tmp_path_factory.mktemp("two")
    saved, _ = one
    middle, end = EACH + 1, 2 * EACH
    given = {
        "fresh": {"data": {"accumulate": 1}, "folder": "saved", "saves": True},
        "middle": {"data": {"accumulate": 2}, "resumes": f"{saved}/step={middle}.ckpt"},
        "end": {"data": {"accumulate": 1}, "resumes": f"{saved}/step={end}.ckpt"},
        "epoch": {"data": {"accumulate": 1}, "resumes": f"{saved}/end-epoch=1.ckpt"},
    }
    wanted = {name: {"folder": "none"} | run for name, run in given.items()}
    done = launched(
        [sys.executable, *TORCHRUN, runs.__file__, json.dumps(wanted)],
        cwd=folder,
        env=os.environ
        | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, {
        name: [json.loads((folder / f"{name}-{rank}.json").read_text("utf-8")) for rank in (0, 1)]
        for name in wanted
    }


def in_sequence(ranks):
    """Put what ranks read back into the sequence of the plan."""
    return [batch for both in zip(*(each["read"] for each in ranks), strict=True) for batch in both]


def assert_same_weights(found, expected):
    assert np.abs(np.array(found["weights"]) - expected["weights"]).max() < 1e-6


def test_the_model_reads_the_plan_and_steps_once_an_update(one):
    _, run = one
    assert run["read"] == PLANNED
    assert run["steps"] == list(range(2, len(PLANNED) + 1, 2))
    assert run["updates"] == len(PLANNED) // 2


@pytest.mark.parametrize(
    ("done", "options"),
    [(EACH + 1, {}), (EACH + 1, {"schedules": True}), (EACH, {}), (2 * EACH - 1, {})],
    ids=["middle", "loader made early", "after the last batch", "before the last update"],
)
def test_a_run_goes_on_where_it_was(one, tmp_path, done, options):
    folder, run = one
    found = runs.fitted(tmp_path, runs.made(2), resumes=folder / f"step={done}.ckpt", **options)
    assert found["read"] == PLANNED[2 * done :]
    assert found["updates"] == run["updates"]
    assert_same_weights(found, run)


@pytest.mark.parametrize(
    ("limit", "read"),
    [
        ({"max_steps": EACH + 3, "max_epochs": -1}, PLANNED[: 2 * EACH + 6]),
        (
            {"limit_train_batches": 4},
            [each for e in range(3) for each in PLANNED[2 * EACH * e :][:4]],
        ),
    ],
    ids=["updates", "batches"],
)
def test_a_limited_run_goes_on_where_it_was(tmp_path, limit, read):
    run = runs.fitted(tmp_path, runs.made(2), saves=True, **limit)
    assert run["read"] == read
    first = EACH if "max_steps" in limit else 2
    resumes = {f"step={done}": done for done in (1, first, first + 1)} | {"end-epoch=0": first}
    for name, done in resumes.items():
        found = runs.fitted(tmp_path, runs.made(2), resumes=tmp_path / f"{name}.ckpt", **limit)
        assert found["read"] == read[2 * done :], name


def test_a_run_goes_on_after_a_short_update(tmp_path):
    run = runs.fitted(tmp_path, runs.made(100), saves=True, max_epochs=2)
    whole = len(run["read"]) // 2
    assert run["steps"] == [whole, 2 * whole]
    for name in ("step=1", "end-epoch=0"):
        found = runs.fitted(
            tmp_path, runs.made(100), resumes=tmp_path / f"{name}.ckpt", max_epochs=2
        )
        assert found["read"] == run["read"][whole:]
        assert_same_weights(found, run)


def test_two_ranks_train_as_one(one, two):
    _, run = one
    _, both = two
    assert in_sequence(both["fresh"]) == PLANNED
    for each in both["fresh"]:
        assert each["updates"] == run["updates"]
        assert_same_weights(each, run)


@pytest.mark.parametrize(
    ("name", "done"),
    [("middle", EACH + 1), ("end", 2 * EACH), ("epoch", 2 * EACH)],
)
def test_two_ranks_go_on_where_one_was(one, two, name, done):
    _, run = one
    _, both = two
    assert in_sequence(both[name]) == PLANNED[2 * done :]
    for each in both[name]:
        assert each["updates"] == run["updates"]
        assert each["steps"] == list(range(1, len(each["read"]) + 1))  # an update keeps 2 batches
        assert_same_weights(each, run)


@pytest.mark.parametrize(("done", "workers"), [(EACH + 1, 2), (2 * EACH, 0)], ids=["middle", "end"])
def test_one_rank_goes_on_where_two_were(one, two, tmp_path, done, workers):
    folder, _ = two
    data = runs.made(1, num_workers=workers)
    found = runs.fitted(tmp_path, data, resumes=folder / f"saved/step={done}.ckpt")
    assert found["read"] == PLANNED[2 * done :]
    assert found["steps"] == list(range(2, len(found["read"]) + 1, 2))
    assert_same_weights(found, one[1])


def test_other_updates_on_other_ranks_lose_no_sample(two, tmp_path):
    folder, _ = two
    data = runs.made(4)  # 2 ranks × 1 batch before
    data.planner = data.planner.resized(1, 4)
    resumed = torch.load(folder / f"saved/step={EACH + 1}.ckpt", weights_only=False)
    resumed["PlanDataModule"]["world_size"] = 3  # as if an update could not be shared
    torch.save(resumed, tmp_path / "three.ckpt")
    found = runs.fitted(tmp_path, data, resumes=tmp_path / "three.ckpt")
    read = Counter(sample for epoch, batch in found["read"] if epoch == 1 for sample in batch)
    before = Counter(sample for _, batch in PLANNED[2 * EACH : 2 * EACH + 2] for sample in batch)
    assert read + before == Counter(range(len(runs.LENGTHS)))


def test_a_smaller_budget_is_kept_or_refused(one, tmp_path):
    folder, _ = one
    resumes = folder / f"step={EACH + 1}.ckpt"
    with pytest.raises(PlanError, match="Lightning would count wrongly"):
        runs.fitted(tmp_path, runs.made(2, max_tokens=100), resumes=resumes)


def saving(folder, **options):
    """Validate, and save, within the epoch."""
    from lightning.pytorch.callbacks import ModelCheckpoint

    saves = ModelCheckpoint(folder, "{step}", save_top_k=-1, monitor="seen")
    return {"callbacks": [saves], "enable_checkpointing": True, **options}


def test_a_checkpoint_inside_of_an_update_is_refused(tmp_path):
    data = runs.made(
        2, val_dataloaders=PlanLoader(runs.Data(), PLANNER(0), collate_fn=PadCollator())
    )
    run = runs.fitted(tmp_path, data, **saving(tmp_path, val_check_interval=3, max_epochs=1))
    assert run["read"] == PLANNED[: len(PLANNER)]
    inside, whole = tmp_path / "step=1.ckpt", tmp_path / "step=3.ckpt"
    with pytest.raises(PlanError, match="after 1 of 2 batches of an update"):
        runs.fitted(tmp_path, runs.made(2), resumes=inside)
    assert runs.fitted(tmp_path, runs.made(2), resumes=whole)["read"] == PLANNED[6:]


def test_a_checkpoint_of_the_beginning_of_an_epoch_has_the_epoch_before_it(tmp_path):
    class Saves(lightning.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            trainer.save_checkpoint(tmp_path / f"{trainer.current_epoch}.ckpt")

    run = runs.fitted(tmp_path, runs.made(2), callbacks=[Saves()])
    for epoch in range(runs.EPOCHS):
        found = runs.fitted(tmp_path, runs.made(2), resumes=tmp_path / f"{epoch}.ckpt")
        assert found["read"] == PLANNED[2 * EACH * epoch :]
        assert found["updates"] == run["updates"]
        assert_same_weights(found, run)


def test_an_interrupted_step_is_done_again(tmp_path):
    from lightning.pytorch.callbacks import OnExceptionCheckpoint

    class Fails(lightning.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if len(pl_module.read) == 6:
                raise RuntimeError("injected")

    callbacks = [OnExceptionCheckpoint(tmp_path, "failed"), Fails()]
    with pytest.raises(RuntimeError, match="injected"):
        runs.fitted(tmp_path, runs.made(2), callbacks=callbacks, enable_checkpointing=True)
    found = runs.fitted(tmp_path, runs.made(2), resumes=tmp_path / "failed.ckpt")
    assert found["read"] == PLANNED[6:]


def test_what_does_not_fit_the_plan_is_refused(one, tmp_path):
    folder, _ = one
    with pytest.raises(PlanError, match=r"accumulate_grad_batches=3.*plans 2"):
        runs.fitted(tmp_path, runs.made(2), accumulate_grad_batches=3)
    with pytest.raises(PlanError, match="Leave a multiple of 2"):
        runs.fitted(tmp_path, runs.made(2), limit_train_batches=3)
    with pytest.raises(PlanError, match=r"overfit_batches=2.*Give PlanDataModule a few samples"):
        runs.fitted(tmp_path, runs.made(2), overfit_batches=2)
    resumes = folder / f"step={EACH + 2}.ckpt"
    for limit in (2, 4):
        with pytest.raises(PlanError, match="4 are trained already"):
            runs.fitted(tmp_path, runs.made(2), resumes=resumes, limit_train_batches=limit)
    for weight in (float("nan"), -1.0, None):
        with pytest.raises(LossError, match="expected what the loss of a batch sums over"):
            runs.fitted(tmp_path, runs.made(2, weigh=lambda batch, weight=weight: weight))
    unknown = torch.load(folder / f"step={EACH + 1}.ckpt", weights_only=False)
    del unknown["PlanDataModule"]
    for states in ([], unknown["loops"]["fit_loop"]["state_dict"]["combined_loader"]):
        unknown["loops"]["fit_loop"]["state_dict"]["combined_loader"] = states
        torch.save(unknown, tmp_path / "unknown.ckpt")
        if states:  # of a PlanLoader without the module
            found = runs.fitted(tmp_path, runs.made(2), resumes=tmp_path / "unknown.ckpt")
            assert found["read"] == PLANNED[2 * EACH + 2 :]
            continue
        with pytest.raises(PlanError, match="written without PlanDataModule"):
            runs.fitted(tmp_path, runs.made(2), resumes=tmp_path / "unknown.ckpt")
    data = PlanDataModule([1], bw.Planner([1], max_tokens=1))
    with pytest.raises(PlanError, match="has no trainer"):
        data.train_dataloader()


def test_the_model_validates_with_its_own_data(tmp_path, monkeypatch):
    def see(self, batch, _):
        seen.append(len(batch["labels"]))
        with pytest.raises(LossError, match="call it in training_step"):
            self.trainer.datamodule.mean(torch.ones(()))

    def loader_of(plan):
        return PlanLoader(runs.Data(), plan, collate_fn=PadCollator())

    seen = []
    own, other = loader_of(PLANNER(0)), loader_of(PLANNER(0)[:2])
    monkeypatch.setattr(runs.Net, "val_dataloader", lambda self: own)
    monkeypatch.setattr(runs.Net, "validation_step", see)
    options = {"max_epochs": 1, "num_sanity_val_steps": 0}
    runs.fitted(tmp_path, runs.made(2), **options)
    assert sum(seen) == len(runs.LENGTHS)
    seen.clear()
    runs.fitted(tmp_path, runs.made(2, val_dataloaders=other), **options)
    assert len(seen) == 2


def test_where_nothing_counts_nothing_is_learnt(tmp_path):
    found = runs.fitted(tmp_path, runs.made(2, weigh=lambda batch: 0.0), max_epochs=1)
    assert_same_weights(found, {"weights": runs.Net().layers.weight.tolist()})


@pytest.mark.usefixtures("no_tensorflow")
class Means(runs.Net):
    """Returns the mean loss of each batch."""

    def training_step(self, batch, _):
        scores = self.layers(batch["input_ids"]).transpose(1, 2)
        return torch.nn.functional.cross_entropy(scores, batch["labels"])


def test_means_of_batches_are_warned_of_once(tmp_path):
    for accumulate in (1, 2):  # one batch on one rank is a whole update
        trainer = lightning.Trainer(
            max_epochs=2,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            trainer.fit(Means(), datamodule=runs.made(accumulate))
        found = [each for each in caught if "mean was not called" in str(each.message)]
        assert len(found) == accumulate - 1


def test_the_monitor_logs_what_the_plan_says(tmp_path):
    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

    loggers = [
        CSVLogger(tmp_path, "csv", version=""),
        TensorBoardLogger(tmp_path, "tb", version=""),
    ]
    data = runs.made(
        2, val_dataloaders=PlanLoader(runs.Data(), PLANNER(0), collate_fn=PadCollator())
    )
    options = {"logger": loggers, "log_every_n_steps": 2, "callbacks": [EfficiencyMonitor()]}
    run = runs.fitted(tmp_path, data, **options)
    with (tmp_path / "csv/metrics.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["efficiency/tokens"]]
    assert [int(row["step"]) for row in rows] == list(range(1, run["updates"], 2))
    tokens = runs.LENGTHS
    for number, row in enumerate(rows):
        batches = [batch for _, batch in PLANNED[4 * number : 4 * number + 4]]
        real = sum(int(tokens[batch].sum()) for batch in batches)
        cells = sum(int(tokens[batch].max()) * len(batch) for batch in batches)
        assert float(row["efficiency/tokens"]) == real / 2
        assert float(row["efficiency/padding"]) == pytest.approx(1 - real / cells)
        assert float(row["efficiency/tokens_per_second"]) > 0
        assert 0 <= float(row["efficiency/data_wait"]) < 1
    values = [float(row["efficiency/padding"]) for row in rows]
    steps, logged = zip(*scalars(tmp_path / "tb")["efficiency/padding"], strict=True)
    assert steps == tuple(range(1, run["updates"], 2))
    assert logged == pytest.approx(values, rel=1e-5)


def test_without_a_plan_the_monitor_says_so():
    monitor = EfficiencyMonitor()

    class Trainer:
        global_step, train_dataloader = 0, torch.utils.data.DataLoader([1])

    with pytest.warns(UserWarning, match="logs nothing: the training data has no plan"):
        monitor.on_train_start(Trainer(), None)
    data = runs.made(2)
    data.trainer = Trainer()
    with pytest.raises(LossError, match="call it in training_step"):
        data.mean(torch.ones(()))
