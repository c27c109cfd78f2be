"""Writes docs/settings.md from the settings themselves, so that the table cannot go stale; a test compares them."""

from pathlib import Path

from pydantic_core import PydanticUndefined

from standpipe.platform.settings import fields_of

TARGET = Path(__file__).with_name("settings.md")
HEAD = """# Settings

All from the environment. A wrong or missing one is one clear line at start. This table is made by `make settings`.

| setting | default | what |
|---|---|---|
"""


def table() -> str:
    """The page."""
    rows = []
    for name, field in fields_of():
        default = field.get_default(call_default_factory=True)
        shown = "" if default in (None, [], PydanticUndefined) else f"`{default}`"
        rows.append(f"| `STANDPIPE_{name.upper()}` | {shown} | {field.description} |\n")
    return HEAD + "".join(rows)


if __name__ == "__main__":
    TARGET.write_text(table())
