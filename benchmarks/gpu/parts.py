"""The parts that train whole models: texts, precision, pairs, images."""

import torch

from batchwright.compare import Strategy
from batchwright.compare.arm import Arm, moved
from batchwright.torch import Precision
from batchwright.typing import LengthArray
from benchmarks.gpu.attention import KERNELS, Seconds, Segments, fastest, seconds_of
from benchmarks.gpu.models import text_loss
from benchmarks.gpu.sizes import Sizes
from benchmarks.gpu.speed import Row, speeds
from benchmarks.gpu.tasks import images, pairs, texts

MODES = ("fp32", "tf32", "bf16", "fp16")


def language(sizes: Sizes) -> Row:
    """Time a GPT in bf16 on baseline, length-grouped, planned and packed batches."""
    timed = kernels(texts(sizes).sizes, sizes.max_tokens, sizes, causal=True)
    task = texts(sizes, kernel=fastest(timed))
    found = speeds(task, _named("plain", "grouped", "planned", "packed"), **_timing(sizes))
    return {"kernels": timed, "arms": found}


def kernels(lengths: LengthArray, capacity: int, sizes: Sizes, *, causal: bool) -> Seconds:
    """Time the kernels on a row of some samples; or say why they do not run.

    Of those for variable lengths the first that runs is enough: the other takes long to compile.
    """
    kept = torch.from_numpy(lengths[lengths.cumsum() <= capacity])
    ids = torch.arange(len(kept)).repeat_interleave(kept)[None].to(sizes.device)
    edges = torch.cat([torch.zeros(1, dtype=torch.int64), kept.cumsum(0)]).int()
    segments = Segments(edges.to(sizes.device), int(kept.max()), ids)
    options = {"heads": sizes.heads, "width": sizes.width, "causal": causal}
    found: Seconds = {}
    for kernel in KERNELS:
        if kernel == "flex" and (sizes.device != "cuda" or isinstance(found["varlen"], float)):
            continue
        found[kernel] = seconds_of(kernel, segments, **options)
    return found


def static_shapes(sizes: Sizes) -> Row:
    """Time a compiled GPT on a few padded shapes, beside the same batches without compiling."""
    torch._dynamo.config.recompile_limit = max(8, 2 * sizes.shapes)
    options = {"num_shapes": sizes.shapes}
    buckets = Strategy("buckets", kind="buckets", precision="bf16", options=options)
    timing = _timing(sizes) | {"seconds": sizes.seconds / 2, "peaks": False, "dense": False}
    (eager,), (compiled,) = (
        speeds(texts(sizes, compiled=each), [buckets], **timing) for each in (False, True)
    )
    compiled["name"] = "buckets, compiled"
    ratio = compiled["tokens_per_second"] / eager["tokens_per_second"]
    compiled["speed"] = {"ratio": ratio, "low": None, "high": None}
    return {"shapes": sizes.shapes, "arms": [eager, compiled]}


def precision(sizes: Sizes) -> Row:
    """Let `Precision("auto")` choose, and time every mode beside its choice."""
    task = texts(sizes)
    arm = Arm(task, Strategy.named("planned+fp32"), seed=0)
    (batch, *_) = arm.largest_batches()
    chosen = Precision.measure(arm.model, text_loss, moved(batch, arm.device))
    assert chosen.evidence is not None
    modes = [mode for mode in MODES if mode not in chosen.evidence.ruled_out]
    del arm
    timing = _timing(sizes) | {"ahead": 2, "dense": False}  # fp32 takes many times longer
    found = speeds(task, _named(*(f"planned+{mode}" for mode in modes), mode=None), **timing)
    rates = {mode: row["tokens_per_second"] for mode, row in zip(modes, found, strict=False)}
    return {
        "chosen": chosen.mode,
        "fastest": max(rates, key=lambda mode: rates[mode]),
        "chosen_over_fastest": rates[str(chosen.mode)] / max(rates.values()),
        "ruled_out": dict(chosen.evidence.ruled_out),
        "trials": [
            {
                "mode": each.mode,
                "seconds": each.seconds,
                "peak_bytes": each.peak_bytes,
                "gradient_error": each.gradient_error,
            }
            for each in chosen.evidence.trials
        ],
        "arms": found,
    }


def two_columns(sizes: Sizes) -> Row:
    """Time an encoder-decoder in bf16 on baseline, length-grouped and planned batches."""
    strategies = _named("plain", "grouped", "planned")
    return {"arms": speeds(pairs(sizes), strategies, **_timing(sizes))}


def resolutions(sizes: Sizes) -> Row:
    """Time a vision transformer in bf16 on padded images, planned ones, and packed patches."""
    timed = kernels(images(sizes).sizes, sizes.patches, sizes, causal=False)
    task = images(sizes, kernel=fastest(timed))
    strategies = _named("plain", "planned", "packed")
    timing = _timing(sizes) | {"ahead": 2}  # images take long to make
    return {"kernels": timed, "arms": speeds(task, strategies, **timing)}


def _named(*names: str, mode: str | None = "bf16") -> list[Strategy]:
    return [Strategy.named(name if mode is None else f"{name}+{mode}") for name in names]


def _timing(sizes: Sizes) -> Row:
    return {"seconds": sizes.seconds, "warm_up": sizes.warm_up, "ahead": sizes.ahead}
