"""The manual: it builds without a warning, and what it tells to type works."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from clinfra.settings import load
from clinfra.shell.asking import Admin
from clinfra.tap import check
from tests.support import ROOT, ClinfraProcess, wait_until
from tests.wire.photographs import write_photograph

DOCS = ROOT / "docs"
PAGES = sorted(path.stem for path in DOCS.glob("*.rst"))
PROGRAMS = Path(sys.executable).parent
# Pages whose commands need what they tell to set up.
STAGED = {"front", "pictures"}
USUAL = {"proxy": 8080, "blob": 8081, "image": 8082, "admin": 8090}


def blocks(page: str, mark: str) -> list[str]:
    """Return the indented blocks after a mark on a page."""
    text = (DOCS / f"{page}.rst").read_text(encoding="utf-8")
    found = re.findall(re.escape(mark) + r"\n\n((?:    .*\n|\n)+)", text)
    return [textwrap.dedent(block).strip("\n") + "\n" for block in found]


def sessions(page: str) -> list[tuple[str, str]]:
    """Return what is typed on a page, after "$ ", and what is printed then."""
    return [
        (line, printed)
        for block in blocks(page, "::")
        for line, printed in re.findall(
            r"^\$ ((?:.*\\\n)*.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE
        )
    ]


@pytest.fixture(scope="module")
def running() -> Iterator[ClinfraProcess]:
    """Return everything, as it runs without a configuration."""
    with ClinfraProcess() as clinfra:
        yield clinfra


@pytest.mark.parametrize(
    "page", [page for page in PAGES if sessions(page) and page not in STAGED]
)
def test_what_is_typed(page: str, running: ClinfraProcess, tmp_path: Path) -> None:
    """Every command succeeds and prints what the page says; "…" is anything."""
    write_photograph(tmp_path / "photo.jpg")
    (tmp_path / "rules").mkdir()
    sample = ROOT / "etc" / "rules.d" / "example.py.sample"
    (tmp_path / "rules" / "teapot.py").write_bytes(sample.read_bytes())

    def local(text: str) -> str:
        """Return text with the ports there are here."""
        for product, usual in USUAL.items():
            text = text.replace(f":{usual}", f":{running.ports[product]}")
        return text

    # What an earlier page broke off may still be settling.
    admin = Admin(running.url("admin", ""))
    wait_until(lambda: not admin.unready(), "everything is ready")
    typed = sessions(page)
    mark = "=====next====="
    script = "\n".join(f"{local(line)}\necho {mark}" for line, _ in typed)
    done = subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", script],
        cwd=tmp_path,
        env={
            **os.environ,
            "PATH": f"{PROGRAMS}:{os.environ['PATH']}",
            "CLINFRA_ADMIN": running.url("admin", ""),
            "COLUMNS": "80",
        },
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    shown = done.stdout.replace("\r", "").split(f"{mark}\n")
    assert done.returncode == 0, f"{typed[len(shown) - 1]}: {shown[-1]}{done.stderr}"
    for (line, printed), got in zip(typed, shown, strict=False):
        pattern = ".*".join(map(re.escape, local(printed.strip()).split("…")))
        assert re.fullmatch(pattern, got.strip(), re.DOTALL), f"{line} printed {got}"


def test_pictures(tmp_path: Path) -> None:
    """Every command prints what the page shows, but for numbers."""
    (config,) = blocks("pictures", ".. code-block:: toml")
    shown = sessions("pictures")
    (tmp_path / "image.toml").write_text(config, encoding="utf-8")
    write_photograph(tmp_path / "photo.jpg", orientation=6)
    script = "\n".join(f"{typed}\nprintf '\\n%s\\n' =====" for typed, _ in shown)
    with ClinfraProcess(tomllib.loads(config)) as clinfra:
        done = subprocess.run(
            [
                *("bash", "-eu", "-o", "pipefail", "-c"),
                script.replace(":8082", f":{clinfra.ports['image']}"),
            ],
            cwd=tmp_path,
            env={**os.environ, "PATH": f"{PROGRAMS}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    for (typed, expected), printed in zip(
        shown, done.stdout.split("\n=====\n"), strict=False
    ):
        # In this order, with others between them (the fields of an answer).
        lines = iter(_numberless(printed))
        assert all(line in lines for line in _numberless(expected)), (typed, printed)
    for name, form, size in (
        ("600x450.avif", "AVIF", (337, 450)),
        ("face.webp", "WEBP", (160, 160)),
        ("640.webp", "WEBP", (640, 853)),
        ("made/photo_640x.webp", "WEBP", (640, 853)),
        ("made/photo_200x200c.jpg", "JPEG", (200, 200)),
    ):
        with Image.open(tmp_path / name) as picture:
            assert (picture.format, picture.size) == (form, size)


def _numberless(text: str) -> list[str]:
    """Return lines without the numbers that depend on clocks and encoders."""
    numbers = r"\b[0-9a-f]{64}\b|(?<=max-age=)\d+|(?<=Length: )\d+|\d+$"
    return [re.sub(numbers, "N", line.rstrip()) for line in text.splitlines() if line]


def test_it_builds(tmp_path: Path) -> None:
    """Sphinx finds nothing to warn of."""
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", DOCS, tmp_path],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    told = (tmp_path / "configuration.html").read_text(encoding="utf-8")
    assert "proxy.cache.hot_bytes" in told
    told = (tmp_path / "commands.html").read_text(encoding="utf-8")
    assert "clinfra blob rebuild-index" in told


@pytest.mark.parametrize("page", PAGES)
def test_configurations(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is shown as a configuration is a good one."""
    monkeypatch.chdir(tmp_path)
    Path("rules.d").mkdir()
    cluster = blocks(page, ".. code-block:: json")
    for text in blocks(page, ".. code-block:: toml"):
        for file in cluster:
            place = tmp_path / "cluster.json"
            place.write_text(file, encoding="utf-8")
            text = text.replace("/etc/clinfra/cluster.json", str(place))
        assert tomllib.loads(text)
        path = tmp_path / "clinfra.toml"
        path.write_text(text, encoding="utf-8")
        load([path], check=check)
