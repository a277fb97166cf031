"""A key sees the libraries that are installed and the code that works, and nothing of its place."""

from builders.pipeline.versions import code, versions


def test_what_is_not_installed_is_absent():
    assert versions("no-such-distribution")["no-such-distribution"] == "absent"
    assert versions()["enginesmith"]


def test_the_code_of_rooms_has_a_stable_digest_that_tells_them_apart():
    assert code("gate") == code("gate")
    assert len({code("gate"), code("engine"), code("gate", "engine")}) == 3
