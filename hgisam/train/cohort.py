"""Labelled scans and the patients they come from: what training learns from, with no voxel decoded until asked for."""

import hashlib
import logging
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from hgisam.io.dicom import read_readable_slices, read_slices
from hgisam.io.errors import ScanRefused
from hgisam.io.nifti import read_ct, read_labels, read_mask
from hgisam.labels import ANY_COLUMN, Subtype
from hgisam.volume import CTVolume, MaskVolume
from hgisam.wording import counted

log = logging.getLogger(__name__)

N_EXAMPLES = 5
"""So many examples of each trouble are kept."""

UNKNOWN = 2
"""In a mask of our own: whether there is blood, nobody can say."""


class CohortRefused(ScanRefused):
    """A folder of scans and labels that cannot be trusted as a whole. Its text is one line."""


class Trouble(StrEnum):
    """What can be wrong with a part of a cohort, and what is done about it."""

    MISSING_FILE = "labelled, but there is no file: left out"
    UNLABELLED_FILE = "a file without labels: left out"
    UNUSABLE_FILE = "a file that cannot be used: left out"
    MISSING_REFERENCE = "a scan without its reference mask: kept, by its labels"
    UNUSABLE_REFERENCE = "a reference mask that is damaged or of another grid: ignored, the scan kept by its labels"
    UNLABELLED_SLICE = "a slice without labels: kept, its labels unknown"
    OUTSIDE = "labels of a slice that the file does not have: ignored"
    MALFORMED = "a row that cannot be read: ignored"
    DUPLICATE = "a row repeated with the same labels: counted once"
    DISAGREEING = "a slice labelled twice, differently: its labels unknown"
    CONTRADICTING = "a subtype where there is not any, or any without a subtype: its labels unknown"
    BRAINLESS = "a positive slice in which no brain was found: left out"
    LITTLE_BRAIN = "a positive slice with less brain than sampling.min_region_mm2: it teaches nobody"
    UNREADABLE_SLICE = "a slice that cannot be decoded: left out, the rest of its scan kept"
    UNEVEN = "slices unevenly spaced: kept, each where it lies"
    WRAPPED = "negative HU stored as unsigned 12 bit: put right"

    @property
    def is_loss(self) -> bool:
        """Whether files, slices, masks or labels that are there go unused; else they are kept or put right."""
        kept = {Trouble.MISSING_REFERENCE, Trouble.UNLABELLED_SLICE, Trouble.DUPLICATE, Trouble.UNEVEN, Trouble.WRAPPED}
        return self not in kept


@dataclass(frozen=True)
class Finding:
    """One kind of trouble in a cohort.

    Attributes:
        trouble: what is wrong, and what was done.
        count: how often; rows, slices, scans or files, as the trouble's text has it.
        examples: the first few, with the reason where one is known.
    """

    trouble: Trouble
    count: int
    examples: tuple[str, ...]

    def __str__(self) -> str:
        more = ", ..." if self.count > len(self.examples) else ""
        return f"{self.count:,} x {self.trouble} ({'; '.join(self.examples)}{more})"


class Findings:
    """Gathers trouble while a cohort is read, so that all of it is known before training starts."""

    def __init__(self) -> None:
        self._counts: Counter[Trouble] = Counter()
        self._examples: dict[Trouble, list[str]] = {}

    def add(self, trouble: Trouble, example: str) -> None:
        """Note one more case of a trouble."""
        self._counts[trouble] += 1
        if self._counts[trouble] <= N_EXAMPLES:
            self._examples.setdefault(trouble, []).append(example)

    def found(self) -> tuple[Finding, ...]:
        """All that was found, in the order of `Trouble`. Empty where there was none."""
        return tuple(Finding(t, self._counts[t], tuple(self._examples[t])) for t in Trouble if self._counts[t])


@dataclass(frozen=True)
class NiftiFile:
    """A scan's voxels in a NIfTI file."""

    path: Path

    @property
    def files(self) -> tuple[Path, ...]:
        """What the voxels are read from."""
        return (self.path,)

    def load(self) -> CTVolume:
        """Read the scan.

        Raises:
            ScanRefused: as `hgisam.io.nifti.read_ct`.
        """
        return read_ct(self.path)[0]

    def load_readable(self) -> tuple[CTVolume, dict[int, str]]:
        """The same: of a NIfTI file, all slices can be read or none.

        Raises:
            ScanRefused: likewise.
        """
        return self.load(), {}


@dataclass(frozen=True)
class DicomFiles:
    """A scan's voxels in DICOM files, one for each slice.

    Attributes:
        folder: where they lie.
        names: their names, the lowest slice first.
        source: a name for errors.
    """

    folder: Path
    names: tuple[str, ...]
    source: str

    @property
    def files(self) -> tuple[Path, ...]:
        """What the voxels are read from, the lowest slice first."""
        return tuple(self.folder / name for name in self.names)

    def load(self) -> CTVolume:
        """Read the scan.

        Raises:
            ScanRefused: as `hgisam.io.dicom.read_slices`.
        """
        return read_slices(self.files, self.source)

    def load_readable(self) -> tuple[CTVolume, dict[int, str]]:
        """Read what can be read of the scan, and tell why the slices of other indices cannot.

        Raises:
            ScanRefused: as `hgisam.io.dicom.read_readable_slices`.
        """
        return read_readable_slices(self.files, self.source)


@dataclass(frozen=True, eq=False)
class LabelledScan:
    """A scan and what is known of its slices, lowest first: row d speaks of slice d of `load()`.

    Attributes:
        name: unique in a cohort.
        patient: whose scan it is, as outputs may name them; patients, not scans, are the unit of every split.
        voxels: where its voxels come from.
        labels: which of `hgisam.labels.Subtype` each slice shows; False where unknown.
        known: of which that is known.
        reference: a NIfTI file with the blood marked on the scan's grid, any value above 0; None where there is none.
        own_mask: likewise what weak methods of ours say of it: 0 no blood, 1 blood, UNKNOWN where nothing is said.
    """

    name: str
    patient: str
    voxels: NiftiFile | DicomFiles
    labels: Bool[Tensor, "slices 6"]
    known: Bool[Tensor, "slices 6"]
    reference: Path | None = None
    own_mask: Path | None = None

    @property
    def n_slices(self) -> int:
        """How many slices the scan has."""
        return len(self.labels)

    @property
    def positive(self) -> Bool[Tensor, " slices"]:
        """Slices known to show any hemorrhage."""
        return self.labels[:, ANY_COLUMN]

    @property
    def negative(self) -> Bool[Tensor, " slices"]:
        """Slices known to show none. One that is neither is unknown."""
        return self.known[:, ANY_COLUMN] & ~self.labels[:, ANY_COLUMN]

    def load(self) -> CTVolume:
        """Decode the voxels.

        Raises:
            ScanRefused: where they cannot be read, or are not as many slices as there are rows of labels.
        """
        volume = self.voxels.load()
        self._check_count(len(volume.hu))
        return volume

    def load_readable(self) -> tuple[CTVolume, dict[int, str]]:
        """Decode the voxels of the slices that can be decoded, and tell why those of other indices cannot.

        Raises:
            ScanRefused: where none can, or there are not as many slices as there are rows of labels.
        """
        volume, unreadable = self.voxels.load_readable()
        self._check_count(len(volume.hu) + len(unreadable))
        return volume, unreadable

    def _check_count(self, n_slices: int) -> None:
        if n_slices != self.n_slices:
            raise ScanRefused(
                f"{self.name}: expected {self.n_slices} slices; got {n_slices}; the file was changed after its"
                " labels were read: start again"
            )

    def without_labels_of(self, slices: Collection[int]) -> "LabelledScan":
        """The same scan, nothing known of some of its slices."""
        if not slices:
            return self
        rows = torch.tensor(sorted(slices), dtype=torch.int64)
        labels, known = (table.index_fill(0, rows, value=False) for table in (self.labels, self.known))
        return replace(self, labels=labels, known=known)

    def load_reference(self) -> MaskVolume | None:
        """Decode the reference mask; None where there is none. Whether it fits the scan is for the caller to check.

        Raises:
            ScanRefused: where it cannot be read.
        """
        return None if self.reference is None else read_mask(self.reference)[0]

    def load_own_mask(self) -> UInt8[Tensor, "slices height width"] | None:
        """Decode our own mask; None where there is none.

        Raises:
            ScanRefused: where it cannot be read.
        """
        return None if self.own_mask is None else read_labels(self.own_mask)[0]


@dataclass(frozen=True, eq=False)
class Cohort:
    """Scans with labels, and what was wrong with the rest.

    Attributes:
        layout: how the folder was laid out.
        scans: sorted by name; each name once.
        findings: what was left out or put right, with counts.
    """

    layout: str
    scans: tuple[LabelledScan, ...]
    findings: tuple[Finding, ...] = ()

    def __post_init__(self) -> None:
        names = [scan.name for scan in self.scans]
        if names != sorted(set(names)):
            raise ValueError(f"{self.layout}: expected scans sorted by name, each name once; got {names[:5]} ...")

    @cached_property
    def patients(self) -> tuple[str, ...]:
        """Every patient once, sorted."""
        return tuple(sorted({scan.patient for scan in self.scans}))

    @property
    def tells_patients(self) -> bool:
        """Whether any scan's patient is known by more than the scan's own name."""
        return any(scan.patient != scan.name for scan in self.scans)

    @cached_property
    def patient_subtypes(self) -> Bool[Tensor, "patients 6"]:
        """Which subtypes are known to show in any slice of each patient, in the order of `patients`."""
        rows = {patient: row for row, patient in enumerate(self.patients)}
        shown = torch.zeros(len(rows), len(Subtype), dtype=torch.bool)
        for scan in self.scans:
            shown[rows[scan.patient]] |= scan.labels.any(dim=0)
        return shown

    @cached_property
    def untold(self) -> frozenset[Subtype]:
        """Subtypes that labels do not tell apart in slices with blood: where they say only yes, or nothing.

        A subtype that every such slice is known to show is told. None is untold where no slice has blood.
        """
        positive = torch.cat([torch.zeros(0, dtype=torch.bool), *(scan.positive for scan in self.scans)])
        none = torch.zeros(0, len(Subtype), dtype=torch.bool)
        known = torch.cat([none, *(scan.known for scan in self.scans)])[positive]
        shown = torch.cat([none, *(scan.labels for scan in self.scans)])[positive]
        told = (known & ~shown).any(dim=0) | known.all(dim=0)
        return frozenset(subtype for subtype, is_told in zip(Subtype, told.tolist(), strict=True) if not is_told)

    @cached_property
    def sha256(self) -> str:
        """A hash of who is in the cohort and of every label, the same wherever the folder lies."""
        digest = hashlib.sha256()
        for scan in self.scans:
            digest.update(repr((scan.name, scan.patient, scan.n_slices)).encode())
            digest.update(scan.labels.numpy().tobytes())
            digest.update(scan.known.numpy().tobytes())
        return digest.hexdigest()

    def of(self, patients: Collection[str]) -> tuple[LabelledScan, ...]:
        """The scans of some patients.

        Raises:
            ValueError: where one of them is not in the cohort.
        """
        wanted = set(patients)
        strangers = wanted - set(self.patients)
        if strangers:
            raise ValueError(f"expected patients of this cohort; got {len(strangers)} others, {min(strangers)} first")
        return tuple(scan for scan in self.scans if scan.patient in wanted)

    def without_references(self) -> "Cohort":
        """The same scans and labels, and no reference mask: for what must not learn from one."""
        blind = tuple(replace(scan, reference=None) for scan in self.scans)
        return Cohort(self.layout, blind, self.findings)

    def log_summary(self) -> None:
        """Log the summary: what goes unused as warnings."""
        for line in self._counts():
            log.info("%s", line)
        for finding in self.findings:
            log.log(logging.WARNING if finding.trouble.is_loss else logging.INFO, "%s", finding)

    def summary(self) -> str:
        """Scans, patients, slices and subtypes in numbers, then one line for each kind of trouble."""
        return "\n".join([*self._counts(), *map(str, self.findings)])

    def _counts(self) -> list[str]:
        """Scans, patients, slices and subtypes in numbers."""
        slices = Counter[str]()
        for scan in self.scans:
            slices["all"] += scan.n_slices
            slices["negative"] += int(scan.negative.sum())
            slices.update(dict(zip(Subtype, scan.labels.sum(dim=0).tolist(), strict=True)))
        of_patients = dict(zip(Subtype, self.patient_subtypes.sum(dim=0).tolist(), strict=True))
        n_unknown = slices["all"] - slices["negative"] - slices[Subtype.ANY]
        return [
            f"{self.layout}: {counted(len(self.scans), 'scan')} of {counted(len(self.patients), 'patient')},"
            f" {counted(slices['all'], 'slice')}:"
            f" {slices[Subtype.ANY]:,} positive, {slices['negative']:,} negative, {n_unknown:,} unknown",
            *(
                f"{s}: {counted(slices[s], 'slice')} of {counted(of_patients[s], 'patient')}"
                if slices[s] or s not in self.untold
                else f"{s}: not told"
                for s in Subtype
            ),
        ]


def sorted_scans(scans: Sequence[LabelledScan]) -> tuple[LabelledScan, ...]:
    """Scans by name, as a cohort wants them."""
    return tuple(sorted(scans, key=lambda scan: scan.name))
