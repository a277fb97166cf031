"""The README tells the truth about commands, keys and exit codes."""

import re
import tomllib
from pathlib import Path

from builders import errors
from builders.cli import COMMANDS
from builders.spec import Spec

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_every_command_is_in_the_table_and_none_that_is_not_there():
    table = README.partition("## Commands")[2].partition("Results go to stdout")[0]
    names = set(re.findall(r"`(?:enginesmith )?([a-z][a-z-]*)[^`]*`", table)) - {"sha"}
    assert names == set(COMMANDS)


def test_the_example_names_every_key_and_is_valid(tmp_path):
    text = README.partition("```toml\n[model]")[2].partition("```")[0]
    file = tmp_path / "release.toml"
    file.write_text("[model]" + text)
    spec = Spec.read(file)
    assert spec.model.path == tmp_path / "my-model"
    keys = {key for table in tomllib.loads(file.read_text()).values() for key in table}
    assert {"recipe", "kv_cache", "exclude", "tier", "runtime", "tp", "pp", "policy"} <= keys


def test_every_exit_code_is_listed():
    codes = set(re.findall(r"^\| (\d+)", README, flags=re.MULTILINE))
    classes = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    raised = {str(kind.exit_code) for kind in classes if issubclass(kind, errors.BuildersError)}
    assert raised - {"1"} <= codes
    assert {"0", "10", "11", "130"} <= codes
