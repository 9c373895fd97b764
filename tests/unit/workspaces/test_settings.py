from typing import Any

import pytest

from perstackd.adapters.workspaces.places import managed_directory
from perstackd.adapters.workspaces.settings import HostSettings
from perstackd.domain.errors import PerstackError
from perstackd.domain.ids import TenantId


@pytest.mark.parametrize(
    "wrong",
    [
        {"managed_uid": 999},
        {"ephemeral_bytes": 0},
        {"ephemeral_inodes": 0},
        {"state": "relative"},
        {"runtime": "/run/../etc"},
        {"roots": ("/srv", "home")},
    ],
)
def test_values_that_would_be_unsafe_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(PerstackError) as refused:
        HostSettings(**{"state": "/var/lib/p", "runtime": "/run/p", **wrong})
    assert refused.value.reason == "config_invalid"


def test_an_ephemeral_workspace_has_both_caps_and_a_private_mode() -> None:
    settings = HostSettings(state="/s", runtime="/r", managed_uid=5000, ephemeral_bytes=4096, ephemeral_inodes=10)
    assert settings.tmpfs_options == "size=4096,nr_inodes=10,mode=0700,uid=5000,gid=5000"


@pytest.mark.parametrize("tenant", ["", "..", ".hidden", "a/b", "a\0b", "x" * 64, "-x"])
def test_a_tenant_that_is_no_plain_directory_name_has_no_managed_directory(tenant: str) -> None:
    with pytest.raises(PerstackError) as refused:
        managed_directory("/var/lib/p", TenantId(tenant), "notes")
    assert refused.value.reason == "tenant_invalid"


def test_a_name_that_leaves_its_tenant_has_no_managed_directory() -> None:
    with pytest.raises(PerstackError) as refused:
        managed_directory("/var/lib/p", TenantId("acme"), "../other/notes")
    assert refused.value.reason == "workspace_invalid"


def test_a_named_workspace_has_one_place() -> None:
    assert managed_directory("/var/lib/p/", TenantId("acme"), "notes") == "/var/lib/p/workspaces/acme/notes"
