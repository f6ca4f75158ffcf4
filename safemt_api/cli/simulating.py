"""Runs the simulator in the foreground and says how to talk to it."""

from __future__ import annotations

import sys
from functools import partial

import anyio

from safemt_api.cli.loop import BACKEND_OPTIONS
from safemt_api.cli.printing import put
from safemt_api.simulator.process import serve
from safemt_api.simulator.roles import MODELS
from safemt_api.simulator.server import base_url
from safemt_api.simulator.settings import SimulatorSettings

PROFILES = {"openai_chat": "simulator", "anthropic_messages": "simulator-anthropic", "google_genai": "simulator-google"}


def serve_simulator(settings: SimulatorSettings, *, port: int, max_seconds: float | None) -> None:
    """Serve until interrupted."""
    serving = partial(serve, settings, port=port, max_seconds=max_seconds, announce=_announce)
    anyio.run(serving, backend_options=BACKEND_OPTIONS)


def _announce(port: int) -> None:
    lines = ["The simulator listens on loopback; Ctrl-C ends it."]
    lines += [
        f"  {base_url(port, wire_format):32} {wire_format:20} safemt-api eval --provider {profile} --base-url {base_url(port, wire_format)}"  # type: ignore[arg-type] # keys of PROFILES are wire formats
        for wire_format, profile in PROFILES.items()
    ]
    lines.append(f"Models: {', '.join(MODELS)}")
    put("\n".join(lines))
    sys.stdout.flush()
