"""What a CI's key may do: deploy, and nothing else."""

from __future__ import annotations

import io
import subprocess
import tarfile

import pytest
from conftest import ONE_IS_ENOUGH, PROJECT, ssh

# That both have what it runs on, scenario default shows.
pytestmark = ONE_IS_ENOUGH


def ask(site, *command: str, sends: bytes = b"", **options: str):
    done = ssh(site, f"{site.name}-deploy", *command, sends=sends, **options)
    print(done.stdout, done.stderr)
    return done


def pack(**pages: str) -> bytes:
    """The project as git has it, and what it has in addition as static files."""
    project = PROJECT / "sample_project"
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=project, stdout=-1, check=True)
    with io.BytesIO() as packed:
        with tarfile.open(fileobj=packed, mode="w:gz") as archive:
            for name in listed.stdout.decode().split():
                archive.add(project / name, arcname=f"./{name}")
            for name, text in pages.items():
                info = tarfile.TarInfo(f"./notes/static/notes/{name}.txt")
                info.size = len(text)
                archive.addfile(info, io.BytesIO(text.encode()))
        return packed.getvalue()


def test_deploy_key_deploys_rolls_back_and_lists_releases(site):
    before = site.release
    # What the inventory says is the same here, so the same source makes no release.
    done = ask(site, "deploy", "first", sends=pack())
    assert (done.returncode, site.release) == (0, before)
    assert "changed=0" in done.stdout
    assert ask(site, "deploy", "by-key", sends=pack(key="deployed by key")).returncode == 0
    assert site.release != before
    assert site.get("/static/notes/key.txt").body == "deployed by key"
    assert f"{site.name}-deploy@" in ask(site, "releases").stdout
    assert ask(site, "rollback").returncode == 0
    assert site.release == before


def test_invalid_source_from_deploy_key_is_refused(site):
    before = site.release
    done = ask(site, "deploy", "by-key", sends=b"rubbish")
    assert done.returncode not in (0, 64)
    assert "source:" in done.stdout + done.stderr
    assert site.release == before


@pytest.mark.parametrize(
    "asked",
    [
        *("", "id", "sh", "deploy", "deploy one two", "rollback one two", "releases all", "Releases"),
        *("deploy $(id)", "deploy `id`", "deploy one;id", "deploy one&&id", "releases|id", "deploy one\nid"),
        *("deploy {{ lookup('pipe','id') }}", "deploy {{7*7}}", "deploy --version", "releases -vvv", "deploy one=two"),
        *("deploy 'one'", 'deploy "one"', "deploy one\\", "deploy *", "deploy @/etc/shadow", "deploy one -e a=b"),
        *("scp -t /", "/usr/lib/openssh/sftp-server", "sudo -i", "git-receive-pack '/srv'", "rsync --server . /"),
    ],
)
def test_other_commands_of_deploy_key_are_refused(site, asked):
    done = ask(site, asked)
    assert done.returncode == 64
    assert "uid=" not in done.stdout + done.stderr


def test_deploy_key_gets_no_tunnel_and_no_terminal(site):
    assert "administratively prohibited" in ask(site, "-W", "127.0.0.1:80").stderr
    assert "PTY allocation request failed" in ask(site, "releases", RequestTTY="force").stderr


def test_sudo_allows_deploy_user_one_command_without_arguments(site):
    user, command = f"{site.name}-deploy", f"/usr/local/sbin/{site.name}-deploy"
    allowed = site.host.check_output(f"sudo -l -U {user}").partition("may run the following commands")[2]
    assert [line.strip() for line in allowed.splitlines()[1:]] == [f'(root) NOPASSWD: {command} ""']
    for refused in (f"{command} releases", "systemctl edit nginx", "-i", "sh", "-u postgres psql", "-u debian id"):
        asked = site.host.run(f"runuser -u {user} -- sudo -n {refused}")
        assert (asked.rc, asked.stderr.strip()) == (1, "sudo: a password is required")
    # Nor does a variable lead elsewhere.
    variables = "SSH_ORIGINAL_COMMAND=releases PYTHONHOME=/nowhere ANSIBLE_STDOUT_CALLBACK=nowhere BASH_ENV=/nowhere"
    assert site.host.run(f"runuser -u {user} -- env {variables} sudo -n {command} < /dev/null").rc == 0


def test_deploy_user_reads_no_secret_and_writes_no_program(site):
    user = f"{site.name}-deploy"
    for path in (f"/var/lib/{user}/hosts.yml", f"/etc/{site.name}/env", f"/srv/{site.name}/current/env"):
        assert site.host.file(path).exists
        assert site.host.run(f"runuser -u {user} -- cat {path}").rc != 0
    for top in (f"/var/lib/{user}", "/usr/local"):
        assert site.host.run(f"runuser -u {user} -- find {top} -writable ! -type l").stdout == ""


def test_removal_of_deploy_keys_removes_access_and_files(site, play):
    try:
        play("--tags=deployer", deployer_keys=[])
        assert ask(site, "releases").returncode == 255
        assert "not allowed" in site.host.run(f"sudo -l -U {site.name}-deploy").stdout
        assert not site.host.file(f"/var/lib/{site.name}-deploy/hosts.yml").exists
        assert "changed=0" in play("--tags=deployer", deployer_keys=[])
    finally:
        play("--tags=deployer")
    assert ask(site, "releases").returncode == 0
