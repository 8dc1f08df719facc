"""Comparisons as YAML: those that ship load, and a slip is found before any work."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from compared_heads import write_yaml

from hgisam.compare.settings import CompareOptions, GivenMethod, TrainedMethod, learns_from_masks, load_comparison
from hgisam.config import SettingsError
from hgisam.pipeline import SegmentOptions
from hgisam.weak import HGI_SAM, SWIN_SAM, SWIN_SAM_AS_PUBLISHED

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SHIPPED = sorted(CONFIGS.glob("compare_*.yaml"))

PLAIN: dict[str, Any] = {
    "title": "a test",
    "data": {"kind": "phantoms", "n": 4, "first_seed": 9},
    "reference": "ours",
    "methods": [{"name": "ours", "learned_from": "labels"}, {"name": "other", "learned_from": "labels"}],
}


def write(path: Path, **changes: object) -> Path:
    write_yaml(path, {"source": "a test", "compare": PLAIN | changes})
    return path


def folder_for(path: Path, folder: Path) -> Path | None:
    """What --data names; nothing where the heads are synthetic."""
    data = yaml.safe_load(path.read_text(encoding="utf-8"))["compare"]["data"]
    return None if data["kind"] == "phantoms" or "folder" in data else folder


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_comparison_loads_and_its_methods_differ(path: Path, tmp_path: Path) -> None:
    comparison = load_comparison(path, folder_for(path, tmp_path))
    methods = comparison.compare.methods
    settings = [method.settings(path.parent) for method in methods]
    weights = [method.weights if isinstance(method, GivenMethod) else None for method in methods]
    options = [
        (found.segment, found.train, found.supervised, found.train_segmenter, file)
        for found, file in zip(settings, weights, strict=True)
    ]
    assert all(first != second for i, first in enumerate(options) for second in options[:i])


@pytest.mark.parametrize("name", ["compare_bhsd.yaml", "compare_phantoms.yaml"])
def test_each_map_is_compared_alone_and_refined(name: str, tmp_path: Path) -> None:
    """Each by its own class, and each published method as published: none of those that the field knows is missing."""
    methods = load_comparison(CONFIGS / name, folder_for(CONFIGS / name, tmp_path)).compare.methods
    settings = [method.settings(CONFIGS) for method in methods]
    weak = [found.segment for found in settings if not learns_from_masks(found)]
    kinds = {(found.weak.method, found.refine.method) for found in weak}
    maps = {"self_attention", "gradient_rollout", "grad_cam", "grad_cam_plus_plus", "layer_cam", "hu_threshold"}
    assert kinds == {(method, refine) for method in maps for refine in ("threshold", "components")}
    attention = {found.weak for found in weak if found.weak.method == "self_attention"}
    assert attention >= {HGI_SAM, SWIN_SAM, SWIN_SAM_AS_PUBLISHED, SegmentOptions().weak}


def test_the_comparison_on_phantoms_has_every_supervised_baseline() -> None:
    methods = load_comparison(CONFIGS / "compare_phantoms.yaml").compare.methods
    trained = {method.name: method for method in methods if isinstance(method, TrainedMethod)}
    networks = {name: method.settings(CONFIGS).train_segmenter.network for name, method in trained.items()}
    kinds = {(network.kind, network.spatial_dims) for network in networks.values()}
    assert kinds == {(kind, dims) for kind in ("unet", "swin_unetr") for dims in (2, 3)}
    for name, network in networks.items():
        assert trained[name].folds == (None if network.spatial_dims == 2 else (0, 1))


def test_what_trains_itself_differs_from_its_baseline_only_in_where_the_masks_come_from() -> None:
    """The same network and canvas; and nobody chooses, since choosing would take a reference mask."""
    methods = {method.name: method for method in load_comparison(CONFIGS / "compare_phantoms.yaml").compare.methods}
    own, baseline = (
        methods[name].settings(CONFIGS).train_segmenter for name in ("Self-trained U-Net 2D (ours)", "U-Net 2D")
    )
    assert own.own_masks is not None and baseline.own_masks is None
    assert own.split.tuning_share == 0 and own.loop.patience is None
    mine, theirs = own.model_dump(), baseline.model_dump()
    for stage in ("brain", "preprocess", "stack", "network", "sampling", "augmentation"):
        assert mine[stage] == theirs[stage]
    differ = {key for key in mine["loop"] if mine["loop"][key] != theirs["loop"][key]}
    assert differ == {"steps", "patience", "evaluate_every"}  # where nobody chooses, nobody knows when to go on


def test_masked_scans_grow_to_all_and_none_of_them_chooses() -> None:
    methods = load_comparison(CONFIGS / "compare_masked_scans.yaml").compare.methods
    trained = [method.settings(CONFIGS).train_segmenter for method in methods if isinstance(method, TrainedMethod)]
    assert [found.split.train_patients for found in trained] == [1, 2, 4, 8, 16, None]
    assert {found.split.tuning_share for found in trained} == {0.0}
    assert len({found.loop for found in trained}) == 1


def test_names_that_differ_by_signs_have_folders_of_their_own() -> None:
    first, second = (GivenMethod(name=name, learned_from="b").folder_name for name in ("Grad-CAM, a", "Grad-CAM++, a"))
    assert (first, second) == ("Grad-CAM_a", "Grad-CAMplusplus_a")


def test_the_comparison_on_phantoms_is_as_large_as_promised() -> None:
    options = load_comparison(CONFIGS / "compare_phantoms.yaml").compare
    assert options.data.kind == "phantoms"
    assert options.data.n >= 80
    assert options.folds == 4


def test_methods_are_given_unless_they_say_otherwise() -> None:
    trained = {"name": "trained", "learned_from": "labels", "kind": "trained", "folds": [1]}
    options = CompareOptions.model_validate(PLAIN | {"folds": 2, "methods": [*PLAIN["methods"], trained]})
    assert [type(method) for method in options.methods] == [GivenMethod, GivenMethod, TrainedMethod]


def test_a_method_takes_its_recipe_with_changes(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("source: a recipe\nsegment: {refine: {method: threshold}, threshold: 0.3}\n")
    method = GivenMethod(
        name="a", learned_from="b", config=Path("recipe.yaml"), segment={"threshold": 0.4, "gate": False}
    )
    found = method.settings(tmp_path).segment
    assert (found.refine.method, found.threshold, found.gate) == ("threshold", 0.4, False)


TRAINED = {"name": "trained", "learned_from": "labels", "kind": "trained"}
UNET = {"name": "unet", "learned_from": "masks", "config": str(CONFIGS / "unet2d.yaml")}
OURS = PLAIN["methods"][0]


def test_what_a_recipe_trains_is_told_by_its_stage(tmp_path: Path) -> None:
    methods = [OURS, TRAINED, UNET | {"kind": "trained", "train_segmenter": {"split": {"train_patients": 3}}}]
    given = UNET | {"name": "given", "weights": "a.safetensors", "supervised": {"threshold": 0.3}}
    found = load_comparison(write(tmp_path / "a.yaml", methods=[*methods, given], folds=2)).compare.methods
    settings = [method.settings(tmp_path) for method in found]
    assert [learns_from_masks(one) for one in settings] == [False, False, True, True]
    assert settings[2].train_segmenter.split.train_patients == 3
    assert settings[3].supervised.threshold == 0.3


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"reference": "nobody"}, "expected one of the methods as reference; got 'nobody'"),
        ({"methods": PLAIN["methods"] * 2}, "expected methods of different names"),
        ({"methods": [*PLAIN["methods"], TRAINED]}, "expected 2 folds or more"),
        ({"methods": [*PLAIN["methods"], TRAINED | {"folds": [2]}], "folds": 2}, "expected folds from 0 to 1"),
        ({"methods": [*PLAIN["methods"], TRAINED | {"train": {"split": {"fold": 1}}}], "folds": 2}, "no folds, fold"),
        ({"methods": [OURS, UNET | {"kind": "trained", "train_segmenter": {"split": {"seed": 1}}}], "folds": 2},
         "no folds, fold"),
        ({"methods": [OURS, UNET | {"kind": "trained", "train": {"loop": {"steps": 3}}}], "folds": 2}, "got 'train'"),
        ({"methods": [OURS, UNET | {"weights": "a.safetensors", "segment": {"gate": False}}]}, "got 'segment'"),
        ({"methods": [OURS, {"name": "b", "learned_from": "c", "supervised": {"threshold": 0.3}}]}, "got 'supervised'"),
        ({"data": {"kind": "scans", "folder": "a", "patients": "b.csv"}, "folds": 2}, "expected no table of patients"),
        ({"methods": [OURS, UNET]}, "expected weights with a network that learned from masks"),
        ({"measure": "beauty"}, "'compare.measure'"),
        ({"data": {"kind": "scans"}}, "add --data FOLDER"),
        ({"mehtods": []}, "unknown key 'compare.mehtods'"),
        ({"methods": [PLAIN["methods"][0], {"name": "b", "learned_from": "c", "segment": {"gaet": 1}}]}, "method 'b'"),
        ({"methods": [PLAIN["methods"][0], {"name": "b", "learned_from": "c", "config": "no.yaml"}]}, "no.yaml"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_slip_is_found_before_any_work(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    with pytest.raises(SettingsError) as error:
        load_comparison(write(tmp_path / "a.yaml", **changes))
    assert said in str(error.value)


def test_only_some_of_the_methods_may_be_asked_for(tmp_path: Path) -> None:
    third = {"name": "third", "learned_from": "labels"}
    path = write(tmp_path / "a.yaml", methods=[*PLAIN["methods"], third])

    def names(*only: str) -> list[str]:
        return [method.name for method in load_comparison(path).restricted_to(only).compare.methods]

    assert names("third") == names("third", "ours") == ["ours", "third"], "the reference is always among them"
    with pytest.raises(SettingsError, match=r"methods of the YAML \('ours', 'other', 'third'\); got 'thrid', 'Other'"):
        names("thrid", "third", "Other")
    with pytest.raises(SettingsError, match="beside the reference; got 'ours' alone"):
        names("ours")
