"""Checks what Batchwright claims, one row a claim: target, figure seen, verdict.

\b
python -m benchmarks.claims            a few minutes; writes benchmarks/results/claims.json
python -m benchmarks.claims --quick    a hundredth of the samples, writes nothing

Exit code 1 if a claim is missed. The targets hold for the full size: a quick run fails only
where a promise is broken that holds at any size, such as the budget.
"""

import itertools
import sys
from collections import Counter
from pathlib import Path

import click
from rich.table import Table
from rich.text import Text

from benchmarks import machine
from benchmarks.claims import balance, mixing, orders, resuming, speed, watching
from benchmarks.claims.claim import Claim, Claims, Verdict
from benchmarks.reporting import (
    output_path,
    progress_bar,
    table_console,
    warn_if_disturbed,
    write_result,
)

GROUPS: dict[str, Claims] = {
    "planning": speed.planning,
    "packing": speed.packing,
    "packing documents": speed.packing_documents,
    "importing": speed.importing,
    "stratified updates": mixing.stratified,
    "updates alike": mixing.by_update,
    "variety": mixing.varied,
    "balance of padded tokens": balance.padded,
    "balance of squared lengths": balance.quadratic,
    "resuming": resuming.resuming,
    "curriculum": orders.curriculum,
    "padding under a curriculum": orders.padding,
    "mixtures": orders.mixtures,
    "weights": orders.weights,
    "watching": watching.watching,
}

STYLES: dict[Verdict, str] = {
    "kept": "green",
    "missed": "bold red",
    "too few": "yellow",
    "shown": "dim",
}


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="Take a hundredth of the samples.")
@click.option("--only", type=click.Choice(list(GROUPS)), multiple=True, help="These groups.")
@click.option("--output", type=click.Path(path_type=Path), help="Where to write the JSON.")
def main(*, quick: bool, only: tuple[str, ...], output: Path | None) -> None:
    """Check all claims, print a table, write the result."""
    with machine.one_core() as pinned:
        claims = checked(only or tuple(GROUPS), quick=quick)
    console = table_console()
    console.print(table(claims, quick=quick))
    counts = Counter(claim.verdict(quick=quick) for claim in claims)
    console.print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    warn_if_disturbed(claim.more["at_work"] for claim in claims if "at_work" in claim.more)

    target = output_path("claims", output, quick=quick or bool(only))
    if target is not None:
        options = [*(["--quick"] * quick), *(f'--only "{name}"' for name in only)]
        rows = [claim.as_json(quick=quick) for claim in claims]
        result = {"one_core": pinned, "quick": quick, "verdicts": counts, "claims": rows}
        write_result(target, " ".join(["python -m benchmarks.claims", *options]), result)
    sys.exit(int(counts["missed"] > 0))


def checked(groups: tuple[str, ...], *, quick: bool) -> list[Claim]:
    """Check the claims of some groups, with a bar meanwhile."""
    divisor = 100 if quick else 1
    found: list[Claim] = []
    with progress_bar() as progress:
        bar = progress.add_task("", total=len(groups))
        for group in groups:
            progress.update(bar, description=group, refresh=True)
            for claim in GROUPS[group](lambda size: size // divisor):
                found.append(claim)
                progress.update(bar, description=f"{group}: {claim.name}", refresh=True)
            progress.update(bar, advance=1, refresh=True)
    return found


def table(claims: list[Claim], *, quick: bool) -> Table:
    """Lay out claims, those of one subject together."""
    caption = "quick: a hundredth of the samples; the targets hold for all" if quick else None
    out = Table(title="What Batchwright claims", caption=caption)
    for heading in ("claim", "target", "seen", "verdict"):
        out.add_column(heading, no_wrap=heading in {"target", "verdict"})
    for subject, rows in itertools.groupby(claims, key=lambda claim: claim.subject):
        out.add_section()
        out.add_row(Text(subject, style="bold"))
        for claim in rows:
            verdict = claim.verdict(quick=quick)
            seen = Text(claim.seen)
            if claim.note:
                seen.append(f"; {claim.note}", style="dim")
            out.add_row(
                Text(f"  {claim.name}"), claim.target, seen, Text(verdict, style=STYLES[verdict])
            )
    return out


if __name__ == "__main__":
    main()
