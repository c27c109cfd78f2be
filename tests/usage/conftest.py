"""The town of the statements' tests."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.june import make_june
from tests.support.town import Town


@pytest.fixture
async def june(database_url: str, tmp_path: Path) -> AsyncIterator[Town]:
    """A town in the middle of June: tests/support/june.py."""
    async with make_june(database_url, tmp_path) as made:
        yield made
