"""README and pages in docs/ are true: commands exist and run, Python runs, files are there, exit statuses are ours."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from drawn_cohort import write_drawn_cohort
from tiny_training import write_tiny_recipe
from typer.testing import CliRunner

from hgisam.cli import app
from hgisam.exits import ExitCode

ROOT = Path(__file__).resolve().parent.parent
PAGES = {
    path: path.read_text(encoding="utf-8")
    for path in (
        ROOT / "README.md",
        *sorted((ROOT / "docs").glob("*.md")),
        *sorted((ROOT / "docs/results").glob("*.md")),
    )
}
README = PAGES[ROOT / "README.md"]
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def blocks(language: str, page: str = README) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    return [text for name, text in found if name == language]


def command_lines(page: str = README) -> list[list[str]]:
    """Every `hgisam ...` line of the shell blocks, and every one in the text, without comments."""
    in_blocks = [line for block in blocks("sh", page) for line in block.replace("\\\n", " ").splitlines()]
    in_text = re.findall(r"`(hgisam [^`]+)`", page)
    words = [shlex.split(line, comments=True) for line in [*in_blocks, *in_text]]
    return [line for line in words if line[:1] == ["hgisam"] and line[1] != "COMMAND"]


def is_template(line: list[str]) -> bool:
    """Whether a line stands for many: INPUT..., FOLDER."""
    return any(re.fullmatch(r"[A-Z]{4,}(\.\.\.)?", word) for word in line)


@pytest.mark.parametrize("line", [line for page in PAGES.values() for line in command_lines(page)], ids=" ".join)
def test_commands_and_flags_exist(line: list[str]) -> None:
    _, command, *rest = line
    assert command in COMMANDS
    found = COMMANDS[command]
    if hasattr(found, "commands"):  # a group, such as train
        found, rest = found.commands[rest[0]], rest[1:]
    known = {flag for parameter in found.params for flag in parameter.opts}
    assert {word.split("=")[0] for word in rest if word.startswith("-")} <= known | {"--help"}
    recipes = [word for word in rest if word.startswith("configs/")]
    assert [name for name in recipes if not (ROOT / name).is_file()] == []


def test_every_command_is_in_the_readme() -> None:
    assert set(COMMANDS) == {line[1] for line in command_lines()}


def test_make_targets_exist() -> None:
    named = {line.split()[1] for block in blocks("sh") for line in block.splitlines() if line.startswith("make ")}
    makefile = (ROOT / "Makefile").read_text()
    assert named == {"segment", "test", "fuzz", "audit"}
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in named)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files_that_are_named_exist(path: Path) -> None:
    page = PAGES[path]
    linked = re.findall(r"!?\[[^\]]*\]\(([^)#:]+)\)", page)
    quoted = re.findall(r"`((?:docs|tools|configs|tests|sample_volumes|hgisam)/[\w./-]*)`", page)
    mentioned = re.findall(r"python (tools/\w+\.py)", page)
    assert [name for name in linked if not (path.parent / name).exists()] == []
    assert [name for name in [*quoted, *mentioned] if not (ROOT / name).exists()] == []


def test_rooms_that_the_readme_names_exist() -> None:
    rooms = re.findall(r"`([a-z_]+(?:/[a-z_]+)*(?:\.py|/))`", README)
    assert rooms
    assert [name for name in rooms if not any((folder / name).exists() for folder in (ROOT, ROOT / "hgisam"))] == []


def test_every_page_is_reached_from_the_readme() -> None:
    seen, left = {ROOT / "README.md"}, [ROOT / "README.md"]
    while left:
        path = left.pop()
        linked = re.findall(r"\[[^\]]*\]\(([^)#:]+\.md)\)", path.read_text(encoding="utf-8"))
        new = {(path.parent / name).resolve() for name in linked} - seen
        seen |= new
        left += new
    assert {*PAGES} <= seen


def test_goals_state_what_their_pages_state() -> None:
    goals = re.findall(r"^\| .* \| (\S+ \[.*?\]) \| (?:yes|no) \| \[\w+\]\((\S+)\) \|$", README, flags=re.MULTILINE)
    assert len(goals) >= 11
    pages = {page: (ROOT / page).read_text(encoding="utf-8").replace("\\", "") for _, page in goals}
    assert [(figure, page) for figure, page in goals if figure not in pages[page]] == []


def test_no_result_is_left_open() -> None:
    assert [path.name for path, page in PAGES.items() if "<!--" in page] == []


def test_exit_statuses_are_those_of_the_code() -> None:
    listed = {int(number) for number in re.findall(r"^\| (\d+) \|", README, flags=re.MULTILINE)}
    assert listed == set(ExitCode)


@pytest.fixture
def in_a_clone(tmp_path: Path, sample_volumes: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like a fresh clone to a user who stands in it."""
    (tmp_path / "sample_volumes").symlink_to(sample_volumes)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(line: str) -> list[str | float]:
    """The words and numbers of a printed line, without its frame."""
    words = re.findall(r"[^\s\u2500-\u257f]+", line)
    return [float(word) if re.fullmatch(r"[+-]?\d+\.\d+", word) else word for word in words]


def test_the_sixty_seconds_run_and_print_what_stands_there(in_a_clone: Path) -> None:
    lines = [line for line in command_lines() if not is_template(line) and "sample_volumes" in " ".join(line)]
    assert [line[1] for line in lines] == ["segment", "evaluate"]
    for line, shown in zip(lines, blocks("")[:2], strict=True):
        done = CliRunner().invoke(app, line[1:])
        assert done.exit_code == 0, done.stderr
        for expected, found in zip(shown.splitlines(), done.stdout.splitlines(), strict=False):
            nearly = [pytest.approx(w, rel=0.1, abs=0.1) if isinstance(w, float) else w for w in said(expected)]
            assert said(found) == nearly  # the last digits may differ from machine to machine
    assert len(list((in_a_clone / "out" / "demo").glob("*_preview.png"))) == 5
    assert (in_a_clone / "out" / "evaluation" / "evaluation.csv").is_file()


@pytest.mark.usefixtures("undrawn")
def test_the_commands_run_in_their_order(in_a_clone: Path) -> None:
    """Each template of the list of commands, with a scan and a folder for its words, and one phantom for ten."""
    words = {"INPUT...": "sample_volumes/epidural.nii.gz", "FOLDER": "out", "10": "1"}
    words |= {"PREDICTIONS": "out", "REFERENCES": "sample_volumes/truth"}
    (block,) = [block for block in blocks("sh") if "INPUT..." in block]
    lines = [shlex.split(line, comments=True)[1:] for line in block.splitlines()]
    assert [line[0] for line in lines] == ["check", "segment", "classify", "phantom", "evaluate", "train", "info"]
    write_drawn_cohort(in_a_clone / "heads", 6)
    words["YAML"] = str(write_tiny_recipe(in_a_clone / "tiny.yaml", steps=1))
    for line in lines:
        folder = {"phantom": "phantoms", "train": "training"}.get(line[0], "out")
        if line[0] == "train":
            line[line.index("FOLDER")] = "heads"
        done = CliRunner().invoke(app, [folder if word == "FOLDER" else words.get(word, word) for word in line])
        assert done.exit_code == (8 if line[0] == "evaluate" else 0), done.stderr  # four references lack a prediction
    written = {path.name for path in (in_a_clone / "out").iterdir()}
    assert {"epidural_mask.nii.gz", "epidural_preview.png", "epidural_slices.csv", "epidural.json"} <= written
    assert (in_a_clone / "phantoms" / "phantom_00000.nii.gz").is_file()
    assert (in_a_clone / "training" / "best.safetensors").is_file()


@pytest.mark.usefixtures("in_a_clone")
def test_the_six_lines_of_python_run(capsys: pytest.CaptureFixture[str], run_python: Callable[[str], None]) -> None:
    (snippet,) = blocks("python")
    assert len([line for line in snippet.splitlines() if line.strip()]) <= 6
    run_python(snippet)
    probability, volume_ml = capsys.readouterr().out.split()
    assert 0 <= float(probability) <= 1
    assert float(volume_ml) > 0


@pytest.fixture
def run_python() -> Callable[[str], None]:
    """Run a snippet as a script of its own would."""

    def run(snippet: str) -> None:
        exec(compile(snippet, "README.md", "exec"), {"__name__": "__main__"})

    return run
