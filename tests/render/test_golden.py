"""The committed rendering is what the templates write, byte for byte.

To write it anew: ``PYTHONPATH=tests python tests/render/test_golden.py``
"""

import sys
import tempfile
from pathlib import Path

import pytest

from builders import render
from builders.bundle import Tree
from fakes.triton_repositories import context

REFERENCE = Path(__file__).parents[2] / "model_repo" / "reference"


def write(variant, out):
    with tempfile.TemporaryDirectory() as engine:
        render.render(variant, context(), Path(engine), out)


@pytest.mark.parametrize("variant", render.VARIANTS)
def test_the_reference_is_what_the_templates_write(variant, tmp_path):
    write(variant, tmp_path)
    written = {a.path: (tmp_path / a.path).read_bytes() for a in Tree.of(tmp_path).artifacts}
    reference = REFERENCE / variant
    kept = {a.path: (reference / a.path).read_bytes() for a in Tree.of(reference).artifacts}
    assert written == kept


@pytest.mark.parametrize("variant", render.VARIANTS)
def test_the_reference_says_what_was_meant(variant):
    render.check(REFERENCE / variant, variant, context())


if __name__ == "__main__":
    for name in sys.argv[1:] or render.VARIANTS:
        write(name, REFERENCE / name)
