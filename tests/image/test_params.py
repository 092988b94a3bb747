"""What a query string asks for."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from clinfra.config import ImageConfig
from clinfra.errors import InvalidRequest, Trouble, UnsupportedMedia
from clinfra.image.params import Params, parse_params


def parse(query: str) -> Params:
    return parse_params(query.encode("latin-1"), ImageConfig())


class ParseParamsTests(SynchronousTestCase):
    def test_defaults(self) -> None:
        """Without a query everything is as configured."""
        params = parse("")
        self.assertEqual(
            ["50x50c", "300x300", "600x450"], [size.name for size in params.sizes]
        )
        self.assertEqual(
            (70, 7776000, True, None, "checksum"),
            (
                params.quality,
                params.ttl_seconds,
                params.save,
                params.filename,
                params.response,
            ),
        )

    def assert_refused(self, query: str, sentence: str) -> None:
        with self.assertRaises(InvalidRequest) as caught:
            parse(query)
        self.assertEqual(sentence, caught.exception.sentence)

    def test_sentences(self) -> None:
        """Bad values are refused in the original's words."""
        for query, sentence in (
            ("sizes=bad", "Invalid size parameter: bad"),
            ("sizes=20x20,bad", "Invalid size parameter: bad"),
            ("sizes=20x20,", "Invalid size parameter: "),
            ("quality=abc", "Invalid int value for quality: abc"),
            ("quality=", "Invalid int value for quality: "),
            ("quality=9999999999", "Invalid int value for quality: 9999999999"),
            ("quality=5_0", "Invalid int value for quality: 5_0"),
            ("ttl=abc", "Invalid int value for ttl: abc"),
            ("ttl=", "Invalid int value for ttl: "),
            ("save=MayBe", "Invalid boolean value for save: maybe"),
            ("save=", "Invalid boolean value for save: "),
            ("save_blob=2", "Invalid boolean value for save_blob: 2"),
            ("keep=maybe", "Invalid boolean value for keep: maybe"),
            ("response=x", "Invalid response parameter: x"),
            ("response=", "Invalid response parameter: "),
            ("sizes=50x50C&response=50x50C", "Invalid response parameter: 50x50c"),
            ("sizes=50x50cZ&response=50x50cz", "Invalid response parameter: 50x50cz"),
            ("sizes=1x1&response=300x300", "Invalid response parameter: 300x300"),
        ):
            self.assert_refused(query, sentence)

    def test_keys_without_value(self) -> None:
        """A key without a value is a client's error, where the original broke."""
        for key in ("sizes", "quality", "ttl", "save", "save_blob", "response"):
            self.assert_refused(key, f"Missing value for {key}")
        self.assertIsNone(parse("filename").filename)

    def test_response_is_checked_before_sizes(self) -> None:
        """Of two errors the response is told first."""
        self.assert_refused("sizes=bad&response=no", "Invalid response parameter: no")
        self.assert_refused("sizes=bad&response=bad", "Invalid size parameter: bad")

    def test_sizes(self) -> None:
        """Sizes can be none, one, and twice the same."""
        self.assertEqual((), parse("sizes=").sizes)
        self.assertEqual(1, len(parse("sizes=20x20,20x20").sizes))
        self.assertEqual("20x20", parse("sizes=20x20&response=20X20").response)
        self.assertRaises(UnsupportedMedia, parse, "sizes=0x0")

    def test_too_much(self) -> None:
        """Sizes are bounded in number, and crops in pixels."""
        many = ",".join(f"{number}x1" for number in range(1, 18))
        self.assert_refused(f"sizes={many}", "Too many sizes: 17 of at most 16")
        self.assert_refused("sizes=9999x9999c", "Size too large: 9999x9999c")
        # Never enlarged, so only the picture can tell.
        self.assertEqual(1, len(parse("sizes=9999x9999").sizes))

    def test_quality(self) -> None:
        """Numbers the encoder does not know mean what they meant to the original."""
        for text, quality in (
            ("0", 75),
            ("-1", 75),
            ("1", 1),
            ("100", 100),
            ("101", 100),
        ):
            self.assertEqual(quality, parse(f"quality={text}").quality)

    def test_ttl(self) -> None:
        """A time to live may be zero or negative, as for the blob service."""
        for text in ("100", "0", "-1"):
            self.assertEqual(int(text), parse(f"ttl={text}").ttl_seconds)

    def test_save(self) -> None:
        """Nothing is saved when either switch is off, in any spelling."""
        for query in ("save=false", "save=0", "save=FALSE", "save_blob=false"):
            self.assertFalse(parse(query).save)
        self.assertTrue(parse("save=TRUE&save_blob=1").save)

    def test_wants_info(self) -> None:
        """Nobody sees the info of what is not stored and answered with a size."""
        for query, wanted in (
            ("", True),
            ("save=false", True),
            ("save=false&response=info", True),
            ("response=300x300", True),
            ("save=false&response=300x300", False),
            ("save=false&response=none", False),
        ):
            self.assertEqual(wanted, parse(query).wants_info, query)

    def test_keep(self) -> None:
        """The original is kept as configured, or as asked for, but only when saved."""
        self.assertTrue(parse("").keeps)
        self.assertFalse(parse("keep=false").keeps)
        self.assertFalse(parse("keep=true&save=false").keeps)
        self.assertFalse(parse_params(b"", ImageConfig(keep=False)).keeps)
        self.assertTrue(parse_params(b"keep=1", ImageConfig(keep=False)).keeps)

    def test_splitting(self) -> None:
        """Values are stripped, not decoded; the last wins; unknown keys are ignored."""
        params = parse(" quality = 10 &quality=20&x=1&&=&filename=a%20b+c=d")
        self.assertEqual(20, params.quality)
        self.assertEqual("a%20b+c=d", params.filename)
        self.assertEqual("", parse("filename=").filename)
        self.assertEqual(1024, len(parse("filename=" + "x" * 9999).filename or ""))

    def test_anything(self) -> None:
        """Any bytes are either read or refused with a sentence."""
        keys = ("sizes", "quality", "ttl", "save", "save_blob", "filename", "response")
        piece = st.sampled_from([*keys, "=", "&", ",", "x", "c", "1", "600x450"])

        @settings(deadline=None)
        @given(st.lists(st.one_of(piece, st.binary(max_size=4)), max_size=20))
        def check(pieces: list[str | bytes]) -> None:
            query = b"".join(
                each if isinstance(each, bytes) else each.encode() for each in pieces
            )
            try:
                params = parse_params(query, ImageConfig())
            except Trouble as trouble:
                self.assertTrue(trouble.sentence)
            else:
                self.assertIn(params.quality, range(1, 101))

        check()
