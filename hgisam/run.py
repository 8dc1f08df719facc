"""Many scans -> files in a folder: each case's outputs with its record last, a summary over all, and how it ended."""

import logging
import platform
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Literal

import torch

from hgisam import NOTICE, __version__
from hgisam.cases import Case, Shard, own_record
from hgisam.casework import ALL_SUFFIXES, CLASSIFY_SUFFIXES, SEGMENT_SUFFIXES, CaseWork, ClassifiesScans, SegmentsScans
from hgisam.exits import ExitCode, Interrupts
from hgisam.io.dicom_files import kind_of_file
from hgisam.io.dicom_seg import seg_obstacle, write_dicom_seg
from hgisam.io.dicom_series import DicomSeries
from hgisam.io.dicom_sr import write_dicom_sr
from hgisam.io.errors import InputError, OutputError
from hgisam.io.nifti import write_map, write_mask
from hgisam.io.space import ensure_free_space
from hgisam.io.tables import write_csv, write_json
from hgisam.outputs import RUN_RECORD, case_claimed, claimed, refuse_overwriting, tables_held
from hgisam.pipeline import SegmentationResult
from hgisam.preview import write_preview
from hgisam.processes import LoneWorker, ProcessGone, TookTooLong
from hgisam.progress import case_progress
from hgisam.records import (
    CLASSIFY_SUMMARY,
    RUN_COLUMNS,
    SEGMENT_SUMMARY,
    Record,
    classification_record,
    is_sealed,
    recorded_path,
    refusal_record,
    segmentation_record,
    slice_rows,
    summary_row,
)
from hgisam.wording import counted

log = logging.getLogger(__name__)

SUMMARY = "summary.csv"


@dataclass(frozen=True)
class RunOptions:
    """How a run goes about its cases; nothing here changes a result.

    Attributes:
        resume: leave cases alone that are done: whose record and files are whole, of the same input, settings, weights
            and version.
        shard: take this share of the cases alone, beside other processes that write into the same folder; it resumes.
        timeout_s: the longest that a case may take; it is then given up and the next one begun. None waits for ever.
        oom: where the device is out of memory the windows per pass are halved; where one is too many the case fails
            (`halve`), or the run goes on on the CPU (`cpu`).
    """

    resume: bool = False
    shard: Shard | None = None
    timeout_s: float | None = None
    oom: Literal["halve", "cpu"] = "halve"


@dataclass(frozen=True)
class RunReport:
    """How a run ended.

    Attributes:
        rows: the rows of `summary.csv`, one per case, in order, of a shard its own; columns as in `records`.
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
    dicom_sr: bool = False,
    deidentify: bool = False,
    show_progress: bool = False,
    options: RunOptions | None = None,
) -> RunReport:
    """Segment every case: `CASE_mask.nii.gz`, `CASE_preview.png`, `CASE.json`, and `summary.csv`, `run.json` over all.

    A case that is refused or fails is listed with its reason and the run goes on.

    Args:
        model: a `Segmenter`, a `MaskSegmenter`, or what behaves like one.
        cases: at least one.
        folder: where the outputs go; made if absent, and held for this run alone, or for its shards.
        save_map: whether to write `CASE_map.nii.gz` as well.
        dicom_seg: whether to write `CASE_seg.dcm` as well, of inputs that are DICOM.
        dicom_sr: whether to write `CASE_sr.dcm` too, the volume as a structured report on that.
        deidentify: whether these hold nothing of the patient and the study but UIDs.
        show_progress: whether to draw a progress bar on the terminal.
        options: how to go about it.

    Raises:
        InputError: where an output would replace an input or a file that hgisam has not written, or DICOM SEG is asked
            for and an input is no DICOM.
        OutputError: where the folder cannot be written at all, its disk has no room, or another run holds it.
    """
    if dicom_sr and not dicom_seg:
        raise InputError("expected DICOM SEG with a structured report, which refers to it; got the report alone")
    if dicom_seg:
        _refuse_without_dicom(cases)
    options = options or RunOptions()
    analyse = _Segmentation(folder, save_map, dicom_seg, dicom_sr, deidentify)
    asked = {"save_map": save_map, "dicom_seg": dicom_seg, "dicom_sr": dicom_sr, "deidentify": deidentify}
    resume = options.resume or options.shard is not None
    work = CaseWork("segment", model, folder, SEGMENT_SUFFIXES, analyse, asked, resume, options.oom)
    return _Run(work, cases, SEGMENT_SUMMARY, options).over_all(show_progress=show_progress)


def classify_cases(
    model: ClassifiesScans,
    cases: Sequence[Case],
    folder: Path,
    *,
    show_progress: bool = False,
    options: RunOptions | None = None,
) -> RunReport:
    """Classify every case: `CASE_slices.csv`, `CASE.json`, and `summary.csv`, `run.json` over all.

    Arguments, errors and what becomes of a refused case are those of `segment_cases`.
    """
    options = options or RunOptions()
    resume = options.resume or options.shard is not None
    work = CaseWork("classify", model, folder, CLASSIFY_SUFFIXES, _Classification(folder), {}, resume, options.oom)
    return _Run(work, cases, CLASSIFY_SUMMARY, options).over_all(show_progress=show_progress)


@dataclass(frozen=True)
class _Segmentation:
    """The analysis of `segment_cases`."""

    folder: Path
    save_map: bool
    dicom_seg: bool
    dicom_sr: bool
    deidentify: bool

    def __call__(self, model: SegmentsScans, case: Case) -> tuple[Record, Callable[[], None]]:
        result = model.segment(case.scan)
        record = segmentation_record(result)
        series = case.series if self.dicom_seg else None
        obstacle = None if series is None else seg_obstacle(series)
        if obstacle is not None:
            record["warnings"].append(_no_seg(obstacle, report=self.dicom_sr))
        unreported = _unreported(result) if self.dicom_sr and obstacle is None else None
        if unreported is not None:
            record["warnings"].append(f"{_NO_REPORT}: {unreported}")

        def write() -> None:
            write_mask(self.folder / f"{case.name}_mask.nii.gz", result.mask_volume.voxels, result.grid)
            if self.save_map:
                write_map(self.folder / f"{case.name}_map.nii.gz", result.saliency_house, result.grid)
            write_preview(self.folder / f"{case.name}_preview.png", result)
            if series is not None and obstacle is None:
                lost = self._write_dicom(case, series, result, report=self.dicom_sr and unreported is None)
                if lost is not None:
                    log.warning("%s: %s", case.path, lost)
                    record["warnings"].append(lost)

        return record, write

    def _write_dicom(self, case: Case, series: DicomSeries, result: SegmentationResult, *, report: bool) -> str | None:
        """Write what is asked for. What could not be is said: a header that cannot be copied must not cost the mask.

        The reason is not, since it may name what stands in the header.
        """
        seg, sr = (self.folder / f"{case.name}_{kind}.dcm" for kind in ("seg", "sr"))
        mask, grid, volume_ml, weights_sha256 = (
            result.mask_volume, result.grid, result.volume_ml, result.weights_sha256 or "",
        )  # fmt: skip
        try:
            write_dicom_seg(seg, mask, grid, series, deidentify=self.deidentify, weights_sha256=weights_sha256)
            if report and volume_ml is not None:
                write_dicom_sr(sr, seg, volume_ml, weights_sha256=weights_sha256)
        except OutputError:
            raise
        except Exception as error:  # whatever highdicom raises
            log.debug("%s: why no DICOM was written", case.path, exc_info=error)
            reason = f"its header cannot be copied ({type(error).__name__})"
            return f"{_NO_REPORT}: {reason}" if seg.exists() else _no_seg(reason, report=report)
        return None


_NO_REPORT = "no structured report was written"


def _no_seg(reason: str, *, report: bool) -> str:
    return f"no DICOM SEG{' and no structured report' if report else ''} was written: {reason}"


def _unreported(result: SegmentationResult) -> str | None:
    """Why a volume is none to be reported without what is to be known of it; None where it can be."""
    if result.volume_ml is None:
        return "the volume is not known"
    if result.ct.slices is not None and not result.ct.slices.complete:
        return "slices are missing, so that the volume is at least what the mask holds"
    return next((doubt.text for doubt in result.volume_doubts), None)


@dataclass(frozen=True)
class _Classification:
    """The analysis of `classify_cases`."""

    folder: Path

    def __call__(self, model: ClassifiesScans, case: Case) -> tuple[Record, Callable[[], None]]:
        result = model.classify(case.scan)
        rows = slice_rows(result)

        def write() -> None:
            write_csv(self.folder / f"{case.name}_slices.csv", rows, list(rows[0]))

        return classification_record(result), write


_BYTES_OF_CASE = {"segment": (2_000, 1_000_000), "classify": (2_000, 12_000)}
"""What a case takes on disk, at the least (the record of a refused one) and as a rule: a preview is a megabyte."""

_HOW_RUNS_END = {ExitCode.CANCELLED: "cancelled", ExitCode.OUTPUT: "stopped"}

_WHY_NOT_RUN = {ExitCode.CANCELLED: "the run was cancelled", ExitCode.OUTPUT: "the outputs could not be written"}


@dataclass(frozen=True)
class _Run:
    """One command over many cases, or a shard of them."""

    work: CaseWork[SegmentsScans] | CaseWork[ClassifiesScans]
    cases: Sequence[Case]
    columns: tuple[str, ...]
    options: RunOptions

    def over_all(self, *, show_progress: bool) -> RunReport:
        """Every case in turn, then the summary; it is written also where the run is cancelled or the disk is full."""
        started = datetime.now(UTC)
        folder, shard = self.work.folder, self.options.shard
        own = self.cases if shard is None else shard.part(self.cases)
        done: dict[str, Record] = {}
        with claimed(folder, shared=shard is not None), Interrupts() as interrupts:
            with tables_held(folder):
                refuse_overwriting(folder, self.cases, ALL_SUFFIXES, [SUMMARY])
                self._ensure_room(own)
                self._warn_of_other_command()
                self._write_run_record("running", [], started)
            ended = self._work(own, done, interrupts, show_progress=show_progress)
            done |= {case.name: self._not_run(case, _WHY_NOT_RUN[ended]) for case in own if case.name not in done}
            rows = tuple(summary_row(done[case.name], self.columns) for case in own)
            ended = ended or _exit_code([row["status"] for row in rows], alone=len(self.cases) == 1)
            try:
                with interrupts.held(), tables_held(folder):
                    self._write_summary(done, ended, started)
            except KeyboardInterrupt:
                ended = ExitCode.CANCELLED
            except OutputError as error:
                log.error("%s", error)
                ended = ExitCode.OUTPUT
        return RunReport(rows, ended)

    def _ensure_room(self, own: Sequence[Case]) -> None:
        """Stop before the first case where the disk has no room for the outputs of those that have none yet."""
        folder = self.work.folder
        n_new = sum(not (folder / f"{case.name}.json").exists() for case in own)
        at_least, usual = _BYTES_OF_CASE[self.work.command]
        ensure_free_space(folder, n_new * at_least, n_new * usual)

    def _work(
        self, own: Sequence[Case], done: dict[str, Record], interrupts: Interrupts, *, show_progress: bool
    ) -> ExitCode:
        """Add a record for each case that could be finished; OK unless the run had to stop before the last.

        A case that another process has claimed is left for the end; it is then done, or the other process is dead.
        """
        later: list[Case] = []
        turns = chain(((case, False) for case in own), ((case, True) for case in later))
        try:
            with case_progress(len(own), show=show_progress) as begin, ExitStack() as stack:
                worker = None if self.options.timeout_s is None else stack.enter_context(LoneWorker(self.work))
                for case, wait in turns:
                    with case_claimed(self.work.folder, case.name, wait=wait) as ours:
                        if not ours:
                            later.append(case)
                            continue
                        begin(case.name)
                        write = self._look(case, worker)
                        with interrupts.held():
                            done[case.name] = write()
        except KeyboardInterrupt:
            log.error("cancelled; %d of %s done; what is done stays", len(done), counted(len(own), "case"))
            return ExitCode.CANCELLED
        except OutputError as error:
            log.error("%s", error)
            return ExitCode.OUTPUT
        return ExitCode.OK

    def _look(self, case: Case, worker: LoneWorker[Case, Record] | None) -> Callable[[], Record]:
        """How to write what is found of a case; another process has done so by now, or is killed when time is over.

        What is done already costs that process no time.
        """
        if worker is None or self.options.timeout_s is None:
            return self.work.look(case)
        done = self.work.done(case)
        if done is not None:
            return lambda: done
        try:
            record = worker.result(case, self.options.timeout_s)
        except (TookTooLong, ProcessGone) as error:
            return partial(self.work.failed, case, error)
        except KeyboardInterrupt:
            self.work.clear_unrecorded(case)
            raise
        return lambda: record

    def _not_run(self, case: Case, reason: str) -> Record:
        return self.work.header(case, None) | refusal_record(self.work.command, "not run", reason)

    def _warn_of_other_command(self) -> None:
        """Both commands write `CASE.json` and `summary.csv`; where they share a folder, the later one's remain."""
        earlier = own_record(self.work.folder / RUN_RECORD).get("command", self.work.command)
        if earlier != self.work.command:
            log.warning("%s: summary.csv and records of an earlier %s run are replaced", self.work.folder, earlier)

    def _write_summary(self, done: dict[str, Record], ended: ExitCode, started: datetime) -> None:
        """A row for each case, of a shard also those that other shards have done by now; then those of earlier runs."""
        records = [done[case.name] if case.name in done else self._of_other_shard(case) for case in self.cases]
        status = _HOW_RUNS_END.get(ended, "done")
        if status == "done" and any(record["status"] == "not run" for record in records):
            status = "running"
        rows = [summary_row(record, self.columns) for record in (*records, *self._of_earlier_runs())]
        write_csv(self.work.folder / SUMMARY, rows, self.columns)
        self._write_run_record(status, records, started)

    def _of_earlier_runs(self) -> list[Record]:
        """Records of this command that lie in the folder, of cases that this run knows nothing of, by name."""
        of_this_run = {case.name for case in self.cases}
        found = []
        for path in sorted(self.work.folder.glob("*.json")):
            record = own_record(path)
            is_ours = (record.get("command"), record.get("case")) == (self.work.command, path.stem)
            if not is_ours or path.stem in of_this_run:
                continue
            if is_sealed(record):
                found.append(record)
            else:
                log.warning("%s was changed since hgisam wrote it: left out of %s", path, SUMMARY)
        return found

    def _of_other_shard(self, case: Case) -> Record:
        return self.work.of_other_process(case) or self._not_run(case, "another shard has not done it yet")

    def _write_run_record(self, status: str, records: Sequence[Record], started: datetime) -> None:
        model = self.work.model
        write_json(
            self.work.folder / RUN_RECORD,
            {
                "command": self.work.command,
                "status": status,
                "notice": NOTICE,
                "versions": {
                    "hgisam": __version__,
                    "python": platform.python_version(),
                    "torch": torch.__version__,
                },
                "device": str(model.device),
                "weights_sha256": model.settings.get("weights_sha256"),
                "settings": model.settings,
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


def _exit_code(statuses: Sequence[str], *, alone: bool) -> ExitCode:
    if all(status == "ok" for status in statuses):
        return ExitCode.OK
    if not alone:
        return ExitCode.SOME_FAILED
    return ExitCode.REFUSED if statuses[0] == "refused" else ExitCode.UNEXPECTED
