"""The pages of the commands, each with the JSON of the same call."""

import json
from pathlib import Path

import numpy as np
import pytest

from batchwright.compare.result_file import summarized
from tests.cli.command import invoke
from tests.cli.test_compare import TASK

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "applications"

# Name of a page → how its plan is made.
PLANS = {
    "padded": ("--max-tokens", "8000", "--world-size", "4", "--accumulate", "2"),
    "packed": ("--pack", "1000", "--world-size", "2"),
    "fixed": ("--fixed-size", "16", "--accumulate", "4"),
    "dropping": ("--max-tokens", "600", "--oversize", "drop", "--world-size", "32"),
    "single": ("--fixed-size", "5000"),
}


def result_of(path):
    """Read a result of a comparison; its figures are those of this version."""
    result = json.loads(path.read_text(encoding="utf-8"))
    return result | {"summary": summarized(result)}


def lengths_of_documents():
    return np.clip(np.random.default_rng(0).lognormal(5, 1, 5_000), 1, 1_000).astype(int)


def told(*args):
    result = invoke(*args, "--json")
    assert result.exit_code == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="session")
def pages(tmp_path_factory):
    """A folder of pages NAME.html, and beside each what --json printed: NAME.json."""
    from batchwright.report.compared import compared_report
    from batchwright.report.diagnosed import diagnosed_report
    from batchwright.report.sections import page
    from tests.report.diagnoses import sick

    folder = tmp_path_factory.mktemp("pages")
    lengths = str(folder / "lengths.npy")
    np.save(lengths, lengths_of_documents())
    for name, options in PLANS.items():
        plan, html = str(folder / f"{name}.plan"), str(folder / f"{name}.html")
        told("plan", lengths, *options, "-o", plan)
        (folder / f"{name}.json").write_text(told("inspect", plan, lengths, "--html", html))
    alone = told("inspect", str(folder / "padded.plan"), "--html", str(folder / "alone.html"))
    (folder / "alone.json").write_text(alone)
    advice = told("advise", lengths, "--html", str(folder / "advise.html"))
    (folder / "advise.json").write_text(advice)
    report = diagnosed_report(sick())
    (folder / "doctor.html").write_text(page(report), encoding="utf-8")
    (folder / "doctor.json").write_text(json.dumps(report.facts))
    # A result as earlier versions kept it, without what strategies plan and what precision loses.
    result = result_of(RESULTS / "translation.json")
    for name in ("plans", "audits", "shared_process"):
        del result[name]
    (folder / "earlier.html").write_text(page(compared_report(result)), encoding="utf-8")
    (folder / "earlier.json").write_text(json.dumps(result))
    return folder


@pytest.fixture(scope="session")
def compared(pages):
    """The same folder, with the pages of a small comparison, and of advice on its task."""
    task = pages / "task.py"
    task.write_text(TASK.replace("EPOCHS", "2"), encoding="utf-8")
    result, html = str(pages / "result.json"), str(pages / "compare.html")
    strategies = "plain,planned,planned+curriculum,planned+bf16"
    options = ("--strategies", strategies, "--seeds", "1", "--evaluations", "4", "-o", result)
    compared = told("compare", str(task), *options, "--html", html)
    (pages / "compare.json").write_text(compared)
    html = str(pages / "trials.html")
    advice = told("advise", str(task), "--updates", "40", "--html", html)
    (pages / "trials.json").write_text(advice)
    return pages
