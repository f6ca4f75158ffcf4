"""What pages are made of: styles, scripts and templates (jinja2), and how they become one file that asks nothing of the network.

A page's content security policy forbids everything but its own style sheet and script (by hash) and ``data:`` pictures. Whatever a
template is given is freed of control characters and escaped; what models said is embedded as data and only ever becomes text content.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterable, Mapping
from hashlib import sha256
from importlib import metadata, resources
from typing import Any

import jinja2
from markupsafe import Markup, escape

from safemt_api.foreign_text import printable
from safemt_api.report.table import rows_of, series_of


def asset(name: str) -> str:
    """A file of this folder: ``style.css``, scripts, templates."""
    return resources.files(__name__).joinpath(name).read_text(encoding="utf-8")


def page_script(*own: str) -> str:
    """What pages share (theme, tables, figures, how a dialogue is drawn), then the page's ``own`` files of this folder, as one script."""
    parts = "\n".join(asset(name) for name in ("shell.js", "figures.js", "text.js", "dialogues.js", "columns.js", *own))
    return f'"use strict";\n(() => {{\n{parts}}})();\n'


def content_hash(text: str) -> str:
    """What a content security policy names an inline style sheet or script by."""
    return f"sha256-{b64encode(sha256(text.encode('utf-8')).digest()).decode('ascii')}"


def embedded(data: Mapping[str, Any]) -> Markup:
    """JSON that cannot end its script element or open a comment: no ``<``, ``>`` or ``&`` stands in it as such."""
    text = json.dumps(data, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))  # noqa: S704 (no sign of markup is left)


def version() -> str:
    """The package's, for a page's foot."""
    try:
        return metadata.version("safemt-api")
    except metadata.PackageNotFoundError:
        return "(not installed)"


def render(template: str, *, script: str = "", **context: Any) -> str:
    """The page of a template that extends ``document.html``; its policy allows its own style sheet and ``script``."""
    style = asset("style.css")
    scripts = f"script-src '{content_hash(script)}'; " if script else ""
    policy = f"default-src 'none'; {scripts}style-src '{content_hash(style)}'; img-src data:; base-uri 'none'; form-action 'none'"
    # Both are files of ours.
    parts = {"style": Markup(style), "script": Markup(script)}  # noqa: S704
    return _ENVIRONMENT.get_template(template).render(policy=policy, version=version(), **parts, **context)


def fragment(sections: Iterable[Any]) -> str:
    """Sections by themselves, for a page that has others around them."""
    section = _ENVIRONMENT.get_template("parts.html").module.section  # type: ignore[attr-defined] # a macro of that file
    return "".join(map(section, sections))


def _shown(value: object) -> object:
    """Every expression of a template: words of ours and others without control characters; what is not there is nothing."""
    if isinstance(value, Markup):
        return value
    return "" if value is None else printable(str(value))


def _breakable(name: str) -> Markup:
    """A name with places where a narrow screen may break it."""
    return Markup(":<wbr>").join(escape(part) for part in printable(name).split(":"))


_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FunctionLoader(asset),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    finalize=_shown,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_ENVIRONMENT.filters["breakable"] = _breakable
_ENVIRONMENT.globals |= {"series_of": series_of, "rows_of": rows_of}
