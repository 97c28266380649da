"""Migrations that fail, that would break what runs, and that find their table in use."""

import re
import subprocess
import threading
import time

import pytest

ADD = "migrations.AddField('notice', 'author', models.CharField(max_length=80, null=True))"
RUN = "migrations.RunPython(fail)"
INDEX = "migrations.AddIndex('privatefile', models.Index('size', name='notes_size'))"
ROWS = 200_000

BREAKING = {
    "drops and renames": (
        (
            "migrations.RemoveField('notice', 'attachment')",
            "migrations.RenameField('notice', 'text', 'body')",
            "migrations.RenameModel('privatefile', 'upload')",
        ),
        (
            "drops the column notes_notice.attachment",
            "renames the column notes_notice.text",
            "renames the table notes_privatefile",
            "Split it",
        ),
    ),
    "adds a column that has to be filled": (
        ("migrations.AddField('notice', 'author', models.CharField(max_length=80, default='nobody'))",),
        ("makes notes_notice.author NOT NULL and leaves it no default", "db_default"),
    ),
    "builds an index on a large table": (
        (INDEX,),
        ("builds an index on the large table notes_privatefile", "AddIndexConcurrently"),
    ),
}


def insert(owner: str, rows: int) -> str:
    """Private files; the board never lists them, so visitors need not notice how many there are."""
    return (
        "INSERT INTO notes_privatefile (id, owner, name, file, size, created)"
        f" SELECT gen_random_uuid(), '{owner}', 'a', 'a', n, now() FROM generate_series(1, {rows}) n"
    )


@pytest.fixture
def undone(psql):
    """What the migrations of these tests make is taken back, for the tests that follow."""
    yield
    assert psql("ALTER TABLE notes_notice DROP COLUMN IF EXISTS author; DROP INDEX IF EXISTS notes_size").rc == 0
    assert psql("DELETE FROM django_migrations WHERE name = '0002_change'").rc == 0


@pytest.fixture(scope="module")
def large_table(site):
    def sql(query: str) -> None:
        site.host.check_output(f'runuser -u site13 -- psql -XAtq -v ON_ERROR_STOP=1 -c "{query}"')

    sql(insert("nobody", ROWS))
    sql("ANALYZE notes_privatefile")
    yield
    sql("TRUNCATE notes_privatefile")


@pytest.fixture
def in_use(site, psql, until):
    """Somebody reads the notices in a transaction that does not end; calling this ends it."""
    query = "BEGIN; SELECT count(*) FROM notes_notice; SELECT pg_sleep(300)"
    command = ["docker", "exec", site.container, "runuser", "-u", "site13", "--", "psql", "-Xc", query]
    reader = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def end() -> None:
        psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(300)'")
        reader.wait()

    until(lambda: psql("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(300)'").stdout.strip() == "1")
    yield end
    end()


def waiting(psql) -> bool:
    return psql("SELECT count(*) FROM pg_locks WHERE NOT granted").stdout.strip() != "0"


def test_failed_migration_is_rolled_back(project, refused):
    project.migration(ADD, RUN)
    refused(
        project.folder,
        "migrate: notes.0002_change: ValueError: a notice without an author",
        "The database is as it was",
        leaves="unused",
    )


def test_failed_non_atomic_migration_warns_of_partial_changes(project, refused, psql):
    project.migration(f'migrations.RunSQL("{insert("half", 1)}")', RUN, atomic=False)
    refused(
        project.folder,
        "migrate: notes.0002_change: ValueError: a notice without an author",
        "notes.0002_change has atomic = False",
        leaves="unused",
    )
    assert psql("DELETE FROM notes_privatefile WHERE owner = 'half' RETURNING 'gone'").stdout.strip() == "gone"


@pytest.mark.parametrize(("operations", "said"), BREAKING.values(), ids=BREAKING)
def test_migration_that_breaks_live_release_is_refused(project, refused, large_table, operations, said):
    project.migration(*operations)
    refused(
        project.folder, "migrate: ", "notes.0002_change", *said, "django_allow_breaking_migrations", leaves="unused"
    )


def test_breaking_migration_is_applied_when_allowed(project, goes_live, psql, large_table, undone):
    project.migration(INDEX)
    goes_live(project.folder, django_allow_breaking_migrations="true")
    assert psql("SELECT 1 FROM pg_indexes WHERE indexname = 'notes_size'").stdout.strip() == "1"


def test_long_migration_is_displayed_while_it_runs(project, goes_live, undone):
    project.migration("migrations.RunSQL('SELECT pg_sleep(12)', '')")
    run = goes_live(project.folder)
    assert re.search(r"migrate: notes.0002_change has been running for \d+ s", run.output)


def test_concurrent_index_waits_and_replaces_an_invalid_index(site, project, goes_live, psql, in_use, undone, until):
    create = "CREATE INDEX CONCURRENTLY notes_size ON notes_privatefile (size)"
    impatient = f"PGOPTIONS='-c lock_timeout=500ms' runuser -u site13 -- psql -Xc '{create}'"
    assert "lock timeout" in site.host.run(impatient).stderr
    project.migration(f"migrations.RunSQL('{create}')", atomic=False)

    def end_after_three_seconds_of_waiting() -> None:
        until(lambda: waiting(psql), 300)
        time.sleep(3)
        in_use()

    thread = threading.Thread(target=end_after_three_seconds_of_waiting)
    thread.start()
    goes_live(project.folder, django_lock_timeout="1s")
    thread.join()
    assert psql("SELECT indisvalid FROM pg_index WHERE indexrelid = 'notes_size'::regclass").stdout.strip() == "t"


@pytest.fixture
def german(site, psql):
    """The database server speaks another language than English to the site."""
    site.host.check_output(
        "apt-get -qq update && apt-get -qq install --yes --no-install-recommends locales"
        " && echo 'de_DE.UTF-8 UTF-8' > /etc/locale.gen && locale-gen"
        # It does not find a locale that came after its start.
        " && systemctl restart postgresql@17-main.service"
    )
    assert psql("ALTER ROLE site13 SET lc_messages = 'de_DE.UTF-8'", "postgres").rc == 0
    assert "existiert nicht" in psql("SELECT nothing").stderr
    yield
    psql("ALTER ROLE site13 RESET lc_messages", "postgres")


def test_migration_of_table_in_use_gives_up_without_long_waits(project, refused, german, in_use):
    project.migration(ADD)
    refused(
        project.folder,
        "migrate: 3 times another session held a lock for more than 1s",
        # What the other one does, and how to end it.
        *("pg_sleep(300)", "pg_terminate_backend"),
        leaves="unused",
        patience=3,
        django_lock_timeout="1s",
    )


def test_migration_of_table_in_use_retries_until_it_is_free(project, goes_live, psql, in_use, undone, until):
    project.migration(ADD)

    def end_with_the_second_try() -> None:
        until(lambda: waiting(psql), 300)
        until(lambda: not waiting(psql))
        until(lambda: waiting(psql))
        in_use()

    thread = threading.Thread(target=end_with_the_second_try)
    thread.start()
    run = goes_live(project.folder, django_lock_timeout="2s")
    thread.join()
    assert "the migration had to wait for process" in run.output
    assert psql("SELECT count(author) FROM notes_notice").rc == 0
