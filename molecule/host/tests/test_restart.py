"""The host after its provider has rebooted it."""

from __future__ import annotations

import subprocess

from conftest import ssh


def test_firewall_is_active_after_reboot_and_run_changes_nothing(site, play, until):
    rules = site.host.check_output("nft --stateless list table inet django_vps")
    subprocess.run(["docker", "restart", site.container], check=True, capture_output=True)
    site.note_address()
    until(lambda: ssh(site, "debian", "true").returncode == 0)
    until(lambda: site.get("/health/").status == 200)
    assert site.host.check_output("nft --stateless list table inet django_vps") == rules
    assert "changed=0" in play("--tags=host")
    # What the provider of a container does for it, and scenario's prepare.yml did.
    site.host.check_output(
        "mkdir -p /run/proc; mount -t proc proc /run/proc; mount --bind /run/proc/sys/net /proc/sys/net;"
        " sysctl -qw net.ipv6.conf.eth0.disable_ipv6=0;"
        f" ip -6 address replace fd00::{site.name.removeprefix('site')}/64 dev eth0 nodad"
    )
