"""What an account has: quotas that refill continuously, with the headers in which each vendor announces them, and a prompt cache."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import NamedTuple

from safemt_api.profiles import WireFormat
from safemt_api.simulator.answers import TOKENS_A_MESSAGE, Headers, count_tokens
from safemt_api.simulator.requests import TOKENS_A_PICTURE, Question

MOST_PREFIXES = 50_000


@dataclass(slots=True)
class Bucket:
    """A quota per minute that refills continuously; ``burst_seconds`` is how much of it can be used at once."""

    per_minute: float
    burst_seconds: float = 60.0
    left: float = -1.0
    refilled_at: float = 0.0

    def __post_init__(self) -> None:
        self.left = self.size if self.left < 0 else self.left

    @property
    def size(self) -> float:
        """The most that can be used at once."""
        return max(self.per_minute * self.burst_seconds / 60.0, 1.0)

    def refill(self, now: float) -> None:
        """Bring the bucket up to ``now`` (seconds of any steady clock)."""
        if self.refilled_at:
            self.left = min(self.size, self.left + (now - self.refilled_at) * self.per_minute / 60.0)
        self.refilled_at = now

    def wait_seconds(self, amount: float) -> float:
        """How long until so much is there; 0 when it is (an amount above the size waits for a full bucket)."""
        return max(0.0, (min(amount, self.size) - self.left) * 60.0 / self.per_minute)

    @property
    def seconds_to_full(self) -> float:
        """How long until the bucket is full."""
        return max(0.0, (self.size - self.left) * 60.0 / self.per_minute)


class Quotas:
    """Requests and tokens a minute of one account."""

    def __init__(self, *, requests_per_minute: int | None, tokens_per_minute: int | None, burst_seconds: float = 60.0) -> None:
        self.requests = None if requests_per_minute is None else Bucket(requests_per_minute, burst_seconds)
        self.tokens = None if tokens_per_minute is None else Bucket(tokens_per_minute, burst_seconds)

    def take(self, *, now: float, tokens: int) -> float:
        """Take one request and its tokens; returns 0, or the seconds to wait when the quota has no room (then nothing is taken)."""
        wants = [(bucket, amount) for bucket, amount in ((self.requests, 1), (self.tokens, tokens)) if bucket is not None]
        for bucket, _ in wants:
            bucket.refill(now)
        wait = max((bucket.wait_seconds(amount) for bucket, amount in wants), default=0.0)
        if wait <= 0.0:
            for bucket, amount in wants:
                bucket.left -= amount
        return wait

    def spend(self, tokens: int) -> None:
        """Charge the tokens of a reply, which are known only once it is written."""
        if self.tokens is not None:
            self.tokens.left -= tokens

    def headers(self, wire_format: WireFormat) -> Headers:
        """The vendor's rate-limit headers as of the last ``take``; Google has none."""
        names = {"openai_chat": "x-ratelimit-{field}-{kind}", "anthropic_messages": "anthropic-ratelimit-{kind}-{field}"}.get(wire_format)
        found: list[tuple[str, str]] = []
        for kind, bucket in (("requests", self.requests), ("tokens", self.tokens)):
            if bucket is None or names is None:
                continue
            full_at = datetime.now(UTC) + timedelta(seconds=bucket.seconds_to_full)
            reset = go_duration(bucket.seconds_to_full) if wire_format == "openai_chat" else full_at.strftime("%Y-%m-%dT%H:%M:%SZ")
            facts = {"limit": f"{bucket.per_minute:.0f}", "remaining": str(int(max(bucket.left, 0))), "reset": reset}
            found += [(names.format(field=field, kind=kind), value) for field, value in facts.items()]
        return tuple(found)


def go_duration(seconds: float) -> str:
    """A duration as OpenAI's headers write it: ``12ms``, ``1.5s``, ``6m0s``, ``1h0m0s``."""
    if seconds < 1.0:
        return f"{round(seconds * 1000)}ms"
    minutes, rest = divmod(seconds, 60.0)
    hours, minutes = divmod(int(minutes), 60)
    words = f"{rest:.3f}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{words}"
    return f"{minutes}m{words}" if minutes else words


class Point(NamedTuple):
    """A place in a request up to which it may be cached: a hash of all before it, its tokens, and whether the client marked it."""

    digest: bytes
    tokens: int
    marked: bool


class PromptCache:
    """Remembers beginnings of conversations, up to the ends of pictures and messages. OpenAI and Google cache by themselves, Anthropic
    where the client put a mark, and so does whoever is sent one; OpenAI finds again only what is marked then, Anthropic also what was.

    Time to live is not played: whatever was cached stays so until ``MOST_PREFIXES`` others came. The rows of a batch find what other rows
    of the same one wrote, and nothing else.
    """

    def __init__(self, *, minimum_tokens: int = 1024) -> None:
        self.minimum_tokens = minimum_tokens
        self._seen: OrderedDict[bytes, None] = OrderedDict()

    def use(self, question: Question, *, found: bool = True) -> tuple[int, int, tuple[bytes, ...]]:
        """Input tokens read from the cache, input tokens written to it, and what is to be remembered once the reply is sent: calls that
        begin alike and are under way together find nothing of each other.

        ``found``: whether what is there is found.
        """
        points = _points(question)
        explicit = question.wire_format == "anthropic_messages" or question.marks_alone or any(point.marked for point in points)
        writable = [point for point in points if point.marked or not explicit]
        looked_up = points if writable and question.wire_format == "anthropic_messages" else writable
        readable = [point for point in looked_up if point.tokens >= self.minimum_tokens and point.digest in self._seen]
        read = max((point.tokens for point in readable), default=0) if found else 0
        written = max((point.tokens for point in writable if point.tokens >= self.minimum_tokens), default=0)
        return read, max(written - read, 0) if explicit else 0, tuple(point.digest for point in writable)

    def remember(self, prefixes: tuple[bytes, ...]) -> None:
        """These beginnings are found from now on."""
        for prefix in prefixes:
            self._seen[prefix] = None
            self._seen.move_to_end(prefix)
        while len(self._seen) > MOST_PREFIXES:
            self._seen.popitem(last=False)


def _points(question: Question) -> list[Point]:
    """The end of the system text, and of each message's pictures and words."""
    state = blake2b(f"{question.batch}\x00{question.model}\x00{question.system}".encode("utf-8", "surrogatepass"), digest_size=16)
    tokens = count_tokens(question.system)
    points = [Point(state.digest(), tokens, question.system_mark)]
    for at, message in enumerate(question.messages, start=1):
        pictures = "".join(f"\x01{picture.digest}" for picture in message.pictures)
        state.update(f"\x00{message.role}{pictures}".encode("utf-8", "surrogatepass"))
        tokens += TOKENS_A_MESSAGE + TOKENS_A_PICTURE * len(message.pictures)
        points += [Point(state.digest(), tokens, message.picture_mark)] if pictures else []
        state.update(f"\x00{message.text}".encode("utf-8", "surrogatepass"))
        tokens += count_tokens(message.text)
        last = at == len(question.messages) and question.cache_mark
        points.append(Point(state.digest(), tokens, message.cache_mark or last))
    return points


def input_tokens(question: Question) -> tuple[int, int]:
    """Input tokens of the request, and how many of them are pictures'."""
    pictures = TOKENS_A_PICTURE * len(question.pictures)
    words = sum(TOKENS_A_MESSAGE + count_tokens(message.text) for message in question.messages)
    return count_tokens(question.system) + words + pictures, pictures
