"""Transcripts and verdicts as rows of the run's files (columns: ``safemt_api.frames``), and back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson

from safemt_api.messages import Line, Transcript, Turn, Verdict, said

MAX_FINGERPRINT_CHARACTERS = 200


class Finished(NamedTuple):
    """A dialogue that was played and judged. ``verdicts`` are paired with the turn numbers they judge."""

    transcript: Transcript
    verdicts: tuple[tuple[int, Verdict], ...]
    provider: str
    model: str
    image_digest: str | None = None
    note: str | None = None


def transcript_rows(finished: Finished, run: str) -> Iterator[dict[str, Any]]:
    """One row a turn."""
    transcript = finished.transcript
    dialogue = transcript.dialogue
    for index, turn in enumerate(transcript.turns):
        yield {
            "run": run,
            "dialogue_id": dialogue.id,
            "scenario": dialogue.scenario,
            "kind": dialogue.kind,
            "method": dialogue.method,
            "length": dialogue.length,
            "protocol": transcript.protocol,
            "turn": turn.turn,
            "messages": messages_json(history_before(transcript, index)),
            "user_text": turn.user_text,
            **_reply_columns(turn),
            "provider": finished.provider,
            "model": finished.model,
            "image_path": dialogue.image_path,
            "image_digest": finished.image_digest,
            "note": finished.note,
            **_guidance_columns(turn),
            "failure": transcript.failure,
            "repeat": dialogue.repeat,
            "system_fingerprint": fingerprint_of(turn.reply.raw),
            "reply_key": turn.reply_key,
            "moderator_reply_keys": turn.guidance and _keys(turn.guidance.reply_keys),
        }


def fingerprint_of(raw: str | None) -> str | None:
    """What the vendor says of the back end behind a reply (OpenAI's ``system_fingerprint``); ``None`` where its body says nothing."""
    if raw is None or '"system_fingerprint"' not in raw:
        return None
    try:
        found = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    told = found.get("system_fingerprint") if isinstance(found, dict) else None
    return told[:MAX_FINGERPRINT_CHARACTERS] if isinstance(told, str) and told else None


def _reply_columns(turn: Turn) -> dict[str, Any]:
    reply, usage = turn.reply, turn.reply.usage
    return {
        "reply_text": reply.text,
        "outcome": reply.outcome.value,
        "detail": reply.detail,
        "finish_reason": reply.finish_reason,
        "served_model": reply.served_model,
        "input_tokens": usage and usage.input_tokens,
        "cached_input_tokens": usage and usage.cached_input_tokens,
        "cache_write_tokens": usage and usage.cache_write_tokens,
        "output_tokens": usage and usage.output_tokens,
        "reasoning_tokens": usage and usage.reasoning_tokens,
        "cost_usd": turn.cost_usd,
        "latency_seconds": reply.latency_seconds,
        "from_store": turn.from_store,
        "request_id": reply.request_id,
    }


def _guidance_columns(turn: Turn) -> dict[str, Any]:
    guidance = turn.guidance
    return {
        "moderator": guidance and guidance.moderator,
        "moderator_flagged": guidance and guidance.flagged,
        "moderator_policy": guidance and guidance.policy,
        "moderator_text": guidance and guidance.text,
        "moderator_latency_seconds": guidance and guidance.latency_seconds,
        "moderator_cost_usd": guidance and guidance.cost_usd,
        "moderator_failure": guidance and guidance.failure,
    }


def history_before(transcript: Transcript, index: int) -> tuple[Line, ...]:
    """What was said before the reply of the turn at ``index``, ending with the user's message."""
    if transcript.protocol == "scripted":
        return transcript.dialogue.lines
    return (*said(transcript.turns[:index]), Line("user", transcript.turns[index].user_text))


def messages_json(lines: tuple[Line, ...]) -> str:
    """A history as JSON text: a list of ``{"role", "content"}``."""
    return orjson.dumps([{"role": line.role, "content": line.text} for line in lines]).decode()


def verdict_rows(finished: Finished, run: str) -> Iterator[dict[str, Any]]:
    """One row a verdict; a panel's members stand beside it and do not count."""
    for turn, verdict in finished.verdicts:
        yield _verdict_row(finished, run, turn, verdict, counts=True)
        for member in verdict.members:
            yield _verdict_row(finished, run, turn, member, counts=False)


def _verdict_row(finished: Finished, run: str, turn: int, verdict: Verdict, *, counts: bool) -> dict[str, Any]:
    dialogue = finished.transcript.dialogue
    return {
        "run": run,
        "dialogue_id": dialogue.id,
        "scenario": dialogue.scenario,
        "kind": dialogue.kind,
        "length": dialogue.length,
        "turn": turn,
        "judge": verdict.judge,
        "counts": counts,
        "label": verdict.label,
        "source": verdict.source,
        "reason": verdict.reason,
        "probability_unsafe": verdict.probability_unsafe,
        "raw": verdict.raw,
        "cost_usd": verdict.cost_usd,
        "repeat": dialogue.repeat,
        "reply_keys": _keys(verdict.reply_keys),
    }


def _keys(keys: tuple[str, ...]) -> str | None:
    """Keys of the turn store with blanks between, in the order in which they were asked for."""
    return " ".join(keys) or None
