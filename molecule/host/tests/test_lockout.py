"""Mistakes that would keep the owner out of the host, each of which ends with a login that works."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest
from test_ssh import ssh

#: Seconds, counted from the change; a run takes up to half of it to learn that it was a mistake.
WITHIN = 60


@pytest.fixture
def owner_gets_in(site, until):
    yield
    until(lambda: ssh(site, "debian", "sudo -n id -u").stdout == "0\n", WITHIN / 2)


@pytest.fixture
def drop_in(site):
    """A file that somebody puts on the host, gone in the end."""
    paths = []

    def write(path: str, content: str) -> None:
        paths.append(path)
        site.host.check_output(f"printf '%s\\n' '{content}' > {path}")

    yield write
    site.host.check_output(f"rm -f {' '.join(f'{path} {path}.refused' for path in paths)}")


def test_a_cipher_that_there_is_not(site, run, drop_in, owner_gets_in):
    drop_in("/etc/ssh/sshd_config.d/10-mine.conf", "Ciphers rot13")
    done = run("--tags=host")
    assert done.returncode != 0
    assert "Bad SSH2 cipher spec" in done.stdout


@pytest.mark.parametrize("settings", ["AllowUsers nobody", "Ciphers 3des-cbc", "Port 2222"])
def test_settings_of_sshd_that_let_nobody_in(site, run, drop_in, owner_gets_in, settings):
    drop_in("/etc/ssh/sshd_config.d/00-a-mine.conf", settings)
    done = run("--tags=host")
    assert done.returncode != 0
    assert "nobody can log in" in done.stdout
    assert "They are taken back" in done.stdout
    # It cannot do harm at the next start either, and nothing of it is lost.
    assert site.host.file("/etc/ssh/sshd_config.d/00-a-mine.conf.refused").content_string == f"{settings}\n"


def test_an_edit_of_sshds_own_file_that_lets_nobody_in(site, run, owner_gets_in):
    before = site.host.file("/etc/ssh/sshd_config").content_string
    site.host.check_output("echo AllowUsers nobody >> /etc/ssh/sshd_config")
    done = run("--tags=host")
    assert done.returncode != 0
    assert "nobody can log in" in done.stdout
    # What is there instead is Debian's, and the edit is not lost.
    assert site.host.file("/etc/ssh/sshd_config").content_string == before
    assert "AllowUsers nobody" in site.host.check_output("cat /etc/ssh/sshd_config.refused")


def test_a_firewall_without_the_port_of_ssh(run, owner_gets_in):
    done = run("--tags=host", host_ssh_ports=[2222])
    assert done.returncode != 0
    assert "nobody can log in" in done.stdout


def test_a_rule_before_ours_that_drops_what_comes_in(site, run, drop_in, until, owner_gets_in):
    chain = "type filter hook input priority -10\ndrop"
    drop_in("/etc/nftables.d/mine.nft", f"table inet mine {{\nchain input {{\n{chain}\n}}\n}}")
    done = run("--tags=host")
    assert done.returncode != 0
    assert "nobody can log in" in done.stdout
    # Nobody may have been able to tell the host, as what was open is cut off too.
    until(lambda: site.host.file("/etc/nftables.d/mine.nft.refused").exists, WITHIN / 2)
    # What that run held is held until sshd notices that it has gone; the next one is not to wait for that.
    site.host.check_output("pkill -KILL -u debian")


def test_an_administrator_without_a_key(run, owner_gets_in):
    done = run("--tags=host", host_admins=[{"name": "ada", "keys": []}])
    assert done.returncode != 0
    assert "host_admins.ada.keys: is an empty list" in done.stdout


def test_a_key_of_the_user_that_ansible_comes_in_as_which_nobody_has(site, run, owner_gets_in):
    stranger = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl nobody"
    done = run("--tags=host", host_admins=[{"name": "debian", "keys": [stranger]}])
    assert done.returncode != 0
    assert "nobody can log in" in done.stdout


def test_to_drop_the_user_that_ansible_comes_in_as(site, run, play, owner_gets_in, key):
    play("--tags=host", host_admins=[{"name": "debian", "keys": [key]}])
    done = run("--tags=host", host_admins=[])
    assert done.returncode != 0
    assert "Set ansible_user to another" in done.stdout
    site.host.check_output("sed -i /^debian/d /etc/sudoers.d/django_vps")
    play("--tags=host")


def test_a_controller_that_dies_between_the_change_and_the_login(site, command, drop_in, until):
    drop_in("/etc/ssh/sshd_config.d/00-a-mine.conf", "AllowUsers nobody")
    began = time.monotonic()
    with subprocess.Popen(command("--tags=host"), stdout=subprocess.DEVNULL, start_new_session=True) as playbook:
        until(lambda: site.host.run("test -d /var/lib/django_vps/guard/armed").rc == 0)
        os.killpg(playbook.pid, signal.SIGKILL)
    until(lambda: site.host.file("/etc/ssh/sshd_config.d/00-a-mine.conf.refused").exists, WITHIN)
    until(lambda: ssh(site, "debian", "true").returncode == 0, WITHIN - (time.monotonic() - began))


def test_the_host_settles_again(play):
    play("--tags=host")
    assert "changed=0" in play("--tags=host")
