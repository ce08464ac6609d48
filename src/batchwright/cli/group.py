"""`batchwright`: its subcommands by name, and every failure as one line and an exit code."""

import errno
import warnings
from typing import Any

import click

import batchwright as bw
from batchwright._format import one_line
from batchwright.cli.advise import advise
from batchwright.cli.compare import compare, new_task
from batchwright.cli.doctor import doctor
from batchwright.cli.exit_codes import BAD_INPUT, DONE, INTERRUPTED, MACHINE, complain
from batchwright.cli.index import index
from batchwright.cli.inspect import inspect
from batchwright.cli.plan import plan
from batchwright.cli.score import score
from batchwright.cli.trace import trace
from batchwright.errors import BatchwrightError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class OneLineGroup(click.Group):
    """A group of commands whose expected failures are one line on standard error, and a code.

    Bad input, an interrupt, a full disk. Anything else is a defect, and keeps its traceback.
    """

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> int:  # type: ignore[override]  # fewer overloads than click
        """Run a command line; return its exit code, or exit with it in standalone mode."""
        code, line = DONE, None
        before = warnings.showwarning
        warnings.showwarning = _on_one_line
        try:
            exited = super().main(*args, standalone_mode=False, **extra)  # type: ignore[call-overload]  # options pass through
            code = exited if isinstance(exited, int) else DONE
        except click.UsageError as error:
            help_of = self.name if error.ctx is None else error.ctx.command_path
            said = error.format_message()
            stop = "" if said.endswith((".", "?")) else "."
            code, line = BAD_INPUT, f"{said}{stop} Try '{help_of} --help'."
        except (click.ClickException, BatchwrightError) as error:
            code, line = BAD_INPUT, str(error)
        except click.Abort:
            code, line = INTERRUPTED, "interrupted"
        except MemoryError:
            code, line = MACHINE, "out of memory."
        except OSError as error:
            # About a file that was named, or about writing what was to be printed.
            is_bad = error.filename is not None or error.errno in _FULL
            code, line = BAD_INPUT if is_bad else MACHINE, str(error)
        finally:
            warnings.showwarning = before
        if line is not None:
            complain(f"batchwright: {one_line(line)}")
        if standalone_mode:
            raise SystemExit(code)
        return code

    def invoke(self, ctx: click.Context) -> object:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:  # for which click would print an empty line
            raise click.Abort from None


def _on_one_line(message: Warning | str, *_: object, **__: object) -> None:
    complain(f"batchwright: warning: {one_line(message)}")


@click.group(
    name="batchwright",
    cls=OneLineGroup,
    invoke_without_command=True,
    commands=[doctor, plan, inspect, trace, index, score, advise, compare, new_task],
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
        "show_default": True,
    },
)
@click.version_option(bw.__version__, prog_name="batchwright", message="%(prog)s %(version)s")
@click.pass_context
def batchwright(ctx: click.Context) -> None:
    """Plan training batches: which samples, in which batches, in which order."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
