"""`clinfra image …` as typed: files, workers, a terminal and Ctrl-C."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from clinfra.cli import main
from tests.image.pictures import jpeg

CLINFRA = str(Path(sys.executable).with_name("clinfra"))


def typed(*arguments: str, here: Path) -> tuple[int, list[str], list[str]]:
    """Run a command to its end; return its status, and the lines it wrote."""
    ended = subprocess.run(
        [CLINFRA, "image", *arguments],
        cwd=here,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return ended.returncode, ended.stdout.splitlines(), ended.stderr.splitlines()


def names(directory: Path) -> set[str]:
    """Return the files in a directory and below, hidden ones too."""
    paths = (each for each in directory.rglob("*") if each.is_file())
    return {str(each.relative_to(directory)) for each in paths}


def test_files(tmp_path: Path) -> None:
    """Sizes lie beside their pictures, and are told on standard output."""
    (tmp_path / "photo.jpg").write_bytes(jpeg(800, 600))
    status, out, err = typed(
        "photo.jpg", "--sizes", "300x300,100x100c_webp,40x_png", here=tmp_path
    )

    assert (status, err) == (0, [])
    made = ["photo_300x300.jpg", "photo_100x100c.webp", "photo_40x.png"]
    assert out == made
    assert names(tmp_path) == {"photo.jpg", *made}
    sizes = []
    for name in made:
        with Image.open(tmp_path / name) as image:
            sizes.append(image.size)
    assert sizes == [(300, 225), (100, 100), (40, 30)]


def test_directory(tmp_path: Path) -> None:
    """Below --out, pictures of a directory keep their places; others do not count."""
    top = tmp_path / "in"
    (top / "deep").mkdir(parents=True)
    (top / ".hidden").mkdir()
    for name in ("a.jpg", "deep/b.jpg", ".hidden/c.jpg"):
        (top / name).write_bytes(jpeg(80, 60))
    (top / "note.txt").write_text("no picture")
    before = names(top)
    status, out, err = typed(
        "render", "in", "--sizes", "30x30", "--out", "out", here=tmp_path
    )

    assert (status, err) == (0, [])
    assert sorted(out) == ["out/a_30x30.jpg", "out/deep/b_30x30.jpg"]
    assert names(tmp_path / "out") == {"a_30x30.jpg", "deep/b_30x30.jpg"}
    assert names(top) == before


def test_twice(tmp_path: Path) -> None:
    """Results in a directory are no pictures to render the next time."""
    (tmp_path / "a.jpg").write_bytes(jpeg(80, 60))
    for _ in range(2):
        status, out, _ = typed(".", "--sizes", "30x30,20x20c_plain", here=tmp_path)
        assert (status, sorted(out)) == (0, ["a_20x20c.jpg", "a_30x30.jpg"])
    assert names(tmp_path) == {"a.jpg", "a_20x20c.jpg", "a_30x30.jpg"}


def test_pattern(tmp_path: Path) -> None:
    """Patterns that no shell has resolved are resolved here."""
    for name in ("a1.jpg", "a2.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(jpeg(80, 60))
    status, out, _ = typed("a?.jpg", "--sizes", "30x30", here=tmp_path)

    assert (status, sorted(out)) == (0, ["a1_30x30.jpg", "a2_30x30.jpg"])


def test_bad_files(tmp_path: Path) -> None:
    """What cannot be rendered costs a line each and status 1, never the others."""
    (tmp_path / "good.jpg").write_bytes(jpeg(80, 60))
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    (tmp_path / "text.jpg").write_text("no picture")
    os.mkfifo(tmp_path / "pipe.jpg")
    given = ("bad.jpg", "text.jpg", "pipe.jpg", "missing.jpg", "good.jpg")
    status, out, err = typed(*given, "--sizes", "30x30", here=tmp_path)

    assert (status, out) == (1, ["good_30x30.jpg"])
    assert {line.partition(":")[0] for line in err} == set(given) - {"good.jpg"}
    assert len(err) == 4
    assert "missing.jpg: No such file or directory" in err


def test_same_names(tmp_path: Path) -> None:
    """Neither a picture nor another's results are written over."""
    first, second = jpeg(80, 60), jpeg(90, 60)
    for name, body in (("a.jpg", first), ("a.jpeg", second), ("a_30x30.jpg", second)):
        (tmp_path / name).write_bytes(body)
    status, out, err = typed(
        *("a.jpg", "a.jpeg", "a_30x30.jpg", "--sizes", "30x30"), here=tmp_path
    )

    assert status == 1
    assert out == ["a_30x30_30x30.jpg"]
    assert len(err) == 2
    assert (tmp_path / "a_30x30.jpg").read_bytes() == second
    assert (tmp_path / "a.jpg").read_bytes() == first
    assert not [name for name in names(tmp_path) if name.startswith(".")]


def test_json(tmp_path: Path) -> None:
    """With --json there is a line for each picture, also for those that failed."""
    (tmp_path / "a.jpg").write_bytes(jpeg(80, 60))
    status, out, _ = typed(
        *("a.jpg", "b.jpg", "--json", "--sizes", "30x30"), here=tmp_path
    )
    told = {each["file"]: each for each in map(json.loads, out)}

    assert status == 1
    assert told["b.jpg"] == {"file": "b.jpg", "error": "No such file or directory"}
    assert told["a.jpg"]["info"]["width"] == 80
    (result,) = told["a.jpg"]["results"]
    assert result["file"] == "a_30x30.jpg"
    assert (result["width"], result["height"]) == (30, 22)
    assert result["bytes"] == (tmp_path / "a_30x30.jpg").stat().st_size


def test_info(tmp_path: Path) -> None:
    """The info of a picture is printed as JSON."""
    (tmp_path / "a.jpg").write_bytes(jpeg(80, 60))
    status, out, err = typed("info", "a.jpg", here=tmp_path)

    assert (status, err) == (0, [])
    assert json.loads("\n".join(out))["format"] == "JPEG"
    status, out, err = typed("info", "b.jpg", here=tmp_path)
    assert (status, out, err) == (1, [], ["b.jpg: No such file or directory"])


def test_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What cannot be meant is status 2, before anything is done."""
    picture = str(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes(jpeg(80, 60))
    for wrong in (
        *([picture, "--sizes", "big"], [picture, "--sizes", "30x30_auto"]),
        *([picture, "--quality", "0"], [picture, "--workers", "x"], ["--json"]),
        *([], ["info"], [picture, "--unknown"]),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["image", *wrong])
        assert ended.value.code == 2, wrong
        out, err = capsys.readouterr()
        assert out == "", wrong
        assert ": error: " in err.splitlines()[-1], wrong
    assert names(tmp_path) == {"a.jpg"}


def test_reader_gone(tmp_path: Path) -> None:
    """When nobody reads what is told it ends without a traceback."""
    for number in range(8):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(800, 600))
    with subprocess.Popen(
        [CLINFRA, "image", ".", "--sizes", "30x30"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert (process.stderr.read(), process.wait(20)) == ("", 1)


def test_full_output(tmp_path: Path) -> None:
    """When what is told cannot be written it says why."""
    (tmp_path / "a.jpg").write_bytes(jpeg(80, 60))
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [CLINFRA, "image", "info", "a.jpg"],
            cwd=tmp_path,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert ended.returncode == 1
    assert ended.stderr == "clinfra: No space left on device\n"


def test_interrupted(tmp_path: Path) -> None:
    """Ctrl-C ends it with status 130: nothing half made, no workers left."""
    photograph = jpeg(4000, 3000)
    for number in range(40):
        (tmp_path / f"{number}.jpg").write_bytes(photograph)
    with subprocess.Popen(
        [CLINFRA, "image", ".", "--sizes", "1600x1600_avif", "--workers", "2"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=60)

    assert (process.returncode, err) == (130, "")
    assert not [name for name in names(tmp_path) if name.startswith(".")]
    for name in names(tmp_path):
        if name.endswith(".avif"):
            with Image.open(tmp_path / name) as image:
                image.load()
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        pass
    else:
        raise AssertionError("something is left of it")


def test_progress(tmp_path: Path) -> None:
    """On a terminal a bar shows how far it is, and is wiped away at the end."""
    photograph = jpeg(4000, 3000)
    for number in range(60):
        (tmp_path / f"{number}.jpg").write_bytes(photograph)
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [CLINFRA, "image", ".", "--sizes", "1000x1000_avif", "--workers", "1"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        stdin=subprocess.DEVNULL,
    ) as process:
        os.close(theirs)
        shown = b""
        while piece := _read(ours):
            if b" left" in piece and b" left" not in shown:
                process.send_signal(signal.SIGINT)
            shown += piece
        assert process.wait(20) == 130
    os.close(ours)
    assert b"/s, " in shown and b" % " in shown, shown
    assert shown.endswith(b" \r"), shown


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # how Linux says that the other side is closed
        return b""
