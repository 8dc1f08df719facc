"""tools/cross_validate.py and tools/train_shipped_weights.py, with trainings so small that a test can end them."""

import dataclasses
import hashlib
import json
import re
import shlex
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import yaml
from drawn_cohort import write_drawn_cohort
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score
from tiny_training import TINY, write_tiny_recipe

from hgisam import Segmenter, __version__
from hgisam.evaluate.scored import ScoredSlices, read_scored_slices
from hgisam.io.tables import write_json
from hgisam.labels import Subtype
from hgisam.model.architecture import build_classifier
from hgisam.model.checkpoint import WeightsMetadata, load_weights, save_weights
from hgisam.phantom import PhantomOptions, make_phantom
from hgisam.pipeline import SegmentOptions
from hgisam.refine import Threshold
from hgisam.train.layouts import read_cohort
from hgisam.train.recipe import TrainOptions, read_out_of_fold, recorded_settings
from hgisam.train.splits import Role, load_splits
from hgisam.train.training import RUN_RECORD, SPLITS
from hgisam.weak import HGI_SAM

pytestmark = pytest.mark.usefixtures("undrawn", "few_resamples")

N_HEADS = 12


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_drawn_cohort(tmp_path_factory.mktemp("heads"), N_HEADS)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    write_tiny_recipe(folder / "tiny.yaml", steps=2)
    row = {"seeds": [0], "train": {"sampling": {"negative": 2}}}
    rows = {"one": row, "another": row, "by other settings": {"seeds": [0]}}
    common = {"sampling": {"negative": 3, "hard_negative": 2}}
    found = {"recipe": "tiny.yaml", "common": common, "rows": rows}
    (folder / "study.yaml").write_text(yaml.safe_dump(found), encoding="utf-8")
    return folder / "study.yaml"


def run(tool: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", [tool.__file__, *map(str, arguments)])
    tool.main()


def tiny_start(path: Path) -> Path:
    """Weights of the tiny recipe's network that have learned nothing."""
    options = TrainOptions.model_validate(TINY["train"])
    metadata = WeightsMetadata(
        architecture=options.classifier, preprocess=options.preprocess.model_dump(mode="json"), operating_point=0.5,
        threshold=0.5, data="none", command="none", seed=1, version="0", created=datetime(2026, 1, 2, tzinfo=UTC),
        licence="Apache-2.0",
    )  # fmt: skip
    torch.manual_seed(1)
    save_weights(path, build_classifier(options.classifier), metadata)
    return path


def any_auc(scored: ScoredSlices) -> float:
    return float(roc_auc_score(scored.positive, scored.probabilities))


def test_every_patient_is_judged_once_by_a_network_that_had_not_seen_them(
    tools: None, study: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    import cross_validate

    where = (study, "--data", data, "-o", tmp_path, "--jobs", 1)
    run(cross_validate, monkeypatch, *where, "--rows", "one")
    printed = capsys.readouterr().out
    cohort, folder = read_cohort(data), tmp_path / "one" / "seed_0"
    for number in range(cross_validate.FOLDS):
        fold = folder / f"fold_{number}"
        tested = load_splits(fold / SPLITS, cohort).folds[number].patients(Role.TEST)
        assert set(read_scored_slices(fold / "test.csv").patients) == tested
        sampling = json.loads((fold / "run.json").read_text())["settings"]["sampling"]
        assert (sampling["negative"], sampling["hard_negative"]) == (2, 2)  # the row's own, and what all have in common
    scored = read_out_of_fold(folder)
    assert set(scored.patients) == set(cohort.patients)
    assert re.search(rf"^\| one \| 0 \| {any_auc(scored):.3f} \[", printed, re.MULTILINE)
    assert "Research use only" in printed
    assert "| as published |\n" in printed

    shutil.copytree(tmp_path / "one", tmp_path / "another")  # a row that ranks all slices the other way round
    for table in (tmp_path / "another").rglob("test.csv"):
        found = read_scored_slices(table)
        probabilities = torch.where(found.has_brain, 1 - found.probabilities, 0.0)
        dataclasses.replace(found, probabilities=probabilities).save(table)
    run(
        cross_validate, monkeypatch, *where, "--against", "one", "--rows", "one", "another"
    )  # finished: left as they are
    lost = any_auc(read_out_of_fold(tmp_path / "another" / "seed_0")) - any_auc(scored)
    assert re.search(rf"^\| another \| {re.escape(f'{lost:+.3f}')} \[", capsys.readouterr().out, re.MULTILINE)

    (tmp_path / "another").rename(tmp_path / "by other settings")
    for train_or_not in ([], ["--report"]):
        with pytest.raises(SystemExit, match="got one by other settings"):
            run(cross_validate, monkeypatch, *where, "--rows", "by other settings", *train_or_not)
    for unknown in (["--rows", "none"], ["--rows", "one", "--against", "another"]):
        with pytest.raises(SystemExit):
            run(cross_validate, monkeypatch, *where, *unknown)
        assert "expected rows of study.yaml among those chosen; got " in capsys.readouterr().err


def test_a_row_without_its_initial_weights_is_told_before_any_row_is_trained(
    tools: None, study: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import cross_validate

    rows = {"one": {"seeds": [0]}, "lost": {"seeds": [0], "train": {"initial_weights": "runs/nowhere.safetensors"}}}
    found = {"recipe": str(study.parent / "tiny.yaml"), "rows": rows}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(found), encoding="utf-8")
    with pytest.raises(SystemExit, match=r"row lost: .*expected a weights file to begin with"):
        run(cross_validate, monkeypatch, tmp_path / "study.yaml", "--data", data, "-o", tmp_path / "runs", "--jobs", 1)
    assert not (tmp_path / "runs").exists()


def test_a_training_that_began_with_other_weights_of_the_same_name_is_in_the_way(tools: None, tmp_path: Path) -> None:
    import cross_validate

    start = tiny_start(tmp_path / "start.safetensors")
    recipe = write_tiny_recipe(tmp_path / "tiny.yaml")
    options = cross_validate.fold_options(recipe, {"initial_weights": str(start)}, 0, 0)
    record = {"versions": {"hgisam": __version__}, "state": "finished", "settings": recorded_settings(options)}
    (tmp_path / "fold").mkdir()
    write_json(tmp_path / "fold" / RUN_RECORD, record)
    cross_validate.stop_at_other_settings(tmp_path / "fold", options)
    start.write_bytes(start.read_bytes() + b"more")
    with pytest.raises(SystemExit, match="got one by other settings"):
        cross_validate.stop_at_other_settings(tmp_path / "fold", options)


def table_of(scans: dict[str, tuple[str, list[float | None], list[bool | None]]]) -> ScoredSlices:
    """By scan: its patient, each slice's probability, None where it shows no brain, and whether it bled, if known."""
    rows = [
        (patient, scan, number, said, bled)
        for scan, (patient, probabilities, blood) in scans.items()
        for number, (said, bled) in enumerate(zip(probabilities, blood, strict=True))
    ]
    labels = torch.zeros(len(rows), len(Subtype), dtype=torch.bool)
    known = torch.zeros_like(labels)
    labels[:, -1] = torch.tensor([bool(row[4]) for row in rows])
    known[:, -1] = torch.tensor([row[4] is not None for row in rows])
    return ScoredSlices(
        patients=tuple(row[0] for row in rows),
        scans=tuple(row[1] for row in rows),
        slices=torch.tensor([row[2] for row in rows]),
        has_brain=torch.tensor([row[3] is not None for row in rows]),
        labels=labels,
        known=known,
        probabilities=torch.tensor([row[3] or 0.0 for row in rows], dtype=torch.float64),
    )


def test_patients_are_resampled_with_all_their_scans_and_without_what_is_not_known(tools: None) -> None:
    import cross_validate

    scored = table_of(
        {
            "a1": ("a", [0.2, 0.9], [False, True]),
            "a2": ("a", [0.3, 0.8], [False, None]),
            "b1": ("b", [0.1, 0.4], [False, False]),
            "c1": ("c", [0.7], [None]),
        }
    )
    of_slices, of_scans = (cross_validate.judged_by_patient(scored, of_scans=of_scans) for of_scans in (False, True))
    assert {patient: (p.tolist(), bled.tolist()) for patient, (p, bled) in of_slices.items()} == {
        "a": ([0.2, 0.9, 0.3], [False, True, False]),
        "b": ([0.1, 0.4], [False, False]),
    }
    assert {patient: (p.tolist(), bled.tolist()) for patient, (p, bled) in of_scans.items()} == {
        "a": ([0.9], [True]),
        "b": ([0.4], [False]),
    }


def test_scans_of_which_nobody_knows_are_not_negative_and_those_without_brain_are_judged(tools: None) -> None:
    """Three scans of each kind in each fold, told apart; were the unknown ones negative, none would be."""
    import cross_validate

    def fold(number: int, *, more: bool) -> dict[str, tuple[str, list[float | None], list[bool | None]]]:
        bled = {f"{number}b{k}": (f"{number}b{k}", [0.8, 0.2], [True, False]) for k in range(3)}
        clear = {f"{number}c{k}": (f"{number}c{k}", [0.1, 0.2], [False, False]) for k in range(3)}
        unknown = {f"{number}u{k}": (f"{number}u{k}", [0.9, 0.2], [None, False]) for k in range(3)}
        empty = {f"{number}e": (f"{number}e", [None], [False])}
        return bled | clear | (unknown | empty if more else {})

    for more in (False, True):
        folds = [fold(number, more=more) for number in range(2)]
        found = cross_validate.scan_head_auc(table_of(folds[0] | folds[1]), [table_of(one) for one in folds])
        assert found.value == 1.0


def test_maps_are_judged_on_phantoms_too(tools: None, tmp_path: Path) -> None:
    import cross_validate

    small = PhantomOptions(
        n_slices=15, slice_mm=10.0, size_px=112, pixel_mm=2.0, kinds=(Subtype.INTRAPARENCHYMAL,), volumes_ml=(40.0,)
    )
    heads = [make_phantom(seed, small) for seed in (3, 4)]
    start = tiny_start(tmp_path / "start.safetensors")
    segmenter = Segmenter(start, options=SegmentOptions(weak=HGI_SAM, refine=Threshold(), gate=False))
    results = [segmenter.segment((head.ct.hu.numpy(), head.ct.affine.numpy())) for head in heads]

    def mean_dice(cut: float) -> float:
        masks = [(result.saliency_house >= cut, head.labels > 0) for result, head in zip(results, heads, strict=True)]
        return float(np.mean([2 * int((a & b).sum()) / int(a.sum() + b.sum()) for a, b in masks]))

    found = cross_validate.dice_on_phantoms(start, heads)
    assert found == pytest.approx(max(map(mean_dice, (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7))), abs=0.02)
    assert found > 0.02


def test_shipped_weights_learn_from_all_and_are_calibrated_on_those_who_had_not_been_seen(
    tools: None, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import train_shipped_weights as tool

    write_tiny_recipe(tmp_path / "ct_ich.yaml", steps=2)
    monkeypatch.setattr(tool, "CONFIGS", tmp_path)
    start = tiny_start(tmp_path / "start.safetensors")
    files = [tool.train_seed(seed, start, data, tmp_path, "cpu") for seed in (0, 1)]
    for number in range(2):
        tool.train_fold(number, start, data, tmp_path, "cpu")
    for file in files:
        record = json.loads((file.parent / "run.json").read_text())
        content = hashlib.sha256(start.read_bytes()).hexdigest()
        assert record["settings"]["initial_weights"] == f"{start.name} sha256 {content}"
        taught = load_splits(file.parent / SPLITS, read_cohort(data)).folds[0].patients(Role.TRAIN)
        assert len(taught) == N_HEADS
    metadata = tool.average(files, tmp_path / "mean.safetensors", "a command")
    one, other, mean = (load_weights(path).model.state_dict() for path in (*files, tmp_path / "mean.safetensors"))
    for name, value in mean.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, (one[name] + other[name]) / 2, atol=2e-3, rtol=2e-3)  # stored as float16
    assert "mean of 2 seeds" in metadata.data
    assert not torch.equal(load_file(files[0])["head.weight"], load_file(files[1])["head.weight"])
    found = tool.calibrate(metadata, tmp_path / "out_of_fold")
    scored = read_out_of_fold(tmp_path / "out_of_fold" / "seed_0")
    shown = scored.has_brain & (scored.positive | scored.negative)
    auc = roc_auc_score(scored.positive[shown], scored.probabilities[shown])
    assert found.figures["out_of_fold_slice_auc"] == pytest.approx(auc, abs=1e-3)
    assert found.figures["out_of_fold_sensitivity"] >= tool.SENSITIVITY


def test_labels_judge_each_patient_by_the_mean_of_networks_that_had_not_seen_him(
    tools: None, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Two seeds of two folds; the networks of a fold differ in their bias, which is halfway in the mean."""
    import evaluate_on_labels as tool
    from ablation_heads import heads

    scans = sorted(path.name.removesuffix(".nii.gz") for path in data.glob("*.nii.gz"))
    halves = {0: scans[::2], 1: scans[1::2]}
    bias = {(0, 0): 0.0, (0, 1): 1.0, (1, 0): 4.0, (1, 1): 8.0}
    for (fold, seed), value in bias.items():
        (folder := tmp_path / f"seed_{seed}" / f"fold_{fold}").mkdir(parents=True)
        loaded = load_weights(tiny_start(tmp_path / "start.safetensors"))
        loaded.model.state_dict()["head.bias"].fill_(value)
        save_weights(folder / "best.safetensors", loaded.model, loaded.metadata)
        n, labels = len(halves[fold]), torch.zeros(len(halves[fold]), len(Subtype), dtype=torch.bool)
        of = tuple(halves[fold])
        judged = ScoredSlices(of, of, torch.zeros(n, dtype=torch.long), labels[:, 0], labels, ~labels, torch.zeros(n))
        judged.save(folder / "test.csv")
    seeds = [tmp_path / "seed_0", tmp_path / "seed_1"]
    looks_at = tool.segmenters(tmp_path / "start.safetensors", seeds, tmp_path, SegmentOptions())
    for fold, mean in ((0, 0.5), (1, 6.0)):
        for scan in halves[fold]:
            assert looks_at(scan).weights.model.state_dict()["head.bias"].tolist() == [mean]
    asked = {head.patient for purpose in ("choosing", "judging") for head in heads(purpose, 0, 0, 9, data)}
    assert len(asked) > 1
    assert all(looks_at(patient) is not None for patient in asked)  # by the names that the ablations ask with
    alone = tool.segmenters(tmp_path / "start.safetensors", (), tmp_path, SegmentOptions())
    assert {alone(patient).weights.model.state_dict()["head.bias"].item() for patient in asked} != {0.5, 6.0}
    given = ("--weights", tmp_path / "start.safetensors", "--out-of-fold", *seeds)
    run(tool, monkeypatch, data, *given)
    printed = capsys.readouterr().out
    assert printed.startswith(f"{N_HEADS} scans of {N_HEADS} patients: ")
    assert re.search(r"any, slices +│ +\d+ │ +\d+ │ 0\.\d{3} \(0\.\d{3} to [01]\.\d{3}\)", printed)


def test_a_temperature_undoes_what_a_network_is_too_sure_of(tools: None, tmp_path: Path) -> None:
    """Labels as likely as log-odds say, which the table states three times as large."""
    import train_shipped_weights as tool

    chance = np.random.default_rng(0)
    n_slices, n_scans = 20, 100
    log_odds = chance.normal(-1.0, 1.5, n_slices * n_scans)
    labels = torch.zeros(len(log_odds), len(Subtype), dtype=torch.bool)
    labels[:, -1] = torch.from_numpy(chance.random(len(log_odds)) < 1 / (1 + np.exp(-log_odds)))
    scans = tuple(f"s{k // n_slices}" for k in range(len(log_odds)))
    shown = torch.ones(len(log_odds), dtype=torch.bool)
    slices = torch.arange(len(log_odds)) % n_slices
    probabilities = torch.from_numpy(3 * log_odds).sigmoid()
    (tmp_path / "seed_0" / "fold_0").mkdir(parents=True)
    ScoredSlices(scans, scans, slices, shown, labels, torch.ones_like(labels), probabilities).save(
        tmp_path / "seed_0" / "fold_0" / "test.csv"
    )
    before = load_weights(tiny_start(tmp_path / "start.safetensors")).metadata
    found = tool.calibrate(before, tmp_path)
    assert found.temperature == pytest.approx(3.0, rel=0.15)
    assert found.offset == pytest.approx(0.0, abs=0.3)
    blood = log_odds[labels[:, -1].numpy()]
    point = np.log(found.operating_point / (1 - found.operating_point))
    assert np.mean(blood >= point) == pytest.approx(0.8, abs=0.03)


STUDIES = ("ct_ich_ablation", "ct_ich_before", "ct_ich_full_length")


@pytest.mark.parametrize("name", STUDIES)
def test_every_row_of_a_study_is_a_training_of_as_many_slices(tools: None, repository: Path, name: str) -> None:
    import cross_validate

    path = repository / "tools" / f"{name}.yaml"
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    settings = [cross_validate.merged(found.get("common", {}), row.get("train", {})) for row in found["rows"].values()]
    rows = [cross_validate.fold_options(path.parent / found["recipe"], changed, 0, 0) for changed in settings]
    assert {row.sampling.n_images for row in rows} == {17}
    assert len({row.model_dump_json() for row in rows}) == len(rows)


def test_commands_on_pages_name_rows_that_are_there(repository: Path) -> None:
    pages = [repository / "README.md", *repository.glob("docs/**/*.md"), *repository.glob("hgisam/**/*.md")]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages).replace("\\\n", " ")
    commands = [shlex.split(line) for line in re.findall(r"^python tools/cross_validate.py .*$", text, re.MULTILINE)]
    assert {Path(command[2]).stem for command in commands} == {*STUDIES}
    for command in commands:
        rows = yaml.safe_load((repository / command[2]).read_text(encoding="utf-8"))["rows"]
        after = command[command.index("--rows") + 1 :]
        named = [word for word, before in zip(after, ["", *after], strict=False) if "--" not in before + word]
        assert named and {*named} <= {*rows}
