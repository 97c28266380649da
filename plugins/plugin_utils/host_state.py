# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Check the state of a host before a site is set up on it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

SUPPORTED = ("bookworm", "trixie", "noble")
#: Supported distributions whose nginx has no HTTP/3.
WITHOUT_HTTP3 = ("bookworm", "noble")
#: Supported distributions whose pgBackRest has no SFTP.
WITHOUT_SFTP = ("bookworm",)
#: Most seconds by which clocks may differ; certificates and signatures of packages tolerate this.
MAX_CLOCK_DIFFERENCE = 300
#: Packages of the programs of the stack. Valkey also has instances of others, so only its own ports count.
OWN_PACKAGES = {"nginx": "nginx", "postgres": r"postgresql-\d+"}
VALKEY = ("valkey-server", "redis-server")
POOLER = "pgbouncer"
#: Variables of the inventory for options of the module with another name.
VARIABLES = {"pooler_port": "site_database_pooler_port"}
SSH_SERVERS = {"sshd", "dropbear"}
FIREWALLS = ("firewalld", "shorewall", "netfilter-persistent", "ufw")

#: A line of `ss -Hltnp`: state, two queues, local address with its port, and the programs that listen.
LISTENING = re.compile(r'(?:\S+ +){3}\S*:(?P<port>\d+) (?:.*users:\(\("(?P<program>[^"]+)",pid=(?P<process>\d+))?')


def judge_host(host: str, options: Mapping[str, Any], state: Mapping[str, Any], now: float) -> Iterator[str]:
    """Yield all problems of the host, each as one message."""
    facts = state["ansible_facts"]
    sockets = [found.groupdict() for line in state["listening"] if (found := LISTENING.match(line))]
    yield from judge_clock(host, state["clock"], now)
    yield from judge_distribution(host, facts, options["http3"])
    yield from judge_ports(host, options, sockets, state)
    yield from judge_archive(host, options, facts)
    if options["firewall"]:
        yield from judge_firewalls(host, facts)
        yield from judge_ssh_ports(host, options["ssh_ports"], sockets, state["ssh_sockets"])


def judge_clock(host: str, clock: int, now: float) -> Iterator[str]:
    if abs(clock - now) >= MAX_CLOCK_DIFFERENCE:
        there, here = (datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") for moment in (clock, now))
        yield f"The clock of {host} says {there}, and the one here {here}. Fix: set the wrong one (timedatectl)."


def judge_distribution(host: str, facts: Mapping[str, Any], http3: bool) -> Iterator[str]:
    release = facts["distribution_release"]
    if release not in SUPPORTED:
        runs = f"{facts['distribution']} {facts['distribution_version']}"
        yield f"{host} runs {runs}. Fix: use Debian 13 or 12 (Ubuntu 24.04 is written for, not tested)."
    elif http3 and release in WITHOUT_HTTP3:
        yield f"nginx_http3: the nginx of {host} has no HTTP/3; Debian's has it from 13 on. Fix: remove nginx_http3."


def judge_ports(
    host: str, options: Mapping[str, Any], sockets: list[dict[str, str]], state: Mapping[str, Any]
) -> Iterator[str]:
    packages, valkey_port = state["ansible_facts"]["packages"], str(options["valkey_port"])
    pooler_port, poolers = str(options["pooler_port"]), state["ansible_facts"]["poolers"]
    own = {program: any(re.fullmatch(name, each) for each in packages) for program, name in OWN_PACKAGES.items()}
    own |= dict.fromkeys(VALKEY, valkey_port in state["ports_of_valkey"]) | {POOLER: pooler_port in poolers.values()}
    needed = {port: ["nginx"] for port in ("80", "443") if options["web"]}
    needed |= {"5432": ["postgres"]} if options["database"] else {}
    needed |= {valkey_port: VALKEY} if options["valkey_port"] else {}
    needed |= {pooler_port: [POOLER]} if options["pooler_port"] else {}
    foreign = [
        f"port {each['port']} is used by {each['program']}, process {each['process']}"
        for each in sockets
        if each["port"] in needed
        and each["program"]
        and not (each["program"] in needed[each["port"]] and own[each["program"]])
    ]
    if options["web"] and own["nginx"] and any(each["port"] == "80" and each["program"] == "nginx" for each in sockets):
        foreign += [f"port 80 is used by nginx for {site}" for site in state["nginx_sites"]]
    if foreign:
        fix = "Fix: remove that program, or stop its unit for good, as by systemctl disable --now UNIT."
        for name in ("valkey_port", "pooler_port"):
            if any(each.startswith(f"port {options[name]} ") for each in foreign):
                fix += f" Or set {VARIABLES.get(name, name)} to another one."
        yield f"{host}: {', '.join(dict.fromkeys(foreign))}; the site needs it.\n{fix}"


def judge_archive(host: str, options: Mapping[str, Any], facts: Mapping[str, Any]) -> Iterator[str]:
    if not options["point_in_time"]:
        return
    if others := [name for name in facts["pgbackrest"] if name != options["point_in_time"]]:
        yield (
            f"backup_point_in_time: PostgreSQL of {host} has one archive, by /etc/pgbackrest/{others[0]}.conf. Fix: set"
            f" it for one site only, and run site.yml for {others[0]} after it was removed there."
        )
    if options["archive_sftp"] and facts["distribution_release"] in WITHOUT_SFTP:
        yield (
            f"backup_point_in_time: the pgBackRest of {host} has no SFTP; Debian's has it from 13 on. Fix: set"
            " backup_repository to a folder or S3, or remove backup_point_in_time."
        )


def judge_firewalls(host: str, facts: Mapping[str, Any]) -> Iterator[str]:
    # Ubuntu installs ufw but does not enable it.
    others = [
        name
        for name in FIREWALLS
        if name in facts["packages"] and not (name == "ufw" and facts["distribution"] == "Ubuntu")
    ]
    if others:
        yield (
            f"{', '.join(others)} manages the firewall of {host}. Fix: remove it, with its rules in host_open_tcp,"
            " host_open_udp or host_firewall_rules, or set host_manage_firewall: false."
        )


def judge_ssh_ports(
    host: str, ports: list[int], sockets: list[dict[str, str]], ssh_sockets: list[str]
) -> Iterator[str]:
    of_sshd = [each["port"] for each in sockets if each["program"] in SSH_SERVERS]
    of_sshd += re.findall(r":(\d+) \(Stream\)", "\n".join(ssh_sockets))
    listening = {each["port"] for each in sockets} | set(of_sshd)
    deaf = [str(port) for port in ports if str(port) not in listening]
    # A host to which Ansible connects in another way can be without sshd.
    if deaf and of_sshd:
        heard = ", ".join(dict.fromkeys(of_sshd))
        yield (
            f"host_ssh_ports: expected ports on which sshd of {host} listens ({heard}), got {', '.join(deaf)}. Fix:"
            f" behind a router that maps ports, set host_ssh_ports: [{heard}]; to open another port, add a line 'Port"
            " NUMBER' for each port to /etc/ssh/sshd_config.d/port.conf on the host and reload sshd."
        )
