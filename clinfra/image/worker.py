"""The child process that touches strangers' pictures.

No Twisted here: it reads one job after the other from a socket, renders, answers, and
ends when the socket does.  A job arrives as JSON with two descriptors, the upload and
an empty memory file for the results; the answer says where in that file they are.

A hostile picture may break this process, so there is little to gain in it: it cannot
grow beyond its memory, cannot write more than its results, gains no privileges, and
never outlives its parent.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import socket
import sys
from typing import Final

from clinfra.image import codec, resizer
from clinfra.image.job import BadImage, Job, NoSuchFrame, ResultTooLarge

MESSAGE_BYTES: Final = 65536
"""Longest message either way."""

RESULT_BYTES: Final = 64 << 20
"""Most that one job may write."""

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_OPEN_FILES = 64
_NICENESS = 5
"""Who serves goes first: his p99 under full load falls from 9 ms to less than 6."""


def main(arguments: list[str]) -> None:
    """Serve jobs until the parent hangs up.

    Args:
        arguments: descriptor of the socket, process id of the parent, bytes of memory,
            and seconds of processor time for one job.
    """
    descriptor, parent, memory_bytes, job_seconds = map(int, arguments)
    die_with(parent)
    os.nice(_NICENESS)
    with socket.socket(fileno=descriptor) as channel:
        simd = resizer.uses_simd()
        confine(memory_bytes)
        silence()
        channel.send(json.dumps({"ready": True, "simd": simd}).encode())
        while serve(channel, job_seconds):
            pass


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent is gone, however it went."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if os.getppid() != parent:
        # It went before the kernel was told.
        sys.exit(1)


def confine(memory_bytes: int) -> None:
    """Set the limits that hold for the life of the process."""
    for limit, value in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, RESULT_BYTES),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(limit)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (value, value))


def silence() -> None:
    """Say no more: from now on strangers would decide what is written."""
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 2)


def serve(channel: socket.socket, job_seconds: int) -> bool:
    """Do one job; False when there are no more to come."""
    try:
        message, descriptors, _, _ = socket.recv_fds(channel, MESSAGE_BYTES, 2)
    except OSError:
        return False
    if not message:
        return False
    _limit_cpu(job_seconds)
    try:
        upload, sink = descriptors
        answer = work(Job.from_json(json.loads(message)), upload, sink)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    channel.send(json.dumps(answer).encode())
    return True


def work(job: Job, upload: int, sink: int) -> dict[str, object]:
    """Render a job, and return what to answer."""
    try:
        with open(sink, "wb", closefd=False) as file:
            info, spans = codec.render_to(upload, job, file)
            start = file.tell()
            file.write(json.dumps(info).encode())
            return {"spans": spans, "info": (start, file.tell() - start)}
    except BadImage as error:
        return {"bad": error.reason[:1000]}
    except ResultTooLarge as error:
        return {"too_large": error.size_name}
    except NoSuchFrame as error:
        return {"no_frame": error.size_name}


def _limit_cpu(job_seconds: int) -> None:
    """Give the next job its processor time; the limit counts the whole life."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime) + 1 + job_seconds
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    if hard == resource.RLIM_INFINITY or seconds <= hard:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, hard))


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main(sys.argv[1:])
