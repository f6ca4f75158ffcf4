"""What a run can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from safemt_api.errors import UsageError
from safemt_api.runs.settings import EvalSettings, settings_from, settings_from_record, settings_record


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"concurrency": 0}, "--concurrency 0"),
        ({"sample": -1}, "--sample -1"),
        ({"requests_per_minute": 0}, "--requests-per-minute 0"),
        ({"total_seconds": float("nan")}, "--total-seconds nan"),
        ({"max_usd": -0.01}, "--max-usd -0.01"),
        ({"max_usd": float("nan")}, "--max-usd nan"),
        ({"max_failures": 1.1}, "--max-failures 1.1"),
        ({"protocol": "both"}, "--protocol 'both': choose scripted or live"),
        ({"lengths": ()}, "--lengths"),
        ({"lengths": (0, 1)}, "--lengths"),
        ({"tier": "batch,flex"}, "--tier 'batch,flex': choose standard, flex"),
        ({"flex_patience_seconds": "soon"}, "--flex-patience 'soon': is no time: give seconds, or a number with s, m or h"),
        ({"flex_patience_seconds": -1}, "--flex-patience -1 must be at least 0"),
        ({"nonsense": 1}, "no such option: nonsense; there are: .*concurrency"),
    ],
)
def test_a_value_out_of_range_is_told_by_its_option(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        settings_from(options)


def test_a_ceiling_of_zero_is_one() -> None:
    assert settings_from({"max_usd": 0.0}).max_usd == 0.0


@pytest.mark.parametrize(("given", "seconds"), [("90", 90.0), ("90s", 90.0), ("10m", 600.0), ("1.5h", 5400.0), (30, 30.0)])
def test_a_time_is_given_in_seconds_or_with_its_unit(given: object, seconds: float) -> None:
    assert settings_from({"flex_patience_seconds": given}).flex_patience_seconds == seconds


def test_settings_come_back_from_their_record(tmp_path: Path) -> None:
    import json

    settings = EvalSettings(
        provider="openai",
        lengths=(1, 2),
        judges=("rules",),
        data=tmp_path / "d",
        results=tmp_path,
        run="r",
        max_usd=2.5,
        scenarios=("Fraud",),
    )
    record = json.loads(json.dumps(settings_record(settings)))
    assert settings_from_record(record, run="r", results=tmp_path) == settings
