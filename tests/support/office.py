"""The office's command line as an operator runs it: a process of its own on the test's database."""

import os
import subprocess
import sys
from pathlib import Path


def run_office(database_url: str, folder: Path, *words: str, key: str = "") -> subprocess.CompletedProcess[str]:
    """One command; settings come from here alone."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("STANDPIPE_")}
    environment |= {"STANDPIPE_DATABASE_URL": database_url, "STANDPIPE_OPERATOR_KEY": key, "COLUMNS": "200"}
    environment |= {"STANDPIPE_DATA_DIR": str(folder), "STANDPIPE_LOG_LEVEL": "ERROR"}
    command = [sys.executable, "-m", "standpipe.cli", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
