"""Asks what the composition of updates does to the validation loss, at equal tokens.

\b
python -m benchmarks.mixing            half an hour; writes benchmarks/results/mixing.json
python -m benchmarks.mixing --quick    under a minute, two seeds, writes nothing

A small GPT learns one epoch of functions of Python's own library, with updates composed in ten
ways: the same first weights for the same seed, the same learning rate at the same token, the
exact token mean as the loss of an update, about as many real tokens in each. Only losses are
taken, no times, so it may run beside other work. It uses one thread.
"""

import sys
from collections import defaultdict
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click
import torch
from rich.progress import Progress

from benchmarks.mixing.compositions import Mix, compositions, mix
from benchmarks.mixing.figures import Result, results_of, sentences, table
from benchmarks.mixing.from_examples import Job, prepare
from benchmarks.mixing.training import Losses, train, unigram_loss
from benchmarks.reporting import output_path, progress_bar, table_console, write_result

INTERRUPTED = 130


@dataclass(frozen=True)
class Settings:
    """What all arms share.

    Args:
        step_tokens: Real tokens of an update, about.
        num_samples: Functions to train on, once each.
        num_validation: Functions to validate on.
        vocabulary: Tokens of the vocabulary.
        context: The longest sample, tokens.
        width: Of the model.
        learning_rate: The highest.
    """

    step_tokens: int = 2_048
    num_samples: int = 5_000
    num_validation: int = 200
    vocabulary: int = 1_024
    context: int = 256
    width: int = 64
    learning_rate: float = 4e-3


QUICK = Settings(num_samples=500, num_validation=50, vocabulary=512)


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seeds", type=click.IntRange(1), help="Default: 8; 2 in a quick run.")
@click.option("--quick", is_flag=True, help="A tenth of the samples: too few to learn much.")
@click.option("--output", type=click.Path(path_type=Path), help="Where to write the JSON.")
def main(*, seeds: int | None, quick: bool, output: Path | None) -> None:
    """Train all arms, print a table, write the result."""
    torch.set_num_threads(1)
    settings = QUICK if quick else Settings()
    seeds = seeds or (2 if quick else 8)
    console = table_console()
    try:
        job = replace(
            prepare(
                num_samples=settings.num_samples,
                num_validation=settings.num_validation,
                vocabulary=settings.vocabulary,
                context=settings.context,
            ),
            width=settings.width,
            learning_rate=settings.learning_rate,
        )
        with progress_bar() as progress:
            results = run(job, settings.step_tokens, seeds, progress)
    except KeyboardInterrupt:
        click.echo("Interrupted: nothing was written.", err=True)
        sys.exit(INTERRUPTED)
    unigram, told = unigram_loss(job), sentences(results)
    console.print(table(results))
    console.print(f"\nKnowing only how frequent tokens are: {unigram:.3f} nats.", highlight=False)
    for sentence in told:
        console.print(sentence, highlight=False, markup=False)
    target = output_path("mixing", output, quick=quick)
    if target is not None:
        command = f"python -m benchmarks.mixing{' --quick' * quick} --seeds {seeds}"
        result = {
            "torch": torch.__version__,
            "settings": asdict(settings),
            "seeds": list(range(seeds)),
            "num_tokens": int(job.lengths.sum()),
            "unigram_loss": unigram,
            "said": told,
            "arms": [each.as_json() for each in results.values()],
        }
        write_result(target, command, result)


def run(job: Job, step_tokens: int, seeds: int, progress: Progress) -> dict[str, Result]:
    """Train all arms with all seeds, one after the other: a seed draws weights and order."""
    arms = compositions(step_tokens)
    mixes: dict[str, list[Mix]] = defaultdict(list)
    losses: dict[str, list[Losses]] = defaultdict(list)
    bar = progress.add_task("", total=seeds * len(arms))
    for seed in range(seeds):
        seeded = replace(job, seed=seed)
        for name, compose in arms.items():
            progress.update(bar, description=f"seed {seed}: {name}", refresh=True)
            updates = compose(job.lengths, seed)
            share = 1 / len(updates)
            mixes[name].append(mix(updates, job.lengths))
            losses[name].append(
                train(
                    seeded,
                    updates,
                    lambda share=share: progress.update(bar, advance=share, refresh=True),
                )
            )
    return results_of(mixes, losses)


if __name__ == "__main__":
    main()
