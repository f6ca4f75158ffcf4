"""The typed keywords of the Python API are those of the settings (``make docs`` writes them), and mypy finds a misspelt one."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from mypy import api as mypy

from safemt_api.errors import UsageError
from safemt_api.evaluation import evaluate
from safemt_api.runs import keywords
from safemt_api.runs.options import OptionField
from safemt_api.runs.settings import options, settings_from

PROJECT = Path(__file__).resolve().parents[2]
MODULE = PROJECT / "safemt_api" / "runs" / "keywords.py"
HEAD = '''"""The keywords of ``evaluate`` for type checkers; ``make docs`` writes this file from the settings' fields."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypedDict


class EvalKeywords(TypedDict, total=False):
    """Every option of a run by the name of its field in ``EvalSettings``, in the forms that it is taken in."""

'''


def module_text() -> str:
    """The module as it should be."""
    return HEAD + "".join(f"    {one.name}: {_form(one)}\n" for one in options())


def _form(one: OptionField) -> str:
    plain = one.plain_type
    if get_origin(plain) is tuple:
        forms = ["str", f"Sequence[{_word(get_args(plain)[0])}]"]
    elif plain is Path:
        forms = ["str", "Path"]
    else:
        forms = [_word(plain)]
    return " | ".join([*forms, "None"] if one.default is None else forms)


def _word(plain: Any) -> str:
    if get_origin(plain) is Literal:
        names = ", ".join(f'"{one}"' for one in get_args(plain))
        return f"Literal[{names}]"
    if isinstance(plain, type) and issubclass(plain, str):
        return "str"
    return str(getattr(plain, "__origin__", plain).__name__)


def test_the_keywords_are_those_of_the_settings() -> None:
    assert MODULE.read_text(encoding="utf-8") == module_text(), "run `make docs`"
    assert keywords.EvalKeywords.__annotations__.keys() == {one.name for one in options()}


SNIPPET = """
from safemt_api import evaluate, study

async def run() -> None:
    await evaluate(provider="openai", data="x", judges="rules", lengths=[1, 2], max_usd=5, sample=5)
    await study("study.toml", data="x", judges="rules", lengths=[1, 2], max_usd=5, sample=5)
    await {mistake}
"""


@pytest.mark.parametrize(
    ("mistake", "complaint"),
    [
        ("evaluate(smaple=5)", 'Unexpected keyword argument "smaple"'),
        ('evaluate(protocol="livee")', "has incompatible type"),
        ("evaluate(sample=[5])", "has incompatible type"),
        ("study('s.toml', smaple=5)", 'Unexpected keyword argument "smaple"'),
    ],
)
@pytest.mark.timeout(300)  # mypy reads the whole package where its cache is cold
def test_a_misspelt_option_fails_in_mypy(mistake: str, complaint: str, tmp_path: Path) -> None:
    file = tmp_path / "snippet.py"
    file.write_text(SNIPPET.format(mistake=mistake), encoding="utf-8")
    config = ["--config-file", str(PROJECT / "pyproject.toml"), "--cache-dir", str(PROJECT / ".mypy_cache"), "--follow-imports=silent"]
    out, err, code = mypy.run([*config, str(file)])
    assert code == 1, (out, err)
    (error,) = [line for line in out.splitlines() if ": error:" in line]
    assert "snippet.py:7: " in error
    assert complaint in error


def test_strings_work_where_the_type_is_plain() -> None:
    settings = settings_from({"data": "x", "results": "y", "judges": "rules", "sample": "5", "lengths": "4,1", "kinds": "both"})
    assert (settings.data, settings.results) == (Path("x"), Path("y"))
    assert (settings.judges, settings.sample, settings.lengths) == (("rules",), 5, (1, 4))
    assert settings.kinds == ("harmful", "benign")


async def test_evaluate_takes_strings(tmp_path: Path) -> None:
    given: dict[str, Any] = {"sample": "1", "lengths": "1", "seed": "3"}
    result = await evaluate(results=str(tmp_path), run="strings", judges="rules", **given)
    assert result.summary.dialogues.finished == 1
    assert result.folder == tmp_path / "strings"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"smaple": 5}, r"no such option: smaple \(did you mean 'sample'\?\); there are: "),
        ({"sample": "five"}, "--sample 'five' is not a whole number"),
        ({"data": 5}, "--data 5 is not a path"),
        ({"judges": 5}, "--judge 5"),
        ({"lengths": "one"}, "--lengths 'one': give whole numbers"),
    ],
)
async def test_what_does_not_work_is_one_sentence(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        await evaluate(**given)


if __name__ == "__main__":
    MODULE.write_text(module_text(), encoding="utf-8")
