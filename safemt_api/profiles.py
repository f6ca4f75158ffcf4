"""What is known of each vendor: one TOML file in ``providers/`` becomes one ``Profile``.

A profile is data that anyone can add to without Python. Every group of facts carries the page it was read on (``source``) and the day
(``checked``). Files are looked up in this order, a later one replacing an earlier one of the same name: those shipped in the package,
``./providers/*.toml`` under the working directory, then the folder given with ``--providers``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import date
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from safemt_api.errors import MissingKeyError, ProfileError, UsageError, did_you_mean
from safemt_api.files import read_toml, shipped_folder
from safemt_api.messages import Effort, ServiceTier
from safemt_api.specs import RULES

WireFormat = Literal["openai_chat", "anthropic_messages", "google_genai"]
ImageTokenRule = Literal["openai_patches", "openai_tiles", "anthropic_area", "google_fixed", "qwen_patches", "fixed"]
ParameterName = Literal["temperature", "top_p", "seed"]

WIRE_FORMATS: tuple[WireFormat, ...] = get_args(WireFormat)

PositiveInt = Annotated[int, Field(gt=0)]
Usd = Annotated[float, Field(ge=0, allow_inf_nan=False)]

OWN_FOLDER = "providers"

SECRET_HEADERS = frozenset({"authorization", "proxy-authorization", "x-api-key", "api-key", "x-goog-api-key", "cookie"})
"""Headers that carry a key: they come from the environment, never from a file."""


class _Facts(BaseModel):
    """A group of facts that stand on one page."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str = Field(min_length=1, description="URL of the page the facts were read on, or how they were established")
    checked: date = Field(description="the day the page was read")


def check_address(url: str, option: str = "--base-url") -> None:
    """Refuse what is no address of a server; the sentence never repeats what may be a password.

    Raises:
        UsageError: It is none.
    """
    if "@" in url.partition("://")[2].partition("/")[0]:
        raise UsageError(f"{option}: an address must not hold a user name or password; keys come from the environment or .env")
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"{option} {url!r} is not an http:// or https:// address")
    try:
        parts = urlsplit(url)
        valid = bool(parts.hostname) and parts.port != 0 and not any(sign.isspace() or not sign.isprintable() for sign in url)
    except ValueError as error:
        raise UsageError(f"{option} {url!r} is no address ({error})") from None
    if not valid or parts.query or parts.fragment:
        raise UsageError(f"{option} {url!r} is no address of a server, such as http://127.0.0.1:8000/v1")


def _without_secrets(headers: dict[str, str]) -> dict[str, str]:
    secret = next((name for name in headers if name.strip().lower() in SECRET_HEADERS), None)
    if secret is not None:
        raise ValueError(f"must not set {secret!r}: keys come from the environment (key_variables), never from a file")
    return headers


Headers = Annotated[dict[str, str], AfterValidator(_without_secrets)]


class ImageRules(_Facts):
    """What pictures the vendor takes, and what they cost in tokens."""

    media_types: tuple[str, ...] = Field(("image/png", "image/jpeg", "image/webp", "image/gif"), min_length=1)
    max_bytes: PositiveInt | None = Field(None, description="largest picture file, before base64")
    max_side_pixels: PositiveInt | None = Field(None, description="longest side")
    max_pixels: PositiveInt | None = Field(None, description="width times height")
    max_patches: PositiveInt | None = Field(
        None, description="squares of patch_pixels by patch_pixels that it takes to cover the picture: the model's native size"
    )
    patch_pixels: PositiveInt = Field(28, description="side of a patch")
    token_rule: ImageTokenRule = Field("fixed", description="how a picture is counted in input tokens")
    tokens_per_image: PositiveInt = Field(1500, description="upper bound for rules that do not look at the size")
    token_multiplier: float = Field(
        1.0, gt=0, allow_inf_nan=False, description="factor of the openai rules, which differs from model to model"
    )
    most_tokens_per_image: PositiveInt | None = Field(None, description="the vendor shrinks larger pictures, so that none counts for more")


class Limits(_Facts):
    """Published limits of an account, where the vendor publishes them; ``None`` means unknown or none.

    They hold from the first call on, until ``--rpm`` or ``--tpm`` or the vendor's own headers say otherwise.
    """

    requests_per_minute: PositiveInt | None = None
    requests_per_day: PositiveInt | None = Field(None, description="a run that needs more is told so before it starts")
    tokens_per_minute: PositiveInt | None = None
    concurrency: PositiveInt | None = Field(None, description="calls in flight")
    requests_window_seconds: PositiveInt = Field(60, description="period over which the headers count requests; 86400 for a day")


class TierFacts(_Facts):
    """A cheaper way to be served, or the news that there is none."""

    offered: bool = Field(True, description="false: the vendor has none, or none that safemt-api can use")
    models: tuple[str, ...] = Field(("*",), description="shell-style patterns of the models that it is for")
    price_factor: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="its part of the standard price, for models whose price in it nobody lists"
    )


class BatchFacts(TierFacts):
    """Requests handed in as a file and answered within a day."""

    max_requests: PositiveInt = Field(1, description="requests in one batch")
    max_bytes: PositiveInt = Field(1, description="size of one batch")
    queued_tokens: PositiveInt | None = Field(None, description="input tokens that may be queued for a model; most vendors tell no number")
    result_days: PositiveInt = Field(1, description="how long results are kept")


class ModelPrice(_Facts):
    """Prices in USD per million tokens, overriding genai-prices. A missing cache price means the input price."""

    input_usd_per_mtok: Usd
    output_usd_per_mtok: Usd
    cached_input_usd_per_mtok: Usd | None = None
    cache_write_usd_per_mtok: Usd | None = None


class ModelFacts(_Facts):
    """What holds for the models whose id matches ``match`` (shell-style pattern); the first entry that matches counts."""

    match: str = Field(min_length=1)
    vision: bool = True
    takes: tuple[ParameterName, ...] = Field((), description="sampling parameters the model accepts")
    efforts: tuple[Effort, ...] = Field((), description="amounts of thinking that the model lets one choose from")
    max_output_parameter: Literal["max_tokens", "max_completion_tokens"] | None = Field(
        None, description="openai_chat only: overrides the profile's"
    )
    structured_output: bool | None = Field(None, description="overrides the profile's")
    context_tokens: PositiveInt | None = None
    max_output_tokens: PositiveInt | None = Field(None, description="the most the model can write, reasoning included")
    reply_tokens: PositiveInt | None = Field(None, description="usual length of a reply, thinking left out, where it was measured")
    cache_minimum_tokens: PositiveInt | None = Field(
        None, description="shortest beginning that the vendor caches where it is marked; unset: no marks are sent"
    )
    cache_marks: Literal["cache_control", "breakpoint"] = Field(
        "cache_control",
        description="openai_chat only: how a beginning is marked; with OpenAI's own breakpoint nothing else is cached",
    )
    reasons: bool = Field(False, description="thinks before it answers; thinking is billed as output")
    extra_body: dict[str, Any] = Field(default_factory=dict, description="fields added to the request as they stand")
    extra_headers: Headers = Field(default_factory=dict, description="headers added to the request; never a key")
    images: ImageRules | None = Field(None, description="replaces the profile's rules for these models")
    price: ModelPrice | None = None


class Decline(_Facts):
    """A sign by which the vendor shows that it declined for the content: a code, or the beginning of a sentence where it has no code."""

    outcome: Literal["blocked_input", "blocked_output", "refused", "truncated"] = Field(
        description="truncated: not declined, but cut off before the first word"
    )
    statuses: tuple[int, ...] = Field(
        min_length=1, description="HTTP statuses that it comes with; 0: an error inside an HTTP 200 without one"
    )
    codes: tuple[str, ...] = Field((), description="machine-readable codes in the error object, in lower case; one of them must be there")
    sentence: str | None = Field(None, min_length=8, description="how the vendor's message begins, whatever its case")

    @model_validator(mode="after")
    def _has_a_sign(self) -> Self:
        if not self.codes and self.sentence is None:
            raise ValueError("must name codes or a sentence, or any error would count as declined")
        return self


DEFAULT_MODEL_FACTS = ModelFacts(match="*", source="default of safemt-api: nothing is known of the model", checked=date(2026, 11, 21))


class Profile(_Facts):
    """One vendor."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    title: str
    wire_format: WireFormat
    base_url: str = Field("", description="empty when the user must give --base-url or base_url_variable")
    base_url_variable: str | None = Field(None, description="environment variable that holds the address")
    key_variables: tuple[str, ...] = Field((), description="environment variables, first set one wins; none: no key needed")
    key_required: bool = True
    default_model: str | None = None
    default_judge: str | None = Field(None, description="PROVIDER:MODEL")
    vision_models: tuple[str, ...] = ()
    max_output_parameter: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    structured_output: bool = Field(False, description="takes a JSON schema and keeps to it")
    system_role: Literal["system", "developer"] = "system"
    safety_settings: bool = Field(False, description="google_genai only: lets one choose from when on its filters block")
    prices: str | None = Field(None, description="the vendor's id in genai-prices")
    reports_cost: bool = Field(False, description="openai_chat only: usage.cost in a reply is what it was charged, in USD")
    local: bool = Field(False, description="runs on the user's own machine: no account, no price")
    extra_headers: Headers = Field(default_factory=dict)
    extra_query: dict[str, str] = Field(default_factory=dict)
    notes: str = ""
    images: ImageRules
    limits: Limits
    flex: TierFacts | None = None
    batch: BatchFacts | None = None
    models: tuple[ModelFacts, ...] = ()
    declines: tuple[Decline, ...] = Field((), description="signs that the wire format does not know already")

    @field_validator("default_judge")
    @classmethod
    def _judge_names_provider(cls, value: str | None) -> str | None:
        if value is not None and value != RULES and ":" not in value:
            raise ValueError("must be 'rules' or PROVIDER:MODEL")
        return value

    @field_validator("base_url")
    @classmethod
    def _address_is_http(cls, value: str) -> str:
        if value and not value.startswith(("http://", "https://")):
            raise ValueError("must start with http:// or https://, or be left out")
        return value

    def facts(self, model: str) -> ModelFacts:
        """The first entry whose pattern matches the model id, else defaults that assume nothing."""
        return next((entry for entry in self.models if fnmatchcase(model, entry.match)), DEFAULT_MODEL_FACTS)

    def image_rules(self, model: str) -> ImageRules:
        """What pictures the model takes and how they count: its own rules where it has some, else the vendor's."""
        return self.facts(model).images or self.images

    def check_tier(self, tier: ServiceTier, model: str) -> None:
        """Refuse a tier that the model cannot be asked in.

        Raises:
            UsageError: The vendor does not offer it, or not for this model; the sentence says where that was read.
        """
        facts = {"standard": None, "flex": self.flex, "batch": self.batch}[tier]
        if tier == "standard" or (facts and facts.offered and any(fnmatchcase(model, pattern) for pattern in facts.models)):
            return
        known = f" ({facts.source}, checked {facts.checked})" if facts else ""
        raise UsageError(f"{self.title} offers no --tier {tier} for {model} that could be used here{known}; leave it out")

    def price_factor(self, tier: str) -> float:
        """The tier's part of the standard price as the profile tells it; 1 where it does not."""
        facts = {"flex": self.flex, "batch": self.batch}.get(tier)
        return (facts.price_factor if facts and facts.offered else None) or 1.0

    def takes_structured_output(self, model: str) -> bool:
        """Whether a JSON schema may be sent with a call to the model."""
        own = self.facts(model).structured_output
        return self.structured_output if own is None else own

    def api_key(self, environ: Mapping[str, str] | None = None) -> str | None:
        """The key from the first variable that is set.

        Raises:
            MissingKeyError: The profile needs a key and no variable holds one.
        """
        environ = os.environ if environ is None else environ
        found = next((environ[name].strip() for name in self.key_variables if environ.get(name, "").strip()), None)
        if found is None and self.key_variables and self.key_required:
            raise MissingKeyError(self.name, self.key_variables)
        return found

    def addresses(self, given: tuple[str, ...] = (), environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
        """The base URLs to use: those given, else the variable's, else the profile's own.

        Raises:
            UsageError: None is known, or one is no address of a server.
        """
        environ = os.environ if environ is None else environ
        urls = given
        if not urls and self.base_url_variable and environ.get(self.base_url_variable, "").strip():
            urls = (environ[self.base_url_variable].strip(),)
        if not urls and self.base_url:
            urls = (self.base_url,)
        if not urls:
            hint = f" or set {self.base_url_variable}" if self.base_url_variable else ""
            raise UsageError(f"{self.name} has no fixed address: give --base-url{hint}")
        for url in urls:
            check_address(url, "--base-url" if given else f"the address of {self.name}")
        return tuple(url.rstrip("/") for url in urls)


_GROUPS: Mapping[str, type[_Facts]] = {
    "images": ImageRules,
    "limits": Limits,
    "models": ModelFacts,
    "price": ModelPrice,
    "declines": Decline,
    "flex": TierFacts,
    "batch": BatchFacts,
}


def read_profile(file: Path) -> Profile:
    """Read one TOML file.

    Raises:
        ProfileError: Unreadable, not TOML, or a field is unknown, missing or of the wrong kind.
    """
    tables = read_toml(file, failed=lambda file, why: ProfileError(file, None, why)).tables
    try:
        return Profile.model_validate(tables)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        if first["type"] != "extra_forbidden":
            raise ProfileError(file, field, first["msg"].removeprefix("Value error, ")) from error
        # The fields known there are those of the innermost group that the place names.
        groups = [_GROUPS[str(part)] for part in first["loc"][:-1] if str(part) in _GROUPS]
        known = ", ".join(sorted((groups[-1] if groups else Profile).model_fields))
        raise ProfileError(file, field, f"no such field; known fields: {known}") from error


def own_folders(folder: Path | None = None, *, working_directory: Path | None = None) -> tuple[Path, ...]:
    """The user's folders that exist, the one that wins last: ``./providers``, then ``--providers``."""
    beside = (working_directory or Path.cwd()) / OWN_FOLDER
    shipped = shipped_folder(OWN_FOLDER).resolve()
    return tuple(one for one in (beside, folder) if one is not None and one.is_dir() and one.resolve() != shipped)


def profile_files(folder: Path) -> list[Path]:
    """The vendor files of a folder, by name."""
    return sorted(folder.glob("*.toml"))


def replacements(folder: Path | None = None, *, working_directory: Path | None = None) -> tuple[str, ...]:
    """A sentence for each shipped vendor that a file of the user's replaces: it could send a key to another address."""
    shipped = {file.stem for file in profile_files(shipped_folder(OWN_FOLDER))}
    own = (file for one in own_folders(folder, working_directory=working_directory) for file in profile_files(one))
    return tuple(
        f"{file} replaces the shipped profile {file.stem!r}: its key goes to the address in that file"
        for file in own
        if file.stem in shipped
    )


def load_profiles(folder: Path | None = None, *, working_directory: Path | None = None) -> dict[str, Profile]:
    """All profiles by name: shipped, then ``./providers``, then ``folder``.

    Raises:
        ProfileError: Any file is wrong, or a file's name differs from the ``name`` inside it.
        UsageError: ``folder`` does not exist.
    """
    if folder is not None and not folder.is_dir():
        raise UsageError(f"--providers {folder}: no such folder")
    profiles = dict(_shipped_profiles())
    for extra in own_folders(folder, working_directory=working_directory):
        profiles.update(_read_folder(extra))
    return dict(sorted(profiles.items()))


@cache
def _shipped_profiles() -> Mapping[str, Profile]:
    return _read_folder(shipped_folder(OWN_FOLDER))


def _read_folder(folder: Path) -> dict[str, Profile]:
    profiles = {}
    for file in profile_files(folder):
        profile = read_profile(file)
        if profile.name != file.stem:
            raise ProfileError(file, "name", f"is {profile.name!r} but the file is called {file.name}; they must agree")
        profiles[profile.name] = profile
    return profiles


def find_profile(profiles: Mapping[str, Profile], name: str) -> Profile:
    """The profile of that name.

    Raises:
        UsageError: There is none; the sentence lists those there are.
    """
    if name not in profiles:
        raise UsageError(f"no provider called {name!r}{did_you_mean(name, profiles)}; there are: {', '.join(sorted(profiles))}")
    return profiles[name]


def profile_schema() -> str:
    """The JSON schema of a profile file, for editors (kept beside the files as ``profile.schema.json``)."""
    return json.dumps(Profile.model_json_schema(), indent=2, sort_keys=True) + "\n"
