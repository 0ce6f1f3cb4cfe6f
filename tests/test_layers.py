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
    {"synthetic", "flow", "normalize", "metrics", "volume"},
    {"autoencoder", "denoiser", "diffusion", "guidance", "render"},
    {"pipeline", "train", "extract", "viz", "reanimate"},
    {"cli", "__main__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gidlite"):
            found.add(node.module.partition(".")[2] or "__init__")
        if isinstance(node, ast.Import):
            found |= {n.name.partition(".")[2] for n in node.names if n.name.startswith("gidlite.")}
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.stem)
def test_imports_point_down(path):
    assert path.stem in LEVEL, f"add {path.stem} to LAYERS"
    for name in imported(path):
        assert LEVEL[name] < LEVEL[path.stem], f"{path.stem} must not import {name}"


@pytest.mark.parametrize("name", ["gidlite", "gidlite.cli"])
def test_importing_the_package_and_its_command_is_light(name):
    code = (
        f"import sys, {name}; heavy = {{'torch', 'diffusers', 'matplotlib', 'ipywidgets', 'cv2'}};"
        "sys.exit(len(heavy & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.stem)
def test_public_names_are_documented(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), f"{path.name} has no docstring"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{path.stem}.{node.name} has no docstring"
