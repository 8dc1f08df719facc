"""A small edition of tools/chaos.py: a run that is killed again and again ends as if nobody had."""

import random
from pathlib import Path

import pytest


@pytest.mark.parametrize("shards", [1, 2])
def test_a_run_that_is_killed_and_resumed_ends_as_an_undisturbed_one(tmp_path: Path, tools: None, shards: int) -> None:
    from chaos import chaos

    told: list[str] = []
    found = chaos(tmp_path, 6, 3, random.Random(shards), told.append, shards=shards, case_s=0.05)
    assert found == [], told
    assert sum(line.startswith("kill") for line in told) >= 3
