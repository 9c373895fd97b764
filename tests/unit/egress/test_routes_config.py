"""`[egress.routes.NAME]`: what an operator may write, and whose sandboxes have it."""

import pytest
from pydantic import ValidationError

from perstackd.adapters.egress.config import EgressConfig, RouteConfig
from perstackd.adapters.egress.routes import OriginRoutes
from perstackd.domain.errors import PerstackError
from perstackd.ports.egress import Occupant


def section(**values: object) -> EgressConfig:
    return EgressConfig.model_validate({"routes": {"api": {"origin": "https://api.example.com", **values}}})


def test_a_route_is_for_the_experts_own_sandbox_when_no_skill_is_named() -> None:
    routes = OriginRoutes(section(experts=["a"], headers={"X-Key": "k-${KEY}-${OTHER}"}).origin_routes(), str.lower)
    (route,) = routes.of(Occupant("a", ("tracker",)))
    assert (route.name, route.host, route.port) == ("api", "api.example.com", 443)
    assert [(header.name, header.value) for header in route.headers] == [("X-Key", "k-key-other")]
    assert routes.of(Occupant("b")) == []
    assert routes.of(Occupant("a", ("tracker",), own=True)) == []


def test_a_route_of_a_skill_is_for_the_sandboxes_that_host_it() -> None:
    routes = OriginRoutes(section(experts=["a"], skills=["tracker"]).origin_routes())
    assert routes.of(Occupant("a", ("tracker",), own=True))
    assert routes.of(Occupant("a", ("other", "tracker")))
    assert routes.of(Occupant("a")) == []
    assert routes.of(Occupant("b", ("tracker",), own=True)) == []


def test_a_value_does_not_stand_in_the_text_of_a_route() -> None:
    routes = OriginRoutes(section(experts=["a"], headers={"X": "${KEY}"}).origin_routes(), {"KEY": "s3cret"}.get)
    assert "s3cret" not in repr(routes)


def test_a_stored_value_is_looked_up_each_time_and_is_no_variable() -> None:
    stored = {"KEY": "one"}
    headers = {"X": "k-${secret:KEY}", "Y": "${KEY}"}
    routes = OriginRoutes(section(experts=["a"], headers=headers).origin_routes(), {"KEY": "env"}.get, stored.get)
    assert [each.value for each in routes.of(Occupant("a"))[0].headers] == ["k-one", "env"]
    stored["KEY"] = "two"  # rotated
    assert [each.value for each in routes.of(Occupant("a"))[0].headers] == ["k-two", "env"]


def test_a_value_that_is_not_stored_names_the_command_that_stores_it_and_one_that_cannot_be_sent_is_not_told() -> None:
    stored: dict[str, str] = {}
    routes = OriginRoutes(section(experts=["a"], headers={"X": "${secret:KEY}"}).origin_routes(), stored=stored.get)
    with pytest.raises(PerstackError, match="perstackctl secret put --route KEY") as missing:
        routes.of(Occupant("a"))
    assert missing.value.reason == "egress_secret_missing"
    stored["KEY"] = "s3cret\r\nX: y"
    with pytest.raises(PerstackError) as unsendable:
        routes.of(Occupant("a"))
    assert "s3cret" not in unsendable.value.message


@pytest.mark.parametrize(
    "value", ["${secret:}", "${secret:lower}", "${secret:A-B}", "Bearer ${secret:A", "${secret:1}"]
)
def test_a_header_that_names_no_secret_is_refused(value: str) -> None:
    with pytest.raises(ValidationError, match="names no secret"):
        section(experts=["a"], headers={"X": value})


@pytest.mark.parametrize(
    ("origin", "host", "port"),
    [("https://A.example", "a.example", 443), ("https://a.example:8443", "a.example", 8443)],
)
def test_an_origin_is_a_host_and_perhaps_a_port(origin: str, host: str, port: int) -> None:
    route = RouteConfig(origin=origin, experts=("a",)).route("api")
    assert (route.host, route.port) == (host, port)


@pytest.mark.parametrize(
    "origin",
    [
        "http://a.example", "https://a.example/", "https://a.example/v1", "https://user@a.example", "a.example",
        "https://127.0.0.1", "https://2130706433", "https://[::1]", "https://xn--bcher-kva.example", "https://",
        "https://a.example:0", "https://a.example:99999", "https://*.a.example", "https://a.example?x", "",
    ],
)  # fmt: skip
def test_anything_else_is_not(origin: str) -> None:
    with pytest.raises(ValidationError):
        RouteConfig(origin=origin, experts=("a",))


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"experts": []},
        {"experts": ["a"], "headers": {"Host": "x"}},
        {"experts": ["a"], "headers": {"Transfer-Encoding": "chunked"}},
        {"experts": ["a"], "headers": {"X Y": "x"}},
        {"experts": ["a"], "headers": {"X": "a\r\nY: b"}},
        {"experts": ["a"], "headers": {"X": ""}},
        {"experts": ["a"], "header": {}},
    ],
)
def test_a_route_without_experts_or_with_headers_of_the_proxy_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        section(**values)


def test_a_routes_name_is_one_segment_of_a_path() -> None:
    for name in ("", "API", "a/b", "-a", "a.b", "x" * 65):
        with pytest.raises(ValidationError):
            EgressConfig.model_validate({"routes": {name: {"origin": "https://a.example", "experts": ["a"]}}})
