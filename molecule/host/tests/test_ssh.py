"""Who gets a shell, and who does not."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import KEY, argv, ssh

POLICIES = {"site12": "Hardened Debian 12 (version 3)", "site13": "Hardened Debian 13 (version 1)"}


def test_ssh_algorithms_pass_the_policy_of_ssh_audit(site):
    audit = Path(sys.executable).parent / "ssh-audit"
    done = subprocess.run(
        [audit, "--policy", POLICIES[site.name], site.address], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("user", ["debian", "root", "ada"])
def test_ssh_login_with_password_is_refused(site, user):
    site.host.check_output(f"echo {user}:correct-horse | chpasswd")
    refused = ssh(site, user, "true", PubkeyAuthentication="no", BatchMode="no", NumberOfPasswordPrompts="1")
    assert "Permission denied (publickey)" in refused.stderr
    site.host.check_output(f"passwd --lock {user}")


def test_a_tunnel_into_the_host_is_refused(site):
    done = ssh(site, "debian", "-W", "127.0.0.1:80")
    assert done.returncode != 0


def test_administrator_logs_in_and_has_full_sudo(site):
    assert ssh(site, "ada", "sudo -n id -u").stdout == "0\n"


def test_extra_administrator_key_is_removed_and_sudo_rule_kept(site, play):
    site.host.check_output("echo ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA ada >> /home/ada/.ssh/authorized_keys")
    # sudo minds this mode as little as the role does; visudo would.
    rule = "/etc/sudoers.d/joe"
    site.host.check_output(f"echo 'games ALL=(root) NOPASSWD: /usr/bin/id' > {rule}; chmod 644 {rule}")
    play("--tags=host")
    assert "/usr/bin/id" in site.host.check_output("sudo -l -U games")
    site.host.check_output(f"rm {rule}")
    assert site.host.file("/home/ada/.ssh/authorized_keys").content_string == KEY.with_suffix(".pub").read_text()


def test_removed_administrator_loses_access_until_listed_again(site, play, until):
    with subprocess.Popen(argv(site, "ada", "sleep 300"), stdin=subprocess.DEVNULL) as session:
        until(lambda: site.host.run("pgrep -u ada sleep").rc == 0)
        play("--tags=host", host_admins=[])
        # Nor does the session last that was open.
        session.wait(30)
    assert ssh(site, "ada", "true").returncode == 255
    assert "not allowed" in site.host.run("sudo -l -U ada").stdout
    assert site.host.file("/home/ada").exists
    again = play("--tags=host", host_admins=[])
    assert "changed=0" in again
    play("--tags=host")
    assert ssh(site, "ada", "sudo -n id -u").stdout == "0\n"


#: Says what sshd says of wrong passwords, as a user of a site, and by a program that has the name of sshd.
FORGE = """
mkdir -p /opt/forge
for program in sshd sshd-session; do
  cp /usr/bin/logger /opt/forge/$program
  {{
    for port in 4001 4002 4003 4004 4005 4006 4007 4008; do
      echo "Failed password for root from {victim} port $port ssh2"
    done
    sleep 3
  }} | runuser -u {user} -- /opt/forge/$program --tag sshd --priority auth.info
done
journalctl --sync
rm -r /opt/forge
"""


def test_forged_log_messages_ban_no_address(site, neighbour, until):
    """That fail2ban reads on, the next test shows."""
    victim = neighbour.check_output("hostname -I").split()[0]
    site.host.check_output(FORGE.format(user=site.name, victim=victim))
    said = "journalctl --quiet --since=-2min _COMM=sshd + _COMM=sshd-session"
    until(lambda: site.host.check_output(said).count(f"Failed password for root from {victim}") == 16, 10)
    time.sleep(3)
    assert victim not in site.host.check_output("fail2ban-client status sshd")


def test_failed_logins_of_a_per_connection_sshd_are_banned(site, until):
    guesser = "198.51.100.77"
    lines = "".join(f"Failed password for root from {guesser} port {port} ssh2\\n" for port in range(4001, 4009))
    said = f"{{ printf '{lines}'; sleep 3; }} | logger --tag sshd --priority auth.info"
    site.host.check_output(f'systemd-run --quiet --wait --slice=system-ssh.slice sh -c "{said}"')
    until(lambda: guesser in site.host.check_output("fail2ban-client status sshd"), 30)
    site.host.check_output(f"fail2ban-client unban {guesser}")


def test_ssh_brute_force_is_banned_until_unbanned(site, neighbour, until):
    me = neighbour.check_output("hostname -I").split()[0]
    # A ban amid a login leaves ssh waiting until TCP gives up, a quarter of an hour later.
    attempt = (
        f"timeout 10 ssh -o BatchMode=yes -o StrictHostKeyChecking=no -o ConnectTimeout=3 admin@{site.address} true"
    )
    for _ in range(5):
        assert neighbour.run(attempt).rc in (255, 124)
    until(lambda: me in site.host.check_output("fail2ban-client status sshd"), 30)
    assert "Permission denied" not in neighbour.run(attempt).stderr
    # Others are served meanwhile.
    assert ssh(site, "debian", "true").returncode == 0

    def is_let_in() -> bool:
        # On a busy machine the jail bans again for the attempts that it had not read yet.
        site.host.check_output(f"fail2ban-client unban {me}")
        return "Permission denied" in neighbour.run(attempt).stderr

    # The firewall forgets the address a moment after the jail.
    until(is_let_in, 30)
