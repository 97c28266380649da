# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Keep static files with a hash in their name after their release is removed, because clients may still need them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path


def list_hashed_assets(static: Path) -> list[str]:
    """Return the names with a hash that Django's manifest lists; regular files only, with their compressed copies."""
    try:
        named = json.loads((static / "staticfiles.json").read_text())["paths"].values()
    except (OSError, ValueError, KeyError, AttributeError):
        return []
    names = [name for name in named if isinstance(name, str) and not name.startswith("/")]
    names = [f"{name}{kind}" for name in names if ".." not in Path(name).parts for kind in ("", ".gz", ".br")]
    return [name for name in names if (static / name).is_file()]


def keep_hashed_assets(static: Path, kept: Path) -> None:
    """Copy the assets of a release to the folder of the kept assets."""
    for name in list_hashed_assets(static):
        copy = kept / name
        if not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(static / name, copy.with_name(f".{copy.name}.new"))
            os.replace(copy.with_name(f".{copy.name}.new"), copy)


def prune_assets(statics: Iterable[Path], kept: Path) -> None:
    """Remove the kept assets that are in none of the releases."""
    named = {name for static in statics for name in list_hashed_assets(static)}
    for path in sorted(kept.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
        elif path.is_file() and str(path.relative_to(kept)) not in named:
            path.unlink()
