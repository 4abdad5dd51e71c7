"""A certificate file is opened once for all nodes, so that the checked content is the used content."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from airflow_provider_qcache.client import QClient
from airflow_provider_qcache.client import certificates as certificate_files
from tests.harness.servers import Certificates


@pytest.mark.parametrize("name", ["verify", "cert"])
@pytest.mark.parametrize("memory", [True, False], ids=["in memory", "in a temporary file"])
def test_a_file_that_is_replaced_after_its_check_is_used_as_checked(
    name: str, memory: bool, certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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

    if not memory:
        monkeypatch.delattr(certificate_files.os, "memfd_create", raising=False)
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
