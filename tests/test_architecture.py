"""The shape of the house: imports point down, nouns name the rooms, and the front door opens without torch."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "hgisam"

ROWS = (
    {"__main__"},
    {"cli"},
    {"compare"},
    {"run", "phantom_folder", "check", "labelled_records"},
    {"casework"},
    {"config", "records", "environment"},
    {"train"},
    {"pipeline"},
    {"evaluate", "preview"},
    {"outputs"},
    {"cases", "intake"},
    {"segment", "refine", "supervised"},
    {"weak"},
    {"attention"},
    {"io", "brain", "preprocess", "model", "phantom", "plausibility"},
    {"volume", "windowing", "labels", "exits", "progress", "processes", "limits", "wording", "allocator"},
)
"""From the top down. A room may import from any row below its own, and nothing from its own row or above."""

EXCEPTIONS = {
    ("preprocess", "brain"): "the mid-sagittal line is a type of brain.py",
    ("model", "io"): "weights are written as every file is",
}
"""(importing room, imported room): why."""

DISTRIBUTIONS = {
    "PIL": "pillow",
    "cc3d": "connected-components-3d",
    "fill_voids": "fill-voids",
    "pydantic_core": "pydantic",
    "yaml": "pyyaml",
}
"""Imported name: the distribution that has it, where they differ."""

USED_BY_OTHERS = {"tensorboard"}
"""Distributions that another needs of us where we ask it for more: torch.utils.tensorboard writes by tensorboard."""

PINNED_EXTRAS = ("dev", "codecs", "fuzz", "audit")

BANNED_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}
BANNED_IMPORTS = {"pickle", "cPickle", "dill", "shelve", "marshal"}
BANNED_CALLS = {"eval", "exec", "compile", "globals", "print", "__import__", "import_module", "resolve_name"}

MODULES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def row_of(room: str) -> int:
    return next(i for i, row in enumerate(ROWS) if room in row)


def imported_rooms(path: Path) -> Iterator[str]:
    """The rooms that a module imports from, wherever in the module the import stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("hgisam."))
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: expected absolute imports; got a relative one"
            if node.module == "hgisam":
                lazily = {"Segmenter": "pipeline"}
                names = (lazily.get(alias.name, alias.name) for alias in node.names)
                yield from (name for name in names if any(name in row for row in ROWS))
            elif node.module and node.module.startswith("hgisam."):
                yield node.module.split(".")[1]


def top_level_imports(path: Path) -> Iterator[str]:
    """The first part of every module that is imported, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


def test_every_room_has_its_row() -> None:
    rooms = {room_of(path) for path in MODULES} - {"__init__"}
    assert rooms - set().union(*ROWS) == set()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":  # the package's own front: `Segmenter` is imported when it is first asked for
        return
    upward = [
        other
        for other in imported_rooms(path)
        if other != room and row_of(other) <= row_of(room) and (room, other) not in EXCEPTIONS
    ]
    assert upward == []


def test_no_exception_is_kept_that_nobody_needs() -> None:
    used = {(room_of(path), other) for path in MODULES for other in imported_rooms(path)}
    assert set(EXCEPTIONS) <= used


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_room_without_a_noun_and_nothing_that_runs_data_or_prints(path: Path) -> None:
    assert BANNED_NAMES.isdisjoint(part.removesuffix(".py") for part in path.relative_to(PACKAGE).parts)
    assert BANNED_IMPORTS.isdisjoint(top_level_imports(path))
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            own_method = isinstance(node.func, ast.Attribute) and called in {
                "eval",
                "compile",
                "print",
            }  # of a network ...
            assert called not in BANNED_CALLS or own_method, f"line {node.lineno}: {called}"
        assert not isinstance(node, ast.Assert), "an assert goes with `python -O`; raise what explains itself"
        assert not (isinstance(node, ast.ExceptHandler) and node.type is None), "a bare except hides Ctrl-C"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_class_is_found_by_a_name_in_a_text(path: Path) -> None:
    """A module's attribute that is chosen while the program runs may be chosen by whoever wrote what it reads."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = {
        (alias.asname or alias.name).split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"getattr", "vars"}:
            owner = ast.unparse(node.args[0]).split(".")[0]
            fixed = len(node.args) > 1 and isinstance(node.args[1], ast.Constant)
            assert fixed or owner not in imported, f"line {node.lineno}: {ast.unparse(node)}"
        assert "sys.modules" not in (ast.unparse(node) if isinstance(node, ast.Attribute) else "")


def test_what_is_imported_is_declared_and_what_is_declared_is_imported() -> None:
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {re.split(r"[<>=!~ ]", requirement)[0] for requirement in project["dependencies"]}
    imported = {name for path in MODULES for name in top_level_imports(path)}
    third_party = imported - set(sys.stdlib_module_names) - {"hgisam"}
    distributions = {DISTRIBUTIONS.get(name, name) for name in third_party}
    assert distributions == declared - USED_BY_OTHERS


def test_every_declared_version_is_pinned() -> None:
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pinned = {
        re.sub(r"[-_.]+", "-", line.split("==")[0]).lower()
        for line in (PACKAGE.parent / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line
    }
    optional = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(name for extra in PINNED_EXTRAS for name in optional[extra])]
    assert {re.split(r"[<>=!~ ]", requirement)[0].lower() for requirement in wanted} <= pinned


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["segment", "--help"], ["segment", "no-such-scan"]])
def test_the_front_door_opens_without_torch(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from hgisam.cli import app\n"
        f"try: app({[*arguments, '-o', 'out'] if arguments[-1] == 'no-such-scan' else arguments!r})\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'scipy', 'monai', 'nibabel', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'imported {sorted(heavy)}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_the_package_is_light() -> None:
    code = "import sys, hgisam; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_segmenting_waits_for_nothing_that_only_training_needs() -> None:
    code = "import sys, hgisam.run, hgisam.config; sys.exit('monai' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
