#!/usr/bin/python
# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: check_host
short_description: Check that a host can run a site, before any change
version_added: 1.0.0
description:
  - Reads the distribution, the clock, the packages and the listening programs of the host, and reports all problems at
    once. The action plugin checks them on the controller. Also reads what decides the size of the programs.
  - Replaces M(ansible.builtin.setup) and M(ansible.builtin.package_facts), which take three times as long.
options:
  web:
    description: Whether the host needs the ports 80 and 443.
    type: bool
    default: false
  database:
    description: Whether the host needs the port 5432.
    type: bool
    default: false
  valkey_port:
    description: Port that Valkey needs on the host. V(0) means none.
    type: int
    default: 0
  pooler_port:
    description: Port that PgBouncer needs on the host. V(0) means none.
    type: int
    default: 0
  http3:
    description: Whether nginx will serve HTTP/3.
    type: bool
    default: false
  firewall:
    description: Whether the host will have a firewall.
    type: bool
    default: false
  ssh_ports:
    description: Ports of sshd that the firewall leaves open.
    type: list
    elements: int
    default: []
  point_in_time:
    description: Name of the site whose backup will archive the WAL of PostgreSQL. Empty if none will.
    type: str
    default: ""
  archive_sftp:
    description: Whether that archive is on an SFTP server.
    type: bool
    default: false
attributes:
  check_mode:
    description: Changes nothing.
    support: full
  diff_mode:
    description: Changes nothing.
    support: none
author:
  - the django_vps.stack authors (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Check the host
  django_vps.stack.check_host:
    web: true
    ssh_ports: [22]
"""

RETURN = r"""
ansible_facts:
  description: Facts of the host.
  returned: always
  type: dict
  contains:
    distribution:
      description: Name of the distribution, such as V(Debian). In the same way C(distribution_version) and
        C(distribution_release).
      type: str
    distribution_python:
      description: Version of the distribution's Python, such as V(3.13.5). Empty where it is missing.
      type: str
    env:
      description: Environment of Ansible on the host.
      type: dict
    packages:
      description: Names of the packages that are installed, each with an empty list.
      type: dict
    has_ipv6:
      description: Whether the kernel supports IPv6.
      type: bool
    memory_mb:
      description: Memory of the host in MB, or the limit of its container.
      type: int
    processors:
      description: Number of processors that programs of the host can use.
      type: int
    poolers:
      description: Ports of the poolers of sites on the host, each by the name of its site.
      type: dict
    data_disk_mb:
      description: Size of the file system for the data of PostgreSQL, in MB.
      type: int
    pgbackrest:
      description: Names of the configurations of pgBackRest, which are those of the sites that archive WAL.
      type: list
      elements: str
    data_disk_spins:
      description: Whether that file system is on a magnetic disk. Disks of virtual machines count as flash memory.
      type: bool
"""

import contextlib
import os
import re
import socket
import subprocess
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.common.sys_info import get_distribution, get_distribution_codename, get_distribution_version

#: Units that listen for sshd and pass it the sockets.
SSH_SOCKETS = ("ssh.socket", "sshd.socket", "dropbear.socket")
#: A file of the role nginx; if it exists, other sites in the folders below belong to the role or are there on purpose.
OWN_NGINX = Path("/etc/nginx/snippets/django_vps-tls.conf")
NGINX_SITES = (Path("/etc/nginx/sites-enabled"), Path("/etc/nginx/conf.d"))
UNITS = Path("/etc/systemd/system")
#: Files of the role valkey for the units of its instances, and the folder of their configurations.
OWN_VALKEY = (UNITS, "*-server@*.service.d/django_vps.conf")
CONFIGURATIONS = Path("/etc")
#: Units of the role postgres for the poolers of sites, and what they say about their port.
POOLER = "-pgbouncer.service"
POOLER_PORT = re.compile(r"^Description=Connection pooler of .* port (\d+)$", re.MULTILINE)
#: Configurations of pgBackRest; the role backup names them after their site.
PGBACKREST = Path("/etc/pgbackrest")
#: Where Debian's PostgreSQL keeps its data.
DATA = Path("/var/lib/postgresql")
#: Prints the version of the Python with which releases run; Ansible can use another one. module_utils/python.py has the
#: path as well, but hosts that this module refuses have no tomllib, which it imports.
PYTHON_VERSION = ("/usr/bin/python3", "-c", "import platform; print(platform.python_version())")
#: The memory limit of a container, seen from inside.
MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")


def lines_of(*argv: str) -> list[str]:
    """Return the output of a program; empty where the program is missing or fails."""
    try:
        return subprocess.run(argv, capture_output=True, text=True, check=False, errors="replace").stdout.splitlines()
    except OSError:
        return []


def installed_packages() -> list[str]:
    rows = (
        line.partition(" ")
        for line in lines_of("dpkg-query", "--show", "--showformat=${db:Status-Status} ${Package}\n")
    )
    return [name for status, _space, name in rows if status == "installed"]


def ssh_sockets() -> list[str]:
    """Return the addresses on which active units listen for sshd, such as V([::]:22 (Stream))."""
    return [
        line
        for unit in SSH_SOCKETS
        if lines_of("systemctl", "is-active", unit) == ["active"]
        for line in lines_of("systemctl", "show", "--property=Listen", "--value", unit)
    ]


def foreign_nginx_sites() -> list[str]:
    if OWN_NGINX.exists():
        return []
    found = (path for folder in NGINX_SITES if folder.is_dir() for path in sorted(folder.iterdir()))
    return [str(path) for path in found if path.name != "default"]


def ports_of_valkey() -> list[str]:
    """Return the ports of the instances of Valkey or Redis that belong to sites."""
    units, pattern = OWN_VALKEY
    names = [path.parent.name.removesuffix(".service.d").split("-server@", 1) for path in units.glob(pattern)]
    texts = [text_of(CONFIGURATIONS / program / f"{program}-{site}.conf") for program, site in names]
    return re.findall(r"^(?:tls-)?port (\d+)$", "\n".join(texts), re.MULTILINE)


def poolers() -> dict[str, str]:
    """Return the ports of the poolers, by the names of their sites."""
    units = UNITS.glob(f"*{POOLER}")
    found = {path.name.removesuffix(POOLER): POOLER_PORT.search(text_of(path)) for path in units}
    return {site: port[1] for site, port in found.items() if port}


def has_ipv6() -> bool:
    try:
        socket.socket(socket.AF_INET6).close()
    except OSError:
        return False
    return True


def memory_mb() -> int:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):
        memory = min(memory, int(MEMORY_LIMIT.read_text()))
    return memory // 2**20


def data_folder() -> Path:
    """Return the folder for the data of PostgreSQL, or its nearest parent that exists."""
    return next(folder for folder in (DATA, *DATA.parents) if folder.exists())


def spins(device: Path) -> bool:
    """Return whether a folder of /sys/dev/block is a magnetic disk, a part of one, or a volume on one.

    The kernel reports that disks of virtual machines rotate; only physical disks have the vendor ATA.
    """
    if below := list((device / "slaves").glob("*")):
        return any(spins(each) for each in below)
    disk = device.resolve()
    disk = disk.parent if (disk / "partition").exists() else disk
    vendor, model, rotates = (text_of(disk / name) for name in ("device/vendor", "device/model", "queue/rotational"))
    return rotates == "1" and vendor == "ATA" and "QEMU" not in model


def text_of(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "web": {"type": "bool", "default": False},
            "database": {"type": "bool", "default": False},
            "valkey_port": {"type": "int", "default": 0, "no_log": False},
            "pooler_port": {"type": "int", "default": 0},
            "http3": {"type": "bool", "default": False},
            "firewall": {"type": "bool", "default": False},
            "ssh_ports": {"type": "list", "elements": "int", "default": []},
            "point_in_time": {"type": "str", "default": ""},
            "archive_sftp": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    folder = data_folder()
    disk, device = os.statvfs(folder), folder.stat().st_dev
    module.exit_json(
        changed=False,
        ansible_facts={
            "distribution": get_distribution(),
            "distribution_version": get_distribution_version(),
            "distribution_release": get_distribution_codename(),
            "distribution_python": next(iter(lines_of(*PYTHON_VERSION)), ""),
            "env": dict(os.environ),
            "packages": {name: [] for name in installed_packages()},
            "has_ipv6": has_ipv6(),
            "memory_mb": memory_mb(),
            "poolers": poolers(),
            "processors": len(os.sched_getaffinity(0)),
            "data_disk_mb": disk.f_blocks * disk.f_frsize // 2**20,
            "pgbackrest": sorted(path.stem for path in PGBACKREST.glob("*.conf")),
            "data_disk_spins": spins(Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")),
        },
        clock=int(time.time()),
        listening=lines_of("ss", "-Hltnp"),
        ssh_sockets=ssh_sockets(),
        nginx_sites=foreign_nginx_sites(),
        ports_of_valkey=ports_of_valkey(),
    )


if __name__ == "__main__":
    main()
