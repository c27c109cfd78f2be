"""Play the calendar-bound tests (``-m calendar``) on days on which such tests break: ``make test-calendar``.

Debian's ``faketime`` shifts the clock of the suite, of what it starts and of its PostgreSQL by one offset, so that they
agree; monotonic clocks, by which loops wait, run on as they are. Further arguments are pytest's; without them each day
has the marked tests, on every core.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

LIBRARY = "FAKETIME_LIBRARY"
DAYS = {
    "1 January, 00:05": ("2027-01-01T00:05:00", "UTC"),
    "28 February, 23:50": ("2027-02-28T23:50:00", "UTC"),
    "29 February": ("2028-02-29T12:00:00", "UTC"),
    # The hour between 02:00 and 03:00 comes twice, and this process lives there.
    "a night when the clocks go back in Paris": ("2027-10-31T00:58:00", "Europe/Paris"),
    "31 December, 23:58": ("2026-12-31T23:58:00", "UTC"),
}
"""The instant in UTC at which the suite begins, and the time zone of its processes."""
_PLACES = ("/usr/lib/*/faketime", "/usr/lib/faketime", "/usr/lib64/faketime", "/usr/local/lib/faketime")
_MISSING = f"""\
There is no libfaketime here. Install it (Debian and Ubuntu: `apt-get install faketime`; Fedora and Homebrew have a
package libfaketime), or name the library itself, libfaketimeMT.so.1, in {LIBRARY}."""


def main(arguments: Sequence[str]) -> int:
    """Run each day; returns the number of days with a failure."""
    library = _find() or _install()
    if library is None:
        sys.stderr.write(_MISSING + "\n")
        return 2
    chosen = list(arguments) or ["-m", "calendar", "-n", "auto", "--dist", "worksteal"]
    failed = [day for day in DAYS if _play(day, library, chosen)]
    sys.stdout.write(f"Failed on: {'; '.join(failed)}\n" if failed else f"Good on {len(DAYS)} days.\n")
    return len(failed)


def _play(day: str, library: Path, arguments: Sequence[str]) -> int:
    at, zone = DAYS[day]
    sys.stdout.write(f"\n=== {day}: {at}Z, TZ={zone} ===\n")
    sys.stdout.flush()
    offset_s = round(datetime.fromisoformat(at).replace(tzinfo=UTC).timestamp() - time.time())
    environment = dict(os.environ) | {
        "LD_PRELOAD": str(library),
        "FAKETIME": f"{offset_s:+}s",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
        "PYTHONPATH": str(Path(__file__).with_name("support") / "faketime"),
        "TZ": zone,
    }
    return subprocess.run([sys.executable, "-m", "pytest", "-q", *arguments], env=environment, check=False).returncode


def _find() -> Path | None:
    named = os.environ.get(LIBRARY)
    if named:
        return Path(named) if Path(named).exists() else None
    root = Path("/")
    found = [path for place in _PLACES for path in root.glob(f"{place.lstrip('/')}/libfaketimeMT.so.1")]
    return found[0] if found else None


def _install() -> Path | None:
    """By apt, where this is root's machine and there is one."""
    if os.environ.get(LIBRARY) or shutil.which("apt-get") is None or os.geteuid() != 0:
        return None
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for words in (("update", "-qq"), ("install", "-y", "-qq", "--no-install-recommends", "faketime")):
        if subprocess.run(("apt-get", *words), env=quiet, check=False, stdout=subprocess.DEVNULL).returncode:
            return None
    return _find()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
