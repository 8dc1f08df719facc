"""YAML -> settings: what differs is taken, what does not exist is named, and flags go before files."""

import os
from pathlib import Path
from typing import get_args

import pytest

from hgisam.config import SettingsError, load_settings
from hgisam.limits import MAX_LINE
from hgisam.pipeline import SegmentOptions
from hgisam.weak import HGI_SAM, SWIN_SAM, SWIN_SAM_AS_PUBLISHED, LayerCam, WeakMethod

FOLDER = Path(__file__).resolve().parent.parent / "configs"
COMPARISONS = sorted(FOLDER.glob("compare_*"))
CONFIGS = sorted(set(FOLDER.glob("**/*")) - set(COMPARISONS))


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("path", [p for p in CONFIGS if p.is_file()], ids=lambda p: p.name)
def test_every_recipe_loads_and_states_its_source(path: Path) -> None:
    assert path.suffix == ".yaml"
    assert len(load_settings(path).source) > 20


def test_the_published_recipes_are_the_published_methods() -> None:
    hgi_sam = load_settings(FOLDER / "hgi_sam_published.yaml").segment
    swin_sam = load_settings(FOLDER / "swin_sam_published.yaml").segment
    assert hgi_sam.weak == HGI_SAM
    assert swin_sam.weak == SWIN_SAM_AS_PUBLISHED
    shifted = swin_sam.model_copy(update={"weak": SWIN_SAM})
    assert load_settings(FOLDER / "swin_sam.yaml").segment == shifted
    for options in (hgi_sam, swin_sam):
        assert options.threshold == 0.05
        assert (options.aggregation.normalisation, options.refine.method) == ("slice", "threshold")


def test_our_own_recipe_writes_out_the_defaults() -> None:
    assert load_settings(FOLDER / "hgi_sam.yaml").segment == SegmentOptions()


def test_every_method_has_a_recipe() -> None:
    union, _ = get_args(WeakMethod)
    methods = {get_args(member)[0]().method for member in get_args(union)}
    assert {load_settings(path).segment.weak.method for path in CONFIGS if path.is_file()} == methods


def test_a_recipe_chooses_a_method_by_its_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml", "source: a test\nsegment: {weak: {method: layer_cam, stages: [3, 4]}}\n")
    assert load_settings(path).segment.weak == LayerCam(stages=(3, 4))


def test_without_a_file_there_are_the_defaults() -> None:
    assert load_settings().segment == SegmentOptions()


def test_a_file_states_only_what_differs(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path / "a.yaml", "source: a test\nsegment:\n  refine: {contrast_hu: 12}\n"))
    assert settings.segment.refine.contrast_hu == 12
    assert settings.segment.refine.min_share == SegmentOptions().refine.min_share
    assert settings.source == "a test"


def test_flags_go_before_the_file_and_none_means_not_given(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.yaml",
        "source: a test\nsegment: {threshold: 0.2, hu_offset: -24, gate: false, refine: {method: threshold}}\n",
    )
    settings = load_settings(path, {"segment": {"threshold": 0.4, "hu_offset": None}}).segment
    assert (settings.threshold, settings.hu_offset, settings.gate) == (0.4, -24, False)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("source: a\nsegment: {treshold: 0.2}", "unknown key 'segment.treshold'"),
        ("source: a\nsegment: {refine: {contrast: 3}}", "unknown key 'segment.refine.components.contrast'"),
        ("source: a\nsegment: {weak: {method: magic}}", "'segment.weak': input tag 'magic' .* does not match"),
        ("source: a\nsegment: {weak: {method: grad_cam, stages: [1]}}", "unknown key 'segment.weak.grad_cam.stages'"),
        ("source: a\nsegment: {operating_point: 0.5, weak: {method: hu_threshold}}", "expected no operating_point"),
        (
            "source: a\nsegment: {gate: false, poses: {mirrored: true}, weak: {method: hu_threshold}}",
            "expected no poses",
        ),
        ("source: a\nsegmentation: {}", "unknown key 'segmentation'"),
        ("source: a\nsegment: {threshold: 7}", "'segment.threshold': .* less than or equal to 1; got 7"),
        ("source: a\nsegment: {operating_point: true}", "'segment.operating_point': expected a number; got true"),
        ("source: a\ntrain: {loop: {steps: true}}", "'train.loop.steps': expected a number; got true"),
        ("source: a\nsegment: {hu_offset: .nan}", "'segment.hu_offset': expected a finite number; got nan"),
        ("source: a\ntrain: {loop: {learning_rate: .inf}}", "expected a finite number; got inf"),
        ("source: a\nsegment: {weak: {method: self_attention, stages: [true]}}", "expected a number; got true"),
        ("source: a\nsegment: 3", "'segment'"),
        ("segment: {}", "a line 'source: ...'"),
        ("- a\n- b", "expected keys and values; got list"),
        ("", "expected keys and values; got NoneType"),
        ("source: [unclosed", "expected YAML of plain values"),
        ("source: a\nsegment: {gate: true, gate: false}", "key 'gate' appears twice"),
        ("source: !!python/object/apply:os.system ['true']", "expected YAML of plain values"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said) as error:
        load_settings(write(tmp_path / "a.yaml", text), {"segment": {"gate": None}})
    assert "a.yaml" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="expected a YAML file"):
        load_settings(tmp_path / "none.yaml")


def test_a_flag_out_of_range_is_said() -> None:
    with pytest.raises(SettingsError, match=r"command line: 'segment\.operating_point'"):
        load_settings(overrides={"segment": {"operating_point": 3}})


def test_true_is_no_number_and_where_true_is_meant_it_is(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"command line: 'segment\.hu_offset': expected a finite number; got nan"):
        load_settings(overrides={"segment": {"hu_offset": float("nan")}})
    path = write(tmp_path / "a.yaml", "source: a test\nsegment: {gate: false, hu_offset: 1}\n")
    assert (load_settings(path).segment.gate, load_settings(path).segment.hu_offset) == (False, 1)


def test_without_a_network_there_is_no_gate_unless_one_is_asked_for(tmp_path: Path) -> None:
    options = load_settings(overrides={"segment": {"weak": {"method": "hu_threshold"}, "refine": {"method": None}}})
    assert (options.segment.gate, options.segment.refine.method) == (False, "threshold")
    path = write(tmp_path / "a.yaml", "source: a test\nsegment: {refine: {method: random_walk}}\n")
    options = load_settings(path, {"segment": {"weak": {"method": "hu_threshold"}}})
    assert (options.segment.gate, options.segment.refine.method) == (False, "random_walk")


def test_a_threshold_that_nothing_would_use_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"set refine\.method to 'threshold'"):
        load_settings(write(tmp_path / "a.yaml", "source: a test\nsegment: {threshold: 0.2}\n"))


def test_a_scan_gate_that_nothing_would_use_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"expected no scan_gate with gate: false; got 0\.5"):
        load_settings(write(tmp_path / "a.yaml", "source: a test\nsegment: {gate: false, scan_gate: 0.5}\n"))


def bomb(depth: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    return "\n".join([*lines, *(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, depth))])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"{bomb(12)}\nsource: *a11", "an alias; write the value out"),
        ("source: &a a\nsegment: {hu_offset: *a}", "an alias"),
        ("source: a\nsegment: &s {weak: *s}", "an alias"),
        (f"source: a\nsegment: {'[' * 3000}", "expected a few levels of settings"),
        ("source: a\nsegment: 2001-99-99", "expected YAML of plain values"),
        ("source: a\nsegment: {hu_offset: !!int x}", "expected YAML of plain values"),
        ("source: a\nsegment: {hu_offset: !!timestamp x}", "expected YAML of plain values"),
        (f"source: a\nsegment: {{hu_offset: {'9' * 5000}}}", "expected YAML of plain values"),
        ("source: a\nsegment: {? [1, 2] : 3}", "a key that is no plain word"),
        ("source: a\n<<: {segment: {}}", "a key that is no plain word"),
        ("source: \x1b[2J", "expected YAML of plain values"),
        ("source: a\n" + "".join(f"k{n}: 1\n" for n in range(5_000)), "unknown key 'k0'"),
        ("source: a\n" + "#" * 2**16, "more than 65,536 bytes"),
    ],
)
def test_hostile_text_is_refused_in_one_short_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said) as error:
        load_settings(write(tmp_path / "a.yaml", text))
    assert str(error.value).isprintable()
    assert len(str(error.value)) <= MAX_LINE


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_text_that_is_no_utf_8_is_refused(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.yaml").write_bytes("source: Größe".encode(encoding))
    with pytest.raises(SettingsError, match="expected YAML of plain values"):
        load_settings(tmp_path / "a.yaml")


def test_a_pipe_in_place_of_a_recipe_is_refused_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.yaml")
    with pytest.raises(SettingsError, match="a pipe or a device"):
        load_settings(tmp_path / "a.yaml")
