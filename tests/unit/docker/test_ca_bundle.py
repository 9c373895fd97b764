"""The operator's certificate authorities: what is taken, and what is refused with which sentence."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from perstackd.adapters.docker.ca_bundle import MAX_BYTES, installed
from perstackd.domain.errors import PerstackError

KEY = ec.generate_private_key(ec.SECP256R1())


def authority(name: str = "test authority") -> bytes:
    subject, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(KEY.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(KEY, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "authorities.pem"
    path.write_bytes(authority() + "# Größe\n".encode() + authority("another"))
    path.chmod(0o600)
    return path


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    path = tmp_path / "run"
    path.mkdir()
    return path


def test_every_sandbox_can_read_the_copy_and_it_is_what_was_checked(source: Path, runtime: Path) -> None:
    copy = Path(installed(source, runtime))
    assert copy.stat().st_mode & 0o777 == 0o644
    assert copy.read_bytes() == source.read_bytes()
    assert len(ssl.create_default_context(cafile=str(copy)).get_ca_certs()) == 2
    assert [path.name for path in runtime.iterdir()] == [copy.name]


def test_its_name_tells_its_contents_and_the_last_one_goes(source: Path, runtime: Path) -> None:
    first = installed(source, runtime)
    assert installed(source, runtime) == first
    source.write_bytes(authority("a third"))
    second = installed(source, runtime)
    assert second != first
    assert [str(path) for path in runtime.iterdir()] == [second]


def refused(source: Path, runtime: Path) -> tuple[str, str]:
    with pytest.raises(PerstackError) as caught:
        installed(source, runtime)
    assert list(runtime.iterdir()) == []
    assert str(source) in caught.value.message
    return caught.value.reason, caught.value.message


@pytest.mark.parametrize("text", [b"", b"not PEM", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_what_is_no_certificate_is_refused(source: Path, runtime: Path, text: bytes) -> None:
    source.write_bytes(text)
    assert refused(source, runtime)[0] == "ca_bundle_invalid"


def test_a_private_key_is_never_shown_to_sandboxes(source: Path, runtime: Path) -> None:
    key = KEY.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    source.write_bytes(authority() + key)
    reason, message = refused(source, runtime)
    assert (reason, "private key" in message) == ("ca_bundle_invalid", True)


def test_an_endless_file_is_refused(source: Path, runtime: Path) -> None:
    source.write_bytes(authority() + b"\n" * MAX_BYTES)
    assert "more than 1048576 bytes" in refused(source, runtime)[1]


def test_a_file_that_is_not_there_is_refused(tmp_path: Path, runtime: Path) -> None:
    assert refused(tmp_path / "nowhere.pem", runtime)[0] == "ca_bundle_unreadable"
    assert refused(tmp_path, runtime)[0] == "ca_bundle_unreadable"
