"""The figures of a GPU in words: tables of arms, and what was hoped for beside what was seen."""

from collections.abc import Iterator

from rich.table import Table

from benchmarks.gpu.speed import Row

OF_LIMIT, OVER_BASELINE, MOST_OFF, GRADIENT, WAITED = 0.95, 1.8, 0.03, 1e-5, 0.01
"""What is hoped for on an H100 or H200."""

TITLES = {
    "language": "GPT, texts",
    "two_columns": "encoder-decoder, pairs of texts",
    "resolutions": "vision transformer, images of varying size",
    "precision": "GPT, planned batches, by precision",
    "static_shapes": "GPT, few padded shapes, compiled and not",
}


def tables(found: dict[str, Row]) -> Iterator[Table]:
    """Show the arms of each part that has some."""
    for name, title in TITLES.items():
        if name in found and "arms" in found[name]:
            yield _arms(title, found[name]["arms"])


def _arms(title: str, arms: list[Row]) -> Table:
    shown = Table(title=title, box=None)
    shown.add_column("")
    for heading in ("tokens/s", "over the first", "of the dense limit", "padding", "peak, GiB"):
        shown.add_column(heading, justify="right")
    for arm in arms:
        peak = arm["peak_bytes"]
        shown.add_row(
            arm["name"],
            f"{arm['tokens_per_second']:,.0f}",
            _ratio(arm["speed"]),
            _ratio(arm["of_limit"]),
            f"{arm['padding']:.1%}",
            "" if peak is None else f"{peak / 2**30:.2f}",
        )
    return shown


def _ratio(found: Row | None) -> str:
    if found is None:
        return ""
    if found["low"] is None:
        return f"{found['ratio']:.2f}"
    return f"{found['ratio']:.2f} ({found['low']:.2f} – {found['high']:.2f})"


def verdicts(found: dict[str, Row]) -> list[str]:
    """Say what was hoped for, what was seen, and whether that is enough.

    Example:
        >>> verdicts({"loader": {"workers": 2, "waited": 0.004}})
        ['the loop waits for 2 workers: 0.4 % of the time, at most 1 %: kept']
    """
    return [
        f"{what}: {seen}, {bound}: {'kept' if kept else 'MISSED'}"
        for what, seen, bound, kept in _judged(found)
    ]


def _judged(found: dict[str, Row]) -> Iterator[tuple[str, str, str, bool]]:
    has = {name: row for name, row in found.items() if "failed" not in row}
    if "language" in has:
        arms = {each["name"].partition("+")[0]: each for each in has["language"]["arms"]}
        for name in ("planned", "packed"):
            share = arms[name]["of_limit"]["ratio"]
            bound = f"at least {OF_LIMIT}"
            yield f"{name}, of the dense limit", f"{share:.3f}", bound, share >= OF_LIMIT
        over = arms["planned"]["speed"]["ratio"]
        bound = f"at least {OVER_BASELINE}"
        yield "planned over the baseline", f"{over:.2f} ×", bound, over >= OVER_BASELINE
    if "prediction" in has:
        off, under = (
            has["prediction"]["most_off"],
            has["prediction"]["under_by_more_than_the_margin"],
        )
        shapes = f"memory predicted at {has['prediction']['shapes']} shapes, most off"
        bound = f"at most {100 * MOST_OFF:.0f} %, never under by more than the margin"
        yield shapes, f"{100 * off:.1f} %", bound, off <= MOST_OFF and not under
    if "recovery" in has:
        row = has["recovery"]
        how = "true" if row["is_true"] else "imitated"
        lost = row["bytes_lost"]
        seen = f"gradient off by {row['gradient_error']:.1e} after {row['retries']} retries"
        seen += "" if lost is None else f", {lost:,} bytes lost"
        is_right = row["gradient_error"] <= GRADIENT and row["retries"] > 0 and not lost
        yield f"out of memory, {how}", seen, f"at most {GRADIENT:.0e}, none lost", is_right
    if "loader" in has:
        row = has["loader"]
        seen, bound = f"{100 * row['waited']:.1f} % of the time", f"at most {WAITED * 100:.0f} %"
        yield f"the loop waits for {row['workers']} workers", seen, bound, row["waited"] <= WAITED
