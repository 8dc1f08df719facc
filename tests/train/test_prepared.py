"""Prepared scans: made once, mapped from disk, never changed, and each refusal remembered with its reason."""

import ast
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from analytic_head import AIR, SKULL_SEMI_AXES_MM, draw_head
from scan_files import write_slice

from hgisam.brain import BrainOptions
from hgisam.compare.runner import RECORD_CODE
from hgisam.io.errors import OutputError
from hgisam.io.nifti import new_grid_for, write_ct, write_labels, write_mask
from hgisam.labels import Subtype
from hgisam.phantom import PhantomOptions
from hgisam.preprocess import PreprocessOptions
from hgisam.train import prepared as prepared_module
from hgisam.train.cohort import UNKNOWN, Cohort, DicomFiles, LabelledScan, NiftiFile, Trouble
from hgisam.train.prepared import (
    HU_STEP,
    PHANTOM_CODE,
    SCAN_CODE,
    PreparedScans,
    prepare_cohort,
    prepare_phantoms,
    prepare_scan,
)

PACKAGE = Path(prepared_module.__file__).parents[1]
BRAIN = BrainOptions()
CANVAS = PreprocessOptions(spacing_mm=2.0, fov_px=96)
BLEED_HU = 75.0
BLED = 7
"""The slice that bleeds. The lowest two are empty, so that it is not the seventh of those prepared."""


def labelled(path: Path, n_slices: int, reference: Path | None = None, positive: int = BLED) -> LabelledScan:
    labels = torch.zeros(n_slices, len(Subtype), dtype=torch.bool)
    labels[positive, [1, 5]] = True
    return LabelledScan(path.name.split(".")[0], "p", NiftiFile(path), labels, torch.ones_like(labels), reference)


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """A head with a bleed and its mask, the same without the mask, and a block of water."""
    folder = tmp_path_factory.mktemp("heads")
    head = draw_head((10.0, 2.0, 2.0))
    bleed = head.inside & (head.across_mm.abs() < 12) & (head.along_mm.abs() < 12)
    bleed[:BLED], bleed[BLED + 1 :] = False, False
    ct = head.with_hu(bleed, BLEED_HU)
    ct.hu[:2] = AIR
    grid = new_grid_for(ct)
    write_ct(folder / "a.nii.gz", ct, grid)
    write_ct(folder / "b.nii.gz", ct, grid)
    write_mask(folder / "a_mask.nii.gz", bleed, grid)
    write_ct(folder / "water.nii.gz", head.with_hu(torch.ones_like(bleed), 0.0), grid)
    scans = [
        labelled(folder / "a.nii.gz", len(ct.hu), folder / "a_mask.nii.gz"),
        labelled(folder / "b.nii.gz", len(ct.hu)),
        labelled(folder / "water.nii.gz", len(ct.hu)),
    ]
    return Cohort("drawn", tuple(scans))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def prepared(heads: Cohort, cache: Path) -> PreparedScans:
    return prepare_cohort(heads, BRAIN, CANVAS, cache, workers=1)


def test_what_comes_from_the_cache_is_what_was_prepared(heads: Cohort, prepared: PreparedScans) -> None:
    mask = heads.scans[0].load_reference()
    assert mask is not None
    direct = prepare_scan("a", heads.scans[0].load(), mask.voxels, BRAIN, CANVAS)
    cached = prepared[0]
    assert cached.relative_hu.equal(direct.relative_hu)
    assert cached.region.equal(direct.region)
    assert cached.blood.equal(direct.blood)
    assert (cached.name, cached.median_hu, cached.slices) == ("a", direct.median_hu, direct.slices)
    assert cached.relative_hu.shape[1:] == (96, 96)


def test_scans_from_the_cache_keep_no_file_open(prepared: PreparedScans) -> None:
    """A cohort has more scans than a system lets a process open files."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    prepared_module._mapped.cache_clear()
    held = [prepared[index] for index in (0, 1)]
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
    assert all(scan.relative_hu.any() for scan in held)


def test_a_cached_scan_that_is_cut_off_is_not_read(heads: Cohort, tmp_path: Path) -> None:
    found = prepare_cohort(Cohort("drawn", heads.scans[:1]), BRAIN, CANVAS, tmp_path, workers=1)
    (path,) = tmp_path.rglob("*.npy")
    path.write_bytes(path.read_bytes()[:-1000])
    prepared_module._mapped.cache_clear()
    with pytest.raises(ValueError, match=r"expected \d+ bytes"):
        found[0]


def test_a_mask_of_our_own_is_no_reference_and_what_it_does_not_say_is_kept(heads: Cohort, tmp_path: Path) -> None:
    scan = heads.scans[1]
    ct = scan.load()
    own = torch.zeros(ct.hu.shape, dtype=torch.uint8)
    own[BLED, 40:60, 40:60], own[BLED, 60:70, 40:60], own[BLED - 1] = 1, UNKNOWN, UNKNOWN
    write_labels(tmp_path / "own.nii.gz", own, new_grid_for(ct))
    cohort = Cohort("drawn", (replace(scan, own_mask=tmp_path / "own.nii.gz"),))
    found = prepare_cohort(cohort, BRAIN, CANVAS, tmp_path / "cache", workers=1)
    row = found[0].slices.index(BLED)
    certain = found[0].certain
    assert certain is not None and not found[0].has_reference
    assert found[0].blood.flatten(1).any(dim=1).nonzero().flatten().tolist() == [row]
    assert 4.0 * float(found[0].blood.sum()) == pytest.approx(4.0 * 400, rel=0.05)  # the canvas has 2 mm too
    in_doubt = (~certain[row]) & found[0].region[row]
    assert 4.0 * float(in_doubt.sum()) == pytest.approx(4.0 * 200, rel=0.1)
    told = ~found.slice_index.blood_mm2.isnan()
    assert (~told).nonzero().flatten().tolist() == [row - 1]
    assert float(found.slice_index.blood_mm2[row]) == 4.0 * float(found[0].blood.sum())


def test_hu_blood_and_labels_are_of_one_slice(heads: Cohort, prepared: PreparedScans) -> None:
    scan = prepared[0]
    row = scan.slices.index(BLED)
    assert row != BLED
    assert scan.blood.any(dim=2).any(dim=1).nonzero().flatten().tolist() == [row]
    in_blood = scan.relative_hu[scan.blood].float().mean() * HU_STEP + scan.median_hu
    assert float(in_blood) == pytest.approx(BLEED_HU, abs=5.0)
    assert scan.labels is not None
    assert scan.labels[:, 5].nonzero().flatten().tolist() == [row]
    assert scan.labels.equal(heads.scans[0].labels[scan.slices])


def test_a_scan_without_a_mask_has_labels_and_no_blood(prepared: PreparedScans) -> None:
    with_mask, without = prepared[:2]
    assert with_mask.has_reference and not without.has_reference
    assert not without.blood.any()
    assert without.blood.shape == without.region.shape
    assert without.relative_hu.equal(with_mask.relative_hu)
    assert without.labels is not None
    assert bool(without.labels.any())


def test_a_scan_that_is_no_head_is_left_out_with_its_reason(
    heads: Cohort, prepared: PreparedScans, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ((name, reason),) = prepared.refused
    assert name == "water"
    assert "expected a head CT in HU" in reason
    assert [scan.name for scan in prepared.scans] == ["a", "b"]
    assert len(prepared) == 2

    def never(*_: object) -> None:
        pytest.fail("a scan was read again")

    monkeypatch.setattr("hgisam.train.cohort.read_ct", never)
    assert prepare_cohort(heads, BRAIN, CANVAS, cache, workers=1).refused == prepared.refused


def test_the_index_knows_every_slice_without_a_look_at_pixels(prepared: PreparedScans) -> None:
    index = prepared.slice_index
    assert len(index.scan) == sum(len(scan.slices) for scan in prepared)
    for place in range(len(index.scan)):
        scan, row = prepared[int(index.scan[place])], int(index.row[place])
        assert scan.labels is not None
        assert index.labels[place].equal(scan.labels[row])
        assert float(index.brain_mm2[place]) == float(scan.region[row].sum()) * 4.0
    of_first = index.scan == 0
    assert float(index.blood_mm2[of_first].sum()) == float(prepared[0].blood.sum()) * 4.0
    assert bool(index.blood_mm2[~of_first].isnan().all())
    widest_mm2 = 3.1416 * SKULL_SEMI_AXES_MM[1] * SKULL_SEMI_AXES_MM[2]
    assert float(index.brain_mm2.max()) == pytest.approx(widest_mm2, rel=0.1)


def test_probabilities_of_prepared_slices_become_a_table_of_all_slices(heads: Cohort, prepared: PreparedScans) -> None:
    index = prepared.slice_index
    scored = prepared.scored((index.scan + 1) / 10 + prepared_slices(prepared) / 1000)
    n_slices = heads.scans[0].n_slices
    assert scored.scans == ("a",) * n_slices + ("b",) * n_slices
    assert set(scored.patients) == {"p"}
    assert scored.slices.tolist() == [*range(n_slices), *range(n_slices)]
    assert scored.positive.nonzero().flatten().tolist() == [BLED, n_slices + BLED]
    assert not scored.has_brain[:2].any()
    assert scored.has_brain[[BLED, n_slices + BLED]].all()
    for row in range(2 * n_slices):
        expected = (row // n_slices + 1) / 10 + (row % n_slices) / 1000 if scored.has_brain[row] else 0.0
        assert float(scored.probabilities[row]) == pytest.approx(expected)


def prepared_slices(prepared: PreparedScans) -> torch.Tensor:
    """Each prepared slice's place in its scan."""
    return torch.tensor([place for scan in prepared for place in scan.slices])


def test_mended_labels_need_no_preparation(
    heads: Cohort, prepared: PreparedScans, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hgisam.train.cohort.read_ct", lambda *_: pytest.fail("a scan was read again"))
    moved = [
        LabelledScan(scan.name, scan.patient, scan.voxels, scan.labels.roll(1, dims=0), scan.known, scan.reference)
        for scan in heads.scans
    ]
    again = prepare_cohort(Cohort("drawn", tuple(moved)), BRAIN, CANVAS, cache, workers=1)
    assert again.slice_index.labels[:, 5].nonzero()[0].equal(prepared.slice_index.labels[:, 5].nonzero()[0] + 1)


def test_a_slice_that_cannot_be_decoded_costs_that_slice_and_its_label(tmp_path: Path) -> None:
    head = draw_head((10.0, 2.0, 2.0))
    names = tuple(f"ID_{index:02d}.dcm" for index in range(len(head.ct.hu)))
    for index, name in enumerate(names):
        changed = {"HighBit": 7} if index == BLED else {}
        place = (-110.0, -110.0, 10.0 * index)
        write_slice(tmp_path / name, head.ct.hu[index].double().numpy(), place, PixelSpacing=[2.0, 2.0], **changed)
    labels = torch.zeros(len(names), len(Subtype), dtype=torch.bool)
    labels[[BLED, BLED + 1], 5] = True
    scan = LabelledScan("s", "p", DicomFiles(tmp_path, names, "s"), labels, torch.ones_like(labels))
    found = prepare_cohort(Cohort("drawn", (scan,)), BRAIN, CANVAS, tmp_path / "cache", workers=1)
    assert found.refused == ()
    shown = found[0].slices
    assert {BLED - 1, BLED + 1} < {*shown} and BLED not in shown
    after = shown.index(BLED + 1)
    assert found[0].positions_mm[after] - found[0].positions_mm[after - 1] == pytest.approx(20.0)
    assert found.slice_index.labels[:, 5].nonzero().flatten().tolist() == [after]
    ((trouble, count, examples),) = [(f.trouble, f.count, f.examples) for f in found.findings]
    assert (trouble, count) == (Trouble.UNREADABLE_SLICE, 1)
    assert examples[0].startswith(f"s slice {BLED}: ID_{BLED:02d}.dcm: expected the lowest")
    scored = found.scored(torch.full((len(shown),), 0.5))
    assert (scored.positive | scored.negative).logical_not().nonzero().flatten().tolist() == [BLED]


def test_positive_slices_without_brain_are_counted(heads: Cohort, cache: Path) -> None:
    first = heads.scans[0]
    empty = Cohort("drawn", (labelled(first.voxels.files[0], first.n_slices, first.reference, positive=0),))
    found = prepare_cohort(empty, BRAIN, CANVAS, cache, workers=1)
    assert 0 not in found[0].slices
    assert [(finding.trouble, finding.count) for finding in found.findings] == [(Trouble.BRAINLESS, 1)]


def test_what_is_written_to_a_scan_in_memory_does_not_reach_the_cache(heads: Cohort, cache: Path) -> None:
    def on_disk() -> list[bytes]:
        return [path.read_bytes() for path in sorted(cache.rglob("*.npy"))]

    scan = prepare_cohort(heads, BRAIN, CANVAS, cache, workers=1)[0]
    before, kept = on_disk(), int(scan.relative_hu[0, 0, 0])
    scan.relative_hu[0, 0, 0] = kept + 1
    assert on_disk() == before
    scan.relative_hu[0, 0, 0] = kept


def test_a_stop_in_mid_scan_costs_that_scan_only(
    heads: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    one = Cohort("drawn", heads.scans[:1])
    with monkeypatch.context() as patched:
        patched.setattr("hgisam.train.prepared.write_json", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare_cohort(one, BRAIN, CANVAS, tmp_path, workers=1)
    assert list(tmp_path.rglob("*.json")) == []
    assert len(prepare_cohort(one, BRAIN, CANVAS, tmp_path, workers=1)) == 1
    assert len(list(tmp_path.rglob("*.npy"))) == 1


OTHERWISE: dict[str, object] = {
    "spacing_mm": 2.5, "fov_px": 115, "margin_mm": 60.0, "align": False, "channels": "windows_fixed",
    "relative_range_hu": (-20.0, 60.0), "mirror_channel": False, "mirror_clip_hu": 20.0, "mirror_smoothing_mm": 0.0,
    "skull_channel": True, "neighbours": 1, "mask_outside": False, "mask_margin_mm": 6.0,
}  # fmt: skip
"""Every setting of the canvas and its channels, at another value than its default."""


def test_settings_have_a_place_of_their_own_where_they_change_what_is_kept_and_only_there(tmp_path: Path) -> None:
    """On a canvas of an odd side, which is cut from an even one, half a pixel aside, where the margin makes it grow."""
    assert OTHERWISE.keys() == PreprocessOptions.model_fields.keys()
    ct, canvas = draw_head((20.0, 2.0, 2.0), angle_deg=8.0).ct, PreprocessOptions(spacing_mm=2.0, fov_px=121)

    def folders(preprocessing: PreprocessOptions) -> set[Path]:
        prepare_cohort(Cohort("drawn", ()), BRAIN, preprocessing, tmp_path, workers=1)
        return {*tmp_path.iterdir()}

    usual, before = prepare_scan("a", ct, None, BRAIN, canvas), folders(canvas)
    for name, value in OTHERWISE.items():
        changed = canvas.model_copy(update={name: value})
        found = prepare_scan("a", ct, None, BRAIN, changed)
        same = torch.equal(found.relative_hu, usual.relative_hu) and torch.equal(found.region, usual.region)
        after = folders(changed)
        assert (after == before) == same, name
        before = after


def imported_modules(module: str) -> Iterator[str]:
    """The package's modules that a module of it imports, as paths within the package."""
    for node in ast.walk(ast.parse((PACKAGE / module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("hgisam."):
            path = node.module.removeprefix("hgisam.").replace(".", "/")
            yield f"{path}.py" if (PACKAGE / f"{path}.py").is_file() else f"{path}/__init__.py"


@pytest.mark.parametrize(
    ("code", "used", "changes_nothing"),
    [
        (
            SCAN_CODE,
            ["brain/__init__.py", "plausibility.py", "preprocess.py", "train/cohort.py"],
            {"windowing.py", "processes.py", "labels.py"},
        ),
        (
            PHANTOM_CODE,
            ["brain/__init__.py", "phantom/__init__.py", "preprocess.py"],
            {"windowing.py", "processes.py"},
        ),
        (RECORD_CODE, ["pipeline.py", "evaluate/scores.py"], {"wording.py"}),
    ],
)
def test_whatever_code_makes_what_is_kept_is_in_its_key(
    code: tuple[str, ...], used: list[str], changes_nothing: set[str]
) -> None:
    """A module that is added to those must be in the key too, or be named here, as one that changes nothing kept."""
    found: set[str] = set()
    while used:
        module = used.pop()
        if module not in found:
            found.add(module)
            used += imported_modules(module)
    named = {str(path.relative_to(PACKAGE)) for pattern in code for path in PACKAGE.glob(pattern)}
    assert found - named <= changes_nothing
    assert code is RECORD_CODE or "train/prepared.py" in named
    assert all(any(PACKAGE.glob(pattern)) for pattern in code)


def test_many_workers_prepare_the_same(heads: Cohort, prepared: PreparedScans, tmp_path: Path) -> None:
    together = prepare_cohort(heads, BRAIN, CANVAS, tmp_path, workers=2)
    assert together.refused == prepared.refused
    for found, expected in zip(together, prepared, strict=True):
        assert found.relative_hu.equal(expected.relative_hu)
        assert found.region.equal(expected.region)


def test_prepared_phantoms_come_from_the_cache_unchanged(tmp_path: Path) -> None:
    phantom = PhantomOptions(n_slices=15, slice_mm=10.0, size_px=112, pixel_mm=2.0, bleed_probability=1.0)
    (made,), (again,) = (prepare_phantoms(range(1), phantom, BRAIN, PreprocessOptions(), tmp_path, 1) for _ in "ab")
    assert made.relative_hu.equal(again.relative_hu)
    assert made.slices == again.slices
    assert made.relative_hu.shape[1:] == (192, 192)
    assert float(made.relative_hu[made.blood].float().mean() * HU_STEP) > 3.0
    assert made.labels is not None
    blood_mm2 = made.blood.sum(dim=(1, 2))
    assert bool((blood_mm2[made.labels[:, 5]] > 0).all())
    assert float(blood_mm2[~made.labels[:, 5]].max()) < 30.0


def disk_with(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(total=10**12, used=10**12 - free, free=free))


def test_a_cohort_that_cannot_fit_is_refused_before_anything_is_written(
    heads: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of three scans of as many slices, one has a mask: 96 x 96 pixels of 3 bytes, or 4."""
    n_bytes = heads.scans[0].n_slices * 96 * 96 * (4 + 3 + 3)
    disk_with(monkeypatch, n_bytes // 4 - 1)
    with pytest.raises(OutputError, match=r"cache: expected some \d+(\.\d)? [kM]B free"):
        prepare_cohort(heads, BRAIN, CANVAS, tmp_path / "cache", workers=1)
    assert list(tmp_path.iterdir()) == []
    disk_with(monkeypatch, n_bytes)
    prepare_cohort(heads, BRAIN, CANVAS, tmp_path / "cache", workers=1)
    assert "free" not in caplog.text
    kept = sum(path.stat().st_size for path in tmp_path.rglob("*.npy"))
    assert n_bytes // 4 < kept < n_bytes, "the estimates hold what is kept between them"


def test_what_is_in_the_cache_already_needs_no_room(
    heads: Cohort, prepared: PreparedScans, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk_with(monkeypatch, 0)
    assert prepare_cohort(heads, BRAIN, CANVAS, cache, workers=1).refused == prepared.refused


def test_phantoms_that_cannot_fit_are_refused_before_any_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 400 slices 5 mm apart no more than 150 mm are counted."""
    disk_with(monkeypatch, 10**9)
    with pytest.raises(OutputError, match=r"cache: expected some 4\.4 GB free; got 1\.0 GB"):
        prepare_phantoms(range(1000), PhantomOptions(n_slices=400), BRAIN, PreprocessOptions(), tmp_path / "cache", 1)
    assert list(tmp_path.iterdir()) == []
