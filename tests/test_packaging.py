"""What is shipped: the wheel holds the package, its types and its metadata, and nothing else."""

import configparser
import email
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from email.message import Message
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from hatch_build import readme_for_an_index

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]

EXTRAS = {
    "advise",
    "compare",
    "report",
    "torch",
    "stateful",
    "cli",
    "sources",
    "datasets",
    "plots",
    "keras",
    "transformers",
    "trl",
    "sentence-transformers",
    "accelerate",
    "lightning",
    "ray",
    "all",
}
FRAMEWORKS = {
    "transformers",
    "trl",
    "sentence-transformers",
    "accelerate",
    "lightning",
    "keras",
    "ray",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    folder = tmp_path_factory.mktemp("dist")
    # hatchling itself and no isolated environment: nothing is fetched.
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


@pytest.fixture(scope="module")
def info(wheel: zipfile.ZipFile) -> str:
    (folder,) = {name.partition("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    return folder


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile, info: str) -> Message:
    return email.message_from_bytes(wheel.read(f"{info}/METADATA"))


def test_the_wheel_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile, info: str) -> None:
    shipped = {name for name in wheel.namelist() if not name.startswith(f"{info}/")}
    source = ROOT / "src"
    expected = {
        path.relative_to(source).as_posix()
        for path in (source / "batchwright").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert shipped == expected
    assert "batchwright/py.typed" in shipped
    assert {name.partition("/")[0] for name in shipped} == {"batchwright"}


def test_the_metadata_names_version_and_licence(
    wheel: zipfile.ZipFile, info: str, metadata: Message
) -> None:
    declared = re.search(
        r'^__version__ = "(.+)"$',
        (ROOT / "src" / "batchwright" / "__init__.py").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    assert declared is not None
    assert metadata["Name"] == "batchwright"
    assert metadata["Version"] == declared[1]
    assert metadata["License-Expression"] == "Apache-2.0"
    assert wheel.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert b"Apache License" in wheel.read(f"{info}/licenses/LICENSE")
    assert metadata["Requires-Python"] == ">=3.11"


def test_the_readme_has_no_links_that_an_index_cannot_follow(metadata: Message) -> None:
    assert metadata["Description-Content-Type"] == "text/markdown"
    text = metadata.get_payload()
    assert isinstance(text, str)
    assert text.startswith("# Batchwright")
    assert not re.findall(r"\]\((?!https?:|#)[^)]*\)", text)


def test_links_of_the_readme_lead_to_an_address_if_there_is_one() -> None:
    text = "![a picture](docs/a.svg) [a page](docs/a.md#part) [out](https://example.org) [on](#on)"
    assert readme_for_an_index(text) == " a page [out](https://example.org) [on](#on)"
    assert readme_for_an_index(text, "https://example.org/blob/main") == (
        "![a picture](https://example.org/blob/main/docs/a.svg?raw=true) "
        "[a page](https://example.org/blob/main/docs/a.md#part) "
        "[out](https://example.org) [on](#on)"
    )


def test_only_numpy_and_safetensors_are_required(metadata: Message) -> None:
    requirements = [Requirement(line) for line in metadata.get_all("Requires-Dist", [])]
    always = {requirement.name for requirement in requirements if requirement.marker is None}
    assert always == {"numpy", "safetensors"}
    assert set(metadata.get_all("Provides-Extra", [])) == EXTRAS


def test_the_extra_all_holds_every_other_but_those_of_frameworks() -> None:
    (line,) = PROJECT["optional-dependencies"]["all"]
    assert Requirement(line).extras == EXTRAS - FRAMEWORKS - {"all"}


def test_the_command_is_installed(wheel: zipfile.ZipFile, info: str) -> None:
    points = configparser.ConfigParser()
    points.read_string(wheel.read(f"{info}/entry_points.txt").decode())
    assert dict(points["console_scripts"]) == {"batchwright": "batchwright.cli:main"}


def test_the_package_imports_from_the_wheel(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path)
    code = "import sys; sys.path.insert(0, sys.argv[1]); import batchwright as bw; "
    code += "print(bw.__file__, bw.__version__)"
    done = subprocess.run(
        [sys.executable, "-I", "-W", "error", "-c", code, tmp_path],
        capture_output=True,
        text=True,
        check=True,
    )
    file, version = done.stdout.split()
    assert Path(file) == tmp_path / "batchwright" / "__init__.py"
    assert version in str(wheel.filename)


def pinned() -> dict[str, Requirement]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(requirement.name): requirement for requirement in requirements}


def test_every_dependency_is_pinned_at_a_version_that_it_admits() -> None:
    groups = PYPROJECT["dependency-groups"].values()
    lines = [*PROJECT["dependencies"]]
    lines += [line for extra in PROJECT["optional-dependencies"].values() for line in extra]
    lines += [line for group in groups for line in group if isinstance(line, str)]
    pins = pinned()
    for requirement in map(Requirement, lines):
        if requirement.name != PROJECT["name"]:
            (pin,) = pins[canonicalize_name(requirement.name)].specifier
            assert pin.operator == "=="
            assert requirement.specifier.contains(pin.version), f"{requirement} against {pin}"


def test_the_pins_hold_on_any_machine() -> None:
    for name, requirement in pinned().items():
        assert requirement.url is None, f"{name} is pinned to a file or address"
        assert "+" not in str(requirement.specifier), f"{name} is pinned to a local build"
        assert not name.startswith(("nvidia-", "cuda-")), f"{name} is of no use without a GPU"
