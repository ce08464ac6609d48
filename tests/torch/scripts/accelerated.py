"""A loop of accelerate over a PlanLoader reads the plan, on any number of ranks.

torchrun --nproc-per-node 2 accelerated.py STATE

Writes the state of the middle of an epoch to STATE; or goes on there, if the file exists.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader

import batchwright as bw
from batchwright.torch import PadCollator, PlanBatchSampler, PlanLoader, planned_sampler, windows

LENGTHS = np.random.default_rng(0).lognormal(3, 0.7, 203).clip(2, 64).astype(int)
DATA = [{"x": torch.full((int(n),), i)} for i, n in enumerate(LENGTHS)]
MIDDLE = UPDATE = 4  # batches: of a rank before it stops, and of all ranks in an update


def planner_of(ranks: int) -> bw.Planner:
    return bw.Planner(
        LENGTHS, batching=bw.TokenBudget(270), world_size=ranks, accumulate=UPDATE // ranks
    )


def samples_in(batch: dict[str, torch.Tensor]) -> list[int]:
    return batch["x"][:, 0].tolist()


def everywhere(mine: list[int]) -> list[int]:
    if not torch.distributed.is_initialized():
        return mine
    parts = [[]] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, mine)
    return [sample for part in parts for sample in part]


def loader_of(planner: bw.Planner, workers: int) -> PlanLoader:
    # A fork beside the threads of gloo can deadlock, and a new process takes seconds.
    ways = {"multiprocessing_context": "spawn", "persistent_workers": True} if workers else {}
    return PlanLoader(DATA, planner, collate_fn=PadCollator(), num_workers=workers, **ways)


def train(accelerator: Accelerator, planner: bw.Planner, workers: int) -> tuple:
    """Train for two epochs; return what the model read, and its weights."""
    torch.manual_seed(0)
    model = torch.nn.Embedding(len(LENGTHS), 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    given = loader_of(planner, workers)
    model, optimizer, loader = accelerator.prepare(model, optimizer, given)
    assert loader is given
    read = []
    for epoch in range(2):
        loader.set_epoch(epoch)
        for batch in loader:
            read.append(samples_in(batch))
            with accelerator.accumulate(model):
                accelerator.backward(model(batch["x"]).square().sum())
                optimizer.step()
                optimizer.zero_grad()
    return read, accelerator.unwrap_model(model).weight.tolist()


def check_refusals(accelerator: Accelerator, planner: bw.Planner) -> None:
    """Check that what accelerate makes of other loaders is refused on several ranks."""
    sampler = PlanBatchSampler(planner)
    plain = DataLoader(DATA, batch_sampler=sampler, collate_fn=PadCollator())
    dispatching = prepare_data_loader(plain, put_on_device=True, dispatch_batches=True)
    for prepared in (accelerator.prepare(plain), dispatching):
        sampler.set_epoch(0)
        for ask in (planned_sampler, lambda loader: next(iter(loader))):
            if (
                prepared is dispatching
                and ask is not planned_sampler
                and not accelerator.is_main_process
            ):
                continue  # waits for what the first rank reads
            try:
                ask(prepared)
            except bw.errors.PlanError as error:
                assert accelerator.num_processes > 1, error
                assert "already shared" in str(error)
                assert "PlanLoader" in str(error)
            else:
                assert accelerator.num_processes == 1, "the plan was shared twice"


def main(path: Path) -> None:
    uneven = DataLoaderConfiguration(
        even_batches=False
    )  # older versions want it for the last check
    accelerator = Accelerator(
        cpu=True,
        gradient_accumulation_steps=UPDATE // int(os.environ.get("WORLD_SIZE", "1")),
        dataloader_config=uneven,
    )
    rank, ranks = accelerator.process_index, accelerator.num_processes
    planner = planner_of(ranks)
    read, weights = train(accelerator, planner, workers=1)
    plans = [planner(epoch).shard(rank, ranks) for epoch in range(3)]
    assert read == [batch.tolist() for plan in plans[:2] for batch in plan], "not the plan"

    loader = accelerator.prepare(loader_of(planner, workers=0))
    loader.set_epoch(2)
    got = [
        sample
        for batch in loader
        for sample in accelerator.gather_for_metrics(samples_in(batch), use_gather_object=True)
    ]
    assert sorted(got) == list(range(len(LENGTHS))), "gather_for_metrics lost samples"

    loader.set_epoch(2)
    skipping = accelerator.skip_first_batches(loader, MIDDLE)
    assert planned_sampler(skipping) is loader.batch_sampler
    rest = [samples_in(batch) for batch in skipping]
    assert rest == [batch.tolist() for batch in plans[2][MIDDLE:]], "skipped others"
    loader.set_epoch(2)
    skipping = accelerator.skip_first_batches(loader, MIDDLE)
    shared = list(windows(skipping, weigh=len))
    assert len(shared) == (len(loader) - MIDDLE) // planner.accumulate

    check_refusals(accelerator, planner)

    if path.exists():  # of another number of ranks
        saved = json.loads(path.read_text(encoding="utf-8"))
        assert np.allclose(weights, saved["weights"], rtol=0, atol=1e-6), "another gradient"
        loader.load_state_dict(saved["state"])
        mine = [sample for batch in loader for sample in samples_in(batch)]
        assert sorted(saved["read"] + everywhere(mine)) == list(range(len(LENGTHS)))
    elif ranks > 1:
        loader.set_epoch(3)
        mine = []
        for count, batch in enumerate(loader, start=1):
            mine += samples_in(batch)
            if count == MIDDLE:
                break
        read = everywhere(mine)
        if rank == 0:
            text = json.dumps({"state": loader.state_dict(), "read": read, "weights": weights})
            path.write_text(text, encoding="utf-8")
    accelerator.end_training()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
