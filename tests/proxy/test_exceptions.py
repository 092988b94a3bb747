"""Operators' own pages for trouble, from files too."""

from __future__ import annotations

from typing import Any

from clinfra.errors import ConfigProblems
from tests.proxy.stage import Stage
from tests.proxy.test_blocker import Directory


class PageTests(Directory):
    """Pages."""

    def stage(self, **options: Any) -> Stage:
        """Return a stage with these pages, and no origin."""
        stage = Stage(self, modules={"Exceptions": options})
        stage.dead.add("o1:80")
        return stage

    def test_files(self) -> None:
        """By event, by status; the configuration before both; read again."""
        self.write("503.html", "<h1>down</h1>")
        path = self.write("origin_connect_max_retries.html", "<h1>event</h1>")
        self.write("README", "no page")
        stage = self.stage(directory=str(self.directory))

        answer = stage.get("/")
        self.assertEqual((503, b"<h1>event</h1>\n"), (answer.status, answer.body))
        self.assertEqual("text/html; charset=utf-8", answer.fields["Content-Type"])
        self.assertEqual("5", answer.fields["Retry-After"])

        self.write("origin_connect_max_retries.html", "<h1>changed</h1>")
        stage.pass_time(3)
        self.assertEqual(b"<h1>changed</h1>\n", stage.get("/").body)

        (self.directory / "origin_connect_max_retries.html").unlink()
        stage.pass_time(3)
        self.assertEqual(b"<h1>changed</h1>\n", stage.get("/").body, path)

        stage = self.stage(directory=str(self.directory))
        self.assertEqual(b"<h1>down</h1>\n", stage.get("/").body)
        stage = self.stage(
            directory=str(self.directory),
            origin_connect_max_retries={"content": "x", "status": 500},
        )
        answer = stage.get("/")
        self.assertEqual((500, b"x"), (answer.status, answer.body))

    def test_mistakes(self) -> None:
        """What could not be shown is refused at start."""
        for options, expected in (
            ({"not_found": {"file": "/no/such"}}, "not_found: /no/such: No such file"),
            ({"directory": "/no/such"}, "directory: /no/such: No such file"),
            ({"not_found": {"file": "x", "content": "x"}}, "either content or file"),
            ({"not_found": {"headers": {"a b": "x"}}}, "headers: a b cannot be sent"),
            ({"not_found": {"headers": {"a": "x\r\ny"}}}, "headers: a cannot be sent"),
        ):
            with self.assertRaises(ConfigProblems) as caught:
                self.stage(**options)
            self.assertIn(expected, str(caught.exception))
