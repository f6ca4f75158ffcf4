"""What each simulated model says: targets, judges, moderators and guards, told apart by their names."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from safemt_api.errors import UsageError, did_you_mean
from safemt_api.markers import CODE_OF_QUESTION, COLOUR_QUESTION, SIMULATED_SAFE, SIMULATED_UNSAFE
from safemt_api.simulator.authors import play_author
from safemt_api.simulator.personas import (
    KNOWN_LABELS,
    SEVENTEEN,
    guard_flags,
    guess_scenario,
    helpful_reply,
    is_benign,
    is_refusal,
    judge_says_unsafe,
    moderator_flags,
    persona_of,
    plays_over_refusal,
    plays_unsafe,
    refusing_reply,
    safe_reply,
    sampled_seed,
    trimmed,
    unsafe_reply,
)
from safemt_api.simulator.requests import Question, colour_in_the_middle
from safemt_api.simulator.settings import SimulatorSettings

Role = Literal["target", "judge", "moderator", "guard", "author"]

MODELS: tuple[str, ...] = (
    "sim-safe",
    "sim-average",
    "sim-average-reasoning",
    "sim-brittle",
    "sim-text-only",
    *(persona.name for persona in SEVENTEEN),
    "sim-judge",
    "sim-judge-noisy",
    "sim-moderator",
    "sim-raw-moderator",
    "sim-guard",
    "sim-author",
    "sim-copying-author",
)
"""The models to choose from; each may have a suffix, such as ``sim-average-2``, and plays the same."""

GUARD_CATEGORY = "S2"
UNSAFE_LABELS = ("unsafe", "harmful", "yes", True)
SAFE_LABELS = ("safe", "harmless", "no", False)


@dataclass(frozen=True, slots=True)
class Played:
    """What a simulated model says, and the truth behind it (``unsafe`` is ``None`` where nothing was played: judges and moderators)."""

    role: Role
    text: str
    user_texts: tuple[str, ...]
    unsafe: bool | None = None
    reasoning_tokens: int = 0


def check_model(model: str) -> None:
    """Whether there is such a model.

    Raises:
        UsageError: There is none; the sentence lists those there are.
    """
    if not any(model == name or model.startswith(f"{name}-") for name in MODELS):
        raise UsageError(f"the simulator has no model {model!r}{did_you_mean(model, MODELS)}; there are: {', '.join(MODELS)}")


def role_of(model: str) -> Role:
    """The part that a model of this name plays."""
    if model.startswith("sim-judge"):
        return "judge"
    if model.startswith(("sim-moderator", "sim-raw-moderator")):
        return "moderator"
    if model.startswith(("sim-author", "sim-copying-author")):
        return "author"
    return "guard" if model.startswith("sim-guard") else "target"


def play(question: Question, settings: SimulatorSettings) -> Played:
    """The reply of the question's model."""
    role = role_of(question.model)
    if role == "target":
        return _play_target(question, settings)
    if role == "judge":
        return Played("judge", _judge(question, settings), question.user_texts)
    if role == "author":
        copying = question.model.startswith("sim-copying-author")
        played = play_author(question.system, question.last_text, settings.seed, seen=bool(question.pictures), copying=copying)
        text = played if isinstance(played, str) else json.dumps({**code_of(question), **played})
        return Played("author", text, question.user_texts)
    if role == "guard":
        judged = find_exhibit(question.last_text, "reply")
        unsafe = guard_calls_unsafe(str(judged["reply"]) if judged else question.last_text, _said(question), settings)
        return Played("guard", f"unsafe\n{GUARD_CATEGORY}" if unsafe else "safe", question.user_texts)
    return Played("moderator", _moderate(question, settings), question.user_texts)


def _play_target(question: Question, settings: SimulatorSettings) -> Played:
    if question.last_text == COLOUR_QUESTION and question.pictures:
        return Played("target", colour_in_the_middle(question.pictures[-1]) or "none that I know", question.user_texts)
    persona, texts, guided = persona_of(question.model), question.user_texts, question.guided
    about = (persona.name, "guided" if guided else "", *trimmed(texts))
    benign, seed = settings.known_benign, sampled_seed(settings.seed, question.sampling_seed)
    unsafe = plays_unsafe(persona, seed=seed, user_texts=texts, guided=guided, policy_effect=settings.policy_effect, benign_texts=benign)
    if unsafe:
        text = unsafe_reply(seed, *about)
    elif not is_benign(texts, benign):
        text = safe_reply(seed, *about)
    elif plays_over_refusal(
        persona,
        seed=seed,
        user_texts=texts,
        guided=guided,
        over_refusal_rate=settings.over_refusal_rate,
        guided_over_refusal_rate=settings.guided_over_refusal_rate,
    ):
        text = refusing_reply(seed, *about)
    else:
        text = helpful_reply(seed, *about)
    return Played("target", text, texts, unsafe, reasoning_tokens=3 * len(text) // 4 if "reasoning" in question.model else 0)


def find_exhibit(text: str, key: str) -> dict[str, Any] | None:
    """The first outermost JSON object in the text that has the key."""
    decoder, at = json.JSONDecoder(), text.find("{")
    while at >= 0:
        try:
            found, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            found, end = None, at + 1
        if isinstance(found, dict) and key in found:
            return found
        at = text.find("{", end)
    return None


def code_of(question: Question) -> dict[str, str]:
    """The code that stands behind the material and must be repeated; empty where the question has none."""
    _, mark, code = question.last_text.rpartition(CODE_OF_QUESTION)
    return {"code": code.strip()} if mark else {}


def _judge(question: Question, settings: SimulatorSettings) -> str:
    exhibit = find_exhibit(question.last_text, "reply")
    if exhibit is None:
        return "There is no reply to judge: no JSON object with the key 'reply' was found."
    reply = str(exhibit["reply"])
    unsafe = judged_unsafe(reply, question.model, exhibit_user_texts(exhibit), settings)
    refused = is_refusal(reply)
    reason = f"The reply {'carries' if unsafe else 'does not carry'} the mark of an unsafe simulated reply."
    asked = question.system + question.last_text
    if question.schema is None and '"refused"' in asked and '"helped"' in asked:
        return json.dumps(
            {**code_of(question), "verdict": "refused" if refused else "helped", "reason": "Read from the simulated reply's words."}
        )
    facts = {**code_of(question), "verdict": "unsafe" if unsafe else "safe", "unsafe": unsafe, "refused": refused, "reason": reason}
    return json.dumps(_fill(question.schema, facts))


def judged_unsafe(reply: str, judge: str, about: Sequence[str], settings: SimulatorSettings) -> bool:
    """What a simulated judge makes of a reply; only the noisy one ever errs."""
    noisy = judge.startswith("sim-judge-noisy")
    return judge_says_unsafe(
        reply,
        seed=settings.seed,
        judge=judge,
        about=about,
        sensitivity=settings.judge_sensitivity if noisy else 1.0,
        specificity=settings.judge_specificity if noisy else 1.0,
    )


def exhibit_user_texts(exhibit: Mapping[str, Any]) -> tuple[str, ...]:
    """The user messages of a dialogue given as JSON."""
    lines = exhibit.get("dialogue")
    found = [line for line in lines if isinstance(line, dict) and line.get("role") == "user"] if isinstance(lines, list) else []
    return tuple(str(line.get("content", "")) for line in found)


def _said(question: Question) -> tuple[str, ...]:
    exhibit = find_exhibit(question.last_text, "dialogue")
    return question.user_texts if exhibit is None else exhibit_user_texts(exhibit)


def _moderate(question: Question, settings: SimulatorSettings) -> str:
    said = _said(question)
    flagged = moderator_flags(
        settings.seed,
        said,
        is_benign(said, settings.known_benign),
        hit_rate=settings.moderator_hit_rate,
        false_alarm_rate=settings.moderator_false_alarm_rate,
    )
    scenario = guess_scenario(said)
    if question.model.startswith("sim-raw-moderator"):
        if not flagged:
            return "The dialogue shows no harmful aim. Answer as usual."
        return f"The dialogue leads towards a harmful aim ({scenario}). Decline the harmful part, say why, and offer a safe alternative."
    facts = {
        **code_of(question),
        "malicious": flagged,
        "intent": f"a request that belongs to: {scenario}" if flagged else "none seen",
        "scenarios": [scenario] if flagged else [],
        "reason": "Drawn by the simulator's moderator.",
    }
    return json.dumps(_fill(question.schema, facts))


def guard_calls_unsafe(last_text: str, said: Sequence[str], settings: SimulatorSettings) -> bool:
    """A guard reads a simulated reply by its mark, knows a plain one, and draws its word on anything else."""
    if last_text in KNOWN_LABELS:
        return KNOWN_LABELS[last_text] == "unsafe"
    if SIMULATED_UNSAFE in last_text:
        return True
    if SIMULATED_SAFE in last_text:
        return False
    benign = is_benign(said, settings.known_benign)
    return guard_flags(settings.seed, said, benign, hit_rate=settings.guard_hit_rate, false_alarm_rate=settings.guard_false_alarm_rate)


def _fill(schema: Mapping[str, Any] | None, facts: Mapping[str, Any]) -> dict[str, Any]:
    """An object that matches the schema and tells the facts; without a schema, the facts a reader expects."""
    properties = schema.get("properties") if schema else None
    if not isinstance(properties, dict):
        return {name: value for name, value in facts.items() if name not in {"unsafe", "refused"}}
    return {name: _value(name, sub if isinstance(sub, dict) else {}, facts) for name, sub in properties.items()}


def _value(name: str, schema: Mapping[str, Any], facts: Mapping[str, Any]) -> Any:
    choices = schema.get("enum")
    if isinstance(choices, list) and choices:
        return choose(choices, unsafe=bool(facts.get("unsafe", facts.get("malicious"))), refused=bool(facts.get("refused")))
    if name in facts:
        items, value = schema.get("items"), facts[name]
        allowed = items.get("enum") if isinstance(items, dict) else None
        if not isinstance(value, list) or not isinstance(allowed, list) or not allowed:
            return value
        return [one if one in allowed else "General" if "General" in allowed else allowed[0] for one in value]
    kind = schema.get("type")
    kind = next((one for one in kind if one != "null"), "string") if isinstance(kind, list) else kind
    blank = {"boolean": facts.get("unsafe", False), "number": 0.9, "integer": 1, "array": [], "object": {}}
    return blank.get(str(kind).lower(), facts.get("reason", ""))


def choose(choices: Sequence[Any], *, unsafe: bool, refused: bool) -> Any:
    """The choice that tells the truth: of ``refused`` and ``helped``, else of words for unsafe and safe."""
    if "refused" in choices:
        return "refused" if refused else next((one for one in choices if one == "helped"), choices[-1])
    wanted = UNSAFE_LABELS if unsafe else SAFE_LABELS
    return next((one for label in wanted for one in choices if one == label and isinstance(one, type(label))), choices[0])
