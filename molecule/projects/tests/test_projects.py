"""Projects that were built in another way: live, deployed again, rolled back, refused."""

from __future__ import annotations

import json
import re
import shlex
import socket
import ssl
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import EPHEMERAL, Site, servers
from support.load import Load, apart_from_reloads
from support.play import play
from support.runs import ROOT

NAMES = ("club", "legacy", "pipenv", "queue", "shelf", "workspace")
PROJECTS = EPHEMERAL / "projects"


@pytest.fixture(scope="module")
def projects(sites) -> dict[str, Site]:
    """Each project is a site; all of them are on one server."""
    [server] = sites
    found = {}
    for name in NAMES:
        roots = EPHEMERAL / f"{name}.pem"
        roots.write_text(server.host.check_output(f"cat /etc/{name}/tls/fullchain.pem"))
        domains = [f"{name}.example.test", f"www.{name}.example.test"]
        found[name] = Site(server.host, server.container, name, domains, roots)
    return found


@pytest.fixture
def club(projects) -> Site:
    return projects["club"]


@pytest.fixture
def shelf(projects) -> Site:
    return projects["shelf"]


@pytest.fixture
def legacy(projects) -> Site:
    return projects["legacy"]


@pytest.fixture
def pipenv(projects) -> Site:
    return projects["pipenv"]


@pytest.fixture
def queue(projects) -> Site:
    return projects["queue"]


@pytest.fixture
def workspace(projects) -> Site:
    return projects["workspace"]


def page(site: Site, *options: str) -> dict:
    answer = site.get("/notes/" if site.name == "workspace" else "/", *options)
    assert answer.status == 200, answer
    return json.loads(answer.body)


def echo(site: Site, text: str) -> str:
    """What a WebSocket answers."""
    context = ssl.create_default_context(cafile=site.roots)
    with (
        socket.create_connection((site.address, 443), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=site.canonical) as connection,
    ):
        wish = ("GET /ws/ HTTP/1.1", f"Host: {site.canonical}", "Connection: Upgrade", "Upgrade: websocket")
        key = ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: MDEyMzQ1Njc4OTAxMjM0NQ==", "", "")
        connection.sendall("\r\n".join((*wish, *key)).encode())
        stream = connection.makefile("rb")
        assert stream.readline().startswith(b"HTTP/1.1 101 ")
        while stream.readline().strip():
            pass
        # One masked frame of text, and one back.
        connection.sendall(bytes([0x81, 0x80 | len(text)]) + bytes(4) + text.encode())
        _, length = stream.read(2)
        return stream.read(length).decode()


def deploy(*sites: Site, **variables):
    """All at once, as each is a site of its own."""
    return play("deploy", "--limit", ",".join(site.name for site in sites), **variables)


def test_a_second_run_changes_nothing(legacy, queue):
    """These two have of all options the most."""
    done = play("site", "--limit", f"{legacy.name},{queue.name}")
    assert done.returncode == 0, done.stdout[-3000:]
    assert not re.search("changed=[1-9]", done.stdout)


def test_project_has_its_initial_data_cache_and_environment(legacy):
    shown = page(legacy)
    assert shown["tickets"] == ["Water the plants"]
    assert page(legacy)["visits"] == shown["visits"] + 1
    assert shown["lines_of_the_key"] == 3


def test_translations_are_compiled(legacy):
    assert page(legacy)["welcome"] == "Welcome"
    assert page(legacy, "--header", "Accept-Language: de")["welcome"] == "Willkommen"


def test_files_built_around_collectstatic_are_served(legacy):
    assert legacy.get("/static/theme.css").body.strip() == "a { color: teal }"
    bundle = legacy.get("/static/bundle.css")
    assert bundle.status == 200
    assert "margin: 0" in bundle.body
    assert "color: teal" in bundle.body


def test_inventory_file_is_readable_by_its_project_only(pipenv):
    assert page(pipenv)["greeting"] == "Hello, pipenv"
    path = "/srv/pipenv/current/code/gallery/gallery/configuration.py"
    assert pipenv.host.run(f"runuser -u legacy -- cat {path}").rc != 0
    assert pipenv.host.run(f"runuser -u www-data -- cat {path}").rc != 0
    assert pipenv.host.run(f"runuser -u pipenv -- test -w {path}").rc != 0
    assert pipenv.get("/gallery/configuration.py").status == 404


def test_static_files_of_the_source_are_served_unchanged(pipenv):
    assert pipenv.get("/static/gallery.css").body.strip() == "main { display: grid }"


def test_second_name_is_served_or_redirected_as_configured(pipenv, legacy):
    answer = pipenv.get("https://www.pipenv.example.test/")
    assert (answer.status, json.loads(answer.body)["host"]) == (200, "www.pipenv.example.test")
    assert pipenv.get("http://www.pipenv.example.test/a").header("location") == "https://www.pipenv.example.test/a"
    answer = legacy.get("https://www.legacy.example.test/a")
    assert (answer.status, answer.header("location")) == (301, "https://legacy.example.test/a")


def test_libpq_finds_the_database_without_parameters(legacy):
    asked = "import psycopg2; print(psycopg2.connect('').info.dbname)"
    assert legacy.manage("shell", "-v", "0", "-c", asked).strip() == "legacy"


def test_manage_dumps_and_loads_and_reports_unreachable_files(legacy):
    legacy.host.check_output("legacy-manage dumpdata tickets > /root/dump.json")
    assert "Water the plants" in legacy.host.file("/root/dump.json").content_string
    legacy.host.check_output("legacy-manage loaddata --format=json - < /root/dump.json")
    for option in ("/tmp/dump.json", "--output=/root/dump.json"):
        said = legacy.host.run(f"legacy-manage dumpdata tickets {option}").stderr
        assert f"{option.removeprefix('--output=')} is out of its reach" in said
        assert "legacy-manage loaddata --format=json - < FILE" in said
    quiet = ("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR")
    connect = ["ssh", "-i", ROOT / ".cache/ssh/id_ed25519", *quiet, f"debian@{legacy.address}"]
    # With a terminal, systemd-run sets the title of its window as well.
    for terminal, answer in (("-T", "False False"), ("-tt", "True True")):
        asked = "sudo legacy-manage shell -v 0 -c 'import sys; print(sys.stdin.isatty(), sys.stdout.isatty())'"
        argv = [*connect, terminal, asked]
        done = subprocess.run(argv, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
        assert answer in done.stdout, done


def test_url_with_a_dot_is_answered_by_the_project(legacy):
    assert legacy.get("/files/.env.example").body == "DEBUG=\n"
    hidden = "/srv/legacy/current/static/.env"
    legacy.host.check_output(f"install -m 0644 /etc/hostname {hidden}")
    try:
        assert legacy.get("/static/.env").status == 404
    finally:
        legacy.host.check_output(f"rm {hidden}")


def test_traceback_of_a_500_is_in_the_journal_once(legacy):
    assert legacy.get("/broken/").status == 500
    journal = legacy.host.check_output("journalctl --sync; journalctl -o cat -u 'legacy-gunicorn@*'")
    assert journal.count("RuntimeError: the till is open") == 1
    assert "in broken" in journal


def test_large_cookies_pass_in_both_directions(legacy):
    answer = legacy.get("/cookies/")
    cookies = [value.partition(";")[0] for value in answer.headers["set-cookie"]]
    assert sum(map(len, cookies)) > 14_000
    answer = legacy.get("/cookies/", "--header", f"Cookie: {'; '.join(cookies)}")
    assert json.loads(answer.body) == {"bytes": 4 * 3500}


def test_forged_headers_of_a_client_do_not_reach_the_project(legacy):
    names = (
        *("Forwarded", "Front-End-Https", "Remote-User", "True-Client-IP", "X-Client-IP", "X-Cluster-Client-IP"),
        *("X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Port", "X-Forwarded-Prefix", "X-Forwarded-Proto"),
        *("X-Forwarded-Protocol", "X-Forwarded-Scheme", "X-Forwarded-Server", "X-Forwarded-Ssl", "X-Forwarded-User"),
        *("CF-Connecting-IP", "X-Forwarded-Client-Cert", "X-Original-URI", "X-SSL-Client-Verify"),
        *("X-Host", "X-Original-URL", "X-Real-IP", "X-Remote-User", "X-Rewrite-URL", "X-Scheme", "X-Script-Name"),
        *("SCRIPT_NAME", "PATH_INFO"),
    )
    claims = [word for name in names for word in ("--header", f"{name}: forged")]
    answer = legacy.get("/headers/", *claims, "--header", "X-Own: kept")
    assert answer.status == 200
    seen = json.loads(answer.body)
    assert [name for name, value in seen.items() if "forged" in value] == []
    assert (seen["X-Own"], seen["scheme"], seen["script"]) == ("kept", "https", "")


def test_project_runs_on_another_python_than_the_system(workspace):
    assert page(workspace)["python"].startswith("3.11.")
    assert workspace.host.check_output("/usr/bin/python3 -V").startswith("Python 3.13")


def test_only_requested_groups_extras_and_packages_are_installed(workspace):
    packages = workspace.host.check_output("ls /srv/workspace/current/venv/lib/python3.11/site-packages")
    found = {name for name in ("dj_database_url", "psycopg_binary", "isodate", "pytest") if name in packages.split()}
    assert found == {"dj_database_url", "psycopg_binary", "isodate"}


def test_build_secrets_are_in_no_release(workspace):
    host = workspace.host
    assert host.run('grep -rq "nobody\'s business" /srv/workspace/releases/*/').rc == 1
    assert host.run('journalctl --no-pager | grep -q "nobody\'s business"').rc == 1


def test_shared_files_are_kept_across_releases_and_not_served(workspace):
    assert workspace.get("/notes/", "--data", "text=mine").status == 200
    assert page(workspace)["notes"] == {"Mine": "mine"}
    folder = workspace.host.file("/srv/workspace/shared/services/desk/src/private/notes")
    assert folder.user == "workspace"
    assert workspace.host.run(f"runuser -u legacy -- ls {folder.path}").rc != 0
    assert workspace.get("/services/desk/src/private/notes/note.txt").status == 404


def test_poetry_package_in_src_is_installed(shelf):
    assert page(shelf)["version"] == "1.4.0"
    packages = shelf.host.check_output("ls /srv/shelf/current/venv/lib/python3.13/site-packages").split()
    assert not {"isort", "ldap", "tzdata"} & set(packages)


def paths_of_lender(site: Site) -> set[str]:
    """How the role is connected; the pooler connects from localhost."""
    query = "SELECT DISTINCT client_addr = '127.0.0.1' FROM pg_stat_activity WHERE usename = 'lender'"
    answers = site.host.check_output(f'cd / && runuser -u postgres -- psql -p 5498 -XAtqc "{query}"').split()
    return {"pooler" if answer == "t" else "direct" for answer in answers}


def test_database_elsewhere_has_the_rows(shelf):
    tables = shelf.host.check_output("cd / && runuser -u postgres -- psql -p 5498 -XAtq -d lending -c '\\dt'")
    assert "|django_migrations|table|lender" in tables
    assert shelf.host.run("cd / && runuser -u postgres -- psql -XAtq -l").stdout.count("lending") == 0
    # gunicorn goes through the pooler, and manage.py does not.
    page(shelf)
    assert paths_of_lender(shelf) == {"pooler"}
    shown = shelf.manage(
        "shell",
        "-v",
        "0",
        "-c",
        "from django.db import connection as c; k = c.cursor(); "
        "k.execute('SELECT inet_server_port()'); print(*k.fetchone())",
    )
    assert shown.strip() == "5498"


def test_password_of_external_database_is_in_two_files_only(shelf):
    found = shelf.host.run(
        "grep -rlE 'p@ss/w|p%40ss' /etc /srv/shelf /run/systemd /var/log 2> /dev/null"
    ).stdout.split()
    assert found == ["/etc/pgbouncer/userlist.txt", "/etc/shelf/pgpass"]
    assert shelf.host.check_output("stat -c '%a %U' /etc/shelf/pgpass") == "400 shelf"


@pytest.fixture
def lending(shelf):
    """Run SQL in the database of shelf, or in another one on that server."""

    def run(query: str, database: str = "lending") -> list[str]:
        ask = "cd / && runuser -u postgres -- psql -p 5498 -XAtq -v ON_ERROR_STOP=1 -d"
        return shelf.host.check_output(f"{ask} {database} << 'SQL'\n{query}\nSQL").splitlines()

    return run


TITLES = "SELECT title FROM books_book ORDER BY id"


def test_set_has_the_database_elsewhere_and_passes_its_test(shelf, lending):
    page(shelf)
    shelf.host.check_output("systemctl start shelf-backup.service")
    assert " database files certificates" in shelf.host.check_output("shelf-backup list")
    shelf.host.check_output("systemctl start shelf-backup-drill.service")
    assert f"; its migrations fit release {shelf.release}" in shelf.host.check_output("shelf-backup status")
    assert paths_of_lender(shelf) == {"pooler"}
    # Nothing of the test stays.
    assert shelf.host.run("ls /var/lib/postgresql/shelf-drill").rc != 0


def test_migration_of_database_elsewhere_makes_a_set_first(shelf):
    before = shelf.release
    (PROJECTS / "shelf/src/shelf/books/migrations/0002_book_pages.py").write_text(
        "from django.db import migrations, models\n\n\n"
        "class Migration(migrations.Migration):\n    dependencies = [('books', '0001_initial')]\n"
        "    operations = [migrations.AddField('book', 'pages', models.IntegerField(null=True))]\n"
    )
    done = deploy(shelf)
    assert done.returncode == 0, done.stdout[-3000:]
    (named,) = re.findall(r"restore point: set (\w{8}) of \S+Z, \S+ MB", done.stdout)
    assert re.search(rf"^{named} .* database before-migrations$", shelf.host.check_output("shelf-backup list"), re.M)
    # The newest set of the database is of the release before.
    shelf.host.check_output("systemctl start shelf-backup-drill.service")
    expected = f"the set is of release {before}; release {shelf.release} applies to it: books.0002_book_pages"
    assert expected in shelf.host.check_output("shelf-backup status")


def test_database_elsewhere_is_restored_beside_and_in_place(shelf, lending):
    shelf.host.check_output("systemctl start shelf-backup.service")
    kept = lending(TITLES)
    assert kept
    refused = shelf.host.run("shelf-backup restore latest --beside")
    assert "Fix: create an empty database lending_restored" in refused.stderr
    shelf.host.check_output("cd / && runuser -u postgres -- createdb -p 5498 --owner=lender lending_restored")
    shelf.host.check_output("shelf-backup restore latest --beside")
    assert lending(TITLES, "lending_restored") == kept

    lending(
        "DELETE FROM books_book; SET ROLE lender; CREATE TYPE size AS ENUM ('a');"
        " CREATE TABLE later (id int, size size); CREATE VIEW last AS TABLE later"
    )
    # A restore that fails leaves everything as it is; the role cannot remove what another one owns.
    lending("ALTER TABLE books_book OWNER TO postgres")
    failed = shelf.host.run("shelf-backup restore latest")
    assert re.search("the database lending is as it was: .*already exists", failed.stderr)
    assert lending("SELECT count(*) FROM later") == ["0"]
    lending("ALTER TABLE books_book OWNER TO lender")
    done = play("restore", "--limit", "shelf", restore_over="shelf")
    assert done.returncode == 0, done.stdout[-3000:]
    assert lending(TITLES) == kept
    assert lending("SELECT count(*) FROM pg_class WHERE relname IN ('later', 'last')") == ["0"]
    assert page(shelf)["cover"]


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        (
            "site_database_url",
            "postgres://lender:wrong@database.example.test:5499/lending",
            "site_database_url: psql: error: connection to server at .* SASL authentication failed",
        ),
        (
            "site_database_direct_url",
            "postgres://lender:wrong@database.example.test:5497/lending",
            "site_database_direct_url: psql: error: connection to server at .* Connection refused",
        ),
        ("site_database_ca", "", "site_database_url: psql: error: .* certificate verify failed"),
    ],
    ids=["password", "port", "certificate"],
)
def test_database_that_does_not_answer_is_refused_before_a_build(shelf, name, value, reason):
    before = shelf.release
    # The other sites of the inventory have none of these variables.
    variables = {name: f"{{{{ '{value}' if inventory_hostname == 'shelf' else '' }}}}"}
    try:
        done = play("deploy", "--limit", "shelf", **variables, django_force_release=True)
    finally:
        after = play("deploy", "--limit", "shelf")
    assert done.returncode != 0
    assert re.search(reason, done.stdout)
    assert "Build the release" not in done.stdout
    assert after.returncode == 0
    assert shelf.release == before


def test_default_file_of_media_root_is_served(shelf):
    assert shelf.get(page(shelf)["cover"]).body == "no cover yet\n"


def test_header_that_a_view_leaves_out_stays_out(shelf):
    assert shelf.get("/").header("x-frame-options") == "DENY"
    answer = shelf.get("/widget/")
    assert (answer.status, answer.header("x-frame-options")) == (200, None)


def test_settings_of_dynaconf_are_read_from_the_environment(club):
    shown = page(club)
    assert (shown["greeting"], shown["members"]) == ("Hello, club", 0)
    assert club.get(shown["stylesheet"]).body == "nav { display: flex }\n"


def test_pooler_of_one_site_serves_no_other(club, legacy):
    """Beside it are a site without a pooler, and a PgBouncer of another program, which stays as it is."""
    through = "psql -XAtqw -h /run/club-pgbouncer -U club -c 'SELECT 1' club"
    assert club.host.check_output(f"cd / && runuser -u club -- {through}") == "1"
    assert club.host.run(f"cd / && runuser -u legacy -- {through}").rc != 0
    club.host.check_output("systemctl stop club-pgbouncer")
    try:
        assert club.get("/").status == 500
        assert legacy.get("/").status == 200
        assert "[ ]" not in club.manage("showmigrations")
    finally:
        club.host.check_output("systemctl start club-pgbouncer")
    assert club.get("/").status == 200
    assert club.host.check_output("systemctl is-active pgbouncer") == "active"


def test_pool_of_django_limits_and_keeps_connections(queue):
    with ThreadPoolExecutor(12) as clients:
        assert {answer.status for answer in clients.map(lambda _: queue.get("/"), range(60))} == {200}
    master = queue.host.check_output(f"systemctl show -P MainPID queue-gunicorn@{queue.release}.service")
    processes = len(queue.host.check_output(f"pgrep -P {master}").split())
    query = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'queue' AND state = 'idle'"
    kept = int(queue.host.check_output(f'cd / && runuser -u postgres -- psql -XAtqc "{query}"'))
    # The worker of Celery has a pool too.
    assert processes <= kept <= 3 * (processes + 1)


def test_a_worker_works_and_a_websocket_answers(queue):
    assert page(queue, "--get", "--data", "double=21")["double"] == 42
    assert page(queue)["visits"] == page(queue)["visits"] - 1
    assert echo(queue, "hello") == f"{queue.release} hello"


def test_further_valkey_url_uses_its_own_database(queue):
    password = queue.host.check_output("cat /etc/queue/valkey_password")
    ask = f"REDISCLI_AUTH={password} valkey-cli -n 2 --scan --pattern 'celery-task-meta-*'"
    page(queue, "--get", "--data", "double=4")
    assert "celery-task-meta-" in queue.host.check_output(ask)


def test_valkey_listens_locally_and_requires_a_password(queue):
    assert "127.0.0.1:6379" in queue.host.check_output("ss -Hltn")
    assert "NOAUTH" in queue.host.check_output("runuser -u legacy -- valkey-cli ping")


@pytest.mark.parametrize(
    "attempt",
    [
        "cat /srv/queue/current/env",
        "cat /etc/queue/secret_key",
        "ls /srv/queue/current/code/",
        "ls /srv/queue/media",
        "cat /etc/django_vps/sites/queue.json",
        "cat /var/log/nginx/access.log",
        "journalctl --quiet --lines=1 --unit='queue-gunicorn@*' | grep .",
        "cat /proc/$PID/environ",
        "psql -XAtq -U queue -d queue -c 'SELECT 1'",
        "curl --silent --unix-socket /srv/queue/current/gunicorn.sock http://queue.example.test/",
        "touch /srv/queue/media/new && rm /srv/queue/media/new",
        "touch /srv/queue/current/new && rm /srv/queue/current/new",
        "touch /etc/nginx/conf.d/new && rm /etc/nginx/conf.d/new",
        "flock --nonblock /run/queue-deploy.lock true",
        "flock --nonblock /srv/queue/.lock true",
        "flock --nonblock /run/django_vps-files.lock true",
        "kill -0 $PID",
        "systemctl --no-ask-password kill --signal=CONT queue-gunicorn@$RELEASE.service",
    ],
)
def test_site_cannot_read_write_or_block_another_site(queue, attempt):
    known = f"RELEASE={queue.release}; PID=$(systemctl show -P MainPID queue-gunicorn@$RELEASE.service); cd /"
    # Who may do it can.
    owner = "queue" if attempt.startswith("psql") else "root"
    assert queue.host.run(f"runuser -u {owner} -- sh -c {shlex.quote(f'{known}; {attempt}')}").rc == 0
    assert queue.host.run(f"runuser -u legacy -- sh -c {shlex.quote(f'{known}; {attempt}')}").rc != 0


def test_site_cannot_take_database_connections_of_other_sites(legacy, queue):
    program = """
import psycopg2, time
held = []
try:
    while True:
        held.append(psycopg2.connect(dbname="legacy", host="/run/postgresql"))
except psycopg2.OperationalError as error:
    print(len(held), error, flush=True)
    time.sleep(300)
"""
    python = f"runuser -u legacy -- /srv/legacy/current/venv/bin/python -c {shlex.quote(program)}"
    greedy = legacy.host.run(
        f"{python} > /run/greedy & until [ -s /run/greedy ]; do sleep 0.1; done; cat /run/greedy"
        " && systemctl restart queue-gunicorn.service"
    )
    held, cause = greedy.stdout.split(" ", 1)
    assert "too many connections for role" in cause
    # Two releases with four threads for each worker, and ten.
    workers = int(legacy.host.check_output("nproc")) + 1
    assert int(held) <= min(2 * 4 * workers + 10, 87)
    assert page(queue)["asked_by"]
    assert legacy.host.check_output("cd / && runuser -u postgres -- psql -XAtqc 'SELECT 1'") == "1"
    legacy.host.check_output("pkill -u legacy -f psycopg2.connect")


def test_deploy_and_rollback_of_all_projects_fail_no_request(projects, sites, until):
    before = {name: site.release for name, site in projects.items()}
    (PROJECTS / "legacy/assets/theme.txt").write_text("$accent: navy; a { color: $accent }\n")
    (PROJECTS / "pipenv/gallery/project-static/gallery.css").write_text("main { display: flex }\n")
    (PROJECTS / "workspace/packages/labels/src/labels/__init__.py").write_text("label = str.upper\n")
    (PROJECTS / "queue/later.py").write_text("")
    (PROJECTS / "shelf/src/shelf/later.py").write_text("")
    (PROJECTS / "club/wheels/greeting/greeting.py").write_text('HELLO = "Good evening"\n')
    with (
        Load(sites[0].address, projects["legacy"].canonical, path=["/"], rate=4) as first,
        Load(sites[0].address, projects["pipenv"].canonical, path=["/"], rate=4) as second,
        Load(sites[0].address, projects["workspace"].canonical, path=["/notes/"], rate=4) as third,
        Load(sites[0].address, projects["queue"].canonical, path=["/"], rate=3) as fourth,
    ):
        assert deploy(*projects.values()).returncode == 0
        after = {name: site.release for name, site in projects.items()}
        changed = [
            projects["legacy"].get("/static/bundle.css").body,
            projects["pipenv"].get("/static/gallery.css").body,
            page(projects["workspace"])["notes"],
            page(projects["club"])["greeting"],
        ]
        # The next test looks for what its scheduler, which starts after the switch, has asked for.
        until(lambda: page(projects["queue"])["asked_by"][-1] == after["queue"])
        assert play("rollback", "--limit", ",".join(projects)).returncode == 0
    assert "navy" in changed[0]
    assert "flex" in changed[1]
    assert changed[2] == {"MINE": "mine"}
    assert (changed[3], page(projects["club"])["greeting"]) == ("Good evening", "Hello, club")
    assert page(projects["shelf"])["release"] == before["shelf"]
    assert page(projects["workspace"])["notes"] == {"Mine": "mine"}
    for load, name in ((first, "legacy"), (second, "pipenv"), (third, "workspace"), (fourth, "queue")):
        assert load.result()["failures"] == []
        assert set(load.result()["releases"]) == {before[name], after[name]}
    assert {name: site.release for name, site in projects.items()} == before
    # The first data came once, and what somebody did with it since stays.
    assert page(projects["legacy"])["tickets"] == ["Water the plants"]


def test_single_service_runs_once_and_only_for_live_releases(queue, until):
    releases = queue.host.check_output("ls /srv/queue/releases | sort").split()
    # There and back, and none of them in between.
    until(lambda: page(queue)["asked_by"] == [releases[0], releases[1], releases[0]])
    (PROJECTS / "queue/later.py").write_text("# Later still.\n")
    assert deploy(queue, django_health_path="/nothing/").returncode != 0
    asked = page(queue)
    assert asked["asked_by"] == [releases[0], releases[1], releases[0]]
    until(lambda: page(queue)["count"] > asked["count"], 10)


def test_service_that_restarts_again_and_again_is_reported(queue, until):
    unit = f"queue.worker@{queue.release}.service"
    for count in range(1, 4):
        queue.host.check_output(f"systemctl kill --signal=KILL {unit}")
        until(lambda count=count: int(queue.host.check_output(f"systemctl show -P NRestarts {unit}")) >= count)
        until(lambda: queue.host.check_output(f"systemctl show -P ActiveState {unit}") == "active")
    assert f"live, {unit} restarted 3 times in the last hour" in play("releases", "--limit", queue.name).stdout
    done = play("status", "--limit", queue.name)
    assert done.returncode != 0
    assert f"{unit} has restarted in the last hour, times: 3" in done.stdout
    assert "What a unit said: journalctl -u UNIT" in done.stdout


def test_after_migrate_commands_run_once_for_each_release(legacy, projects):
    legacy.manage("shell", "-v", "0", "-c", "from tickets.models import Ticket; Ticket.objects.all().delete()")
    (PROJECTS / "legacy/assets/theme.txt").write_text("$accent: olive; a { color: $accent }\n")
    assert deploy(legacy).returncode == 0
    assert page(legacy)["tickets"] == ["Water the plants"]
    legacy.manage("shell", "-v", "0", "-c", "from tickets.models import Ticket; Ticket.objects.all().delete()")
    done = deploy(legacy)
    assert done.returncode == 0
    assert "changed=0" in done.stdout
    assert page(legacy)["tickets"] == []


def test_after_migrate_commands_repeat_after_undone_migrations(legacy):
    (PROJECTS / "legacy/tickets/migrations/0002_ticket_note.py").write_text(
        "from django.db import migrations, models\n\n\n"
        "class Migration(migrations.Migration):\n    dependencies = [('tickets', '0001_initial')]\n"
        "    operations = [migrations.AddField('ticket', 'note', models.TextField(null=True))]\n"
    )
    assert deploy(legacy).returncode == 0
    assert play("rollback", "--limit", legacy.name, django_rollback_migrations="reverse").returncode == 0
    legacy.manage("shell", "-v", "0", "-c", "from tickets.models import Ticket; Ticket.objects.all().delete()")
    assert deploy(legacy).returncode == 0
    assert page(legacy)["tickets"] == ["Water the plants"]


def test_failed_build_command_is_reported_and_packages_are_kept(legacy):
    before = legacy.release
    build = {"before_collectstatic": ["python build_assets.py", "sh -c 'echo no such colour >&2; exit 3'"]}
    done = deploy(legacy, django_build=build)
    assert done.returncode != 0
    assert "build: sh -c 'echo no such colour >&2; exit 3':" in done.stdout
    assert "no such colour" in done.stdout
    assert legacy.release == before
    assert legacy.host.check_output("ls /srv/legacy/releases/$(ls /srv/legacy/releases | tail -1)") == "packages\nvenv"


def test_build_command_can_change_only_its_release(legacy):
    places = "/srv/legacy/releases/mine /srv/legacy/current/code/mine /etc/mine $(dirname $(command -v python))/mine"
    command = f"sh -c 'for place in {places}; do touch $place && echo changed $place; done; exit 1'"
    done = deploy(legacy, django_build={"before_collectstatic": [command]})
    assert "Read-only file system" in done.stdout
    assert "/venv/bin/mine': Permission denied" in done.stdout
    assert "changed /" not in done.stdout


@pytest.fixture
def package_of_git(legacy) -> Iterator[tuple[str, str]]:
    """A requirement that comes by SSH from a git server of its own, and the key that opens it."""
    legacy.host.check_output(
        "useradd --create-home --password \\* git && su - git -c '"
        'mkdir -m 0700 .ssh && ssh-keygen -qt ed25519 -N "" -f key && mv key.pub .ssh/authorized_keys'
        ' && git init -q greeting && cd greeting && printf "HELLO = 1\\n" > greeting.py'
        ' && printf "[project]\\nname = \\"greeting\\"\\nversion = \\"1\\"\\n" > pyproject.toml'
        " && git add . && git -c user.name=a -c user.email=a@example.test commit -qm 1'"
        " && ssh-keygen -qt ed25519 -N '' -f /home/git/host && systemd-run --quiet --collect --unit=git-server"
        " /usr/sbin/sshd -De -f /dev/null -p 2200 -h /home/git/host"
    )
    commit = legacy.host.check_output("su - git -c 'git -C greeting rev-parse HEAD'")
    key = legacy.host.check_output("cat /home/git/key")
    yield f"greeting @ git+ssh://git@localhost:2200/home/git/greeting@{commit}", key
    legacy.host.check_output("systemctl stop git-server && userdel --remove git")


def test_git_package_is_installed_with_a_build_only_key(legacy, package_of_git):
    requirement, key = package_of_git
    before = legacy.release
    done = deploy(legacy, django_extra_packages=[requirement])
    assert done.returncode != 0
    assert "write a key that opens it as django_build_git_key" in done.stdout
    assert legacy.release == before
    assert deploy(legacy, django_extra_packages=[requirement], django_build_git_key=key).returncode == 0
    assert legacy.host.run("ls /srv/legacy/current/venv/lib/python3*/site-packages/greeting.py").rc == 0
    secret = key.splitlines()[1]
    assert legacy.host.run(f"grep -rq {secret} /srv/legacy/releases /var/cache/legacy").rc == 1
    assert legacy.host.run(f"journalctl --no-pager | grep -q {secret}").rc == 1
    server_key = legacy.host.check_output("cut -d' ' -f2 /home/git/host.pub")
    assert server_key in legacy.host.check_output("cat /var/cache/legacy/known_hosts")


def test_failed_after_migrate_command_stops_the_release(legacy):
    before = legacy.release
    done = deploy(legacy, django_after_migrate=["loaddata nothing"])
    assert done.returncode != 0
    assert "manage.py loaddata nothing: CommandError: No fixture named 'nothing' found" in done.stdout
    assert f"{before} goes on serving" in done.stdout
    assert legacy.release == before
    assert page(legacy)["release"] == before


@pytest.mark.parametrize(
    ("name", "variables", "said"),
    [
        (
            "legacy",
            {"django_settings_module": "tracker.settings.development"},
            "host /run/postgresql, name legacy, user",
        ),
        ("pipenv", {"django_files": {}}, "Copy gallery/configuration.example.py"),
        ("legacy", {"django_collectstatic": False}, "where nothing is"),
    ],
    ids=["SQLite", "no configuration", "no static files"],
)
def test_missing_project_files_and_settings_are_reported(projects, name, variables, said):
    before = projects[name].release
    done = deploy(projects[name], **variables)
    assert done.returncode != 0
    assert said in done.stdout
    assert projects[name].release == before


def test_missing_python_is_reported_with_a_fix(workspace):
    before = workspace.release
    (PROJECTS / "workspace/.python-version").write_text("3.12\n")
    done = deploy(workspace, site_network_environment={"UV_PYTHON_INSTALL_MIRROR": "http://127.0.0.1:9/none"})
    assert done.returncode != 0
    assert "python: .python-version asks for Python 3.12, and the host's is 3.13" in done.stdout
    assert "uv cannot fetch another" in done.stdout
    assert "set django_python to the path of one" in done.stdout
    assert workspace.release == before


def test_rollback_to_a_release_without_its_python_is_refused(workspace):
    other = workspace.host.check_output("ls /srv/workspace/releases | sort | tail -1")
    assert other != workspace.release
    workspace.host.check_output("mv /opt/python3.11 /opt/gone")
    try:
        done = play("rollback", "--limit", workspace.name, release=other)
    finally:
        workspace.host.check_output("mv /opt/gone /opt/python3.11")
    assert done.returncode != 0
    assert f"{other} cannot run: the Python that it was built for is gone" in done.stdout


@pytest.fixture
def stranger(projects, tmp_path):
    """The inventory of somebody else for the same server, where this and that is a neighbour's."""
    site = projects["legacy"]
    own = {
        "ansible_host": site.address,
        "ansible_user": "debian",
        "ansible_ssh_private_key_file": str(ROOT / ".cache/ssh/id_ed25519"),
        "site_name": "stranger",
        "site_domains": ["stranger.example.test"],
        "django_source": str(PROJECTS / "shelf"),
        "letsencrypt_enabled": False,
    }

    def run(**variables):
        groups = {group: {"hosts": {"stranger": {}}} for group in ("web", "app", "database")}
        (tmp_path / "hosts.json").write_text(
            json.dumps({"all": {"hosts": {"stranger": {**own, **variables}}, "children": groups}})
        )
        return play("site", inventory=tmp_path / "hosts.json")

    return run


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        (
            {
                "site_domains": ["stranger.example.test", "www.legacy.example.test"],
                "site_media_root": "/srv/legacy/media/stranger",
                "site_user": "legacy",
                "site_service": "legacy-gunicorn",
                "backup_enabled": True,
                "backup_repository": "/srv/legacy/sets",
                "site_database": "legacy",
                "site_database_user": "legacy",
            },
            [
                "site_domains: www.legacy.example.test belongs to site legacy",
                "site_media_root: /srv/legacy/media/stranger overlaps with /srv/legacy",
                "site_user: legacy belongs to site legacy",
                "backup_repository: /srv/legacy/sets overlaps with /srv/legacy of site legacy",
                "site_service: legacy-gunicorn belongs to site legacy",
                "site_database: legacy belongs to site legacy",
            ],
        ),
        (
            {"site_media_root": "/srv/of_ana", "site_service": "of-ana"},
            [
                "site_media_root: /srv/of_ana exists and contains other files (letters)",
                "site_service: of-ana is the name of /etc/systemd/system/of-ana.service",
            ],
        ),
    ],
)
def test_names_and_folders_of_another_owner_are_refused(legacy, stranger, variables, said):
    legacy.host.check_output("mkdir -p /srv/of_ana/letters; echo '[Unit]' > /etc/systemd/system/of-ana.service")
    look = "getent passwd; ls /srv /etc /etc/nginx/conf.d /etc/systemd/system; stat -c %U /srv/of_ana /srv/legacy/media"
    before = legacy.host.check_output(look)
    done = stranger(**variables)
    assert done.returncode != 0
    for line in said:
        assert line in done.stdout
    assert legacy.host.check_output(look) == before


def test_connections_that_other_sites_have_are_refused(legacy, stranger):
    ask = "cd / && runuser -u postgres -- psql -XAtqc "
    limits = "SELECT current_setting('max_connections'), sum(rolconnlimit) FROM pg_roles WHERE rolconnlimit > 0"
    most, others = map(int, legacy.host.check_output(f'{ask} "{limits}"').split("|"))
    wanted = max(most - 13 - others, 0) + 1
    done = stranger(postgres_connection_limit=wanted)
    assert done.returncode != 0
    said = " ".join(done.stdout.split())
    assert f"can open {wanted} connections, those of other sites {others}, and PostgreSQL on" in said
    assert f"max_connections: {wanted + others + 13} in postgres_settings, or a lower postgres_connection_limit" in said
    found = "ls -d /srv/stranger /etc/django_vps/sites/stranger.json; getent passwd stranger"
    assert legacy.host.run(found).stdout == ""


def test_renamed_units_replace_the_old_without_failed_requests(shelf):
    units = "systemctl list-unit-files --no-legend 'shelf*'; systemctl list-units --all --no-legend 'shelf*'"
    assert "shelf-gunicorn@" in shelf.host.check_output(units)
    # Services of a project leave the folder of their links.
    links = "/etc/systemd/system/shelf-gunicorn@.service.wants"
    shelf.host.check_output(f"mkdir {links}")
    renamed = {"site_service": "{{ site_name }}-{{ 'web' if inventory_hostname == 'shelf' else 'gunicorn' }}"}
    with Load(shelf.address, shelf.canonical, path=["/"], rate=4, cafile=shelf.roots) as load:
        done = play("site", "--limit", "shelf", **renamed)
    assert done.returncode == 0
    assert apart_from_reloads(load.result()["failures"]) == []
    assert "shelf-gunicorn" not in shelf.host.check_output(units)
    assert not shelf.host.file(links).exists
    assert f"shelf-web@{shelf.release}.service" in shelf.host.check_output(units)
    assert page(shelf)["release"] == shelf.release
    assert not re.search("changed=[1-9]", play("site", "--limit", "shelf", **renamed).stdout)


def test_neighbour_site_still_answers(sites):
    assert servers() == [sites[0].container]
    assert sites[0].get("/health/").status == 200
