"""Print the state of a host in lines that are equal on two identical hosts; Python runs this as root on the host.

Differences that are no other state get a common name: the id of the release, the secret key, keys and certificates,
the host's name, the day of a password, the header of a managed file.
"""

import gzip
import hashlib
import os
import re
import stat
import subprocess
import sys
from grp import getgrgid
from pathlib import Path
from pwd import getpwuid

site = sys.argv[1]
home = Path("/srv", site)
# The conf files in the data folder are the server's; pg_dumpall reads the data.
TREES = ["/etc", str(home), "/usr/local", "/var/www", f"/var/cache/{site}", "/var/lib/postgresql"]
SKIPPED = re.compile(
    # Files of the container and its first boot.
    r"/etc/(machine-id|hostname|hosts|resolv\.conf|ssh/ssh_host_.*|ld\.so\.cache|\.pwd\.lock|.*\.updated)"
    # Backups by useradd of the file before its last change.
    r"|/etc/(passwd|group|shadow|gshadow|subuid|subgid)-"
    # Records of the stack, which a deployment by hand does not have.
    rf"|{home}/(journal|\.lock|releases/[^/]+/release\.json)|/etc/django_vps"
    # Temporary files of Ansible when it becomes that user.
    r"|/var/lib/postgresql/\.ansible(/.*)?"
    # Caches.
    rf"|/var/cache/{site}/uv/.*"
    # The database's data.
    r"|/var/lib/postgresql/\d+/main/(?!.*\.conf$).*"
)
HEADER = b"#\n# Ansible managed\n#\n"
release = Path(os.readlink(home / "current")).name
key = Path("/etc", site, "secret_key").read_text().strip()
host = os.uname().nodename


def run(*argv: str, **options) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True, **options).stdout


def plain(text: str) -> str:
    return text.replace(release, "RELEASE").replace(key, "KEY")


def content(path: Path) -> str:
    data = path.read_bytes()
    if b"PRIVATE KEY-----" in data:
        return "a private key"
    if data.startswith(b"-----BEGIN CERTIFICATE") and len(data) < 4096:
        wanted = ("-noout", "-subject", "-ext", "subjectAltName,basicConstraints")
        return " ".join(run("openssl", "x509", "-in", str(path), *wanted).replace(host, "HOST").split())
    if path.name == "shadow":
        data = re.sub(rb"(?m)^([^:]*:[^:]*):\d*:", rb"\1::", data)
    if path.suffix == ".pyc":
        # The header has the time of the source; packages that releases share have the path of the first release.
        data = re.sub(rb"/releases/\d{8}T\d{6}Z/", b"/releases/RELEASE/", data[16:])
    if path.suffix == ".gz":
        # Python and gzip compress the same content to different bytes.
        data = gzip.decompress(data)
    if path.name == "RECORD":
        # It has digests of the programs of a venv, which contain the path of its folder.
        data = re.sub(rb"(?m)^(\.\./.*/bin/[^,]*),.*$", rb"\1", data)
    for before, after in ((HEADER, b""), (release.encode(), b"RELEASE"), (key.encode(), b"KEY")):
        data = data.replace(before, after)
    return hashlib.sha256(data).hexdigest()


def describe(path: Path) -> str:
    status = path.lstat()
    owner = f"{getpwuid(status.st_uid).pw_name}:{getgrgid(status.st_gid).gr_name}"
    mode = stat.filemode(status.st_mode)
    name = str(path)
    if path.is_symlink():
        target = os.readlink(path)
        if target.endswith("ssl-cert-snakeoil.pem"):
            # The name of this link is a digest of the host's name.
            name = str(path.with_name("HASH"))
        what = f"-> {target}"
    else:
        what = content(path) if path.is_file() else ""
    return plain(f"file {name} {mode} {owner} {what}".rstrip())


def files():
    for tree in TREES:
        for base, folders, names in os.walk(tree):
            yield describe(Path(base))
            folders[:] = [name for name in folders if not SKIPPED.fullmatch(f"{base}/{name}")]
            links = [name for name in folders if Path(base, name).is_symlink()]
            for name in names + links:
                if not SKIPPED.fullmatch(f"{base}/{name}"):
                    yield describe(Path(base, name))


def packages():
    form = "${Package}:${Architecture} ${Version} ${db:Status-Status}\n"
    for line in run("dpkg-query", "-W", "-f", form).splitlines():
        yield f"package {line}"


def units():
    for line in run("systemctl", "list-unit-files", "--state=enabled,enabled-runtime", "--no-legend").splitlines():
        yield f"enabled {line.split()[0]}"
    for kind in ("service", "socket", "timer"):
        listed = run("systemctl", "list-units", f"--type={kind}", "--no-legend", "--plain", "--all")
        for unit, _, active, state in (line.split()[:4] for line in listed.splitlines()):
            # Units that run only for a moment, such as a login or a timer of apt, or only at the first boot.
            passing = ("user", "session", "apt-", "run-", "systemd-", "ldconfig.")
            if active in ("active", "failed") and not unit.startswith(passing):
                yield plain(f"unit {unit} {active} {state if kind == 'service' else ''}".rstrip())


def sockets():
    for line in run("ss", "-lntuxH").splitlines():
        kind, _, _, _, local, *_ = line.split()
        if not local.startswith(("/run/user/", "/run/systemd/")):
            yield plain(f"socket {kind} {local}")


def database():
    """Yield roles, databases, rights and tables, and the applied migrations."""
    dump = run("runuser", "-u", "postgres", "--", "pg_dumpall", "--schema-only", cwd="/")
    for number, line in enumerate(filter(None, dump.splitlines())):
        if not line.startswith(("--", "\\", "SET ", "SELECT ")):
            yield f"database {number:05} {line}"
    query = "SELECT app, name FROM django_migrations ORDER BY 1, 2"
    for line in run("runuser", "-u", "postgres", "--", "psql", "-Atc", query, site, cwd="/").splitlines():
        yield f"migrated {line}"


print("\n".join(sorted({*packages(), *files(), *units(), *sockets(), *database()})))
