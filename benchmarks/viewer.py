"""How quick the viewer is over a study of 17 arms × 10,000 dialogues, in a real Chromium, and what memory both sides take.

``python -m benchmarks.viewer`` writes such a study (made of words drawn at random), starts ``safemt-api view`` and Chromium, and prints:

- first paint and the first page of transcripts, from the start of a fresh load, on a server that has just been started and on one that
  has been looked at before;
- a filter or another order, from the change of the control to the painted list: the median and the worst of many;
- a search for a word over all words of all dialogues, the first time;
- a dialogue side by side in 17 arms;
- memory: the server's, and the page's after scrolling through the whole list and reading many dialogues (JavaScript heap after a garbage
  collection, and all that Chromium's process of the page has for itself).
"""

from __future__ import annotations

import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import polars as pl
from playwright.sync_api import sync_playwright

from safemt_api.frames import TRANSCRIPT_SCHEMA, VERDICT_SCHEMA
from safemt_api.runs.summary import scores_of

ARMS, IDS, LENGTHS = 17, 2000, (1, 2, 4, 6, 8)
SCENARIOS = tuple(f"Scenario {number:02d}" for number in range(1, 18))
VOCABULARY = tuple("".join(random.Random(seed).choices("abcdefghiklmnoprstuv", k=3 + seed % 6)) for seed in range(400))
RARE = "quokka"
MOST_SECONDS = 60.0
FLAGS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--js-flags=--expose-gc")

FILTERS = (
    *[("f-verdict", value) for value in ("unsafe", "missing", "safe", "")],
    *[("f-scenario", value) for value in ("Scenario 03", "Scenario 17", "")],
    *[("f-length", value) for value in ("8", "1", "")],
    *[("f-only", value) for value in ("study/m09", "study/m17", "")],
    *[("f-outcome", value) for value in ("refused", "error", "")],
    *[("f-sort", value) for value in ("-cost", "verdict", "-seconds", "id", "")],
)


@dataclass(frozen=True)
class Measured:
    """Milliseconds and MB."""

    first_paint_ms: float
    list_after_start_ms: float
    list_again_ms: float
    filter_median_ms: float
    filter_worst_ms: float
    search_ms: float
    dialogue_ms: float
    heap_mb: float
    page_mb: float
    server_mb: float


def write_study(results: Path, *, arms: int = ARMS, ids: int = IDS) -> None:
    """A finished study of so many arms, each over the same ids at five lengths."""
    chance = random.Random(0)
    keys = [(f"id_{number:05d}", SCENARIOS[number % len(SCENARIOS)], length) for number in range(ids) for length in LENGTHS]
    said = [_history(chance, length) for _, _, length in keys]
    base = {
        "dialogue_id": [key[0] for key in keys],
        "scenario": [key[1] for key in keys],
        "length": [key[2] for key in keys],
        "turn": [key[2] for key in keys],
        "messages": said,
        "user_text": [json.loads(text)[-1]["content"] for text in said],
    }
    fixed = {"kind": "harmful", "protocol": "scripted", "repeat": 1, "finish_reason": "stop", "provider": "simulator", "from_store": False}
    names = [f"m{number + 1:02d}" for number in range(arms)]
    for number, name in enumerate(names):
        chance.seed(number)
        outcomes = chance.choices(("answered", "refused", "error"), weights=(90, 8, 2), k=len(keys))
        replies = ["" if one == "error" else _words(chance, chance.randint(60, 220)) for one in outcomes]
        replies[number] += f" {RARE}"
        labels = [
            None if one == "error" else "safe" if one == "refused" or chance.random() > 0.03 * (number + 1) else "unsafe"
            for one in outcomes
        ]
        turns = _frame(TRANSCRIPT_SCHEMA, {**base, "reply_text": replies, "outcome": outcomes}, {**fixed, "model": name, "run": name})
        turns = turns.with_columns(input_tokens=900, output_tokens=200, cost_usd=0.0004, latency_seconds=1.5)
        judged = {key: base[key] for key in ("dialogue_id", "scenario", "length", "turn")} | {"label": labels}
        verdicts = _frame(VERDICT_SCHEMA, judged, {"kind": "harmful", "repeat": 1, "judge": "rules", "source": "judge", "run": name})
        _write_run(results / "study" / name, turns, verdicts.with_columns(counts=True, cost_usd=0.0001))
    record = {
        "schema": 1,
        "study": "study",
        "status": "complete",
        "arms": [{"name": name, "run": f"study/{name}", "state": "complete"} for name in names],
    }
    (results / "study" / "study.json").write_text(json.dumps(record))


def _history(chance: random.Random, length: int) -> str:
    roles = ("user", "assistant") * length
    return orjson.dumps([{"role": role, "content": _words(chance, 50)} for role in roles[:-1]]).decode()


def _words(chance: random.Random, count: int) -> str:
    return " ".join(chance.choices(VOCABULARY, k=count))


def _frame(schema: Mapping[str, Any], columns: Mapping[str, Any], fixed: Mapping[str, Any]) -> pl.DataFrame:
    frame = pl.DataFrame(columns).with_columns(**{name: pl.lit(value) for name, value in fixed.items()})
    return frame.select((pl.col(name) if name in frame.columns else pl.lit(None)).cast(kind).alias(name) for name, kind in schema.items())


def _write_run(folder: Path, turns: pl.DataFrame, verdicts: pl.DataFrame) -> None:
    folder.mkdir(parents=True)
    turns.write_parquet(folder / "transcripts.parquet", row_group_size=1000)
    verdicts.write_parquet(folder / "verdicts.parquet", row_group_size=1000)
    failed = turns.filter(pl.col("outcome") == "error").height
    summary = {
        "schema": 1,
        "run": folder.name,
        "status": "complete",
        "provider": "simulator",
        "model": folder.name,
        "protocol": "scripted",
        "judge": "rules",
        "lengths": LENGTHS,
        "dialogues": {"planned": turns.height, "finished": turns.height - failed, "failed": failed},
        "outcomes": dict(turns["outcome"].value_counts().iter_rows()),
        **scores_of(verdicts, "scripted"),
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    times = {"started_utc": "2026-11-21T10:00:00+00:00", "ended_utc": "2026-11-21T11:00:00+00:00"}
    (folder / "run.json").write_text(json.dumps({"schema": 1, "run": folder.name, "identity": {}, "settings": {}, **times}))


@contextmanager
def viewer(results: Path) -> Iterator[tuple[str, int]]:
    """The viewer as a process of its own; gives its address and process id."""
    command = [sys.executable, "-m", "safemt_api", "view", str(results), "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[-1], process.pid
        finally:
            process.kill()


LISTED = "document.querySelectorAll('#list .option').length > 3 && !document.querySelector('#list .option .second:only-child')"
CHANGED = """([id, value]) => new Promise((done) => {
  const count = document.getElementById('count'), control = document.getElementById(id), began = performance.now();
  const seen = new MutationObserver(() => requestAnimationFrame(() => { seen.disconnect(); done(performance.now() - began); }));
  seen.observe(document.querySelector('#list .spacer'), { childList: true });
  control.value = value;
  control.dispatchEvent(new Event(control.type === 'search' ? 'input' : 'change', { bubbles: true }));
})"""


def measure(results: Path) -> Measured:
    """Measure the viewer over a results folder that ``write_study`` has written."""
    chromium = os.environ.get("SAFEMT_TEST_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as driver, viewer(results) as (address, server):
        browser = driver.chromium.launch(executable_path=chromium, args=list(FLAGS))
        try:
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            place = f"{address}#study=study"
            first = _until_listed(page, place)
            paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
            page.wait_for_timeout(3000)
            page.goto("about:blank")
            again = _until_listed(page, place)
            page.wait_for_timeout(1000)
            filters = [page.evaluate(CHANGED, list(change)) for _ in range(2) for change in FILTERS]
            search = page.evaluate(CHANGED, ["f-search", RARE])
            assert page.inner_text("#count").startswith(f"{ARMS} of "), page.inner_text("#count")
            page.evaluate(CHANGED, ["f-search", ""])
            dialogue = _read_many(page)
            session = page.context.new_cdp_session(page)
            session.send("HeapProfiler.collectGarbage")
            heap = page.evaluate("performance.memory.usedJSHeapSize") / 1e6
            own = max(_private_mb(child) for child in _renderers())
            return Measured(paint, first, again, statistics.median(filters), max(filters), search, dialogue, heap, own, _private_mb(server))
        finally:
            browser.close()


def _until_listed(page: Any, place: str) -> float:
    began = time.perf_counter()
    page.goto(place)
    _wait(page, lambda: page.evaluate(LISTED))
    return 1000 * (time.perf_counter() - began)


def _wait(page: Any, done: Callable[[], bool]) -> None:
    give_up = time.perf_counter() + MOST_SECONDS
    while not done():
        assert time.perf_counter() < give_up, page.inner_text("body")[:500]
        page.wait_for_timeout(3)


def _read_many(page: Any) -> float:
    """Walk through the whole list and read dialogues on the way, side by side; gives how long the last ones took to show (median)."""
    page.check("#f-arms")
    page.wait_for_timeout(500)
    for part in range(100):
        page.evaluate(f"document.getElementById('list').scrollTop = {part} / 99 * document.getElementById('list').scrollHeight")
        page.wait_for_timeout(30)
    taken = []
    for _ in range(30):
        began = time.perf_counter()
        before = page.evaluate("location.hash")
        page.keyboard.press("j")
        _wait(page, partial(_has_moved, page, before))
        taken.append(1000 * (time.perf_counter() - began))
    return statistics.median(taken)


def _has_moved(page: Any, before: str) -> bool:
    return bool(page.evaluate("location.hash") != before and page.locator("#detail .arm").count() == ARMS)


def _renderers() -> list[int]:
    """The processes of our Chromium that draw pages."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and b"--type=renderer" in (entry / "cmdline").read_bytes() and _is_ours(int(entry.name)):
                found.append(int(entry.name))
        except OSError:
            continue  # it has ended
    return found


def _is_ours(process: int) -> bool:
    while process > 1:
        if process == os.getpid():
            return True
        process = int(Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
    return False


def _private_mb(process: int) -> float:
    lines = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii").splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1000


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        write_study(Path(folder))
        for name, value in vars(measure(Path(folder))).items():
            print(f"{name:22} {value:8.1f}")


if __name__ == "__main__":
    main()
