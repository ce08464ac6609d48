"""Who imports whom, and what `import batchwright` costs.

The core (planning) needs NumPy and safetensors only. A framework is imported only in its own
folder. The adapters build on the core, and on `batchwright.torch`, never on one another.
"""

import ast
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.patience import PATIENCE

SOURCE = Path(__file__).resolve().parents[1] / "src"
PACKAGE = SOURCE / "batchwright"

# What is not the core. A module that this does not name is core, and held to the core's rule.
ADAPTERS = frozenset({"torch", "keras", "integrations"})
OUTER = ADAPTERS | {"__main__", "advise", "cli", "compare", "difficulty", "report", "sources"}

CORE_NEEDS = frozenset({"numpy", "safetensors"})

# Where a framework may be imported; one that is not named here has no home.
HOMES = {
    "torch": (
        "batchwright.torch",
        "batchwright.compare",
        "batchwright.advise",
        "batchwright.cli.compare",
        "batchwright.integrations.transformers",
        "batchwright.integrations.lightning",
    ),
    "torchdata": ("batchwright.torch",),
    "keras": ("batchwright.keras",),
    "tensorflow": ("batchwright.keras", "batchwright.integrations.arrays"),
    "jax": ("batchwright.integrations.jax",),
    "flax": ("batchwright.integrations.flax",),
    "grain": ("batchwright.integrations.grain",),
    "transformers": ("batchwright.integrations.transformers",),
    "accelerate": ("batchwright.integrations.accelerate",),
    "lightning": ("batchwright.integrations.lightning",),
    "pytorch_lightning": ("batchwright.integrations.lightning",),
    "composer": ("batchwright.integrations.composer",),
    "ray": (
        "batchwright.integrations.ray",
        "batchwright.sources.engines",
    ),
}

NEVER_LOADED = frozenset(HOMES) | {
    "matplotlib",
    "pandas",
    "polars",
    "pyarrow",
    "datasets",
    "tokenizers",
    "click",
    "rich",
}


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def part(module: str) -> str:
    """Name the part of the package that a module is in: `order` for `batchwright.order.shuffle`."""
    return [*module.split("."), ""][1]


def is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def imported(code: str, module: str, *, is_package: bool = False) -> set[str]:
    """List the dotted names that a module's code imports, wherever in the code it does so."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.Import():
                names |= {alias.name for alias in node.names}
            case ast.ImportFrom():
                anchor = module.split(".")
                anchor = anchor[: len(anchor) - node.level + is_package] if node.level else []
                base = ".".join([*anchor, *([node.module] if node.module else [])])
                # `from batchwright import torch` imports the module batchwright.torch.
                names |= {base} | {f"{base}.{alias.name}" for alias in node.names}
            case ast.Call(
                func=ast.Name(id="__import__" | "import_module")
                | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                names.add(name)
    return names


def core_violations(module: str, name: str) -> Iterator[str]:
    root, _, rest = name.partition(".")
    if root == "batchwright":
        # `bw.read_lengths` is imported when it is asked for.
        if part(name) in OUTER and (module, part(name)) != ("batchwright", "sources"):
            yield f"{module} is core and imports {name}, which is not"
    elif root not in CORE_NEEDS | sys.stdlib_module_names:
        yield f"{module} is core and imports {name}"
    elif root == "safetensors" and rest.partition(".")[0] in HOMES:
        yield f"{module} is core and imports {name}, which imports a framework"


def framework_violations(module: str, name: str) -> Iterator[str]:
    homes = HOMES.get(name.partition(".")[0])
    if homes and not any(is_within(module, home) for home in homes):
        yield f"{module} imports {name}, which belongs into {' or '.join(homes)}"


def adapter_violations(module: str, name: str) -> Iterator[str]:
    if part(module) == "integrations":
        mine = ".".join(module.split(".")[:3])
        allowed = [mine, "batchwright.torch"]
    else:
        allowed = [f"batchwright.{part(module)}"]
    if name == "batchwright.integrations" or any(is_within(name, place) for place in allowed):
        return
    if name.startswith("batchwright.") and part(name) in ADAPTERS:
        yield f"{module} is an adapter and imports another, {name}"


def violations(code: str, module: str, *, is_package: bool = False) -> list[str]:
    """List what a module imports and may not, as sentences."""
    found: list[str] = []
    for name in sorted(imported(code, module, is_package=is_package)):
        if part(module) not in OUTER:
            found += core_violations(module, name)
        if part(module) in ADAPTERS:
            found += adapter_violations(module, name)
        found += framework_violations(module, name)
    return found


def run_python(code: str, *arguments: str) -> str:
    """Run code in a fresh interpreter that finds the package in this checkout."""
    # Without PYTHONDONTWRITEBYTECODE: what is timed is an import of compiled modules.
    environment = {
        name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"
    }
    environment["PYTHONPATH"] = str(SOURCE)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded_by(statement: str) -> set[str]:
    """List the modules that are loaded once a statement has run."""
    code = f"import sys, json; {statement}; print(json.dumps(sorted(sys.modules)))"
    return set(json.loads(run_python(code)))


def roots(modules: set[str]) -> set[str]:
    return {module.partition(".")[0] for module in modules}


def test_every_module_imports_only_what_its_place_allows() -> None:
    assert len(MODULES) > 100
    found = [
        violation
        for module, path in MODULES.items()
        for violation in violations(
            path.read_text(encoding="utf-8"), module, is_package=path.name == "__init__.py"
        )
    ]
    assert found == []


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ("batchwright.plan", "import torch"),
        ("batchwright.plan", "import pandas as pd"),
        ("batchwright.plan", "def f():\n    from torch.utils import data"),
        ("batchwright.plan", "from safetensors.torch import save_file"),
        ("batchwright.plan", "from batchwright import cli"),
        ("batchwright.plan", "from . import report"),
        ("batchwright.order.shuffle", "from ..sources import read"),
        ("batchwright.order.shuffle", "import importlib\nimportlib.import_module('jax.numpy')"),
        ("batchwright.report", "import torch"),
        ("batchwright.cli", "from torch import nn"),
        ("batchwright.keras", "import torch"),
        ("batchwright.keras", "from batchwright.torch import windows"),
        ("batchwright.torch.sampler", "from batchwright.integrations import lightning"),
        ("batchwright.integrations.ray", "import lightning"),
        ("batchwright.integrations.ray", "from batchwright.integrations.lightning import X"),
        ("batchwright.integrations.ray", "from .lightning import X"),
    ],
)
def test_an_import_out_of_place_is_found(module: str, code: str) -> None:
    assert violations(code, module) != []


@pytest.mark.parametrize(
    ("module", "code"),
    [
        (
            "batchwright.plan",
            "import numpy as np\nimport hashlib\nfrom safetensors.numpy import save",
        ),
        ("batchwright.plan", "from batchwright.order import Shuffle"),
        ("batchwright.sources.table", "import pyarrow.parquet as pq"),
        ("batchwright.cli", "from batchwright.report import text"),
        ("batchwright.torch.sampler", "import torch\nfrom batchwright.plan import Plan"),
        ("batchwright.torch.sampler", "from .window import windows\nimport torchdata"),
        ("batchwright.integrations.lightning", "import lightning\nimport batchwright.torch as bt"),
    ],
)
def test_an_import_in_place_is_let_through(module: str, code: str) -> None:
    assert violations(code, module) == []


def test_importing_batchwright_loads_no_extra() -> None:
    loaded = loaded_by("import batchwright")
    assert "batchwright" in loaded
    assert roots(loaded) & NEVER_LOADED == set()


def test_importing_what_is_no_adapter_loads_no_framework() -> None:
    # What is compared is trained with torch.
    modules = [module for module in MODULES if part(module) not in ADAPTERS | {"compare"}]
    loaded = loaded_by(f"import {', '.join(modules)}")
    assert roots(loaded) & (frozenset(HOMES) | {"pandas", "datasets"}) == set()


PLAN_WITH_NUMPY_ALONE = """
import importlib, sys, tempfile, pathlib

class OnlyTheCore:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in allowed:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

allowed = {"batchwright", "numpy", "safetensors"} | sys.stdlib_module_names
sys.meta_path.insert(0, OnlyTheCore())

for module in sys.argv[1:]:
    importlib.import_module(module)

import batchwright as bw
lengths = [5, 3, 8, 1, 9, 2, 7]
plan = bw.plan(lengths, max_tokens=16)
assert sorted(plan.indices.tolist()) == list(range(7)), plan
with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder, "plan.safetensors")
    plan.save(path)
    assert len(bw.Plan.load(path)) == len(plan)
"""


def test_planning_needs_nothing_but_numpy_and_safetensors() -> None:
    run_python(PLAN_WITH_NUMPY_ALONE, *(name for name in MODULES if part(name) not in OUTER))


IMPORT_EACH = """
import importlib, importlib.util, json, sys

failures, loaded = {}, {}
for module in sys.argv[1:]:
    try:
        importlib.import_module(module)
    except ImportError as error:
        failures[module] = [str(error.name), repr(error)]
    loaded[module] = sorted({name.partition(".")[0] for name in sys.modules})
print(json.dumps([failures, loaded]))
"""


@pytest.mark.slow
def test_every_adapter_imports_where_its_framework_is_installed() -> None:
    first = "batchwright.torch"  # others build on it: it loads no other framework
    adapters = [each for each in MODULES if part(each) in ADAPTERS and each != first]
    failures, loaded = json.loads(run_python(IMPORT_EACH, first, *adapters))
    assert set(loaded[first]) & (frozenset(HOMES) - {"torch", "torchdata"}) == set()
    installed = {name for name in HOMES if is_installed(name)}
    for module, (missing, error) in failures.items():
        home = [name for name, places in HOMES.items() if any(is_within(module, p) for p in places)]
        assert missing.partition(".")[0] in set(home) - installed, f"{module}: {error}"


def is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def test_importing_batchwright_adds_few_modules_to_numpy() -> None:
    # Exact where a timing is not: what costs time is files to find and run. `numpy.random`,
    # `hashlib` and `pathlib`, some 60 modules, are imported when they are used.
    added = loaded_by("import batchwright") - loaded_by("import numpy")
    own = {module for module in added if is_within(module, "batchwright")}
    assert len(own) <= 60, sorted(own)
    assert len(added - own) <= 20, sorted(added - own)


IMPORT_AND_COUNT = """
import sys

lines = 0

def count(frame, event, argument):
    global lines
    lines += event == "line"
    return count

sys.settrace(count)
import numpy
of_numpy = lines
import batchwright
sys.settrace(None)
print((lines - of_numpy) / of_numpy)
"""


def test_importing_batchwright_costs_hardly_more_than_numpy() -> None:
    # Lines of Python that are run, in place of seconds: the same on any machine.
    more = float(run_python(IMPORT_AND_COUNT))
    assert more <= 0.5, f"import batchwright runs {1 + more:.2f} times what import numpy runs"
