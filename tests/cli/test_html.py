"""`--html`: beside whatever else a command prints, and refused before anything is measured."""

import numpy as np
import pytest

import batchwright as bw
from batchwright.layout import Packed, Padded
from batchwright.plans import Origin
from batchwright.report.plan_texts import first_steps
from tests.cli.command import LENGTHS, facts_of, invoke, start
from tests.cli.test_compare import TASK
from tests.patience import PATIENCE
from tests.report.reader import text_of, view_of

INSPECT = ("inspect", "plan.safetensors", "lengths.npy")


@pytest.mark.slow
def test_the_page_comes_beside_the_report(tmp_path):
    page = tmp_path / "page.html"
    plain = invoke(*INSPECT)
    with_page = invoke(*INSPECT, "--html", str(page))
    assert with_page.exit_code == 0
    assert "What to do first" in page.read_text(encoding="utf-8")
    # The dial is priced for the page, and told in the terminal, too.
    assert "Trade-off of padding and mix" in with_page.stdout
    assert "Trade-off of padding and mix" not in plain.stdout


@pytest.mark.slow
def test_only_padded_batches_within_a_budget_have_a_dial(tmp_path):
    plan, page = str(tmp_path / "plan"), str(tmp_path / "page.html")
    for options in (("--pack", "512"), ("--fixed-size", "8")):
        assert invoke("plan", "lengths.npy", *options, "-o", plan).exit_code == 0
        assert "dial" not in facts_of("inspect", plan, "lengths.npy", "--html", page)
    assert "dial" in facts_of(*INSPECT, "--html", page)
    assert "dial" not in facts_of(*INSPECT)


@pytest.mark.slow
@pytest.mark.parametrize(
    "plan",
    [
        bw.plan(LENGTHS, batching=bw.Buckets(4, max_tokens=2_048)),
        bw.plan(LENGTHS, batching=bw.Packing(300, oversize="split")),
        bw.plan(LENGTHS, max_tokens=600, world_size=20, accumulate=3),
        bw.plan(LENGTHS, batching=bw.FixedSize(LENGTHS.size)),
        bw.Plan(np.array([4, 0, 4]), np.array([0, 2, 3])),
        bw.plan(LENGTHS, max_tokens=2_048, world_size=2).shard(0, 2),
        bw.Plan(np.array([4, 0]), np.array([0, 1, 2]), layout=Packed()),
        bw.Plan(
            np.array([4, 0]),
            np.array([0, 1, 2]),
            layout=Padded(2_048),
            origin=Origin(world_size=2**40, accumulate=2**20),
        ),
    ],
    ids=["buckets", "split", "many ranks", "one batch", "by hand", "shard", "bare", "huge world"],
)
def test_any_plan_makes_a_page(plan, tmp_path):
    path, page = str(tmp_path / "plan"), tmp_path / "page.html"
    plan.save(path)
    for source in ([], ["lengths.npy"]):
        facts = facts_of("inspect", path, *source, "--html", str(page))
        html = page.read_text(encoding="utf-8")
        assert all(each in text_of(html) for each in first_steps(view_of(facts).facts))
        assert 0 < len(html) < 500_000


def run_without(package, *args):
    """Run the command where a package cannot be imported."""
    code = f"import sys; sys.modules[{package!r}] = None; "
    code += "from batchwright.cli import main; sys.exit(main(sys.argv[1:]))"
    process = start(*args, code=code)
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err.decode()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "command"),
    [
        ("jinja2", INSPECT),
        ("matplotlib", ("advise", "lengths.npy")),
        ("matplotlib", ("compare", "task.py")),
    ],
)
def test_without_the_extra_it_is_one_line(command, package, tmp_path):
    page = tmp_path / "page.html"
    code, out, err = run_without(package, *command, "--html", str(page))
    assert (code, out) == (2, b"")
    assert err.count("\n") == 1
    assert package in err
    assert "pip install 'batchwright[report]'" in err
    assert not page.exists()


@pytest.mark.slow
def test_a_comparison_is_not_begun_for_a_page_that_cannot_be_written(tmp_path):
    task, result = tmp_path / "task.py", tmp_path / "result.json"
    task.write_text(TASK.replace("EPOCHS", str(10**9)), encoding="utf-8")
    options = ("compare", str(task), "-o", str(result), "--html")
    for page in (str(tmp_path / "nowhere" / "page.html"), str(tmp_path), str(task)):
        done = invoke(*options, page)
        assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert "--html" in done.stderr
        assert not result.exists()
