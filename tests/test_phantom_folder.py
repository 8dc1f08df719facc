"""Phantoms on disk: the truth lies on the scan's grid, the table says which slice shows what, and a folder can grow."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from hgisam.cli import app
from hgisam.io.errors import InputError
from hgisam.io.nifti import read_ct, read_mask
from hgisam.labels import Subtype, label_value
from hgisam.phantom import BleedRecord, Phantom, PhantomOptions
from hgisam.phantom_folder import write_phantoms
from hgisam.volume import CTVolume

AFFINE = torch.tensor([[0, 0, -2.0, 9], [0, -2.0, 0, 9], [5.0, 0, 0, -30], [0, 0, 0, 1]], dtype=torch.float64)


def phantom(seed: int, subtype: Subtype = Subtype.SUBDURAL) -> Phantom:
    """A block of 30 HU with one bleed in slice 2, 12 mm2 large."""
    labels = torch.zeros(4, 10, 10, dtype=torch.uint8)
    labels[2, 3, 4:7] = label_value(subtype)
    ct = CTVolume(torch.full((4, 10, 10), 30.0) + labels * 10, AFFINE, f"phantom {seed}")
    return Phantom(ct=ct, labels=labels, bleeds=(BleedRecord(subtype, 0.06, 0.06, 30.0),), seed=seed)


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "slice_labels.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_scan_truth_and_labels_agree(tmp_path: Path) -> None:
    rows = write_phantoms([phantom(7)], ["head"], tmp_path, options=PhantomOptions())
    assert rows[0]["volume_ml"] == pytest.approx(0.06)
    ct, grid = read_ct(tmp_path / "head.nii.gz")
    mask, mask_grid = read_mask(tmp_path / "truth" / "head_labels.nii.gz")
    assert torch.equal(mask.voxels, ct.hu > 30)
    np.testing.assert_allclose(grid.affine, mask_grid.affine)
    assert mask.volume_ml == pytest.approx(3 * 2 * 2 * 5 / 1000)
    values = np.asarray(nib.load(tmp_path / "truth" / "head_labels.nii.gz").dataobj)
    assert set(np.unique(values)) == {0, label_value(Subtype.SUBDURAL)}
    labels = table(tmp_path)
    assert [row["any"] for row in labels] == ["0", "0", "1", "0"]
    assert [row["subdural"] for row in labels] == ["0", "0", "1", "0"]
    assert {row["file"] for row in labels} == {"head.nii.gz"}
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["cases"][0]["seed"] == 7
    assert run["settings"]["n_slices"] == PhantomOptions().n_slices


def test_a_folder_grows_by_further_seeds_and_a_seed_made_again_replaces_itself(tmp_path: Path) -> None:
    write_phantoms([phantom(0), phantom(1)], ["a", "b"], tmp_path)
    write_phantoms([phantom(1, Subtype.EPIDURAL), phantom(2)], ["b", "c"], tmp_path)
    labels = table(tmp_path)
    assert [row["file"] for row in labels[::4]] == ["a.nii.gz", "b.nii.gz", "c.nii.gz"]
    assert [row["epidural"] for row in labels if row["file"] == "b.nii.gz"] == ["0", "0", "1", "0"]


def test_what_was_made_before_an_interruption_is_listed(tmp_path: Path) -> None:
    def interrupted() -> Iterator[Phantom]:
        yield phantom(0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_phantoms(interrupted(), ["a", "b"], tmp_path)
    assert {row["file"] for row in table(tmp_path)} == {"a.nii.gz"}
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "stopped"


def test_a_scan_that_hgisam_did_not_make_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").write_text("somebody's")
    with pytest.raises(InputError):
        write_phantoms([phantom(0)], ["a"], tmp_path)
    assert (tmp_path / "a.nii.gz").read_text() == "somebody's"


def test_the_command_names_heads_by_their_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int, int]] = []

    def generate(n: int, seed: int, _options: PhantomOptions, *, workers: int) -> Iterator[Phantom]:
        asked.append((n, seed, workers))
        return (phantom(seed + i) for i in range(n))

    monkeypatch.setattr("hgisam.phantom.generate_phantoms", generate)
    done = CliRunner().invoke(app, ["phantom", "-n", "2", "--seed", "41", "-o", str(tmp_path), "--workers", "9"])
    assert done.exit_code == 0, done.stderr
    assert asked == [(2, 41, 2)], "no more processes than heads"
    assert {path.name for path in tmp_path.glob("*.nii.gz")} == {"phantom_00041.nii.gz", "phantom_00042.nii.gz"}
    assert done.stdout.splitlines()[1].split() == ["phantom_00041", "0.060"]


def test_phantoms_that_cannot_fit_end_the_command_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(total=10**12, used=10**12 - 10**6, free=10**6))
    done = CliRunner().invoke(app, ["phantom", "-n", "9", "-o", str(tmp_path / "heads"), "--workers", "1"])
    assert done.exit_code == 5
    assert "heads: expected some 11 MB free; got 1.0 MB" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_phantoms_that_are_there_already_need_no_more_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = PhantomOptions(n_slices=4, size_px=32)
    write_phantoms([phantom(0)], ["a"], tmp_path, options=options)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(total=10**12, used=10**12, free=0))
    assert len(write_phantoms([phantom(0)], ["a"], tmp_path, options=options)) == 1
