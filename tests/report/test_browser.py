"""The page in a real Chromium: it works, by mouse and by keyboard, from disk, without a word to the network."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from safemt_api.calibration.correction import calibrate, correct
from safemt_api.report.page import write_page, write_study_page
from safemt_api.runs.record import read_run
from safemt_api.studies.arms import Arm, Study
from safemt_api.studies.measurement import measure_study
from safemt_api.studies.record import ArmState

MakeRun = Callable[..., Path]
CHROMIUM = os.environ.get("SAFEMT_TEST_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
ATTACK = '</script><script>window.hacked = 1</script><img src=x onerror="window.hacked = 2">'

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium, or set SAFEMT_TEST_CHROMIUM to its path"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One headless Chromium with an empty profile."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    pytest.importorskip("vl_convert")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


class Visit:
    """An open page with everything it complained about or asked for."""

    def __init__(self, browser: Any, file: Path, **context: Any) -> None:
        self.context = browser.new_context(**context)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(file.as_uri())
        self.page.wait_for_selector("html[data-ready]", timeout=10_000)

    @property
    def shown(self) -> str:
        """What the line above the list says."""
        return str(self.page.inner_text("#count"))

    def outside(self) -> list[str]:
        """Requests other than the page itself and its data URLs."""
        return [url for url in self.requests if not url.startswith(("file:", "data:"))]

    def until(self, expression: str, wanted: object) -> None:
        """Wait until the expression has the value; the page's policy forbids playwright's own way, which needs eval."""
        for _ in range(100):
            if (found := self.page.evaluate(expression)) == wanted:
                return
            self.page.wait_for_timeout(30)
        raise AssertionError(f"{expression} is {found!r}, not {wanted!r}")


Open = Callable[..., Visit]
COUNT = "document.getElementById('count').textContent"


@pytest.fixture
def visit(browser: Any) -> Iterator[Open]:
    """Opens a page; at the end, no visit may have complained or asked the network."""
    visits: list[Visit] = []

    def start(folders: list[Path], **context: Any) -> Visit:
        runs = [read_run(folder) for folder in folders]
        visits.append(Visit(browser, write_page(folders[0], runs), **context))
        return visits[-1]

    yield start
    for entry in visits:
        assert entry.complaints == []
        assert entry.outside() == []
        entry.context.close()


def test_charts_are_drawn_in_both_themes(make_run: MakeRun, visit: Open) -> None:
    opened = visit([make_run()])
    sizes = opened.page.eval_on_selector_all("svg.chart", "all => all.map(one => one.getBoundingClientRect().width)")
    assert len(sizes) == 6
    assert min(sizes) > 150
    stroke = "getComputedStyle(document.querySelector('svg.chart path[stroke^=var]')).stroke"
    colours = []
    for _ in range(2):
        opened.page.click("#theme")
        colours.append(opened.page.evaluate(stroke))
    assert len(set(colours)) == 2
    assert all(colour.startswith("rgb") for colour in colours)


def test_a_table_sorts_by_its_headings(make_run: MakeRun, visit: Open) -> None:
    opened = visit([make_run("weak", base=0.6), make_run("strong", base=0.0, step=0.0)])
    table = opened.page.locator("#scores table").first
    first = "row => row.textContent"
    assert "strong" in table.locator("tbody tr").first.evaluate(first)
    table.get_by_role("button", name="ASR 1", exact=True).click()
    assert "weak" in table.locator("tbody tr").first.evaluate(first)
    assert table.locator("th[aria-sort=descending]").count() == 1
    table.get_by_role("button", name="ASR 1", exact=True).press("Enter")
    assert "strong" in table.locator("tbody tr").first.evaluate(first)


def test_filters_and_search_narrow_the_list(make_run: MakeRun, visit: Open) -> None:
    folder = make_run(hostile="The needle is in here", panel=True)
    run = read_run(folder)
    total = run.transcripts.height
    opened = visit([folder])
    page = opened.page
    assert opened.shown == f"{total} dialogues"
    page.select_option("#f-scenario", "Fraud")
    assert opened.shown == f"{total // 4} of {total} dialogues"
    page.select_option("#f-length", "8")
    assert opened.shown == f"{total // 20} of {total} dialogues"
    page.click("button[type=reset]")
    opened.until(COUNT, f"{total} dialogues")
    counting = run.verdicts.filter(run.verdicts["counts"])
    unsafe = counting.filter((counting["label"] == "unsafe") & (counting["kind"] == "harmful")).height
    page.select_option("#f-verdict", "unsafe")
    assert opened.shown == f"{unsafe} of {total} dialogues"
    page.select_option("#f-verdict", "")
    refused = run.transcripts.filter(run.transcripts["outcome"] == "refused").height
    page.select_option("#f-outcome", "refused")
    assert opened.shown == f"{refused} of {total} dialogues"
    page.select_option("#f-outcome", "")
    page.check("#f-disagree")
    labels = run.verdicts.drop_nulls("label").group_by("dialogue_id", "length").n_unique()
    assert opened.shown == f"{labels.filter(labels['label'] > 1).height} of {total} dialogues"
    page.uncheck("#f-disagree")
    page.fill("#f-search", '"NEEDLE is"')
    opened.until(COUNT, f"1 of {total} dialogues")
    page.fill("#f-search", "nothing has these words")
    page.wait_for_selector("text=No dialogue matches these filters.")


def test_hostile_replies_are_text(make_run: MakeRun, visit: Open) -> None:
    opened = visit([make_run(hostile=ATTACK, model=ATTACK, scenarios=[ATTACK, "Fraud"])])
    opened.page.click("details.reply summary")
    assert opened.page.inner_text("details.reply .words") == ATTACK
    assert opened.page.evaluate("window.hacked") is None
    assert opened.page.locator("#detail img, #detail script").count() == 0


def test_replies_are_folded_and_pictures_blurred_until_opened(make_run: MakeRun, visit: Open) -> None:
    opened = visit([make_run(pictures=True)])
    page = opened.page
    assert page.locator("details.reply[open]").count() == 0
    blurred = "getComputedStyle(document.querySelector('.picture img')).filter"
    assert "blur" in page.evaluate(blurred)
    assert page.evaluate("document.querySelector('.picture img').naturalWidth") == 160
    page.click(".picture")
    opened.until(blurred, "none")
    page.click("text=Show every reply")
    assert page.locator("details.reply:not([open])").count() == 0


def test_the_list_is_driven_by_the_keyboard(make_run: MakeRun, visit: Open) -> None:
    opened = visit([make_run()])
    page = opened.page
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "f-search"
    page.focus("#list")
    for key, place in (("ArrowDown", "1"), ("ArrowDown", "2"), ("ArrowUp", "1"), ("End", "59"), ("Home", "0")):
        page.keyboard.press(key)
        assert page.get_attribute("#list", "aria-activedescendant") == f"option-{place}"
        assert page.get_attribute(f"#option-{place}", "aria-selected") == "true"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "detail"
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.id") == "list"


def test_a_live_dialogue_shows_each_reply_in_its_place(make_run: MakeRun, visit: Open) -> None:
    opened = visit([make_run(protocol="live", lengths=(4,))])
    page = opened.page
    assert page.locator("#detail .message.user").count() == page.locator("#detail .message.assistant").count()
    heads = page.locator("#detail details.reply > summary").all_inner_texts()
    assert all(head.startswith("Reply to message") for head in heads)


def test_only_the_rows_in_sight_are_in_the_page(make_run: MakeRun, visit: Open) -> None:
    opened = visit([make_run(ids_each=40, words=3)])
    assert opened.shown == "800 dialogues"
    assert opened.page.locator(".option").count() < 60
    opened.page.evaluate("document.getElementById('list').scrollTop = 20000")
    opened.page.wait_for_selector("#option-350")


def test_at_phone_width_nothing_is_wider_than_the_page(make_run: MakeRun, visit: Open) -> None:
    opened = visit([make_run("one"), make_run("two", protocol="live")], viewport={"width": 375, "height": 740})
    assert opened.page.evaluate("document.documentElement.scrollWidth") == 375
    opened.page.check("#f-table")
    assert opened.page.locator(".heads .sort").all_inner_texts() == ["Id", "Turns", "Verdict", "Cost, $"]
    assert opened.page.evaluate("document.documentElement.scrollWidth") == 375


def test_printing_opens_the_folded_tables_and_hides_the_browser(make_run: MakeRun, visit: Open) -> None:
    opened = visit([make_run("one"), make_run("two", base=0.3)])
    opened.page.emulate_media(media="print")
    opened.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert opened.page.locator("details.table:not([open])").count() == 0
    assert not opened.page.is_visible("#transcripts")


def test_a_filter_with_nothing_to_choose_from_takes_no_room(make_run: MakeRun, visit: Open) -> None:
    several, one = visit([make_run("several")]), visit([make_run("one", lengths=(2,), ids_each=2)])
    assert several.page.is_visible("#f-length")
    assert several.page.is_visible("#f-kind")
    assert not one.page.is_visible("#f-length")
    assert not one.page.is_visible("#f-kind")
    assert not one.page.is_visible("#f-disagree")
    assert one.page.is_visible("#f-verdict")


def test_calibration_stands_on_the_page_with_its_chart(make_run: MakeRun, browser: Any, tmp_path: Path) -> None:
    run = read_run(make_run("none", base=0.5, ids_each=8))
    judged = run.verdicts.filter(run.verdicts["source"] == "judge", run.verdicts["kind"] == "harmful").to_dicts()
    lines = [f"{row['dialogue_id']},{row['length']},{row['turn']},{row['label']}" for row in judged]
    (tmp_path / "labels.csv").write_text("\n".join(["id,length,turn,label", *lines]))
    correction = correct(run, calibrate(run, tmp_path / "labels.csv"))
    opened = Visit(browser, write_page(tmp_path, [run], corrections=[correction]), viewport={"width": 390, "height": 800})
    assert opened.page.locator("#calibration svg.chart").bounding_box()["width"] > 150
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 390
    assert opened.complaints == []
    assert opened.outside() == []
    opened.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_controls_meet_wcag_aa(make_run: MakeRun, visit: Open, scheme: str) -> None:
    opened = visit([make_run("weak", base=0.5, panel=True, pictures=True), make_run("strong", base=0.0, step=0.1)], color_scheme=scheme)
    opened.page.locator("#f-table").check()
    opened.page.evaluate("for (const fold of document.querySelectorAll('details')) fold.open = true")
    found = opened.page.evaluate((Path(__file__).parent / "contrasts.js").read_text(encoding="utf-8"))
    assert sum(kind == "text" for kind, *_ in found) > 200
    assert sum(kind == "control" for kind, *_ in found) > 5
    assert sorted({(kind, name, round(ratio, 2)) for kind, name, ratio in found if ratio < (4.5 if kind == "text" else 3.0)}) == []


def test_more_than_eight_runs_look_different(make_run: MakeRun, visit: Open) -> None:
    folders = [make_run(f"run-{place}", ids_each=3, scenarios=("Fraud",), lengths=(1, 2), seed=place) for place in range(17)]
    opened = visit(folders)
    look = "all => all.map(one => one.getAttribute('stroke') + ' ' + one.getAttribute('stroke-dasharray'))"
    assert len(set(opened.page.eval_on_selector_all("#scores table:first-of-type tbody svg.key line", look))) == 17
    drawn = opened.page.eval_on_selector_all("#scores svg.chart .mark-line path", look)
    assert len(drawn) == len(set(drawn)) == 17


def test_the_address_holds_filters_and_the_open_dialogue(make_run: MakeRun, visit: Open, browser: Any) -> None:
    folders = [make_run("weak", base=0.6), make_run("strong")]
    opened = visit(folders)
    page = opened.page
    assert "=" not in page.url
    page.select_option("#f-scenario", "Fraud")
    page.select_option("#f-run", "1")
    page.fill("#f-search", "Question")
    page.locator("#list").press("End")
    opened.until("location.hash.includes('search=Question')", wanted=True)
    title, address, shown = page.inner_text("#detail h3"), page.url, opened.shown
    assert "scenario=Fraud" in address
    assert "run=strong" in address
    again = browser.new_page()
    again.goto(address)
    again.wait_for_selector("html[data-ready]", timeout=10_000)
    assert again.inner_text("#detail h3") == title
    assert again.inner_text("#count") == shown
    assert again.url == address
    again.close()


def test_an_address_that_names_nothing_here_shows_everything(make_run: MakeRun, visit: Open, browser: Any) -> None:
    opened = visit([make_run()])
    total = opened.shown
    opened.page.goto(opened.page.url + "#run=nobody&scenario=<b>&id=nothing&length=x")
    opened.until(COUNT, total)


def side_by_side(make_run: MakeRun, visit: Open, **settings: Any) -> Visit:
    """Three runs of the same dialogues; the last one lacks the longest."""
    folders = [make_run("weak", base=0.6, hostile=ATTACK, **settings), make_run("strong", base=0.0, step=0.0, seed=1, **settings)]
    folders.append(make_run("short", seed=2, **{**settings, "lengths": (1, 2)}))
    return visit(folders)


def test_one_dialogue_stands_side_by_side_in_every_run(make_run: MakeRun, visit: Open) -> None:
    page = side_by_side(make_run, visit, lengths=(1, 2, 4)).page
    page.check("#f-arms")
    assert page.inner_text("#count") == "36 dialogues in 3 runs"
    assert page.locator("#detail .arms .arm").count() == 3
    assert page.locator("#detail .message.user").count() == 1
    assert page.locator("#detail .arm h4").all_inner_texts() == ["weak unsafe", *page.locator("#detail .arm h4").all_inner_texts()[1:]]
    page.locator("#list").press("ArrowDown")
    page.locator("#list").press("ArrowDown")
    assert page.locator("#detail .arm").nth(2).inner_text().endswith("Not played in this run.")
    assert "2 of 3 runs" in page.locator(".option[aria-selected=true]").inner_text()
    page.get_by_text("The messages before").click()
    assert page.locator("#detail .message.user").count() == 4


def test_replies_side_by_side_stay_text_and_folded(make_run: MakeRun, visit: Open) -> None:
    page = side_by_side(make_run, visit).page
    page.check("#f-arms")
    first = page.locator("#detail .arm").first
    assert not first.locator(".words").first.is_visible()
    page.get_by_text("Show every reply").click()
    assert ATTACK in first.inner_text()
    assert page.evaluate("window.hacked") is None
    assert page.locator("#detail img[src=x]").count() == 0


def test_only_dialogues_on_which_runs_differ(make_run: MakeRun, visit: Open) -> None:
    opened = side_by_side(make_run, visit)
    page = opened.page
    assert not page.locator("#f-differ").is_visible()
    page.check("#f-arms")
    page.check("#f-differ")
    shown = page.locator(".option").all_inner_texts()
    assert shown
    assert all("≠" in option for option in shown)
    page.select_option("#f-run", "0")
    page.select_option("#f-verdict", "unsafe")
    for option in page.locator(".option").all():
        option.click()
        assert page.locator("#detail .arm h4").first.inner_text() == "weak unsafe"
    page.click("#filters button[type=reset]")
    opened.until("document.getElementById('f-differ').closest('label').hidden", wanted=True)


def test_the_address_holds_the_view_of_all_runs(make_run: MakeRun, visit: Open, browser: Any) -> None:
    page = side_by_side(make_run, visit).page
    page.locator("#list").press("End")
    title = page.inner_text("#detail h3")
    page.get_by_text("This dialogue in every run").click()
    assert page.inner_text("#detail h3") == title
    assert page.url.endswith(f"#id={title}&turns=2&view=arms")
    again = browser.new_page()
    again.goto(page.url)
    again.wait_for_selector("html[data-ready]", timeout=10_000)
    assert again.inner_text("#detail h3") == title
    assert again.locator("#detail .arm").count() == 3
    assert again.url == page.url
    again.get_by_text("One run at a time").click()
    assert again.inner_text("#detail h3") == title
    assert again.locator("#detail .arm").count() == 0
    again.close()


CELLS = """(column) => { const place = [...document.querySelectorAll('.heads .sort')].findIndex((one) => one.dataset.column === column);
  return [...document.querySelectorAll('#list .option')].map((one) => one.children[place].textContent); }"""


def test_dialogues_stand_in_a_table_that_sorts_by_its_headings(make_run: MakeRun, visit: Open, browser: Any) -> None:
    folders = [make_run("weak", base=0.6), make_run("strong", base=0.0, step=0.0, seed=1)]
    page = visit(folders).page
    page.keyboard.press("t")
    rows = [row for folder in folders for row in read_run(folder).transcripts.select("input_tokens", "output_tokens").rows()]
    tokens = [f"{number:,}" for number in sorted(map(sum, rows), reverse=True)]
    page.locator(".heads [data-column=tokens]").click()
    shown = page.evaluate(CELLS, "tokens")
    assert len(shown) > 10
    assert shown == tokens[: len(shown)]
    assert page.get_attribute(".heads > [aria-sort]", "aria-sort") == "descending"
    page.keyboard.press("Enter")
    shown = page.evaluate(CELLS, "tokens")
    assert shown == tokens[::-1][: len(shown)]
    assert page.get_attribute(".heads > [aria-sort]", "aria-sort") == "ascending"
    page.click(".columns summary")
    page.uncheck(".choices [value=scenario]")
    assert "as=table&sort=tokens&columns=id.run.turns.verdict.outcome.cost.tokens.seconds" in page.url
    again = browser.new_page()
    again.goto(page.url)
    again.wait_for_selector("html[data-ready]", timeout=10_000)
    assert again.evaluate(CELLS, "id") == page.evaluate(CELLS, "id")
    again.close()
    page.check("#f-arms")
    assert page.evaluate(CELLS, "run")[0] == "2 of 2"
    page.select_option("#f-sort", "verdict")
    shares = [int(said.split()[0]) if " of " in said else 0 for said in page.evaluate(CELLS, "verdict")]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0


def test_the_cost_of_a_dialogue_is_that_of_replies_moderators_and_judges(make_run: MakeRun, visit: Open) -> None:
    folder = make_run("panel", panel=True)
    frame = pl.read_parquet(folder / "transcripts.parquet")
    frame.with_columns(moderator_cost_usd=pl.lit(0.02), cost_usd=pl.lit(0.3)).write_parquet(folder / "transcripts.parquet")
    judged = pl.read_parquet(folder / "verdicts.parquet").with_columns(cost_usd=pl.lit(0.001))
    judged.write_parquet(folder / "verdicts.parquet")
    page = visit([folder]).page
    page.keyboard.press("t")
    first = page.evaluate(CELLS, "id")[0]
    each = judged.filter(pl.col("dialogue_id") == first, pl.col("length") == 1).height
    assert page.evaluate(CELLS, "cost")[0] == f"{0.32 + 0.001 * each:.4f}"


def test_side_by_side_by_keyboard_alone(make_run: MakeRun, visit: Open) -> None:
    page = side_by_side(make_run, visit).page
    page.focus("#list")
    page.keyboard.press("ArrowDown")
    title = page.inner_text("#detail h3")
    page.keyboard.press("a")
    assert page.is_checked("#f-arms")
    assert page.inner_text("#detail h3") == title
    page.keyboard.press("Enter")
    for _ in range(7):  # five buttons, the messages before, the first run's reply
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.locator("#detail .arm details[open]").count() == 1
    page.keyboard.press("Escape")
    page.keyboard.press("a")
    assert not page.is_checked("#f-arms")
    page.focus("#f-search")
    page.keyboard.type("a")
    assert not page.is_checked("#f-arms")


def test_live_replies_of_all_runs_stand_below_each_message(make_run: MakeRun, visit: Open) -> None:
    folders = [make_run(name, protocol="live", lengths=(4,), scenarios=("Fraud",), seed=seed) for seed, name in enumerate(("one", "two"))]
    page = visit(folders).page
    page.check("#f-arms")
    turns = page.locator("#detail .arms").count()
    assert page.locator("#detail .message.user").count() == turns > 1
    assert not page.get_by_text("Was shown something else").count()
    assert not page.locator("#detail details.earlier").is_visible()


def test_a_run_that_was_shown_less_says_what(make_run: MakeRun, visit: Open) -> None:
    whole, less = make_run("whole", lengths=(4,)), make_run("no-history", lengths=(4,))
    frame = pl.read_parquet(less / "transcripts.parquet")
    last = frame["messages"].map_elements(lambda text: json.dumps(json.loads(text)[-1:]), return_dtype=pl.String)
    frame.with_columns(messages=last).write_parquet(less / "transcripts.parquet")
    page = visit([less, whole]).page
    assert page.locator("#detail .message.user .who").all_inner_texts() == ["User, message 4"]
    assert page.locator("#detail .judged").count() == 1
    page.check("#f-arms")
    arms = page.locator("#detail .arm")
    assert arms.count() == 2
    assert arms.nth(0).get_by_text("Was shown something else").count() == 1
    assert arms.nth(1).get_by_text("Was shown something else").count() == 0
    assert page.locator("#detail .judged").count() == 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_side_by_side_is_readable_and_fits_a_phone(make_run: MakeRun, visit: Open, scheme: str) -> None:
    page = visit(
        [make_run("one", hostile="long" * 300), make_run("two", seed=3)], color_scheme=scheme, viewport={"width": 390, "height": 800}
    ).page
    page.check("#f-arms")
    page.evaluate("for (const fold of document.querySelectorAll('details')) fold.open = true")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    found = page.evaluate((Path(__file__).parent / "contrasts.js").read_text(encoding="utf-8"))
    assert sorted({(kind, name, round(ratio, 2)) for kind, name, ratio in found if ratio < (4.5 if kind == "text" else 3.0)}) == []


def test_a_harmless_dialogue_is_helped_or_declined_and_never_unsafe(make_run: MakeRun, visit: Open) -> None:
    opened = visit([make_run("one", base=0.9), make_run("two", base=0.1)])
    page = opened.page
    page.select_option("#f-kind", "benign")
    words = set(page.eval_on_selector_all("#list .verdict", "all => all.map(one => one.textContent)"))
    assert words & {"helped", "declined"}
    assert not words & {"unsafe", "safe"}
    page.select_option("#f-verdict", "helped")
    assert opened.shown.startswith(tuple("123456789"))
    assert set(page.eval_on_selector_all("#list .verdict", "all => all.map(one => one.textContent)")) == {"helped"}
    assert "unsafe" not in page.inner_text("#detail")


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_a_studys_page_is_readable_and_sorts_by_rank(make_run: MakeRun, browser: Any, scheme: str, width: int) -> None:
    for seed, (name, base) in enumerate((("plain", 0.6), ("guarded+policy-vendor-model", 0.05), ("other", 0.3))):
        made = make_run(f"paper/{name}", base=base, step=0.02, seed=seed, ids_each=6)
        manifest = json.loads((made / "run.json").read_bytes())
        (made / "run.json").write_text(json.dumps(manifest | {"settings": {"max_failures": 0.5}}))
    arms = (Arm("plain"), Arm("guarded+policy-vendor-model", {}, "plain"), Arm("other", {}, "plain"), Arm("gone"))
    left_out = {"gone": ArmState("left out", ATTACK)}
    record = measure_study(made.parent, Study("paper", arms), left_out, resamples=200)
    opened = Visit(browser, write_study_page(made.parent, record), color_scheme=scheme, viewport={"width": width, "height": 900})
    page = opened.page
    ranks = page.locator("#study tbody tr")
    assert [text.split()[0] for text in ranks.locator("td:nth-child(2)").all_inner_texts()] == ["1", "2", "3"]
    page.locator("#study thead button").nth(1).click()
    assert [text.split()[0] for text in ranks.locator("td:nth-child(2)").all_inner_texts()] == ["3", "2", "1"]
    assert page.locator("#effects svg.chart").count() == 2
    assert ATTACK in page.inner_text(".banner")
    assert page.evaluate("window.hacked") is None
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    found = page.evaluate((Path(__file__).parent / "contrasts.js").read_text(encoding="utf-8"))
    assert sorted({(kind, name, round(ratio, 2)) for kind, name, ratio in found if ratio < (4.5 if kind == "text" else 3.0)}) == []
    page.check("#f-arms")
    assert page.locator("#detail .arm h4").all_inner_texts()[1].startswith("guarded+policy-vendor-model ")
    assert "&study=paper&view=arms" in page.url
    assert opened.complaints == []
    assert opened.outside() == []
    opened.context.close()


def test_repeats_stand_side_by_side_in_their_order(make_run: MakeRun, visit: Open) -> None:
    folders = [make_run(name, lengths=(1,), scenarios=("Fraud",), seed=seed) for seed, name in enumerate(("before", "after"))]
    for folder, numbers in zip(folders, ((1, 2), (3, 4)), strict=True):
        for name in ("transcripts", "verdicts"):
            frame = pl.read_parquet(folder / f"{name}.parquet")
            both = [frame.with_columns(repeat=pl.lit(number, dtype=pl.Int64)) for number in numbers]
            pl.concat(both).write_parquet(folder / f"{name}.parquet")
    page = visit(folders).page
    page.check("#f-arms")
    assert page.inner_text("#count") == "6 dialogues in 2 runs"
    assert all("2 of 2 runs" in option for option in page.locator(".option").all_inner_texts())
    page.locator("#list").press("ArrowDown")
    title = page.locator(".option[aria-selected=true]").inner_text()
    page.get_by_text("One run at a time").click()
    assert page.locator(".option[aria-selected=true]").inner_text().splitlines()[0] == title.splitlines()[0]
    assert "repeat 2" in page.locator(".option[aria-selected=true]").inner_text()


STILL = """async (mark) => {
  const place = () => mark.getBoundingClientRect().toJSON(), frame = () => new Promise(requestAnimationFrame);
  for (let before = place(), now; ; before = now) {
    await frame();
    await frame();
    now = place();
    if (now.x === before.x && now.y === before.y) return now;
  }
}"""
"""Where a mark stands once the page has ended its scrolling, and has told of it."""


def point_at(page: Any, mark: Any) -> str:
    """Moves the pointer over a mark of a chart and reads what is said."""
    mark.scroll_into_view_if_needed()
    box = mark.evaluate(STILL)
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    return str(page.inner_text(".tip"))


def test_every_chart_tells_its_values_where_one_points(make_run: MakeRun, visit: Open) -> None:
    runs = [make_run("weak", base=0.6), make_run("strong", base=0.0, step=0.05)]
    page = visit(runs).page
    row = read_run(runs[0]).summary.asr_by_turn[0]
    said = point_at(page, page.locator("#scores svg.chart [data-said^='weak, 1:']").first)
    assert f"weak, 1: {100 * (row.asr or 0):.1f}% ({100 * (row.ci_low or 0):.1f}–{100 * (row.ci_high or 0):.1f}%)" in said
    for section in ("scenarios", "failures", "outcomes", "cost", "pace"):
        assert point_at(page, page.locator(f"#{section} svg.chart [data-said]").first)
    page.keyboard.press("Escape")
    assert not page.is_visible(".tip")


def test_a_page_that_scrolls_under_a_resting_mouse_tells_what_is_there_now(make_run: MakeRun, visit: Open) -> None:
    opened = visit([make_run("weak", base=0.6), make_run("strong", base=0.0, step=0.05)], reduced_motion="reduce")
    page = opened.page
    mark = page.locator("#scores svg.chart [data-said^='weak, 1:']").first
    said = point_at(page, mark)
    page.evaluate("dispatchEvent(new Event('scroll'))")
    mark.evaluate(STILL)
    assert page.is_visible(".tip")
    assert page.inner_text(".tip") == said
    page.evaluate("scrollBy(0, document.querySelector('#scores svg.chart').getBoundingClientRect().height * 2)")
    opened.until(
        "document.querySelector('.tip').textContent === " + json.dumps(said) + " && !document.querySelector('.tip').hidden", wanted=False
    )
    page.evaluate("scrollBy(0, -document.querySelector('#scores svg.chart').getBoundingClientRect().height * 2)")
    opened.until("document.querySelector('.tip').innerText", said)


def test_the_other_lines_step_back_from_the_one_that_is_looked_at(make_run: MakeRun, visit: Open) -> None:
    folders = [make_run(f"run-{place}", scenarios=("Fraud", "Political"), lengths=(1, 2), seed=place) for place in range(17)]
    opened = visit(folders)
    page = opened.page
    names = page.locator("#scores svg.chart .mark-text.role-mark text").all_text_contents()
    assert sorted(names) == sorted(f"run-{place}" for place in range(17))
    boxes = page.eval_on_selector_all(
        "#scores svg.chart .mark-text.role-mark text", "all => all.map(one => one.getBoundingClientRect().y).sort((a, b) => a - b)"
    )
    assert min(below - above for above, below in pairwise(boxes)) > 8
    point_at(page, page.locator("#scores svg.chart .mark-symbol path[data-run='run-3']").last)
    opened.until("document.querySelector('#scores svg.chart').classList.contains('lit')", wanted=True)
    dimmed = "name => getComputedStyle(document.querySelector(`#scores .mark-line [data-run='${name}']`)).opacity"
    lit = page.eval_on_selector_all("#scores .mark-line .on", "all => all.map(one => one.dataset.run)")
    assert "run-3" in lit
    page.wait_for_timeout(300)
    assert float(page.evaluate(dimmed, "run-3")) == 1
    assert float(page.evaluate(dimmed, next(name for name in names if name not in lit))) < 0.2
    page.mouse.move(2, 2)
    opened.until("document.querySelector('svg.lit')", wanted=None)


def test_a_cell_of_a_heat_map_opens_its_dialogues(make_run: MakeRun, visit: Open) -> None:
    opened = visit([make_run("weak", base=0.6), make_run("strong")])
    page = opened.page
    page.locator("#scenarios svg.chart a[href='#run=strong&scenario=Fraud&length=4&kind=harmful']").click()
    opened.until(COUNT, "2 of 120 dialogues")
    assert page.input_value("#f-run") == "1"
    assert page.input_value("#f-scenario") == "Fraud"
    assert page.input_value("#f-length") == "4"
    opened.until("document.querySelector('#transcripts').getBoundingClientRect().top < innerHeight", wanted=True)
    both = page.locator("#scenarios svg.chart").first
    assert both.locator("a").count() == 8
    both.locator("a").last.focus()
    opened.until("document.querySelector('.tip').hidden", wanted=False)
    page.keyboard.press("Enter")
    opened.until("document.getElementById('f-length').value", "")
    assert "run=strong&scenario=Political" in page.url


def test_what_was_searched_for_is_marked_and_unfolded(make_run: MakeRun, visit: Open) -> None:
    opened = visit([make_run(hostile="A needle, <b>bold</b>, and a NEEDLE again")])
    page = opened.page
    page.fill("#f-search", "needle bold")
    opened.until(COUNT, "1 of 60 dialogues")
    assert page.locator("#detail mark").all_inner_texts() == ["needle", "bold", "NEEDLE"]
    assert page.locator("#detail details.reply[open]").count() == 1
    assert page.locator("#detail .words b").count() == 0


def test_tables_charts_and_dialogues_can_be_taken_along(make_run: MakeRun, visit: Open) -> None:
    opened = visit([make_run("=weak", base=0.6), make_run("strong")], permissions=["clipboard-read", "clipboard-write"])
    page = opened.page

    def copied(button: Any) -> str:
        page.evaluate("navigator.clipboard.writeText('')")
        button.click()
        page.get_by_text("Copied").wait_for()
        page.get_by_text("Copied").wait_for(state="detached")
        return str(page.evaluate("navigator.clipboard.readText()"))

    table = copied(page.locator("#scores .take[data-take=table]").first).splitlines()
    assert table[0].split("\t")[:3] == ["Run", "Model", "SI"]
    assert any(line.startswith("'=weak\t") for line in table)
    assert "Question 1" in copied(page.get_by_role("button", name="Copy as text"))
    assert copied(page.get_by_role("button", name="Copy the address")) == page.url
    with page.expect_download() as chart:
        page.locator("#scores .take[data-take=svg]").click()
    assert chart.value.suggested_filename == "attack-success-rate-by-length.svg"
    svg = chart.value.path().read_text()
    assert "var(--" not in svg
    assert "<svg" in svg
    page.select_option("#f-scenario", "Fraud")
    with page.expect_download() as lines:
        page.click("#save")
    records = [json.loads(line) for line in lines.value.path().read_text().splitlines()]
    assert len(records) == 30
    assert {record["run"] for record in records} == {"=weak", "strong"}
    assert all(record["messages"][0]["text"].startswith("Question 1") for record in records)
