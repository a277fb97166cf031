"""A tree's digest depends on names and bytes, and on nothing else."""

import os

import pytest

from builders.bundle import Tree, canonical, fingerprint
from builders.errors import ReleaseError


def write(root, **files):
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_equal_content_has_equal_digests_whatever_its_times_and_modes(tmp_path):
    one = write(tmp_path / "1", a="x", b__c="y")
    two = write(tmp_path / "2", b__c="y", a="x")
    os.utime(two / "a", (0, 0))
    (two / "a").chmod(0o600)
    assert Tree.of(one).digest == Tree.of(two).digest


@pytest.mark.parametrize("change", [{"a": "z"}, {"d": "x"}, {"b__d": "y"}])
def test_any_change_of_name_or_bytes_changes_the_digest(tmp_path, change):
    one = write(tmp_path / "1", a="x", b__c="y")
    two = write(tmp_path / "2", a="x", b__c="y")
    write(two, **change)
    assert Tree.of(one).digest != Tree.of(two).digest


def test_a_tree_survives_json(tmp_path):
    tree = Tree.of(write(tmp_path / "1", a="x", b__c="y"))
    assert Tree.from_json(tree.as_json()) == tree
    assert tree.size == 2


def test_symbolic_links_are_refused(tmp_path):
    (tmp_path / "link").symlink_to("/etc/passwd")
    with pytest.raises(ReleaseError, match="symbolic link"):
        Tree.of(tmp_path)


def test_canonical_json_orders_keys_and_refuses_nan():
    assert canonical({"b": 1, "a": [True]}) == b'{"a":[true],"b":1}'
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    with pytest.raises(ValueError, match="Out of range"):
        canonical(float("nan"))
