"""What every test runs under: one thread, no network, and Hypothesis without a deadline."""

import gc
import os
import signal
import threading

import pytest
from hypothesis import settings

# A shell that runs the tests in the background has them ignore interrupts, and so do the
# processes that they start. Those are to be interrupted.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and (
    threading.current_thread() is threading.main_thread()
):
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Read when NumPy or torch is first loaded, and inherited by the processes that tests start:
# workers and ranks share few cores, and a thread pool in each of them only makes them wait.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Arms of a comparison that have a process each begin by importing torch: only where that is tested.
os.environ.setdefault("BATCHWRIGHT_SHARED_PROCESS", "1")

# A test that would fetch something fails at once instead of waiting for a hub.
for variable in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
    os.environ.setdefault(variable, "1")

# A shared machine is slow at random: a deadline would fail tests that are right. `ci` takes the same
# examples every time, so that what has passed passes again; `local` and `thorough` go on looking.
settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.register_profile("thorough", deadline=None, print_blob=True, max_examples=2_000)
settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "local")
)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    """Fail where a file of tests cannot be imported.

    Doctests of it are skipped, and what its failed import left counts as a module without tests.
    """
    report = yield
    if report.skipped and "unable to import module" in str(report.longrepr):
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid} cannot be imported: try it with -p no:doctest."
    return report


@pytest.fixture(scope="module", autouse=True)
def _cheap_collections():
    """Keep what is imported out of garbage collections: each update that runs out of memory has one."""
    gc.collect()
    gc.freeze()
