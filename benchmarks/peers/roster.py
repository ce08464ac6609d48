"""Who is compared: what of each peer is run, on what, and what it was not made for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["padded", "packed", "balance"]

ADAPTERS = Path(__file__).parent / "adapters"
OURS = ADAPTERS / "batchwright.py"

UPDATE = 32
"""Batches of an update, wherever what an update holds is compared."""


@dataclass(frozen=True)
class Peer:
    """A planning function of another library.

    Attributes:
        name: What `--only` takes.
        title: What tables show.
        kind: Padded batches, packed rows, or balance among ranks.
        environment: Its pins are ``environments/NAME.txt``.
        adapter: Its file is ``adapters/NAME.py``.
        ran: What was run, in a sentence.
        lacks: What it does not do, in a sentence; it may not be meant to.
        setting: Handed to the adapter, beside the budget.
        ours: Handed to our own adapter, beside the budget.
        sizes: Samples to plan instead of the usual numbers.
        variables: Of the environment, for the peer and for us.
        most_tokens: More tokens than this are not planned, as it holds them in memory.
    """

    name: str
    title: str
    kind: Kind
    environment: str
    adapter: str
    ran: str
    lacks: str
    setting: Mapping[str, object] = field(default_factory=dict)
    ours: Mapping[str, object] = field(default_factory=dict)
    sizes: tuple[int, ...] | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    most_tokens: int | None = None

    @property
    def file(self) -> Path:
        """The adapter's file."""
        return ADAPTERS / f"{self.adapter}.py"


_RANKS = {"world_size": 8, "accumulate": UPDATE // 8}
_PARTS = {"parts": 8}
_NO_EQUAL = "Rows for ranks are assigned elsewhere, by number and not by cost."

PEERS = (
    Peer(
        "fairseq",
        "fairseq batch_by_size",
        "padded",
        "fairseq",
        "fairseq",
        "`batch_by_size_vec`, the compiled cut, with the shuffle, the sort and the shuffle of "
        "batches that its dataset and iterator put around it, and a batch-size multiple of 1.",
        "All batches are slices of one sort, so their contents hardly change between epochs; "
        "ranks with fewer batches are given empty ones; a sample above the budget is an error.",
        setting={"multiple": 1},
    ),
    Peer(
        "fairseq-epoch",
        "fairseq, each further epoch",
        "padded",
        "fairseq",
        "fairseq",
        "The same, beside a `Planner` that was made before: what every epoch but the first costs. "
        "Elsewhere ours is made anew for each plan.",
        "It sorts again in every epoch.",
        setting={"multiple": 1},
        ours={"again": True},
    ),
    Peer(
        "fairseq-epoch-sort",
        "fairseq, the same without AVX-512",
        "padded",
        "fairseq",
        "fairseq",
        "The same, with NumPy's sort for AVX-512 switched off for both by "
        '`NPY_DISABLE_CPU_FEATURES="X86_V4 AVX512_ICL"`: how fast it is differs between '
        "processors.",
        "It sorts again in every epoch.",
        setting={"multiple": 1},
        ours={"again": True},
        variables={"NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL"},
    ),
    Peer(
        "fairseq-updates",
        "fairseq, our updates of 32",
        "padded",
        "fairseq",
        "fairseq",
        "The same, beside our plan for 32 batches an update, each update with one batch of every "
        "length stratum. Elsewhere ours, too, is planned for single batches.",
        "It has no updates of even composition; the mix shows what they are, the time what they "
        "cost.",
        setting={"multiple": 1},
        ours={"accumulate": UPDATE},
    ),
    Peer(
        "fairseq-8",
        "fairseq, multiples of 8",
        "padded",
        "fairseq",
        "fairseq",
        "The same with `--required-batch-size-multiple 8`, which is its default.",
        "Batches of more than 8 samples hold a multiple of 8, which leaves some of the budget.",
        setting={"multiple": 8},
    ),
    Peer(
        "transformers-longest",
        "transformers group_by_length, safe",
        "padded",
        "torch",
        "transformers_group",
        "`LengthGroupedSampler` with the largest fixed batch that keeps the budget when all "
        "samples are as long as the longest.",
        "It knows no budget: batches have a fixed number of samples.",
        setting={"fit": "longest"},
    ),
    Peer(
        "transformers-mean",
        "transformers group_by_length, mean",
        "padded",
        "torch",
        "transformers_group",
        "`LengthGroupedSampler` with the fixed batch that holds the budget on average.",
        "It knows no budget: batches have a fixed number of samples.",
        setting={"fit": "mean"},
    ),
    Peer(
        "transformers-rebalance",
        "transformers BatchRebalanceSampler",
        "padded",
        "torch",
        "transformers_rebalance",
        "`BatchRebalanceSampler` for 8 ranks × 4, as many samples an update as hold 32 budgets "
        "on average. The work of one rank is timed; each rank repeats it.",
        "It balances cost among ranks, at a fixed number of samples an update, and knows no "
        "budget.",
        setting=_RANKS,
        ours=_RANKS,
    ),
    Peer(
        "lhotse",
        "lhotse DynamicBucketer",
        "padded",
        "torch",
        "lhotse",
        "`DynamicBucketer` with the defaults of `DynamicBucketingSampler` (30 buckets, a buffer "
        "of 20,000, buckets in step) and a `TokenConstraint`, on items that hold a length only.",
        "A batch is closed after the sample that overflows it. Resuming replays the batches. "
        "It does what a plan made ahead cannot: it takes streams whose lengths are unknown.",
        setting={"buckets": 30, "sync": True},
    ),
    Peer(
        "lhotse-unsynced",
        "lhotse, sync_buckets=False",
        "padded",
        "torch",
        "lhotse",
        "The same with `sync_buckets=False`: each rank draws its own buckets.",
        "An empty bucket can be drawn, which ends the epoch early.",
        setting={"buckets": 30, "sync": False},
    ),
    Peer(
        "espnet",
        "ESPnet NumElementsBatchSampler",
        "padded",
        "torch",
        "espnet",
        "`NumElementsBatchSampler`, the reading of its file of lengths included, as it cannot be "
        "had without.",
        "A batch is closed after the sample that overflows it; batches are the same in every "
        "epoch.",
    ),
    Peer(
        "deepspeed",
        "DeepSpeed batch_by_seqlens",
        "padded",
        "torch",
        "deepspeed",
        "`batch_by_seqlens` in ascending sequence, which is its budget of *real* tokens.",
        "The budget counts no padding; its search takes time cubic in the number of samples.",
        sizes=(1_000, 2_000, 4_000),
    ),
    Peer(
        "trl",
        "TRL bfd, as shipped",
        "packed",
        "torch",
        "trl",
        "`pack_dataset(strategy='bfd')` over a dataset in memory, of tokens without a value, "
        "which are the cheapest to copy.",
        "It packs 1,000 samples at a time, and writes a packed copy of the data. " + _NO_EQUAL,
        setting={"scope": "shipped"},
    ),
    Peer(
        "trl-whole",
        "TRL bfd, one table",
        "packed",
        "torch",
        "trl",
        "Its inner `_pack_bfd` on all samples at once, without the copying of tokens.",
        "It is not called like this, but by `pack_dataset`; so this is how good its algorithm is.",
        setting={"scope": "whole"},
    ),
    Peer(
        "llamafactory",
        "LLaMA-Factory greedy_knapsack",
        "packed",
        "light",
        "llamafactory",
        "`greedy_knapsack` on all lengths at once (it is called on 1,000 at a time), with the "
        "lists of samples by length around it that its callers keep.",
        "Its time grows with the square of the samples. Longer samples are skipped. " + _NO_EQUAL,
    ),
    Peer(
        "axolotl",
        "axolotl MultipackBatchSampler",
        "packed",
        "torch",
        "axolotl",
        "`MultipackBatchSampler.generate_batches` over a random sequence, at most 200 samples a "
        "row, in one process, compiled by numba before it is timed.",
        "Ranks are cut to the fewest rows that one of them has. " + _NO_EQUAL,
        setting={"sequential": False},
    ),
    Peer(
        "axolotl-sequential",
        "axolotl, sequential",
        "packed",
        "torch",
        "axolotl",
        "The same with `sequential=True`: rows of consecutive samples. Beside it stands our best "
        "fit all the same; `Packing(method='next_fit')` is what does the same.",
        "It keeps the sequence, at the price of empty space.",
        setting={"sequential": True},
    ),
    Peer(
        "grain-first",
        "grain FirstFitPackIterDataset",
        "packed",
        "light",
        "grain",
        "`FirstFitPackIterDataset` with 64 open rows, on samples of one byte a token, which it "
        "copies into place.",
        "It packs as the data stream by, so lengths need not be known; its state can be kept in "
        "the middle of a row.",
        setting={"fit": "first", "rows": 64},
    ),
    Peer(
        "grain-best",
        "grain BestFitPackIterDataset",
        "packed",
        "light",
        "grain",
        "`BestFitPackIterDataset`, with 64 open rows, likewise.",
        "It packs as the data stream by, too.",
        setting={"fit": "best", "rows": 64},
    ),
    Peer(
        "torchtune",
        "torchtune PackedDataset",
        "packed",
        "torch",
        "torchtune",
        "`PackedDataset` without splitting. It packs tokens, so the time is not planning alone: "
        "every row is also copied and padded.",
        "It keeps the sequence, one row after the other, and holds all rows in memory.",
        most_tokens=50_000_000,
    ),
    Peer(
        "verl",
        "verl Karmarkar–Karp",
        "balance",
        "torch",
        "verl",
        "`get_seqlen_balanced_partitions`, 1,024 samples for 8 ranks, sizes free. "
        "Beside it: `bw.balance(costs, 8)`.",
        "It shares out one given batch, as `bw.balance` does.",
        setting=_PARTS,
        ours=_PARTS,
        sizes=(1_024,),
    ),
)

NOT_RUN = {
    "speechbrain 1.1.2, DynamicBatchSampler": "not installed: importing it needs torchaudio, whose "
    "newest release, 2.11.0, does not load beside torch 2.13.0 for CPUs",
    "llm-foundry 0.22.0, BinPackCollator": "not installed: importing it needs composer, whose "
    "newest release, 0.32.1, needs torch below 2.7.1",
}
"""Who is not compared, and why."""
