r"""Whether the estimated share of wrong labels is right: 40 draws over five data sets.

\b
python -m benchmarks.label_noise                some minutes; writes results/label_noise.json
python -m benchmarks.label_noise --quick        one data set, four draws, writes nothing
python -m benchmarks.label_noise --development  the data sets that constants were chosen on

Labels of real data, which are right, are made wrong: a share of all, moved to any other class, or
shares that differ between classes, most of which become one other class. `profile_labels` then
estimates the share from the features. Times do not matter. Exit code 1 if the true share is in less
than nine tenths of the intervals, or an interval of 4,000 samples is wider than 0.12.
"""

import sys
from pathlib import Path

import click

from benchmarks.label_noise.data_sets import CHECKED, DEVELOPMENT
from benchmarks.label_noise.draws import DRAWS, drawn, estimated, summed_up, table_of
from benchmarks.reporting import output_path, progress_bar, table_console, write_result


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="One data set, four draws; nothing is written.")
@click.option("--development", is_flag=True, help="Other data sets; nothing is written.")
@click.option("--seed", default=0, help="Of samples and wrong labels.")
@click.option("--output", type=click.Path(path_type=Path), help="Where to write the result.")
def main(quick: bool, development: bool, seed: int, output: Path | None) -> None:
    sets = dict(list(CHECKED.items())[:1]) if quick else DEVELOPMENT if development else CHECKED
    draws = DRAWS[::2] if quick else DRAWS
    rows = []
    with progress_bar() as bar:
        work = bar.add_task("estimating", total=len(sets) * len(draws))
        for name, load in sets.items():
            given = load()
            for draw in draws:
                rows.append(estimated(name, *drawn(given, draw, seed=seed), draw))
                bar.update(work, advance=1, refresh=True)
    summary = summed_up(rows)
    console = table_console()
    console.print(table_of(rows))
    console.print(summary.sentence)
    path = output_path("label_noise", output, quick=quick or development)
    if path is not None:
        command = f"python -m benchmarks.label_noise{f' --seed {seed}' if seed else ''}"
        write_result(path, command, {**summary.as_dict(), "draws": rows})
    sys.exit(0 if quick or development or summary.is_met else 1)


if __name__ == "__main__":
    main()
