r"""What it takes to fetch and collate a batch, by way of how the tokens are kept and read.

\b
python -m benchmarks.flat_tokens               half a minute
python -m benchmarks.flat_tokens --quick       seconds, write no result

Each way reads the same planned batches of at most 16,384 tokens, from files that are mapped, and
gives the same tensors, which is checked first.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from rich.table import Table
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

import batchwright as bw
from batchwright.torch import FlatTokens, PackCollator, PadCollator
from benchmarks import machine
from benchmarks.length_sets import TEXT
from benchmarks.reporting import output_path, table_console, warn_if_disturbed, write_result
from benchmarks.timing import Times, in_turns

MAX_TOKENS = 16_384
VOCABULARY = 50_000
TOGETHER = 100  # batches of one reading of the clock

FLAT = "FlatTokens, PadCollator"
FLAT_LABELS = "FlatTokens, PadCollator, with labels and mask"
FLAT_PACKED = "FlatTokens, PackCollator"
SLICES = "slices of a memory map, pad_sequence"
SLICES_COLLATED = "slices of a memory map, PadCollator"
SLICES_PACKED = "slices of a memory map, PackCollator"
DATASETS = "datasets.Dataset, DataCollatorForSeq2Seq"

RATIOS = (
    (SLICES, FLAT),
    (SLICES_COLLATED, FLAT),
    (SLICES_PACKED, FLAT_PACKED),
    (DATASETS, FLAT_LABELS),
)
"""Pairs that give the same tensors."""

FEWER = {DATASETS: 5}
"""Ways that are timed on fewer batches at once."""

Way = Callable[[list[int]], Any]


class Slices(Dataset[dict[str, torch.Tensor]]):
    """Samples as they are commonly cut out of a memory map."""

    def __init__(self, tokens: np.ndarray, offsets: np.ndarray) -> None:
        self.tokens, self.offsets = tokens, offsets

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        part = self.tokens[self.offsets[index] : self.offsets[index + 1]]
        return {"input_ids": torch.from_numpy(part.astype(np.int64))}


def written(folder: Path, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Write tokens and offsets; return them mapped."""
    offsets = np.append(0, np.cumsum(lengths, dtype=np.int64))
    tokens = np.random.default_rng(0).integers(1, VOCABULARY, offsets[-1], dtype=np.uint16)
    np.save(folder / "tokens.npy", tokens)
    np.save(folder / "offsets.npy", offsets)
    names = ("tokens.npy", "offsets.npy")
    first, second = (np.load(folder / name, mmap_mode="r") for name in names)
    return first, second


def ways(folder: Path, tokens: np.ndarray, offsets: np.ndarray) -> dict[str, Way]:
    """Return what is timed: name → from the samples of a batch to its tensors."""
    flat, labelled = FlatTokens(tokens, offsets), FlatTokens(tokens, offsets, labels=True)
    slices, pad, pack = Slices(tokens, offsets), PadCollator(), PackCollator()
    pad_labels = PadCollator(attention_mask=True)
    dataset, collate = _of_hugging_face(folder, tokens, offsets)

    def sliced(batch: list[int]) -> list[dict[str, torch.Tensor]]:
        return [slices[index] for index in batch]

    def padded(batch: list[int]) -> dict[str, torch.Tensor]:
        rows = [sample["input_ids"] for sample in sliced(batch)]
        return {"input_ids": pad_sequence(rows, batch_first=True)}

    return {
        FLAT: lambda batch: pad(flat.__getitems__(batch)),
        SLICES: padded,
        SLICES_COLLATED: lambda batch: pad(sliced(batch)),
        FLAT_PACKED: lambda batch: pack(flat.__getitems__(batch)),
        SLICES_PACKED: lambda batch: pack(sliced(batch)),
        FLAT_LABELS: lambda batch: pad_labels(labelled.__getitems__(batch)),
        DATASETS: lambda batch: collate(dataset.__getitems__(batch)),
    }


def _of_hugging_face(folder: Path, tokens: np.ndarray, offsets: np.ndarray) -> tuple[Any, Any]:
    """Save the samples as a data set, mapped, and make the collator of causal language models."""
    import datasets
    import pyarrow as pa
    from tokenizers import Tokenizer, models
    from transformers import DataCollatorForSeq2Seq, PreTrainedTokenizerFast

    datasets.disable_progress_bars()
    ids = pa.LargeListArray.from_arrays(offsets, pa.array(tokens.astype(np.int32)))
    ones = pa.LargeListArray.from_arrays(offsets, pa.array(np.ones(tokens.size, np.int8)))
    table = pa.table({"input_ids": ids, "attention_mask": ones, "labels": ids})
    datasets.Dataset(table).save_to_disk(folder / "saved")
    words = Tokenizer(models.WordLevel({"[PAD]": 0}, "[PAD]"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]")  # noqa: S106
    return datasets.load_from_disk(folder / "saved"), DataCollatorForSeq2Seq(tokenizer)


def check(found: dict[str, Way], batch: list[int]) -> None:
    """Raise unless ways that are compared give the same tensors."""
    for name, other in RATIOS:
        first, second = found[name](batch), found[other](batch)
        for field, value in first.items():
            same = second[field] == value
            if not (same.all() if isinstance(value, torch.Tensor) else same):
                raise RuntimeError(f"{name} and {other} differ in {field!r}")


def timed(found: dict[str, Way], batches: Sequence[list[int]], *, rounds: int) -> Times:
    """Time all ways in turns, on other batches in each round."""

    def task(way: Way, together: int) -> Callable[[int], None]:
        def run(turn: int) -> None:
            for number in range(turn * together, (turn + 1) * together):
                way(batches[number % len(batches)])

        return run

    counts = {name: FEWER.get(name, TOGETHER) for name in found}
    tasks = {name: task(way, counts[name]) for name, way in found.items()}
    times = in_turns(tasks, rounds=rounds)
    seconds = {
        name: [each / counts[name] for each in found] for name, found in times.seconds.items()
    }
    return Times(seconds, times.at_work)


def result_of(times: Times, batches: Sequence[list[int]]) -> dict[str, Any]:
    """Sum up."""
    return {
        "max_tokens": MAX_TOKENS,
        "mean_samples": float(np.mean([len(each) for each in batches])),
        "batches": len(batches),
        "at_work": times.at_work,
        "milliseconds_median": {name: times.median(name) * 1e3 for name in times.seconds},
        "ratio": {
            name: {"to": other, **asdict(times.ratio(name, other))} for name, other in RATIOS
        },
    }


def table(result: dict[str, Any]) -> Table:
    """Lay a result out."""
    out = Table(title="Fetch and collate a batch of 16,384 tokens")
    out.add_column("way")
    for heading in ("ms", "times as long as flat tokens"):
        out.add_column(heading, justify="right")
    for name, milliseconds in result["milliseconds_median"].items():
        ratio = result["ratio"].get(name)
        shown = ratio and f"{ratio['median']:.1f} ({ratio['least']:.1f} to {ratio['most']:.1f})"
        out.add_row(name, f"{milliseconds:.3f}", shown or "")
    return out


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="Few samples and rounds, write no result.")
@click.option("--output", type=click.Path(path_type=Path), help="Where to write the JSON.")
def main(*, quick: bool, output: Path | None) -> None:
    """Check and time all ways, print a table, write the result."""
    torch.set_num_threads(1)
    lengths = TEXT.draw(2_000 if quick else 100_000)
    plan = bw.Planner(lengths, max_tokens=MAX_TOKENS)(0)
    batches = [batch.tolist() for batch in plan[: min(len(plan), 300)]]
    with tempfile.TemporaryDirectory() as name, machine.one_core():
        found = ways(Path(name), *written(Path(name), lengths))
        check(found, batches[0])
        times = timed(found, batches, rounds=2 if quick else 30)
    result = result_of(times, batches)
    table_console().print(table(result))
    warn_if_disturbed([times.at_work or 1.0])
    target = output_path("flat_tokens", output, quick=quick)
    if target is not None:
        command = "python -m benchmarks.flat_tokens" + " --quick" * quick
        write_result(target, command, {"torch": torch.__version__, "threads": 1, **result})


if __name__ == "__main__":
    main()
