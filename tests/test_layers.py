"""Imports point one way: from higher layers to lower ones."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "gidlite"
LAYERS = [
    {"__init__", "_checks"},
    {"media", "spectral", "splat", "modal"},
    {"synthetic", "flow", "normalize", "metrics", "motion_metrics", "photo", "volume"}
    | {"diffusion", "gaussian", "distances", "networks", "modal_fit", "synthesis", "loops"}
    | {"loading"},
    {"amplitude", "autoencoder", "denoiser", "guidance", "render", "shards"},
    {"dataset", "extract", "pipeline", "viz", "reanimate", "ringdown"},
    {"synthesize", "pairs", "widget"},
    {"train", "evaluate"},
    {"ablate"},
    {"cli"},
    {"__main__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
FILES = sorted(PACKAGE.rglob("*.py"))


def module(path: Path) -> str:
    """Return the module, or the subpackage, that a file belongs to."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def name(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gidlite"):
            found.add(f"{node.module}.__init__".split(".")[1])
        if isinstance(node, ast.Import):
            found |= {n.name.split(".")[1] for n in node.names if n.name.startswith("gidlite.")}
    return found


@pytest.mark.parametrize("path", FILES, ids=name)
def test_imports_point_down(path):
    here = module(path)
    assert here in LEVEL, f"add {here} to LAYERS"
    for other in imported(path) - ({here} if path.parent != PACKAGE else set()):
        assert LEVEL[other] < LEVEL[here], f"{here} must not import {other}"


@pytest.mark.parametrize("name", ["gidlite", "gidlite.cli"])
def test_importing_the_package_and_its_command_is_light(name):
    code = (
        f"import sys, {name}; heavy = {{'torch', 'diffusers', 'matplotlib', 'ipywidgets', 'cv2'}};"
        "sys.exit(len(heavy & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("path", FILES, ids=name)
def test_public_names_are_documented(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), f"{path.name} has no docstring"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{path.stem}.{node.name} has no docstring"
