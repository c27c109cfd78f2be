"""Fixtures that every room's tests share. Each test that asks for a database gets a clone of its own."""

import gc
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from standpipe.platform.database import Sessions, create_engine, create_sessions
from tests.support import thrift
from tests.support.database import DatabaseServer, database_server
from tests.support.town import Town, make_town

thrift.begin()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    """Collect what this test left, and look at the rest no more.

    A full collection over the heap of hundreds of tests takes a second, in which no loop runs: a simulated meter falls
    asleep, and a gateway loses its patience. What an unclosed thing says when it goes is said of the test that left it.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
async def postgres() -> AsyncIterator[DatabaseServer]:
    """The suite's server with its migrated template."""
    async with database_server() as server:
        yield server


@pytest.fixture
async def database_url(postgres: DatabaseServer) -> AsyncIterator[str]:
    """A fresh, migrated database, for this test alone."""
    async with postgres.clone() as url:
        yield url


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(database_url)
    yield engine
    await engine.dispose()


@pytest.fixture
def sessions(engine: AsyncEngine) -> Sessions:
    return create_sessions(engine)


@pytest.fixture
def costly_passwords() -> Iterator[None]:
    """Passwords are hashed as the product does, which takes a tenth of a second."""
    with thrift.costly_passwords():
        yield


@pytest.fixture
async def town(database_url: str, tmp_path: Path) -> AsyncIterator[Town]:
    """A town in one process: tests/support/town.py."""
    async with make_town(database_url, tmp_path) as made:
        yield made
