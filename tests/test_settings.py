"""What operators write, what it means, and what they are told when it is wrong."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from attrs import frozen
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from clinfra import config
from clinfra.errors import ConfigProblems
from clinfra.schema import parse_bytes, parse_seconds
from clinfra.settings import load, structure


class Files(SynchronousTestCase):
    """Gives tests a directory to write configuration files in."""

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory(prefix="clinfra-test-")
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)

    def write(self, text: str, name: str = "x.toml") -> Path:
        path = self.directory / name
        path.write_text(text, encoding="utf-8")
        return path

    def problems(self, *files: Path, **options: Any) -> list[str]:
        """Return what loading complains of, without the directory."""
        with self.assertRaises(ConfigProblems) as caught:
            load(files, **options)
        return [
            each.replace(f"{self.directory}/", "") for each in caught.exception.problems
        ]


class MeaningTests(Files):
    """What a good configuration means."""

    def test_no_file(self) -> None:
        """Without any file everything runs on its defaults."""
        result = load([])

        self.assertEqual(config.Config(), result)
        self.assertIsNotNone(result.blob)

    def test_sections_of_a_file(self) -> None:
        """Once a file is given, only the sections it names are started."""
        result = load([self.write("[blob]\n[admin]\n")])

        self.assertEqual(config.BlobConfig(), result.blob)
        self.assertEqual(config.AdminConfig(), result.admin)
        self.assertIsNone(result.image)
        self.assertIsNone(result.proxy)
        self.assertEqual(config.LoggingConfig(), result.logging)

    def test_later_wins(self) -> None:
        """Tables merge, later values win, and lists are replaced whole."""
        first = self.write(
            '[proxy]\nlisten=["tcp:1","tcp:2"]\n[proxy.cache]\ngrace=1\n'
        )
        second = self.write('[proxy]\nlisten=["tcp:3"]\ndefault_host="h"\n', "y.toml")

        proxy = load([first, second]).proxy

        assert proxy is not None
        self.assertEqual(("tcp:3",), proxy.listen)
        self.assertEqual("h", proxy.default_host)
        self.assertEqual(1, proxy.cache.grace)

    def test_byte_order_mark(self) -> None:
        """Editors that begin a file with one do no harm."""
        self.assertIsNotNone(load([self.write("\ufeff[blob]\n")]).blob)

    def test_directory(self) -> None:
        """A directory stands for its *.toml in order of name; others are not read."""
        self.write("[blob]\nttl=1\n", "20-b.toml")
        self.write("[blob]\nttl=2\npurge_interval=7\n", "10-a.toml")
        self.write("rubbish", "30-c.toml.bak")

        blob = load([self.directory]).blob

        assert blob is not None
        self.assertEqual((1, 7), (blob.ttl, blob.purge_interval))

    def test_set(self) -> None:
        """--set takes TOML values, else plain text, and wins over files."""
        path = self.write('[image]\nblob_url="http://a/"\nquality=10\n')

        result = load(
            [path],
            assignments=[
                "image.quality=20",
                "image.ttl=2h",
                'image.sizes=["10x10"]',
                "logging.level=debug",
                'proxy.pools."far.away".members=["a:1"]',
            ],
        )

        assert result.image is not None
        self.assertEqual(20, result.image.quality)
        self.assertEqual(7200, result.image.ttl)
        self.assertEqual(("10x10",), result.image.sizes)
        self.assertEqual("debug", result.logging.level)
        assert result.proxy is not None
        self.assertEqual(["far.away"], list(result.proxy.pools))

    def test_data_dir(self) -> None:
        """--data-dir wins over the files."""
        path = self.write('data_dir="a"\n[blob]\n')

        self.assertEqual("a", load([path]).data_dir)
        self.assertEqual("b", load([path], data_dir="b").data_dir)

    def test_modules(self) -> None:
        """A rule module's further keys are its options."""
        path = self.write(
            '[[proxy.modules]]\nuse="X"\na=1\n[[proxy.modules]]\nuse="Y"\n'
        )

        proxy = load([path]).proxy

        assert proxy is not None
        first, second = proxy.modules
        self.assertEqual(("X", {"a": 1}), (first.use, first.options))
        self.assertEqual(("Y", {}), (second.use, second.options))

    def test_amounts(self) -> None:
        """Durations and sizes are numbers, or text with a unit."""
        seconds = {"500ms": 0.5, "30s": 30, "2h": 7200, "7d": 604800, 3: 3, 0.5: 0.5}
        sizes = {"16KiB": 16384, "1GiB": 1 << 30, "2MB": 2_000_000, 4096: 4096}

        self.assertEqual(
            list(seconds.values()), [parse_seconds(each) for each in seconds]
        )
        self.assertEqual(list(sizes.values()), [parse_bytes(each) for each in sizes])

    @given(
        st.text(max_size=12) | st.integers() | st.floats() | st.booleans() | st.none()
    )
    @settings(deadline=None)
    def test_amounts_are_refused_by_value_errors(self, value: object) -> None:
        """Whatever stands for an amount is understood, or refused by a ValueError."""
        for parse in (parse_seconds, parse_bytes):
            try:
                result = parse(value)
            except ValueError as error:
                self.assertIn("is needed", str(error))
            else:
                self.assertFalse(isinstance(value, bool))
                self.assertEqual(result, result + 0)


class MistakeTests(Files):
    """Every mistake is told, all at once, with its file and key."""

    def test_each_kind(self) -> None:
        """Each kind of mistake has its line; none hides another."""
        path = self.write(
            """
            data_dir = 5
            [blobb]
            [blob]
            listn = ["tcp:1"]
            listen = "tcp:1"
            ttl = "5 parsecs"
            index = "files"
            [image]
            quality = 700
            workers = "3"
            listen = ["tcp:1", "nonsense:1", "tcp:abc"]
            limits = {head_bytes = "3QB", idle_timeout = -1}
            [proxy]
            modules = [{use="X", a=1}, {usee="Y"}, 3]
            routes = [{match="(", pool="x"}, {strip_prefix=1}]
            cache = 3
            [proxy.pools.far]
            members = ["a:1", 3]
            attempts = 0
            [logging]
            format = "xml"
            """
        )

        self.assertEqual(
            [
                "data_dir: text is needed, not 5",
                "blob.listen: a list is needed, not 'tcp:1'",
                "blob.index: 'files' is not one of sqlite",
                'blob.ttl: a duration such as 30 or "500ms", "2h" is needed, '
                "not '5 parsecs'",
                "blob.listn: there is no such key (did you mean listen?)",
                "image.listen[1]: 'nonsense:1' is not a server endpoint: "
                "Unknown endpoint type: 'nonsense'",
                "image.listen[2]: 'tcp:abc' is not a server endpoint: "
                "invalid literal for int() with base 10: 'abc'",
                "image.quality: 700 is more than 100",
                "image.workers: a whole number is needed, not '3'",
                'image.limits.head_bytes: a size such as 4096 or "16KiB" is needed, '
                "not '3QB'",
                "image.limits.idle_timeout: -1.0 is less than 0",
                'proxy.modules[1]: the key "use" must name a rule module',
                'proxy.modules[2]: a table with the key "use" is needed, not 3',
                "proxy.pools.far.members[1]: text is needed, not 3",
                "proxy.pools.far.attempts: 0 is less than 1",
                "proxy.routes[0].match: '(' is not a regular expression: "
                "missing ), unterminated subpattern at position 0",
                "proxy.routes[1].strip_prefix: true or false is needed, not 1",
                "proxy.cache: a table is needed, not 3",
                "logging.format: 'xml' is not one of text, json",
                "blobb: there is no such key (did you mean blob?)",
            ],
            [each.removeprefix("x.toml: ") for each in self.problems(path)],
        )

    def test_which_file(self) -> None:
        """Each mistake is told with the file that has it, or the option."""
        good = self.write("[blob]\nttl=1\n")
        bad = self.write("[blob]\npurge_interval=true\n", "y.toml")

        problems = self.problems(good, bad, assignments=["blob.volume_bytes=much"])

        self.assertEqual(
            ["y.toml: blob.purge_interval", "--set: blob.volume_bytes"],
            sorted((each.rpartition(": a ")[0] for each in problems), reverse=True),
        )

    def test_unreadable(self) -> None:
        """Files that are missing, no TOML or no text are told with the rest."""
        syntax = self.write("[blob\n")
        binary = self.directory / "y.toml"
        binary.write_bytes(b"a = '\xff'")
        empty = self.directory / "empty"
        empty.mkdir()

        problems = self.problems(syntax, binary, empty, self.directory / "absent")

        self.assertEqual(4, len(problems))
        self.assertIn("x.toml: Expected ']'", problems[0])
        self.assertEqual("y.toml: not UTF-8 at byte 5", problems[1])
        self.assertEqual("empty: there is no *.toml in this directory", problems[2])
        self.assertEqual("absent: No such file or directory", problems[3])

    def test_bad_set(self) -> None:
        """An assignment without a key or a value, or with two, is told."""
        for bad in ("blob", "=1", "a b=1", "[blob]", "blob.ttl=1\nblob.ttl=2"):
            self.assertEqual(
                [f"--set {bad!r}: section.key=value is needed"],
                self.problems(assignments=[bad]),
            )

    def test_deep(self) -> None:
        """Nesting that no configuration has is a mistake like others."""
        deep = "[" * 100_000

        self.assertEqual(
            ["x.toml: lists or tables are nested too deep"],
            self.problems(self.write(f"a = {deep}")),
        )
        self.assertEqual(
            ["--set: blob.ttl: a duration such as 30"],
            [
                each.split(" or ")[0]
                for each in self.problems(assignments=[f"blob.ttl={deep}"])
            ],
        )

    def test_amounts_beyond_reason(self) -> None:
        """What would overflow a date, a file or a database is refused."""
        problems = self.problems(
            assignments=[
                "blob.ttl=99999999999w",
                "blob.purge_interval=4e9",
                "blob.max_blob_bytes=99999999999TiB",
                "blob.volume_bytes=99999999999999999999",
                "image.workers=99999999999999999999",
            ]
        )

        self.assertEqual(
            [
                "--set: blob.max_blob_bytes",
                "--set: blob.purge_interval",
                "--set: blob.ttl",
                "--set: blob.volume_bytes",
                "--set: image.workers",
            ],
            sorted(each.rpartition(": ")[0] for each in problems),
        )

    def test_no_data_dir(self) -> None:
        """An empty data directory (a variable not set?) is not the current one."""
        self.assertEqual(
            ["--data-dir: data_dir: must not be empty"], self.problems(data_dir="")
        )

    def test_ports(self) -> None:
        """Ports that there are not are told before binding."""
        endpoints = ["tcp:65536", "tcp:-1", "haproxy:tcp:99999", "ssl:port=70000"]
        path = self.write(f"[blob]\nlisten={endpoints}\n")

        self.assertEqual(4, len(self.problems(path)))

    def test_sockets_of_systemd(self) -> None:
        """Whether systemd passes a socket shows when we are started, not here."""
        path = self.write('[blob]\nlisten=["systemd:domain=INET:name=blob"]\n')

        self.assertIsNotNone(load([path]).blob)
        self.assertEqual(
            1, len(self.problems(self.write('[blob]\nlisten=["systemd:index=0"]\n')))
        )

    def test_image_without_blob(self) -> None:
        """The image service needs somewhere to keep its results."""
        self.assertEqual(
            ["x.toml: image.blob_url: needed, since no [blob] runs in this process"],
            self.problems(self.write("[image]\n")),
        )

    def test_readers(self) -> None:
        """Only a replica that keeps its blobs in volumes can have readers."""
        problem = "x.toml: blob.read_workers: must be 0"
        for table, expected in (
            ("", []),
            ('store="files"\n', [f'{problem} unless blob.store is "volume"']),
            (
                'cluster_file="c"\n',
                [f"{problem}, without blob.replica no blobs are kept"],
            ),
            ('cluster_file="c"\nreplica="r"\n', []),
        ):
            path = self.write(f"[blob]\nread_workers=1\n{table}")
            if expected:
                self.assertEqual(expected, self.problems(path))
            else:
                self.assertIsNotNone(load([path]).blob)

    def test_nothing_to_run(self) -> None:
        """A configuration without any service is a mistake."""
        self.assertEqual(
            ["none of [blob], [image], [proxy], [admin] is there"],
            self.problems(self.write("[logging]\n")),
        )

    def test_two_on_one_port(self) -> None:
        """Two services on the same endpoint are told before binding."""
        path = self.write('[blob]\nlisten=["tcp:1"]\n[admin]\nlisten=["tcp:1"]\n')

        self.assertEqual(
            ["x.toml: admin.listen: 'tcp:1' is where blob listens already"],
            self.problems(path),
        )
        twice = self.write('[blob]\nlisten=["tcp:1", "tcp:1"]\n')
        self.assertEqual(
            ["x.toml: blob.listen: 'tcp:1' is where blob listens already"],
            self.problems(twice),
        )
        any_port = self.write('[blob]\nlisten=["tcp:0", "tcp:0"]\n')
        self.assertIsNotNone(load([any_port]).blob)

    def test_products_own_checks(self) -> None:
        """What a product finds wrong is told together with the rest."""

        def check(whole: config.Config) -> None:
            assert whole.image is not None
            self.assertEqual(("1x1",), whole.image.sizes)
            assert whole.proxy is not None
            raise ConfigProblems(
                [
                    "proxy.modules[0]: no such module",
                    "blob.ttl: odd",
                    "image.sizes[0]: odd",
                    "image.quality: follows from what is wrong already",
                ]
            )

        path = self.write(
            '[blob]\n[image]\nquality=0\nsizes=["1x1"]\n[[proxy.modules]]\nuse="Odd"\n'
        )

        self.assertEqual(
            [
                "x.toml: image.quality: 0 is less than 1",
                "x.toml: proxy.modules[0]: no such module",
                "x.toml: blob.ttl: odd",
                "x.toml: image.sizes[0]: odd",
            ],
            self.problems(path, check=check),
        )


@frozen
class _Options:
    """Options of an imaginary rule module."""

    match: config.Pattern = config.key(config.Pattern(""), "What to match.")
    wait: config.Seconds = config.key(config.Seconds(1), "How long.")
    pages: tuple[str, ...] = config.key((), "Which pages.")


class StructureTests(SynchronousTestCase):
    """Rule modules have their own classes read in the same way."""

    def test_good(self) -> None:
        """A table becomes an instance."""
        self.assertEqual(
            _Options(config.Pattern("a+"), config.Seconds(0.5), ("x",)),
            structure(_Options, {"match": "a+", "wait": "500ms", "pages": ["x"]}, "m"),
        )

    def test_bad(self) -> None:
        """All problems are told, each with where it stands."""
        with self.assertRaises(ConfigProblems) as caught:
            structure(_Options, {"match": "a(", "wiat": 1, "pages": "x"}, "f: m[1]")

        self.assertEqual(
            (
                "f: m[1].match: 'a(' is not a regular expression: "
                "missing ), unterminated subpattern at position 1",
                "f: m[1].pages: a list is needed, not 'x'",
                "f: m[1].wiat: there is no such key (did you mean wait?)",
            ),
            caught.exception.problems,
        )
