"""The command line as a real process on a test's database."""

import os
import subprocess
import sys
from pathlib import Path


def standpipe(
    database_url: str, folder: Path, *words: str, timeout_s: float = 120, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run one command to its end. ``more`` are settings, without their prefix."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("STANDPIPE_")}
    settings = {"DATABASE_URL": database_url, "DATA_DIR": str(folder), "LOG_LEVEL": "ERROR"} | more
    environment |= {"COLUMNS": "200"} | {f"STANDPIPE_{name.upper()}": value for name, value in settings.items()}
    command = [sys.executable, "-m", "standpipe.cli", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=timeout_s)
