"""Checks what is claimed of the update step, one row a claim: target, figure seen, verdict.

\b
python -m benchmarks.precision            some minutes; writes benchmarks/results/precision.json
python -m benchmarks.precision --quick    a twentieth of the rounds, writes nothing

Exit code 1 if a claim is missed. A quick run fails only where a promise is broken that is no
matter of time, such as the gradient. Ranks have tests of their own, in processes.
"""

import sys
from collections import Counter
from pathlib import Path

import click
import torch

from benchmarks import machine
from benchmarks.claims.__main__ import table
from benchmarks.claims.claim import Claim, Claims
from benchmarks.precision import choice, gradient, overhead, skips
from benchmarks.reporting import (
    output_path,
    progress_bar,
    table_console,
    warn_if_disturbed,
    write_result,
)

GROUPS: dict[str, Claims] = {
    "splits": gradient.splits,
    "out of memory": gradient.out_of_memory,
    "skipped steps": skips.skips,
    "choice": choice.choice,
    "overhead": overhead.overhead,
}


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="Take a twentieth of the rounds.")
@click.option("--only", type=click.Choice(list(GROUPS)), multiple=True, help="These groups.")
@click.option("--output", type=click.Path(path_type=Path), help="Where to write the JSON.")
def main(*, quick: bool, only: tuple[str, ...], output: Path | None) -> None:
    """Check all claims, print a table, write the result."""
    torch.set_num_threads(1)
    with machine.one_core() as pinned:
        claims = checked(only or tuple(GROUPS), quick=quick)
    out = table(claims, quick=quick)
    out.title = "What Batchwright claims of an update"
    out.caption = "quick: a twentieth of the rounds; times are rough" if quick else None
    console = table_console()
    console.print(out)
    counts = Counter(claim.verdict(quick=quick) for claim in claims)
    console.print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    warn_if_disturbed(claim.more["at_work"] for claim in claims if "at_work" in claim.more)

    target = output_path("precision", output, quick=quick or bool(only))
    if target is not None:
        options = [*(["--quick"] * quick), *(f'--only "{name}"' for name in only)]
        rows = [claim.as_json(quick=quick) for claim in claims]
        facts = {"one_core": pinned, "torch": torch.__version__, "quick": quick}
        result = {**facts, "verdicts": counts, "claims": rows}
        write_result(target, " ".join(["python -m benchmarks.precision", *options]), result)
    sys.exit(int(counts["missed"] > 0))


def checked(groups: tuple[str, ...], *, quick: bool) -> list[Claim]:
    """Check the claims of some groups, with a bar meanwhile."""
    found: list[Claim] = []
    with progress_bar() as progress:
        bar = progress.add_task("", total=len(groups))
        for group in groups:
            progress.update(bar, description=group, refresh=True)
            for claim in GROUPS[group](lambda rounds: max(3, rounds // 20) if quick else rounds):
                found.append(claim)
                progress.update(bar, description=f"{group}: {claim.name}", refresh=True)
            progress.update(bar, advance=1, refresh=True)
    return found


if __name__ == "__main__":
    main()
