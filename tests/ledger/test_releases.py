"""The ledger knows which version has which lane, which image carries it, and what is unsafe."""

import pytest

from builders import ledger
from builders.errors import UsageError
from builders.ledger.releases import data, entries
from builders.tiers import GIB, TIERS

# triton-inference-server/server docs/introduction/compatibility.md@4b544591, read 2026-07-29.
TRITON_TO_TRTLLM = {
    "26.07": "1.2.1", "26.06": "1.2.1", "26.05": "1.2.1", "26.04": "1.2.1", "26.03": "1.2.0",
    "26.02": "1.1.0", "26.01": "1.1.0", "25.12": "1.1.0", "25.11": "1.0.3.2510", "25.10": "1.0.0",
    "25.09": "1.0.0", "25.08": "0.21.0", "25.07": "0.20.0", "25.06": "0.20.0", "25.05": "0.19.0",
    "25.04": "0.18.2", "25.03": "0.18.0", "25.02": "0.17.0.post1", "25.01": "0.17.0",
    "24.12": "0.16.0", "24.11": "0.15.0", "24.10": "0.14.0", "24.09": "0.13.0", "24.08": "0.12.0",
    "24.07": "0.11.0", "24.06": "0.10.0", "24.05": "0.9.0", "24.04": "0.9.0",
}  # fmt: skip


def test_each_triton_image_carries_the_tensorrt_llm_of_the_compatibility_page():
    carried = {tag: release.version for release in ledger.releases() for tag in release.tags}
    assert carried == TRITON_TO_TRTLLM


def test_the_stack_of_a_release_is_what_its_image_holds():
    stack = ledger.release("v1.2.1")
    assert (stack.tensorrt, stack.cuda, stack.driver) == ("10.14.1.48", "13.1.0.036", "590.44.01")
    assert stack.torch.startswith("2.10.0a0")
    assert stack.python == "3.12.3"


def test_what_was_not_read_is_empty_and_not_guessed():
    unread = ledger.release("1.3.0rc20")
    assert (unread.version, unread.tags, unread.tensorrt) == ("1.3.0rc20", (), "")
    assert ledger.triton_image("1.3.0rc20") == ""


def test_images_are_named_by_version():
    triton = ledger.triton_image("1.2.1")
    assert triton == "nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3"
    trtllm = ledger.trtllm_image("1.3.0rc20")
    assert trtllm == "nvcr.io/nvidia/tensorrt-llm/release:1.3.0rc20"


@pytest.mark.parametrize(
    ("version", "lanes"),
    [
        ("0.8.0", ()),
        ("0.20.0", ("tensorrt",)),
        ("1.0.0", ("tensorrt", "llmapi")),
        ("1.2.1", ("tensorrt", "llmapi")),
        ("", ("tensorrt", "llmapi")),  # the newest general release is 1.2.1
        ("1.3.0rc0", ("llmapi", "tensorrt")),
        ("1.3.0rc20", ("llmapi", "tensorrt")),
        ("1.3.0rc21", ("llmapi",)),  # unseen, but rc20's own note says that it is the last
        ("1.3.0rc22", ("llmapi",)),
        ("1.3.0", ("llmapi",)),
        ("1.4.0rc1", ("llmapi",)),
        ("2.0", ("llmapi",)),
    ],
)
def test_compiled_engines_lead_to_1_2_1_and_end_with_1_3_0rc20(version, lanes):
    assert ledger.lane("trtllm", version) == lanes


def test_the_other_runtimes_are_their_own_lane():
    assert ledger.lane("embedded", "") == ledger.lane("embedded", "whatever") == ("embedded",)
    assert ledger.lane("vllm", "") == ("vllm",)
    assert ledger.lane("vllm", "0.19.0") == ()


def test_an_unknown_runtime_or_version_is_a_usage_error():
    with pytest.raises(UsageError, match="unknown runtime 'trtlm'") as error:
        ledger.lane("trtlm", "")
    assert "trtllm" in error.value.hint
    with pytest.raises(UsageError, match="'latest' is not a version"):
        ledger.lane("trtllm", "latest")


def test_a_triton_below_25_07_is_known_to_be_unsafe():
    assert ledger.minimum("triton") == "25.07"
    flaws = {cve for advisory in ledger.unsafe("triton", "25.06") for cve in advisory.cves}
    assert {"CVE-2025-23310", "CVE-2025-23319"} <= flaws
    assert ledger.unsafe("triton", "25.07") == ()


def test_an_advisory_without_a_known_remedy_is_kept_but_refuses_nothing():
    unknown = [advisory for advisory in ledger.advisories() if not advisory.fixed_in]
    assert unknown
    assert not any(advisory.verified for advisory in unknown)


def test_what_came_from_memory_says_so():
    (advisory,) = ledger.unsafe("trtllm", "0.18.0")
    assert advisory.fixed_in == "0.18.2"
    assert not advisory.verified
    assert "memory" in advisory.source


def test_less_memory_is_usable_than_the_name_of_a_gpu_says():
    for tier in TIERS.values():
        if tier.gpu:
            usable = ledger.usable_bytes(tier)
            assert 0.9 * tier.memory_bytes < usable < tier.memory_bytes
    # measured: cuMemGetInfo said 85,017,493,504 and 150,109,880,320 bytes
    assert 85_017_493_504 - ledger.usable_bytes(TIERS["h100"]) in range(GIB // 50)
    assert 150_109_880_320 - ledger.usable_bytes(TIERS["h200"]) in range(GIB // 50)


@pytest.mark.parametrize(
    ("file", "key"),
    [
        ("releases.toml", "lane"),
        ("support.toml", "runs"),
        ("support.toml", "cache"),
        ("support.toml", "why"),
        ("memory.toml", "usable"),
        ("advisories.toml", "advisory"),
    ],
)
def test_every_entry_names_its_source(file, key):
    assert all(table.text("source") for table in entries(file, key))


def test_every_letter_that_stands_for_a_source_is_explained():
    letters = set("ABCDEFGHIJ")
    used = {
        letter
        for key in ("runs", "cache", "why")
        for table in entries("support.toml", key)
        for letter in table.text("source").replace(";", ",").replace(":", ",").split(", ")
        if len(letter) == 1
    }
    assert used <= letters
    assert data("support.toml")
