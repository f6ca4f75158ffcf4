"""The download says its terms, fails in one sentence, and unpacks nothing outside its folder."""

from __future__ import annotations

import io
import json
import sys
import tarfile
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from safemt_api.dataset import hub
from safemt_api.dataset.entries import load_dataset
from safemt_api.dataset.hub import describe_source, fetch_dataset, unpack_pictures
from safemt_api.dataset.layouts import own_form
from safemt_api.errors import UsageError

Make = Callable[..., Any]


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def played_hub(files: dict[str, bytes], calls: list[dict[str, Any]] | None = None) -> Callable[..., str]:
    """Plays the hub: writes the files where they are asked for."""

    def download(**arguments: Any) -> str:
        if calls is not None:
            calls.append(arguments)
        for name, data in files.items():
            path = Path(arguments["local_dir"]) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return str(arguments["local_dir"])

    return download


def test_the_terms_name_licence_size_and_place() -> None:
    sentence = describe_source(own_form())
    for part in ("CC-BY-NC-4.0", "540 MB", "huggingface.co/datasets/HappyCorpse/SafeMT"):
        assert part in sentence


def test_a_plain_copy_is_downloaded_and_loads(tmp_path: Path, element: Make, picture: Make) -> None:
    calls: list[dict[str, Any]] = []
    files = {"1_turn.json": json.dumps([element()]).encode(), "images/a.png": picture()}
    target = tmp_path / "new" / "data"
    folder = fetch_dataset(target, own_form(), revision="abc", download=played_hub(files, calls))
    assert folder == target
    assert len(load_dataset(folder).entries) == 1
    assert calls[0]["repo_id"] == "HappyCorpse/SafeMT"
    assert calls[0]["repo_type"] == "dataset"
    assert calls[0]["revision"] == "abc"


@pytest.mark.parametrize("prefix", ["images/", "", "SafeMT/images/"])
def test_a_copy_in_a_subfolder_with_zipped_pictures_is_unpacked_where_it_loads(
    tmp_path: Path, element: Make, picture: Make, prefix: str
) -> None:
    archive = zipped(tmp_path / "i.zip", {f"{prefix}fraud/a.png": picture(), "__MACOSX/fraud/._a.png": b"x", "notes.txt": b"x"})
    element = element(image_path="images/fraud/a.png")
    files = {"Data/1_turn.json": json.dumps([element]).encode(), "Data/images.zip": archive.read_bytes(), ".cache/3_turn.json": b"[]"}
    folder = fetch_dataset(tmp_path / "data", own_form(), download=played_hub(files))
    assert folder == tmp_path / "data" / "Data"
    assert len(load_dataset(folder).entries) == 1
    assert [path.name for path in (folder / "images").rglob("*") if path.is_file()] == ["a.png"]
    assert unpack_pictures(folder / "images.zip", folder) == 0


def test_a_tar_archive_is_unpacked_too(tmp_path: Path, picture: Make) -> None:
    archive = tmp_path / "images.tar.gz"
    with tarfile.open(archive, "w:gz") as opened:
        info = tarfile.TarInfo("images/fraud/a.png")
        info.size = len(picture())
        opened.addfile(info, io.BytesIO(picture()))
    assert unpack_pictures(archive, tmp_path) == 1
    assert (tmp_path / "images" / "fraud" / "a.png").read_bytes() == picture()


@pytest.mark.parametrize("name", ["../../evil.png", "/tmp/evil.png", "images/../../evil.png", "a\\evil.png", "C:/evil.png"])  # noqa: S108 (a name inside an archive)
def test_a_member_that_would_land_outside_is_refused(tmp_path: Path, name: str) -> None:
    root = tmp_path / "x" / "data"
    root.mkdir(parents=True)
    with pytest.raises(UsageError, match="would be written outside the folder"):
        unpack_pictures(zipped(tmp_path / "evil.zip", {name: b"x"}), root)
    assert list(tmp_path.rglob("*evil.png")) == []


def test_links_in_archives_are_refused(tmp_path: Path) -> None:
    tar = tmp_path / "a.tar"
    with tarfile.open(tar, "w") as opened:
        link = tarfile.TarInfo("images/a.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        opened.addfile(link)
    with pytest.raises(UsageError, match=r"it holds the link 'images/a\.png'"):
        unpack_pictures(tar, tmp_path)
    packed = tmp_path / "a.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        info = zipfile.ZipInfo("images/a.png")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(UsageError, match="it holds the link"):
        unpack_pictures(packed, tmp_path)


def test_a_link_already_in_the_folder_does_not_lead_pictures_away(tmp_path: Path) -> None:
    root, away = tmp_path / "data", tmp_path / "away"
    root.mkdir()
    away.mkdir()
    (root / "images").symlink_to(away)
    with pytest.raises(UsageError, match="a link in it leads away"):
        unpack_pictures(zipped(tmp_path / "a.zip", {"images/a.png": b"x"}), root)


def test_too_large_and_damaged_archives_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = zipped(tmp_path / "a.zip", {"a.png": b"0" * 600, "b.png": b"0" * 600})
    monkeypatch.setattr(hub, "MAX_UNPACKED_BYTES", 1000)
    with pytest.raises(UsageError, match="unpacks to more than 1,000 bytes"):
        unpack_pictures(packed, tmp_path)
    (tmp_path / "broken.zip").write_bytes(packed.read_bytes()[:200])
    with pytest.raises(UsageError, match="cannot be unpacked"):
        unpack_pictures(tmp_path / "broken.zip", tmp_path)


def test_without_the_extra_the_command_to_install_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UsageError, match=r"pip install 'safemt-api\[data\]'"):
        fetch_dataset(tmp_path / "data", own_form())


def test_the_hubs_own_function_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, element: Make) -> None:
    module = types.ModuleType("huggingface_hub")
    module.snapshot_download = played_hub({"1_turn.json": b"[]"})  # type: ignore[attr-defined] # a stand-in for the real module
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    assert fetch_dataset(tmp_path / "data", own_form()) == tmp_path / "data"


class GatedRepoError(Exception):
    """Named as the hub names its own."""


class RepositoryNotFoundError(Exception):
    """Named as the hub names its own."""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConnectionError("cannot reach\nmany lines"), r"failed \(ConnectionError: cannot reach\); check the network"),
        (GatedRepoError("x"), "accept its terms"),
        (RepositoryNotFoundError("x"), "there is no data set HappyCorpse/SafeMT"),
        (OSError(28, "No space left on device", "x.png"), r"cannot be written: x\.png: No space left"),
        (ValueError(), r"failed \(ValueError\); check"),
    ],
)
def test_every_failure_is_one_sentence(tmp_path: Path, error: Exception, said: str) -> None:
    def fail(**_: Any) -> str:
        raise error

    with pytest.raises(UsageError, match=said) as caught:
        fetch_dataset(tmp_path / "data", own_form(), download=fail)
    assert "\n" not in str(caught.value)


def test_a_download_in_another_layout_and_a_target_that_is_a_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no 1_turn\.json"):
        fetch_dataset(tmp_path / "data", own_form(), download=played_hub({"README.md": b"x"}))
    with pytest.raises(UsageError, match="is a file"):
        fetch_dataset(tmp_path / "data" / "README.md", own_form(), download=played_hub({}))
