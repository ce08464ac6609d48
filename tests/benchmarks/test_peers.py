"""The comparison with other libraries counts right, and tells what a peer loses or overruns."""

import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import batchwright as bw
from benchmarks import machine
from benchmarks.peers import page
from benchmarks.peers.contest import Contest, series
from benchmarks.peers.environments import PINS, NotInstalledError, paragraphs, python_of
from benchmarks.peers.measures import counted
from benchmarks.peers.roster import OURS, PEERS, Peer
from benchmarks.peers.session import PeerError, Session, TooSlowError, batches_of
from tests.patience import PATIENCE

SOURCE = machine.REPOSITORY / "src"
LENGTHS = np.random.default_rng(0).integers(1, 100, 2_000)

FAULTY = """
import time
VERSION = "1.0"
def planner(lengths, setting):
    print("loading", flush=True)
    def plan(turn):
        if lengths.size > 1_500 and setting["fault"] == "slow":
            time.sleep(60)
        if lengths.size > 1_500 and setting["fault"] == "ends":
            raise SystemExit(3)
        if setting["fault"] == "raises":
            raise ValueError("lengths are\\nnot to its taste")
        order = lengths.argsort(kind="stable").tolist()
        batches = [order[start:start + 20] for start in range(0, len(order), 20)]
        if setting["fault"] == "loses":
            del batches[-1][-1]
        if setting["fault"] == "repeats":
            batches[0].append(order[0])
        if setting["fault"] == "joins":
            batches[-2:] = [batches[-2] + batches[-1]]
        return batches
    return plan
"""


@pytest.fixture
def lengths(tmp_path: Path) -> Path:
    np.save(tmp_path / "lengths.npy", LENGTHS)
    return tmp_path / "lengths.npy"


@pytest.fixture
def faulty(tmp_path: Path):
    (tmp_path / "faulty.py").write_text(textwrap.dedent(FAULTY), encoding="utf-8")

    def peer(fault: str) -> Peer:
        setting = {"fault": fault}
        adapter = str(tmp_path / "faulty")
        return Peer("faulty", "Faulty", "padded", "none", adapter, "A. ", "B.", setting)

    return peer


def ours(folder: Path) -> Session:
    return Session(sys.executable, OURS, folder / "log", path=SOURCE)


def row_of(peer: Peer, lengths: Path, folder: Path, *, limit: float = PATIENCE) -> dict:
    contest = Contest(lengths, "made up", 2_000)
    [row] = series(peer, Path(sys.executable), [contest], limit=limit, folder=folder)
    return row


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "batching"), [("padded", bw.TokenBudget(300)), ("packed", bw.Packing(300))]
)
def test_a_worker_hands_over_the_very_plan(kind, batching, lengths, tmp_path):
    kept = tmp_path / "kept.npz"
    with ours(tmp_path) as session:
        told = session.prepare(lengths, {"kind": kind, "budget": 300}, limit=PATIENCE)
        seen = session.plan(2, limit=PATIENCE, keep=kept)
        assert session.plan(3, limit=PATIENCE).keys() == seen.keys()
    plan = bw.plan(LENGTHS, batching=batching, epoch=2)
    indices, offsets = batches_of(kept)
    assert np.array_equal(indices, plan.indices)
    assert np.array_equal(offsets, plan.offsets)
    assert told["version"] == bw.__version__
    assert 0 < seen["cpu_seconds"] <= seen["seconds"] * 1.5
    figures = counted(LENGTHS, indices, offsets, kind=kind, budget=300)
    stats = plan.stats(LENGTHS)
    assert figures["efficiency"] == pytest.approx(
        stats.efficiency if kind == "padded" else LENGTHS.sum() / (len(plan) * 300)
    )
    assert (figures["lost"], figures["twice"], figures["over"]) == (0, 0, 0)


@pytest.mark.slow
def test_shares_of_a_balance_come_back_as_batches(lengths, tmp_path):
    kept = tmp_path / "kept.npz"
    setting = {"kind": "balance", "budget": 0, "parts": 8}
    with ours(tmp_path) as session:
        session.prepare(lengths, setting, limit=PATIENCE)
        session.plan(0, limit=PATIENCE, keep=kept)
    figures = counted(LENGTHS, *batches_of(kept), kind="balance", budget=0)
    shares = np.bincount(bw.balance(LENGTHS, 8), weights=LENGTHS)
    assert figures["imbalance"] == pytest.approx(shares.max() / shares.mean())
    assert (figures["batches"], figures["lost"]) == (8, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "lost", "twice", "over"),
    [("none", 0, 0, 0), ("loses", 1, 0, 0), ("repeats", 0, 1, 0), ("joins", 0, 0, 1)],
)
def test_a_fault_is_counted_and_named(fault, lost, twice, over, faulty, lengths, tmp_path):
    row = row_of(faulty(fault), lengths, tmp_path)
    figures = row["figures"]
    assert (figures["lost"], figures["twice"], figures["over"]) == (lost, twice, over)
    assert (row["ours_figures"]["lost"], row["ours_figures"]["over"]) == (0, 0)
    assert row["ratio"]["least"] <= row["ratio"]["median"] <= row["ratio"]["most"]
    text = page.about(faulty(fault), [row])
    assert ("1 in no batch" in text) == (fault == "loses")
    assert ("1 planned again" in text) == (fault == "repeats")
    assert ("1 of 99 batches exceed the budget; the largest holds 1.9" in text) == (
        fault == "joins"
    )


@pytest.mark.slow
def test_a_peer_that_cannot_be_run_says_why(faulty, lengths, tmp_path):
    assert row_of(faulty("raises"), lengths, tmp_path)["not_run"] == "ValueError: lengths are"
    assert row_of(faulty("ends"), lengths, tmp_path)["not_run"] == "SystemExit: 3"
    slow = row_of(faulty("slow"), lengths, tmp_path, limit=1.0)
    assert slow["not_run"] == "took more than 1 s"


@pytest.mark.slow
def test_a_worker_that_dies_or_hangs_does_not_hang_us(faulty, lengths, tmp_path):
    peer = faulty("slow")
    with Session(sys.executable, peer.file, tmp_path / "log") as session:
        session.prepare(lengths, peer.setting, limit=PATIENCE)
        with pytest.raises(TooSlowError, match="more than 0 s"):
            session.plan(0, limit=0.2)
    with Session(sys.executable, tmp_path / "missing.py", tmp_path / "log") as session:
        with pytest.raises(PeerError, match="FileNotFoundError"):
            session.prepare(lengths, {}, limit=PATIENCE)
        session._process.kill()
        with pytest.raises(PeerError, match="exit code -9"):
            session.prepare(lengths, {}, limit=PATIENCE)


@pytest.mark.slow
def test_nobody_waits_for_what_will_take_too_long(faulty, tmp_path):
    contests = []
    for size in (1_000, 100_000, 1_000_000_000):
        path = tmp_path / f"{size}.npy"
        # Only the size of the largest is looked at.
        np.save(path, np.ones(min(size, 100_000), dtype=np.int64))
        contests.append(Contest(path, "made up", 2_000))
    contests[-1] = type("Huge", (Contest,), {"samples": 1_000_000_000})(
        contests[-1].lengths, "made up", 2_000
    )
    peer, python = faulty("none"), Path(sys.executable)
    rows = list(series(peer, python, contests, limit=20, folder=tmp_path))
    assert rows[1]["growth"]["samples"] == 100
    assert "not_run" not in rows[1]
    assert "expected to take" in rows[2]["not_run"]


def test_figures_are_those_of_the_batches():
    lengths = np.array([4, 2, 3, 1])
    padded = counted(lengths, np.array([0, 2, 1, 3]), np.array([0, 2, 4]), kind="padded", budget=8)
    assert padded["efficiency"] == 10 / 12
    assert (padded["overrun"], padded["over"], padded["batches"]) == (1.0, 0, 2)
    packed = counted(lengths, np.array([0, 2, 1]), np.array([0, 2, 3]), kind="packed", budget=5)
    assert packed["efficiency"] == 9 / 10
    assert packed["over_bound"] == 2 / 2
    assert (packed["lost"], packed["over"], packed["overrun"]) == (1, 1, 7 / 5)


def test_entries_that_are_no_samples_are_counted_and_left_out():
    lengths = np.array([4, 2, 3])
    indices, offsets = np.array([0, -1, 7, 1, 1]), np.array([0, 1, 3, 3, 5])
    figures = counted(lengths, indices, offsets, kind="packed", budget=4)
    assert (figures["unknown"], figures["lost"], figures["twice"]) == (2, 1, 1)
    assert figures["batches"] == 2


def test_all_peers_are_pinned_and_have_an_adapter():
    names = [peer.name for peer in PEERS]
    assert len(set(names)) == len(names)
    for peer in PEERS:
        assert peer.file.is_file()
        pins = paragraphs((PINS / f"{peer.environment}.txt").read_text(encoding="utf-8"))
        for pin in (pin for paragraph in pins for pin in paragraph):
            assert "==" in pin, pin
    # torch comes first: what comes after it would choose another.
    torch = paragraphs((PINS / "torch.txt").read_text(encoding="utf-8"))
    assert torch[0][0].startswith("torch==")


def test_pins_fall_into_paragraphs():
    text = "# about\n# this\n\na==1  # the first\nb==2\n\n# more\nc==3\n"
    assert paragraphs(text) == [["a==1", "b==2"], ["c==3"]]


@pytest.mark.slow
def test_what_cannot_be_installed_says_why(tmp_path):
    (tmp_path / "none.txt").write_text("--no-index\nno-such-package==1.0\n", encoding="utf-8")
    with pytest.raises(NotInstalledError, match="no-such-package"):
        python_of("none", pins=tmp_path, built=tmp_path / "built")
    # It is not taken for an environment the next time.
    assert not (tmp_path / "built" / "none" / "pins.txt").exists()


def test_an_environment_with_the_same_pins_is_used_again(tmp_path):
    made = tmp_path / "built" / "some"
    made.mkdir(parents=True)
    for file in (tmp_path / "some.txt", made / "pins.txt"):
        file.write_text("numpy==2.4.6\n", encoding="utf-8")
    python = python_of("some", pins=tmp_path, built=tmp_path / "built")
    assert python == made / "bin" / "python"


def made_up_row(peer: Peer, **changes: object) -> dict:
    figures = {"lost": 0, "twice": 0, "unknown": 0, "batches": 10}
    if peer.kind == "balance":
        figures["imbalance"] = 1.01
    else:
        figures |= {"efficiency": 0.95, "overrun": 1.0, "over": 0}
    return {
        "peer": peer.name,
        "kind": peer.kind,
        "lengths": "text2k",
        "samples": 10_000,
        "rounds": 3,
        "cpu_seconds": 2.0,
        "ours_cpu_seconds": 0.1,
        "ratio": {"median": 20.0, "least": 19.0, "most": 21.0},
        "at_work": 1.0,
        "peak_bytes": 5_000_000,
        "ours_peak_bytes": 1_000_000,
        "figures": figures,
        "ours_figures": dict(figures),
        "versions": {"version": "9.8.7", "python": "3.11.7", "numpy": "2.4.6"},
        **changes,
    }


def made_up(rows: list[dict]) -> dict:
    return {
        "command": "python -m benchmarks.peers",
        "date": "2026-01-01",
        "machine": {"cpu": "a processor", "cores": 2},
        "batchwright": "1.2.3",
        "limit_seconds": 60.0,
        "rows": rows,
        "not_run": {"another 1.0": "not installed: for a reason"},
    }


def test_the_page_has_every_peer_and_who_is_missing():
    text = page.page(made_up([made_up_row(peer) for peer in PEERS]))
    for peer in PEERS:
        assert f"- **{peer.title}** (9.8.7): {peer.ran}" in text
    assert "| " + PEERS[0].title + " | 10,000 | 2.0 s / 100.0 ms | 20.0 |" in text
    assert "- another 1.0: not installed: for a reason." in text


def test_the_page_names_what_a_plan_got_wrong():
    peer = PEERS[0]
    wrong = {"lost": 3, "twice": 0, "unknown": 0, "batches": 9, "overrun": 1.5, "over": 2}
    text = page.about(peer, [made_up_row(peer, figures={**wrong, "efficiency": 0.99})])
    assert "text2k, 10,000 samples: 3 in no batch." in text
    assert "2 of 9 batches exceed the budget; the largest holds 1.500 times as much." in text


def test_the_page_says_what_was_not_run():
    peer = PEERS[0]
    row = {"peer": peer.name, "kind": peer.kind, "lengths": "text2k", "samples": 10_000}
    text = page.page(made_up([{**row, "not_run": "took more than 60 s"}]))
    assert "text2k, 10,000 samples: not run, took more than 60 s." in text
