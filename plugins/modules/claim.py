#!/usr/bin/python
# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: claim
short_description: Record the names and folders of a site on a host, and refuse those in use
version_added: 1.0.0
description:
  - The controller compares the sites of one inventory. Only the host knows the sites of other inventories, and the
    files of users and packages.
  - Keeps one file for each site in C(/etc/django_vps/sites), and refuses values that the file of another site contains.
  - Values that this site has not claimed yet must be free on the host. The module refuses a folder of another user or
    with other files, an account with a login shell, a unit of the system, a database of another role, and a name that
    nginx serves already or that a wildcard of another site includes.
  - Changes nothing when it refuses a value.
options:
  site:
    description: Name of the site.
    type: str
    required: true
  claims:
    description:
      - Variables of the site, each with the list of its values.
    type: dict
    required: true
  database_owners:
    description: PostgreSQL roles of the site that can own its databases.
    type: list
    elements: str
    default: []
  compared:
    description: Sites of the same inventory, which the controller has compared already. Their files are not read.
    type: list
    elements: str
    default: []
notes:
  - Besides the files of other sites, the module checks the host itself for the folders C(site_home), C(site_media_root)
    and C(site_config_dir), and for C(site_domains), C(site_user), C(site_service) and C(site_database).
attributes:
  check_mode:
    support: full
    description: Refuses the same values, and writes nothing.
  diff_mode:
    support: full
    description: Shows the file of the site before and after.
author:
  - the django_vps.stack authors (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Claim the names and folders of the site
  django_vps.stack.claim:
    site: shop
    claims:
      site_domains: [shop.example.com]
      site_home: [/srv/shop]
      site_user: [shop]
"""

RETURN = r"""
former_services:
  description: Names of units of an earlier C(site_service) that start the live release in C(site_home).
  returned: success
  type: list
  elements: str
has_app:
  description: Whether the app server of this site or of another one runs on the host.
  returned: success
  type: bool
is_serving:
  description: Whether the site has a live release in C(site_home).
  returned: success
  type: bool
"""

import contextlib
import fcntl
import json
import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.django_vps.stack.plugins.module_utils.errors import refer
from ansible_collections.django_vps.stack.plugins.module_utils.file_system import write_file
from ansible_collections.django_vps.stack.plugins.module_utils.locks import open_lock_file
from ansible_collections.django_vps.stack.plugins.module_utils.mounts import is_shared

SITES = Path("/etc/django_vps/sites")
#: The lock that is held while claims are checked and written.
LOCK = "/run/django_vps-sites.lock"
#: Folders that nginx reads, each with the pattern of the names that it reads.
NGINX = {Path("/etc/nginx/conf.d"): "*.conf", Path("/etc/nginx/sites-enabled"): "*"}
UNITS = Path("/etc/systemd/system")
#: Units of packages and generators.
OTHER_UNITS = (Path("/usr/lib/systemd/system"), Path("/lib/systemd/system"), Path("/run/systemd/system"))

#: The service to which a unit of this collection belongs.
OF_SERVICE = re.compile(r"^Description=(?:The live release|Release %i|Socket of release %i) of (\S+)$", re.MULTILINE)

#: For each folder, the entries that only a site of this collection has, and those that can exist before the site.
OWN = {
    "site_home": ({"releases"}, {"media", "shared", "static"}),
    "site_config_dir": (
        {"secret_key", "env", "tls", "database_password", "gunicorn.conf.py", "closed"},
        {"pgpass", "pg_service.conf", "valkey_password"},
    ),
    "site_media_root": (set(), set()),
}
#: Variables whose values are compared with each other; those of all others only with the same variable.
FOLDERS = (*OWN, "backup_repository")
PORTS = ("valkey_port", "letsencrypt_share_port", "site_database_pooler_port")
USERS = ("site_user", "deployer_keys")
#: Sites can have the same administrators, but not the user of a site as one.
COMPARED = {name: names for names in (FOLDERS, PORTS, USERS) for name in names} | {"host_admins": USERS}
#: The user that owns what the stack creates before a site has a user.
ROOT = 0


class Claim:
    """The values that one site claims on this host."""

    def __init__(
        self, site: str, claims: dict[str, list[str]], database_owners: Iterable[str] = (), compared: Iterable[str] = ()
    ) -> None:
        self.site, self.database_owners, self.compared = site, list(database_owners), {site, *compared}
        self.claims = {name: [str(value) for value in values] for name, values in sorted(claims.items())}
        self.path = SITES / f"{site}.json"
        self.known = read(self.path)

    def problems(self) -> list[str]:
        of_sites = list(self.of_other_sites())
        # The second check would only report the files of another site again.
        return of_sites or list(self.of_the_host())

    def of_other_sites(self) -> Iterator[str]:
        for path in sorted(SITES.glob("*.json")):
            if path.stem in self.compared:
                continue
            theirs = read(path)
            for name, values in self.claims.items():
                for value in values:
                    is_new = value not in self.known.get(name, ())
                    others = may_meet(name, theirs)
                    if taken := next((other for other in others if overlap(name, value, other, is_new)), ""):
                        what = "belongs to" if taken == value else f"overlaps with {taken} of"
                        yield (
                            f"{name}: {value} {what} site {path.stem}. Fix: choose another value, or remove {path}"
                            f" on the host if {path.stem} no longer exists"
                        )

    def of_the_host(self) -> Iterator[str]:
        looks: dict[str, Callable[[str, str], str]] = {
            **dict.fromkeys(OWN, self.folder),
            "site_domains": self.domain,
            "site_user": self.user,
            "site_service": self.service,
            "site_database": self.database,
        }
        for name, look in looks.items():
            for value in self.claims.get(name, ()):
                if value not in self.known.get(name, ()) and (said := look(name, value)):
                    yield f"{name}: {value} {said}"

    def folder(self, name: str, value: str) -> str:
        path = Path(value)
        if not path.exists():
            return ""
        fix = "Fix: choose another folder, or move this one away and its files into the new one later"
        if not path.is_dir():
            return f"exists and is not a folder. {fix}"
        if name == "site_media_root" and self.is_own_media(path):
            return ""
        try:
            found = {entry.name for entry in path.iterdir()} - {"lost+found"}
        except OSError as error:
            return f"cannot be read ({error.strerror}). {fix}"
        if name == "site_home":
            # A user with this home directory has files such as .profile.
            found = {entry for entry in found if not entry.startswith(".")}
        marks, allowed = OWN[name]
        if found - allowed and not marks & found:
            few = ", ".join(sorted(found)[:3])
            return f"exists and contains other files ({few}). {fix}"
        owner = path.stat().st_uid
        if (account := account_of(owner)) and owner not in (ROOT, *self.uids()):
            return f"belongs to the user {account}. Fix: choose another folder, or run chown root: {value} on the host"
        return ""

    def is_own_media(self, path: Path) -> bool:
        """Return whether the folder is in the site's home, shared by app hosts, of its user, or a disk of another host.

        The users of another host usually have no account here.
        """
        in_home = any(path.is_relative_to(home) for home in self.claims.get("site_home", ()))
        owner = path.stat().st_uid
        return in_home or is_shared(str(path)) or owner in self.uids() or (path.is_mount() and not account_of(owner))

    def uids(self) -> list[int]:
        return [pwd.getpwnam(user).pw_uid for user in self.claims.get("site_user", ()) if exists(user)]

    def domain(self, _name: str, value: str) -> str:
        for path in sorted(path for folder, pattern in NGINX.items() for path in folder.glob(pattern)):
            if path.name.startswith(".") or (path.suffix == ".conf" and path.name.split(".")[0] in self.compared):
                continue
            text = re.sub(r"#.*", "", text_of(path))
            for names in re.findall(r"(?:^|[\s;{}])server_name\s+([^;]+);", text):
                if value in names.lower().split():
                    return f"is already served by nginx, in {path}. Fix: remove it there or here"
        return ""

    def user(self, _name: str, value: str) -> str:
        if not exists(value) or pwd.getpwnam(value).pw_shell.endswith(("/nologin", "/false")):
            return ""
        shell = f"usermod --shell /usr/sbin/nologin {value}"
        return f"is an account with a login shell. Fix: choose another name, or run {shell} on the host"

    def service(self, _name: str, value: str) -> str:
        fix = f"Fix: choose another name, such as {self.site}-gunicorn"
        for file in (f"{value}.service", f"{value}@.service", f"{value}@.socket"):
            for path in (folder / file for folder in OTHER_UNITS):
                if path.exists():
                    return f"is the name of {path}. {fix}"
            path = UNITS / file
            if path.exists() and OF_SERVICE.findall(text_of(path)) != [value]:
                return f"is the name of {path}. {fix}"
        return ""

    def database(self, _name: str, value: str) -> str:
        if not shutil.which("psql") or not exists("postgres"):
            return ""
        query = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = :'name'"
        argv = ["timeout", "20", "runuser", "-u", "postgres", "--"]
        argv += ["psql", "-XAtqw", f"--set=name={value}", "--dbname=postgres"]
        # The role postgres reports a server that does not run.
        asked = subprocess.run(argv, input=query, capture_output=True, text=True, check=False, cwd="/")
        owner = asked.stdout.strip()
        # A database of the user postgres was restored or created by hand; the role postgres gives it to the site.
        if owner in ("", "postgres", *self.database_owners):
            return ""
        alter = f'ALTER DATABASE "{value}" OWNER TO "{self.database_owners[0]}"'
        return f"is a database of role {owner}. Fix: choose another name, or run {alter}"

    def former_services(self) -> list[str]:
        """Return the units with another name that start the live release of this home."""
        (home,), (service,) = (self.claims.get(name) or [""] for name in ("site_home", "site_service"))
        if not home or not service:
            return []
        others = {path.stem: text_of(path) for path in sorted(UNITS.glob("*.service")) if path.stem != service}
        at_home = f"\nRequiresMountsFor={home}\n"
        return [name for name, text in others.items() if OF_SERVICE.findall(text) == [name] and at_home in text]


def text_of(path: Path) -> str:
    """Return the content of a file; empty for a broken link."""
    with contextlib.suppress(OSError):
        return path.read_text(errors="replace")
    return ""


def read(path: Path) -> dict[str, list[str]]:
    try:
        known = json.loads(text_of(path))
    except ValueError:
        return {}
    return known if isinstance(known, dict) else {}


def exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def account_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""


def may_meet(name: str, theirs: dict[str, list[str]]) -> list[str]:
    """Return the values of another site to compare with."""
    return [value for other in COMPARED.get(name, (name,)) for value in theirs.get(other, ())]


def overlap(name: str, value: str, other: str, is_new: bool) -> bool:
    if name in FOLDERS:
        return f"{value}/".startswith(f"{other}/") or f"{other}/".startswith(f"{value}/")
    # nginx prefers a name to a wildcard, and the longer of two wildcards: the other site would lose these visitors.
    if is_new and name == "site_domains" and other.startswith("*."):
        return value == other or value.removeprefix("*.").endswith(other[1:])
    return value == other


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "site": {"type": "str", "required": True},
            "claims": {"type": "dict", "required": True},
            "database_owners": {"type": "list", "elements": "str", "default": []},
            "compared": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    with os.fdopen(open_lock_file(LOCK)) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        settle(module, Claim(*(module.params[name] for name in ("site", "claims", "database_owners", "compared"))))


def settle(module: AnsibleModule, claim: Claim) -> None:
    """Write the claims unless one of them is refused, and exit the module."""
    if problems := claim.problems():
        module.fail_json(
            msg="\n".join(
                [
                    "Names or folders of the site are in use on this host:",
                    *(f"- {problem}" for problem in problems),
                    refer("names-in-use"),
                ]
            )
        )
    before, after = (json.dumps(facts, indent=2) + "\n" for facts in (claim.known, claim.claims))
    changed = claim.known != claim.claims
    if changed and not module.check_mode:
        SITES.mkdir(parents=True, exist_ok=True)
        write_file(claim.path, after, 0o600)
    diff = {"before": before if claim.known else "", "after": after, "before_header": str(claim.path)}
    module.exit_json(
        changed=changed,
        former_services=claim.former_services(),
        has_app=any("site_home" in claims for claims in (claim.claims, *(read(path) for path in SITES.glob("*.json")))),
        is_serving=any((Path(home) / "current").exists() for home in claim.claims.get("site_home", ())),
        diff=diff if changed else {},
    )


if __name__ == "__main__":
    main()
