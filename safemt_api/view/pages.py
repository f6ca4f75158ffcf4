"""The files of the page, as the browser loads them: this package's own, and those that it shares with the report."""

from __future__ import annotations

from functools import cache
from importlib import resources

from safemt_api.report import web

ASSETS = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
}
SHARED = {
    "shared.css": ("style.css",),
    "shared.js": ("shell.js", "text.js", "dialogues.js", "columns.js"),
}
"""Made of the report's files, so that both pages look and read alike; as a module, ``shared.js`` says what others may take from it."""

EXPORTED = ("$", "make", "swatch", "sortable", "sortAs", "terms", "marked", "dialogueDrawer", "dialogueList")


@cache
def asset(name: str) -> str | None:
    """The text of a file of the page; ``None`` where there is none of that name."""
    if name in SHARED:
        text = "\n".join(web.asset(part) for part in SHARED[name])
        return text + (f"\nexport {{ {', '.join(EXPORTED)} }};\n" if name.endswith(".js") else "")
    file = resources.files("safemt_api.view.assets").joinpath(name)
    return file.read_text(encoding="utf-8") if name in _names() else None


@cache
def _names() -> frozenset[str]:
    """Nothing but these is ever opened, whatever the address says."""
    return frozenset(one.name for one in resources.files("safemt_api.view.assets").iterdir() if one.name.rpartition(".")[2] in ASSETS)
