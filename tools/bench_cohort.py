"""How long a cohort the size of RSNA-2019 takes to read and to split, and how much memory.

    python tools/bench_cohort.py --slices 752803 --patients 18938 --folder /tmp/rsna-bench

Writes the table of labels and, in place of the slices, empty files with an index of the headers they would have: what
is measured is the reading of labels, index and folder, not of 400 GB of DICOM. The rate at which headers are read from
DICOM files is measured on a few thousand small ones.
"""

import argparse
import csv
import os
import random
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pydicom
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from hgisam.labels import SUBTYPES, Subtype
from hgisam.train.layouts import read_cohort
from hgisam.train.layouts.rsna import INDEX_COLUMNS, SLICES, TABLE
from hgisam.train.splits import load_splits, make_splits


@contextmanager
def measured(what: str) -> Iterator[None]:
    """Print the seconds that the block took, and the most memory that the process has held so far."""
    started, cpu = time.perf_counter(), time.process_time()
    yield
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    took, of_cpu = time.perf_counter() - started, time.process_time() - cpu
    print(f"{what:40s} {took:8.1f} s  ({of_cpu:.1f} s of CPU)  peak {peak_mb:7.0f} MB")


def write_folder(folder: Path, index: Path, n_slices: int, n_patients: int) -> None:
    """The table, the empty slices and the index."""
    draw = random.Random(0)
    (folder / SLICES).mkdir(parents=True)
    names = sorted(f"ID_{number:09x}" for number in draw.sample(range(16**9), n_slices))
    per_patient = n_slices / n_patients
    with (folder / TABLE).open("w") as table, index.open("w", newline="") as file:
        table.write("ID,Label\n")
        rows = csv.DictWriter(file, INDEX_COLUMNS, lineterminator="\n")
        rows.writeheader()
        order = draw.sample(range(n_slices), n_slices)
        for name, place in zip(names, order, strict=True):
            shown = draw.choice(SUBTYPES) if draw.random() < 0.14 else None
            for subtype in Subtype:
                table.write(f"{name}_{subtype},{int(shown is not None and subtype in (shown, Subtype.ANY))}\n")
            path = folder / SLICES / f"{name}.dcm"
            path.touch()
            patient = int(place / per_patient)
            geometry = (512, 512, -125.0, -125.0, 5.0 * place, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.488, 0.488)
            stamp = (path.name, 0, path.stat().st_mtime_ns)
            cells = (*stamp, "", f"ID_{patient:08x}", f"ID_{patient:010x}", 0, *geometry)
            rows.writerow(dict(zip(INDEX_COLUMNS, cells, strict=True)))


def write_headers(folder: Path, n_slices: int) -> None:
    """A small data set of real DICOM files, 8 x 8 pixels each."""
    (folder / SLICES).mkdir(parents=True)
    with (folder / TABLE).open("w") as table, disable_value_validation():
        table.write("ID,Label\n")
        for number in range(n_slices):
            table.writelines(f"ID_{number:09x}_{subtype},0\n" for subtype in Subtype)
            dataset = Dataset()
            dataset.preamble = bytes(128)
            dataset.file_meta = FileMetaDataset()
            dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            dataset.PatientID, dataset.SeriesInstanceUID = f"ID_{number // 32:08x}", f"ID_{number // 32:010x}"
            dataset.SOPInstanceUID, dataset.Modality = f"ID_{number:09x}", "CT"
            dataset.ImagePositionPatient, dataset.PixelSpacing = [-125, -125, 5 * number], [0.488281, 0.488281]
            dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
            dataset.Rows = dataset.Columns = 8
            dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
            dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
            dataset.RescaleIntercept, dataset.RescaleSlope, dataset.PixelData = -1024, 1, bytes(128)
            pydicom.dcmwrite(folder / SLICES / f"ID_{number:09x}.dcm", dataset)


def main() -> None:
    """Make what is missing, then read, split, save and load."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=752_803)
    parser.add_argument("--patients", type=int, default=18_938)
    parser.add_argument("--headers", type=int, default=3_200, help="real DICOM files, to time their headers")
    parser.add_argument("--folder", type=Path, required=True, help="made if absent; take it away afterwards")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    large, small, index = arguments.folder / "large", arguments.folder / "small", arguments.folder / "headers.csv"
    if not large.is_dir():
        write_folder(large, index, arguments.slices, arguments.patients)
    if not small.is_dir():
        write_headers(small, arguments.headers)
    with measured("before"):
        pass
    with measured(f"headers of {arguments.headers} DICOM files"):
        read_cohort(small)
    with measured(f"{arguments.slices} slices, headers indexed"):
        cohort = read_cohort(large, index=index)
    print(cohort.summary())
    with measured("5 folds with tuning"):
        splits = make_splits(cohort)
    with measured("save, load, check the hash"):
        splits.save(arguments.folder / "splits.csv")
        load_splits(arguments.folder / "splits.csv", cohort)


if __name__ == "__main__":
    main()
