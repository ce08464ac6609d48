"""The command `batchwright`: one file a subcommand.

Exit codes: 0 done, 2 bad input or a full disk, 130 interrupted, 1 out of memory or a closed pipe.
A code other than 0 comes with one line on standard error, or in `doctor` with its report.
"""

from collections.abc import Sequence

from batchwright.cli.exit_codes import BAD_INPUT, INTERRUPTED, complain


def main(args: Sequence[str] | None = None) -> int:
    """Run the command with arguments, or with those of this process; return its exit code."""
    try:
        try:
            import click  # noqa: F401 -- whether it is installed
            import rich  # noqa: F401 -- whether it is installed
        except ImportError:
            complain("the command needs click and rich: pip install 'batchwright[cli]'")
            return BAD_INPUT
        from batchwright.cli.group import batchwright

        return batchwright.main(args, prog_name="batchwright", standalone_mode=False)
    except KeyboardInterrupt:
        complain("batchwright: interrupted")
        return INTERRUPTED
