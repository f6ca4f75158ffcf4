"""What ``--shard`` may say."""

from __future__ import annotations

import pytest

from safemt_api.errors import UsageError
from safemt_api.runs.settings import EvalSettings
from safemt_api.runs.shard import Shard, read_shard


def test_a_shard_is_read_as_it_is_written() -> None:
    assert read_shard("3/16") == Shard(3, 16)
    assert str(Shard(3, 16)) == "3/16"
    assert Shard(3, 16).folder_name == "shards/3-of-16"
    assert read_shard(None) is None


@pytest.mark.parametrize("wrong", ["", "3", "0/4", "5/4", "-1/4", "1/0", "1/4/2", "a/b", "1/99999", "١/٤", "1 /4"])
def test_what_is_no_part_is_refused(wrong: str) -> None:
    with pytest.raises(UsageError, match="give the part and how many there are, such as 3/16"):
        EvalSettings(shard=wrong)


def test_a_spot_check_has_no_shards() -> None:
    with pytest.raises(UsageError, match="--until-ci ends a run by what was found so far"):
        EvalSettings(shard="1/2", until_ci=0.05)
