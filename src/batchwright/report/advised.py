"""What is advised, as people read it: what to do first, then why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from batchwright.report.compared import interval
from batchwright.report.figures import number
from batchwright.report.sections.hardware import hardware_sentences
from batchwright.report.sections.lengths import column_sentences
from batchwright.report.sections.model import model_sentences
from batchwright.report.sections.samples import sample_sentences
from batchwright.report.sections.trials import price_sentences

if TYPE_CHECKING:
    from rich.console import Group

Facts = Mapping[str, Any]

_STYLES = {"use": "bold green", "do not use": "bold red", "cannot tell": "bold yellow"}


def advice_report(result: Facts) -> Group:
    """Lay the advice out: a paragraph for each technique.

    Args:
        result: What ``advise --json`` prints.
    """
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    data = result["data"]
    assumed = "" if data["is_given"] else ", assumed: --max-tokens"
    parts: list[Any] = [
        Text(),
        Text(
            f"{number(data['num_samples'])} samples, {number(data['num_tokens'])} tokens: half are "
            f"at most {number(data['median'])} long, the longest {number(data['longest'])}. "
            f"Batches of {number(data['max_tokens'])} tokens{assumed}."
        ),
    ]
    known = [
        *column_sentences(data["columns"]),
        *hardware_sentences(result["hardware"]),
        *sample_sentences(result),
        *model_sentences(result["model"]),
        *price_sentences(result["price"]),
    ]
    parts += [Text(sentence) for sentence in known]
    for each in result["advice"]:
        heading = Text.assemble(
            (f"{each['verdict']:12}", _STYLES[each["verdict"]]), (each["technique"], "bold")
        )
        parts += [Text(), heading, Padding(Text(paragraph(each)), (0, 0, 0, 12))]
    if result["trials"]:
        command = f"batchwright compare TASK --strategies plain,{result['strategy']}"
        parts += [Text(), Text(f"All of that, in whole runs: {command}")]
    return Group(*parts)


def paragraph(advice: Facts) -> str:
    """Say why, what is to be gained, what to set, and what was not looked at."""
    said = [advice["why"]]
    gain = advice["gain"]
    if gain is not None:
        figure = interval({**gain, "mean": gain["ratio"]})
        source = f": {gain['source']}" if gain["source"] else ""
        said.append(f"Expected: {figure} × {gain['of']}, {gain['origin']}{source}.")
    if advice["settings"]:
        listed = ", ".join(f"{name}: {value}" for name, value in advice["settings"].items())
        said.append(f"Setting: {listed}.")
    if advice["untested"]:
        said.append(f"Not tested: {advice['untested']}.")
    return " ".join(said)
