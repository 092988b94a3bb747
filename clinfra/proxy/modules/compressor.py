"""Compressor: sends answers compressed to clients that accept that.

Before the cache is asked, a request's Accept-Encoding becomes the one coding that its
client is to get: so the cache keeps one copy of a page for each coding, and what was
compressed once is sent from memory.  Answers that their origin has encoded, that say
no-transform, that are small or of other types are left as they are.

Must stand before DirectCache.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from attrs import frozen

from clinfra.config import Pattern, key
from clinfra.errors import ConfigProblems
from clinfra.patterns import any_of
from clinfra.proxy import encoding
from clinfra.proxy.message import Request
from clinfra.proxy.rules import RuleModule


@frozen
class Options:
    """Options of Compressor."""

    encodings: tuple[str, ...] = key(
        ("br", "zstd", "gzip"),
        "Codings, best first; br and zstd only where their libraries are installed.",
    )
    types: tuple[str, ...] = key(
        (
            "text/html",
            "text/css",
            "text/plain",
            "text/xml",
            "text/csv",
            "text/javascript",
            "text/markdown",
            "application/javascript",
            "application/json",
            "application/xml",
            "application/*+json",
            "application/*+xml",
            "application/wasm",
            "image/svg+xml",
            "font/ttf",
            "font/otf",
        ),
        'Media types that are compressed; "text/*" and "application/*+json" also.',
    )
    min_bytes: int = key(1024, "Answers known to be smaller are left as they are.")
    never_match: tuple[Pattern, ...] = key(
        (),
        "Pages (host/path) never compressed, for the secrets in them (BREACH).",
    )
    gzip_level: int = key(5, "How hard gzip tries.", least=1, most=9)
    br_level: int = key(4, "How hard Brotli tries.", most=7)
    zstd_level: int = key(3, "How hard Zstandard tries.", least=1, most=9)


class Compressor(RuleModule):
    """Compresses answers."""

    Config = Options
    head_only = True
    by_heads = True

    def __init__(self, config: Options) -> None:
        problems = [
            f'encodings: "{name}" is none of br, zstd and gzip'
            for name in config.encodings
            if name not in ("br", "zstd", "gzip")
        ]
        try:
            self._types = encoding.Types.of(config.types)
        except ValueError as bad:
            problems.append(f"types: {bad}")
        if problems:
            raise ConfigProblems(problems)
        self._config = config
        self._never = any_of(config.never_match)
        names = [name for name in config.encodings if name in encoding.CODERS]
        codings = [name.encode("ascii") for name in names]
        self._levels = {
            b"gzip": config.gzip_level,
            b"br": config.br_level,
            b"zstd": config.zstd_level,
        }
        self._best = lru_cache(maxsize=1024)(
            lambda accepted: encoding.best_coding(accepted, codings)
        )
        self._coded = dict.fromkeys(codings, 0)

    def received(self, request: Request) -> None:
        """Ask for what the client is to get, and nothing else."""
        accepted = request.get(b"accept-encoding")
        # Who says nothing takes anything; with identity, there is one copy for them and
        # for those who ask for that.
        best = b"identity" if accepted is None else self._best(accepted)
        if best is not None and best != accepted:
            request.set(b"Accept-Encoding", best)

    def response(self, request: Request) -> None:
        """Have an origin's answer compressed on its way, before the cache keeps it."""
        reply = request.reply
        if reply is None or (self._never and self._never(request.host_path)):
            return
        if reply.status == 304:
            encoding.update_not_modified(reply, request.get(b"if-none-match"))
            return
        if not encoding.may_code(reply, self._types, self._config.min_bytes):
            return
        encoding.vary_on_coding(reply)
        wanted = request.get(b"accept-encoding")
        if wanted not in self._coded:
            return
        self._coded[wanted] += 1
        # An answer without a length may be one that comes as it is made.
        make = encoding.CODERS[wanted.decode("ascii")]
        coder = make(self._levels[wanted], reply.length is None)
        encoding.code(reply, wanted, coder)
        if request.method == b"HEAD":
            reply.coder = None

    def report(self) -> Mapping[str, Any]:
        """Return how many answers were compressed."""
        counts = {name.decode("ascii"): count for name, count in self._coded.items()}
        return {"compressed": counts}
