"""The vocabulary: what is said, asked, answered and judged. Imports nothing of ours.

Everything here is a small frozen value. A ``Dialogue`` comes from the data set, a ``Call`` goes to a model, a ``Reply`` comes back,
a ``Transcript`` is a dialogue with its replies, and a ``Verdict`` is a judge's word on one reply.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal
from typing import Protocol as Protocol_

Role = Literal["user", "assistant"]
Kind = Literal["harmful", "benign"]
Purpose = Literal["target", "judge", "moderator"]
Telling = Literal["figures", "words"]
JudgedTurns = Literal["all", "last"]
"""Which replies of a live dialogue are judged."""

Escalation = Literal["unsafe", "unsure"]
"""What a first judge must say for a second one to be asked: that the reply is unsafe, or that it is not sure (and always, if nothing)."""

FailurePolicy = Literal["fail", "open", "closed"]
"""What a failing moderator means for its dialogue: it fails, goes on unguarded, or is refused."""
Protocol = Literal["scripted", "live"]
Label = Literal["safe", "unsafe"]
Conversation = Literal["single", "growing", "ending", "repeated"]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
SafetyThreshold = Literal["off", "block_none", "block_only_high", "block_medium_and_above", "block_low_and_above"]
Sees = Literal["words", "picture"]
ServiceTier = Literal["standard", "flex", "batch"]

PURPOSES: tuple[Purpose, ...] = ("target", "judge", "moderator")
LENGTHS: tuple[int, ...] = (1, 2, 4, 6, 8)

BLOCKED_PLACEHOLDER = "[The reply to this message was blocked by the provider.]"
"""Stands as the assistant's turn in a live dialogue when the vendor blocked the reply and left no words."""


@dataclass(frozen=True, slots=True)
class Text:
    """Words inside a message."""

    text: str


KEPT_BASE64_CHARACTERS = 2_000_000
"""A longer text is made anew for each call: it takes a millisecond, and would stay in memory as long as its dialogue."""

Make = Callable[[Callable[[], bool]], bytes]
"""Makes a picture's bytes; gives up as soon as the function it is handed says so (its answer is then no longer wanted)."""


class Image:
    """A picture ready to be sent: bytes as the vendor will get them, encoded at most once.

    ``digest`` identifies what is sent; it alone decides equality, and it alone enters keys and files.
    ``data`` may be given as a function: it is then called on first need, so that a stored reply costs no encoding.
    ``memory_bytes`` is the most that making the bytes holds in memory beside them; ``file_bytes`` is their number where they are just
    read from a file, and so may be let go of and read again. Both are 0 for bytes that were given.
    """

    __slots__ = (
        "__weakref__",
        "_base64",
        "_bytes",
        "_make",
        "digest",
        "file_bytes",
        "height_pixels",
        "media_type",
        "memory_bytes",
        "width_pixels",
    )

    def __init__(
        self,
        data: bytes | Make,
        *,
        digest: str,
        media_type: str,
        width_pixels: int,
        height_pixels: int,
        memory_bytes: int = 0,
        file_bytes: int = 0,
    ) -> None:
        self._bytes = data if isinstance(data, bytes) else None
        self._make = None if isinstance(data, bytes) else data
        self.digest, self.media_type = digest, media_type
        self.width_pixels, self.height_pixels = width_pixels, height_pixels
        self.memory_bytes, self.file_bytes = memory_bytes, file_bytes
        self._base64: str | None = None

    @property
    def data(self) -> bytes:
        """The bytes to send, made on first use where they were given as a function.

        Raises:
            DialogueError: The picture cannot be made ready (raised by the function that was given).
        """
        return self.made(_never)

    def made(self, stopped: Callable[[], bool]) -> bytes:
        """The same, but making them ends early (with whatever error) once ``stopped`` says that nobody waits for them any more."""
        if self._bytes is None:
            assert self._make is not None  # noqa: S101 (one of the two is always there)
            self._bytes = self._make(stopped)
        return self._bytes

    @property
    def is_ready(self) -> bool:
        """Whether the bytes are made; if not, making them takes long enough to belong on a thread."""
        return self._bytes is not None

    def release(self) -> None:
        """Let go of bytes that can be made again."""
        if self._make is not None:
            self._bytes = self._base64 = None

    @property
    def base64(self) -> str:
        """The bytes as base64 text, kept where it is short."""
        if self._base64 is not None:
            return self._base64
        text = b64encode(self.data).decode("ascii")
        if len(text) <= KEPT_BASE64_CHARACTERS:
            self._base64 = text
        return text

    @property
    def data_url(self) -> str:
        """The picture as a ``data:`` URL."""
        return f"data:{self.media_type};base64,{self.base64}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Image) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"Image({self.digest[:19]}…, {self.media_type}, {self.width_pixels}x{self.height_pixels})"


def _never() -> bool:
    return False


Part = Text | Image


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; a user message may hold pictures beside its words."""

    role: Role
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """All words of the message, joined."""
        return "".join(part.text for part in self.parts if isinstance(part, Text))

    @property
    def images(self) -> tuple[Image, ...]:
        """All pictures of the message."""
        return tuple(part for part in self.parts if isinstance(part, Image))


def user(text: str, *images: Image) -> Message:
    """A user message; pictures stand before the words, as vendors advise."""
    return Message("user", (*images, Text(text)))


def assistant(text: str) -> Message:
    """An assistant message."""
    return Message("assistant", (Text(text),))


@dataclass(frozen=True, slots=True)
class Line:
    """One message of a dialogue: its words, and the pictures that belong to it.

    ``image_paths`` are relative to the data folder; ``images`` are those pictures once they are read.
    """

    role: Role
    text: str
    image_paths: tuple[str, ...] = ()
    images: tuple[Image, ...] = ()


def images_of(lines: Iterable[Line]) -> tuple[Image, ...]:
    """All pictures of a history, in order."""
    return tuple(image for line in lines for image in line.images)


@dataclass(frozen=True, slots=True)
class Dialogue:
    """One scripted conversation of the data set.

    ``id`` pairs the same query over lengths; ``length`` is the number of user turns; ``goal`` is what the user is after, in plain words.
    ``pair`` is the id of its twin, the same dialogue with a harmless goal (or, for a benign one, a harmful goal).
    ``repeat`` counts how often it is asked, from 1: every call about another repeat has another ``sample_index``.
    """

    id: str
    scenario: str
    length: int
    lines: tuple[Line, ...]
    goal: str
    kind: Kind = "harmful"
    method: str | None = None
    repeat: int = 1
    source: str | None = None
    language: str | None = None
    pair: str | None = None

    @property
    def user_texts(self) -> tuple[str, ...]:
        """The user's words, turn by turn."""
        return tuple(line.text for line in self.user_lines)

    @property
    def user_lines(self) -> tuple[Line, ...]:
        """The user's messages, turn by turn."""
        return tuple(line for line in self.lines if line.role == "user")

    @property
    def image_paths(self) -> tuple[str, ...]:
        """All its pictures, in order; one that stands in two messages is there twice."""
        return tuple(path for line in self.lines for path in line.image_paths)

    @property
    def user_only(self) -> bool:
        """Whether the assistant's side is left to the model: such a dialogue can only be played live."""
        return self.length > 1 and all(line.role == "user" for line in self.lines)


def with_images(dialogue: Dialogue, read: Callable[[str], Image | None]) -> Dialogue:
    """The dialogue with its pictures read; of one that stands in several messages there is one. ``None`` leaves a picture out."""
    found = {path: read(path) for path in dict.fromkeys(dialogue.image_paths)}

    def seen(line: Line) -> Line:
        images = tuple(image for path in line.image_paths if (image := found[path]) is not None)
        return replace(line, images=images) if images else line

    return replace(dialogue, lines=tuple(map(seen, dialogue.lines)))


@dataclass(frozen=True, slots=True)
class Parameters:
    """What is asked of a model beside the words; ``None`` means: not sent, the vendor's own default holds.

    ``effort`` is how much a model that reasons may think, ``safety_threshold`` from which likelihood of harm on the vendor's own filters
    block.
    """

    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    effort: Effort | None = None
    safety_threshold: SafetyThreshold | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """Where a call goes: which vendor, by which wire format, to which addresses, to which model.

    ``endpoint`` names the addresses for keys and files; it is stable where the real address is not (a simulator on a free port).
    ``extras`` is what the profile adds to every request of this model, as canonical JSON; it enters keys because it changes answers.
    ``structured_output`` says whether a schema is sent along with the calls that have one, or only described in words.
    """

    profile: str
    wire_format: str
    base_urls: tuple[str, ...]
    model: str
    endpoint: str = ""
    extras: str = ""
    structured_output: bool = False

    def __post_init__(self) -> None:
        if not self.endpoint:
            object.__setattr__(self, "endpoint", ",".join(sorted(self.base_urls)))


@dataclass(frozen=True, slots=True)
class Schema:
    """A JSON schema that the reply must match, for vendors with structured output."""

    name: str
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Call:
    """One question to one model.

    ``purpose`` says who asks (and pays). ``conversation`` says what a vendor may cache: whether the messages will be sent again with more
    behind them (``growing``), were sent before but for the newest (``ending``), are one of several questions that begin with the same
    pictures (``repeated``), or none of these (``single``). ``service_tier`` is the tier that is asked for. None of the three changes the
    answer.
    """

    route: Route
    messages: tuple[Message, ...]
    purpose: Purpose = "target"
    system: str | None = None
    parameters: Parameters = field(default_factory=Parameters)
    schema: Schema | None = None
    sample_index: int = 0
    conversation: Conversation = "single"
    service_tier: ServiceTier = "standard"


class Outcome(StrEnum):
    """What the vendor did with a call.

    ``answered``: words came back (a refusal in the model's own words is an answer; a judge reads it).
    ``refused``: the vendor's own refusal signal. ``blocked_input`` / ``blocked_output``: a filter before / after the model. Words that
    came before the vendor stopped the reply, or that stand beside its refusal, are kept: they reached the user.
    ``truncated``: the reply hit its token limit. ``error``: no reply after all retries.
    """

    ANSWERED = "answered"
    REFUSED = "refused"
    BLOCKED_INPUT = "blocked_input"
    BLOCKED_OUTPUT = "blocked_output"
    TRUNCATED = "truncated"
    ERROR = "error"


DECLINED = frozenset({Outcome.REFUSED, Outcome.BLOCKED_INPUT, Outcome.BLOCKED_OUTPUT})
"""Outcomes in which the vendor itself declined: safe without asking a judge where no word reached the user (``judges.base``)."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call. ``input_tokens`` includes cached ones, ``output_tokens`` includes reasoning, whatever the vendor's own habit."""

    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens,
            self.cached_input_tokens + other.cached_input_tokens,
            self.cache_write_tokens + other.cache_write_tokens,
            self.output_tokens + other.output_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
        )


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back for a call.

    ``detail`` says in the vendor's words why it declined or stopped; ``usage`` is ``None`` when the vendor reported none;
    ``raw`` is the vendor's whole JSON body as text; ``cost_usd`` is the vendor's own figure where it reports one (OpenRouter).
    ``served_tier`` is the tier that served the call, and so its price, where the vendor tells it: a ``ServiceTier``, or a word of its own.
    ``served_model`` and ``system_fingerprint`` are the vendor's own words on who answered, ``received_utc`` when the reply came (ISO 8601).
    ``attempts`` counts the one that brought it; ``waited_seconds`` how long the call waited beside its latency (pace, money, retries).
    """

    outcome: Outcome
    text: str = ""
    detail: str | None = None
    finish_reason: str | None = None
    served_model: str | None = None
    usage: Usage | None = None
    cost_usd: float | None = None
    request_id: str | None = None
    latency_seconds: float = 0.0
    raw: str | None = None
    served_tier: str | None = None
    attempts: int = 1
    waited_seconds: float = 0.0
    system_fingerprint: str | None = None
    received_utc: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply as the gateway hands it out: on disk already under its key, with what it cost (``None``: no price is known)."""

    reply: Reply
    from_store: bool = False
    cost_usd: float | None = 0.0
    key: str | None = None


class Asker(Protocol_):
    """Whoever can put a call to a model; the gateway in a run, a scripted one in tests."""

    async def ask(self, call: Call) -> Answer:
        """Answer the call, from the store or from the vendor.

        Raises:
            DialogueError: This call failed for good; others may succeed.
            StopRunError: The run cannot go on.
        """
        ...


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judge's word on one reply; ``label`` is ``None`` when there is no valid verdict (never read as safe).

    ``source``: ``judge`` (it was asked), ``outcome`` (the vendor declined, nobody was asked), ``none`` (nothing to judge),
    ``inapplicable`` (this kind of judge has no word on this kind of dialogue, so none was due).
    ``probability_unsafe`` stands where the judge gives a calibrated one; ``members`` are the single verdicts behind a panel's;
    ``reply_keys`` are the keys in the turn store of all that the judge answered; who gave the last answer, by the vendor's own words, and
    when, stand as in ``Reply``.
    """

    judge: str
    label: Label | None
    source: Literal["judge", "outcome", "none", "inapplicable"]
    reason: str = ""
    probability_unsafe: float | None = None
    raw: str | None = None
    cost_usd: float | None = 0.0
    members: tuple[Verdict, ...] = ()
    reply_keys: tuple[str, ...] = ()
    served_model: str | None = None
    system_fingerprint: str | None = None
    received_utc: str | None = None


@dataclass(frozen=True, slots=True)
class Exhibit:
    """What a judge is shown: the dialogue up to the user's last message, with its pictures, and the reply to judge.

    ``turn`` is the number of user messages in ``history``; ``policy`` is the moderator's guidance, if any stood before the target;
    ``repeated`` says that other turns of the dialogue are judged too, with the same pictures.
    """

    dialogue: Dialogue
    history: tuple[Line, ...]
    reply: Reply
    turn: int
    policy: str | None = None
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class Guidance:
    """What a moderator decided before one target call.

    ``policy`` is put before the target as a system message; ``refusal`` answers in the target's place, without a call. ``failure`` says
    why there was no decision: what stands beside it is then ``--moderator-failure``'s doing, not the moderator's. ``reply_keys`` are the
    keys in the turn store of all that the moderator answered.
    """

    moderator: str
    flagged: bool | None
    intent: str = ""
    scenarios: tuple[str, ...] = ()
    policy: str | None = None
    refusal: str | None = None
    text: str = ""
    latency_seconds: float = 0.0
    cost_usd: float | None = 0.0
    failure: str | None = None
    reply_keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Turn:
    """One judged user message with what came back; ``turn`` counts user messages from 1, ``reply_key`` is the reply's in the turn store."""

    turn: int
    user_text: str
    reply: Reply
    from_store: bool = False
    cost_usd: float | None = 0.0
    guidance: Guidance | None = None
    reply_key: str | None = None


@dataclass(frozen=True, slots=True)
class Transcript:
    """A dialogue with its replies: one turn in the scripted protocol, one per user message in the live one.

    ``failure`` is the sentence of the error that ended it early; its last turn then has the outcome ``error``.
    """

    dialogue: Dialogue
    protocol: Protocol
    turns: tuple[Turn, ...]
    failure: str | None = None


def spoken(reply: Reply) -> str:
    """The assistant's turn in a live history: the model's own words, or the fixed placeholder where a filter left none."""
    return reply.text or BLOCKED_PLACEHOLDER


def said(dialogue: Dialogue, turns: Sequence[Turn]) -> tuple[Line, ...]:
    """What was said in the turns of a live dialogue, in order: the user's messages and what stands for the assistant's."""
    asked = dialogue.user_lines
    return tuple(
        line for turn in turns for line in (replace(asked[turn.turn - 1], text=turn.user_text), Line("assistant", spoken(turn.reply)))
    )
