"""The command line on a test's database: in this process, where a command costs its work, or as a real process.

A process of its own takes a second and a half to start. So the suite's commands run here, each in a thread with a loop,
an environment, arguments and streams of its own; ``tests/test_command_line.py`` holds both ways side by side.
"""

import asyncio
import contextvars
import io
import logging
import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import structlog

from standpipe import cli
from standpipe.office import desk

WIDE = 200
_one_at_a_time = threading.Lock()
"""The environment and the arguments are the process's: commands take turns."""


def standpipe(
    database_url: str, folder: Path, *words: str, typed: str = "", timeout_s: float = 120, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run one command to its end, in this process. ``more`` are settings, without their prefix."""
    environment = _environment(database_url, folder, more)
    # A thread of its own: the command runs a loop, and the caller may be on one.
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(_run_here, environment, words, typed).result(timeout_s)


async def standpipe_beside(
    database_url: str, folder: Path, *words: str, **more: str
) -> subprocess.CompletedProcess[str]:
    """``standpipe``, while the caller's loop goes on: for commands that ask servers of this process."""
    return await asyncio.to_thread(standpipe, database_url, folder, *words, **more)


def standpipe_process(
    database_url: str, folder: Path, *words: str, typed: str = "", timeout_s: float = 120, **more: str
) -> subprocess.CompletedProcess[str]:
    """``standpipe`` as a real process, by the name under which it is installed."""
    command = [str(Path(sys.executable).with_name("standpipe")), *words]
    environment = _environment(database_url, folder, more)
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=timeout_s, input=typed
    )


def _environment(database_url: str, folder: Path, more: dict[str, str]) -> dict[str, str]:
    """Settings come from the caller alone, whatever the environment of whoever runs the suite says."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STANDPIPE_")}
    settings = {"database_url": database_url, "data_dir": str(folder), "log_level": "ERROR"} | more
    return kept | {"COLUMNS": str(WIDE)} | {f"STANDPIPE_{name.upper()}": value for name, value in settings.items()}


@dataclass
class _Streams:
    stdin: io.TextIOWrapper
    stdout: io.StringIO = field(default_factory=io.StringIO)
    stderr: io.StringIO = field(default_factory=io.StringIO)


_streams: contextvars.ContextVar[_Streams] = contextvars.ContextVar("streams of the command that runs here")


class _Shared(io.TextIOBase):
    """A stream that is the command's within the command, and what it was for everybody else in this process."""

    encoding = "utf-8"

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name, self._otherwise = name, getattr(sys, name)

    @property
    def _stream(self) -> Any:
        streams = _streams.get(None)
        return self._otherwise if streams is None else getattr(streams, self._name)

    def read(self, size: int | None = -1) -> str:
        return str(self._stream.read(size))

    def readline(self, size: int = -1) -> str:  # type: ignore[override]
        return str(self._stream.readline(size))

    def write(self, text: str) -> int:
        return int(self._stream.write(text))

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return False


def _run_here(environment: dict[str, str], words: tuple[str, ...], typed: str) -> subprocess.CompletedProcess[str]:
    streams = _Streams(io.TextIOWrapper(io.BytesIO(typed.encode()), "utf-8"))
    with _one_at_a_time, _logs_as_before():
        _streams.set(streams)  # This thread's context ends with the command.
        shared = {name: _Shared(name) for name in ("stdin", "stdout", "stderr")}
        with (
            patch.dict(os.environ, environment, clear=True),
            patch.multiple(sys, argv=["standpipe", *words], excepthook=sys.excepthook, **shared),
            # By this the parser would call itself `python -m pytest`, where that is how the suite was started.
            patch.object(sys.modules["__main__"], "__package__", None),
            patch.object(desk.out, "_width", WIDE),
            patch.object(cli._errors, "_width", WIDE),
        ):
            code = _exit_code()
    return subprocess.CompletedProcess(
        ["standpipe", *words], code, streams.stdout.getvalue(), streams.stderr.getvalue()
    )


def _exit_code() -> int:
    """Run it and return what the process would have ended with."""
    try:
        cli.main()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        sys.stderr.write(f"{end.code}\n")
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


@contextmanager
def _logs_as_before() -> Iterator[None]:
    """A command sets up the log of its process; this one's is put back when it has ended."""
    root, ours, hook = logging.getLogger(), logging.getLogger("standpipe"), threading.excepthook
    handlers, levels, loud = root.handlers[:], (root.level, ours.level), logging.raiseExceptions
    known = structlog.get_config() if structlog.is_configured() else None
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(levels[0])
        ours.setLevel(levels[1])
        threading.excepthook, logging.raiseExceptions = hook, loud
        structlog.reset_defaults()
        if known is not None:
            structlog.configure(**known)
