"""``data show`` and ``data fetch`` as a user types them."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from safemt_api.dataset import hub
from safemt_api.dataset.layouts import Layout, demonstration_folder
from safemt_api.report.page import MAX_AS_IT_IS_BYTES

Cli = Callable[..., Any]
ATTACK = '</article><script>window.hacked = 1</script><img src=x onerror="window.hacked = 2">\x1b]0;title\x07'
CHROMIUM = os.environ.get("SAFEMT_TEST_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A data folder with one dialogue that would like to be more than text, and a TIFF, which no browser shows."""
    folder = tmp_path / "data"
    folder.mkdir()
    Image.new("RGB", (40, 30), "#1f5f8b").save(folder / "a.png", "TIFF")
    said = [{"role": "user", "content": ATTACK}]
    element = {"id": "x<b>", "scenario": "<i>S", "image_rel_path": "/a.png", "dialogue": json.dumps(said)}
    (folder / "1_turn.json").write_text(json.dumps([element]), encoding="utf-8")
    return folder


def test_the_terminal_shows_words_and_what_the_picture_is(cli: Cli) -> None:
    said = cli("data", "show", "demo_satire_1", "--lengths", "1,2")
    shown = " ".join(said.out.split())
    assert said.code == 0
    for part in ("scenario Satire", "method purpose", "lengths 1, 2", "satire_1.png (image/png, 640 × 480 pixels, 3 KB)", "2 user turns"):
        assert part in shown
    assert "4 user turns" not in shown
    assert len(re.findall(r"^user ", said.out, re.MULTILINE)) == 3


def test_the_terminal_is_not_steered(cli: Cli, hostile: Path) -> None:
    said = cli("data", "show", "x<b>", hostile)
    assert "<script>" in said.out
    assert "\x1b" not in said.out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("demo_satir_1",), "did you mean demo_satire_1"),
        (("zzz",), "its ids look like demo_animal_abuse_1"),
        (("demo_satire_1", "--lengths", "3"), r"no 3_turn\.json in "),
        (("demo_satire_1", "--lengths", "three"), "give whole numbers"),
        (("demo_satire_1", "nowhere"), "no such folder"),
        (("demo_satire_1", "--html", "nowhere/x.html"), "cannot be written"),
    ],
)
def test_what_cannot_be_shown_is_said_in_one_sentence(cli: Cli, words: tuple[str, ...], sentence: str) -> None:
    said = cli("data", "show", *words)
    assert said.code == 2
    assert re.search(sentence, said.err)
    assert "Traceback" not in said.err


def test_the_page_holds_the_picture_and_nothing_that_runs(cli: Cli, hostile: Path, tmp_path: Path) -> None:
    assert cli("data", "show", "x<b>", hostile, "--html", tmp_path / "page.html").code == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert 'src="data:image/webp;base64,' in page
    assert "&lt;script&gt;window.hacked" in page
    assert "<script" not in page
    assert "\x1b" not in page
    assert "default-src &#39;none&#39;" in page
    assert str(hostile) not in page
    assert not re.search(r"(src|href)=.https?:", page)


def test_a_picture_of_many_bytes_is_made_smaller_for_the_page(cli: Cli, hostile: Path, tmp_path: Path) -> None:
    Image.effect_noise((2400, 2000), 90).save(hostile / "a.png", "PNG")
    assert (hostile / "a.png").stat().st_size > MAX_AS_IT_IS_BYTES
    assert cli("data", "show", "x<b>", hostile, "--html", tmp_path / "page.html").code == 0
    assert 'width="1600"' in (tmp_path / "page.html").read_text(encoding="utf-8")


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium, or set SAFEMT_TEST_CHROMIUM to its path")
def test_the_page_opens_in_a_browser(cli: Cli, hostile: Path, tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    cli("data", "show", "x<b>", hostile, "--html", tmp_path / "page.html")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        complaints: list[str] = []
        requests: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("request", lambda request: requests.append(request.url))
        page.goto((tmp_path / "page.html").as_uri())
        page.click("summary")
        assert page.evaluate("document.querySelector('img').naturalWidth") == 40
        assert page.evaluate("window.hacked") is None
        assert page.inner_text("article").endswith('onerror="window.hacked = 2">')
        browser.close()
    assert complaints == []
    assert [url for url in requests if not url.startswith("data:")] == [(tmp_path / "page.html").as_uri()]


def downloads(monkeypatch: pytest.MonkeyPatch, *, broken: bool) -> None:
    def fetched(target: Path, _layout: Layout, *, revision: str | None) -> Path:
        shutil.copytree(demonstration_folder(), target)
        if broken:
            (target / "images" / "fraud" / "fraud_1.png").write_bytes(b"half")
        return target

    monkeypatch.setattr(hub, "fetch_dataset", fetched)


def test_a_download_is_checked_before_it_is_called_in(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    downloads(monkeypatch, broken=False)
    said = cli("data", "fetch", "--to", "new", "--yes")
    assert said.code == 0
    assert "the data is in new, 340 dialogues and 68 pictures, checked" in said.err


def test_a_broken_download_is_not_called_in(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    downloads(monkeypatch, broken=True)
    said = cli("data", "fetch", "--to", "new", "--yes")
    assert said.code == 2
    assert "1_turn.json[8] (demo_fraud_1): image images/fraud/fraud_1.png" in said.out
    assert "has 5 problems" in said.err
    assert "the data is in" not in said.err


def test_another_layout_is_checked_counted_shown_converted_and_evaluated(cli: Cli, tmp_path: Path) -> None:
    data = tmp_path / "foreign"
    data.mkdir()
    lines = [{"role": "user", "content": f"[PLACEHOLDER {number}]"} for number in range(2)]
    rows = [{"query_id": 1, "category": "Fraud", "plain_query": "[PLACEHOLDER]", "multi_turn_queries": [line["content"] for line in lines]}]
    (data / "Attack_600.json").write_text(json.dumps(rows), encoding="utf-8")
    checked = cli("data", "check", data)
    assert checked.code == 0
    assert "note: 1 dialogues hold the user's messages alone: they can be played with --protocol live only" in checked.out
    assert "Fraud" in cli("data", "stats", data).out
    assert "[PLACEHOLDER 1]" in cli("data", "show", "safemtdata_1_0", data, "--layout", "safemtdata").out
    converted = cli("data", "convert", data, "--to", "ours")
    assert converted.code == 0
    assert "1 dialogues written to ours, layout safemtdata, licence MIT" in converted.err
    refused = cli("eval", "--data", data, "--judge", "rules")
    assert (refused.code, "give --protocol live" in refused.err) == (2, True)
    for folder in (data, "ours"):
        assert cli("eval", "--data", folder, "--judge", "rules", "--protocol", "live").code in (0, 4)
    again = cli("data", "convert", data, "--to", "ours")
    assert (again.code, "ours is not empty" in again.err) == (2, True)


def test_layouts_are_listed_with_their_terms(cli: Cli) -> None:
    said = cli("data", "layouts")
    assert "mhj: Multi-turn Human Jailbreaks (MHJ); licence CC-BY-NC-4.0, hub ScaleAI/mhj (gated); checked 2026-12-01" in said.out
    assert {one["layout"] for one in json.loads(cli("data", "layouts", "--json").out)} >= {"safemt", "mmds", "openai"}
    assert "that of no data set on the hub" in cli("data", "fetch", "--layout", "openai").err
