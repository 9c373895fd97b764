"""Which assignments a runner of an earlier protocol may be given."""

from dataclasses import replace

from perstackd.domain.runner_versions import missing
from perstackd.domain.session import Assign, SkillOrder
from perstackd.version import RUNNER_PROTOCOL

PLAIN = Assign("solo", "/mnt/workspace", False, (SkillOrder("web", ("web",)),), (), ())
PRIVATE = replace(PLAIN, skills=(SkillOrder("web", ("web",)), SkillOrder("keeper", ("keeper",), private=True)))


def test_the_present_runner_can_be_given_everything() -> None:
    assert missing(RUNNER_PROTOCOL, PRIVATE) == ""


def test_a_runner_that_knows_no_private_directories_is_given_no_skill_that_needs_them() -> None:
    assert missing(0, PLAIN) == ""
    assert missing(0, PRIVATE) == "private directories for the skill 'keeper'"
