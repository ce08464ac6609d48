"""Whether the precision that was chosen is the quicker one, measured anew."""

import copy
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from batchwright.torch import Precision
from benchmarks.claims.claim import Claim, Samples
from benchmarks.precision.language_model import Batch, full, loss_sum, make, token_count

ROWS = 8
LENGTHS = {32: 32, 64: 64, 128: 128, 256: 128, 512: 128}
ROUNDS = 20
FLAGS = ("avx512_bf16", "amx_bf16")


def choice(rounds: Samples) -> Iterator[Claim]:
    """Choose for models of several widths, then time updates of the choice and of fp32 in turns."""
    can = _has_brain_floats()
    for width, length in LENGTHS.items():
        model, batch = make(width), full(ROWS, length)
        chosen = Precision.measure(model, loss_sum, batch)
        # The choice once more, by name: nothing of its own measurement is used below.
        seconds, at_work = _in_turns(
            model, batch, ("fp32", chosen.mode or ""), rounds(ROUNDS * max(1, 256 // width))
        )
        ratios = [b / a for a, b in zip(*seconds, strict=True)]
        ratio = statistics.median(ratios)
        subject = f"the choice for a Transformer of width {width}, {ROWS} × {length} tokens"
        trials = {each.mode: round(each.ratio, 3) for each in chosen.evidence.trials}
        more = {
            "chosen": chosen.mode,
            "told": trials,
            "ratios": ratios,
            "fp32_seconds": statistics.median(seconds[0]),
            "at_work": at_work,
        }
        yield Claim(
            subject,
            "time of an update × that in fp32",
            ratio,
            at_most=1.03,
            note=f"chose {chosen.mode} (told {trials}); {min(ratios):.2f} to {max(ratios):.2f} in "
            f"{len(ratios)} rounds, {1e3 * statistics.median(seconds[0]):.3g} ms in fp32",
            more=more,
        )
        if width == 256:
            bounds = {"at_least": 1.5} if can else {}
            yield Claim(
                subject,
                "faster than fp32" if can else "faster than fp32 (no AVX512-BF16 here)",
                1 / ratio,
                **bounds,
                unit="×",
                note=f"chose {chosen.mode}",
            )
            if can:
                yield Claim.true(subject, "bf16 was chosen", chosen.mode == "bf16")


def _in_turns(
    model: torch.nn.Module, batch: Batch, modes: tuple[str, str], rounds: int
) -> tuple[list[list[float]], float]:
    """Time updates of two modes, each on a copy of its own; who begins alternates."""
    steps = [_Step(model, batch, mode) for mode in modes]
    seconds: list[list[float]] = [[], []]
    wall, worked = time.perf_counter(), time.process_time()
    for turn in range(-1, rounds):
        for each in (0, 1) if turn % 2 else (1, 0):
            taken = steps[each]()
            if turn >= 0:
                seconds[each].append(taken)
    wall, worked = time.perf_counter() - wall, time.process_time() - worked
    return seconds, min(1.0, worked / wall)


class _Step:
    def __init__(self, model: torch.nn.Module, batch: Batch, mode: str) -> None:
        self.model, self.batch = copy.deepcopy(model), batch
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3)
        self.precision = Precision(mode, check_loss=False)
        self.weight = token_count(batch)

    def __call__(self) -> float:
        start = time.perf_counter()
        with self.precision.update(self.model, self.optimizer, weight=self.weight) as update:
            update.backward(loss_sum, self.batch)
        return time.perf_counter() - start


def _has_brain_floats() -> bool:
    info = Path("/proc/cpuinfo")
    return info.is_file() and any(flag in info.read_text(encoding="utf-8") for flag in FLAGS)
