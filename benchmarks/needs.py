"""What must be installed, and installing it where that is possible."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.figures import BenchmarkFailed

_DEBIAN_PACKAGE = {
    "memcached": "memcached",
    "nginx": "nginx",
    "varnishd": "varnish",
    "wrk": "wrk",
    "taskset": "util-linux",
    "setpriv": "util-linux",
    "node": "nodejs",
    "npm": "npm",
}
_PYTHON_PACKAGES = {
    "pyvips": ["pyvips", "pyvips-binary"],
    "pillow_heif": ["pillow-heif"],
}
_PATIENCE_SECONDS = 600


def programs(*names: str) -> None:
    """Install the missing ones of these programs.  Raises BenchmarkFailed."""
    missing = [name for name in names if shutil.which(name) is None]
    if not missing:
        return
    packages = sorted({_DEBIAN_PACKAGE[name] for name in missing})
    command = ["apt-get", "install", "-y", *packages]
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise BenchmarkFailed(
            f"{', '.join(missing)} not found; as root: {' '.join(command)}"
        )
    for step in (["apt-get", "update"], command):
        _run(step)
    still = [name for name in missing if shutil.which(name) is None]
    if still:
        raise BenchmarkFailed(f"{', '.join(still)} could not be installed by apt-get")


def python_package(name: str) -> None:
    """Install a Python package into this environment unless it is there."""
    if importlib.util.find_spec(name) is None:
        command = [sys.executable, "-m", "pip", "install", *_PYTHON_PACKAGES[name]]
        _must(f"{name} could not be installed", command)


def python_environment(directory: Path, *packages: str) -> Path:
    """Return the programs of an environment of its own that has these packages.

    For packages that cannot live with ours.  Raises BenchmarkFailed.
    """
    programs = directory / "bin"
    wanted = "\n".join(packages)
    done = directory / "packages.txt"
    if not done.exists() or done.read_text() != wanted:
        venv.create(directory, clear=True, with_pip=True)
        command = [str(programs / "python"), "-m", "pip", "install", "--quiet"]
        _must(f"{packages[0]} could not be installed", [*command, *packages])
        done.write_text(wanted)
    return programs


def node_modules(directory: Path, packages: Mapping[str, str]) -> Path:
    """Return the directory of these packages of Node.js, by name and version.

    Raises BenchmarkFailed.
    """
    programs("node", "npm")
    manifest = json.dumps({"private": True, "dependencies": packages})
    done = directory / "done.json"
    if not done.exists() or done.read_text() != manifest:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "package.json").write_text(manifest)
        command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts"]
        names = ", ".join(packages)
        _must(f"{names} could not be installed", command, directory)
        done.write_text(manifest)
    return directory / "node_modules"


def unpacked(package: str, directory: Path) -> None:
    """Unpack a Debian package there, without installing it.  Raises BenchmarkFailed."""
    fetch = ["apt-get", "download", package]
    if _run(fetch, directory):
        # Either the lists of packages are missing, or it is not to be had.
        _run(["apt-get", "update"])
        _must(f"{package} could not be downloaded", fetch, directory)
    for archive in directory.glob("*.deb"):
        command = ["dpkg-deb", "-x", str(archive), str(directory)]
        _must(f"{package} could not be unpacked", command)
        archive.unlink()


def _must(trouble: str, command: Sequence[str], directory: Path | None = None) -> None:
    if _run(command, directory):
        raise BenchmarkFailed(f"{trouble}: {' '.join(command)}")


def _run(command: Sequence[str], directory: Path | None = None) -> int:
    """Run a program, say so, and return its exit status."""
    print("+", *command, file=sys.stderr)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        return subprocess.run(
            command,
            cwd=directory,
            env=environment,
            stdout=subprocess.DEVNULL,
            check=False,
            timeout=_PATIENCE_SECONDS,
        ).returncode
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BenchmarkFailed(f"{command[0]} failed: {error}") from error
