"""Prices: equal to genai-prices' own arithmetic, never zero by ignorance, and bounds that hold."""

from __future__ import annotations

import socket
import subprocess
import sys
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import genai_prices
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safemt_api.messages import Usage
from safemt_api.prices import FREE, Ladder, Price, Rates, find_price, flat, listed_price, prices_version
from safemt_api.profiles import ImageRules, Limits, ModelFacts, ModelPrice, Profile, TierFacts, load_profiles

REPOSITORY = Path(__file__).resolve().parents[1]
FACTS: dict[str, Any] = {"source": "https://a", "checked": date(2026, 11, 21)}
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)

LISTED = [
    ("openai", "gpt-6-luna"),
    ("openai", "gpt-6.1-sol"),
    ("openai", "gpt-4o-mini"),
    ("anthropic", "claude-haiku-5-5"),
    ("anthropic", "claude-sonnet-4-6"),
    ("google", "gemini-3.8-flash"),
    ("google", "gemini-4-argon"),
    ("x-ai", "grok-4.7"),
    ("mistral", "mistral-large-4"),
    ("deepseek", "deepseek-flash"),
    ("together", "Qwen/Qwen3.5-9B"),
    ("openrouter", "google/gemini-3.8-flash"),
]


def profile(*models: ModelFacts, prices: str | None = None, local: bool = False) -> Profile:
    return Profile(
        name="acme",
        title="Acme",
        wire_format="openai_chat",
        prices=prices,
        local=local,
        images=ImageRules(**FACTS),
        limits=Limits(**FACTS),
        models=models,
        **FACTS,
    )


def priced(provider: str, model: str) -> Price:
    price = listed_price(provider, model)
    assert price is not None
    return price


def rates(input_usd: float, output_usd: float = 0.0) -> Rates:
    return Rates(flat(input_usd), flat(input_usd), flat(input_usd), flat(output_usd), flat(output_usd))


CONTEXTS = {"standard": {}, "flex": {"service_tier": "flex"}, "batch": {"processing": "batch"}}


def their_cost(provider: str, model: str, usage: Usage, at: datetime, tier: str = "standard") -> float:
    theirs = genai_prices.Usage(
        input_tokens=usage.input_tokens,
        cache_read_tokens=usage.cached_input_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        output_tokens=usage.output_tokens,
    )
    price = genai_prices.calc_price(theirs, model, provider_id=provider, genai_request_timestamp=at, price_context=CONTEXTS[tier])
    return float(price.total_price)


usages = st.builds(
    lambda plain, cached, written, output, share: Usage(plain + cached + written, cached, written, output, int(output * share)),
    st.integers(0, 400_000),
    st.integers(0, 300_000),
    st.integers(0, 300_000),
    st.integers(0, 200_000),
    st.floats(0, 1),
)
moments = st.datetimes(datetime(2026, 1, 1), datetime(2027, 6, 1), timezones=st.just(UTC))  # noqa: DTZ001 (hypothesis wants naive bounds)


@given(st.sampled_from(LISTED), usages, moments)
def test_cost_equals_that_of_genai_prices(listed: tuple[str, str], usage: Usage, at: datetime) -> None:
    assert priced(*listed).cost_usd(usage, at=at) == pytest.approx(their_cost(*listed, usage, at), rel=1e-9, abs=1e-15)


TIERED = [
    ("openai", "gpt-6-luna", "flex"),
    ("openai", "gpt-6-luna", "batch"),
    ("openai", "gpt-4o-mini", "batch"),
    ("anthropic", "claude-haiku-5-5", "batch"),
    ("google", "gemini-3.8-flash", "batch"),
]


@given(st.sampled_from(TIERED), usages, moments)
def test_cost_in_a_tier_equals_that_of_genai_prices(listed: tuple[str, str, str], usage: Usage, at: datetime) -> None:
    price = listed_price(*listed)
    assert price is not None
    provider, model, tier = listed
    assert price.cost_usd(usage, at=at) == pytest.approx(their_cost(provider, model, usage, at, tier), rel=1e-9, abs=1e-15)
    assert price.most_usd(usage.input_tokens, usage.output_tokens, at=at) >= price.cost_usd(usage, at=at) - 1e-12


def test_a_tier_that_nobody_prices_costs_what_the_profile_says_else_the_standard_price() -> None:
    usage, facts = Usage(1_000_000), {"price_factor": 0.5, **FACTS}
    assert listed_price("google", "gemini-3.8-flash", "flex") is None
    plain, cheaper = profile(prices="google"), profile(prices="google").model_copy(update={"flex": TierFacts(**facts)})
    standard, unknown, half = (
        price.cost_usd(usage, at=NOW)
        for price in (
            find_price(plain, "gemini-3.8-flash"),
            find_price(plain, "gemini-3.8-flash", "flex"),
            find_price(cheaper, "gemini-3.8-flash", "flex"),
        )
        if price is not None
    )
    assert (unknown, half) == (standard, standard / 2)


def test_a_dearer_tier_than_was_asked_for_is_booked_at_its_own_price() -> None:
    found = find_price(load_profiles()["openai"], "gpt-6-luna", "priority")
    assert found is not None
    assert found.cost_usd(Usage(1_000_000 // 4), at=NOW) == pytest.approx(0.25 * 0.2)


def test_tier_holds_for_all_tokens_once_it_is_crossed() -> None:
    luna = priced("openai", "gpt-6-luna")
    assert luna.cost_usd(Usage(272_000, output_tokens=1000)) == pytest.approx((272_000 * 0.1 + 1000 * 0.5) / 1e6)
    assert luna.cost_usd(Usage(272_001, output_tokens=1000)) == pytest.approx((272_001 * 0.2 + 1000 * 0.75) / 1e6)


def test_cache_reads_are_cheaper_and_cache_writes_dearer_with_anthropic() -> None:
    sonnet = priced("anthropic", "claude-sonnet-5-5")
    plain, read, write = Usage(10_000), Usage(10_000, cached_input_tokens=10_000), Usage(10_000, cache_write_tokens=10_000)
    assert sonnet.cost_usd(read) == pytest.approx(0.001)
    assert sonnet.cost_usd(plain) == pytest.approx(0.02)
    assert sonnet.cost_usd(write) == pytest.approx(0.025)


def test_reasoning_is_part_of_the_output_and_not_billed_twice() -> None:
    luna = priced("openai", "gpt-6-luna")
    assert luna.cost_usd(Usage(0, output_tokens=500, reasoning_tokens=400)) == pytest.approx(luna.cost_usd(Usage(0, output_tokens=500)))


def test_price_of_the_hour_counts() -> None:
    flash = priced("deepseek", "deepseek-flash")
    usage = Usage(1_000_000)
    assert flash.cost_usd(usage, at=NOW.replace(hour=5)) == pytest.approx(0.15)
    assert flash.cost_usd(usage, at=NOW.replace(hour=2)) == pytest.approx(0.30)


@pytest.mark.parametrize(
    "usage", [Usage(10, cached_input_tokens=50), Usage(-5, -5, -5, -5, -5), Usage(0, output_tokens=1, reasoning_tokens=9)]
)
def test_contradictory_usage_costs_something_finite_and_never_less_than_nothing(usage: Usage) -> None:
    price = priced("openai", "gpt-6-luna")
    assert 0 <= price.cost_usd(usage) < 1


@given(st.sampled_from(LISTED), usages, moments, st.floats(0, 86_000))
def test_bound_is_never_below_any_cost_within_it(listed: tuple[str, str], usage: Usage, at: datetime, later_seconds: float) -> None:
    price = priced(*listed)
    cost = price.cost_usd(usage, at=at + timedelta(seconds=later_seconds))
    assert price.most_usd(usage.input_tokens, usage.output_tokens, at=at) >= cost - 1e-12


@given(st.sampled_from(LISTED), st.integers(0, 500_000), st.integers(0, 500_000), st.integers(0, 50_000), st.integers(0, 50_000))
def test_bound_grows_with_tokens(listed: tuple[str, str], first: int, more: int, output: int, more_output: int) -> None:
    price = priced(*listed)
    assert price.most_usd(first + more, output + more_output, at=NOW) >= price.most_usd(first, output, at=NOW)


def test_bound_looks_ahead_to_a_dearer_hour_and_day() -> None:
    flash = priced("deepseek", "deepseek-flash")
    assert flash.most_usd(1_000_000, 0, at=NOW.replace(hour=10, minute=30)) == pytest.approx(0.30)
    argon = priced("google", "gemini-4-argon")
    assert argon.most_usd(1_000_000, 0, at=datetime(2026, 11, 29, 12, tzinfo=UTC)) == pytest.approx(2.0)
    assert argon.most_usd(1_000_000, 0, at=datetime(2026, 11, 30, 12, tzinfo=UTC)) == pytest.approx(4.0)


def test_bound_ignores_a_dear_price_that_is_over() -> None:
    large = priced("mistral", "mistral-large-4")
    assert large.most_usd(1_000_000, 0, at=NOW) == pytest.approx(0.7)


def test_bound_includes_the_surcharge_for_cache_writes_and_no_discount() -> None:
    assert priced("openai", "gpt-6-luna").most_usd(1_000_000 // 4, 0) == pytest.approx(0.25 * 0.125)


def test_bound_looks_at_each_change_of_the_coming_day() -> None:
    price = Price("test", lambda moment: rates(9 if moment.hour == 22 else 1), changes_utc=(time(22), time(23)), constant=False)
    assert price.most_usd(1_000_000, 0, at=NOW) == 9
    assert price.most_usd(1_000_000, 0, at=NOW.replace(hour=23)) == 9
    assert price.cost_usd(Usage(1_000_000), at=datetime.fromisoformat("2026-12-01T00:30:00+02:00")) == 9


def test_bound_of_a_ladder_that_steps_down_stays_above() -> None:
    ladder = Ladder(((-1, 5.0), (100, 1.0)))
    assert ladder.usd_per_mtok(101) == 1.0
    assert ladder.most_usd_per_mtok(101) == 5.0


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "gpt-99-unheard-of"),
        ("nobody", "gpt-6-luna"),
        ("openai", "text-embedding-3-small"),
        ("openai", "whisper-1"),
        ("openai", ""),
    ],
)
def test_unknown_is_none_and_never_zero(provider: str, model: str) -> None:
    assert listed_price(provider, model) is None
    assert find_price(profile(prices=provider), model) is None


def test_profile_without_prices_and_not_local_is_unknown() -> None:
    assert find_price(profile(), "gpt-6-luna") is None


def test_profile_override_comes_first() -> None:
    own = ModelPrice(input_usd_per_mtok=2, output_usd_per_mtok=8, cached_input_usd_per_mtok=1, cache_write_usd_per_mtok=3, **FACTS)
    price = find_price(profile(ModelFacts(match="gpt-6-*", price=own, **FACTS), prices="openai"), "gpt-6-luna")
    assert price is not None
    assert not price.free
    assert price.cost_usd(Usage(4_000_000, 1_000_000, 1_000_000, 1_000_000)) == pytest.approx(2 * 2 + 1 + 3 + 8)
    assert price.most_usd(1_000_000, 1_000_000) == pytest.approx(3 + 8)


def test_missing_cache_price_means_the_input_price() -> None:
    own = ModelPrice(input_usd_per_mtok=2, output_usd_per_mtok=8, **FACTS)
    price = find_price(profile(ModelFacts(match="*", price=own, **FACTS)), "any")
    assert price is not None
    assert price.cost_usd(Usage(3_000_000, 1_000_000, 1_000_000)) == pytest.approx(6)


def test_local_server_is_free_and_says_so() -> None:
    price = find_price(profile(local=True), "my-model")
    assert price is FREE
    assert price.free
    assert price.cost_usd(Usage(10**9, output_tokens=10**9)) == 0
    assert price.most_usd(10**9, 10**9) == 0


def test_simulator_has_a_pretended_price_although_it_is_local() -> None:
    price = find_price(load_profiles()["simulator"], "sim-average")
    assert price is not None
    assert not price.free
    assert price.cost_usd(Usage(1_000_000, output_tokens=1_000_000)) == pytest.approx(5)


def test_a_deployment_named_like_its_model_has_that_model_s_price() -> None:
    azure = find_price(load_profiles()["azure-openai"], "gpt-6-luna")
    assert azure is not None
    assert azure.cost_usd(Usage(1000)) == pytest.approx(priced("openai", "gpt-6-luna").cost_usd(Usage(1000)))


def test_price_per_request_is_added() -> None:
    assert Rates(flat(1), flat(1), flat(1), flat(1), flat(1), per_call_usd=0.005).cost_usd(Usage()) == 0.005
    listed = listed_price("perplexity", "sonar")
    if listed is not None:
        assert listed.most_usd(0, 0) >= listed.cost_usd(Usage())


def test_pricing_never_opens_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("pricing opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    listed_price.cache_clear()
    assert priced("openai", "gpt-6-luna").cost_usd(Usage(1000)) > 0


def test_price_list_is_loaded_only_when_a_listed_price_is_wanted() -> None:
    code = (
        "import sys; from safemt_api.prices import find_price, prices_version; from safemt_api.profiles import load_profiles; "
        "p = load_profiles(); find_price(p['vllm'], 'x'); find_price(p['simulator'], 'sim-safe'); prices_version(); "
        "assert 'genai_prices' not in sys.modules; find_price(p['openai'], 'gpt-6-luna'); assert 'genai_prices' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True)


def test_version_of_the_price_list_is_named() -> None:
    assert prices_version() == f"genai-prices {genai_prices.__version__}"
    assert prices_version() in priced("openai", "gpt-6-luna").source
