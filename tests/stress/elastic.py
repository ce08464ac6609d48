"""Kill training runs at random, and go on with other numbers of ranks, until they end.

Usage: python -m tests.stress.elastic [--jobs 100] [--seed 0] [--kind trainer]

A job is a run under `use_plan`, or in a plain loop with `PlanLoader` and `Precision.update`. It is
launched as by torchrun; SIGKILL ends one rank or all of them at a random place of a random
update, also while a checkpoint is written. The run goes on from its last checkpoint, on other
ranks, with other workers. Of what led up to the checkpoint that was continued, and all after it,
every update must have read the samples that the plan says, and have the loss that it has in a run
that nobody disturbed; so must the weights in the end. A job is a function of its seed.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from multiprocessing import forkserver, set_forkserver_preload
from pathlib import Path

import numpy as np
import torch
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

import batchwright as bw

LENGTHS = np.random.default_rng(0).lognormal(2.5, 0.7, 61).clip(2, 40).astype(int)
BATCHINGS = {"tokens": bw.TokenBudget(120), "samples": bw.FixedSize(3), "packed": bw.Packing(100)}
ORDERS = {"shuffle": bw.Shuffle(), "window": bw.Shuffle(window=16), "sequential": bw.Sequential()}

NEAR = 1e-5  # losses are float32
MOST_LEGS = 12
_JOB = {"batching": "tokens", "order": "shuffle", "cost": None, "samples": 61, "batches": 4}
_JOB |= {"made": False, "epochs": 2, "every": 2, "seed": 5, "model": "classifier"}
FIXED = (
    (
        _JOB | {"kind": "trainer", "made": True},
        [(2, 0, "end", 3, [0, 1]), (1, 1, "saving", 2, [0]), (2, 0)],
    ),
    (
        _JOB | {"kind": "loop"},
        [(4, 0, "pass", 3, [1]), (2, 0, "optimizer", 3, [0, 1]), (1, 1)],
    ),
)
"""Jobs that are part of the tests, and their legs: ranks, workers, and where it ends."""

PLACES = ("begin", "pass", "optimizer", "end", "saved", "saving", "any moment")


def job_of(seed, kind=None):
    """Draw a job: what is trained, how it is planned, when it is saved."""
    draw = random.Random(seed)  # noqa: S311
    kind = kind or draw.choice(["trainer", "trainer", "loop"])
    batching = draw.choice(["tokens", "tokens", "samples", "packed"])
    if kind == "loop" and batching == "packed":
        batching = "tokens"
    models = ["classifier", "tagger", "llama", "gpt2", "t5"]
    return {
        "kind": kind,
        "model": draw.choice(["llama", "gpt2"] if batching == "packed" else models),
        "batching": batching,
        "order": draw.choice(["shuffle", "shuffle", "window", "sequential"]),
        "cost": draw.choice([None, None, "padded"]),
        "samples": draw.choice([draw.randint(8, 20), draw.randint(20, 61)]),
        "batches": draw.choice([2, 2, 4, 4, 6]),
        "epochs": draw.choice([1, 2, 2, 3]),
        "every": draw.randint(1, 4),
        "seed": draw.randint(0, 99),
        # `use_plan(trainer)` without a planner: updates of the ranks that the run begins with.
        "made": batching == "tokens" and kind == "trainer" and draw.random() < 0.4,
    }


def planner_of(job, ranks):
    """Plan as many batches an update for any number of ranks."""
    return bw.Planner(
        LENGTHS[: job["samples"]],
        batching=BATCHINGS[job["batching"]],
        order=ORDERS[job["order"]],
        seed=job["seed"],
        world_size=ranks,
        accumulate=job["batches"] // ranks,
        cost=job["cost"],
    )


def leg_of(draw, job):
    """Draw on how many ranks a part of a run goes on, and where it ends."""
    ranks = draw.choice([n for n in (1, 2, 2, 3, 4) if job["batches"] % n == 0])
    where = draw.choice(PLACES)
    saves = where in {"saved", "saving"}  # only there
    death = {
        "where": where,
        "update": job["every"] * draw.randint(1, 2) if saves else draw.randint(0, 6),
        "ranks": draw.choice([[draw.randrange(ranks)], list(range(ranks))]),
    }
    return {
        "ranks": ranks,
        "workers": int(draw.random() < 0.1),
        "death": death if draw.random() < 0.85 else None,
    }


def launch(folder, job, leg, *, ranks, workers, death):
    """Run a job as torchrun does; return what it failed with, if it was not killed."""
    outside = death is not None and death["where"] == "any moment"
    given = job | {"leg": leg, "workers": workers, "death": None if outside else death}
    (folder / "job.json").write_text(json.dumps(given), encoding="utf-8")
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=ranks,
        run_id=f"{folder.name}-{leg}",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.05,
        start_method="forkserver",
        shutdown_timeout=5,
        logs_specs=DefaultLogsSpecs(str(folder / "logs"), redirects=Std.ALL),
    )
    over = threading.Event()
    killer = threading.Thread(target=kill, args=(folder, leg, death, over))
    if outside:
        killer.start()
    try:
        elastic_launch(config, run)(str(folder))
    except ChildFailedError as failed:
        codes = {each.exitcode for each in failed.failures.values()}
        return None if -signal.SIGKILL in codes else failed
    finally:
        over.set()
        if outside:
            killer.join()
        for file in folder.glob("pid-*"):  # workers outlive a rank that was killed
            with contextlib.suppress(OSError):
                os.killpg(int(file.read_text()), signal.SIGKILL)
            file.unlink()
    return None


def run(folder):
    """Run the script of a job, in a process of its own."""
    from tests.integrations.scripts import elastic

    warnings.simplefilter("ignore")
    os.setpgrp()
    Path(folder, f"pid-{os.environ['RANK']}").write_text(str(os.getpid()), encoding="utf-8")
    elastic.main(folder)


def kill(folder, leg, death, over):
    """Kill ranks from outside, a moment after an update has begun."""
    diary = folder / f"{leg}-0.jsonl"
    while not over.wait(0.002):
        lines = read_lines(diary) if diary.exists() else []
        begin = next((line["begin"] for line in lines if "begin" in line), 0)
        if any(line.get("update", -1) - begin >= death["update"] for line in lines):
            time.sleep(random.Random(leg).random() * 0.05)  # noqa: S311
            for rank in death["ranks"]:
                with contextlib.suppress(OSError):
                    os.kill(int((folder / f"pid-{rank}").read_text()), signal.SIGKILL)
            return


def read_lines(path):
    """Read what a rank noted; the last line may have been cut off."""
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines]


def updates_of(folder):
    """Return what led up to the end: for each update its samples, and its loss."""
    read, losses = {}, Counter()
    weights = []
    for leg in range(len(list(folder.glob("*-0.jsonl")))):
        ranks = [read_lines(path) for path in folder.glob(f"{leg}-*.jsonl")]
        begins = {line["begin"] for lines in ranks for line in lines if "begin" in line}
        if not begins:
            continue  # killed before it began
        assert len(begins) == 1, f"ranks begin at different updates: {begins}"
        begin = begins.pop()
        for update in [each for each in read if each >= begin]:
            del read[update]
            losses.pop(update, None)
        assert begin == len(read), f"an update before {begin} is missing"
        weights = [line["weights"] for lines in ranks for line in lines if "weights" in line]
        for line in (line for lines in ranks for line in lines if "update" in line):
            read.setdefault(line["update"], []).extend(line.get("read", []))
            losses[line["update"]] += line.get("loss", 0.0)
    assert weights, "the run did not end"
    assert all(each == weights[0] for each in weights), "ranks have different weights"
    return [sorted(read[update]) for update in range(len(read))], losses


def planned_updates(job):
    """Return the samples of each update, as the plan has them."""
    planner, size = planner_of(job, 1), job["batches"]
    found = []
    for epoch in range(job["epochs"]):
        batches = list(planner(epoch))
        samples = sorted(int(each) for batch in batches for each in batch)
        repeated = planner(epoch).repeated
        assert samples == sorted([*range(job["samples"]), *repeated.tolist()])
        for first in range(0, len(batches), size):
            group = batches[first : first + size]
            found.append(sorted(int(each) for batch in group for each in batch))
    return found


def fixed_legs(legs):
    """Return legs as `leg_of` draws them."""
    found = []
    for ranks, workers, *end in legs:
        death = dict(zip(("where", "update", "ranks"), end, strict=True)) if end else None
        found.append({"ranks": ranks, "workers": workers, "death": death})
    return found


def drawn_legs(seed, job):
    """Draw the legs of a job, the last without a death."""
    draw = random.Random(-1 - seed)  # noqa: S311
    legs = [leg_of(draw, job) for _ in range(MOST_LEGS)]
    return [*legs[:-1], legs[-1] | {"death": None, "ranks": legs[0]["ranks"]}]


def check_job(job, legs, *, say=lambda text: None):
    """Run a job undisturbed, and again with deaths; return how often it was killed.

    Raises:
        AssertionError: If they differ in more than rounding.
    """
    say(f"{job}")
    with tempfile.TemporaryDirectory() as root:
        whole, killed = Path(root) / "whole", Path(root) / "killed"
        whole.mkdir()
        killed.mkdir()
        plain = {"ranks": legs[0]["ranks"] if job["made"] else 1, "workers": 0, "death": None}
        failed = launch(whole, job, 0, **plain)
        assert failed is None, failed
        expected, losses = updates_of(whole)
        planned = planned_updates(job)
        if job["made"]:
            each = sorted(sample for update in expected for sample in update)
            assert each == sorted([*range(job["samples"])] * job["epochs"])
            planned = expected
        assert expected == planned, "the undisturbed run reads another plan"
        deaths = 0
        for leg, options in enumerate(legs):
            say(f"  leg {leg}: {options}")
            failed = launch(killed, job, leg, **options)
            if job["made"] and "PlanError" in str(failed):
                say("    refused: " + str(failed)[str(failed).index("PlanError") :][:300])
                continue
            assert failed is None, failed
            if (killed / "weights.pt").exists():
                break
            deaths += 1
        found, found_losses = updates_of(killed)
        if job["made"] or job["cost"] is None:
            assert found == planned, "an update read other samples"
            off = max(abs(losses[each] - found_losses[each]) for each in range(len(planned)))
            assert off <= NEAR, f"losses are {off:.2g} off"
            weights = [torch.load(each / "weights.pt") for each in (whole, killed)]
            off = float((weights[0] - weights[1]).abs().max())
            assert off <= NEAR, f"weights are {off:.2g} off"
        else:  # what shares an update depends on the ranks
            assert len(found) == len(planned)
            updates = len(planned) // job["epochs"]
            for epoch in range(job["epochs"]):
                part = slice(epoch * updates, (epoch + 1) * updates)
                counts = Counter(sample for each in found[part] for sample in each)
                missing = set(range(job["samples"])) - set(counts)
                assert not missing, f"epoch {epoch} lacks {missing}"
                twice = [each for each, count in counts.items() if count > 1]
                planned_twice = [s for s, c in Counter(sum(planned[part], [])).items() if c > 1]
                assert len(twice) <= len(planned_twice), f"epoch {epoch} has {twice} twice"
        return deaths


def prepare():
    """Import what jobs need once, in a process that they are forked from."""
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"
    set_forkserver_preload(["tests.integrations.scripts.elastic", "transformers.trainer"])
    forkserver.ensure_running()


def main(words=None):
    """Run many jobs; return 1 if any is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--jobs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the first job; the next have +1")
    parser.add_argument("--kind", choices=["trainer", "loop"], help="only these")
    parser.add_argument("--fixed", action="store_true", help="the jobs of the tests instead")
    parser.add_argument("--verbose", action="store_true")
    given = parser.parse_args(words)
    warnings.simplefilter("ignore")
    prepare()
    jobs = [(job, fixed_legs(legs)) for job, legs in FIXED]
    if not given.fixed:
        seeds = range(given.seed, given.seed + given.jobs)
        drawn = [(seed, job_of(seed, given.kind)) for seed in seeds]
        jobs = [(job, drawn_legs(seed, job)) for seed, job in drawn]
    done, deaths, wrong = 0, 0, []
    with contextlib.suppress(KeyboardInterrupt, SignalException):
        for number, (job, legs) in enumerate(jobs):
            try:
                deaths += check_job(job, legs, say=print if given.verbose else lambda text: None)
            except SignalException:
                raise
            except Exception:  # noqa: BLE001 (a raw error is a finding)
                wrong.append(given.seed + number)
                print(f"seed {wrong[-1]}: {job}\n{traceback.format_exc(limit=-4)}")
            done += 1
    print(f"{done} jobs, killed {deaths} times, {len(wrong)} wrong: {wrong}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
