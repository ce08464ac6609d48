"""What options take: whole numbers, and the mixing of updates."""

import math

import click

_LARGEST_SIZE = 2**53  # as of a length
_LARGEST_COUNT = 10**6  # of ranks, slots and updates: the product of all three is still exact
_LARGEST_SEED = 2**63 - 1


def size(text: str) -> int:
    """Read a number of tokens or samples."""
    return _whole_number(text, 1, _LARGEST_SIZE)


def count(text: str) -> int:
    """Read a number of ranks or of batches, or what rows are rounded to."""
    return _whole_number(text, 1, _LARGEST_COUNT)


def seed(text: str) -> int:
    """Read a seed or an epoch, from 0."""
    return _whole_number(text, 0, _LARGEST_SEED)


def finite(text: str) -> float:
    """Read a number that is one: not nan, not infinite."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        message = f"{text!r} is not a number."
        raise click.BadParameter(message)
    return value


def duration(text: str) -> float:
    """Read seconds, one at least."""
    value = finite(text)
    if value < 1:
        message = f"{text} is less than 1."
        raise click.BadParameter(message)
    return value


def mixing(text: str) -> str | int:
    """Read what an update is made of: a word, or a number of updates.

    Example:
        >>> mixing("update"), mixing("4")
        ('update', 4)
    """
    if text in {"stratified", "update"}:
        return text
    try:
        return count(text)
    except click.BadParameter:
        message = f"{text!r} is not 'stratified', 'update', or a number of updates."
        raise click.BadParameter(message) from None


def _whole_number(text: str, least: int, most: int) -> int:
    try:
        number = int(text)
    except ValueError:
        message = f"{text!r} is not a whole number."
        raise click.BadParameter(message) from None
    if number < least:
        message = f"{number} is less than {least}."
        raise click.BadParameter(message)
    if number > most:
        message = f"{number} is more than {most:,}."
        raise click.BadParameter(message)
    return number
