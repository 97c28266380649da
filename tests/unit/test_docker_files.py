# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The files for Docker in sample_project, as far as they can be compared without an Engine."""

from __future__ import annotations

import os
import runpy
from pathlib import Path

import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "sample_project"

#: What depends on the place: the application and the socket, which systemd passes, the name, and a folder in memory.
OF_THE_PLACE = {"wsgi_app", "bind", "proc_name", "worker_tmp_dir"}


def settings(file: Path) -> dict[str, object]:
    """Return what gunicorn reads from a configuration file."""
    kinds = (str, int, bool, type(None))
    return {k: v for k, v in runpy.run_path(str(file)).items() if isinstance(v, kinds) and not k.startswith("__")}


def test_gunicorn_in_a_container_has_the_settings_of_the_role(tmp_path, monkeypatch):
    defaults = yaml.safe_load((ROOT / "roles/gunicorn/defaults/main.yml").read_text())
    variables = {**defaults, "site_service": "shop", "ansible_managed": "managed"}
    template = (ROOT / "roles/gunicorn/templates/gunicorn.conf.py.j2").read_text()
    rendered = tmp_path / "gunicorn.conf.py"
    rendered.write_text(Templar(loader=DataLoader(), variables=variables).template(trust_as_template(template)))
    monkeypatch.setattr(os, "environ", {"APPLICATION": "config.wsgi", "RUNTIME_DIRECTORY": str(tmp_path)})
    role, container = settings(rendered), settings(SAMPLE / "docker/gunicorn.conf.py")
    assert role["threads"] == 4
    assert {k: v for k, v in container.items() if k not in OF_THE_PLACE} == {
        k: v for k, v in role.items() if k not in OF_THE_PLACE
    }


def test_every_published_port_is_of_loopback():
    for file in ("compose.yaml", "compose.production.yaml"):
        services = yaml.safe_load((SAMPLE / file).read_text())["services"]
        ports = [port for service in services.values() for port in service.get("ports", ())]
        assert [port.partition(":")[0] for port in ports] == ["127.0.0.1"], file
