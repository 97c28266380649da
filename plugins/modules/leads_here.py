#!/usr/bin/python
# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: leads_here
short_description: Check that the names of a site lead to this host, before a CA does
version_added: 1.0.0
description:
  - To issue a certificate for a name, a CA requests a file at an address of the name (ACME, HTTP-01), and failures
    count against a rate limit. This module first requests a file of its own in the folder of the challenges, from the
    host itself.
  - A name without an address, and an address that does not serve that file within 15 seconds, fail the task. The
    message has these names and addresses, and the addresses from which this host connects to others.
  - The module leaves to the CA what the host cannot check. That is a name that the host itself resolves to a loopback
    address, such as in C(/etc/hosts); a name without an address where the CA's own address is private or unknown; and
    an IPv6 (or IPv4) address where the host has none, if the other addresses serve the file through a device in front
    of the host.
options:
  domains:
    description: Names of the site.
    type: list
    elements: str
    required: true
  webroot:
    description: Folder from which nginx serves the answers to challenges.
    type: path
    required: true
  server:
    description: ACME directory of the CA.
    type: str
    required: true
  creates:
    description: If this path exists, no request is sent.
    type: path
attributes:
  check_mode:
    support: full
    description: Sends no requests, because nginx may not be installed yet.
  diff_mode:
    support: none
    description: Changes no files.
author:
  - the django_vps.stack authors (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Check that the names of the site lead to this host
  django_vps.stack.leads_here:
    domains: [shop.example.com, www.shop.example.com]
    webroot: /var/www/acme
    server: https://acme-v02.api.letsencrypt.org/directory
"""

RETURN = r"""
addresses:
  description: Addresses of each name, null for a name that the host itself resolves to a loopback address.
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
from ansible_collections.django_vps.stack.plugins.module_utils.errors import refer

CHALLENGES = "/.well-known/acme-challenge"
# Seconds until nginx and the names must be ready, and seconds that one answer may take.
READY = 15
ANSWER = 5
PORTS = {"http": 80, "https": 443}
# Let's Encrypt follows as many redirects.
REDIRECTS = 10


def addresses_of(name: str) -> list[str] | None:
    """Return the addresses of the name; None where the host itself resolves it to a loopback address."""
    try:
        found = {str(where[0]) for *_kind, where in socket.getaddrinfo(name, 80, type=socket.SOCK_STREAM)}
    except socket.gaierror:
        return []
    if any(is_loopback(address) for address in found):
        # The loopback address is from /etc/hosts, where Debian writes the host's name. The DNS can have another.
        asked = subprocess.run(["getent", "-s", "dns", "ahosts", name], capture_output=True, text=True, check=False)
        found = {line.split()[0] for line in asked.stdout.splitlines()}
    return None if any(is_loopback(address) for address in found) else sorted(found)


def ip(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.ip_address(address.partition("%")[0])


def is_loopback(address: str) -> bool:
    return ip(address).is_loopback


def is_public(url: str) -> bool:
    """Return whether the server of the URL has a public address."""
    return any(ip(address).is_global for address in addresses_of(urlsplit(url).hostname or "") or ())


def is_here(address: str) -> bool:
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.bind((address, 0))
    except OSError:
        return False
    return True


def own_addresses() -> dict[int, str]:
    """Return the address from which the host connects to others, by the version of IP; no packet is sent."""
    found = {}
    for version, family, somewhere in ((4, socket.AF_INET, "198.51.100.1"), (6, socket.AF_INET6, "2001:db8::1")):
        # A kernel can be built without IPv6.
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as one:
            one.connect((somewhere, 9))
            found[version] = one.getsockname()[0]
    return found


def fetch(url: str, address: str) -> http.client.HTTPResponse:
    """Request a URL from an address; like the CA, accept any certificate."""
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
    """Return the complaint about the answer of the address; empty when it is the file."""
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
    """Return the addresses of the names, and the complaints about them that remain after READY seconds."""
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
    # nginx must be able to read the file, whatever the umask of the login is.
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
        advice = "Correct the A and AAAA records, or remove the name."
        module.fail_json(msg=f"{what}\nThis host goes out with {here}. {advice}\n{refer('certificates')}")
    module.exit_json(changed=False, addresses=found)


if __name__ == "__main__":
    main()
