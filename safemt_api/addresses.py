"""Addresses of servers, as a user or an environment variable gives them."""

from __future__ import annotations

from urllib.parse import urlsplit

from safemt_api.errors import UsageError


def check_address(url: str, option: str = "--base-url") -> None:
    """Refuse what is no address of a server; the sentence never repeats what may be a password.

    Raises:
        UsageError: It is none.
    """
    if "@" in url.partition("://")[2].partition("/")[0]:
        raise UsageError(f"{option}: an address must not hold a user name or password; keys come from the environment or .env")
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"{option} {url!r} is not an http:// or https:// address")
    try:
        parts = urlsplit(url)
        valid = bool(parts.hostname) and parts.port != 0 and not any(sign.isspace() or not sign.isprintable() for sign in url)
    except ValueError as error:
        raise UsageError(f"{option} {url!r} is no address ({error})") from None
    if not valid or parts.query or parts.fragment:
        raise UsageError(f"{option} {url!r} is no address of a server, such as http://127.0.0.1:8000/v1")
