# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Check that a release answers over its socket, and that nginx answers clients."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from ansible_collections.django_vps.stack.plugins.module_utils.commands import call
from ansible_collections.django_vps.stack.plugins.module_utils.errors import make_printable

USER_AGENT = "django_vps.stack health check"
#: The address and the user of nginx.
WEB_SERVER = ("127.0.0.1", 443)
WEB_SERVER_USER = "www-data"
#: The most redirects within a site that the check follows.
MAX_REDIRECTS = 10


class UnixConnection(http.client.HTTPConnection):
    """An HTTP connection to a Unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class WebServerConnection(http.client.HTTPConnection):
    """An HTTPS connection to nginx on this host by a name of the site; any certificate is accepted."""

    def __init__(self, name: str, timeout: float) -> None:
        super().__init__(name, timeout=timeout)
        # The default context would load the certificates of all CAs, which are not needed here.
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.check_hostname, self.context.verify_mode = False, ssl.CERT_NONE

    def connect(self) -> None:
        plain = socket.create_connection(WEB_SERVER, self.timeout)
        self.sock = self.context.wrap_socket(plain, server_hostname=self.host)


def ask_web_server(name: str, path: str, timeout: float) -> str:
    """Return the complaint about nginx's answer to a client of this host; empty when it is good.

    An answer of the project below 500 is good, because nginx can be configured to refuse a client from this host. So is
    a connection that nginx closes (444).
    """
    connection, address = WebServerConnection(name, timeout), f"https://{name}{path}"
    try:
        connection.request("GET", path, headers={"User-Agent": USER_AGENT})
        status = connection.getresponse().status
    except ConnectionRefusedError:
        return "the web server does not run"
    except (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError):
        return ""
    except TimeoutError:
        return f"the web server does not answer at {address} within {timeout} s"
    except (OSError, http.client.HTTPException) as error:
        return f"the web server fails at {address}: {error or type(error).__name__}"
    finally:
        connection.close()
    # 421 is what the server for unknown names answers.
    return f"the web server answers {status} at {address}" if status >= 500 or status == 421 else ""


class HealthCheck:
    """The requests to one release; the options are those of the module switch."""

    def __init__(self, options: dict, release_folder: Path) -> None:
        self.options = options
        self.release = release_folder.name
        self.socket = str(release_folder / options["socket"])

    def ask(self, end: float) -> str:
        """Return the complaint about the answer of the release, which has time until `end`; empty when it is good."""
        # The project decides on parts of the complaint, such as the target of a redirect.
        return make_printable(self._complain(end))

    def _complain(self, end: float) -> str:
        page = (self.options["host"], self.options["health_path"] or "/")
        pages, cookies = [], {}
        while True:
            address = f"https://{''.join(page)}"
            try:
                answer, body = self._request(page, cookies, end)
            except TimeoutError:
                return f"{address} does not answer"
            except (OSError, http.client.HTTPException) as error:
                return f"{address}: {error or type(error).__name__}"
            pages.append(page)
            further = self._resolve(answer.getheader("Location", ""), address) if 300 <= answer.status < 400 else None
            if further is None or self.options["health_path"]:
                break
            # A page that sets a cookie can answer differently to a client with the cookie.
            new = dict(
                cookie.partition(";")[0].partition("=")[::2] for cookie in answer.headers.get_all("Set-Cookie", ())
            )
            if (further in pages and new.items() <= cookies.items()) or len(pages) > MAX_REDIRECTS:
                return self._describe_loop(pages, answer.getheader("Location"))
            page, cookies = further, {**cookies, **new}
        release = read_release(body)
        if release not in (None, self.release):
            return f"{address} answers as release {release}"
        if self.options["health_path"] and further == page:
            return self._describe_loop(pages, answer.getheader("Location"))
        good = answer.status == 200 if self.options["health_path"] else answer.status < 500 and answer.status != 400
        hint = " (is the name in ALLOWED_HOSTS?)" if answer.status == 400 else ""
        return "" if good else f"{address} answers {answer.status}{hint}"

    def find_obstacle(self) -> str:
        """Return what keeps nginx from passing requests to the release; empty on a host without nginx."""
        unit = self.options["web_service"]
        if unit and call("systemctl", "is-active", "--quiet", unit).code:
            return "the web server does not run"
        return f"the web server has no access to {self.socket}" if unit and not self.is_reachable() else ""

    def is_reachable(self) -> bool:
        """Return whether the socket of the release listens and nginx has access to it."""
        with socket.socket(socket.AF_UNIX) as plain:
            plain.settimeout(1)
            try:
                plain.connect(self.socket)
            except (FileNotFoundError, ConnectionRefusedError):
                return False
            except OSError:
                # The queue is full, so the socket listens.
                pass
        return call("runuser", "-u", WEB_SERVER_USER, "--", "test", "-w", self.socket).code == 0

    def _request(
        self, page: tuple[str, str], cookies: dict[str, str], end: float
    ) -> tuple[http.client.HTTPResponse, bytes]:
        host, path = page
        connection = UnixConnection(self.socket, max(1.0, end - time.monotonic()))
        # nginx sends these headers with every request.
        headers = {"Host": host, "X-Forwarded-Proto": "https", "X-Forwarded-For": "127.0.0.1", "User-Agent": USER_AGENT}
        if cookies:
            headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in cookies.items())
        try:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            return answer, answer.read(65536)
        finally:
            connection.close()

    def _resolve(self, location: str, address: str) -> tuple[str, str] | None:
        """Return the name and the path of the target of a redirect; None when they are not the site's.

        nginx redirects http and the other names of the site to https and the canonical name with the same path.
        """
        try:
            target = urlsplit(urljoin(address, location))
            port = target.port
        except ValueError:
            return None
        # A name below a wildcard counts as another site.
        host, served = self.options["host"], self.options["served"]
        within = target.hostname in (host, *self.options["names"], *served)
        if not location or not within or port not in (None, 80, 443):
            return None
        path = (target.path or "/") + (f"?{target.query}" if target.query else "")
        return target.hostname if target.hostname in served else host, path

    def _describe_loop(self, pages: list[tuple[str, str]], location: str) -> str:
        host, address = self.options["host"], f"https://{''.join(pages[-1])}"
        target = urlsplit(urljoin(address, location))
        loop = f"{address} redirects to {location}, and so for ever"
        if target.hostname not in (host, *self.options["served"]):
            return (
                f"{loop}, as the web server redirects {target.hostname} to {host}: leave names to it (PREPEND_WWW ="
                f" False), or write {target.hostname} first in site_domains"
            )
        if pages[-1] == self._resolve(location, address):
            return f"{loop}: the settings need SECURE_PROXY_SSL_HEADER = ('HTTP_X_FORWARDED_PROTO', 'https')"
        return loop


def read_release(body: bytes) -> str | None:
    """Return the release that an answer in JSON names; None when it names none."""
    try:
        return json.loads(body)["release"]
    except (ValueError, TypeError, KeyError):
        return None
