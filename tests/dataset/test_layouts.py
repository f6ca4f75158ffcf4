"""Each shipped layout reads a folder in its publisher's form, converts to our own, and says in one sentence what is wrong with another."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safemt_api.dataset import layouts as layouts_module
from safemt_api.dataset import picture_files, rows
from safemt_api.dataset.entries import Dataset, load_dataset
from safemt_api.dataset.findings import examine
from safemt_api.dataset.layouts import Layout, Row, find_layout, load_layouts, read_layout
from safemt_api.dataset.own_form import PROVENANCE_FILE, convert
from safemt_api.dataset.picture_files import ImageError, inspect_image
from safemt_api.errors import DatasetError, LayoutError, UsageError
from safemt_api.files import shipped_folder
from safemt_api.messages import Dialogue

Make = Callable[..., Any]
PLACEHOLDER = "[PLACEHOLDER request {}]"


def _text(number: int) -> str:
    return PLACEHOLDER.format(number)


def _put(root: Path, name: str, data: bytes | str) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def _csv(rows_: list[dict[str, str]]) -> str:
    target = io.StringIO()
    writer = csv.DictWriter(target, list(dict.fromkeys(name for row in rows_ for name in row)))
    writer.writeheader()
    writer.writerows(rows_)
    return target.getvalue()


def _safemt(root: Path, picture: bytes) -> None:
    element = {"id": "mm_a_1", "scenario": "Fraud", "image_path": "images/a.png", "question": _text(0)}
    _put(root, "1_turn.json", json.dumps([{**element, "dialogue": [{"role": "user", "content": _text(1)}]}]))
    _put(root, "images/a.png", picture)


def _openai(root: Path, picture: bytes) -> None:
    shown = [{"type": "image_url", "image_url": {"url": "p/a.png"}}, {"type": "text", "text": _text(1)}]
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": shown},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": [{"type": "text", "text": _text(2)}, {"type": "image_url", "image_url": "p/b.png"}]},
        {"role": "assistant", "content": "Left out."},
    ]
    lines = [
        {"messages": messages, "id": "x", "goal": "g", "pair": "y"},
        {"messages": [{"role": "user", "content": _text(3)}], "kind": "benign"},
    ]
    _put(root, "some.jsonl", "\n".join(map(json.dumps, lines)) + "\n")
    for name in ("p/a.png", "p/b.png"):
        _put(root, name, picture)


def _safemtdata(root: Path, _picture: bytes) -> None:
    row = {
        "query_id": 7,
        "actor_name": "A",
        "category": "cyber",
        "plain_query": _text(0),
        "multi_turn_queries": [_text(1), _text(2), _text(3)],
    }
    _put(root, "SafeMTData/Attack_600.json", json.dumps([row, row]))


def _mhj(root: Path, _picture: bytes) -> None:
    def message(role: str, text: str) -> str:
        return json.dumps({"role": role, "body": text})

    row = {"Source": "DERTA", "tactic": "Obfuscation", "question_id": "12", "submission_message": "note"}
    said = {
        "message_0": message("system", "s"),
        "message_1": message("user", _text(1)),
        "message_2": message("user", _text(2)),
        "message_3": "",
    }
    _put(root, "harmbench_behaviors.csv", _csv([{**row, **said}]))


def _jailbreakv(root: Path, picture: bytes) -> None:
    row = {"id": "0", "jailbreak_query": _text(1), "redteam_query": _text(0), "format": "figstep", "policy": "Fraud"}
    more = {"image_path": "figstep/f_1.png", "from": "x", "selected_mini": "True", "transfer_from_llm": "False"}
    for name in ("JailBreakV_28K.csv", "mini_JailBreakV_28K.csv"):
        _put(root, f"JailBreakV_28K/{name}", _csv([{**row, **more}]))
    _put(root, "JailBreakV_28K/figstep/f_1.png", picture)


def _mm_safetybench(root: Path, picture: bytes) -> None:
    row = {"Question": _text(0), "Rephrased Question": _text(1), "Rephrased Question(SD)": _text(2), "Key Phrase": "x"}
    _put(root, "data/processed_questions/06-Fraud.json", json.dumps({"0": row, "1": row}))
    with zipfile.ZipFile(root / "MM-SafetyBench(imgs).zip", "w") as packed:
        for kind in ("SD", "SD_TYPO", "TYPO"):
            for key in "01":
                packed.writestr(f"MM-SafetyBench(imgs)/06-Fraud/{kind}/{key}.jpg", picture)


def _mm_safetybench_hub(root: Path, picture: bytes) -> None:
    for kind in ("SD", "TYPO", "Text_only"):
        (root / "data/Fraud").mkdir(parents=True, exist_ok=True)
        image = [{"bytes": picture, "path": "0.jpg"}]
        pl.DataFrame({"id": ["0"], "question": [_text(1)], "image": image}).write_parquet(root / f"data/Fraud/{kind}.parquet")


def _vlsbench(root: Path, picture: bytes) -> None:
    row = {"instruction_id": 3, "instruction": _text(1), "image_path": "imgs/3.png", "category": "Privacy", "sub_category": "x"}
    _put(root, "data.json", json.dumps([{**row, "source": "coco2017", "image_description": "a square", "safety_reason": "none"}]))
    _put(root, "imgs/3.png", picture)


def _mmds(root: Path, picture: bytes) -> None:
    turns = [
        {"role": "user", "image": ["images/0.png", "images/1.png"], "content": _text(1)},
        {"role": "assistant", "image": [], "content": "I see."},
        {"role": "user", "image": ["images/1.png"], "content": _text(2)},
        {"role": "assistant", "image": [], "content": "The answer, which is left out."},
    ]
    row = {"id": 5, "data_type": "default", "dimension": "Fraud", "malicious_intent": _text(0), "conversations": turns}
    lines = [row, {**row, "id": 6, "dimension": "", "malicious_intent": ""}, {**row, "id": 7, "data_type": "augmentation"}]
    _put(root, "mmds.jsonl", "\n".join(map(json.dumps, lines)))
    for name in ("images/0.png", "images/1.png"):
        _put(root, name, picture + name[-5:-4].encode() * 0)


def _mtmcs(root: Path, picture: bytes) -> None:
    (root / "data").mkdir(parents=True)
    keys = ("r1", "r2", "r3", "safe_r1", "unsafe_r1", "safe_r3", "unsafe_r3")
    for split, given_ in (("a", ("r1", "r2", "safe_r3", "unsafe_r3")), ("b", ("r2", "r3", "safe_r1", "unsafe_r1"))):
        # The card's types: whole numbers for ids, and strings, of which those that a split does without are empty or null.
        words = {key: f"[{key}]" if key in given_ else "" if split == "a" else None for key in keys}
        said = {"multimodal_dialogue": [words], "unimodal_dialogue": [words], "unsafe_intent": [_text(0)]}
        frame = {"id": pl.Series([4], dtype=pl.Int32), "image": [{"bytes": picture, "path": None}], **said}
        pl.DataFrame(frame).write_parquet(root / f"data/type_{split}-00000-of-00001.parquet")


FORMS: dict[str, tuple[str, Callable[[Path, bytes], None], int, set[int]]] = {
    "safemt": ("safemt", _safemt, 1, {1}),
    "openai": ("openai", _openai, 2, {1, 2}),
    "safemtdata": ("safemtdata", _safemtdata, 2, {3}),
    "mhj": ("mhj", _mhj, 1, {2}),
    "jailbreakv-28k": ("jailbreakv-28k", _jailbreakv, 1, {1}),
    "mm-safetybench": ("mm-safetybench", _mm_safetybench, 6, {1}),
    "mm-safetybench on the hub": ("mm-safetybench", _mm_safetybench_hub, 2, {1}),
    "vlsbench": ("vlsbench", _vlsbench, 1, {1}),
    "mmds": ("mmds", _mmds, 2, {2}),
    "mtmcs-bench": ("mtmcs-bench", _mtmcs, 8, {3}),
}


def _dialogues(dataset: Dataset) -> dict[tuple[str, int], Dialogue]:
    return {(entry.id, entry.length): dataset.read(entry) for entry in dataset.entries}


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest, tmp_path: Path, picture: Make) -> tuple[str, Path, int, set[int]]:
    name, write, dialogues, lengths = FORMS[request.param]
    root = tmp_path / "data"
    root.mkdir()
    write(root, picture())
    return name, root, dialogues, lengths


def test_each_shipped_layout_has_a_form_here_and_tells_its_sources() -> None:
    layouts = load_layouts()
    assert {name for name, *_ in FORMS.values()} == set(layouts)
    assert all(source.startswith("https://") for layout in layouts.values() for source in layout.sources)
    assert {file.stem for file in shipped_folder("layouts").glob("*.toml")} == set(layouts)


def test_a_folder_in_its_publishers_form_is_known_by_itself_and_read_whole(form: tuple[str, Path, int, set[int]]) -> None:
    name, root, dialogues, lengths = form
    dataset = load_dataset(root)
    assert dataset.layout is not None
    assert (dataset.layout.name, len(dataset.entries), set(dataset.lengths), dataset.problems) == (name, dialogues, lengths, ())
    assert load_dataset(root, layout=name).fingerprint == dataset.fingerprint
    assert examine(root).problems == ()
    assert all(PLACEHOLDER[:5] in text or text.startswith("[") for one in _dialogues(dataset).values() for text in one.user_texts)


def test_converted_it_is_the_same_dialogues_in_our_own_form_with_its_terms(form: tuple[str, Path, int, set[int]], tmp_path: Path) -> None:
    name, root, _, _ = form
    _put(root, "LICENSE", "the terms")
    dataset = load_dataset(root)
    convert(dataset, tmp_path / "out")
    again = load_dataset(tmp_path / "out")
    assert again.layout is not None
    assert again.layout.is_own_form
    before, after = _dialogues(dataset), _dialogues(again)
    assert before.keys() == after.keys()
    for key, one in before.items():
        other = after[key]
        assert [(line.role, line.text) for line in one.lines] == [(line.role, line.text) for line in other.lines]
        assert all(getattr(one, name) == getattr(other, name) for name in ("goal", "kind", "method", "pair", "scenario", "language"))
        digests = [[inspect_image(d.folder, path) for path in dialogue.image_paths] for d, dialogue in ((dataset, one), (again, other))]
        assert digests[0] == digests[1]
    record = json.loads((tmp_path / "out" / PROVENANCE_FILE).read_text(encoding="utf-8"))
    layout = load_layouts()[name]
    assert (record["layout"], record["licence"], record["citation"]) == (name, layout.licence, layout.citation)
    assert record["files"]
    assert str(tmp_path) not in json.dumps(record)
    assert (tmp_path / "out" / "terms" / "LICENSE").read_text(encoding="utf-8") == "the terms"


def test_a_wrong_file_in_its_place_is_one_clear_sentence(form: tuple[str, Path, int, set[int]]) -> None:
    name, root, _, _ = form
    layout = load_layouts()[name]
    for path, _files in rows.files_of(root, layout):
        path.write_bytes(b'{"unlike": "anything"}\n')
    with pytest.raises(DatasetError) as caught:
        load_dataset(root, layout=name)
    problem = str(caught.value.problems[0])
    assert "\n" not in problem
    assert any(said in problem for said in ("cannot be read as", "is not", "lacks the column", "is missing")), problem


def test_several_pictures_stand_where_the_publisher_has_them(tmp_path: Path, picture: Make) -> None:
    _mmds(tmp_path, picture())
    dialogues = _dialogues(load_dataset(tmp_path))
    found = dialogues["mmds_5", 2]
    assert [line.image_paths for line in found.lines] == [("images/0.png", "images/1.png"), (), ("images/1.png",)]
    assert (found.kind, dialogues["mmds_6", 2].kind, found.lines[-1].role) == ("harmful", "benign", "user")


def test_twins_of_mtmcs_share_all_but_one_message(tmp_path: Path, picture: Make) -> None:
    _mtmcs(tmp_path, picture())
    dialogues = _dialogues(load_dataset(tmp_path))
    harmful, benign = dialogues["mtmcs_b_4_mm", 3], dialogues["mtmcs_b_4_mm_safe", 3]
    assert (harmful.user_texts, benign.user_texts) == (("[unsafe_r1]", "[r2]", "[r3]"), ("[safe_r1]", "[r2]", "[r3]"))
    assert (harmful.pair, benign.pair, harmful.kind, benign.kind) == (benign.id, harmful.id, "harmful", "benign")
    assert (harmful.goal, benign.goal) == (_text(0), "[r3]")
    assert harmful.user_only
    assert harmful.image_paths
    assert not dialogues["mtmcs_a_4_um", 3].image_paths


def test_the_prefix_of_an_id_tells_the_source_without_another_fingerprint(tmp_path: Path, picture: Make) -> None:
    _safemt(tmp_path, picture())
    dataset = load_dataset(tmp_path)
    assert dataset.entries[0].source == "MM-SafetyBench"
    assert dataset.read(dataset.entries[0]).source == "MM-SafetyBench"


def test_nothing_known_and_more_than_one_that_fits_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="no other known layout fits; give the folder of a data set, or --layout with"):
        load_dataset(tmp_path)
    with pytest.raises(UsageError, match=r"--layout mhi: no such layout or file \(did you mean 'mhj'\?\)"):
        load_dataset(tmp_path, layout="mhi")
    with pytest.raises(UsageError, match=r"holds no \*\*/harmbench_behaviors.csv, where the layout mhj has its dialogues"):
        load_dataset(tmp_path, layout="mhj")
    work = tmp_path / "work"
    text = (shipped_folder("layouts") / "openai.toml").read_text(encoding="utf-8")
    _put(work, "layouts/mine.toml", text.replace('name = "openai"', 'name = "mine"'))
    _openai(work, b"")
    monkeypatch.chdir(work)
    with pytest.raises(UsageError, match="fits more than one layout: give --layout with one of mine, openai"):
        load_dataset(work)


def test_a_layout_of_ones_own_may_stand_in_a_file(tmp_path: Path, picture: Make) -> None:
    own = """
name = "mine"
title = "Mine"
licence = "ours"
citation = "none"
sources = ["https://example.org/mine"]
checked = 2026-11-21
files = [{ patterns = ["*.csv"], rows = "csv" }]
fields = { id = "m_{no}", scenario = "{topic}", goal = "{aim}", kind = "{label}" }
turns = { users = ["{first}", "{second}"] }
pictures = { path = "{file}", roots = ["pics.zip/inner"] }
[values.kind]
bad = "harmful"
"*" = "benign"
"""
    data = tmp_path / "d"
    row = {"no": "1", "topic": "T", "aim": "a", "label": "bad", "first": "one", "second": "", "file": "x.png"}
    _put(data, "t.csv", _csv([row, {**row, "no": "2", "label": "good", "second": "two"}, {**row, "no": "", "first": "three"}]))
    with zipfile.ZipFile(data / "pics.zip", "w") as packed:
        packed.writestr("inner/x.png", picture())
    dataset = load_dataset(data, layout=str(_put(tmp_path, "mine.toml", own)), skip_invalid=True)
    found = _dialogues(dataset)
    assert {(key, one.kind, one.scenario, one.image_paths) for key, one in found.items()} == {
        (("m_1", 1), "harmful", "T", ("pics.zip/inner/x.png",)),
        (("m_2", 2), "benign", "T", ("pics.zip/inner/x.png",)),
    }
    assert [str(problem) for problem in dataset.problems] == [
        't.csv[2]: has no "id": the layout mine takes it from m_{no}, and nothing is there'
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('licence = "MIT"', "licence = 5"), "licence: Input should be a valid string"),
        (('licence = "MIT"', ""), "licence: Field required"),
        (('licence = "MIT"', 'licence = "MIT"\nlisense = "x"'), "lisense: no such field"),
        (('"**/Attack_600.json"', '"../Attack_600.json"'), "must be a pattern below the data folder"),
        (('user_list = "multi_turn_queries"', ""), "must have exactly one of messages, numbered, users, user_list"),
        (('name = "safemtdata"', "name = ["), "cannot be read as TOML"),
    ],
)
def test_a_layout_file_that_is_wrong_is_named_with_its_field(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    text = (shipped_folder("layouts") / "safemtdata.toml").read_text(encoding="utf-8")
    assert change[0] in text
    file = _put(tmp_path, "safemtdata.toml", text.replace(*change))
    with pytest.raises(LayoutError) as caught:
        read_layout(file)
    assert said in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_file_whose_name_is_another_than_the_layouts_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _put(tmp_path, "layouts/other.toml", (shipped_folder("layouts") / "mhj.toml").read_bytes())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LayoutError, match=r"other\.toml: name: is 'mhj' but the file is called other\.toml"):
        load_layouts()


def test_pictures_in_archives_and_tables_are_read_within_bounds(tmp_path: Path, picture: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "p.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("a.png", picture())
        packed.writestr("bomb.png", b"\0" * 3_000_000)
        packed.writestr("empty.png", b"")
    pl.DataFrame({"image": [picture(), None], "n": [1, 2]}).write_parquet(tmp_path / "t.parquet")
    _put(tmp_path, "broken.zip", "no zip")
    _put(tmp_path, "broken.parquet", "no table")
    monkeypatch.setattr(picture_files, "MAX_PICTURE_BYTES", 1_000_000)
    assert inspect_image(tmp_path, "p.zip/a.png").media_type == "image/png"
    assert inspect_image(tmp_path, "t.parquet/image/0").media_type == "image/png"
    for path, said in {
        "p.zip/bomb.png": "has more than the 1,000,000 bytes allowed",
        "p.zip/empty.png": "is an empty file",
        "p.zip/none.png": "is missing: there is no such file in the archive",
        "p.zip/../a.png": "leaves the data folder with ..",
        "broken.zip/a.png": "cannot be read from the archive",
        "none.zip/a.png": "image none.zip is missing",
        "t.parquet/image/1": "is missing: the table has no bytes there",
        "t.parquet/image/9": "is missing: the table has no bytes there",
        "t.parquet/image/-1": "names no column and row",
        "t.parquet/n/0": "is missing: the table has no bytes there",
        "t.parquet/other/0": "cannot be read from the table",
        "broken.parquet/image/0": "cannot be read from the table",
    }.items():
        with pytest.raises(ImageError, match=said.replace(".", r"\.")):
            inspect_image(tmp_path, path)


def test_a_link_to_an_archive_outside_is_refused(tmp_path: Path, picture: Make) -> None:
    with zipfile.ZipFile(tmp_path / "out.zip", "w") as packed:
        packed.writestr("a.png", picture())
    data = tmp_path / "data"
    data.mkdir()
    (data / "p.zip").symlink_to(tmp_path / "out.zip")
    with pytest.raises(ImageError, match="is a link that leaves the data folder"):
        inspect_image(data, "p.zip/a.png")


def test_tables_that_are_too_large_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, picture: Make) -> None:
    _mtmcs(tmp_path, picture())
    monkeypatch.setattr(rows, "MAX_TABLE_BYTES", 10)
    with pytest.raises(DatasetError, match="unpacks to more than the 10 bytes of text allowed"):
        load_dataset(tmp_path, layout="mtmcs-bench")
    monkeypatch.setattr(rows, "MAX_ROWS", 1)
    _safemtdata(tmp_path, b"")
    with pytest.raises(DatasetError, match="has more than 1 rows"):
        load_dataset(tmp_path, layout="safemtdata")


def test_a_missing_picture_and_a_duplicate_id_are_named_with_their_row(tmp_path: Path, picture: Make) -> None:
    _vlsbench(tmp_path, picture())
    (row,) = json.loads((tmp_path / "data.json").read_text(encoding="utf-8"))
    _put(
        tmp_path, "data.json", json.dumps([row, row, {**row, "instruction_id": 4, "image_path": "imgs/4.png"}, {**row, "image_path": None}])
    )
    dataset = load_dataset(tmp_path, skip_invalid=True)
    assert [str(problem) for problem in dataset.problems] == [
        "data.json[1] (vls_3): duplicate id: it stands at data.json[0] already",
        "data.json[2] (vls_4): image imgs/4.png is missing",
        "data.json[3] (vls_3): has no picture: the layout vlsbench takes it from {image_path}, and nothing is there",
    ]


def test_addresses_in_place_of_pictures_are_refused(tmp_path: Path) -> None:
    for url in ("https://example.org/a.png", "data:image/png;base64,AAAA"):
        part = {"type": "image_url", "image_url": {"url": url}}
        _put(tmp_path, "a.jsonl", json.dumps({"messages": [{"role": "user", "content": [part]}]}))
        with pytest.raises(DatasetError, match="must be a path below the data folder, not an address"):
            load_dataset(tmp_path)


KEYS = st.sampled_from(["role", "content", "type", "text", "image_url", "messages"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@given(value=JSON)
def test_whatever_stands_in_a_row_is_a_dialogue_or_a_sentence(value: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("row")
    layout = load_layouts()["openai"]
    row = Row({"messages": value}, file=root / "a.jsonl", number=0)
    element, problems = rows.in_own_form(row, layout, None, folder=root, file="a.jsonl")
    assert element["id"] == "a_0"
    assert all("\n" not in problem for problem in problems)


def test_templates_take_the_first_that_is_filled(tmp_path: Path) -> None:
    row = Row({"a": " ", "b": {"c": ["x", "y"]}, "n": 3, "t": True}, file=tmp_path / "f" / "g.json", number=2, key="k")
    assert row.filled(("{a}", "{b.c.1}-{n}")) == "y-3"
    assert row.filled("{file.folder}/{file.stem}/{row.number}/{row.key}") == "f/g/2/k"
    assert row.filled(("{t}", "{none}", "{b}")) is None
    assert row.filled(()) is None
    assert row.filled("constant") == "constant"


def test_a_layouts_record_names_its_digest() -> None:
    layout: Layout = find_layout("mhj")
    assert layout.record["layout_digest"].startswith("sha256:")


def test_the_demonstration_set_is_in_the_package_and_its_lack_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert (layouts_module.demonstration_folder() / "1_turn.json").is_file()
    monkeypatch.setattr(layouts_module, "__file__", str(tmp_path / "layouts.py"))
    with pytest.raises(UsageError, match="missing from this installation"):
        layouts_module.demonstration_folder()


def test_light_modules_do_not_load_pillow() -> None:
    program = (
        "import sys, safemt_api.dataset, safemt_api.dataset.hub, safemt_api.dataset.layouts, safemt_api.dataset.elements;"
        "sys.exit('PIL' in sys.modules or 'huggingface_hub' in sys.modules)"
    )
    root = Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", program], check=False, cwd=root).returncode == 0
