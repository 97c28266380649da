#!/usr/bin/python
# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: claim
short_description: Note what of a host belongs to a site, and refuse what belongs to somebody else
version_added: 1.0.0
description:
  - Sites of one inventory are compared on the controller. Those of another inventory, and what people and packages have
    set up by hand, only the host knows.
  - Keeps a file for each site below C(/etc/django_vps/sites), and refuses values that the file of another site has.
  - What a site has not claimed yet must not be there as somebody else's, such as a folder with other files in it, the
    account of a person, a unit of the system, the database of another role, or a server of nginx for the same name.
  - Changes nothing where anything is refused.
options:
  site:
    description: Name of the site.
    type: str
    required: true
  claims:
    description:
      - What belongs to the site, as lists of values by the variable that says them.
    type: dict
    required: true
  database_owner:
    description: Role of PostgreSQL that owns the databases.
    type: str
    default: ""
notes:
  - Looked for on the host are C(django_home), C(django_media_root) and C(django_config_dir), folders; C(site_domains);
    C(django_user); C(gunicorn_service), template units and the unit of that name; and C(postgres_database). Of others,
    such as ports, only the files of other sites count.
attributes:
  check_mode:
    support: full
    description: Refuses the same, and writes nothing.
  diff_mode:
    support: full
    description: Shows the file of the site before and after.
author:
  - the django_vps.stack authors (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Refuse what belongs to another site
  django_vps.stack.claim:
    site: shop
    claims:
      site_domains: [shop.example.com]
      django_home: [/srv/shop]
      django_user: [shop]
"""

RETURN = r"""
former_services:
  description: Names of the units by which a site with this C(django_home) was started before.
  returned: success
  type: list
  elements: str
"""

import contextlib
import json
import pwd
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.django_vps.stack.plugins.module_utils.mounts import is_shared
from ansible_collections.django_vps.stack.plugins.module_utils.site import write_file

SITES = Path("/etc/django_vps/sites")
NGINX = (Path("/etc/nginx/conf.d"), Path("/etc/nginx/sites-enabled"))
UNITS = Path("/etc/systemd/system")
#: Where packages and generators have theirs.
OTHER_UNITS = (Path("/usr/lib/systemd/system"), Path("/lib/systemd/system"), Path("/run/systemd/system"))

#: Of each folder what is in it once it is the site's, and what an owner may have put there before.
OWN = {
    "django_home": ({"releases"}, {"media", "shared", "static"}),
    "django_config_dir": (
        {"secret_key", "env", "tls", "database_password", "gunicorn.conf.py", "closed"},
        {"pgpass", "pg_service.conf", "valkey_password"},
    ),
    "django_media_root": (set(), set()),
}


class Claim:
    """What one site claims on this host."""

    def __init__(self, site: str, claims: dict[str, list[str]], database_owner: str) -> None:
        self.site, self.database_owner = site, database_owner
        self.claims = {name: [str(value) for value in values] for name, values in sorted(claims.items())}
        self.path = SITES / f"{site}.json"
        self.known = read(self.path)

    def problems(self) -> list[str]:
        of_sites = list(self.of_other_sites())
        # One that is another site's is so for a better reason than what is there of it.
        return of_sites or list(self.of_the_host())

    def of_other_sites(self) -> Iterator[str]:
        for path in sorted(SITES.glob("*.json")):
            if path == self.path:
                continue
            theirs = read(path)
            for name, values in self.claims.items():
                for value in values:
                    if taken := next((other for other in may_meet(name, theirs) if overlap(name, value, other)), ""):
                        what = "belongs" if taken == value else f"overlaps with {taken}, which belongs"
                        yield (
                            f"{name}: {value} {what} to the site {path.stem} of this host. Fix: write another;"
                            f" or, where {path.stem} is gone for good, remove {path} on the host"
                        )

    def of_the_host(self) -> Iterator[str]:
        looks: dict[str, Callable[[str, str], str]] = {
            **dict.fromkeys(OWN, self.folder),
            "site_domains": self.domain,
            "django_user": self.user,
            "gunicorn_service": self.service,
            "postgres_database": self.database,
        }
        for name, look in looks.items():
            for value in self.claims.get(name, ()):
                if value not in self.known.get(name, ()) and (said := look(name, value)):
                    yield f"{name}: {value} {said}"

    def folder(self, name: str, value: str) -> str:
        path = Path(value)
        if not path.exists():
            return ""
        fix = "Fix: write another folder, or move it away and what is to stay of it into the new one"
        if not path.is_dir():
            return f"is there, and is no folder. {fix}"
        found = {entry.name for entry in path.iterdir()} - {"lost+found"}
        if name == "django_home":
            # Such as .profile of a user whose home it is.
            found = {entry for entry in found if not entry.startswith(".")}
        marks, allowed = OWN[name]
        if not found or marks & found or not found - allowed:
            return ""
        if name == "django_media_root":
            # A file system of its own was mounted for it; of one that hosts share the first may have filled it.
            own = (pwd.getpwnam(user).pw_uid for user in self.claims.get("django_user", ()) if exists(user))
            if path.is_mount() or is_shared(value) or path.stat().st_uid in own:
                return ""
        few = ", ".join(sorted(found)[:3])
        return f"is there, and holds what is not the site's ({few}). {fix}"

    def domain(self, _name: str, value: str) -> str:
        for path in sorted(path for folder in NGINX for path in folder.glob("*")):
            if path.parent.name == "conf.d" and path.name.split(".")[0] == self.site:
                continue
            # It may be a link to nothing.
            with contextlib.suppress(OSError):
                text = re.sub(r"#.*", "", path.read_text(errors="replace"))
                for names in re.findall(r"(?:^|[\s;{}])server_name\s+([^;]+);", text):
                    if value in names.lower().split():
                        return f"is a server of nginx in {path}. Fix: take it out there, or leave it out here"
        return ""

    def user(self, _name: str, value: str) -> str:
        if not exists(value) or pwd.getpwnam(value).pw_shell.endswith(("/nologin", "/false")):
            return ""
        return f"is a user that can log in. Fix: write another, or end that: usermod --shell /usr/sbin/nologin {value}"

    def service(self, _name: str, value: str) -> str:
        for file in (f"{value}.service", f"{value}@.service", f"{value}@.socket"):
            for path in (folder / file for folder in OTHER_UNITS):
                if path.exists():
                    return f"is the name of {path}. Fix: write another, such as {self.site}-gunicorn"
        path = UNITS / f"{value}.service"
        if path.exists() and started_by(path) != value:
            return f"is the name of {path}, which is not the stack's. Fix: write another, such as {self.site}-gunicorn"
        return ""

    def database(self, _name: str, value: str) -> str:
        if not shutil.which("psql") or not exists("postgres"):
            return ""
        query = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = :'name'"
        argv = ["runuser", "-u", "postgres", "--", "psql", "-XAtq", f"--set=name={value}", "--dbname=postgres"]
        # A server that does not run has a role of its own that says so.
        asked = subprocess.run(argv, input=query, capture_output=True, text=True, check=False, cwd="/")
        owner = asked.stdout.strip()
        if not owner or owner == self.database_owner:
            return ""
        return f"is a database of {owner}. Fix: write another, or give it to {self.database_owner}: ALTER DATABASE"

    def former_services(self) -> list[str]:
        """What starts the same folder under another name."""
        (home,), (service,) = (self.claims.get(name) or [""] for name in ("django_home", "gunicorn_service"))
        if not home or not service:
            return []
        found = (path for path in sorted(UNITS.glob("*.service")) if started_by(path) == path.stem != service)
        return [path.stem for path in found if f"RequiresMountsFor={home}" in path.read_text().splitlines()]


def read(path: Path) -> dict[str, list[str]]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def may_meet(name: str, theirs: dict[str, list[str]]) -> list[str]:
    """What of another site may meet a value of this variable: of folders all, of others those of the same."""
    return [value for other in (OWN if name in OWN else (name,)) for value in theirs.get(other, ())]


def overlap(name: str, value: str, other: str) -> bool:
    if name not in OWN:
        return value == other
    return f"{value}/".startswith(f"{other}/") or f"{other}/".startswith(f"{value}/")


def started_by(path: Path) -> str:
    """The service of which a unit of the stack starts the live release; nothing for other units."""
    with contextlib.suppress(OSError):
        found = re.search(r"^Description=The live release of (\S+)$", path.read_text(errors="replace"), re.MULTILINE)
        return found[1] if found else ""
    return ""


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "site": {"type": "str", "required": True},
            "claims": {"type": "dict", "required": True},
            "database_owner": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    claim = Claim(module.params["site"], module.params["claims"], module.params["database_owner"])
    if problems := claim.problems():
        module.fail_json(msg="\n".join(["This belongs to somebody else:", *(f"- {problem}" for problem in problems)]))
    before, after = (json.dumps(facts, indent=2) + "\n" for facts in (claim.known, claim.claims))
    changed = claim.known != claim.claims
    if changed and not module.check_mode:
        SITES.mkdir(parents=True, exist_ok=True)
        write_file(claim.path, after, 0o600)
    diff = {"before": before if claim.known else "", "after": after, "before_header": str(claim.path)}
    module.exit_json(changed=changed, former_services=claim.former_services(), diff=diff if changed else {})


if __name__ == "__main__":
    main()
