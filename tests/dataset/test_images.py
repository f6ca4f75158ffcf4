"""Pictures go out as they are where the vendor's rules allow, and are re-encoded late, once and predictably where not."""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import date
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safemt_api.dataset import images, pixels
from safemt_api.dataset.images import Prepared, open_source
from safemt_api.errors import DialogueError
from safemt_api.profiles import ImageRules

Make = Callable[..., Any]


def rules(**limits: Any) -> ImageRules:
    return ImageRules(source="a test", checked=date(2026, 11, 21), **limits)


def put(root: Path, data: bytes) -> Path:
    (root / "a.jpg").write_bytes(data)
    return root


def prepare_image(folder: Path, image_path: str, given: ImageRules) -> Prepared:
    return open_source(folder, image_path).fitted(given)


def opened(data: bytes) -> PIL.Image.Image:
    picture = PIL.Image.open(io.BytesIO(data))
    picture.load()
    return picture


def saved(picture: PIL.Image.Image, kind: str, **options: Any) -> bytes:
    target = io.BytesIO()
    picture.save(target, kind, **options)
    return target.getvalue()


def test_a_fitting_picture_goes_out_byte_by_byte_with_the_type_of_its_bytes(tmp_path: Path, picture: Make) -> None:
    data = picture("PNG", size=(40, 30))
    prepared = prepare_image(put(tmp_path, data), "/a.jpg", rules(max_bytes=len(data), max_side_pixels=40, max_pixels=1200))
    assert prepared.note is None
    assert prepared.image.data == data
    assert prepared.image.media_type == "image/png"
    assert (prepared.image.width_pixels, prepared.image.height_pixels) == (40, 30)
    assert prepared.image.digest == f"sha256:{sha256(data).hexdigest()}"


def test_too_many_pixels_are_shrunk_and_the_fact_is_noted(tmp_path: Path, picture: Make) -> None:
    prepared = prepare_image(put(tmp_path, picture("JPEG", size=(400, 300))), "a.jpg", rules(max_side_pixels=200))
    assert prepared.note == "picture shrunk from 400x300 to 200x150, image/jpeg → image/jpeg: a side over 200 pixels"
    result = opened(prepared.image.data)
    assert (result.size, result.format) == ((200, 150), "JPEG")
    assert (prepared.image.width_pixels, prepared.image.height_pixels) == (200, 150)


def test_a_type_the_vendor_does_not_take_is_converted(tmp_path: Path, picture: Make) -> None:
    prepared = prepare_image(put(tmp_path, picture("BMP")), "a.jpg", rules())
    assert prepared.note == "picture re-encoded from 8x6 to 8x6, image/bmp → image/png: image/bmp is not taken"
    assert opened(prepared.image.data).format == "PNG"
    only_jpeg = prepare_image(tmp_path, "a.jpg", rules(media_types=("image/jpeg",)))
    assert opened(only_jpeg.image.data).format == "JPEG"
    only_webp = prepare_image(tmp_path, "a.jpg", rules(media_types=("image/webp",)))
    assert opened(only_webp.image.data).format == "WEBP"


def test_a_vendor_without_a_type_that_can_be_written_fails_the_dialogue(tmp_path: Path, picture: Make) -> None:
    with pytest.raises(DialogueError, match=r"image a\.jpg cannot be sent: the vendor takes only image/heic"):
        prepare_image(put(tmp_path, picture()), "a.jpg", rules(media_types=("image/heic",)))


def test_bytes_over_the_limit_go_down_in_quality_at_the_same_size(tmp_path: Path) -> None:
    noise = PIL.Image.effect_noise((300, 200), 90).convert("RGB")
    prepared = prepare_image(put(tmp_path, saved(noise, "PNG")), "a.jpg", rules(max_bytes=30_000))
    assert prepared.image.media_type == "image/jpeg"
    assert len(prepared.image.data) <= 30_000
    assert opened(prepared.image.data).size == (300, 200)


def test_a_tiny_byte_limit_shrinks_further_and_never_exceeds(tmp_path: Path) -> None:
    noise = PIL.Image.effect_noise((300, 200), 90).convert("RGB")
    put(tmp_path, saved(noise, "PNG"))
    assert len(prepare_image(tmp_path, "a.jpg", rules(max_bytes=2_000)).image.data) <= 2_000
    assert len(prepare_image(tmp_path, "a.jpg", rules(max_bytes=2_000, media_types=("image/png",))).image.data) <= 2_000
    with pytest.raises(DialogueError, match="cannot be made to fit 10 bytes"):
        _ = prepare_image(tmp_path, "a.jpg", rules(max_bytes=10)).image.data


def test_the_digest_of_a_changed_picture_tells_source_and_fit_and_needs_no_encoding(
    tmp_path: Path, picture: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    real = pixels.render

    def counted(*args: Any) -> bytes:
        calls.append(1)
        return real(*args)

    monkeypatch.setattr(images, "render", counted)
    data = picture("PNG", size=(90, 60))
    put(tmp_path, data)
    small, same, smaller = (prepare_image(tmp_path, "a.jpg", rules(max_side_pixels=side)).image for side in (50, 50, 40))
    assert small.digest.startswith(f"sha256:{sha256(data).hexdigest()};fit:")
    assert small == same
    assert small != smaller
    assert calls == []
    assert small.data == small.data
    assert small.base64 == small.base64
    assert calls == [1]
    assert same.data == small.data


def test_the_mark_of_a_fit_is_pinned() -> None:
    assert pixels.Fit("image/png", 50, 40, 5_000, ("any",)).mark == "74e1415165ef"
    assert pixels.Fit("image/png", 50, 40, 5_000, ("other",), 6, 99).mark == "74e1415165ef"


def test_rules_that_do_not_touch_the_result_do_not_change_the_digest(tmp_path: Path, picture: Make) -> None:
    put(tmp_path, picture("PNG", size=(90, 60)))
    one = prepare_image(tmp_path, "a.jpg", rules(max_side_pixels=45)).image
    other = prepare_image(tmp_path, "a.jpg", rules(max_side_pixels=45, media_types=("image/png",), tokens_per_image=9)).image
    assert one.digest == other.digest


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I", "I;16", "F"])
@pytest.mark.parametrize("target", ["image/png", "image/jpeg", "image/webp"])
def test_every_pixel_mode_becomes_a_plain_picture(tmp_path: Path, mode: str, target: str) -> None:
    source = PIL.Image.linear_gradient("L").resize((40, 30)).convert("L")
    if mode.startswith("I"):
        picture = source.convert("I").point(lambda value: value * 257)
        picture = picture.convert("I;16") if mode == "I;16" else picture
    else:
        picture = source.convert("RGB").convert(mode) if mode in ("P", "CMYK", "YCbCr") else source.convert(mode)
    prepared = prepare_image(put(tmp_path, saved(picture, "TIFF")), "a.jpg", rules(media_types=(target,), max_side_pixels=20))
    result = opened(prepared.image.data)
    assert result.size == (20, 15)
    grey = result.convert("L")
    assert grey.getpixel((10, 1)) < 60 if mode != "1" else True  # type: ignore[operator] # grey pixels are integers
    assert grey.getpixel((10, 13)) > 190 if mode != "1" else True  # type: ignore[operator] # the same


def test_transparency_is_kept_in_png_and_laid_on_white_in_jpeg(tmp_path: Path) -> None:
    clear = PIL.Image.new("RGBA", (30, 30), (255, 0, 0, 0))
    put(tmp_path, saved(clear, "PNG"))
    as_png = opened(prepare_image(tmp_path, "a.jpg", rules(max_side_pixels=10)).image.data)
    as_jpeg = opened(prepare_image(tmp_path, "a.jpg", rules(max_side_pixels=10, media_types=("image/jpeg",))).image.data)
    assert as_png.getchannel("A").getextrema() == (0, 0)
    assert as_jpeg.getpixel((5, 5)) == (255, 255, 255)


def test_a_palette_with_transparency_is_laid_on_white(tmp_path: Path) -> None:
    palette = PIL.Image.new("P", (10, 10), 0)
    palette.putpalette([9, 9, 9, 200, 0, 0])
    put(tmp_path, saved(palette, "GIF", transparency=0))
    result = opened(prepare_image(tmp_path, "a.jpg", rules(media_types=("image/jpeg",))).image.data)
    assert result.convert("RGB").getpixel((5, 5)) == (255, 255, 255)


def test_a_cameras_orientation_is_applied_when_the_mark_is_lost(tmp_path: Path) -> None:
    sideways = PIL.Image.new("RGB", (80, 40), "blue")
    sideways.paste("red", (0, 0, 40, 40))
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    prepared = prepare_image(put(tmp_path, saved(sideways, "JPEG", exif=exif, quality=95)), "a.jpg", rules(max_side_pixels=40))
    result = opened(prepared.image.data)
    assert result.size == (prepared.image.width_pixels, prepared.image.height_pixels) == (20, 40)
    top, bottom = result.convert("RGB").getpixel((10, 5)), result.convert("RGB").getpixel((10, 35))
    assert isinstance(top, tuple)
    assert isinstance(bottom, tuple)
    assert top[0] > 200
    assert bottom[2] > 200


def test_of_an_animation_the_first_frame_is_sent(tmp_path: Path) -> None:
    frames = [PIL.Image.new("RGB", (12, 12), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "WEBP"):
        put(tmp_path, saved(frames[0], kind, save_all=True, append_images=frames[1:]))
        prepared = prepare_image(tmp_path, "a.jpg", rules())
        assert prepared.note is not None
        assert "only the first frame of an animation is sent" in prepared.note
        pixel = opened(prepared.image.data).convert("RGB").getpixel((6, 6))
        assert isinstance(pixel, tuple)
        assert pixel[0] > 200
    put(tmp_path, saved(frames[0], "GIF"))
    assert prepare_image(tmp_path, "a.jpg", rules()).note is None


def test_a_picture_gone_or_damaged_at_sending_time_fails_its_dialogue_and_names_the_path(tmp_path: Path, picture: Make) -> None:
    with pytest.raises(DialogueError, match=r"image a\.jpg is missing"):
        prepare_image(tmp_path, "a.jpg", rules())
    with pytest.raises(DialogueError, match="third party"):
        prepare_image(tmp_path, "../a.jpg", rules())
    put(tmp_path, b"no picture")
    with pytest.raises(DialogueError, match=r"image a\.jpg is no picture of a known kind"):
        prepare_image(tmp_path, "a.jpg", rules())
    data = picture("JPEG", size=(300, 300))
    put(tmp_path, data[: len(data) // 2])
    with pytest.raises(DialogueError, match=r"image a\.jpg cannot be decoded"):
        _ = prepare_image(tmp_path, "a.jpg", rules(max_side_pixels=100)).image.data


@settings(max_examples=300)
@given(
    width=st.integers(1, 20_000),
    height=st.integers(1, 20_000),
    side=st.none() | st.integers(1, 8_000),
    pixels=st.none() | st.integers(1, 10_000_000),
)
def test_the_new_size_keeps_every_rule_and_the_proportions(width: int, height: int, side: int | None, pixels: int | None) -> None:
    limits = rules(max_side_pixels=side, max_pixels=pixels)
    new_width, new_height = images.fitting_size(width, height, limits)
    assert 1 <= new_width <= width
    assert 1 <= new_height <= height
    assert side is None or max(new_width, new_height) <= side
    assert pixels is None or new_width * new_height <= pixels
    if min(new_width, new_height) > 1:
        scale = new_width / width
        assert abs(height * scale - new_height) <= 1 + height / width


def test_the_misnamed_picture_of_the_official_sample_goes_out_as_png(official_sample: Path) -> None:
    prepared = prepare_image(official_sample, "images/legal_opinion/legal_opinion_2.jpg", rules())
    assert prepared.image.media_type == "image/png"
    assert prepared.note is None


def counted_looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one whenever a file is looked through."""
    looked: list[int] = []
    real = images._look

    def look(stream: IO[bytes]) -> images._Look:
        looked.append(1)
        return real(stream)

    monkeypatch.setattr(images, "_look", look)
    return looked


def test_a_settled_file_is_looked_through_once_and_a_changed_one_again(
    tmp_path: Path, picture: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = counted_looks(monkeypatch)
    monkeypatch.setattr(images, "SETTLED_NS", -1)
    first, second = picture("PNG", size=(40, 30)), picture("PNG", size=(50, 30))
    put(tmp_path, first)
    assert {open_source(tmp_path, "/a.jpg").digest for _ in range(3)} == {f"sha256:{sha256(first).hexdigest()}"}
    assert len(looked) == 1
    changed = open_source(put(tmp_path, second), "/a.jpg")
    assert (changed.digest, changed.width_pixels, changed.data) == (f"sha256:{sha256(second).hexdigest()}", 50, second)


def test_a_file_that_was_written_a_moment_ago_is_looked_through_each_time(
    tmp_path: Path, picture: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = counted_looks(monkeypatch)
    put(tmp_path, picture("PNG", size=(40, 30)))
    assert [open_source(tmp_path, "/a.jpg").width_pixels for _ in range(3)] == [40] * 3
    assert len(looked) == 3


def test_where_thousands_wait_a_small_file_is_not_held_but_read_again_and_let_go_of(tmp_path: Path, picture: Make) -> None:
    data = picture("PNG", size=(40, 30))
    folder = put(tmp_path, data)
    image = open_source(folder, "a.jpg", held=False).fitted(rules()).image
    assert not image.is_ready
    assert image.data == data
    image.release()
    assert not image.is_ready
    del image
    assert open_source(folder, "a.jpg").fitted(rules()).image.is_ready
