"""The store of trusted documents, and the manifests that apps bring them in."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from standpipe.documents.models import TrustedDocument
from standpipe.platform.errors import InvalidInputError, NotFoundError
from standpipe.platform.units import is_storable

APOLLO = "apollo-persisted-query-manifest"
MAX_BODY = 64 * 1024


@dataclass(frozen=True, slots=True)
class Document:
    """A document and its id, the lower-case SHA-256 of its text in hex."""

    id: str
    body: str
    name: str = ""


def id_of(body: str) -> str:
    """The id of a text."""
    return hashlib.sha256(body.encode()).hexdigest()


def read_manifest(text: str) -> list[Document]:
    """The documents of a manifest: Apollo's persisted query manifest, or a plain object of hash → text.

    Raises InvalidInputError for anything else, and for a document whose id is not its hash: an app that asks by another
    id would never find it.
    """
    try:
        content: Any = json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidInputError("The manifest is not JSON.") from None
    if not isinstance(content, dict):
        raise InvalidInputError("The manifest is no JSON object.")
    if content.get("format") == APOLLO or "operations" in content:
        found = _apollo(content)
    else:
        found = [_checked(key, value, "") for key, value in content.items()]
    if not found:
        raise InvalidInputError("The manifest holds no documents.")
    return list({document.id: document for document in found}.values())


def _apollo(content: Mapping[str, Any]) -> list[Document]:
    operations = content.get("operations")
    if content.get("version", 1) != 1 or not isinstance(operations, list):
        raise InvalidInputError("Of Apollo's manifests, version 1 with a list of operations is known.")
    found = []
    for one in operations:
        if not isinstance(one, dict):
            raise InvalidInputError("An operation of the manifest is no object.")
        found.append(_checked(one.get("id"), one.get("body"), str(one.get("name") or "")))
    return found


def _checked(key: object, body: object, name: str) -> Document:
    if not isinstance(key, str) or not isinstance(body, str) or not is_storable(body) or not is_storable(name):
        raise InvalidInputError(f"Of {name or key}, the manifest gives no id and text.")
    if len(body.encode()) > MAX_BODY:
        raise InvalidInputError(f"{name or key} is longer than {MAX_BODY} bytes.")
    wanted = key.removeprefix("sha256:").lower()
    if wanted != id_of(body):
        raise InvalidInputError(f"The id of {name or key} is not the SHA-256 of its text.")
    return Document(wanted, body, name)


async def add(session: AsyncSession, documents: list[Document], *, client: str) -> int:
    """Store documents; returns how many are new. What is there stays as it is: its id is its text."""
    fresh = await session.scalars(
        insert(TrustedDocument)
        .values([{"id": one.id, "body": one.body, "name": one.name, "client": client} for one in documents])
        .on_conflict_do_nothing()
        .returning(TrustedDocument.id)
    )
    return len(fresh.all())


async def body_of(session: AsyncSession, document_id: str) -> str | None:
    """A document's text; None for an unknown id."""
    body: str | None = await session.scalar(select(TrustedDocument.body).where(TrustedDocument.id == document_id))
    return body


async def all_documents(session: AsyncSession) -> list[TrustedDocument]:
    """Everything there is, oldest first."""
    rows = await session.scalars(select(TrustedDocument).order_by(TrustedDocument.added_at, TrustedDocument.id))
    return list(rows)


async def remove(session: AsyncSession, document_id: str) -> None:
    """Trust a document no more. Raises NotFoundError. Servers that have it in memory know it until they restart."""
    gone = await session.scalar(
        delete(TrustedDocument)
        .where(TrustedDocument.id == document_id.removeprefix("sha256:").lower())
        .returning(TrustedDocument.id)
    )
    if gone is None:
        raise NotFoundError(f"There is no document {document_id}.")
