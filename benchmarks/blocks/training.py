"""Blocks of what updates, orders, precisions and shapes are worth."""

import json
import math
from collections.abc import Mapping
from statistics import fmean
from typing import Any

from batchwright.compare.verdicts import interval
from benchmarks.blocks.markdown import link_to_file, source, spread, table
from benchmarks.reporting import RESULTS

Facts = Mapping[str, Any]


_OVER = ("speed", "memory", "time")


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
                    *(spread(arm["planned_over_it"][name]) for name in _OVER),
                    f"{arm['padding']:.1%} / {planned['padding']:.1%}",
                    f"{arm['worst_batch']:.1f} / {planned['worst_batch']:.1f}",
                ))  # fmt: skip
    head = (
        "Trainer's batch",
        "tokens/s, ours ÷ Trainer",
        "memory, ours ÷ Trainer",
        "time to its final loss, ours ÷ Trainer",
        "padding, Trainer / ours",
        "worst batch ÷ budget, Trainer / ours",
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
    further = [
        fastest[name, each]
        for name in ("fairseq-epoch", "fairseq-epoch-sort")
        for each in sets
        if (name, each) in fastest
    ]
    again = (
        f" (every epoch but the first {min(further):.1f} to {max(further):.1f} ×, with NumPy's "
        "sort for AVX-512 and without)"
        if further
        else ""
    )
    told = (
        f"Of 10⁶ lengths, padded batches are planned {min(padders):.1f} to {max(padders):.1f} × as "
        f"fast as by fairseq{again}, and rows are packed {min(packers):.0f} to "
        f"{max(packers):.0f} × as fast as by LLaMA-Factory and TRL, all as full; who loses samples "
        "or overruns its budget is in [a page of its own](docs/peers.md). Memory is what a process "
        "peaked at above its start, and holds what the allocator kept."
    )
    return f"{table(head, rows)}\n\n{told}\n\n{source('trainer', facts)}"


def grouped(facts: Facts) -> str:
    """Show `use_plan` and Trainer's grouping by length, each over Trainer's plain shuffle."""
    rows = [
        (
            f"{job['data']}, {job['batch_size']} × {job['accumulate']}: `{arm['arm']}`",
            f"{arm['padding']:.0%}",
            *(_reached(arm["over_plain"][name]) for name in ("speed", "time")),
            _differences(arm["over_plain"]["loss"]),
            *(spread(arm["over_plain"][name]) for name in ("memory", "worst_batch")),
        )
        for job in facts["jobs"]
        for arm in job["arms"]
    ]
    head = (
        f"{facts['seeds']} seeds; samples of a batch × batches of an update",
        "padding",
        "tokens/s",
        "time to the plain shuffle's final loss",
        "final loss, difference in nats",
        "memory",
        "largest batch",
    )
    arms = [{arm["arm"]: arm["over_plain"] for arm in job["arms"]} for job in facts["jobs"]]
    ours, theirs = (
        [
            (math.inf if time is None else time, loss)
            for each in arms
            for time, loss in zip(each[name]["time"], each[name]["loss"], strict=True)
        ]
        for name in ("use_plan", "group_by_length")
    )
    runs = len(ours)
    sooner = sum(one[0] < other[0] for one, other in zip(ours, theirs, strict=True))
    better = sum(one[1] < other[1] for one, other in zip(ours, theirs, strict=True))
    as_good = sum(loss <= 0 for _, loss in ours)
    summary = (
        f"`use_plan` reached the plain shuffle's final loss sooner than `group_by_length` in "
        f"{sooner} of {runs} runs. At the same number of epochs its loss was below "
        f"`group_by_length`'s in {better} of {runs}, and no higher than the plain shuffle's in "
        f"{as_good}."
    )
    return f"{table(head, rows)}\n\n{summary}\n\n{source('group_by_length', facts)}"


def _reached(values: list[float | None]) -> str:
    never = sum(value is None for value in values)
    return spread(values) + (f", never in {never}" if 0 < never < len(values) else "")


def _differences(values: list[float]) -> str:
    """Write the mean of differences, and their least and most."""
    return f"{fmean(values):+.3f} ({min(values):+.3f} – {max(values):+.3f})"


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
    return f"{table(head, rows)}\n\n{source('mixing', facts)}"


def variety(facts: Facts) -> str:
    """Show what other batch-mates in every epoch do to a loss."""
    rows = [
        (
            f"{arm['application']}, {arm['batches']}",
            f"{arm['slack']:.2f}" if "slack" in arm else "frozen",
            f"{arm['variety']:.2f}",
            f"{arm['update_variety']:.2f}",
            f"{arm['padding']:.1%}",
            interval(arm["over_plain"], sign="+", digits=3),
            interval(arm["over_no_slack"], sign="+", digits=3) if arm.get("slack") else "",
        )
        for arm in facts["arms"]
        if "variety" in arm
    ]
    head = (
        f"{len(facts['seeds'])} seeds; batches an update",
        "slack",
        "variety of batches",
        "of updates",
        "padding",
        "final loss over a plain shuffle's, nats",
        "over no slack's",
    )
    return f"{table(head, rows)}\n\n{source('variety', facts)}"


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
                link_to_file(name),
            )
        )
    head = (
        "",
        '`Precision("auto")` chose',
        "time of an update in bf16 ÷ fp32",
        "mean loss curves differ by",
        "expected from seeds alone",
        "figures",
    )
    kept, lost = facts["verdicts"].get("kept", 0), facts["verdicts"].get("missed", 0)
    found = {(each["subject"], each["claim"]): each["figure"] for each in facts["claims"]}
    gradient = "gradient of 48 samples cut into batches at random, fp32"
    exact = found[gradient, "relative error to one batch of everything"]
    means = found[gradient, "the same, of the mean of the batches' means"]
    missed = "; ".join(
        f"{each['subject']}: {each['figure']:.2g} {each['unit']}, claimed {each['target']}"
        for each in facts["claims"]
        if each["verdict"] == "missed"
    )
    summary = (
        f"Over 100 random cuts of one update into batches, its gradient differs by at most "
        f"{exact:.0e} from that of a single batch; the usual mean of the batches' means differs by "
        f"{means:.0%} in the median. "
        f"{kept} claims about the update hold, {lost} do not{f' ({missed})' if missed else ''}."
    )
    return f"{table(head, rows)}\n\n{summary} {source('precision', facts)}"


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
        f"{source('memory_prediction', facts)}"
    )


def label_noise(facts: Facts) -> str:
    """Show how often the true share of wrong labels is inside its interval."""
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for draw in facts["draws"]:
        by_name.setdefault(draw["data"], []).append(draw)
    rows = [
        (
            f"{name}, {draws[0]['classes']} classes",
            f"{draws[0]['samples']:,}",
            f"{sum(draw['inside'] for draw in draws)} of {len(draws)}",
            f"{fmean(draw['high'] - draw['low'] for draw in draws):.3f}",
            f"{max(draw['high'] - draw['low'] for draw in draws):.3f}",
        )
        for name, draws in by_name.items()
    ]
    head = ("real data, 0 – 40 % of labels made wrong", "samples", "true share inside")
    told = (
        f"The true share is inside {facts['inside']} of {facts['num_draws']} intervals, and inside "
        f"{facts['trusted_inside']} of the {facts['trusted']} that are trusted."
    )
    whole = table((*head, "mean width", "widest"), rows)
    return f"{whole}\n\n{told} {source('label_noise', facts)}"


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
        "(`python examples/studies/speech_curriculum.py`) a curriculum gains "
        f"{'something' if helps else 'nothing that seeds can tell'}: {gains}."
    )
    return f"{table(head, rows)}\n\n{told} {source('noisy_digits', facts)}"


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
    return f"{table(head, rows)}\n\n{told} {source('static_shapes', facts)}"


def contrastive(facts: Facts) -> str:
    """Show retrieval with samples of one key in a batch, masked, and without them."""
    rows = [
        (
            arm["arm"],
            f"{arm['mates']:.1%}",
            f"{arm['padding']:.1%}",
            f"{arm['loss']:.3f} ± {arm['loss_spread']:.3f}",
            f"{arm['recall']:.1%} ± {arm['recall_spread']:.1%}",
            f"{arm['mrr']:.3f} ± {arm['mrr_spread']:.3f}",
            "; ".join(f"{100 * gain:+.1f}" for gain in arm["mrr_gains"]),
        )
        for arm in facts["arms"]
    ]
    head = (
        "batches",
        "samples with a copy in their batch",
        "padding",
        "loss held out",
        "recall@1",
        "MRR",
        "gain in MRR over random or planned, by seed, points",
    )
    by_arm = {arm["arm"]: arm for arm in facts["arms"]}
    said = "; ".join(
        f"{batches} batches {_gained(by_arm[f'{batches}, unique']['mrr_gains'])}"
        for batches in ("random", "planned")
    )
    about = (
        f"{facts['samples']:,} functions, {facts['copies']:.0%} of them with copies (at most "
        f"{facts['most_copies']} are kept of each); {facts['updates']} updates, {facts['seeds']} "
        f"seeds, means ± standard deviations; {facts['held_out']:,} held-out docstrings, each "
        f"without copies. With `unique=`, {said}."
    )
    return f"{table(head, rows)}\n\n{about} {source('contrastive', facts)}"


def _gained(gains: list[float]) -> str:
    """Say whether all seeds agree on a gain."""
    mean = 100 * fmean(gains)
    if min(gains) > 0 or max(gains) < 0:
        return f"{'gain' if mean > 0 else 'lose'} {abs(mean):.1f} points of MRR, in every seed"
    return f"change MRR by {mean:+.1f} points, with a sign that differs by seed"


def _accuracy(result: Facts) -> str:
    return f"{100 * fmean(result['accuracies']):.1f}"


def _gain(result: Facts, control: str) -> str:
    gain = result["gains"].get(control)
    return "" if gain is None else f"{gain['mean']:+.1f} [{gain['low']:.1f}, {gain['high']:.1f}]"
