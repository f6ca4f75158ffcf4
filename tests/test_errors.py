"""Did you mean …?"""

from __future__ import annotations

from safemt_api.errors import did_you_mean


def test_the_closest_known_name_is_suggested_whatever_its_case() -> None:
    assert did_you_mean("sim-averge", ("sim-safe", "sim-average")) == " (did you mean 'sim-average'?)"
    assert did_you_mean("legal opinon", ("Fraud", "Legal Opinion")) == " (did you mean 'Legal Opinion'?)"


def test_nothing_is_suggested_where_nothing_is_close() -> None:
    assert did_you_mean("zebra", ("openai", "google")) == ""
    assert did_you_mean("zebra", ()) == ""
