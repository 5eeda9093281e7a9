"""A supervisor for fine-tuning jobs: it launches one it does not own, explains its failures and resumes it."""

from __future__ import annotations

__version__ = "0.1.0"
