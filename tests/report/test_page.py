"""The page as text: self-contained, locked down, whole with and without charts, and deaf to whatever a model wrote."""

from __future__ import annotations

import json
import re
import sys
import zlib
from base64 import b64decode, b64encode
from collections.abc import Callable
from hashlib import sha256
from html import unescape
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from PIL import Image as Pictures

from safemt_api.errors import StoreError, UsageError
from safemt_api.report import payload as payload_module
from safemt_api.report.charts import limiter_frame
from safemt_api.report.page import page_name, render_page, write_page
from safemt_api.report.payload import thumbnail
from safemt_api.report.table import series_of
from safemt_api.runs.record import read_run

MakeRun = Callable[..., Path]
ATTACK = '</script><script>window.hacked = 1</script><img src=x onerror="window.hacked = 2">'


def _embedded(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


def _unpacked(page: str) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(zlib.decompress(b64decode(_embedded(page)["transcripts"])))
    return body


def test_the_policy_allows_only_the_pages_own_style_and_script(make_run: MakeRun) -> None:
    page = render_page([read_run(make_run())], charts=False)
    policy = unescape(re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)[0])
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    for tag, rule in (("script", "script-src"), ("style", "style-src")):
        blocks = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        assert len(blocks) == 1
        assert f"{rule} 'sha256-{b64encode(sha256(blocks[0].encode()).digest()).decode()}'" in policy


@pytest.mark.parametrize("charts", [True, False])
def test_nothing_on_the_page_points_to_the_network(make_run: MakeRun, *, charts: bool) -> None:
    if charts:
        pytest.importorskip("vl_convert")
    page = render_page([read_run(make_run())], charts=charts)
    links = re.findall(r'(?:src|href|action)="([^"]*)"', page)
    assert all(link.startswith(("#", "data:")) for link in links)
    assert set(re.findall(r"https?://[^\s\"'<)]+", page)) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert 'style="' not in page


@pytest.mark.parametrize("place", ["reply", "model", "scenario", "judge", "name"])
def test_hostile_text_never_becomes_markup(make_run: MakeRun, place: str) -> None:
    settings: dict[str, dict[str, Any]] = {
        "reply": {"hostile": ATTACK},
        "model": {"model": ATTACK},
        "scenario": {"scenarios": [ATTACK, "Fraud"]},
        "judge": {"judge": ATTACK},
        "name": {},
    }
    folder = make_run(**settings[place])
    if place == "name":
        folder = folder.rename(folder.with_name('<img src=x onerror="hack()">'))
    page = render_page([read_run(folder)], charts="vl_convert" in sys.modules or place == "scenario")
    assert "<script>window.hacked" not in page
    assert "<img src=x" not in page
    assert page.count("</script>") == 2


def test_the_embedded_texts_are_those_of_the_files(make_run: MakeRun) -> None:
    run = read_run(make_run(hostile=ATTACK, panel=True))
    body = _unpacked(render_page([run], charts=False))
    assert len(body["dialogues"]) == run.transcripts.select("dialogue_id", "length").n_unique()
    first = body["dialogues"][0]
    assert body["strings"][first[8][0][2]] == ATTACK
    assert len(first[8][0][-1]) == 3
    assert len(body["strings"]) == len(set(body["strings"]))


def test_broken_message_json_and_lone_surrogates_do_not_break_the_page(make_run: MakeRun) -> None:
    folder = make_run()
    frame = pl.read_parquet(folder / "transcripts.parquet")
    broken = ["{not json", r'[{"role": "user", "content": "\ud800"}]', "[3]", *frame["messages"].to_list()[3:]]
    frame.with_columns(messages=pl.Series(broken)).write_parquet(folder / "transcripts.parquet")
    body = _unpacked(render_page([read_run(folder)], charts=False))
    shown = [body["strings"][row[7][1]] for row in body["dialogues"][:3]]
    assert shown[1] == "?"
    assert shown[0] == frame["user_text"][0]
    assert shown[2] == frame["user_text"][2]


def test_charts_are_inline_svg_in_theme_colours(make_run: MakeRun) -> None:
    pytest.importorskip("vl_convert")
    page = render_page([read_run(make_run())])
    assert page.count('<svg xmlns="http://www.w3.org/2000/svg" class="chart') == 6
    assert "var(--series-1)" in page
    assert not re.search(r"#010[abc]", page)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_without_the_extra_the_page_says_how_to_get_charts(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "safemt_api.report.charts", None)
    monkeypatch.delattr("safemt_api.report.charts", raising=False)
    page = render_page([read_run(make_run())])
    assert "safemt-api[charts]" in page
    assert 'class="chart' not in page
    assert "<h2" in page


def test_scores_stand_beside_the_baseline_judges_name(make_run: MakeRun) -> None:
    run = read_run(make_run(status="partial"))
    page = render_page([run], charts=False)
    assert page.count("baseline judge (rules)") >= 5
    assert f"{run.summary.safety_index.value:.3f}" in page
    assert "lengths 1, 2, 4, 6, 8" in page
    assert "is partial" in page


def test_several_runs_get_a_leaderboard_for_each_protocol(make_run: MakeRun) -> None:
    runs = [
        read_run(make_run("weak", base=0.6)),
        read_run(make_run("strong", base=0.0, step=0.0)),
        read_run(make_run("spoken", protocol="live")),
    ]
    page = render_page(runs, charts=False)
    scripted = page[page.index("Scripted protocol, by Safety Index") : page.index("Live protocol, by Safety Index")]
    assert scripted.index("strong") < scripted.index("weak")
    assert "spoken" not in scripted
    assert _embedded(page)["runs"] == ["weak", "strong", "spoken"]


def test_a_run_without_any_verdict_still_has_a_page(make_run: MakeRun) -> None:
    folder = make_run()
    verdicts = pl.read_parquet(folder / "verdicts.parquet")
    verdicts.with_columns(label=pl.lit(None, pl.String)).write_parquet(folder / "verdicts.parquet")
    summary = json.loads((folder / "summary.json").read_text())
    summary |= {"asr_by_turn": [], "safety_index": {"value": None, "ci_low": None, "ci_high": None, "lengths": []}, "outcomes": {}}
    (folder / "summary.json").write_text(json.dumps(summary))
    assert "so there is no score" in render_page([read_run(folder)])


def test_an_empty_run_still_has_a_page(make_run: MakeRun) -> None:
    folder = make_run()
    for name in ("transcripts.parquet", "verdicts.parquet"):
        pl.read_parquet(folder / name).clear().write_parquet(folder / name)
    summary = json.loads((folder / "summary.json").read_text()) | {"asr_by_turn": [], "outcomes": {}}
    (folder / "summary.json").write_text(json.dumps(summary))
    assert "Transcripts" in render_page([read_run(folder)])


def test_no_run_is_an_error() -> None:
    with pytest.raises(UsageError, match="at least one run"):
        render_page([])


def test_pictures_are_embedded_small_and_can_be_left_out(make_run: MakeRun) -> None:
    run = read_run(make_run(pictures=True))
    images = _unpacked(render_page([run], charts=False))["images"]
    assert len(images) == run.transcripts["image_path"].n_unique()
    assert all(image.startswith("data:image/jpeg;base64,") for image in images)
    assert set(_unpacked(render_page([run], charts=False, images=False))["images"]) == {None}


def test_the_number_of_pictures_is_bounded(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payload_module, "MAX_THUMBNAILS", 2)
    page = render_page([read_run(make_run(pictures=True))], charts=False)
    assert sum(image is not None for image in _unpacked(page)["images"]) == 2
    assert "pictures are not in this page" in page


def test_the_number_of_dialogues_is_bounded_and_those_that_are_not_safe_come_first(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = read_run(make_run())
    telling = run.verdicts.filter(pl.col("counts") & (pl.col("label").fill_null("missing") != "safe"))
    ids = {(row["dialogue_id"], row["length"]) for row in telling.iter_rows(named=True)}
    there = run.transcripts.select("dialogue_id", "length").n_unique()
    assert 0 < len(ids) < there - 1
    monkeypatch.setattr(payload_module, "MAX_DIALOGUES", len(ids) + 1)
    page = render_page([run], charts=False)
    unpacked = _unpacked(page)
    shown = {(unpacked["strings"][row[1]], row[4]) for row in unpacked["dialogues"]}
    assert (ids <= shown, len(shown)) == (True, len(ids) + 1)
    assert f"{there - len(ids) - 1} dialogues are not in this page" in page


def test_a_thumbnail_is_at_most_160_pixels_and_never_from_outside_the_folder(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    Pictures.new("RGB", (1000, 500)).save(data / "in.png")
    Pictures.new("RGB", (10, 10)).save(tmp_path / "secret.png")
    (data / "link.png").symlink_to(tmp_path / "secret.png")
    (data / "text.png").write_text("no picture")
    small = thumbnail(data, "/in.png")
    assert small is not None
    assert len(small) < 10_000
    assert [thumbnail(data, path) for path in ("../secret.png", "link.png", "text.png", "absent.png", "a\0b", "n" * 5000)] == [None] * 6


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "RGB"), ("PNG", "L"), ("JPEG", "RGB"), ("JPEG", "CMYK")])
def test_a_thumbnail_is_made_without_converting_the_whole_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, mode: str
) -> None:
    Pictures.linear_gradient("L").resize((1200, 900)).convert(mode).save(tmp_path / "a", kind)
    sizes = list[int]()
    real = Pictures.Image.convert

    def counted(picture: Pictures.Image, *args: Any, **options: Any) -> Pictures.Image:
        sizes.append(picture.width)
        return real(picture, *args, **options)

    monkeypatch.setattr(Pictures.Image, "convert", counted)
    small = thumbnail(tmp_path, "a")
    assert small is not None
    assert Pictures.open(BytesIO(small)).size == (160, 120)
    assert max(sizes) <= 400


@pytest.mark.parametrize("mode", ["1", "P", "I;16", "LA", "RGBA"])
def test_a_thumbnail_is_made_of_odd_pixels_too(tmp_path: Path, mode: str) -> None:
    grey = Pictures.linear_gradient("L").resize((400, 300))
    (grey.convert("I").convert("I;16") if mode == "I;16" else grey.convert(mode)).save(tmp_path / "a", "PNG")
    small = thumbnail(tmp_path, "a")
    assert small is not None
    assert Pictures.open(BytesIO(small)).size == (160, 120)


def test_a_decompression_bomb_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Pictures.new("1", (400, 400)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(payload_module, "MAX_SOURCE_PIXELS", 1000)
    assert thumbnail(tmp_path, "bomb.png") is None


def test_the_page_is_written_whole_or_not_at_all(make_run: MakeRun, tmp_path: Path) -> None:
    run = read_run(make_run())
    target = write_page(run.folder, [run], charts=False)
    assert target.read_text(encoding="utf-8").endswith("</html>\n")
    assert [file.name for file in run.folder.glob(".report*")] == []
    with pytest.raises(StoreError, match="cannot be written"):
        write_page(tmp_path / "nowhere", [run], charts=False)


def test_limiter_histories_of_any_shape_are_read(make_run: MakeRun) -> None:
    moves = [{"at_seconds": 0.0, "concurrency": 4}, {"at_seconds": 1, "concurrency": 5}]
    odd = {"openai": [*moves, "nonsense", {"at_seconds": "x"}], "judge": "nonsense"}
    frame = limiter_frame({"a": {"openai": moves}, "b": odd, "c": None, "d": {"x": 1}, "e": []})
    assert frame["run"].to_list() == ["a", "a", "b · openai", "b · openai"]
    assert frame["concurrency"].to_list() == [4.0, 5.0, 4.0, 5.0]


def test_several_runs_have_a_page_of_their_own(make_run: MakeRun, tmp_path: Path) -> None:
    a, b, c = (read_run(make_run(name)) for name in ("a", "b", "c"))
    names = {page_name(runs) for runs in ([a], [a, b], [b, a], [a, b, c])}
    assert len(names) == 4
    assert page_name([a]) == "report.html"
    assert re.fullmatch(r"report-a-b-[0-9a-f]{8}\.html", page_name([a, b]))
    assert write_page(tmp_path, [a, b], charts=False) == tmp_path / page_name([a, b])


def test_a_look_is_not_given_twice_before_64_runs() -> None:
    assert len({series_of(place) for place in range(64)}) == 64
