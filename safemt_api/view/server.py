"""The viewer's server: loopback only, read only, and for whoever holds the address alone.

The address holds a random token, without which nothing is told. ``Host`` must be this machine's, so that no page elsewhere can reach in
under a name of its own (DNS rebinding), ``Origin`` must be ours where there is one, and nothing but GET and HEAD is answered. The content
security policy lets the page load nothing but its own files and data.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import lru_cache, partial
from hashlib import sha256
from pathlib import Path
from socket import AF_INET, SO_REUSEADDR, SOCK_STREAM, SOL_SOCKET, socket
from threading import Lock
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers, QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from safemt_api.errors import UsageError
from safemt_api.report import web
from safemt_api.report.payload import thumbnail
from safemt_api.view.calls import call_of
from safemt_api.view.figures import data_folder_of, figures, listed
from safemt_api.view.holdings import Library
from safemt_api.view.pages import ASSETS, asset
from safemt_api.view.shelf import SORTS, Filters, Shelf

LOOPBACK = "127.0.0.1"
TOKEN_BYTES = 18
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
SCORE_PAUSE_SECONDS = 0.5
SMALL_PIXELS, LARGE_PIXELS = 480, 2000
MOST_SHELVES = 4
MOST_SEARCHED = 500
T = TypeVar("T")


class Door:
    """Lets in who holds the token and asks from this machine, to read; everything that goes out carries ``HEADERS``."""

    def __init__(self, app: ASGIApp, *, token: str, hosts: frozenset[str]) -> None:
        self._app, self._token, self._hosts = app, token, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                given = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *given]}
            await send(message)

        await (self._app if refusal is None else refusal)(scope, receive, with_headers)

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if host not in self._hosts:
            return PlainTextResponse("This viewer answers under its own address alone.", 421)
        if origin is not None and origin not in {f"http://{name}" for name in self._hosts}:
            return PlainTextResponse("Another page may not ask here.", 403)
        if scope["method"] not in ("GET", "HEAD"):
            return PlainTextResponse("This viewer only shows.", 405, {"Allow": "GET, HEAD"})
        given = str(scope["path"]).lstrip("/").partition("/")[0]
        if not secrets.compare_digest(given.encode(), self._token.encode()):
            return PlainTextResponse("The address is not whole: it holds a token, as the terminal shows it.", 403)
        return None


class Desk:
    """Answers the page's questions over one results folder."""

    def __init__(self, results: Path) -> None:
        self.holdings = Library(results)
        self._shelves: dict[tuple[str, ...], Shelf] = {}
        self._lock = Lock()

    async def score(self) -> None:
        """Keep the scores of all runs up to date, one run at a time."""
        await anyio.to_thread.run_sync(web.fragment, [])  # compiles the templates before somebody waits for them
        while True:
            if not await anyio.to_thread.run_sync(self.holdings.score):
                await anyio.sleep(SCORE_PAUSE_SECONDS)

    def overview(self) -> dict[str, Any]:
        """The list of runs and studies."""
        return listed(self.holdings)

    def scope(self, asked: QueryParams) -> dict[str, Any]:
        """A study or some runs: states, scores, tables, what there is to filter by."""
        with self._lock:
            shelf = self._shelf(asked)
            return {**figures(self.holdings, shelf, study=asked.get("study")), "facets": shelf.facets, "version": shelf.version}

    def dialogues(self, asked: QueryParams) -> dict[str, Any]:
        """One page of the list of dialogues; with ``id`` also where that one stands."""
        with self._lock:
            shelf, filters = self._shelf(asked), filters_of(asked)
            offset = _number(asked, "offset") or 0
            place = None
            if asked.get("id"):
                length, repeat = _number(asked, "turns"), _number(asked, "repeat")
                place = shelf.place(filters, dialogue_id=asked["id"], length=length, repeat=repeat, run=asked.get("arm"))
                offset = max(0, (place or 0) - 40) if place is not None else offset
            return {**shelf.page(filters, offset=offset), "place": place}

    def dialogue(self, asked: QueryParams) -> dict[str, Any]:
        """One dialogue with its words, of every run or of one."""
        with self._lock:
            shelf = self._shelf(asked)
            found = shelf.words(
                dialogue_id=asked.get("id", ""),
                length=_number(asked, "turns") or 0,
                repeat=_number(asked, "repeat") or 1,
                run=asked.get("arm"),
                whole=asked.get("whole") == "1",
            )
        if not any(found):
            raise HTTPException(404, "There is no such dialogue here.")
        for one, entry in zip(found, shelf.entries.values(), strict=True):
            folder = data_folder_of(entry.folder)
            for picture in [] if one is None else one["pictures"]:
                picture["here"] = folder is not None and is_there(folder, picture.pop("path"))
        return {"runs": found}

    def call(self, asked: QueryParams) -> dict[str, Any]:
        """One call as it went out and came back."""
        entry = self.holdings.entry(asked.get("run", ""))
        found = None if entry is None else call_of(entry.folder, asked.get("key", ""))
        if found is None:
            raise HTTPException(404, "The turn store beside this run does not hold that call.")
        return found

    def picture(self, asked: QueryParams) -> bytes:
        """The picture of a dialogue, drawn anew as WebP, so that whatever the file holds is a picture and nothing else."""
        with self._lock:
            shelf = self._shelf(asked)
            path = shelf.picture(
                dialogue_id=asked.get("id", ""),
                length=_number(asked, "turns") or 0,
                run=asked.get("arm", ""),
                number=_number(asked, "n") or 0,
            )
        entry = self.holdings.entry(asked.get("arm", ""))
        folder = None if entry is None else data_folder_of(entry.folder)
        side = LARGE_PIXELS if asked.get("large") == "1" else SMALL_PIXELS
        found = None if folder is None or path is None else _drawn(folder, path, side)
        if found is None:
            raise HTTPException(404, "The picture is not here, or is none.")
        return found

    def export(self, asked: QueryParams) -> Iterator[bytes]:
        """The dialogues of the list as lines of JSON."""
        with self._lock:
            return self._shelf(asked).export(filters_of(asked))

    def _shelf(self, asked: QueryParams) -> Shelf:
        names = self._names(asked)
        found = self._shelves.pop(names, None)
        entries = {name: entry for name in names if (entry := self.holdings.entry(name)) is not None}
        if found is None or list(found.entries.values()) != list(entries.values()):
            found = Shelf(entries)
        self._shelves[names] = found
        while len(self._shelves) > MOST_SHELVES:
            del self._shelves[next(iter(self._shelves))]
        found.look()
        return found

    def _names(self, asked: QueryParams) -> tuple[str, ...]:
        there = [one.run for one in self.holdings.overview() if one.arms is None]
        study = asked.get("study") if asked.get("study") in {one.run for one in self.holdings.overview() if one.arms is not None} else None
        names = [name for name in there if study and name.startswith(f"{study}/")] or [one for one in asked.getlist("run") if one in there]
        if not names:
            raise HTTPException(404, "There is no such study or run here.")
        return tuple(dict.fromkeys(names))


def filters_of(asked: QueryParams) -> Filters:
    """The filters of an address; what is no number there is no filter."""
    return Filters(
        run=asked.get("only") or None,
        scenario=asked.get("scenario") or None,
        length=_number(asked, "length"),
        verdict=asked.get("verdict") or None,
        outcome=asked.get("outcome") or None,
        kind=asked.get("kind") or None,
        search=asked.get("search", "")[:MOST_SEARCHED],
        disagree=asked.get("disagree") == "1",
        together=asked.get("view") == "arms",
        differ=asked.get("differ") == "1",
        sort=asked.get("sort", "") if asked.get("sort", "").removeprefix("-") in SORTS else "",
    )


def _number(asked: QueryParams, name: str) -> int | None:
    text = asked.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def is_there(folder: Path, path: str) -> bool:
    """Whether the data folder holds the file."""
    file = (folder / path.lstrip("/")).resolve()
    return file.is_relative_to(folder.resolve()) and file.is_file()


@lru_cache(maxsize=32)
def _drawn(folder: Path, path: str, side: int) -> bytes | None:
    return thumbnail(folder, path, side_pixels=side)


def application(results: Path, *, token: str, hosts: frozenset[str]) -> ASGIApp:
    """The viewer as an ASGI application, under ``/TOKEN/``.

    Args:
        results: The results folder.
        token: What whoever asks must know.
        hosts: The values of ``Host`` that it answers to.
    """
    desk = Desk(results)

    async def page(request: Request) -> Response:
        return _file("index.html")

    async def file(request: Request) -> Response:
        return _file(request.path_params["name"])

    async def picture(request: Request) -> Response:
        return Response(await anyio.to_thread.run_sync(desk.picture, request.query_params), media_type="image/webp")

    async def export(request: Request) -> Response:
        lines = await anyio.to_thread.run_sync(desk.export, request.query_params)
        named = {"Content-Disposition": 'attachment; filename="dialogues.jsonl"'}
        return StreamingResponse(lines, media_type="application/x-ndjson", headers=named)

    @asynccontextmanager
    async def scoring(_: Starlette) -> AsyncIterator[None]:
        async with anyio.create_task_group() as group:
            group.start_soon(desk.score)
            yield
            group.cancel_scope.cancel()

    answers = {name: getattr(desk, name) for name in ("overview", "scope", "dialogues", "dialogue", "call")}
    routes = [
        Route("/", page),
        Route("/assets/{name}", file),
        Route("/api/picture", picture),
        Route("/api/export", export),
        *(Route(f"/api/{name}", partial(_json, answer, asks=name != "overview")) for name, answer in answers.items()),
    ]
    app = Starlette(routes=[Mount(f"/{token}", routes=routes)], lifespan=scoring)
    return Door(app, token=token, hosts=hosts)


async def _json(answer: Any, request: Request, *, asks: bool) -> Response:
    found = await anyio.to_thread.run_sync(*([answer, request.query_params] if asks else [answer]))
    body = orjson.dumps(found, option=orjson.OPT_SERIALIZE_NUMPY)
    # Pages look again and again: what has not changed is not sent again.
    tag = f'"{sha256(body).hexdigest()[:24]}"'
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers={"ETag": tag})
    return Response(body, media_type="application/json", headers={"ETag": tag})


def _file(name: str) -> Response:
    kind = ASSETS.get(name.rpartition(".")[2])
    text = asset(name) if kind is not None else None
    return PlainTextResponse("There is no such file.", 404) if text is None else Response(text, media_type=kind)


def serve(results: Path, *, port: int = 0, announce: Callable[[str], None]) -> None:
    """Serve the results folder on loopback until Ctrl-C.

    Args:
        results: The folder.
        port: 0 takes a free one.
        announce: Told the address, which holds the token, as soon as it answers.

    Raises:
        UsageError: There is no such folder, or the port is taken.
    """
    if not results.is_dir():
        raise UsageError(f"there is no folder {results}: give the results folder, as `safemt-api runs` takes it")
    token = secrets.token_urlsafe(TOKEN_BYTES)
    with socket(AF_INET, SOCK_STREAM) as listener:
        try:
            listener.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
            listener.bind((LOOPBACK, port))
            listener.listen()
        except OSError as error:
            raise UsageError(f"port {port} cannot be taken ({error.strerror}): choose another --port") from error
        own = listener.getsockname()[1]
        hosts = frozenset(f"{name}:{own}" for name in (LOOPBACK, "localhost"))
        config = uvicorn.Config(application(results, token=token, hosts=hosts), log_config=None, access_log=False, server_header=False)
        announce(f"http://{LOOPBACK}:{own}/{token}/")
        with suppress(KeyboardInterrupt):
            anyio.run(partial(_Server(config).serve, sockets=[listener]))


class _Server(uvicorn.Server):
    """A server that leaves signals to whoever runs it."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
