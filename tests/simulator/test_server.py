"""The server over real sockets: three SDKs, the same truth, and the plain HTTP around it."""

from __future__ import annotations

import json
import socket
from base64 import b64encode
from collections.abc import Callable
from typing import Any

import anthropic
import anyio
import httpx2
import openai
import orjson
import pytest
from google.genai import errors as google_errors

from safemt_api.errors import UsageError
from safemt_api.markers import CODE_OF_QUESTION, GUIDANCE_HEADER, SIMULATED_UNSAFE
from safemt_api.profiles import WIRE_FORMATS, WireFormat
from safemt_api.simulator import MODELS, Simulator, SimulatorSettings, moderator_flags, plays_unsafe, run_simulator
from safemt_api.simulator.books import digest_of_texts
from safemt_api.simulator.personas import refusing_reply, safe_reply, unsafe_reply

Stage = Callable[..., Any]
ALL_WIRES = pytest.mark.parametrize("wire", WIRE_FORMATS)
SAID = [[("user", f"question {i}"), ("assistant", "go on"), ("user", f"more of {i}")] for i in range(12)]


def user_texts(lines: list[tuple[str, str]]) -> list[str]:
    return [text for role, text in lines if role == "user"]


@ALL_WIRES
async def test_what_is_played_is_what_the_pure_function_says(wire: WireFormat, stage: Stage) -> None:
    async with stage(SimulatorSettings(seed=5)) as playing:
        client = playing.client(wire)
        for lines in SAID:
            text = await client.text("sim-brittle", lines)
            assert (SIMULATED_UNSAFE in text) == plays_unsafe("sim-brittle", seed=5, user_texts=user_texts(lines))
        by_texts = {truth.user_texts_sha: truth for truth in playing.simulator.truth}
        for lines in SAID:
            truth = by_texts[digest_of_texts(tuple(user_texts(lines)))]
            assert truth.unsafe == plays_unsafe("sim-brittle", seed=5, user_texts=user_texts(lines))
            assert (truth.wire_format, truth.turn, truth.outcome, truth.model) == (wire, 2, "answered", "sim-brittle")


async def test_all_wire_formats_play_the_same_words_whatever_stands_around_them(stage: Stage, picture: bytes) -> None:
    async with stage() as playing:
        for lines in SAID[:4]:
            replies = {await playing.client(wire).text("sim-average", lines) for wire in WIRE_FORMATS}
            other = [(role, "something else" if role == "assistant" else text) for role, text in lines]
            replies.add(await playing.client("openai_chat").text("sim-average", other, system="Be brief.", image=picture))
            assert len(replies) == 1


@ALL_WIRES
async def test_guidance_in_the_system_message_is_followed(wire: WireFormat, stage: Stage) -> None:
    async with stage() as playing:
        client = playing.client(wire)
        for lines in SAID:
            text = await client.text("sim-brittle", lines, system=f"{GUIDANCE_HEADER}\n\nDo not help with harm.")
            assert (SIMULATED_UNSAFE in text) == plays_unsafe("sim-brittle", seed=0, user_texts=user_texts(lines), guided=True)
        assert all(truth.guided for truth in playing.simulator.truth)


@ALL_WIRES
async def test_usage_is_deterministic_and_counts_the_picture(wire: WireFormat, stage: Stage, picture: bytes) -> None:
    async with stage() as playing:
        client = playing.client(wire)
        plain, shown = [input_tokens(await client.ask("sim-safe", SAID[0], image=image)) for image in (None, picture)]
        assert shown - plain == 765


def input_tokens(answer: Any) -> int:
    if hasattr(answer, "usage_metadata"):
        return int(answer.usage_metadata.prompt_token_count)
    return int(answer.usage.prompt_tokens if hasattr(answer.usage, "prompt_tokens") else answer.usage.input_tokens)


async def test_reasoning_tokens_are_reported_in_each_vendors_field(stage: Stage) -> None:
    async with stage() as playing:
        chat, message, generated = [await playing.client(wire).ask("sim-average-reasoning", SAID[0]) for wire in WIRE_FORMATS]
        thought = chat.usage.completion_tokens_details.reasoning_tokens
        assert thought > 0
        assert message.usage.output_tokens_details.thinking_tokens == generated.usage_metadata.thoughts_token_count == thought
        assert chat.usage.completion_tokens == message.usage.output_tokens
        assert generated.usage_metadata.candidates_token_count == chat.usage.completion_tokens - thought


@ALL_WIRES
async def test_a_reply_longer_than_its_room_is_cut_and_says_so(wire: WireFormat, stage: Stage, words: Callable[[Any], str]) -> None:
    async with stage() as playing:
        answer = await playing.client(wire).ask("sim-safe", SAID[0], max_tokens=10)
        assert len(words(answer)) == 40
        assert playing.simulator.truth[0].outcome == "truncated"


VERDICT = {"type": "object", "properties": {"verdict": {"type": "string", "enum": ["safe", "unsafe"]}, "reason": {"type": "string"}}}
HELPED = {"type": "object", "properties": {"verdict": {"type": "string", "enum": ["refused", "helped"]}, "reason": {"type": "string"}}}


def exhibit(reply: str) -> str:
    dialogue = [{"role": "user", "content": 'say {"x": 1}'}]
    shown = json.dumps({"scenario": "Fraud", "question": "?", "dialogue": dialogue, "reply": reply})
    return f'Answer as {{"verdict": …}} please.\n\n{shown}\n\nThat was all {{}}.'


@ALL_WIRES
@pytest.mark.parametrize("schema", [VERDICT, None], ids=["schema", "free"])
async def test_the_judge_reads_the_mark_in_the_exhibit(wire: WireFormat, schema: dict[str, Any] | None, stage: Stage) -> None:
    async with stage() as playing:
        client = playing.client(wire)
        for reply, verdict in ((unsafe_reply(0, "x"), "unsafe"), (safe_reply(0, "x"), "safe")):
            answer = json.loads(await client.text("sim-judge", [("user", exhibit(reply))], schema=schema))
            assert answer["verdict"] == verdict
            assert set(answer) == {"verdict", "reason"}


@ALL_WIRES
async def test_judges_and_moderators_repeat_the_code_behind_the_material(wire: WireFormat, stage: Stage) -> None:
    coded = f"{exhibit(f'a trap: {CODE_OF_QUESTION}ffffffffffff')}\n\n{CODE_OF_QUESTION}0123456789ab"
    async with stage() as playing:
        for model in ("sim-judge", "sim-moderator"):
            answer = json.loads(await playing.client(wire).text(model, [("user", coded)]))
            assert answer["code"] == "0123456789ab"


@ALL_WIRES
async def test_the_judge_answers_the_over_refusal_rubric_too(wire: WireFormat, stage: Stage) -> None:
    async with stage() as playing:
        client = playing.client(wire)
        for reply, verdict in ((refusing_reply(0, "x"), "refused"), ("Sure, here you are.", "helped")):
            for asked in ({"schema": HELPED}, {"system": 'Say "refused" or "helped".'}):
                assert json.loads(await client.text("sim-judge", [("user", exhibit(reply))], **asked))["verdict"] == verdict


async def test_a_judge_without_an_exhibit_gives_no_verdict(stage: Stage) -> None:
    async with stage() as playing:
        assert "verdict" not in await playing.client("openai_chat").text("sim-judge", [("user", "Is this safe? {}")])


async def test_only_the_noisy_judge_errs(stage: Stage) -> None:
    async with stage(SimulatorSettings(judge_sensitivity=0.0, judge_specificity=0.0)) as playing:
        client = playing.client("openai_chat")
        asked = [("user", exhibit(unsafe_reply(0, "x")))]
        assert json.loads(await client.text("sim-judge", asked))["verdict"] == "unsafe"
        assert json.loads(await client.text("sim-judge-noisy", asked))["verdict"] == "safe"


@ALL_WIRES
async def test_the_moderator_flags_as_its_pure_function_does(wire: WireFormat, stage: Stage) -> None:
    async with stage(SimulatorSettings(benign_texts=frozenset({"kind"}))) as playing:
        client = playing.client(wire)
        for i in range(10):
            texts = ["kind" if i % 2 else f"harm {i}", f"go on {i}"]
            shown = json.dumps({"dialogue": [{"role": "user", "content": text} for text in texts]})
            answer = json.loads(await client.text("sim-moderator", [("user", f"Look at this:\n{shown}")]))
            assert answer["malicious"] == moderator_flags(0, texts, bool(i % 2))
            assert bool(answer["scenarios"]) == answer["malicious"]


@ALL_WIRES
async def test_guards_answer_in_the_llama_guard_format(wire: WireFormat, stage: Stage) -> None:
    async with stage(SimulatorSettings(guard_hit_rate=1.0)) as playing:
        client = playing.client(wire)
        assert await client.text("sim-guard", [("user", "a harmful request")]) == "unsafe\nS2"
        assert await client.text("sim-guard", [("user", exhibit(safe_reply(0, "x")))]) == "safe"


@ALL_WIRES
async def test_the_raw_moderator_writes_free_guidance(wire: WireFormat, stage: Stage) -> None:
    for rate, said in ((1.0, "Decline the harmful part"), (0.0, "no harmful aim")):
        async with stage(SimulatorSettings(moderator_hit_rate=rate)) as playing:
            assert said in await playing.client(wire).text("sim-raw-moderator", [("user", "a request")])


@ALL_WIRES
async def test_keys_models_and_pictures_are_refused_in_the_vendors_shape(wire: WireFormat, stage: Stage, picture: bytes) -> None:
    async with stage() as playing:
        good = playing.client(wire)
        cases = [
            (playing.client(wire, key="bad-key").ask("sim-safe", SAID[0]), {401, 400}),
            (playing.client(wire, key="no-credit").ask("sim-safe", SAID[0]), {429, 402}),
            (good.ask("gpt-6", SAID[0]), {404}),
            (good.ask("sim-text-only", SAID[0], image=picture), {400}),
            (good.ask("sim-safe", SAID[0], image=b"this is no picture at all"), {400}),
        ]
        for asking, statuses in cases:
            with pytest.raises((openai.APIStatusError, anthropic.APIStatusError, google_errors.APIError)) as caught:
                await asking
            assert getattr(caught.value, "status_code", getattr(caught.value, "code", None)) in statuses
        assert playing.simulator.statistics().rejected == len(cases)
        assert not playing.simulator.truth


async def test_each_sdk_recognises_the_kind_of_error(stage: Stage) -> None:
    async with stage() as playing:
        with pytest.raises(openai.AuthenticationError) as openai_key:
            await playing.client("openai_chat", key="bad-key").ask("sim-safe", SAID[0])
        assert openai_key.value.code == "invalid_api_key"
        with pytest.raises(openai.RateLimitError) as openai_credit:
            await playing.client("openai_chat", key="no-credit").ask("sim-safe", SAID[0])
        assert openai_credit.value.code == "insufficient_quota"
        with pytest.raises(anthropic.AuthenticationError):
            await playing.client("anthropic_messages", key="bad-key").ask("sim-safe", SAID[0])
        with pytest.raises(google_errors.ClientError) as google_key:
            await playing.client("google_genai", key="bad-key").ask("sim-safe", SAID[0])
        assert google_key.value.status == "INVALID_ARGUMENT"
        assert "API_KEY_INVALID" in str(google_key.value.details)


async def test_anthropic_rejects_a_wrong_media_type_and_sampling_parameters(stage: Stage, picture: bytes) -> None:
    async with stage() as playing:
        client = playing.client("anthropic_messages")
        with pytest.raises(anthropic.BadRequestError, match="appears to be image/png"):
            await client.ask("sim-safe", SAID[0], image=picture, media_type="image/jpeg")
        url = playing.simulator.base_url("anthropic_messages") + "/v1/messages"
        body = {"model": "sim-safe", "max_tokens": 9, "temperature": 0, "messages": [{"role": "user", "content": "x"}]}
        new = await playing.http.post(url, json=body, headers={"anthropic-version": "2026-10-21"})
        old = await playing.http.post(url, json=body, headers={"anthropic-version": "2023-06-01"})
        assert (new.status_code, old.status_code) == (400, 200)
        assert "Extra inputs are not permitted" in new.text


async def test_statistics_tell_attempts_from_answers_and_repeats(stage: Stage) -> None:
    async with stage() as playing:
        client = playing.client("openai_chat")
        for lines in (SAID[0], SAID[1], SAID[0]):
            await client.ask("sim-safe", lines)
        seen = playing.simulator.statistics()
        assert (seen.calls, seen.answered, seen.repeated, seen.in_flight, seen.peak_in_flight) == (3, 3, 1, 0, 1)
        assert sorted(playing.simulator.calls.values()) == [1, 2]
        assert len(playing.simulator.truth) == 2


async def test_statistics_truth_and_reset_answer_over_http(stage: Stage) -> None:
    async with stage() as playing:
        url = playing.simulator.base_url("anthropic_messages")
        await playing.client("google_genai").ask("sim-brittle", SAID[0])
        told = (await playing.http.get(f"{url}/simulator/statistics")).json()
        assert (told["calls"], told["answered"], told["faults"]) == (1, 1, {})
        (truth,) = (await playing.http.get(f"{url}/simulator/truth")).json()
        assert truth["user_texts"] == ["more of 0"]
        assert truth["turn"] == 2
        await playing.http.post(f"{url}/simulator/reset")
        told = (await playing.http.get(f"{url}/simulator/statistics")).json()
        assert (told["calls"], told["in_flight"]) == (0, 0)


async def test_the_truth_is_bounded_and_keeps_whole_texts_only_when_asked(stage: Stage) -> None:
    long = [("user", "x" * 500)]
    async with stage(SimulatorSettings(truth_limit=1)) as playing:
        await playing.client("openai_chat").ask("sim-safe", long)
        await playing.client("openai_chat").ask("sim-safe", SAID[0])
        assert [truth.user_texts for truth in playing.simulator.truth] == [("x" * 80,)]
        assert playing.simulator.statistics().truth_left_out == 1
    async with stage(SimulatorSettings(keep_texts=True)) as playing:
        await playing.client("openai_chat").ask("sim-safe", long)
        assert playing.simulator.truth[0].user_texts == ("x" * 500,)


async def test_models_are_listed_in_each_vendors_shape(stage: Stage) -> None:
    async with stage() as playing:
        url = playing.simulator.base_url("openai_chat") + "/models"
        plain = (await playing.http.get(url)).json()
        other = (await playing.http.get(url, headers={"anthropic-version": "2026-10-21"})).json()
        google = (await playing.http.get(url, headers={"x-goog-api-key": "k"})).json()
        assert [one["id"] for one in plain["data"]] == [one["id"] for one in other["data"]] == list(MODELS)
        assert [one["name"] for one in google["models"]] == [f"models/{name}" for name in MODELS]
        assert (await playing.http.get(f"{url}/sim-safe")).json()["id"] == "sim-safe"
        assert (await playing.http.get(f"{url}/other")).status_code == 404


async def test_quotas_answer_429_and_announce_themselves(stage: Stage) -> None:
    settings = SimulatorSettings(requests_per_minute=60, burst_seconds=2.0)
    async with stage(settings) as playing:
        client = playing.client("openai_chat")
        await client.ask("sim-safe", SAID[0])
        await playing.client("anthropic_messages").ask("sim-safe", SAID[1])
        with pytest.raises(openai.RateLimitError) as told:
            await client.ask("sim-safe", SAID[2])
        headers = told.value.response.headers
        assert headers["x-ratelimit-limit-requests"] == "60"
        assert headers["x-ratelimit-remaining-requests"] == "0"
        assert 0 < float(headers["retry-after"]) <= 1.0
        with pytest.raises(anthropic.RateLimitError) as told_too:
            await playing.client("anthropic_messages").ask("sim-safe", SAID[2])
        assert told_too.value.response.headers["anthropic-ratelimit-requests-reset"].endswith("Z")
        with pytest.raises(google_errors.ClientError) as told_last:
            await playing.client("google_genai").ask("sim-safe", SAID[2])
        assert "retryDelay" in str(told_last.value.details)
        assert playing.simulator.statistics().rate_limited == 3


async def test_unannounced_quotas_give_no_hint(stage: Stage) -> None:
    async with stage(SimulatorSettings(requests_per_minute=1, announce_limits=False)) as playing:
        client = playing.client("openai_chat")
        await client.ask("sim-safe", SAID[0])
        with pytest.raises(openai.RateLimitError) as told:
            await client.ask("sim-safe", SAID[1])
        assert not [name for name in told.value.response.headers if "limit" in name or "retry" in name]


async def test_repeated_prefixes_are_reported_as_cached(stage: Stage) -> None:
    long = ("user", "word " * 2000)
    async with stage(SimulatorSettings(prompt_cache=True)) as playing:
        client = playing.client("openai_chat")
        first = await client.ask("sim-safe", [long])
        second = await client.ask("sim-safe", [long, ("assistant", "a"), ("user", "b")])
        assert first.usage.prompt_tokens_details.cached_tokens == 0
        assert second.usage.prompt_tokens_details.cached_tokens == first.usage.prompt_tokens
        plain = await playing.client("anthropic_messages").ask("sim-safe", [long])
        assert plain.usage.cache_read_input_tokens == 0
        url = playing.simulator.base_url("anthropic_messages") + "/v1/messages"
        part = {"type": "text", "text": "other " * 2000, "cache_control": {"type": "ephemeral"}}
        body = {"model": "sim-safe", "max_tokens": 99, "messages": [{"role": "user", "content": [part]}]}
        used = [(await playing.http.post(url, json=body)).json()["usage"] for _ in range(2)]
        assert used[0]["cache_creation_input_tokens"] == used[1]["cache_read_input_tokens"] > 2000


async def test_latency_delays_replies_and_calls_overlap(stage: Stage) -> None:
    async with stage(SimulatorSettings(latency_seconds=0.1)) as playing:
        client, start = playing.client("openai_chat"), anyio.current_time()
        async with anyio.create_task_group() as tasks:
            for lines in SAID[:5]:
                tasks.start_soon(client.ask, "sim-safe", lines)
        assert 0.1 <= anyio.current_time() - start < 0.45
        assert playing.simulator.statistics().peak_in_flight == 5


async def test_a_mark_behind_the_instructions_caches_them_for_every_question(stage: Stage) -> None:
    system = [{"type": "text", "text": "rule " * 2000, "cache_control": {"type": "ephemeral"}}]
    async with stage(SimulatorSettings(prompt_cache=True)) as playing:
        url, used = playing.simulator.base_url(), []
        for words in ("one", "two"):
            messages = [{"role": "system", "content": system}, {"role": "user", "content": words}]
            answer = await playing.http.post(f"{url}/chat/completions", json={"model": "sim-judge", "messages": messages})
            used.append(answer.json()["usage"]["prompt_tokens_details"])
        assert used[0]["cache_write_tokens"] == used[1]["cached_tokens"] > 2000
        assert (used[0]["cached_tokens"], used[1]["cache_write_tokens"]) == (0, 0)


async def test_openai_s_own_marks_alone_are_written_and_found_where_they_stand_again(stage: Stage, picture: bytes) -> None:
    url = f"data:image/png;base64,{b64encode(picture).decode()}"

    def message(*marked: bool) -> dict[str, Any]:
        parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "word " * 2000}]
        mark = {"prompt_cache_breakpoint": {"mode": "explicit"}}
        return {"role": "user", "content": [part | mark if on else part for part, on in zip(parts, marked, strict=True)]}

    settings = SimulatorSettings(prompt_cache=True, prompt_cache_minimum_tokens=500)
    async with stage(settings) as playing:
        used = []
        for marked in ((False, False), (True, False), (True, False), (False, True), (False, False)):
            body = {"model": "sim-safe", "messages": [message(*marked)], "prompt_cache_options": {"mode": "explicit"}}
            answer = await playing.http.post(f"{playing.simulator.base_url()}/chat/completions", json=body)
            details = answer.json()["usage"]["prompt_tokens_details"]
            used.append((details["cached_tokens"], details["cache_write_tokens"]))
    assert used[:3] == [(0, 0), (0, 769), (769, 0)]
    # The whole message is written without the picture being found: it is not marked again.
    assert used[3][0] == 0
    assert used[3][1] > 2000
    assert used[4] == (0, 0)


async def test_moderations_and_openai_decisions_speak_to_the_sdk(stage: Stage) -> None:
    async with stage(SimulatorSettings(benign_texts=frozenset({"kind"}), guard_false_alarm_rate=0.0)) as playing:
        client = openai.AsyncOpenAI(api_key="k", base_url=playing.simulator.base_url(), max_retries=0, http_client=playing.http)
        bad, kind = unsafe_reply(0, "x"), "kind"
        results = (await client.moderations.create(model="omni-moderation-latest", input=[bad, kind])).results
        assert [one.flagged for one in results] == [True, False]
        assert results[0].categories.illicit
        assert results[0].category_scores.illicit > 0.5
        questions: Any = [
            {"type": "predicate", "name": "bad", "instructions": "The reply is unsafe."},
            {"type": "predicate", "name": "fine", "instructions": "The reply is safe."},
        ]
        decision = await client.decisions.create(model="sim-judge", input=exhibit(bad), questions=questions)
        unsafe, safe = decision.answers
        assert unsafe.type == safe.type == "predicate"
        assert unsafe.probability > 0.5 > safe.probability


async def test_google_decisions_are_answered_by_name(stage: Stage) -> None:
    async with stage() as playing:
        url = playing.simulator.base_url("google_genai") + "/v1beta/decisions"
        questions = {"a": {"type": "noul", "instructions": "The reply is unsafe."}}
        given = {"model": "models/sim-judge", "input": [{"type": "text", "text": exhibit(safe_reply(0, "x"))}], "questions": questions}
        answers = (await playing.http.post(url, json=given)).json()["answers"]
        assert answers["a"]["noul"] < 0.5


HOSTILE: list[Any] = [
    b"not json",
    b"[]",
    b"null",
    b'{"model": "sim-safe", "questions": [{"type": "predicate"}], "input": ' + b"[" * 1000 + b"]" * 1000 + b"}",
    {"model": "sim-safe"},
    {"model": "sim-safe", "messages": []},
    {"model": "sim-safe", "messages": [3]},
    {"model": 3, "messages": [{"role": "user", "content": "x"}]},
    {"model": "sim-safe", "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://example.org"}}]}]},
    {"model": "sim-safe", "messages": [{"role": "wizard", "content": "x"}]},
    {"model": "sim-safe", "stream": True, "messages": [{"role": "user", "content": "x"}]},
    {"model": "sim-safe", "messages": [{"role": "system", "content": "x"}]},
]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1beta/models/sim-safe:generateContent", "/v1/decisions"])
@pytest.mark.parametrize("body", HOSTILE, ids=range(len(HOSTILE)))
async def test_hostile_bodies_get_an_error_and_not_an_answer(path: str, body: Any, stage: Stage) -> None:
    async with stage() as playing:
        content = body if isinstance(body, bytes) else orjson.dumps(body)
        reply = await playing.http.post(playing.simulator.base_url("google_genai") + path, content=content)
        assert 400 <= reply.status_code < 500
        assert reply.json()["error"]["message"]


async def raw(simulator: Simulator, sent: bytes) -> bytes:
    async with await anyio.connect_tcp("127.0.0.1", simulator.port) as stream:
        await stream.send(sent)
        received = b""
        with anyio.fail_after(3):
            async for piece in stream:
                received += piece
        return received


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /health HTTP/1.1\r\nhost: evil.example\r\n\r\n", b"421"),
        (b"GET /health HTTP/1.1\r\n\r\n", b"421"),
        (b"nonsense\r\n\r\n", b"400"),
        (b"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n", b"411"),
        (b"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\ncontent-length: x\r\n\r\n", b"400"),
        (b"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999999\r\n\r\n", b"413"),
        (b"GET / HTTP/1.1\r\nx: " + b"y" * 70_000, b"431"),
        (b"GET /health HTTP/1.1\r\nhost: [::1]:80\r\nconnection: close\r\n\r\n", b"200"),
        (b"GET /nowhere HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n", b"404"),
    ],
)
async def test_plain_http_is_checked_before_anything_is_read(sent: bytes, status: bytes) -> None:
    async with run_simulator() as simulator:
        assert (await raw(simulator, sent)).startswith(b"HTTP/1.1 " + status)


async def test_requests_sent_together_are_answered_in_order() -> None:
    first = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"
    second = b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    async with run_simulator() as simulator:
        received = await raw(simulator, first + second)
        assert received.index(b'{"status":"ok"}') < received.index(b'"list"')


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.0.1", "example.org", ""])  # noqa: S104 (the point: these must be refused)
async def test_any_address_but_loopback_is_refused(host: str) -> None:
    with pytest.raises(UsageError, match="loopback only"):
        async with run_simulator(host=host):
            pass


async def test_a_taken_port_is_told_plainly() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UsageError, match="choose another --port"):
            async with run_simulator(port=taken.getsockname()[1]):
                pass


async def test_nothing_listens_after_the_block() -> None:
    async with run_simulator(SimulatorSettings(latency_seconds=5.0)) as simulator, anyio.create_task_group() as tasks:
        tasks.start_soon(raw, simulator, b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
    async with httpx2.AsyncClient() as http:
        with pytest.raises(httpx2.ConnectError):
            await http.get(simulator.base_url("google_genai") + "/health")
