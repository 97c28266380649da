# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Check several variables of one host together."""

from __future__ import annotations

import itertools
import posixpath
from collections.abc import Iterator

from ansible_collections.django_vps.stack.plugins.plugin_utils.inventory import Case, Problem, check_file, domains
from ansible_collections.django_vps.stack.plugins.plugin_utils.pgbackrest import refuse_repository
from ansible_collections.django_vps.stack.plugins.plugin_utils.project_types import ENVIRONMENT, size_of
from ansible_collections.django_vps.stack.plugins.plugin_utils.role_specs import (
    headers_of_nginx,
    names_of,
    reserved_connections,
)

#: Ends of the names of units that the roles backup, letsencrypt and postgres write.
UNITS = (
    *("backup", "backup-base", "backup-drill", "backup-failed", "backup-wal"),
    *("certificate", "certificate-share", "pgbouncer"),
)
#: Most bytes of a path to a socket (unix(7)).
SOCKET_PATH = 107
#: Folders of a site, each with what to do about one that meets another.
FOLDERS = {
    "backup_repository": "use a folder such as /var/backups/shop, or another server",
    "site_config_dir": "use a folder such as /etc/shop",
    "site_media_root": "write {home}/media",
    "site_certificate": "write one such as /etc/shop/tls/fullchain.pem",
    "site_home": "use a folder such as /srv/shop",
    "site_acme_webroot": "write /var/www/acme",
    "site_identity_dir": "write /etc/ssl/django_vps",
}
#: Folders of the stack that no variable has.
OF_STACK = ("/etc/django_vps", "/var/lib/django_vps")
#: Which of them can be inside which.
NESTED = {
    ("site_certificate", "site_config_dir"),
    *((name, "site_home") for name in ("site_certificate", "site_config_dir", "site_media_root")),
}


def check_required_together(case: Case) -> Iterator[Problem]:
    for pair in names_of("required_together"):
        for name, other in (pair, reversed(pair)):
            if case.values.get(other) and not case.values.get(name) and name not in case.failed:
                yield Problem(name, f"is not set, but {other} is", "set both or neither")


def check_login(case: Case) -> Iterator[Problem]:
    for name in ("site_name", "site_user"):
        if case.login and case.values.get(name) == case.login and name in case.given:
            yield Problem(name, "is the ansible_user", "use another name", case.login)
            case.values.pop(name)


def check_database_role(case: Case) -> Iterator[Problem]:
    if not {"app", "database"} <= case.parts:
        return
    role, user = case.values.get("site_database_user"), case.values.get("site_user")
    if role and user and role != user:
        yield Problem(
            "site_database_user",
            f"expected the site_user, {user}, because of peer authentication",
            "set both to the same, or neither",
            role,
        )


def check_separate_owner(case: Case) -> Iterator[Problem]:
    if case.values.get("site_database_separate_owner") and "app" in case.parts and "database" not in case.parts:
        advice = "remove it, or put the host of the group app into the group database"
        yield Problem("site_database_separate_owner", "requires the database on the host of the site", advice)


def check_pooler(case: Case) -> Iterator[Problem]:
    if case.values.get("site_database_pooler", "none") == "none":
        return
    if case.values.get("site_database_url"):
        advice = "remove it; for the pooler of a service, site_database_direct_url has the address past it"
        yield Problem("site_database_pooler", "requires a database of the stack, and site_database_url is set", advice)
    if not str(case.values.get("site_database_host", "/run/")).startswith("/run/"):
        what, advice = "expected a folder in /run for the socket of the pooler", "remove it"
        yield Problem("site_database_host", what, advice, case.values["site_database_host"])
    if case.values.get("site_database") == "pgbouncer":
        yield Problem("site_database", "is the name of PgBouncer's console", "use another name, such as shop")


def check_connections(case: Case) -> Iterator[Problem]:
    if not {"app", "database"} <= case.parts or "postgres_settings" not in case.values:
        return
    if case.values.get("site_database_pooler", "none") != "none":
        return
    workers, threads = case.values.get("gunicorn_workers"), case.values.get("gunicorn_threads")
    limit = str(case.values["postgres_settings"].get("max_connections", 100))
    reserved = reserved_connections()
    if not workers or not threads or not limit.isdecimal() or workers * threads <= int(limit) - reserved:
        return
    wanted = workers * threads
    yield Problem(
        "gunicorn_workers",
        f"{workers} workers of {threads} gunicorn_threads open up to {wanted} connections, "
        f"and the site can have {int(limit) - reserved} of the {limit} of PostgreSQL",
        f"reduce them, or set max_connections: {wanted + reserved} in postgres_settings",
    )


def check_environment(case: Case) -> Iterator[Problem]:
    """Check the sum of the variables, which a build has all at once."""
    dictionaries = [case.values.get(name, {}) for name in ("django_env", "django_build_environment")]
    keys = dict.fromkeys(("SECRET_KEY", "DJANGO_SECRET_KEY"), case.values.get("django_secret_key", ""))
    size = sum(size_of(key, value) for each in (*dictionaries, keys) for key, value in each.items())
    if size > ENVIRONMENT:
        what = f"has {size // 1024} KiB with django_build_environment, and all variables can have {ENVIRONMENT // 1024}"
        yield Problem("django_env", what, "put large values into files with django_files")


def check_service(case: Case) -> Iterator[Problem]:
    service = case.values.get("site_service")
    sites = [values.get("site_name") for values in (case.values, *case.neighbours.values())]
    if service in [f"{site}-{unit}" for site in sites for unit in UNITS]:
        advice = f"use another name, such as {case.values.get('site_name', 'shop')}-gunicorn"
        yield Problem("site_service", "is a unit of the stack", advice, service)


def check_job_names(case: Case) -> Iterator[Problem]:
    """Check that the names of services and timers are unique, because they are the names of their units."""
    taken: dict[str, str] = {}
    for owner in ("django_services", "django_timers"):
        for name in (job["name"] for job in case.values.get(owner, ())):
            if name in taken:
                yield Problem(f"{owner}.{name}", f"is in {taken[name]} too", "use another name")
            taken.setdefault(name, owner)


def check_url_paths(case: Case) -> Iterator[Problem]:
    static, media = case.values.get("site_static_url"), case.values.get("site_media_url")
    if static and media and (static.startswith(media) or media.startswith(static)):
        yield Problem(
            "site_media_url",
            f"shares a path with site_static_url, {static}",
            "use two paths of which neither is inside the other",
            media,
        )


def check_folders(case: Case) -> Iterator[Problem]:
    """Check that no part of the stack owns, deletes or serves the files of another one."""
    values = {name: case.values[name] for name in FOLDERS if str(case.values.get(name, "")).startswith("/")}
    if "site_certificate" in values:
        values["site_certificate"] = posixpath.dirname(values["site_certificate"])
    places = [(name, name, folder) for name, folder in values.items()]
    if home := values.get("site_home"):
        places += [("site_home", f"{home}/{name}", f"{home}/{name}") for name in ("releases", "current", "static")]
    places += [("", path, path) for path in OF_STACK]
    # The variables that the inventory sets are the mistake, and defaults that follow from them are not.
    places.sort(key=lambda place: place[0] not in case.given)
    reported: set[str] = set()
    for (inner, its_name, folder), (outer, other_name, other) in itertools.permutations(places, 2):
        pair = {inner, outer}
        if len(pair) == 1 or not f"{folder}/".startswith(f"{other}/") or not pair & case.given.keys():
            continue
        if ((its_name, other_name) in NESTED and folder != other) or pair & reported:
            continue
        contains = inner not in case.given
        name, what = (outer, f"contains {its_name}") if contains else (inner, f"is inside {other_name}")
        reported |= pair
        yield Problem(name, what, FOLDERS[name].format(home=home), case.values[name])


def check_socket(case: Case) -> Iterator[Problem]:
    home, socket = case.values.get("site_home"), case.values.get("site_socket", "")
    most = SOCKET_PATH - len(f"/releases/20261129T120000Z/{socket}")
    if home and len(home) > most:
        what = f"expected at most {most} characters, because sockets are created below it"
        yield Problem("site_home", what, "use a shorter path, such as /srv/shop, or a shorter site_socket", home)


def check_shared_paths(case: Case) -> Iterator[Problem]:
    for outer, inner in itertools.combinations(sorted(case.values.get("django_shared_paths", ())), 2):
        if f"{inner}/".startswith(f"{outer}/"):
            yield Problem("django_shared_paths", f"has {inner}, which is in {outer}", f"remove {inner}")


def check_backup(case: Case) -> Iterator[Problem]:
    repository, environment = case.values.get("backup_repository", ""), case.values.get("backup_environment", {})
    missing = [name for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY") if name not in environment]
    if repository.startswith("s3:") and missing:
        advice = f"add {' and '.join(missing)} to backup_environment"
        yield Problem("backup_repository", "requires credentials", advice, repository)
    if case.values.get("backup_point_in_time") and "backup_repository" not in case.failed:
        name = "backup_point_in_time"
        if case.values.get("site_database_url"):
            yield Problem(name, "requires PostgreSQL on a host of the site", "remove it, or site_database_url")
        elif refusal := refuse_repository(repository):
            yield Problem("backup_repository", refusal[0], refusal[1], repository)
        for setting in case.values.get("postgres_settings", {}):
            if setting.startswith("archive_"):
                yield Problem(f"postgres_settings.{setting}", f"is set by {name}", "remove one of the two")


def check_ssh_ports(case: Case) -> Iterator[Problem]:
    taken = {80: "web", 443: "web", 5432: "database", case.values.get("valkey_port"): "valkey"}
    if case.site_members and case.values.get("site_database_pooler", "none") != "none":
        taken[case.values.get("site_database_pooler_port")] = "database"
    ports = case.values.get("host_ssh_ports")
    for port in ports if isinstance(ports, list) else ():
        if isinstance(port, int) and taken.get(port) in case.parts:
            yield Problem("host_ssh_ports", f"has a port of the group {taken[port]}", "use a port for SSH alone", port)


def check_served_names(case: Case) -> Iterator[Problem]:
    names = domains(case.values, "site_domains")
    for name in (name for name in domains(case.values, "site_names_served") if name not in names):
        yield Problem("site_names_served", "is not in site_domains", "add it there, for the certificate", name)


def check_admins(case: Case) -> Iterator[Problem]:
    names = [admin["name"] for admin in case.values.get("host_admins", ())]
    for index, name in enumerate(names):
        if name in names[:index]:
            yield Problem(f"host_admins.{name}", "is listed twice", "put all keys into one entry")
        if name in (case.values.get("site_name"), case.values.get("site_user")):
            yield Problem(f"host_admins.{name}", "is the user of the site", "use another name")


def check_deployer(case: Case) -> Iterator[Problem]:
    name = case.values.get("site_name")
    if not name or not case.values.get("deployer_keys"):
        return
    user = f"{name}-deploy"
    if len(user) > 32:
        yield Problem("deployer_keys", f"the user {user} would have more than 32 characters", "shorten site_name")
    neighbours = [values.get("site_user") for values in case.neighbours.values()]
    admins = [admin["name"] for admin in case.values.get("host_admins", ())]
    if user in (case.login, case.values.get("site_user"), *neighbours, *admins):
        yield Problem("deployer_keys", f"the user {user} exists for another purpose", "rename the other user")
    if case.site_members:
        what = f"would deploy to this host and not to {', '.join(case.site_members)}"
        yield Problem("deployer_keys", what, "remove it, and deploy with playbooks/deploy.yml")


def check_hsts_preload(case: Case) -> Iterator[Problem]:
    if not case.values.get("nginx_hsts_preload"):
        return
    if not case.values.get("nginx_hsts_subdomains") or case.values.get("nginx_hsts_max_age", 0) < 31536000:
        advice = "set nginx_hsts_subdomains: true, and nginx_hsts_max_age to a year or more"
        yield Problem("nginx_hsts_preload", "is accepted by browsers only with all subdomains and for a year", advice)


def check_locations(case: Case) -> Iterator[Problem]:
    """Refuse paths that already have their own location of nginx."""
    static, media = case.values.get("site_static_url"), case.values.get("site_media_url")
    for name in ("nginx_body_limits", "nginx_streamed_paths", "nginx_websocket_paths"):
        for path in case.values.get(name, ()):
            if path in (static, media, f"{media}private/"):
                yield Problem(name, "is served by nginx from the disk", "use a path that Django answers", path)


def check_headers(case: Case) -> Iterator[Problem]:
    """Refuse headers that differ only in case, because clients ignore the case of a name."""
    written: dict[str, str] = {}
    for key in (*headers_of_nginx(), *case.values.get("nginx_headers", ())):
        known = written.setdefault(key.lower(), key)
        if key != known:
            yield Problem("nginx_headers", "is listed twice, in different case", f"write {known}", key)


def check_nginx_files(case: Case) -> Iterator[Problem]:
    for name in ("nginx_maintenance_page", "nginx_error_page", "nginx_directives"):
        if case.values.get(name) and case.plays("nginx"):
            yield from check_file(case, name)


#: The checks in the order of their messages.
CHECKS = (
    check_served_names,
    check_login,
    check_database_role,
    check_connections,
    check_separate_owner,
    check_pooler,
    check_environment,
    check_service,
    check_job_names,
    check_url_paths,
    check_folders,
    check_socket,
    check_shared_paths,
    check_backup,
    check_required_together,
    check_ssh_ports,
    check_admins,
    check_deployer,
    check_hsts_preload,
    check_locations,
    check_headers,
    check_nginx_files,
)
