"""What the access log is told of a head that could not be understood.

Pure.  It never became a request, and no product heard of it; but whoever looks for what
a client did wrong looks there.
"""

from __future__ import annotations

from attrs import define

from clinfra.web.heads import RequestHead

_UNREADABLE = RequestHead(
    b"-", b"-", True, (), {}, b"", 0, keep_alive=False, expect_continue=False, raw=b""
)


@define(eq=False)
class Refused:
    """Looks like an exchange that is over, as far as logs look.

    Attributes:
        client_ip: address of the peer.
        status: of the answer it got.
        bytes_out: of its body.
        notes: why, as "refused".
    """

    client_ip: str
    status: int
    bytes_out: int
    notes: dict[str, str]
    started_at: float
    head: RequestHead = _UNREADABLE
    finished: bool = True
    trace: None = None
