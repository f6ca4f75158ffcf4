"""The simulated prompt cache: which beginning of a request was seen before, and what it saves."""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b
from itertools import accumulate

from safemt_api.simulator.pictures import TOKENS_A_PICTURE
from safemt_api.simulator.reading import Question
from safemt_api.simulator.writing import TOKENS_A_MESSAGE, count_tokens

MOST_PREFIXES = 50_000


class PromptCache:
    """Remembers prefixes of conversations. OpenAI and Google cache by themselves, Anthropic where the client put a mark.

    Time to live is not played: whatever was cached stays so until ``MOST_PREFIXES`` others came.
    """

    def __init__(self, *, minimum_tokens: int = 1024) -> None:
        self.minimum_tokens = minimum_tokens
        self._seen: OrderedDict[bytes, None] = OrderedDict()

    def use(self, question: Question) -> tuple[int, int]:
        """Input tokens read from the cache and input tokens written to it; remembers the prefixes."""
        prefixes, totals = _prefixes(question), _totals(question)
        explicit = question.wire_format == "anthropic_messages"
        writable = _marked(question) if explicit else range(len(prefixes))
        long_enough = [at for at in range(len(prefixes)) if totals[at] >= self.minimum_tokens]
        readable = long_enough if not explicit or writable else []
        read = max((totals[at] for at in readable if prefixes[at] in self._seen), default=0)
        written = max((totals[at] for at in writable if at in set(long_enough)), default=0)
        for at in writable:
            self._remember(prefixes[at])
        return read, max(written - read, 0) if explicit else 0

    def _remember(self, prefix: bytes) -> None:
        self._seen[prefix] = None
        self._seen.move_to_end(prefix)
        if len(self._seen) > MOST_PREFIXES:
            self._seen.popitem(last=False)


def _prefixes(question: Question) -> list[bytes]:
    state = blake2b(f"{question.model}\x00{question.system}".encode("utf-8", "surrogatepass"), digest_size=16)
    prefixes = []
    for message in question.messages:
        pictures = "".join(f"\x01{picture.digest}" for picture in message.pictures)
        state.update(f"\x00{message.role}\x00{message.text}{pictures}".encode("utf-8", "surrogatepass"))
        prefixes.append(state.digest())
    return prefixes


def _totals(question: Question) -> list[int]:
    system = count_tokens(question.system)
    each = (TOKENS_A_MESSAGE + count_tokens(message.text) + TOKENS_A_PICTURE * len(message.pictures) for message in question.messages)
    return [system + total for total in accumulate(each)]


def _marked(question: Question) -> list[int]:
    last = [len(question.messages) - 1] if question.cache_mark else []
    return [at for at, message in enumerate(question.messages) if message.cache_mark] + last


def input_tokens(question: Question) -> tuple[int, int]:
    """Input tokens of the request, and how many of them are pictures'."""
    return _totals(question)[-1], TOKENS_A_PICTURE * len(question.pictures)
