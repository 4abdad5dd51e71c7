"""A file of certificates is opened once for all nodes: what was checked is what is used."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_qcache.client import QClient, transport
from tests.harness.servers import Certificates


@pytest.mark.parametrize("name", ["verify", "cert"])
@pytest.mark.parametrize("memory", [True, False], ids=["in memory", "in a temporary file"])
def test_a_file_that_is_replaced_after_its_check_is_used_as_it_was(
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

    def note(file: Any, *arguments: Any, **keywords: Any) -> int:
        if str(file) == str(path):
            opened.append(path)
        return open_file(file, *arguments, **keywords)

    if not memory:
        monkeypatch.delattr(transport.os, "memfd_create", raising=False)
    monkeypatch.setattr(os, "fstat", replace)
    monkeypatch.setattr(os, "open", note)
    with QClient([f"https://127.0.0.1:{port}" for port in (1, 2, 3)], trust_env=False, **{name: str(path)}):
        assert opened == [path]
