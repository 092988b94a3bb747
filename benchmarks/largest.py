"""What a worker does with one picture, and the memory it needs for that.

    python -m benchmarks.largest PICTURE

prints a line of JSON: the most megabytes the process ever had, the seconds it took, and
why the picture was refused, if it was.
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
from clinfra.image.sizes import parse_recipe, parse_size


def main(path: Path) -> None:
    """Have it rendered as an upload is, within the limits of a worker."""
    config = ImageConfig()
    sizes = tuple(map(parse_size, config.sizes))
    mezzanine = parse_recipe(config.mezzanine)
    job = Job(sizes, config.quality, Bounds.of(config), mezzanine=mezzanine)
    worker.confine(config.worker_bytes)
    upload = os.open(path, os.O_RDONLY)
    sink = os.memfd_create("renditions")
    began = time.perf_counter()
    answer = worker.work(job, upload, sink)
    figures = {
        "megabytes": _most_bytes() / 1e6,
        "seconds": time.perf_counter() - began,
        "refused": answer.get("bad"),
    }
    print(json.dumps(figures))


def _most_bytes() -> int:
    """Return the highest resident size of this process so far."""
    status = Path("/proc/self/status").read_text()
    match = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert match is not None
    return int(match[1]) * 1024


if __name__ == "__main__":
    main(Path(sys.argv[1]))
