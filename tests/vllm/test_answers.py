"""What a real vLLM server answers to calls that cannot work, and what the evaluator makes of it."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import polars as pl
import pytest
from PIL import Image as Pictures

from safemt_api.adapters.base import Adapter, Timeouts, open_adapter
from safemt_api.adapters.http_client import open_http_client
from safemt_api.errors import AccountError, DialogueError, EndpointError, StopRunError
from safemt_api.messages import Call, Image, Outcome, Parameters, Route, assistant, user
from safemt_api.profiles import load_profiles
from safemt_api.tokens import image_tokens, image_tokens_most
from tests.vllm.conftest import ENDLESS, KEY, MODEL, Play, WriteData
from tests.vllm.serving import Server

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1800)]

TIMEOUTS = Timeouts(connect_seconds=5.0, idle_seconds=60.0)


@asynccontextmanager
async def adapter_for(server: Server, *, key: str = KEY) -> AsyncIterator[Adapter]:
    profile = load_profiles()["vllm"]
    # A random model may begin with its end mark, and an empty reply is no reply.
    facts = profile.facts(MODEL).model_copy(update={"extra_body": {"ignore_eos": True}})
    profile = profile.model_copy(update={"models": (facts,)})
    async with open_http_client(connections=4, timeouts=TIMEOUTS) as client:
        base_url = server.base_url
        yield open_adapter(profile=profile, wire_format="openai_chat", base_url=base_url, api_key=key, client=client, timeouts=TIMEOUTS)


def call(text: str, image: Image | None = None, *, max_output_tokens: int = 8) -> Call:
    route = Route(profile="vllm", wire_format="openai_chat", base_urls=("http://unused",), model=MODEL)
    return Call(
        route=route, messages=(user(text, *([] if image is None else [image])),), parameters=Parameters(max_output_tokens=max_output_tokens)
    )


def picture(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Pictures.new("RGB", (width, height), "white").save(file, "PNG")
    return file.getvalue()


def as_image(data: bytes, *, width: int = 64, height: int = 64) -> Image:
    return Image(data, digest=f"test:{hash(data)}", media_type="image/png", width_pixels=width, height_pixels=height)


@pytest.mark.parametrize(("width", "height"), [(224, 112), (560, 560), (640, 480)])
async def test_a_picture_counts_for_about_as_many_tokens_as_estimated_and_for_no_more_than_the_bound(
    steady: Server, width: int, height: int
) -> None:
    image = as_image(picture(width, height), width=width, height=height)
    async with adapter_for(steady) as adapter:
        received = await adapter.send(call("What is this?", image))
    details = json.loads(received.reply.raw or "")["usage"]["prompt_tokens_details"]
    counted = details["multimodal_tokens"]["image"]
    rules = load_profiles()["vllm"].images
    assert 0.7 * counted <= image_tokens(rules, width, height) <= 1.3 * counted
    assert counted <= image_tokens_most(rules, width, height)
    assert received.reply.usage is not None
    assert received.reply.usage.input_tokens > counted


BAD_PICTURES = {
    "cut off": (picture(64, 64)[:60], "Failed to load image"),
    "no picture at all": (b"this is no picture", "Failed to load image"),
    "too thin to be cut into patches": (picture(1, 600), "Failed to apply Qwen2_5_VLProcessor"),
}


@pytest.mark.parametrize(("data", "said"), BAD_PICTURES.values(), ids=BAD_PICTURES)
async def test_a_picture_that_the_server_cannot_use_fails_its_dialogue_alone(steady: Server, data: bytes, said: str) -> None:
    async with adapter_for(steady) as adapter:
        with pytest.raises(DialogueError, match=said) as caught:
            await adapter.send(call("What is this?", as_image(data)))
        assert caught.value.status == 400
        assert (await adapter.send(call("And without it?"))).reply.outcome in (Outcome.ANSWERED, Outcome.TRUNCATED)


async def test_roles_that_the_chat_template_refuses_fail_the_dialogue_with_the_templates_words(steady: Server) -> None:
    good = call("Hello?")
    odd = Call(route=good.route, messages=(user("Hello?"), user("Are you there?"), assistant("Yes.")), parameters=good.parameters)
    async with adapter_for(steady) as adapter:
        with pytest.raises(DialogueError, match="User and assistant must take turns"):
            await adapter.send(odd)


async def test_a_dialogue_that_is_too_long_fails_alone_with_the_servers_sentence(
    steady: Server, play: Play, write_data: WriteData, endless: Path
) -> None:
    # The second is too long only together with its picture, which the server says in other words.
    brim = await longest_text(steady)
    data = write_data({"short_1": ["What is this?"], "long_1": ["word " * 20_000], "brim_1": [brim], "short_2": ["And what is that?"]})
    result = await play(steady, provider=ENDLESS, providers=endless, data=data, sample=None, lengths=(1,), max_failures=1.0)
    assert (result.exit_code, result.summary.json_value()["dialogues"]) == (0, {"planned": 4, "finished": 2, "failed": 2})
    rows = pl.read_parquet(result.folder / "transcripts.parquet").select("dialogue_id", "outcome", "failure")
    failures = {name: failure for name, outcome, failure in rows.iter_rows() if outcome == "error"}
    assert failures.keys() == {"long_1", "brim_1"}
    assert "maximum context length is 8192 tokens" in failures["long_1"]
    assert "exceeds model's maximum context length (8192)" in failures["brim_1"]
    assert result.summary.calls.retried == 0


async def longest_text(server: Server) -> str:
    """A text that nearly fills the context, by the server's own count."""
    async with httpx2.AsyncClient(headers={"Authorization": f"Bearer {KEY}"}) as client:
        answer = await client.post(f"{server.root}/tokenize", json={"model": MODEL, "prompt": "word " * 100})
    return "word " * int(100 * 8000 / answer.json()["count"])


async def test_a_reply_is_cut_to_the_room_that_the_context_leaves(steady: Server, play: Play, write_data: WriteData) -> None:
    data = write_data({"brim_1": [(await longest_text(steady))[:-3500]]})
    result = await play(steady, data=data, sample=None, lengths=(1,), max_output_tokens=8000)
    assert result.exit_code == 0
    tokens = pl.read_parquet(result.folder / "transcripts.parquet").select("input_tokens", "output_tokens").row(0)
    assert tokens[0] > 4000
    assert sum(tokens) <= 8192


async def test_asking_for_more_output_than_the_context_holds_ends_the_run_with_the_cure(steady: Server, play: Play) -> None:
    result = await play(steady, max_output_tokens=9000)
    assert isinstance(result.stopped_by, StopRunError)
    assert "max_tokens=9000 cannot be greater than max_model_len=8192" in str(result.stopped_by)


async def test_a_model_that_is_not_served_ends_the_run(steady: Server, play: Play) -> None:
    result = await play(steady, model="another")
    assert isinstance(result.stopped_by, AccountError)
    assert "does not know the model 'another'" in str(result.stopped_by)
    assert result.exit_code == 2


@pytest.mark.parametrize("model", [["--model", MODEL], []], ids=["model given", "model asked for"])
def test_a_wrong_key_is_one_sentence_and_exit_code_2(
    steady: Server, results: Path, monkeypatch: pytest.MonkeyPatch, model: list[str]
) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "some-other-key")
    options = ["--provider", "vllm", "--base-url", steady.base_url, *model, "--sample", "1", "--lengths", "1", "--judge", "rules"]
    command = [sys.executable, "-m", "safemt_api", "eval", *options, "--results", str(results)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd=Path(__file__).parents[2])
    assert done.returncode == 2
    said = " ".join(done.stderr.split())
    assert "does not accept the API key" in said
    assert "check VLLM_API_KEY" in said
    assert "some-other-key" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


async def test_an_address_without_its_path_says_so(steady: Server, play: Play) -> None:
    result = await play(steady, base_urls=(steady.root,))
    assert isinstance(result.stopped_by, EndpointError)
    assert "an address that ends in /v1" in str(result.stopped_by)
