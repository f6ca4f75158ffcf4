"""What an account has: quotas that refill continuously, with the headers in which each vendor announces them, and a prompt cache."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from itertools import accumulate

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


class PromptCache:
    """Remembers prefixes of conversations. OpenAI and Google cache by themselves, Anthropic where the client put a
    mark, and so does whoever is sent one.

    Time to live is not played: whatever was cached stays so until ``MOST_PREFIXES`` others came.
    """

    def __init__(self, *, minimum_tokens: int = 1024) -> None:
        self.minimum_tokens = minimum_tokens
        self._seen: OrderedDict[bytes, None] = OrderedDict()

    def use(self, question: Question) -> tuple[int, int, tuple[bytes, ...]]:
        """Input tokens read from the cache, input tokens written to it, and what is to be remembered once the reply is sent: calls that
        begin alike and are under way together find nothing of each other.
        """
        prefixes, totals = _prefixes(question), _totals(question)
        marked = [0] if question.system_mark else []
        marked += [at for at, message in enumerate(question.messages, start=1) if message.cache_mark]
        marked += [len(question.messages)] if question.cache_mark else []
        explicit = question.wire_format == "anthropic_messages" or bool(marked)
        writable = marked if explicit else range(len(prefixes))
        long_enough = [at for at in range(len(prefixes)) if totals[at] >= self.minimum_tokens]
        readable = long_enough if not explicit or writable else []
        read = max((totals[at] for at in readable if prefixes[at] in self._seen), default=0)
        written = max((totals[at] for at in writable if at in set(long_enough)), default=0)
        return read, max(written - read, 0) if explicit else 0, tuple(prefixes[at] for at in writable)

    def remember(self, prefixes: tuple[bytes, ...]) -> None:
        """These beginnings are found from now on."""
        for prefix in prefixes:
            self._seen[prefix] = None
            self._seen.move_to_end(prefix)
        while len(self._seen) > MOST_PREFIXES:
            self._seen.popitem(last=False)


def _prefixes(question: Question) -> list[bytes]:
    state = blake2b(f"{question.model}\x00{question.system}".encode("utf-8", "surrogatepass"), digest_size=16)
    prefixes = [state.digest()]
    for message in question.messages:
        pictures = "".join(f"\x01{picture.digest}" for picture in message.pictures)
        state.update(f"\x00{message.role}\x00{message.text}{pictures}".encode("utf-8", "surrogatepass"))
        prefixes.append(state.digest())
    return prefixes


def _totals(question: Question) -> list[int]:
    """Input tokens up to the end of the system text, and of each message."""
    system = count_tokens(question.system)
    each = (TOKENS_A_MESSAGE + count_tokens(message.text) + TOKENS_A_PICTURE * len(message.pictures) for message in question.messages)
    return list(accumulate(each, initial=system))


def input_tokens(question: Question) -> tuple[int, int]:
    """Input tokens of the request, and how many of them are pictures'."""
    return _totals(question)[-1], TOKENS_A_PICTURE * len(question.pictures)
