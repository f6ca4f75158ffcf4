"""One evaluation as the benchmarks measure it: ``python -m benchmarks.our_run DATA BASE_URL CONCURRENCY RESULTS [scripted|live]``."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import anyio

from benchmarks.bare_loop import cpu_seconds
from safemt_api.evaluation import evaluate
from safemt_api.runs.settings import EvalSettings


async def run(settings: EvalSettings) -> dict[str, object]:
    """The run's summary."""
    return (await evaluate(settings)).summary.json_value()


def main() -> None:
    """Measure one run."""
    folder, base_url, concurrency, results = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
    settings = EvalSettings(
        data=folder,
        base_urls=(base_url,),
        concurrency=concurrency,
        results=results,
        run="bench",
        judges=("rules",),
        protocol="live" if sys.argv[5:] == ["live"] else "scripted",
    )
    started, cpu = time.perf_counter(), cpu_seconds()
    summary = anyio.run(run, settings, backend_options={"use_uvloop": True})
    figures = {
        "calls": summary["calls"],
        "wall_seconds": time.perf_counter() - started,
        "cpu_seconds": cpu_seconds() - cpu,
        "start_cpu_seconds": cpu,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "outcomes": summary["outcomes"],
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
