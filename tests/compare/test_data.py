"""Data sets become cases: pictures get their HU and subtypes, phantoms are made once, folds are by patient."""

from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from compared_heads import write_heads
from drawn_cohort import write_drawn_cohort
from PIL import Image

from hgisam.compare.data import prepare_data
from hgisam.compare.settings import CompareOptions
from hgisam.evaluate.folders import evaluate_folders
from hgisam.io.errors import InputError
from hgisam.io.nifti import read_ct, read_labels, write_mask
from hgisam.labels import Subtype, label_value
from hgisam.phantom import BleedRecord, Phantom, PhantomOptions
from hgisam.train.layouts import read_cohort
from hgisam.train.splits import Role, make_splits
from hgisam.volume import CTVolume

METHODS = [{"name": "ours", "learned_from": "labels"}, {"name": "other", "learned_from": "labels"}]
SLICES = {
    "kind": "slices",
    "spacing_mm": [5, 0.45, 0.5],
    "patient_digits": 3,
    "colours": {"subdural": [0, 255, 0], "epidural": [255, 0, 0]},
}


def options(data: dict[str, object], **more: object) -> CompareOptions:
    values = {"title": "a test", "data": data, "reference": "ours", "methods": METHODS}
    return CompareOptions.model_validate(values | more)


def draw_slice(folder: Path, name: str, colour: tuple[int, int, int]) -> None:
    """A grey block in air, with a dark lake in it and a white edge, and a mask of one colour."""
    for place in ("images", "masks"):
        (folder / place).mkdir(exist_ok=True)
    grey = np.zeros((40, 30), dtype=np.uint8)
    grey[5:35, 5:25] = 60
    grey[15:18, 12:15] = 0
    grey[5, 5:25] = 255
    mask = np.zeros((40, 30, 3), dtype=np.uint8)
    mask[20:24, 10:12] = colour
    Image.fromarray(grey).save(folder / "images" / f"{name}.png")
    Image.fromarray(mask).save(folder / "masks" / f"{name}.png")


def test_pictures_become_scans_of_one_slice(tmp_path: Path) -> None:
    draw_slice(tmp_path, "120018", (0, 255, 0))
    draw_slice(tmp_path, "120020", (255, 0, 0))
    draw_slice(tmp_path, "130001", (0, 0, 0))
    (tmp_path / "masks" / "130001.png").unlink()
    found = prepare_data(options(SLICES | {"folder": str(tmp_path)}), tmp_path, tmp_path / "out")
    assert [(case.name, case.patient) for case in found.cases] == [("120018", "120"), ("120020", "120")]
    assert found.left_out == ("130001",)
    ct, _ = read_ct(found.cases[0].scan)
    assert ct.spacing_mm == pytest.approx((5.0, 0.45, 0.5))
    assert [float(ct.hu[0, y, x]) for y, x in ((0, 0), (10, 10), (16, 13), (5, 9))] == [-1000.0, 60.0, 0.0, 1000.0]
    labels, _ = read_labels(found.cases[0].reference)
    assert set(labels.unique().tolist()) == {0, label_value(Subtype.SUBDURAL)}
    assert bool((labels[0, 20:24, 10:12] > 0).all())
    assert int((labels > 0).sum()) == 8


def test_a_colour_that_stands_for_nothing_is_refused(tmp_path: Path) -> None:
    draw_slice(tmp_path, "120018", (9, 9, 9))
    with pytest.raises(InputError, match=r"120018: expected colours of subtypes; got \(9, 9, 9\)"):
        prepare_data(options(SLICES | {"folder": str(tmp_path)}), tmp_path, tmp_path / "out")


def test_pictures_that_would_be_one_file_are_refused_with_both_names(tmp_path: Path) -> None:
    draw_slice(tmp_path, "12 0018", (0, 255, 0))
    draw_slice(tmp_path, "12_0018", (255, 0, 0))
    with pytest.raises(InputError, match=r"got 12 0018\.png and 12_0018\.png, both 12_0018; rename one"):
        prepare_data(options(SLICES | {"folder": str(tmp_path)}), tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("suffix", "values", "tells"),
    [("_mask", (1, 3), True), ("_mask", (1, 1), False), ("", (2, 1), True), ("_labels", (1, 1), True),
     ("_labels", (1, 9), False)],
)  # fmt: skip
def test_references_tell_subtypes_where_hgisam_evaluate_says_so(
    tmp_path: Path, suffix: str, values: tuple[int, int], tells: bool
) -> None:
    predictions, references = tmp_path / "predictions", tmp_path / "truth"
    for folder in (predictions, references):
        folder.mkdir()
    affine = np.diag([-1.0, -1.0, 5.0, 1.0])
    for name, value in zip(("p0", "p1"), values, strict=True):
        voxels = np.zeros((6, 5, 4), dtype=np.uint8)
        voxels[2, 2, 1:3] = value
        nib.save(nib.Nifti1Image(voxels * 0, affine), tmp_path / f"{name}.nii.gz")
        nib.save(nib.Nifti1Image(voxels, affine), references / f"{name}{suffix}.nii.gz")
        nib.save(nib.Nifti1Image((voxels > 0).astype(np.uint8), affine), predictions / f"{name}_mask.nii.gz")
    found = prepare_data(options({"kind": "scans", "folder": str(tmp_path)}), tmp_path, tmp_path / "out")
    evaluated = evaluate_folders(predictions, references)
    assert [case.tells_subtypes for case in found.cases] == [tells, tells]
    assert [bool(scan.subtypes) for scan in evaluated.scans] == [tells, tells]


def test_scans_are_paired_by_name_and_what_has_no_reference_is_told(tmp_path: Path) -> None:
    heads = write_heads(tmp_path / "heads", 2)
    (heads / "truth" / "p0_mask.nii.gz").unlink()
    found = prepare_data(options({"kind": "scans", "folder": "heads"}), tmp_path, tmp_path / "out")
    assert [(case.name, case.reference.name) for case in found.cases] == [("p1", "p1_mask.nii.gz")]
    assert found.left_out == ("p0",)
    (heads / "truth" / "p0_mask.nii.gz").write_bytes((heads / "truth" / "p1_mask.nii.gz").read_bytes()[:200])
    assert prepare_data(options({"kind": "scans", "folder": "heads"}), tmp_path, tmp_path / "out") == found
    (heads / "truth" / "p1_mask.nii.gz").unlink()
    with pytest.raises(InputError, match="expected scans with reference masks; got none"):
        prepare_data(options({"kind": "scans", "folder": "heads"}), tmp_path, tmp_path / "out")


def test_a_case_without_its_patient_is_an_error(tmp_path: Path) -> None:
    heads = write_heads(tmp_path / "heads", 2)
    source = {"kind": "scans", "folder": "heads", "patients": "patients.csv"}
    (heads / "patients.csv").write_text("case,patient\np0,anna\np1,anna\n")
    found = prepare_data(options(source), tmp_path, tmp_path / "out")
    assert [case.patient for case in found.cases] == ["anna", "anna"]
    (heads / "patients.csv").write_text("case,patient\np0,anna\n")
    with pytest.raises(InputError, match="got none for 'p1'"):
        prepare_data(options(source), tmp_path, tmp_path / "out")


def test_folds_are_those_that_a_training_of_the_same_folder_has(tmp_path: Path) -> None:
    heads = write_drawn_cohort(tmp_path / "heads", 6)
    (heads / "truth").mkdir()
    for number in range(6):
        ct, grid = read_ct(heads / f"p{number}.nii.gz")
        write_mask(heads / "truth" / f"p{number}_mask.nii.gz", ct.hu > 70, grid)
    found = prepare_data(options({"kind": "scans", "folder": "heads"}, folds=3, seed=5), tmp_path, tmp_path / "out")
    splits = make_splits(read_cohort(heads), 3, tuning_share=0.3, seed=5)
    for fold, of_training in enumerate(splits.folds):
        judged = {case.patient for case in found.cases if case.fold == fold}
        assert judged == of_training.patients(Role.TEST)
        assert len(judged) == 2


def test_phantoms_are_made_once_and_a_stopped_making_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    affine = torch.tensor([[0, 0, -2.0, 9], [0, -2.0, 0, 9], [5.0, 0, 0, -30], [0, 0, 0, 1]], dtype=torch.float64)

    def generate(n: int, seed: int, _options: PhantomOptions, *, workers: int) -> Iterator[Phantom]:
        assert workers == 1
        for number in range(seed, seed + n):
            if number == stop_at:
                raise KeyboardInterrupt
            made.append(number)
            labels = torch.zeros(4, 10, 10, dtype=torch.uint8)
            labels[2, 3, 4:7] = 1
            ct = CTVolume(torch.full((4, 10, 10), 30.0), affine, f"phantom {number}")
            yield Phantom(ct, labels, (BleedRecord(Subtype.EPIDURAL, 0.06, 0.06, 30.0),), number)

    monkeypatch.setattr("hgisam.compare.data.generate_phantoms", generate)
    stop_at = 9
    with pytest.raises(KeyboardInterrupt):
        prepare_data(options({"kind": "phantoms", "n": 4, "first_seed": 7}), tmp_path, tmp_path)
    stop_at = -1
    for _ in range(2):
        found = prepare_data(options({"kind": "phantoms", "n": 4, "first_seed": 7}), tmp_path, tmp_path)
    assert made == [7, 8, 9, 10]
    with monkeypatch.context() as patched:
        patched.setattr("hgisam.compare.data.__version__", "0.0.9")
        prepare_data(options({"kind": "phantoms", "n": 4, "first_seed": 7}), tmp_path, tmp_path)
    assert made == [7, 8, 9, 10] * 2, "another version may draw other heads"
    assert [case.name for case in found.cases] == [f"phantom_{seed:05d}" for seed in range(7, 11)]
    assert all(case.tells_subtypes and case.scan.is_file() for case in found.cases)
