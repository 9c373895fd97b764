"""Configuration from file, environment and flags: who wins, and what is refused with which sentence."""

from pathlib import Path
from typing import Any

import pytest

from perstackd.adapters.docker.hardening import tmpfs_of
from perstackd.adapters.docker.template_config import PRESETS, TemplateConfig
from perstackd.config import Config, load, template
from perstackd.domain.errors import PerstackError


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PERSTACKD_CONFIG", str(tmp_path / "perstackd.toml"))
    (tmp_path / "perstackd.toml").write_text("[jobs]\nmax_running = 5\nmax_retries = 1\n[templates.base]\nmax = 9\n")
    return tmp_path / "perstackd.toml"


def refused(file: Path, overrides: dict[str, Any] | None = None) -> str:
    with pytest.raises(PerstackError) as caught:
        load(file, overrides)
    assert caught.value.reason == "config_invalid"
    return caught.value.message


def test_flags_win_over_the_environment_which_wins_over_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSTACKD_JOBS__MAX_RUNNING", "7")
    monkeypatch.setenv("PERSTACKD_JOBS__DRAIN_S", "3")
    config = load(file, {"jobs.drain_s": 4})
    assert (config.jobs.max_retries, config.jobs.max_running, config.jobs.drain_s) == (1, 7, 4)
    assert config.templates["base"].max == 9


def test_variables_hold_json_where_a_key_holds_more_than_one_value(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSTACKD_WORKSPACE_ROOTS", '["/srv", "/home"]')
    monkeypatch.setenv("PERSTACKD_TEMPLATES__BASE__MIN_IDLE", "4")
    config = load(file)
    assert config.workspace_roots == (Path("/srv"), Path("/home"))
    assert (config.templates["base"].min_idle, config.templates["base"].max) == (4, 9)


def test_a_variable_that_is_no_json_is_one_sentence_with_its_name(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSTACKD_WORKSPACE_ROOTS", "/srv")
    message = refused(file)
    assert "PERSTACKD_WORKSPACE_ROOTS" in message
    assert "JSON" in message
    assert "\n" not in message


def test_an_unknown_key_in_a_variables_table_names_the_nearest(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSTACKD_JOBS__MAX_RUNING", "7")
    assert "did you mean max_running?" in refused(file)


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        ({"jobs.answer_margin_ms": 999}, "jobs.answer_margin_ms: Input should be greater than or equal to 1000"),
        ({"jobs.answer_margin_ms": 600_001}, "jobs.answer_margin_ms: Input should be less than or equal to 600000"),
        ({"jobs.max_running.x": 1}, "is a value and has no keys below it"),
        ({"models.default_reasoning": "hgih"}, "'low', 'medium' or 'high'"),
        ({"models.default_reasoning": -1}, "greater than or equal to 0"),
        ({"runtime_directory": "/var/lib/perstackd/run"}, "nor one in the other"),
        ({"state_directory": "/run/perstackd"}, "nor one in the other"),
        ({"egress.uid": 200_001}, "lies among sandbox_uids"),
        ({"workspaces.uid": 65_534}, "three different uids"),
        ({"sandbox_uids": [200_000, 200_003]}, "9 sandboxes"),
        ({"templates.base.min_idle": 10}, "above max"),
        ({"engine.url": "tcp://127.0.0.1:2375"}, "engine.url: must be unix:///PATH"),
        ({"secrets.master_key": "vault:x"}, "master_key: names no master key; write file:/PATH"),
        ({"jobs": 3}, "jobs"),
        ({"skills_template": "skils"}, "skills_template 'skils' is not among the templates (base)"),
        ({"templates.skills.memory": 512 << 20}, "must be at least"),
        ({"templates.full.memory": 1 << 30}, "must be at least"),
        ({"templates.base.grant": "everything"}, "'package-indexes'"),
        ({"templates.base.exceptions": ["privileged"]}, "'writable-root' or 'ptrace'"),
        ({"templates.base.exceptions": ["ptrace", "ptrace"]}, "twice"),
        ({"templates.base.exceptions": ["ptrace"], "templates.base.runtime": "runsc"}, "are for runc, not for runsc"),
        ({"templates.skills": 3}, "templates.skills"),
        ({"templates": 3}, "templates"),
        ({"egress.ca_bundle": "ca.pem"}, "must be an absolute path"),
        ({"egress.allow_hosts": ["*.com"]}, "allow_hosts: '*.com' would allow a whole top-level domain"),
        ({"egress.allow_hosts": ["https://a.example"]}, "is not a host"),
        ({"egress.allow_hosts": ["a.example:70000"]}, "is not a host"),
        (
            {
                "egress.allow_hosts": ["other.example"],
                "egress.routes.api": {"origin": "https://api.example", "experts": ["a"]},
            },
            "routes.api leads to api.example, which allow_hosts leaves out",
        ),
    ],
)
def test_mistakes_are_refused_with_what_is_wrong(file: Path, overrides: dict[str, Any], part: str) -> None:
    assert part in refused(file, overrides)


def test_the_defaults_are_valid() -> None:
    assert Config().version == 1


def test_a_sandbox_may_be_silent_for_half_a_minute_if_the_operator_does_not_say(file: Path) -> None:
    assert load(file).jobs.answer_margin_ms == 30_000
    assert load(file, {"jobs.answer_margin_ms": 1000}).jobs.answer_margin_ms == 1000


def test_templates_of_known_names_begin_with_values_that_suit_them(file: Path) -> None:
    config = load(file, {"templates.full": {}, "templates.skills.min_idle": 3, "templates.other": {}})
    full, skills, other = (config.templates[name] for name in ("full", "skills", "other"))
    assert {full.image, skills.image} == {"perstack/full:latest"}
    assert {full.pids, skills.pids} == {1024}
    assert (full.grant, skills.grant, skills.min_idle) == ("", "package-indexes", 3)
    assert other == TemplateConfig()


def test_what_the_operator_writes_wins_over_what_the_name_brings(file: Path) -> None:
    config = load(file, {"templates.skills": {"image": "example/own:1", "grant": ""}})
    assert (config.templates["skills"].image, config.templates["skills"].grant) == ("example/own:1", "")


def test_a_small_host_has_base_alone_and_skills_are_looked_for_in_skills() -> None:
    assert (list(Config().templates), Config().skills_template) == (["base"], "skills")


def test_another_template_may_be_the_one_for_skills(file: Path) -> None:
    assert load(file, {"skills_template": "base"}).skills_template == "base"


@pytest.mark.parametrize("name", PRESETS)
def test_the_ready_made_templates_are_valid_and_leave_256_mib_beside_their_tmpfs(name: str) -> None:
    made = template(name, TemplateConfig(**PRESETS[name]))
    assert made.memory >= sum(tmpfs.bytes for tmpfs in tmpfs_of(made)) + made.shm_bytes + (256 << 20)
