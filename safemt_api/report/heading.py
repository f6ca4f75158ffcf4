"""The top of the page: what was run, whether it is whole, and the figures a reader wants first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from safemt_api.report import words
from safemt_api.report.comparability import MARK, all_differences, comparable_groups
from safemt_api.report.markup import safe_text
from safemt_api.report.reading import index_basis
from safemt_api.runs.record import RunData


def page_title(runs: Sequence[RunData]) -> str:
    if len(runs) == 1:
        return words.printable(runs[0].summary.model or runs[0].name)
    return f"{len(runs)} runs side by side"


def heading_block(runs: Sequence[RunData]) -> str:
    title = f"<h1>{safe_text(page_title(runs))}</h1>"
    if len(runs) > 1:
        judges = sorted({run.judge_title for run in runs})
        note = f" Scores of the runs marked {MARK} do not compare with the others'." if all_differences(runs) else ""
        banners = "".join(_banner(run) for run in runs)
        lede = f"{safe_text(side_by_side(runs))} Judged by {safe_text(', '.join(judges))}.{note}"
        return f'{title}<p class="lede">{lede}</p>{banners}'
    run = runs[0]
    return f'{title}{_facts(run)}{_banner(run)}<p class="lede">{escape(plain_words(run))}</p>{_figures(run)}'


def _facts(run: RunData) -> str:
    summary = run.summary
    facts = {
        "run": run.name,
        "provider": summary.provider,
        "protocol": summary.protocol,
        "judge": run.judge_title,
        "moderator": summary.moderator,
        "status": summary.status.replace("_", " "),
        "started": (run.started or "").partition("T")[0],
    }
    items = "".join(f"<li>{name} <b>{safe_text(value)}</b></li>" for name, value in facts.items() if value)
    return f'<ul class="facts">{items}</ul>'


def _banner(run: RunData) -> str:
    if run.complete:
        return ""
    done, status = run.summary.dialogues, run.summary.status.replace("_", " ")
    return (
        f'<p class="banner"><strong>{safe_text(run.name)} is {safe_text(status)}:</strong> '
        f"{done.finished} of {done.planned} dialogues are finished, {done.failed} failed. Scores cover what is there.</p>"
    )


def plain_words(run: RunData) -> str:
    """What happened, in two sentences."""
    rows = [row for row in run.summary.asr_by_turn if row.asr is not None]
    if not rows:
        return "No reply has a valid verdict, so there is no score."
    word, first, last = words.turn_word(run.summary.protocol), rows[0], rows[-1]
    unsafe, judged = sum(row.unsafe for row in rows), sum(row.unsafe + row.safe for row in rows)
    start = f"{words.count(unsafe)} of {words.count(judged)} judged replies were unsafe according to the {_judge_phrase(run)}."
    if first is last:
        return start
    change = f"ASR is {words.percent(first.asr)} at {word} {first.turn} and {words.percent(last.asr)} at {word} {last.turn}."
    return f"{start} {change}"


def side_by_side(runs: Sequence[RunData]) -> str:
    """Which run is safest, where their Safety Indexes may be compared; else nothing."""
    known = [(run.summary.safety_index.value, run.name) for run in runs if run.summary.safety_index.value is not None]
    if len(comparable_groups(runs)) > 1 or all_differences(runs) or len(known) < 2:
        return ""
    (low, worst), (high, best) = min(known), max(known)
    return f"By Safety Index, {best} is the safest ({words.index(high)}) and {worst} the least safe ({words.index(low)})."


def _judge_phrase(run: RunData) -> str:
    title = words.printable(run.judge_title)
    return title if title.startswith("baseline judge") else f"judge {title}"


def _figures(run: RunData) -> str:
    summary, index = run.summary, run.summary.safety_index
    interval = f"interval {words.index_interval(index.ci_low, index.ci_high)}"
    what = "lengths" if summary.protocol == "scripted" else "last turns, lengths"
    missing = sum(row.missing for row in summary.asr_by_turn)
    baseline = run.judge_title if run.judge_title.startswith("baseline") else ""
    ceiling = "" if summary.cost_usd.ceiling is None else f"ceiling {words.dollars(summary.cost_usd.ceiling)}"
    maybe = f"{words.dollars(summary.cost_usd.maybe_usd)} more may have been billed" if summary.cost_usd.maybe_usd else ""
    saved = f"{words.dollars(summary.cost_usd.saved_usd)} less than in the usual tier" if summary.cost_usd.saved_usd else ""
    figures = [
        (
            "Safety Index",
            words.index(index.value),
            [
                _whisker(index.value, index.ci_low, index.ci_high),
                "fewer than half of the ids are complete" if index.withheld else interval,
                index_basis(index),
                f"{what} {words.listed(index.lengths)}",
            ],
        ),
        *_asr_figures(run, baseline),
        (
            "Dialogues",
            words.count(summary.dialogues.finished),
            [f"of {words.count(summary.dialogues.planned)}; {words.count(summary.dialogues.failed)} failed", _spot_check(run)],
        ),
        ("Missing verdicts", words.count(missing), ["in neither count"]),
        ("Cost", words.dollars(summary.cost_usd.total), [ceiling, saved, maybe, words.duration(summary.wall_seconds)]),
    ]
    if baseline:
        figures[0][2].append(baseline)
    return '<dl class="figures">' + "".join(_figure(*figure) for figure in figures) + "</dl>"


def _spot_check(run: RunData) -> str:
    stopping = run.summary.stopping
    return f"enough for ±{100 * stopping.goal:g} points of overall ASR" if stopping is not None and stopping.reached else ""


def _figure(name: str, value: str, lines: Iterable[str]) -> str:
    shown = "".join(f"<dd>{line if line.startswith('<svg') else safe_text(line)}</dd>" for line in lines if line)
    return f"<div><dt>{escape(name)}</dt><dd>{safe_text(value)}</dd>{shown}</div>"


def _asr_figures(run: RunData, baseline: str) -> list[tuple[str, str, list[str]]]:
    rows = [row for row in run.summary.asr_by_turn if row.asr is not None]
    word = words.turn_word(run.summary.protocol)
    ends = rows[:1] + rows[-1:] if len(rows) > 1 else rows
    return [
        (f"ASR at {word} {row.turn}", words.percent(row.asr), [f"interval {words.percent_interval(row.ci_low, row.ci_high)}", baseline])
        for row in ends
    ]


def _whisker(value: float | None, low: float | None, high: float | None) -> str:
    """A dot with its interval on a line from 0 to 1, drawn by hand so that it needs no extra."""
    if value is None:
        return ""
    whisker = (
        ""
        if low is None or high is None
        else f'<line x1="{_place(low)}" x2="{_place(high)}" y1="6" y2="6" stroke="var(--accent)" stroke-width="3"/>'
    )
    return (
        f'<svg class="whisker" viewBox="0 0 200 12" preserveAspectRatio="none" role="img" '
        f'aria-label="{words.index(value)} on a line from 0 to 1">'
        f'<line x1="0" x2="200" y1="6" y2="6" stroke="var(--line)"/>{whisker}'
        f'<rect x="{_place(value) - 1.5:.1f}" y="1" width="3" height="10" fill="var(--accent)"/></svg>'
    )


def _place(share: float) -> float:
    return round(2 + 196 * min(1.0, max(0.0, share)), 1)
