"""Pictures are found only inside the data folder, and known by their bytes."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safemt_api.dataset import picture_files
from safemt_api.dataset.picture_files import ImageError, inspect_image, locate_image, normal_image_path

Make = Callable[..., Any]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data folder with an empty images folder, beside a private file."""
    (tmp_path / "data" / "images").mkdir(parents=True)
    return tmp_path / "data"


def put(root: Path, name: str, data: bytes) -> str:
    (root / "images" / name).write_bytes(data)
    return f"images/{name}"


def refusal(root: Path, image_path: str, *, decode: bool = False) -> str:
    with pytest.raises(ImageError) as caught:
        inspect_image(root, image_path, decode=decode)
    return str(caught.value)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds nothing."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\x00" * 1000)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("kind", "media_type"),
    [
        ("PNG", "image/png"),
        ("JPEG", "image/jpeg"),
        ("WEBP", "image/webp"),
        ("GIF", "image/gif"),
        ("BMP", "image/bmp"),
        ("TIFF", "image/tiff"),
    ],
)
@pytest.mark.parametrize("decode", [False, True])
def test_the_bytes_say_what_a_picture_is(root: Path, picture: Make, kind: str, media_type: str, decode: bool) -> None:
    data = picture(kind, size=(31, 17))
    found = inspect_image(root, put(root, "misnamed.jpg", data), decode=decode)
    assert (found.media_type, found.width_pixels, found.height_pixels, found.size_bytes) == (media_type, 31, 17, len(data))
    assert not found.animated


@pytest.mark.parametrize("image_path", ["images/../../secret.png", "../secret.png", "images/x/../../../secret.png", ".."])
def test_a_path_that_climbs_out_is_refused_with_the_reason(root: Path, picture: Make, image_path: str) -> None:
    (root.parent / "secret.png").write_bytes(picture())
    assert "leaves the data folder with ..; refused, since it would send a private file to a third party" in refusal(root, image_path)


def test_an_absolute_path_is_refused_unless_it_means_a_picture_in_the_folder(root: Path, picture: Make) -> None:
    secret = root.parent / "secret.png"
    secret.write_bytes(picture())
    for image_path in (str(secret), f"/{secret}", "/etc/passwd"):
        said = refusal(root, image_path)
        assert "is an absolute path and no picture of the data folder; refused" in said
        assert "third party" in said
    put(root, "a.png", picture())
    assert inspect_image(root, "/images/a.png") == inspect_image(root, "images/a.png")
    assert normal_image_path("/images/a.png") == normal_image_path("images//a.png") == "images/a.png"


@pytest.mark.parametrize("image_path", ["images\\a.png", "C:/images/a.png", "c:a.png", "\\\\host\\share\\a.png", "/C:/a.png"])
def test_windows_paths_are_refused(root: Path, image_path: str) -> None:
    assert "the Windows way" in refusal(root, image_path)


def test_links_may_stay_inside_and_may_not_leave(root: Path, picture: Make) -> None:
    outside = root.parent / "private"
    outside.mkdir()
    (outside / "secret.png").write_bytes(picture())
    put(root, "a.png", picture())
    (root / "images" / "inside.png").symlink_to("a.png")
    (root / "images" / "file.png").symlink_to(outside / "secret.png")
    (root / "images" / "folder").symlink_to(outside)
    assert inspect_image(root, "images/inside.png").media_type == "image/png"
    for image_path in ("images/file.png", "images/folder/secret.png"):
        assert "is a link that leaves the data folder; refused" in refusal(root, image_path)


def test_a_data_folder_behind_a_link_works(root: Path, picture: Make) -> None:
    put(root, "a.png", picture())
    link = root.parent / "link"
    link.symlink_to(root)
    assert locate_image(link, "images/a.png") == (root / "images" / "a.png").resolve()


def test_links_in_a_circle_and_dangling_ones_are_problems(root: Path) -> None:
    (root / "images" / "loop.png").symlink_to("loop.png")
    (root / "images" / "gone.png").symlink_to("nothing.png")
    assert "cannot be read" in refusal(root, "images/loop.png")
    assert "is missing" in refusal(root, "images/gone.png")


def test_what_is_no_regular_file_is_never_opened(root: Path) -> None:
    os.mkfifo(root / "images" / "pipe.png")
    assert "is not a regular file" in refusal(root, "images/pipe.png")
    assert "is not a regular file" in refusal(root, "images")


def test_missing_odd_and_empty_files_are_told_apart(root: Path, monkeypatch: pytest.MonkeyPatch, picture: Make) -> None:
    assert refusal(root, "images/none.png") == "image images/none.png is missing"
    assert "holds a NUL" in refusal(root, "images/a\x00.png")
    assert "cannot be read: File name too long" in refusal(root, f"images/{'x' * 5000}")
    assert "is missing" in refusal(root, f"{put(root, 'a.png', picture())}/deeper.png")
    assert "is an empty file" in refusal(root, put(root, "empty.png", b""))
    monkeypatch.setattr(picture_files, "MAX_PICTURE_BYTES", 10)
    assert "more than the 10 allowed" in refusal(root, put(root, "big.png", picture()))


@pytest.mark.parametrize(
    "data", [b"hello", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.7", b"\x00" * 40, b"RIFF\x00\x00\x00\x00WAVE", b"x"]
)
def test_what_is_no_picture_is_said(root: Path, data: bytes) -> None:
    assert "is no picture of a known kind" in refusal(root, put(root, "a.png", data))


def test_a_decompression_bomb_is_a_problem_and_is_not_decoded(root: Path) -> None:
    said = refusal(root, put(root, "bomb.png", png_header(60_000, 60_000)), decode=True)
    assert "claims 60000x60000 pixels" in said
    assert "decompression bomb" in said


def test_just_below_the_bound_no_warning_is_given(root: Path) -> None:
    assert inspect_image(root, put(root, "wide.png", png_header(9_000, 9_900))).width_pixels == 9_000


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_picture_cut_short_is_noticed_without_a_full_check(root: Path, picture: Make, kind: str) -> None:
    data = picture(kind, size=(200, 150))
    said = refusal(root, put(root, "cut", data[: len(data) * 6 // 10]))
    assert "cannot be decoded" in said


def test_bytes_after_the_end_of_a_picture_are_no_problem(root: Path, picture: Make) -> None:
    for kind in ("PNG", "JPEG", "GIF"):
        assert inspect_image(root, put(root, "trailed", picture(kind) + b"appended by a camera")).width_pixels == 8


def test_damage_inside_is_found_by_decoding_only(root: Path, picture: Make) -> None:
    data = bytearray(picture("PNG", size=(300, 300)))
    middle = data.index(b"IDAT") + 4
    data[middle : middle + 40] = b"\xff" * 40
    image_path = put(root, "a.png", bytes(data))
    assert inspect_image(root, image_path).width_pixels == 300
    assert "cannot be decoded" in refusal(root, image_path, decode=True)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_damaged_file_raises_anything_but_a_sentence(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("fuzz")
    head = data.draw(
        st.sampled_from(
            [
                b"\x89PNG\r\n\x1a\n",
                b"\xff\xd8\xff",
                b"GIF89a",
                b"BM",
                b"RIFF\x20\x00\x00\x00WEBPVP8 ",
                b"II*\x00",
                b"\x00\x00\x00\x18ftypavif",
            ]
        )
    )
    (root / "x").write_bytes(head + data.draw(st.binary(max_size=200)))
    with suppress(ImageError):
        inspect_image(root, "x", decode=True)
