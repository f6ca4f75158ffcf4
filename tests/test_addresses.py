"""What is no address of a server is one sentence, whatever it is."""

from __future__ import annotations

import pytest

from safemt_api.addresses import check_address
from safemt_api.errors import UsageError
from safemt_api.profiles import load_profiles
from safemt_api.runs.settings import EvalSettings


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8000/v1", "https://api.example.com", "http://[::1]:8000/v1", "http://gpu1/v1/", "https://x.example:443/a/b"]
)
def test_addresses_of_servers_are_taken(url: str) -> None:
    check_address(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://[::1/v1", "http://x:99999999/v1", "http://x:0/v1", "http://x:port/v1", "http://", "http:///v1", "ftp://x/v1", "nonsense",
        "",
        "http://a b/v1", "http://x/v1\n", "http://x/\x00", "http://x/v1?key=1", "http://x/v1#a", "http://me:secret@x/v1",
    ],
)  # fmt: skip
def test_what_is_none_is_one_sentence(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for given in ({"base_urls": (url,)}, {"judge_base_url": url}, {"moderator_base_url": url}):
        with pytest.raises(UsageError, match="address") as caught:
            EvalSettings(**given)
        assert "\n" not in str(caught.value)
        assert "secret" not in str(caught.value)
    if url:
        monkeypatch.setenv("VLLM_BASE_URL", url.strip() if "\x00" not in url else "http://[")
        if url.strip() != "http://x/v1":
            with pytest.raises(UsageError, match="the address of vllm"):
                load_profiles()["vllm"].addresses()
