"""Prepared scans: decoded and laid on the network's canvas once, kept on disk, and mapped into memory from there.

A cache folder holds two files for each scan: `KEY.npy`, one record per slice, and `KEY.json`, which is written last and
says what the first is, or why there is none. A scan's key follows from its name and files; the folder's name from the
code, and from the settings that what is kept depends on: those of the network's channels, which are made of it as it is
shown, are no part of it. So nothing in a folder is ever changed, many processes may fill it, and a stop loses one
scan's work.
"""

import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from jaxtyping import Bool, Float, Int16, Int64
from numpy.typing import NDArray
from pydantic import BaseModel
from torch import Tensor

from hgisam.brain import BrainOptions, brain_median_hu, intracranial_region, midsagittal_line
from hgisam.evaluate.scored import ScoredSlices
from hgisam.io.atomic import atomic_write, make_output_folder
from hgisam.io.digest import code_sha256
from hgisam.io.errors import ScanRefused
from hgisam.io.space import ensure_free_space
from hgisam.io.tables import write_json
from hgisam.labels import Subtype
from hgisam.phantom import PhantomOptions, make_phantom, slice_labels
from hgisam.plausibility import check_hu
from hgisam.preprocess import PreprocessOptions, preprocess
from hgisam.processes import in_order, one_thread
from hgisam.train.cohort import UNKNOWN, Cohort, DicomFiles, Finding, Findings, LabelledScan, NiftiFile, Trouble
from hgisam.volume import CTVolume

log = logging.getLogger(__name__)

HU_STEP = 0.25
"""Prepared HU are stored as int16 in steps of this: below the noise of any scan."""

MAX_MAPPED = 1024
"""So many scans' files are mapped at a time; a system allows some 65,000 mappings."""

_SHOWN = {
    "channels", "relative_range_hu", "mirror_channel", "mirror_clip_hu", "mirror_smoothing_mm", "skull_channel",
    "neighbours", "mask_outside", "mask_margin_mm",
}  # fmt: skip
"""Settings of `PreprocessOptions` that say what the network is shown of HU and region, which are kept alike for all."""

SCAN_CODE = (
    "brain/*.py", "io/*.py", "limits.py", "plausibility.py", "preprocess.py", "train/cohort.py", "train/prepared.py",
    "volume.py", "wording.py",
)  # fmt: skip
"""What reads, refuses and prepares a scan."""

HEADER_CODE = ("io/dicom*.py", "limits.py", "train/layouts/pseudonym.py", "train/layouts/rsna.py")
"""What reads and refuses the headers of single slices."""

PHANTOM_CODE = (
    "brain/*.py", "labels.py", "phantom/*.py", "phantom/data/*", "preprocess.py", "train/prepared.py", "volume.py",
    "wording.py",
)  # fmt: skip
"""What makes and prepares a phantom."""

_FORMAT = 4

_BRAIN_MM = 150
"""So high a brain is, at most; a phantom of more slices has none in them."""

_SURE = 4
"""One slice in so many is sure to take its room; as a rule more than nine of ten show brain, and are kept (of CT-ICH 92
%, of phantoms 95 %). Scans may begin at the neck or be refused, and a file system may compress what is kept to 0.29."""


@dataclass(frozen=True, eq=False)
class PreparedScan:
    """The slices of one scan that show brain, on the network's canvas. Tensors may lie on disk: do not write to them.

    Attributes:
        name: of the scan.
        relative_hu: HU minus the scan's brain median, in steps of HU_STEP.
        median_hu: the scan's brain median.
        region: the intracranial region.
        blood: where there is blood, exact for phantoms; nowhere where the scan has no mask.
        slices: index of each slice in the scan.
        positions_mm: how far each slice lies from the scan's first that can be read.
        labels: which of `hgisam.labels.Subtype` each slice shows; None where only `blood` tells.
        known: of which labels that is known; None likewise.
        has_reference: whether `blood` is what a reference mask shows.
        certain: where a mask of our own, which `blood` then is, says anything; None of all other scans.
    """

    name: str
    relative_hu: Int16[Tensor, "slices height width"]
    median_hu: float
    region: Bool[Tensor, "slices height width"]
    blood: Bool[Tensor, "slices height width"]
    slices: list[int]
    positions_mm: list[float]
    labels: Bool[Tensor, "slices 6"] | None = None
    known: Bool[Tensor, "slices 6"] | None = None
    has_reference: bool = True
    certain: Bool[Tensor, "slices height width"] | None = None


@dataclass(frozen=True, eq=False)
class SliceIndex:
    """What a sampler must know of every prepared slice, without a look at its pixels.

    Attributes:
        scan: which scan of the cohort it is of.
        row: which of that scan's prepared slices it is.
        labels: which subtypes it shows, in the order of `hgisam.labels.Subtype`.
        known: of which that is known.
        brain_mm2: area of the intracranial region.
        blood_mm2: area of blood in the mask; NaN where the scan has none, and where our own says nothing of the slice.
    """

    scan: Int64[Tensor, " n"]
    row: Int64[Tensor, " n"]
    labels: Bool[Tensor, "n 6"]
    known: Bool[Tensor, "n 6"]
    brain_mm2: Float[Tensor, " n"]
    blood_mm2: Float[Tensor, " n"]


class PreparedScans(Sequence[PreparedScan]):
    """The prepared scans of a cohort, each mapped from disk when it is asked for.

    Small to keep and to send to another process, whatever the number of slices: pixels stay on disk.

    Attributes:
        scans: the labelled scans that could be prepared, in the cohort's order; the i-th item is the i-th of them.
            Nothing is known of slices that could not be decoded: whatever their labels said, nobody sees them.
        refused: name and reason of those that could not.
    """

    def __init__(self, folder: Path, keys: Sequence[str], scans: Sequence[LabelledScan], spacing_mm: float) -> None:
        """Look up what is in a cache.

        Args:
            folder: the cache, filled.
            keys: what each scan is kept under.
            scans: all scans of the cohort.
            spacing_mm: of the canvas.

        Raises:
            FileNotFoundError: where a scan has not been prepared yet.
        """
        self._folder, self._spacing_mm = folder, spacing_mm
        found = [(scan, key, _read_record(folder, key)) for scan, key in zip(scans, keys, strict=True)]
        self.refused = tuple((scan.name, str(record["refused"])) for scan, _, record in found if record["refused"])
        kept = [(scan, key, record) for scan, key, record in found if not record["refused"]]
        self.scans = tuple(scan.without_labels_of([i for i, _ in record["unreadable"]]) for scan, _, record in kept)
        self._keys = tuple(key for _, key, _ in kept)
        self._records = tuple(record for _, _, record in kept)

    def __len__(self) -> int:
        return len(self.scans)

    @overload
    def __getitem__(self, index: int) -> PreparedScan: ...
    @overload
    def __getitem__(self, index: slice) -> list[PreparedScan]: ...
    def __getitem__(self, index: int | slice) -> PreparedScan | list[PreparedScan]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        scan, record = self.scans[index], self._records[index]
        rows = torch.tensor(record["slices"])
        return _mapped_scan(self._folder, self._keys[index], scan.name, record, scan.labels[rows], scan.known[rows])

    @cached_property
    def slice_index(self) -> SliceIndex:
        """Every prepared slice, in the order of scans and slices."""
        pixel_mm2 = self._spacing_mm**2
        n_slices = torch.tensor([len(record["slices"]) for record in self._records], dtype=torch.int64)
        rows = [torch.tensor(record["slices"], dtype=torch.int64) for record in self._records]
        labels = [scan.labels[shown] for scan, shown in zip(self.scans, rows, strict=True)]
        known = [scan.known[shown] for scan, shown in zip(self.scans, rows, strict=True)]
        areas_px = [
            [math.nan if pixels is None else pixels for record in self._records for pixels in record[kind]]
            for kind in ("brain_px", "blood_px")
        ]
        none = torch.zeros(0, len(Subtype), dtype=torch.bool)
        return SliceIndex(
            scan=torch.repeat_interleave(torch.arange(len(self)), n_slices),
            row=torch.cat([torch.zeros(0, dtype=torch.int64), *(torch.arange(len(shown)) for shown in rows)]),
            labels=torch.cat([none, *labels]),
            known=torch.cat([none, *known]),
            brain_mm2=torch.tensor(areas_px[0], dtype=torch.float32) * pixel_mm2,
            blood_mm2=torch.tensor(areas_px[1], dtype=torch.float32) * pixel_mm2,
        )

    def scored(self, probabilities: Float[Tensor, " n"]) -> ScoredSlices:
        """All slices of all scans with what was said of those prepared; the others show no brain and get 0.

        Args:
            probabilities: in the order of `slice_index`.
        """
        n_slices = [scan.n_slices for scan in self.scans]
        first = torch.tensor([0, *n_slices]).cumsum(0)
        none = torch.zeros(0, dtype=torch.int64)
        prepared = [torch.tensor(r["slices"]).long() + first[k] for k, r in enumerate(self._records)]
        has_brain = torch.zeros(sum(n_slices), dtype=torch.bool)
        of_all = torch.zeros(sum(n_slices), dtype=probabilities.dtype)
        rows = torch.cat([none, *prepared])
        has_brain[rows] = True
        of_all[rows] = probabilities
        unlabelled = torch.zeros(0, len(Subtype), dtype=torch.bool)
        return ScoredSlices(
            patients=tuple(scan.patient for scan in self.scans for _ in range(scan.n_slices)),
            scans=tuple(scan.name for scan in self.scans for _ in range(scan.n_slices)),
            slices=torch.cat([none, *map(torch.arange, n_slices)]),
            has_brain=has_brain,
            labels=torch.cat([unlabelled, *(scan.labels for scan in self.scans)]),
            known=torch.cat([unlabelled, *(scan.known for scan in self.scans)]),
            probabilities=of_all,
        )

    def slice_name(self, scan: int, row: int) -> str:
        """What one of a scan's prepared slices is called in messages, without a look at its pixels."""
        return f"{self.scans[scan].name} slice {self._records[scan]['slices'][row]}"

    def n_patients(self, scans: Int64[Tensor, " n"]) -> int:
        """How many patients some of the scans, by their numbers, are of."""
        return len({self.scans[scan].patient for scan in set(scans.tolist())})

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        """What of the cohort could not be prepared: scans, slices of others, and positive slices without brain."""
        found = Findings()
        for name, reason in self.refused:
            found.add(Trouble.UNUSABLE_FILE, f"{name}: {reason}")
        for scan, record in zip(self.scans, self._records, strict=True):
            for index, reason in record["unreadable"]:
                found.add(Trouble.UNREADABLE_SLICE, f"{scan.name} slice {index}: {reason}")
            shown = set(record["slices"])
            for index in torch.nonzero(scan.positive).flatten().tolist():
                if index not in shown:
                    found.add(Trouble.BRAINLESS, f"{scan.name} slice {index}")
        return found.found()


def prepare_cohort(
    cohort: Cohort, brain: BrainOptions, preprocessing: PreprocessOptions, cache: Path, workers: int
) -> PreparedScans:
    """Every scan of a cohort, decoded and prepared once and kept in a cache folder.

    A scan that cannot be used (damaged, not in HU, no head) is refused once, with its reason, and left out. Where each
    slice has a file, one that is damaged costs that slice.

    Args:
        cohort: the scans.
        brain: how the intracranial region is found.
        preprocessing: the canvas.
        cache: where prepared scans are kept; a folder for this canvas is made in it.
        workers: processes that prepare; 1 or less prepares here.

    Raises:
        OutputError: where the cache cannot be written, or its disk has no room for what is not in it yet.
    """
    folder = _place_in(cache, SCAN_CODE, [_dumped(brain), _canvas_of(preprocessing)])
    keys = [key_of_files(scan) for scan in cohort.scans]
    new = [(key, scan) for key, scan in zip(keys, cohort.scans, strict=True) if not _record_path(folder, key).is_file()]
    jobs = [
        (folder, key, scan.name, scan.voxels, scan.reference, scan.own_mask, scan.n_slices, brain, preprocessing)
        for key, scan in new
    ]
    n_bytes = sum(scan.n_slices * _bytes_of_slice(preprocessing, _n_masks(scan)) for _, scan in new)
    _make_room(cache, folder, n_bytes)
    _run_all(_prepare_scan_into, jobs, workers)
    prepared = PreparedScans(folder, keys, cohort.scans, preprocessing.spacing_mm)
    for finding in prepared.findings:
        log.warning("%s", finding)
    return prepared


def prepare_phantoms(
    seeds: range,
    phantom: PhantomOptions,
    brain: BrainOptions,
    preprocessing: PreprocessOptions,
    cache: Path,
    workers: int,
) -> list[PreparedScan]:
    """Many phantoms, each made and prepared once and kept in a cache folder. The rest as for `prepare_cohort`."""
    folder = _place_in(cache, PHANTOM_CODE, [_dumped(phantom), _dumped(brain), _canvas_of(preprocessing)])
    jobs = [
        (folder, str(seed), seed, phantom, brain, preprocessing)
        for seed in seeds
        if not _record_path(folder, str(seed)).is_file()
    ]
    n_slices = len(jobs) * min(phantom.n_slices, math.ceil(_BRAIN_MM / phantom.slice_mm))
    _make_room(cache, folder, n_slices * _bytes_of_slice(preprocessing, 1))
    _run_all(_prepare_phantom_into, jobs, workers)
    records = [_read_record(folder, str(seed)) for seed in seeds]
    labels = [torch.tensor(record["labels"], dtype=torch.bool).reshape(-1, len(Subtype)) for record in records]
    return [
        _mapped_scan(folder, str(seed), str(seed), record, shown, torch.ones_like(shown))
        for seed, record, shown in zip(seeds, records, labels, strict=True)
    ]


def prepare_phantom(
    seed: int, phantom: PhantomOptions, brain: BrainOptions, preprocessing: PreprocessOptions
) -> PreparedScan:
    """One phantom on the network's canvas."""
    made = make_phantom(seed, phantom)
    present = [[row.present[subtype] for subtype in Subtype] for row in slice_labels(made)]
    scan = prepare_scan(f"{seed}", made.ct, made.labels > 0, brain, preprocessing)
    labels = torch.tensor(present)[scan.slices]
    return replace(scan, labels=labels, known=torch.ones_like(labels))


def prepare_scan(
    name: str,
    ct: CTVolume,
    blood: Bool[Tensor, "depth height width"] | None,
    brain: BrainOptions,
    preprocessing: PreprocessOptions,
    certain: Bool[Tensor, "depth height width"] | None = None,
) -> PreparedScan:
    """A scan and its known blood on the network's canvas; slices without brain are left out.

    A canvas that has grown beyond the network's field of view is cut to its middle, since batches need one size.

    Args:
        name: of the scan.
        ct: the scan.
        blood: its reference mask; None where there is none.
        brain: how the intracranial region is found.
        preprocessing: the canvas.
        certain: where the mask, being our own, says anything; None of a reference mask.

    Raises:
        ValueError: where no brain is found.
    """
    region = intracranial_region(ct, brain)
    slices = torch.nonzero(region.any(dim=2).any(dim=1)).flatten().tolist()
    median_hu = brain_median_hu(ct, region)
    batch = preprocess(ct, region, midsagittal_line(ct, region, brain), median_hu, preprocessing)
    hu, region = (_centre(planes[slices], preprocessing.fov_px) for planes in (batch.relative_hu, batch.region))
    relative = (hu.clamp(-1024, 3071) / HU_STEP).round().to(torch.int16)
    positions = ct.slice_distances_mm[slices].tolist()
    if blood is None:
        nowhere = _nowhere(region.shape)
        return PreparedScan(name, relative, median_hu, region, nowhere, slices, positions, has_reference=False)

    def on_canvas(mask: Tensor) -> Tensor:
        return _centre(batch.to_canvas(mask.float())[slices], preprocessing.fov_px) >= 0.5

    scan = PreparedScan(name, relative, median_hu, region, on_canvas(blood), slices, positions)
    return scan if certain is None else replace(scan, has_reference=False, certain=on_canvas(certain))


def _centre(planes: Tensor, fov_px: int) -> Tensor:
    """The middle fov_px x fov_px of planes [slices, rows, columns] that are at least as large."""
    top, left = ((size - fov_px) // 2 for size in planes.shape[1:])
    return planes[:, top : top + fov_px, left : left + fov_px].contiguous()


def _nowhere(shape: tuple[int, ...]) -> Bool[Tensor, "slices height width"]:
    """A mask of nothing that takes no memory."""
    return torch.zeros(1, 1, 1, dtype=torch.bool).expand(shape)


def _dumped(options: BaseModel) -> dict[str, Any]:
    return options.model_dump(mode="json")


def _canvas_of(options: PreprocessOptions) -> dict[str, Any]:
    """The settings of where slices lie on the canvas."""
    return options.model_dump(mode="json", exclude=_SHOWN)


def cache_folder(cache: Path, code: Iterable[str], settings: Iterable[dict[str, Any]]) -> Path:
    """A folder in a cache, made, and named after whatever could make what is kept there look different.

    Args:
        cache: the cache.
        code: the modules that make it, and their data, as patterns within the package.
        settings: that they are given, as values for JSON.

    Raises:
        OutputError: where it cannot be made.
    """
    return make_output_folder(_place_in(cache, code, settings))


def _place_in(cache: Path, code: Iterable[str], settings: Iterable[dict[str, Any]]) -> Path:
    """The folder that `cache_folder` makes."""
    everything = [_FORMAT, HU_STEP, code_sha256(code), *settings]
    return cache / hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()[:16]


def _make_room(cache: Path, folder: Path, n_bytes: int) -> None:
    """Make a cache's folder, if so many bytes that all slices would take may fit.

    Raises:
        OutputError: where they cannot, or the folder cannot be made.
    """
    ensure_free_space(cache, n_bytes // _SURE, n_bytes)
    make_output_folder(folder)


def _bytes_of_slice(preprocessing: PreprocessOptions, n_masks: int) -> int:
    """What `_keep` writes of a slice: HU as int16, the region, and so many masks."""
    return preprocessing.fov_px**2 * (3 + n_masks)


def _n_masks(scan: LabelledScan) -> int:
    """How many masks are kept of a scan: blood, and of our own also where it is certain."""
    return 2 if scan.own_mask is not None else int(scan.reference is not None)


def header_index(cache: Path) -> Path:
    """The file in a cache that keeps what DICOM headers said to this very code."""
    return cache / f"headers_{code_sha256(HEADER_CODE)[:16]}.csv"


def key_of_files(scan: LabelledScan) -> str:
    """Names what is kept of a scan, after its name and its files as they are: their names, sizes and times of change.

    Labels are no part of it: they are joined when a scan is asked for, so that mended labels cost nothing.
    """
    digest = hashlib.sha256(scan.name.encode())
    for path in (*scan.voxels.files, *(mask for mask in (scan.reference, scan.own_mask) if mask is not None)):
        stat = path.stat()
        digest.update(f"\0{path.name}\0{stat.st_size}\0{stat.st_mtime_ns}".encode())
    return digest.hexdigest()[:32]


def _record_path(folder: Path, key: str) -> Path:
    return folder / f"{key}.json"


def _read_record(folder: Path, key: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(_record_path(folder, key).read_text(encoding="utf-8"))
    return record


def _run_all(prepare: Callable[..., None], jobs: Sequence[tuple[object, ...]], workers: int) -> None:
    """Do all jobs, in other processes where there is more than one worker."""
    several = workers if len(jobs) > 1 else 1
    for done, _ in enumerate(in_order(partial(_run_one, prepare), jobs, max(several, 1)), start=1):
        if done % 20 == 0:
            log.info("prepared %d of %d scans", done, len(jobs))


def _run_one(prepare: Callable[..., None], job: tuple[object, ...]) -> None:
    prepare(*job)


def _prepare_phantom_into(
    folder: Path, key: str, seed: int, phantom: PhantomOptions, brain: BrainOptions, preprocessing: PreprocessOptions
) -> None:
    with one_thread():
        _keep(folder, key, prepare_phantom(seed, phantom, brain, preprocessing))


def _prepare_scan_into(
    folder: Path,
    key: str,
    name: str,
    voxels: NiftiFile | DicomFiles,
    reference: Path | None,
    own_mask: Path | None,
    n_slices: int,
    brain: BrainOptions,
    preprocessing: PreprocessOptions,
) -> None:
    unlabelled = torch.zeros(n_slices, len(Subtype), dtype=torch.bool)
    scan = LabelledScan(name, "", voxels, unlabelled, unlabelled, reference, own_mask)
    try:
        ct, unreadable = scan.load_readable()
        _check_plausible(ct)
        blood, certain = _mask_of(scan)
        expected = (n_slices, *ct.hu.shape[1:])
        if blood is not None and blood.shape != expected:
            raise ScanRefused(
                f"{name}: expected a reference mask of {expected}; got {tuple(blood.shape)}; it is of another scan"
            )
        readable = [index for index in range(n_slices) if index not in unreadable]
        blood, certain = (None if mask is None else mask[readable] for mask in (blood, certain))
        with one_thread():
            prepared = prepare_scan(name, ct, blood, brain, preprocessing, certain)
    except ValueError as error:
        write_json(_record_path(folder, key), {"name": name, "refused": _one_line(error)})
    else:
        reasons = [(index, _one_line(reason)) for index, reason in unreadable.items()]
        _keep(folder, key, replace(prepared, slices=[readable[index] for index in prepared.slices]), reasons)


def _one_line(reason: object) -> str:
    return " ".join(str(reason).split())


def _mask_of(scan: LabelledScan) -> tuple[Tensor | None, Tensor | None]:
    """Where there is blood, and where that is certain; neither where nothing is known, and all where there is one."""
    own = scan.load_own_mask()
    if own is not None:
        return own == 1, own != UNKNOWN
    mask = scan.load_reference()
    return None if mask is None else mask.voxels, None


def _check_plausible(ct: CTVolume) -> None:
    plausibility = check_hu(ct)
    if plausibility.verdict == "refused":
        raise ScanRefused(f"{ct.source}: expected a head CT in HU; got {'; '.join(plausibility.reasons)}; leave it out")


def _keep(folder: Path, key: str, scan: PreparedScan, unreadable: Sequence[tuple[int, str]] = ()) -> None:
    """Write a prepared scan: its records, then what they are, and why slices are not among them that cannot be read."""
    fields = {"relative_hu": scan.relative_hu, "region": scan.region}
    if scan.has_reference or scan.certain is not None:
        fields["blood"] = scan.blood
    if scan.certain is not None:
        fields["certain"] = scan.certain
    dtype = np.dtype([(name, planes.numpy().dtype, planes.shape[1:]) for name, planes in fields.items()], align=True)
    records = np.zeros(len(scan.slices), dtype=dtype)
    for name, planes in fields.items():
        records[name] = planes.numpy()
    with atomic_write(folder / f"{key}.npy") as file:
        np.lib.format.write_array(file, records, allow_pickle=False)
    said = torch.full([len(scan.slices)], scan.has_reference)
    if scan.certain is not None:
        said = scan.certain.flatten(1).any(dim=1)
    blood_px = [px if known else None for px, known in zip(scan.blood.sum(dim=(1, 2)).tolist(), said, strict=True)]
    write_json(
        _record_path(folder, key),
        {
            "name": scan.name,
            "refused": None,
            "median_hu": scan.median_hu,
            "unreadable": unreadable,
            "slices": scan.slices,
            "positions_mm": scan.positions_mm,
            "brain_px": scan.region.sum(dim=(1, 2)).tolist(),
            "blood_px": blood_px,
            "labels": None if scan.labels is None else scan.labels.int().tolist(),
        },
    )


@lru_cache(maxsize=MAX_MAPPED)
def _mapped(path: Path) -> NDArray[Any]:
    """A file's records, on disk until they are looked at. Private: what is written to them reaches no file.

    Deviation: NumPy's own mapping keeps the file open, and a system allows some 1,000 open files.
    """
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        begin = file.tell()
    n_bytes = math.prod(shape) * dtype.itemsize
    if not n_bytes:
        return np.zeros(shape, dtype)
    if path.stat().st_size != begin + n_bytes:
        raise ValueError(f"{path.name}: expected {begin + n_bytes} bytes; got {path.stat().st_size}; remove the file")
    mapped = torch.from_file(str(path), shared=False, size=begin + n_bytes, dtype=torch.uint8)
    records: NDArray[Any] = mapped.numpy()[begin:].view(dtype).reshape(shape)
    return records


def _mapped_scan(
    folder: Path,
    key: str,
    name: str,
    record: dict[str, Any],
    labels: Bool[Tensor, "slices 6"],
    known: Bool[Tensor, "slices 6"],
) -> PreparedScan:
    records = _mapped(folder / f"{key}.npy")
    relative_hu, region = torch.from_numpy(records["relative_hu"]), torch.from_numpy(records["region"])
    kept = records.dtype.names or ()
    blood = torch.from_numpy(records["blood"]) if "blood" in kept else _nowhere(tuple(region.shape))
    certain = torch.from_numpy(records["certain"]) if "certain" in kept else None
    has_reference = "blood" in kept and certain is None
    median_hu = float(record["median_hu"])
    where = (record["slices"], record["positions_mm"])
    return PreparedScan(name, relative_hu, median_hu, region, blood, *where, labels, known, has_reference, certain)
