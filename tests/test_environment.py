"""pyproject.toml, environment.yml and constraints.txt list the same dependencies."""

from importlib import import_module
from pathlib import Path

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = ("notebooks", "heic", "web", "docs", "dev")
CONDA_NAMES = {"torch": "pytorch-cpu", "matplotlib": "matplotlib-base", "build": "python-build"}
SUPPORTED_PYTHONS = ("3.10", "3.11", "3.12", "3.13")


def load_project() -> dict:
    try:
        toml = import_module("tomllib")
    except ModuleNotFoundError:  # Python 3.10
        toml = pytest.importorskip("tomli")
    return toml.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def project_requirements() -> dict[str, Requirement]:
    """Core and extras, by canonical name; a package listed twice must have one bound."""
    project = load_project()
    lines = list(project["dependencies"])
    for extra in EXTRAS:
        lines += project["optional-dependencies"][extra]
    found: dict[str, Requirement] = {}
    for line in lines:
        requirement = Requirement(line)
        name = canonicalize_name(requirement.name)
        assert str(found.setdefault(name, requirement).specifier) == str(requirement.specifier)
    return found


def environment_lines() -> tuple[list[str], list[str]]:
    """Conda lines and pip lines of environment.yml."""
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))[
        "dependencies"
    ]
    conda = [line for line in dependencies if isinstance(line, str)]
    pip = [line for group in dependencies if isinstance(group, dict) for line in group["pip"]]
    return conda, pip


def pins() -> list[Requirement]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def test_every_extra_is_compared():
    assert set(load_project()["optional-dependencies"]) == set(EXTRAS)


def test_environment_has_the_bounds_of_pyproject():
    conda, pip = environment_lines()
    assert conda[0] == "python=3.11"
    assert pip[-1] == "-e ."
    listed = [Requirement(line) for line in conda[1:] + pip[:-1] if line != "pip"]
    actual = {canonicalize_name(item.name): str(item.specifier) for item in listed}
    assert len(actual) == len(listed), "environment.yml names a package twice"
    expected = {
        CONDA_NAMES.get(name, name): str(item.specifier)
        for name, item in project_requirements().items()
    }
    assert actual == expected


def test_every_constraint_is_one_exact_pin():
    for pin in pins():
        (specifier,) = pin.specifier
        assert specifier.operator == "==", f"{pin} is not an exact pin"
        assert "*" not in specifier.version and "+" not in specifier.version, str(pin)


@pytest.mark.parametrize("python", SUPPORTED_PYTHONS)
def test_constraints_pin_every_dependency_within_its_bound(python):
    environment = {**default_environment(), "python_version": python}
    active = [pin for pin in pins() if pin.marker is None or pin.marker.evaluate(environment)]
    versions = {canonicalize_name(pin.name): next(iter(pin.specifier)).version for pin in active}
    assert len(versions) == len(active), "constraints.txt pins a package twice"
    for name, requirement in project_requirements().items():
        assert name in versions, f"constraints.txt does not pin {name}"
        assert requirement.specifier.contains(versions[name]), f"{name}: {versions[name]}"


def test_make_finds_the_one_pin_of_torch():
    """The Makefile installs the line of constraints.txt that begins with torch== first of all."""
    (line,) = (x for x in open(ROOT / "constraints.txt") if x.startswith("torch=="))
    assert "grep '^torch==' constraints.txt" in (ROOT / "Makefile").read_text(encoding="utf-8")
    assert Requirement(line.strip()) in pins()
