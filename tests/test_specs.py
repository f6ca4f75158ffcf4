"""Whom to ask, out of one text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safemt_api.errors import UsageError
from safemt_api.judges.bench import JUDGES
from safemt_api.moderators.opening import MODERATORS
from safemt_api.specs import MAX_CHARACTERS, TARGETS, Grammar, Kind, Spec

Options = tuple[tuple[str, str], ...]
GRAMMARS = (TARGETS, JUDGES, MODERATORS)
KINDS = {
    "chat": Kind(name="chat", form="PROVIDER:MODEL", options=("effort", "temperature")),
    "off": Kind(name="off", form="off", alone=True),
    "flags": Kind(name="flags", form="flags:vendor", models={"vendor": "flags-1"}),
}
OURS = Grammar("--who", KINDS, "chat")


@pytest.mark.parametrize(
    ("text", "kind", "provider", "model", "options"),
    [
        ("openai:gpt-x", "chat", "openai", "gpt-x", ()),
        ("ollama:llava:13b", "chat", "ollama", "llava:13b", ()),
        ("together:org/model", "chat", "together", "org/model", ()),
        ("vertex:model@001", "chat", "vertex", "model@001", ()),
        (" openai : gpt x ", "chat", "openai", "gpt x", ()),
        ("off", "off", "", "", ()),
        ("flags:vendor", "flags", "vendor", "flags-1", ()),
        ("flags:vendor:other", "flags", "vendor", "other", ()),
        ("v:m,temperature=0, effort=low", "chat", "v", "m", (("effort", "low"), ("temperature", "0"))),
    ],
)
def test_a_spec_is_kind_provider_model_and_options(text: str, kind: str, provider: str, model: str, options: Options) -> None:
    spec = OURS.read(text)
    assert spec == Spec("", kind, provider, model, options)
    assert str(spec) == text.strip()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "None is empty or no text; it takes one of: PROVIDER:MODEL, off, flags:vendor"),
        (["v:m"], "is empty or no text"),
        ("", "is empty or no text"),
        ("  ", "is empty or no text"),
        ("openai", "'openai' is of no known form; it takes one of: PROVIDER:MODEL, off, flags:vendor"),
        ("openai:", "is of no known form"),
        (":gpt", "is of no known form"),
        (":", "is of no known form"),
        ("Off", r"is of no known form \(did you mean 'off'\?\)"),
        ("off:now", "write it as off"),
        ("flags", "write it as flags:vendor"),
        ("flags:", "write it as flags:vendor"),
        ("flags:openai", "names no model: write it as flags:PROVIDER:MODEL; models are known for: vendor"),
        ("v:m,temperatur=0", r"'temperatur=0' is no option \(did you mean 'temperature'\?\)"),
        ("v:m,effort", "'effort' is no option"),
        ("v:m,effort=", "'effort=' is no option"),
        ("v:m,effort=low,effort=high", "'effort=high' is no option.*may stand once"),
        ("off,effort=low", "after a comma nothing may stand"),
        ("v:m\x1b[2J", "holds characters that cannot be printed"),
        ("v:m\nv:n", "holds characters that cannot be printed"),
        ("v:\ud800", "holds characters that cannot be printed"),
        ("v:" + "m" * MAX_CHARACTERS, "is too long"),
    ],
)
def test_anything_else_is_refused_with_the_option_and_the_forms(text: object, words: str) -> None:
    with pytest.raises(UsageError, match=f"--who .*{words}"):
        OURS.read(text)


def test_another_option_of_the_same_grammar_is_named_instead() -> None:
    with pytest.raises(UsageError, match="--other 'x'"):
        OURS.read("x", "--other")


LIKE_SPECS = st.lists(st.sampled_from([":", ",", "=", "rules", "guard", "none", "x"])).map("".join)


@given(st.sampled_from(GRAMMARS), st.text(max_size=400) | LIKE_SPECS)
def test_whatever_is_written_is_a_spec_or_one_short_sentence(grammar: Grammar[Kind], text: str) -> None:
    try:
        spec = grammar.read(text)
    except UsageError as error:
        spec, said = None, str(error)
    if spec is None:
        assert said.isprintable()
        assert len(said) < 2 * MAX_CHARACTERS + 300
    else:
        assert spec == grammar.read(str(spec))
        assert grammar.kind(spec).alone == (not spec.provider)
