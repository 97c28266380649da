"""A good release that meets a source, an index, a disk or another run that is not as it should be."""

import http.server
import os
import socket
import ssl
import subprocess
import threading
import time
from contextlib import contextmanager

import pytest

UNLOCKED = "\nsix==1.17.0 --hash=sha256:4721f391ed90541fddacab5acf947aa0d3dc7d27b2e1e8eda2be8970586c3274\n"
DISK = "rw,size=8g,nr_inodes=1m"


class GitHandler(http.server.BaseHTTPRequestHandler):
    """git's own server program behind https; repositories in private/ are for those who log in, and nobody can."""

    def do_GET(self):
        path, _, query = self.path.partition("?")
        if path.startswith("/private/"):
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="git"')
            self.send_header("Content-Length", "0")
            return self.end_headers()
        environment = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": self.server.folder,
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "REQUEST_METHOD": self.command,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
        }
        asked = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        argv = ["git", "http-backend"]
        done = subprocess.run(argv, input=asked, env=environment, stdout=subprocess.PIPE, check=True)
        head, _, body = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().splitlines())
        self.send_response(int(headers.pop("Status", "200").split()[0]))
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        return self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def git_host(tmp_path_factory):
    """Where https serves repositories; its certificate is one that git trusts here."""
    folder = tmp_path_factory.mktemp("git")
    certificate, key = str(folder / "cert.pem"), str(folder / "key.pem")
    subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-nodes",
                "-days",
                "1",
                "-subj",
                "/CN=git",
                "-addext",
                "subjectAltName=IP:127.0.0.1",
            ),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-keyout", key, "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), GitHandler) as server, pytest.MonkeyPatch.context() as patch:
        server.folder, server.address = str(folder), f"https://127.0.0.1:{server.server_port}"
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        patch.setenv("GIT_SSL_CAINFO", certificate)
        yield server
        server.shutdown()


@pytest.fixture
def repository(git_host, project):
    """The project in a repository there."""

    def git(*argv: str) -> None:
        subprocess.run(["git", "-C", project.folder, *argv], check=True, capture_output=True)

    bare = f"{git_host.folder}/shop.git"
    git("init", "--bare", bare)
    git("init", "--initial-branch=main")
    git("add", ".")
    git("-c", "user.name=Maker", "-c", "user.email=maker@example.test", "commit", "--message=Begin")
    git("push", "--force", bare, "main")
    return f"{git_host.address}/shop.git"


@contextmanager
def listening(answers: bool):
    """A port of this machine that nobody listens on, or where whoever listens never says a word."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if answers:
            server.listen()
        yield server.getsockname()[1]


@contextmanager
def disk(site, options: str):
    site.host.check_output(f"mount -o remount,{options} /srv")
    try:
        yield
    finally:
        site.host.check_output(f"mount -o remount,{DISK} /srv")


@contextmanager
def no_index(site, route: str):
    """Let connections from the host to https servers be refused, or lead to a router that is not there."""
    for command in (
        "ip neigh replace 192.0.2.1 lladdr 02:00:00:00:00:01 dev eth0 nud permanent",
        f"ip route replace {route} table 99",
        "ip rule add ipproto tcp dport 443 table 99",
    ):
        site.host.check_output(command)
    try:
        yield
    finally:
        site.host.check_output("ip rule del ipproto tcp dport 443 table 99")


def used(site, what: str) -> int:
    return int(site.host.check_output(f"df --output={what} --block-size=1M /srv | tail -1"))


def test_missing_source_folder_is_refused_before_the_lock(refused):
    run = refused("/nowhere/shop", "/nowhere/shop")
    assert "Lock the site" not in run.output


def test_truncated_archive_is_refused(project, refused, tmp_path):
    subprocess.run(["tar", "-czf", tmp_path / "shop.tar.gz", "-C", project.folder, "."], check=True)
    whole = (tmp_path / "shop.tar.gz").read_bytes()
    (tmp_path / "shop.tar.gz").write_bytes(whole[: len(whole) // 2])
    refused(tmp_path / "shop.tar.gz", "source: ", "shop.tar.gz")


def test_release_from_git_repository_goes_live(repository, goes_live):
    goes_live(repository, django_version="main")


def test_missing_branch_is_reported(repository, refused):
    refused(repository, "fetch: ", "no-such-branch", "git ls-remote", django_version="no-such-branch")


def test_missing_git_repository_is_reported(git_host, refused):
    refused(f"{git_host.address}/nothing.git", "fetch: ", "nothing.git", "not found", "git ls-remote")


def test_repository_with_password_fails_without_prompt(git_host, refused):
    refused(f"{git_host.address}/private/shop.git", "fetch: ", "could not read Username", "git ls-remote")


def test_repository_with_another_key_fails_without_prompt(site, refused, monkeypatch):
    # The server is one that has nobody by this name.
    options = "-F none -o UserKnownHostsFile=/dev/null -o StrictHostKeyChecking=no"
    monkeypatch.setenv("GIT_SSH_COMMAND", f"ssh {options}")
    refused(f"ssh://git@{site.address}/shop.git", "fetch: ", "Permission denied (publickey", "git ls-remote")


def test_unreachable_git_host_is_reported(refused):
    with listening(answers=False) as port:
        refused(f"https://127.0.0.1:{port}/shop.git", "fetch: ", "Failed to connect", "git ls-remote")


@pytest.mark.parametrize("scheme", ["https", "ssh"])
def test_silent_git_host_times_out(refused, scheme):
    with listening(answers=True) as port:
        refused(f"{scheme}://127.0.0.1:{port}/shop.git", "fetch: ", "git ls-remote", within=45)


@pytest.mark.parametrize(
    "route", ["unreachable default", "default via 192.0.2.1 dev eth0 onlink"], ids=["refuses", "is silent"]
)
def test_unreachable_package_index_is_reported(site, project, refused, route):
    project.append("requirements.txt", UNLOCKED)
    with no_index(site, route):
        refused(
            project.folder,
            "install: ",
            "https://pypi.org/",
            "The package index does not answer from the host",
            within=120,
        )


def test_full_disk_is_reported_before_the_build(site, project, refused):
    with disk(site, f"size={used(site, 'used') + 20}m"):
        refused(project.folder, "disk: ", "/srv", "MB", "django_keep_releases")


def test_disk_that_fills_during_the_build_leaves_nothing(site, project, refused):
    project.append("requirements.txt", "./clock")
    project.write(
        "clock/setup.py",
        "import os\nfrom setuptools import setup\n"
        "with open('clock.py', 'wb') as file:\n    file.write(bytes(900_000_000))\n"
        "setup(name='clock', version='1', py_modules=['clock'])\n",
    )
    with disk(site, f"size={used(site, 'used') + 600}m"):
        refused(project.folder, "install: ", "No space left on device", "django_keep_releases")


def test_disk_without_inodes_is_reported(site, project, refused):
    with disk(site, f"nr_inodes={used(site, 'iused') + 1000}"):
        refused(project.folder, "disk: ", "/srv", "inodes", "django_keep_releases")


def test_read_only_disk_is_reported(site, project, refused):
    with disk(site, "ro"):
        refused(project.folder, "disk: ", "/srv", "Read-only file system")


def test_second_concurrent_run_stops_and_names_the_first(site, project, start, visited):
    before = site.release
    with visited() as load:
        began = time.monotonic()
        first = start(project.folder)
        first.reads("Build the release")
        alone = time.monotonic() - began
        began = time.monotonic()
        second = start(project.folder)
        second.end()
        # It comes as far and ends within five seconds, where the machine has nothing else to do.
        assert time.monotonic() - began < 2 * alone + 1
        assert second.rc != 0
        assert f"lock: {os.environ.get('USER', 'root')}@{socket.gethostname()}" in second.output
        assert "works on site13, since 2" in second.output
        assert first.end().rc == 0
    assert list(load.result()["releases"]) == [before, site.release]


def test_killed_run_does_not_block_the_next(site, project, start, goes_live, look):
    before = look()
    first = start(project.folder)
    first.reads("Build the release")
    time.sleep(2)
    first.kill()
    goes_live(project.folder)
    new = {line for line in look() if line.startswith(("file:", "release:", "left:", "unit:"))} - set(before)
    assert sorted(new) == [
        f"release: {site.release} lived",
        f"unit: site13-gunicorn@{site.release}.service active running",
        f"unit: site13-gunicorn@{site.release}.socket active running",
    ]
