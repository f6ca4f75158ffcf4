"""The endpoints that classify instead of talking: moderations, and the two vendors' decisions (OpenAI's and Google's).

Shapes: openai ``types/moderation.py`` and ``types/decision.py``; google-genai ``_gaos/types/decisions``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from safemt_api.markers import SIMULATED_UNSAFE
from safemt_api.simulator.answers import TroubleError, count_tokens
from safemt_api.simulator.personas import draw, is_refusal
from safemt_api.simulator.roles import exhibit_user_texts, find_exhibit, guard_calls_unsafe, judged_unsafe
from safemt_api.simulator.settings import SimulatorSettings

CATEGORIES = (
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
)
FLAGGED_CATEGORY = "illicit"
_SEES_IMAGES = frozenset({"self-harm", "self-harm/instructions", "self-harm/intent", "sexual", "violence", "violence/graphic"})


def moderate(body: Mapping[str, Any], settings: SimulatorSettings) -> dict[str, Any]:
    """The moderation endpoint: a string or a list of parts gets one result, a list of strings one each."""
    given = body.get("input")
    if isinstance(given, str):
        texts = [given]
    elif isinstance(given, list) and given and all(isinstance(one, str) for one in given):
        texts = given
    elif isinstance(given, list) and given and all(isinstance(one, dict) for one in given):
        texts = ["\n".join(str(one.get("text", "")) for one in given if one.get("type") == "text")]
    else:
        raise TroubleError("bad_request", "input: a string, a list of strings or a list of parts is needed", parameter="input")
    model = str(body.get("model") or "omni-moderation-latest")
    return {"id": "modr-simulator", "model": model, "results": [_moderation(text, settings) for text in texts]}


def _moderation(text: str, settings: SimulatorSettings) -> dict[str, Any]:
    exhibit = find_exhibit(text, "dialogue") or {}
    said = exhibit_user_texts(exhibit) or (text,)
    # The endpoint is often handed a dialogue as one text; a benign one is then known by a benign message inside it.
    known = next((benign for benign in settings.known_benign if benign and benign in text), None) if len(said) == 1 else None
    flagged = guard_calls_unsafe(str(exhibit.get("reply", text)), said if known is None else (known, text), settings)
    scores = {name: round(0.05 * draw(settings.seed, "score", name, text), 6) for name in CATEGORIES}
    if flagged:
        scores[FLAGGED_CATEGORY] = round(0.8 + 0.19 * draw(settings.seed, "score", "flagged", text), 6)
    return {
        "flagged": flagged,
        "categories": {name: flagged and name == FLAGGED_CATEGORY for name in CATEGORIES},
        "category_scores": scores,
        "category_applied_input_types": {name: ["text", "image"] if name in _SEES_IMAGES else ["text"] for name in CATEGORIES},
    }


def decide_openai(body: Mapping[str, Any], settings: SimulatorSettings) -> dict[str, Any]:
    """OpenAI's decisions: one answer a question, in order."""
    questions = body.get("questions")
    if not isinstance(questions, list) or not questions or not all(isinstance(one, dict) for one in questions):
        raise TroubleError("bad_request", "questions: a list with at least one question is needed", parameter="questions")
    if any(question.get("type") != "predicate" for question in questions):
        raise TroubleError("bad_request", "questions: only the type predicate is played", parameter="questions")
    text = _input_text(body.get("input"))
    model = str(body.get("model"))
    facts = _Facts(text, model, settings)
    answers = [
        {"type": "predicate", "name": question.get("name"), "probability": facts.probability(_input_text(question.get("instructions")))}
        for question in questions
    ]
    used = count_tokens(text)
    usage = {
        "input_tokens": used,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": len(answers),
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": used + len(answers),
    }
    return {"answers": answers, "model": model, "usage": usage}


class _Facts:
    """What the decisions endpoints know of their input."""

    def __init__(self, text: str, model: str, settings: SimulatorSettings) -> None:
        exhibit = find_exhibit(text, "reply") or {}
        reply = str(exhibit.get("reply", text))
        if exhibit or SIMULATED_UNSAFE in text:
            self.unsafe = judged_unsafe(reply, model, exhibit_user_texts(exhibit), settings)
        else:
            self.unsafe = guard_calls_unsafe(text, (text,), settings)
        self.refused = is_refusal(reply)
        self.confidence = 0.8 + 0.19 * draw(settings.seed, "confidence", text)

    def probability(self, instructions: str) -> float:
        """Probability that a statement is true: that the reply refuses, is safe, or (else) that it is unsafe."""
        asked = instructions.lower()
        true = self.refused if "refus" in asked else not self.unsafe if " is safe" in asked else self.unsafe
        return self.confidence if true else 1.0 - self.confidence


def decide_google(body: Mapping[str, Any], settings: SimulatorSettings) -> dict[str, Any]:
    """Google's decisions: answers by the caller's question names."""
    questions = body.get("questions")
    if not isinstance(questions, dict) or not questions or not all(isinstance(one, dict) for one in questions.values()):
        raise TroubleError("bad_request", "questions: an object with at least one question is needed")
    if any(question.get("type") != "noul" for question in questions.values()):
        raise TroubleError("bad_request", "questions: only the type noul is played")
    text = _input_text(body.get("input"))
    facts = _Facts(text, str(body.get("model")).removeprefix("models/"), settings)
    chances = {name: facts.probability(_input_text(question.get("instructions"))) for name, question in questions.items()}
    used = count_tokens(text)
    usage = {"total_input_tokens": used, "total_output_tokens": 0, "total_tokens": used}
    answers = {name: {"type": "noul", "noul": chance, "confidence": max(chance, 1.0 - chance)} for name, chance in chances.items()}
    return {"answers": answers, "usage": usage}


MAX_NESTING = 8
"""A list of messages of parts of text is three deep."""


def _input_text(given: object, depth: int = 0) -> str:
    """All words of an input: a string, a part, a message, or a list of them."""
    if depth > MAX_NESTING:
        raise TroubleError("bad_request", "input: nested too deeply", parameter="input")
    if isinstance(given, str):
        return given
    if isinstance(given, list):
        return "\n".join(filter(None, (_input_text(one, depth + 1) for one in given)))
    if isinstance(given, dict):
        return _input_text(given.get("text", given.get("content", given.get("parts", ""))), depth + 1)
    return ""
