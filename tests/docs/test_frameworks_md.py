"""docs/frameworks.md is what the adapters say, and what it calls proved is run."""

from guardian.core import adapters
from tests.docs.frameworks_page import PAGE, page, understood


def test_the_page_is_made_from_the_adapters():
    """Whoever changes an adapter makes the page anew: python -m tests.docs.frameworks_page."""
    assert PAGE.read_text() == page()


def test_every_family_says_what_is_proved_of_it_and_what_is_not():
    """Each is understood by the family that it is about, and nothing is left without a label."""
    for about in adapters.abouts():
        assert about.proved or about.dry, about.title
        assert understood(about) is not None, about.title
