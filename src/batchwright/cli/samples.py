"""What `advise` is told of the samples beyond their lengths: labels, groups, texts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from batchwright.cli.turns import status
from batchwright.errors import ScoresError

if TYPE_CHECKING:
    from batchwright.compare import Task

F = TypeVar("F", bound=Callable[..., Any])

Profiles = dict[str, Any]
"""``labels``, ``duplicates`` and ``groups``, each a profile or None: fields of `Evidence`."""


class SampleColumns(NamedTuple):
    """Columns of a source.

    Attributes:
        labels: The class of each sample. None: unknown.
        groups: Where each sample comes from. None: unknown.
        text: The samples themselves. None: unknown.
    """

    labels: str | None
    groups: str | None
    text: str | None


def sample_options(command: F) -> F:
    """Add the options of `SampleColumns`."""
    for option in reversed(
        (
            click.option("--labels", metavar="COLUMN", help="Column that holds the classes."),
            click.option(
                "--groups", metavar="COLUMN", help="Column of sources, languages or speakers."
            ),
            click.option(
                "--text", metavar="COLUMN", help="Column of the texts: duplicates, wrong labels."
            ),
        )
    ):
        command = option(command)
    return command


def profiles_of_source(source: str, columns: SampleColumns, lengths: Any) -> Profiles:
    """Read columns of a source, and look at them."""
    from batchwright.sources.column_values import column_values

    def read(column: str | None, *, text: bool = False) -> Any:
        return None if column is None else column_values(source, column, text=text)

    with status("reading columns"):
        labels, groups = read(columns.labels), read(columns.groups)
        texts = read(columns.text, text=True)
    return _profiles(labels, groups, texts, texts, lengths)


def profiles_of_task(task: Task) -> Profiles:
    """Look at the samples of a task, its labels and groups.

    Samples that cannot be compared, such as objects of a class of the user's own, are left alone.
    """
    samples: Any = task.samples
    try:
        return _profiles(task.labels, task.groups, task.features, samples, task.sizes)
    except ScoresError as error:
        if "cannot be compared" not in str(error):
            raise
    return _profiles(task.labels, task.groups, task.features, None, task.sizes)


def _profiles(labels: Any, groups: Any, features: Any, samples: Any, lengths: Any) -> Profiles:
    from batchwright.advise import profile_duplicates, profile_groups, profile_labels

    found: Profiles = {"labels": None, "duplicates": None, "groups": None}
    if groups is not None:
        found["groups"] = profile_groups(groups, lengths)
    if samples is not None:
        with status("looking for duplicates"):
            found["duplicates"] = profile_duplicates(samples, lengths=lengths, labels=labels)
    if labels is not None:
        with status("looking at labels"):
            found["labels"] = profile_labels(labels, features=features)
    return found
