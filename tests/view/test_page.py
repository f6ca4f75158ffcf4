"""The viewer's page in a real Chromium: it follows a run that is killed and goes on, and nothing a model says can harm it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from safemt_api.studies.arms import Arm, Study
from safemt_api.studies.measurement import measure_study
from tests.view.conftest import Start, Viewer, as_under_way, finished_run

CHROMIUM = os.environ.get("SAFEMT_TEST_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
ATTACK = '</script><script>window.hacked = 1</script><img src=x onerror="window.hacked = 2"><svg onload="window.hacked = 3">'
BIDI = "safe \u202egnp.exe\u202c \u2066hidden\u2069 \u200b\x1b[31mred"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium, or set SAFEMT_TEST_CHROMIUM to its path"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One headless Chromium with an empty profile."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


class Visit:
    """An open page with everything it complained about or asked for."""

    def __init__(self, browser: Any, viewer: Viewer, place: str, **context: Any) -> None:
        self.context = browser.new_context(**context)
        self.page = self.context.new_page()
        self.viewer = viewer
        self.complaints: list[str] = []
        self.outside: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: None if request.url.startswith(viewer.address) else self.outside.append(request.url))
        self.go(place)

    def go(self, place: str) -> None:
        """Open an address anew."""
        self.page.goto("about:blank")
        self.outside.clear()
        self.page.goto(self.viewer.address + place)
        self.page.wait_for_selector("html[data-ready]", timeout=20_000)

    def until(self, expression: str, wanted: object = True, *, seconds: float = 20.0) -> Any:
        """Wait until the expression has the value, or is what the function accepts; the page's policy forbids playwright's own way."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = self.page.evaluate(expression)
            if wanted(found) if callable(wanted) else found == wanted:
                return found
            self.page.wait_for_timeout(40)
        raise AssertionError(f"{expression} is {found!r}")

    def text(self, selector: str) -> str:
        """What an element says."""
        return str(self.page.inner_text(selector))


Open = Callable[..., Visit]


@pytest.fixture
def visit(browser: Any) -> Iterator[Open]:
    """Opens pages; at the end none may have complained, or asked anyone but the viewer."""
    visits: list[Visit] = []

    def start(viewer: Viewer, place: str = "", **context: Any) -> Visit:
        visits.append(Visit(browser, viewer, place, **context))
        return visits[-1]

    yield start
    for entry in visits:
        assert entry.complaints == []
        assert entry.outside == []
        entry.context.close()


def make_study(results: Path, arms: int = 3, **settings: Any) -> Path:
    """A finished study, each arm of which fails more often than the one before."""
    folder = results / "paper"
    names = [f"model-{number + 1}" for number in range(arms)]
    for number, name in enumerate(names):
        finished_run(folder, name, base=0.05 + 0.12 * number, model=name, seed=number, **settings)
    study = Study("paper", tuple(Arm(name, {"model": name}, reference=None if name == names[0] else names[0]) for name in names), shared={})
    measure_study(folder, study, {}, resamples=200).write(folder)
    return folder


@pytest.fixture
def paper(tmp_path: Path, start_viewer: Start) -> Viewer:
    make_study(tmp_path / "results", pictures=True)
    return start_viewer(tmp_path / "results")


COUNT = "document.getElementById('count')?.textContent ?? ''"
OPTIONS = "[...document.querySelectorAll('#list .option')].map((one) => one.innerText)"
CHOSEN = "document.querySelector('.option[aria-selected=true]')?.innerText ?? ''"


def test_the_list_leads_to_a_study_and_its_address_can_be_sent(paper: Viewer, visit: Open) -> None:
    opened = visit(paper)
    assert "paper" in opened.text("table.runs tbody")
    assert "study of 3 arms" in opened.text("table.runs tbody")
    opened.page.click("table.runs a")
    opened.until("location.hash.startsWith('#study=paper')")
    opened.until(COUNT, "180 dialogues")
    for words in ("model-1", "Ranks", "Effects", "ASR by turn", "Scenarios"):
        assert words in opened.text("main")
    opened.page.select_option("#f-verdict", "unsafe")
    opened.until(COUNT, lambda said: " of 180" in said)
    opened.page.click("#list .option:nth-child(3)")
    opened.until("location.hash.includes('verdict=unsafe') && location.hash.includes('arm=')")
    said, chosen, address = opened.page.evaluate(COUNT), opened.page.evaluate(CHOSEN), opened.page.evaluate("location.hash")
    other = visit(paper, address)
    other.until(COUNT, said)
    other.until(CHOSEN, chosen)
    assert other.text("#detail h3") == opened.text("#detail h3")


def test_a_cell_of_the_map_opens_its_dialogues(paper: Viewer, visit: Open, tmp_path: Path) -> None:
    opened = visit(paper, "#study=paper")
    opened.page.click("table.heat tbody tr:nth-child(2) td:nth-child(3) a")
    opened.until("[document.getElementById('f-only').value, document.getElementById('f-scenario').value].join()", "paper/model-2,Fraud")
    turns = pl.read_parquet(tmp_path / "results/paper/model-2/transcripts.parquet").filter(pl.col("scenario") == "Fraud")
    opened.until(COUNT, f"{turns.height} of 180 dialogues")
    cells = {cell["scenario"]: cell for cell in paper.ask("api/scope", study="paper").json["arms"][1]["scenarios"]}
    assert opened.text("table.heat tbody tr:nth-child(2) td:nth-child(3)") == str(round(100 * cells["Fraud"]["asr"]))


def test_every_value_of_the_chart_is_told_on_hover_and_one_line_is_lit(paper: Viewer, visit: Open) -> None:
    opened = visit(paper, "#study=paper")
    opened.until(COUNT, "180 dialogues")
    dot = opened.page.locator("figure.lines circle >> nth=9")
    dot.scroll_into_view_if_needed()
    box = dot.bounding_box()
    opened.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    opened.until("document.getElementById('tip').hidden", wanted=False)
    told = opened.text("#tip")
    rows = paper.ask("api/scope", study="paper").json["arms"][1]["asr_by_turn"]
    assert told.splitlines()[0] == "model-2"
    assert f"{100 * rows[4]['asr']:.1f}%" in told
    assert opened.page.evaluate("[...document.querySelectorAll('g.series.on')].map((one) => one.dataset.series).join()") == "model-2"
    opened.page.focus("figure.lines text.name >> nth=2")
    assert opened.text("#tip").splitlines()[0] == "model-3"


def test_the_same_dialogue_stands_side_by_side_in_every_arm(paper: Viewer, visit: Open) -> None:
    opened = visit(paper, "#study=paper")
    opened.until(COUNT, "180 dialogues")
    opened.page.keyboard.press("a")
    opened.until(COUNT, "60 dialogues in 3 runs")
    opened.until("document.querySelectorAll('#detail .arm').length", 3)
    assert [one.split()[0] for one in opened.page.locator("#detail .arm h4").all_inner_texts()] == ["model-1", "model-2", "model-3"]
    opened.page.check("#f-differ")
    differing = opened.until(COUNT, lambda said: " of 60" in said)
    assert all("≠" in option for option in opened.page.evaluate(OPTIONS))
    assert 0 < int(differing.split()[0]) < 60


CELLS = """(column) => { const place = [...document.querySelectorAll('.heads .sort')].findIndex((one) => one.dataset.column === column);
  return [...document.querySelectorAll('#list .option')].map((one) => one.children[place]?.textContent ?? '…'); }"""
SORTED = "document.querySelector('.heads [aria-sort]')?.getAttribute('aria-sort') ?? ''"


def column(opened: Visit, name: str) -> list[str]:
    """What the cells of a column say, as far down as they are drawn."""
    return [str(text) for text in opened.page.evaluate(CELLS, name)]


def test_a_heading_sorts_the_table_and_the_address_tells_how(paper: Viewer, visit: Open, tmp_path: Path) -> None:
    opened = visit(paper, "#study=paper&as=table")
    opened.until(COUNT, "180 dialogues")
    natural = column(opened, "id")
    opened.page.click(".heads [data-column=tokens]")
    opened.until(SORTED, "descending")
    folders = (tmp_path / "results" / "paper").glob("model-*/transcripts.parquet")
    tokens = sorted(
        (sum(row) for file in folders for row in pl.read_parquet(file, columns=["input_tokens", "output_tokens"]).rows()), reverse=True
    )
    top = [f"{number:,}" for number in tokens]
    opened.until(f"({CELLS})('tokens')", lambda said: len(said) > 10 and said == top[: len(said)])
    address = opened.page.evaluate("location.hash")
    assert "as=table" in address
    assert "sort=-tokens" in address
    other = visit(paper, address)
    other.until("document.querySelector('#detail h3')?.textContent", opened.text("#detail h3"))
    other.page.evaluate("document.getElementById('list').scrollTop = 0")
    other.until(f"({CELLS})('tokens')", lambda said: len(said) > 10 and said == top[: len(said)])
    assert column(other, "id") == column(opened, "id")
    opened.page.focus(".heads [data-column=tokens]")
    opened.page.keyboard.press("Enter")
    opened.until(SORTED, "ascending")
    opened.until(f"({CELLS})('tokens')", lambda said: len(said) > 10 and said == top[::-1][: len(said)])
    opened.page.keyboard.press("Space")
    opened.until(SORTED, "")
    opened.until(f"({CELLS})('id')", natural)
    assert "sort" not in opened.page.evaluate("location.hash")


def test_the_table_is_walked_by_keyboard_and_keeps_the_dialogue_that_is_read(paper: Viewer, visit: Open) -> None:
    opened = visit(paper, "#study=paper")
    opened.until(COUNT, "180 dialogues")
    opened.page.focus("#list")
    opened.page.keyboard.press("End")
    opened.until("document.getElementById('list').getAttribute('aria-activedescendant')", "option-179")
    opened.until(
        "document.querySelector('#detail h3').textContent === document.querySelector('.option[aria-selected=true] bdi').textContent"
    )
    reading = opened.text("#detail h3")
    opened.page.keyboard.press("t")
    opened.until("document.getElementById('list').getAttribute('role')", "grid")
    assert opened.page.get_attribute("#list", "aria-rowcount") == "181"
    assert opened.page.get_attribute(".option[aria-selected=true]", "aria-rowindex") == "181"
    box = "document.querySelector('{}').getBoundingClientRect()"
    seen = f"(() => {{ const row = {box.format('[aria-selected=true]')}, list = {box.format('#list')};"
    opened.until(f"{seen} return row.top >= list.top + 33 && row.bottom <= list.bottom + 1; }})()")
    opened.page.select_option("#f-sort", "-seconds")
    opened.until("location.hash.includes('sort=-seconds')")
    opened.until("document.getElementById('list').scrollTop", 0)
    assert opened.text("#detail h3") == reading
    place = paper.ask("api/dialogues", study="paper", sort="-seconds", id=reading, turns=8, arm="paper/model-3").json["place"]
    assert opened.page.get_attribute("#list", "aria-activedescendant") == f"option-{place}"
    opened.page.focus("#list")
    opened.page.keyboard.press("Home")
    opened.until("document.getElementById('list').getAttribute('aria-activedescendant')", "option-0")
    opened.until(f"{seen} return row.top >= list.top + 33; }})()")
    opened.page.keyboard.press("t")
    opened.until("document.getElementById('list').getAttribute('role')", "listbox")
    assert " s" in opened.page.evaluate(OPTIONS)[0].splitlines()[-1]


def test_columns_can_be_chosen_and_stand_in_the_address(paper: Viewer, visit: Open) -> None:
    opened = visit(paper, "#study=paper&as=table")
    opened.until(COUNT, "180 dialogues")
    heads = "[...document.querySelectorAll('.heads .sort')].map((one) => one.dataset.column).join(' ')"
    assert opened.page.evaluate(heads) == "id run scenario turns verdict outcome cost tokens seconds"
    opened.page.click(".columns summary")
    opened.page.uncheck(".choices [value=outcome]")
    opened.page.check(".choices [value=kind]")
    opened.page.keyboard.press("Escape")
    assert not opened.page.is_visible(".choices")
    chosen = "id run scenario kind turns verdict cost tokens seconds"
    opened.until(heads, chosen)
    address = opened.page.evaluate("location.hash")
    assert f"columns={chosen.replace(' ', '.')}" in address
    visit(paper, address).until(heads, chosen)
    odd = visit(paper, "#study=paper&as=table&columns=nothing.<b>.id&sort=-constructor")
    odd.until(heads, "id")
    assert odd.page.evaluate(SORTED) == ""


def test_side_by_side_the_table_adds_up_what_every_run_took(paper: Viewer, visit: Open) -> None:
    opened = visit(paper, "#study=paper&as=table&view=arms&sort=verdict")
    opened.until(COUNT, "60 dialogues in 3 runs")
    rows = paper.ask("api/dialogues", study="paper", view="arms", sort="verdict").json["rows"]
    opened.until(f"({CELLS})('tokens')", lambda said: said == [f"{row['tokens']:,}" for row in rows][: len(said)])
    shares = [sum(one["verdict"] in ("unsafe", "declined") for one in row["verdicts"]) / 3 for row in rows]
    assert shares == sorted(shares, reverse=True)
    assert column(opened, "run")[0] == "3 of 3"


def test_runs_sort_by_their_headings_and_stay_sorted_while_they_move(tmp_path: Path, start_viewer: Start, visit: Open) -> None:
    results = tmp_path / "results"
    for number, name in enumerate(("middle", "worst", "best")):
        finished_run(results, name, base=(0.3, 0.6, 0.0)[number], step=0.02, seed=number)
    opened = visit(start_viewer(results))
    names = "[...document.querySelectorAll('table.runs tbody th a')].map((one) => one.textContent).join(' ')"
    opened.until("[...document.querySelectorAll('table.runs tbody td:nth-child(5)')].every((one) => one.textContent.includes('%'))")
    opened.page.click("table.runs thead button >> text=ASR so far")
    opened.until(names, "worst middle best")
    assert opened.page.evaluate("location.hash") == "#sort=-asr"
    finished_run(results, "new", base=0.45, step=0.02, seed=9)
    opened.until(names, "worst new middle best")
    opened.page.keyboard.press("Enter")
    opened.until(names, "best middle new worst")
    opened.page.reload()
    opened.until(names, "best middle new worst")


def test_the_arms_of_a_study_sort_and_a_choice_of_dialogue_keeps_their_order(paper: Viewer, visit: Open) -> None:
    opened = visit(paper, "#study=paper")
    opened.until(COUNT, "180 dialogues")
    names = "[...document.querySelectorAll('#runs tbody th a')].map((one) => one.textContent).join(' ')"
    opened.page.click("#runs thead button >> text=Safety Index")
    opened.page.keyboard.press("Enter")
    opened.until("document.querySelector('#runs th[aria-sort]').getAttribute('aria-sort')", "ascending")
    found = opened.page.evaluate(names)
    assert sorted(found.split()) == ["model-1", "model-2", "model-3"]
    assert found != "model-1 model-2 model-3"
    opened.page.keyboard.press("j")
    opened.until("location.hash.includes('arms=index') && location.hash.includes('id=')")
    visit(paper, opened.page.evaluate("location.hash")).until(names, found)


def test_search_marks_its_hits_and_finds_what_the_server_finds(paper: Viewer, visit: Open) -> None:
    opened = visit(paper, "#study=paper")
    opened.page.keyboard.press("/")
    opened.page.keyboard.type('"angle 4-3" steady')
    wanted = paper.ask("api/dialogues", study="paper", search='"angle 4-3" steady').json["total"]
    assert 0 < wanted < 180
    opened.until(COUNT, f"{wanted} of 180 dialogues")
    said = "[...document.querySelectorAll('#detail mark')].map((one) => one.textContent.toLowerCase())"
    marks = opened.until(said, lambda found: len(found) > 1)
    assert set(marks) == {"angle 4-3", "steady"}
    assert opened.page.evaluate("[...document.querySelectorAll('#detail mark')].every((one) => one.checkVisibility())")


def test_the_keyboard_alone_reaches_a_reply(paper: Viewer, visit: Open) -> None:
    opened = visit(paper, "#study=paper")
    opened.until(COUNT, "180 dialogues")
    before = opened.page.evaluate(CHOSEN)
    opened.page.keyboard.press("j")
    opened.until(CHOSEN, lambda now: now != before)
    opened.page.focus("#list")
    opened.page.keyboard.press("End")
    opened.until("document.getElementById('list').getAttribute('aria-activedescendant')", "option-179")
    opened.until("document.querySelectorAll('.option[aria-selected=true]').length", 1)
    opened.page.keyboard.press("Enter")
    opened.until("document.activeElement.id", "detail")
    opened.page.keyboard.press("r")
    opened.until("[...document.querySelectorAll('#detail details.reply')].every((one) => one.open)")
    opened.page.keyboard.press("Escape")
    opened.until("document.activeElement.id", "list")
    opened.page.keyboard.press("h")
    opened.until("document.querySelectorAll('table.runs').length", 1)


def test_the_picture_is_blurred_until_pressed_and_can_be_seen_large(paper: Viewer, visit: Open) -> None:
    opened = visit(paper, "#study=paper")
    opened.until("document.querySelectorAll('#detail .picture img').length", 1)
    assert "blur" in opened.page.evaluate("getComputedStyle(document.querySelector('#detail .picture img')).filter")
    opened.page.click("#detail .picture")
    opened.until("getComputedStyle(document.querySelector('#detail .picture img')).filter", lambda found: found in ("none", "blur(0px)"))
    opened.page.click("#detail .enlarge")
    opened.until("document.querySelector('#large img').naturalWidth", 320)


@pytest.mark.parametrize("words", [ATTACK, BIDI, "x" * 1_000_000, f"{ATTACK}\n" * 3000], ids=["markup", "bidi", "long line", "much markup"])
def test_hostile_replies_are_words_and_nothing_more(tmp_path: Path, start_viewer: Start, visit: Open, words: str) -> None:
    folder = finished_run(tmp_path / "results", "hostile", hostile=words, panel=True)
    file = folder / "verdicts.parquet"
    pl.read_parquet(file).with_columns(reason=pl.lit(words[:5000]), judge=pl.lit(f"judge {words[:80]}")).write_parquet(file)
    file = folder / "transcripts.parquet"
    odd = [pl.lit(words[:300]).alias(name) for name in ("scenario", "method", "detail", "moderator_policy", "failure")]
    pl.read_parquet(file).with_columns(odd).write_parquet(file)
    opened = visit(start_viewer(tmp_path / "results"), "#run=hostile")
    opened.until("document.querySelectorAll('#detail details.reply').length", lambda found: found > 0)
    opened.page.keyboard.press("r")
    shown = opened.page.inner_text("#detail")
    if words == BIDI:
        assert "U+202E" in shown
        assert "\u202e" not in opened.page.inner_text("body")
    assert words[:5].strip() in shown
    if len(words) > 100_000:
        assert "more characters" in shown
        opened.page.click("text=Show all of them")
        opened.until("document.querySelector('#detail').textContent.length", lambda length: length > len(words))
    assert opened.page.evaluate("window.hacked ?? null") is None
    alien = "#detail script, #detail img:not(.picture img), #detail svg:not(.key)"
    assert opened.page.locator(alien).count() == 0
    # Nothing pushes the page wider than the screen.
    assert opened.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_hostile_names_of_runs_are_words_and_nothing_more(tmp_path: Path, start_viewer: Start, visit: Open) -> None:
    name = "<img src=x onerror=window.hacked=1>&amp;\u202e"
    finished_run(tmp_path / "results", name, model=ATTACK, judge=ATTACK)
    opened = visit(start_viewer(tmp_path / "results"))
    assert "<img src=x onerror=window.hacked=1>&amp;" in opened.text("table.runs")
    opened.page.click("table.runs a")
    opened.until(COUNT, "60 dialogues")
    assert opened.page.evaluate("window.hacked ?? null") is None


EVAL = (
    *("eval", "--model", "sim-brittle", "--run", "followed", "--sim-latency-seconds", "0.2", "--concurrency", "3"),
    *("--sample", "14"),
    *("--judge", "rules", "--judge", "simulator:sim-judge"),
)
STATE = "document.querySelector('.state')?.textContent ?? ''"


def play(results: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "safemt_api", *EVAL, "--results", str(results), "--yes"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.timeout(300)
def test_a_run_is_followed_through_its_death_and_return_to_its_end(tmp_path: Path, start_viewer: Start, visit: Open) -> None:
    results = tmp_path / "results"
    results.mkdir()
    viewer = start_viewer(results)
    listing = visit(viewer)
    assert "There is no run" in listing.text("main")
    playing = play(results)
    try:
        listing.until(STATE, "running", seconds=60)
        opened = visit(viewer, "#run=followed")
        dialogues = "Number((document.getElementById('count')?.textContent ?? '0').replace(/ dialogues?/, ''))"
        first = opened.until(dialogues, lambda found: found >= 3, seconds=60)
        assert opened.page.evaluate(STATE) == "running"
        before = opened.page.evaluate(CHOSEN)
        opened.page.click("#list .option:nth-child(2)")
        chosen = "document.querySelector('.option[aria-selected=true] bdi')?.textContent"
        opened.until(f"{chosen} === document.querySelector('#detail h3').textContent && ({CHOSEN}) !== {json.dumps(before)}")
        reading = opened.text("#detail h3")
        address = opened.page.evaluate("location.hash")
        opened.until(dialogues, lambda found: found > first + 3, seconds=60)
        # What comes in meanwhile leaves the reader where he is.
        assert opened.page.evaluate("[document.querySelector('#detail h3').textContent, location.hash]") == [reading, address]
        playing.send_signal(signal.SIGKILL)
        playing.wait()
        opened.until(STATE, "killed")
        listing.until(STATE, "killed")
        died_at = opened.page.evaluate(dialogues)
        playing = play(results)
        opened.until(STATE, "running", seconds=60)
        listing.until(STATE, "running")
        opened.until(dialogues, lambda found: found > died_at, seconds=60)
        assert playing.wait(timeout=120) == 0
        opened.until(STATE, "finished")
        opened.until(dialogues, 70)
    finally:
        playing.kill()
        playing.wait()
    # Everything behind a reply is at hand: the call, the vendor's body, what the judges were shown and said.
    opened.go("#run=followed&length=4")
    opened.until("document.querySelectorAll('#detail details.call').length", lambda found: found >= 2)
    opened.page.evaluate("document.querySelectorAll('#detail details.call').forEach((one) => { one.open = true; })")
    opened.until("document.querySelectorAll('#detail details.call .said').length", lambda found: found >= 3)
    behind = opened.page.evaluate("[...document.querySelectorAll('#detail details.call')].map((one) => one.textContent)")
    told = ("attempts 1", "waited", "latency", "tokens", "User message", "vendor's whole answer", "sim-brittle")
    assert [words for words in told if words not in behind[0]] == []
    assert any("sim-judge was shown" in one and "System message" in one for one in behind[1:])


def test_a_study_that_has_not_been_measured_shows_its_arms(tmp_path: Path, start_viewer: Start, visit: Open) -> None:
    folder = make_study(tmp_path / "results")
    record = json.loads((folder / "study.json").read_text())
    (folder / "study.json").write_text(json.dumps({**record, "status": "partial", "leaderboard": [], "effects": []}))
    as_under_way(folder / "model-2", dialogues=20)
    opened = visit(start_viewer(tmp_path / "results"), "#study=paper")
    opened.until(COUNT, "140 dialogues")
    assert opened.page.locator("#runs tbody .state").all_inner_texts() == ["finished", "killed", "finished"]
    assert "Ranks" not in opened.text("main")


def test_a_viewer_that_has_ended_says_so_and_what_was_seen_stays(paper: Viewer, browser: Any) -> None:
    opened = Visit(browser, paper, "#study=paper")
    opened.until(COUNT, "180 dialogues")
    paper.process.kill()
    opened.until("document.getElementById('connection').textContent", lambda said: "has ended" in said)
    assert "180 dialogues" in opened.text("main")
    opened.context.close()


CONTRASTS = Path(__file__).parents[1] / "report" / "contrasts.js"


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("place", ["", "#study=paper", "#study=paper&view=arms", "#study=paper&as=table&sort=-cost", "#run=paper/model-2"])
def test_every_text_reaches_the_contrast_of_aa(paper: Viewer, visit: Open, theme: str, place: str) -> None:
    opened = visit(paper, place, color_scheme=theme)
    if place:
        opened.until("document.querySelectorAll('#detail h3').length", 1)
        opened.page.keyboard.press("r")
    found = opened.page.evaluate(CONTRASTS.read_text(encoding="utf-8"))
    assert sum(kind == "text" for kind, *_ in found) > 15
    assert sorted({(kind, name, round(ratio, 2)) for kind, name, ratio in found if ratio < (4.5 if kind == "text" else 3.0)}) == []


@pytest.mark.parametrize("place", ["", "#study=paper", "#study=paper&view=arms", "#study=paper&as=table&sort=-tokens"])
def test_a_phone_shows_all_of_it_without_scrolling_sideways(paper: Viewer, visit: Open, place: str) -> None:
    opened = visit(paper, place, viewport={"width": 360, "height": 740})
    if place:
        opened.until("document.querySelectorAll('#detail h3').length", 1)
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 360
