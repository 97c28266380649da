"""How the source comes to the controller when it is not there."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import re
import ssl
import subprocess
import tarfile
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def fetch(folder: Path, tasks: str, **variables) -> subprocess.CompletedProcess:
    """Run what the role does to fetch the source; what it fetched is in folder/cache."""
    known = {"site_name": "shop", "site_domains": ["shop.example.com"], "django_version": "main", **variables}
    role = {"name": "django_vps.stack.django", "tasks_from": tasks, "rolespec_validate": False}
    facts = {"set_fact": {"distribution_python": "3.13.5", "cacheable": True}}
    play = {"hosts": "localhost", "gather_facts": False, "vars": known, "tasks": [facts, {"import_role": role}]}
    (folder / "play.yml").write_text(json.dumps([play]))
    environment = {
        **os.environ,
        "XDG_CACHE_HOME": str(folder / "cache"),
        "GIT_SSH_COMMAND": str(folder / "ssh"),
        "SSL_CERT_FILE": str(folder / "cert.pem"),
        "NO_PROXY": "localhost",
    }
    argv = [ROOT / ".venv/bin/ansible-playbook", "-i", "localhost,", "-c", "local", folder / "play.yml"]
    return subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def repository(tmp_path):
    """One behind SSH, as far as git knows: what it runs in place of ssh notes how it was called."""
    folder = tmp_path / "repo"
    folder.mkdir()
    (folder / "manage.py").write_text("")
    (folder / "film.mp4").write_text("version https://git-lfs.github.com/spec/v1\n")
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.test"]
    for argv in (["init", "-q", "-b", "main"], ["add", "."], [*identity, "commit", "-qm", "first"]):
        subprocess.run(["git", *argv], cwd=folder, check=True)
    program = f'#!/bin/sh\necho "$@" >> {tmp_path}/called\nexec git-upload-pack {folder}\n'
    (tmp_path / "ssh").write_text(program)
    (tmp_path / "ssh").chmod(0o755)
    return "git@git.example.test:me/shop"


def test_repository_is_read_with_its_key_and_checked(tmp_path, repository):
    done = fetch(tmp_path, "source", django_source=repository, django_git_key=f"{tmp_path}/deploy key")
    assert "2 problems in the source:" in done.stdout
    assert f"django_source: {repository}: manage.py does not name a settings module" in done.stdout
    pointer = f"django_source: {repository}: film.mp4: only the pointer of Git LFS is there. Fix: install git-lfs"
    assert pointer in done.stdout
    assert re.search(rf"in {tmp_path}/cache/django_vps/shop-\w+ run git lfs pull", done.stdout)
    assert [path.name for path in tmp_path.glob("cache/django_vps/shop-*/manage.py")] == ["manage.py"]
    called = (tmp_path / "called").read_text().splitlines()
    assert called
    assert all(f"-i {tmp_path}/deploy key -o IdentitiesOnly=yes" in line for line in called), called


PYTHON = '[project]\nname = "shop"\ndependencies = ["django"]\nrequires-python = ">=3.14"\n'


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, "asks for Python >=3.14, and the host's is 3.13.5. Fix: leave out django_installer, as uv fetches one"),
        ({"django_python": "3.12"}, "django_python asks for Python 3.12, and the host's is 3.13.5"),
        ({"django_python": "/opt/python/bin/python3"}, ""),
        ({"django_python": ">=3.13"}, ""),
        ({"django_installer": "uv"}, ""),
    ],
)
def test_python_that_pip_cannot_fetch_is_refused(tmp_path, variables, said):
    folder = tmp_path / "shop"
    (folder / "shop").mkdir(parents=True)
    (folder / "manage.py").write_text('setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")')
    (folder / "shop/settings.py").touch()
    (folder / "pyproject.toml").write_text(PYTHON)
    done = fetch(tmp_path, "source", **{"django_source": str(folder), "django_installer": "pip", **variables})
    assert (done.returncode == 0) is (said == ""), done.stdout + done.stderr
    assert not said or f"django_source: {folder}: " in done.stdout
    assert said in done.stdout


@pytest.fixture
def archive(tmp_path):
    """The address of an archive, by https."""
    (tmp_path / "manage.py").write_text("")
    with tarfile.open(tmp_path / "shop.tar.gz", "w:gz") as packed:
        packed.add(tmp_path / "manage.py", "shop-1.2/manage.py")
    made = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost"
    made += " -addext subjectAltName=DNS:localhost -keyout key.pem -out cert.pem"
    subprocess.run(made.split(), cwd=tmp_path, check=True, capture_output=True)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=tmp_path)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"https://localhost:{server.server_port}/shop.tar.gz"
    server.shutdown()


def test_archive_is_fetched_once_and_must_match_its_checksum(tmp_path, archive):
    packed = tmp_path / "shop.tar.gz"
    digest = hashlib.sha256(packed.read_bytes()).hexdigest()
    wanted = {"django_source": archive, "django_source_checksum": f"sha256:{digest}"}
    assert fetch(tmp_path, "archive", **wanted).returncode == 0
    (fetched,) = tmp_path.glob("cache/django_vps/shop-*")
    assert fetched.read_bytes() == packed.read_bytes()

    # It is there: nobody is asked again.
    packed.rename(tmp_path / "gone")
    assert fetch(tmp_path, "archive", **wanted).returncode == 0

    packed.write_text("of somebody else")
    done = fetch(tmp_path, "archive", **{**wanted, "django_source_checksum": f"sha256:{'0' * 64}"})
    assert done.returncode != 0
    assert "did not match" in done.stdout
    assert f"curl -sfL {archive} | sha256sum" in done.stdout
    assert fetched.read_bytes() == (tmp_path / "gone").read_bytes()
