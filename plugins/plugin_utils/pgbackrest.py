# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Return where pgBackRest keeps base backups and WAL: beside the repository of restic."""

from __future__ import annotations

import re
from collections.abc import Mapping

S3 = re.compile(r"s3:(https://)?(?P<host>[^/:\s]+)(:(?P<port>\d+))?/(?P<bucket>[^/\s]+)(?P<path>/\S*)?")
SFTP = re.compile(
    r"sftp:((?P<user>[^@:/\s]+)@)?(?P<host>[^@:/\s]+):(?P<path>/\S*)"
    r"|sftp://((?P<user2>[^@:/\s]+)@)?(?P<host2>[^@:/\s]+)(:(?P<port2>\d+))?/(?P<path2>/\S*)"
)
AMAZON = re.compile(r"s3[.-]([a-z0-9-]+)\.amazonaws\.com")


def refuse_repository(repository: str) -> tuple[str, str] | None:
    """Return why pgBackRest cannot use the place of a repository, and the fix."""
    if repository.startswith("/") or S3.fullmatch(repository) or SFTP.fullmatch(repository):
        return None
    if repository.startswith("s3:"):
        return "is S3 without TLS, which pgBackRest refuses", "write s3:https://HOST/BUCKET/PATH"
    if repository.startswith("sftp:"):
        return "is a relative path, which pgBackRest refuses", "write sftp:USER@HOST:/PATH"
    what = "is a storage that pgBackRest does not have"
    return what, "use a folder, s3:https://HOST/BUCKET/PATH or sftp:USER@HOST:/PATH, or remove backup_point_in_time"


def pgbackrest_options(repository: str, environment: Mapping[str, str], key_file: str) -> dict[str, str]:
    """Return the options of pgBackRest for the place of a repository, without their prefix C(repo1-)."""
    if found := S3.fullmatch(repository):
        region = AMAZON.fullmatch(found["host"])
        options = {
            "type": "s3",
            "path": beside(found["path"] or ""),
            "s3-endpoint": found["host"],
            "s3-bucket": found["bucket"],
            "s3-uri-style": "host" if found["host"].endswith(".amazonaws.com") else "path",
            "s3-region": environment.get("AWS_DEFAULT_REGION") or (region[1] if region else "us-east-1"),
            "s3-key": environment["AWS_ACCESS_KEY_ID"],
            "s3-key-secret": environment["AWS_SECRET_ACCESS_KEY"],
            "s3-token": environment.get("AWS_SESSION_TOKEN", ""),
            "storage-port": found["port"] or "",
            "storage-ca-file": environment.get("RESTIC_CACERT") or environment.get("SSL_CERT_FILE", ""),
        }
    elif found := SFTP.fullmatch(repository):
        options = {
            "type": "sftp",
            "path": beside(found["path"] or found["path2"]),
            "sftp-host": found["host"] or found["host2"],
            "sftp-host-user": found["user"] or found["user2"] or "root",
            "sftp-host-port": found["port2"] or "",
            "sftp-private-key-file": key_file,
            # The key of the server is learnt as restic learns it: at the first connection.
            "sftp-host-key-check-type": "accept-new",
            "sftp-host-key-hash-type": "sha256",
        }
    else:
        options = {"type": "posix", "path": beside(repository)}
    return {name: value for name, value in options.items() if value}


def beside(path: str) -> str:
    path = path.rstrip("/")
    return f"{path}-pgbackrest" if path else "/pgbackrest"
