"""A certificate file is opened once for all nodes, so that the checked content is the used content."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from airflow_provider_qcache.client import CertificateRejected, QClient
from tests.harness.faults import FaultyNode, healthy_node
from tests.harness.servers import Certificates


@pytest.mark.parametrize("name", ["verify", "cert"])
def test_a_file_that_is_replaced_after_its_check_is_used_as_checked(
    name: str, certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.pem"
    shutil.copyfile(certificates.ca if name == "verify" else certificates.server, path)
    opened: list[Path] = []
    fstat, open_file = os.fstat, os.open

    def replace(descriptor: int) -> os.stat_result:
        found = fstat(descriptor)
        if opened and path.exists():
            path.unlink()
            path.write_bytes(b"no certificate")
        return found

    def record(file: Any, *arguments: Any, **keywords: Any) -> int:
        if str(file) == str(path):
            opened.append(path)
        return open_file(file, *arguments, **keywords)

    monkeypatch.setattr(os, "fstat", replace)
    monkeypatch.setattr(os, "open", record)
    with QClient([f"https://127.0.0.1:{port}" for port in (1, 2, 3)], trust_env=False, **{name: str(path)}):
        assert opened == [path]


def test_a_key_with_a_passphrase_is_refused_without_a_prompt(
    certificates: Certificates, tmp_path: Path
) -> None:
    key = load_pem_private_key(certificates.client.read_bytes(), None)
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    (tmp_path / "key.pem").write_bytes(locked)
    with pytest.raises(ValueError, match=r"\(key_file\)=.*without a passphrase"):
        QClient(["https://127.0.0.1:1"], cert=(str(certificates.client), str(tmp_path / "key.pem")))


def test_a_directory_of_ca_certificates(certificates: Certificates, tmp_path: Path) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificates.server)
    _, tables = healthy_node()
    hashed, empty = tmp_path / "hashed", tmp_path / "empty"
    hashed.mkdir()
    empty.mkdir()
    shutil.copyfile(certificates.ca, hashed / "ca.pem")
    subprocess.run(["openssl", "rehash", str(hashed)], check=True)
    with FaultyNode(tables.answer, tls=server, host="localhost") as node:
        with QClient([node.url], 5, 20, trust_env=False, verify=str(hashed)) as client:
            assert client.post("key", b"a\n1\n").node == node.url
        with (
            QClient([node.url], 5, 20, trust_env=False, verify=str(empty)) as client,
            pytest.raises(CertificateRejected),
        ):
            client.post("key", b"a\n1\n")


@pytest.mark.parametrize("name", ["verify", "cert"])
def test_a_file_that_has_no_end_or_is_too_large(name: str, tmp_path: Path) -> None:
    (tmp_path / "large.pem").write_bytes(b" " * (10 * 1024 * 1024 + 1))
    for path, why in (
        (tmp_path / "large.pem", r"10,485,761 bytes; a file of certificates has at most 10,485,760"),
        ("/dev/zero", "not a regular file"),
    ):
        with pytest.raises(ValueError, match=rf"{name} .*{path}.*: {why}"):
            QClient(["https://127.0.0.1:1"], trust_env=False, **{name: str(path)})
    (tmp_path / "large.pem").write_bytes(b" " * (10 * 1024 * 1024))
    with pytest.raises(ValueError, match=rf"{name} .*cannot read") as raised:
        QClient(["https://127.0.0.1:1"], trust_env=False, **{name: str(tmp_path / "large.pem")})
    assert "at most" not in str(raised.value)
