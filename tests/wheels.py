"""Builds wheel and source distribution, and tries the wheel in fresh environments.

    python -m tests.wheels                            the oldest Python here and the newest
    python -m tests.wheels --python python3.12 …      these

The oldest has the oldest versions that pyproject.toml allows, the newest the newest on the index.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLANS = Path(__file__).with_name("wheel_plans.py")


def run(*command: object, cwd: Path = ROOT) -> str:
    """Run a command; on failure, say what it printed and stop."""
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(words)}\n{done.stdout}{done.stderr}")
    return done.stdout


def distributions(folder: Path) -> tuple[Path, Path]:
    """Build the source distribution and the wheel; check that the first builds the second."""
    _build(ROOT, folder / "dist", "sdist", "wheel")
    (sdist,), (wheel,) = (folder.glob(f"dist/*{ending}") for ending in (".tar.gz", ".whl"))
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "source", filter="data")
    (source,) = folder.glob("source/*")
    _build(source, folder / "again", "wheel")
    (again,) = folder.glob("again/*")
    if again.read_bytes() != wheel.read_bytes():
        sys.exit("the source distribution builds another wheel")
    return sdist, wheel


def _build(source: Path, folder: Path, *targets: str) -> None:
    words = [word for target in targets for word in ("--target", target)]
    run(sys.executable, "-m", "hatchling", "build", "--directory", folder, *words, cwd=source)


def version_of(python: str) -> tuple[int, ...] | None:
    """Return the version of an interpreter. None: it does not start."""
    code = "import sys; print(*sys.version_info[:3])"
    done = subprocess.run([python, "-c", code], check=False, capture_output=True, text=True)
    return None if done.returncode else tuple(map(int, done.stdout.split()))


def interpreters() -> list[str]:
    """Find the oldest and the newest Python of this machine that Batchwright supports."""
    names = [f"python3.{minor}" for minor in range(11, 30)]
    found = {sys.executable, *filter(None, map(shutil.which, names))}
    for pattern in (".pyenv/versions/*/bin/python3", ".local/share/uv/python/*/bin/python3"):
        found |= set(map(str, Path.home().glob(pattern)))
    versions = {path: version for path in sorted(found) if (version := version_of(path))}
    fit = sorted((version, path) for path, version in versions.items() if version >= (3, 11))
    return [fit[0][1], fit[-1][1]]


def environment(python: str, folder: Path, *packages: object) -> Path:
    """Make an environment with these packages and what they require; return its Python."""
    run(python, "-m", "venv", folder)
    inside = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    run(inside, "-m", "pip", "install", "--disable-pip-version-check", *packages)
    return inside


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--python", action="append", help="an interpreter (repeatedly: several)")
    pythons = parser.parse_args().python or interpreters()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sdist, wheel = distributions(folder)
        print(f"{sdist.name} builds {wheel.name}, {wheel.stat().st_size:,} bytes")
        twine = environment(sys.executable, folder / "twine", "twine")
        run(twine, "-m", "twine", "check", "--strict", sdist, wheel)
        print("README.md renders on an index")
        oldest = ("--constraint", ROOT / "oldest.txt")
        tries = [(pythons[0], oldest), *((python, ()) for python in dict.fromkeys(pythons))]
        found = []
        for number, (python, options) in enumerate(tries):
            inside = environment(python, folder / f"environment-{number}", *options, wheel)
            run(inside, "-m", "pip", "check")
            # Isolated: no checkout is imported in the wheel's place.
            found.append(json.loads(run(inside, "-I", "-W", "error", PLANS, cwd=folder)))
            print("Python {}, NumPy {}, safetensors {}: imports".format(*found[-1]["versions"]))
            if found[-1]["digests"] != found[0]["digests"]:
                sys.exit("its plans differ from those of the first")
        print(f"{len(found[0]['digests'])} plans are the same in {len(found)} environments")


if __name__ == "__main__":
    main()
