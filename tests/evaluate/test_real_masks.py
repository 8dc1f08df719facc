"""The whole evaluation on real slices with masks by readers, of a HU threshold inside the skull."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from analytic_head import house_affine
from PIL import Image
from scipy import ndimage

from hgisam.brain import intracranial_region
from hgisam.evaluate.folders import EvaluationReport, evaluate_folders
from hgisam.evaluate.report import write_report
from hgisam.evaluate.surface import surface_distances
from hgisam.io.nifti import new_grid_for, read_labels, read_mask, write_labels, write_mask
from hgisam.labels import SUBTYPES
from hgisam.volume import CTVolume

SPACING_MM = (5.0, 0.45, 0.45)
"""Nominal: the pictures state none."""
COLOURS = ((255, 0, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255), (0, 255, 0))
"""Of SUBTYPES, in order."""
BLOOD_HU = (50.0, 100.0)


@pytest.fixture(scope="module")
def folders(realdata: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Predictions and references as NIfTI, a scan of one slice each."""
    made = tmp_path_factory.mktemp("bhsd")
    for path in sorted((realdata / "bhsd" / "masks").glob("*.png")):
        grey = np.asarray(Image.open(realdata / "bhsd" / "images" / path.name).convert("L"), dtype=np.float32)
        air, _ = ndimage.label(grey <= 2)
        hu = torch.from_numpy(np.where(air == np.bincount(air[air > 0]).argmax(), -1000.0, grey)).float()
        ct = CTVolume(hu[None], house_affine(SPACING_MM), path.stem)
        smooth = torch.from_numpy(ndimage.median_filter(hu.numpy(), size=5))[None]
        mask = intracranial_region(ct) & (smooth >= BLOOD_HU[0]) & (smooth < BLOOD_HU[1])
        picture = np.asarray(Image.open(path))
        labels = torch.zeros(1, *hu.shape, dtype=torch.uint8)
        for value, colour in enumerate(COLOURS, start=1):
            labels[0][torch.from_numpy((picture == colour).all(axis=-1))] = value
        for folder in ("p", "r"):
            (made / folder).mkdir(exist_ok=True)
        write_mask(made / "p" / f"{path.stem}_mask.nii.gz", mask, new_grid_for(ct))
        write_labels(made / "r" / f"{path.stem}_labels.nii.gz", labels, new_grid_for(ct, "RAS"))
    return made / "p", made / "r"


@pytest.fixture(scope="module")
def report(folders: tuple[Path, Path]) -> EvaluationReport:
    """All slices scored; the first three digits of a name are the volume, and so the patient."""
    cases = [path.name.removesuffix("_mask.nii.gz") for path in folders[0].iterdir()]
    return evaluate_folders(*folders, patients={case: case[:3] for case in cases})


def test_every_real_slice_is_scored(report: EvaluationReport, realdata: Path) -> None:
    assert report.complete
    assert (report.summary.n, report.summary.n_positive, report.summary.n_patients) == (29, 29, 20)
    for scan in report.scans:
        outlined = np.asarray(Image.open(realdata / "bhsd" / "masks" / f"{scan.case}.png")).reshape(-1, 3)
        colours = {tuple(map(int, colour)) for colour in np.unique(outlined, axis=0)}
        assert [found.subtype for found in scan.subtypes] == [
            s for s, colour in zip(SUBTYPES, COLOURS, strict=True) if colour in colours
        ]
        n_outlined = int(outlined.any(axis=1).sum())
        assert scan.overlap.n_reference == n_outlined == sum(s.overlap.n_reference for s in scan.subtypes)
        assert scan.overlap.reference_ml == pytest.approx(n_outlined * 5.0 * 0.45 * 0.45 / 1000)


def test_a_threshold_does_as_a_threshold_does(report: EvaluationReport) -> None:
    """It finds much of the blood and much else: more on large bleeds, and nothing like a segmentation."""
    means = report.summary.means
    assert means["dice"].mean is not None and 0.15 < means["dice"].mean < 0.5
    assert means["dice"].low is not None and means["dice"].high is not None
    assert 0.05 < means["dice"].high - means["dice"].low < 0.35
    assert means["sensitivity"].mean is not None and means["precision"].mean is not None
    assert means["sensitivity"].mean > means["precision"].mean
    by_size = [s.means["dice"].mean for s in report.summary.strata if s.by == "reference_ml"]
    assert by_size == sorted(by_size, key=lambda mean: mean or 0.0)
    hd95 = means["hd95_mm"].mean
    assert hd95 is not None and 10 < hd95 < 100  # a head is some 180 mm long
    one_mm, two_mm = means["nsd_1mm"].mean, means["nsd_2mm"].mean
    assert one_mm is not None and two_mm is not None and one_mm < two_mm < 0.6


def test_monai_agrees_on_real_outlines(folders: tuple[Path, Path]) -> None:
    from monai.metrics import compute_surface_dice

    spacing_mm = SPACING_MM[1:]
    axes_mm = torch.eye(3, 2, dtype=torch.float64) * torch.tensor(spacing_mm)
    for path in sorted(folders[0].iterdir()):
        prediction = read_mask(path)[0].voxels[0]
        reference = read_labels(folders[1] / path.name.replace("_mask", "_labels"))[0][0] > 0
        found = surface_distances(prediction, reference, axes_mm)
        assert found is not None
        for tolerance_mm in (1.01, 2.01):  # no distance on this grid lies between these and 1 and 2
            theirs = compute_surface_dice(
                prediction[None, None], reference[None, None], [tolerance_mm], include_background=True,
                spacing=spacing_mm, use_subvoxels=True,
            )  # fmt: skip
            assert found.agreement(tolerance_mm) == pytest.approx(theirs.item(), abs=1e-5)


def test_the_tables_of_real_slices(report: EvaluationReport, tmp_path: Path) -> None:
    write_report(report, tmp_path)
    with (tmp_path / "evaluation_subtypes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(len(scan.subtypes) for scan in report.scans) == 52
    assert all(0 <= float(row["sensitivity"]) <= 1 and float(row["reference_ml"]) > 0 for row in rows)
