"""A run's name is a folder under the results folder on every system, and nothing else."""

from __future__ import annotations

import pytest

from safemt_api.errors import UsageError
from safemt_api.runs.names import MAX_NAME_BYTES, MAX_PART_BYTES, check_run_name, is_run_name


@pytest.mark.parametrize("name", ["first", "2026-11-21-openai-gpt-5-scripted", "a/b", "größer", "a b", "v1.2", "x" * MAX_PART_BYTES])
def test_a_plain_name_is_taken(name: str) -> None:
    assert check_run_name(name) == name
    assert is_run_name(name)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../evil", "'..' leads elsewhere"),
        ("a/../../evil", "'..' leads elsewhere"),
        (".", "'.' leads elsewhere"),
        ("a/./b", "'.' leads elsewhere"),
        ("/tmp/evil", "is no path; --results names"),  # noqa: S108 (a path that must be refused)
        ("C:/evil", "':' cannot stand"),
        ("..\\evil", r"'\\\\' cannot stand"),
        ("m?", r"'\?' cannot stand"),
        ("m*", r"'\*' cannot stand"),
        ("[red]b[/]*", r"'\[' cannot stand"),
        ("{a,b}", "'{' cannot stand"),
        ("~me", "'~' cannot stand"),
        ("a\x1b[31m", r"'\\x1b' cannot stand"),
        ("a\nb", r"'\\n' cannot stand"),
        ("a\x00", r"'\\x00' cannot stand"),
        ("a\u2028b", "cannot stand"),
        ("", "needs a name"),
        ("  ", "needs a name"),
        ("a//b", "is empty"),
        ("a/", "is empty"),
        (".hidden", "begins with '.'"),
        ("-rf", "begins with '.', '-'"),
        ("a.", "ends with '.'"),
        ("a ", "ends with '.' or a blank"),
        ("con", "'con' is a reserved name"),
        ("NUL.txt", "'NUL.txt' is a reserved name"),
        ("a/LPT9", "'LPT9' is a reserved name"),
        ("turns.sqlite", "is a reserved name"),
        ("Report.html", "is a reserved name"),
        ("x" * (MAX_PART_BYTES + 1), "no part of a run's name has more than"),
        ("ü" * (MAX_PART_BYTES // 2 + 1), "no part of a run's name has more than"),
        ("/".join(["x" * 100] * 5), f"at most {MAX_NAME_BYTES} bytes"),
        ("\udc80", "'\\\\udc80' cannot stand"),
    ],
)
def test_any_other_is_refused_in_one_sentence(name: str, reason: str) -> None:
    assert not is_run_name(name)
    with pytest.raises(UsageError, match=reason) as caught:
        check_run_name(name)
    assert str(caught.value).startswith("--run ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
