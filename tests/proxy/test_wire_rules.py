"""Rules that are exchanged in a running process, while it answers."""

from __future__ import annotations

from pathlib import Path

from tests.proxy.test_wire_proxy import RealOrigin, ask, origin, proxy_config
from tests.support import ClinfraProcess, wait_until

__all__ = ["origin"]


def test_many_rules_under_load(origin: RealOrigin, tmp_path: Path) -> None:
    """Every request is answered, by the old rules or the new; bad ones change nothing.

    Reading them is a thread's work, which is told of when it is done.
    """
    config = proxy_config(origin.port)
    config["proxy"] |= {"rules_dir": str(tmp_path), "rules_reload": 0.2}

    def write(to: str) -> None:
        moves = (f"['/r{n}/(a|b)+$', '^.*$', '{to}/{n}']" for n in range(500))
        (tmp_path / "new").write_text(f"[Redirector]\nmoves = [{', '.join(moves)}]")
        (tmp_path / "new").rename(tmp_path / "moves.toml")

    write("a.example")
    with ClinfraProcess(config) as clinfra:
        child = clinfra.child
        assert child is not None

        def moved_to(where: str) -> bool:
            assert ask(clinfra, "/page")[0] == 200
            status, fields, _ = ask(clinfra, "/r499/ab")
            assert status == 301
            assert fields["Location"] in (
                "http://a.example/499",
                "http://b.example/499",
            )
            return where in fields["Location"]

        assert moved_to("a.example")
        write("b.example")
        wait_until(lambda: moved_to("b.example"), "the new rules are used")
        write("a.example/(")
        (tmp_path / "bad.toml").write_text("[Redirector]\nmoves = [['(', 'a', 'b']]")
        child.wait_for("The rules stay as they were")
        assert moved_to("b.example")
