# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Bad input is refused by name, with what to write instead, before any host is spoken to."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.parsing.vault import VaultLib, VaultSecret
from ansible.template import Templar, trust_as_template
from ansible_collections.django_vps.stack.plugins.action.check_inventory import CROSS_CHECKS
from ansible_collections.django_vps.stack.plugins.plugin_utils import role_specs
from ansible_collections.django_vps.stack.plugins.plugin_utils.checks import MANAGED_TYPES, TYPES
from ansible_collections.django_vps.stack.plugins.plugin_utils.engine import OF_PLAYBOOKS, problems
from ansible_collections.django_vps.stack.plugins.plugin_utils.inventory import Case
from ansible_collections.django_vps.stack.plugins.plugin_utils.role_specs import (
    names_of,
    read_checks,
    read_specs,
    read_wiring,
    roles,
)
from ansible_collections.django_vps.stack.plugins.plugin_utils.site_checks import UNITS
from ansible_collections.django_vps.stack.plugins.plugin_utils.variables import settle
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

ROOT = Path(__file__).parent.parent.parent
LOADER = DataLoader()
KEY = "k3y-0123456789-abcdefghijklmnopqrstuvwxyz-ABCDEFGHIJ"
GOOD = {
    "site_name": "shop",
    "site_domains": ["shop.example.com", "www.shop.example.com"],
    "django_source": "https://github.com/me/shop.git",
    "django_version": "main",
    "letsencrypt_email": "me@example.com",
}
SERVICE = {"name": "worker", "command": "celery -A shop worker"}
TIMER = {"name": "cleanup", "command": "python manage.py clearsessions", "on_calendar": "daily"}
GROUPS = {"web": ["vps1"], "app": ["vps1"], "database": ["vps1"]}


def generated_key(passphrase: bytes = b"") -> str:
    """An SSH key as ssh-keygen writes it, or with a passphrase as openssl does."""
    encryption, form = serialization.NoEncryption(), serialization.PrivateFormat.OpenSSH
    if passphrase:
        encryption, form = serialization.BestAvailableEncryption(passphrase), serialization.PrivateFormat.PKCS8
    key = ed25519.Ed25519PrivateKey.generate()
    return key.private_bytes(serialization.Encoding.PEM, form, encryption).decode()


SPECS = read_specs()
BOUND = read_wiring(SPECS)


def trusted(value):
    """The value as an inventory gives it: its texts are templates."""
    if isinstance(value, dict):
        return {key: trusted(item) for key, item in value.items()}
    if isinstance(value, list):
        return [trusted(item) for item in value]
    return trust_as_template(value) if isinstance(value, str) else value


def refused(changes=None, without=(), groups=GROUPS, **options):
    given = {**GOOD, **trusted(changes or {})}
    given = {name: value for name, value in given.items() if name not in without}
    values, failed = settle(Templar(loader=LOADER), given, SPECS)
    everybody = ["vps1", *(host for hosts in groups.values() for host in hosts)]
    case = Case(
        host="vps1",
        specs=SPECS,
        given=given,
        values=values,
        failed=failed,
        groups={"all": everybody, **groups},
        bound=BOUND,
        login="deploy",
        **{"run": everybody, **options},
    )
    return problems(case, CROSS_CHECKS)


PUBLIC = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl ada@laptop"


# The number in front is the one in the table of inputs that have to be refused.
BAD = [
    ("54 period", "backup_keep", {"day": 7}, "expected one of daily"),
    ("54 number of sets", "backup_keep", {"daily": -1}, "from 0 to 1000"),
    ("54 text for a number", "backup_keep", {"daily": "7"}, "from 0 to 1000"),
    ("55 hour", "backup_schedule", "25:99", "such as 03:30"),
    ("55 am", "backup_schedule", "3am", "systemd's notation"),
    ("55 drill", "backup_drill_schedule", "sundays", "systemd's notation"),
    ("56 relative", "backup_repository", "backups/shop", "expected a folder on the host or an address of restic"),
    ("56 sftp without a path", "backup_repository", "sftp:me@example.com", "expected a folder on the host"),
    ("56 s3 without a bucket", "backup_repository", "s3:https://s3.example.com", "has no bucket"),
    ("56 s3 without credentials", "backup_repository", "s3:https://s3.example.com/b/shop", "AWS_ACCESS_KEY_ID"),
    ("56 of the system", "backup_repository", "/var/backups", "belongs to the system"),
    ("56 inside the uploads", "backup_repository", "/srv/shop/media/sets", "is inside site_media_root"),
    ("56 inside the site", "backup_repository", "/srv/shop/sets", "is inside site_home"),
    ("56 name of a variable", "backup_environment", {"AWS KEY": "x"}, "expected the name of a setting"),
    ("02 no domain", "site_domains", [""], "site_domains"),
    ("02 no domains", "site_domains", [], "write [shop.example.com"),
    ("03 null", "site_domains", None, "expected a list"),
    ("03 null in it", "site_domains", [None], "write one string"),
    ("04 number", "site_domains", [42], "quote it"),
    ("04 number for a text", "site_name", 42, "quote it"),
    ("05 list in the list", "site_domains", [["a.com"]], "write one string"),
    ("05 list for a text", "site_name", ["shop"], "write one string"),
    ("06 dict in the list", "site_domains", [{"a": "b.com"}], "write one string"),
    ("06 dict for a list", "site_domains", {"a": "b.com"}, "write a list"),
    ("07 scheme", "site_domains", ["https://a.com"], "write a.com"),
    ("08 path", "site_domains", ["a.com/shop"], "write a.com"),
    ("09 space", "site_domains", ["a.com b.com"], "expected a domain name"),
    ("10 injection", "site_domains", ["a.com; include /etc/passwd"], "write a.com"),
    ("11 line break", "site_domains", ["a.com\nroot /;"], "write one line"),
    ("11 line break at the end", "site_domains", ["a.com\n"], "write one line"),
    ("12 long", "site_domains", [".".join(["a" * 60] * 5)], "253 characters"),
    ("12 long label", "site_domains", ["a" * 64 + ".com"], "63 characters"),
    ("12 more names than a certificate takes", "site_domains", [f"a{n}.com" for n in range(101)], "has 101 names"),
    ("13 IP address", "site_domains", ["192.0.2.1"], "write a domain name"),
    ("13 IPv6 address", "site_domains", ["2001:db8::1"], "write a domain name"),
    ("13 wildcard", "site_domains", ["*.example.com"], "got a wildcard"),
    ("13 wildcard over HTTP", "site_domains", ["example.com", "*.example.com"], "set letsencrypt_dns_plugin or"),
    ("13 half a wildcard", "site_domains", ["example.com", "a*.example.com"], "expected a domain name"),
    (
        "13 wildcard of its own",
        "letsencrypt_domains",
        ["*.example.com"],
        "letsencrypt_domains: has a wildcard, which needs",
    ),
    ("14 upper case", "site_domains", ["Shop.Example.com"], "write shop.example.com"),
    ("14 IDN", "site_domains", ["bücher.example"], "write xn--bcher-kva.example"),
    ("15 names in one text", "site_domains", "a.com, b.com", "write a list: [a.com, b.com]"),
    ("16 twice", "site_domains", ["a.com", "a.com"], "write each entry once"),
    ("16 no dot", "site_domains", ["localhost"], "expected a domain name"),
    ("16 dot at the end", "site_domains", ["a.com."], "write a.com"),
    ("16 dash at an end", "site_domains", ["-a.com"], "expected a domain name"),
    ("16 served, and none of the site's", "site_names_served", ["api.example.com"], "is not in site_domains"),
    ("18 port", "site_domains", ["a.com:8000"], "write a.com"),
    ("21 workers below", "gunicorn_workers", -1, "from 0 to 64"),
    ("21 workers above", "gunicorn_workers", 500, "from 0 to 64"),
    ("21 workers as a text", "gunicorn_workers", "4", "without quotes"),
    ("21 workers true", "gunicorn_workers", True, "write an integer without quotes (after -e: as JSON)"),
    ("21 threads", "gunicorn_threads", 0, "from 1 to 64"),
    ("22 connections", "gunicorn_workers", 40, "max_connections: 173"),
    ("23 boolean maybe", "letsencrypt_enabled", "maybe", "write true or false"),
    ("23 boolean 2", "letsencrypt_enabled", 2, "write true or false"),
    ("24 boolean as a text", "letsencrypt_enabled", "yes", "write true or false"),
    ("24 boolean as a text", "django_force_release", "yes", "write true or false"),
    ("24 boolean as a text", "django_allow_breaking_migrations", "true ", "write true or false"),
    ("25 debug", "django_env", {"DEBUG": "True"}, 'remove it, or write "False"'),
    (
        "26 SQL",
        "site_database",
        'app"; DROP DATABASE x',
        "use a lower-case letter, then up to 62 lower-case letters, digits, _ and -",
    ),
    (
        "27 quote",
        "site_database",
        "o'brien",
        "use a lower-case letter, then up to 62 lower-case letters, digits, _ and -",
    ),
    (
        "27 upper case",
        "site_database",
        "My-App",
        "use a lower-case letter, then up to 62 lower-case letters, digits, _ and -",
    ),
    (
        "27 long",
        "site_database",
        "a" * 70,
        "use a lower-case letter, then up to 62 lower-case letters, digits, _ and -",
    ),
    ("27 line break", "site_database", "shop\n", "write one line"),
    ("28 of PostgreSQL", "site_database", "template1", "use another name, such as shop"),
    ("28 of PostgreSQL", "site_name", "postgres", "use another name, such as shop"),
    ("29 superuser", "site_database_user", "postgres", "use another name, such as shop"),
    ("29 pg_", "site_database_user", "pg_monitor", "use another name, such as shop"),
    ("29 another than the user", "site_database_user", "other", "set both to the same"),
    ("32 key of nothing", "django_secret_key", None, "write one string"),
    (
        "32 short key",
        "django_secret_key",
        "changeme",
        "remove it, and the host generates one; or write 50 random characters",
    ),
    (
        "32 dull key",
        "django_secret_key",
        "ab" * 30,
        "remove it, and the host generates one; or write 50 random characters",
    ),
    (
        "32 insecure key",
        "django_secret_key",
        "django-insecure-" + KEY,
        "remove it, and the host generates one; or write 50 random characters",
    ),
    ("33 undefined", "django_secret_key", "{{ vault_key }}", "set vault_key"),
    ("33 undefined inside", "django_env", {"A": "{{ vault_key }}"}, "set vault_key"),
    ("34 encrypted", "django_secret_key", "$ANSIBLE_VAULT;1.1;AES256\n3363", "write !vault |"),
    ("35 relative", "site_home", "srv/site", "starts with /"),
    ("35 home", "site_home", "~/site", "starts with /"),
    ("36 top", "site_home", "/", "use a folder of its own for the site, such as /srv/shop"),
    ("36 /etc", "site_config_dir", "/etc", "use a folder of its own for the site, such as /srv/shop"),
    ("36 below /etc", "site_config_dir", "/etc/ssl", "use a folder of its own for the site, such as /srv/shop"),
    ("36 dots", "site_home", "/srv/../etc", "write /etc"),
    ("36 slash at the end", "site_home", "/srv/shop/", "write /srv/shop"),
    ("36 /home", "site_home", "/home", "use a folder of its own for the site, such as /srv/shop"),
    ("36 /root", "site_media_root", "/root/media", "use a folder of its own for the site, such as /srv/shop"),
    ("36 /run", "site_home", "/run/shop", "use a folder of its own for the site, such as /srv/shop"),
    ("36 webroot", "site_acme_webroot", "/var/www", "use a folder of its own for the site, such as /srv/shop"),
    (
        "36 link in /etc",
        "site_certificate",
        "/etc/ssl/fullchain.pem",
        "use a folder of its own for the site, such as /srv/shop",
    ),
    ("37 space", "site_home", "/srv/my site", "use only letters, digits and _ . / -"),
    ("37 quote", "site_home", "/srv/o'brien", "use only letters, digits and _ . / -"),
    ("37 percent", "site_home", "/srv/%n", "use only letters, digits and _ . / -"),
    ("38 case of a choice", "django_installer", "UV", "use one of these"),
    ("38 case of a choice", "django_check_level", "warning", "use one of these"),
    ("40 list", "django_env", ["A=1"], "write pairs"),
    ("41 bad name", "django_env", {"BAD KEY=": "x"}, "use letters, digits and _, as in EMAIL_HOST"),
    ("41 digit in front", "django_env", {"1A": "x"}, "use letters, digits and _, as in EMAIL_HOST"),
    ("41 line break", "django_env", {"A\nB": "x"}, "write one line"),
    ("41 loader", "django_env", {"LD_PRELOAD": "x"}, "remove it"),
    ("41 loader", "django_env", {"LD_LIBRARY_PATH": "x"}, "remove it"),
    ("41 loader", "django_env", {"LISTEN_FDS": "3"}, "remove it"),
    ("41 Python", "django_env", {"PYTHONPATH": "x"}, "remove it"),
    ("41 number", "django_env", {1: "x"}, "quote it"),
    ("42 NUL", "django_env", {"A": "x\0"}, "expected text without control characters"),
    ("42 escape", "django_env", {"A": "x\x1b[2J"}, "expected text without control characters"),
    ("42 return", "django_env", {"A": "x\ry"}, "expected text without control characters"),
    ("43 null", "django_env", {"A": None}, "write one string"),
    ("43 bool", "django_env", {"A": True}, "quote it"),
    ("43 int", "django_env", {"A": 1}, "quote it"),
    ("44 managed", "django_env", {"STATIC_ROOT": "x"}, "remove it"),
    ("44 managed", "django_env", {"MEDIA_ROOT": "/srv/x"}, "set site_media_root instead"),
    ("a number of Python", "django_python", 3.12, "quote it"),
    ("no Python", "django_python", "python3", 'write one such as "3.12"'),
    ("Python 2", "django_python", "2.7", 'write one such as "3.12"'),
    (
        "a Python at home",
        "django_python",
        "/home/ada/.pyenv/versions/3.12.1/bin/python",
        "is in a folder that the site cannot read",
    ),
    ("an option for a package", "django_extra_packages", ["--index-url=https://x"], "expected a requirement"),
    ("a folder as a package", "django_extra_packages", ["./own"], "expected a requirement"),
    ("no group", "django_groups", ["--all"], "expected the name of a group or an extra"),
    ("no variable of the build", "django_build_environment", {"A-B": "x"}, "expected the name of a variable"),
    ("the loader of the build", "django_build_environment", {"LD_PRELOAD": "x"}, "changes how programs start"),
    ("no key for packages", "django_build_git_key", "ssh-ed25519 AAAA", "expected a private key"),
    (
        "half a key for packages",
        "django_build_git_key",
        generated_key().rpartition("-----END")[0],
        "expected a private key",
    ),
    (
        "a locked key for packages",
        "django_build_git_key",
        generated_key(b"locked"),
        "expected a private key without a passphrase",
    ),
    (
        "12 long home",
        "site_home",
        "/srv/" + "a" * 90,
        "expected at most 67 characters, because sockets are created below it",
    ),
    ("12 long variable", "django_env", {"X": "a" * 200_000}, "django_env.X: has 195 KiB, and a variable can have 128"),
    (
        "12 long variables",
        "django_env",
        {f"X{number}": "a" * 100_000 for number in range(30)},
        "has 2929 KiB with django_build_environment, and all variables can have 1920",
    ),
    ("32 long key", "django_secret_key", KEY * 4000, "has 203 KiB, and a variable can have 128"),
    *(
        ("uploads of others", "site_media_root", folder, "belongs to another program")
        for folder in (
            "/etc/sudoers.d",
            "/etc/cron.d",
            "/var/lib/postgresql",
            "/var/lib/dpkg/x",
            "/home/ada",
            "/var/log/x",
        )
    ),
    *(("unit of the system", "site_service", name, "use another name") for name in ("user", "getty", "ssh")),
    *(("unit of the stack", "site_service", f"shop-{name}", "such as shop-gunicorn") for name in UNITS),
    *(("port of others", "host_ssh_ports", [22, port], "has a port of the group") for port in (80, 443, 5432)),
    ("secret by a pattern", "django_source_includes", ["../.env"], "expected a file inside the source"),
    ("a shared folder outside", "django_shared_paths", ["../x"], "expected a folder inside the source"),
    ("a shared folder in another", "django_shared_paths", ["data", "data/index"], "remove data/index"),
    ("file outside", "django_files", {"../shop.py": "x"}, "expected a file inside the source"),
    ("file of the system", "django_files", {"/etc/passwd": "x"}, "expected a file inside the source"),
    ("file of git", "django_files", {".git/config": "x"}, "expected a path of a file"),
    ("file in another form", "django_files", {"a/./b": "x"}, "expected a path of a file"),
    ("file that is a list", "django_files", {"a.py": ["x"]}, "write one string"),
    ("file still encrypted", "django_files", {"a.py": "$ANSIBLE_VAULT;1.1"}, "write !vault"),
    ("build at another moment", "django_build", {"before": ["make"]}, "use one of these"),
    ("build that is no list", "django_build", {"before_collectstatic": "make"}, "write a list"),
    ("build that is nothing", "django_build", {"before_collectstatic": None}, "write a list"),
    ("build for a shell", "django_build", {"before_collectstatic": ["npm ci && npm run build"]}, "write sh -c"),
    ("build into a file", "django_build", {"before_collectstatic": ["npm run build 2>&1"]}, "write sh -c"),
    (
        "build with a variable",
        "django_build",
        {"before_collectstatic": ["$NPM ci"]},
        "expected a command that starts with a program",
    ),
    ("build with a pipe", "django_build", {"after_collectstatic": ["cat a | b"]}, "write sh -c"),
    ("command with python3", "django_after_migrate", ["python3 manage.py check"], "such as createcachetable"),
    ("build by root", "django_build", {"after_collectstatic": ["+make"]}, "write the program first"),
    ("build with an open quote", "django_build", {"after_collectstatic": ["make 'x"]}, "has an unclosed quote"),
    ("command with python", "django_after_migrate", ["python manage.py check"], "such as createcachetable"),
    ("owner without a command", "django_after_migrate", ["--owner"], "such as createcachetable"),
    ("command that is an option", "django_after_migrate", ["--version"], "such as createcachetable"),
    ("44 managed", "django_env", {"SECRET_KEY": "x"}, "set django_secret_key instead"),
    ("45 spaced", "nginx_client_max_body_size", "10 MB", "such as 20m"),
    ("45 bare", "nginx_client_max_body_size", "10", "such as 20m"),
    ("45 unlimited", "nginx_client_max_body_size", "0", "such as 20m"),
    ("45 huge", "nginx_client_max_body_size", "1t", "such as 20m"),
    ("46 no address", "letsencrypt_email", "root", "such as me@example.com"),
    ("46 line break", "letsencrypt_email", "me@example.com\n", "write one line"),
    ("46 option", "letsencrypt_email", "-x@example.com", "such as me@example.com"),
    *(("47 releases", "django_keep_releases", n, "from 2 to 50") for n in (0, 1, -1, 10000)),
    ("48 option", "django_version", "--upload-pack=touch /tmp/x", "such as main"),
    ("49 shell", "django_version", "main; rm -rf /", "such as main"),
    ("49 dots", "django_version", "a..b", "such as main"),
    ("49 line break", "django_version", "main\n", "write one line"),
    ("49 lock", "django_version", "main.lock", "such as main"),
    ("49 reflog", "django_version", "main@{1}", "such as main"),
    ("49 float", "django_version", 1.10, "quote it"),
    ("50 ext", "django_source", "ext::sh -c 'touch /tmp/x'", "write https://host/path"),
    ("50 file", "django_source", "file:///srv/repo", "write https://host/path"),
    ("50 token", "django_source", "https://geheim@github.com/me/shop.git", "credential helper"),
    ("50 token", "django_source", "https://me:geheim@github.com/me/shop", "credential helper"),
    ("50 password", "django_source", "ssh://me:geheim@host/shop", "credential helper"),
    ("50 http", "django_source", "http://host/shop.git", "write https://host/shop.git"),
    ("50 git", "django_source", "git://host/shop.git", "write https://host/shop.git"),
    ("50 option", "django_source", "--upload-pack=x", "starts with a dash"),
    ("50 option to ssh", "django_source", "ssh://-oProxyCommand=x/y", "write https://host/path"),
    ("50 line break", "django_source", "https://host/shop\n", "write one line"),
    ("50 not there", "django_source", "/no/such/folder", "or a folder"),
    ("50 not an archive", "django_source", "/etc/passwd", "or a folder"),
    *(
        ("51 taken", name, value, "use another name, such as")
        for name in ("site_name", "site_user")
        for value in ("root", "daemon", "www-data", "systemd-network", "debian")
    ),
    ("51 taken", "site_database_user", "postgres", "use another name, such as shop"),
    ("51 login", "site_name", "deploy", "is the ansible_user"),
    ("51 login", "site_user", "deploy", "is the ansible_user"),
    ("52 space", "site_user", "my user", "use a lower-case letter, then up to 30 lower-case letters, digits, _ and -"),
    ("52 dash", "site_user", "-x", "use a lower-case letter, then up to 30 lower-case letters, digits, _ and -"),
    ("52 long", "site_user", "a" * 40, "use a lower-case letter, then up to 30 lower-case letters, digits, _ and -"),
    *(
        ("52 site", "site_name", value, "use a lower-case letter")
        for value in ("My-Shop", "my_shop", "shop-", "1shop", "a b", "a" * 32, "a/b", "%n")
    ),
    ("53 HSTS below", "nginx_hsts_max_age", -5, "from 0 to"),
    ("53 HSTS in years", "nginx_hsts_max_age", "1y", "write an integer without quotes (after -e: as JSON)"),
    ("53 preload alone", "nginx_hsts_preload", True, "nginx_hsts_subdomains: true"),
    ("38 profile", "nginx_tls_profile", "Intermediate", "use one of these"),
    ("front header", "nginx_headers", {"X Frame": "x"}, "expected the name of a header"),
    *(
        ("front header", "nginx_headers", {"X-A": value}, "expected ASCII characters without $")
        for value in ("$host", "ä")
    ),
    ("front header", "nginx_headers", {"X-A": "a\nb"}, "write one line"),
    ("front header", "nginx_headers", {"strict-transport-security": "x"}, "set nginx_hsts_max_age instead"),
    ("front header", "nginx_headers", {"Cache-Control": "x"}, "remove it"),
    *(("front rate", "nginx_rate_limits", [{"path": "/a/", "rate": rate}], "10r/m") for rate in ("10", "0r/s", "9r/h")),
    ("front rate", "nginx_rate_limits", [{"path": "/a/"}], "write rate: 10r/m"),
    ("front path", "nginx_rate_limits", [{"path": "login", "rate": "1r/s"}], "such as /accounts/login/"),
    ("front burst", "nginx_rate_limits", [{"path": "/a", "rate": "1r/s", "burst": 0}], "from 1 to"),
    ("front path", "nginx_body_limits", {"/media/": "500m"}, "use a path that Django answers"),
    ("front header", "nginx_headers", {"x-frame-options": "DENY"}, "write X-Frame-Options"),
    ("front header", "nginx_headers", {"X-A": "1", "x-a": "2"}, "is listed twice"),
    ("front header", "nginx_headers", {"X-A": "a" * 4001}, "at most 4000"),
    ("front proxies", "nginx_trusted_proxies", ["10.0.0.0/255.0.0.0"], "such as 192.0.2.7"),
    ("51 taken", "site_name", "conf", "use another name, such as shop"),
    ("front path", "nginx_websocket_paths", ["/ws/ {"], "such as /accounts/login/"),
    ("front path", "nginx_streamed_paths", ["/static/"], "use a path that Django answers"),
    ("front body", "nginx_body_limits", {"/a/": "10 MB"}, "such as 20m"),
    ("front body", "nginx_body_limits", {"a": "10m"}, "such as /accounts/login/"),
    ("front proxies", "nginx_trusted_proxies", ["cdn.example"], "such as 192.0.2.7"),
    ("front proxies", "nginx_trusted_proxies", ["0.0.0.0/0"], "would trust every client"),
    ("front pages", "nginx_maintenance_page", "/no/such/file", "expected a file on the controller"),
    ("front requests", "nginx_requests_per_address", 0, "from 1 to"),
    ("valkey setting", "valkey_settings", {"requirepass": "x"}, "remove it"),
    ("valkey url", "valkey_urls", {"CELERY_BROKER_URL": 16}, "from 0 to 15"),
    ("valkey url", "valkey_urls", {"CELERY_BROKER_URL": "1"}, "without quotes"),
    ("valkey url", "valkey_urls", {"SECRET_KEY": 1}, "set django_secret_key instead"),
    ("valkey url", "valkey_urls", {"broker url": 1}, "use letters, digits and _, as in CELERY_BROKER_URL"),
    (
        "valkey setting",
        "valkey_settings",
        {"maxmemory policy": "x"},
        "use the name from the program's manual, in lower case",
    ),
    ("56 typo", "site_domian", "x", "write site_domains"),
    ("56 typo", "gunicorn_worker", 2, "write gunicorn_workers"),
    ("56 unheard of", "django_zzz_qqq", 2, "remove it; nothing reads it"),
    ("57 handed over", "host_serves_http3", True, "set nginx_http3 instead"),
    ("57 handed over", "nginx_proxy_timeout", 90, "remove it"),
    ("57 handed over", "host_peer_ports", [], "remove it"),
    ("57 renamed", "django_user", "x", "write site_user"),
    ("57 renamed", "postgres_pooler", "pgbouncer", "write site_database_pooler"),
    ("57 renamed", "postgres_separate_owner", True, "write site_database_separate_owner"),
    ("pooler", "site_database_pooler", "pgbouncers", "none, pgbouncer"),
    ("pooler port", "site_database_pooler_port", 0, "from 1 to 65535"),
    ("57 renamed", "postgres_socket_dir", "/run/postgresql", "write site_database_socket_dir"),
    ("58 bare", "django_health_path", "up", "such as /health/"),
    ("58 address", "django_health_path", "http://x/up", "such as /health/"),
    ("58 space", "django_health_path", "/u p", "such as /health/"),
    ("59 zero", "gunicorn_timeout", 0, "from 1 to 3600"),
    ("59 with a unit", "gunicorn_timeout", "30s", "write an integer without quotes (after -e: as JSON)"),
    ("59 graceful", "gunicorn_graceful_timeout", 601, "from 1 to 600"),
    ("59 health", "django_health_timeout", 0, "from 1 to 600"),
    ("59 lock", "django_lock_timeout", "5", "such as 5s"),
    ("61 requirements", "django_requirements", "../x", "write the path of the file relative to the top of the source"),
    (
        "61 requirements",
        "django_requirements",
        "/etc/x",
        "write the path of the file relative to the top of the source",
    ),
    ("61 requirements", "django_requirements", "a b", "use only letters, digits and _ . / -"),
    (
        "61 subdirectory",
        "django_subdirectory",
        "a/../../x",
        "write the path of the folder relative to the top of the source",
    ),
    ("63 broken template", "django_version", "{{ 1 / 0 }}", "fix the Jinja expression"),
    ("-- settings module", "django_settings_module", "shop/settings.py", "shop.settings"),
    ("-- application", "django_application", "shop.wsgi", "shop.wsgi:application"),
    ("-- packages", "django_system_packages", ["libmagic1; reboot"], "such as libmagic1"),
    ("-- any host", "django_allowed_hosts", ["*"], "write a name"),
    ("-- origin", "django_csrf_trusted_origins", ["shop.example.com"], "write https://"),
    ("-- plain origin", "django_csrf_trusted_origins", ["http://a.com"], "write https://"),
    ("-- static", "site_static_url", "static/", "such as /static/"),
    ("-- static", "site_static_url", "https://cdn.example.com/", "such as /static/"),
    ("-- media in static", "site_media_url", "/static/media/", "neither is inside the other"),
    ("-- media is home", "site_media_root", "/srv/shop", "write /srv/shop/media"),
    ("-- media is static", "site_media_root", "/srv/shop/static", "write /srv/shop/media"),
    ("-- secrets in media", "site_config_dir", "/srv/shop/media/x", "such as /etc/shop"),
    *(
        ("-- home of a user", "site_home", folder, "is in the home of a user")
        for folder in ("/home/ada", "/home/ada/x")
    ),
    *(
        ("-- folders that meet", name, folder, what)
        for name, folder, what in (
            ("site_media_root", "/var/www/acme", "is inside site_acme_webroot"),
            ("site_media_root", "/var/lib/django_vps", "is inside /var/lib/django_vps"),
            ("site_media_root", "/var/lib/django_vps/guard", "is inside /var/lib/django_vps"),
            ("site_home", "/var/lib/django_vps/shop", "is inside /var/lib/django_vps"),
            ("site_config_dir", "/etc/django_vps/sites", "is inside /etc/django_vps"),
            ("site_acme_webroot", "/srv/shop/acme", "is inside site_home"),
            ("site_config_dir", "/srv/shop", "use a folder such as /etc/shop"),
            ("site_config_dir", "/srv/shop/releases/etc", "is inside /srv/shop/releases"),
            ("site_identity_dir", "/etc/shop", "is inside site_config_dir"),
            ("site_identity_dir", "/srv/shop/media", "is inside site_media_root"),
            ("site_media_root", "/srv/shop/current/x", "is inside /srv/shop/current, got"),
        )
    ),
    ("-- setting", "postgres_settings", {"hba_file": "/x"}, "remove it"),
    ("-- setting", "postgres_settings", {"Listen_Addresses": "*"}, "remove it"),
    ("-- setting", "postgres_extensions", [{"name": "pg trgm"}], "pg_trgm"),
    (
        "-- setting",
        "postgres_extensions",
        [{"name": "x", "package": "postgresql-17-x; reboot"}],
        "postgresql-{version}",
    ),
    ("-- setting", "postgres_extensions", ["pg_trgm"], "dict"),
    ("-- setting", "postgres_settings", {"a b": "x"}, "use the name from the program's manual, in lower case"),
    ("-- setting", "postgres_settings", {"work_mem": ["x"]}, "quote it"),
    ("-- setting", "postgres_settings", {"work_mem": "1\nx = 2"}, "write one line"),
    ("-- gunicorn", "gunicorn_settings", {"workers": 2}, "set gunicorn_workers instead"),
    ("-- gunicorn", "gunicorn_settings", {"import": 2}, "use the name from the program's manual, in lower case"),
    ("-- gunicorn", "gunicorn_settings", {"raw_env": None}, "quote it"),
    ("-- unit", "site_service", "shop@x", "such as shop-gunicorn"),
    ("-- unit", "site_service", "nginx", "use another name, such as shop"),
    ("-- socket", "site_socket", "../x.sock", "such as gunicorn.sock"),
    ("-- package", "django_gunicorn_package", "gunicorn", "such as gunicorn==27.0.1"),
    ("-- package", "django_gunicorn_package", "gunicorn==1 --index-url x", "gunicorn==27.0.1"),
    ("-- class", "gunicorn_worker_class", "g thread", "expected a worker class"),
    ("-- service", "site_web_service", "nginx", "write one such as nginx.service"),
    ("-- directory", "letsencrypt_directory_url", "http://ca/dir", "such as https://"),
    ("-- certificate", "site_certificate", "/etc/shop/x.pem", "/fullchain.pem"),
    ("-- two folders", "site_certificate", "/srv/x/y/fullchain.pem", "one folder for both"),
    ("-- service", "django_services", ["worker"], "expected a dictionary"),
    ("-- service", "django_services", {"worker": "celery -A shop worker"}, "write a list"),
    ("-- service without a name", "django_services", [{"command": "x"}], "django_services.1: has no name"),
    ("-- service without a command", "django_services", [{"name": "a"}], "django_services.a: has no command"),
    ("-- timer without a time", "django_timers", [{"name": "a", "command": "x"}], "write on_calendar: daily"),
    ("-- typo in a name", "django_services", [{"name": "a", "comand": "x"}], "write command"),
    (
        "-- typo in a name",
        "django_timers",
        [{**TIMER, "stop_timeout": 9}],
        "remove it; the names are name, command, on_calendar",
    ),
    (
        "-- command of a list",
        "django_services",
        [{"name": "a", "command": ["x"]}],
        "django_services.a.command: expected a string",
    ),
    ("-- empty command", "django_services", [{"name": "a", "command": ""}], "write a value"),
    (
        "-- time as a text",
        "django_services",
        [{**SERVICE, "stop_timeout": "60"}],
        "write an integer without quotes (after -e: as JSON)",
    ),
    ("-- single as a text", "django_services", [{**SERVICE, "single": "yes"}], "write true or false"),
    ("-- no time to start", "django_services", [{**SERVICE, "start_seconds": 0}], "from 1 to 600"),
    ("-- no time", "django_services", [{**SERVICE, "stop_timeout": 0}], "from 1 to 86400"),
    *(
        ("-- unit", variable, [{**job, "name": value}], "use a")
        for variable, job in (("django_services", SERVICE), ("django_timers", TIMER))
        for value in ("Worker", "my_worker", "a.b", "1st", "%i", "a" * 33, "gunicorn")
    ),
    *(
        ("-- command", variable, [{**job, "command": value}], advice)
        for variable, job in (("django_services", SERVICE), ("django_timers", TIMER))
        for value, advice in (
            ("celery\nUser=root", "write one line"),
            *((f"{sign}celery", "write the program first") for sign in "@-:+!|"),
            (" +celery", "write the program first"),
            ("./manage.py", "the absolute path"),
            ("A=1 python", "the absolute path"),
            ("$PYTHON manage.py", "the absolute path"),
            ("python manage.py \\", "remove it"),
            ("python manage.py it's", "has an unclosed quote"),
            ("python a.py ; reboot", "write one command"),
        )
    ),
    *(
        ("-- calendar", "django_timers", [{**TIMER, "on_calendar": value}], "such as daily")
        for value in ("*/5 * * * *", "5m", "@daily", "midnight", "03", "Mon,", "every day", "daily\t", "*-*-* 3pm")
    ),
    ("-- twice", "django_services", [SERVICE, {**SERVICE, "command": "x"}], "use another name"),
    ("-- sandbox", "site_sandbox", ["PrivateTmp"], "such as PrivateTmp=yes"),
    ("-- sandbox", "site_sandbox", ["PrivateTmp=yes\\"], "such as PrivateTmp=yes"),
    ("-- sandbox", "site_sandbox", ["ReadWritePaths=/srv/%i"], "such as PrivateTmp=yes"),
    ("-- sandbox", "site_sandbox", ["User=root"], "set site_user instead"),
    ("-- tasks", "django_pre_migrate_tasks", "pre_migrate.yml", "expected an absolute path"),
    ("-- tasks", "django_pre_migrate_tasks", "/no/such.yml", "expected a file on the controller"),
    ("dns plugin", "letsencrypt_dns_plugin", "route53", "or write a letsencrypt_dns_hook"),
    ("dns plugin", "letsencrypt_dns_plugin", "cloudflare", "letsencrypt_dns_credentials: is not set"),
    ("dns login", "letsencrypt_dns_credentials", {"a_token": "x"}, "letsencrypt_dns_plugin: is not set"),
    ("dns hook", "letsencrypt_dns_hook", "/no/such.sh", "expected a file on the controller"),
    ("eab", "letsencrypt_eab_kid", "kid-1", "letsencrypt_eab_hmac_key: is not set"),
    ("eab", "letsencrypt_eab_hmac_key", "a key", "copy it from the CA"),
    ("log", "nginx_log_format", "JSON", "use one of these"),
    ("-- own, but issued", "letsencrypt_own_certificate", "/x.pem", "letsencrypt_enabled: false"),
    ("-- own without key", "letsencrypt_own_key", "/x.pem", "set both or neither"),
    ("host no key", "host_admins", [{"name": "ada", "keys": []}], "host_admins.ada.keys: is an empty list"),
    ("host no keys", "host_admins", [{"name": "ada"}], "host_admins.ada: has no keys"),
    (
        "host private key",
        "host_admins",
        [{"name": "ada", "keys": ["-----BEGIN PRIVATE KEY"]}],
        "use the file that ends in .pub",
    ),
    ("host old key", "host_admins", [{"name": "ada", "keys": ["ssh-dss AAAAB3NzaC1"]}], "expected a public SSH key"),
    ("site named like the stack", "site_name", "django-vps", "is used by the system or the stack"),
    ("host root", "host_admins", [{"name": "root", "keys": [PUBLIC]}], "is used by the system or the stack"),
    ("host site user", "host_admins", [{"name": "shop", "keys": [PUBLIC]}], "is the user of the site"),
    (
        "host twice",
        "host_admins",
        [{"name": "a", "keys": [PUBLIC]}, {"name": "a", "keys": [PUBLIC + "2"]}],
        "is listed twice",
    ),
    ("host admin typo", "host_admins", [{"name": "ada", "key": [PUBLIC]}], "write keys"),
    ("deployer private key", "deployer_keys", ["-----BEGIN PRIVATE KEY"], "use the file that ends in .pub"),
    ("deployer shell", "deployer_keys", [f'command="sh" {PUBLIC}'], "remove the options: ssh-ed25519 AAAA... ci@forge"),
    ("host port", "host_ssh_ports", [70000], "from 1 to 65535"),
    ("host no port", "host_ssh_ports", [], "is an empty list"),
    ("host port as text", "host_open_tcp", ["8080"], "without quotes"),
    ("host chain", "host_firewall_rules", ["accept } chain x {"], "write one rule, and close each brace"),
    ("host no rule", "host_firewall_rules", ["tcp dport 9100"], "expected a rule of nftables"),
    ("host net", "host_never_banned", ["office"], "expected an address or a network"),
    ("host sexagesimal", "host_reboot_time", 750, "quote it"),
    ("host time", "host_reboot_time", "25:00", "expected a time of the day"),
    *(
        ("host address", "site_address", value, "such as 10.0.0.11")
        for value in ("app1", "10.0.0.0/24", "10.0.0.1:22", "127.0.0.1", "0.0.0.0", "fe80::1")
    ),
    ("host address", "site_address", "FD00::0:1", "write fd00::1"),
    ("host port of nginx", "nginx_peer_port", 0, "from 1 to 65535"),
    *(("batches", "django_batches", [value], 'such as "2"') for value in ("0", "half", "101%", "-1", "1.5")),
    ("batches as a number", "django_batches", [1], "quote it"),
    ("host zone", "host_timezone", "Europe/Wien", "expected a time zone"),
    ("host proxy", "site_proxy", "http://me:geheim@proxy:3128", "has credentials"),
    ("host proxy port", "site_proxy", "proxy.example", "expected the address of a proxy"),
    ("host one mirror", "host_apt_mirror", "https://mirror.example/debian", "host_apt_security_mirror: is not set"),
    ("host ca", "host_ca_certificates", ["ca.pem"], "expected a file on the controller"),
    ("host name", "host_name", "my_host", "expected a host name"),
    ("host journal", "host_journal_size", "lots", "expected a size in journald's notation"),
    ("host typo", "host_manage_firewal", False, "write host_manage_firewall"),
]


@pytest.mark.parametrize(
    ("name", "value", "advice"), [row[1:] for row in BAD], ids=[f"{row[0]}: {row[1]}" for row in BAD]
)
def test_bad_input_is_refused_by_name_with_advice(name, value, advice):
    found = refused({name: value})
    assert any(name in line and advice in line for line in found), found
    # One mistake is one line; the certificate of one's own has two halves.
    assert len(found) == 1 or name.startswith("letsencrypt_own"), found


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"site_config_dir": "/srv/conf", "site_media_root": "/srv/conf/media"},
            "site_media_root: is inside site_config_dir, got '/srv/conf/media'. Fix: write /srv/shop/media",
        ),
        (
            {"backup_repository": "/srv/sets", "site_media_root": "/srv/sets/media"},
            "site_media_root: is inside backup_repository",
        ),
        ({"site_media_root": "/srv/a", "site_home": "/srv/a/shop"}, "site_home: is inside site_media_root"),
        ({"site_config_dir": "/opt/a", "site_home": "/opt/a/shop"}, "site_home: is inside site_config_dir"),
        (
            {"site_certificate": "/srv/x/a/fullchain.pem", "site_certificate_key": "/srv/x/a/privkey.pem"}
            | {"site_media_root": "/srv/x/a"},
            "site_media_root: is inside site_certificate",
        ),
        ({"site_identity_dir": "/srv/a", "site_home": "/srv/a/shop"}, "site_home: is inside site_identity_dir"),
        ({"site_name": "a", "site_media_root": "/srv/x", "site_home": "/srv/x/a"}, "site_home: is inside site_media"),
        ({"site_acme_webroot": "/srv/shop/acme", "site_media_root": "/srv/shop/acme"}, "site_media_root: is inside"),
    ],
)
def test_folders_of_a_site_that_meet_are_refused(changes, message):
    (line,) = refused(changes)
    assert line.startswith(message)


def test_variables_of_a_build_are_limited_together():
    ten = {f"X{number}": "a" * 100_000 for number in range(10)}
    assert refused({"django_env": ten}) == []
    (line,) = refused({"django_env": ten, "django_build_environment": {f"B{name}": "b" * 100_000 for name in ten}})
    assert line.startswith("django_env: has 1953 KiB")


def test_whole_path_of_the_socket_is_limited():
    home = f"/srv/{'a' * 62}"
    assert refused({"site_home": home}) == []
    (line,) = refused({"site_home": home, "site_socket": "gunicorn-1.sock"})
    assert line.startswith("site_home: expected at most 65 characters")


def test_dns_hook_and_dns_plugin_exclude_each_other():
    both = {
        "letsencrypt_dns_plugin": "ovh",
        "letsencrypt_dns_credentials": {"a": "b"},
        "letsencrypt_dns_hook": __file__,
    }
    (line,) = refused(both)
    assert line.startswith("letsencrypt_dns_hook: is not used beside letsencrypt_dns_plugin")


@pytest.mark.parametrize("name", ["site_name", "site_domains", "django_source", "letsencrypt_email"])
def test_missing_required_variable_is_reported(name):
    found = refused(without=[name])
    assert len(found) == 1
    assert found[0].startswith(f"{name}: is not set")
    assert f"write {name}: " in found[0]


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("others", [{}, {"webs": ["vps1"]}])
def test_an_empty_group_is_named(group, others):
    groups = {name: hosts for name, hosts in GROUPS.items() if name != group}
    (line,) = [line for line in refused(groups={**groups, **others}) if line.startswith(f"{group}:")]
    assert f"write {group}: {{hosts: {{vps1: {{}}}}}}" in line


def test_without_any_group_all_three_are_named():
    assert [line.partition(":")[0] for line in refused(groups={})] == ["web", "app", "database"]


def test_hosts_of_other_sites_are_ignored():
    groups = {group: ["other"] for group in GROUPS}
    assert refused({"site_name": "not judged"}, groups=groups) == []


def test_host_needs_only_the_variables_of_its_groups():
    groups = {"web": ["other"], "app": ["other"], "database": ["vps1"]}
    assert refused(without=["django_source", "letsencrypt_email"], groups=groups) == []


def test_separate_owner_of_a_database_elsewhere_is_refused():
    groups = {"web": ["vps1"], "app": ["vps1"], "database": ["db1"]}
    found = refused({"site_database_separate_owner": True, "site_address": "10.0.0.2"}, groups=groups)
    assert [line for line in found if "site_database_separate_owner: requires the database on the host" in line]


def test_all_inventory_problems_are_reported_at_once():
    found = refused({"site_name": "root", "django_keep_releases": 0, "site_domian": "x"})
    assert len(found) == 3


NEIGHBOUR = {
    "site_name": "blog",
    "site_home": "/srv/blog",
    "site_user": "blog",
    "site_database": "blog",
    "site_service": "blog-gunicorn",
    "site_domains": ["blog.example.com"],
}


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("site_name", {"site_name": "shop", "site_home": "/srv/shop"}),
        ("site_home", {"site_home": "/srv/shop"}),
        ("site_database", {"site_database": "shop"}),
        ("site_domains", {"site_domains": ["x.example.com", "www.shop.example.com"]}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_sites_at_one_address_need_different_values(name, same):
    (line,) = refused(neighbours={"vps1-blog": {**NEIGHBOUR, **same}})
    assert line.startswith(f"{name}: ")
    assert "vps1-blog" in line


def test_sites_at_one_address_share_the_eab_key_of_a_ca():
    mine = {"letsencrypt_eab_kid": "a", "letsencrypt_eab_hmac_key": "k" * 20}
    theirs = {"letsencrypt_eab_kid": "b", "letsencrypt_directory_url": "https://acme-v02.api.letsencrypt.org/directory"}
    (line,) = refused(mine, neighbours={"vps1-blog": {**NEIGHBOUR, **theirs}})
    assert line.startswith("letsencrypt_eab_kid: differs from vps1-blog")
    elsewhere = {**theirs, "letsencrypt_directory_url": "https://ca.example/dir"}
    assert refused(mine, neighbours={"vps1-blog": {**NEIGHBOUR, **elsewhere}}) == []


POINT_IN_TIME = {"backup_point_in_time": True}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"backup_repository": "s3:http://s3.example.com/b/shop"}, "backup_repository: is S3 without TLS"),
        ({"backup_repository": "sftp:me@example.com:sets"}, "backup_repository: is a relative path"),
        ({"backup_repository": "rest:https://example.com/"}, "backup_repository: is a storage that pgBackRest does"),
        ({"postgres_settings": {"archive_command": "x"}}, "postgres_settings.archive_command: is set by backup_point"),
    ],
)
def test_point_in_time_that_cannot_be_is_refused(changes, said):
    credentials = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"}
    (line,) = refused({**POINT_IN_TIME, "backup_environment": credentials, **changes})
    assert line.startswith(said)
    assert refused({"backup_environment": credentials, **changes}) == []


def test_point_in_time_of_two_sites_of_a_server_is_refused():
    neighbours = {"vps1-blog": {**NEIGHBOUR, **POINT_IN_TIME}}
    groups = {group: ["vps1", "vps1-blog"] for group in ("web", "app", "database")}
    (line,) = refused(POINT_IN_TIME, neighbours=neighbours, groups=groups)
    assert line.startswith("backup_point_in_time: is true for vps1-blog on the same address too")
    assert refused(neighbours=neighbours, groups=groups) == []


MEMBER = {**settle(Templar(loader=LOADER), trusted(GOOD), SPECS)[0], "site_address": "10.0.0.2"}


def test_hosts_of_a_site_need_different_site_addresses():
    (line,) = refused(site_members={"vps2": MEMBER})
    assert line.startswith("site_address: is not set, and vps2 of the same site")
    (line,) = refused({"site_address": "10.0.0.2"}, site_members={"vps2": MEMBER})
    assert line.startswith("site_address: is the address of vps2 too")
    assert refused({"site_address": "10.0.0.1"}, site_members={"vps2": MEMBER}) == []


def test_sites_on_the_same_web_hosts_need_own_share_ports():
    groups = {**GROUPS, "web": ["vps1", "vps2"]}
    there = {"site_members": {"vps2": MEMBER}, "groups": groups}
    neighbours = {"vps1-blog": {**NEIGHBOUR, "letsencrypt_share_port": 8444}}
    (line,) = refused({"site_address": "10.0.0.1"}, neighbours=neighbours, **there)
    assert line.startswith("letsencrypt_share_port: is used by vps1-blog on the same address too")
    neighbours["vps1-blog"]["letsencrypt_share_port"] = 8445
    assert refused({"site_address": "10.0.0.1"}, neighbours=neighbours, **there) == []


@pytest.mark.parametrize("site_members", [{}, {"vps2": MEMBER}], ids=["one host", "several"])
def test_valkeys_on_one_host_need_different_ports(site_members):
    there = {"site_members": site_members, "groups": {**GROUPS, "valkey": ["vps1", "vps1-blog"]}}
    changes = {"site_address": "10.0.0.1"} if site_members else {}
    neighbours = {"vps1-blog": {**NEIGHBOUR, "valkey_port": 6379}}
    (line,) = refused(changes, neighbours=neighbours, **there)
    assert line.startswith("valkey_port: is used by vps1-blog on the same address too")
    neighbours["vps1-blog"]["valkey_port"] = 6380
    assert refused(changes, neighbours=neighbours, **there) == []


def test_poolers_on_one_host_need_different_ports():
    there = {"site_members": {"vps2": MEMBER}, "groups": {**GROUPS, "database": ["vps1", "vps1-blog"]}}
    pooler = {"site_database_pooler": "pgbouncer", "site_database_pooler_port": 6432}
    changes = {"site_address": "10.0.0.1", **pooler}
    there["site_members"] = {"vps2": {**MEMBER, **pooler}}
    neighbours = {"vps1-blog": {**NEIGHBOUR, **pooler, "site_address": "10.0.0.1"}}
    (line,) = refused(changes, neighbours=neighbours, **there)
    assert line.startswith("site_database_pooler_port: is used by vps1-blog on the same address too")
    # On one host both have a socket only.
    assert refused(pooler, neighbours={"vps1-blog": {**NEIGHBOUR, **pooler}}, groups=there["groups"]) == []
    neighbours["vps1-blog"]["site_database_pooler_port"] = 6433
    assert refused(changes, neighbours=neighbours, **there) == []


def test_pooler_port_is_refused_for_ssh():
    members = {"vps2": {**MEMBER, "site_database_pooler": "pgbouncer", "site_database_pooler_port": 6432}}
    changes = {"site_address": "10.0.0.1", "host_ssh_ports": [22, 6432]}
    (line,) = refused({**changes, "site_database_pooler": "pgbouncer"}, site_members=members)
    assert line.startswith("host_ssh_ports: has a port of the group database")


def test_pooler_for_a_database_elsewhere_is_refused():
    groups = {name: hosts for name, hosts in GROUPS.items() if name != "database"}
    (line,) = refused({"site_database_url": ELSEWHERE, "site_database_pooler": "pgbouncer"}, groups=groups)
    assert line.startswith("site_database_pooler: requires a database of the stack, and site_database_url is set. Fix:")
    assert "site_database_direct_url" in line


def test_socket_of_a_pooler_outside_of_run_is_refused():
    (line,) = refused({"site_database_host": "/srv/sockets", "site_database_pooler": "pgbouncer"})
    assert line.startswith("site_database_host: expected a folder in /run for the socket of the pooler, got")


def test_database_of_the_pooler_console_is_refused():
    (line,) = refused({"site_database": "pgbouncer", "site_database_pooler": "pgbouncer"})
    assert line.startswith("site_database: is the name of PgBouncer's console")


def test_pooled_workers_beyond_the_connections_are_accepted():
    many = {"gunicorn_workers": 30, "gunicorn_threads": 4}
    assert refused(many) != []
    assert refused({**many, "site_database_pooler": "pgbouncer"}) == []


ELSEWHERE = "postgres://shop:geheim@db.example.com/shop"


def test_site_with_external_database_needs_no_database_host():
    groups = {name: hosts for name, hosts in GROUPS.items() if name != "database"}
    assert refused({"site_database_url": ELSEWHERE}, groups=groups) == []
    other = {**groups, "database": ["of-another-site"]}
    assert refused({"site_database_url": ELSEWHERE}, groups=other) == []
    (line,) = refused(groups=other)
    assert line.startswith("database: expected a host of this site in this group")
    assert "site_database_url" in line


def test_two_databases_of_a_site_are_refused():
    (line,) = refused({"site_database_url": ELSEWHERE})
    assert line.startswith("site_database_url: is set, and the site has a database of its own. Fix: remove it, or take")
    assert "geheim" not in line
    (line,) = refused({"site_database_direct_url": ELSEWHERE})
    assert line.startswith("site_database_direct_url: is of use only with site_database_url")


def test_a_site_has_one_valkey():
    groups = {**GROUPS, "valkey": ["vps1", "vps2", "of-another-site"]}
    (line,) = refused({"site_address": "10.0.0.1"}, site_members={"vps2": MEMBER}, groups=groups)
    assert line.startswith("valkey: expected one host of a site in this group, got vps1 and vps2")


def test_url_of_the_own_valkey_cannot_be_overridden():
    changes = {"django_env": {"REDIS_URL": "rediss://elsewhere.example.com"}}
    assert refused(changes) == []
    (line,) = refused(changes, groups={**GROUPS, "valkey": ["vps1"]})
    assert line.startswith("django_env.REDIS_URL: is set to the site's own valkey. Fix: remove it, or remove vps1 from")
    changes = {"django_env": {"BROKER": "x"}, "valkey_urls": {"BROKER": 1}}
    (line,) = refused(changes, groups={**GROUPS, "valkey": ["vps1"]})
    assert line.startswith("django_env.BROKER: is set to the site's own valkey")


@pytest.mark.parametrize(
    ("name", "value"), [("site_database", "other"), ("nginx_peer_port", 9443), ("django_secret_key", KEY)]
)
def test_hosts_of_a_site_need_the_same_values(name, value):
    (line,) = refused({"site_address": "10.0.0.1", name: value}, site_members={"vps2": MEMBER})
    assert line.startswith(f"{name}: differs on vps2")
    assert KEY not in line


@pytest.mark.parametrize(
    ("variables", "more", "what"),
    [
        (
            {"host_admins": [{"name": "shop-deploy", "keys": [PUBLIC]}]},
            {},
            "the user shop-deploy exists for another purpose",
        ),
        (
            {"site_user": "shop-deploy", "site_database_user": "shop-deploy"},
            {},
            "the user shop-deploy exists for another purpose",
        ),
        ({}, {"neighbours": {"blog": {"site_user": "shop-deploy"}}}, "the user shop-deploy exists for another purpose"),
        ({"site_name": "a-shop-with-quite-a-long-name"}, {}, "would have more than 32 characters"),
        ({}, {"site_members": {"vps2": MEMBER}}, "would deploy to this host and not to vps2"),
    ],
)
def test_deploy_user_must_be_unique_and_on_all_hosts(variables, more, what):
    found = refused({"deployer_keys": [PUBLIC], **variables}, **more)
    assert any(line.startswith("deployer_keys: ") and what in line for line in found)


def test_unit_of_another_site_is_refused():
    (line,) = refused({"site_service": "blog-backup"}, neighbours={"vps1-blog": NEIGHBOUR})
    assert line.startswith("site_service: is a unit of the stack, got 'blog-backup'. Fix: use another name")


def test_units_of_the_stack_are_those_of_its_roles():
    texts = [(ROOT / f"roles/{role}/vars/main.yml").read_text() for role in ("backup", "letsencrypt", "postgres")]
    names = re.findall(r'^__\w+: "\{\{ site_name \}\}-([a-z-]+)(?:@\.service)?"$', "".join(texts), re.MULTILINE)
    assert sorted(names) == sorted(UNITS)


def test_two_different_sites_can_share_an_address():
    assert refused(neighbours={"vps1-blog": NEIGHBOUR}) == []


def own_certificate(folder: Path, *names: str, certified: bool = True) -> dict[str, object]:
    """A certificate for the names and its key, and how an inventory says so."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject, issuer = (
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        for name in ("site", "CA" if certified else "site")
    )
    since = datetime(2026, 1, 1, tzinfo=UTC)
    certificate = x509.CertificateBuilder(issuer, subject, key.public_key(), 1, since, since + timedelta(days=90))
    alternatives = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
    signed = certificate.add_extension(alternatives, critical=False).sign(key, hashes.SHA256())
    form = serialization.Encoding.PEM
    (folder / "a.pem").write_bytes(signed.public_bytes(form))
    (folder / "b.pem").write_bytes(
        key.private_bytes(form, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return {
        "letsencrypt_enabled": False,
        "letsencrypt_own_certificate": str(folder / "a.pem"),
        "letsencrypt_own_key": str(folder / "b.pem"),
    }


def test_matching_own_certificate_passes(tmp_path):
    assert refused(own_certificate(tmp_path, "shop.example.com")) == []
    assert refused(own_certificate(tmp_path, "*.example.com")) == []
    assert refused(own_certificate(tmp_path, certified=False)) == []


def test_own_certificate_that_does_not_match_fails(tmp_path):
    (line,) = refused(own_certificate(tmp_path, "www.shop.example.com", "example.com"))
    assert line.startswith("letsencrypt_own_certificate: does not include the first name of the site")
    assert "www.shop.example.com, example.com" in line
    own = own_certificate(tmp_path, "shop.example.com")
    key = (tmp_path / "b.pem").read_bytes()
    own_certificate(tmp_path, "shop.example.com")
    (tmp_path / "b.pem").write_bytes(key)
    (line,) = refused(own)
    assert line.startswith("letsencrypt_own_key: is not the key of letsencrypt_own_certificate")
    (tmp_path / "b.pem").write_text("-----BEGIN PRIVATE KEY-----")
    (line,) = refused(own)
    assert line.startswith("letsencrypt_own_key: expected a key in PEM format")
    (tmp_path / "a.pem").write_text("")
    (line,) = refused(own)
    assert line.startswith("letsencrypt_own_certificate: expected certificates in PEM form")
    (tmp_path / "b.pem").unlink()
    (line,) = refused(own)
    assert line.startswith("letsencrypt_own_key: expected a file on the controller")


def test_names_that_a_wildcard_covers_do_not_count():
    names = ["*.a.com", *(f"a{number}.a.com" for number in range(200))]
    by_dns = {"letsencrypt_dns_hook": __file__}
    assert refused({"site_domains": ["a.com", *names], **by_dns}) == []
    assert refused({"site_domains": ["a.com", *names[1:]], "letsencrypt_enabled": False}) == []
    other_ca = {"letsencrypt_directory_url": "https://ca.example.com/acme"}
    assert refused({"site_domains": ["a.com", *names[1:]], **other_ca}) == []
    (line,) = refused({"site_domains": ["a.com", *names[1:]], **by_dns})
    assert line == "site_domains: has 201 names, and a certificate can have 100. Fix: use a wildcard, or fewer names"


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        ({"site_media_root": "/srv/blog/media/shop"}, {"site_media_root": "/srv/blog/media"}),
        ({"site_home": "/srv/blog/shop"}, {"site_home": "/srv/blog"}),
        ({"site_media_root": "/mnt/x"}, {"site_media_root": "/mnt/x"}),
    ],
)
def test_folders_of_two_sites_cannot_overlap(mine, theirs):
    (line,) = [line for line in refused(mine, neighbours={"vps2": {"site_name": "blog", **theirs}}) if "site_" in line]
    assert line.partition(":")[0] in mine


def test_a_service_and_a_timer_do_not_share_a_name():
    (line,) = refused({"django_services": [SERVICE], "django_timers": [{**TIMER, "name": "worker"}]})
    assert line == "django_timers.worker: is in django_services too. Fix: use another name"


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("letencrypt_enabled", "letsencrypt_enabled"),
        ("ngnix_http3", "nginx_http3"),
        ("postgresql_settings", "postgres_settings"),
        ("SITE_NAME", "site_name"),
        ("sites_domains", "site_domains"),
        ("Gunicorn_Workers", "gunicorn_workers"),
        ("djano_env", "django_env"),
        ("relase", "release"),
        ("maintainance", "maintenance"),
        ("jdango_env", "django_env"),
        ("gninx_http3", "nginx_http3"),
        ("ite_name", "site_name"),
        ("elease", "release"),
    ],
)
def test_name_that_is_nearly_a_variable_is_refused(name, meant):
    (line,) = refused({name: "x"}, typed=frozenset([name]))
    assert line == f"{name}: is not a variable of the stack. Fix: write {meant}"


@pytest.mark.parametrize(
    "name",
    [
        *("vault_django_secret_key", "mysite_name", "vault_site_name", "old_django_env", "domain", "node_version"),
        *("django", "site", "hosts", "releases", "_site_name", "release_1", "site2_name", "kcab", "shot", "best_name"),
    ],
)
def test_name_of_a_user_variable_is_accepted(name):
    assert refused({name: "x"}) == []
    assert refused({name: "x"}, typed=frozenset([name]), reads=frozenset()) == []


@pytest.mark.parametrize(
    ("reads", "name", "meant"),
    [
        (["release"], "release_id", "write release"),
        (["release"], "to", "write release"),
        (["release"], "restore_to", "write release"),
        ([], "release", "remove it; nothing in this run reads it"),
        (["restore"], "release", "write restore"),
        (["host"], "target_host", "write host"),
        (["restore_to", "restore_over"], "set_to_restore", "write restore_to"),
        (["restore_to", "restore_over"], "restore", "write restore_to"),
    ],
)
def test_variable_of_another_playbook_is_refused(reads, name, meant):
    (line,) = refused({name: "x"}, typed=frozenset([name]), reads=frozenset(reads))
    assert line == f"{name}: is not a variable of this playbook. Fix: {meant}"


@pytest.mark.parametrize(
    ("reads", "typed"),
    [
        (["release"], {"release": "x"}),
        (["release"], {"release": "x", "release_notes": "y"}),
        (["release"], {"ansible_user": "x", "_to": "x", "django_version": "v1"}),
        ([], {"release_notes": "x", "ticket": "x", "restore_point_name": "x"}),
        (["restore_to", "restore_over"], {"restore_to": "latest", "restorer": "ada", "who": "x"}),
    ],
)
def test_variable_that_no_playbook_reads_is_accepted(reads, typed):
    assert refused(typed, typed=frozenset(typed), reads=frozenset(reads)) == []


def test_typed_variable_that_the_inventory_uses_is_accepted():
    changes = {"host": "vps1", "release_id": "v1", "ansible_host": "{{ host }}", "django_version": "{{ release_id }}"}
    options = {"typed": frozenset(["host", "release_id"]), "reads": frozenset(["release"])}
    assert refused(changes, **options) == []


def test_playbook_names_each_variable_that_it_reads():
    for playbook in ROOT.glob("playbooks/*.yml"):
        text = playbook.read_text()
        used = set(re.findall(r"\b(\w+) \| default\(", text)) & OF_PLAYBOOKS
        assert used <= set(re.findall(r"\w+", "".join(re.findall(r"__reads: \[(.*)\]", text)))), playbook
        # Parts of other playbooks do not check the inventory.
        assert ("__reads: [" in text) == ("playbook: check_inventory.yml" in text), playbook


def test_variables_in_documented_commands_are_known():
    documents = [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("playbooks/*.yml")]
    told = {name for document in documents for name in re.findall(r"-e ([a-z_]+)=", document.read_text())}
    assert told - SPECS.keys() == OF_PLAYBOOKS


@pytest.mark.parametrize(
    ("groups", "files", "line"),
    [
        ({"valky": ["vps1"]}, (), "valky: is not a group of the stack. Fix: write valkey"),
        (
            {},
            ("valky",),
            "group_vars/valky: belongs to a group that does not exist, so nothing reads it. Fix: write valkey",
        ),
        (
            {},
            ("databse",),
            "group_vars/databse: belongs to a group that does not exist, so nothing reads it. Fix: write database",
        ),
        ({}, ("wbe",), "group_vars/wbe: belongs to a group that does not exist, so nothing reads it. Fix: write web"),
    ],
)
def test_misspelt_group_is_refused(groups, files, line):
    (found,) = refused(groups={**GROUPS, **groups}, group_files=frozenset(files))
    assert found.startswith(line)


@pytest.mark.parametrize(
    ("hosts", "file", "meant"),
    [
        (["vps1", "shop-prod"], "shop-prd", "shop-prod"),
        (["vps1", "shop.example.com"], "shpo.example.com", "shop.example.com"),
        (["vps1", "shop_prod"], "shop-prod", "shop_prod"),
        (["vps1", "shop-a"], "shop-b", ""),
        (["vps1", "a.example.com"], "b.example.com", ""),
        (["vps1", "shop.example.com"], "shops.example.com", ""),
        (["vps1"], "vps2", ""),
        (["vps1", "web"], "vps1.example.com", ""),
    ],
)
def test_misspelt_host_is_refused(hosts, file, meant):
    found = refused(groups={**GROUPS, "all": hosts}, host_files=frozenset([file]), run=["vps1"])
    what = "belongs to a host that does not exist, so nothing reads it"
    assert found == [f"host_vars/{file}: {what}. Fix: write {meant}"] * bool(meant)
    assert refused(groups={**GROUPS, "all": hosts}, host_files=frozenset([file, *hosts]), run=["vps1"]) == []


def test_groups_of_the_user_are_accepted():
    others = {"staging": ["vps1"], "databases": ["vps1"], "web2": ["vps1"]}
    files = frozenset(["all", "web3", "production", "web", "webs", "site_b", "databases", "valkeys", "valkey"])
    assert refused(groups={**GROUPS, **others, "site_a": ["vps1"]}, group_files=files - {"databases"}) == []


@pytest.mark.parametrize(("group", "host"), [("app", "web1"), ("web", "db1"), ("database", "web1")])
def test_limit_that_leaves_nothing_to_do_is_refused(group, host):
    groups = {"web": ["web1"], "app": ["vps1"], "database": ["db1"]}
    options = {"groups": groups, "needs": frozenset([group]), "site_members": {"db1": MEMBER}}
    lines = refused({"site_address": "10.0.0.1"}, run=[host], **options)
    assert f"--limit: leaves no host of the group {group}, so nothing would be done. Fix: add one of them" in lines
    assert refused({"site_address": "10.0.0.1"}, run=[*groups[group], host], **options) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("django_secret_key", "geheim"),
        ("django_env", {"TOKEN": ["geheim"], "A": "geheim\x07"}),
        ("django_env", {"TOKEN=geheim": "x"}),
        ("django_env", ["TOKEN=geheim"]),
        ("django_build_environment", "TOKEN=geheim"),
        ("site_network_environment", ["http_proxy=http://me:geheim@proxy"]),
        ("site_network_environment", {"HTTP_AUTH": ["geheim"]}),
        ("django_files", {"a.py": "geheim\x07"}),
        ("django_source", "https://me:geheim@host/shop"),
        ("django_source", "http://me:ge/geheim@host/shop"),
        ("django_source", "https://ge/geheim@host/shop"),
        ("django_source", {"url": "https://host/shop", "with": "geheim"}),
        ("django_source", ["https://me:ge heim/geheim@host/shop"]),
        ("site_proxy", "http://me:a@b/geheim@proxy:3128/x y"),
        ("gunicorn_settings", {"raw_env": {"TOKEN": "geheim"}, "bind": "geheim"}),
        ("postgres_settings", {"primary_conninfo": ["password=geheim"]}),
        ("postgres_settings", "geheim"),
        ("letsencrypt_dns_credentials", ["geheim"]),
        ("django_extra_packages", "own @ git+https://geheim@host/own.git"),
        ("django_services", [{"name": "w", "command": "run\n--token=geheim"}]),
        ("django_services", [{"name": "w", "command": "run\n--api-key geheim"}]),
        ("django_services", [{"name": "w", "command": "curl\n-H 'Authorization: Bearer geheim'"}]),
        ("django_source", "http://host/shop.git?token=geheim"),
        *(
            ("django_source", value)
            for value in (
                *(" https://me:geheim@host/shop", '"https://me:geheim@host/shop"', "https:/me:geheim@host/shop"),
                *("me:geheim@host:shop.git", "x https://me:ge heim/geheim@host/shop", "/no/me:geheim@host"),
            )
        ),
        ("backup_repository", "sftp:me:geheim@host:/shop"),
        ("backup_repository", "x:me:geheim@host:/shop"),
        ("django_env", {"TOKEN: geheim": "x"}),
        ("django_files", {"TOKEN geheim": "x"}),
        ("django_services", [{**SERVICE, "TOKEN: geheim": "x"}]),
        ("site_sandbox", ["Environment: TOKEN: geheim"]),
        ("site_sandbox", ["Environment: AUTH: Basic geheim"]),
        ("django_version", "{{ vault_name }}"),
    ],
)
def test_no_secret_is_repeated(name, value):
    found = refused({name: value, "vault_name": "geheim !"})
    assert found
    assert "geheim" not in "".join(found)


def test_duplicate_secret_is_not_repeated():
    (line,) = refused(twice=(("a.yml:1", "TOKEN: geheim"),))
    assert line.startswith("a.yml:1: sets a name twice")


def test_inventory_messages_have_no_control_characters():
    (line,) = refused({"django_version": "\x1b[2Jx\x9b1m"})
    (entry,) = refused({"django_services": [{**SERVICE, "\x1b[2J": "x"}]})
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", line + entry)
    (line,) = refused({"django_source": "/no/\x9b1mx"})
    assert "/no/x does not exist" in line


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"site_name": "a"},
        {"site_name": "my-shop-2", "site_domains": ["xn--bcher-kva.example"]},
        {"django_env": {"PASSWORD": "a$b'c\"d %f\\ # ~`;{}", "HOME_PAGE": "", "X": "äöü"}},
        {"django_env": {"LD_DB_HOST": "/run/postgresql", "app__db__host": "x", "DEBUG": "0", "path": "x"}},
        {"django_env": {"ALLOWED_HOSTS": '["shop.example.com"]', "DATABASE_URL": "postgis://shop@/shop?host=/run/x"}},
        {"django_env": {"KEY": "-----BEGIN PRIVATE KEY-----\n\tabc=\n-----END PRIVATE KEY-----\n"}},
        {"django_build": {"before_collectstatic": ["sh -c 'npm ci && npm run build > log'", "sass a>b:c"]}},
        {"django_python": "3.12"},
        {"site_names_served": ["www.shop.example.com"]},
        {"site_names_served": "{{ site_domains }}"},
        {"site_names_served": "all"},
        {"django_env": {"ENV": "production"}},
        {"django_python": ">=3.11, <3.14"},
        {"django_python": "/opt/python3.12/bin/python3"},
        {"django_groups": ["production"], "django_extras": ["postgres-binary"]},
        {"django_extra_packages": ["psycopg[binary]==3.2.9", "tzdata", "own @ https://example.com/own.whl"]},
        {"django_build_environment": {"npm_config_registry": "https://x", "UV_INDEX_OWN_PASSWORD": "geheim"}},
        {"django_build_git_key": generated_key()},
        {"django_shared_paths": ["data", "database/index"]},
        {"django_source_includes": [".env", "certs/*.pem"]},
        {
            "nginx_headers": {
                "Report-To": '{"max_age": 1}',
                "X-Frame-2": "1",
                "Permissions-Policy": 'a=(self "https://b")',
            }
        },
        {"nginx_websocket_paths": ["/"], "host_group": "x", "site_network_environment": {"http_proxy": "http://p:1"}},
        {"site_media_root": "/var/lib/shop/media", "host_ssh_ports": [22, 2222]},
        {"site_media_root": "/data"},
        {"site_media_root": "/var/lib/django/media", "site_name": "rescue"},
        {"site_media_root": "/data/lib"},
        {"site_home": "/opt/home/shop", "site_config_dir": "/opt/home/shop/etc", "site_socket": "a" * 31},
        {"site_certificate": "/srv/shop/tls/fullchain.pem", "site_certificate_key": "/srv/shop/tls/privkey.pem"},
        {"backup_repository": "/srv/sets/shop", "site_acme_webroot": "/var/www/challenges"},
        {"site_media_root": "/home/shop/media"},
        {"site_media_root": "/mnt/uploads", "django_env": {"X": "a" * 100_000}},
        {"django_files": {"configuration.py": "A = 1\nB = 2\n", "shop/local.json": "{}"}},
        {
            "django_build": {
                "before_collectstatic": ["./build.sh --fast", "node_modules/.bin/vite build", "npm run a:b"]
            }
        },
        {"django_build": {"before_collectstatic": ["NODE_ENV=production CI=1 npm run build"]}},
        {"django_build": {"before_collectstatic": ["npm ci"], "after_collectstatic": ["python manage.py compress"]}},
        {"django_after_migrate": ["createcachetable", "loaddata 'first data.json'"], "django_collectstatic": False},
        {"django_after_migrate": ["--owner createcachetable"], "site_database_separate_owner": True},
        {"site_domains": ["a.com", "*.a.com"], "letsencrypt_dns_hook": __file__},
        {"site_domains": ["a.com", "*.a.com"], "letsencrypt_enabled": False},
        {
            "letsencrypt_domains": ["*.a.com"],
            "letsencrypt_dns_plugin": "cloudflare",
            "letsencrypt_dns_credentials": {"dns_cloudflare_api_token": "{{ token }}"},
            "token": "abc",
        },
        {
            "letsencrypt_eab_kid": "kid-1",
            "letsencrypt_eab_hmac_key": "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3M",
        },
        {"django_env": {"MEDIA": "{{ site_media_root }}/x", "DB": "{{ site_database }}"}},
        {"django_secret_key": KEY},
        {"django_source": "git@github.com:me/shop.git"},
        {"django_source": "ssh://git@git.example.com:2222/me/shop.git"},
        {"django_source": "{{ folder }}/sample_project", "folder": str(ROOT)},
        {"django_source": str(ROOT / "sample_project")},
        {"django_version": "release/2026.1"},
        {"django_version": "1.10"},
        {"django_version": "0123456789abcdef0123456789abcdef01234567"},
        {"site_user": "www", "site_database_user": "www"},
        {"site_home": "/opt/shop", "site_media_root": "/var/lib/shop/media"},
        {"django_allowed_hosts": ["shop.example.com", ".example.com"]},
        {"django_csrf_trusted_origins": ["https://*.example.com", "https://a.example.com:8443"]},
        {"django_health_path": "/health/?full=1", "django_keep_releases": 2},
        {"django_lock_timeout": "500ms", "site_static_url": "/assets/static/"},
        {"django_settings_module": "shop.settings.live", "django_application": "shop.asgi:app"},
        {"django_requirements": "requirements/live.txt", "django_subdirectory": "src/shop"},
        {"django_system_packages": ["libmagic1", "g++", "libpq-dev"]},
        {"postgres_settings": {"shared_buffers": "256MB", "work_mem": 4096, "fsync": True}},
        {"postgres_settings": {"shared_buffers": "{{ ansible_facts['memtotal_mb'] // 4 }}MB"}},
        {
            "postgres_extensions": [
                {"name": "uuid-ossp"},
                {"name": "vector", "package": "postgresql-{version}-pgvector"},
            ]
        },
        {"postgres_settings": {"max_connections": 173}, "gunicorn_workers": 40},
        {"gunicorn_settings": {"max_requests": 5000, "loglevel": "debug", "accesslog": "-"}},
        {"gunicorn_worker_class": "asgi", "gunicorn_workers": 0, "gunicorn_threads": 1},
        {"nginx_client_max_body_size": "512k", "nginx_hsts_max_age": 0},
        {"nginx_headers": {"Content-Security-Policy": "default-src 'self'; img-src *", "X-Frame-Options": ""}},
        {
            "nginx_rate_limits": [
                {"path": "/accounts/login/", "rate": "10r/m"},
                {"path": "/api", "rate": "5r/s", "burst": 1},
            ]
        },
        {"nginx_hsts_preload": True, "nginx_hsts_subdomains": True, "nginx_hsts_max_age": 63072000},
        {"nginx_trusted_proxies": ["198.51.100.0/24", "2001:db8::/32"], "nginx_maintenance_admits": ["192.0.2.7"]},
        {"nginx_body_limits": {"/upload": "1000m"}, "nginx_streamed_paths": ["/upload"]},
        {"nginx_websocket_paths": ["/ws/", "/live"]},
        {"valkey_urls": {"CELERY_BROKER_URL": 1, "REDIS_URL": 2}},
        {"valkey_settings": {"maxmemory": "1gb", "notify-keyspace-events": "", "appendonly": False, "hz": 20}},
        {"django_services": [{**SERVICE, "single": True, "start_seconds": 20}]},
        {"django_services": [SERVICE, {"name": "w-2", "command": "/usr/bin/python3 x", "stop_timeout": 86400}]},
        {"django_services": [{**SERVICE, "command": "sh -c 'a ; b' 100% $HOME \"it's\" \\;"}]},
        *(
            {"django_timers": [{**TIMER, "on_calendar": value}]}
            for value in (
                *("hourly", "03:00", "*:0/5", "*:*:0/10", "Mon", "Mon..Fri 08:00", "Sat,Sun *-*-* 04:30:00"),
                *("*-*-01 04:00 Europe/Berlin", "*-02~03", "2027-01-01", "daily UTC", "monday 9..17:00"),
            )
        ),
        {"site_sandbox": ["ProtectSystem=full", "CapabilityBoundingSet=", "ReadWritePaths=/var/lib/shop"]},
        {"django_pre_migrate_tasks": __file__},
        {
            "django_force_release": "true",
            "django_allow_breaking_migrations": "false",
            "backup_before_migrations": "false",
        },
        {"letsencrypt_enabled": False},
        {"letsencrypt_directory_url": "https://pebble.example:14000/dir"},
        {"backup_repository": "sftp://backup@backup.example.com:2222/srv/shop", "backup_keep": {"daily": 30}},
        {"backup_repository": "rest:https://shop:secret@backup.example.com/", "backup_enabled": False},
        *(
            {"backup_point_in_time": True, "backup_repository": address}
            for address in ("/srv/sets", "sftp:me@example.com:/srv/sets", "sftp://me@example.com:22//srv/sets")
        ),
        {
            "backup_repository": "s3:https://s3.example.com/my-bucket/shop",
            "backup_environment": {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"},
        },
        {"backup_schedule": "*-*-* 03:30", "backup_failure_command": 'curl --data "$SITE: $UNIT" https://example.com/'},
        {"ansible_host": "203.0.113.10", "vault_thing": "x", "sitemap": 1},
    ],
    ids=lambda changes: " ".join(changes) or "the least",
)
def test_good_input_is_accepted(changes):
    assert refused(changes) == []


def test_defaults_of_the_roles_pass_the_check():
    values, _ = settle(Templar(loader=LOADER), dict(GOOD), SPECS)
    defaults = {name: value for name, value in values.items() if name not in BOUND}
    assert refused(defaults) == []


ARCHIVED = "https://git.example.com/me/shop/archive/v1.2.tar.gz"
CHECKSUM = f"sha256:{'0a' * 32}"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"django_source": ARCHIVED}, "an archive that is downloaded needs one. Fix: write sha256:"),
        ({"django_source": ARCHIVED, "django_source_checksum": "md5:00"}, "expected a SHA-256 checksum"),
        (
            {"django_source_checksum": CHECKSUM},
            "applies only to an archive that is downloaded by https. Fix: remove it",
        ),
        ({"django_git_key": "KEY"}, "applies only to a repository that is cloned by SSH"),
        (
            {"django_source": "git@git.example.com:me/shop", "django_git_key": "/no/such/key"},
            "expected a file on the controller",
        ),
        ({"django_source": "git@git.example.com:me/shop", "django_git_key": "OPEN"}, "chmod 600"),
        ({"django_source": "git@git.example.com:me/shop", "django_git_key": "VAULT"}, "expected a private key"),
        ({"django_source": ARCHIVED, "django_source_checksum": CHECKSUM}, None),
        ({"django_source": "git@git.example.com:me/shop", "django_git_key": "KEY"}, None),
    ],
    ids=str,
)
def test_source_needs_its_own_options_and_no_others(tmp_path, changes, expected):
    key = "-----BEGIN OPENSSH PRIVATE KEY-----\n"
    for name, text, mode in (("KEY", key, 0o600), ("OPEN", key, 0o644), ("VAULT", "$ANSIBLE_VAULT;1.1", 0o600)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(mode)
    given = {name: str(tmp_path / value) if value.isupper() else value for name, value in changes.items()}
    found = [str(problem) for problem in refused(given)]
    assert not found if expected is None else expected in "\n".join(found), found


def test_every_text_has_a_check_and_every_type_a_variable():
    by_choice_or_file = {
        *("letsencrypt_own_certificate", "letsencrypt_own_key", "letsencrypt_dns_hook", "host_ca_certificates"),
        *("nginx_maintenance_page", "nginx_error_page", "nginx_directives", "django_git_key"),
    }
    texts = {
        name for name, spec in SPECS.items() if spec["type"] != "bool" and not spec.get("choices") and name not in BOUND
    }
    assert texts - {name for name, spec in SPECS.items() if "check" in spec} == by_choice_or_file
    checks = [check for role in roles() for check in read_checks(role)["variables"].values()]
    checks += [entry for check in checks if "entries" in check for entry in check["entries"].values()]
    used = {check if isinstance(check, str) else check.get("type") for check in checks}
    assert used - {None} == TYPES.keys() | MANAGED_TYPES.keys()


@pytest.mark.parametrize(
    "relation", ["required_together", "same_on_all_hosts_of_a_site", "same_for_all_sites_of_a_host"]
)
def test_relations_name_variables(relation):
    names = [name for entry in names_of(relation) for name in ([entry] if isinstance(entry, str) else entry)]
    assert names
    assert set(names) <= SPECS.keys()


def test_former_names_lead_to_variables():
    assert set(role_specs.read_renamed().values()) <= SPECS.keys()
    assert not role_specs.read_renamed().keys() & SPECS.keys()


def test_foreign_roles_in_the_folder_are_accepted_and_ignored(tmp_path, monkeypatch):
    for path in ("nginx/meta/checks.yml", "somebodys.nginx/meta/main.yml", ".DS_Store"):
        (tmp_path / "roles" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "roles" / path).touch()
    monkeypatch.setattr(role_specs, "COLLECTION", tmp_path)
    assert roles() == ["nginx"]


def test_required_variables_come_from_inventory_or_playbook():
    required = {name for name, spec in SPECS.items() if spec.get("required")}
    assert required - set(BOUND) == {"site_name", "site_domains", "django_source"}


# The whole way, through ansible-playbook


def play(tmp_path, variables, *options, playbook="site.yml"):
    inventory = {
        "all": {
            "children": {group: {"hosts": {"vps1": {}}} for group in GROUPS},
            # An address that nobody has: only a check that asks no host can pass.
            "hosts": {"vps1": {"ansible_host": "192.0.2.1", "ansible_user": "deploy"}},
            "vars": variables,
        }
    }
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump(inventory))
    return run_playbook(playbook, tmp_path / "hosts.yml", *options)


def run_playbook(playbook, inventory, *options, **environment):
    return subprocess.run(
        [
            Path(sys.executable).with_name("ansible-playbook"),
            "-i",
            inventory,
            *options,
            ROOT / playbook if playbook.endswith(".yml") else playbook,
        ],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_SSH_ARGS": "-F /dev/null", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_bad_inventory_ends_the_run_with_all_problems(tmp_path):
    bad = {"site_domian": "x", "gunicorn_workers": "4", "django_env": {"A": "{{ nothing }}"}}
    done = play(tmp_path, {**GOOD, "site_name": "root", **bad})
    text = done.stdout + done.stderr
    assert done.returncode == 2
    assert "4 problems in the inventory:" in text
    for line in (
        "\nsite_domian: is not a variable of the stack. Fix: write site_domains\n",
        "\nsite_name: is used by the system or the stack, got 'root'. Fix: use another name",
        "\ngunicorn_workers: expected an integer, got '4'. Fix: write an integer without quotes",
        "\ndjango_env: uses nothing, which is not set. Fix: set nothing, or write the value itself\n",
    ):
        assert line in text
    assert "unreachable=0" in text
    assert "Build the site" not in text


#: What a user of the collection has in place of ours.
OTHER_CONFIGURATION = f"[defaults]\ncollections_path={ROOT}/collections\n"


@pytest.mark.parametrize(("playbook", "name"), [("site", "nowhere"), ("deploy", "empty.yml"), ("status", "empty.yml")])
def test_inventory_without_hosts_ends_the_run(tmp_path, name, playbook):
    write(tmp_path, {"empty.yml": "all:\n  hosts:\n", "ansible.cfg": OTHER_CONFIGURATION})
    own = {"ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg")}
    done = run_playbook(f"django_vps.stack.{playbook}", tmp_path / name, **own)
    assert done.returncode != 0
    assert (
        "inventory: has no hosts. Fix: name an inventory with hosts, such as -i inventories/prod"
        in done.stdout + done.stderr
    )


@pytest.mark.parametrize(
    ("playbook", "refused"), [("django_vps.stack.deploy", True), ("playbooks/rollback.yml", True), ("own.yml", False)]
)
def test_variable_of_another_playbook_ends_the_run(tmp_path, playbook, refused):
    (tmp_path / "own.yml").write_text("- import_playbook: django_vps.stack.check_inventory\n  vars: {__reads: []}\n")
    run = f"{tmp_path}/own.yml" if playbook == "own.yml" else playbook
    done = play(tmp_path, GOOD, "-e", "maintenance=on", playbook=run)
    assert ("\nmaintenance: is not a variable of this playbook. Fix: " in done.stdout + done.stderr) == refused


def test_missing_inventory_beside_another_ends_the_run(tmp_path):
    write(tmp_path, {"hosts.yml": "all: {hosts: {vps1: {}}}"})
    done = run_playbook("playbooks/status.yml", tmp_path / "hosts.yml", "-i", tmp_path / "nowhere")
    assert done.returncode != 0
    assert (
        f"-i {tmp_path}/nowhere: does not exist. Fix: write the path of a file or a folder" in done.stdout + done.stderr
    )


def test_folder_of_an_inventory_may_hold_other_files(tmp_path):
    play(tmp_path, GOOD, playbook="playbooks/check_inventory.yml")
    write(tmp_path, {"nginx.conf": "server { listen 1; }\n", "deploy_key": "x", "ini": "[web]\nvps1\n"})
    write(tmp_path, {"pre_migrate.yml": "- name: x\n  ansible.builtin.debug:\n", "dns-hook": "#!/bin/sh\n"})
    done = run_playbook("playbooks/check_inventory.yml", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_duplicate_name_is_refused_with_any_configuration(tmp_path):
    vault = VaultLib([("default", VaultSecret(b"x"))])
    write(
        tmp_path,
        {
            "hosts.yml": "all:\n  vars:\n    site_name: a\n    site_name: b\n  hosts: {vps1: {}}\n",
            "group_vars/all/main.yml": "a: &a {b: 1}\nc:\n  - {<<: *a, d: 1, d: 2}\n",
            "host_vars/vps1.yml": "key: !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n  3363\nkey: x\n",
            "group_vars/web/extra": "e: 1\ne: 2\n",
            "group_vars/web/.hidden.yml": "e: 1\ne: 2\n",
            "group_vars/web/old.yml~": "e: 1\ne: 2\n",
            "group_vars/web/secrets.yml": vault.encrypt(b"s: 1\ns: 2\n").decode(),
            "password": "x",
            "given.yml": "g: 1\ng: 2\n",
            "ansible.cfg": OTHER_CONFIGURATION,
        },
    )
    options = ("--vault-password-file", tmp_path / "password", "-e", f"@{tmp_path}/given.yml")
    own = {"ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg")}
    done = run_playbook("django_vps.stack.site", tmp_path / "hosts.yml", *options, **own)
    assert done.returncode != 0
    said = re.findall(rf"^{tmp_path}/(.*) twice, and the first value is lost\. Fix: write it once$", done.stdout, re.M)
    assert said == [
        *("hosts.yml:4: sets site_name", "given.yml:2: sets g", "group_vars/all/main.yml:3: sets d"),
        *("group_vars/web/extra:2: sets e", "group_vars/web/secrets.yml:2: sets s", "host_vars/vps1.yml:4: sets key"),
    ]
    done = run_playbook("site.yml", tmp_path / "hosts.yml")
    assert done.returncode != 0
    assert "Found duplicate mapping key" in done.stdout + done.stderr


@pytest.mark.parametrize("option", ["--check", "--diff"])
def test_a_good_inventory_passes_without_a_connection(tmp_path, option):
    done = play(tmp_path, GOOD, option, playbook="playbooks/check_inventory.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok=1    changed=0    unreachable=0" in done.stdout


def write(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return str(folder)


MANAGE = """os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")"""
SQLITE = """DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "db.sqlite3"}}"""
PROJECT = {"manage.py": MANAGE, "shop/settings.py": "", "requirements.txt": "django\n"}


@pytest.mark.parametrize(
    ("files", "variables", "said"),
    [
        (
            {"README": ""},
            {},
            "there is no manage.py at the top of the source or one folder below it. Fix: set django_sub",
        ),
        ({"a/b/manage.py": MANAGE}, {}, "but in a/b. Fix: set django_subdirectory"),
        ({"a/manage.py": MANAGE, "b/manage.py": MANAGE}, {}, "in several folders: a, b. Fix: set django_subdirectory"),
        (PROJECT, {"django_subdirectory": "web"}, "there is no manage.py in web"),
        ({**PROJECT, "manage.py": "main()"}, {}, "does not name a settings module. Fix: set django_settings_module"),
        (PROJECT, {"django_settings_module": "shop.setings"}, "one that is, such as shop.settings"),
        ({**PROJECT, "shop/settings.py": SQLITE}, {}, "knows no database but SQLite"),
        (
            {"manage.py": MANAGE.replace("settings", "settings.dev"), "shop/settings/dev.py": SQLITE}
            | {"shop/settings/production.py": ""},
            {},
            "settings for production (shop.settings.production)",
        ),
        ({"manage.py": MANAGE, "Pipfile": ""}, {}, "run pipenv lock"),
        (
            {**PROJECT, "requirements.txt": "", "requirements/base.txt": ""},
            {"django_requirements": "x.txt"},
            "has no x.txt",
        ),
        (PROJECT, {"django_groups": ["prod"]}, "requirements.txt has no group prod"),
        (PROJECT, {"django_requirements": "base.txt"}, "the source has no base.txt"),
        (
            {**PROJECT, "pyproject.toml": '[project]\nname = "shop"\nrequires-python = "3.x"\n'},
            {},
            "requires-python in pyproject.toml: Invalid specifier: '3.x'. Fix: write a range such as >=3.11",
        ),
        ({"services/desk/src/manage.py": MANAGE}, {}, "but in services/desk/src. Fix: set django_subdirectory"),
        ({"manage.py": MANAGE, "shop/settings.py": "", "poetry.lock": "<<<<"}, {}, "poetry.lock cannot be read"),
    ],
)
def test_unusable_source_is_refused_before_any_connection(tmp_path, files, variables, said):
    folder, archive = write(tmp_path / "folder", files), str(tmp_path / "source.tar.gz")
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(folder, "shop-1.2")
    for source in (folder, archive):
        [line] = refused({"django_source": source, **variables})
        assert line.startswith(f"django_source: {source}: ")
        assert said in line


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def test_unfetched_lfs_files_are_refused_before_a_connection(tmp_path):
    folder, archive = write(tmp_path / "folder", {**PROJECT, "a/film.mp4": POINTER}), str(tmp_path / "source.tar.gz")
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(folder, "shop-1.2")
    for source, where in ((folder, f"in {folder}"), (archive, "before the archive is packed,")):
        [line] = refused({"django_source": source})
        assert line.startswith(f"django_source: {source}: a/film.mp4: only the pointer of Git LFS is there. Fix: ")
        assert f"{where} run git lfs pull" in line
        assert refused({"django_source": source, "django_files": {"a/film.mp4": "x"}}) == []


def test_private_index_is_refused_for_pip_before_a_connection(tmp_path):
    files = {**PROJECT, "pyproject.toml": '[project]\nname = "shop"\ndependencies = ["own"]\n'}
    del files["requirements.txt"]
    folder = write(tmp_path / "folder", {**files, "uv.toml": 'extra-index-url = ["https://example.com"]\n'})
    [line] = refused({"django_source": folder, "django_installer": "pip"})
    assert line.startswith(f"django_source: {folder}: uv.toml says in extra-index-url")
    assert refused({"django_source": folder}) == []
    told = {"PIP_EXTRA_INDEX_URL": "https://example.com"}
    assert refused({"django_source": folder, "django_installer": "pip", "django_build_environment": told}) == []


@pytest.mark.parametrize("source", ["/no/such/folder", "README", "empty.tar.gz"])
def test_source_is_ignored_by_runs_that_do_not_deploy(tmp_path, source):
    (tmp_path / "README").mkdir()
    (tmp_path / "empty.tar.gz").touch()
    given = {"django_source": str(tmp_path / source)}
    assert len(refused(given)) == 1
    assert refused(given, deploys=False) == []


def test_invalid_archive_is_refused_before_any_connection(tmp_path):
    (tmp_path / "source.tar.gz").write_text("<html>")
    [line] = refused({"django_source": f"{tmp_path}/source.tar.gz"})
    assert line.startswith(f"django_source: {tmp_path}/source.tar.gz cannot be unpacked: ")


@pytest.mark.parametrize(
    ("files", "variables"),
    [
        (PROJECT, {}),
        ({"web/manage.py": MANAGE, "requirements.txt": ""}, {}),
        ({**PROJECT, "shop/settings.py": f"{SQLITE}\nif os.environ.get('DB'): pass\n"}, {}),
        *(
            ({**PROJECT, "shop/settings.py": f"{SQLITE}\n{more}"}, {})
            for more in (
                "import dynaconf\nsettings = dynaconf.DjangoDynaconf(__name__)\n",
                "from configurations import Configuration, values\n",
                "from shop.conf import conf\nDATABASES = conf.databases or DATABASES\n",
                "import tomllib\nglobals().update(tomllib.loads(text))\n",
            )
        ),
        (
            {
                **PROJECT,
                "manage.py": f"if 'test' in sys.argv:\n    {MANAGE.replace('settings', 'settings.test')}\n{MANAGE}",
            },
            {},
        ),
        ({**PROJECT, "manage.py": f"# {MANAGE.replace('settings', 'settings.old')}\n{MANAGE}"}, {}),
        ({**PROJECT, "shop/settings/__init__.py": ""}, {}),
        ({**PROJECT, "shop/settings.py": f"{SQLITE}\ntry:\n    from .local_settings import DATABASES\n"}, {}),
        (
            {"manage.py": MANAGE, "shop/__init__.py": "", "requirements.txt": ""},
            {"django_build": {"before_collectstatic": ["cp shop/settings.example.py shop/settings.py"]}},
        ),
        (
            {"manage.py": MANAGE, "shop/__init__.py": ""},
            {"django_files": {"shop/settings.py": "x", "requirements.txt": "y"}},
        ),
        ({"manage.py": MANAGE.replace("shop", "elsewhere"), "requirements.txt": ""}, {}),
    ],
)
def test_folder_that_can_be_a_project_is_accepted(tmp_path, files, variables):
    assert refused({"django_source": write(tmp_path, files), **variables}) == []


@pytest.mark.parametrize(
    ("includes", "said"),
    [
        ([], "it has more than 1024 MiB of files"),
        (["no/such/*"], "nothing in it fits no/such/*, of django_source_includes"),
        (["link"], "the link link leads out of the source, to /etc/passwd"),
    ],
)
def test_unpackable_source_is_refused_before_any_connection(tmp_path, includes, said):
    folder = write(tmp_path / "folder", PROJECT)
    if not includes:
        with (tmp_path / "folder/rows.db").open("wb") as file:
            file.truncate(3 << 30)
    if includes == ["link"]:
        (tmp_path / "folder/link").symlink_to("/etc/passwd")
    [line] = refused({"django_source": folder, "django_source_includes": includes})
    assert line.startswith(f"django_source: {folder}: {said}")
