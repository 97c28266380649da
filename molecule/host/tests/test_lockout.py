"""Mistakes that would keep the owner out of the host, each of which ends with a login that works."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest
from conftest import done, site_yml, ssh

#: Seconds, counted from the change; a run takes up to half of it to learn that it was a mistake.
WITHIN = 60
NOBODY = "With these settings no login succeeds"


@pytest.fixture
def owner_gets_in(sites, until):
    yield
    for site in sites:
        until(lambda site=site: ssh(site, "debian", "sudo -n id -u").stdout == "0\n", WITHIN / 2)


@pytest.fixture
def drop_in(sites):
    """A file that somebody puts on the servers, gone in the end."""
    paths = []

    def write(path: str, content: str) -> None:
        paths.append(path)
        for site in sites:
            site.host.check_output(f"printf '%s\\n' '{content}' > {path}")

    yield write
    for site in sites:
        site.host.check_output(f"rm -f {' '.join(f'{path} {path}.refused' for path in paths)}")


def test_unknown_ssh_cipher_is_refused(refused_everywhere, drop_in, owner_gets_in):
    drop_in("/etc/ssh/sshd_config.d/10-mine.conf", "Ciphers rot13")
    refused_everywhere("Bad SSH2 cipher spec", "--tags=host")


@pytest.mark.parametrize("settings", ["AllowUsers nobody", "Ciphers 3des-cbc", "Port 2222"])
def test_sshd_settings_that_block_all_logins_are_reverted(sites, refused_everywhere, drop_in, owner_gets_in, settings):
    drop_in("/etc/ssh/sshd_config.d/00-a-mine.conf", settings)
    refused_everywhere(NOBODY, "--tags=host")
    for site in sites:
        # It cannot do harm at the next start either, and nothing of it is lost.
        assert site.host.file("/etc/ssh/sshd_config.d/00-a-mine.conf.refused").content_string == f"{settings}\n"


def test_sshd_config_edit_that_blocks_all_logins_is_reverted(sites, refused_everywhere, owner_gets_in):
    file = "/etc/ssh/sshd_config"
    before = [site.host.file(file).content_string for site in sites]
    for site in sites:
        site.host.check_output(f"echo AllowUsers nobody >> {file}")
    refused_everywhere(NOBODY, "--tags=host")
    # What is there instead is Debian's, and the edit is not lost.
    assert [site.host.file(file).content_string for site in sites] == before
    for site in sites:
        assert "AllowUsers nobody" in site.host.check_output(f"cat {file}.refused")


def test_ssh_port_without_a_listener_is_refused(refused_everywhere, owner_gets_in):
    refused_everywhere("listens (22), got 2222. Fix: ", "--tags=host", host_ssh_ports=[22, 2222])


def test_firewall_without_the_ssh_port_is_reverted(sites, refused_everywhere, owner_gets_in):
    for site in sites:
        site.host.check_output("systemd-run --unit=other /usr/bin/python3 -m http.server 2222")
    try:
        refused_everywhere(NOBODY, "--tags=host", host_ssh_ports=[2222])
    finally:
        for site in sites:
            site.host.check_output("systemctl stop other.service")


def test_earlier_rule_that_drops_all_input_is_reverted(sites, refused_everywhere, drop_in, until, owner_gets_in):
    chain = "type filter hook input priority -10\ndrop"
    drop_in("/etc/nftables.d/mine.nft", f"table inet mine {{\nchain input {{\n{chain}\n}}\n}}")
    refused_everywhere(NOBODY, "--tags=host")
    for site in sites:
        # Nobody may have been able to tell the host, as what was open is cut off too.
        until(lambda site=site: site.host.file("/etc/nftables.d/mine.nft.refused").exists, WITHIN / 2)
        # What that run held is held until sshd notices that it has gone; the next one is not to wait for that.
        site.host.check_output("pkill -KILL -u debian")


def test_administrator_without_a_key_is_refused(refused_everywhere, owner_gets_in):
    why = "host_admins.ada.keys: is an empty list"
    refused_everywhere(why, "--tags=host", host_admins=[{"name": "ada", "keys": []}])


def test_unknown_key_of_the_ansible_user_is_refused(refused_everywhere, owner_gets_in):
    stranger = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl nobody"
    refused_everywhere(NOBODY, "--tags=host", host_admins=[{"name": "debian", "keys": [stranger]}])


def test_removal_of_the_ansible_user_is_refused(sites, refused_everywhere, owner_gets_in):
    for site in sites:
        site.host.check_output("echo 'debian ALL=(ALL:ALL) NOPASSWD: ALL' >> /etc/sudoers.d/django_vps")
    refused_everywhere("Set ansible_user to another", "--tags=host", host_admins=[])
    for site in sites:
        site.host.check_output("sed -i /^debian/d /etc/sudoers.d/django_vps")


def test_ssh_change_is_reverted_when_the_controller_dies(site, command, drop_in, until):
    drop_in("/etc/ssh/sshd_config.d/00-a-mine.conf", "AllowUsers nobody")
    began = time.monotonic()
    with subprocess.Popen(command("--tags=host"), stdout=subprocess.DEVNULL, start_new_session=True) as playbook:
        until(lambda: site.host.run("test -d /var/lib/django_vps/guard/armed").rc == 0)
        os.killpg(playbook.pid, signal.SIGKILL)
    until(lambda: site.host.file("/etc/ssh/sshd_config.d/00-a-mine.conf.refused").exists, WITHIN)
    until(lambda: ssh(site, "debian", "true").returncode == 0, WITHIN - (time.monotonic() - began))


def test_second_run_after_lockouts_changes_nothing(sites):
    again = site_yml([site.container for site in sites], "--tags=host")
    assert done(again).returncode == 0
    assert done(again).stdout.count("changed=0") == len(sites)
