"""The numbers of a data set are counted right and printable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from safemt_api.dataset.entries import load_dataset
from safemt_api.dataset.statistics import ScenarioCount, WordCount, dataset_statistics

Make = Callable[..., Any]


def test_counts_by_scenario_length_kind_source_words_and_pictures(folder: Make, element: Make, picture: Make) -> None:
    root = folder(
        {
            1: [element("mm_1"), element("jbv_1", scenario="Fraud", image_path="images/b.jpg"), element("plain", kind="benign")],
            2: [element("mm_1", 2), element("jbv_1", 2, scenario="Fraud", image_path="images/b.jpg")],
        }
    )
    (root / "images" / "b.jpg").write_bytes(picture("PNG", size=(100, 50)))
    numbers = dataset_statistics(load_dataset(root))
    assert (numbers.dialogues, numbers.ids, numbers.complete_ids, numbers.lengths) == (5, 3, 2, (1, 2))
    assert numbers.kinds == (("harmful", 2), ("benign", 1))
    assert numbers.sources == (("(no prefix)", 1), ("JailBreakV-28K", 1), ("MM-SafetyBench", 1))
    assert numbers.scenarios == (
        ScenarioCount("Fraud", "harmful", 1, (1, 1)),
        ScenarioCount("Legal Opinion", "harmful", 1, (1, 1)),
        ScenarioCount("Legal Opinion", "benign", 1, (1, 0)),
    )
    assert numbers.words == (WordCount(1, 3, 3.0, 0.0, 3), WordCount(2, 2, 6.0, 3.0, 9))
    pictures = numbers.pictures
    assert (pictures.files, pictures.widest_pixels, pictures.tallest_pixels) == (2, 100, 50)
    assert pictures.total_bytes == sum(path.stat().st_size for path in (root / "images").iterdir())
    assert pictures.media_types == (("image/png", 2),)
    assert pictures.mismatched == ("images/b.jpg",)


def test_tables_are_rectangular_text(folder: Make, element: Make) -> None:
    for table in dataset_statistics(load_dataset(folder({1: [element("x")], 4: [element("x", 4)]}))).tables():
        assert table.title
        assert all(len(row) == len(table.columns) for row in table.rows)
        assert all(isinstance(cell, str) for row in table.rows for cell in row)


def test_methods_twins_duplicates_and_gaps_are_told(folder: Make, element: Make, picture: Make) -> None:
    said = [{"role": "user", "content": "The  SAME words"}]
    one = element("x", method="fiction", dialogue=said, source="ours", language="de", pair="y")
    twin = element("y", kind="benign", dialogue=[{"role": "user", "content": "the same words"}], image_path="images/b.png", pair="x")
    root = folder({1: [one, twin, element("z", image_path=None)], 2: [element("x", 2, method="fiction")]})
    (root / "images" / "b.png").write_bytes((root / "images" / "a.png").read_bytes())
    found = dataset_statistics(load_dataset(root))
    assert [(row.method, row.ids, row.by_length) for row in found.methods] == [("fiction", 1, (1, 1))]
    assert (found.languages, found.twins, found.without_picture, found.user_only) == ((("de", 1),), 1, 1, 0)
    assert found.duplicates == (("x", "y"),)
    assert found.pictures.duplicates == (("images/a.png", "images/b.png"),)
    assert found.pictures.sides == (("up to 256 pixels", 2),)
    assert [(gap.length, gap.ids) for gap in found.gaps] == [(2, ("y", "z"))]
    assert dict(found.sources)["ours"] == 1
    tables = {table.title: table for table in found.tables()}
    assert tables["Dialogues by method and length"].rows == (("fiction", "1", "1", "1"),)
    assert tables["Duplicates and gaps"].rows == (
        ("ids with the same words", "2", "x, y"),
        ("pictures with the same bytes", "2", "images/a.png, images/b.png"),
        ("ids without length 2", "2", "y, z"),
    )
