"""Ansible on the server itself."""

from __future__ import annotations

from support.runs import ROOT

HOSTS = """
all:
  hosts:
    site12: {ansible_connection: local}
  children:
    web: {hosts: {site12: {}}}
    app: {hosts: {site12: {}}}
    database: {hosts: {site12: {}}}
    valkey: {hosts: {site12: {}}}
"""


def test_server_can_set_up_and_deploy_itself(site):
    before = site.release
    inventory = f"-i {ROOT}/tests/support/inventory.yml -i /root/hosts.yml"
    site.host.check_output(f"printf '%s' '{HOSTS}' > /root/hosts.yml")
    site.host.check_output(
        "apt-get -qq update && apt-get -qq install --yes --no-install-recommends git python3-venv"
        " && python3 -m venv /root/ansible && /root/ansible/bin/pip -q install 'ansible-core>=2.19'"
    )
    done = site.host.run(
        f"cd {ROOT} && export VPS_ROOT={ROOT}"
        f" && /root/ansible/bin/ansible-playbook site.yml {inventory} -e django_force_release=true"
    )
    assert done.rc == 0, done.stdout + done.stderr
    assert site.release != before
    assert site.get("/health/").status == 200
    # Nothing of the run is left that would keep the next one out.
    assert site.host.run(f"flock --nonblock /run/{site.name}-deploy.lock true").rc == 0
