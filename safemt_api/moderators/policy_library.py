"""The policy library: one Markdown file per scenario, named by its slug, and ``general.md`` for every scenario without one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from safemt_api.asking.material import digest_of
from safemt_api.errors import UsageError
from safemt_api.files import read_page

POLICIES_FOLDER = Path(__file__).resolve().parent / "policies"
GENERAL: Final = "general"


def scenario_slug(scenario: str) -> str:
    """The name of a scenario's file: lower case, everything but letters and digits as one underscore."""
    return re.sub(r"[\W_]+", "_", scenario.casefold()).strip("_")


@dataclass(frozen=True, slots=True)
class PolicyLibrary:
    """Policy texts by slug; ``general`` is always among them."""

    by_slug: Mapping[str, str]

    @property
    def scenarios(self) -> tuple[str, ...]:
        """The scenarios with a policy of their own, as a model should name them."""
        return tuple(slug.replace("_", " ").title() for slug in sorted(self.by_slug) if slug != GENERAL)

    @property
    def digest(self) -> str:
        """Over all names and texts."""
        return digest_of(*(part for slug in sorted(self.by_slug) for part in (slug, self.by_slug[slug])))

    def for_scenarios(self, scenarios: Iterable[str]) -> str:
        """The policies of these scenarios, each once, in order; the general one for unknown scenarios and where none is named."""
        slugs = [slug if slug in self.by_slug else GENERAL for slug in map(scenario_slug, scenarios)] or [GENERAL]
        return "\n\n".join(self.by_slug[slug] for slug in dict.fromkeys(slugs))


def load_policies(folder: Path | None = None) -> PolicyLibrary:
    """The shipped library, or one's own (``--policies``), which then stands alone.

    Raises:
        UsageError: The folder or a file cannot be read, a file is empty or too large, two files name one scenario, or ``general.md``
            is missing.
    """
    source = POLICIES_FOLDER if folder is None else folder
    if not source.is_dir():
        raise UsageError(f"--policies {source}: no such folder")
    policies: dict[str, str] = {}
    for file in sorted(source.glob("*.md")):
        slug = scenario_slug(file.stem)
        if slug in policies:
            raise UsageError(f"--policies {source}: two files are for the scenario {slug!r}; keep one")
        policies[slug] = read_page(file, option="--policies", write="the policy").strip()
    if GENERAL not in policies:
        raise UsageError(f"--policies {source}: general.md is missing; it is the policy for every scenario without a file of its own")
    return PolicyLibrary(MappingProxyType(policies))
