"""tools/feature_baselines.py, tools/evaluate_on_phantoms.py and tools/bench_train.py, on heads few and small."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from drawn_cohort import write_drawn_cohort
from sklearn.metrics import roc_auc_score
from test_training_tools import run, tiny_start
from tiny_training import write_tiny_recipe

from hgisam import Segmenter
from hgisam.brain import BrainOptions
from hgisam.evaluate.scored import read_scored_slices
from hgisam.labels import Subtype
from hgisam.phantom import PhantomOptions, make_phantom
from hgisam.preprocess import PreprocessOptions
from hgisam.train.layouts import read_cohort
from hgisam.train.prepared import prepare_cohort

pytestmark = pytest.mark.usefixtures("undrawn", "few_resamples", "tools")

N_HEADS = 10


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_drawn_cohort(tmp_path_factory.mktemp("heads"), N_HEADS)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def test_features_find_what_where_a_slice_lies_does_not(
    data: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Every second head has a bright square in the same slices: where they lie says half of it."""
    import feature_baselines as tool

    run(tool, monkeypatch, data, "-o", tmp_path, "--cache", cache, "--seeds", 0)
    auc = {}
    for model in tool.MODELS:
        scored = read_scored_slices(tmp_path / f"{model}_seed0.csv")
        assert set(scored.patients) == {f"p{number}" for number in range(N_HEADS)}
        auc[model] = roc_auc_score(scored.positive, scored.probabilities)
    assert 0.6 < auc["position"] < 0.95
    assert min(auc["logistic"], auc["trees"]) > 0.98
    printed = capsys.readouterr().out
    assert "Research use only" in printed
    written = json.loads((tmp_path / "baselines.json").read_text(encoding="utf-8"))
    for model, value in auc.items():
        assert re.search(rf"^ +{model} +{value:.3f}$", printed, re.MULTILINE)
        assert written["slice_auc_by_seed"][model] == [pytest.approx(value)]


def test_no_model_is_asked_of_a_patient_that_it_learned_from(
    data: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import feature_baselines as tool

    cohort = read_cohort(data)
    prepared = prepare_cohort(cohort, BrainOptions(), PreprocessOptions(), cache, 1)
    whose = prepared.slice_index.scan.numpy()[:, None].astype(float)
    asked: list[int] = []

    class Learner:
        def fit(self, seen: np.ndarray, _: np.ndarray) -> "Learner":
            self.known = set(seen[:, 0])
            return self

        def predict_proba(self, seen: np.ndarray) -> np.ndarray:
            assert self.known and not self.known & set(seen[:, 0])
            asked.extend(map(int, set(seen[:, 0])))
            return np.full((len(seen), 2), 0.5)

    monkeypatch.setattr(tool, "new_model", lambda model, seed: Learner())
    tool.out_of_fold("trees", {"trees": whose}, prepared, cohort, 0)
    assert sorted(asked) == list(range(N_HEADS))


def test_features_of_a_region_know_nothing_of_what_lies_outside() -> None:
    import feature_baselines as tool

    region = np.zeros((20, 20), dtype=bool)
    region[5:15, 5:15] = True
    hu = np.where(region, 30.0, 1000.0).astype(np.float32)
    smooth = tool.smoothed_within(hu, region, 2.0)
    np.testing.assert_allclose(smooth, np.where(region, 30.0, 0.0), rtol=1e-5)


def test_a_slice_is_told_of_its_neighbours_and_the_largest_of_its_parts() -> None:
    import feature_baselines as tool

    found = tool.with_neighbours(np.array([[1.0], [5.0], [2.0]]))
    assert found.tolist() == [[1, 3, 5], [5, 1.5, 2], [2, 3.5, 5]]  # itself, the mean beside it, the highest
    mask = np.zeros((6, 6), dtype=bool)
    mask[0, :3] = mask[3:5, 2:5] = True
    assert tool.largest_mm2(mask, 0.5) == 6 * 0.25
    assert tool.largest_mm2(~mask & mask, 0.5) == 0.0


def test_figures_on_phantoms_are_those_of_the_masks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Two heads that bled, one of them a little, and one that did not; a network that knows nothing, without a gate."""
    import evaluate_on_phantoms as tool

    size = {"n_slices": 15, "slice_mm": 8.0, "size_px": 112, "pixel_mm": 2.0}
    bleeding = PhantomOptions(**size, kinds=(Subtype.INTRAPARENCHYMAL,), volumes_ml=(40.0,))
    options = (bleeding, bleeding, PhantomOptions(**size, bleed_probability=0.0))
    made = [make_phantom(seed, option) for seed, option in enumerate(options)]
    heads = [SimpleNamespace(ct=head.ct, labels=head.labels.clone()) for head in made]
    labels = heads[1].labels
    few = torch.nonzero(labels)[torch.nonzero(labels)[:, 0] == int((labels > 0).sum(dim=(1, 2)).argmax())][:26]
    labels[:] = 0
    labels[tuple(few.T)] = 1  # 104 mm2, 0.83 ml
    monkeypatch.setattr(tool, "generate_phantoms", lambda n, first_seed, options, workers: heads[:n])
    start = tiny_start(tmp_path / "start.safetensors")
    run(tool, monkeypatch, "-n", 3, "--weights", start, "--json", tmp_path / "found.json")
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    printed = capsys.readouterr().out
    assert "Research use only" in printed

    results = [Segmenter(start).segment((head.ct.hu.numpy(), head.ct.affine.numpy())) for head in heads]
    masks = [result.mask_volume.voxels for result in results]
    dice = [
        2 * int((mask & (head.labels > 0)).sum()) / int(mask.sum() + (head.labels > 0).sum())
        for mask, head in zip(masks[:2], heads, strict=False)
    ]
    said = [result.probability for result in results]
    expected = {
        "volume Dice, shipped mask, heads that bled": (np.mean(dice), 2),
        "volume Dice, shipped mask, 1 ml and over": (dice[0], 1),
        "false-positive ml, shipped mask, normal heads": (int(masks[2].sum()) * 0.032, 1),
        "scan AUC": (roc_auc_score([1, 1, 0], said), 3),
    }
    for name, (value, n) in expected.items():
        assert found[name][0] == pytest.approx(value, abs=1e-6), name
        assert found[name][3] == n
        assert re.search(rf"^{re.escape(name)} +{value:.3f} .*n={n}$", printed, re.MULTILINE), name


def test_a_step_s_cost_is_its_operations_over_the_rate_of_matrix_products(
    data: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """A product of 1,024 x 1,024 in 1 s is 2.147 GFLOP/s. A step that takes 4 s reaches a share of that."""
    import bench_train as tool

    config = write_tiny_recipe(tmp_path / "tiny.yaml")
    taken = {8: tool.Seconds(4.0, 3.0), 1024: tool.Seconds(1.0, 0.5)}
    monkeypatch.setattr(tool, "timed", lambda work, device: taken[1024 if torch.is_tensor(work()) else 8])
    run(tool, monkeypatch, "--config", config, "--matrix", 1024, "--rounds", 1, "--data", data, "--cache", cache)
    printed = capsys.readouterr().out
    assert "tiny.yaml: 8 images of 96 px a step" in printed
    for precision in ("bfloat16", "float32"):
        part = printed[printed.index(f"{precision}: ") :]
        gflop, each = map(float, re.search(r"([\d.]+) GFLOP a step, ([\d.]+) an image", part).groups())
        assert gflop / 8 == pytest.approx(each, abs=0.06)
        for clock, step_s, product_s in (("the clock", 4.0, 1.0), ("CPU time", 3.0, 0.5)):
            line = next(line for line in part.splitlines() if f"by {clock}" in line)
            bound, share, rate = map(
                float, re.search(r"bound +([\d.]+) .* = +([\d.]+)% .* +([\d.]+) sl", line).groups()
            )
            assert bound == pytest.approx(2 * 1024**3 / 1e9 / product_s, abs=0.05)
            assert share == pytest.approx(100 * gflop / step_s / bound, abs=1.5)
            assert rate == pytest.approx(8 / step_s, abs=0.006)
    assert "50.0% of the time waits for data" in printed
