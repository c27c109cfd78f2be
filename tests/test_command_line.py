"""The suite runs commands in its own process; here they are held against the real one, and so is its way in."""

import asyncio
import os
import sys
import threading
from pathlib import Path

import pytest
import structlog

from standpipe.platform.database import Sessions
from tests.support.command import standpipe, standpipe_beside, standpipe_process
from tests.support.town import make_utility

CASES = {
    "good": (("tariff", "list", "--json"), {}, 0),
    "refused": (("operator", "disable", "nobody"), {"operator_key": "opk_wrong"}, 1),
    "no such word": (("operator", "dance"), {}, 2),
    "a wrong setting": (("tariff", "list"), {"http_port": "many"}, 2),
}


@pytest.mark.parametrize("case", CASES)
async def test_a_command_says_the_same_here_and_as_a_process(
    case: str, database_url: str, sessions: Sessions, tmp_path: Path
) -> None:
    await make_utility(sessions)
    words, settings, code = CASES[case]
    before = dict(os.environ), sys.argv, sys.stdout, sys.excepthook, threading.excepthook, structlog.is_configured()
    here = await standpipe_beside(database_url, tmp_path, *words, **settings)
    after = dict(os.environ), sys.argv, sys.stdout, sys.excepthook, threading.excepthook, structlog.is_configured()
    assert before == after
    real = await asyncio.to_thread(standpipe_process, database_url, tmp_path, *words, **settings)
    assert here.returncode == real.returncode == code, here.stderr + real.stderr
    assert here.stdout == real.stdout
    assert here.stderr == real.stderr
    assert bool(here.stdout) is (code == 0)
    assert bool(here.stderr) is (code != 0)
    assert "Traceback" not in here.stderr


async def test_what_is_typed_is_read(database_url: str, tmp_path: Path) -> None:
    key = standpipe(database_url, tmp_path, "operator", "add", "amina").stdout.strip()
    done = standpipe(
        *(database_url, tmp_path, "operator", "password"), typed="a good long password\n", operator_key=key
    )
    assert (done.returncode, done.stderr) == (0, "")
