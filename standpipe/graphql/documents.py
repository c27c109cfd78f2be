"""Documents asked for by their id, and what becomes of those that nobody vouched for.

Two ways to name one: ``documentId: "sha256:…"`` (GraphQL over HTTP, Appendix A) and Apollo's
``extensions.persistedQuery.sha256Hash``. Nothing is ever stored on a client's word: a text sent along with its hash is
run, where the mode lets it, and forgotten.
"""

import re
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import structlog

from standpipe.documents.store import body_of, id_of
from standpipe.platform.database import Sessions
from standpipe.platform.errors import StandpipeError
from standpipe.platform.reconnect import once_more
from standpipe.platform.settings import DocumentsMode

_log = structlog.get_logger(__name__)
MAX_KEPT = 2_000
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass
class DocumentError(StandpipeError):
    """The document cannot be had by this id, or is not one of ours."""

    message: str
    code: str

    def __str__(self) -> str:
        return self.message


@dataclass
class Documents:
    """The trusted documents as one process knows them: those used last are kept in memory."""

    mode: DocumentsMode = DocumentsMode.OFF
    _kept: OrderedDict[str, str] = field(default_factory=OrderedDict)
    _told: OrderedDict[str, None] = field(default_factory=OrderedDict)

    async def text(self, sessions: Sessions, data: dict[str, Any]) -> tuple[str | None, bool]:
        """The text that a request means, and whether it named it by id. Raises DocumentError.

        ``data`` holds a request's parameters: ``query``, ``documentId``, ``extensions``.
        """
        query, wanted, apollo = data.get("query"), data.get("documentId"), _apollo_hash(data.get("extensions"))
        if wanted is not None:
            if query is not None:
                raise DocumentError("Send either `documentId` or `query`.", "BAD_REQUEST")
            found = await self._find(sessions, _id_in(wanted))
            if found is None:
                raise DocumentError("This document is not known here.", "DOCUMENT_NOT_FOUND")
            return found, True
        if apollo is None:
            return await self._checked(sessions, query), False
        if query is not None and id_of(query) != apollo:
            raise DocumentError("The hash is not that of the query.", "BAD_REQUEST")
        found = await self._find(sessions, apollo)
        if found is not None:
            return found, query is None
        if query is None:
            # Apollo's clients know these words, and send the text in their next try.
            raise DocumentError("PersistedQueryNotFound", "PERSISTED_QUERY_NOT_FOUND")
        return await self._checked(sessions, query), False

    async def _checked(self, sessions: Sessions, query: str | None) -> str | None:
        """A text that came as such, by the mode."""
        if self.mode is DocumentsMode.OFF or query is None:
            return query
        document_id = id_of(query)
        if await self._find(sessions, document_id) is not None:
            return query
        if self.mode is DocumentsMode.ENFORCE:
            raise DocumentError("Only documents that are known here are answered.", "DOCUMENT_NOT_TRUSTED")
        if document_id not in self._told:
            self._told[document_id] = None
            _log.warning("document is not trusted", document_id=document_id)
            if len(self._told) > MAX_KEPT:
                self._told.popitem(last=False)
        return query

    async def _find(self, sessions: Sessions, document_id: str) -> str | None:
        if document_id in self._kept:
            self._kept.move_to_end(document_id)
            return self._kept[document_id]

        async def read() -> str | None:
            async with sessions() as conn:
                return await body_of(conn, document_id)

        body = await once_more(read)
        if body is not None:
            self._kept[document_id] = body
            if len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
        return body


def _id_in(wanted: object) -> str:
    prefix, _, payload = wanted.partition(":") if isinstance(wanted, str) else ("", "", "")
    if prefix != "sha256" or _SHA256.fullmatch(payload) is None:
        raise DocumentError("A documentId is `sha256:` and 64 hexadecimal digits in lower case.", "BAD_REQUEST")
    return payload


def _apollo_hash(extensions: object) -> str | None:
    wanted = extensions.get("persistedQuery") if isinstance(extensions, dict) else None
    if not isinstance(wanted, dict):
        return None
    found = wanted.get("sha256Hash")
    if wanted.get("version") != 1 or not isinstance(found, str) or _SHA256.fullmatch(found) is None:
        raise DocumentError("persistedQuery needs version 1 and a sha256Hash.", "BAD_REQUEST")
    return found
