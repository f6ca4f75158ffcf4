"""Transcripts and verdicts as rows of the run's files (columns: ``safemt_api.frames``), and back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import orjson

from safemt_api.dataset.images import SourceImage
from safemt_api.messages import Dialogue, Line, Transcript, Turn, Verdict, images_of, said

MAX_FINGERPRINT_CHARACTERS = 200


class Finished(NamedTuple):
    """A dialogue that was played and judged. ``verdicts`` are paired with the turn numbers they judge."""

    transcript: Transcript
    verdicts: tuple[tuple[int, Verdict], ...]
    provider: str
    model: str


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
            **_image_columns(dialogue),
            **_guidance_columns(turn),
            "failure": transcript.failure,
            "repeat": dialogue.repeat,
            "system_fingerprint": fingerprint_of(turn.reply.raw),
            "reply_key": turn.reply_key,
            "moderator_reply_keys": turn.guidance and _keys(turn.guidance.reply_keys),
            "data_source": dialogue.source,
            "language": dialogue.language,
            "pair": dialogue.pair,
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


def _image_columns(dialogue: Dialogue) -> dict[str, Any]:
    """The first picture, as the target was given it; where there are more, or it does not come first, all of them as JSON text."""
    images = [image for image in images_of(dialogue.lines) if isinstance(image, SourceImage)]
    paths = dialogue.image_paths
    notes = dict.fromkeys(image.note for image in images if image.note)
    sent = len(images) == len(paths)
    return {
        "image_path": paths[0] if paths else None,
        "image_digest": images[0].digest_given if images else None,
        "note": "; ".join(notes) or None,
        "images": images_json(dialogue, [image.digest_given for image in images] if sent else [None] * len(paths)),
    }


def images_json(dialogue: Dialogue, digests: Sequence[str | None]) -> str | None:
    """All pictures of a dialogue as JSON text: a list of ``{"turn", "path", "digest"}``.

    ``None`` where it has at most one, with the first message: ``image_path`` says it all then.
    """
    places = [(turn, path) for turn, line in enumerate(dialogue.user_lines, 1) for path in line.image_paths]
    if [turn for turn, _ in places] in ([], [1]):
        return None
    told = zip(places, digests, strict=True)
    return orjson.dumps([{"turn": turn, "path": path, "digest": digest} for (turn, path), digest in told]).decode()


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
    asked = transcript.turns[index]
    pending = replace(transcript.dialogue.user_lines[asked.turn - 1], text=asked.user_text)
    return (*said(transcript.dialogue, transcript.turns[:index]), pending)


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
        "method": dialogue.method,
        "data_source": dialogue.source,
        "language": dialogue.language,
        "pair": dialogue.pair,
    }


def _keys(keys: tuple[str, ...]) -> str | None:
    """Keys of the turn store with blanks between, in the order in which they were asked for."""
    return " ".join(keys) or None
