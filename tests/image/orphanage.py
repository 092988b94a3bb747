"""A program that starts image workers, says who they are, and waits to be killed."""

from __future__ import annotations

from twisted.internet import reactor, task

from clinfra.image.child import Child, command
from clinfra.image.render import Renderer


def main() -> None:
    start = command(1 << 30, 10)
    renderer = Renderer(
        reactor,
        lambda on_message, on_gone: Child(reactor, start, on_message, on_gone),
        places=2,
        timeout_seconds=10,
        jobs_per_worker=9,
        queue=9,
    )
    renderer.start()

    def tell() -> None:
        if renderer.report()["workers"] == 2:
            print("READY", *renderer.pids(), flush=True)
            loop.stop()

    loop = task.LoopingCall(tell)
    loop.start(0.02)
    reactor.run()


if __name__ == "__main__":
    main()
