"""The yardstick: what a careful person would write in an afternoon over the openai SDK. No store, no pace, no outcomes.

``python -m benchmarks.bare_loop DATA BASE_URL CONCURRENCY`` sends every dialogue once and prints its own CPU time, calls and wall time.
"""

from __future__ import annotations

import base64
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import anyio
import httpx2
import openai


def cpu_seconds() -> float:
    """CPU this process has used, user and system."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def messages(folder: Path, element: dict[str, Any]) -> list[dict[str, Any]]:
    """The dialogue as the API wants it, its picture read and encoded."""
    encoded = base64.b64encode((folder / element["image_path"]).read_bytes()).decode()
    first, *others = element["dialogue"]
    parts = [
        {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{encoded}"}},
        {"type": "text", "text": first["content"]},
    ]
    return [{"role": "user", "content": parts}, *others]


def read_elements(folder: Path) -> list[dict[str, Any]]:
    """Every dialogue of the folder."""
    return [element for file in sorted(folder.glob("*_turn.json")) for element in json.loads(file.read_text())]


async def send_all(folder: Path, base_url: str, concurrency: int) -> int:
    """Send every dialogue, so many at a time; the number of replies with words."""
    elements = read_elements(folder)
    limits = httpx2.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    client = openai.AsyncOpenAI(api_key="none", base_url=base_url, max_retries=2, http_client=httpx2.AsyncClient(limits=limits, timeout=60))
    waiting = list(reversed(elements))
    replies: list[str] = []

    async def work() -> None:
        while waiting:
            request: Any = messages(folder, waiting.pop())
            reply = await client.chat.completions.create(model="sim-average", messages=request, max_completion_tokens=1024)
            replies.append(reply.choices[0].message.content or "")

    async with anyio.create_task_group() as group:
        for _ in range(concurrency):
            group.start_soon(work)
    await client.close()
    return sum(map(bool, replies))


def main() -> None:
    """Measure one run."""
    folder, base_url, concurrency = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    started, cpu = time.perf_counter(), cpu_seconds()
    replies = anyio.run(send_all, folder, base_url, concurrency, backend_options={"use_uvloop": True})
    figures = {
        "calls": replies,
        "wall_seconds": time.perf_counter() - started,
        "cpu_seconds": cpu_seconds() - cpu,
        "start_cpu_seconds": cpu,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
