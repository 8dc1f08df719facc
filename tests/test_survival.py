"""Runs that survive: what is resumed and what is done again, shards, too little memory, hanging cases, a full disk."""

import ctypes
import ctypes.util
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_model import FakeModel
from misbehaving import act

from hgisam.cases import Case, Shard
from hgisam.exits import ExitCode
from hgisam.io.errors import InputError, OutputError
from hgisam.outputs import case_claimed, claimed
from hgisam.run import RunOptions, RunReport, classify_cases, segment_cases

Make = Callable[..., tuple[Case, ...]]

RESUME = RunOptions(resume=True)


def asked_again(cases: tuple[Case, ...], out: Path, model: FakeModel | None = None, **rest: Any) -> list[str]:
    """Resume a run of `segment`; which cases the network was asked about."""
    model = model or FakeModel()
    segment_cases(model, cases, out, options=RESUME, **rest)
    return [name.removesuffix(".nii.gz") for name in model.asked]


def record(folder: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    return content


def statuses(report: RunReport) -> dict[str, str]:
    return {row["case"]: row["status"] for row in report.rows}


# ---- resume


def test_a_resumed_run_does_what_is_not_done_and_its_summary_speaks_of_all(tmp_path: Path, scans: Make) -> None:
    out = tmp_path / "out"
    cases = scans(a="", b="refuse", c="crash", d="")
    first = segment_cases(FakeModel(), cases[:3], out)
    before = (out / "a.json").stat().st_mtime_ns
    model = FakeModel()
    again = segment_cases(model, cases, out, options=RESUME)
    assert model.asked == ["c.nii.gz", "d.nii.gz"], "done or refused cases stay; what failed is tried again"
    assert again.rows[:2] == first.rows[:2]
    assert statuses(again) == {"a": "ok", "b": "refused", "c": "failed", "d": "ok"}
    assert again.exit_code == ExitCode.SOME_FAILED
    assert (out / "a.json").stat().st_mtime_ns == before
    assert [case["case"] for case in json.loads((out / "run.json").read_text())["cases"]] == ["a", "b", "c", "d"]


def test_without_resume_everything_is_done_again(tmp_path: Path, scans: Make) -> None:
    cases = scans(a="")
    segment_cases(FakeModel(), cases, tmp_path / "out")
    model = FakeModel()
    segment_cases(model, cases, tmp_path / "out")
    assert model.asked == ["a.nii.gz"]


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    "harm",
    [
        lambda out: (out / "a_mask.nii.gz").unlink(),
        lambda out: (out / "a_mask.nii.gz").write_bytes((out / "a_mask.nii.gz").read_bytes()[:-1]),
        lambda out: (out / "a_preview.png").write_bytes(b""),
        lambda out: (out / "a.json").unlink(),
        lambda out: (out / "a.json").write_text((out / "a.json").read_text()[:-20]),
        lambda out: change(out / "a.json", volume_ml=0.0),
        lambda out: change(out / "a.json", status=["ok"]),
        lambda out: (out / "a_map.nii.gz").write_bytes(b"a map that no record knows"),
        lambda out: (out.parent / "in" / "a.nii.gz").write_text("another scan"),
    ],
    ids=["no mask", "cut mask", "empty preview", "no record", "cut record", "edited record", "odd record", "extra map",
         "other input"],
)  # fmt: skip
def test_a_case_of_which_anything_changed_is_done_again(
    tmp_path: Path, scans: Make, harm: Callable[[Path], object]
) -> None:
    out = tmp_path / "out"
    cases = scans(a="", b="")
    segment_cases(FakeModel(), cases, out)
    whole = {path.name: path.read_bytes() for path in out.glob("a_*")}
    assert asked_again(cases, out) == []
    harm(out)
    assert asked_again(cases, out) == ["a"]
    assert {path.name: path.read_bytes() for path in out.glob("a_*")} == whole


def test_other_settings_weights_outputs_or_commands_are_another_result(tmp_path: Path, scans: Make) -> None:
    out = tmp_path / "out"
    cases = scans(a="")
    segment_cases(FakeModel(), cases, out)
    assert asked_again(cases, out, save_map=True) == ["a"]
    assert asked_again(cases, out, save_map=True) == []
    assert asked_again(cases, out) == ["a"]
    for key, value in (("threshold", 0.4), ("weights_sha256", "cd" * 32)):
        other = FakeModel()
        other.settings = other.settings | {key: value}
        assert asked_again(cases, out, other) == ["a"]
        segment_cases(FakeModel(), cases, out)
    classify_cases(FakeModel(), cases, out, options=RESUME)
    assert asked_again(cases, out) == ["a"]


def test_what_a_killed_process_left_unfinished_goes(tmp_path: Path, scans: Make) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / ".hgisam-0123456789abcdef.part").write_text("half a mask")
    (out / ".hgisam-claim-a.lock").touch()
    segment_cases(FakeModel(), scans(a=""), out, options=RESUME)
    assert [path.name for path in out.iterdir() if path.name.startswith(".")] == []


# ---- shards


def test_shards_have_each_case_once() -> None:
    cases = [Case(str(n), Path(f"{n}.nii")) for n in range(7)]
    parts = [Shard.parse(f"{n}/3").part(cases) for n in (1, 2, 3)]
    assert [[case.name for case in part] for part in parts] == [["0", "3", "6"], ["1", "4"], ["2", "5"]]
    assert Shard.parse("9/9").part(cases) == ()


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "1/0", "-1/2", "1/2/3", "1.0/2", "", "\u0661/2"])
def test_what_is_no_shard_is_said(text: str) -> None:
    with pytest.raises(InputError, match="such as 2/5"):
        Shard.parse(text)


def test_the_last_shard_to_end_leaves_the_summary_of_all(tmp_path: Path, scans: Make) -> None:
    out = tmp_path / "out"
    cases = scans(a="", b="", c="refuse", d="")
    first = segment_cases(FakeModel(), cases, out, options=RunOptions(shard=Shard(1, 2)))
    assert statuses(first) == {"a": "ok", "c": "refused"}
    run = json.loads((out / "run.json").read_text())
    assert run["status"] == "running"
    assert [case["status"] for case in run["cases"]] == ["ok", "not run", "refused", "not run"]
    second = segment_cases(FakeModel(), cases, out, options=RunOptions(shard=Shard(2, 2)))
    assert statuses(second) == {"b": "ok", "d": "ok"}
    assert second.exit_code == ExitCode.OK
    run = json.loads((out / "run.json").read_text())
    assert run["status"] == "done"
    assert [case["status"] for case in run["cases"]] == ["ok", "ok", "refused", "ok"]
    assert asked_again(cases, out) == []


def test_a_shard_s_summary_tells_nothing_of_a_scan_that_is_another_by_now(tmp_path: Path, scans: Make) -> None:
    out = tmp_path / "out"
    cases = scans(a="", b="")
    segment_cases(FakeModel(), cases, out)
    scans(b="other bytes")
    segment_cases(FakeModel(), cases, out, options=RunOptions(shard=Shard(1, 2)))
    run = json.loads((out / "run.json").read_text())
    assert (run["status"], [case["status"] for case in run["cases"]]) == ("running", ["ok", "not run"])


def test_a_shard_with_one_refused_case_of_many_is_no_single_scan(tmp_path: Path, scans: Make) -> None:
    report = segment_cases(FakeModel(), scans(a="refuse", b=""), tmp_path, options=RunOptions(shard=Shard(1, 2)))
    assert report.exit_code == ExitCode.SOME_FAILED


def shard_in_a_process(cases: tuple[Case, ...], out: Path, marks: Path, shard: Shard) -> None:
    """Leaves a mark per question asked of the network."""

    def mark(scan: Path) -> None:
        time.sleep(0.05)
        (marks / f"{scan.name}-{os.getpid()}").touch()

    classify_cases(FakeModel(mark), cases, out, options=RunOptions(shard=shard))


def test_two_processes_of_one_shard_never_do_a_case_twice(tmp_path: Path, scans: Make) -> None:
    """Both are told to do everything."""
    cases = scans(**{f"c{n:02d}": "" for n in range(20)})
    marks = tmp_path / "marks"
    marks.mkdir()
    context = multiprocessing.get_context("fork")
    arguments = (cases, tmp_path / "out", marks, Shard(1, 1))
    processes = [context.Process(target=shard_in_a_process, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    asked = [path.name.split("-")[0] for path in marks.iterdir()]
    assert sorted(asked) == [f"c{n:02d}.nii.gz" for n in range(20)]
    assert json.loads((tmp_path / "out" / "run.json").read_text())["status"] == "done"
    assert list((tmp_path / "out").glob(".*")) == []


def test_shards_share_a_folder_and_keep_any_other_run_out(tmp_path: Path) -> None:
    with claimed(tmp_path, shared=True), claimed(tmp_path, shared=True):
        with pytest.raises(OutputError, match="another hgisam"), claimed(tmp_path):
            pass
        with case_claimed(tmp_path, "a", wait=False) as ours, case_claimed(tmp_path, "a", wait=False) as theirs:
            assert (ours, theirs) == (True, False)
    with claimed(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


# ---- too little memory


class Cramped(FakeModel):
    """A device with room for so many windows per pass; `use_less_memory` may leave it, as a GPU is left for the CPU."""

    def __init__(self, room: int) -> None:
        super().__init__(self._fill)
        self.room = room
        self.device = torch.device("meta")

    def _fill(self, _: Path) -> None:
        if self.device.type != "cpu" and self.batch_size > self.room:
            raise torch.OutOfMemoryError("expected room on the device; got none")

    def use_less_memory(self, *, allow_cpu: bool) -> str | None:
        relief = super().use_less_memory(allow_cpu=allow_cpu)
        if relief is None and allow_cpu and self.device.type != "cpu":
            self.device, relief = torch.device("cpu"), "the CPU"
        return relief


def test_out_of_memory_halves_the_batch_for_good_and_is_on_record(tmp_path: Path, scans: Make) -> None:
    model = Cramped(room=1)
    report = classify_cases(model, scans(a="", b=""), tmp_path)
    assert report.exit_code == ExitCode.OK
    assert model.asked == ["a.nii.gz", "a.nii.gz", "a.nii.gz", "b.nii.gz"]
    first, second = record(tmp_path, "a"), record(tmp_path, "b")
    assert first["warnings"][-1] == "the device ran out of memory; done with a batch of 1"
    assert (first["batch_size"], second["batch_size"], first["device"]) == (1, 1, "meta")
    assert not any("memory" in warning for warning in second["warnings"])


@pytest.mark.parametrize(("oom", "status", "code"), [("halve", "failed", 1), ("cpu", "ok", 0)])
def test_where_one_window_is_too_many_the_case_fails_or_goes_to_the_cpu(
    tmp_path: Path, scans: Make, oom: Any, status: str, code: int
) -> None:
    report = classify_cases(Cramped(room=0), scans(a=""), tmp_path, options=RunOptions(oom=oom))
    assert report.exit_code == code
    assert record(tmp_path, "a")["status"] == status
    if status == "ok":
        assert record(tmp_path, "a")["device"] == "cpu"
    else:
        assert "OutOfMemoryError" in record(tmp_path, "a")["reason"]


# ---- cases that hang


def test_a_case_that_hangs_or_kills_its_process_is_recorded_and_the_next_one_done(tmp_path: Path, scans: Make) -> None:
    out = tmp_path / "out"
    cases = scans(a="", b="hang", c="die", d="refuse", e="")
    report = classify_cases(FakeModel(act), cases, out, options=RunOptions(timeout_s=5.0))
    assert statuses(report) == {"a": "ok", "b": "failed", "c": "failed", "d": "refused", "e": "ok"}
    assert report.exit_code == ExitCode.SOME_FAILED
    assert record(out, "b")["reason"] == "TookTooLong: expected a result within 5 s; got none; allow more time"
    assert "signal 9" in record(out, "c")["reason"]
    assert {path.name for path in out.iterdir()} == {
        *(f"{case.name}.json" for case in cases), "a_slices.csv", "e_slices.csv", "run.json", "summary.csv"
    }  # fmt: skip
    model = FakeModel()
    classify_cases(model, cases, out, options=RESUME)
    assert model.asked == ["b.nii.gz", "c.nii.gz"]


def test_what_is_done_costs_no_time(tmp_path: Path, scans: Make) -> None:
    """A limit that nothing could keep, and a whole result."""
    segment_cases(FakeModel(), scans(a=""), tmp_path)
    options = RunOptions(resume=True, timeout_s=1e-9)
    assert statuses(segment_cases(FakeModel(), scans(a=""), tmp_path, options=options)) == {"a": "ok"}


# ---- a full disk

FILL = """
import sys
from pathlib import Path
from fake_model import FakeModel
from hgisam.cases import find_cases
from hgisam.run import RunOptions, segment_cases
report = segment_cases(FakeModel(), find_cases([Path(sys.argv[1])]), Path(sys.argv[2]), options=RunOptions(resume=True))
print(*(row["status"] for row in report.rows))
sys.exit(report.exit_code)
"""


def filled(scans: Path, out: Path, before: Callable[[], None] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", FILL, str(scans), str(out)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, preexec_fn=before)


def assert_nothing_is_partial(out: Path, done: list[str]) -> None:
    """Of cases that are not done, nothing is there."""
    per_case = {"_mask.nii.gz", "_preview.png", ".json"}
    found = {path.name for path in out.iterdir()} - {"run.json", "summary.csv"}
    assert found == {f"{name}{suffix}" for name in done for suffix in per_case}
    for name in done:
        assert record(out, name)["status"] == "ok"


def test_a_disk_that_fills_up_stops_the_run_and_the_rest_is_done_later(tmp_path: Path, scans: Make) -> None:
    """A file system of its own, of 200 KB; a preview takes some 30."""
    libc = ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)
    out = tmp_path / "out"
    out.mkdir()
    if libc.mount(b"tmpfs", os.fsencode(out), b"tmpfs", 0, b"size=200k") != 0:
        pytest.skip(f"may not mount: {os.strerror(ctypes.get_errno())}")
    try:
        names = [f"c{n:02d}" for n in range(12)]
        scans(**dict.fromkeys(names, ""))
        stopped = filled(tmp_path / "in", out)
        assert stopped.returncode == ExitCode.OUTPUT, stopped.stderr
        n_done = stopped.stdout.split().count("ok")
        assert 0 < n_done < len(names)
        assert "no space left on device" in stopped.stderr
        assert_nothing_is_partial(out, names[:n_done])
        assert libc.mount(b"tmpfs", os.fsencode(out), b"tmpfs", 32, b"size=10m") == 0, "32 is MS_REMOUNT"
        assert filled(tmp_path / "in", out).returncode == ExitCode.OK
        assert_nothing_is_partial(out, names)
    finally:
        libc.umount2(os.fsencode(out), 2)


def test_a_file_that_may_not_grow_leaves_nothing_of_its_case(tmp_path: Path, scans: Make) -> None:
    scans(a="")
    done = filled(tmp_path / "in", tmp_path / "out", lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)))
    assert done.returncode == ExitCode.OUTPUT
    assert "file too large" in done.stderr
    assert_nothing_is_partial(tmp_path / "out", [])
