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
    assert numbers.sources == (("(no prefix)", 1), ("jbv_", 1), ("mm_", 1))
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
