"""`batchwright`: the command, and its subcommands by name."""

import click

import batchwright as bw
from batchwright.cli.advise import advise
from batchwright.cli.compare import compare
from batchwright.cli.failures import OneLineGroup
from batchwright.cli.inspect import inspect
from batchwright.cli.new_task import new_task
from batchwright.cli.plan import plan
from batchwright.cli.score import score


@click.group(
    name="batchwright",
    cls=OneLineGroup,
    invoke_without_command=True,
    commands=[plan, inspect, score, advise, compare, new_task],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(bw.__version__, prog_name="batchwright", message="%(prog)s %(version)s")
@click.pass_context
def batchwright(ctx: click.Context) -> None:
    """Plan training batches: which samples, in which batches, in which order."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
