"""The settings of a site's valkey, the ports that it is refused, and what the project is told of it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

ROOT = Path(__file__).parent.parent.parent
ROLE = ROOT / "roles/valkey"
SITE = {
    "ansible_facts": {"distribution_release": "trixie"},
    "ansible_managed": "managed",
    "site_name": "shop",
    "site_topology": {"valkey_address": ""},
    "valkey_port": 6379,
    "valkey_settings": {},
    "valkey_urls": {},
}


def rendered(text: str, **variables) -> str:
    ours = {
        name: trust_as_template(value) if isinstance(value, str) else value
        for name, value in yaml.safe_load((ROLE / "vars/main.yml").read_text()).items()
    }
    templar = Templar(loader=DataLoader(), variables={**ours, **SITE, **variables})
    return templar.template(trust_as_template(text))


def template(name: str, **variables) -> str:
    return rendered((ROLE / "templates" / name).read_text(), **variables)


class Machine:
    """Folders and commands that validate.sh meets."""

    def __init__(self, folder: Path) -> None:
        self.etc, self.bin = folder / "etc", folder / "bin"
        self.etc.mkdir()
        self.bin.mkdir()
        self.write("shop", "port 6379")
        self.command("runuser", "echo '# Configured to not listen anywhere, exiting.'; exit 1")
        self.enable()
        self.listen("")

    def write(self, site: str, line: str) -> None:
        (self.etc / f"valkey-{site}.conf").write_text(f"bind 127.0.0.1\n{line}\n")

    def command(self, name: str, script: str) -> None:
        (self.bin / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.bin / name).chmod(0o755)

    def enable(self, *sites: str) -> None:
        """All instances that are enabled; the one of shop has the process 42."""
        units = "|".join(f"is-enabled:valkey-server@{site}" for site in ("shop", *sites))
        self.command("systemctl", f"case $1:$3 in show:*) echo 42 ;; {units}) ;; *) exit 1 ;; esac")

    def listen(self, *lines: str) -> None:
        self.command("ss", "\n".join(f"echo '{line}'" for line in lines if line))

    def validate(self) -> subprocess.CompletedProcess:
        script = template("validate.sh.j2", __valkey_config=str(self.etc / "valkey-shop.conf"))
        environment = {"PATH": f"{self.bin}:/usr/bin:/bin"}
        return subprocess.run(["sh", "-c", script], env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def machine(tmp_path) -> Machine:
    return Machine(tmp_path)


def test_a_free_port_is_accepted(machine):
    machine.write("blog", "port 6380")
    machine.write("news", "port 63790")
    machine.enable("blog", "news")
    assert machine.validate().returncode == 0


def test_the_sites_own_server_may_hold_the_port(machine):
    machine.listen('LISTEN 0 511 127.0.0.1:6379 0.0.0.0:* users:(("valkey-server",pid=42,fd=6))')
    assert machine.validate().returncode == 0


@pytest.mark.parametrize("line", ["port 6379", "tls-port 6379"])
def test_port_of_another_site_is_refused_while_it_is_down(machine, line):
    machine.write("blog", line)
    machine.enable("blog")
    refused = machine.validate()
    assert refused.returncode == 1
    assert refused.stderr == "valkey_port: 6379 is the port of the site blog. Fix: write another port.\n"


def test_settings_that_no_instance_uses_are_ignored(machine):
    machine.write("blog", "port 6379")
    assert machine.validate().returncode == 0


def test_a_port_that_another_process_holds_is_refused(machine):
    machine.listen('LISTEN 0 511 127.0.0.1:6379 0.0.0.0:* users:(("nc",pid=421,fd=3))')
    refused = machine.validate()
    assert refused.returncode == 1
    assert 'valkey_port: 6379 is taken: 127.0.0.1:6379 users:(("nc",pid=421,fd=3)). Fix:' in refused.stderr


def test_error_of_the_server_is_shown(machine):
    machine.command("runuser", "echo '*** FATAL CONFIG FILE ERROR ***'; exit 1")
    refused = machine.validate()
    assert (refused.returncode, refused.stderr) == (1, "*** FATAL CONFIG FILE ERROR ***\n")


def test_site_can_list_clients_but_run_no_other_admin_command():
    [user] = [line for line in template("valkey.conf.j2").splitlines() if line.startswith("user ")]
    rights = user.split()
    assert rights.index("+client|list") > max(rights.index("-@admin"), rights.index("-@dangerous"))


@pytest.mark.parametrize(("port", "is_privileged"), [(1023, True), (1024, False)])
def test_the_server_may_listen_on_a_privileged_port(port, is_privileged):
    dropin = template("dropin.conf.j2", valkey_port=port).splitlines()
    assert ("AmbientCapabilities=CAP_NET_BIND_SERVICE" in dropin) is is_privileged


def test_valkey_variables_match_the_url():
    # The inventory has another port by now.
    environment = rendered("{{ valkey_env }}", __valkey_url="redis://:secret@127.0.0.1:6380/0")
    assert environment == {
        "REDIS_URL": "redis://:secret@127.0.0.1:6380/0",
        "REDIS_HOST": "127.0.0.1",
        "REDIS_PORT": "6380",
        "REDIS_PASSWORD": "secret",
    }


@pytest.mark.parametrize(
    ("url", "numbers", "urls"),
    [
        (
            "redis://:a/0@127.0.0.1:6379/0",
            {"BROKER": 1, "CACHE": 15},
            {"BROKER": "redis://:a/0@127.0.0.1:6379/1", "CACHE": "redis://:a/0@127.0.0.1:6379/15"},
        ),
        (
            "rediss://shop:a@10.0.0.5:6379/0?ssl_ca_certs=/etc/0/x",
            {"BROKER": 1},
            {"BROKER": "rediss://shop:a@10.0.0.5:6379/1?ssl_ca_certs=/etc/0/x"},
        ),
        ("", {}, {}),
    ],
)
def test_further_valkey_urls_have_different_databases(url, numbers, urls):
    assert rendered("{{ __valkey_urls }}", __valkey_url=url, valkey_urls=numbers) == urls
