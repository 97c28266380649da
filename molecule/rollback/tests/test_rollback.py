"""One story from first to last: each test begins where the one before it ended."""

from __future__ import annotations

import json
import re
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import EPHEMERAL, PROJECT
from support.load import Load
from support.play import play

SOURCE = EPHEMERAL / "project"
RELEASES: dict[str, str] = {}


def migration(name: str, operation: str, after: str = "0001_initial") -> None:
    (SOURCE / f"notes/migrations/{name}.py").write_text(
        "from django.db import migrations, models\n\n\ndef do(apps, editor):\n    pass\n\n\n"
        f"class Migration(migrations.Migration):\n    dependencies = [('notes', '{after}')]\n"
        f"    operations = [{operation}]\n"
    )


@pytest.fixture
def deployed(site):
    """Deploy the project as it is now; the release that is live then."""

    def deploy(version: str, **variables: str) -> str:
        with (SOURCE / "config/urls.py").open("a") as urls:
            urls.write(f"# {version}\n")
        done = play("deploy", django_version=version, **variables)
        assert done.returncode == 0
        RELEASES[version] = site.release
        return site.release

    return deploy


@pytest.fixture
def refused(site):
    """Go back, and expect to be told why not."""

    def rollback(*said: str, **variables: str) -> None:
        before = site.release
        done = play("rollback", **variables)
        assert done.returncode != 0
        for words in said:
            assert words in done.stdout
        assert site.release == before
        assert json.loads(site.get("/health/").body)["release"] == before

    return rollback


@pytest.fixture
def back(site):
    """Go back while the site is visited; the release that is live then."""

    def rollback(**variables: str) -> str:
        with Load(site.address, site.canonical, path=["/health/", "/"], rate=15) as load:
            done = play("rollback", **variables)
        assert done.returncode == 0
        assert load.result()["failures"] == []
        assert json.loads(site.get("/health/").body)["release"] == site.release
        return site.release

    return rollback


@pytest.fixture
def columns(psql):
    def columns() -> list[str]:
        query = "SELECT column_name FROM information_schema.columns WHERE table_name = 'notes_notice'"
        return psql(query).stdout.split()

    return columns


def test_rollback_without_a_previous_release_is_refused(site, refused):
    RELEASES["v1"] = site.release
    # The host came with another one.
    site.host.check_output(f"cd /srv/{site.name}/releases && ls | grep -v {site.release} | xargs rm -r")
    refused("there is no release before")


def test_rollback_without_migrations_restores_previous_release(deployed, back):
    deployed("v2")
    assert back() == RELEASES["v1"]


def test_second_rollback_does_not_go_forward(refused):
    refused("there is no release before")


def test_rolled_back_release_can_be_selected_by_name(site, back):
    assert back(release=RELEASES["v2"]) == RELEASES["v2"]


def test_unknown_release_is_refused_with_the_known_releases(refused):
    refused("there is no release '20200101T000000Z'", RELEASES["v1"], release="20200101T000000Z")


def test_rollback_over_a_migration_needs_a_decision(deployed, refused, columns):
    table = "migrations.CreateModel('tag', [('id', models.AutoField(primary_key=True)), ('name', models.TextField())])"
    migration("0002_stars", f"migrations.AddField('notice', 'stars', models.IntegerField(null=True)), {table}")
    deployed("v3")
    assert "stars" in columns()
    refused("notes.0002_stars: undo: Add field stars to notice", "django_rollback_migrations=reverse")
    assert "stars" in columns()


def test_rollback_can_keep_the_migration(deployed, back, columns):
    assert back(django_rollback_migrations="keep") == RELEASES["v2"]
    assert "stars" in columns()


def test_kept_migration_can_be_undone_later(back, columns):
    # As for a run that died between the switch and the undoing.
    assert back(release=RELEASES["v2"], django_rollback_migrations="reverse") == RELEASES["v2"]
    assert "stars" not in columns()
    play("deploy", django_version="v3")
    assert "stars" in columns()


def test_rollback_undoes_the_migration_on_request(back, columns):
    back(release=RELEASES["v3"])
    assert back(django_rollback_migrations="reverse") == RELEASES["v2"]
    assert "stars" not in columns()


def test_rollback_to_release_without_its_migrations_is_refused(refused, columns):
    refused("the database lacks migrations", "notes.0002_stars: Add field stars", "deploy.yml", release=RELEASES["v3"])
    assert "stars" not in columns()


def test_deploy_applies_undone_migrations_again(site, columns):
    assert play("deploy", django_version="v3").returncode == 0
    assert site.release == RELEASES["v3"]
    assert "stars" in columns()


REFUSED = "must be owner|permission denied"


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE notes_tag",
        "ALTER TABLE notes_tag ADD COLUMN mine integer",
        "TRUNCATE notes_tag",
        "CREATE TABLE mine (id integer)",
        "CREATE SCHEMA mine",
        "SET ROLE site12_owner",
    ],
)
def test_running_site_cannot_change_tables(psql, statement):
    assert re.search(REFUSED, psql(statement, "site12").stderr)


def test_running_site_writes_rows_of_later_migrations(psql):
    # notes_tag came with the last migration, after the site got its privileges.
    for statement in (
        "INSERT INTO notes_tag (name) VALUES ('x')",
        "UPDATE notes_tag SET name = 'y'",
        "SELECT name FROM notes_tag",
        "DELETE FROM notes_tag",
        "CREATE TEMPORARY TABLE mine (id integer)",
    ):
        assert psql(statement, "site12").rc == 0


def test_reader_reads_every_table_and_writes_none(psql):
    assert psql("SELECT * FROM notes_tag, notes_notice, django_session", "site12_ro").rc == 0
    for statement in ("INSERT INTO notes_tag (name) VALUES ('x')", "DELETE FROM notes_notice", "DROP TABLE notes_tag"):
        assert re.search(REFUSED, psql(statement, "site12_ro").stderr)


@pytest.mark.parametrize("user", ["nobody", "www-data", "debian"])
def test_other_system_users_cannot_connect(site, user):
    for role in (user, "site12", "site12_owner", "site12_ro"):
        tried = site.host.run(f"cd / && runuser -u {user} -- psql -X -U {role} -d site12 -c 'SELECT 1'")
        assert re.search("role .* does not exist|Peer authentication failed", tried.stderr)


def test_manage_runs_as_the_owner_on_request(site):
    program = (
        "from django.db import connection; cursor = connection.cursor();"
        " cursor.execute('SELECT current_user'); print(cursor.fetchone())"
    )
    assert "('site12',)" in site.manage("shell", "-v", "0", "-c", program)
    assert "('site12_owner',)" in site.manage("--owner", "shell", "-v", "0", "-c", program)


def test_migration_that_drops_a_column_in_use_is_refused(site, columns):
    migration("0003_text", "migrations.RemoveField('notice', 'text')", "0002_stars")
    before = site.release
    done = play("deploy", django_version="v4")
    assert done.returncode != 0
    assert "notes.0003_text drops the column notes_notice.text" in done.stdout
    assert site.release == before
    assert "text" in columns()


def test_rollback_restores_columns_before_old_release_starts(site, deployed, refused, back, columns):
    # This one can live without the column, so that its board goes on answering.
    models = SOURCE / "notes/models.py"
    models.write_text(models.read_text().replace("    text = models.TextField(max_length=2000)\n", "    text = ''\n"))
    forms = SOURCE / "notes/forms.py"
    forms.write_text(re.sub(r'"text",? ?', "", forms.read_text()))
    migration("0003_text", "migrations.RemoveField('notice', 'text')", "0002_stars")
    deployed("v4", django_allow_breaking_migrations="true")
    assert "text" not in columns()
    # When it then does not start, the one that goes on serving gets its database again.
    packages = f"/srv/site12/releases/{RELEASES['v3']}/venv/lib"
    site.host.check_output(f"mv {packages} {packages}.away")
    refused("bring them again by playbooks/deploy.yml", django_rollback_migrations="reverse")
    site.host.check_output(f"mv {packages}.away {packages}")
    assert "text" in columns()
    assert play("deploy", django_version="v4").returncode == 0
    assert "text" not in columns()
    assert back(django_rollback_migrations="reverse") == RELEASES["v3"]
    assert "text" in columns()


def test_irreversible_migration_is_refused_with_the_reason(deployed, refused, back):
    for name in ("notes/models.py", "notes/forms.py"):
        (SOURCE / name).write_text((PROJECT / "sample_project" / name).read_text())
    (SOURCE / "notes/migrations/0003_text.py").unlink()
    migration("0003_once", "migrations.RunPython(do)", "0002_stars")
    deployed("v5")
    said = ("cannot be undone", "notes.0003_once: Raw Python operation")
    refused(*said)
    refused(*said, django_rollback_migrations="reverse")
    assert back(django_rollback_migrations="keep") == RELEASES["v3"]


def test_failed_release_is_bad_and_not_offered(site, refused, deployed):
    deployed("v6")
    views = SOURCE / "notes/views.py"
    good = views.read_text()
    views.write_text(good.replace("return JsonResponse(body, status=status)", "return JsonResponse(body, status=500)"))
    done = play("deploy", django_version="v7")
    views.write_text(good)
    assert done.returncode != 0
    [bad] = [line.split()[0] for line in play("releases").stdout.replace('"', "").splitlines() if "bad: health" in line]
    refused(f"{bad} is bad: health", RELEASES["v3"], release=bad)


def test_rollback_passes_the_same_check(site, refused, back):
    # Somebody has tidied up on the host.
    site.host.check_output(f"rm -r /srv/site12/releases/{RELEASES['v3']}/venv/lib")
    refused("start", "No module named", django_rollback_migrations="keep")
    assert site.host.run(f"systemctl is-active site12-gunicorn@{RELEASES['v3']}.socket").stdout.strip() != "active"
    # It has served, so it is not bad: that is said of what never worked. Another one may be named.
    assert back(release=RELEASES["v2"], django_rollback_migrations="keep") == RELEASES["v2"]


def test_release_list_shows_live_and_bad_releases_and_switches(site):
    said = play("releases").stdout
    assert re.search(rf"{RELEASES['v2']} +v2 +live", said)
    assert re.search(r"T\d+Z +v7 +bad: health", said)
    assert re.search(rf"{RELEASES['v3']} +v3\W*$", said, re.MULTILINE)
    assert re.search(rf"\S+@\S+ +{RELEASES['v6']} -> {RELEASES['v2']} ", said)


def notes(site, name: str) -> list[list[str]]:
    return [line.split() for line in site.host.file(f"/srv/site12/media/{name}").content_string.splitlines()]


def test_worker_runs_from_the_live_release_with_its_arguments(site, until):
    units = "systemctl list-units --plain --no-legend 'site12.worker@*'"
    # That of the release before has its stop_timeout to end what it holds.
    until(lambda: site.host.check_output(units).count("\n") == 0, 60)
    assert site.host.service(f"site12.worker@{site.release}.service").is_running
    until(lambda: notes(site, "work")[-1][0] == site.release, 30)
    assert notes(site, "work")[-1][3:] == ["100", "%", "of", "it"]


def test_worker_process_loads_urls_before_its_first_request(site, deployed, until):
    with (SOURCE / "notes/views.py").open("a") as views:
        views.write("import os, sys\nprint('views read by', os.getpid(), file=sys.stderr)\n")
    deployed("v7.1")
    unit = f"site12-gunicorn@{site.release}.service"
    main = site.host.check_output(f"systemctl show -P MainPID {unit}")

    def workers() -> set[str]:
        return set(site.host.check_output(f"cat /proc/{main}/task/{main}/children").split())

    def readers() -> set[str]:
        said = site.host.check_output(f"journalctl -o cat -u {unit}")
        return set(re.findall(r"^views read by (\d+)$", said, re.MULTILINE))

    before = workers()
    # Nobody asks for anything meanwhile: what was asked during the deploy went to other processes.
    site.host.check_output(f"kill {' '.join(before)}")
    until(lambda: len(workers() - before) == len(before) and workers() - before <= readers(), 30)


def test_worker_completes_its_work_after_the_switch(site, deployed, until):
    before = site.release
    deployed("v8")
    # One that is still ending its work is not active either.
    state = f"systemctl show -P ActiveState site12.worker@{before}.service"
    until(lambda: site.host.check_output(state) == "inactive", 30)
    until(lambda: notes(site, "work")[-1][0] == site.release, 30)
    of_before = [line for line in notes(site, "work") if line[0] == before]
    begun = {
        process: [line[2] for line in of_before if line[1] == process] for process in {line[1] for line in of_before}
    }
    assert all(steps.count("begins") == steps.count("ends") for steps in begun.values())


def test_release_whose_worker_dies_does_not_go_live(site):
    work = SOURCE / "notes/management/commands/work.py"
    good = work.read_text()
    before = site.release
    work.write_text(good.replace("        going = []\n", "        raise SystemExit('no queue')\n"))
    done = play("deploy", django_version="v9")
    work.write_text(good)
    assert done.returncode != 0
    assert "no queue" in done.stdout
    assert site.release == before
    assert site.host.service(f"site12.worker@{before}.service").is_running


def test_a_timer_runs_its_command_with_the_live_release(site, until):
    until(lambda: notes(site, "ticks")[-1] == [site.release], 30)
    assert {line[0] for line in notes(site, "ticks")} > {site.release}


def test_workers_and_timers_start_again_after_a_reboot(site, until):
    subprocess.run(["docker", "restart", "--time", "20", site.container], check=True, capture_output=True)
    site.note_address()
    ticks = len(notes(site, "ticks"))
    until(lambda: site.get("/health/").status == 200 and len(notes(site, "ticks")) > ticks + 1)
    assert json.loads(site.get("/health/").body)["release"] == site.release
    assert site.host.service(f"site12.worker@{site.release}.service").is_running
    assert notes(site, "ticks")[-1] == [site.release]


def test_manage_runs_as_the_service_does(site):
    unit = f"site12-gunicorn@{site.release}.service"
    shown = "User,Group,UMask,ProtectSystem,ReadWritePaths,SystemCallFilter,CapabilityBoundingSet,NoNewPrivileges"
    program = (
        "import subprocess; unit = open('/proc/self/cgroup').read().strip().rsplit('/', 1)[-1];"
        f"print(subprocess.run(['systemctl', 'show', '-p', '{shown}', unit], capture_output=True, text=True).stdout)"
    )
    of_service = site.host.check_output(f"systemctl show -p {shown} {unit}")
    of_command = site.manage("shell", "-c", program)
    # Who may read the journal need not know what was given to a command.
    assert "manage.py shell of site12" in site.host.check_output("journalctl -o cat -n 100")
    assert "import subprocess" not in site.host.check_output("journalctl -o cat")
    assert "ProtectSystem=strict" in of_service.splitlines()
    assert [line for line in of_service.splitlines() if line not in of_command.splitlines()] == []


def test_queued_requests_are_answered_by_the_previous_release(site, deployed, until):
    before = site.release
    unit = f"site12-gunicorn@{before}.service"
    starts = "systemctl list-units --plain --no-legend --state=active 'site12-gunicorn@*.service' | wc -l"
    with ThreadPoolExecutor(6) as others:
        deploy = others.submit(deployed, "v10")
        until(lambda: site.host.check_output(starts) == "2")
        # As if all its processes were busy: it takes no connection, and those that come wait in the socket's queue.
        site.host.check_output(f"systemctl kill --signal=STOP {unit}")
        try:
            waiting = [others.submit(site.get, "/health/") for _ in range(5)]
            until(lambda: site.release != before, 30)
            # Longer than who only waits for a moment before it stops the release.
            time.sleep(2)
        finally:
            site.host.check_output(f"systemctl kill --signal=CONT {unit}")
        assert deploy.result() != before
        answers = [one.result() for one in waiting]
    assert [answer.status for answer in answers] == [200] * 5
    assert {json.loads(answer.body)["release"] for answer in answers} == {before}


def test_tables_can_be_given_back_while_the_site_serves(site, psql):
    with Load(site.address, site.canonical, path=["/health/", "/"], rate=15) as load:
        done = play("site", "--tags=postgres,django", "--skip-tags=deploy", site_database_separate_owner=False)
    assert done.returncode == 0
    assert load.result()["failures"] == []
    assert psql("ALTER TABLE notes_notice ADD COLUMN mine integer", "site12").rc == 0
    assert "does not exist" in psql("SELECT 1", "site12_owner").stderr
