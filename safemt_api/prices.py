"""What a call costs: the profile's own price first, then the price list of genai-prices, else nothing is known.

The list is the one inside the installed package; it is never fetched. It is read late, because loading it takes about 0.2 s, and only
the rates of the models in use are taken out of it, so that costing a call is plain arithmetic.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from datetime import UTC, date, datetime, time, timedelta
from functools import cache, lru_cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from safemt_api.messages import Outcome, Reply, Usage
from safemt_api.profiles import Profile

if TYPE_CHECKING:
    from genai_prices import types as genai_types

MTOK = 1_000_000
BOUND_WINDOW = timedelta(days=1)
"""How far ahead an upper bound looks for a dearer hour or a new price: a call and its retries end well within it."""


@dataclass(frozen=True, slots=True)
class Ladder:
    """A price per million tokens that may step with the size of the whole input.

    ``steps`` are pairs of (input tokens that must be exceeded, USD per million tokens), ascending; the first one is always reached.
    Once a step is reached its rate holds for all tokens of the call, not only for those above it.
    """

    steps: tuple[tuple[int, float], ...]

    def usd_per_mtok(self, input_tokens: int) -> float:
        """The rate of a call with so many input tokens."""
        return next((usd for over, usd in reversed(self.steps) if input_tokens > over), self.steps[0][1])

    def most_usd_per_mtok(self, input_tokens: int) -> float:
        """The highest rate of any call with at most so many input tokens."""
        return max(usd for over, usd in self.steps if over < 0 or input_tokens > over)

    def times(self, factor: float) -> Ladder:
        """The same steps at a part of the price."""
        return Ladder(tuple((over, usd * factor) for over, usd in self.steps))


def flat(usd_per_mtok: float) -> Ladder:
    """A price that does not depend on the size of the input."""
    return Ladder(((-1, usd_per_mtok),))


@dataclass(frozen=True, slots=True)
class Rates:
    """The four rates of one model at one time; ``per_call_usd`` is added to each call."""

    input: Ladder
    cached_input: Ladder
    cache_write: Ladder
    output: Ladder
    reasoning: Ladder
    per_call_usd: float = 0.0

    def times(self, factor: float) -> Rates:
        """The same rates at a part of the price."""
        ladders: dict[str, Any] = {one.name: getattr(self, one.name).times(factor) for one in fields(self) if one.name != "per_call_usd"}
        return replace(self, **ladders)

    def cost_usd(self, usage: Usage) -> float:
        """The cost of one call. A report that contradicts itself (more cached than sent) is read so that it costs more, not less."""
        cached, written = max(usage.cached_input_tokens, 0), max(usage.cache_write_tokens, 0)
        plain = max(usage.input_tokens - cached - written, 0)
        total = plain + cached + written
        reasoning = max(usage.reasoning_tokens, 0)
        spoken = max(usage.output_tokens - reasoning, 0)
        micro_usd = (
            plain * self.input.usd_per_mtok(total)
            + cached * self.cached_input.usd_per_mtok(total)
            + written * self.cache_write.usd_per_mtok(total)
            + spoken * self.output.usd_per_mtok(total)
            + reasoning * self.reasoning.usd_per_mtok(total)
        )
        return micro_usd / MTOK + self.per_call_usd

    def most_usd(self, input_tokens: int, output_tokens: int) -> float:
        """The most that a call within these token counts can cost: the dearest rate for each side, no cache discount."""
        per_input = max(ladder.most_usd_per_mtok(input_tokens) for ladder in (self.input, self.cached_input, self.cache_write))
        per_output = max(ladder.most_usd_per_mtok(input_tokens) for ladder in (self.output, self.reasoning))
        return (input_tokens * per_input + output_tokens * per_output) / MTOK + self.per_call_usd


@dataclass(frozen=True)
class Price:
    """What one model costs in one tier.

    ``rates_at`` gives the rates of a moment, ``changes_utc`` are the times of day at which they may change (as they may at midnight).
    ``source`` says where the price is from. ``free`` marks a server of one's own, for which nobody bills: its calls cost 0 and are allowed
    under a spending ceiling. An unknown price is never a ``Price`` of zero; it is ``None``.
    """

    source: str
    rates_at: Callable[[datetime], Rates]
    changes_utc: tuple[time, ...] = ()
    constant: bool = True
    free: bool = False

    def cost_usd(self, usage: Usage, *, at: datetime | None = None) -> float:
        """The cost in USD of one call with this usage, at that moment (default: now)."""
        return self.rates_at(_utc(at)).cost_usd(usage)

    def most_usd(self, input_tokens: int, output_tokens: int, *, at: datetime | None = None) -> float:
        """The most in USD that one call can cost which starts at that moment (default: now).

        No cache discount, the surcharge for writing to a cache where there is one, the highest tier that so much input can reach, and the
        dearest rate of the coming 24 hours. ``output_tokens`` must include reasoning.
        """
        rates = map(self.rates_at, self._coming(_utc(at)))
        return max(one.most_usd(max(input_tokens, 0), max(output_tokens, 0)) for one in rates)

    def _coming(self, moment: datetime) -> Iterator[datetime]:
        """The moments from now on, within the window, at which the rates may be others."""
        yield moment
        if self.constant:
            return
        end = moment + BOUND_WINDOW
        for day in (moment.date(), end.date()):
            changes = (datetime.combine(day, change, UTC) for change in (time(), *self.changes_utc))
            yield from (change for change in changes if moment <= change <= end)


def _utc(moment: datetime | None) -> datetime:
    return datetime.now(tz=UTC) if moment is None else moment.astimezone(UTC)


def constant_price(source: str, rates: Rates, *, free: bool = False) -> Price:
    """A price that holds at all times."""
    return Price(source, lambda _moment: rates, free=free)


FREE = constant_price("a server of one's own", Rates(flat(0.0), flat(0.0), flat(0.0), flat(0.0), flat(0.0)), free=True)


PRICED_TIERS = frozenset({"flex", "batch", "priority", "fast"})
"""Tiers with prices of their own, as vendors and price list call them."""


def priced_tier(reply: Reply) -> str:
    """The tier that decides the reply's price; a vendor's other words ("default", "auto") all mean the usual one."""
    return reply.served_tier if reply.served_tier in PRICED_TIERS else "standard"


def cost_of(reply: Reply, price_in: Callable[[str], Price | None]) -> float | None:
    """What a reply cost: the vendor's own figure, else by the price of the tier that served it; ``None`` where neither is known."""
    if reply.cost_usd is not None:
        return reply.cost_usd
    if reply.outcome is Outcome.BLOCKED_INPUT and reply.usage is None:
        return 0.0
    price = price_in(priced_tier(reply))
    return None if price is None or reply.usage is None else price.cost_usd(reply.usage)


def find_price(profile: Profile, model: str, tier: str = "standard") -> Price | None:
    """The price of a model: the profile's own, else nothing for a local server, else that of genai-prices, else ``None`` (unknown).

    Unknown never means free: whoever needs a price (a spending ceiling) must refuse such a model.

    Args:
        tier: As asked for, or as a reply says that it was served. Where nobody tells what the tier costs, the standard price stands in;
            for the cheaper ones that is too much, never too little.
    """
    own, factor = profile.facts(model).price, profile.price_factor(tier)
    if own is not None:
        plain, output = flat(own.input_usd_per_mtok), flat(own.output_usd_per_mtok)
        cached = plain if own.cached_input_usd_per_mtok is None else flat(own.cached_input_usd_per_mtok)
        written = plain if own.cache_write_usd_per_mtok is None else flat(own.cache_write_usd_per_mtok)
        source = f"profile {profile.name} ({own.source}, {own.checked})"
        standard: Price | None = constant_price(source, Rates(plain, cached, written, output, output))
    elif profile.local:
        return FREE
    else:
        listed = listed_price(profile.prices, model, tier) if profile.prices else None
        if tier == "standard" or listed is not None:
            return listed
        standard = listed_price(profile.prices, model) if profile.prices else None
    if standard is None or factor == 1.0:
        return standard
    rates_at = standard.rates_at
    return replace(
        standard, source=f"{standard.source}, {tier} at {factor:g} of it", rates_at=lambda moment: rates_at(moment).times(factor)
    )


@cache
def listed_price(provider: str, model: str, tier: str = "standard") -> Price | None:
    """The price of a model in genai-prices, by the vendor's id there; ``None`` if it lists none for input and output text in the tier."""
    from genai_prices import data_snapshot  # noqa: PLC0415 (loading the list takes about 0.2 s, which --help must not pay)

    try:
        _, found = data_snapshot.get_snapshot().find_provider_model(model, None, provider, None)
    except LookupError:
        return None
    context = {} if tier == "standard" else {"processing": "batch"} if tier == "batch" else {"service_tier": tier}
    variants = [variant for variant in found.price_variants or () if variant.when == context]
    now = _listed_rates(found.get_prices(_utc(None), context))
    if now is None or (context and not variants):
        return None
    entries: list[Any] = [*(found.prices if isinstance(found.prices, list) else ()), *variants]
    constraints = [entry.constraint for entry in entries if entry.constraint is not None]
    edges = (getattr(constraint, name, None) for constraint in constraints for name in ("start_time", "end_time"))
    changes = tuple(sorted({_utc_time(edge) for edge in edges if isinstance(edge, time)}))

    @lru_cache(maxsize=64)
    def rates_of(day: date, part: int, otherwise: Rates = now) -> Rates:
        moment = datetime.combine(day, (time(), *changes)[part], UTC)
        return _listed_rates(found.get_prices(moment, context)) or otherwise

    def rates_at(moment: datetime) -> Rates:
        return rates_of(moment.date(), bisect_right(changes, moment.time()))

    name = f"{prices_version()}: {provider}/{found.id}"
    return Price(name + (f", {tier}" if context else ""), rates_at, changes, constant=not constraints)


def prices_version() -> str:
    """Name and version of the price list, for a run's records."""
    return f"genai-prices {version('genai-prices')}"


def _utc_time(value: time) -> time:
    if value.tzinfo is None:
        return value
    return datetime.combine(date(2000, 1, 1), value).astimezone(UTC).time()


def _listed_rates(price: genai_types.ModelPrice) -> Rates | None:
    ladders = {key: _ladder(value) for key, value in vars(price).items() if value is not None}
    plain, output = ladders.get("input_mtok"), ladders.get("output_mtok")
    if plain is None or output is None:
        return None
    image, per_thousand = ladders.get("input_image_mtok"), ladders.get("requests_kcount")
    return Rates(
        # No vendor reports the picture's share of the input in a way that all wire formats carry, so the dearer rate stands for both.
        input=plain if image is None or image.steps[0][1] <= plain.steps[0][1] else image,
        cached_input=ladders.get("cache_read_mtok", plain),
        cache_write=ladders.get("cache_write_mtok", plain),
        output=output,
        reasoning=ladders.get("output_reasoning_mtok", output),
        per_call_usd=per_thousand.steps[0][1] / 1000 if per_thousand else 0.0,
    )


def _ladder(value: object) -> Ladder:
    tiers = getattr(value, "tiers", None)
    if tiers is None:
        return flat(float(str(value)))
    return Ladder(((-1, float(getattr(value, "base", 0))), *((tier.start, float(tier.price)) for tier in tiers)))
