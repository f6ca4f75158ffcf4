"""What OpenTelemetry is told: one trace a dialogue, one span a call, figures of pace, money and outcomes, and no words unless asked."""

from __future__ import annotations

import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import safemt_api
from safemt_api import otel


class Told:
    """What a run told, kept in memory by the SDK's own means."""

    def __init__(self) -> None:
        self.exporter, self.reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.traces, self.metrics = TracerProvider(), MeterProvider(metric_readers=[self.reader])
        self.traces.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.points: dict[str, list[Any]] = {}

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self.exporter.get_finished_spans()

    def keep_figures(self) -> None:
        data = self.reader.get_metrics_data()
        assert data is not None
        for metric in data.resource_metrics[0].scope_metrics[0].metrics:
            self.points[metric.name] = list(metric.data.data_points)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """Stands in for the providers that send over HTTP; the figures are read before they are shut down."""
    kept = Told()

    class Metrics:
        def get_meter(self, name: str) -> Any:
            return kept.metrics.get_meter(name)

        def shutdown(self) -> None:
            kept.keep_figures()
            kept.metrics.shutdown()

    monkeypatch.setattr(otel, "open_providers", lambda: (kept.traces, Metrics()))
    return kept


def of(span: ReadableSpan, name: str) -> Any:
    return (span.attributes or {}).get(name)


async def test_a_dialogue_is_one_trace_of_its_calls_and_adds_up_to_the_summary(told: Told, tmp_path: Path) -> None:
    result = await safemt_api.evaluate(
        model="sim-average", judges=("simulator:sim-judge",), sample=3, lengths=(1, 2), protocol="live", results=tmp_path, otel="figures"
    )
    dialogues = [span for span in told.spans if span.name == "dialogue"]
    calls = [span for span in told.spans if span.name.startswith("chat ")]
    assert len(dialogues) == 6
    assert all(span.parent is None for span in dialogues)
    played = {span.context.trace_id: span for span in dialogues if span.context}
    inside = [span for span in calls if span.parent and span.context and span.context.trace_id in played]
    assert {of(span, "safemt.purpose") for span in inside} == {"target", "judge"}
    bought = [span for span in calls if not of(span, "safemt.from_store")]
    summary = result.summary
    assert sum(of(span, "safemt.cost_usd") for span in bought) == pytest.approx(summary.cost_usd.total)
    assert sum(of(span, "gen_ai.usage.output_tokens") for span in calls) == summary.usage.output_tokens
    assert sum(point.value for point in told.points["safemt.cost"]) == pytest.approx(summary.cost_usd.total)
    assert sum(point.value for point in told.points["safemt.replies"]) == len(calls)
    assert all(point.value == 0 for point in told.points["safemt.calls.open"])


async def test_no_word_is_told_unless_asked_for(told: Told, tmp_path: Path) -> None:
    options: dict[str, Any] = {"sample": 2, "lengths": (1,), "results": tmp_path}
    await safemt_api.evaluate(otel="figures", **options)
    assert told.spans
    assert not [name for span in told.spans for name in span.attributes or {} if "messages" in name or "instructions" in name]


async def test_words_are_told_in_the_conventions_form_and_pictures_are_not(told: Told, tmp_path: Path) -> None:
    await safemt_api.evaluate(otel="words", sample=1, lengths=(1,), results=tmp_path)
    (call,) = (span for span in told.spans if span.name.startswith("chat ") and of(span, "safemt.purpose") == "target")
    assert '"modality":"image"' in of(call, "gen_ai.input.messages")
    assert '"role":"assistant"' in of(call, "gen_ai.output.messages")
    assert len(of(call, "gen_ai.input.messages")) < 2_000


async def test_tries_are_events_of_the_call(told: Told, tmp_path: Path) -> None:
    await safemt_api.evaluate(
        otel="figures", sample=2, lengths=(1,), results=tmp_path, simulator_faults="error_503:first=1", max_failures=1.0, judges=("rules",)
    )
    events = [event for span in told.spans for event in span.events]
    assert [event.name for event in events].count("retry") == 2
    assert {event.attributes["error.type"] for event in events if event.attributes} == {"ServerError"}
    assert sum(point.value for point in told.points["safemt.retries"]) == 2


async def test_a_failed_call_is_an_error_by_its_class_without_the_vendors_sentence(told: Told, tmp_path: Path) -> None:
    await safemt_api.evaluate(
        otel="figures",
        sample=1,
        lengths=(1,),
        results=tmp_path,
        simulator_faults="too_long:1.0",
        max_failures=1.0,
        judges=("rules",),
    )
    failed = [span for span in told.spans if of(span, "error.type")]
    assert failed
    assert all(not span.status.is_ok and span.status.description is None for span in failed)


@contextmanager
def collector() -> Iterator[tuple[str, dict[str, list[bytes]]]]:
    """A real HTTP server on loopback that keeps what it is sent."""
    got: dict[str, list[bytes]] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.setdefault(self.path, []).append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class's name)
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", got
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def test_a_collector_over_http_gets_it_all_from_the_command_line(tmp_path: Path) -> None:
    with collector() as (address, got):
        environment = os.environ | {"OTEL_EXPORTER_OTLP_ENDPOINT": address, "OTEL_EXPORTER_OTLP_COMPRESSION": "none"}
        command = [sys.executable, "-m", "safemt_api", "eval", "--sample", "2", "--lengths", "1", "--otel", "figures"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    traces = [ExportTraceServiceRequest.FromString(body) for body in got["/v1/traces"]]
    names = [span.name for one in traces for resource in one.resource_spans for scope in resource.scope_spans for span in scope.spans]
    assert sorted(names) == ["chat sim-average"] * 2 + ["dialogue"] * 2
    metrics = [ExportMetricsServiceRequest.FromString(body) for body in got["/v1/metrics"]]
    assert "safemt.cost" in {m.name for one in metrics for r in one.resource_metrics for scope in r.scope_metrics for m in scope.metrics}
    assert [a.value.string_value for a in traces[0].resource_spans[0].resource.attributes if a.key == "service.name"] == ["safemt-api"]


async def test_without_opentelemetry_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    monkeypatch.delitem(sys.modules, "safemt_api.otel", raising=False)
    monkeypatch.delattr(safemt_api, "otel", raising=False)
    with pytest.raises(safemt_api.UsageError, match=r"pip install 'safemt-api\[otel\]'"):
        await safemt_api.evaluate(otel="figures", sample=1, results=tmp_path)
