"""The home is found where the environment, the nearest directory upward or the cwd say."""

import pytest

from builders.home import Home


def test_the_environment_wins(tmp_path):
    (tmp_path / ".enginesmith").mkdir()
    home = Home.find(tmp_path, {"ENGINESMITH_HOME": "/srv/forge"})
    assert str(home.root) == "/srv/forge"


def test_a_relative_home_starts_at_the_cwd(tmp_path):
    assert Home.find(tmp_path, {"ENGINESMITH_HOME": "forge"}).root == tmp_path / "forge"


def test_an_empty_variable_counts_as_unset(tmp_path):
    home = Home.find(tmp_path, {"ENGINESMITH_HOME": "", "ENGINESMITH_KEY": ""})
    assert home.root == tmp_path / ".enginesmith"
    assert home.given_key is None


def test_the_nearest_directory_upward_is_taken(tmp_path):
    (tmp_path / ".enginesmith").mkdir()
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    assert Home.find(deep, {}).root == tmp_path / ".enginesmith"


def test_a_file_of_that_name_is_no_home(tmp_path):
    (tmp_path / ".enginesmith").touch()
    inner = tmp_path / "inner"
    inner.mkdir()
    assert Home.find(inner, {}).root == inner / ".enginesmith"


def test_finding_creates_nothing(tmp_path):
    Home.find(tmp_path, {})
    assert list(tmp_path.iterdir()) == []


def test_everything_has_its_place(tmp_path):
    home = Home.find(tmp_path, {})
    places = (home.store, home.signing_key, home.trusted, home.runs)
    assert [str(place.relative_to(home.root)) for place in places] == [
        "store",
        "keys/signing.pem",
        "keys/trusted",
        "runs",
    ]


def test_a_key_may_lie_elsewhere(tmp_path):
    home = Home.find(tmp_path, {"ENGINESMITH_KEY": "secrets/ci.pem"})
    assert home.signing_key == tmp_path / "secrets" / "ci.pem"
    assert home.trusted == tmp_path / ".enginesmith" / "keys" / "trusted"


@pytest.mark.parametrize("times", [1, 2])
def test_git_is_told_to_ignore_a_home_that_we_make(tmp_path, times):
    for _ in range(times):
        home = Home.find(tmp_path, {}).prepare()
    assert (home.root / ".gitignore").read_text() == "*\n"


def test_a_home_half_made_by_a_killed_run_gets_its_gitignore(tmp_path):
    (tmp_path / ".enginesmith").mkdir()
    assert (Home.find(tmp_path, {}).prepare().root / ".gitignore").exists()


def test_a_directory_of_the_users_gets_no_file(tmp_path):
    Home.find(tmp_path, {"ENGINESMITH_HOME": str(tmp_path)}).prepare()
    assert list(tmp_path.iterdir()) == []
