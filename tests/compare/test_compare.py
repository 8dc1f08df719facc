"""The whole comparison on drawn heads: what it writes, what a stop leaves, and what a broken method does."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from compared_heads import METHODS, UPSIDE_DOWN, write_comparison_yaml, write_heads
from PIL import Image
from typer.testing import CliRunner

from hgisam.cli import app
from hgisam.compare.comparison import compare
from hgisam.io.errors import InputError
from hgisam.io.nifti import read_mask, write_mask
from hgisam.pipeline import Look, Scan, SegmentationResult, Segmenter

BROKEN = {"name": "broken", "learned_from": "nothing", "weights": "none.safetensors"}


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_heads(tmp_path_factory.mktemp("heads"))


@pytest.fixture(scope="module")
def done(heads: Path, tmp_path_factory: pytest.TempPathFactory, tiny_weights: tuple[Path, str]) -> Path:
    """A folder in which everything has run once: three thresholds, a tiny network, and a broken method."""
    folder = tmp_path_factory.mktemp("compared")
    network = {"name": "tiny net", "learned_from": "nothing", "weights": str(tiny_weights[0]),
               "segment": {"gate": False, "mirrored": False}}  # fmt: skip
    config = write_comparison_yaml(folder / "a.yaml", network, BROKEN)
    words = ["compare", "--config", str(config), "--data", str(heads), "-o", str(folder / "out"), "--workers", "1"]
    ran = CliRunner().invoke(app, words)
    assert ran.exit_code == 8, ran.output
    assert "broken gave no result" in ran.output
    assert "Research use only" in ran.output
    return folder / "out"


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_working_method_has_every_case_and_the_broken_one_is_on_record(done: Path) -> None:
    found = rows(done / "cases.csv")
    names = [*(method["name"] for method in METHODS), "tiny net"]
    assert [(row["method"], row["case"]) for row in found] == [(m, f"p{n}") for m in names for n in range(6)]
    record = json.loads((done / "methods" / "broken" / "method.json").read_text())
    assert record["failure"].startswith("WeightsError: ")
    assert "none.safetensors" in record["failure"]
    assert str(done.parent) not in record["failure"]


def test_a_method_carries_its_own_peak_of_memory_and_that_of_the_look_whoever_took_it(
    tmp_path: Path, tiny_weights: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One look serves the first two, and is held while they work; the third, of another eye, looks for itself."""
    peaks = iter([900.0, 30.0, 950.0, 20.0, 40.0])

    class Scripted:
        def __init__(self, _: torch.device) -> None: ...

        def peak_mib(self) -> float:
            return next(peaks)

        def held_mib(self) -> float:
            return 5.0

    monkeypatch.setattr("hgisam.compare.runner.PeakMemory", Scripted)
    network = {"learned_from": "nothing", "weights": str(tiny_weights[0])}
    methods = [
        network | {"name": "first", "segment": {"gate": False}},
        network | {"name": "second", "segment": {"gate": False, "refine": {"method": "threshold"}}},
        network | {"name": "another eye", "segment": {"gate": False, "mirrored": False}},
    ]
    config = write_comparison_yaml(tmp_path / "a.yaml", methods=methods, reference="first")
    compare(config, tmp_path / "out", data_folder=write_heads(tmp_path / "heads", 1), workers=1)
    found = {row["method"]: row["peak_mib"] for row in rows(tmp_path / "out" / "cases.csv")}
    assert {name: float(mib) for name, mib in found.items()} == {"first": 900, "second": 955, "another eye": 45}


def test_means_by_volume_and_contrast_are_those_of_their_cases(done: Path) -> None:
    """Blood of 75 HU in brain of 35."""
    cases = [row for row in rows(done / "cases.csv") if row["method"] == "HU 15"]
    assert [row["contrast_hu"] and round(float(row["contrast_hu"])) for row in cases] == ["", 40, "", 40, 40, 40]
    strata = [row for row in rows(done / "strata.csv") if row["method"] == "HU 15"]
    dice = [float(row["dice"]) for row in cases if row["dice"]]
    (contrast,) = (row for row in strata if row["by"] == "contrast_hu")
    assert (contrast["stratum"], contrast["n"]) == ("25 HU and over", "4")
    assert float(contrast["mean"]) == pytest.approx(sum(dice) / 4, rel=1e-5)
    (large,) = (row for row in strata if row["stratum"] == "30 mL and over")
    of_large = [float(row["dice"]) for row in cases if float(row["reference_ml"]) >= 30]
    assert float(large["mean"]) == pytest.approx(sum(of_large) / len(of_large), rel=1e-5)
    (all_large,) = (row for row in strata if row["stratum"] == "all of 1 mL and over")
    assert (all_large["n"], all_large["mean"]) == (contrast["n"], contrast["mean"])
    assert {row["by"] for row in strata} == {"reference_ml", "contrast_hu"}
    report = (done / "report.md").read_text()
    assert "## What is hard" in report
    assert "25 HU and over (n = 4)" in report


def test_the_numbers_are_those_of_the_masks_that_lie_there(done: Path, heads: Path) -> None:
    for row in rows(done / "cases.csv"):
        if row["method"] != "HU 15":
            continue
        mask = read_mask(done / "methods" / "HU_15" / f"{row['case']}_mask.nii.gz")[0].voxels
        truth = read_mask(heads / "truth" / f"{row['case']}_mask.nii.gz")[0].voxels
        if truth.any():
            dice = 2 * int((mask & truth).sum()) / (int(mask.sum()) + int(truth.sum()))
            assert float(row["dice"]) == pytest.approx(dice, rel=1e-6)
        else:
            assert row["dice"] == ""
    means = {row["measure"]: row for row in rows(done / "means.csv") if row["method"] == "HU 15"}
    assert (means["dice"]["n"], means["false_positive_ml"]["n"]) == ("4", "2")
    own = {row["measure"]: row["mean"] for row in rows(done / "methods" / "HU_15" / "evaluation_means.csv")
           if row["by"] == "all"}  # fmt: skip
    assert own["dice"] == means["dice"]["mean"]


def test_probabilities_belong_to_their_slices_though_the_reference_counts_from_the_other_end(
    done: Path, heads: Path
) -> None:
    case = f"p{UPSIDE_DOWN}"
    truth = nib.as_closest_canonical(nib.load(heads / "truth" / f"{case}_mask.nii.gz")).get_fdata()
    said = json.loads((done / "methods" / "tiny_net" / f"{case}.json").read_text())["slices"]
    found = [row for row in rows(done / "methods" / "tiny_net" / "evaluation_slices.csv") if row["case"] == case]
    probabilities = {row["slice_index"]: float(row["probability_any"]) for row in found}
    assert probabilities == {str(one["slice_index"]): pytest.approx(one["probability_any"], abs=1e-4) for one in said}
    bled = {row["slice_index"] for row in found if float(row["reference_ml"]) > 0}
    assert bled == {str(index) for index in range(truth.shape[2]) if truth[:, :, index].any()} == {"6", "7", "8"}


def test_the_page_holds_the_answer_the_notice_and_every_picture(done: Path) -> None:
    page = (done / "report.html").read_text(encoding="utf-8")
    text = (done / "report.md").read_text(encoding="utf-8")
    for report in (page, text):
        assert "Three thresholds on drawn heads" in report
        assert "Research use only" in report
        assert "prove nothing" in report, "four patients bled: no test"
        assert report.index("Highest mean of Dice") < report.index("What was compared")
    pictures = sorted(path.name for path in (done / "figures").iterdir())
    assert {"boxes.png", "pairs.png", "ranks.png", "volumes.png", "case_0.png"} <= set(pictures)
    assert page.count("data:image/png;base64,") == len(pictures)
    assert all(f"figures/{name}" in text for name in pictures)
    for name in pictures:
        with Image.open(done / "figures" / name) as picture:
            assert picture.width >= 1000
    assert str(done.parent) not in page + text


def test_a_report_on_some_of_the_methods_says_so(heads: Path, tmp_path: Path) -> None:
    config = write_comparison_yaml(tmp_path / "a.yaml")
    words = ["compare", "--config", str(config), "--data", str(heads), "-o", str(tmp_path / "out"), "--workers", "1"]
    done = CliRunner().invoke(app, [*words, "--method", "HU 35"])
    assert done.exit_code == 0, done.stderr
    assert [row["method"] for row in rows(tmp_path / "out" / "cases.csv")] == ["HU, refined"] * 6 + ["HU 35"] * 6
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "2 of the YAML's 3 methods are compared here" in text
    assert "--method 'HU 35' -o OUT" in text
    wrong = CliRunner().invoke(app, [*words, "--method", "HU 36"])
    assert wrong.exit_code == 2
    assert "('HU, refined', 'HU 15', 'HU 35'); got 'HU 36'" in wrong.stderr


class Watched(Segmenter):
    """A segmenter that tells what it looked at and made a mask of, and may be stopped before the mask."""

    looked: list[str]
    asked: list[str]
    before: Callable[[int], None]

    def look(self, scan: Scan) -> Look:
        look = super().look(scan)
        type(self).looked.append(look.ct.source.removesuffix(".nii.gz"))
        return look

    def segment(self, scan: Scan | Look) -> SegmentationResult:
        assert isinstance(scan, Look), "methods share what one of them saw"
        type(self).asked.append(scan.ct.source.removesuffix(".nii.gz"))
        type(self).before(len(type(self).asked))
        return super().segment(scan)

    @classmethod
    def forget(cls) -> None:
        cls.looked, cls.asked, cls.before = [], [], lambda n: None


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> type[Watched]:
    Watched.forget()
    monkeypatch.setattr("hgisam.compare.runner.Segmenter", Watched)
    return Watched


def test_a_stopped_run_goes_on_and_what_has_changed_is_done_again(
    tmp_path: Path, watched: type[Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One look at a case is enough for all three methods, whose eye is the same."""
    heads = write_heads(tmp_path / "heads", 2)
    config = write_comparison_yaml(tmp_path / "a.yaml")

    def stopped(n: int) -> None:
        if n == 5:
            raise KeyboardInterrupt

    watched.before = stopped
    with pytest.raises(KeyboardInterrupt):
        compare(config, tmp_path / "out", data_folder=heads)
    assert not (tmp_path / "out" / "report.html").exists()
    assert watched.asked == ["p0", "p0", "p0", "p1", "p1"]
    assert watched.looked == ["p0", "p1"]

    watched.forget()
    first = compare(config, tmp_path / "out", data_folder=heads)
    assert watched.asked == ["p1", "p1"], "the method that was cut off, and the one that had not begun"
    assert watched.looked == ["p1"]
    assert first.nothing_failed

    watched.forget()
    again = compare(config, tmp_path / "out", data_folder=heads)
    assert watched.asked == watched.looked == []
    assert [[one.score for one in method.cases] for method in again.methods] == [
        [one.score for one in method.cases] for method in first.methods
    ]

    reference, other = METHODS[0]["name"], METHODS[2]["name"]
    some = compare(config, tmp_path / "out", data_folder=heads, only=[other])
    assert watched.asked == []
    assert [method.method.name for method in some.methods] == [reference, other]
    compare(config, tmp_path / "out", data_folder=heads)
    assert watched.asked == [], "what was not asked for is still there"

    truth = heads / "truth" / "p1_mask.nii.gz"
    mask, grid = read_mask(truth)
    write_mask(truth, torch.roll(mask.voxels, 2, 1), grid)
    changed = [METHODS[0], METHODS[1] | {"segment": {"weak": {"contrast_hu": 16}}}, METHODS[2]]
    methods = [{"config": "hu.yaml"} | method for method in changed]
    write_comparison_yaml(tmp_path / "a.yaml", methods=methods)
    compare(config, tmp_path / "out", data_folder=heads)
    assert watched.asked == ["p0", "p1", "p1", "p1"], "another reference everywhere, other settings in the second"

    watched.forget()
    monkeypatch.setattr("hgisam.compare.runner.code_sha256", lambda _: "of other code")
    compare(config, tmp_path / "out", data_folder=heads)
    assert watched.asked == ["p0"] * 3 + ["p1"] * 3, (
        "other code may make other masks, of whatever version it calls itself"
    )


def test_methods_side_by_side_say_what_they_say_one_after_the_other(
    tmp_path: Path, tiny_weights: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of one network share its look at a case; that one of them cannot be started is told once.

    Records by other settings, or with a score that was kept otherwise, are there already; they are made anew like those
    that are not, by half the threads each.
    """
    heads = write_heads(tmp_path / "heads", 2)
    network = {"learned_from": "nothing", "weights": str(tiny_weights[0])}
    ungated = {"gate": False, "refine": {"method": "threshold"}, "threshold": 0.3}
    config = write_comparison_yaml(
        tmp_path / "a.yaml",
        network | {"name": "attention", "segment": ungated},
        network | {"name": "classes", "segment": ungated | {"weak": {"method": "grad_cam"}}},
        network | {"name": "another eye", "segment": ungated | {"mirrored": False}},
        BROKEN,
    )
    alone = compare(config, tmp_path / "alone", data_folder=heads, device="cpu")
    for folder, outdated in (("attention", {"key": "of other settings"}), ("another_eye", {"score": {"of": "before"}})):
        known = shutil.copytree(tmp_path / "alone" / "methods" / folder, tmp_path / "beside" / "methods" / folder)
        for path in known.glob("p*.json"):
            path.write_text(json.dumps(json.loads(path.read_text()) | outdated))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    beside = compare(config, tmp_path / "beside", data_folder=heads, device="cpu", workers=2)
    assert [one.threads for method in beside.methods for one in method.cases] == [1] * 12
    assert [[one.score for one in method.cases] for method in beside.methods] == [
        [one.score for one in method.cases] for method in alone.methods
    ]
    assert [method.failure for method in beside.methods] == [method.failure for method in alone.methods]
    assert [method.settings for method in beside.methods] == [method.settings for method in alone.methods]
    for name in ("attention", "classes", "another_eye"):
        masks = [tmp_path / folder / "methods" / name / "p1_mask.nii.gz" for folder in ("alone", "beside")]
        one, two = (read_mask(mask)[0].voxels for mask in masks)
        assert torch.equal(one, two)
        assert one.any()


def test_a_case_that_fails_counts_against_the_method_and_is_tried_again(tmp_path: Path, watched: type[Watched]) -> None:
    heads = write_heads(tmp_path / "heads", 3)
    config = write_comparison_yaml(tmp_path / "a.yaml")

    def broken(n: int) -> None:
        if n in {1, 4}:  # the first method's cases: a normal scan, and one that bled
            raise RuntimeError("an index fell out of its range")

    watched.before = broken
    found = compare(config, tmp_path / "out", data_folder=heads)
    normal, bled, _ = found.methods[0].cases
    assert normal.score.failed
    assert bled.failure == "RuntimeError: an index fell out of its range"
    assert (bled.score.overlap.n_prediction, bled.score.overlap.dice) == (0, 0.0)
    assert not found.nothing_failed
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "HU, refined, p0: counted as wrong. RuntimeError" in text
    assert "HU, refined, p1: counted as an empty mask. RuntimeError" in text
    assert rows(tmp_path / "out" / "cases.csv")[0]["false_positive_ml"] == ""
    watched.forget()
    assert compare(config, tmp_path / "out", data_folder=heads).nothing_failed
    assert watched.asked == ["p0", "p1"]


def test_a_case_that_cannot_be_pictured_is_named_with_its_reason_and_costs_no_report(tmp_path: Path) -> None:
    """One scan is cut off; the reference of another has more slices than its scan: Dice is 0 in both."""
    heads = write_heads(tmp_path / "heads", 4)
    cut = heads / "p3.nii.gz"
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    truth = nib.load(heads / "truth" / "p1_mask.nii.gz")
    voxels = np.concatenate([np.asarray(truth.dataobj)] * 2, axis=2)
    nib.save(nib.Nifti1Image(voxels, truth.affine), heads / "truth" / "p1_mask.nii.gz")
    config = write_comparison_yaml(tmp_path / "a.yaml", methods=[{"config": "hu.yaml"} | one for one in METHODS[:2]])
    words = ["compare", "--config", str(config), "--data", str(heads), "-o", str(tmp_path / "out"), "--workers", "1"]
    ran = CliRunner().invoke(app, words)
    assert ran.exit_code == 8, ran.output
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "Best of HU, refined: p1, one of 4 cases. It cannot be pictured: p1: expected scan and reference" in text
    assert "worst of HU, refined: p3, one of 4 cases. It cannot be pictured: p3.nii.gz: expected" in text
    assert "## Settings" in text
    assert (tmp_path / "out" / "report.html").is_file()
    assert str(tmp_path) not in text


def test_a_file_that_hgisam_has_not_written_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "report.html").write_text("somebody's")
    with pytest.raises(InputError):
        compare(write_comparison_yaml(tmp_path / "a.yaml"), tmp_path / "out", data_folder=tmp_path)
    assert (tmp_path / "out" / "report.html").read_text() == "somebody's"
