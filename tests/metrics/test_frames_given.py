"""Scores from frames as users have them: pandas, and a run's own file."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from safemt_api.errors import UsageError
from safemt_api.evaluation import evaluate
from safemt_api.frames import VERDICT_SCHEMA
from safemt_api.metrics.asr import asr_by_turn
from safemt_api.metrics.safety_index import safety_index

pandas: Any = import_module("pandas")  # untyped; a frame of it is what the tests are about

OWN: dict[str, list[Any]] = {
    "dialogue_id": ["a", "a", "b", "b", "c", "c"],
    "length": [1, 2, 1, 2, 1, 2],
    "verdict": ["safe", "unsafe", "unsafe", "safe", None, "safe"],
}


@pytest.mark.parametrize("missing", [None, float("nan"), pandas.NA], ids=["None", "NaN", "NA"])
@pytest.mark.parametrize("dtype", [object, "string", "category"])
def test_a_pandas_frame_scores_as_its_polars_twin(dtype: Any, missing: object) -> None:
    verdicts = [missing if one is None else one for one in OWN["verdict"]]
    frame = pandas.DataFrame({**OWN, "verdict": pandas.Series(verdicts, dtype=dtype)})
    assert_frame_equal(asr_by_turn(frame), asr_by_turn(pl.DataFrame(OWN)))
    assert safety_index(frame) == safety_index(pl.DataFrame(OWN))


@pytest.mark.parametrize("protocol", ["scripted", "live"])
async def test_a_runs_file_scores_as_its_summary(protocol: Any, tmp_path: Path) -> None:
    judges = ("rules", "simulator:sim-judge", "simulator:sim-judge-noisy")
    result = await evaluate(
        protocol=protocol, kinds=("harmful", "benign"), sample=6, lengths=(1, 4), judges=judges, model="sim-brittle", results=tmp_path
    )
    table = pl.read_parquet(result.folder / "verdicts.parquet")
    assert table["kind"].n_unique() == 2
    assert not table["counts"].all()
    for frame in (table, pandas.DataFrame(table.to_dict(as_series=False))):
        told = [(row["turn"], row["unsafe"], row["safe"], row["missing"], row["asr"]) for row in result.summary.json_value()["asr_by_turn"]]
        found = asr_by_turn(frame)
        position = "turn" if protocol == "live" else "length"
        assert found.select(position, "unsafe", "safe", "missing", "asr").rows() == [pytest.approx(row) for row in told]
        assert safety_index(frame) == pytest.approx(result.summary.json_value()["safety_index"]["value"])


def test_a_run_of_benign_dialogues_alone_has_no_score() -> None:
    row = {"dialogue_id": "a", "kind": "benign", "length": 1, "turn": 1, "counts": True, "label": "safe"}
    with pytest.raises(UsageError, match="none that counts on a harmful dialogue"):
        asr_by_turn(pl.DataFrame([row], schema=VERDICT_SCHEMA))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"a": 1}, "not as dict"),
        ([1, 2], "not as list"),
        (None, "not as NoneType"),
        (pl.LazyFrame(OWN), "give its .collect()"),
    ],
    ids=["dict", "list", "None", "lazy"],
)
def test_what_is_no_frame_is_one_sentence(given: Any, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        safety_index(given)
