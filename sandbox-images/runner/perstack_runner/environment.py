"""The environment of what the runner starts: few names, none of the runner's own by accident."""

import os
from collections.abc import Mapping
from typing import Final

from perstack_runner.messages import Pairs

_DEFAULT_PATH: Final = "/usr/local/bin:/usr/bin:/bin"
_NO_PROXY: Final = "127.0.0.1,localhost,::1"
# Set by the template for every program of the sandbox: where to find the operator's CAs, and how Node takes a proxy.
_FROM_TEMPLATE: Final = (
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "GIT_SSL_CAINFO",
    "NODE_USE_ENV_PROXY",
    "TZ",
)


def child_environment(own: Mapping[str, str], proxy_port: int, more: Pairs, home: str = "") -> dict[str, str]:
    """PATH, HOME, LANG, the proxy's names, what the template sets, and `more`, which wins."""
    proxy = f"http://127.0.0.1:{proxy_port}"
    environment = {
        "PATH": own.get("PATH", _DEFAULT_PATH),
        "HOME": home or own.get("HOME", "/tmp"),  # noqa: S108 - a tmpfs of the sandbox
        "LANG": own.get("LANG", "C.UTF-8"),
        **{name: proxy for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")},
        **{name: _NO_PROXY for name in ("NO_PROXY", "no_proxy")},
        **{name: own[name] for name in _FROM_TEMPLATE if name in own},
    }
    return {**environment, **dict(more)}


NO_USER_CONFIGURATION: Final[Pairs] = (("npm_config_userconfig", "/dev/null"),)
"""For a server with a home of its own, so that package runners obey nothing but the image: npm by name, because a skill
may declare a HOME. What the operator says for the system (/etc/npmrc, /etc/uv/uv.toml, /etc/pip.conf) still holds.
"""


def home_directory() -> str:
    """Where the runner may write."""
    return os.environ.get("HOME", "/tmp")  # noqa: S108
