"""``data review``: a page on which a person keeps, drops or edits each dialogue, its words collapsed, and what comes of the decisions."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from markupsafe import Markup

from safemt_api.dataset.elements import parse_dialogue
from safemt_api.dataset.entries import Dataset, Entry
from safemt_api.dataset.own_form import PROVENANCE_FILE, copy_picture, element_of, new_folder, write_dialogues
from safemt_api.errors import DatasetError, Problem, UsageError
from safemt_api.files import write_json
from safemt_api.foreign_text import printable
from safemt_api.messages import Dialogue

DECISIONS_SCHEMA = 1
MAX_DECISIONS_BYTES = 64 * 1024 * 1024

STYLE = """
:root { color-scheme: light dark; }
body { margin: 0 auto; max-width: 50rem; padding: 1.5rem; font: 1rem/1.5 system-ui, sans-serif; }
article { border: 1px solid; border-radius: .4rem; padding: .6rem 1rem; margin: 0 0 1rem; }
article h2 { font-size: 1rem; margin: 0; overflow-wrap: anywhere; }
textarea { width: 100%; box-sizing: border-box; min-height: 3.5rem; font: inherit; }
fieldset { border: 0; padding: .3rem 0; }
header { position: sticky; top: 0; background: Canvas; padding: .5rem 0; }
"""

SCRIPT = """
'use strict';
const mark = document.body.dataset.fingerprint, key = 'review ' + mark;
const kept = JSON.parse(localStorage.getItem(key) || '{}');
const articles = [...document.querySelectorAll('article')];
function remember() { localStorage.setItem(key, JSON.stringify(kept)); count(); }
function count() {
  const done = articles.filter((one) => kept[one.id] && kept[one.id].decision).length;
  document.getElementById('done').textContent = done + ' of ' + articles.length + ' decided';
}
for (const article of articles) {
  const own = kept[article.id] || (kept[article.id] = {});
  for (const choice of article.querySelectorAll('input')) {
    choice.checked = own.decision === choice.value;
    choice.addEventListener('change', () => { own.decision = choice.value; remember(); });
  }
  const words = [...article.querySelectorAll('textarea')];
  words.forEach((area, place) => {
    if (own.texts) area.value = own.texts[place];
    area.addEventListener('input', () => { own.texts = words.map((one) => one.value); remember(); });
  });
}
document.getElementById('save').addEventListener('click', () => {
  const decisions = articles.filter((one) => kept[one.id].decision).map((one) => ({
    id: one.dataset.dialogue, length: Number(one.dataset.length), decision: kept[one.id].decision,
    ...(kept[one.id].texts ? { texts: kept[one.id].texts } : {}) }));
  const text = JSON.stringify({ schema: 1, fingerprint: mark, decisions }, null, 1);
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([text], { type: 'application/json' }));
  link.download = 'decisions.json';
  link.click();
});
count();
"""


_HEAD = (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="referrer" content="no-referrer">\n'
    "<title>Review of {name}</title><style>%s</style></head>\n"
    '<body data-fingerprint="{mark}"><header><h1>Review of {name}</h1>'
    '<p><output id="done"></output> <button id="save">Save decisions</button></p></header>\n<main>\n{articles}\n</main>\n'
    "<script>%s</script></body></html>\n"
)
PAGE = Markup(_HEAD % (STYLE.replace("{", "{{").replace("}", "}}"), SCRIPT.replace("{", "{{").replace("}", "}}")))  # noqa: S704 (all ours)


def _source(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode('ascii')}'"


def review_page(dataset: Dataset) -> str:
    """The page, in one file that asks nothing of the network; decisions stay in the browser until they are saved."""
    policy = f"default-src 'none'; style-src {_source(STYLE)}; script-src {_source(SCRIPT)}; base-uri 'none'; form-action 'none'"
    articles = Markup("\n").join(_article(place, dataset.read(entry)) for place, entry in enumerate(dataset.entries))
    return str(PAGE.format(policy=policy, name=printable(dataset.name), mark=dataset.fingerprint, articles=articles))


def _article(place: int, dialogue: Dialogue) -> Markup:
    facts = (dialogue.scenario, dialogue.kind, dialogue.method, f"{dialogue.length} turns", *dialogue.image_paths)
    told = " · ".join(printable(one) for one in facts if one)
    words = Markup("").join(
        Markup("<p><label>{role}<textarea>\n{text}</textarea></label></p>").format(role=line.role, text=printable(line.text))
        for line in dialogue.lines
    )
    choices = Markup("").join(
        Markup('<label><input type="radio" name="c{place}" value="{value}"> {value}</label> ').format(place=place, value=value)
        for value in ("keep", "drop")
    )
    return Markup(
        '<article id="d{place}" data-dialogue="{name}" data-length="{length}"><h2>{name}</h2><p>{told}</p><fieldset>{choices}</fieldset>'
        "<details><summary>Goal and words</summary><p>{goal}</p>{words}</details></article>"
    ).format(
        place=place,
        name=dialogue.id,
        length=dialogue.length,
        told=told,
        choices=choices,
        goal=printable(dialogue.goal),
        words=words,
    )


def apply_decisions(dataset: Dataset, file: Path, to: Path) -> tuple[int, int, int]:
    """Write what the decisions keep; what was not decided is kept as it is. Returns how many are kept, dropped and edited.

    Raises:
        UsageError: The file is none, or of other data, or the target is not empty.
        DatasetError: An edited dialogue is not sound any more.
    """
    decisions = _read(file, dataset)
    kept: list[Dialogue] = []
    edited = 0
    problems: list[Problem] = []
    for entry in dataset.entries:
        decision = decisions.get((entry.id, entry.length), {})
        if decision.get("decision") == "drop":
            continue
        dialogue, why = _edited(dataset.read(entry), decision.get("texts"))
        edited += decision.get("texts") is not None
        kept.append(dialogue)
        problems.extend(_problem(entry, what) for what in why)
    if problems:
        raise DatasetError(file, problems)
    new_folder(to)
    paths = dict.fromkeys(path for dialogue in kept for path in dialogue.image_paths)
    there = {dialogue.id for dialogue in kept}
    whole = [dialogue if dialogue.pair in there else replace(dialogue, pair=None) for dialogue in kept]
    write_dialogues(to, whole, {path: copy_picture(dataset.folder, path, to) for path in paths})
    layout = {} if dataset.layout is None else dataset.layout.record
    dropped = len(dataset.entries) - len(kept)
    record = {
        **layout,
        "schema": 1,
        "read_from": dataset.name,
        "reviewed": {"of": dataset.fingerprint, "dropped": dropped, "edited": edited},
    }
    write_json(to / PROVENANCE_FILE, record)
    return len(kept), dropped, edited


def _problem(entry: Entry, what: str) -> Problem:
    return Problem(entry.file, f"as edited, {what}", entry.index, entry.id)


def _read(file: Path, dataset: Dataset) -> Mapping[tuple[str, int], dict[str, Any]]:
    try:
        if file.stat().st_size > MAX_DECISIONS_BYTES:
            raise UsageError(f"--apply {file}: larger than decisions are")
        found = json.loads(file.read_bytes())
        if found["schema"] != DECISIONS_SCHEMA or found["fingerprint"] != dataset.fingerprint:
            raise UsageError(f"--apply {file}: these decisions were made about other data than are in {dataset.folder}")
        return {(one["id"], one["length"]): one for one in found["decisions"] if one["decision"] in ("keep", "drop")}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"--apply {file}: no decisions of `data review` ({error})") from error


def _edited(dialogue: Dialogue, texts: object) -> tuple[Dialogue, tuple[str, ...]]:
    if texts is None:
        return dialogue, ()
    if not isinstance(texts, list) or len(texts) != len(dialogue.lines) or not all(isinstance(text, str) for text in texts):
        return dialogue, ("it has another number of messages",)
    lines = tuple(replace(line, text=text) for line, text in zip(dialogue.lines, texts, strict=True))
    changed = replace(dialogue, lines=lines)
    _, problems = parse_dialogue(element_of(changed), length=dialogue.length)
    empty = ("a message has no words",) if any(not text.strip() for text in texts) else ()
    return changed, (*problems, *empty)
