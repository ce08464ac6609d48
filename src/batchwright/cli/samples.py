"""What `advise` is told of the samples beyond their lengths: labels, groups, texts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from batchwright.cli.turns import live_status

if TYPE_CHECKING:
    from batchwright.advise import SampleProfiles

F = TypeVar("F", bound=Callable[..., Any])


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


def profiles_of_source(source: str, columns: SampleColumns, lengths: Any) -> SampleProfiles:
    """Read columns of a source, and look at them."""
    from batchwright.advise import profile_samples
    from batchwright.sources.columns import column_values

    def read(column: str | None, *, text: bool = False) -> Any:
        return None if column is None else column_values(source, column, text=text)

    with live_status() as watch:
        watch("reading columns", 0.0)
        labels, groups = read(columns.labels), read(columns.groups)
        texts = read(columns.text, text=True)
        return profile_samples(
            lengths, labels=labels, groups=groups, samples=texts, features=texts, watch=watch
        )
