"""The page ends with commands that fit its outcome and survive any channel's name."""

import shlex
from dataclasses import replace

from builders.report import steps


def commands(report):
    return [shlex.split(step.command)[1] for step in steps.after(report)]


def test_a_release_can_be_verified_served_and_taken_back(report):
    assert commands(report) == ["verify", "serve", "history", "rollback"]


def test_nothing_promoted_means_nothing_to_take_back(report):
    assert commands(replace(report, verdicts=())) == ["show", "history"]


def test_a_channel_name_stays_one_argument(report, hostile):
    for step in steps.after(replace(report, channel=hostile)):
        assert shlex.split(step.command)[2:] == [hostile]
