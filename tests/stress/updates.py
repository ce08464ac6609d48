"""Inject a fault anywhere into an update, and look at its gradient and at the next update's.

    python -m tests.stress.updates --cases 1000 --seed 0
    python -m tests.stress.updates --cases 500 --seed 0 --ranks 2

Memory runs out, an error is raised or the run is interrupted at an operation drawn at random, in
the loss, in clipping or in the optimizer, on one of the ranks or on all. An update must then have
the gradient of one batch of everything (to 1e-6), or end with an error on every rank; the next one
must be right, learning rates unchanged and ranks equal. A case is a function of its seed.
"""

import argparse
import contextlib
import copy
import datetime as dt
import os
import random
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path

import torch
from torch import distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

import batchwright as bw
from batchwright.torch import Precision
from tests import fork_server
from tests.stress.update_jobs import JOBS

PATIENCE = dt.timedelta(seconds=120)
NEAR = 1e-6


class InjectedError(RuntimeError):
    """An error of the user's."""


ERRORS = {
    "memory": lambda: torch.OutOfMemoryError("CUDA out of memory"),
    "error": lambda: InjectedError("injected"),
    "interrupt": KeyboardInterrupt,
}

_AGREEING = {"summed", "all_reduce", "broadcast", "broadcast_object_list", "all_gather"}
"""Where a fault would be one of the connection between ranks."""


class FaultAtOperation(TorchDispatchMode):
    """Counts operations, and raises at one of them."""

    def __init__(self, at=None, error=None):
        super().__init__()
        self.at, self.error, self.count, self.raised = at, error, 0, False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        due = not self.raised and self.at is not None and self.count > self.at
        if due and "c10d" not in str(func) and not self._agreeing():
            self.raised = True
            raise self.error()
        return func(*args, **(kwargs or {}))

    def _agreeing(self):
        frame = sys._getframe(2)
        while frame is not None:
            if frame.f_code.co_name in _AGREEING:
                return True
            frame = frame.f_back
        return False


def flat(model):
    return torch.cat([p.grad.to_dense().flatten().double() for p in model.parameters()])


def error_of(gradient, reference):
    return float((gradient - reference).norm() / reference.norm().clamp_min(1e-12))


def reference_of(job, model, samples):
    twin = copy.deepcopy(model)
    batch = job.collate(samples)
    (job.loss_sum(twin, batch) / job.weigh(batch)).backward()
    return flat(twin)


class Case:
    """One update with a fault, and the next one without."""

    def __init__(self, seed, rank, ranks):
        draw = random.Random(seed)  # noqa: S311
        self.rank, self.ranks = rank, ranks
        self.name = draw.choice(list(JOBS))
        self.job = JOBS[self.name]()
        self.kind = draw.choice(list(ERRORS))
        self.place = draw.choice(["operation"] * 5 + ["loss", "step", "after step"])
        self.share = draw.random()
        self.guilty = draw.choice([{each} for each in range(ranks)] + [set(range(ranks))])
        self.clip = draw.choice([None, 0.01])
        self.check = draw.random() < 0.7
        order = draw.sample(self.job.samples, len(self.job.samples))
        self.samples = order[: draw.randint(2 * ranks, len(order))]
        mine = self.samples[rank::ranks]
        cuts = sorted(draw.sample(range(1, 24), 2))
        parts = [mine[: cuts[0]], mine[cuts[0] : cuts[1]], mine[cuts[1] :]]
        self.batches = [self.job.collate(part) for part in parts if part]
        self.weight = sum(map(self.job.weigh, self.batches))  # a fault there is before the update
        torch.manual_seed(seed)
        self.local = self.job.model()
        for module in self.local.modules():  # copies have buffers of one shape
            module.grows = ranks == 1
        self.model = DistributedDataParallel(self.local) if ranks > 1 else self.local
        self.optimizers = self.job.optimizers(self.local)
        self.precision = Precision("fp32", check_loss=self.check)

    def about(self):
        return f"{self.name}, {self.kind} at {self.place} {self.share:.3f}, ranks {self.guilty}"

    def update(self, loss_sum=None):
        with self.precision.update(
            self.model, self.optimizers, weight=self.weight, clip=self.clip
        ) as update:
            for batch in self.batches:
                update.backward(loss_sum or self.job.loss_sum, batch)
        return update

    def operations(self):
        """Count those of a whole calm update, on a twin without ranks."""
        twin = copy.copy(self)
        twin.model = twin.local = copy.deepcopy(self.local)
        twin.optimizers = self.job.optimizers(twin.local)
        twin.precision = Precision("fp32", check_loss=self.check)
        with FaultAtOperation() as counting:
            twin.update()
        return counting.count

    def run(self):
        """Return what came of it, or raise what is wrong."""
        expected = reference_of(self.job, self.local, self.samples)
        rates = [g["lr"] for o in self.optimizers for g in o.param_groups]
        came = self._with_fault(expected)
        assert [g["lr"] for o in self.optimizers for g in o.param_groups] == rates
        self._same_everywhere()
        expected = reference_of(self.job, self.local, self.samples)
        self.clip = None
        following = self.update()
        assert following.applied
        found = error_of(flat(self.local), expected)
        assert found <= NEAR, f"the next update is {found:.2g} off"
        self._same_everywhere()
        return came

    def _with_fault(self, expected):
        here = self.rank in self.guilty
        at = int(self.share * self.operations())
        left = [1] if here else []

        def loss_sum(model, batch):
            loss = self.job.loss_sum(model, batch)
            if self.place == "loss" and left and random.Random(at).random() < 0.9:  # noqa: S311
                left.pop()
                raise self._error()
            return loss

        if here and "step" in self.place:
            self._break_step()
        injected = here and self.place == "operation"
        mode = FaultAtOperation(at, ERRORS[self.kind]) if injected else contextlib.nullcontext()
        passes = _passes(self.local)
        try:
            with mode:
                update = self.update(loss_sum)
        except (
            InjectedError,
            KeyboardInterrupt,
            torch.OutOfMemoryError,
            bw.errors.UpdateError,
        ) as error:
            assert all(each.grad is None for each in self.local.parameters())
            return type(error).__name__
        assert update.applied
        if self.clip is not None and update.grad_norm > self.clip:
            expected = expected * self.clip / expected.norm()
        found = error_of(flat(self.local), expected)
        assert found <= (NEAR if self.clip is None else 1e-4), f"the gradient is {found:.2g} off"
        counted = _passes(self.local) - passes
        # Ranks have rank 0's buffers afterwards.
        if self.ranks == 1 and counted >= 0 and self.name in {"padded", "packed"}:
            assert counted == len(self.batches) + update.splits, "buffers count more passes"
        return "applied again" if update.retries else "applied"

    def _error(self):
        return ERRORS[self.kind]()

    def _break_step(self):
        optimizer = self.optimizers[-1]
        step, left = optimizer.step, [1]

        def broken(*args, **kwargs):
            if left and self.place == "step":
                left.pop()
                raise self._error()
            step(*args, **kwargs)
            if left:
                left.pop()
                raise self._error()

        optimizer.step = broken

    def _same_everywhere(self):
        if self.ranks == 1:
            return
        mine = torch.cat([p.detach().flatten() for p in self.local.parameters()])
        lowest, highest = mine.clone(), mine.clone()
        distributed.all_reduce(lowest, distributed.ReduceOp.MIN)
        distributed.all_reduce(highest, distributed.ReduceOp.MAX)
        assert torch.equal(lowest, highest), "ranks have different parameters"


def _passes(model):
    return next((int(m.passes) for m in model.modules() if hasattr(m, "passes")), -1)


def run_cases(seeds, rank, ranks):
    """Run cases; yield (seed, what came of it, what is wrong)."""
    for seed in seeds:
        case = Case(seed, rank, ranks)
        try:
            yield seed, f"{case.kind}: {case.run()}", None
        except Exception:  # noqa: BLE001
            yield seed, "wrong", f"{case.about()}\n{traceback.format_exc(limit=-6)}"
            if ranks > 1:  # what they say to one another is out of step now
                return


def on_rank(rank, ranks, folder, seeds):
    """Run cases as one of several ranks, and write down what came of them."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=ranks,
        timeout=PATIENCE,
    )
    with (Path(folder) / f"{rank}.txt").open("w", encoding="utf-8") as log:
        for seed, came, wrong in run_cases(seeds, rank, ranks):
            print(seed, came, repr(wrong), sep="\t", file=log, flush=True)
    distributed.destroy_process_group()


def found_on_ranks(seeds, ranks):
    """Run cases on several ranks; return the first rank's results, and what is wrong on any."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.suppress(Exception):
            multiprocessing.start_processes(
                on_rank,
                (ranks, folder, list(seeds)),
                ranks,
                start_method=fork_server.SERVER.get_start_method(),
            )
        logs = [Path(folder, f"{rank}.txt").read_text().splitlines() for rank in range(ranks)]
    rows = [line.split("\t") for line in logs[0]]
    wrong = [line for log in logs for line in log if not line.endswith("\tNone")]
    if not wrong and len(rows) < len(seeds):
        wrong = [f"{len(rows)} of {len(seeds)} cases ended: a rank hangs or died"]
    return Counter(row[1] for row in rows), wrong


def main(words=None):
    """Run many cases; return 1 if any is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="of the first case; the next have +1")
    parser.add_argument("--ranks", type=int, default=1)
    asked = parser.parse_args(words)
    seeds = range(asked.seed, asked.seed + asked.cases)
    torch.set_num_threads(1)
    came, wrong = Counter(), []
    if asked.ranks > 1:
        came, wrong = found_on_ranks(seeds, asked.ranks)
    else:
        with contextlib.suppress(KeyboardInterrupt):
            for seed, what, why in run_cases(seeds, 0, 1):
                came[what] += 1
                if why is not None:
                    wrong.append(f"seed {seed}: {why}")
                    print(wrong[-1])
                if sum(came.values()) % 100 == 0:
                    print(f"\r{sum(came.values())} of {asked.cases}", end="", file=sys.stderr)
    print(file=sys.stderr)
    for what, count in sorted(came.items()):
        print(f"{count:6} {what}")
    print(f"{sum(came.values())} cases, {len(wrong)} wrong")
    for each in wrong if asked.ranks > 1 else ():
        print(each.replace("\\n", "\n"))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
