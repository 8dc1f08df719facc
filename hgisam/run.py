"""Many scans -> files in a folder: each case's outputs with its record last, a summary over all, and how it ended."""

import hashlib
import logging
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from hgisam import NOTICE, __version__
from hgisam.cases import Case, own_record
from hgisam.exits import ExitCode, Interrupts
from hgisam.intake import ImplausibleScan
from hgisam.io.dicom_files import kind_of_file
from hgisam.io.dicom_seg import seg_obstacle, write_dicom_seg
from hgisam.io.dicom_series import DicomSeries
from hgisam.io.errors import InputError, OutputError, ScanRefused
from hgisam.io.nifti import write_map, write_mask
from hgisam.io.tables import write_csv, write_json
from hgisam.outputs import RUN_RECORD, claimed, refuse_overwriting
from hgisam.pipeline import ClassificationResult, SegmentationResult
from hgisam.preview import write_preview
from hgisam.progress import case_progress
from hgisam.records import (
    CLASSIFY_SUMMARY,
    RUN_COLUMNS,
    SEGMENT_SUMMARY,
    Record,
    case_record,
    classification_record,
    dicom_record,
    plausibility_values,
    recorded_path,
    recorded_reason,
    refusal_record,
    segmentation_record,
    slice_rows,
    summary_row,
    valid_text,
)

log = logging.getLogger(__name__)

SEGMENT_SUFFIXES = (".json", "_mask.nii.gz", "_preview.png", "_map.nii.gz", "_seg.dcm")
CLASSIFY_SUFFIXES = (".json", "_slices.csv")
ALL_SUFFIXES = tuple(dict.fromkeys((*SEGMENT_SUFFIXES, *CLASSIFY_SUFFIXES)))

SUMMARY = "summary.csv"


@runtime_checkable
class ScanModel(Protocol):
    """What a run needs of a `Segmenter` or a `MaskSegmenter`."""

    @property
    def device(self) -> torch.device: ...

    @property
    def settings(self) -> dict[str, Any]: ...


@runtime_checkable
class SegmentsScans(ScanModel, Protocol):
    """What it can do where masks are asked for."""

    def segment(self, scan: Path | DicomSeries) -> SegmentationResult: ...


@runtime_checkable
class ClassifiesScans(ScanModel, Protocol):
    """What it can do where probabilities are asked for."""

    def classify(self, scan: Path | DicomSeries) -> ClassificationResult: ...


@dataclass(frozen=True)
class RunReport:
    """How a run ended.

    Attributes:
        rows: the rows of `summary.csv`, one per case, in order; columns as in `records`.
        exit_code: what the command's exit status should be.
    """

    rows: tuple[Record, ...]
    exit_code: ExitCode


def segment_cases(
    model: SegmentsScans,
    cases: Sequence[Case],
    folder: Path,
    *,
    save_map: bool = False,
    dicom_seg: bool = False,
    deidentify: bool = False,
    show_progress: bool = False,
) -> RunReport:
    """Segment every case: `CASE_mask.nii.gz`, `CASE_preview.png`, `CASE.json`, and `summary.csv`, `run.json` over all.

    A case that is refused or fails is listed with its reason and the run goes on.

    Args:
        model: a `Segmenter`, a `MaskSegmenter`, or what behaves like one.
        cases: at least one.
        folder: where the outputs go; made if absent, and held for this run alone.
        save_map: whether to write `CASE_map.nii.gz` as well.
        dicom_seg: whether to write `CASE_seg.dcm` as well, of inputs that are DICOM.
        deidentify: whether that holds nothing of the patient and the study but UIDs.
        show_progress: whether to draw a progress bar on the terminal.

    Raises:
        InputError: where an output would replace an input or a file that hgisam has not written, or DICOM SEG is asked
            for and an input is no DICOM.
        OutputError: where the folder cannot be written at all, or another run holds it.
    """
    if dicom_seg:
        _refuse_without_dicom(cases)

    def analyse(case: Case) -> tuple[Record, Callable[[], None]]:
        result = model.segment(case.scan)
        record = segmentation_record(result)
        obstacle = seg_obstacle(case.series) if dicom_seg and case.series is not None else None
        if obstacle is not None:
            record["warnings"].append(f"no DICOM SEG was written: {obstacle}")

        def write() -> None:
            write_mask(folder / f"{case.name}_mask.nii.gz", result.mask_volume.voxels, result.grid)
            if save_map:
                write_map(folder / f"{case.name}_map.nii.gz", result.saliency_house, result.grid)
            write_preview(folder / f"{case.name}_preview.png", result)
            if dicom_seg and case.series is not None and obstacle is None:
                write_dicom_seg(
                    folder / f"{case.name}_seg.dcm",
                    result.mask_volume,
                    result.grid,
                    case.series,
                    deidentify=deidentify,
                    weights_sha256=result.weights_sha256 or "",
                )

        return record, write

    run = _Run("segment", model, cases, folder, SEGMENT_SUFFIXES, SEGMENT_SUMMARY)
    return run.over_all(analyse, show_progress=show_progress)


def classify_cases(
    model: ClassifiesScans, cases: Sequence[Case], folder: Path, *, show_progress: bool = False
) -> RunReport:
    """Classify every case: `CASE_slices.csv`, `CASE.json`, and `summary.csv`, `run.json` over all.

    Arguments, errors and what becomes of a refused case are those of `segment_cases`.
    """

    def analyse(case: Case) -> tuple[Record, Callable[[], None]]:
        result = model.classify(case.scan)
        rows = slice_rows(result)

        def write() -> None:
            write_csv(folder / f"{case.name}_slices.csv", rows, list(rows[0]))

        return classification_record(result), write

    run = _Run("classify", model, cases, folder, CLASSIFY_SUFFIXES, CLASSIFY_SUMMARY)
    return run.over_all(analyse, show_progress=show_progress)


Analyse = Callable[[Case], tuple[Record, Callable[[], None]]]
"""A case -> what its record says, and how to write its other files."""


_HOW_RUNS_END = {ExitCode.CANCELLED: "cancelled", ExitCode.OUTPUT: "stopped"}


@dataclass(frozen=True)
class _Run:
    """One command over many cases."""

    command: str
    model: ScanModel
    cases: Sequence[Case]
    folder: Path
    suffixes: tuple[str, ...]
    columns: tuple[str, ...]

    def over_all(self, analyse: Analyse, *, show_progress: bool) -> RunReport:
        """Every case in turn, then the summary; it is written also where the run is cancelled or the disk is full."""
        started = datetime.now(UTC)
        records: list[Record] = []
        refuse_overwriting(self.folder, self.cases, ALL_SUFFIXES, [SUMMARY])
        with claimed(self.folder), Interrupts() as interrupts:
            self._warn_of_other_command()
            self._write_run_record("running", records, started)
            ended = self._work(analyse, records, interrupts, show_progress=show_progress)
            records += [self._not_run(case, ended) for case in self.cases[len(records) :]]
            ended = ended or _exit_code([record["status"] for record in records])
            rows = tuple(summary_row(record, self.columns) for record in records)
            try:
                with interrupts.held():
                    write_csv(self.folder / SUMMARY, rows, self.columns)
                    self._write_run_record(_HOW_RUNS_END.get(ended, "done"), records, started)
            except KeyboardInterrupt:
                ended = ExitCode.CANCELLED
            except OutputError as error:
                log.error("%s", error)
                ended = ExitCode.OUTPUT
        return RunReport(rows, ended)

    def _work(
        self, analyse: Analyse, records: list[Record], interrupts: Interrupts, *, show_progress: bool
    ) -> ExitCode:
        """Add a record for each case that could be finished; OK unless the run had to stop before the last."""
        try:
            with case_progress(len(self.cases), show=show_progress) as begin:
                for case in self.cases:
                    begin(case.name)
                    self._one(case, analyse, records, interrupts)
        except KeyboardInterrupt:
            log.error("cancelled; %d of %d cases are done and stay", len(records), len(self.cases))
            return ExitCode.CANCELLED
        except OutputError as error:
            log.error("%s", error)
            return ExitCode.OUTPUT
        return ExitCode.OK

    def _one(self, case: Case, analyse: Analyse, records: list[Record], interrupts: Interrupts) -> None:
        """One case from file to files. What an earlier run left of it goes first: no old mask outlives a refusal.

        What the other command made of the same bytes stays; of other bytes, it goes too.
        """
        sha256 = _sha256(case)
        earlier = own_record(self.folder / f"{case.name}.json").get("input_sha256", sha256)
        self._clear(case, self.suffixes if earlier == sha256 else ALL_SUFFIXES)
        header = case_record(self.command, case.name, case.path, sha256) | dicom_record(case.series)
        try:
            found, write = analyse(case)
        except Exception as error:  # noqa: BLE001 - one bad case must not end the others
            found, write = self._failure(case, error), _write_nothing
        for warning in found.get("warnings", ()):
            log.warning("%s: %s", case.path, warning)
        with interrupts.held():
            begun = time.perf_counter()
            try:
                write()
            except OutputError:
                self._clear(case, self.suffixes)
                raise
            except Exception as error:  # noqa: BLE001
                self._clear(case, self.suffixes)
                found = self._failure(case, error)
            record = header | found
            if record["status"] == "ok":
                record["timings_s"] = record["timings_s"] | {"write": round(time.perf_counter() - begun, 4)}
            write_json(self.folder / f"{case.name}.json", record)
            records.append(record)
        log.info("%s: %s, probability %s", case.name, record["status"], record["probability"])

    def _failure(self, case: Case, error: Exception) -> Record:
        """Say on stderr why a case gives no result, and put it on record."""
        if isinstance(error, ScanRefused):
            status, reason = "refused", valid_text(str(error))
            log.error("refused: %s", reason)
        else:
            status, reason = "failed", valid_text(f"{type(error).__name__}: {error}")
            log.error("failed: %s: %s", valid_text(str(case.path)), reason)
            log.debug("%s: where it failed", valid_text(str(case.path)), exc_info=error)
        record = refusal_record(self.command, status, recorded_reason(reason, case.path))
        if isinstance(error, ImplausibleScan):
            record["plausibility"] = plausibility_values(error.plausibility)
        return record

    def _not_run(self, case: Case, ended: ExitCode) -> Record:
        reason = "the outputs could not be written" if ended is ExitCode.OUTPUT else "the run was cancelled"
        return case_record(self.command, case.name, case.path, None) | refusal_record(self.command, "not run", reason)

    def _clear(self, case: Case, suffixes: Sequence[str]) -> None:
        for path in (self.folder / f"{case.name}{suffix}" for suffix in suffixes):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise OutputError(f"{path}: expected to replace it; got '{error.strerror}'; name another") from error

    def _warn_of_other_command(self) -> None:
        """Both commands write `CASE.json` and `summary.csv`; where they share a folder, the later one's remain."""
        earlier = own_record(self.folder / RUN_RECORD).get("command", self.command)
        if earlier != self.command:
            log.warning("%s: summary.csv and records of an earlier %s run are replaced", self.folder, earlier)

    def _write_run_record(self, status: str, records: Sequence[Record], started: datetime) -> None:
        settings = self.model.settings
        write_json(
            self.folder / RUN_RECORD,
            {
                "command": self.command,
                "status": status,
                "notice": NOTICE,
                "versions": {
                    "hgisam": __version__,
                    "python": platform.python_version(),
                    "torch": torch.__version__,
                },
                "device": str(self.model.device),
                "weights_sha256": settings.get("weights_sha256"),
                "settings": settings,
                "inputs": [recorded_path(case.path) for case in self.cases],
                "planned": [case.name for case in self.cases],
                "started_utc": started.isoformat(timespec="seconds"),
                "seconds": round((datetime.now(UTC) - started).total_seconds(), 2),
                "cases": [summary_row(record, RUN_COLUMNS) for record in records],
            },
        )


def _refuse_without_dicom(cases: Sequence[Case]) -> None:
    other = next((case for case in cases if case.series is None and kind_of_file(case.path) == "other"), None)
    if other is not None and not other.path.is_dir():
        raise InputError(f"{other.path}: expected DICOM, over which a DICOM SEG lies; got another file; leave it out")


def _write_nothing() -> None:
    """What a case without a result has to write besides its record."""


def _exit_code(statuses: Sequence[str]) -> ExitCode:
    if all(status == "ok" for status in statuses):
        return ExitCode.OK
    if len(statuses) > 1:
        return ExitCode.SOME_FAILED
    return ExitCode.REFUSED if statuses[0] == "refused" else ExitCode.UNEXPECTED


def _sha256(case: Case) -> str | None:
    """sha256 of a file's bytes, or over those of a series; None where one cannot be read."""
    if case.series is not None:
        return case.series.sha256()
    try:
        with case.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
