"""What clinfra promises, as tests.

pytest runs them all.  That those of trial's kind hold under trial as well is seen from
less: from fewer examples, where a test does not say how many, and fewer seeds.
"""

import os
import sys

LESS = "twisted.trial" in sys.modules and "PYTEST_VERSION" not in os.environ
"""Whether it is trial that runs them."""

if LESS:
    from hypothesis import settings

    settings.register_profile("trial", max_examples=10)
    settings.load_profile("trial")
