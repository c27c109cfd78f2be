"""Work that every test would do again and that proves nothing there: done once a process, or done small.

Half of a town's processor time went into reading the machine's certificates anew for each of its HTTP clients.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager

from argon2 import PasswordHasher
from argon2.profiles import RFC_9106_LOW_MEMORY
from httpx._transports import default as transports
from sqlalchemy import Engine
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg

from standpipe.utilities import passwords

SMALL = PasswordHasher(time_cost=1, memory_cost=128, parallelism=1)
"""A hash in a millisecond instead of a tenth of a second; ``costly_passwords`` has the product's own."""


def begin() -> None:
    """Spare this process what it would repeat."""
    transports.create_ssl_context = functools.cache(transports.create_ssl_context)
    PGDialect_asyncpg.engine_created = staticmethod(_share_statements)
    _hash_by(SMALL)


@contextmanager
def costly_passwords() -> Iterator[None]:
    """Passwords are hashed as the product does."""
    _hash_by(PasswordHasher.from_parameters(RFC_9106_LOW_MEMORY))
    try:
        yield
    finally:
        _hash_by(SMALL)


def _hash_by(hasher: PasswordHasher) -> None:
    passwords._hasher = hasher
    passwords._nobodys.cache_clear()


_engines: list[Engine] = []


def _share_statements(engine: Engine) -> None:
    """What was compiled for one engine serves those of the next databases: all of them are clones on one server."""
    if not _engines:
        _engines.append(engine)
    first = _engines[0]
    engine.dialect = engine.pool._dialect = first.dialect
    engine._compiled_cache = first._compiled_cache
