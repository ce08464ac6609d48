"""What samples tell beyond their lengths: labels, duplicates and groups, where they are known."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypedDict

from batchwright.advise.duplicates import Duplicates, profile_duplicates
from batchwright.advise.group_profile import GroupProfile, profile_groups
from batchwright.advise.label_profile import LabelProfile, profile_labels
from batchwright.errors import ScoresError
from batchwright.typing import IntoLengths

if TYPE_CHECKING:
    from batchwright.compare import Task


class SampleProfiles(TypedDict):
    """Fields of `Evidence`; None where nothing is known."""

    labels: LabelProfile | None
    duplicates: Duplicates | None
    groups: GroupProfile | None


def profile_samples(
    lengths: IntoLengths,
    *,
    labels: Any = None,
    groups: Any = None,
    samples: Any = None,
    features: Any = None,
    seed: int = 0,
    watch: Callable[[str, float], None] = lambda *_: None,
) -> SampleProfiles:
    """Look at what is given.

    Args:
        lengths: integer[n] or integer[n, k], tokens.
        labels: [n], see `profile_labels`. None: unknown.
        groups: [n], see `profile_groups`. None: unknown.
        samples: [n], see `profile_duplicates`. None: unknown.
        features: [n, ...], see `profile_labels`. None: unknown.
        seed: Of the part that noise is estimated from.
        watch: Told what is under way.

    Raises:
        ScoresError: If labels are no classes, or something is not one for each sample.

    Example:
        >>> found = profile_samples([1, 2, 2], samples=["a", "b c", "b c"])
        >>> found["duplicates"].num_repeated, found["labels"]
        (1, None)
    """
    found = SampleProfiles(labels=None, duplicates=None, groups=None)
    if groups is not None:
        found["groups"] = profile_groups(groups, lengths)
    if samples is not None:
        watch("looking for duplicates", 0.0)
        found["duplicates"] = profile_duplicates(samples, lengths=lengths, labels=labels)
    if labels is not None:
        watch("looking at labels", 0.0)
        found["labels"] = profile_labels(labels, features=features, seed=seed)
    return found


def profile_task_samples(
    task: Task, *, seed: int = 0, watch: Callable[[str, float], None] = lambda *_: None
) -> SampleProfiles:
    """Look at the samples of a task, its labels and groups; half a minute at most.

    Samples that cannot be compared, such as objects of a class of your own, are left alone.

    Args:
        task: The task.
        seed: Of the part that noise is estimated from.
        watch: Told what is under way.

    Raises:
        ScoresError: If its labels are no classes, or its groups no groups.
    """
    found = profile_samples(
        task.sizes,
        labels=task.labels,
        groups=task.groups,
        features=task.features,
        seed=seed,
        watch=watch,
    )
    watch("looking for duplicates", 0.0)
    with suppress(ScoresError):  # labels and lengths are known to fit
        found["duplicates"] = profile_duplicates(
            task.samples, lengths=task.sizes, labels=task.labels
        )
    return found
