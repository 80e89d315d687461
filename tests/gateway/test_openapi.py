"""The description and the server agree: whatever is sent, no 500 and no answer that is not described."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import msgspec
import pytest
from served import served

from aios.abi.calls import CALLS
from aios.gateway.openapi import document

pytestmark = pytest.mark.anyio

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "ignored_auth",
    "unsupported_method",
    "allow_header_conformance",
)


def test_every_call_of_the_table_is_described() -> None:
    described = document()["paths"]
    for name, spec in CALLS.items():
        operation = described[f"/aios/v1/calls/{name}"]["post"]
        assert operation["summary"] == spec.doc
        assert operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith(spec.args.__name__)


async def test_the_description_is_served_as_it_is() -> None:
    async with served() as at:
        status, body = await at.get("/openapi.json")
        assert status == 200
        assert body == msgspec.json.decode(msgspec.json.encode(document()))


async def test_schemathesis_finds_no_500_and_no_undescribed_answer(tmp_path: Path) -> None:
    async with served() as at:
        key = at.key_of("prober", is_admin=True)
        # Waiting for a process may take as long as is asked for: no answer to probe for.
        probe = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{at.url}/openapi.json"),
            *("--header", f"Authorization: Bearer {key}", "--seed", "1", "--max-examples", "3"),
            *("--phases", "coverage,fuzzing", "--checks", ",".join(CHECKS), "--request-timeout", "20"),
            *("--exclude-operation-id", "proc_wait", "--generation-database", "none", "--no-color"),
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await probe.communicate()
        assert probe.returncode == 0, said.decode(errors="replace")[-6000:]
        assert b"Tested:" in said
