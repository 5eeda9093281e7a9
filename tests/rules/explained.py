"""The rules that guardian brings, and one matcher for all tests that explain logs: it takes a while to build."""

import os
from unittest.mock import patch

from guardian.host import rulebook
from guardian.host.matching import Matcher

with patch.dict(os.environ, {"XDG_CONFIG_HOME": "/nonexistent"}):  # the tester's own rules do not count
    RULES = rulebook.load(None)
MATCHER = Matcher(RULES)
