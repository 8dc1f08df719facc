"""Checkpoints are whole or not there, and the last two are kept."""

from pathlib import Path

import torch

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


def test_without_any_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "other.safetensors").write_bytes(b"")
    assert latest_checkpoint(tmp_path) is None
    assert latest_checkpoint(tmp_path / "absent") is None
