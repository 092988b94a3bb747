"""How the image service and its peers are installed, configured and started.

thumbor and ipx read the photographs from a directory and keep no results, on their
defaults but for what makes them faster: no progressive JPEG for thumbor (ipx has no
such choice) and the quality that ours is asked for.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks import needs
from benchmarks.servers import Server, Stage, free_port

KEY = "a key for benchmarks only"
"""What addresses of renditions on demand are signed with."""

QUALITY = 70

_THUMBOR = ("thumbor==7.8.0", "setuptools<81")
_NODE = {"sharp": "0.35.5", "ipx": "3.1.1"}

_THUMBOR_CONFIG = """\
LOADER = "thumbor.loaders.file_loader"
FILE_LOADER_ROOT_PATH = "{photographs}"
STORAGE = "thumbor.storages.no_storage"
RESULT_STORAGE = None
ALLOW_UNSAFE_URL = True
QUALITY = {quality}
PROGRESSIVE_JPEG = False
"""

_CLINFRA = """\
[logging]
file = "{directory}/{name}-access.log"
[blob]
listen = ["tcp:{blob_port}:interface=127.0.0.1"]
[image]
listen = ["tcp:{port}:interface=127.0.0.1"]
workers = {workers}
signing_keys = ["{key}"]
{more}
"""


def root(stage: Stage) -> Path:
    """Return where photographs and peers are kept from run to run."""
    return stage.directory.parent.parent / "image"


def node_modules(stage: Stage) -> Path:
    """Return where sharp and ipx are, installed if need be."""
    return needs.node_modules(root(stage) / "node", _NODE)


def thumbor(stage: Stage, photographs: Path) -> Server:
    """Start thumbor, one process."""
    programs = needs.python_environment(root(stage) / "thumbor", *_THUMBOR)
    configuration = stage.directory / "thumbor.conf"
    configuration.write_text(
        _THUMBOR_CONFIG.format(photographs=photographs, quality=QUALITY)
    )
    port = free_port()
    argv = [str(programs / "thumbor"), "--ip", "127.0.0.1", "--port", str(port)]
    return stage.start("thumbor", [*argv, "--conf", str(configuration)], port)


def ipx(stage: Stage, photographs: Path) -> Server:
    """Start ipx."""
    program = node_modules(stage) / "ipx" / "bin" / "ipx.mjs"
    port = free_port()
    argv = ["node", str(program), "serve", "--dir", str(photographs)]
    argv += ["--host", "127.0.0.1", "--port", str(port)]
    return stage.start("ipx", argv, port)


def clinfra(
    stage: Stage,
    name: str,
    *,
    workers: int,
    both_cores: bool = False,
    more: str = "",
    watch: Path | None = None,
) -> Server:
    """Start the image service and the blob store it needs, in one process.

    Args:
        more: lines of the configuration's section.
        watch: where the delays of its reactor are written, see `watched`.
    """
    port = free_port()
    configuration = stage.directory / f"{name}.toml"
    configuration.write_text(
        _CLINFRA.format(
            directory=stage.directory,
            name=name,
            port=port,
            blob_port=free_port(),
            workers=workers,
            key=KEY,
            more=more,
        )
    )
    data = stage.directory / f"{name}-data"
    stage.remove_now(data)
    twistd = Path(sys.executable).with_name("twistd")
    argv = [str(twistd)]
    if watch is not None:
        argv = [sys.executable, "-m", "benchmarks.watched", str(watch)]
    argv += ["-n", "--pidfile=", "--reactor=clinfra", "clinfra"]
    argv += ["--config", str(configuration), "--data-dir", str(data)]
    return stage.start(name, argv, port, on_both_cores=both_cores)
