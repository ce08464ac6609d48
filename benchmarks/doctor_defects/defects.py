"""The scripts, and the finding that each must give."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

SCRIPTS = Path(__file__).parent / "scripts"


@dataclass(frozen=True)
class Defect:
    """A training script with one defect; `--repaired` repairs it."""

    name: str  # of the script, without its ending
    framework: str
    finding: str  # the name of the finding that says what is wrong
    ranks: int = 1

    @property
    def script(self) -> Path:
        """Where the script is."""
        return SCRIPTS / f"{self.name}.py"

    def command(self, *, repaired: bool) -> list[str]:
        """Return the words that run it, as its user would: by `torchrun` on several ranks."""
        launcher = [sys.executable]
        if self.ranks > 1:
            launcher += ["-m", "torch.distributed.run", "--standalone"]
            launcher += ["--nproc-per-node", str(self.ranks)]
        return [*launcher, str(self.script), *["--repaired"] * repaired]


DEFECTS = (
    Defect("class_sorted_not_shuffled", "torch", "updates of one class"),
    Defect("stream_not_split_among_workers", "torch", "samples repeated"),
    Defect("large_last_batch_dropped", "torch", "last batch dropped"),
    Defect("batches_overlap_by_one", "torch", "samples repeated"),
    Defect("buckets_drop_their_rest", "torch", "samples lost"),
    Defect("accumulation_not_divided", "torch", "accumulation not divided"),
    Defect("gradients_never_cleared", "torch", "gradients not cleared"),
    Defect("empty_texts_make_nan", "torch", "loss not finite"),
    Defect("root_of_zero_sinks_the_scale", "torch", "loss scale sinks"),
    Defect(
        "schedule_runs_while_steps_are_skipped", "torch", "schedule runs while steps are skipped"
    ),
    Defect("clipped_before_unscaling", "torch", "gradients clipped before unscaling"),
    Defect("autocast_around_the_head", "torch", "autocast misses large products"),
    Defect("slow_reads_in_the_loop", "torch", "waiting for data"),
    Defect("one_giant_sample", "torch", "few batches set the peak memory"),
    Defect("compiled_for_each_shape", "torch", "a shape per update for the compiler"),
    Defect("sampler_without_set_epoch", "torch", "same order in every epoch", ranks=2),
    Defect("shards_dealt_unequally", "torch", "ranks with different counts", ranks=2),
    Defect("loader_remade_with_one_seed", "torchdata", "same order in every epoch"),
    Defect("stream_without_set_epoch", "datasets", "same order in every epoch"),
    Defect("accelerate_splits_again", "accelerate", "samples lost", ranks=2),
    Defect("accelerate_divides_too", "accelerate", "accumulation divided twice"),
    Defect("padding_in_labels", "transformers", "padding counted in the loss"),
    Defect("packed_under_a_mask_of_ones", "transformers", "documents read one another"),
    Defect("grouped_by_length", "transformers", "length-sorted updates"),
    Defect("own_loss_ignores_the_count", "transformers", "accumulation not divided"),
    Defect("always_padded_to_512", "transformers", "padding"),
    Defect("trl_sorted_and_sequential", "trl", "length-sorted updates"),
    Defect("lightning_averages_means", "lightning", "mean of means"),
    Defect("lightning_leaves_ranks_alike", "lightning", "ranks see the same samples", ranks=2),
    Defect("keras_fit_without_shuffle", "keras", "updates of one class"),
)
"""All of them, those of a framework side by side."""

FRAMEWORKS = tuple(dict.fromkeys(each.framework for each in DEFECTS))


def first_of_each() -> tuple[Defect, ...]:
    """Return a script for each framework."""
    return tuple(
        next(each for each in DEFECTS if each.framework == framework) for framework in FRAMEWORKS
    )
