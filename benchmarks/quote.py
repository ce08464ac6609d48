"""Write the figures of the result files into README.md and docs/, so that they say nothing else.

python -m benchmarks.quote            write them
python -m benchmarks.quote --check    say whether they are the ones of the files; exit code 1 if not
"""

import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from batchwright.compare.result_file import summarized
from benchmarks import machine
from benchmarks.applications import APPLICATIONS, JOBS
from benchmarks.blocks.applications import advice, application, applications, headline
from benchmarks.blocks.doctor_examples import doctor_examples
from benchmarks.blocks.planner import (
    claims,
    constraints,
    flat_tokens,
    index_parquet,
    planning,
    scale,
    shards,
    shards_ahead,
)
from benchmarks.blocks.training import (
    beside_trainer,
    contrastive,
    curricula,
    grouped,
    label_noise,
    memory,
    mixing,
    precision,
    static_shapes,
    variety,
)
from benchmarks.reporting import RESULTS

WITH_UNITS = ("language_model", "vision_transformer")
"""Applications that were also measured on a processor with 16-bit units."""

README = machine.REPOSITORY / "README.md"

Facts = Mapping[str, Any]


BLOCKS: dict[str, Callable[[Facts], str]] = {
    "applications/translation": application,
    "applications": applications,
    "headline": headline,
    "trainer": beside_trainer,
    "group_by_length": grouped,
    "mixing": mixing,
    "variety": variety,
    "static_shapes": static_shapes,
    "contrastive": contrastive,
    "contrastive_plans": constraints,
    "advice": advice,
    "precision": precision,
    "memory_prediction": memory,
    "planning": planning,
    "scale": scale,
    "index_parquet": index_parquet,
    "shards": shards,
    "shards_ahead": shards_ahead,
    "flat_tokens": flat_tokens,
    "noisy_digits": curricula,
    "label_noise": label_noise,
    "claims": claims,
    "doctor_examples": doctor_examples,
}


def quoted(text: str, results: Path = RESULTS) -> str:
    """Return the text with every block filled from its result file; without one it stays empty."""
    blocks = BLOCKS | {f"applications/{name}": application for name in APPLICATIONS}
    blocks |= {f"applications/on_bf16_units/{name}": application for name in WITH_UNITS}
    for name, block in blocks.items():
        if f"<!-- begin {name} -->" not in text:
            continue
        facts = _facts(name, results)
        filled = block(facts) + "\n" if facts else ""
        pattern = rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)"
        text = re.sub(
            pattern, lambda found, fill=filled: found[1] + fill + found[2], text, flags=re.DOTALL
        )
    return text


def linked_from(folder: str, text: str) -> str:
    """Write links as a page of the documentation needs them.

    Result files are named without a link, as they are no part of the documentation; links to its
    pages begin at the folder of the page.

    Args:
        folder: The page's, under `docs`.
        text: With links that begin at the top of the repository.

    Example:
        >>> linked_from("docs/applications", "[a/b.json](a/b.json), [a page](docs/page.md)")
        '`a/b.json`, [a page](../page.md)'
    """
    text = re.sub(r"\[([\w/.-]+\.json)\]\(\1\)", r"`\1`", text)
    return re.sub(
        r"\]\((docs/[\w/.-]+\.md)\)",
        lambda found: f"]({Path(os.path.relpath(found[1], folder)).as_posix()})",
        text,
    )


def pages() -> list[Path]:
    """List what quotes figures."""
    return [README, *sorted((machine.REPOSITORY / "docs").rglob("*.md"))]


def main(arguments: list[str]) -> int:
    stale = False
    for page in pages():
        before = page.read_text(encoding="utf-8")
        after = quoted(before)
        if page != README:
            folder = page.parent.relative_to(machine.REPOSITORY).as_posix()
            after = linked_from(folder, after)
        stale |= before != after
        if "--check" not in arguments and before != after:
            page.write_text(after, encoding="utf-8")
    return int(stale and "--check" in arguments)


def _facts(name: str, results: Path) -> Facts | None:
    """Read what a block is filled from; None: it was not measured."""
    if name in {"applications", "headline"}:
        return _comparisons(results, APPLICATIONS)
    name = {"contrastive_plans": "contrastive", "shards_ahead": "shards"}.get(name, name)
    path = results / f"{name}.json"
    if not path.is_file():
        return None
    facts = json.loads(path.read_text(encoding="utf-8"))
    if name == "advice":
        here = _processor(facts)  # what is fastest depends on it
        truth = _comparisons(results, JOBS)
        facts["truth"] = {k: v for k, v in truth.items() if _processor(v) == here}
    return summarized_anew(facts) | {"name": name} if name.startswith("applications/") else facts


def _processor(facts: Facts) -> tuple[str, bool]:
    """Return what a result was measured on, and whether bf16 was not emulated there."""
    return facts["machine"]["cpu"], facts["machine"].get("bf16_units", False)


def _comparisons(results: Path, names: Sequence[str]) -> dict[str, Facts]:
    """Read the comparisons of those jobs that were measured."""
    found = {each: _facts(f"applications/{each}", results) for each in names}
    return {each: facts for each, facts in found.items() if facts is not None}


def summarized_anew(facts: Facts) -> Facts:
    """Compute the summary of a comparison from its runs: files may be older than the figures."""
    return {**facts, "summary": summarized(facts)}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
