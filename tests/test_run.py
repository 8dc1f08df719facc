"""Many scans into one folder: what is written, what becomes of bad cases, and how a run ends."""

import csv
import gzip
import json
import logging
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import highdicom
import nibabel as nib
import numpy as np
import pydicom
import pytest
from dicom_writer import pattern, write_series
from fake_model import AFFINE, MASKED, VOXEL_ML, FakeModel

from hgisam import run
from hgisam.brain import VolumeDoubt
from hgisam.cases import Case, find_cases
from hgisam.casework import CLASSIFY_SUFFIXES, SEGMENT_SUFFIXES, CaseWork
from hgisam.exits import ExitCode
from hgisam.intake import Aspect, Doubt
from hgisam.io.dicom import read_dicom
from hgisam.io.errors import InputError, OutputError
from hgisam.pipeline import SegmentationResult
from hgisam.plausibility import Plausibility
from hgisam.records import recorded_path, recorded_reason
from hgisam.run import RunOptions, classify_cases, segment_cases
from hgisam.volume import MaskVolume

Scans = Callable[..., tuple[Case, ...]]


def record(folder: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    return content


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_segment_writes_mask_preview_and_record_on_the_input_s_grid(tmp_path: Path, scans: Scans) -> None:
    out = tmp_path / "out"
    report = segment_cases(FakeModel(), scans(a=""), out)
    assert report.exit_code == ExitCode.OK
    assert files(out) == {"a_mask.nii.gz", "a_preview.png", "a.json", "summary.csv", "run.json"}
    image = nib.load(out / "a_mask.nii.gz")
    mask = np.asarray(image.dataobj)
    assert mask.dtype == np.uint8
    assert np.argwhere(mask).tolist() == [list(index) for index in MASKED]
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-5)
    found = record(out, "a")
    assert found["status"] == "ok"
    assert found["probability"] == 0.9
    assert found["volume_ml"] == pytest.approx(3 * VOXEL_ML)
    assert found["volume_reason"] is None
    assert (found["n_voxels"], found["n_slices"], found["n_slices_in_mask"], found["n_slices_positive"]) == (3, 6, 2, 2)
    assert found["slice_axis"] == 1
    assert [row["n_voxels"] for row in found["slices"]] == [0, 2, 0, 0, 0, 1]
    assert [row["mapped"] for row in found["slices"]] == [False, True, False, False, False, True]
    assert [row["slice_index"] for row in found["slices"]] == list(range(6))
    assert found["slices"][2]["position_mm"] == pytest.approx(11 + 2 * 1.3)
    assert found["plausibility"]["verdict"] == "ok"
    assert found["warnings"] == ["the qform was left out"]
    assert found["weights_sha256"] == "ab" * 32
    assert len(found["settings_hash"]) == 64
    assert len(found["input_sha256"]) == 64
    assert "write" in found["timings_s"]


def test_the_saliency_map_is_written_only_where_asked_for(tmp_path: Path, scans: Scans) -> None:
    out = tmp_path / "out"
    segment_cases(FakeModel(), scans(a=""), out, save_map=True)
    saliency = np.asarray(nib.load(out / "a_map.nii.gz").dataobj)
    assert saliency[MASKED[0]] == 0.75
    assert saliency.max() <= 1
    segment_cases(FakeModel(), scans(a=""), out)
    assert "a_map.nii.gz" not in files(out), "a map of an earlier run must not outlive it"


def test_classify_writes_a_row_per_slice_with_the_subtypes_that_the_weights_know(tmp_path: Path, scans: Scans) -> None:
    out = tmp_path / "out"
    report = classify_cases(FakeModel(), scans(a=""), out)
    assert report.exit_code == ExitCode.OK
    assert files(out) == {"a_slices.csv", "a.json", "summary.csv", "run.json"}
    rows = table(out / "a_slices.csv")
    assert list(rows[0]) == ["slice_index", "position_mm", "probability_any", "probability_subdural"]
    assert [float(row["probability_any"]) for row in rows] == pytest.approx([0.1, 0.9, 0.2, 0.0, 0.4, 0.7])
    assert float(rows[5]["probability_subdural"]) == pytest.approx(0.5)
    assert "volume_ml" not in record(out, "a")


def test_a_volume_that_was_not_measured_is_null_with_a_reason(tmp_path: Path, scans: Scans) -> None:
    out = tmp_path / "out"
    segment_cases(FakeModel(), scans(a="unmeasured"), out)
    found = record(out, "a")
    assert found["volume_ml"] is None
    assert found["volume_reason"] == "its thickness is not stated"
    assert table(out / "summary.csv")[0]["volume_ml"] == ""


def test_a_refused_case_is_listed_and_the_others_are_done(
    tmp_path: Path, scans: Scans, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    report = segment_cases(FakeModel(), scans(a="", b="refuse", c="crash", d=""), out)
    assert report.exit_code == ExitCode.SOME_FAILED
    assert [row["status"] for row in report.rows] == ["ok", "refused", "failed", "ok"]
    assert {"a_mask.nii.gz", "d_mask.nii.gz"} <= files(out)
    assert {"b_mask.nii.gz", "b_preview.png", "c_mask.nii.gz"}.isdisjoint(files(out))
    refused = record(out, "b")
    assert refused["status"] == "refused"
    assert refused["reason"].endswith("expected a head CT; got plain text; convert it again")
    assert refused["volume_ml"] is None
    assert refused["volume_reason"] == refused["reason"]
    assert record(out, "c")["reason"] == "RuntimeError: an index fell out of its range"
    rows = {row["case"]: row for row in table(out / "summary.csv")}
    assert rows["b"]["status"] == "refused"
    assert rows["b"]["probability"] == rows["b"]["volume_ml"] == ""
    assert json.loads((out / "run.json").read_text())["status"] == "done"
    errors = [entry.getMessage() for entry in caplog.records if entry.levelno == logging.ERROR]
    assert len(errors) == 2


@pytest.mark.parametrize(
    ("text", "code"), [("", ExitCode.OK), ("refuse", ExitCode.REFUSED), ("crash", ExitCode.UNEXPECTED)]
)
def test_a_single_case_tells_by_the_exit_status_what_it_was(
    tmp_path: Path, scans: Scans, text: str, code: ExitCode
) -> None:
    assert segment_cases(FakeModel(), scans(a=text), tmp_path / "out").exit_code == code
    assert classify_cases(FakeModel(), scans(a=text), tmp_path / "other").exit_code == code


def test_a_refusal_takes_away_the_mask_of_an_earlier_run(tmp_path: Path, scans: Scans) -> None:
    out = tmp_path / "out"
    segment_cases(FakeModel(), scans(a=""), out, save_map=True)
    segment_cases(FakeModel(), scans(a="refuse"), out)
    assert files(out) == {"a.json", "summary.csv", "run.json"}


def test_where_writing_one_case_fails_it_leaves_no_half(
    tmp_path: Path, scans: Scans, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("no figure for this shape")

    monkeypatch.setattr("hgisam.run.write_preview", broken)
    report = segment_cases(FakeModel(), scans(a=""), tmp_path / "out")
    assert report.exit_code == ExitCode.UNEXPECTED
    assert "a_mask.nii.gz" not in files(tmp_path / "out")
    assert record(tmp_path / "out", "a")["status"] == "failed"


def test_a_full_disk_stops_the_run_and_says_what_was_not_done(
    tmp_path: Path, scans: Scans, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, *_: object) -> None:
        raise OutputError(f"{path}: expected to write the file; got no space left on device; free some space")

    cases = scans(a="", b="")
    model = FakeModel()
    monkeypatch.setattr("hgisam.run.write_mask", full)
    report = segment_cases(model, cases, tmp_path / "out")
    assert report.exit_code == ExitCode.OUTPUT
    assert model.asked == ["a.nii.gz"]
    assert files(tmp_path / "out") == {"summary.csv", "run.json"}
    assert [row["status"] for row in report.rows] == ["not run", "not run"]
    assert json.loads((tmp_path / "out" / "run.json").read_text())["status"] == "stopped"


@pytest.mark.parametrize("run_cases", [segment_cases, classify_cases])
def test_a_disk_without_room_for_the_records_is_refused_before_the_first_case(
    tmp_path: Path, scans: Scans, monkeypatch: pytest.MonkeyPatch, run_cases: Callable[..., run.RunReport]
) -> None:
    cases, out = scans(a="", b="", c=""), tmp_path / "new" / "out"
    model = FakeModel()
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(total=10**12, used=10**12 - 5_999, free=5_999))
    with pytest.raises(OutputError, match=r"out: expected some .* free; got 6\.0 kB"):
        run_cases(model, cases, out)
    assert model.asked == []
    assert not out.parent.exists()


def test_a_disk_that_may_be_short_is_warned_of_and_what_is_there_needs_no_room(
    tmp_path: Path, scans: Scans, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cases = scans(a="", b="", c="")
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(total=10**12, used=10**12 - 6_000, free=6_000))
    assert segment_cases(FakeModel(), cases, tmp_path / "out").exit_code == ExitCode.OK
    assert "expected some 3.0 MB free; got 6.0 kB" in caplog.text
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(total=10**12, used=10**12, free=0))
    assert segment_cases(FakeModel(), cases, tmp_path / "out").exit_code == ExitCode.OK


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_cancelling_keeps_what_is_done_and_lists_what_is_not(
    tmp_path: Path, scans: Scans, number: signal.Signals
) -> None:
    def cancel(scan: Path) -> None:
        if scan.name == "b.nii.gz":
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    out = tmp_path / "out"
    report = segment_cases(FakeModel(cancel), scans(a="", b="", c=""), out)
    assert report.exit_code == ExitCode.CANCELLED == 130
    assert record(out, "a")["status"] == "ok"
    assert {"b_mask.nii.gz", "b.json", "c.json"}.isdisjoint(files(out))
    assert [row["status"] for row in table(out / "summary.csv")] == ["ok", "not run", "not run"]
    assert json.loads((out / "run.json").read_text())["status"] == "cancelled"
    assert signal.getsignal(number) == before


def test_a_signal_during_a_write_waits_until_the_record_is_there(
    tmp_path: Path, scans: Scans, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(path: Path, *_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        path.touch()

    monkeypatch.setattr("hgisam.run.write_preview", interrupted)
    report = segment_cases(FakeModel(), scans(a="", b=""), tmp_path / "out")
    assert report.exit_code == ExitCode.CANCELLED
    assert record(tmp_path / "out", "a")["status"] == "ok"
    assert [row["status"] for row in report.rows] == ["ok", "not run"]


def test_run_json_tells_how_to_make_it_again(tmp_path: Path, scans: Scans) -> None:
    segment_cases(FakeModel(), scans(a="", b="refuse"), tmp_path / "out")
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["command"] == "segment"
    assert run["settings"]["threshold"] == 0.3
    assert run["inputs"] == ["a.nii.gz", "b.nii.gz"]
    assert set(run["versions"]) == {"hgisam", "python", "torch"}
    assert run["weights_sha256"] == "ab" * 32
    assert [(case["case"], case["status"]) for case in run["cases"]] == [("a", "ok"), ("b", "refused")]
    assert run["cases"][0]["seconds"] >= 0.75


def test_a_second_run_into_a_folder_leaves_what_is_said_of_the_first_true(
    tmp_path: Path, scans: Scans, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    first, second = FakeModel(), FakeModel()
    first.settings = first.settings | {"hu_offset": 24.0}
    segment_cases(first, scans(a="", b="refuse", c=""), out)
    classify_cases(second, scans(x=""), out)
    (out / "c.json").write_text((out / "c.json").read_text().replace('"probability": 0.9', '"probability": 0.8'))
    segment_cases(second, scans(d="", a=""), out)
    rows = table(out / "summary.csv")
    assert [(row["case"], row["status"]) for row in rows] == [("d", "ok"), ("a", "ok"), ("b", "refused")]
    assert "c.json was changed since hgisam wrote it: left out of summary.csv" in caplog.text
    assert [record(out, name)["settings"].get("hu_offset") for name in "abd"] == [None, 24.0, None]
    assert json.loads((out / "run.json").read_text())["planned"] == ["d", "a"]


def test_no_output_names_the_machine_or_its_user(tmp_path: Path, scans: Scans) -> None:
    out = tmp_path / "out"
    segment_cases(FakeModel(), scans(a="", b="refuse"), out)
    for path in [*out.glob("*.json"), *out.glob("*.csv")]:
        assert str(tmp_path) not in path.read_text(), path.name


def test_a_folder_that_is_named_after_somebody_is_not_recorded() -> None:
    assert recorded_path(Path("Doe_Jane_1950/a.nii.gz")) == "a.nii.gz"
    assert recorded_path(Path("/home/jane/a.nii.gz")) == "a.nii.gz"
    assert recorded_path(Path()) == Path.cwd().name
    for source in ("in/Doe_Jane/7.dcm", "in/export.zip:Doe_Jane/7.dcm"):
        reason = recorded_reason(f"{source}: expected readable pixels; got none", Path(source).parents[1])
        assert reason == "7.dcm: expected readable pixels; got none"
    assert recorded_reason("a: expected 5.00 mm; got 10.00 mm", Path()) == "a: expected 5.00 mm; got 10.00 mm"


def test_what_the_other_command_made_of_another_scan_goes(tmp_path: Path, scans: Scans) -> None:
    out = tmp_path / "out"
    segment_cases(FakeModel(), scans(a=""), out)
    classify_cases(FakeModel(), scans(a=""), out)
    assert "a_mask.nii.gz" in files(out)
    classify_cases(FakeModel(), scans(a="refuse"), out)
    assert "a_mask.nii.gz" not in files(out)


@pytest.mark.skipif(os.name != "posix", reason="file names are text there")
def test_a_file_name_that_is_no_text_is_a_case_like_any_other(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.nii.gz")
    path.write_text("refuse")
    report = segment_cases(FakeModel(), find_cases([path]), tmp_path / "out")
    assert report.exit_code == ExitCode.REFUSED
    assert record(tmp_path / "out", "caf_")["input"].endswith(r"caf\udce9.nii.gz")


def test_an_output_folder_with_somebody_s_file_in_the_way_is_refused_untouched(tmp_path: Path, scans: Scans) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "a_mask.nii.gz").write_text("drawn by hand")
    model = FakeModel()
    with pytest.raises(InputError):
        segment_cases(model, scans(a=""), out)
    assert model.asked == []
    assert files(out) == {"a_mask.nii.gz"}


@pytest.mark.parametrize("resume", [False, True])
def test_a_mask_that_somebody_has_corrected_is_kept(
    tmp_path: Path, scans: Scans, caplog: pytest.LogCaptureFixture, resume: bool
) -> None:
    """Twice, under two names; and one that is damaged is made anew, as if it were not there."""
    out, options = tmp_path / "out", RunOptions(resume=resume)
    segment_cases(FakeModel(), scans(a=""), out)
    path = out / "a_mask.nii.gz"
    made = path.read_bytes()
    corrected = []
    for value in (0, 1):
        voxels = np.full(nib.load(path).shape, value, dtype=np.uint8)
        nib.save(nib.Nifti1Image(voxels, nib.load(path).affine), path)
        corrected.append(path.read_bytes())
        segment_cases(FakeModel(), scans(a=""), out, options=options)
        assert path.read_bytes() == made
    path.write_bytes(made[: len(made) // 2])
    segment_cases(FakeModel(), scans(a=""), out, options=options)
    kept = sorted(out.glob("*.changed*"))
    assert [file.name for file in kept] == ["a_mask.nii.gz.changed", "a_mask.nii.gz.changed1"]
    assert [file.read_bytes() for file in kept] == corrected
    assert caplog.text.count("was changed since hgisam wrote it: kept as a_mask.nii.gz.changed") == 2


def corrected(path: Path, value: float = 1) -> bytes:
    """A mask as somebody's hands have left it."""
    image = nib.load(path)
    kind = np.uint8 if value == int(value) else np.float32
    nib.save(nib.Nifti1Image(np.full(image.shape, value, dtype=kind), image.affine), path)
    return path.read_bytes()


@pytest.mark.parametrize("how", ["two forms at odds", "two axes", "four axes"])
def test_a_corrected_mask_is_kept_whatever_a_reader_would_ask_about_it(tmp_path: Path, scans: Scans, how: str) -> None:
    out = tmp_path / "out"
    segment_cases(FakeModel(), scans(a=""), out)
    path = out / "a_mask.nii.gz"
    array = np.asarray(nib.load(path).dataobj)
    by_hand = nib.Nifti1Image(
        {"two axes": array[:, :, 0], "four axes": array[..., None].repeat(2, -1)}.get(how, array), np.eye(4)
    )
    if how == "two forms at odds":
        by_hand.set_sform(np.eye(4), code=1)
        by_hand.set_qform(np.diag([-1.0, -1.0, 1.0, 1.0]), code=1)
    by_hand.to_filename(path)
    saved = path.read_bytes()
    segment_cases(FakeModel(), scans(a=""), out)
    assert (out / "a_mask.nii.gz.changed").read_bytes() == saved


def test_a_corrected_mask_outlives_whatever_comes_after_it(tmp_path: Path, scans: Scans) -> None:
    """Classify need not touch it; segment then finds that it is not its own; so does one that runs out of time."""
    out = tmp_path / "out"
    path, kept = out / "a_mask.nii.gz", out / "a_mask.nii.gz.changed"
    segment_cases(FakeModel(), scans(a=""), out)
    classify_cases(FakeModel(), scans(a=""), out)
    assert set(record(out, "a")["outputs"]) == {"a_mask.nii.gz", "a_preview.png", "a_slices.csv"}
    by_hand = corrected(path)
    classify_cases(FakeModel(), scans(a=""), out)
    assert (path.read_bytes(), kept.exists()) == (by_hand, False)
    segment_cases(FakeModel(), scans(a=""), out)
    assert (kept.read_bytes(), path.read_bytes() == by_hand) == (by_hand, False)
    as_shares = corrected(path, 0.5)
    segment_cases(FakeModel(), scans(a="crash"), out)
    assert (out / "a_mask.nii.gz.changed1").read_bytes() == as_shares
    assert not path.exists()


def test_a_dicom_seg_that_somebody_has_corrected_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whether the next run writes one or not; one that nobody has touched goes without a word."""
    pixels = [pattern(i, (64, 64)) for i in range(3)]
    write_series(tmp_path / "in" / "a", [0.0, 5.0, 10.0], pixels=pixels, FrameOfReferenceUID="1.9")
    out, cases = tmp_path / "out", find_cases([tmp_path / "in" / "a"])
    path = out / "a_seg.dcm"
    by_hand = []
    for asked in (True, False):
        segment_cases(DicomModel(), cases, out, dicom_seg=True)
        dataset = pydicom.dcmread(path)
        dataset.SeriesDescription = f"corrected {asked}"
        dataset.save_as(path)
        by_hand.append(path.read_bytes())
        segment_cases(DicomModel(), cases, out, dicom_seg=asked)
        assert path.exists() is asked
    assert [(out / f"a_seg.dcm.changed{n}").read_bytes() for n in ("", 1)] == by_hand
    assert caplog.text.count("a_seg.dcm was changed since hgisam wrote it: kept as a_seg.dcm.changed") == 2
    segment_cases(DicomModel(), cases, out, dicom_seg=True)
    assert len(list(out.glob("*.changed*"))) == 2


def test_what_runs_out_of_time_takes_away_its_own_outputs_alone(tmp_path: Path, scans: Scans) -> None:
    out, cases = tmp_path / "out", scans(a="")
    segment_cases(FakeModel(), cases, out)
    mask = (out / "a_mask.nii.gz").read_bytes()
    work = CaseWork("classify", FakeModel(), out, CLASSIFY_SUFFIXES, lambda *_: ({}, lambda: None), {}, False, "halve")
    assert work.failed(cases[0], TimeoutError("late"))["status"] == "failed"
    assert (out / "a_mask.nii.gz").read_bytes() == mask
    by_hand = corrected(out / "a_mask.nii.gz")
    replace(work, command="segment", suffixes=SEGMENT_SUFFIXES).failed(cases[0], TimeoutError("late"))
    assert files(out) >= {"a.json", "a_mask.nii.gz.changed"}
    assert "a_mask.nii.gz" not in files(out)
    assert (out / "a_mask.nii.gz.changed").read_bytes() == by_hand


def test_sharing_a_folder_between_commands_is_said(
    tmp_path: Path, scans: Scans, caplog: pytest.LogCaptureFixture
) -> None:
    segment_cases(FakeModel(), scans(a=""), tmp_path / "out")
    assert "earlier" not in caplog.text
    classify_cases(FakeModel(), scans(a=""), tmp_path / "out")
    assert "records of an earlier segment run are replaced" in caplog.text
    assert "a_mask.nii.gz" in files(tmp_path / "out")


# ---- DICOM


class DicomModel(FakeModel):
    """Reads the series that it is given, and takes what is denser than 300 HU for blood."""

    allow_gaps = False
    volume_doubts: tuple[Doubt, ...] = ()

    def segment(self, scan: Any) -> SegmentationResult:
        ct, grid = read_dicom(scan, allow_gaps=self.allow_gaps)
        depth = ct.hu.shape[0]
        return SegmentationResult(
            ct=ct, grid=grid, probability=0.9, slice_probabilities=np.full(depth, 0.9, np.float32),
            subtype_probabilities={}, slice_has_brain=np.ones(depth, bool), warnings=grid.warnings,
            slice_positions_mm=np.asarray(ct.slice_positions_mm), plausibility=Plausibility("ok", (), {}),
            timings_s={}, settings={}, weights_sha256="ab" * 32, operating_point=0.5,
            mask_volume=MaskVolume(ct.hu > 300, ct.affine, ct.source, ct.slices), saliency_house=ct.hu * 0,
            region=ct.hu > 0, brain_median_hu=30.0, slice_gated=np.ones(depth, bool), volume_reason=None,
            volume_doubts=self.volume_doubts,
        )  # fmt: skip


def test_a_dicom_series_is_recorded_slice_by_slice_without_a_word_of_its_header(tmp_path: Path) -> None:
    secret = {
        "PatientName": "Planted^Name", "PatientID": "PLANTED", "PatientBirthDate": "19010203",
        "AccessionNumber": "PLANTED", "InstitutionName": "Planted", "SeriesDescription": "Planted",
        "StudyDescription": "Planted", "ReferringPhysicianName": "Planted", "ImageComments": "Planted",
        "ConvolutionKernel": "Planted", "ProtocolName": "Planted", "StationName": "Planted",
    }  # fmt: skip
    z = [0.0, 2.5, 5.0, 7.5, 12.5, 17.5]
    write_series(tmp_path / "head", z, pixels=[pattern(i, (64, 64)) for i in range(6)], **secret)
    out = tmp_path / "out"
    cases = find_cases([tmp_path / "head"])
    report = segment_cases(DicomModel(), cases, out)
    assert report.exit_code == ExitCode.OK
    found = record(out, "head")
    assert found["dicom"] == {"series_uid": "1.2.3.1.1", "n_files": 6, "left_out": {}}
    assert table(out / "summary.csv")[0]["series_uid"] == "1.2.3.1.1"
    assert found["input_sha256"] == cases[0].series.sha256()  # type: ignore[union-attr]
    assert [row["position_mm"] for row in found["slices"]] == z
    assert [row["spacing_mm"] for row in found["slices"]] == [2.5, 2.5, 2.5, 3.75, 5.0, 5.0]
    assert [row["thickness_mm"] for row in found["slices"]] == [5.0] * 6
    assert len({row["sop_instance_uid"] for row in found["slices"]}) == 6
    counts = np.array([row["n_voxels"] for row in found["slices"]])
    spacings = np.array([row["spacing_mm"] for row in found["slices"]])
    assert found["volume_ml"] == pytest.approx(float((counts * spacings).sum() * 0.25 / 1000))
    assert found["volume_is_lower_bound"] is False
    assert any("mean of 3.50 mm" in warning for warning in found["warnings"])
    for path in out.iterdir():
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
        assert b"lanted" not in data.lower(), path.name
        assert b"19010203" not in data and b"1901-02-03" not in data, path.name


def test_a_dicom_seg_is_written_where_it_can_be_and_what_hinders_it_is_said(tmp_path: Path) -> None:
    z = [0.0, 5.0, 10.0]
    pixels = [pattern(i, (64, 64)) for i in range(3)]
    write_series(tmp_path / "in" / "a", z, pixels=pixels, StudyInstanceUID="1.1", FrameOfReferenceUID="1.9")
    write_series(tmp_path / "in" / "b", z, pixels=pixels, StudyInstanceUID="1.2")
    out = tmp_path / "out"
    cases = find_cases([tmp_path / "in"])
    assert segment_cases(DicomModel(), cases, out, dicom_seg=True).exit_code == ExitCode.OK
    seg, mask = pydicom.dcmread(out / "a_seg.dcm"), record(out, "a")["n_voxels"]
    assert int(np.unpackbits(np.frombuffer(seg.PixelData, np.uint8)).sum()) == mask > 0
    assert not (out / "b_seg.dcm").exists()
    assert "no DICOM SEG was written: its images name no frame of reference" in record(out, "b")["warnings"]
    segment_cases(DicomModel(), cases, out)
    assert not (out / "a_seg.dcm").exists()  # of an earlier run


@pytest.mark.parametrize(("fails", "written"), [("seg", set()), ("sr", {"a_seg.dcm"})])
def test_a_dicom_output_that_cannot_be_made_costs_no_mask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fails: str, written: set[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ValueError("Doe^Jane is no name")

    monkeypatch.setattr(run, f"write_dicom_{fails}", refuse)
    pixels = [pattern(i, (64, 64)) for i in range(3)]
    write_series(tmp_path / "in" / "a", [0.0, 5.0, 10.0], pixels=pixels, FrameOfReferenceUID="1.9")
    out = tmp_path / "out"
    report = segment_cases(DicomModel(), find_cases([tmp_path / "in" / "a"]), out, dicom_seg=True, dicom_sr=True)
    assert report.exit_code == ExitCode.OK
    assert files(out) == {"a.json", "a_mask.nii.gz", "a_preview.png", "summary.csv", "run.json"} | written
    lost = "no DICOM SEG and no structured report was" if fails == "seg" else "no structured report was"
    said = f"{lost} written: its header cannot be copied (ValueError)"
    assert "Doe" not in (out / "a.json").read_text() + caplog.text
    assert said in record(out, "a")["warnings"]
    assert said in caplog.text


def test_a_volume_that_is_a_lower_bound_says_so_wherever_it_stands(tmp_path: Path) -> None:
    pixels = [pattern(i, (64, 64)) for i in range(4)]
    write_series(tmp_path / "in" / "a", [0.0, 5.0, 15.0, 20.0], pixels=pixels, FrameOfReferenceUID="1.9")
    out = tmp_path / "out"
    cases = find_cases([tmp_path / "in" / "a"])
    model = DicomModel()
    model.allow_gaps = True
    segment_cases(model, cases, out, dicom_seg=True, dicom_sr=True)
    assert record(out, "a")["volume_is_lower_bound"] is True
    assert table(out / "summary.csv")[0]["volume_is_lower_bound"] == "1"
    assert files(out) >= {"a_seg.dcm"}
    assert "a_sr.dcm" not in files(out)
    assert any("no structured report was written: slices are missing" in w for w in record(out, "a")["warnings"])


@pytest.mark.parametrize("volume", list(VolumeDoubt))
def test_a_volume_that_the_record_doubts_is_in_no_report(tmp_path: Path, volume: VolumeDoubt) -> None:
    pixels = [pattern(i, (64, 64)) for i in range(3)]
    write_series(tmp_path / "in" / "a", [0.0, 5.0, 10.0], pixels=pixels, FrameOfReferenceUID="1.9")
    out = tmp_path / "out"
    model = DicomModel()
    model.volume_doubts = (Doubt(Aspect.COVERAGE, "the scan ends early", volume),)
    segment_cases(model, find_cases([tmp_path / "in" / "a"]), out, dicom_seg=True, dicom_sr=True)
    assert record(out, "a")["volume_is_lower_bound"] is (volume is VolumeDoubt.LOWER_BOUND)
    assert "a_seg.dcm" in files(out)
    assert "a_sr.dcm" not in files(out)
    assert "no structured report was written: the scan ends early" in record(out, "a")["warnings"]


def test_a_report_states_the_volume_of_the_segment_beside_it(tmp_path: Path) -> None:
    pixels = [pattern(i, (64, 64)) for i in range(3)]
    tags = {"FrameOfReferenceUID": "1.9", "PatientID": "p7"}
    write_series(tmp_path / "in" / "a", [0.0, 5.0, 10.0], pixels=pixels, **tags)
    out = tmp_path / "out"
    segment_cases(DicomModel(), find_cases([tmp_path / "in" / "a"]), out, dicom_seg=True, dicom_sr=True)
    seg, report = (pydicom.dcmread(out / f"a_{kind}.dcm") for kind in ("seg", "sr"))
    assert (report.PatientID, report.StudyInstanceUID) == ("p7", seg.StudyInstanceUID)
    assert "Research use only" in report.SeriesDescription
    items = [item for item in report.iterall() if item.keyword == "MeasuredValueSequence"]
    assert [float(item.value[0].NumericValue) for item in items] == [round(record(out, "a")["volume_ml"], 3)]
    assert items[0].value[0].MeasurementUnitsCodeSequence[0].CodeValue == "mL"
    named = [item.value[0] for item in report.iterall() if item.keyword == "ReferencedSOPSequence"]
    (segment,) = [
        item
        for item in named
        if item.ReferencedSOPInstanceUID == seg.SOPInstanceUID and "ReferencedSegmentNumber" in item
    ]
    assert segment.ReferencedSegmentNumber == 1
    groups = highdicom.sr.srread(out / "a_sr.dcm").content.get_volumetric_roi_measurement_groups()
    assert [group.finding_type.value for group in groups] == ["50960005"]


def test_a_dicom_seg_of_a_nifti_file_is_refused_before_anything_is_done(tmp_path: Path, scans: Scans) -> None:
    with pytest.raises(InputError, match=r"a\.nii\.gz: expected DICOM"):
        segment_cases(FakeModel(), scans(a=""), tmp_path / "out", dicom_seg=True)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_dicom_without_a_scan_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_series(tmp_path / "mr", [0.0], Modality="MR", SOPClassUID="1.2.840.10008.5.1.4.1.1.4")
    report = segment_cases(DicomModel(), find_cases([tmp_path / "mr"]), tmp_path / "out")
    assert report.exit_code == ExitCode.REFUSED
    assert "refused: mr: expected axial CT slices; got no CT (modality MR)" in caplog.text
