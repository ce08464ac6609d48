"""Real data out of Debian packages, which are fetched and read without being installed."""

import shutil
import subprocess
from pathlib import Path

DATA = Path(__file__).resolve().parents[2] / "build" / "data"


class NoPackageError(OSError):
    """A package could not be had; says what to do."""


def unpacked(package: str, folder: Path = DATA) -> Path:
    """Return the folder of a package's files, fetching and unpacking it if it is not there.

    Args:
        package: Its name.
        folder: Where packages are kept.

    Raises:
        NoPackageError: If it is not there and cannot be fetched.
    """
    target = folder / package
    if target.is_dir():
        return target
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise NoPackageError(
            f"{package} is a Debian package, and there is no apt-get here. Unpack it into "
            f"{target} yourself: https://packages.debian.org/{package}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{package}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _run("apt-get", "download", package, folder=folder)
        archive = max(folder.glob(f"{package}_*.deb"), key=lambda path: path.stat().st_mtime)
        _run("dpkg-deb", "-x", archive.name, partial.name, folder=folder)
    except subprocess.CalledProcessError as error:
        said = (error.stderr or "").strip().splitlines()
        raise NoPackageError(
            f"{package} could not be fetched ({said[-1] if said else error}). If apt-get knows no "
            "such package, run: sudo apt-get update"
        ) from error
    archive.unlink()
    return partial.rename(target)


def _run(*command: str, folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
