"""The README's tour, as it is printed there, by a shell with curl."""

from __future__ import annotations

import os
import re
import subprocess
import textwrap
from pathlib import Path

import pytest
from PIL import Image

from tests.support import ROOT, ClinfraProcess
from tests.wire.photographs import upright_picture, write_photograph


def commands(readme: str, heading: str) -> str:
    """Return the lines typed in the literal block below a heading, without prompts."""
    section = readme.split(f"\n{heading}\n", 1)[1]
    block = section.split("::\n\n", 1)[1]
    lines = re.match(r"(?:    .*\n|\n)+", block)
    assert lines is not None, f"no commands below {heading}"
    return "\n".join(line[6:] for line in lines[0].splitlines() if line[4:6] == "$ ")


@pytest.fixture
def tour(tmp_path: Path) -> list[str]:
    """Take the tour in an empty directory; return what each command printed."""
    typed = commands((ROOT / "README.rst").read_text(encoding="utf-8"), "A short tour")
    write_photograph(tmp_path / "photo.jpg", orientation=6)
    with ClinfraProcess() as clinfra:
        for product, usual in (("proxy", 8080), ("blob", 8081), ("image", 8082)):
            typed = typed.replace(f":{usual}", f":{clinfra.ports[product]}")
        lines = [line for line in typed.splitlines() if line]
        script = "\n".join(f"{line}\nprintf '\\n%s\\n' =====" for line in lines)
        done = subprocess.run(
            ["bash", "-eu", "-o", "pipefail", "-c", script],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n=====\n")[: len(lines)]


def test_the_readmes_tour_works_word_for_word(tour: list[str], tmp_path: Path) -> None:
    """Upload, list, fetch twice: first a miss, then a hit with its age."""
    fetches = [
        printed.lower() for printed in tour if "cache-status:" in printed.lower()
    ]

    assert len(fetches) == 2, tour
    assert "cache-status: clinfra; fwd=" in fetches[0]
    assert "cache-status: clinfra; hit" in fetches[1]
    assert "\nage: " in fetches[1]


def test_a_photograph_taken_sideways_comes_back_upright(
    tour: list[str], tmp_path: Path
) -> None:
    """Orientation 6 is applied: the result is higher than wide, and right side up."""
    with Image.open(tmp_path / "600x450.jpg") as picture:
        result = picture.convert("RGB")

    assert result.size == (337, 450)
    expected = upright_picture(tmp_path / "photo.jpg", result.size)
    differences = [
        abs(a - b) for a, b in zip(expected.tobytes(), result.tobytes(), strict=True)
    ]
    assert sum(differences) / len(differences) < 4


def test_the_readmes_other_commands_work(tmp_path: Path) -> None:
    """What "Use" and "Operate" say to type does what they say."""
    readme = (ROOT / "README.rst").read_text(encoding="utf-8")
    used = readme.split("\nUse\n---\n", 1)[1].split("**The proxy**")[0]
    typed = re.findall(r"^    ((?:.*\\\n)*.*)$", used, re.MULTILINE)
    one, other = re.findall(r"``(curl [^`]*purge|curl -X PURGE [^`]*)``", readme)
    fetch = "curl -D - -o got -H 'Host: www.example.org' http://127.0.0.1:8080/blob/{}"
    page = fetch.format("000_kept")
    typed += [
        "curl -T photo.jpg http://127.0.0.1:8080/blob/kept",
        *(page, page, one.replace("/page", "/blob/000_kept")),
        *(page, page, other.replace("/page", "/blob/000_kept")),
        page,
    ]
    write_photograph(tmp_path / "photo.jpg")
    (tmp_path / "report.pdf").write_bytes(b"%PDF-1.4")
    (tmp_path / ".curlrc").write_text("fail\nsilent\nshow-error\n")
    printed = []
    with ClinfraProcess() as clinfra:
        for command in typed:
            for port, name in ((8080, "proxy"), (8081, "blob"), (8082, "image")):
                command = command.replace(f":{port}", f":{clinfra.ports[name]}")
            command = command.replace(":8090", f":{clinfra.ports['admin']}")
            done = subprocess.run(
                ["bash", "-eu", "-c", command],
                cwd=tmp_path,
                env={**os.environ, "HOME": str(tmp_path)},
                capture_output=True,
                text=True,
                timeout=100,
                check=False,
            )
            assert done.returncode == 0, (command, done.stderr)
            printed.append(done.stdout)

    assert printed[1] == "%PDF-1.4"
    assert re.fullmatch("[0-9a-f]{64}\n?", printed[4])
    with Image.open(tmp_path / "cut.webp") as picture:
        assert (picture.format, picture.size) == ("WEBP", (50, 50))
    answers = [
        "hit" if "clinfra; hit" in text else "miss" if "fwd=" in text else text.strip()
        for text in printed[-7:]
    ]
    purged = "1/1 pages purged"
    assert answers == ["miss", "hit", purged, "miss", "hit", purged, "miss"]


def test_the_readmes_rule_module_is_the_sample_and_works(tmp_path: Path) -> None:
    """Ten lines in a directory, and the proxy follows them."""
    sample = (ROOT / "etc" / "rules.d" / "example.py.sample").read_text("utf-8")
    readme = (ROOT / "README.rst").read_text(encoding="utf-8")
    (tmp_path / "teapot.py").write_text(sample, encoding="utf-8")

    assert textwrap.indent(sample, "    ") in readme
    with ClinfraProcess({"proxy": {"rules_dir": str(tmp_path)}}) as clinfra:
        answer = subprocess.run(
            ["curl", "-sS", "-i", clinfra.url("proxy", "/coffee")],
            capture_output=True,
            text=True,
            timeout=100,
            check=True,
        )
    assert answer.stdout.startswith("HTTP/1.1 418 ")
    assert answer.stdout.endswith("I'm a teapot.\n")
