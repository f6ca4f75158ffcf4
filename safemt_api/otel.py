"""Traces and metrics by OpenTelemetry: one trace a dialogue, one span a call with all of its tries.

Names are those of the conventions for generative AI (opentelemetry.io/docs/specs/semconv/gen-ai, read 2026-11-21; in development there);
what they have no name for begins with ``safemt.``. Where it all goes the usual ``OTEL_*`` variables say. The words of prompts and replies
are left out unless asked for, so errors are told by their class alone: a vendor's sentence may quote a prompt.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import orjson
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, get_current_span
from opentelemetry.util.types import AttributeValue

from safemt_api.messages import Answer, Call, Dialogue, Message, Text
from safemt_api.telemetry import Telemetry, Told

PROVIDERS = {
    "google": "gcp.gemini",
    "azure-openai": "azure.ai.openai",
    "mistral": "mistral_ai",
    "xai": "x_ai",
}
"""The conventions' names of vendors where they are not our own."""


EXPORT_SECONDS = 4.0
"""How long one export may take, its tries included; OpenTelemetry's own 10 s, twice, would hold up the end of a run without a collector."""


def open_providers() -> tuple[TracerProvider, MeterProvider]:
    """OpenTelemetry's own, that send to a collector over HTTP."""
    # What is given here would stand over the variables, which belong to the user.
    resource = Resource.create({} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": "safemt-api"})
    traces = TracerProvider(resource=resource)
    timeout = None if os.environ.get("OTEL_EXPORTER_OTLP_TIMEOUT") else EXPORT_SECONDS
    traces.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=timeout)))
    reader = PeriodicExportingMetricReader(OTLPMetricExporter(timeout=timeout))
    # A collector that is away is said once, when it is given up, and not at every try.
    logging.getLogger("opentelemetry.exporter").setLevel(logging.ERROR)
    return traces, MeterProvider(resource=resource, metric_readers=[reader])


class OpenTelemetry(Telemetry):
    """Tells OpenTelemetry's providers.

    Args:
        traces: Where spans go.
        metrics: Where durations, tokens, money and outcomes go.
        words: Whether prompts and replies are told too.
    """

    def __init__(self, traces: TracerProvider, metrics: MeterProvider, *, words: bool) -> None:
        self._tracer, self._words = traces.get_tracer("safemt_api"), words
        meter = metrics.get_meter("safemt_api")
        self._duration = meter.create_histogram("gen_ai.client.operation.duration", unit="s")
        self._tokens = meter.create_histogram("gen_ai.client.token.usage", unit="{token}")
        self._waited = meter.create_histogram("safemt.call.waited", unit="s", description="For pace, money and retries, beside the reply")
        self._asked = meter.create_up_down_counter("safemt.calls.open", description="Calls that are asked and not yet answered")
        self._retries = meter.create_counter("safemt.retries")
        self._outcomes = meter.create_counter("safemt.replies", description="By outcome; from_store says whether one was bought before")
        self._cost = meter.create_counter("safemt.cost", unit="USD", description="What was bought, where a price is known")

    @contextmanager
    def dialogue(self, dialogue: Dialogue, *, run: str) -> Iterator[None]:
        """See ``Telemetry``."""
        attributes: dict[str, AttributeValue] = {
            "gen_ai.conversation.id": f"{run}/{dialogue.id}/{dialogue.length}/{dialogue.repeat}",
            "safemt.run": run,
            "safemt.dialogue.id": dialogue.id,
            "safemt.dialogue.length": dialogue.length,
            "safemt.dialogue.scenario": dialogue.scenario,
            "safemt.dialogue.kind": dialogue.kind,
        }
        with self._tracer.start_as_current_span("dialogue", attributes=attributes, record_exception=False, set_status_on_exception=False):
            yield

    @contextmanager
    def call(self, call: Call) -> Iterator[Told]:
        """See ``Telemetry``."""
        known = _known(call)
        self._asked.add(1, known)
        with self._tracer.start_as_current_span(
            f"chat {call.route.model}",
            kind=SpanKind.CLIENT,
            attributes=known | _asked(call, words=self._words),
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield lambda answer: self._answered(span, known, answer)
            except BaseException as error:
                span.set_attribute("error.type", type(error).__name__)
                span.set_status(Status(StatusCode.ERROR))
                raise
            finally:
                self._asked.add(-1, known)

    def retried(self, error: BaseException | None, wait_seconds: float) -> None:
        """See ``Telemetry``."""
        attributes = {"error.type": type(error).__name__}
        get_current_span().add_event("retry", attributes | {"safemt.wait_seconds": round(wait_seconds, 3)})
        self._retries.add(1, attributes)

    def _answered(self, span: Span, known: Mapping[str, Any], answer: Answer) -> None:
        reply = answer.reply
        span.set_attributes({name: value for name, value in _answer(answer, words=self._words).items() if value is not None})
        self._outcomes.add(1, {**known, "safemt.outcome": reply.outcome.value, "safemt.from_store": answer.from_store})
        if answer.from_store:
            return
        self._duration.record(reply.latency_seconds, known)
        self._waited.record(reply.waited_seconds, known)
        if reply.usage is not None:
            self._tokens.record(reply.usage.input_tokens, {**known, "gen_ai.token.type": "input"})
            self._tokens.record(reply.usage.output_tokens, {**known, "gen_ai.token.type": "output"})
        if answer.cost_usd is not None:
            self._cost.add(answer.cost_usd, known)


def _known(call: Call) -> dict[str, Any]:
    """What stands on every span and every figure of a call."""
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": PROVIDERS.get(call.route.profile, call.route.profile),
        "gen_ai.request.model": call.route.model,
        "safemt.purpose": call.purpose,
    }


def _asked(call: Call, *, words: bool) -> dict[str, Any]:
    address, parameters = urlsplit(call.route.base_urls[0]), call.parameters
    told = {
        "server.address": address.hostname,
        "server.port": address.port,
        "gen_ai.request.max_tokens": parameters.max_output_tokens,
        "gen_ai.request.temperature": parameters.temperature,
        "gen_ai.request.top_p": parameters.top_p,
        "gen_ai.request.seed": parameters.seed,
        "gen_ai.system_instructions": _json([{"type": "text", "content": call.system}]) if words and call.system else None,
        "gen_ai.input.messages": _json([_message(message) for message in call.messages]) if words else None,
    }
    return {name: value for name, value in told.items() if value is not None}


def _answer(answer: Answer, *, words: bool) -> dict[str, Any]:
    reply, usage = answer.reply, answer.reply.usage
    said = [{"role": "assistant", "parts": [{"type": "text", "content": reply.text}], "finish_reason": reply.finish_reason}]
    return {
        "gen_ai.response.id": reply.request_id,
        "gen_ai.response.model": reply.served_model,
        "gen_ai.response.finish_reasons": [reply.finish_reason] if reply.finish_reason else None,
        "gen_ai.usage.input_tokens": usage and usage.input_tokens,
        "gen_ai.usage.output_tokens": usage and usage.output_tokens,
        "gen_ai.output.messages": _json(said) if words else None,
        "safemt.outcome": reply.outcome.value,
        "safemt.from_store": answer.from_store,
        "safemt.attempts": reply.attempts,
        "safemt.waited_seconds": reply.waited_seconds,
        "safemt.cost_usd": answer.cost_usd,
    }


def _message(message: Message) -> dict[str, Any]:
    """In the conventions' form; a picture is told of, and not shown."""
    parts = [
        {"type": "text", "content": part.text} if isinstance(part, Text) else {"type": "blob", "modality": "image"}
        for part in message.parts
    ]
    return {"role": message.role, "parts": parts}


def _json(value: object) -> str:
    return orjson.dumps(value).decode()
