# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Recognize files that do not belong to a source unless git tracks them: caches, secrets and dumps."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

#: Names of caches and the like, which are folders for the most part.
NOISE = {
    *(".git", ".hg", ".svn", ".venv", "venv", "__pycache__", "node_modules", ".tox", ".nox", ".idea", ".vscode"),
    *(".mypy_cache", ".ruff_cache", ".pytest_cache", ".DS_Store", "db.sqlite3"),
}

#: Names of secrets and of dumps, in any case.
PRIVATE = re.compile(
    r"""
    \.env(rc|\..*)? | .*\.env
    | \.git-credentials | [._]netrc | \.pgpass | \.my\.cnf | \.pypirc | \.npmrc | \.htpasswd
    | \.?vault[_-]pass.* | (secrets?|credentials)\.(json|ya?ml|toml|ini) | client_secret.*\.json
    | service[_-]account.*\.json
    | id_(rsa|dsa|ecdsa|ed25519)(_sk)? | .*\.(ppk|p12|pfx|jks|keystore|kdbx|tfstate|tfvars)
    | .*\.(dump|pgdump) | .*\.sql\.(gz|bz2|xz|zst) | (.*[_-])?(dump|backup)\.sql | .*\.sqlite3?(-(journal|wal|shm))?
    | \.(bash|python|psql|node_repl)_history
    """,
    re.IGNORECASE | re.VERBOSE,
)
PRIVATE_FOLDERS = {".ssh", ".aws", ".azure", ".envs", ".gnupg", ".kube"}
#: Names of examples, such as .env.example, which are no secrets.
EXAMPLE = re.compile(r".*[._-](example|sample|template|dist|defaults?)", re.IGNORECASE)
#: The beginning of private keys and dumps of databases.
PRIVATE_CONTENT = re.compile(
    rb"-----BEGIN [A-Z ]*PRIVATE KEY|PGDMP|(--\s*)+PostgreSQL database (cluster )?dump"
    rb"|(/\*.*\*/;?\s*)?-- (MySQL|MariaDB) dump"
)
#: Bytes that a text in ASCII does not have.
BINARY = re.compile(rb"[\x00-\x08\x0e-\x1f\x7f-\xff]")


#: Bytes at the beginning of a file that are compared with the patterns.
HEAD = 100


def read_head(path: Path) -> bytes:
    """Return the beginning of a file; empty for what is no file."""
    if path.is_symlink() or not path.is_file():
        return b""
    with path.open("rb") as file:
        return file.read(HEAD)


def is_private(name: str, content: bytes) -> bool:
    """Return whether a file looks like a secret or a dump, by its name or the beginning of its content."""
    path = PurePosixPath(name)
    if PRIVATE_FOLDERS & set(path.parts[:-1]) or path.match(".docker/config.json"):
        return True
    if PRIVATE.fullmatch(path.name) and not EXAMPLE.fullmatch(path.name):
        return True
    head = content[:HEAD]
    return bool(PRIVATE_CONTENT.match(head) or (path.suffix.lower() == ".key" and BINARY.search(head)))


def find_noise(names: Iterable[str]) -> dict[str, str]:
    """Return the names in caches and virtual environments, each with the path of the outermost one."""
    names = list(names)
    # A virtual environment can have any name.
    environments = {name.removesuffix("/pyvenv.cfg") for name in names if name.endswith("/pyvenv.cfg")}
    found = {}
    for name in names:
        path = PurePosixPath(name)
        places = (*reversed(path.parents), path)
        if place := next((each for each in places if each.name in NOISE or str(each) in environments), None):
            found[name] = str(place)
        elif path.suffix == ".pyc":
            found[name] = "*.pyc"
    return found


def name_noise(places: Iterable[str]) -> list[str]:
    """Return one place of each name, because a message does not need every __pycache__."""
    return sorted({PurePosixPath(place).name: place for place in sorted(places, reverse=True)}.values())


def shorten(names: list[str], most: int = 10) -> str:
    """Return the names for a message, the last ones as their number."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
