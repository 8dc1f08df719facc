"""Checkpoints are whole or not there, and the last two are kept."""

import resource
from pathlib import Path

import pytest
import torch

from hgisam.io.errors import OutputError
from hgisam.train.checkpoints import latest_checkpoint, save_checkpoint


def test_the_latest_comes_back_with_its_facts(tmp_path: Path) -> None:
    for step in (5, 10):
        save_checkpoint(tmp_path, step, {"step": 3, "auc": 0.5}, {"a": torch.full((2,), float(step))})
    found = latest_checkpoint(tmp_path)
    assert found is not None
    assert (found.step, found.facts) == (10, {"step": 3, "auc": 0.5})
    assert found.tensors["a"].tolist() == [10.0, 10.0]


def test_two_are_kept(tmp_path: Path) -> None:
    for step in (9, 10, 100, 11):
        save_checkpoint(tmp_path, step, {}, {"a": torch.zeros(1)})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step_00000011.safetensors",
        "step_00000100.safetensors",
    ]


def test_a_damaged_one_is_passed_over_for_the_one_before(tmp_path: Path) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path, step, {}, {"a": torch.zeros(4)})
    last = tmp_path / "step_00000002.safetensors"
    last.write_bytes(last.read_bytes()[:-5])
    found = latest_checkpoint(tmp_path)
    assert found is not None
    assert found.step == 1


@pytest.mark.parametrize("fits", [0, 1000])
def test_a_disk_that_fills_up_costs_no_checkpoint_that_was_there(tmp_path: Path, fits: int) -> None:
    """The third checkpoint would push out the first, were it whole."""
    for step in (1, 2):
        save_checkpoint(tmp_path, step, {}, {"a": torch.full((2000,), float(step))})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (fits, hard))
    try:
        with pytest.raises(OutputError, match="step_00000003"):
            save_checkpoint(tmp_path, 3, {}, {"a": torch.full((2000,), 3.0)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    found = latest_checkpoint(tmp_path)
    assert found is not None
    assert found.step == 2
    assert found.tensors["a"].tolist() == [2.0] * 2000


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_earlier_checkpoint_of_the_same_step_stays_until_the_new_one_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    """A run that goes on from step 1 writes step 2 a second time, and is stopped before it is on disk."""
    for step in (1, 2):
        save_checkpoint(tmp_path, step, {"was": "first"}, {"a": torch.zeros(4)})

    def stopped(_: int) -> None:
        raise error

    monkeypatch.setattr("os.fsync", stopped)
    with pytest.raises(error):
        save_checkpoint(tmp_path, 2, {"was": "second"}, {"a": torch.ones(4)})
    monkeypatch.undo()
    assert len(list(tmp_path.iterdir())) == 2
    found = latest_checkpoint(tmp_path)
    assert found is not None
    assert (found.step, found.facts) == (2, {"was": "first"})


def test_what_a_killed_process_left_half_written_counts_for_nothing_and_goes(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, {}, {"a": torch.zeros(4)})
    half = (tmp_path / "step_00000001.safetensors").read_bytes()[:-5]
    (tmp_path / ".hgisam-0123456789abcdef.part").write_bytes(half)
    found = latest_checkpoint(tmp_path)
    assert found is not None
    assert found.step == 1
    save_checkpoint(tmp_path, 2, {}, {"a": torch.zeros(4)})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step_00000001.safetensors",
        "step_00000002.safetensors",
    ]


def test_without_any_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "other.safetensors").write_bytes(b"")
    assert latest_checkpoint(tmp_path) is None
    assert latest_checkpoint(tmp_path / "absent") is None
