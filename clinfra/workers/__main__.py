"""A worker's process: twistd, told by the main process what to run.

    python -m clinfra.workers PRODUCT NUMBER REACTOR

Product and number are there for those who look at `ps`.
"""

from __future__ import annotations

import sys

from twisted.scripts.twistd import run

from clinfra.workers.child import CONTROL_DESCRIPTOR


def main(reactor_name: str) -> None:
    """Be twistd in the foreground."""
    sys.argv = ["twistd", "--nodaemon", "--pidfile="]
    if reactor_name:
        sys.argv.append(f"--reactor={reactor_name}")
    sys.argv += ["clinfra", f"--worker={CONTROL_DESCRIPTOR}"]
    run()


if __name__ == "__main__":
    main(sys.argv[3])
