"""Passwords, kept by argon2id with the parameters that the library's profile names (RFC 9106, low memory).

Hashing takes 64 MiB and tens of milliseconds: it runs in threads, and few at a time, so that a storm of tries takes
neither the memory nor the event loop.
"""

import asyncio
import functools
import secrets
from concurrent.futures import ThreadPoolExecutor

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from argon2.profiles import RFC_9106_LOW_MEMORY

from standpipe.platform.errors import InvalidInputError
from standpipe.platform.language import phrase

MIN_LENGTH, MAX_LENGTH = 12, 256
_hasher = PasswordHasher.from_parameters(RFC_9106_LOW_MEMORY)
_threads = ThreadPoolExecutor(2, thread_name_prefix="argon2")


async def hash_password(password: str) -> str:
    """A password as it is kept. Raises InvalidInputError for one that is too short or no text."""
    if not MIN_LENGTH <= len(password) <= MAX_LENGTH or not password.isprintable():
        raise InvalidInputError(
            phrase("A password has {least} to {most} printable characters.", least=MIN_LENGTH, most=MAX_LENGTH),
            ("password",),
        )
    return await asyncio.get_running_loop().run_in_executor(_threads, _hasher.hash, password)


async def check_password(kept: str | None, password: str) -> bool:
    """Check the password. Without one to compare with, the work is as long, and the answer no."""
    return await asyncio.get_running_loop().run_in_executor(_threads, _check, kept, password)


async def rehash_password(kept: str, password: str) -> str:
    """Hash the password under today's parameters; ``kept`` as it is where they have not changed."""
    return await hash_password(password) if _hasher.check_needs_rehash(kept) else kept


def _check(kept: str | None, password: str) -> bool:
    nobody = _nobodys()
    # JSON can spell half a surrogate pair, which UTF-8 cannot; it is as wrong as any other password.
    said = password[:MAX_LENGTH].encode("utf-8", "surrogatepass")
    try:
        _hasher.verify(kept or nobody, said)
    except (VerificationError, InvalidHashError):
        return False
    return kept is not None and len(password) <= MAX_LENGTH


@functools.cache
def _nobodys() -> str:
    """The hash that stands for an operator who is not there."""
    return _hasher.hash(secrets.token_bytes(32))
