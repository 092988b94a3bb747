"""Questions about requests, as programs put them."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from clinfra.errors import InvalidRequest
from clinfra.proxy.explaining import Question
from clinfra.proxy.questions import read_question

_texts = st.text(max_size=30) | st.sampled_from(
    [
        "http://h/",
        "h/a b",
        "http://[::1",
        "ftp://h",
        "GET",
        "A: b",
        "Host:",
        "127.0.0.1",
    ]
)
_values = (
    st.none() | st.booleans() | st.integers() | _texts | st.lists(_texts, max_size=3)
)


class QuestionTests(SynchronousTestCase):
    """What can be asked."""

    def test_whole(self) -> None:
        """Everything that can be said."""
        told = {
            "url": " https://h/a?b ",
            "method": "post",
            "client": "10.0.0.1",
            "fields": ["X-A:  b:c "],
            "status": 404,
            "answer": ["Cache-Control: no-store"],
        }
        self.assertEqual(
            Question(
                "https://h/a?b",
                "POST",
                ((b"X-A", b"b:c"),),
                "10.0.0.1",
                404,
                ((b"Cache-Control", b"no-store"),),
            ),
            read_question(told),
        )
        self.assertEqual(Question("h/"), read_question({"url": "h/"}))

    def test_refusals(self) -> None:
        """What means nothing is refused, with a sentence that says what."""
        for told, said in (
            ({}, "A URL is needed"),
            ({"url": 3}, "url has to be a text"),
            ({"url": "h/" + "a" * 9000}, "url has to be a text"),
            ({"url": "ftp://h/"}, "Not a URL"),
            ({"url": "h/a b"}, "before any rule"),
            ({"url": "h/", "method": "G T"}, "not a method"),
            ({"url": "h/", "client": "me"}, "not an address"),
            ({"url": "h/", "status": 99}, "200 to 599"),
            ({"url": "h/", "status": "200"}, "200 to 599"),
            ({"url": "h/", "fields": "a: b"}, "a list"),
            ({"url": "h/", "fields": ["a: b"] * 101}, "at most 100"),
            ({"url": "h/", "fields": ["a"]}, "NAME: VALUE"),
            ({"url": "h/", "fields": [{}]}, "NAME: VALUE"),
            ({"url": "h/", "answer": ["a: b\r\nc: d"]}, "NAME: VALUE"),
            ({"url": "h/", "colour": "red"}, "Not something to ask: 'colour'"),
        ):
            with self.assertRaises(InvalidRequest) as caught:
                read_question(told)
            self.assertIn(said, caught.exception.sentence)

    @settings(deadline=None)
    @given(
        st.fixed_dictionaries(
            {"url": _values},
            optional=dict.fromkeys(
                ("method", "client", "fields", "status", "answer"), _values
            ),
        )
    )
    def test_anything(self, told: dict[str, Any]) -> None:
        """Whatever is said is a question with a good head, or is refused."""
        try:
            question = read_question(told)
        except InvalidRequest:
            return
        question.head()
