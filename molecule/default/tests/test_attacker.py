"""The site as somebody sees it who means harm, from outside and as another user of the host."""

import socket
import ssl
from dataclasses import dataclass

import pytest

SSH_PORTS = {"site12": "2222", "site13": "22"}


def raw(site, request: str, name: str | None = None) -> str:
    """Send bytes over TLS as they are; the status line, or nothing when the connection is closed without one."""
    context = ssl.create_default_context(cafile=str(site.roots))
    with (
        socket.create_connection((site.address, 443), timeout=15) as plain,
        context.wrap_socket(plain, server_hostname=name or site.canonical) as connection,
    ):
        connection.sendall(request.encode())
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    return answer.decode(errors="replace")


@pytest.mark.parametrize("port", [80, 443])
def test_an_unknown_name_is_not_answered(site, port):
    scheme = {80: "http", 443: "https"}[port]
    answer = site.get(f"{scheme}://evil.example.org/", "--insecure", "--connect-to", f"::{site.address}:{port}")
    assert answer.status == 0, answer


def test_a_handshake_without_a_name_is_refused(site):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection((site.address, 443), timeout=5) as plain,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        context.wrap_socket(plain).close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_old_tls_is_refused(site, version):
    context = ssl.create_default_context(cafile=str(site.roots))
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    with socket.create_connection((site.address, 443), timeout=5) as plain, pytest.raises(ssl.SSLError):
        context.wrap_socket(plain, server_hostname=site.canonical)


def test_unknown_host_header_is_not_served_despite_known_sni(site):
    answer = raw(site, "GET / HTTP/1.1\r\nHost: evil.example.org\r\nConnection: close\r\n\r\n")
    assert "HTTP/1.1 2" not in answer
    assert "<h1" not in answer


@dataclass
class Attack:
    """A request as bytes, and the statuses that will do."""

    name: str
    line: str
    head: str = ""
    statuses: tuple[int, ...] = (400,)
    body: str = "0\r\n\r\n"
    host: str = "Host: {site}\r\n"

    def __str__(self) -> str:
        return self.name


POST, GET = "POST / HTTP/1.1", "GET / HTTP/1.1"
ATTACKS = [
    # Where two servers would see two different requests.
    Attack("length and chunks", POST, "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n"),
    Attack("two lengths", POST, "Content-Length: 4\r\nContent-Length: 5\r\n"),
    Attack("the same length twice", POST, "Content-Length: 5\r\nContent-Length: 5\r\n"),
    Attack("a length with a sign", POST, "Content-Length: +5\r\n"),
    Attack("a length below zero", POST, "Content-Length: -1\r\n"),
    Attack("a length of two words", POST, "Content-Length: 5 5\r\n"),
    Attack("an unknown coding", POST, "Transfer-Encoding: xchunked\r\n", (501,)),
    Attack("two codings in one", POST, "Transfer-Encoding: chunked, identity\r\n", (501,)),
    Attack("a coding twice", POST, "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n"),
    Attack("a space before the colon", POST, "Transfer-Encoding : chunked\r\n"),
    Attack("chunks of HTTP/1.0", "POST / HTTP/1.0", "Transfer-Encoding: chunked\r\n"),
    Attack("a chunk of no size", POST, "Transfer-Encoding: chunked\r\n", body="zz\r\n\r\n"),
    Attack("a chunk of any size", POST, "Transfer-Encoding: chunked\r\n", (400, 413), f"{'f' * 17}\r\n"),
    # Another site than this one.
    Attack("two hosts", GET, "Host: evil.example.org\r\n"),
    Attack("no host", GET, host=""),
    Attack("an empty host", GET, host="Host: \r\n"),
    Attack("a host with a path", GET, host="Host: {site}/../evil\r\n"),
    Attack("another host in the line", "GET https://evil.example.org/ HTTP/1.1", "", (421,)),
    # What no browser says.
    Attack("a zero in the path", "GET /\0 HTTP/1.1"),
    Attack("an encoded zero in the path", "GET /%00 HTTP/1.1"),
    Attack("above the root", "GET /../../etc/passwd HTTP/1.1"),
    Attack("above the root, encoded", "GET /static/%2e%2e/%2e%2e/%2e%2e/etc/passwd HTTP/1.1"),
    Attack("a zero in a header", GET, "X-A: a\0b\r\n"),
    Attack("a lone return in a header", GET, "X-A: a\rX-B: b\r\n"),
    Attack("no slash", "GET static/ HTTP/1.1"),
    Attack("a version that is not there", "GET / HTTP/9.9", "", (505,)),
    Attack("a method in small letters", "get / HTTP/1.1"),
    Attack("a tunnel", "CONNECT evil.example.org:443 HTTP/1.1", "", (400, 405)),
    Attack("a trace", "TRACE / HTTP/1.1", "", (405,)),
    Attack("a line of 12 kB", f"GET /{'a' * 12_000} HTTP/1.1", "", (414,)),
    Attack("a line of 20 kB", f"GET /{'a' * 20_000} HTTP/1.1", "", (414,)),
    Attack("a header of 20 kB", GET, f"X-A: {'a' * 20_000}\r\n"),
    Attack("another protocol", "SSH-2.0-evil"),
]


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_malformed_or_malicious_request_is_refused(site, attack):
    host = attack.host.format(site=site.canonical)
    answer = raw(site, f"{attack.line}\r\n{host}{attack.head}Connection: close\r\n\r\n{attack.body}")
    assert answer.startswith("HTTP/1.1 "), answer[:200]
    assert int(answer.split()[1]) in attack.statuses, answer[:200]
    # One request has one answer.
    assert answer.count("HTTP/1.1 ") == 1


def test_line_break_in_url_injects_no_header(site):
    answer = site.get(f"http://{site.canonical}/%0d%0aSet-Cookie:%20a=b")
    assert answer.status == 301
    assert answer.header("set-cookie") is None


@pytest.mark.parametrize(
    "path",
    [
        *("/.env", "/.git/HEAD", "/.git/config", "/manage.py", "/db.sqlite3", "/config/settings.py", "/env"),
        *("/static../code/manage.py", "/static../env", "/static/../env", "/static/%2e%2e/env", "/static/..%2fenv"),
        *("/media../env", "/media/%2e%2e/env", "/media/../../../etc/passwd"),
        *("/media/private/", "/media/private/anything.pdf", "/release.json", "/gunicorn.sock", "/requirements.txt"),
        *("/.well-known/acme-challenge/../../etc/passwd", "/static/", "/media/"),
    ],
)
def test_files_of_project_and_host_are_not_served(site, path):
    assert site.get(path).status in (400, 403, 404)


def test_hidden_files_are_not_served(site):
    home = f"/srv/{site.name}"
    hidden = {
        "/media/.htaccess": "media/.htaccess",
        "/static/.env": "current/static/.env",
        "/static/.old": "static/.old",
    }
    paths = " ".join(f"{home}/{path}" for path in hidden.values())
    site.host.check_output(f"install -m 0644 /etc/hostname {home}/media/shown.txt")
    try:
        for path in hidden.values():
            site.host.check_output(f"install -m 0644 /etc/hostname {home}/{path}")
        # As readable as a file that is served.
        assert site.get("/media/shown.txt").status == 200
        assert {url: site.get(url).status for url in hidden} == dict.fromkeys(hidden, 404)
    finally:
        site.host.check_output(f"rm -f {home}/media/shown.txt {paths}")


@pytest.mark.parametrize("name", ["x.html", "x.svg", "x.php", "x.js", "a.jpg.html", "x.png", "x", "x.xml"])
def test_an_upload_is_inert(site, name):
    folder = f"/srv/{site.name}/media"
    site.host.check_output(f"runuser -u {site.name} -- sh -c 'echo \"<script>1</script>\" > {folder}/{name}'")
    try:
        answer = site.get(f"/media/{name}")
        assert answer.status == 200
        assert answer.header("x-content-type-options") == "nosniff"
        assert "sandbox" in answer.header("content-security-policy")
        assert "default-src 'none'" in answer.header("content-security-policy")
        assert answer.header("content-disposition") == (None if name == "x.png" else "attachment")
    finally:
        site.host.check_output(f"rm {folder}/{name}")


def test_symlink_in_uploads_is_not_followed(site):
    link = f"/srv/{site.name}/media/link.txt"
    site.host.check_output(f"runuser -u {site.name} -- ln -s /etc/passwd {link}")
    try:
        assert site.get("/media/link.txt").status in (403, 404)
    finally:
        site.host.check_output(f"rm {link}")


def test_forged_client_headers_are_not_trusted(site):
    lies = [
        *("X-Forwarded-For: 6.6.6.6", "X-Real-IP: 6.6.6.6", "X-Forwarded-Proto: http", "X-Forwarded-Host: evil.test"),
        *(
            "X-Forwarded-Port: 81",
            "Forwarded: for=6.6.6.6;host=evil.test",
            "X_FORWARDED_PROTO: http",
            "SCRIPT_NAME: /x",
        ),
    ]
    answer = site.get("/", *[word for lie in lies for word in ("-H", lie)])
    # Were it believed, Django would redirect to https or build links with the other name.
    assert answer.status == 200
    assert "evil.test" not in answer.body
    assert "6.6.6.6" not in answer.body


def test_slow_clients_are_cut_off(site):
    context = ssl.create_default_context(cafile=str(site.roots))
    with (
        socket.create_connection((site.address, 443), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname=site.canonical) as connection,
    ):
        connection.sendall(b"GET / HTTP/1.1\r\nHost: ")
        assert connection.recv(100) == b""


def test_postgresql_listens_only_on_its_socket(host):
    assert "5432" not in host.check_output("ss -Hltn")


def test_only_ssh_and_the_web_listen(site):
    lines = site.host.check_output("ss -Hltn").splitlines()
    outside = [line.split()[3] for line in lines if not line.split()[3].startswith(("127.", "[::1]"))]
    assert {address.rsplit(":", 1)[1] for address in outside} == {SSH_PORTS[site.name], "80", "443"}


def test_default_valkey_of_debian_does_not_run(host):
    units = host.check_output("systemctl list-units --plain --no-legend --state=active 'valkey*' 'redis*'")
    assert [unit.split()[0].partition("@")[0] for unit in units.splitlines()] in (["valkey-server"], ["redis-server"])
    assert "@" in units


@pytest.mark.parametrize("user", ["nobody", "www-data", "debian"])
def test_another_user_of_the_host_cannot_reach_the_database(site, psql, user):
    assert psql("SELECT 1", user=user).rc != 0
    assert site.host.run(f"runuser -u {user} -- psql -U {site.name} {site.name} -c 'SELECT 1'").rc != 0


def test_database_role_of_the_site_can_use_only_its_database(psql):
    assert psql("SELECT 1").rc == 0
    assert "permission denied" in psql("CREATE DATABASE other").stderr
    assert "permission denied" in psql("CREATE ROLE other").stderr
    assert psql("SELECT 1", database="postgres").rc != 0
    assert psql("SELECT 1", database="template1").rc != 0


@pytest.mark.parametrize("user", ["nobody", "debian", "www-data"])
def test_only_nginx_can_connect_to_gunicorn(site, user):
    path = f"/srv/{site.name}/current/gunicorn.sock"
    asked = site.host.run(
        f"runuser -u {user} -- curl -s --max-time 5 --unix-socket {path} telnet://localhost/ < /dev/null"
    )
    assert (asked.rc != 7) is (user == "www-data")


def test_valkey_refuses_commands_without_password(site):
    cli = site.host.check_output("ls /usr/bin/valkey-cli /usr/bin/redis-cli 2> /dev/null || true").split()[0]
    for said in ("", "AUTH wrong\n", "AUTH default wrong\n"):
        answers = site.host.run(f"printf '{said}KEYS *\n' | runuser -u nobody -- {cli}").stdout.split("\n")
        assert "NOAUTH Authentication required." in answers, answers
    for path in (f"/etc/{site.name}/valkey_password", f"/etc/{site.name}/valkey_url"):
        assert site.host.run(f"runuser -u {site.name} -- cat {path}").rc != 0
    assert "bind 127.0.0.1" in site.host.check_output(f"cat /etc/*/*-{site.name}.conf")


def test_site_cannot_run_admin_commands_of_valkey(site):
    code = """
from django.core.cache import cache
for command in ("CONFIG GET dir", "MODULE LIST", "REPLICAOF 192.0.2.1 6379", "ACL LIST", "SHUTDOWN"):
    try:
        print(cache._cache.get_client(write=True).execute_command(command))
    except Exception as error:
        print(type(error).__name__)
"""
    said = site.manage("shell", "-v", "0", "-c", code)
    assert said.split() == ["NoPermissionError"] * 5


def test_site_can_list_its_valkey_clients_for_rq(site):
    code = "from django.core.cache import cache; print(len(cache._cache.get_client(write=True).client_list()))"
    assert int(site.manage("shell", "-v", "0", "-c", code)) > 0


def test_the_site_may_not_write_its_own_code(site):
    current = f"/srv/{site.name}/current"
    for path in (current, f"{current}/code", f"{current}/venv", f"{current}/static", f"/srv/{site.name}"):
        assert site.host.run(f"runuser -u {site.name} -- touch {path}/x").rc != 0, path


def test_other_users_may_not_read_the_code(site):
    for user in ("nobody", "www-data"):
        assert site.host.run(f"runuser -u {user} -- cat /srv/{site.name}/current/code/manage.py").rc != 0


@pytest.mark.parametrize("user", ["nobody", "{name}"])
@pytest.mark.parametrize("lock", ["/run/{name}-deploy.lock", "/run/django_vps-files.lock", "/srv/{name}/.lock"])
def test_only_root_can_take_locks_of_the_stack(site, lock, user):
    """All folders are locked while the site is built (prepare.yml)."""
    lock, user = lock.format(name=site.name), user.format(name=site.name)
    assert site.host.run(f"flock --nonblock {lock} true").rc == 0
    assert "Permission denied" in site.host.run(f"runuser -u {user} -- flock --nonblock {lock} true").stderr


def test_only_root_can_open_the_state_of_the_stack(site):
    """What others can open they can lock."""
    names = ("journal", ".lock", "release.json", "packages", "after_migrate", "closed")
    named = " -o ".join(f"-name {name}" for name in names)
    files = (
        f"find /srv/{site.name} /etc/{site.name} -maxdepth 3 -type f \\( {named} \\) {{0}};"
        f" find /run -maxdepth 1 -type f \\( -name '{site.name}*' -o -name 'django_vps*' \\) {{0}};"
        " find /etc/django_vps /var/lib/django_vps -type f {0}"
    )
    assert len(site.host.run(files.format("")).stdout.splitlines()) > 5
    assert site.host.run(files.format("-perm /o+r")).stdout == ""


def test_world_readable_files_have_no_secret(site):
    key = site.host.check_output(f"cat /etc/{site.name}/secret_key")
    canary = f"canary-of-{site.container.split('-')[1]}"
    readable = "find / -xdev \\( -path /proc -o -path /sys \\) -prune -o -type f -perm /o+r -exec grep -I -l"
    assert site.host.run(f"{readable} -F -e '{key}' -e {canary} {{}} +").stdout == ""
    # Keys that packages ship for their tests are nobody's secret.
    keys = site.host.run(f"{readable} -e '^-----BEGIN .*PRIVATE KEY' {{}} +").stdout.splitlines()
    assert [path for path in keys if not path.startswith(("/usr/share/", "/usr/lib/python3/"))] == []


def test_units_logs_and_leftover_files_have_no_secret(site):
    key = site.host.check_output(f"cat /etc/{site.name}/secret_key")
    canary = f"canary-of-{site.container.split('-')[1]}"
    left = f"grep -r -l -F -e '{key}' -e {canary} /var/log /tmp /var/tmp /root /home /run/systemd /var/lib/dpkg"
    assert site.host.run(left).stdout == ""
    said = site.host.check_output("systemctl show '*'; journalctl --no-pager --all; ps -e -o args=")
    assert key not in said
    assert canary not in said


def test_environment_files_are_not_readable_by_the_site(site):
    for path in (f"/etc/{site.name}/env", f"/etc/{site.name}/secret_key", f"/srv/{site.name}/current/env"):
        for user in (site.name, "www-data", "nobody"):
            assert site.host.run(f"runuser -u {user} -- cat {path}").rc != 0, (user, path)
