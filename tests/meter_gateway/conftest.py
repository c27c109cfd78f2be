"""The gateway's field, for each of its test files."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from standpipe.platform.database import Sessions
from tests.support.radio import Field, make_field


@pytest.fixture(params=["udp", "dtls"])
async def field(
    request: pytest.FixtureRequest, database_url: str, sessions: Sessions, tmp_path: Path
) -> AsyncIterator[Field]:
    """Each test that takes this runs with a meter on plain UDP and with one on DTLS."""
    async with make_field(database_url, sessions, tmp_path, dtls=request.param == "dtls") as made:
        yield made


@pytest.fixture
async def plain(database_url: str, sessions: Sessions, tmp_path: Path) -> AsyncIterator[Field]:
    """For what is about plain UDP's own datagrams."""
    async with make_field(database_url, sessions, tmp_path) as made:
        yield made


@pytest.fixture
async def secure(database_url: str, sessions: Sessions, tmp_path: Path) -> AsyncIterator[Field]:
    """For what is about DTLS."""
    async with make_field(database_url, sessions, tmp_path, dtls=True) as made:
        yield made


@pytest.fixture
async def patient(database_url: str, sessions: Sessions, tmp_path: Path) -> AsyncIterator[Field]:
    """DTLS, and a gateway that waits for an answer as long as a test's own meter may take on a busy machine."""
    patience = {"coap_ack_timeout_s": 2.0, "coap_max_retransmit": 2}
    async with make_field(database_url, sessions, tmp_path, dtls=True, settings=patience) as made:
        yield made
