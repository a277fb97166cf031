"""What is installed is what stands in the tree: no package is left out of the wheel."""

import tomllib
from importlib import resources
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_table_of_contents_lists_every_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = set(project["tool"]["setuptools"]["packages"])
    modules = ROOT.glob("builders/**/__init__.py")
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in modules}
    assert listed == found | {"builders.templates"}


def test_templates_are_found_as_a_package():
    names = {entry.name for entry in resources.files("builders.templates").iterdir()}
    assert {"triton", "report"} <= names


def test_every_data_file_of_the_package_matches_a_pattern():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]
    kept = {suffix for globs in patterns.values() for suffix in globs}
    data = {path.suffix for path in (ROOT / "builders").rglob("*") if path.is_file()}
    data -= {".py", ".pyc"}
    assert all(any(glob.endswith(suffix) or glob == "py.typed" for glob in kept) for suffix in data)
