"""What is noted of ends that were forgotten."""

from __future__ import annotations

import json
from math import inf

from twisted.trial.unittest import SynchronousTestCase

from clinfra.blob.forgotten import (
    CLOCKS_SECONDS,
    NOTE,
    Forgotten,
    TooLate,
    forgotten_in,
    noted,
)


class ForgottenTests(SynchronousTestCase):
    """Which changes may have been undone by what is not known any more."""

    def test_may_hide(self) -> None:
        """Only a later end that was forgotten after the change was kept."""
        forgotten = Forgotten().joined(100, 5000.0).joined(90, 4000.0)

        self.assertEqual(Forgotten(100, 5000.0), forgotten)
        self.assertTrue(forgotten.may_hide(99, 1000.0))
        self.assertTrue(forgotten.may_hide(99, 5000.0 + CLOCKS_SECONDS - 1))
        self.assertFalse(forgotten.may_hide(99, 5000.0 + CLOCKS_SECONDS))
        self.assertFalse(forgotten.may_hide(100, 1000.0))
        self.assertRaises(TooLate, forgotten.check, 99, 1000.0)
        self.assertFalse(Forgotten().may_hide(1, 0.0))

    def test_noted(self) -> None:
        """A note is read as it was written; what makes no sense is nothing."""
        for each in (Forgotten(), Forgotten((1 << 64) - 1, 5000.5), Forgotten(7, inf)):
            self.assertEqual(each, noted(each.notes()))
            told = json.loads(json.dumps(each.told()))
            self.assertEqual(each, forgotten_in(told))
        for bad in ("", "{", "7", "[1]", '["x", 1]', "null"):
            self.assertEqual(Forgotten(), noted({NOTE: bad}))
        self.assertEqual(Forgotten(), noted({}))
