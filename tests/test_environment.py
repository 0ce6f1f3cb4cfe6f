"""environment.yml and constraints.txt describe the same environment as pyproject.toml."""

import re
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
CONDA_NAMES = {"torch": "pytorch-cpu"}


@pytest.fixture(scope="module")
def required() -> dict[str, Requirement]:
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = list(project["dependencies"])
    for extra in project["optional-dependencies"].values():
        lines += extra
    return {Requirement(line).name: Requirement(line) for line in lines}


def test_conda_environment_has_every_dependency_with_the_same_bound(required):
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(entry["pip"] for entry in listed if isinstance(entry, dict))
    lines = {re.split(r"[>=]", e)[0]: e for e in [*listed, *pip] if isinstance(e, str)}
    for name, requirement in required.items():
        found = lines.get(CONDA_NAMES.get(name, name))
        assert found is not None, f"environment.yml lacks {name}"
        assert found.endswith(str(requirement.specifier)), f"{name}: {found} vs {requirement}"
    assert pip[-1] == "-e ."


def test_constraints_pin_every_dependency_within_its_bounds(required):
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = {}
    for line in lines:
        if not line.startswith("#"):
            pin = Requirement(line)
            pins[pin.name.lower().replace("_", "-")] = next(iter(pin.specifier)).version
    for name, requirement in required.items():
        assert Version(pins[name.lower()]) in requirement.specifier
    assert pins["torch"] == "2.13.0"
