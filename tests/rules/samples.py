"""The reader of samples, under the name that tests know it by."""

from guardian.core.samples import Sample, read

__all__ = ["Sample", "read"]
