"""`hgisam check`: one verdict for each scan, with the reasons that segment and classify would give."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from analytic_head import SKULL, draw_head
from dicom_writer import ct_slice, pattern, save, write_series
from head_series import head, write_head
from mask_weights import write_weights
from typer.testing import CliRunner, Result

from hgisam import Segmenter
from hgisam.brain import BrainOptions, intracranial_region
from hgisam.cases import find_cases
from hgisam.check import check_cases, document, exit_code
from hgisam.cli import app
from hgisam.exits import ExitCode
from hgisam.intake import CheckedScan, IntakeOptions, check_scan
from hgisam.io.errors import ScanRefused
from hgisam.io.nifti import write_ct
from hgisam.volume import CTVolume


@pytest.fixture
def check(tmp_path: Path) -> Callable[..., CheckedScan]:
    """Write a head with the given tags and take it in."""

    def taken_in(**tags: Any) -> CheckedScan:
        write_head(tmp_path / "head", **tags)
        return check_scan(tmp_path / "head", BrainOptions(), IntakeOptions(allow_gaps=True))

    return taken_in


def reasons(checked: CheckedScan) -> dict[str, str]:
    return {doubt.aspect.value: doubt.text for doubt in checked.doubts}


def test_a_sound_series_is_ok_and_its_facts_are_those_of_its_headers(check: Callable[..., CheckedScan]) -> None:
    checked = check(ConvolutionKernel="H31s")
    assert (checked.verdict, checked.doubts) == ("ok", ())
    facts = checked.facts()
    assert facts["series"] == {"uid": "1.2.3.1.1", "n_files": 29, "left_out": {}}
    assert facts["reading"] == {
        "shape": [29, 110, 110], "spacing_mm": [5.0, 2.0, 2.0], "tilt_deg": 0.0, "gaps_mm": [5.0, 5.0], "even": True,
        "complete": True,
    }  # fmt: skip
    assert facts["kernel"] == {"kind": "soft", "name": "H31s"}
    assert facts["thickness"] == {"nominal_mm": [5.0]}
    true_ml = float(head().inside.sum()) * 5 * 2 * 2 / 1000
    assert facts["coverage"]["intracranial_ml"] == pytest.approx(true_ml, rel=0.05)


@pytest.mark.parametrize("agent", ["NONE", "No contrast", "w/o", ""])
def test_no_contrast_in_so_many_words_is_none(check: Callable[..., CheckedScan], agent: str) -> None:
    assert check(ContrastBolusAgent=agent, RescaleType="HU").verdict == "ok"


@pytest.mark.parametrize(
    ("tags", "aspect", "said"),
    [
        ({"ConvolutionKernel": "H70h"}, "kernel", "H70h is one for bone"),
        ({"ContrastBolusAgent": "Iopamidol"}, "series", "a contrast medium is named"),
        ({"ContrastBolusAgent": "NON IONIC"}, "series", "a contrast medium is named"),
        ({"ImageType": ["DERIVED", "SECONDARY", "AXIAL", "MIP"]}, "series", "it is a projection of several slices"),
        ({"thickness_mm": 0.6}, "thickness", "0.6 mm thin"),
        ({"thickness_mm": 12.0}, "thickness", "12 mm thick"),
        ({"NumberOfSeriesRelatedInstances": 40}, "series", "states 40 images, and 29 are here"),
        ({"slices": [*range(12), *range(13, 29)]}, "reading", "missing in 1 place:"),
        ({"slices": range(6, 18)}, "coverage", "ends within the brain at its bottom and top"),
    ],
)
def test_what_is_odd_is_a_warning_under_its_own_aspect(
    check: Callable[..., CheckedScan], tags: dict[str, Any], aspect: str, said: str
) -> None:
    checked = check(**tags)
    assert checked.verdict == "warning"
    assert said in reasons(checked)[aspect]


@pytest.mark.parametrize(
    ("change", "aspect", "said"),
    [
        (
            lambda hu: hu + 25 * torch.randn(hu.shape, generator=torch.Generator().manual_seed(0)),
            "hu",
            "small or faint blood",
        ),
        (lambda hu: torch.cat([hu[::2], hu[1::2]]), "reading", "stored out of order?"),
        (lambda hu: hu.transpose(1, 2).contiguous(), "reading", "wider than long"),
    ],
)
def test_a_scan_that_every_header_calls_sound_is_doubted_for_what_it_shows(
    change: Callable[[torch.Tensor], torch.Tensor], aspect: str, said: str
) -> None:
    changed = CTVolume(change(head().ct.hu), head().ct.affine, "changed")
    checked = check_scan(changed, BrainOptions(), IntakeOptions())
    assert checked.verdict == "warning"
    assert said in reasons(checked)[aspect]


def test_the_noise_is_among_the_figures(check: Callable[..., CheckedScan]) -> None:
    assert check().facts()["hu"]["figures"]["noise_hu"] == pytest.approx(4.0, abs=0.5)


def test_an_unknown_kernel_is_no_text_for_any_output(check: Callable[..., CheckedScan]) -> None:
    assert check(ConvolutionKernel="Doe^Jane").facts()["kernel"] == {"kind": None, "name": None}


def test_one_slice_of_unknown_thickness_has_no_spacing(tmp_path: Path) -> None:
    write_head(tmp_path, slices=[14], thickness_mm=None)
    facts = check_scan(tmp_path, BrainOptions(), IntakeOptions()).facts()
    assert facts["reading"]["spacing_mm"] == [None, 2.0, 2.0]
    assert facts["coverage"]["intracranial_ml"] is None


def test_segment_says_what_check_says(tmp_path: Path, tiny_weights: tuple[Path, str]) -> None:
    write_head(tmp_path, ConvolutionKernel="H70h", slices=range(6, 29))
    segmenter = Segmenter(tiny_weights[0])
    warnings = segmenter.check(tmp_path).warnings
    assert len(warnings) == 2
    assert segmenter.classify(tmp_path).warnings == warnings
    result = segmenter.segment(tmp_path)
    assert "a volume is a lower bound" in result.volume_doubts[0].text
    assert result.volume_is_lower_bound


@pytest.mark.parametrize("kind", ["dicom", "nifti"])
def test_more_voxels_than_allowed_are_refused(tmp_path: Path, kind: str) -> None:
    write_head(tmp_path / "head")
    write_ct(tmp_path / "head.nii.gz", head().ct)
    path = tmp_path / ("head" if kind == "dicom" else "head.nii.gz")
    assert check_scan(path, BrainOptions(), IntakeOptions(max_voxels=29 * 110 * 110)).verdict == "ok"
    with pytest.raises(ScanRefused, match="expected at most 350,899 voxels"):
        check_scan(path, BrainOptions(), IntakeOptions(max_voxels=29 * 110 * 110 - 1))


# ---- the command


def hgisam(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sound head, one with an offset, and a file that is no scan, in a folder named after somebody."""
    here = tmp_path / "Doe_Jane"
    here.mkdir()
    write_ct(here / "sound.nii.gz", head().ct)
    shifted = CTVolume(head().ct.hu + 1024, head().ct.affine, "shifted")
    write_ct(here / "shifted.nii.gz", shifted)
    (here / "text.nii").write_text("no scan")
    return here


def test_a_table_for_people_has_each_reason_below_its_scan(folder: Path, tiny_weights: tuple[Path, str]) -> None:
    done = hgisam("check", folder, "--weights", tiny_weights[0])
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["case", "verdict", "slices", "spacing_mm", "thickness_mm", "kernel"]
    assert lines[1].split() == ["shifted", "refused", "-", "-", "-", "-"]
    assert lines[2].startswith("    hu: expected a soft-tissue peak")
    assert lines[3].split() == ["sound", "ok", "29", "5.000", "-", "-"]
    assert lines[4].split() == ["text", "refused", "-", "-", "-", "-"]
    assert lines[5].startswith("    reading: text.nii: expected")
    assert done.exit_code == ExitCode.SOME_FAILED
    quiet = hgisam("check", folder, "--weights", tiny_weights[0], "-q")
    assert (quiet.exit_code, quiet.stdout) == (ExitCode.SOME_FAILED, "")
    assert [line.split(": ")[:3] for line in quiet.stderr.splitlines()] == [["hgisam", "error", "refused"]] * 2, (
        "whoever asks for errors alone still hears what was refused"
    )


def test_json_for_machines_names_no_folder(folder: Path, tiny_weights: tuple[Path, str]) -> None:
    done = hgisam("check", folder, "--json", "--weights", tiny_weights[0])
    found = {case["case"]: case for case in json.loads(done.stdout)["cases"]}
    assert {name: case["verdict"] for name, case in found.items()} == {
        "shifted": "refused", "sound": "ok", "text": "refused",
    }  # fmt: skip
    assert found["sound"]["input"] == "sound.nii.gz"
    assert found["shifted"]["reasons"][0]["aspect"] == "hu"
    assert found["shifted"]["hu"]["verdict"] == "refused"
    assert "Doe" not in done.stdout
    offset = hgisam("check", folder / "shifted.nii.gz", "--hu-offset", "-1024", "--weights", tiny_weights[0])
    assert offset.exit_code == ExitCode.OK


@pytest.mark.parametrize("masks", [False, True])
def test_of_two_volumes_that_are_asked_for_each_is_checked(
    folder: Path, tmp_path: Path, tiny_weights: tuple[Path, str], masks: bool
) -> None:
    """By a classifier's settings and by those of a network that learned from masks: the sound one, and one shifted."""
    sound, shifted = (nib.load(folder / f"{name}.nii.gz") for name in ("sound", "shifted"))
    both = np.stack([sound.get_fdata(), shifted.get_fdata()], axis=-1).astype(np.int16)
    nib.Nifti1Image(both, sound.affine).to_filename(tmp_path / "both.nii.gz")
    weights = write_weights(tmp_path / "unet.safetensors", 2) if masks else tiny_weights[0]
    words = ("check", tmp_path / "both.nii.gz", "--weights", weights)
    assert [hgisam(*words, *more).exit_code for more in ((), ("--volume", "0"), ("--volume", "1"))] == [
        ExitCode.REFUSED, ExitCode.OK, ExitCode.REFUSED,
    ]  # fmt: skip


def test_a_network_that_learned_from_masks_takes_scans_in_by_its_own_settings(folder: Path, tmp_path: Path) -> None:
    weights = ("--weights", write_weights(tmp_path / "unet.safetensors", 2))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("source: a test\nsegment: {hu_offset: 7}\nsupervised: {method: unet, hu_offset: -1024}\n")
    assert hgisam("check", folder / "sound.nii.gz", *weights).exit_code == ExitCode.OK
    shifted = folder / "shifted.nii.gz"
    assert hgisam("check", shifted, *weights).exit_code == ExitCode.REFUSED
    by_recipe = hgisam("check", shifted, *weights, "--config", recipe)
    assert by_recipe.exit_code == ExitCode.OK
    assert "-1024 HU were added to every voxel" in by_recipe.stdout
    without = hgisam("check", shifted, "--config", recipe)
    assert without.exit_code == ExitCode.USAGE
    assert "expected --weights with unet" in without.stderr


def test_a_single_refusal_exits_3_and_several_series_2(tmp_path: Path, tiny_weights: tuple[Path, str]) -> None:
    write_series(tmp_path / "mr", [0.0], Modality="MR", SOPClassUID="1.2.840.10008.5.1.4.1.1.4")
    assert hgisam("check", tmp_path / "mr", "--weights", tiny_weights[0]).exit_code == ExitCode.REFUSED
    for uid in ("1.5", "1.6"):
        save(ct_slice(pattern(), SeriesInstanceUID=uid), tmp_path / "two" / f"{uid}.dcm")
    assert hgisam("check", tmp_path / "two", "--weights", tiny_weights[0]).exit_code == ExitCode.USAGE


def test_a_scan_without_brain_is_refused_by_every_command_and_leaves_no_mask(
    tmp_path: Path, tiny_weights: tuple[Path, str]
) -> None:
    """A mask of zeros would be taken for a scan without blood."""
    neck = draw_head((5.0, 2.0, 2.0), bottom_mm=-130.0, top_mm=-60.0)
    solid = neck.with_hu(intracranial_region(neck.ct), SKULL)
    write_ct(tmp_path / "neck.nii.gz", solid)
    checked = hgisam("check", tmp_path / "neck.nii.gz", "--json", "--weights", tiny_weights[0])
    assert checked.exit_code == ExitCode.REFUSED
    (reason,) = json.loads(checked.stdout)["cases"][0]["reasons"]
    assert reason["aspect"] == "coverage"
    for command in ("segment", "classify"):
        out = tmp_path / command
        done = hgisam(command, tmp_path / "neck.nii.gz", "-o", out, "--weights", tiny_weights[0])
        assert done.exit_code == ExitCode.REFUSED
        assert "refused: neck.nii.gz: expected brain inside a skull" in done.stderr
        assert {path.name for path in out.iterdir() if path.suffix != ".lock"} == {
            "neck.json", "run.json", "summary.csv",
        }  # fmt: skip
        record = json.loads((out / "neck.json").read_text())
        assert (record["status"], record["probability"], record.get("volume_ml")) == ("refused", None, None)
        assert record["plausibility"]["verdict"] == "refused"


def test_a_crash_is_a_refusal_that_says_so_and_does_not_end_the_others(tmp_path: Path) -> None:
    write_ct(tmp_path / "a.nii.gz", draw_head().ct)
    write_ct(tmp_path / "b.nii.gz", head().ct)

    class Crashing:
        def check(self, scan: Any) -> CheckedScan:
            if scan.name == "a.nii.gz":
                raise RuntimeError("an index fell out of its range")
            return check_scan(scan, BrainOptions(), IntakeOptions())

    checks = check_cases(Crashing(), find_cases([tmp_path]))
    assert [found.verdict for found in checks] == ["refused", "ok"]
    assert "unexpected RuntimeError" in document(checks)["cases"][0]["reasons"][0]["text"]
    assert exit_code(checks) == ExitCode.SOME_FAILED
