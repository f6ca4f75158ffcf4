"""An option is one field: what is said there reaches the command line, Python, the run file and a run's identity."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

import pytest
from annotated_types import Ge

from safemt_api.errors import UsageError
from safemt_api.runs.options import Group, Option, numbers, option_fields
from safemt_api.runs.settings import EvalSettings, free_for_judging, identity_defaults, identity_of, options, settings_record
from safemt_api.runs.values import Values


@dataclass(frozen=True, slots=True, kw_only=True)
class Few:
    """Settings of each shape that there is."""

    word: Annotated[str | None, Option(Group.TARGET, "A word.", "W")] = None
    top_k: Annotated[int | None, Option(Group.TARGET, "A number.", "K", identity=True), Ge(1)] = None
    way: Annotated[Literal["up", "down"], Option(Group.DATA, "A choice.")] = "up"
    names: Annotated[tuple[str, ...], Option(Group.DATA, "Some.", "NAME", flags=("--name",))] = ()
    sizes: Annotated[tuple[int, ...] | None, Option(Group.DATA, "Numbers.", "1,2", read=numbers)] = None
    place: Annotated[Path, Option(Group.OUTPUT, "A folder.", "DIR")] = Path("here")
    loud: Annotated[bool, Option(Group.OUTPUT, "A switch.")] = False
    share: Annotated[float, Option(Group.PACE, "A share.", "S")] = 0.5


FEW = tuple(option_fields(Few))


def test_the_field_says_what_is_typed_and_shown() -> None:
    assert [one.flags for one in FEW[:4]] == [("--word",), ("--top-k",), ("--way",), ("--name",)]
    assert [one.metavar for one in FEW] == ["W", "K", "up|down", "NAME", "1,2", "DIR", "", "S"]
    assert [one.several for one in FEW] == [False, False, False, True, False, False, False, False]
    assert [one.default_text for one in FEW] == [None, None, "up", None, None, "here", None, "0.5"]


def test_a_default_of_zero_is_shown() -> None:
    assert next(one for one in options() if one.name == "seed").default_text == "0"


def test_strings_become_what_the_type_says() -> None:
    given = Few(word="w", top_k="5", way="down", names="one", sizes="4,1", place="x", loud="true", share="0.25")  # type: ignore[arg-type] # as typed
    found = Values(FEW).checked(given)
    assert found == {
        "word": "w", "top_k": 5, "way": "down", "names": ("one",), "sizes": (1, 4), "place": Path("x"), "loud": True, "share": 0.25,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("top_k", "0", "--top-k 0 must be at least 1"),
        ("top_k", "1.5", "--top-k '1.5' is not a whole number"),
        ("top_k", "9" * 5000, "--top-k '999.* is too large"),
        ("top_k", 2.5, "--top-k 2.5 is not a whole number"),
        ("share", "much", "--share 'much' is not a number"),
        ("share", "nan", "--share 'nan' is not a finite number"),
        ("share", float("inf"), "--share inf is not a finite number"),
        ("way", "left", "--way 'left': choose up or down"),
        ("sizes", "1,x", "--sizes '1,x': give whole numbers with commas between"),
        ("word", 3, "--word 3 is not text"),
        ("place", 3, "--place 3 is not a path"),
        ("loud", "perhaps", "--loud 'perhaps': give true or false"),
    ],
)
def test_what_does_not_fit_is_one_sentence_that_names_the_option(name: str, value: object, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence) as caught:
        Values(FEW).checked(Few(**{name: value}))  # type: ignore[arg-type] # wrong on purpose
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_every_field_of_the_settings_is_an_option_with_flags_of_its_own() -> None:
    assert [one.name for one in options()] == [one.name for one in fields(EvalSettings)]
    assert max(Counter(flag for one in options() for flag in one.flags).values()) == 1


def test_identity_and_record_follow_the_fields() -> None:
    settings = EvalSettings(sample=3, seed=7, judge_fallback="rules", run="r", results=Path("elsewhere"))
    identity = identity_of(settings)
    assert (identity["sample"], identity["seed"], identity["judge_fallback"]) == (3, 7, "rules")
    assert identity.keys() == identity_defaults().keys()
    assert "judge_fallback" in free_for_judging()
    assert "sample" not in free_for_judging()
    assert {"run", "results"} & settings_record(settings).keys() == set()
