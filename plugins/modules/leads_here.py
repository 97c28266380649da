#!/usr/bin/python
# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: leads_here
short_description: Learn whether a CA would find this host by its names
version_added: 1.0.0
description:
  - A CA that is to certify a name asks for a file at an address that the name has (ACME, HTTP-01), and counts what it
    does not find against a limit. This asks first, from the host itself, for a file that it puts where the challenges
    are.
  - A name that has no address, and an address at which that file is not found within 15 seconds, fail the task. The
    message names them, and the addresses that this host goes out with.
  - What cannot be seen from the host is left to the CA. That is a name for which the host has its own word, such as a
    loopback address in C(/etc/hosts); a name without an address where the CA's own is private or not to be found; and
    an address of IPv6 (or IPv4) where the host has none, and is found at the others behind something in front of it.
options:
  domains:
    description: The names.
    type: list
    elements: str
    required: true
  webroot:
    description: Folder that the web server answers challenges from.
    type: path
    required: true
  server:
    description: ACME directory of the CA.
    type: str
    required: true
  creates:
    description: Where this is there already, nothing is asked.
    type: path
attributes:
  check_mode:
    support: full
    description: Asks nobody, as the web server may not be there yet.
  diff_mode:
    support: none
    description: It changes no files.
author:
  - the django_vps.stack authors (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Learn whether the site's names lead here
  django_vps.stack.leads_here:
    domains: [shop.example.com, www.shop.example.com]
    webroot: /var/www/acme
    server: https://acme-v02.api.letsencrypt.org/directory
"""

RETURN = r"""
addresses:
  description: Addresses of each name, null for one of which the host itself says that it leads here.
  returned: success
  type: dict
  sample: {"shop.example.com": ["203.0.113.10", "2001:db8::10"]}
"""

import contextlib
import http.client
import ipaddress
import os
import secrets
import socket
import ssl
import subprocess
import time
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from ansible.module_utils.basic import AnsibleModule

CHALLENGES = "/.well-known/acme-challenge"
# Seconds until which the web server and the names have to be ready, and for which one answer may take.
READY = 15
ANSWER = 5
PORTS = {"http": 80, "https": 443}
# As many as Let's Encrypt follows.
REDIRECTS = 10


def addresses_of(name: str) -> list[str] | None:
    """What the name leads to; None where the host says itself that it is the one."""
    try:
        found = {str(where[0]) for *_kind, where in socket.getaddrinfo(name, 80, type=socket.SOCK_STREAM)}
    except socket.gaierror:
        return []
    if any(is_loopback(address) for address in found):
        # From /etc/hosts, where Debian writes the host's own name. The DNS may know another.
        asked = subprocess.run(["getent", "-s", "dns", "ahosts", name], capture_output=True, text=True, check=False)
        found = {line.split()[0] for line in asked.stdout.splitlines()}
    return None if any(is_loopback(address) for address in found) else sorted(found)


def ip(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.ip_address(address.partition("%")[0])


def is_loopback(address: str) -> bool:
    return ip(address).is_loopback


def is_public(url: str) -> bool:
    """Whether the server of the URL is one that everybody can reach."""
    return any(ip(address).is_global for address in addresses_of(urlsplit(url).hostname or "") or ())


def is_here(address: str) -> bool:
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.bind((address, 0))
    except OSError:
        return False
    return True


def own_addresses() -> dict[int, str]:
    """With which address the host goes out, by the version of IP. No packet is sent for that."""
    found = {}
    for version, family, somewhere in ((4, socket.AF_INET, "198.51.100.1"), (6, socket.AF_INET6, "2001:db8::1")):
        # A kernel may be without IPv6.
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as one:
            one.connect((somewhere, 9))
            found[version] = one.getsockname()[0]
    return found


def fetch(url: str, address: str) -> http.client.HTTPResponse:
    """Ask an address for a URL; who certifies it is of no interest to the CA either."""
    wanted = urlsplit(url)
    name = wanted.hostname or ""
    line = socket.create_connection((address, wanted.port or PORTS[wanted.scheme]), ANSWER)
    if wanted.scheme == "https":
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        line = context.wrap_socket(line, server_hostname=name)
    asked = http.client.HTTPConnection(name, wanted.port)
    asked.sock = line
    asked.request("GET", wanted.path)
    return asked.getresponse()


def trouble(name: str, address: str, token: str) -> str:
    """What is found at the address instead of the file; nothing when it is the file."""
    url = f"http://{name}{CHALLENGES}/{token}"
    for _hop in range(REDIRECTS + 1):
        asked = urlsplit(url).hostname
        try:
            with contextlib.closing(fetch(url, address if asked == name else asked)) as answer:
                body = answer.read(1000).decode(errors="replace").strip()
        except (OSError, http.client.HTTPException, ValueError) as error:
            return f"gives no answer ({error or type(error).__name__})"
        if answer.status not in (301, 302, 303, 307, 308):
            break
        url = urljoin(url, answer.headers.get("Location", ""))
        if urlsplit(url).scheme not in PORTS:
            return f"leads on to {url}"
    if answer.status != 200:
        return f"answers {answer.status}"
    return "" if body == token else "answers with another site"


def troubles(name: str, addresses: list[str], token: str) -> list[str]:
    versions = own_addresses()
    found = {address: trouble(name, address, token) for address in addresses}
    in_front = any(not what and not is_here(address) for address, what in found.items())
    return [
        f"{name} leads to {address}, which {what}"
        for address, what in found.items()
        if what and not (in_front and ip(address).version not in versions)
    ]


def look(names: list[str], token: str, server: str) -> tuple[dict[str, list[str] | None], list[str]]:
    """The addresses of the names, and what is wrong with them after some time."""
    end = time.monotonic() + READY
    while True:
        found = {name: addresses_of(name) for name in names}
        wrong = [what for name, addresses in found.items() for what in troubles(name, addresses or [], token)]
        nowhere = [f"{name} has no address" for name, addresses in found.items() if addresses == []]
        if nowhere and is_public(server):
            wrong += nowhere
        if not wrong or time.monotonic() > end:
            return found, wrong
        time.sleep(1)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "domains": {"type": "list", "elements": "str", "required": True},
            "webroot": {"type": "path", "required": True},
            "server": {"type": "str", "required": True},
            "creates": {"type": "path"},
        },
        supports_check_mode=True,
    )
    asked = module.params
    # The web server reads it, whoever else may not.
    os.umask(0o022)
    if module.check_mode or (asked["creates"] and Path(asked["creates"]).exists()):
        module.exit_json(changed=False, addresses={})
    token = f"django_vps-{secrets.token_hex(16)}"
    file = Path(f"{asked['webroot']}{CHALLENGES}/{token}")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(token)
    try:
        found, wrong = look(asked["domains"], token, asked["server"])
    finally:
        file.unlink()
    if wrong:
        here = " and ".join(own_addresses().values()) or "no address"
        what = "\n".join(["The CA would not find this host, so no certificate was ordered:", *wrong])
        advice = "Mend the A and AAAA records, or leave out the name."
        module.fail_json(msg=f"{what}\nThis host goes out with {here}. {advice}")
    module.exit_json(changed=False, addresses=found)


if __name__ == "__main__":
    main()
