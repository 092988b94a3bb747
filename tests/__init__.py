"""What clinfra promises, as tests.

pytest runs them all.  That those of trial's kind hold under trial as well is seen from
fewer examples, where a test does not say how many.
"""

import os
import sys

if "twisted.trial" in sys.modules and "PYTEST_VERSION" not in os.environ:
    from hypothesis import settings

    settings.register_profile("trial", max_examples=20)
    settings.load_profile("trial")
