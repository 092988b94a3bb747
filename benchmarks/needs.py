"""What must be installed, and installing it where that is possible."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys

from benchmarks.figures import BenchmarkFailed

_DEBIAN_PACKAGE = {
    "nginx": "nginx",
    "varnishd": "varnish",
    "wrk": "wrk",
    "taskset": "util-linux",
    "setpriv": "util-linux",
}
_PYTHON_PACKAGES = {"pyvips": ["pyvips", "pyvips-binary"]}


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
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for step in (["apt-get", "update"], command):
        print("+", *step, file=sys.stderr)
        subprocess.run(
            step, env=environment, stdout=subprocess.DEVNULL, check=False, timeout=600
        )
    still = [name for name in missing if shutil.which(name) is None]
    if still:
        raise BenchmarkFailed(f"{', '.join(still)} could not be installed by apt-get")


def python_package(name: str) -> None:
    """Install a Python package into this environment unless it is there."""
    if importlib.util.find_spec(name) is not None:
        return
    command = [sys.executable, "-m", "pip", "install", *_PYTHON_PACKAGES[name]]
    print("+", *command, file=sys.stderr)
    done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False, timeout=600)
    if done.returncode:
        raise BenchmarkFailed(f"{name} could not be installed: {' '.join(command)}")
