"""Vendor files: what ships is complete and sourced, and a wrong file is an error that names file, field and cure."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from safemt_api import profiles as profiles_module
from safemt_api.errors import MissingKeyError, ProfileError, UsageError
from safemt_api.files import shipped_folder
from safemt_api.messages import ServiceTier
from safemt_api.prices import find_price
from safemt_api.profiles import (
    ImageRules,
    Profile,
    check_address,
    find_profile,
    load_profiles,
    profile_schema,
    read_profile,
)
from safemt_api.runs.settings import EvalSettings

REPOSITORY = Path(__file__).resolve().parents[1]
EXPECTED = {
    "anthropic",
    "azure-openai",
    "dashscope",
    "deepseek",
    "google",
    "groq",
    "llamacpp",
    "mistral",
    "ollama",
    "openai",
    "openrouter",
    "simulator",
    "simulator-anthropic",
    "simulator-google",
    "together",
    "vllm",
    "xai",
}  # fmt: skip (one vendor a line would hide that this is one list)
SOURCE = re.compile(
    r"https?://|SDK|wheel|genai-prices|allowance|safemt_api\.simulator|pretended by safemt-api|as in [a-z-]+\.toml|limits (are|depend)"
)

MINIMAL = """
name = "acme"
title = "Acme AI"
wire_format = "openai_chat"
base_url = "https://api.acme.example/v1"
key_variables = ["ACME_API_KEY"]
source = "https://docs.acme.example"
checked = 2026-11-21
"""
GROUPS = """
[images]
source = "https://docs.acme.example/vision"
checked = 2026-11-21

[limits]
source = "https://docs.acme.example/limits"
checked = 2026-11-21
"""


def write(folder: Path, *, top: str = "", end: str = "", name: str = "acme.toml", text: str | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    file.write_text(text if text is not None else MINIMAL + top + GROUPS + end, encoding="utf-8")
    return file


def shipped() -> dict[str, Profile]:
    return load_profiles()


def groups(value: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(value, dict):
        if "source" in value:
            yield path, value
        for key, inner in value.items():
            yield from groups(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from groups(inner, f"{path}.{index}")


def test_all_expected_vendors_ship() -> None:
    assert set(shipped()) == EXPECTED


def test_folder_holds_data_and_its_description_only() -> None:
    assert {file.suffix for file in shipped_folder("providers").iterdir() if file.is_file()} <= {".toml", ".json", ".md"}


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_every_file_names_its_schema_and_sources(name: str) -> None:
    text = (shipped_folder("providers") / f"{name}.toml").read_text(encoding="utf-8")
    assert text.splitlines()[0] == "#:schema ./profile.schema.json"
    for path, facts in groups(tomllib.loads(text), name):
        assert SOURCE.search(facts["source"]), f"{path}: {facts['source']}"
        assert isinstance(facts["checked"], date), path


def test_schema_file_is_current() -> None:
    kept = (shipped_folder("providers") / "profile.schema.json").read_text(encoding="utf-8")
    assert kept == profile_schema(), "run: python -c 'from safemt_api.profiles import profile_schema as s; print(s(), end=\"\")'"
    assert json.loads(kept)["additionalProperties"] is False


def test_env_example_lists_exactly_the_variables_of_the_profiles() -> None:
    lines = (REPOSITORY / ".env.example").read_text(encoding="utf-8").splitlines()
    listed = [line.removesuffix("=") for line in lines if line and not line.startswith("#")]
    known = [name for profile in shipped().values() for name in (*profile.key_variables, profile.base_url_variable) if name is not None]
    assert sorted(listed) == sorted(known)
    assert len(set(listed)) == len(listed)


def test_env_example_holds_no_value() -> None:
    lines = (REPOSITORY / ".env.example").read_text(encoding="utf-8").splitlines()
    assert all(line.endswith("=") for line in lines if line and not line.startswith("#"))


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_default_models_see_and_have_a_known_price(name: str) -> None:
    profile = shipped()[name]
    if profile.default_model is None:
        assert profile.local or profile.name == "azure-openai"
        return
    assert profile.default_model in profile.vision_models
    assert profile.facts(profile.default_model).vision
    if profile.prices:
        assert find_price(profile, profile.default_model) is not None


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_default_judges_exist_and_have_a_known_price(name: str) -> None:
    profiles = shipped()
    judge = profiles[name].default_judge
    if judge in {None, "rules"}:
        return
    assert judge is not None
    vendor, model = judge.split(":", 1)
    assert vendor == name
    if profiles[vendor].prices:
        assert find_price(profiles[vendor], model) is not None


def test_hosted_vendors_need_a_key_and_local_ones_do_not() -> None:
    for profile in shipped().values():
        assert profile.key_required is not profile.local
        assert profile.key_variables or profile.local


def test_simulator_profiles_differ_in_their_wire_format_only() -> None:
    profiles = shipped()
    formats = {name: profiles[name].wire_format for name in ("simulator", "simulator-anthropic", "simulator-google")}
    assert formats == {"simulator": "openai_chat", "simulator-anthropic": "anthropic_messages", "simulator-google": "google_genai"}
    for name in formats:
        assert (profiles[name].default_model, profiles[name].default_judge, profiles[name].base_url) == ("sim-average", "rules", "")


def test_flagships_take_no_sampling_parameters() -> None:
    profiles = shipped()
    for vendor, model in (("openai", "gpt-6-luna"), ("anthropic", "claude-haiku-5-5"), ("google", "gemini-3.8-flash")):
        facts = profiles[vendor].facts(model)
        assert facts.takes == ()
        assert facts.reasons


def test_old_claude_models_take_temperature_under_the_old_api_version() -> None:
    facts = shipped()["anthropic"].facts("claude-sonnet-4-6")
    assert "temperature" in facts.takes
    assert facts.extra_headers == {"anthropic-version": "2023-06-01"}
    assert shipped()["anthropic"].facts("claude-opus-4-7").extra_headers == {}


def test_models_may_have_image_rules_of_their_own() -> None:
    openai = shipped()["openai"]
    assert openai.image_rules("gpt-6-luna") is openai.images
    assert openai.image_rules("gpt-4o").token_rule == "openai_tiles"
    assert openai.image_rules("gpt-4o-mini").token_multiplier > 30


def test_unknown_model_gets_facts_that_assume_nothing() -> None:
    facts = shipped()["groq"].facts("some/new-model")
    assert facts.takes == ()
    assert facts.structured_output is None


def test_loading_is_quick_and_loads_no_price_list_or_sdk() -> None:
    code = (
        "import time, pydantic; import safemt_api.profiles as p; t = time.perf_counter(); p.load_profiles(); s = time.perf_counter() - t; "
        "import sys; print(s); print([m for m in ('genai_prices', 'openai', 'anthropic', 'google.genai', 'polars') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    seconds, loaded = run.stdout.splitlines()
    assert loaded == "[]"
    assert float(seconds) < 1.0  # 12 ms on an idle machine; the wide margin is for a busy one


@pytest.mark.parametrize(
    ("top", "end", "field"),
    [
        ('defaultmodel = "x"\n', "", "defaultmodel"),
        ("", "[[models]]\nmatch = '*'\ntake = []\nsource = 'https://a'\nchecked = 2026-11-21\n", "models.0.take"),
        ("", "[[models]]\nmatch = '*'\ntakes = ['temprature']\nsource = 'https://a'\nchecked = 2026-11-21\n", "models.0.takes.0"),
        ("", "[[models]]\nmatch = '*'\nchecked = 2026-11-21\n", "models.0.source"),
        ("", "[[models]]\nmatch = '*'\nsource = 'https://a'\nchecked = 'soon'\n", "models.0.checked"),
        ("structured_output = 3\n", "", "structured_output"),
        ("vision_models = 'one'\n", "", "vision_models"),
        ("default_judge = 'gpt'\n", "", "default_judge"),
        ("extra_headers = { Authorization = 'Bearer x' }\n", "", "extra_headers"),
        ("base_url_variable = 7\n", "", "base_url_variable"),
    ],
)  # fmt: skip (one wrong line a case)
def test_wrong_field_is_named_with_its_file(tmp_path: Path, top: str, end: str, field: str) -> None:
    file = write(tmp_path / "own", top=top, end=end)
    with pytest.raises(ProfileError) as caught:
        read_profile(file)
    assert caught.value.field == field
    assert str(caught.value).startswith(f"{file}: {field}: ")


def test_misspelt_field_lists_the_known_ones_of_its_own_group(tmp_path: Path) -> None:
    price = "[models.price]\ninput_usd = 1\noutput_usd_per_mtok = 1\ninput_usd_per_mtok = 1\nsource = 'https://a'\nchecked = 2026-11-21\n"
    end = "[[models]]\nmatch = '*'\nsource = 'https://a'\nchecked = 2026-11-21\n" + price
    with pytest.raises(ProfileError, match="known fields: cache_write_usd_per_mtok, cached_input_usd_per_mtok") as caught:
        read_profile(write(tmp_path / "own", end=end))
    assert caught.value.field == "models.0.price.input_usd"


@pytest.mark.parametrize("price", ["-1", "inf", "nan", "'free'"])
def test_price_must_be_a_number_that_can_be_paid(tmp_path: Path, price: str) -> None:
    end = (
        f"[[models]]\nmatch = '*'\nsource = 'https://a'\nchecked = 2026-11-21\n"
        f"price = {{ input_usd_per_mtok = {price}, output_usd_per_mtok = 1, source = 'https://a', checked = 2026-11-21 }}\n"
    )
    with pytest.raises(ProfileError) as caught:
        read_profile(write(tmp_path / "own", end=end))
    assert caught.value.field == "models.0.price.input_usd_per_mtok"


def test_refused_header_is_named_without_its_value(tmp_path: Path) -> None:
    with pytest.raises(ProfileError) as caught:
        read_profile(write(tmp_path / "own", top="extra_headers = { X-API-Key = 'sk-secret' }\n"))
    assert "X-API-Key" in str(caught.value)
    assert "sk-secret" not in str(caught.value)


def test_address_in_a_file_must_be_http(tmp_path: Path) -> None:
    text = (MINIMAL + GROUPS).replace("https://api.acme.example/v1", "api.acme.example")
    with pytest.raises(ProfileError, match="base_url: must start with http"):
        read_profile(write(tmp_path / "own", text=text))


def test_wrong_date_is_named(tmp_path: Path) -> None:
    text = (MINIMAL + GROUPS).replace("checked = 2026-11-21", "checked = 'last week'", 1)
    with pytest.raises(ProfileError) as caught:
        read_profile(write(tmp_path / "own", text=text))
    assert caught.value.field == "checked"


def test_broken_toml_names_the_file_and_the_line(tmp_path: Path) -> None:
    file = write(tmp_path / "own", text="name = \n")
    with pytest.raises(ProfileError, match=r"acme\.toml: cannot be read as TOML: .*line 1") as caught:
        read_profile(file)
    assert caught.value.field is None


def test_bytes_that_are_no_text_name_the_file(tmp_path: Path) -> None:
    file = tmp_path / "acme.toml"
    file.write_bytes(b'name = "\xff\xfe"\n')
    with pytest.raises(ProfileError, match=r"acme\.toml: cannot be read as TOML"):
        read_profile(file)


def test_missing_file_is_a_profile_error(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="cannot be read"):
        read_profile(tmp_path / "none.toml")


def test_file_must_be_called_like_its_name(tmp_path: Path) -> None:
    write(tmp_path / "own", name="other.toml")
    with pytest.raises(ProfileError, match="they must agree") as caught:
        load_profiles(tmp_path / "own")
    assert caught.value.field == "name"


def test_unknown_folder_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--providers .*nowhere: no such folder"):
        load_profiles(tmp_path / "nowhere")


def test_own_folder_adds_a_vendor(tmp_path: Path) -> None:
    write(tmp_path / "own")
    assert set(load_profiles(tmp_path / "own")) == EXPECTED | {"acme"}


def test_working_directory_replaces_shipped_and_the_given_folder_replaces_both(tmp_path: Path) -> None:
    text = (MINIMAL + GROUPS).replace('"acme"', '"openai"')
    write(tmp_path / "providers", name="openai.toml", text=text.replace("Acme AI", "mine"))
    assert load_profiles(working_directory=tmp_path)["openai"].title == "mine"
    write(tmp_path / "own", name="openai.toml", text=text.replace("Acme AI", "given"))
    assert load_profiles(tmp_path / "own", working_directory=tmp_path)["openai"].title == "given"


def test_readme_example_is_a_valid_profile(tmp_path: Path) -> None:
    text = (shipped_folder("providers") / "README.md").read_text(encoding="utf-8")
    example = text.split("```toml\n")[1].split("```")[0]
    profile = read_profile(write(tmp_path / "own", text=example))
    assert (profile.name, profile.facts("acme-vision-1").takes) == ("acme", ())


def test_unknown_provider_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"no provider called 'opnai' .did you mean 'openai'..; there are: anthropic, azure-openai"):
        find_profile(shipped(), "opnai")


def test_key_comes_from_the_first_variable_that_is_set() -> None:
    google = shipped()["google"]
    assert google.api_key({"GOOGLE_API_KEY": " b "}) == "b"
    assert google.api_key({"GEMINI_API_KEY": "a", "GOOGLE_API_KEY": "b"}) == "a"
    with pytest.raises(MissingKeyError, match="set GEMINI_API_KEY or GOOGLE_API_KEY"):
        google.api_key({"GEMINI_API_KEY": "  "})
    assert shipped()["vllm"].api_key({}) is None


def test_addresses_prefer_what_is_given_then_the_variable() -> None:
    vllm = shipped()["vllm"]
    assert vllm.addresses(environ={}) == ("http://127.0.0.1:8000/v1",)
    assert vllm.addresses(environ={"VLLM_BASE_URL": "http://10.0.0.1/v1/"}) == ("http://10.0.0.1/v1",)
    assert vllm.addresses(("http://a", "http://b/"), {"VLLM_BASE_URL": "http://c"}) == ("http://a", "http://b")
    with pytest.raises(UsageError, match="give --base-url or set AZURE_OPENAI_BASE_URL"):
        shipped()["azure-openai"].addresses(environ={})


def test_profile_values_cannot_be_changed_by_accident() -> None:
    rules = ImageRules(source="https://a", checked=date(2026, 11, 21))
    with pytest.raises(ValueError, match="frozen"):
        rules.max_bytes = 1  # type: ignore[misc]  # the point of the test is that this fails


def test_what_differs_from_vendor_to_vendor_stands_in_the_files() -> None:
    profiles = load_profiles()
    assert {name for name, one in profiles.items() if one.limits.requests_window_seconds == 86_400} == {"groq"}
    assert {name for name, one in profiles.items() if one.reports_cost} == {"openrouter"}
    assert profiles["deepseek"].limits.concurrency == 2500
    sees = {model: profiles["deepseek"].facts(model).vision for model in ("deepseek-flash", "deepseek-v4-flash", "deepseek-v4-pro")}
    assert sees == {"deepseek-flash": True, "deepseek-v4-flash": True, "deepseek-v4-pro": False}


def test_no_vendor_is_named_in_code() -> None:
    names = "|".join(sorted(EXPECTED - {"simulator", "simulator-anthropic", "simulator-google"}))
    comparison = re.compile(rf"""name\s*(==|in)[^\n]*["']({names})["']|["']({names})["']\s*(==|not in|in)\b""")
    package = Path(profiles_module.__file__).parent
    assert [file.name for file in package.rglob("*.py") if comparison.search(file.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8000/v1", "https://api.example.com", "http://[::1]:8000/v1", "http://gpu1/v1/", "https://x.example:443/a/b"]
)
def test_addresses_of_servers_are_taken(url: str) -> None:
    check_address(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://[::1/v1", "http://x:99999999/v1", "http://x:0/v1", "http://x:port/v1", "http://", "http:///v1", "ftp://x/v1", "nonsense",
        "",
        "http://a b/v1", "http://x/v1\n", "http://x/\x00", "http://x/v1?key=1", "http://x/v1#a", "http://me:secret@x/v1",
    ],
)  # fmt: skip
def test_what_is_none_is_one_sentence(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for given in ({"base_urls": (url,)}, {"judge_base_url": url}, {"moderator_base_url": url}):
        with pytest.raises(UsageError, match="address") as caught:
            EvalSettings(**given)
        assert "\n" not in str(caught.value)
        assert "secret" not in str(caught.value)
    if url:
        monkeypatch.setenv("VLLM_BASE_URL", url.strip() if "\x00" not in url else "http://[")
        if url.strip() != "http://x/v1":
            with pytest.raises(UsageError, match="the address of vllm"):
                load_profiles()["vllm"].addresses()


@pytest.mark.parametrize(
    ("vendor", "model", "offered"),
    [
        ("openai", "gpt-6-luna", "flex batch"),
        ("openai", "gpt-4o-mini", "batch"),
        ("openai", "omni-moderation-latest", ""),
        ("anthropic", "claude-haiku-5-5", "batch"),
        ("google", "gemini-3.8-flash", "flex batch"),
        ("google", "gemini-decision-1", ""),
        ("azure-openai", "gpt-6-luna", ""),
        ("openrouter", "openai/gpt-6-luna", ""),
        ("vllm", "any", ""),
    ],
)
def test_a_tier_that_the_vendor_does_not_offer_is_refused_with_where_that_was_read(vendor: str, model: str, offered: str) -> None:
    profile = load_profiles()[vendor]
    profile.check_tier("standard", model)
    tiers: tuple[ServiceTier, ...] = ("flex", "batch")
    for tier in tiers:
        if tier in offered.split():
            profile.check_tier(tier, model)
            continue
        with pytest.raises(UsageError, match=f"--tier {tier}.*{re.escape(model)}") as caught:
            profile.check_tier(tier, model)
        facts = profile.batch if tier == "batch" else profile.flex
        assert facts is None or facts.source in str(caught.value)


def test_every_vendor_with_a_bill_says_which_tiers_it_offers() -> None:
    for profile in load_profiles().values():
        assert profile.local or (profile.flex and profile.batch), profile.name
