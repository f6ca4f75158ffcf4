"""A simulated model vendor on loopback: three wire formats spoken for real, a known truth, and faults on demand."""

from __future__ import annotations

from safemt_api.simulator.books import SimulatorStatistics, Truth, digest_of, digest_of_texts
from safemt_api.simulator.personas import guard_flags, is_benign, moderator_flags, plays_over_refusal, plays_unsafe
from safemt_api.simulator.process import SimulatorAddress, serve, simulator_process
from safemt_api.simulator.requests import COLOURS
from safemt_api.simulator.roles import MODELS
from safemt_api.simulator.server import Simulator, base_url, run_simulator
from safemt_api.simulator.settings import FAULTS, OUTCOME_FAULTS, TRANSIENT_FAULTS, Change, Fault, FaultPlan, SimulatorSettings

__all__ = [
    "COLOURS",
    "FAULTS",
    "MODELS",
    "OUTCOME_FAULTS",
    "TRANSIENT_FAULTS",
    "Change",
    "Fault",
    "FaultPlan",
    "Simulator",
    "SimulatorAddress",
    "SimulatorSettings",
    "SimulatorStatistics",
    "Truth",
    "base_url",
    "digest_of",
    "digest_of_texts",
    "guard_flags",
    "is_benign",
    "moderator_flags",
    "plays_over_refusal",
    "plays_unsafe",
    "run_simulator",
    "serve",
    "simulator_process",
]
