"""What the hub does not give is one clear error, and offline means offline."""

import pytest

from builders import hub
from builders.errors import ToolError


def test_offline_the_model_and_the_next_step_are_named():
    with pytest.raises(ToolError, match="org/name@aaaaaaaa could not be fetched") as caught:
        hub.fetch("org/name", "a" * 40)
    assert "model.path" in caught.value.hint


def test_a_name_that_the_hub_cannot_have_is_refused():
    with pytest.raises(ToolError, match="could not be fetched"):
        hub.fetch("../etc", "a" * 40)


def test_offline_a_file_of_a_data_set_is_named_with_the_next_step():
    with pytest.raises(ToolError, match=r"org/text@aaaaaaaa/a\.parquet could not be") as caught:
        hub.fetch_file("org/text", "a" * 40, "a.parquet")
    assert "local file" in caught.value.hint
