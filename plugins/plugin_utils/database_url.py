# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Read the URL of a database that the stack does not manage."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from ansible_collections.django_vps.stack.plugins.plugin_utils.inventory import Refusal

#: Certificates of Debian's package ca-certificates; the value "system" is new in libpq 16.
SYSTEM_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
#: Parameters of a connection that the service file sets, or that have a place of their own in the URL.
OWN_PARAMETERS = ("host", "port", "dbname", "user", "password", "passfile", "service")
#: Seconds that a server may take to answer; one that sleeps without clients takes longer than one that runs.
CONNECT_TIMEOUT = "10"
#: Networks of this host, of private networks (RFC 1918, RFC 4193).
PRIVATE = [
    ipaddress.ip_network(network)
    for network in ("127.0.0.0/8", "::1", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
]
#: Modes of TLS that compare the certificate of the server with a CA.
VERIFYING = ("verify-full", "verify-ca")


class Service(NamedTuple):
    """A database for libpq: the parameters of its connections, and its line of the password file."""

    parameters: dict[str, str]
    password_line: str


def read_database_url(url: str, passfile: str, certificates: str = "") -> Service:
    """Return the service of a URL that database_url accepts; the other two are files on the host."""
    parts = urlsplit(url)
    connection = {
        "host": parts.hostname or "",
        "port": str(parts.port or 5432),
        "dbname": unquote(parts.path[1:]),
        "user": unquote(parts.username or ""),
    }
    given = query_of(parts)
    verified = {"sslmode": "verify-full", "sslrootcert": certificates or SYSTEM_CERTIFICATES}
    fields = (connection["host"], connection["port"], connection["user"], unquote(parts.password or ""))
    host, port, user, password = (re.sub(r"([:\\])", r"\\\1", field) for field in fields)
    # A role has one password for all databases of its server; a restore can use another one beside that of the site.
    line = f"{host}:{port}:*:{user}:{password}"
    if given.get("sslmode") != "disable":
        connection |= verified
    return Service(connection | {"passfile": passfile, "connect_timeout": CONNECT_TIMEOUT} | given, line)


def query_of(parts: SplitResult) -> dict[str, str]:
    return dict(parse_qsl(parts.query, keep_blank_values=True))


def database_url(value: str) -> Refusal | None:
    """Check a URL such as postgres://shop:PASSWORD@db.example.com:5432/shop."""
    example = "write one such as postgres://shop:PASSWORD@db.example.com:5432/shop"
    if re.search(r"\s", value):
        return "has a space", example
    try:
        parts = urlsplit(value)
        _port = parts.port
    except ValueError:
        return "expected the URL of a database", f"{example}; in the password / ? # [ ] @ : and % are written as %2F …"
    if parts.scheme not in ("postgres", "postgresql") or not parts.hostname or parts.fragment:
        return "expected the URL of a PostgreSQL server", example
    return missing_part(parts, example) or wrong_parameter(parts)


def missing_part(parts: SplitResult, example: str) -> Refusal | None:
    for what, found in (("user", parts.username), ("password", parts.password), ("database", parts.path[1:])):
        if not found:
            return f"has no {what}", example
    if "/" in parts.path[1:] or "@" in unquote(parts.hostname or ""):
        return (
            "expected one database after the server",
            f"{example}; in the password / and @ are written as %2F and %40",
        )
    return None


def wrong_parameter(parts: SplitResult) -> Refusal | None:
    given = query_of(parts)
    for name in given:
        if name in OWN_PARAMETERS or not re.fullmatch(r"[a-z_]+", name):
            return (
                f"has the parameter {name}",
                "remove it; after ? only parameters of libpq such as connect_timeout fit",
            )
    mode = given.get("sslmode", VERIFYING[0])
    if mode in VERIFYING or (mode == "disable" and is_private(parts.hostname or "")):
        return None
    return (
        f"has sslmode={mode}, with which anyone between the hosts can read the password",
        "remove it; verify-full is the default, and site_database_ca has the certificate of a CA of the provider",
    )


def is_private(host: str) -> bool:
    """Return whether the host is an address of a private network or this host, where TLS is not needed."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        # A name such as 10.example.com can lead anywhere.
        return host == "localhost"
    return any(address in network for network in PRIVATE)
