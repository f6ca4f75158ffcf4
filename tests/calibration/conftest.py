"""Verdict frames written as patterns, as the tests of the metrics have them."""

from tests.metrics.conftest import verdicts

__all__ = ["verdicts"]
