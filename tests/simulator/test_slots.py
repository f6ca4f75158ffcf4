"""A simulated server that works on a few calls at a time: others wait for their turn."""

from __future__ import annotations

import pytest

from safemt_api.errors import UsageError
from safemt_api.simulator.service import Service
from safemt_api.simulator.settings import SimulatorSettings


def test_calls_wait_for_a_free_slot() -> None:
    service = Service(SimulatorSettings(latency_seconds=1.0, slots=2))
    assert [service.work_seconds(10.0) for _ in range(5)] == [1.0, 1.0, 2.0, 2.0, 3.0]
    assert service.work_seconds(100.0) == 1.0
    service.reset()
    assert service.work_seconds(10.0) == 1.0


def test_without_slots_nobody_waits() -> None:
    service = Service(SimulatorSettings(latency_seconds=0.5))
    assert {service.work_seconds(10.0) for _ in range(100)} == {0.5}


def test_slots_travel_to_another_process_and_must_make_sense() -> None:
    settings = SimulatorSettings(slots=3)
    assert SimulatorSettings.from_json(settings.to_json()) == settings
    with pytest.raises(UsageError, match="slots must be above 0"):
        SimulatorSettings(slots=0)
