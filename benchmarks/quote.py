"""Write the figures of the result files into README.md and docs/, so that they say nothing else.

python -m benchmarks.quote            write them
python -m benchmarks.quote --check    say whether they are the ones of the files; exit code 1 if not
"""

import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from batchwright.report.compared import DENSE, arrival, did_not_pay, interval, sentences
from benchmarks import machine
from benchmarks.applications import APPLICATIONS
from benchmarks.reporting import RESULTS

README = machine.REPOSITORY / "README.md"

Facts = Mapping[str, Any]


def application(facts: Facts) -> str:
    """Show what strategies are worth to a task: all of its figures, and what they say."""
    first = facts["summary"][0]["name"]
    end = f"{first}'s end"
    head = (
        f"{len(facts['runs'])} seeds",
        f"real tokens/s over {first}",
        "of the dense limit",
        "padding",
        "worst batch ÷ budget",
        "peak MB",
        "updates' dispersion",
        facts["metric"],
        f"gain over {first}",
        f"time to {end}",
    )
    rows = [
        (
            _name(each),
            interval(each["speed"]),
            "" if each["of_limit"] is None else f"{each['of_limit']['mean']:.2f}",
            f"{each['padding']:.1%}",
            f"{each['worst_batch']:.2f}",
            "" if each["peak_bytes"] is None else f"{each['peak_bytes'] / 1e6:.0f}",
            f"{each['dispersion']:.2f}",
            "" if each["metric"] is None else f"{each['metric']:.4f}",
            "" if each["gain"] is None else interval(each["gain"], sign="+", digits=4),
            arrival(each),
        )
        for each in facts["summary"]
    ]
    told = "\n".join(f"- {sentence}" for sentence in sentences(facts))
    name = Path(facts["task"]).stem
    source = _source(f"applications/{name}", facts | {"date": facts["machine"]["date"]})
    return f"{_table(head, rows)}\n\n{told}\n\n{source}"


def applications(facts: Facts) -> str:
    """Show what all applications came to: planned batches, the best strategy, and what failed."""
    rows = []
    for name, each in facts.items():
        first, *others = (arm for arm in each["summary"] if arm["name"] != DENSE)
        arrived = [arm for arm in (first, *others) if arm["time"] is not None]
        best = min(arrived, key=lambda arm: arm["time"]["mean"])
        planned = next((arm for arm in others if arm["name"] == "planned"), None)
        rows.append((
            f"[{name.replace('_', ' ')}](docs/applications/{name}.md)",
            f"{first['padding']:.0%}" + ("" if planned is None else f" / {planned['padding']:.0%}"),
            "" if planned is None else interval(planned["speed"]),
            "" if planned is None else arrival(planned),
            _name(best),
            interval(best["time"]),
            ", ".join(_name(arm) for arm in others if did_not_pay(arm)) or "–",
        ))  # fmt: skip
    head = (
        "",
        "padding, plain / planned",
        "planned: real tokens/s over plain",
        "planned: time to plain's end",
        "soonest at plain's end",
        "its time",
        "not shown to pay",
    )
    some = next(iter(facts.values()))
    seeds = sorted({len(each["runs"]) for each in facts.values()})
    told = (
        f"{' or '.join(map(str, seeds))} seeds each, with 95 % intervals; 1 is plain batches of "
        "the same memory, in fp32."
    )
    whole = {
        "command": "python -m benchmarks.applications",
        "machine": some["machine"],
        "date": some["machine"]["date"],
    }
    return f"{_table(head, rows)}\n\n{told} {_made(whole)}"


def static_shapes(facts: Facts) -> str:
    """Show what few shapes save a compiler, and what they cost in padding."""
    rows = [
        (
            f"{row['backend']}, {row['batching']}",
            f"{row['batches']}",
            f"{row['told']}",
            f"{row['compilations']}",
            f"{row['seconds']:.0f} s",
            f"{row['padding']:.1%}",
        )
        for row in facts["rows"]
    ]
    head = ("", "batches", "shapes told by the plan", "compilations", "first epoch", "padding")
    large = "; ".join(f"{row['batching']} {row['padding']:.1%}" for row in facts["told"])
    told = (
        f"Padding of {facts['told'][0]['samples']:,} samples, where few buckets cost more and "
        f"half-filled batches nothing: {large}."
    )
    return f"{_table(head, rows)}\n\n{told} {_source('static_shapes', facts)}"


def advice(facts: Facts) -> str:
    """Show what is advised beside what whole runs found to be the best."""
    rows = [
        (
            row["application"].replace("_", " "),
            row["advised"] + (f", updates of {row['tokens']:,}" if "tokens" in row else ""),
            interval(row["time"]) or "not among the arms, or never there",
            row["best"],
            interval(row["best_time"]),
            "" if row["over_best"] is None else f"{row['over_best']:.2f}",
            _easy_first(row["learning"].get("curriculum")),
            f"{row['price']['seconds_spent']:.0f} s",
        )
        for row in facts["rows"]
    ]
    head = (
        "",
        "advised",
        "time to plain's end, over plain",
        "best arm of all",
        "its time",
        "advised over best",
        "trials: easy first, times as soon",
        "trials took",
    )
    return f"{_table(head, rows)}\n\n{_source('advice', facts)}"


def _easy_first(trial: Facts | None) -> str:
    """Write what short runs of a curriculum showed; nothing if there were none."""
    if trial is None:
        return ""
    runs = "1 run" if trial["runs"] == 1 else f"{trial['runs']} runs"
    sooner = interval({**trial["sooner"], "mean": trial["sooner"]["ratio"]})
    return f"{sooner}, {runs} of {trial['share']:.0%}"


def beside_trainer(facts: Facts) -> str:
    """Show planned batches beside Hugging Face Trainer with its grouping by length."""
    rows = []
    for job in facts["jobs"]:
        planned = next(arm for arm in job["arms"] if arm["arm"] == "planned")
        for arm in job["arms"]:
            if arm["arm"].startswith("trainer"):
                safe = arm["arm"] != "trainer"
                size = "the largest that respects the budget" if safe else "of as many tokens"
                rows.append((
                    f"{job['job']}, {size}",
                    *(_spread(arm["planned_over_it"][name]) for name in _OVER),
                    f"{arm['padding']:.1%} / {planned['padding']:.1%}",
                    f"{arm['worst_batch']:.1f} / {planned['worst_batch']:.1f}",
                ))  # fmt: skip
    head = (
        "Trainer's batch",
        "tokens/s over it",
        "memory of training over it",
        "time to its final loss over it",
        "padding, its / ours",
        "worst batch ÷ budget, its / ours",
    )
    peers = json.loads((RESULTS / "peers.json").read_text(encoding="utf-8"))["rows"]
    fastest = {
        (row["peer"], row["lengths"]): row["ratio"]["median"]
        for row in peers
        if row["samples"] == 10**6 and row.get("ratio")
    }
    sets = ("text2k", "text8k")
    packers = [fastest[name, each] for name in ("trl-whole", "llamafactory") for each in sets]
    padders = [fastest["fairseq", each] for each in sets]
    told = (
        f"Of 10⁶ lengths, padded batches are planned {min(padders):.1f} to {max(padders):.1f} × as "
        f"fast as by fairseq, and rows are packed {min(packers):.0f} to {max(packers):.0f} × as "
        "fast as by LLaMA-Factory and TRL, all as full; who loses samples or overruns its budget "
        "is in [a page of its own](docs/peers.md). Memory is what a process peaked at above its "
        "start, and holds what the allocator kept."
    )
    return f"{_table(head, rows)}\n\n{told}\n\n{_source('trainer', facts)}"


def mixing(facts: Facts) -> str:
    """Show what the composition of updates does to a loss."""
    rows = [
        (
            arm["name"],
            f"{arm['padding']:.1%}",
            f"{arm['dispersion']:.2f}",
            interval(arm["over_plain"], sign="+", digits=3),
            arm["over_plain"]["verdict"],
        )
        for arm in facts["arms"]
    ]
    head = (
        f"{len(facts['seeds'])} seeds",
        "padding",
        "dispersion",
        "final loss over a plain shuffle's, nats",
        "verdict",
    )
    return f"{_table(head, rows)}\n\n{_source('mixing', facts)}"


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


def precision(facts: Facts) -> str:
    """Show what the measured precision is worth on the examples, and how alike they learn."""
    rows = []
    for title, name in (
        ("a GPT on Python's library", "gpt_mixed_precision"),
        ("a Vision Transformer on digits", "vision_transformer"),
    ):
        example = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        bf16 = next(each for each in example["results"] if each["asked"] == "bf16")
        auto = next(each for each in example["results"] if each["asked"] == "auto")
        parity = bf16["parity"]
        rows.append(
            (
                f"{title}, {len(example['seeds'])} seeds",
                ", ".join(dict.fromkeys(auto["trained_in"])),
                f"{bf16['timing']['ratio']:.2f}",
                f"{parity['difference']:.2%}",
                f"{parity['noise']:.2%}",
                _file(name),
            )
        )
    head = (
        "",
        '`Precision("auto")` chose',
        "time of an update in bf16 ÷ fp32",
        "mean loss curves differ by",
        "expected of seeds alone",
        "figures",
    )
    kept, lost = facts["verdicts"].get("kept", 0), facts["verdicts"].get("missed", 0)
    found = {(each["subject"], each["claim"]): each["figure"] for each in facts["claims"]}
    gradient = "gradient of 48 samples cut into batches at random, fp32"
    exact = found[gradient, "relative error to one batch of everything"]
    means = found[gradient, "the same, of the mean of the batches' means"]
    told = (
        f"Over 100 random cuts of one window into batches, the update's gradient is at most "
        f"{exact:.0e} off the one of a single batch; the usual mean of the batches' means is "
        f"{means:.0%} off in the median. "
        f"{kept} claims about the update are kept, {lost} missed."
    )
    return f"{_table(head, rows)}\n\n{told} {_source('precision', facts)}"


def memory(facts: Facts) -> str:
    """Say how far predictions of the peak memory are off real steps."""
    transformers = [row for row in facts["rows"] if "convolutions" not in row["case"]]
    others = [row for row in facts["rows"] if "convolutions" in row["case"]]
    return (
        "Beside real steps of shapes that it had not seen, `MemoryModel` is at most "
        f"{max(row['most_over'] for row in transformers):.1%} over and "
        f"{-min(row['most_under'] for row in transformers):.1%} under for Transformers, "
        f"{max(row['most_over'] for row in others):.1%} and "
        f"{-min(row['most_under'] for row in others):.1%} for networks with convolutions. "
        f"{_source('memory_prediction', facts)}"
    )


def curricula(facts: Facts) -> str:
    """Show what curricula gain on digits, beside their controls, with wrong labels and without."""
    noisy, clean = facts["experiments"]
    rows = [
        (
            f"**{name}**" if name == "self-paced" else name,
            *(_accuracy(of_noisy), _gain(of_noisy, "early stop")),
            *(_accuracy(of_clean), _gain(of_clean, "uniform")),
        )
        for of_noisy, of_clean in zip(noisy["results"], clean["results"], strict=True)
        for name in [of_noisy["name"]]
    ]
    head = (
        f"{len(facts['seeds'])} seeds",
        f"accuracy, {noisy['title'].split(',')[0]}",
        "over early stop",
        f"accuracy, {clean['title'].split(',')[0]}",
        "over uniform",
    )
    speech = json.loads((RESULTS / "speech_curriculum.json").read_text(encoding="utf-8"))
    arms = {each["name"]: each for each in speech["experiments"][0]["results"]}
    gains = "; ".join(
        f"{name} {_gain(arms[name], 'planned')}" for name in ("short first", "easy first")
    )
    helps = any(arms[name]["gains"]["planned"]["low"] > 0 for name in ("short first", "easy first"))
    told = (
        "Accuracy and gains in points, with 95 % intervals over pairs of seeds. On recorded speech "
        "(`python examples/speech_curriculum.py`) a curriculum gains "
        f"{'something' if helps else 'nothing that seeds can tell'}: {gains}."
    )
    return f"{_table(head, rows)}\n\n{told} {_source('noisy_digits', facts)}"


BLOCKS: dict[str, Callable[[Facts], str]] = {
    "applications/translation": application,
    "applications": applications,
    "trainer": beside_trainer,
    "mixing": mixing,
    "static_shapes": static_shapes,
    "advice": advice,
    "precision": precision,
    "memory_prediction": memory,
    "planning": planning,
    "noisy_digits": curricula,
    "claims": claims,
}


def quoted(text: str, results: Path = RESULTS) -> str:
    """Return the text with every block filled from its result file; without one it stays empty."""
    blocks = BLOCKS | {f"applications/{name}": application for name in APPLICATIONS}
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


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    lines.insert(1, "|---|" + "--:|" * (lines[0].count("|") - 2))
    return "\n".join(lines)


_OVER = ("speed", "memory", "time")


def _name(summary: Facts) -> str:
    """Name a strategy, and its precision where the name does not say it."""
    name, precision = summary["name"], summary["precision"]
    return name if precision == "fp32" or precision in name else f"{name} ({precision})"


def _spread(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{fmean(known):.2f} ({min(known):.2f} – {max(known):.2f})" if known else "never"


def _accuracy(result: Facts) -> str:
    return f"{100 * fmean(result['accuracies']):.1f}"


def _gain(result: Facts, control: str) -> str:
    gain = result["gains"].get(control)
    return "" if gain is None else f"{gain['mean']:+.1f} [{gain['low']:.1f}, {gain['high']:.1f}]"


def _seconds(seconds: float) -> str:
    return f"{seconds * 1e3:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _facts(name: str, results: Path) -> Facts | None:
    """Read what a block is filled from; None: it was not measured."""
    if name == "applications":
        files = {each: results / "applications" / f"{each}.json" for each in APPLICATIONS}
        return {
            each: json.loads(path.read_text(encoding="utf-8"))
            for each, path in files.items()
            if path.is_file()
        }
    path = results / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _source(name: str, facts: Facts) -> str:
    return _made(facts).replace("</sub>", f"; {_file(name)}</sub>")


def _made(facts: Facts) -> str:
    computer = facts["machine"]
    made = f"`{facts['command']}` on {computer['cores']} cores of {computer['cpu']}"
    return f"<sub>{made}, {facts['date']}</sub>"


def _file(name: str) -> str:
    file = f"benchmarks/results/{name}.json"
    return f"[{file}]({file})"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
