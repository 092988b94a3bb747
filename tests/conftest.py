"""What holds for every test that pytest runs."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Examples that failed are tried first next time, wherever a test runs.
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", str(ROOT / ".hypothesis"))

# A shell ignores it for what runs in the background, and children inherit that; what is
# handled here is not ignored there.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes long: at the end, one process would be left alone with it.

    That is the simulation, and the files that start real processes.
    """
    items.sort(key=lambda item: _takes_long(item.path), reverse=True)


def _takes_long(path: Path) -> bool:
    return path.parent.name == "sim" or path.name.startswith("test_wire_")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in a directory of its own: trial's mktemp() makes files in the current one.

    Children find `tests` all the same, and keep what they compile: there are hundreds,
    and compiling is half of what one needs to start.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
