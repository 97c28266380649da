# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Check the hosts of one site, and the sites on one host."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from ansible_collections.django_vps.stack.plugins.plugin_utils.inventory import Case, Problem, domains
from ansible_collections.django_vps.stack.plugins.plugin_utils.role_specs import names_of

#: Variables whose values two sites on one host must not share.
ONE_SITE = ("site_name", "site_home", "site_user", "site_database", "site_service")
#: Folders of a site, which must not be inside those of another site.
FOLDERS = ("site_home", "site_media_root", "site_config_dir")
#: Variables that must have the same value on all hosts of a site.
AGREED = names_of("same_on_all_hosts_of_a_site")
#: Variables of other roles than host that a host has only once.
HOST_WIDE = names_of("same_for_all_sites_of_a_host")


def check_host_address(case: Case) -> Iterator[Problem]:
    if not case.site_members or "site_address" in case.failed:
        return
    address = case.values.get("site_address")
    if address == "":
        what = f"is not set, and {', '.join(case.site_members)} of the same site connect to this host"
        yield Problem("site_address", what, "write the address of the host, preferably in a private network")
    same = [other for other, values in case.site_members.items() if address and values.get("site_address") == address]
    if same:
        advice = "write an address that only this host has"
        yield Problem("site_address", f"is the address of {', '.join(same)} too", advice, address)


def check_same_on_all_hosts(case: Case) -> Iterator[Problem]:
    for name in AGREED:
        others = [host for host, theirs in case.site_members.items() if theirs.get(name) != case.values.get(name)]
        if others and name in case.values:
            what = f"differs on {', '.join(others)} of the same site"
            yield Problem(name, what, "set it once, in group_vars/all.yml", case.values[name])


def check_database(case: Case) -> Iterator[Problem]:
    hosts = [host for host in (case.host, *case.site_members) if host in case.groups.get("database", ())]
    url = case.values.get("site_database_url")
    if url and hosts:
        advice = f"remove it, or take {' and '.join(sorted(hosts))} out of the group database"
        yield Problem("site_database_url", "is set, and the site has a database of its own", advice)
    elif not url and not hosts and case.groups.get("database") and "site_database_url" not in case.failed:
        what = "expected a host of this site in this group, which runs postgres"
        yield Problem("database", what, f"add {case.host} to it, or set site_database_url")
    if not url:
        for name in ("site_database_direct_url", "site_database_ca"):
            if case.values.get(name):
                yield Problem(name, "is of use only with site_database_url", "set that too, or remove this one")


def check_valkey(case: Case) -> Iterator[Problem]:
    hosts = [host for host in (case.host, *case.site_members) if host in case.groups.get("valkey", ())]
    if len(hosts) > 1:
        what = f"expected one host of a site in this group, got {' and '.join(sorted(hosts))}"
        yield Problem("valkey", what, "keep one of them")
    for name in ("REDIS_URL", *case.values.get("valkey_urls", ())):
        if hosts and name in case.values.get("django_env", ()):
            advice = f"remove it, or remove {hosts[0]} from the group valkey"
            yield Problem(f"django_env.{name}", "is set to the site's own valkey", advice)


def check_neighbour_sites(case: Case) -> Iterator[Problem]:
    """Check that sites on one host differ in all values that are derived from the name of the site."""
    for other, values in case.neighbours.items():
        names = (*ONE_SITE, "site_media_root", "backup_repository")
        if case.values.get("site_database_url"):
            # Two servers can have databases of one name.
            names = (*(name for name in names if name != "site_database"), "site_database_url")
        same = [name for name in names if name in values and case.values.get(name) == values[name]]
        for name in same[:1] if same[:1] == ["site_name"] else same:
            yield Problem(
                name,
                f"is the same for {other}, which has the same address",
                "give each site its own, or put one host into all groups",
                values[name],
            )
        if "site_name" not in same:
            theirs = domains(values, "site_domains")
            for name in (name for name in domains(case.values, "site_domains") if name in theirs):
                advice = "remove it from one of the sites"
                yield Problem("site_domains", f"is used by {other} on the same address too", advice, name)
            nested = (
                (mine, its)
                for mine, its in itertools.product(FOLDERS, FOLDERS)
                if {mine, its} <= case.values.keys() & values.keys()
                and f"{case.values[mine]}/".startswith(f"{values[its]}/")
            )
            # A problem of the home applies to all folders in it, so one message is enough.
            for mine, its in [] if same else itertools.islice(nested, 1):
                what = f"lies in the {its} of {other}, which has the same address"
                yield Problem(mine, what, "use a folder of its own for the site", case.values[mine])
        web = [host for host in (case.host, *case.site_members) if host in case.groups.get("web", ())]
        both_have_valkey = {case.host, other} <= set(case.groups.get("valkey", ()))
        # On one host a pooler has no port.
        both_have_poolers = {case.host, other} <= set(case.groups.get("database", ())) and all(
            each.get("site_database_pooler", "none") != "none" and each.get("site_address")
            for each in (case.values, values)
        )
        for name, is_used in (
            ("letsencrypt_share_port", len(web) > 1 and case.host in web),
            ("valkey_port", both_have_valkey),
            ("site_database_pooler_port", both_have_poolers),
        ):
            port = case.values.get(name)
            if is_used and values.get(name) == port:
                advice = "write another port for one of the sites"
                yield Problem(name, f"is used by {other} on the same address too", advice, port)
        name = "backup_point_in_time"
        if {case.host, other} <= set(case.groups.get("database", ())) and case.values.get(name) and values.get(name):
            advice = "set it for one of the sites; PostgreSQL has one archive"
            yield Problem(name, f"is true for {other} on the same address too", advice)
        name = "letsencrypt_eab_kid"
        kids = {case.values.get(name), values.get(name)} - {"", None}
        if len(kids) > 1 and values.get("letsencrypt_directory_url") == case.values.get("letsencrypt_directory_url"):
            advice = "use the same for both; a host has one account at a CA"
            yield Problem(name, f"differs from {other} on the same address", advice, case.values[name])
        for name in HOST_WIDE + tuple(name for name, spec in case.specs.items() if spec.get("role") == "host"):
            if name in values and name in case.values and values[name] != case.values[name]:
                advice = "use the same for both; the setting applies to the whole host"
                yield Problem(name, f"differs from {other} on the same address", advice, case.values[name])


#: The checks in the order of their messages.
CHECKS = (check_host_address, check_same_on_all_hosts, check_database, check_valkey, check_neighbour_sites)
