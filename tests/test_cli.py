"""The command line: exit statuses, what goes to stdout and to stderr, and flags that reach the settings."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from dicom_writer import write_series
from fake_model import FakeModel
from typer.testing import CliRunner, Result

from hgisam import __version__
from hgisam.cli import app
from hgisam.io.errors import OutputError
from hgisam.model.checkpoint import WeightsError
from hgisam.pipeline import DeviceUnavailable, SegmentOptions
from hgisam.refine import RandomWalk, Threshold
from hgisam.weak import GradCam


class Loader:
    """Stands in for `Segmenter`: keeps what it was called with."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def __call__(self, weights: Path | None, **rest: Any) -> FakeModel:
        self.calls.append({"weights": weights, **rest})
        return FakeModel()

    @property
    def options(self) -> SegmentOptions:
        options: SegmentOptions = self.calls[-1]["options"]
        return options


@pytest.fixture
def loader(monkeypatch: pytest.MonkeyPatch) -> Loader:
    loader = Loader()
    monkeypatch.setattr("hgisam.pipeline.Segmenter", loader)
    return loader


@pytest.fixture
def scan(tmp_path: Path) -> Callable[[str, str], str]:
    """Make an input file with the given name and text; gives its path."""

    def make(name: str, text: str = "") -> str:
        (tmp_path / "in").mkdir(exist_ok=True)
        path = tmp_path / "in" / f"{name}.nii.gz"
        path.write_text(text)
        return str(path)

    return make


def hgisam(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_version_says_what_it_is_not() -> None:
    done = hgisam("--version")
    assert done.exit_code == 0
    assert done.stdout == f"hgisam {__version__}. Research use only, not a medical device.\n"


def test_help_lists_the_commands() -> None:
    done = hgisam("--help")
    assert done.exit_code == 0
    for command in ("segment", "classify", "phantom", "evaluate", "info"):
        assert command in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["segment", "x.nii.gz", "-o", "out", "--treshold", "0.1"],
        ["segment", "x.nii.gz"],
        ["segment", "-o", "out"],
        ["segment", "x.nii.gz", "-o", "out", "--batch-size", "0"],
        ["segment", "x.nii.gz", "-o", "out", "--shard", "3/2"],
        ["segment", "x.nii.gz", "-o", "out", "--shard", ""],
        ["segment", "x.nii.gz", "-o", "out", "--timeout", "0"],
        ["segment", "x.nii.gz", "-o", "out", "--oom", "swap"],
        ["segment", "no-such-file.nii.gz", "-o", "out"],
        ["anything"],
    ],
)
def test_usage_errors_exit_2_and_touch_nothing(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = hgisam(*arguments)
    assert done.exit_code == 2
    assert done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("segment", "SCAN", "-o", ""), "got an empty one; for this folder, name '.'"),
        (("segment", " ", "-o", "out"), "got an empty one"),
        (("train", "classifier", "--config", "a.yaml", "--data", "", "-o", "out"), "got an empty one"),
        (
            ("segment", "SCAN", "-o", "out", "--hu-offset", "nan"),
            "'segment.hu_offset': expected a finite number; got nan",
        ),
        (("classify", "SCAN", "-o", "out", "--operating-point", "nan"), "'segment.operating_point'"),
    ],
)
def test_a_value_that_nobody_can_mean_is_refused_in_one_line(
    arguments: tuple[str, ...], said: str, tmp_path: Path, scan: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = scan("a")
    monkeypatch.chdir(tmp_path)
    done = hgisam(*(path if word == "SCAN" else word for word in arguments))
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("hgisam: error: ") and said in line
    assert not list((tmp_path / "out").glob("*"))
    assert {found.name for found in tmp_path.iterdir()} <= {"in", "out"}


@pytest.mark.usefixtures("loader")
def test_results_go_to_stdout_and_the_log_to_stderr(tmp_path: Path, scan: Callable[..., str]) -> None:
    out = tmp_path / "out"
    done = hgisam("segment", scan("a"), scan("b", "refuse"), "-o", out)
    assert done.exit_code == 8
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["case", "probability", "volume_ml", "status"]
    assert lines[1].split() == ["a", "0.900", "0.014", "ok"]
    assert lines[2].split() == ["b", "-", "-", "refused"]
    assert "Research use only" in lines[-1]
    errors = [line for line in done.stderr.splitlines() if "error" in line]
    assert len(errors) == 1
    assert errors[0].startswith("hgisam: error: refused: ")
    assert "b.nii.gz: expected a head CT; got plain text; convert it again" in errors[0]
    assert "\x1b" not in done.stdout + done.stderr, "no progress bar where there is no terminal"


@pytest.mark.usefixtures("loader")
def test_quiet_leaves_errors_only(tmp_path: Path, scan: Callable[..., str]) -> None:
    done = hgisam("segment", scan("a"), scan("b", "refuse"), "-o", tmp_path / "out", "-q")
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.usefixtures("loader")
def test_a_traceback_shows_only_with_verbose(tmp_path: Path, scan: Callable[..., str]) -> None:
    path = scan("a", "crash")
    short, long = (hgisam("classify", path, "-o", tmp_path / "out", *flags) for flags in ([], ["-v"]))
    assert short.exit_code == long.exit_code == 1
    assert "Traceback" not in short.stderr
    assert "Traceback" in long.stderr


@pytest.mark.usefixtures("loader")
def test_the_one_scan_that_is_refused_exits_3(tmp_path: Path, scan: Callable[..., str]) -> None:
    assert hgisam("segment", scan("a", "refuse"), "-o", tmp_path / "out").exit_code == 3


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (WeightsError("w.safetensors: expected a weights file; got nothing; check the path"), 4),
        (OutputError("out: expected to write; got no space left on device; free some space"), 5),
        (DeviceUnavailable("expected a device that is there; got 'cuda'; try cpu"), 6),
        (RuntimeError("something else"), 1),
    ],
)
def test_what_goes_wrong_before_the_first_scan_has_its_own_status(
    tmp_path: Path, scan: Callable[..., str], monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("hgisam.pipeline.Segmenter", fail)
    done = hgisam("segment", scan("a"), "-o", tmp_path / "out")
    assert done.exit_code == code
    assert str(error) in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_a_file_exits_5_before_the_weights_are_loaded(
    tmp_path: Path, scan: Callable[..., str], loader: Loader
) -> None:
    (tmp_path / "out").touch()
    assert hgisam("segment", scan("a"), "-o", tmp_path / "out").exit_code == 5
    assert loader.calls == []


def test_flags_reach_the_settings_and_go_before_the_recipe(
    tmp_path: Path, scan: Callable[..., str], loader: Loader
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("source: a test\nsegment: {operating_point: 0.3}\n")
    done = hgisam(
        "segment", scan("a"), "-o", tmp_path / "out", "--config", recipe, "--threshold", "0.4", "--no-gate",
        "--hu-offset", "-24", "--device", "cpu", "--batch-size", "3", "--weights", "w.safetensors",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    call = loader.calls[-1]
    assert (call["weights"], call["device"], call["batch_size"]) == (Path("w.safetensors"), "cpu", 3)
    options = loader.options
    assert (options.threshold, options.operating_point, options.gate, options.hu_offset) == (0.4, 0.3, False, -24)
    assert options.refine.method == "threshold"  # or the flag would change nothing


def test_a_scan_gate_reaches_the_settings(tmp_path: Path, scan: Callable[..., str], loader: Loader) -> None:
    assert hgisam("segment", scan("a"), "-o", tmp_path / "out", "--scan-gate", "0.5").exit_code == 0
    assert loader.options == SegmentOptions(scan_gate=0.5)


def test_refine_names_the_method_and_goes_before_the_recipe(
    tmp_path: Path, scan: Callable[..., str], loader: Loader
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("source: a test\nsegment: {refine: {method: threshold, min_component_mm3: 20}}\n")
    for name, taken in (("random_walk", RandomWalk()), ("threshold", Threshold(min_component_mm3=20))):
        done = hgisam("segment", scan("a"), "-o", tmp_path / "out", "--config", recipe, "--refine", name)
        assert done.exit_code == 0, done.stderr
        assert loader.options.refine == taken, "another method has its own defaults"


def test_a_method_named_over_a_recipe_that_is_written_out_takes_its_own_defaults(
    tmp_path: Path, scan: Callable[..., str], loader: Loader, repository: Path
) -> None:
    recipe = ("--config", repository / "configs" / "hgi_sam.yaml")
    flags = ("--method", "grad_cam", "--refine", "random_walk")
    done = hgisam("segment", scan("a"), "-o", tmp_path / "out", *recipe, *flags)
    assert done.exit_code == 0, done.stderr
    assert (loader.options.weak, loader.options.refine) == (GradCam(), RandomWalk())
    done = hgisam("segment", scan("a"), "-o", tmp_path / "out", *recipe, "--refine", "components")
    assert (done.exit_code, loader.options) == (0, SegmentOptions())


@pytest.mark.usefixtures("loader")
def test_a_threshold_never_replaces_the_refinement_that_a_recipe_names(
    tmp_path: Path, scan: Callable[..., str], repository: Path
) -> None:
    recipe = ("--config", repository / "configs" / "hgi_sam.yaml")
    done = hgisam("segment", scan("a"), "-o", tmp_path / "out", *recipe, "--threshold", "0.4")
    assert done.exit_code == 2
    assert "expected no threshold with refine.method 'components'" in done.stderr


@pytest.mark.usefixtures("loader")
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--refine", "magic"), "magic"),
        (("--refine", "components", "--threshold", "0.4"), "expected no threshold with refine.method 'components'"),
        (("--refine", "components", "--method", "unet", "--weights", "w.safetensors"), "expected no --refine"),
        (("--refine", "threshold", "--threshold", "0.4", "--method", "unet", "--weights", "w"), "expected no --refine"),
        (("--no-gate", "--method", "unet", "--weights", "w.safetensors"), "expected no --no-gate"),
        (("--scan-gate", "0.5", "--method", "unet", "--weights", "w.safetensors"), "expected no --scan-gate"),
        (("--scan-gate", "0.5", "--no-gate"), "expected no scan_gate with gate: false"),
        (("--scan-gate", "1.5"), "scan_gate"),
    ],
)
def test_a_refinement_that_nothing_would_use_exits_2(
    tmp_path: Path, scan: Callable[..., str], flags: tuple[str, ...], said: str
) -> None:
    done = hgisam("segment", scan("a"), "-o", tmp_path / "out", *flags)
    assert done.exit_code == 2
    assert said in done.stderr


def test_without_flags_the_defaults_hold(tmp_path: Path, scan: Callable[..., str], loader: Loader) -> None:
    hgisam("classify", scan("a"), "-o", tmp_path / "out")
    assert loader.options == SegmentOptions()


@pytest.mark.usefixtures("loader")
def test_a_wrong_recipe_exits_2_and_names_the_key(tmp_path: Path, scan: Callable[..., str]) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("source: a test\nsegment: {treshold: 0.2}\n")
    done = hgisam("segment", scan("a"), "-o", tmp_path / "out", "--config", recipe)
    assert done.exit_code == 2
    assert "segment.treshold" in done.stderr
    assert not (tmp_path / "out").exists()


def test_files_that_are_no_head_ct_are_refused_each_with_its_reason(
    tmp_path: Path, tiny_weights: tuple[Path, str]
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 600, size=(64, 64, 24)).astype(np.int16)
    spacing = np.diag([3.0, 3.0, 5.0, 1.0])
    for name, array in {
        "magnetic_resonance": noise,
        "four_axes": np.stack([noise, noise], axis=-1),
        "not_a_number": np.where(noise > 300, np.nan, noise).astype(np.float32),
        "cut": noise,
    }.items():
        nib.Nifti1Image(array, spacing).to_filename(folder / f"{name}.nii.gz")
    whole = (folder / "cut.nii.gz").read_bytes()
    (folder / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    (folder / "text.nii.gz").write_text("no scan")
    weights = ("--weights", tiny_weights[0], "--device", "cpu")
    done = hgisam("segment", folder, "-o", out, *weights)
    assert done.exit_code == 8
    cases = json.loads((out / "run.json").read_text())["cases"]
    assert [case["status"] for case in cases] == ["refused"] * 5
    assert all(case["reason"] and "\n" not in case["reason"] for case in cases)
    assert len([line for line in done.stderr.splitlines() if line.startswith("hgisam: error: refused: ")]) == 5
    assert not list(out.glob("*.nii.gz"))
    for path in folder.iterdir():
        assert hgisam("segment", path, "-o", out, *weights, "-q").exit_code == 3


def test_a_hu_threshold_runs_from_its_recipe_and_records_that_there_was_no_network(
    tmp_path: Path, repository: Path, sample_volumes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hgisam.model.checkpoint.resources.files", lambda _: tmp_path)  # no weights come with it
    recipe = ("--config", repository / "configs" / "hu_threshold.yaml")
    scan = sample_volumes / "epidural.nii.gz"
    done = hgisam("segment", scan, "-o", tmp_path / "out", *recipe)
    assert done.exit_code == 0, done.stderr
    record = json.loads((tmp_path / "out" / "epidural.json").read_text())
    unknown = ("probability", "n_slices_positive", "operating_point", "weights_sha256")
    assert [record[key] for key in unknown] == [None] * 4
    assert {row["probability_any"] for row in record["slices"]} == {None}
    assert record["volume_ml"] > 0
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["weights_sha256"] is None
    assert run["settings"]["segment"]["weak"]["method"] == "hu_threshold"
    assert (tmp_path / "out" / "epidural_preview.png").is_file()
    alone = hgisam("segment", scan, "-o", tmp_path / "alone", "--method", "hu_threshold")
    assert alone.exit_code == 0, alone.stderr
    by_name = json.loads((tmp_path / "alone" / "epidural.json").read_text())
    assert by_name["volume_ml"] == record["volume_ml"]
    refused = hgisam("classify", scan, "-o", tmp_path / "other", *recipe)
    assert refused.exit_code == 4
    assert "expected a method with a network; got 'hu_threshold'" in refused.stderr


@pytest.mark.parametrize(("command", "status"), [("segment", 3), ("evaluate", 8)])
def test_the_exit_status_outlives_whoever_read_stdout(
    tmp_path: Path, scan: Callable[..., str], repository: Path, command: str, status: int
) -> None:
    """As in `hgisam segment ... | true`."""
    for folder, case in (("p", "a_mask"), ("p", "b_mask"), ("r", "a_mask")):
        (tmp_path / folder).mkdir(exist_ok=True)
        image = nib.Nifti1Image(np.ones((4, 4, 4), dtype=np.uint8), np.eye(4))
        image.to_filename(tmp_path / folder / f"{case}.nii.gz")
    words = {
        "segment": [scan("a", "no scan"), "--config", repository / "configs" / "hu_threshold.yaml"],
        "evaluate": [tmp_path / "p", tmp_path / "r", "--workers", "1"],
    }[command]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "hgisam", command, *words, "-o", tmp_path / "out"], stdout=write, check=False
    )
    os.close(write)
    assert done.returncode == status


def test_evaluate_scores_masks_and_exits_8_where_one_has_no_partner(tmp_path: Path) -> None:
    predictions, references = tmp_path / "predictions", tmp_path / "references"
    drawn = [(predictions, "a_mask", 1), (references, "a_labels", 3), (references, "b_labels", 1)]
    for folder, name, n_columns in drawn:
        folder.mkdir(exist_ok=True)
        mask = np.zeros((8, 8, 4), dtype=np.uint8)
        mask[:n_columns, 0, 0] = 2
        nib.Nifti1Image(mask, np.diag([1.0, 1.0, 5.0, 1.0])).to_filename(folder / f"{name}.nii.gz")
    done = hgisam("evaluate", predictions, references, "-o", tmp_path / "out")
    assert done.exit_code == 8
    assert "No prediction for 1: b" in done.stdout
    assert "error: 1 case was not compared" in done.stderr
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert found["scans"][0]["dice"] == pytest.approx(2 * 1 / (1 + 3))
    assert found["scans"][0]["difference_ml"] == pytest.approx(-2 * 5 / 1000)
    (references / "b_labels.nii.gz").unlink()
    done = hgisam("evaluate", predictions, references, "-o", tmp_path / "out", "-q")
    assert (done.exit_code, done.stdout) == (0, "")
    table = tmp_path / "patients.csv"
    table.write_text("case,patient\na,anybody\n")
    done = hgisam("evaluate", predictions, references, "-o", tmp_path / "out", "--patients", table, "--workers", "1")
    assert done.exit_code == 0
    assert "Intervals are over patients: 1" in done.stdout
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["scans"][0]["patient"] == 1
    written = "".join(path.read_text() for path in (tmp_path / "out").iterdir())
    assert "anybody" not in written + done.stdout
    table.write_text("case,patient\n")
    assert hgisam("evaluate", predictions, references, "-o", tmp_path / "new", "--patients", table).exit_code == 2
    assert not (tmp_path / "new").exists()


def test_a_file_in_the_way_exits_2_whichever_command_would_replace_it(tmp_path: Path, scan: Callable[..., str]) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    nib.Nifti1Image(np.ones((4, 4, 4), np.uint8), np.eye(4)).to_filename(masks / "a_mask.nii.gz")
    for name, arguments in (
        ("evaluation.csv", ("evaluate", masks, masks)),
        ("summary.csv", ("segment", scan("a"))),
        ("slice_labels.csv", ("phantom", "-n", "1")),
    ):
        out = tmp_path / arguments[0]
        out.mkdir()
        (out / name).write_text("mine")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("hgisam.pipeline.Segmenter", Loader())
            done = hgisam(*arguments, "-o", out)
        assert (done.exit_code, (out / name).read_text()) == (2, "mine")
        assert name in done.stderr


def test_sigterm_ends_the_command_with_130_and_a_record_of_it(tmp_path: Path, scan: Callable[..., str]) -> None:
    """In a process of its own, as a batch system would end it."""
    code = (
        "import os, signal, sys, hgisam.pipeline\n"
        "from fake_model import FakeModel\n"
        "from hgisam.cli import main\n"
        "def stop(scan):\n"
        "    if scan.name == 'b.nii.gz': os.kill(os.getpid(), signal.SIGTERM)\n"
        "hgisam.pipeline.Segmenter = lambda *_, **__: FakeModel(stop)\n"
        "sys.argv = ['hgisam', 'classify', *sys.argv[1:]]\n"
        "main()\n"
    )
    command = [sys.executable, "-c", code, scan("a"), scan("b"), "-o", str(tmp_path / "out")]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 130, done.stderr
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["status"] == "cancelled"
    assert [case["status"] for case in run["cases"]] == ["ok", "not run"]
    assert signal.SIGTERM.name not in done.stderr


def test_python_m_hgisam_is_hgisam() -> None:
    done = subprocess.run([sys.executable, "-m", "hgisam", "--version"], capture_output=True, text=True, check=False)
    assert done.stdout.startswith(f"hgisam {__version__}")


@pytest.mark.usefixtures("loader")
def test_series_to_choose_from_are_a_table_on_stdout_and_exit_2(tmp_path: Path) -> None:
    for uid, kernel in (("1.5", "H31s"), ("1.6", "H41s")):
        write_series(tmp_path / "head", [0.0, 5.0], SeriesInstanceUID=uid, ConvolutionKernel=kernel)
    done = hgisam("segment", tmp_path / "head", "-o", tmp_path / "out")
    assert done.exit_code == 2
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["examination", "input", "series_uid", "description", "kernel", "slices", "thickness_mm"],
        ["1", str(tmp_path / "head"), "1.5", "-", "H31s", "2", "5"],
        ["1", str(tmp_path / "head"), "1.6", "-", "H41s", "2", "5"],
    ]
    assert done.stderr.splitlines() == [
        f"hgisam: error: {tmp_path / 'head'}: expected one series of axial CT slices; got 2; choose with --series-uid"
    ]
    assert not (tmp_path / "out").exists()


def test_leave_for_gaps_reaches_the_settings(tmp_path: Path, loader: Loader, scan: Callable[..., str]) -> None:
    hgisam("segment", scan("a"), "-o", tmp_path / "out", "--allow-gaps")
    assert loader.options.allow_gaps
    hgisam("classify", scan("a"), "-o", tmp_path / "out2")
    assert not loader.options.allow_gaps


@pytest.mark.usefixtures("loader")
@pytest.mark.parametrize("command", ["segment", "classify"])
def test_shards_and_resume_reach_the_run(command: str, tmp_path: Path, scan: Callable[..., str]) -> None:
    out = tmp_path / "out"
    first = hgisam(command, scan("a"), scan("b"), "-o", out, "--shard", "1/2")
    assert first.exit_code == 0
    assert [line.split()[0] for line in first.stdout.splitlines()[1:-1]] == ["a"]
    assert not (out / "b.json").exists()
    assert hgisam(command, scan("b"), "-o", out, "--resume", "--oom", "cpu").exit_code == 0
    inode = (out / "b.json").stat().st_ino
    assert hgisam(command, scan("b"), "-o", out, "--resume").exit_code == 0
    assert (out / "b.json").stat().st_ino == inode


@pytest.mark.parametrize("flag", ["--deidentify", "--dicom-sr"])
def test_what_needs_a_dicom_seg_is_a_usage_error_alone(flag: str, tmp_path: Path, scan: Callable[..., str]) -> None:
    done = hgisam("segment", scan("a"), "-o", tmp_path / "out", flag)
    assert done.exit_code == 2
    assert f"expected --dicom-seg with {flag}" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("loader")
def test_a_dicom_seg_of_no_dicom_leaves_no_folder(tmp_path: Path, scan: Callable[..., str]) -> None:
    done = hgisam("segment", scan("a"), "-o", tmp_path / "new" / "out", "--dicom-seg")
    assert done.exit_code == 2
    assert not (tmp_path / "new").exists()


def test_evaluate_takes_the_geometry_that_is_asked_for(tmp_path: Path) -> None:
    mask = nib.Nifti1Image(np.ones((4, 4, 4), dtype=np.uint8), np.eye(4))
    mask.set_sform(np.eye(4), code=1)
    mask.set_qform(np.diag([1.0, -1.0, 1.0, 1.0]), code=1)
    mask.to_filename(tmp_path / "a_mask.nii.gz")
    words = ("evaluate", tmp_path / "a_mask.nii.gz", tmp_path / "a_mask.nii.gz", "-o", tmp_path / "out")
    assert hgisam(*words).exit_code == 3
    assert hgisam(*words, "--prefer", "sform").exit_code == 0


@pytest.mark.parametrize("command", ["segment", "classify"])
def test_how_scans_are_taken_in_reaches_the_settings(
    command: str, tmp_path: Path, loader: Loader, scan: Callable[..., str]
) -> None:
    hgisam(command, scan("a"), "-o", tmp_path / "out", "--max-voxels", "1000", "--volume", "0", "--prefer", "qform")
    assert (loader.options.max_voxels, loader.options.volume, loader.options.prefer) == (1000, 0, "qform")
    assert hgisam(command, scan("a"), "-o", tmp_path / "out", "--prefer", "both").exit_code == 2
