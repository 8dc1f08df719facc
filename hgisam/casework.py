"""One case from file to files: its outputs, then the record that vouches for them with their hashes."""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar, runtime_checkable

import torch

from hgisam.cases import Case, own_record
from hgisam.intake import ImplausibleScan
from hgisam.io.atomic import set_aside
from hgisam.io.dicom_files import kind_of_file
from hgisam.io.dicom_series import DicomSeries
from hgisam.io.digest import file_sha256
from hgisam.io.errors import OutputError, ScanRefused
from hgisam.io.nifti import read_ct
from hgisam.io.nifti_header import FORMS, Choice
from hgisam.io.tables import write_json
from hgisam.pipeline import ClassificationResult, SegmentationResult
from hgisam.records import (
    Record,
    case_record,
    dicom_record,
    is_of_run,
    is_sealed,
    plausibility_values,
    recorded_reason,
    refusal_record,
    sealed,
    valid_text,
)

log = logging.getLogger(__name__)

MASK_SUFFIX, SEG_SUFFIX = "_mask.nii.gz", "_seg.dcm"
SEGMENT_SUFFIXES = (".json", MASK_SUFFIX, "_preview.png", "_map.nii.gz", SEG_SUFFIX, "_sr.dcm")
CLASSIFY_SUFFIXES = (".json", "_slices.csv")
ALL_SUFFIXES = tuple(dict.fromkeys((*SEGMENT_SUFFIXES, *CLASSIFY_SUFFIXES)))
"""What outputs of a case are called. The record comes first: it is the first to go."""


@runtime_checkable
class ScanModel(Protocol):
    """What a run needs of a `Segmenter` or a `MaskSegmenter`."""

    @property
    def device(self) -> torch.device: ...

    @property
    def batch_size(self) -> int: ...

    @property
    def settings(self) -> dict[str, Any]: ...

    def use_less_memory(self, *, allow_cpu: bool) -> str | None: ...


@runtime_checkable
class SegmentsScans(ScanModel, Protocol):
    """What it can do where masks are asked for."""

    def segment(self, scan: Path | DicomSeries) -> SegmentationResult: ...


@runtime_checkable
class ClassifiesScans(ScanModel, Protocol):
    """What it can do where probabilities are asked for."""

    def classify(self, scan: Path | DicomSeries) -> ClassificationResult: ...


Model = TypeVar("Model", bound=ScanModel)
Analyse = Callable[[Model, Case], tuple[Record, Callable[[], None]]]
"""A case -> what its record says, and how to write its other files."""


@dataclass(frozen=True)
class CaseWork(Generic[Model]):
    """What is done with each case of a run. It goes to another process whole.

    Attributes:
        command: `segment` or `classify`.
        model: a `Segmenter`, or what behaves like one.
        folder: where the outputs go.
        suffixes: what an output of the command may add to the case's name.
        analyse: the command itself.
        options: which outputs are asked for.
        resume: whether a case that is done already is left alone.
        oom: what follows where the device has no memory for one window per pass: the case fails, or goes to the CPU.
    """

    command: str
    model: Model
    folder: Path
    suffixes: tuple[str, ...]
    analyse: Analyse[Model]
    options: dict[str, bool]
    resume: bool
    oom: Literal["halve", "cpu"]

    def __call__(self, case: Case) -> Record:
        """Work on a case to its end; for what is raised see `look`, whose write this does at once."""
        return self.look(case)()

    def look(self, case: Case) -> Callable[[], Record]:
        """Find out all about a case. What an earlier run left of it goes first: no old mask outlives a refusal. But a
        mask or DICOM SEG that somebody has changed since is no longer the run's: it is kept under another name.

        What the other command made of the same bytes stays, and the record goes on vouching for it; of other bytes, it
        goes too.

        Returns:
            How to write the outputs and, last, the record, which it returns; it raises OutputError where they cannot be
            written, and leaves none. Of a case that is done already it returns the record that is there.

        Raises:
            OutputError: where what an earlier run left cannot be removed.
        """
        done = self.done(case)
        if done is not None:
            return lambda: done
        header = self.header(case, _sha256(case))
        earlier = own_record(self._path(case, ".json"))
        same_input = earlier.get("input_sha256", header["input_sha256"]) == header["input_sha256"]
        others = self._of_the_other_command(case, earlier) if same_input else {}
        self._replace(case, earlier, self.suffixes if same_input else ALL_SUFFIXES)
        try:
            found, write = self._analysed(case)
        except Exception as error:  # noqa: BLE001 - one bad case must not end the others
            found, write = self._failure(case, error), _write_nothing
        for warning in found.get("warnings", ()):
            log.warning("%s: %s", case.path, warning)
        return lambda: self._written(case, header, found, write, others)

    def done(self, case: Case) -> Record | None:
        """The record of a case that is to be left alone: of just this input and these settings, all its files whole.

        It may say that the scan was refused. What failed for another reason is not done: it may go well the next time.
        None too where nothing is left alone.
        """
        earlier = own_record(self._path(case, ".json")) if self.resume else {}
        if (
            earlier.get("status") in ("ok", "refused")
            and is_of_run(earlier, self.header(case, None))
            and is_sealed(earlier)
            and self._own(case, earlier["outputs"]) == self._output_hashes(case)
            and earlier["input_sha256"] is not None
            and earlier["input_sha256"] == _sha256(case)
        ):
            log.info("%s: done already", case.name)
            return earlier
        return None

    def failed(self, case: Case, error: Exception) -> Record:
        """Put on record that a case could not be worked on to its end, and remove what this command made of it.

        Raises:
            OutputError: where that cannot be written.
        """
        earlier = own_record(self._path(case, ".json"))
        others = self._of_the_other_command(case, earlier)
        self._replace(case, earlier, self.suffixes)
        return self._written(case, self.header(case, None), self._failure(case, error), _write_nothing, others)

    def of_other_process(self, case: Case) -> Record | None:
        """What another process has put on record of a case in this run; None where there is nothing, or nothing true.

        The input is read again only where it is younger than the record.
        """
        path = self._path(case, ".json")
        found = own_record(path)
        if not is_of_run(found, self.header(case, None)) or not is_sealed(found):
            return None
        files = {case.path} if case.series is None else {file.path for file in case.series.files}
        try:
            is_older = max(file.stat().st_mtime_ns for file in files) < path.stat().st_mtime_ns
        except OSError:
            return None
        return found if is_older or found["input_sha256"] == _sha256(case) else None

    def _replace(self, case: Case, earlier: Record, suffixes: Sequence[str]) -> None:
        """Remove outputs of a case, but for a mask or DICOM SEG that somebody has changed.

        Raises:
            OutputError: where that is not permitted.
        """
        for suffix in (suffix for suffix in (MASK_SUFFIX, SEG_SUFFIX) if suffix in suffixes):
            self._set_aside_what_was_changed(self._path(case, suffix), earlier)
        self.clear(case, suffixes)

    def clear(self, case: Case, suffixes: Sequence[str]) -> None:
        """Remove outputs of a case.

        Raises:
            OutputError: where that is not permitted.
        """
        for path in (self._path(case, suffix) for suffix in suffixes):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise OutputError(f"{path}: expected to replace it; got '{error.strerror}'; name another") from error

    def _set_aside_what_was_changed(self, path: Path, earlier: Record) -> None:
        """Keep an outline that can be read, but is not the one that the record vouches for: work of somebody's hands.

        Where there is no record, work was broken off, and what lies there is ours.

        Raises:
            OutputError: where that is not permitted.
        """
        outputs = earlier.get("outputs")
        written = outputs.get(path.name) if isinstance(outputs, dict) else None
        if not earlier or file_sha256(path) in {None, written} or not _is_readable(path):
            return
        kept = set_aside(path, (f"{path.name}.changed{n or ''}" for n in count()))
        log.warning("%s was changed since hgisam wrote it: kept as %s", path, kept.name)

    def clear_unrecorded(self, case: Case) -> None:
        """Remove outputs of a case on which work was broken off: those that no record vouches for."""
        if not self._path(case, ".json").exists():
            self.clear(case, self.suffixes)

    def header(self, case: Case, input_sha256: str | None) -> Record:
        """What the record of a case begins with."""
        settings = self.model.settings
        record = case_record(self.command, case.name, case.path, input_sha256, settings, self.options)
        return record | {"settings": settings} | dicom_record(case.series)

    def _analysed(self, case: Case) -> tuple[Record, Callable[[], None]]:
        """The command's result; with less memory per pass where the device has too little, and then that is said."""
        relief = None
        while True:
            try:
                found, write = self.analyse(self.model, case)
            except torch.OutOfMemoryError:
                device = self.model.device
                relief = self.model.use_less_memory(allow_cpu=self.oom == "cpu")
                if relief is None:
                    raise
                log.warning("%s: %s is out of memory; from here on: %s", case.path, device, relief)
                continue
            used = {"device": str(self.model.device), "batch_size": self.model.batch_size}
            if relief is not None:
                found["warnings"].append(f"the device ran out of memory; done with {relief}")
            return found | used, write

    def _written(
        self, case: Case, header: Record, found: Record, write: Callable[[], None], others: dict[str, str]
    ) -> Record:
        """Write the files and then the record: all of them, or none. `others` are what the other command left."""
        begun = time.perf_counter()
        try:
            write()
        except OutputError:
            self.clear(case, self.suffixes)
            raise
        except Exception as error:  # noqa: BLE001
            self.clear(case, self.suffixes)
            found = self._failure(case, error)
        record = header | found
        if record["status"] == "ok":
            record["timings_s"] = record["timings_s"] | {"write": round(time.perf_counter() - begun, 4)}
        record = sealed(record | {"outputs": others | self._output_hashes(case)})
        try:
            write_json(self._path(case, ".json"), record)
        except OutputError:
            self.clear(case, self.suffixes)
            raise
        log.info("%s: %s, probability %s", case.name, record["status"], record["probability"])
        return record

    def _failure(self, case: Case, error: Exception) -> Record:
        """Say on stderr why a case gives no result, and what its record says of it."""
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

    def _output_hashes(self, case: Case) -> dict[str, str]:
        """sha256 of each file of the case that is there, by its name, besides the record."""
        paths = [self._path(case, suffix) for suffix in self.suffixes if suffix != ".json"]
        return {path.name: found for path in paths if (found := file_sha256(path)) is not None}

    def _own(self, case: Case, outputs: dict[str, str]) -> dict[str, str]:
        """Of files that a record vouches for, those of this command."""
        own = {self._path(case, suffix).name for suffix in self.suffixes}
        return {name: sha256 for name, sha256 in outputs.items() if name in own}

    def _of_the_other_command(self, case: Case, earlier: Record) -> dict[str, str]:
        """Files that an earlier record vouches for and this command does not make, as that record has them."""
        if not is_sealed(earlier):
            return {}
        own = self._own(case, earlier["outputs"])
        return {name: sha256 for name, sha256 in earlier["outputs"].items() if name not in own}

    def _path(self, case: Case, suffix: str) -> Path:
        return self.folder / f"{case.name}{suffix}"


def _write_nothing() -> None:
    """What a case without a result has to write besides its record."""


def _is_readable(path: Path) -> bool:
    """Whether a file holds an image, of whatever numbers; of DICOM, whether it is any."""
    if path.suffix == ".dcm":
        return kind_of_file(path) == "dicom"
    for form in FORMS:
        with suppress(ScanRefused):
            read_ct(path, choice=Choice(0, form, picture=True))
            return True
    return False


def _sha256(case: Case) -> str | None:
    """sha256 of a file's bytes, or over those of a series; None where one cannot be read."""
    return file_sha256(case.path) if case.series is None else case.series.sha256()
