"""Criteria and policies are pages of Markdown, the user's own or shipped."""

from __future__ import annotations

from pathlib import Path

from safemt_api.errors import UsageError

MAX_PAGE_BYTES = 100_000


def read_page(file: Path, *, option: str, write: str) -> str:
    """The text of a page, without a byte-order mark.

    Args:
        file: The page.
        option: What named it.
        write: What ought to stand in it, for an empty one.

    Raises:
        UsageError: It cannot be read as UTF-8, is empty, or far too large.
    """
    try:
        if file.stat().st_size > MAX_PAGE_BYTES:
            raise UsageError(f"{option} {file}: larger than {MAX_PAGE_BYTES // 1000} KB; give a page of text")
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{option} {file}: cannot be read as UTF-8 text ({error})") from error
    if not text.strip():
        raise UsageError(f"{option} {file}: the file is empty; write {write} into it or take it away")
    return text
