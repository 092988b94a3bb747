"""What a worker does with a picture, and the memory it needs for that.

    python -m benchmarks.largest PHOTOGRAPH PICTURE

prints a line of JSON: the most megabytes the process ever had, the seconds the picture
took, and why it was refused, if it was.  Allocators keep some of what was given back,
so the photograph comes first, and the picture twice.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path

from clinfra.config import ImageConfig
from clinfra.image import worker
from clinfra.image.job import Bounds, Job
from clinfra.image.sizes import parse_size
from clinfra.image.sources import ladder


def main(photograph: Path, picture: Path) -> None:
    """Have them rendered as uploads are, within the limits of a worker."""
    config = ImageConfig()
    sizes = tuple(map(parse_size, config.sizes))
    rungs = ladder(config.mezzanine)
    job = Job(sizes, config.quality, Bounds.of(config), mezzanines=rungs)
    worker.confine(config.worker_bytes)
    _render(photograph, job)
    began = time.perf_counter()
    refused = _render(picture, job)
    seconds = time.perf_counter() - began
    if refused is None:
        _render(picture, job)
    megabytes = _most_bytes() / 1e6
    print(json.dumps({"megabytes": megabytes, "seconds": seconds, "refused": refused}))


def _render(path: Path, job: Job) -> object:
    """Render one picture; return why not, None when it was."""
    upload, sink = os.open(path, os.O_RDONLY), os.memfd_create("renditions")
    try:
        return worker.work(job, upload, sink).get("bad")
    finally:
        os.close(upload)
        os.close(sink)


def _most_bytes() -> int:
    """Return the highest resident size of this process so far."""
    status = Path("/proc/self/status").read_text()
    match = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert match is not None
    return int(match[1]) * 1024


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
