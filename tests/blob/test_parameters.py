"""Query parameters as recorded (numbers are of the wire recordings, part A)."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from clinfra.blob.parameters import Parameters, parse
from clinfra.errors import InvalidRequest

GOOD = (
    ("085", "PUT", b"ttl=-5", Parameters(ttl=-5)),
    ("086", "PUT", b"ttl=+5", Parameters(ttl=5)),
    ("087", "PUT", b"ttl=007", Parameters(ttl=7)),
    ("098", "PUT", b"deleted=-1", Parameters(deleted=-1)),
    ("103", "PUT", b"ttl=100&deleted=1234", Parameters(ttl=100, deleted=1234)),
    ("105", "PUT", b"ttl=100&ttl=200", Parameters(ttl=200)),
    ("106", "PUT", b"ttl =100", Parameters(ttl=100)),
    ("107", "PUT", b"%74tl=100", Parameters()),
    ("108", "PUT", b"TTL=100", Parameters()),
    ("008", "GET", b"unknown=1&x", Parameters()),
    ("216", "PUT", b"encoded=true", Parameters(encoded=True)),
    ("219", "PUT", b"encoded=0", Parameters(encoded=False)),
    ("220", "PUT", b"encoded=TRUE", Parameters(encoded=True)),
    ("167", "PUT", b"replicate=bogus", Parameters(replicate="bogus")),
    ("174", "PUT", b"replicate=", Parameters(replicate="")),
    ("004", "GET", b"response=info", Parameters(response="info")),
)

BAD = (
    ("085+", "PUT", b"ttl=%2B5", "Invalid int value for ttl: %2B5"),
    ("088", "PUT", b"ttl=abc", "Invalid int value for ttl: abc"),
    ("089", "PUT", b"ttl=", "Invalid int value for ttl: "),
    ("090", "PUT", b"ttl", "Invalid int value for ttl: None"),
    ("091", "PUT", b"ttl=1.5", "Invalid int value for ttl: 1.5"),
    ("092", "PUT", b"ttl=1e3", "Invalid int value for ttl: 1e3"),
    ("093", "PUT", b"ttl=0x10", "Invalid int value for ttl: 0x10"),
    ("094", "PUT", b"ttl=5L", "Invalid int value for ttl: 5L"),
    (
        "095, was 500",
        "PUT",
        b"ttl=99999999999999999999",
        "Invalid int value for ttl: 99999999999999999999",
    ),
    (
        "102, was 500",
        "PUT",
        b"deleted=99999999999999999999",
        "Invalid int value for deleted: 99999999999999999999",
    ),
    ("104", "PUT", b"ttl=abc&deleted=1234", "Invalid int value for ttl: abc"),
    ("109", "PUT", b"ttl=100;deleted=5", "Invalid int value for ttl: 100;deleted=5"),
    ("133", "PUT", b"modified=abc", "Invalid int value for modified: abc"),
    ("222", "PUT", b"encoded=yes", "Invalid boolean value for encoded: yes"),
    ("222+", "PUT", b"encoded=YES", "Invalid boolean value for encoded: yes"),
    ("224, was 500", "PUT", b"encoded", "Invalid boolean value for encoded: None"),
    ("005, was 500", "GET", b"response=bad", "Unknown response option: bad"),
    ("006, was 500", "GET", b"response=", "Unknown response option: "),
    ("007, was 500", "GET", b"response", "Unknown response option: None"),
    ("225, was 500", "GET", b"encoded=true", "Parameter not known to GET: encoded"),
    ("227, was 500", "PUT", b"response=info", "Parameter not known to PUT: response"),
    (
        "235, was 500",
        "DELETE",
        b"modified=5",
        "Parameter not known to DELETE: modified",
    ),
    ("237", "GET", b"ttl=abc", "Invalid int value for ttl: abc"),
    ("245", "POST", b"ttl=abc", "Invalid int value for ttl: abc"),
)


class ParameterTests(SynchronousTestCase):
    """The table of recordings."""

    def test_good(self) -> None:
        """What the original understood is understood alike."""
        for number, method, query, expected in GOOD:
            self.assertEqual(expected, parse(method, query), number)

    def test_bad(self) -> None:
        """What it refused is refused in its words; its own failures became refusals."""
        for number, method, query, sentence in BAD:
            with self.assertRaises(InvalidRequest) as caught:
                parse(method, query)
            self.assertEqual(sentence, caught.exception.sentence, number)

    @given(st.sampled_from(["GET", "PUT", "DELETE", "POST"]), st.binary())
    @settings(deadline=None)
    def test_anything(self, method: str, query: bytes) -> None:
        """No query does anything but parse or be refused."""
        try:
            parse(method, query)
        except InvalidRequest:
            pass
