"""One story from first to last: sets, restores, and everything that can happen to a set."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml
from conftest import EPHEMERAL, Site
from support.container import host_of
from support.load import Load
from support.play import play
from support.runs import ROOT

RECOVERY = EPHEMERAL / "inventory/site13-recovery.txt"
LOCAL = "/var/backups/site13"
SFTP = "sftp:keeper@storage:/home/keeper/sets"
PICTURE = "/srv/site13/media/notices/picture.png"


@pytest.fixture(scope="session")
def site(sites):
    return sites[0]


@pytest.fixture(scope="session")
def storage():
    """A server with SFTP and nothing of the stack."""
    host = host_of(f"storage-{os.environ['VPS_RUN']}")
    host.check_output("useradd --create-home keeper")
    return host


@pytest.fixture
def sql(psql):
    def run(query: str) -> str:
        done = psql(query)
        assert done.rc == 0, done.stderr
        return done.stdout.strip()

    return run


def add_notice(sql, title: str) -> None:
    sql(f"INSERT INTO notes_notice (title, text, created, image, attachment) VALUES ('{title}', 'x', now(), '', '')")


def titles(sql) -> list[str]:
    return sql("SELECT title FROM notes_notice ORDER BY id").splitlines()


def run(site, *argv: str):
    return site.host.run(f"site13-backup {' '.join(argv)}")


def make_set(site) -> str:
    """Make a set as the timer does; return its id."""
    site.host.check_output("systemctl start site13-backup.service")
    return json.loads(site.host.check_output("cat /var/lib/django_vps/backup/site13/state.json"))["last"]["id"]


def sets(site) -> list[str]:
    return [line.split()[0] for line in site.host.check_output("site13-backup list").splitlines()]


def as_postgres(site, query: str) -> str:
    return site.host.check_output(f'cd / && runuser -u postgres -- psql -XAtqc "{query}"')


def points(site) -> list[str]:
    """Return the labels of the base backups, the oldest first."""
    info = "runuser -u postgres -- pgbackrest --config=/etc/pgbackrest/site13.conf --stanza=site13 --output=json info"
    return [one["label"] for one in json.loads(site.host.check_output(info))[0]["backup"]]


def test_a_set_is_made_each_night_and_tested_each_week(site, until):
    for unit in ("backup", "backup-drill", "backup-base", "backup-wal"):
        timer = f"site13-{unit}.timer"
        assert site.host.service(timer).is_enabled
        assert site.host.service(timer).is_running
    assert sets(site) == []
    status = play("status")
    assert status.returncode == 0
    assert f"no set yet in {LOCAL}" in status.stdout
    # The run has begun the first base backup.
    until(lambda: len(points(site)) == 1, 60)
    assert site.host.file(f"{LOCAL}-pgbackrest").mode == 0o700
    assert site.host.run("runuser -u site13 -- cat /etc/pgbackrest/site13.conf").rc != 0


@pytest.mark.parametrize("unit", [f"site13-backup{kind}" for kind in ("", "-drill", "-base", "-wal")])
def test_backup_units_are_sandboxed(site, unit):
    verified = site.host.run(f"systemd-analyze verify /etc/systemd/system/{unit}.service")
    assert (verified.rc, verified.stderr) == (0, "")
    found = site.host.check_output(f"systemd-analyze security --no-pager {unit}.service")
    assert float(re.search(r"exposure level for \S+: ([\d.]+)", found)[1]) <= 4.5


def test_backup_secrets_are_on_controller_and_private(site):
    assert stat.S_IMODE(RECOVERY.stat().st_mode) == 0o600
    secrets = json.loads(RECOVERY.read_text())
    assert secrets["password"] in site.host.check_output("cat /etc/site13/backup/secrets.json")
    for path in ("secrets.json", "settings.json"):
        assert site.host.file(f"/etc/site13/backup/{path}").mode == 0o600
        assert site.host.run(f"runuser -u site13 -- cat /etc/site13/backup/{path}").rc != 0


def test_first_set_has_all_parts_encrypted_and_private(site, sql):
    add_notice(sql, "kept for ever")
    site.host.check_output(
        f"install -D -o site13 -g www-data -m 640 /dev/null {PICTURE} && head -c 300000 /dev/urandom > {PICTURE}"
    )
    done = play("backup")
    assert done.returncode == 0
    assert re.search(r"set [0-9a-f]{8} of \S+: database, files, certificates; \S+ MB", done.stdout)
    assert len(sets(site)) == 1
    assert site.host.file(LOCAL).mode == 0o700
    assert site.host.run(f"grep -r 'kept for ever' {LOCAL} {LOCAL}-pgbackrest").rc == 1
    assert "are lost with its disk" in play("status").stdout


def test_restore_with_missing_or_wrong_options_changes_nothing(site, sql):
    for wrong in ({}, {"restore_over": "another"}):
        done = play("restore", **wrong)
        assert done.returncode != 0
        assert "-e restore_over=site13 replaces them" in done.stdout
    done = play("restore", restore_over="site13", restore_to="2020-01-01")
    assert done.returncode != 0
    assert "is before the first set" in done.stdout
    done = play("restore", restore_over="site13", restore_to="2999-01-01")
    assert "is in the future" in done.stdout
    done = play("restore", restore_over="site13", restore_to="yesterday")
    assert "expected latest, the id of a set, or a time" in done.stdout
    assert titles(sql) == ["kept for ever"]
    assert site.get("/").status == 200


def test_restore_to_a_time_undoes_later_changes(site, sql):
    digest = site.host.check_output(f"sha256sum {PICTURE}")
    # No set has this row.
    add_notice(sql, "written just before")
    kept = titles(sql)
    site.host.check_output("sleep 1.1")
    then = site.host.check_output("date --utc '+%Y-%m-%d %H:%M:%S'")
    sql("DELETE FROM notes_notice")
    add_notice(sql, "written later")
    site.host.check_output(f"rm {PICTURE} && echo later > /srv/site13/media/later.txt")
    make_set(site)
    done = play("restore", restore_to=then, restore_over="site13")
    assert done.returncode == 0, done.stdout[-3000:]
    assert "database: point in time" in done.stdout
    assert titles(sql) == kept == ["kept for ever", "written just before"]
    assert site.host.check_output(f"sha256sum {PICTURE}") == digest
    assert site.host.check_output(f"stat -c '%U %G %a' {PICTURE}") == "site13 www-data 640"
    assert not site.host.file("/srv/site13/media/later.txt").exists
    assert "kept for ever" in site.get("/").body
    assert site.host.service("site13.daily.timer").is_running
    # What was live before the restore is in a set too.
    found = site.host.check_output("site13-backup list | grep before-restore | cut -d ' ' -f 1")
    done = play("restore", restore_to=found, restore_beside=True)
    assert done.returncode == 0, done.stdout[-3000:]
    assert titles(sql) == kept
    beside = "runuser -u postgres -- psql -XAtqc 'SELECT title FROM notes_notice' site13_restored"
    assert site.host.check_output(f"cd / && {beside}") == "written later"
    assert site.host.check_output("cat /srv/site13/restored/srv/site13/media/later.txt") == "later"


def test_no_request_fails_while_a_set_is_made_and_tested(site):
    with Load(site.address, site.canonical, path=["/health/", "/"], rate=20, cafile=site.roots) as visitors:
        make_set(site)
        site.host.check_output("systemctl start site13-backup-drill.service")
    assert visitors.result()["failures"] == []
    status = play("status").stdout
    assert re.search(rf"newest set that was restored in a test: .*; its migrations fit release {site.release}", status)
    assert "! point in time" not in status
    assert "point in time: from" in status


def test_set_that_does_not_fit_its_release_is_told(site, sql, alerts, until):
    sql("DELETE FROM django_migrations WHERE app = 'notes'")
    try:
        make_set(site)
        assert site.host.run("systemctl start site13-backup-drill.service").rc != 0
        until(lambda: alerts() == ["site13 site13-backup-drill"], 10)
        lost = f"lacks migrations of release {site.release}, which was live when the set was made: notes.0001_initial"
        assert lost in run(site, "status").stdout
    finally:
        sql("INSERT INTO django_migrations (app, name, applied) VALUES ('notes', '0001_initial', now())")
    make_set(site)
    site.host.check_output("systemctl start site13-backup-drill.service")
    assert "last test failed" not in run(site, "status").stdout


def test_killed_base_backup_keeps_the_others(site):
    good = points(site)
    start = "systemctl start --no-block site13-backup-base.service"
    for delay in (0.1, 0.6, 1.2):
        site.host.check_output(
            f"{start}; timeout 60 sh -c 'until pgrep -f \"[p]gbackrest.* backup\"; do sleep 0.01; done'; sleep {delay};"
            " pkill -9 -f '[p]gbackrest.* backup'; pkill -9 -f '[b]ackup/backup.py'; true"
        )
        assert set(good) <= set(points(site))
    site.host.check_output("systemctl reset-failed; systemctl start site13-backup-base.service")
    assert points(site)[: len(good)] == good
    assert len(points(site)) > len(good)
    site.host.check_output("systemctl start site13-backup-wal.service")


def test_sftp_server_without_key_is_refused_with_line_to_add(site, storage):
    before = site.host.check_output("cat /etc/site13/backup/settings.json")
    done = play("site", "--tags=backup", backup_repository=SFTP)
    assert done.returncode != 0
    (line,) = set(re.findall(r"ssh-ed25519 \S+ site13-backup", done.stdout))
    assert site.host.check_output("cat /etc/site13/backup/settings.json") == before
    storage.check_output(
        f"install -d -o keeper -m 700 ~keeper/.ssh && echo '{line}' > ~keeper/.ssh/authorized_keys"
        " && chown keeper ~keeper/.ssh/authorized_keys"
    )
    done = play("site", "--tags=backup", backup_repository=SFTP)
    assert done.returncode == 0, done.stdout[-3000:]
    again = play("site", "--tags=backup", backup_repository=SFTP)
    assert re.search(r"changed=0 ", again.stdout)
    make_set(site)
    assert len(sets(site)) == 1


@pytest.fixture
def bucket(site, storage):
    """A server of S3 with an empty bucket, which believes all credentials, and a certificate that is in no store."""
    # moto ends TLS in a way that OpenSSL does not accept.
    front = (
        "server { listen 5000 ssl; ssl_certificate /root/s3.pem; ssl_certificate_key /root/s3.key;"
        " client_max_body_size 0;"
        " location / { proxy_pass http://127.0.0.1:5001; proxy_set_header Host \\$http_host; } }"
    )
    storage.check_output(
        "apt-get -qq update && apt-get -qq install --yes --no-install-recommends python3-venv curl nginx-light openssl"
        " && python3 -m venv /opt/moto && /opt/moto/bin/pip --quiet install 'moto[s3]==5.2.5' flask flask-cors"
        " && systemd-run --quiet --unit=moto /opt/moto/bin/moto_server -H 127.0.0.1 -p 5001"
        " && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 9 -subj /CN=storage"
        " -addext subjectAltName=DNS:storage -keyout /root/s3.key -out /root/s3.pem"
        f' && echo "{front}" > /etc/nginx/conf.d/s3.conf && systemctl restart nginx'
        " && curl -sS --retry 20 --retry-connrefused --retry-delay 1 --noproxy '*' -X PUT http://127.0.0.1:5001/sets"
    )
    pem = storage.check_output("cat /root/s3.pem")
    site.host.check_output(f"echo '{pem}' > /etc/ssl/s3.pem")
    return "s3:https://storage:5000/sets/shop"


def test_sets_are_stored_in_and_restored_from_s3_bucket(site, sql, bucket, until):
    variables = {
        "backup_repository": bucket,
        "backup_environment": {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret"}
        | {"RESTIC_CACERT": "/etc/ssl/s3.pem"},
    }
    done = play("site", "--tags=backup", **variables)
    assert done.returncode == 0, done.stdout[-3000:]
    assert json.loads(RECOVERY.read_text())["backup_repository"] == bucket
    until(lambda: len(points(site)) == 1, 60)
    kept = titles(sql)
    make_set(site)
    # It also starts PostgreSQL on a copy of the cluster.
    site.host.check_output("systemctl start site13-backup-drill.service")
    add_notice(sql, "after the set")
    done = play("restore", restore_over="site13", **variables)
    assert done.returncode == 0, done.stdout[-3000:]
    assert titles(sql) == kept
    done = play("site", "--tags=backup", backup_repository=SFTP)
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.fixture
def alerts(site):
    """What the failure command was told since the beginning of the test."""
    site.host.run("rm -f /run/alerts")
    yield lambda: site.host.run("cat /run/alerts").stdout.splitlines()  # noqa: PLW0108
    site.host.run("systemctl reset-failed")


CORRUPTIONS = {
    "corrupt": "printf xyz | dd of={pack} bs=1 seek=200 conv=notrunc status=none",
    "truncated": "truncate -s 300 {pack}",
    "empty": "truncate -s 0 {pack}",
    "lost": "rm {pack}",
}


@pytest.mark.parametrize("command", CORRUPTIONS.values(), ids=CORRUPTIONS)
def test_drill_of_damaged_set_fails_and_alerts(site, storage, alerts, until, command):
    storage.check_output("cp -a ~keeper/sets ~keeper/good")
    try:
        pack = storage.check_output("find ~keeper/sets/data -type f -size +50k -printf '%s %p\\n' | sort -n | tail -1")
        storage.check_output(f"chmod -R u+w ~keeper/sets && {command.format(pack=pack.split()[1])}")
        assert site.host.run("systemctl start site13-backup-drill.service").rc != 0
        until(lambda: alerts() == ["site13 site13-backup-drill"], 10)
        status = play("status")
        assert status.returncode != 0
        assert "site13-backup-drill.service" in status.stdout
    finally:
        storage.check_output("rm -rf ~keeper/sets && mv ~keeper/good ~keeper/sets")
    site.host.check_output("systemctl start site13-backup-drill.service")


def test_unreachable_repository_is_reported_and_keeps_sets(site, sql, storage, alerts, until):
    good, base_backups = sets(site), points(site)
    storage.check_output("systemctl stop ssh.socket ssh.service")
    try:
        assert site.host.run("systemctl start site13-backup.service").rc != 0
        until(lambda: alerts() == ["site13 site13-backup"], 10)
        # So is the WAL that waits, and the site goes on.
        assert site.host.run("systemctl start site13-backup-wal.service").rc != 0
        until(lambda: alerts() == ["site13 site13-backup", "site13 site13-backup-wal"], 10)
        status = play("status")
        assert status.returncode != 0
        assert "! point in time: backup_point_in_time: the repository cannot be read: " in status.stdout
        assert play("backup").returncode != 0
        add_notice(sql, "while the repository is away")
        as_postgres(site, "SELECT pg_switch_wal()")
        assert "while the repository is away" in site.get("/").body
    finally:
        storage.check_output("systemctl start ssh.service")
    assert (sets(site), points(site)) == (good, base_backups)
    # PostgreSQL has kept the WAL, and tries again each minute.
    waiting = "SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'"
    until(lambda: as_postgres(site, waiting) == "0", 90)
    site.host.check_output("systemctl start site13-backup-wal.service")
    make_set(site)


def test_backup_after_a_killed_backup_succeeds_and_keeps_sets(site):
    good = sets(site)
    site.host.check_output("head -c 200000000 /dev/urandom > /srv/site13/media/large")
    site.host.check_output(
        "systemctl start --no-block site13-backup.service;"
        " timeout 60 sh -c 'until pgrep -x restic; do sleep 0.05; done'; sleep 0.3;"
        " pkill -9 -x restic; pkill -9 -f '[b]ackup/backup.py'; true"
    )
    site.host.check_output("rm /srv/site13/media/large; systemctl reset-failed")
    assert set(good) <= set(sets(site))
    assert make_set(site) not in good


def test_killed_restore_keeps_live_data_and_can_be_repeated(site, sql):
    kept = titles(sql)
    make_set(site)
    add_notice(sql, "after the set")
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(play, "restore", restore_over="site13", backup_repository=SFTP)
        site.host.check_output(
            "timeout 120 sh -c 'until pgrep -x pg_restore; do sleep 0.01; done'; pkill -9 -f '[b]ackup/backup.py';"
            " pkill -9 -x pg_restore; true"
        )
        assert first.result().returncode != 0
    assert site.get("/").status == 503
    assert titles(sql) == [*kept, "after the set"]
    done = play("restore", restore_over="site13", backup_repository=SFTP)
    assert done.returncode == 0, done.stdout[-3000:]
    assert titles(sql) == kept
    assert site.get("/").status == 200


def test_full_disk_is_reported_before_the_dump(site, alerts):
    good = sets(site)
    folder = "/var/lib/django_vps/backup/site13"
    site.host.check_output(f"mount -t tmpfs -o size=60m tmpfs {folder}")
    try:
        assert run(site, "create").rc != 0
        assert "MiB free, and the dump needs" in run(site, "create").stderr
    finally:
        site.host.check_output(f"umount {folder}")
    assert sets(site) == good


def test_disabled_backup_keeps_its_sets(site, sql, storage):
    good, base_backups = sets(site), points(site)
    done = play("site", "--tags=backup", backup_repository=SFTP, backup_enabled=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert site.host.run("systemctl list-timers --all | grep site13-backup").rc == 1
    assert sets(site) == good
    assert "whose name ends with -pgbackrest" in done.stdout.replace("\n", " ")
    assert sql("SHOW archive_mode") == "off"
    assert storage.check_output("ls ~keeper/sets-pgbackrest/backup/site13 | grep ^20").splitlines() == base_backups
    done = play("site", "--tags=backup", backup_repository=SFTP)
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.fixture(scope="module")
def deploy():
    """Deploy a copy of the sample project with other files."""
    folder = EPHEMERAL / "project"
    shutil.copytree(ROOT / "sample_project", folder)

    def run(version: str, **files: str) -> subprocess.CompletedProcess:
        for name, text in files.items():
            (folder / f"notes/{name}.py").write_text(text)
        return play("deploy", django_source=str(folder), django_version=version)

    return run


PURGE = """
from django.db import migrations

def purge(apps, editor):
    apps.get_model("notes", "Notice").objects.all().delete()

class Migration(migrations.Migration):
    dependencies = [("notes", "0001_initial")]
    operations = [migrations.RunPython(purge)]
"""


def test_deploy_without_migrations_makes_no_set(site, deploy):
    good, before = sets(site), site.release
    assert deploy("v2", other="NUMBER = 2").returncode == 0
    assert site.release != before
    assert sets(site) == good


def test_deploy_migrates_nothing_when_its_set_fails(site, sql, storage, deploy):
    add_notice(sql, "before the migration")
    kept, before = titles(sql), site.release
    storage.check_output("systemctl stop ssh.socket ssh.service")
    try:
        done = deploy("v3", **{"migrations/0002_purge": PURGE})
    finally:
        storage.check_output("systemctl start ssh.service")
    assert done.returncode != 0
    assert "so no migration was applied" in done.stdout
    assert "-e backup_before_migrations=false" in done.stdout
    assert (titles(sql), site.release) == (kept, before)
    assert "before the migration" in site.get("/").body


def test_database_before_a_migration_comes_back_with_its_release(site, sql, deploy):
    kept, before = titles(sql), site.release
    done = deploy("v3")
    assert done.returncode == 0, done.stdout[-3000:]
    (named,) = re.findall(r"restore point: set (\w{8}) of \S+Z, \S+ MB", done.stdout)
    assert titles(sql) == []
    assert re.search(rf"^{named} .* database before-migrations$", site.host.check_output("site13-backup list"), re.M)
    journal = site.host.check_output("tail -n 1 /srv/site13/journal")
    assert [point["set"] for point in json.loads(journal)["restore_points"]] == [named]
    site.host.check_output("echo later > /srv/site13/media/later.txt")
    # The newest set is of the release before, which lacks the migration; that is no error.
    site.host.check_output("systemctl start site13-backup-drill.service")
    expected = f"the set is of release {before}; release {site.release} applies to it: notes.0002_purge"
    assert expected in run(site, "status").stdout

    refused = play("rollback")
    assert refused.returncode != 0
    assert f"-e restore_to={named} -e restore_over=site13 -e release={before}" in refused.stdout
    done = play("restore", restore_to=named, restore_over="site13", release=before)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "files: not in this set" in done.stdout
    assert (titles(sql), site.release) == (kept, before)
    assert "before the migration" in site.get("/").body
    assert site.host.check_output("cat /srv/site13/media/later.txt") == "later"


@pytest.fixture
def fresh(site, tmp_path):
    """A bare server and an inventory with it; the old server is gone."""
    name = f"fresh-{os.environ['VPS_RUN']}"
    (tmp_path / "hosts.json").write_text(
        json.dumps(
            {
                "all": {
                    "hosts": {
                        "site13-new": {
                            "ansible_host": (EPHEMERAL / f"{name}.address").read_text(),
                            "ansible_user": "debian",
                            "ansible_ssh_private_key_file": str(ROOT / ".cache/ssh/id_ed25519"),
                        }
                    },
                    "children": {group: {"hosts": {"site13-new": {}}} for group in ("web", "app", "database")},
                }
            }
        )
    )
    (tmp_path / "group_vars").mkdir()
    shared = yaml.safe_load((ROOT / "tests/support/inventory.yml").read_text())["all"]["vars"]
    shared |= {"backup_enabled": True, "backup_repository": SFTP, "backup_point_in_time": True}
    (tmp_path / "group_vars/all.yml").write_text(json.dumps(shared))
    shutil.copy(RECOVERY, tmp_path)
    return Site(host_of(name), name, "site13", site.domains, site.roots), tmp_path


def test_lost_server_is_restored_on_bare_host_by_one_command(site, sql, fresh, until, tmp_path):
    jar = ["--cookie", str(tmp_path / "jar"), "--cookie-jar", str(tmp_path / "jar")]
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', site.get("/private/", *jar).body)[1]
    (tmp_path / "letter.txt").write_text("a letter")
    form = ["-F", f"csrfmiddlewaretoken={token}", "-F", f"file=@{tmp_path / 'letter.txt'}"]
    posted = site.get("/private/", *jar, *form, "-H", f"Referer: https://{site.canonical}/private/")
    assert posted.status == 302
    (letter,) = re.findall(r'"(/private/[0-9a-f-]{36}/)"', site.get("/private/", *jar).body)
    digest = site.host.check_output(f"sha256sum {PICTURE}")
    key = site.host.check_output("cat /etc/site13/secret_key")
    make_set(site)
    # Written in the last minute of the server.
    add_notice(sql, "after the last set")
    kept = titles(sql)
    segment = as_postgres(site, "SELECT pg_walfile_name(pg_current_wal_insert_lsn())")
    until(lambda: as_postgres(site, "SELECT last_archived_wal FROM pg_stat_archiver") >= segment, 70)
    subprocess.run(["docker", "kill", site.container], check=True, capture_output=True)

    new, folder = fresh
    done = play("site", inventory=folder / "hosts.json", restore="latest")
    assert done.returncode == 0, done.stdout[-3000:]
    assert kept[-1] == "after the last set"
    query = "cd / && runuser -u site13 -- psql -XAtqc 'SELECT title FROM notes_notice ORDER BY id'"
    assert new.host.check_output(query).splitlines() == kept
    assert new.host.check_output(f"sha256sum {PICTURE}") == digest
    assert new.host.check_output("cat /etc/site13/secret_key") == key
    # Whoever was logged in still is.
    assert new.get(letter, *jar, "--insecure").body == "a letter"
    # What is live now is not replaced by the same command.
    again = play("site", inventory=folder / "hosts.json", restore="latest")
    assert again.returncode == 0
    assert new.host.check_output(query).splitlines() == kept
