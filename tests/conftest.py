"""What holds for every test: property tests are judged by their answer, never by their speed."""

from hypothesis import settings

settings.register_profile("guardian", deadline=None)  # shared and slow machines are no failure
settings.load_profile("guardian")
