"""Data sets -> cases with references: phantoms made on the fly, NIfTI pairs, single slices as pictures."""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from scipy import ndimage
from torch import Tensor

from hgisam import __version__
from hgisam.cases import find_cases, safe_name
from hgisam.compare.settings import CompareOptions, PhantomData, ScanData, SliceData, TrainedMethod
from hgisam.evaluate.folders import ReferenceValues, hindering
from hgisam.io.atomic import make_output_folder
from hgisam.io.digest import file_sha256
from hgisam.io.errors import InputError, ScanRefused
from hgisam.io.nifti import new_grid_for, read_mask_and_labels, write_ct, write_labels
from hgisam.io.pictures import read_picture
from hgisam.io.tables import read_patients
from hgisam.labels import label_value
from hgisam.phantom import generate_phantoms
from hgisam.phantom_folder import TRUTH, write_phantoms
from hgisam.train.cohort import LabelledScan
from hgisam.train.layouts import read_cohort
from hgisam.train.layouts.slice_table import REFERENCES
from hgisam.train.splits import Role, make_splits
from hgisam.volume import CTVolume
from hgisam.wording import counted

log = logging.getLogger(__name__)

AIR_HU = -1000.0
_WHITE = 255


@dataclass(frozen=True)
class ComparedCase:
    """One scan to judge all methods on.

    Attributes:
        name: begins the names of its files.
        patient: whose it is.
        scan: the file.
        reference: the file with its mask or labels.
        fold: in which it is judged.
        tells_subtypes: whether the reference's values are subtypes, as `hgisam evaluate` would take them.
    """

    name: str
    patient: str
    scan: Path
    reference: Path
    fold: int = 0
    tells_subtypes: bool = False


@dataclass(frozen=True)
class Lesson:
    """What can be learned from one scan of the data's folder, by content.

    Attributes:
        name: the scan's.
        patient: whose it is.
        voxels_sha256: of each file of the scan; None where one cannot be read.
        reference_sha256: of its mask; None where there is none that can be read.
    """

    name: str
    patient: str
    voxels_sha256: tuple[str | None, ...]
    reference_sha256: str | None


@dataclass(frozen=True)
class ComparedData:
    """A data set, ready.

    Attributes:
        folder: where its scans lie.
        cases: by name.
        description: in words, for the report.
        left_out: scans without a reference, or without one that can be read.
        cohort_sha256: of who is in the folder and of every label; None where nothing is trained.
        lessons: what is trained may learn from these; empty where nothing is.
    """

    folder: Path
    cases: tuple[ComparedCase, ...]
    description: str
    left_out: tuple[str, ...] = ()
    cohort_sha256: str | None = None
    lessons: tuple[Lesson, ...] = ()


def prepare_data(
    options: CompareOptions, base: Path, output: Path, *, workers: int = 1, show_progress: bool = False
) -> ComparedData:
    """Make or find the data of a comparison.

    Args:
        options: of the comparison.
        base: the folder that relative paths start from.
        output: the comparison's folder; what is made goes into its folder `data`.
        workers: processes that make phantoms.
        show_progress: whether to draw a progress bar on the terminal.

    Raises:
        InputError: where there is nothing to compare on, or a table of patients lacks a case.
        OutputError: where something cannot be written.
        ScanRefused: where the folds need labels that the folder has not.
    """
    source = options.data
    if isinstance(source, PhantomData):
        data = _phantoms(source, output, workers, show_progress=show_progress)
    elif isinstance(source, SliceData):
        data = _slices(source, base, output)
    else:
        data = _scans(source, base)
    if not data.cases:
        raise InputError(f"{data.folder}: expected scans with reference masks; got none; check the folder")
    return data if options.folds == 1 else _dealt(data, options)


def _phantoms(source: PhantomData, output: Path, workers: int, *, show_progress: bool) -> ComparedData:
    made_with = json.dumps([__version__, source.model_dump(mode="json")], sort_keys=True)
    folder = output / "data" / f"phantoms_{hashlib.sha256(made_with.encode()).hexdigest()[:8]}"
    seeds = range(source.first_seed, source.first_seed + source.n)
    cases = [_written(folder, f"phantom_{seed:05d}", f"phantom_{seed:05d}") for seed in seeds]
    missing = [seed for seed, case in zip(seeds, cases, strict=True) if not _is_there(case)]
    if missing:
        first = missing[0]
        made = generate_phantoms(seeds.stop - first, first, source.heads, workers=workers)
        names = [case.name for case in cases[first - seeds.start :]]
        write_phantoms(made, names, folder, options=source.heads, show_progress=show_progress)
    text = f"{source.n} synthetic heads, seeds {seeds.start} to {seeds.stop - 1}, each one patient"
    return ComparedData(folder, tuple(cases), text)


def _written(folder: Path, name: str, patient: str) -> ComparedCase:
    """A case as it lies in a folder that was made here."""
    reference = folder / TRUTH / f"{name}_labels.nii.gz"
    return ComparedCase(name, patient, folder / f"{name}.nii.gz", reference, tells_subtypes=True)


def _is_there(case: ComparedCase) -> bool:
    return case.scan.is_file() and case.reference.is_file()


def _scans(source: ScanData, base: Path) -> ComparedData:
    folder = base / (source.folder or "")
    references = folder / source.references
    owners = None if source.patients is None else read_patients(folder / source.patients)
    cases: list[ComparedCase] = []
    left_out, told = [], []
    for found in find_cases([folder]):
        files = [path for suffix in REFERENCES if (path := references / f"{found.name}{suffix}").is_file()]
        if not files:
            left_out.append(found.name)
            continue
        try:
            _, labels, others, _ = read_mask_and_labels(files[0])
        except ScanRefused as error:
            log.error("left out: %s", error)
            left_out.append(found.name)
            continue
        if owners is not None and found.name not in owners:
            raise InputError(f"{source.patients}: expected a patient for each case; got none for {found.name!r}")
        patient = found.name if owners is None else owners[found.name]
        cases.append(ComparedCase(found.name, patient, found.path, files[0]))
        told.append(ReferenceValues.of(files[0], labels, others))
    telling = {named: hindering(told, named_labels=named) == () for named in (True, False)}
    cases = [replace(case, tells_subtypes=telling[of.named_labels]) for case, of in zip(cases, told, strict=True)]
    return ComparedData(folder, tuple(cases), f"{counted(len(cases), 'scan')} with reference masks", tuple(left_out))


def _slices(source: SliceData, base: Path, output: Path) -> ComparedData:
    """Pictures as scans of one slice. They are written anew each time; the same picture gives the same bytes.

    Raises:
        InputError: where a picture or its mask cannot be used, or two pictures would be one file.
    """
    folder = base / (source.folder or "")
    target = output / "data" / "slices"
    make_output_folder(target / TRUTH)
    cases, left_out = [], []
    taken: dict[str, str] = {}
    for picture in sorted((folder / "images").glob("*.png")):
        mask = folder / "masks" / picture.name
        if not mask.is_file():
            left_out.append(picture.stem)
            continue
        name = safe_name(picture.stem)
        first = taken.setdefault(name.casefold(), picture.name)
        if first != picture.name:
            raise InputError(
                f"{picture.parent}: expected pictures whose names stay different as file names; got {first} and"
                f" {picture.name}, both {name}; rename one, and its mask"
            )
        case = _written(target, name, picture.stem[: source.patient_digits] or name)
        ct = slice_from_grey(read_picture(picture, "L"), source, name)
        labels = labels_from_colours(read_picture(mask, "RGB"), source, name)
        if labels.shape != ct.hu.shape:
            raise InputError(f"{mask}: expected the picture's {tuple(ct.hu.shape[1:])} pixels; got others")
        write_ct(case.scan, ct)
        write_labels(case.reference, labels, new_grid_for(ct))
        cases.append(case)
    n_patients = len({case.patient for case in cases})
    slices = f"{counted(len(cases), 'single slice')} of {counted(n_patients, 'patient')}"
    text = f"{slices}, taken as {source.spacing_mm[0]:g} mm thick"
    return ComparedData(target, tuple(cases), text, tuple(left_out))


def slice_from_grey(grey: UInt8[np.ndarray, "height width"], source: SliceData, name: str) -> CTVolume:
    """A scan of one slice from a picture; air around the head and bone, which such pictures cut off, get HU back.

    Args:
        grey: 0 for the lowest HU, 255 for the highest.
        source: what the greys stand for.
        name: of the scan.
    """
    hu = source.black_hu + grey.astype(np.float32) * ((source.white_hu - source.black_hu) / _WHITE)
    hu[grey == _WHITE] = source.clipped_hu
    areas, n_areas = ndimage.label(grey <= source.air_grey)
    if n_areas:
        hu[areas == 1 + np.bincount(areas.ravel())[1:].argmax()] = AIR_HU
    depth_mm, row_mm, column_mm = source.spacing_mm
    affine = torch.tensor(
        [[0, 0, -column_mm, 0], [0, -row_mm, 0, 0], [depth_mm, 0, 0, 0], [0, 0, 0, 1]], dtype=torch.float64
    )
    voxels: Float[Tensor, "1 height width"] = torch.from_numpy(hu).float()[None]
    return CTVolume(voxels, affine, name)


def labels_from_colours(
    picture: UInt8[np.ndarray, "height width 3"], source: SliceData, name: str
) -> UInt8[Tensor, "1 height width"]:
    """The subtypes of one slice from a picture in their colours; black is none.

    Raises:
        InputError: where a colour stands for no subtype.
    """
    labels = np.zeros(picture.shape[:2], dtype=np.uint8)
    for subtype, colour in source.colours.items():
        labels[(picture == np.array(colour)).all(axis=-1)] = label_value(subtype)
    unknown = picture[(labels == 0) & picture.any(axis=-1)]
    if len(unknown):
        raise InputError(f"{name}: expected colours of subtypes; got {tuple(int(v) for v in unknown[0])}")
    return torch.from_numpy(labels)[None]


def _dealt(data: ComparedData, options: CompareOptions) -> ComparedData:
    """The same cases with their folds: those that a training of this folder, folds and seed would have. And, where
    something is trained, what it may learn from."""
    cohort = read_cohort(data.folder)
    try:
        splits = make_splits(cohort, options.folds, seed=options.seed)
    except ValueError as error:
        raise InputError(f"compare.folds: {error}") from error
    fold_of = {patient: k for k, fold in enumerate(splits.folds) for patient in fold.patients(Role.TEST)}
    patient_of = {safe_name(scan.name): scan.patient for scan in cohort.scans}
    unknown = [case.name for case in data.cases if case.name not in patient_of]
    if unknown:
        raise InputError(f"{data.folder}: expected labels for every case, since there are folds; {unknown[0]} has none")
    dealt = replace(data, cases=_with_folds(data.cases, patient_of, fold_of))
    if not any(isinstance(method, TrainedMethod) for method in options.methods):
        return dealt
    return replace(dealt, cohort_sha256=cohort.sha256, lessons=tuple(_lesson(scan) for scan in cohort.scans))


def _lesson(scan: LabelledScan) -> Lesson:
    reference_sha256 = None if scan.reference is None else file_sha256(scan.reference)
    return Lesson(scan.name, scan.patient, tuple(map(file_sha256, scan.voxels.files)), reference_sha256)


def _with_folds(
    cases: Sequence[ComparedCase], patient_of: dict[str, str], fold_of: dict[str, int]
) -> tuple[ComparedCase, ...]:
    return tuple(replace(case, patient=patient_of[case.name], fold=fold_of[patient_of[case.name]]) for case in cases)
