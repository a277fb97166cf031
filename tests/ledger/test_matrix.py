"""The whole matrix is a golden file: what a change of the ledger does is seen in review.

After a change that is meant: ``enginesmith matrix-of-support > tests/assets/matrix.txt``.
"""

import subprocess
import sys
from pathlib import Path

from builders import ledger
from builders.cli.matrix_of_support import HEAD, line
from builders.recipe import shipped
from builders.tiers import TIERS

GOLDEN = Path(__file__).parents[1] / "assets" / "matrix.txt"


def test_the_matrix_is_the_reviewed_one():
    assert GOLDEN.read_text().splitlines() == [HEAD, *map(line, ledger.matrix())]


def test_every_combination_stands_in_it_once():
    versions = sum(len(ledger.walked(runtime)) for runtime in ledger.RUNTIMES)
    keys = [(row.tier, row.recipe, row.runtime, row.version) for row in ledger.matrix()]
    assert len(keys) == len(set(keys)) == len(TIERS) * len(shipped()) * versions


def test_the_matrix_is_walked_over_given_recipes_and_tiers():
    rows = list(ledger.matrix([shipped()["fp8"]], [TIERS["h100"]]))
    assert {(row.recipe, row.tier) for row in rows} == {("fp8", "h100")}
    assert rows[0].as_json() == {
        "tier": "h100",
        "recipe": "fp8",
        "scheme": "W8A8KV8",
        "runtime": "embedded",
        "version": "",
        "lanes": ["embedded"],
        "refusals": [],
    }


def test_the_ledger_is_read_and_walked_without_any_heavy_library():
    code = "import sys; from builders import ledger; list(ledger.matrix()); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"click", "rich", "torch", "numpy", "jinja2", "transformers", "cryptography"}
    assert not heavy & set(done.stdout.split())
