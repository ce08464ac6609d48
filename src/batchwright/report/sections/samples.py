"""What `advise` found out about the samples beyond their lengths, as sentences and tables."""

from collections.abc import Mapping
from typing import Any

from batchwright.report.figures import number, one_line, percent, plural
from batchwright.report.page import Section

Facts = Mapping[str, Any]


def sample_sentences(result: Facts) -> list[str]:
    """Say in a sentence or two each what labels, duplicates and groups tell; nothing if unknown.

    Args:
        result: What ``advise --json`` prints.
    """
    said = [
        _of_labels(result["labels"]),
        _of_duplicates(result["duplicates"]),
        _of_groups(result["groups"]),
    ]
    return [sentence for sentence in said if sentence]


def sample_sections(result: Facts) -> list[Section]:
    """Make the section of the page: the same sentences, and a table of the groups.

    Args:
        result: What ``advise --json`` prints.

    Returns:
        No section where nothing is known.
    """
    sentences = sample_sentences(result)
    if not sentences:
        return []
    groups = result["groups"]
    if groups is None:
        return [Section("The samples", sentences=sentences)]
    head = (
        *("group", "samples", "of samples", "of tokens", "mean length"),
        f"of draws at temperature {groups['temperature']:g}",
    )
    rows = [
        (
            one_line(each["name"]),
            number(each["num_samples"]),
            percent(each["share"]),
            percent(each["token_share"]),
            number(each["mean_length"]),
            percent(each["tempered_share"]),
        )
        for each in groups["largest"]
    ]
    left_out = groups["num_groups"] - len(rows)
    note = f"{plural(left_out, 'group')} more, all smaller." if left_out else ""
    return [Section("The samples", sentences=sentences, head=head, rows=rows, note=note)]


def _of_labels(labels: Facts | None) -> str:
    if labels is None:
        return ""
    said = (
        f"Labels: {number(labels['num_classes'])} classes of {number(labels['smallest'])} to "
        f"{number(labels['largest'])} samples, with the entropy of "
        f"{labels['effective_classes']:.1f} equal ones."
        if labels["num_classes"] > 1
        else "Labels: one class."
    )
    noise = labels["noise"]
    if noise is None:
        return f"{said} How many are wrong is not known: {labels['noise_unknown']}."
    interval = f"{percent(noise['low'])} to {percent(noise['high'])}"
    looked_at = f"estimated from {plural(noise['num_samples'], 'sample')}"
    if noise["is_trusted"]:
        return f"{said} Wrong: {percent(noise['rate'])} ({interval}), {looked_at}."
    return f"{said} How many are wrong cannot be told ({looked_at}): {noise['doubt']}."


def _of_duplicates(duplicates: Facts | None) -> str:
    if duplicates is None:
        return ""
    of = f"the {'' if duplicates['is_complete'] else 'first '}{number(duplicates['num_samples'])}"
    if not duplicates["num_repeated"]:
        return f"Duplicates: none among {of} samples."
    said = f"Duplicates: {number(duplicates['num_repeated'])} of {of} samples"
    if duplicates["token_share"] is not None:
        said += f", {percent(duplicates['token_share'])} of the tokens"
    said += f"; the most frequent is there {number(duplicates['largest'])} times."
    if duplicates["num_contradicting"]:
        said += (
            f" Equal samples have different labels: {number(duplicates['num_contradicting'])} "
            "wrong at the least."
        )
    return said


def _of_groups(groups: Facts | None) -> str:
    if groups is None:
        return ""
    if groups["num_groups"] == 1:
        return "Groups: one."
    largest, smallest = groups["largest"][0], groups["smallest"]
    return (
        f"Groups: {number(groups['num_groups'])}, from {one_line(smallest['name'])} "
        f"({percent(smallest['token_share'])} of the tokens) to {one_line(largest['name'])} "
        f"({percent(largest['token_share'])})."
    )
