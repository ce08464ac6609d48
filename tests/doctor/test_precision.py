"""Findings on number formats, from what is seen of scalers, autocast and products."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from batchwright.doctor.checks.precision import (
    autocast,
    clipping,
    half_precision,
    loss_scale,
    schedules,
    skipped_updates,
)
from batchwright.doctor.records import Products, Run
from tests.doctor.runs import run_of, with_updates

CHECKS = (loss_scale, skipped_updates, schedules, clipping, autocast, half_precision)


def found(check, run):
    return [(each.name, each.level) for each in check(run)]


def scaled(skipped, *, of=60, first=2.0**16, moves=1, growth=None):
    """A run under a scaler that halves its scale after a skipped update.

    The schedule moves `moves` times after each update; `growth`: updates after which the scale
    doubles.
    """
    scale, run = first, run_of(np.arange(4 * of))
    changes = []
    for number in range(of):
        is_skipped = number in skipped
        changes.append({"loss_scale": scale, "was_skipped": is_skipped, "schedules": moves})
        if is_skipped:
            scale /= 2
        elif growth is not None and number % growth == growth - 1:
            scale *= 2
    return with_updates(run, lambda number, update: replace(update, **changes[number]))


def keeping_schedule(run):
    """The schedule waits where an update was skipped, as it should."""
    return with_updates(
        run, lambda _, each: replace(each, schedules=0 if each.was_skipped else each.schedules)
    )


@pytest.mark.parametrize(
    ("skipped", "of", "names"),
    [
        ([], 60, []),
        (range(6), 60, []),  # a scale that begins too high
        (range(10), 60, []),
        ([20, 40], 60, []),  # now and then
        ([20], 30, []),
        (range(10, 14), 60, ["loss scale sinks", "steps skipped"]),
        (range(0, 60, 5), 60, ["loss scale sinks", "steps skipped"]),
        (range(20), 20, ["loss scale sinks", "steps skipped"]),  # to less than 1
        ([12, 14], 15, []),  # too few updates for a share
    ],
)
def test_scales_and_skipped_updates(skipped, of, names):
    run = keeping_schedule(scaled(skipped, of=of))
    assert [name for check in CHECKS for name, _ in found(check, run)] == names


def test_a_scale_that_also_rises_is_looking_for_its_place():
    run = scaled(range(13, 60, 8), growth=8)
    scales = [each.loss_scale for each in run.ranks[0].updates]
    assert any(after > before for before, after in pairwise(scales[10:]))
    assert found(loss_scale, run) == []
    assert found(skipped_updates, run) == [("steps skipped", "warning")]


def test_a_scale_below_one_is_said_with_its_way_down():
    (finding,) = loss_scale(scaled(range(18), of=18))
    assert "from 65,536 to 0.50 in 18 updates" in finding.figure
    assert "bf16 if the device supports it" in finding.cure
    (finding,) = loss_scale(scaled(range(50), of=50))
    assert "from 65,536 to 1e-10 in 50 updates" in finding.figure
    fast = scaled(range(18), of=18)
    fast = Run(tuple(replace(each, fast_formats=("bf16",)) for each in fast.ranks))
    (finding,) = loss_scale(fast)
    assert finding.cure.startswith("Use bf16: it needs no loss scale, and is fast on this device")


def test_a_scale_that_was_chosen_below_one_is_a_choice():
    assert found(loss_scale, scaled([], first=0.5)) == []


def test_the_share_of_skipped_updates_is_without_the_first():
    (finding,) = skipped_updates(scaled(range(0, 60, 5)))
    assert "10 of 50 updates were skipped" in finding.figure
    assert finding.share == pytest.approx(0.2)


def test_a_schedule_that_moves_on_is_found():
    (finding,) = schedules(scaled([0, 1, 20]))
    assert (finding.name, finding.level) == ("schedule runs while steps are skipped", "warning")
    assert "after 3 of 3 skipped updates" in finding.figure
    assert any("get_scale" in line for line in finding.code)


def test_a_schedule_that_waits_or_that_counts_epochs_is_right():
    skipped = scaled([0, 1, 20])
    assert found(schedules, keeping_schedule(skipped)) == []
    assert found(schedules, scaled([0, 1, 20], moves=0)) == []

    def epochs(number, update):
        return replace(update, schedules=int(number % 20 == 0))  # after skipped ones, too

    assert found(schedules, with_updates(skipped, epochs)) == []
    assert found(schedules, scaled([])) == []


def test_what_follows_the_last_update_is_not_seen():
    last = with_updates(
        scaled([59]), lambda number, update: replace(update, schedules=int(number < 59))
    )
    assert found(schedules, last) == []


@pytest.mark.parametrize(
    ("scale", "clips", "names"),
    [
        (1024.0, range(60), ["gradients clipped before unscaling"]),
        (1024.0, [3], []),
        (1.0, range(60), []),
        (None, range(60), []),
        (1024.0, [], []),
    ],
)
def test_clipping_under_the_scale(scale, clips, names):
    run = with_updates(
        run_of(np.arange(240)),
        lambda number, update: replace(update, loss_scale=scale, clips_scaled=number in clips),
    )
    assert [name for name, _ in found(clipping, run)] == names
    for finding in clipping(run):
        assert finding.level == "error"
        assert "multiplied by the loss scale, 1,024" in finding.figure
        assert finding.code[0] == "scaler.unscale_(optimizer)"


def with_products(products, *, updates=20, **rank):
    return run_of(np.arange(4 * updates), rank={"products": products, **rank})


@pytest.mark.parametrize(
    ("products", "names"),
    [
        (Products({"fp32": 3e6, "bf16": 7e6}, "bf16"), ["autocast misses large products"]),
        (Products({"fp32": 1e6, "bf16": 9e6}, "bf16"), []),
        (Products({"bf16": 9e6}, "bf16"), []),
        (Products({"fp32": 9e6}, None), []),  # it is off
        (Products({"fp32": 9e6}, "bf16", is_training=False), []),
        (Products({}, "bf16"), []),
        (None, []),
    ],
)
def test_products_that_autocast_misses(products, names):
    assert [name for name, _ in found(autocast, with_products(products))] == names
    assert found(autocast, with_products(products, updates=2)) == []


def test_the_largest_of_them_is_named():
    products = Products({"fp32": 3e6, "bf16": 7e6}, "bf16", largest={"fp32": "Linear(8, 9)"})
    (finding,) = autocast(with_products(products))
    assert "30.0 % of the operations" in finding.figure
    assert "`Linear(8, 9)`" in finding.figure
    assert "`Linear(8, 9)`" in finding.cure


SINGLE = Products({"fp32": 1e9})


@pytest.mark.parametrize(
    ("products", "rank", "is_found"),
    [
        (SINGLE, {"fast_formats": ("bf16",)}, True),
        (SINGLE, {"fast_formats": ("bf16", "fp16"), "device": "cuda"}, True),
        (SINGLE, {"fast_formats": ()}, False),
        (Products({"fp32": 1e9}, "bf16"), {"fast_formats": ("bf16",)}, False),
        (Products({"bf16": 1e9}, parameters="bf16"), {"fast_formats": ("bf16",)}, False),
        (Products({"fp32": 1e9, "tf32": 9e9}), {"fast_formats": ("bf16",)}, False),
        (Products({"fp32": 1e5}), {"fast_formats": ("bf16",)}, False),  # too small to matter
        (Products({"fp32": 1e9}, is_training=False), {"fast_formats": ("bf16",)}, False),
    ],
)
def test_fp32_where_16_bits_are_fast(products, rank, is_found):
    names = [("fp32 on fast 16-bit hardware", "warning")] * is_found
    assert found(half_precision, with_products(products, **rank)) == names
    assert found(half_precision, with_products(products, updates=2, **rank)) == []


def test_a_scaler_is_a_sign_of_16_bits():
    run = with_products(SINGLE, fast_formats=("fp16",))
    assert found(half_precision, run)
    scaled_run = with_updates(run, lambda _, update: replace(update, loss_scale=1024.0))
    assert found(half_precision, scaled_run) == []


def test_no_gain_is_made_up():
    (finding,) = half_precision(with_products(SINGLE, fast_formats=("bf16",)))
    assert "`batchwright advise TASK` measures it" in finding.cost
    assert finding.share == 0


@pytest.mark.parametrize(
    ("framework", "formats", "code"),
    [
        ("transformers", ("bf16",), "TrainingArguments(..., bf16=True)"),
        ("trl", ("fp16",), "TrainingArguments(..., fp16=True)"),
        ("accelerate", ("bf16", "fp16"), 'Accelerator(mixed_precision="bf16")'),
        ("lightning", ("bf16",), 'Trainer(..., precision="bf16-mixed")'),
        ("lightning", ("fp16",), 'Trainer(..., precision="16-mixed")'),
        ("keras", ("bf16",), 'keras.config.set_dtype_policy("mixed_bfloat16")'),
        ("torch", ("bf16",), 'with torch.autocast("cuda", torch.bfloat16):'),
        ("torch", ("fp16",), 'scaler = torch.amp.GradScaler("cuda")'),
    ],
)
def test_the_cure_is_in_the_words_of_the_framework(framework, formats, code):
    run = with_products(SINGLE, fast_formats=formats, framework=framework, device="cuda:0")
    (finding,) = half_precision(run)
    assert finding.code[0] == code


def test_right_runs_have_no_finding():
    for run in (run_of(np.arange(240)), Run(ranks=())):
        for check in CHECKS:
            assert found(check, run) == []
