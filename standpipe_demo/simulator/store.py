"""A fake's memory: one JSON file swapped in whole, so that a restart finds what was there."""

import json
from pathlib import Path
from typing import Any


class JsonStore:
    """A dict that lives in a file. ``data`` is changed freely; ``save`` makes it last."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.data: dict[str, Any] = json.loads(path.read_text()) if path is not None and path.exists() else {}

    def save(self) -> None:
        """Write the whole, then swap."""
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        draft = self._path.with_suffix(".new")
        draft.write_text(json.dumps(self.data))
        draft.replace(self._path)
