"""The images and compose files of sample_project, with stand-ins from Debian for the images of a registry."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest
import requests
from support.host import copy_project
from support.runs import ROOT, Run, labels

pytestmark = pytest.mark.extended

#: Each is a name without a tag, so that nothing but a stand-in has it.
IMAGES = {f"{name.upper()}_IMAGE": f"django-vps/{name}" for name in ("python", "nginx", "postgres", "valkey")}
#: Of this machine, where a proxy may intercept TLS; the stand-in of Python does not have it.
BUNDLE = ssl.get_default_verify_paths().cafile or "/etc/ssl/certs/ca-certificates.crt"
DOMAIN = "board.example.test"
#: What the reverse proxy of the host sends.
PROXY = {"Host": DOMAIN, "X-Forwarded-Proto": "https", "Referer": f"https://{DOMAIN}/"}


class Project:
    """A copy of the sample project, and the programs of Docker as a user of today has them."""

    def __init__(self, run: Run, file: str) -> None:
        self.run, self.file = run, file
        # Outside of git, as files of a clean clone, and without those of a developer.
        self.folder = copy_project(run.folder / "project")

    def docker(self, *argv: str, refused: bool = False) -> str:
        """Run a command, in a container that has buildx and compose; return its output."""
        engine = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")
        # 0 is a free port.
        variables = {**IMAGES, "PORT": "0", "CA_BUNDLE": BUNDLE, "RELEASE": self.run.id}
        done = subprocess.run(
            [
                *("docker", "run", "--rm", *labels(self.run.id), f"--volume={engine}:/var/run/docker.sock"),
                *(
                    f"--volume={self.folder}:{self.folder}",
                    f"--workdir={self.folder}",
                    f"--volume={BUNDLE}:{BUNDLE}:ro",
                ),
                *(f"--env={name}={value}" for name, value in variables.items()),
                *(f"--env={name}" for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY") if name in os.environ),
                *("django-vps/docker", "docker", *argv),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert (done.returncode != 0) == refused, done.stdout
        return done.stdout

    def compose(self, *argv: str, **options) -> str:
        return self.docker("compose", "--project-name", self.run.folder.name, "--file", self.file, *argv, **options)

    def inside(self, service: str, *argv: str) -> str:
        return self.compose("exec", "-T", service, *argv).strip()

    def containers(self) -> dict[str, dict]:
        """Return what Docker says of the running containers, by service."""
        listed = run("docker", "ps", "-q", "--filter", f"label=com.docker.compose.project={self.run.folder.name}")
        described = json.loads(run("docker", "inspect", *listed.split()))
        return {each["Config"]["Labels"]["com.docker.compose.service"]: each for each in described}

    def request(self, path: str, method: str = "GET", **options) -> requests.Response:
        """Request a page at the published port, as the reverse proxy of the host does."""
        options["headers"] = {**PROXY, **options.get("headers", {})}
        return requests.request(method, f"http://{self.address}{path}", allow_redirects=False, timeout=20, **options)

    @functools.cached_property
    def address(self) -> str:
        [port] = [port for each in self.containers().values() for port in published(each)]
        return f"{port['HostIp']}:{port['HostPort']}"

    def post(self, path: str, cookies: str = "", **options) -> requests.Response:
        """Post a form; the cookies are sent by hand, because they are for https only."""
        token = self.request(path).cookies["csrftoken"]
        options["data"] = {"csrfmiddlewaretoken": token, **options["data"]}
        answer = self.request(path, "POST", headers={"Cookie": f"csrftoken={token}{cookies}"}, **options)
        assert answer.status_code == 302, answer.text
        return answer


def run(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def published(container: dict) -> list[dict]:
    return [port for ports in container["NetworkSettings"]["Ports"].values() for port in ports or ()]


def env_command() -> str:
    """Return the command of the documentation that writes .env."""
    [command] = set(re.findall(r"^ +(\(umask .* > \.env\))$", (ROOT / "docs/docker.md").read_text(), re.MULTILINE))
    return command


@pytest.fixture
def project(request) -> Iterator[Project]:
    """The project with a compose file; when the test ends, nothing of it is left."""
    subprocess.run([ROOT / "tools/setup", "stand-ins"], check=True)
    with Run() as lasting:
        project = Project(lasting, request.param)
        # Without its secrets it does not start, and says how to make them. compose names any one of the variables.
        told = project.compose("config", "--quiet", refused=True)
        assert re.search("variable [A-Z_]+ is missing a value: (create|write the domains of the site into) .env", told)
        subprocess.run(["sh", "-c", env_command()], cwd=project.folder, check=True)
        yield project
    label = f"label=com.docker.compose.project={lasting.folder.name}"
    for kind in ("container", "network", "volume", "image"):
        assert run("docker", kind, "ls", "--quiet", "--filter", label) == ""


def assert_only_loopback(project: Project, service: str) -> None:
    """Only this service has a port, and only this machine reaches it."""
    containers = project.containers()
    assert {name: len(published(each)) for name, each in containers.items() if published(each)} == {service: 1}
    [port] = published(containers[service])
    assert port["HostIp"] == "127.0.0.1"
    # The machine's own address in the network of the container is not that of its loopback.
    gateways = [network["Gateway"] for network in containers[service]["NetworkSettings"]["Networks"].values()]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((gateways[0], int(port["HostPort"])), timeout=5)


@pytest.mark.parametrize("project", ["compose.production.yaml"], indirect=True)
def test_production_serves_and_keeps_the_site(project):
    told = project.compose("config", "--quiet", refused=True)
    assert "variable ALLOWED_HOSTS is missing a value" in told
    with (project.folder / ".env").open("a") as env:
        env.write(f"ALLOWED_HOSTS={DOMAIN}\n")
    project.compose("build")
    project.compose("run", "--rm", "--no-TTY", "migrate")
    project.compose("up", "--wait")
    containers = project.containers()
    assert {name: each["State"]["Health"]["Status"] for name, each in containers.items()} == dict.fromkeys(
        ("nginx", "web", "postgres", "valkey"), "healthy"
    )
    assert_only_loopback(project, "nginx")
    assert_confined(project)
    assert_no_secret(project, containers["web"]["Image"], containers["nginx"]["Image"])

    page = project.request("/")
    assert page.status_code == 200
    [style] = re.findall(r'href="(/static/notes/site\.[0-9a-f]{12}\.css)"', page.text)
    assert "immutable" in project.request(style).headers["Cache-Control"]
    assert project.request(style).status_code == 200
    # A name without a hash can get other contents.
    assert "immutable" not in project.request("/static/notes/site.css").headers["Cache-Control"]
    assert project.request("/health/").json()["release"] == project.run.id
    # Without TLS at the proxy, and by another name.
    assert project.request("/", headers={"X-Forwarded-Proto": "http"}).status_code == 301
    assert project.request("/", headers={"Host": "other.example.test"}).status_code == 400

    title = f"Kept since {project.run.id}"
    project.post("/", data={"title": title, "text": "…"})
    asked = project.inside("postgres", "psql", "-U", "site", "-d", "site", "-Atc", "SELECT title FROM notes_notice")
    assert asked == title
    assert_private_file_is_private(project)

    assert_ends_gracefully(project)
    project.compose("up", "--wait")
    assert title in project.request("/").text


def assert_confined(project: Project) -> None:
    """A visitor who takes over a process has the rights of a user who can write uploads alone."""
    for service in ("web", "nginx"):
        assert project.inside(service, "id", "-u") == "10001"
        status = project.inside(service, "cat", "/proc/1/status")
        assert re.search(r"^CapBnd:\s+0+$", status, re.MULTILINE)
        assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)
    writable = "for folder in /app /venv /srv/static /srv/media; do [ -w $folder ] && echo $folder; done; true"
    assert project.inside("web", "sh", "-c", writable) == "/srv/media"


def assert_no_secret(project: Project, *images: str) -> None:
    """What is pulled or copied has neither the secrets of the site nor those of the build."""
    lines = (project.folder / ".env").read_text().splitlines()
    secrets = [line.partition("=")[2] for line in lines if not line.startswith("ALLOWED_HOSTS=")]
    assert len(secrets) == 2
    for image in images:
        told = run("docker", "history", "--no-trunc", image) + run("docker", "image", "inspect", image)
        assert not [secret for secret in secrets if secret in told]
        look = "find /app /srv -name '.env*'; find /run/secrets -type f -size +0"
        assert (
            run("docker", "run", "--rm", *labels(project.run.id), "--entrypoint=sh", image, "-c", f"{look}; true") == ""
        )


def assert_private_file_is_private(project: Project) -> None:
    """Django decides, and nginx sends the file from the volume of the uploads."""
    answer = project.post("/private/", data={}, files={"file": ("note.txt", b"for one alone")})
    session = {"Cookie": f"sessionid={answer.cookies['sessionid']}"}
    [path] = re.findall(r'href="(/private/[0-9a-f-]{36}/)"', project.request("/private/", headers=session).text)
    assert project.request(path, headers=session).content == b"for one alone"
    assert project.request(path).status_code == 404
    [stored] = project.inside("web", "sh", "-c", "ls /srv/media/private").split()
    assert project.request(f"/media/private/{stored}").status_code == 404


def assert_ends_gracefully(project: Project) -> None:
    """A request that is being answered when the container is stopped gets its answer."""
    web = project.containers()["web"]
    [address] = [
        network["IPAddress"] for name, network in web["NetworkSettings"]["Networks"].items() if "front" in name
    ]
    with socket.create_connection((address, 8000), timeout=20) as client:
        head = f"POST / HTTP/1.1\r\nHost: {DOMAIN}\r\nX-Forwarded-Proto: https\r\nContent-Length: 2\r\n"
        client.sendall(f"{head}Content-Type: application/x-www-form-urlencoded\r\n\r\na".encode())
        time.sleep(1)
        stop = threading.Thread(target=run, args=("docker", "stop", "--time", "35", web["Id"]))
        stop.start()
        time.sleep(2)
        client.sendall(b"=")
        # Without a token Django refuses the form.
        assert client.recv(1000).startswith(b"HTTP/1.1 403 ")
        stop.join()
    assert run("docker", "inspect", "--format", "{{.State.ExitCode}}", web["Id"]).strip() == "0"


@pytest.mark.parametrize("project", ["compose.yaml"], indirect=True)
def test_development_reloads_the_code(project):
    project.compose("up", "--build", "--wait")
    assert_only_loopback(project, "web")
    host = {"Host": "localhost"}
    assert project.request("/", headers=host).status_code == 200
    assert "release" in project.request("/health/", headers=host).json()
    assert project.inside("web", "id", "-u") == "10001"
    assert "OK" in project.inside("web", "python", "manage.py", "test", "tests.test_board").splitlines()

    views = project.folder / "notes/views.py"
    views.write_text(views.read_text().replace('{"status": state,', '{"edited": True, "status": state,'))
    deadline = time.monotonic() + 60
    while not edited(project, host):
        assert time.monotonic() < deadline, project.compose("logs", "web")
        time.sleep(0.5)

    # What a CI builds.
    shutil.copy(ROOT / "sample_project/notes/views.py", views)
    label = f"com.docker.compose.project={project.run.folder.name}"
    secret = f"id=ca_bundle,src={BUNDLE}"
    project.docker(*f"build --target=test --build-arg=PYTHON_IMAGE --label={label} --secret={secret} .".split())


def edited(project: Project, host: dict[str, str]) -> bool:
    """Whether the health page is that of the edited code; during a reload the port does not answer."""
    try:
        return project.request("/health/", headers=host).json().get("edited", False)
    except requests.ConnectionError:
        return False
