"""The command `batchwright`: one file a subcommand.

Exit codes: 0 done, 2 bad input or a full disk, 130 interrupted, 1 where memory is full or nobody
reads what is printed. Whatever is not 0 is one line on standard error.
"""

import sys
from collections.abc import Sequence

DONE = 0
MACHINE = 1
BAD_INPUT = 2
INTERRUPTED = 130


def main(args: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        args: The words after `batchwright`. None: those of this process.

    Returns:
        The exit code.
    """
    try:
        try:
            import click  # noqa: F401
            import rich  # noqa: F401
        except ImportError:
            complain("the command needs click and rich: pip install 'batchwright[cli]'")
            return BAD_INPUT
        from batchwright.cli.group import batchwright

        code: int = batchwright.main(args, prog_name="batchwright", standalone_mode=False)
    except KeyboardInterrupt:
        complain("batchwright: interrupted")
        return INTERRUPTED
    return code


def complain(line: str) -> None:
    """Print a line on standard error, in whatever encoding that has."""
    if sys.stderr is not None:  # closed: `2>&-`
        print(line, file=sys.stderr)  # noqa: T201
