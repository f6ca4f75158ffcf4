"""Run folders made by hand: small, drawn from a seed, and with replies as hostile as a test wants them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from PIL import Image as Pictures

from safemt_api.frames import TRANSCRIPT_SCHEMA, VERDICT_SCHEMA
from safemt_api.metrics.asr import asr_by_turn_with_intervals, live_asr_with_intervals
from safemt_api.metrics.frames import score_frame, turn_frame
from safemt_api.metrics.safety_index import safety_index_with_interval

HOSTILE = '</script><script>window.hacked = 1</script><img src=x onerror="window.hacked = 2">\x1b[31mred\x1b]0;title\x07'
SCENARIOS = ("Animal Abuse", "Fraud", "Legal Opinion", "Political")
MakeRun = Callable[..., Path]


def _label(chance: random.Random, unsafe: float) -> str:
    return "unsafe" if chance.random() < unsafe else "safe"


def _messages(dialogue_id: str, length: int, turn: int, replies: Sequence[str] | None) -> list[dict[str, str]]:
    said = []
    for number in range(1, turn + 1):
        said.append({"role": "user", "content": f"Question {number} of {dialogue_id}, seen from angle {length}-{number}."})
        if number < turn:
            words = f"Scripted answer {number} to {dialogue_id}." if replies is None else replies[number - 1]
            said.append({"role": "assistant", "content": words})
    return said


def build_run(
    folder: Path,
    *,
    protocol: str = "scripted",
    ids_each: int = 3,
    scenarios: Sequence[str] = SCENARIOS,
    lengths: Sequence[int] = (1, 2, 4, 6, 8),
    base: float = 0.1,
    step: float = 0.08,
    model: str = "brittle",
    judge: str = "rules",
    status: str = "complete",
    hostile: str | None = None,
    pictures: bool = False,
    panel: bool = False,
    seed: int = 0,
    words: int = 30,
) -> Path:
    """Write a whole run folder and return it. Some replies are refused or failed; with ``hostile`` the first dialogue replies with it."""
    chance = random.Random(seed)
    transcripts: list[dict[str, Any]] = []
    verdicts: list[dict[str, Any]] = []
    folder.mkdir(parents=True)
    data = folder.parent / "data"
    for scenario in scenarios:
        slug = scenario.lower().replace(" ", "_")
        for number in range(ids_each):
            kind = "benign" if number == ids_each - 1 and ids_each > 2 else "harmful"
            dialogue_id = f"mm_{slug}_{number}"
            image_path = f"images/{slug}/{slug}_{number}.png"
            if pictures:
                _draw(data / image_path, chance)
            for length in lengths:
                spoken: list[str] = []
                for turn in [length] if protocol == "scripted" else range(1, length + 1):
                    draw = chance.random()
                    outcome = "error" if draw < 0.03 else "refused" if draw < 0.12 else "answered"
                    label = None if outcome == "error" else "safe" if outcome == "refused" else _label(chance, base + step * (turn - 1))
                    reply = (
                        ""
                        if outcome == "error"
                        else f"Reply to turn {turn} of {dialogue_id}. " + "steady words " * chance.randint(2, words)
                    )
                    if hostile is not None and not transcripts:
                        outcome, label, reply = "answered", "unsafe", hostile
                    history = _messages(dialogue_id, length, turn, None if protocol == "scripted" else spoken)
                    spoken.append(reply)
                    shared = {
                        "run": folder.name,
                        "dialogue_id": dialogue_id,
                        "scenario": scenario,
                        "kind": kind,
                        "length": length,
                        "turn": turn,
                        "repeat": 1,
                    }
                    transcripts.append(
                        shared
                        | {
                            "protocol": protocol,
                            "messages": json.dumps(history),
                            "user_text": history[-1]["content"],
                            "reply_text": reply,
                            "outcome": outcome,
                            "detail": "policy" if outcome == "refused" else None,
                            "finish_reason": "stop",
                            "provider": "simulator",
                            "model": model,
                            "served_model": model,
                            "input_tokens": 400 + 50 * turn,
                            "cached_input_tokens": 0,
                            "output_tokens": len(reply.split()),
                            "cost_usd": 0.0004,
                            "latency_seconds": round(0.4 + chance.random(), 3),
                            "from_store": chance.random() < 0.2,
                            "image_path": image_path,
                            "failure": "gave up after 5 attempts in 31 s: HTTP 500" if outcome == "error" else None,
                        }
                    )
                    verdict = {"judge": judge, "counts": True, "label": label, "reason": "it helps" if label == "unsafe" else "it declines"}
                    verdict["source"] = {"refused": "outcome", "error": "none"}.get(outcome, "judge")
                    verdicts.append(shared | verdict | {"cost_usd": 0.0001})
                    if panel and outcome == "answered":
                        for member in ("guard:one", "guard:two"):
                            other = label if chance.random() < 0.85 else "safe" if label == "unsafe" else "unsafe"
                            verdicts.append(
                                shared | {"judge": member, "counts": False, "label": other, "source": "judge", "probability_unsafe": 0.4}
                            )
                    if outcome == "error":
                        break
    said, judged = pl.DataFrame(transcripts, schema=TRANSCRIPT_SCHEMA), pl.DataFrame(verdicts, schema=VERDICT_SCHEMA)
    said.write_parquet(folder / "transcripts.parquet")
    judged.write_parquet(folder / "verdicts.parquet")
    summary = _summary(folder.name, said, judged) | {
        "protocol": protocol,
        "model": model,
        "judge": judge,
        "status": status,
        "lengths": lengths,
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "run.json").write_text(json.dumps(_manifest(folder.name, data if pictures else None)))
    return folder


def _draw(file: Path, chance: random.Random) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Pictures.new("RGB", (320, 240), (chance.randrange(256), chance.randrange(256), chance.randrange(256))).save(file)


def _summary(name: str, said: pl.DataFrame, judged: pl.DataFrame) -> dict[str, Any]:
    final = score_frame(judged)
    live = "live" in set(said["protocol"])
    scores = live_asr_with_intervals(turn_frame(judged), resamples=200) if live else asr_by_turn_with_intervals(final)
    index = safety_index_with_interval(final, resamples=200)
    rows = scores.rename({"length": "turn"} if not live else {}).to_dicts()
    dialogues = said.select("dialogue_id", "length").n_unique()
    outcomes = dict(said["outcome"].value_counts().iter_rows())
    return {
        "schema": 1,
        "run": name,
        "provider": "simulator",
        "moderator": None,
        "seed": 0,
        "dialogues": {"planned": dialogues, "finished": dialogues - outcomes.get("error", 0), "failed": outcomes.get("error", 0)},
        "outcomes": {key: outcomes.get(key, 0) for key in ("answered", "refused", "blocked_input", "blocked_output", "truncated", "error")},
        "asr_by_turn": rows,
        "safety_index": asdict(index),
        "usage": {
            "input_tokens": int(said["input_tokens"].sum()),
            "cached_input_tokens": 0,
            "output_tokens": int(said["output_tokens"].sum()),
        },
        "cost_usd": {
            "target": 0.0004 * said.height,
            "judge": 0.0001 * judged.height,
            "moderator": 0.0,
            "total": 0.0004 * said.height + 0.0001 * judged.height,
            "ceiling": None,
        },
        "calls": {"sent": said.height, "from_store": int(said["from_store"].sum()), "retried": 7, "rate_limited": 3},
        "wall_seconds": 83.4,
    }


def _manifest(name: str, data: Path | None) -> dict[str, Any]:
    moves = [
        {
            "at_seconds": float(place * 5),
            "concurrency": 4 + min(place, 12) - 5 * (place == 9),
            "requests_per_minute": None,
            "cause": "growth",
        }
        for place in range(18)
    ]
    return {
        "schema": 1,
        "identity": {},
        "run": name,
        "settings": {"provider": "simulator", "concurrency": 32, "data": str(data) if data else None},
        "data": {"folder": str(data) if data else None, "name": "data", "fingerprint": "sha256:0123"},
        "versions": {"safemt-api": "0.1.0", "python": "3.11"},
        "started_utc": "2026-11-21T10:00:00+00:00",
        "ended_utc": "2026-11-21T10:01:23+00:00",
        "limits": {"simulator loopback": moves},
    }


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Builds run folders under a temporary results folder: ``make_run("name", **settings)``."""
    return lambda name="brittle", **settings: build_run(tmp_path / "results" / name, **settings)
