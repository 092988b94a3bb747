"""`clinfra blob …`: work with a running blob store from the command line.

Each command speaks to one server (``--server URL``) or to a whole cluster
(``--cluster FILE``, the cluster file).  Exit status: 0 done; 1 refused, or failed; 2
bad usage; 3 there is no such blob; 4 no server could be reached, or it broke off; 130
interrupted.  When several things were asked for, the highest counts.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import react

from clinfra.blob import commands as does
from clinfra.blob import topology
from clinfra.blob.client import BlobClient
from clinfra.blob.commands import INTERRUPTED, REFUSED, Command, Session, sentence_of
from clinfra.blob.servers import OneServer
from clinfra.errors import ConfigProblems, Trouble
from clinfra.web.pool import Pool, PoolSettings

DEFAULT_SERVER = "http://127.0.0.1:8081"

EXIT_STATUS = (
    "Exit status: 0 done; 1 refused, or failed; 2 bad usage; 3 no such blob; 4 no"
    " server could be reached, or it broke off; 130 interrupted."
)


def add_commands(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
) -> None:
    """Add the commands to `clinfra blob`."""
    common = argparse.ArgumentParser(add_help=False)
    where = common.add_mutually_exclusive_group()
    where.add_argument(
        "--server",
        metavar="URL",
        default=DEFAULT_SERVER,
        help="the server to ask (default: %(default)s)",
    )
    where.add_argument(
        "--cluster", metavar="FILE", type=Path, help="ask the whole cluster of a file"
    )
    common.add_argument("--json", action="store_true", help="answer in JSON")
    common.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=float,
        default=30.0,
        help="longest silence of a server (default: %(default)s)",
    )

    def add(
        name: str, command: Command, text: str, *more: argparse.ArgumentParser
    ) -> argparse.ArgumentParser:
        parser = commands.add_parser(
            name,
            parents=[common, *more],
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog=EXIT_STATUS,
        )
        parser.set_defaults(run=run, command=command)
        return parser

    def add_replicas(parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "replicas",
            nargs="*",
            metavar="REPLICA",
            help="its name (default: the server's, or all of the cluster)",
        )

    concern = argparse.ArgumentParser(add_help=False)
    concern.add_argument(
        "--copies",
        metavar="N|quorum|all",
        type=_copies,
        help="durable copies to wait for",
    )
    concern.add_argument(
        "--clusters", metavar="M", type=int, help="clusters that must have it"
    )
    concern.add_argument(
        "--require", action="store_true", help="fail when that is not reached"
    )

    parser = add("put", does.put, "keep a file; print its stored name", concern)
    parser.add_argument("file", help='the file; "-" is standard input')
    parser.add_argument("--name", help="its name (default: the file's)")
    parser.add_argument("--ttl", type=int, metavar="SECONDS", help="time to live")
    parser.add_argument("--type", metavar="TYPE", help="content type")
    parser.add_argument(
        "--encoded", action="store_true", help="the name is a stored name already"
    )

    parser = add("get", does.get, "fetch a blob")
    parser.add_argument("name", help="stored name")
    parser.add_argument(
        "-o", "--output", metavar="FILE", default="-", help="default: standard output"
    )

    parser = add("delete", does.delete, "delete blobs at once", concern)
    parser.add_argument("names", nargs="+", metavar="NAME", help="stored name")

    parser = add("info", does.info, "tell what is known of blobs")
    parser.add_argument("names", nargs="+", metavar="NAME", help="stored name")

    parser = add("locate", does.locate, "tell where a name belongs")
    parser.add_argument("name", help="plain name")
    parser.add_argument(
        "--encoded", action="store_true", help="the name is a stored name already"
    )

    parser = add("status", does.status, "tell how replicas are")
    add_replicas(parser)

    parser = add("list", does.listing, "list a replica's blobs by time of change")
    add_replicas(parser)
    parser.add_argument("--start", type=int, metavar="STAMP", help="from this stamp")
    parser.add_argument("--stop", type=int, metavar="STAMP", help="before this stamp")

    parser = add("sync", does.sync, "have replicas pull from others what they lack")
    add_replicas(parser)
    parser.add_argument("--source", metavar="A,B", help="default: all their peers")

    parser = add(
        "configcheck",
        does.configcheck,
        "tell what another cluster file would change; fail if blobs would be lost",
    )
    parser.add_argument("file", metavar="FILE", help="the cluster file to be")
    add_replicas(parser)

    for name, command, text in (
        ("purge", does.purge, "have replicas purge what has expired"),
        ("buffer", does.buffer, "have replicas send at once what rests or was refused"),
        ("scrub", does.scrub, "have replicas check all their blobs now"),
        ("trust", does.trust, "have replicas serve that were away, unproven"),
        ("quarantine", does.quarantine, "list what replicas keep of damaged blobs"),
    ):
        parser = add(name, command, text)
        add_replicas(parser)

    parser = add("discard", does.discard, "clear what is kept of damaged blobs")
    parser.add_argument("id", metavar="ID", help='as listed by "quarantine", or "all"')
    add_replicas(parser)


def _copies(text: str) -> str:
    if text not in ("quorum", "all") and not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError('neither a number nor "quorum" or "all"')
    return text


def make_client(arguments: argparse.Namespace, reactor: Any) -> BlobClient:
    """Return the client that a command line asks for.  Raises ConfigProblems."""
    pool = Pool(
        reactor,
        PoolSettings(
            connect_timeout=min(3.0, arguments.timeout),
            response_timeout=arguments.timeout,
            read_timeout=arguments.timeout,
        ),
    )
    if arguments.cluster is None:
        server = OneServer(arguments.server, "--server")
        return BlobClient(arguments.server, reactor=reactor, pool=pool, servers=server)
    try:
        text = arguments.cluster.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigProblems([f"{arguments.cluster}: {error}"]) from None
    cluster = topology.read(text, None, str(arguments.cluster))
    return BlobClient.of_cluster(cluster, reactor=reactor, pool=pool)


async def execute(session: Session) -> int:
    """Run a command; return the exit status."""
    command: Command = session.arguments.command
    try:
        return await command(session)
    except CancelledError:
        return INTERRUPTED
    except (Trouble, OSError) as error:
        print(sentence_of(error), file=session.err)
        return does.status_of(error)


def run(arguments: argparse.Namespace) -> int:
    """Run a command in a reactor of its own; return the exit status."""
    status = [INTERRUPTED]

    async def main(reactor: Any) -> None:
        client = make_client(arguments, reactor)
        whole = arguments.cluster is not None
        session = Session(client, arguments, whole, sys.stdout, sys.stderr)
        try:
            status[0] = await execute(session)
        finally:
            await client.close()

    def begin(reactor: Any) -> Deferred[None]:
        running = Deferred.fromCoroutine(main(reactor))
        reactor.addSystemEventTrigger("before", "shutdown", running.cancel)
        return running

    problems: list[ConfigProblems] = []

    def begin_checked(reactor: Any) -> Deferred[None]:
        def keep(failure: Any) -> None:
            failure.trap(ConfigProblems)
            problems.append(failure.value)

        return begin(reactor).addErrback(keep)

    try:
        react(begin_checked)
    except SystemExit as end:
        if end.code:
            return REFUSED
    if problems:
        raise problems[0]
    return status[0]
