"""Charts by altair, turned into SVG and PDF by vl-convert. Imported late: both come with the optional extra ``charts``.

The page shows one SVG in both themes: its colours are the placeholders of ``PAGE_PALETTE``, which ``page_svg`` replaces by CSS variables.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any, Literal, TypeAlias

import altair as alt
import polars as pl
import vl_convert

from safemt_api import words
from safemt_api.foreign_text import drawable
from safemt_api.messages import PURPOSES
from safemt_api.report.table import COLOURS, series_of
from safemt_api.report.tables import failure_curve, outcome_counts, run_labels
from safemt_api.runs.record import RunData

Chart: TypeAlias = Any
"""An altair chart of whatever layering; altair's own annotations lose the class at ``properties``."""

Step: TypeAlias = Literal["linear", "step-after"]

FONT = "Helvetica Neue, Arial, sans-serif"
OUTCOME_ORDER = ("answered", "refused", "blocked_input", "blocked_output", "truncated", "error")
PURPOSE_ORDER = ("target", "judge", "moderator")
APART = "\u241f"
"""Stands between what a mark says, whose it is and where it leads."""
FEW = 5
"""More bands than that hide each other: they are faint, and the page shows that of the line that is looked at."""
LABEL_PIXELS = 14
"""Of height that each name at the end of a line needs."""
MOST_POINTS = 600
MOST_OPACITY = 0.52
"""Of a cell of the heat map: above it the numbers on it fall below WCAG AA's 4.5 in the dark theme."""


@dataclass(frozen=True, slots=True)
class Palette:
    """Colours of a chart; ``series`` holds all there are, ``places`` says which run each line is, ``outcomes`` holds one per outcome."""

    ink: str
    muted: str
    grid: str
    paper: str
    unsafe: str
    series: tuple[str, ...]
    outcomes: tuple[str, ...]
    places: tuple[int, ...] = ()

    def look(self, index: int) -> tuple[str, list[int]]:
        """Colour and dash of the line at ``index``."""
        series = series_of(self.places[index] if index < len(self.places) else index)
        return self.series[series.colour], list(series.dash)


PRINT_PALETTE = Palette(
    ink="#1d1d1b",
    muted="#5f5e5a",
    grid="#e3e1db",
    paper="#ffffff",
    unsafe="#b8381f",
    series=("#1f5f8b", "#b8381f", "#3d7a4f", "#7a4fa0", "#a86a00", "#00777a", "#a03068", "#555555"),
    outcomes=("#1f5f8b", "#3d7a4f", "#7fae87", "#b5cdb4", "#c79a3a", "#b8381f"),
)
_PLACEHOLDERS: dict[str, str] = {
    "ink": "#010a01",
    "muted": "#010a02",
    "grid": "#010a03",
    "paper": "#010a04",
    "unsafe": "#010a05",
    **{f"series-{number}": f"#010b{number:02x}" for number in range(1, COLOURS + 1)},
    **{f"outcome-{number}": f"#010c{number:02x}" for number in range(1, len(OUTCOME_ORDER) + 1)},
}
PAGE_PALETTE = Palette(
    ink=_PLACEHOLDERS["ink"],
    muted=_PLACEHOLDERS["muted"],
    grid=_PLACEHOLDERS["grid"],
    paper=_PLACEHOLDERS["paper"],
    unsafe=_PLACEHOLDERS["unsafe"],
    series=tuple(_PLACEHOLDERS[f"series-{number}"] for number in range(1, COLOURS + 1)),
    outcomes=tuple(_PLACEHOLDERS[f"outcome-{number}"] for number in range(1, len(OUTCOME_ORDER) + 1)),
)


def recoloured(palette: Palette, places: Sequence[int]) -> Palette:
    """The palette for lines that are the runs at ``places`` (counted from 0), so that a run looks the same in every chart."""
    return replace(palette, places=tuple(places))


def _color(palette: Palette, names: Sequence[str], legend: alt.Legend | None = None) -> alt.Color:
    scale = alt.Scale(domain=list(names), range=[palette.look(index)[0] for index in range(len(names))])
    return alt.Color("run:N", scale=scale, legend=legend)


def _dash(palette: Palette, names: Sequence[str], legend: alt.Legend | None = None) -> alt.StrokeDash:
    scale = alt.Scale(domain=list(names), range=[palette.look(index)[1] for index in range(len(names))])
    return alt.StrokeDash("run:N", scale=scale, legend=legend)


def _legend(names: Sequence[str]) -> alt.Legend | None:
    if len(names) < 2:
        return None
    return alt.Legend(
        orient="bottom", title=None, columns=1, labelLimit=400, symbolType="stroke", symbolOpacity=1, symbolStrokeWidth=2.2, symbolSize=700
    )


def _names(frame: pl.DataFrame) -> list[str]:
    return frame["run"].unique(maintain_order=True).to_list()


def _share_axis(title: str) -> alt.Axis:
    return alt.Axis(format=".0%", title=title, tickCount=5)


def asr_by_turn(frame: pl.DataFrame, palette: Palette, *, width: int, turn_title: str) -> Chart:
    """ASR by turn, one line a run with its 95 % band.

    ``frame`` has ``run``, ``turn``, ``asr``, ``ci_low``, ``ci_high`` (shares, null where unknown).
    """
    return _lines(frame, "asr", palette, width=width, titles=(turn_title, "attack success rate"))


def first_failure(frame: pl.DataFrame, palette: Palette, *, width: int, turn_title: str) -> Chart:
    """Share of ids that have failed by each turn, as steps. ``frame`` has ``run``, ``turn``, ``share``, maybe ``ci_low``, ``ci_high``."""
    return _lines(frame, "share", palette, width=width, titles=(turn_title, "dialogues that have failed"), interpolate="step-after")


def _lines(
    frame: pl.DataFrame, value: str, palette: Palette, *, width: int, titles: tuple[str, str], interpolate: Step = "linear"
) -> Chart:
    """One line a run over the turns, with a band where there are intervals; of several each has its name at its end."""
    names, turns = _names(frame), sorted(frame["turn"].unique().to_list())
    height = max(round(width * 0.55), LABEL_PIXELS * len(names))
    known = frame.drop_nulls(value).with_columns(
        told=pl.struct(pl.all()).map_elements(lambda row: _point(row, value), return_dtype=pl.String), by=_told_run(pl.col("run"))
    )
    low, high = (turns[0] - 0.25, turns[-1] + 0.25) if turns else (0.75, 1.25)
    axis = alt.Axis(values=turns, format="d", grid=False)
    x = alt.X("turn:Q", title=titles[0], axis=axis, scale=alt.Scale(domain=[low, high]))
    y = alt.Y(f"{value}:Q", title=None, axis=_share_axis(titles[1]), scale=alt.Scale(domain=[0, 1]))
    color, dash, base = _color(palette, names), _dash(palette, names), alt.Chart(known)
    layers = [
        base.mark_line(strokeWidth=2.2, interpolate=interpolate).encode(x=x, y=y, color=color, strokeDash=dash, description="by:N"),
        base.mark_circle(size=46, opacity=1).encode(x=x, y=y, color=color, description="told:N"),
    ]
    if {"ci_low", "ci_high"} <= set(known.columns):
        band = base.mark_area(interpolate=interpolate, opacity=0.2 if len(names) == 1 else 0.14 if len(names) <= FEW else 0.04)
        layers.insert(0, band.encode(x=x, y=alt.Y("ci_low:Q"), y2="ci_high:Q", color=color, description="by:N"))
    if len(names) > 1:
        layers += _end_labels(known, value, edge=high, gap=LABEL_PIXELS / height, color=color, dash=dash)
    return alt.layer(*layers).properties(width=width, height=height)


def _end_labels(known: pl.DataFrame, value: str, *, edge: float, gap: float, color: alt.Color, dash: alt.StrokeDash) -> list[alt.Chart]:
    """The names at the lines' ends, moved apart, each with a thread to its line."""
    ends = known.group_by("run", "by", maintain_order=True).agg(pl.col("turn", value).sort_by("turn").last()).sort(value)
    # As little as need be, so that neighbours are ``gap`` apart: up from the lowest, then down from the top where that left no room.
    places: list[float] = []
    for share in ends[value].to_list():
        places.append(max(share, places[-1] + gap) if places else share)
    top = 1.0
    for place in range(len(places) - 1, -1, -1):
        places[place] = min(places[place], top)
        top = places[place] - gap
    base = alt.Chart(ends.with_columns(place=pl.Series(places, dtype=pl.Float64), edge=pl.lit(edge)))
    thread = base.mark_rule(strokeWidth=1, opacity=0.7).encode(
        x="turn:Q", x2="edge:Q", y=alt.Y(f"{value}:Q"), y2="place:Q", color=color, strokeDash=dash, description="by:N"
    )
    text = base.mark_text(align="left", baseline="middle", dx=5, fontSize=11.5, limit=150)
    return [thread, text.encode(x="edge:Q", y="place:Q", text="run:N", color=color, description="by:N")]


def _told_run(run: pl.Expr) -> pl.Expr:
    return pl.concat_str(run, pl.lit(f"{APART}{APART}"))


def _point(row: Mapping[str, Any], value: str) -> str:
    interval = "" if row.get("ci_low") is None else f" ({words.percent_interval(row['ci_low'], row['ci_high'])})"
    return told(f"{row['run']}, {row['turn']}: {words.percent(row[value])}{interval}", run=row["run"])


def told(said: str, *, run: str = "", link: str = "") -> str:
    """What a mark says where one looks at it, whose it is, and where it leads on the page: ``page_svg`` takes these apart again."""
    return APART.join(part.replace(APART, " ") for part in (run, said, link))


def heat_map(frame: pl.DataFrame, palette: Palette, *, width: int, turn_title: str) -> Chart:
    """Scenario × turn of one run: the darker a cell, the higher its ASR; cells without a verdict stay empty.

    ``frame`` has ``scenario``, ``turn``, ``asr``, ``missing``, and may have ``link``: where a cell leads on the page.
    """
    x = alt.X("turn:O", title=turn_title, axis=alt.Axis(orient="top", labelAngle=0, domain=False, ticks=False))
    y = alt.Y("scenario:N", title=None, axis=alt.Axis(domain=False, ticks=False, labelLimit=170, labelPadding=6))
    said = [f"{row['scenario']}, {row['turn']}: {words.percent(row['asr'])}" for row in frame.iter_rows(named=True)]
    return _cells(frame, said, palette, x, y, width=width, height=27 * max(1, frame.drop_nulls("asr")["scenario"].n_unique()))


def score_map(frame: pl.DataFrame, palette: Palette) -> Chart:
    """Run × scenario in one picture. ``frame`` has ``run``, ``scenario``, ``asr``, and may have ``link``."""
    scenarios, names = frame["scenario"].n_unique(), _names(frame)
    x = alt.X("scenario:N", title=None, axis=alt.Axis(orient="top", labelAngle=-35, domain=False, ticks=False, labelLimit=150))
    y = alt.Y("run:N", sort=names, title=None, axis=alt.Axis(domain=False, ticks=False, labelLimit=190, labelPadding=6))
    said = [f"{row['run']}, {row['scenario']}: {words.percent(row['asr'])}" for row in frame.iter_rows(named=True)]
    return _cells(frame, said, palette, x, y, width=48 * max(1, scenarios), height=25 * max(1, len(names)))


def _cells(frame: pl.DataFrame, said: Sequence[str], palette: Palette, x: alt.X, y: alt.Y, *, width: int, height: int) -> Chart:
    links = frame["link"].to_list() if "link" in frame.columns else [""] * frame.height
    told_of = [told(text, link=link) for text, link in zip(said, links, strict=True)]
    base = alt.Chart(frame.with_columns(told=pl.Series(told_of, dtype=pl.String)).drop_nulls("asr"))
    opacity = alt.Opacity("asr:Q", scale=alt.Scale(domain=[0, 1], range=[0.04, MOST_OPACITY]), legend=None)
    cells = base.mark_rect(color=palette.unsafe, cornerRadius=2, stroke=palette.paper, strokeWidth=2, strokeOpacity=1)
    labels = base.mark_text(fontSize=11.5, color=palette.ink).encode(x=x, y=y, text=alt.Text("asr:Q", format=".0%"))
    return alt.layer(cells.encode(x=x, y=y, fillOpacity=opacity, description="told:N"), labels).properties(width=width, height=height)


def outcomes(frame: pl.DataFrame, palette: Palette, *, width: int) -> Chart:
    """What the vendor did with the calls, one stacked bar a run. ``frame`` has ``run``, ``outcome``, ``calls``."""
    names = _names(frame)
    shown = [name for name in OUTCOME_ORDER if name in set(frame.filter(pl.col("calls") > 0)["outcome"])]
    spoken = {name: name.replace("_", " ") for name in OUTCOME_ORDER}
    ordered = frame.filter(pl.col("outcome").is_in(shown)).with_columns(
        rank=pl.col("outcome").replace_strict({name: rank for rank, name in enumerate(OUTCOME_ORDER)}, return_dtype=pl.Int64),
        outcome=pl.col("outcome").replace(spoken),
        told=_bars(frame.filter(pl.col("outcome").is_in(shown)), "outcome", words.count, "calls"),
    )
    scale = alt.Scale(domain=[spoken[name] for name in shown], range=[palette.outcomes[OUTCOME_ORDER.index(name)] for name in shown])
    color = alt.Color("outcome:N", scale=scale, legend=alt.Legend(orient="bottom", title=None, columns=3, symbolType="square"))
    y = alt.Y("run:N", sort=names, title=None, axis=_run_axis(names))
    x = alt.X("calls:Q", stack="normalize", title="share of replies", axis=_share_axis("share of replies"))
    chart = (
        alt.Chart(ordered).mark_bar(stroke=palette.paper, strokeWidth=1).encode(x=x, y=y, color=color, order="rank:Q", description="told:N")
    )
    return chart.properties(width=width, height=_bar_height(names))


def costs(frame: pl.DataFrame, palette: Palette, *, width: int) -> Chart:
    """Dollars by who asked, one stacked bar a run. ``frame`` has ``run``, ``purpose``, ``usd``."""
    names = _names(frame)
    shown = [name for name in PURPOSE_ORDER if name in set(frame.filter(pl.col("usd") > 0)["purpose"])]
    scale = alt.Scale(domain=shown, range=[palette.series[(0, 2, 4)[PURPOSE_ORDER.index(name)]] for name in shown])
    ranks = {name: rank for rank, name in enumerate(PURPOSE_ORDER)}
    ordered = frame.filter(pl.col("purpose").is_in(shown))
    ordered = ordered.with_columns(
        rank=pl.col("purpose").replace_strict(ranks, return_dtype=pl.Int64), told=_bars(ordered, "purpose", words.dollars, "usd")
    )
    color = alt.Color("purpose:N", scale=scale, legend=alt.Legend(orient="bottom", title=None, symbolType="square"))
    y = alt.Y("run:N", sort=names, title=None, axis=_run_axis(names))
    x = alt.X("usd:Q", title="US dollars", axis=alt.Axis(format="$~g", tickCount=5))
    chart = (
        alt.Chart(ordered).mark_bar(stroke=palette.paper, strokeWidth=1).encode(x=x, y=y, color=color, order="rank:Q", description="told:N")
    )
    return chart.properties(width=width, height=_bar_height(names))


def _bars(frame: pl.DataFrame, name: str, spell: Callable[[Any], str], value: str) -> pl.Series:
    rows = frame.iter_rows(named=True)
    return pl.Series([told(f"{row['run']}, {row[name].replace('_', ' ')}: {spell(row[value])}") for row in rows], dtype=pl.String)


def _run_axis(names: Sequence[str]) -> alt.Axis | None:
    return alt.Axis(domain=False, ticks=False, labelLimit=150) if len(names) > 1 else None


def _bar_height(names: Sequence[str]) -> int:
    return max(44, 34 * len(names))


def limiter(frame: pl.DataFrame, palette: Palette, *, width: int) -> Chart:
    """Calls in flight that the limiter allowed over time, as steps. ``frame`` has ``run``, ``seconds``, ``concurrency``."""
    names = _names(frame)
    x = alt.X("seconds:Q", title="seconds since start", axis=alt.Axis(grid=False, tickCount=6))
    y = alt.Y("concurrency:Q", title="calls in flight allowed", axis=alt.Axis(tickCount=5, format="d"), scale=alt.Scale(domainMin=0))
    said = [f"{row['run']}, {row['seconds']:.0f} s: {row['concurrency']:.0f} in flight" for row in frame.iter_rows(named=True)]
    rows = frame.with_columns(by=_told_run(pl.col("run")), told=pl.Series([told(one) for one in said], dtype=pl.String))
    color, dash = _color(palette, names, legend=_legend(names)), _dash(palette, names, legend=_legend(names))
    line = alt.Chart(rows).mark_line(interpolate="step-after", strokeWidth=1.8)
    layers = [line.encode(x=x, y=y, color=color, strokeDash=dash, description="by:N")]
    if frame.height <= MOST_POINTS:
        layers.append(alt.Chart(rows).mark_circle(size=30, opacity=0).encode(x=x, y=y, description="told:N"))
    return alt.layer(*layers).properties(width=width, height=round(width * 0.4))


LINE_SCHEMA = {"run": pl.String, "turn": pl.Int64, "asr": pl.Float64, "ci_low": pl.Float64, "ci_high": pl.Float64}


def asr_frame(runs: Sequence[RunData]) -> pl.DataFrame:
    """ASR by turn of several runs: ``run``, ``turn``, ``asr``, ``ci_low``, ``ci_high``."""
    rows = [
        (label, row.turn, row.asr, row.ci_low, row.ci_high)
        for label, run in zip(run_labels(runs), runs, strict=True)
        for row in run.summary.asr_by_turn
    ]
    return pl.DataFrame(rows, schema=LINE_SCHEMA, orient="row")


def failure_frame(runs: Sequence[RunData]) -> pl.DataFrame:
    """Their failure curves (``failure_curve``), by ``run``."""
    curves = [failure_curve(run).with_columns(run=pl.lit(label)) for label, run in zip(run_labels(runs), runs, strict=True)]
    return pl.concat(curves, how="diagonal_relaxed")


def outcome_frame(runs: Sequence[RunData]) -> pl.DataFrame:
    """Calls by ``run`` and ``outcome``."""
    rows = [(label, *one) for label, run in zip(run_labels(runs), runs, strict=True) for one in outcome_counts(run).items()]
    return pl.DataFrame(rows, schema={"run": pl.String, "outcome": pl.String, "calls": pl.Int64}, orient="row")


def cost_frame(runs: Sequence[RunData]) -> pl.DataFrame:
    """Dollars by ``run`` and ``purpose``."""
    rows = [
        (label, name, getattr(run.summary.cost_usd, name) or 0.0)
        for label, run in zip(run_labels(runs), runs, strict=True)
        for name in PURPOSES
    ]
    return pl.DataFrame(rows, schema={"run": pl.String, "purpose": pl.String, "usd": pl.Float64}, orient="row")


def limiter_frame(histories: Mapping[str, object]) -> pl.DataFrame:
    """The limiter histories of run files in one frame: ``run``, ``seconds``, ``concurrency``; what is not of that shape is left out."""
    rows = []
    for run, accounts in histories.items():
        known = accounts if isinstance(accounts, Mapping) else {}
        for name, history in known.items():
            account = words.printable(str(name), limit=40) if len(known) > 1 else ""
            rows += [
                {"run": f"{run} · {account}" if account else run, "seconds": float(seconds), "concurrency": float(allowed)}
                for entry in (history if isinstance(history, list) else ())
                if isinstance(entry, Mapping)
                and isinstance(seconds := entry.get("at_seconds"), int | float)
                and isinstance(allowed := entry.get("concurrency"), int | float)
            ]
    return pl.DataFrame(rows, schema={"run": pl.String, "seconds": pl.Float64, "concurrency": pl.Float64})


def _config(palette: Palette) -> dict[str, Any]:
    words = {
        "labelColor": palette.muted,
        "titleColor": palette.muted,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
    }
    return {
        "font": FONT,
        "background": None,
        "view": {"stroke": None},
        "padding": {"left": 8, "right": 8, "top": 4, "bottom": 4},
        "axis": {**words, "gridColor": palette.grid, "domainColor": palette.grid, "tickColor": palette.grid, "titlePadding": 8},
        "legend": {"labelColor": palette.ink, "titleColor": palette.muted, "labelFontSize": 12},
        "title": {"color": palette.ink},
    }


def _specification(chart: Chart, palette: Palette) -> str:
    specification: dict[str, Any] = chart.to_dict()
    own = specification.get("config", {})
    own.pop("view", None)
    specification["config"] = {**own, **_config(palette)}
    return json.dumps(_drawable(specification))


def _drawable(value: Any) -> Any:
    """The specification with every text in it fit for the native renderer, whoever wrote it: scenarios, runs, models, moderators."""
    if isinstance(value, str):
        return drawable(value)
    if isinstance(value, dict):
        return {drawable(str(key)): _drawable(inner) for key, inner in value.items()}
    return [_drawable(inner) for inner in value] if isinstance(value, list) else value


_STYLE_ATTRIBUTE = re.compile(r'\sstyle="[^"]*"')
_ROOT = re.compile(r"^<svg [^>]*?width=\"(?P<width>[\d.]+)\" height=\"(?P<height>[\d.]+)\"[^>]*>")
_MARK = re.compile(rf'<(?P<tag>\w+) aria-label="(?P<run>[^"{APART}]*){APART}(?P<said>[^"{APART}]*){APART}(?P<link>[^"]*)"(?P<rest>[^>]*)>')
"""A mark that says something; what it says is already escaped."""


def page_svg(chart: Chart, *, name: str, label: str) -> str:
    """The chart as inline SVG for the page: theme colours as CSS variables, ids of its own, no style attribute (the page bans them).

    ``name`` makes ids unique among the page's charts; ``label`` is what a screen reader says, as plain text. Marks say what they show in
    ``data-said`` and whose they are in ``data-run``; cells that lead to dialogues are links.
    """
    svg = vl_convert.vegalite_to_svg(_specification(chart, PAGE_PALETTE), allowed_base_urls=[])
    size = _ROOT.match(svg)
    if size is None:
        raise ValueError("vl-convert returned no SVG")
    inner = _MARK.sub(_mark, _STYLE_ATTRIBUTE.sub("", svg[size.end() :]))
    inner = re.sub(r'\srole="[^"]*"|\saria-[a-z]+="[^"]*"', "", inner)
    many = " many" if inner.count('class="mark-area') > FEW else ""
    kind = f"chart wide{many}" if float(size["width"]) > 400 else "chart"
    role = "group" if "<a href=" in inner else "img"
    root = (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="{kind}" viewBox="0 0 {size["width"]} {size["height"]}" '
        f'width="{size["width"]}" height="{size["height"]}" role="{role}" aria-label="{escape(label)}">'
    )
    inner = re.sub(r'\sid="([^"]+)"', rf' id="{name}-\1"', inner)
    inner = re.sub(r"url\((['\"]?)#([^)'\"]+)\1\)", rf"url(#{name}-\2)", inner)
    for variable, placeholder in _PLACEHOLDERS.items():
        inner = re.sub(re.escape(placeholder), f"var(--{variable})", inner, flags=re.IGNORECASE)
        red, green, blue = (int(placeholder[place : place + 2], 16) for place in (1, 3, 5))
        inner = re.sub(rf"rgb\(\s*{red},\s*{green},\s*{blue}\s*\)", f"var(--{variable})", inner)
    return root + inner


def _mark(match: re.Match[str]) -> str:
    facts = "".join(f' data-{name}="{match[name]}"' for name in ("run", "said") if match[name])
    shown = f"<{match['tag']}{facts}{match['rest']}>"
    return f'<a href="#{match["link"]}">{shown}</a>' if match["link"] and match["rest"].endswith("/") else shown


def figure_svg(chart: Chart) -> str:
    """The chart as a stand-alone SVG in print colours."""
    svg: str = vl_convert.vegalite_to_svg(_specification(chart, PRINT_PALETTE), allowed_base_urls=[])
    return svg


def figure_pdf(chart: Chart) -> bytes:
    """The chart as a one-page PDF in print colours."""
    pdf: bytes = vl_convert.vegalite_to_pdf(_specification(chart, PRINT_PALETTE), allowed_base_urls=[])
    return pdf
