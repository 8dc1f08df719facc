"""No word about a patient leaves a scan: names are planted wherever text fits, and looked for in all that comes out."""

import base64
import gzip
import re
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import pydicom
import pytest
import yaml
from compared_heads import write_comparison_yaml, write_heads
from drawn_cohort import write_drawn_cohort
from head_series import write_head
from pydicom.datadict import DicomDictionary  # type: ignore[attr-defined]
from pydicom.dataset import Dataset
from tiny_training import write_tiny_recipe
from typer.testing import CliRunner

from hgisam.cli import app

RUN = CliRunner()

BY_VR = {
    "AE": "PLANTED", "AS": "099Y", "CS": "PLANTED", "DA": "19010203", "DT": "19010203040506", "LO": "Planted",
    "LT": "Planted", "PN": "Planted^Jane", "SH": "Planted", "ST": "Planted", "TM": "190102", "UC": "Planted",
    "UR": "http://planted.example", "UT": "Planted",
}  # fmt: skip
READ = {"Modality", "ImageType", "PhotometricInterpretation", "SpecificCharacterSet", "RescaleType", "PatientPosition"}
"""Text that tells how the pixels are to be read, so that it has to be true."""
SECRETS = (b"planted", b"19010203")


def planted() -> dict[str, Any]:
    """A value for every text element of the standard that an image may have."""
    found = {}
    for tag, (vr, _, _, retired, keyword) in DicomDictionary.items():
        if vr in BY_VR and keyword and not retired and tag >> 16 not in (0x0000, 0x0002) and keyword not in READ:
            found[keyword] = BY_VR[vr]
    return found


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head as DICOM with a name in every text element, in sequences, in private ones and before the first.

    Of the slices, the ends and some between have every element of the standard, the others a patient's.
    """
    folder = tmp_path_factory.mktemp("dicom") / "head"
    lossy = {"LossyImageCompression": "01", "LossyImageCompressionRatio": 10.0}
    everything = planted()
    of_all = {
        keyword: value for keyword, value in everything.items() if keyword.startswith(("Patient", "Study", "Series"))
    }
    paths = write_head(folder, FrameOfReferenceUID="1.2.3.7", **of_all | lossy)
    for path in paths:
        dataset = pydicom.dcmread(path)
        if path in {paths[0], paths[len(paths) // 2], paths[-1]}:
            for keyword, value in everything.items():
                setattr(dataset, keyword, value)
        dataset.preamble = b"Planted".ljust(128, b"\0")
        inner = Dataset()
        inner.PatientName, inner.PatientID = "Planted^Jane", "PLANTED"
        dataset.OtherPatientIDsSequence = [inner]
        dataset.private_block(0x0011, "PLANTED", create=True).add_new(1, "LO", "Planted")
        dataset.save_as(path)
    return folder


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe without a network: what is tried here is all that lies around it."""
    path = tmp_path_factory.mktemp("recipe") / "hu.yaml"
    segment = {"gate": False, "weak": {"method": "hu_threshold"}, "refine": {"method": "components"}}
    path.write_text(yaml.safe_dump({"source": "a test", "segment": segment}), encoding="utf-8")
    return path


def contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every file of a folder: its name, and what it holds once what is packed is unpacked."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            yield path.name, unpacked_png(data) if path.suffix == ".png" else data
            for picture in re.findall(rb"data:image/png;base64,([A-Za-z0-9+/=]+)", data):
                yield path.name, unpacked_png(base64.b64decode(picture))
            if path.suffix == ".gz":
                yield path.name, gzip.decompress(data)


def unpacked_png(data: bytes) -> bytes:
    """All chunks of a PNG but its pixels, and what is packed in them."""
    found, at = b"", 8
    while at < len(data):
        size, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        body = data[at + 8 : at + 8 + size]
        if kind in (b"zTXt", b"iTXt"):
            packed = body.split(b"\0", 1)[1].lstrip(b"\0\1")
            try:
                body += zlib.decompress(packed)
            except zlib.error:
                body += packed
        found += kind + (b"" if kind == b"IDAT" else body)
        at += 12 + size
    return found


def told(*arguments: object, status: int = 0) -> str:
    """What a command prints and logs, at its most talkative."""
    done = RUN.invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == status, done.output
    return done.output


def assert_silent(texts: list[str], folder: Path, n_files: int) -> None:
    found = [("printed", text.encode()) for text in texts] + list(contents(folder))
    assert len(found) >= n_files
    for name, data in found:
        for secret in SECRETS:
            assert secret not in data.lower(), f"{name}: {secret!r}"


def test_nothing_of_a_dicom_header_comes_out(series: Path, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    segment = ["segment", series, "-o", out / "masks", "--config", recipe, "--save-map", "--dicom-seg", "--dicom-sr"]
    texts = [
        told("check", series),
        told("check", "--json", series),
        told("classify", series, "-o", out / "classes", "--verbose"),
        told(*segment, "--deidentify", "--verbose"),
    ]
    references = tmp_path / "references"
    references.mkdir()
    shutil.copy(out / "masks" / "head_mask.nii.gz", references)
    texts.append(told("evaluate", out / "masks", references, "-o", out / "scores"))
    assert_silent(texts, out, n_files=12)


def test_the_search_would_find_a_name(series: Path, recipe: Path, tmp_path: Path) -> None:
    """A DICOM SEG that is not de-identified names its patient, as the standard asks."""
    told("segment", series, "-o", tmp_path / "out", "--config", recipe, "--dicom-seg")
    with pytest.raises(AssertionError, match=r"head_seg\.dcm: b'planted'"):
        assert_silent([], tmp_path / "out", n_files=1)


def test_a_refusal_tells_nothing_either(series: Path, recipe: Path, tmp_path: Path) -> None:
    gap = shutil.copytree(series, tmp_path / "gap")
    sorted(gap.iterdir())[10].unlink()
    text = told("segment", gap, "-o", tmp_path / "out", "--config", recipe, "--verbose", status=3)
    assert "refused" in text
    assert_silent([text], tmp_path / "out", n_files=3)


def test_nothing_of_a_nifti_header_comes_out(recipe: Path, tmp_path: Path) -> None:
    heads = write_heads(tmp_path / "heads", 4)
    for path in [*heads.glob("*.nii.gz"), *heads.glob("truth/*.nii.gz")]:
        image = nib.Nifti1Image.from_bytes(gzip.decompress(path.read_bytes()))
        for field in ("descrip", "aux_file", "intent_name", "db_name"):
            image.header[field] = b"Planted"
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Planted^Jane"))
        path.write_bytes(gzip.compress(image.to_bytes()))
    out = tmp_path / "out"
    comparison = write_comparison_yaml(tmp_path / "comparison.yaml")
    texts = [
        told("segment", heads, "-o", out / "masks", "--config", recipe, "--save-map", "--verbose"),
        told("compare", "--config", comparison, "--data", heads, "-o", out / "comparison"),
    ]
    assert_silent(texts, out, n_files=30)
    assert any(name.endswith(".html") for name, _ in contents(out))


@pytest.mark.usefixtures("undrawn", "few_resamples")
def test_a_training_names_no_patient_of_the_table(tmp_path: Path) -> None:
    heads, out = write_drawn_cohort(tmp_path / "heads", 8), tmp_path / "out"
    table = heads / "slice_labels.csv"
    first, *rows = table.read_text().splitlines()
    rows = [f"{row},Planted^Jane {int(row[1]) // 2}" for row in rows]  # two heads each
    table.write_text("\n".join([f"{first},patient", *rows]))
    recipe = write_tiny_recipe(tmp_path / "tiny.yaml", steps=1, evaluate_every=1)
    command = ["train", "classifier", "--config", recipe, "--data", heads, "--cache", out / "cache", "-o", out / "run"]
    texts = [told(*command, "--device", "cpu", "--workers", "1", "--verbose")]
    assert_silent(texts, out, n_files=20)
    for name in ("splits.csv", "tuning.csv", "test.csv"):
        assert "patient_" in (out / "run" / name).read_text(), name
    table.write_text("\n".join([f"{first},patient", *rows[:-1], rows[-1].replace("Jane 3", "Jane 4")]))
    assert_silent([told(*command[:-1], out / "again", status=3)], out, n_files=20)
