"""Exit codes of the command, and how it complains."""

import sys

DONE = 0
MACHINE = 1
"""Memory is full, or nobody reads what is printed."""
FOUND = 1
"""Of `doctor`: the command failed; or, with `--strict`, an error was found or nothing was seen."""
BAD_INPUT = 2
INTERRUPTED = 130


def complain(line: str) -> None:
    """Print a line on standard error, in whatever encoding that has."""
    if sys.stderr is not None:  # closed: `2>&-`
        print(line, file=sys.stderr)  # noqa: T201 -- the command prints
