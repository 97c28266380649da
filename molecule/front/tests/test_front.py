"""What every visitor gets from the front, whoever answers behind it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import socket
import ssl
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import PROJECT, servers, site_of
from support.load import Load
from support.play import play
from support.runs import labels

# Answers each request with the request, and says nosniff, as Django's middleware does, to who asks for /django.
MIRROR = """
import socket, sys
heard = socket.fromfd(3, socket.AF_UNIX, socket.SOCK_STREAM)
while True:
    one, _ = heard.accept()
    said = b""
    while b"\\r\\n\\r\\n" not in said:
        said += one.recv(65536)
    django = b"X-Content-Type-Options: nosniff\\r\\n" * said.startswith(b"GET /django ")
    head = b"HTTP/1.1 200 OK\\r\\n%sContent-Length: %d\\r\\nConnection: close\\r\\n\\r\\n" % (django, len(said))
    one.sendall(head + said)
    one.close()
"""


@contextlib.contextmanager
def nothing_behind(site):
    """The release that is live is down."""
    live = f"{site.name}-gunicorn@{site.release}"
    site.host.check_output(f"systemctl stop {live}.socket {live}.service")
    try:
        yield
    finally:
        site.host.check_output(f"systemctl start {live}.socket {live}.service")


@contextlib.contextmanager
def behind(site, *command: str):
    """Instead of the site a command that gets its socket."""
    socket_path = f"/srv/{site.name}/current/gunicorn.sock"
    with nothing_behind(site):
        options = f"--unit=mirror --socket-property=ListenStream={socket_path} --socket-property=RemoveOnStop=yes"
        site.host.check_output(f"rm -f {socket_path}; systemd-run --quiet {options} {shlex.join(command)}")
        try:
            yield
        finally:
            site.host.check_output("systemctl stop mirror.socket mirror.service")


def mirror_behind(site):
    return behind(site, "python3", "-c", MIRROR)


@contextlib.contextmanager
def closed(site):
    done = play("maintenance", "--limit", site.container, maintenance="on")
    assert done.returncode == 0, done.stdout
    try:
        yield
    finally:
        done = play("maintenance", "--limit", site.container, maintenance="off")
        assert done.returncode == 0, done.stdout


@pytest.fixture
def other(site):
    """The server that stands in front of this one."""
    (name,) = set(servers()) - {site.container}
    return site_of(name)


def status_for(other, site, path: str) -> str:
    """What one server is answered by the other."""
    to = f"--resolve {site.canonical}:443:{site.address} https://{site.canonical}{path}"
    return other.host.check_output(f"curl -sk -o /dev/null -w '%{{http_code}}' {to}")


def secure(answer, name: str = "") -> None:
    assert answer.header("strict-transport-security") == "max-age=31536000; includeSubDomains", name
    assert answer.header("x-content-type-options") == "nosniff", name
    assert answer.header("permissions-policy") == 'camera=(), microphone=(self "https://meet.example.com")', name
    assert answer.header("report-to2") == r'{"group": "a\b", "max_age": 1}', name
    assert answer.header("x-frame-options") in ("DENY", "SAMEORIGIN"), name
    assert answer.header("cross-origin-opener-policy") == "same-origin", name


@pytest.mark.parametrize(
    ("path", "status"),
    [
        *(("/", 200), ("/nowhere/", 404), ("/static/notes/site.css", 200), ("/static/nothing.css", 404)),
        *(("/media/nothing.png", 404), ("/.env", 404), ("/own/", 200), ("/media/private/x", 404), ("/health/", 200)),
    ],
)
def test_every_response_has_the_security_headers_once(site, path, status):
    answer = site.get(path)
    assert answer.status == status
    secure(answer, path)


def test_nginx_error_pages_have_the_security_headers(site, tmp_path):
    (tmp_path / "large").write_bytes(bytes(21 << 20))
    answer = site.get("/", "--data-binary", f"@{tmp_path}/large")
    assert answer.status == 413
    secure(answer)
    with nothing_behind(site):
        answer = site.get("/")
    assert (answer.status, answer.header("retry-after")) == (502, "10")
    assert "Please try again" in answer.body
    secure(answer)


def test_headers_of_django_are_kept_and_empty_header_is_omitted(site):
    assert site.get("/").header("x-frame-options") == "DENY"
    assert site.get("/").header("referrer-policy") == "same-origin"
    stylesheet = site.get("/static/notes/site.css")
    assert (stylesheet.header("x-frame-options"), stylesheet.header("referrer-policy")) == ("SAMEORIGIN", None)


def test_header_omitted_by_django_stays_omitted(site):
    with mirror_behind(site):
        secure(site.get("/"))
        answer = site.get("/django")
    assert answer.header("x-content-type-options") == "nosniff"
    assert (answer.header("x-frame-options"), answer.header("cross-origin-opener-policy")) == (None, None)
    assert answer.header("permissions-policy") == 'camera=(), microphone=(self "https://meet.example.com")'


@pytest.mark.parametrize("path", ["/", "/large/", "/ws/"])
def test_header_of_nginx_directives_cannot_be_forged(site, path):
    with mirror_behind(site):
        body = site.get(path, "-H", "X-Edge: forged", "-H", "X-Scheme: forged").body
    assert re.findall(r"X-(?:Edge|Scheme): (\S+)", body) == ["of-your-own"]
    assert f"Host: {site.canonical}\r\n" in body


@pytest.fixture
def little_tmp(site, until):
    """A /tmp in memory that holds less than an upload."""
    for change in ("mount -t tmpfs -o size=8m tmpfs /tmp", "umount --lazy /tmp"):
        site.host.check_output(f"{change}; systemctl restart {site.name}-gunicorn")
        until(lambda: site.get("/health/").status == 200)
        if change.startswith("mount"):
            yield


def test_largest_uploads_fit_a_small_tmp_and_leave_no_files(site, little_tmp, tmp_path, until):
    jar = ["--cookie", str(tmp_path / "jar"), "--cookie-jar", str(tmp_path / "jar")]
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', site.get("/private/", *jar).body)[1]
    (tmp_path / "large").write_bytes(bytes((20 << 20) - 2000))
    form = ["-F", f"csrfmiddlewaretoken={token}", "-F", f"file=@{tmp_path}/large", "-e", f"https://{site.canonical}/"]
    with ThreadPoolExecutor(2) as both:
        answers = list(both.map(lambda _: site.get("/private/", *jar, *form), range(2)))
    assert [answer.status for answer in answers] == [200, 200]
    assert all("The file is too large; the limit is 5 MB" in answer.body for answer in answers)
    assert site.get("/private/", *jar, *form, "--limit-rate", "5M", "--max-time", "1").status == 0
    left = "find /tmp /var/tmp/systemd-private-*-gunicorn@* /var/lib/nginx/body -type f"
    until(lambda: not site.host.check_output(left), 20)


@pytest.mark.parametrize("kind", ["br", "gzip"])
def test_assets_are_served_precompressed(site, kind):
    (stylesheet,) = re.findall(r'href="(/static/notes/site\.[0-9a-f]{12}\.css)"', site.get("/").body)
    plain = site.get(stylesheet)
    packed = site.get(stylesheet, "-H", f"Accept-Encoding: {kind}", "--output", "/dev/null", "-D", "/dev/stdout")
    assert (packed.header("content-encoding"), packed.header("vary")) == (kind, "Accept-Encoding")
    # What is compressed on the way has no length.
    assert int(packed.header("content-length")) < len(plain.body) / 2
    assert packed.header("cache-control") == "public, max-age=31536000, immutable"


def test_mjs_files_have_the_javascript_type(site):
    site.host.check_output(f"echo 'export {{}}' > /srv/{site.name}/current/static/a.mjs")
    assert site.get("/static/a.mjs").header("content-type").startswith("text/javascript")
    site.host.check_output(f"rm /srv/{site.name}/current/static/a.mjs")


def test_canonical_name_without_certificate_is_refused(sites):
    names = "{{ ['new-' ~ site_name ~ '.example.test', site_name ~ '.example.test'] }}"
    done = play("site", "--tags=nginx", site_domains=names)
    assert done.returncode != 0
    for site in sites:
        assert f"new-{site.name}.example.test is not in the active certificate" in done.stdout
        assert site.get("/health/").status == 200
        site.host.check_output("nginx -t -q && systemctl reload nginx")
        assert site.get("/health/").status == 200


def test_rate_limit_of_login_applies_per_client_address(site, other):
    statuses = [site.get("/admin/login/").status for _ in range(8)]
    assert statuses[:4] == [200] * 4
    assert statuses[4:] == [429] * 4
    assert site.get("/").status == 200
    assert status_for(other, site, "/admin/login/") == "200"


def test_path_can_have_a_larger_body_limit(site, tmp_path):
    (tmp_path / "large").write_bytes(bytes(25 << 20))
    assert site.get("/large/", "--data-binary", f"@{tmp_path}/large").status in (403, 404)
    (tmp_path / "large").write_bytes(bytes(31 << 20))
    assert site.get("/large/", "--data-binary", f"@{tmp_path}/large").status == 413


def test_upload_is_streamed_on_configured_paths_only(site):
    with mirror_behind(site):
        assert "POST /feed/today " in answer_to_half_an_upload(site, "/feed/today")
        with pytest.raises(TimeoutError):
            answer_to_half_an_upload(site, "/large/")


def answer_to_half_an_upload(site, path: str) -> str:
    context = ssl.create_default_context(cafile=str(site.roots))
    with (
        socket.create_connection((site.address, 443), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname=site.canonical) as connection,
    ):
        connection.sendall(f"POST {path} HTTP/1.1\r\nHost: {site.canonical}\r\nContent-Length: 9\r\n\r\nhalf".encode())
        return connection.recv(65536).decode()


def test_concurrent_requests_per_client_are_limited(site):
    with behind(site, "sleep", "60"):
        statuses = asked_at_once(site, 60)
    assert statuses.count(429) == 10


def asked_at_once(site, number: int) -> list[int]:
    curl = "curl --http1.1 --max-time 10 --noproxy * -k -s -o /dev/null -w %{http_code}"
    argv = [*curl.split(), "--connect-to", f"::{site.address}:443", f"https://{site.canonical}/"]
    running = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) for _ in range(number)]
    return [int(one.communicate()[0]) for one in running]


def test_only_websocket_paths_are_passed_on_with_upgrade(site):
    wish = ("--http1.1", "-H", "Connection: Upgrade", "-H", "Upgrade: websocket")
    with mirror_behind(site):
        there, elsewhere, plain = site.get("/ws/chat/", *wish), site.get("/chat/", *wish), site.get("/ws/chat/")
    assert "Upgrade: websocket\r\nConnection: upgrade\r\n" in there.body
    assert "pgrade" not in elsewhere.body
    assert "pgrade" not in plain.body


def test_only_a_listed_reverse_proxy_is_trusted(site, other):
    lie = "X-Forwarded-For: 198.51.100.7"
    with mirror_behind(site):
        direct = site.get("/", "-H", lie).body
        asked = f"curl -sk -H '{lie}' --resolve {site.canonical}:443:{site.address} https://{site.canonical}/"
        through = other.host.check_output(asked)
    gateway = site.address.rsplit(".", 1)[0] + ".1"
    assert re.findall(r"X-(?:Real-IP|Forwarded-For): (\S+)", direct) == [gateway, gateway]
    assert re.findall(r"X-(?:Real-IP|Forwarded-For): (\S+)", through) == ["198.51.100.7", "198.51.100.7"]


def test_maintenance_answers_503_except_to_allowed_networks(site, other, tmp_path):
    (tmp_path / "large").write_bytes(bytes(25 << 20))
    upload = ("--data-binary", f"@{tmp_path}/large")
    with Load(site.address, site.canonical, path=["/health/"], rate=50) as load:
        time.sleep(1)
        with closed(site):
            for path, options in (("/", ()), ("/static/notes/site.css", ()), ("/", ("-d", "a=b")), ("/", upload)):
                answer = site.get(path, *options)
                assert (answer.status, answer.header("retry-after")) == (503, "300"), (path, options)
                assert "Back soon" in answer.body
                secure(answer)
            assert status_for(other, site, "/") == "200"
            # The CA, which something in front may lead here from plain HTTP.
            challenges = "/var/www/acme/.well-known/acme-challenge"
            site.host.check_output(f"mkdir -p {challenges} && echo well > {challenges}/asked")
            assert site.get("/.well-known/acme-challenge/asked").body == "well\n"
            site.host.check_output(f"rm {challenges}/asked")
        time.sleep(1)
    result = load.result()
    assert set(result["statuses"]) == {"200", "503"}
    assert result["errors"] == 0
    assert site.get("/").status == 200


def test_invalid_nginx_directive_changes_nothing(site, tmp_path):
    assert site.get("/own/").body == "of your own"
    (tmp_path / "nginx.conf").write_text("location = /own/ {\n    return 200 better;\n}\nnonsense here;\n")
    done = play("site", "--limit", site.container, "--tags=nginx", nginx_directives=f"{tmp_path}/nginx.conf")
    assert done.returncode != 0
    assert f'unknown directive \\"nonsense\\" in /etc/nginx/{site.name}.d/inventory.conf:4' in done.stdout
    site.host.check_output("nginx -t -q && systemctl restart nginx")
    assert site.get("/own/").body == "of your own"


def test_port_of_another_program_is_refused(site):
    site.host.check_output("systemctl stop nginx; systemd-run --quiet --unit=other python3 -m http.server 80")
    try:
        done = play("site", "--limit", site.container, "--tags=nginx")
    finally:
        site.host.check_output("systemctl stop other; systemctl start nginx")
    assert done.returncode != 0
    assert f"{site.container}: port 80 is used by python3" in done.stdout
    assert site.get("/").status == 200


def test_sites_of_an_existing_nginx_are_reported(site):
    ours, aside, theirs = "/etc/nginx/snippets/django_vps-tls.conf", "/root/tls.conf", "/etc/nginx/sites-enabled/blog"
    site.host.check_output(f"mv {ours} {aside}; touch {theirs}")
    try:
        done = play("site", "--limit", site.container, "--tags=nginx")
    finally:
        site.host.check_output(f"mv {aside} {ours}; rm {theirs}")
    assert done.returncode != 0
    assert f"{site.container}: port 80 is used by nginx for {theirs}" in done.stdout


def test_access_log_has_no_queries_and_the_chosen_address_form(site):
    mark = f"/nowhere/{os.getpid()}/"
    site.get(f"{mark}?token=geheim&next=/a?b", "-H", "Referer: https://example.test/page?token=geheim")
    log = site.host.check_output("cat /var/log/nginx/access.log")
    assert "geheim" not in log
    (line,) = [line for line in log.splitlines() if mark in line]
    gateway = site.address.rsplit(".", 1)[0] + ".1"
    if site.name == "site13":
        entry = json.loads(line)
        assert (entry["address"], entry["request"]) == (gateway, f"GET {mark} HTTP/2.0")
        assert (entry["status"], entry["referer"]) == ("404", "https://example.test/page")
    else:
        network = gateway.rsplit(".", 1)[0] + ".0"
        assert line.startswith(f"{network} - - [")
        assert f'] "GET {mark} HTTP/2.0" 404 ' in line
        assert '"https://example.test/page"' in line


@pytest.mark.parametrize("path", ["/large", "/ws"])
def test_limited_path_without_slash_reaches_the_project(site, path):
    assert site.get(path).status == 404


def seconds_of_a_visit(site) -> float:
    asked = time.monotonic()
    assert site.get("/health/").status == 200
    return time.monotonic() - asked


def test_slow_connections_delay_no_client_and_end_in_15_seconds(site):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    usual = [seconds_of_a_visit(site) for _ in range(10)]
    slow, waited = [], []
    try:
        for number in range(1700):
            one = context.wrap_socket(socket.create_connection((site.address, 443), 20), server_hostname=site.canonical)
            one.sendall(b"GET / HTTP/1.1\r\nHost: ")
            slow.append(one)
            if number % 200 == 199:
                waited.append(seconds_of_a_visit(site))
        opened = time.monotonic()
        while time.monotonic() < opened + 15:
            waited.append(seconds_of_a_visit(site))
            time.sleep(0.5)
        established = "ss -Htn state established '( sport = :443 )' | wc -l"
        assert int(site.host.check_output(established)) < 20
    finally:
        for one in slow:
            one.close()
    # Where other things keep the machine busy, a visit takes as long without them.
    assert max(waited) < max(1, 2 * max(usual)), (sorted(usual)[-3:], sorted(waited)[-3:])


def test_tls_profile_is_applied(site, until):
    old = ("--tlsv1.2", "--tls-max", "1.2")
    assert site.get("/health/", *old).status == 200
    try:
        done = play("site", "--limit", site.container, "--tags=nginx", nginx_tls_profile="modern")
        assert done.returncode == 0, done.stdout[-3000:]
        # The processes from before a reload take connections for a moment.
        until(lambda: site.get("/health/", *old).status == 0, 10)
        assert site.get("/health/").status == 200
    finally:
        done = play("site", "--limit", site.container, "--tags=nginx")
        assert done.returncode == 0, done.stdout[-3000:]


def test_http_3_is_served_where_enabled_and_supported(site, other):
    if site.name == "site12":
        done = play("site", "--limit", site.container, "--tags=nginx", nginx_http3=True)
        assert "has no HTTP/3" in done.stdout
        assert site.get("/").header("alt-svc") is None
        return
    assert site.get("/").header("alt-svc") == 'h3=":443"; ma=86400'
    # From outside, through the firewall.
    run = os.environ["VPS_RUN"]
    argv = ["docker", "run", "--rm", *labels(run), f"--network=vps-{run}", "--entrypoint=curl"]
    asked = ["-sk", "--http3-only", "--max-time", "20", "-o", "/dev/null", "-w", "%{http_version} %{http_code}"]
    to = ["--resolve", f"{site.canonical}:443:{site.address}", f"https://{site.canonical}/"]
    argv += ["django-vps/debian:trixie", *asked, *to]
    assert subprocess.run(argv, check=False, capture_output=True, text=True).stdout == "3 200"


def test_scanners_find_nothing(site):
    whole = ["--all"] if site.name == "site13" else []
    where = [f"--address={site.address}", f"--domain={site.canonical}", f"--container={site.container}"]
    argv = [sys.executable, str(PROJECT / "tests/scores"), *where, f"--roots={site.roots}", *whole]
    done = subprocess.run(argv, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(done.stdout)
    assert done.returncode == 0, done.stdout
