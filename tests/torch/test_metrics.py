"""What `metrics.of` says of real updates, beside what the model read."""

import math

import numpy as np
import pytest
import torch

import batchwright as bw
from batchwright.torch import PackCollator, PadCollator, PlanLoader, Precision, Window, windows

LENGTHS = np.random.default_rng(0).lognormal(2.5, 0.7, 90).clip(1, 40).astype(int)
DATA = [
    {"input_ids": torch.full((int(n),), i), "labels": torch.full((int(n),), i)}
    for i, n in enumerate(LENGTHS)
]
ALWAYS = {"loss_scale", "skipped", "splits"}


def trained(loader, precision, loss_sum, **options):
    """Train an epoch; return windows, updates and their metrics."""
    model = torch.nn.Embedding(len(LENGTHS), 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    found = []
    for window in windows(loader, **options):
        with precision.update(model, optimizer, weight=window.tokens) as update:
            for batch in window:
                update.backward(loss_sum, batch)
        found.append((window, update, bw.metrics.of(update, window)))
    return found


def squares(model, batch):
    return model(batch["input_ids"]).float().square().sum()


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize(
    ("batching", "collator"),
    [(bw.TokenBudget(96), PadCollator(attention_mask=True)), (bw.Packing(96), PackCollator())],
    ids=["padded", "packed"],
)
def test_metrics_are_of_what_the_model_read(batching, collator, accumulate):
    planner = bw.Planner(LENGTHS, batching=batching, accumulate=accumulate)
    loader = PlanLoader(DATA, planner, collate_fn=collator)
    found = trained(
        loader, Precision("fp32"), squares, weigh=lambda batch: batch["input_ids"].numel()
    )
    for window, update, metrics in found:
        cells = sum(batch["input_ids"].numel() for batch in window)
        read = [
            batch.get("attention_mask", torch.ones_like(batch["input_ids"])) for batch in window
        ]
        assert metrics["tokens"] == sum(int(mask.sum()) for mask in read)
        assert metrics["padding"] == pytest.approx(1 - metrics["tokens"] / cells)
        seconds = window.seconds + update.seconds
        assert metrics["tokens_per_second"] == pytest.approx(metrics["tokens"] / seconds)
        assert 0 < metrics["data_wait"] < 1
        assert {type(value) for value in metrics.values()} == {float}
    assert sum(metrics["tokens"] for *_, metrics in found) == LENGTHS.sum()
    assert (metrics["loss_scale"], metrics["skipped"], metrics["splits"]) == (1, 0, 0)


def test_skipped_updates_and_splits_add_up():
    planner = bw.Planner(LENGTHS, max_tokens=96, accumulate=2)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    precision = Precision("fp16", scaler=scaler, check_loss=False)
    calls = []

    def sometimes(model, batch):
        calls.append(batch)
        if len(calls) == 9:
            raise torch.OutOfMemoryError("injected")
        return squares(model, batch) * (math.inf if len(calls) == 14 else 1e-3)

    loader = PlanLoader(DATA, planner, collate_fn=PadCollator())
    found = [metrics for *_, metrics in trained(loader, precision, sometimes)]
    assert found[0]["loss_scale"] == 256
    assert found[-1]["loss_scale"] < 256
    assert found[-1]["skipped"] == precision.skipped == 1
    assert found[-1]["splits"] == precision.splits > 0
    for name in ("skipped", "splits"):
        values = [each[name] for each in found]
        assert values == sorted(values)


def test_all_ranks_say_the_same_without_communication():
    planner = bw.Planner(LENGTHS, max_tokens=64, accumulate=2)
    ranks = [
        trained(
            PlanLoader(DATA, planner, rank=rank, world_size=2, collate_fn=PadCollator()),
            Precision("fp32"),
            squares,
        )
        for rank in range(2)
    ]
    assert sum(metrics["tokens"] for *_, metrics in ranks[0]) == LENGTHS.sum()
    for first, second in zip(*ranks, strict=True):
        for name in ("tokens", "padding", "dispersion"):
            assert first[2][name] == second[2][name]
        assert first[0].tokens + second[0].tokens == first[2]["tokens"]


def test_without_a_planner_nothing_is_made_up():
    for loader in (
        PlanLoader(DATA, bw.plan(LENGTHS, max_tokens=64), collate_fn=PadCollator()),
        torch.utils.data.DataLoader(DATA, batch_size=4, collate_fn=PadCollator()),
    ):
        *_, metrics = trained(loader, Precision("fp32"), squares, accumulate=2)[0]
        assert metrics.keys() == ALWAYS | {"data_wait"}


def test_before_the_update_has_ended_there_is_no_time():
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    window = Window((), 1.0)
    with Precision("fp32").update(model, optimizer, weight=1) as update:
        assert bw.metrics.of(update, window).keys() == ALWAYS
        update.backward(lambda model, x: model(x).sum(), torch.ones(1, 1))
    assert bw.metrics.of(update, window)["data_wait"] == 0


def test_no_tensor_is_read():
    planner = bw.Planner(LENGTHS, max_tokens=64)
    loader = PlanLoader(DATA, planner, collate_fn=PadCollator(), device="meta")

    def elsewhere(model, batch):
        assert batch["input_ids"].is_meta
        return model.weight.sum()

    precision = Precision("fp32", check_loss=False)
    found = trained(loader, precision, elsewhere, weigh=lambda batch: 1.0)
    assert sum(metrics["tokens"] for *_, metrics in found) == LENGTHS.sum()


def test_windows_kept_for_later_are_of_their_own_epoch():
    planner = bw.Planner(LENGTHS, max_tokens=64, accumulate=2)
    loader = PlanLoader(DATA, planner, collate_fn=PadCollator())
    epochs = []
    for epoch in range(2):
        loader.set_epoch(epoch)
        epochs.append(list(windows(loader)))
    for kept in epochs:
        for window in kept:
            assert window.figures.tokens == window.tokens
