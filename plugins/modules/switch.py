#!/usr/bin/python
# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: switch
short_description: Make a release live once it has answered, and stop the one before
version_added: 1.0.0
description:
  - Starts the release on its own socket, asks it over that socket until it has answered well for some seconds and its
    processes have lived as long, and only then lets C(current) name it, by one atomic rename. The web server goes
    through C(current), so this one rename moves code, assets and traffic.
  - A release that does not answer well is stopped, its last journal lines are shown, and C(current) stays where it was.
    One that never was live is marked bad.
  - An answer in JSON that names a release has to name this one.
  - Then waits until no connection is queued for the release before, stops it gracefully, and removes old releases.
  - When the release is live, runs and answers, over its socket and where there is a web server also as visitors ask,
    nothing changes. One that does not answer is started anew, with its socket, and asked again.
options:
  home:
    description: Folder of the site on the host.
    type: path
    required: true
  release:
    description: Id of the release to make live.
    type: str
    required: true
  service:
    description: Name of the template units, without C(@).
    type: str
    required: true
  socket:
    description: Name of the socket inside a release.
    type: str
    required: true
  host:
    description: Name of the site that is asked for. The web server redirects the others to it.
    type: str
    required: true
  names:
    description: Names of the site that the web server redirects to O(host).
    type: list
    elements: str
    default: []
  served:
    description: Names of the site that the web server passes on as they are.
    type: list
    elements: str
    default: []
  health_path:
    description:
      - Path that has to answer 200.
      - When empty, C(/) is asked, redirects within the site are followed, and any answer will do in the end that shows
        a working site, that is, one below 500 but not 400.
    type: str
    default: ""
  front:
    description: Name by which the web server of this host is asked for the site as well. Empty where it has none.
    type: str
    default: ""
  closed:
    description: File by which the site is closed to visitors; while it is there the web server is not asked.
    type: path
  timeout:
    description: Seconds in which the release has to answer well.
    type: int
    default: 60
  services:
    description: Further template units, without C(@), that are started along and have to keep running.
    type: list
    elements: str
    default: []
  single:
    description:
      - Those of O(services) of which there may never be two. They end in every other release before they start in this
        one, which is after it went live, so that none of a refused release runs.
    type: list
    elements: str
    default: []
  probation:
    description: Seconds for which the release has to answer well and its processes have to live.
    type: int
    default: 3
  drain:
    description: Seconds that queued connections of the release before may take to be accepted.
    type: int
    default: 30
  keep:
    description: Releases to keep. The live one and the one before stay in any case.
    type: int
    default: 5
  who:
    description: Who does it, for the journal.
    type: str
    default: ""
attributes:
  check_mode:
    support: full
    description: Tells whether the release would be made live.
  diff_mode:
    support: full
    description: Shows the release that is live and the one that would be.
author:
  - the django_vps.stack authors (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Make the release live
  django_vps.stack.switch:
    home: /srv/shop
    release: 20261121T081500Z
    service: shop-gunicorn
    socket: gunicorn.sock
    host: shop.example.com
    health_path: /health/
"""

RETURN = r"""
live:
  description: Id of the release that is live.
  returned: always
  type: str
before:
  description: Id of the release that was live, empty before the first.
  returned: always
  type: str
wrong:
  description: What was wrong with the answer of the live release; empty where it answered well.
  returned: success
  type: str
removed:
  description: Ids of the releases that were removed.
  returned: success
  type: list
  elements: str
"""

import contextlib
import http.client
import json
import os
import re
import socket
import ssl
import subprocess
import time
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.django_vps.stack.plugins.module_utils.advice import WRITABLE_ADVICE
from ansible_collections.django_vps.stack.plugins.module_utils.assets import prune_assets
from ansible_collections.django_vps.stack.plugins.module_utils.commands import run
from ansible_collections.django_vps.stack.plugins.module_utils.errors import StepError
from ansible_collections.django_vps.stack.plugins.module_utils.file_system import remove_tree, replace_link
from ansible_collections.django_vps.stack.plugins.module_utils.locks import lock_site
from ansible_collections.django_vps.stack.plugins.module_utils.output import tail_log
from ansible_collections.django_vps.stack.plugins.module_utils.site import Site

PAUSE = 0.25
#: Who asks, where the web server listens, and how many seconds that has for an answer.
AGENT = "django_vps.stack health check"
FRONT = ("127.0.0.1", 443)
PATIENCE = 10
#: What is wrong where the live release is not all that runs.
UNITS_DIFFER = "not all of its units run, or those of another release still do"
#: The user of the web server.
VISITOR = "www-data"
#: Seconds of one and the same wrong answer after which no other is expected. 503 means "not yet".
SETTLED = 10
#: Redirects within a site after which no page is expected any more.
HOPS = 10
# A client that connected in the instant of the rename may not be in the queue yet.
SETTLE = 0.5


#: What most often has to be done, by what is wrong with the answer.
ADVICE = (
    (r"does not answer|answers 503", "Raise django_health_timeout when it needs longer to start."),
    (r"answers (3|4(?!00))", "Set django_health_path to a path that answers 200 to everybody."),
    (r"answers 5", "The log below says why, unless LOGGING in the settings sends errors elsewhere."),
)


class OverSocket(http.client.HTTPConnection):
    """HTTP to a Unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class OverTls(http.client.HTTPConnection):
    """HTTPS to the web server of this host by a name of the site; its certificate may be for visitors only."""

    def __init__(self, name: str, timeout: float) -> None:
        super().__init__(name, timeout=timeout)
        # Not the default one, which reads the certificates of all CAs.
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.check_hostname, self.context.verify_mode = False, ssl.CERT_NONE

    def connect(self) -> None:
        plain = socket.create_connection(FRONT, self.timeout)
        self.sock = self.context.wrap_socket(plain, server_hostname=self.host)


class Switch:
    """The way of one release to being live."""

    def __init__(self, options: dict) -> None:
        self.options = options
        self.site = Site(options["home"])
        self.release = options["release"]
        #: What could not be removed, in words.
        self.left = ""

    def units(self, release: str) -> list[str]:
        # The socket first: a stopped service would be woken by the next connection.
        return [f"{self.options['service']}@{release}.{kind}" for kind in ("socket", "service")]

    def processes(self, release: str) -> list[str]:
        """The units that have processes before the release is live: the web one, then the others."""
        services = [name for name in self.options["services"] if name not in self.options["single"]]
        return [f"{name}@{release}.service" for name in (self.options["service"], *services)]

    def singles(self, release: str) -> list[str]:
        return [f"{name}@{release}.service" for name in self.options["single"]]

    @staticmethod
    def listed(pattern: str) -> list[tuple[str, str, str]]:
        """The unit, the release and the state of each instance that systemd has loaded."""
        lines = run("units", ["systemctl", "list-units", "--plain", "--no-legend", "--all", f"{pattern}@*"])
        units = [line.split() for line in lines.splitlines()]
        return [(unit[0], unit[0].split("@")[1].rsplit(".", 1)[0], unit[2]) for unit in units]

    def running(self, pattern: str = "*") -> set[str]:
        """Releases of which a unit runs, or is about to or has not ended yet."""
        return {release for _unit, release, state in self.listed(pattern) if state not in ("inactive", "failed")}

    def serves(self) -> bool:
        """Whether the release is live, all its units run, and no other release does."""
        if self.site.live != self.release or self.running(self.options["service"]) != {self.release}:
            return False
        units = {*self.units(self.release), *self.processes(self.release), *self.singles(self.release)}
        active = subprocess.run(["systemctl", "is-active", *units], capture_output=True, text=True, check=False)
        return set(active.stdout.split()) == {"active"}

    def wrong(self) -> str:
        """What is wrong with the answer of the live release; nothing where it is good."""
        return self._ask(time.monotonic() + self.options["timeout"]) or self._ask_front()

    def _ask_front(self) -> str:
        """What is wrong with what visitors get. A web server that refuses to tell may have been told to."""
        name, path, closed = self.options["front"], self.options["health_path"] or "/", self.options["closed"]
        if not name or (closed and os.path.exists(closed)):
            return ""
        connection = OverTls(name, PATIENCE)
        try:
            connection.request("GET", path, headers={"User-Agent": AGENT})
            status = connection.getresponse().status
        except ConnectionRefusedError:
            return "the web server does not run"
        except (OSError, http.client.HTTPException, ValueError):
            return ""
        finally:
            connection.close()
        return f"the web server answers {status} at https://{name}{path}" if status in (502, 504) else ""

    def is_reachable(self) -> bool:
        """Whether the web server comes to the socket of the release, and somebody listens there."""
        path = str(self.site.releases / self.release / self.options["socket"])
        with socket.socket(socket.AF_UNIX) as plain:
            plain.settimeout(1)
            try:
                plain.connect(path)
            except (FileNotFoundError, ConnectionRefusedError):
                return False
            except OSError:
                # The queue is full.
                pass
        argv = ["runuser", "-u", VISITOR, "--", "test", "-w", path]
        return subprocess.run(argv, check=False, capture_output=True).returncode == 0

    def clear_socket(self) -> None:
        """Let the socket of the live release be made anew; visitors do not come to the old one anyway."""
        (self.site.releases / self.release).chmod(0o755)
        run("stop", ["systemctl", "stop", *self.units(self.release)])

    def make_live(self) -> None:
        began = time.time()
        before = self.site.live
        try:
            self._start()
            self._wait_for_answers()
        except StepError as error:
            journal = self._journal(began)
            if before != self.release:
                self._put_away(error)
            advice = error.advice
            if re.search(r"(PermissionError|OSError): .*(Permission denied|Read-only file system)", journal):
                advice = WRITABLE_ADVICE
            if (self.site.facts(before or "") or {}).get("undone"):
                advice = (
                    f"{before} goes on serving, but migrations that it needs may have been undone for {self.release}:"
                    f" bring them again by playbooks/deploy.yml.\n{advice}"
                )
            raise StepError(error.step, error.cause, advice, details=journal) from None
        if before != self.release:
            replace_link(self.site.current, f"releases/{self.release}")
        # One that went live as its run died is noted by the next.
        if self.site.noted != self.release:
            self._note(self.site.noted, began)

    def _put_away(self, error: StepError) -> None:
        """Stop what does not answer well."""
        self._stop(self.release)
        # It has been told; systemd need not go on telling.
        units = [*self.units(self.release), *self.processes(self.release)]
        subprocess.run(["systemctl", "reset-failed", *units], capture_output=True, check=False)
        # A disk that is full must not hide what was wrong before.
        with contextlib.suppress(OSError, StepError):
            # What served once may do so again: what failed may be the database, or a service that is down.
            if not any(entry["to"] == self.release for entry in self.site.switches()):
                self.site.note(self.release, bad=f"{error.step}: {error.cause.splitlines()[0]}")
            self.prune()

    def _start(self) -> None:
        units = self.processes(self.release)
        subprocess.run(["systemctl", "reset-failed", *units], capture_output=True, check=False)
        advice = "Where a unit is not found: site.yml sets up what is new in django_services."
        run("start", ["systemctl", "start", *units], advice=advice, timeout=self.options["timeout"])

    def _stop(self, release: str) -> None:
        # What still finishes its work is not waited for.
        others = self.processes(release)[1:] + self.singles(release)
        if others:
            run("stop", ["systemctl", "--no-block", "stop", *others])
        run("stop", ["systemctl", "stop", *self.units(release)])

    def _wait_for_answers(self) -> None:
        end = time.monotonic() + self.options["timeout"]
        last, since, workers, deaths, answered = None, 0.0, set(), 0, ""
        while True:
            died = self._died(workers)
            deaths += bool(died)
            found = died or self._ask(end)
            now = time.monotonic()
            if found != last:
                last, since = found, now
                # Those there are when the good answers begin are to be there when they end.
                workers = self._workers()
            if not found and now - since >= self.options["probation"]:
                return
            if " answers " in found:
                answered = found
            gave_up = bool(found) and self._gave_up()
            settled = "answers 503" not in found and now - since > SETTLED
            # Waiting any longer makes no sense.
            if found and (now > end or deaths > 1 or gave_up or settled):
                # The last one may have had no time left; what was answered before says more.
                told = answered if answered and deaths < 2 else found
                if gave_up and told.endswith(" does not answer"):
                    told = "the release ends by itself at its start"
                raise StepError(
                    "health", told if now < end else f"{told}, for {self.options['timeout']} s", advice_for(told)
                )
            if now > end + self.options["probation"]:
                raise StepError(
                    "health", f"the release answers well now and then only, for {self.options['timeout']} s"
                )
            time.sleep(PAUSE)

    def _workers(self) -> set[tuple[str, str]]:
        """The processes that the web unit's own one has started, and the main ones of the other units."""
        units = self.processes(self.release)
        shown = run("units", ["systemctl", "show", "--property=MainPID", "--value", *units]).split()
        children = Path(f"/proc/{shown[0]}/task/{shown[0]}/children")
        try:
            return {*(("worker", pid) for pid in children.read_text().split()), *zip(units[1:], shown[1:], strict=True)}
        except OSError:
            return set()

    def _died(self, workers: set[tuple[str, str]]) -> str:
        gone = sorted(workers - self._workers())
        return f"{gone[0][0]} {gone[0][1]} of the release has died" if gone else ""

    def _ask(self, end: float) -> str:
        """What is wrong with the answer; nothing when it is good."""
        page = (self.options["host"], self.options["health_path"] or "/")
        asked, cookies = [], {}
        while True:
            address = f"https://{''.join(page)}"
            try:
                answer, body = self._request(page, cookies, end)
            except TimeoutError:
                return f"{address} does not answer"
            except (OSError, http.client.HTTPException) as error:
                return f"{address}: {error or type(error).__name__}"
            asked.append(page)
            further = self._within(answer.getheader("Location", ""), address) if 300 <= answer.status < 400 else None
            if further is None or self.options["health_path"]:
                break
            # A page that sends a cookie along may answer otherwise when it comes back.
            new = dict(
                cookie.partition(";")[0].partition("=")[::2] for cookie in answer.headers.get_all("Set-Cookie", ())
            )
            if (further in asked and new.items() <= cookies.items()) or len(asked) > HOPS:
                return self._circle(asked, answer.getheader("Location"))
            page, cookies = further, {**cookies, **new}
        named = self._named(body)
        if named not in (None, self.release):
            return f"{address} answers as release {named}"
        if self.options["health_path"] and further == page:
            return self._circle(asked, answer.getheader("Location"))
        good = answer.status == 200 if self.options["health_path"] else answer.status < 500 and answer.status != 400
        hint = " (is the name in ALLOWED_HOSTS?)" if answer.status == 400 else ""
        return "" if good else f"{address} answers {answer.status}{hint}"

    def _request(
        self, page: tuple[str, str], cookies: dict[str, str], end: float
    ) -> tuple[http.client.HTTPResponse, bytes]:
        host, path = page
        socket_path = self.site.releases / self.release / self.options["socket"]
        connection = OverSocket(str(socket_path), max(1.0, end - time.monotonic()))
        # What the web server sends with every request.
        headers = {"Host": host, "X-Forwarded-Proto": "https", "X-Forwarded-For": "127.0.0.1", "User-Agent": AGENT}
        if cookies:
            headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in cookies.items())
        try:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            return answer, answer.read(65536)
        finally:
            connection.close()

    def _within(self, location: str, address: str) -> tuple[str, str] | None:
        """The name and the path to which a visitor comes by a redirect, when they are the site's; None elsewhere.

        The web server redirects http and the other names of the site to https and the first name with the same path.
        """
        try:
            target = urlsplit(urljoin(address, location))
            port = target.port
        except ValueError:
            return None
        # What is below a wildcard is a site of its own.
        host, served = self.options["host"], self.options["served"]
        within = target.hostname in (host, *self.options["names"], *served)
        if not location or not within or port not in (None, 80, 443):
            return None
        path = (target.path or "/") + (f"?{target.query}" if target.query else "")
        return target.hostname if target.hostname in served else host, path

    def _circle(self, asked: list[tuple[str, str]], location: str) -> str:
        host, address = self.options["host"], f"https://{''.join(asked[-1])}"
        target = urlsplit(urljoin(address, location))
        told = f"{address} redirects to {location}, and so for ever"
        if target.hostname not in (host, *self.options["served"]):
            return (
                f"{told}, as the web server redirects {target.hostname} to {host}: leave names to it (PREPEND_WWW ="
                f" False), or write {target.hostname} first in site_domains"
            )
        if asked[-1] == self._within(location, address):
            return f"{told}: the settings need SECURE_PROXY_SSL_HEADER = ('HTTP_X_FORWARDED_PROTO', 'https')"
        return told

    @staticmethod
    def _named(body: bytes) -> str | None:
        """The release that an answer in JSON names."""
        try:
            return json.loads(body)["release"]
        except (ValueError, TypeError, KeyError):
            return None

    def _gave_up(self) -> bool:
        """Whether a unit does not get over its start."""
        shown = run(
            "units", ["systemctl", "show", "-P", "ActiveState", "-P", "NRestarts", *self.processes(self.release)]
        )
        return any(word == "failed" or (word.isdigit() and int(word) > 1) for word in shown.split())

    def _journal(self, began: float, units: list[str] | None = None) -> str:
        # What a process said last may not have been written yet.
        subprocess.run(["journalctl", "--sync"], capture_output=True, check=False)
        units = [f"--unit={unit}" for unit in units or self.processes(self.release)]
        shown = subprocess.run(
            ["journalctl", *units, f"--since=@{int(began)}", "--lines=200", "--output=cat", "--no-pager"],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        return tail_log(shown.stdout)

    def _note(self, before: str, began: float) -> None:
        entry = {
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "who": self.options["who"] or os.environ.get("SUDO_USER", "root"),
            "what": (self.site.facts(self.release) or {}).get("version", ""),
            "from": before,
            "to": self.release,
            "seconds": round(time.time() - began, 1),
        }
        with self.site.journal.open("a+") as journal:
            journal.seek(0)
            # After a line that a crash cut short.
            begun = not f"\n{journal.read()}".endswith("\n")
            journal.write("\n" * begun + json.dumps(entry) + "\n")
            journal.flush()
            os.fsync(journal.fileno())

    def hand_over(self) -> None:
        """End what may run once only in every other release, and start it in this one."""
        for name in self.options["single"]:
            others = [f"{name}@{release}.service" for release in sorted(self.running(name) - {self.release})]
            if others:
                run("stop", ["systemctl", "stop", *others])
            run("start", ["systemctl", "start", f"{name}@{self.release}.service"])

    def watch_singles(self) -> None:
        """Fail when a single service does not stay up; it cannot run before its release is live."""
        began, end = time.time(), time.monotonic() + self.options["probation"]
        units = self.singles(self.release)
        while units:
            shown = run("units", ["systemctl", "show", "-P", "ActiveState", "-P", "NRestarts", *units])
            if any(word == "failed" or (word.isdigit() and int(word) > 0) for word in shown.split()):
                raise StepError(
                    "start",
                    f"{self.release} is live, but {', '.join(self.options['single'])} does not keep running",
                    "Correct its command in django_services, or the project, and deploy again.",
                    details=self._journal(began - 1, units),
                )
            if time.monotonic() > end:
                return
            time.sleep(PAUSE)

    def retire_others(self) -> None:
        """Stop the instances of other releases once nothing waits for them."""
        for release in sorted(self.running(self.options["service"]) - {self.release}):
            self._drain(release)
            self._stop(release)
        # As after an upgrade of the distribution, which takes the Python of earlier releases away.
        services = (self.options["service"], *self.options["services"])
        units = [
            unit
            for name in services
            for unit, release, state in self.listed(name)
            if state == "failed" and release != self.release
        ]
        if units:
            run("units", ["systemctl", "reset-failed", *units])

    def _drain(self, release: str) -> None:
        path = str(self.site.releases / release / self.options["socket"])
        end = time.monotonic() + self.options["drain"]
        time.sleep(SETTLE)
        while self._queued(path) and time.monotonic() < end:
            time.sleep(PAUSE)

    @staticmethod
    def _queued(path: str) -> int:
        """Connections that wait to be accepted."""
        lines = run("drain", ["ss", "--listening", "--unix", "--no-header", "src", path]).splitlines()
        return sum(int(line.split()[2]) for line in lines)

    def prune(self) -> list[str]:
        """Remove releases beyond those to keep, and older ones that were never live; none that is needed."""
        whole, switches = self.site.whole(), self.site.switches()
        needed = {self.release, self.site.live, *self.running(), *(entry["from"] for entry in switches[-1:])}
        needed.add(self.site.previous(self.release))
        # Those that were live last stay longest.
        lived = list(dict.fromkeys(entry["to"] for entry in reversed(switches) if entry["to"] in whole))
        kept = {*lived[: self.options["keep"]], *needed, *(release for release in whole if release > self.release)}
        removed = [release for release in whole if release not in kept]
        for release in removed:
            self.site.removed.mkdir(mode=0o700, exist_ok=True)
            os.rename(self.site.releases / release, self.site.removed / release)
        if self.site.removed.exists():
            statics = [self.site.releases / release / "static" for release in self.site.whole()]
            prune_assets(statics, self.site.home / "static")
            try:
                remove_tree(self.site.removed)
            except StepError as error:
                # No reason to call a release bad.
                self.left = str(error)
        return removed


def advice_for(complaint: str) -> str:
    return next((advice for pattern, advice in ADVICE if re.search(pattern, complaint)), "")


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "home": {"type": "path", "required": True},
            "release": {"type": "str", "required": True},
            "service": {"type": "str", "required": True},
            "socket": {"type": "str", "required": True},
            "host": {"type": "str", "required": True},
            "names": {"type": "list", "elements": "str", "default": []},
            "served": {"type": "list", "elements": "str", "default": []},
            "health_path": {"type": "str", "default": ""},
            "front": {"type": "str", "default": ""},
            "closed": {"type": "path"},
            "timeout": {"type": "int", "default": 60},
            "services": {"type": "list", "elements": "str", "default": []},
            "single": {"type": "list", "elements": "str", "default": []},
            "probation": {"type": "int", "default": 3},
            "drain": {"type": "int", "default": 30},
            "keep": {"type": "int", "default": 5},
            "who": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    switch = Switch(module.params)
    before = switch.site.live or ""
    diff = {"before": f"{before}\n", "after": f"{switch.release}\n"}
    try:
        if module.check_mode:
            serves = switch.serves()
            wrong = switch.wrong() if serves else UNITS_DIFFER if before == switch.release else ""
            changed = not serves or bool(wrong) or switch.site.removed.exists()
            module.exit_json(changed=changed, live=before, before=before, wrong=wrong, removed=[], diff=diff)
        if switch.site.facts(switch.release) is None:
            raise StepError(
                "switch",
                f"there is no whole release {switch.release!r} in {switch.site.releases}",
                "Run playbooks/deploy.yml again; playbooks/releases.yml lists those there are.",
            )
        with lock_site(switch.site.home):
            done = switch.serves() and switch.site.noted == switch.release
            wrong = switch.wrong() if done else ""
            curable = bool(wrong) and not switch.is_reachable()
            if done and not wrong and not switch.site.removed.exists():
                module.exit_json(changed=False, live=before, before=before, wrong="", removed=[])
            if curable:
                switch.clear_socket()
            if wrong or not done:
                switch.make_live()
                switch.hand_over()
                switch.retire_others()
                switch.watch_singles()
            removed = switch.prune()
            if switch.left:
                module.warn(switch.left)
            if wrong:
                if still := switch._ask_front():
                    raise StepError(
                        "health", still, "The release answers over its socket. See nginx's error.log, or run site.yml."
                    )
                module.warn(
                    f"{switch.release} was live, but {wrong}; {'it was started anew' if curable else 'now it is well'}"
                )
        result = {"live": switch.release, "before": before, "wrong": wrong, "removed": removed}
        # What cannot be removed is tried again by each run.
        changed = not (done and not wrong and switch.left)
        module.exit_json(changed=changed, **result, diff=diff if changed else {})
    except StepError as error:
        module.fail_json(msg=str(error), step=error.step, live=switch.site.live or "", before=before)
    except OSError as error:
        module.fail_json(
            msg=f"{error.filename or 'switch'}: {error.strerror}", live=switch.site.live or "", before=before
        )


if __name__ == "__main__":
    main()
