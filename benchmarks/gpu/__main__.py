"""What users of a GPU ask for first: speed, precision, memory, overhead, and the commands there.

\b
python -m benchmarks.gpu                 at most 8 minutes; writes results/gpu.json
python -m benchmarks.gpu --tiny          small models on a CPU: whether everything runs
python -m benchmarks.gpu --only language --only loader

A GPT of 124 million parameters on lengths as those of functions of Python, an encoder-decoder, a
vision transformer; the largest products in bf16; attention by other kernels than cuDNN's, except
in the commands. Groups of parts have a process each, and the result is written after each part:
what fails or runs out of time costs only its own figures.
"""

import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import click
import torch

from benchmarks import machine
from benchmarks.gpu import commands, memory, overhead, parts
from benchmarks.gpu.report import tables, verdicts
from benchmarks.gpu.sizes import Sizes, has_gpu, sizes
from benchmarks.gpu.speed import Row
from benchmarks.reporting import output_path, progress_bar, table_console, write_result

GROUPS: dict[str, dict[str, Callable[[Sizes], Row]]] = {
    "speed": {
        "language": parts.language,
        "two_columns": parts.two_columns,
        "resolutions": parts.resolutions,
        "precision": parts.precision,
    },
    "memory": {
        "recovery": memory.recovery,
        "prediction": memory.prediction,
        "varying_shapes": memory.varying_shapes,
    },
    "overhead": {"loader": overhead.loader, "update": overhead.update},
    "shapes": {"static_shapes": parts.static_shapes},
    "commands": {
        "doctor": commands.doctor,
        "advise": commands.advise,
        "compare": commands.compare,
    },
}
"""Groups in the order in which they run: the figures that matter most come first."""

PARTS = [name for group in GROUPS.values() for name in group]

MINUTES = 8.0


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--tiny", is_flag=True, help="Small models on a CPU; nothing is written.")
@click.option("--only", type=click.Choice(PARTS), multiple=True, help="These parts.")
@click.option("--minutes", type=float, default=MINUTES, show_default=True, help="For all of them.")
@click.option(
    "--json", "output", type=click.Path(path_type=Path), help="Where to write the result."
)
@click.option("--group", type=click.Choice(list(GROUPS)), hidden=True, help="Run it here.")
def main(
    *, tiny: bool, only: tuple[str, ...], minutes: float, output: Path | None, group: str | None
) -> None:
    """Run the groups, write after each part, print tables."""
    own = sizes(tiny=tiny)
    if own.device == "cuda" and not has_gpu():
        click.echo("torch sees no GPU here: --tiny runs everything on a CPU, small.", err=True)
        sys.exit(2)
    if group is not None:
        for name, result in run(group, only, own):
            click.echo(json.dumps({"part": name, "result": result}))
        return
    target = output_path("gpu", output, quick=tiny or bool(only))
    ends = time.monotonic() + 60 * minutes
    found: dict[str, Row] = {}
    command = "python -m benchmarks.gpu" + " --tiny" * tiny
    with progress_bar() as progress:
        bar = progress.add_task("", total=len(only or PARTS))
        for name, members in GROUPS.items():
            wanted = [each for each in members if not only or each in only]
            if not wanted:
                continue
            progress.update(bar, description=name, refresh=True)
            for part, result in in_a_process(name, wanted, ends - time.monotonic(), tiny=tiny):
                found[part] = result
                progress.update(bar, advance=1, refresh=True)
                if target is not None:
                    write_result(target, command, {**about(own), "parts": found})
    console = table_console()
    for table in tables(found):
        console.print(table)
    for line in verdicts(found):
        console.print(line, highlight=False)
    failed = [name for name, result in found.items() if "failed" in result]
    for name in failed:
        click.echo(f"{name}: {found[name]['failed']}", err=True)
    sys.exit(int(bool(failed)))


def about(own: Sizes) -> Row:
    """Say on what it ran."""
    gpu = torch.cuda.get_device_name(0) if own.device == "cuda" else None
    return {"gpu": gpu, "torch": torch.__version__, "cuda": torch.version.cuda, "size": own.name}


def run(group: str, only: tuple[str, ...], own: Sizes) -> Iterator[tuple[str, Row]]:
    """Run the parts of a group, one after the other; one that fails says so."""
    if own.device == "cpu":
        torch.set_num_threads(1)
    else:  # torch's first choice on an H200 is prepared anew for each shape, for tens of ms
        torch.backends.cuda.enable_cudnn_sdp(False)
    for name, part in GROUPS[group].items():
        if only and name not in only:
            continue
        begun = time.perf_counter()
        try:
            result = part(own)
        except Exception as error:  # noqa: BLE001 -- the others are measured all the same
            traceback.print_exc()
            result = {"failed": f"{type(error).__name__}: {str(error)[:2_000]}"}
        yield name, result | {"part_seconds": time.perf_counter() - begun}
        gc.collect()  # arms lie in cycles, and hold memory of the device
        if own.device == "cuda":
            torch.cuda.empty_cache()


def in_a_process(
    group: str, wanted: list[str], seconds: float, *, tiny: bool
) -> Iterator[tuple[str, Row]]:
    """Run a group in a process that ends after some seconds; what it did not reach says so."""
    left = dict.fromkeys(wanted)
    if seconds > 0:
        command = [sys.executable, "-m", "benchmarks.gpu", "--group", group]
        command += ["--tiny"] if tiny else []
        command += [part for name in wanted for part in ("--only", name)]
        process = subprocess.Popen(
            command,
            cwd=machine.REPOSITORY,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        timer = threading.Timer(seconds, _end, (process,))
        timer.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith('{"part"'):
                    done = json.loads(line)
                    left.pop(done["part"])
                    yield done["part"], done["result"]
        finally:
            timer.cancel()
            _end(process)
            process.wait()
    for name in left:
        yield name, {"failed": "the time was over, or the process of its group ended"}


def _end(process: subprocess.Popen[str]) -> None:
    """End a process and those that it started: they would keep the GPU, or its output open."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
