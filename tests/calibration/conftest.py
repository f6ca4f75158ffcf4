"""Verdict frames written as patterns, as the tests of the metrics have them, and run folders made by hand."""

from tests.metrics.conftest import verdicts
from tests.report.conftest import make_run

__all__ = ["make_run", "verdicts"]
