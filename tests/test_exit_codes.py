"""docs/exit_codes.md is true: each command there ends as its section says, with the lines that stand below it."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from analytic_head import SKULL, draw_head
from head_series import N_SLICES, head, write_head
from typer.testing import CliRunner

from hgisam.brain import intracranial_region
from hgisam.cli import app
from hgisam.exits import ExitCode
from hgisam.io.nifti import write_ct
from hgisam.volume import CTVolume

DOCUMENT = (Path(__file__).resolve().parent.parent / "docs" / "exit_codes.md").read_text(encoding="utf-8")
SECTIONS = re.findall(r"^## (\d+): .*?\n(.*?)(?=^## |\Z)", DOCUMENT, flags=re.MULTILINE | re.DOTALL)
EXAMPLES = [
    (int(code), command.strip(), lines.splitlines())
    for code, section in SECTIONS
    for block in re.findall(r"^```\n(.*?)^```", section, flags=re.MULTILINE | re.DOTALL)
    for command, lines in re.findall(r"^\$ hgisam (.*)\n((?:(?!\$ ).*\n)*)", block, flags=re.MULTILINE)
]


def raising(error: BaseException) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_weights: tuple[Path, str]) -> Path:
    """A folder with everything that the document's commands name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hgisam.pipeline.default_weights_path", lambda: tiny_weights[0])
    write_ct(tmp_path / "head.nii.gz", head().ct)
    (tmp_path / "head.json").write_text("{}")
    neck = draw_head((5.0, 2.0, 2.0), bottom_mm=-130.0, top_mm=-60.0)
    write_ct(tmp_path / "leg.nii.gz", neck.with_hu(intracranial_region(neck.ct), SKULL))
    write_ct(tmp_path / "offset.nii.gz", CTVolume(head().ct.hu + 1024, head().ct.affine, "offset"))
    (tmp_path / "scans").mkdir()
    whole = (tmp_path / "head.nii.gz").read_bytes()
    (tmp_path / "scans" / "head.nii.gz").write_bytes(whole)
    for folder in (tmp_path, tmp_path / "scans"):
        (folder / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    write_head(tmp_path / "gap", [index for index in range(N_SLICES) if index != 12])
    for uid in ("1.5", "1.6"):
        write_head(tmp_path / "two_series", range(3), SeriesInstanceUID=uid)
    (tmp_path / "taken").touch()
    return tmp_path


def test_every_status_has_its_section_and_an_example() -> None:
    assert [int(code) for code, _ in SECTIONS] == sorted(ExitCode)
    assert {code for code, _, _ in EXAMPLES} == set(ExitCode)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(("code", "command", "lines"), EXAMPLES, ids=[f"{c}-{command}" for c, command, _ in EXAMPLES])
def test_commands_end_as_documented(code: int, command: str, lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if code in {ExitCode.UNEXPECTED, ExitCode.CANCELLED}:
        error = IndexError("an index fell out of its range") if code == ExitCode.UNEXPECTED else KeyboardInterrupt()
        monkeypatch.setattr("hgisam.pipeline.check_scan", raising(error))
    if code == ExitCode.OUTPUT:
        monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(total=10**12, used=10**12 - 1000, free=1000))
    done = CliRunner().invoke(app, shlex.split(command))
    assert done.exit_code == code
    found = [line for line in done.stderr.splitlines() if not line.startswith("hgisam: warning:")]
    assert len(found) == len(lines)
    for expected, line in zip(lines, found, strict=True):
        assert re.fullmatch(".+".join(re.escape(part) for part in expected.split("...")), line), line
