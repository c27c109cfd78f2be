"""The gateway's field, for each of its test files."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from standpipe.db.engine import Sessions
from tests.support.radio import Field, make_field


@pytest.fixture
async def field(database_url: str, sessions: Sessions, tmp_path: Path) -> AsyncIterator[Field]:
    async with make_field(database_url, sessions, tmp_path) as made:
        yield made
