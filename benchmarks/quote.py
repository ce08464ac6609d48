"""Write the figures of the result files into README.md, so that it says nothing else.

python -m benchmarks.quote            write them
python -m benchmarks.quote --check    say whether they are the ones of the files; exit code 1 if not
"""

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.reporting import RESULTS

README = machine.REPOSITORY / "README.md"

Facts = Mapping[str, Any]


def demo(facts: Facts) -> str:
    """Show the demonstration's arms."""
    rows = [
        (
            f"**{arm['name']}**" if arm["name"].startswith("planned") else arm["name"],
            f"{arm['speed_over_plain']:.2f} ×",
            f"{arm['speed_over_limit']:.2f}",
            f"{arm['padding']:.1%}",
            f"{arm['worst_batch_over_budget']:.2f}",
            "" if arm["final_loss"] is None else f"{arm['final_loss']:.3f}",
            _time(arm),
        )
        for arm in facts["arms"]
    ]
    head = (
        "",
        "real tokens/s over plain",
        "of the dense limit",
        "padding",
        "worst batch ÷ budget",
        "validation loss",
        "time to plain's final loss",
    )
    told = "\n".join(f"- {sentence}" for sentence in facts["said"])
    return f"{_table(head, rows)}\n\n{told}\n\n{_source('demo', facts)}"


def planning(facts: Facts) -> str:
    """Show what a plan costs beside a plain shuffle."""
    rows = [
        (
            row["case"],
            f"{row['samples']:,}",
            _seconds(row["seconds_median"]["first plan"]),
            f"{row['ratio']['first plan']['Generator.permutation(n)']['median']:.2f} ×",
            f"{row['ratio']['first plan']['counting argsort']['median']:.1f} ×",
        )
        for row in facts["rows"]
        if row["samples"] >= 1_000_000
    ]
    head = ("", "lengths", "a plan takes", "÷ `Generator.permutation(n)`", "÷ counting argsort")
    whole = json.loads((RESULTS / "hundred_million.json").read_text(encoding="utf-8"))
    large = whole["rows"][0]
    most = max(row["peak_bytes_per_sample"] for row in whole["rows"])
    more = (
        f"10⁸ lengths are planned in memory in {large['seconds']:.0f} s, with at most {most:.0f} "
        "bytes a sample above the input. "
        f"`import batchwright` takes {facts['import']['median']:.2f} × `import numpy`."
    )
    return f"{_table(head, rows)}\n\n{more}\n\n{_source('planning', facts)}"


def claims(facts: Facts) -> str:
    """Count the verdicts, and name what was missed."""
    verdicts = facts["verdicts"]
    missed = [
        f"{each['subject']}: {each['claim']}"
        for each in facts["claims"]
        if each["verdict"] == "missed"
    ]
    named = f" Missed: {'; '.join(missed)}." if missed else ""
    kept, lost = verdicts.get("kept", 0), verdicts.get("missed", 0)
    return (
        f"`python -m benchmarks.claims` checks the figures behind them: {kept} kept, {lost} missed."
        f"{named} {_source('claims', facts)}"
    )


BLOCKS: dict[str, Callable[[Facts], str]] = {"demo": demo, "planning": planning, "claims": claims}


def quoted(text: str, results: Path = RESULTS) -> str:
    """Return the text with every block filled from its result file; without one it stays empty."""
    for name, block in BLOCKS.items():
        path = results / f"{name}.json"
        filled = ""
        if path.is_file():
            filled = block(json.loads(path.read_text(encoding="utf-8"))) + "\n"
        pattern = rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)"
        text = re.sub(
            pattern, lambda found, fill=filled: found[1] + fill + found[2], text, flags=re.DOTALL
        )
    return text


def main(arguments: list[str]) -> int:
    before = README.read_text(encoding="utf-8")
    after = quoted(before)
    if "--check" in arguments:
        return int(before != after)
    README.write_text(after, encoding="utf-8")
    return 0


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    lines.insert(1, "|---|" + "--:|" * (lines[0].count("|") - 2))
    return "\n".join(lines)


def _time(arm: Facts) -> str:
    if arm["final_loss"] is None:
        return ""
    return "never" if arm["time_over_plain"] is None else f"{arm['time_over_plain']:.2f}"


def _seconds(seconds: float) -> str:
    return f"{seconds * 1e3:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _source(name: str, facts: Facts) -> str:
    computer = facts["machine"]
    file = f"benchmarks/results/{name}.json"
    made = f"`{facts['command']}` on {computer['cores']} cores of {computer['cpu']}"
    return f"<sub>{made}, {facts['date']}; [{file}]({file})</sub>"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
