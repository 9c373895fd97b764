import pytest

from benchmarks.targets import judged


def test_a_value_at_its_limit_is_ok() -> None:
    assert judged("burst.p99_ms", 60, {}).ok
    assert not judged("burst.p99_ms", 60.1, {}).ok


def test_a_ratio_has_to_reach_its_target() -> None:
    assert judged("throughput.engine_ratio", 0.8, {}).ok
    assert not judged("throughput.engine_ratio", 0.79, {}).ok


def test_a_durable_figure_may_take_two_syncs_of_the_disk() -> None:
    result = judged("claim.p50_ms", 6.9, {}, fsync_ms=1.0)
    assert result.ok
    assert result.target == 7
    assert result.detail == {"fsync_p50_ms": 1.0, "target_without_fsync": 5}


def test_a_durable_figure_without_its_sync_is_refused_and_a_sync_for_another_figure_too() -> None:
    with pytest.raises(ValueError, match="fsync_ms"):
        judged("claim.p50_ms", 1, {})
    with pytest.raises(ValueError, match="fsync_ms"):
        judged("burst.p99_ms", 1, {}, fsync_ms=1.0)


def test_a_limit_may_depend_on_the_size_of_the_pool() -> None:
    assert judged("refill.peak", 15, {}, plus=12).ok
    assert not judged("refill.peak", 16, {}, plus=12).ok


def test_a_name_that_is_not_promised_is_refused() -> None:
    with pytest.raises(ValueError, match="not among the targets"):
        judged("claim.p42_ms", 1, {})


def test_a_line_of_a_report_has_the_promised_fields_in_order() -> None:
    document = judged("cli.help_s", 0.123456, {"n": 3}).document()
    assert document == {
        "name": "cli.help_s",
        "value": 0.1235,
        "unit": "s",
        "target": 0.15,
        "ok": True,
        "detail": {"n": 3},
    }
    assert list(document) == ["name", "value", "unit", "target", "ok", "detail"]
