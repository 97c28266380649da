# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Find, configure, start and stop the clusters of PostgreSQL that postgresql-common manages."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.django_vps.stack.plugins.module_utils.commands import call, run
from ansible_collections.django_vps.stack.plugins.module_utils.errors import StepError
from ansible_collections.django_vps.stack.plugins.module_utils.file_system import remove_tree, write_file

#: Step of the messages.
STEP = "upgrade"
#: Port of the cluster that serves.
PORT = 5432
CONFIGURATION = Path("/etc/postgresql")
DATA = Path("/var/lib/postgresql")
PROGRAMS = Path("/usr/lib/postgresql")
LOGS = Path("/var/log/postgresql")
RUNTIME = Path("/run/postgresql")
#: Socket directory of a server to which only its system user can connect.
PRIVATE = RUNTIME / ".upgrade"
#: Databases that users have created have such a number or a higher one.
FIRST_USER_OID = 16384
#: Seconds that a server may take to start or stop; one that was killed first reads its log.
PATIENCE = "3600"
START_CONF = "# auto, manual or disabled. After a change: systemctl daemon-reload\n{mode}\n"


@dataclass(frozen=True)
class Cluster:
    version: str
    name: str
    port: int
    #: Words of pg_lsclusters, such as `online` and `manual`.
    status: frozenset[str]
    data: Path

    def __str__(self) -> str:
        return f"{self.version} {self.name}"

    @property
    def unit(self) -> str:
        return f"postgresql@{self.version}-{self.name}.service"

    @property
    def etc(self) -> Path:
        return CONFIGURATION / self.version / self.name

    @property
    def programs(self) -> Path:
        return PROGRAMS / self.version / "bin"

    @property
    def is_standby(self) -> bool:
        return (self.data / "standby.signal").exists()

    @property
    def has_data(self) -> bool:
        """Return whether a database was created in it."""
        names = (entry.name for entry in (self.data / "base").glob("[0-9]*"))
        return any(int(name) >= FIRST_USER_OID for name in names if name.isdigit())

    @property
    def is_serving(self) -> bool:
        """Return whether it has the port, runs under systemd, and starts at boot."""
        is_active = call("systemctl", "is-active", "--quiet", self.unit).code == 0
        return self.port == PORT and "auto" in self.status and is_active

    def configure(self, port: int, mode: str) -> None:
        """Set whether it starts at boot, auto or manual, and the port last, because the next run reads it."""
        # The role enables the unit, which starts it in spite of start.conf.
        run(STEP, ["systemctl", "enable" if mode == "auto" else "disable", "--quiet", self.unit])
        if mode not in self.status:
            write_file(self.etc / "start.conf", START_CONF.format(mode=mode), 0o644)
            run(STEP, ["systemctl", "daemon-reload"])
        if self.port != port:
            run(STEP, ["pg_conftool", self.version, self.name, "set", "port", str(port)])

    def stop(self) -> None:
        """Stop the server, however it was started."""
        run(STEP, ["systemctl", "stop", self.unit])
        control = [str(self.programs / "pg_ctl"), "-D", str(self.data)]
        if call(*as_postgres(*control, "status")).code == 0:
            run(STEP, as_postgres(*control, "stop", "-w", "-s", "-m", "fast", "-t", PATIENCE))
        (RUNTIME / f"{self.version}-{self.name}.pid").unlink(missing_ok=True)

    def start(self, socket_dir: str) -> None:
        """Start the unit, and wait until the server of this version answers."""
        create_runtime_directory()
        run(STEP, ["systemctl", "start", self.unit])
        end = time.monotonic() + 60
        while self.answer(socket_dir) != self.version:
            if time.monotonic() > end:
                log = call("tail", "-n15", str(LOGS / f"postgresql-{self.version}-{self.name}.log")).stdout
                raise StepError(STEP, f"PostgreSQL {self} does not answer", f"Read journalctl -u {self.unit}", log, log)
            time.sleep(0.2)

    @staticmethod
    def answer(socket_dir: str) -> str:
        """Return the version of the server that answers; empty if none does."""
        show = "SELECT current_setting('server_version_num')::int / 10000"
        return call(*as_postgres(*psql(socket_dir, PORT, "postgres"), "-c", show)).stdout.strip()

    def drop(self) -> None:
        """Remove the cluster; files in conf.d stay for the next one."""
        self.stop()
        run(STEP, ["pg_dropcluster", self.version, self.name])

    @contextlib.contextmanager
    def private_server(self) -> Iterator[Server]:
        """Run the server until the block ends, for its system user alone."""
        create_runtime_directory()
        PRIVATE.mkdir(mode=0o700, exist_ok=True)
        shutil.chown(PRIVATE, "postgres", "postgres")
        options = (
            f"-c config_file={self.etc}/postgresql.conf -c unix_socket_directories={PRIVATE} -c listen_addresses=''"
            " -c max_logical_replication_workers=0"
        )
        log = LOGS / f"postgresql-{self.version}-{self.name}.log"
        start = ["start", "-w", "-s", "-t", PATIENCE, "-l", str(log), "-o", options]
        try:
            run(
                STEP,
                as_postgres(str(self.programs / "pg_ctl"), "-D", str(self.data), *start),
                advice=f"The log of PostgreSQL {self} is {log}",
            )
            yield Server(self)
        finally:
            self.stop()
            shutil.rmtree(PRIVATE, ignore_errors=True)


@dataclass(frozen=True)
class Server:
    """A server that runs for its system user alone."""

    cluster: Cluster

    def sql(self, database: str, query: str) -> list[str]:
        done = call(*as_postgres(*psql(str(PRIVATE), self.cluster.port, database), "-c", query))
        if done.code:
            raise StepError(STEP, f"{database}: {done.stderr.strip() or query}")
        return done.stdout.splitlines()

    def databases(self) -> list[str]:
        return self.sql("postgres", "SELECT datname FROM pg_database WHERE datallowconn ORDER BY 1")

    def program(self, name: str, *argv: str) -> None:
        """Run a client program of this version on all databases."""
        to = ("-h", str(PRIVATE), "-p", str(self.cluster.port))
        run(STEP, as_postgres(str(self.cluster.programs / name), *to, *argv))


def as_postgres(*argv: str) -> list[str]:
    return ["runuser", "-u", "postgres", "--", *argv]


def psql(socket_dir: str, port: int, database: str) -> list[str]:
    return ["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", socket_dir, "-p", str(port), "-d", database]


def create_runtime_directory() -> None:
    """Create the folder of the sockets, which pg_dropcluster removes when it is empty."""
    run(STEP, ["systemd-tmpfiles", "--create", f"--prefix={RUNTIME}"])


def list_clusters() -> list[Cluster]:
    """Return the clusters of the host; none if PostgreSQL is not installed."""
    return list(parse_clusters(call("pg_lsclusters", "--no-header", "--start-conf").stdout))


def parse_clusters(text: str) -> Iterator[Cluster]:
    for line in text.splitlines():
        version, name, port, status, _owner, data, *_log = line.split()
        if port.isdigit():
            yield Cluster(version, name, int(port), frozenset(status.split(",")), Path(data))


def free_port(clusters: Iterable[Cluster]) -> int:
    ports = {cluster.port for cluster in clusters}
    return next(port for port in itertools.count(PORT + 1) if port not in ports)


def remove_rest(version: str, name: str) -> None:
    """Remove what a killed program has left of a cluster, which no tool knows any more."""
    for file in (CONFIGURATION / version / name).glob("*.conf"):
        file.unlink()
    if (DATA / version / name).exists():
        remove_tree(DATA / version / name)


def size_of(folder: Path) -> int:
    """Return the bytes of the data without the write-ahead log."""
    return sum(
        os.lstat(os.path.join(base, name)).st_blocks * 512
        for base, folders, names in os.walk(folder)
        for name in names
        if "pg_wal" not in Path(base).parts
    )
