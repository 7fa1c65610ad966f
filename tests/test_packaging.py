"""The two lists of dependencies say the same, and the pinned versions satisfy them."""

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base"}  # where conda-forge calls a package otherwise
BY_PIP = {"usearch"}  # what conda-forge has not: pip installs it with the course
REQUIREMENT = re.compile(r"([\w.-]+)>=([\d.]+)")


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_environment_lists_the_same_packages_as_pyproject():
    wanted = {CONDA_NAMES.get(name, name): version for name, version in map(split, project()["dependencies"])}
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    given = dict(split(line) for line in listed if isinstance(line, str) and ">=" in line)
    assert given == {name: version for name, version in wanted.items() if name not in BY_PIP}


def test_environment_has_an_exact_python_that_binder_understands_and_installs_the_course():
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    python = next(line for line in listed if str(line).startswith("python="))
    assert numbers(python) >= numbers(project()["requires-python"])
    assert {"pip": ["-e ."]} in listed


def test_constraints_pin_every_dependency_within_its_range():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = dict(line.lower().split("==") for line in lines if "==" in line)
    assert pinned["torch"] == "2.13.0"
    extras = [line for extra in project()["optional-dependencies"].values() for line in extra]
    for name, lowest in map(split, project()["dependencies"] + extras):
        assert numbers(pinned[name]) >= numbers(lowest), name


def split(requirement: str) -> tuple[str, str]:
    match = REQUIREMENT.fullmatch(requirement)
    assert match, f"{requirement!r} is not of the form name>=version"
    return match[1], match[2]


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))
