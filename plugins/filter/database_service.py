# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Return how libpq connects to the database of a URL."""

from __future__ import annotations

from typing import Any

from ansible_collections.django_vps.stack.plugins.plugin_utils.database_url import read_database_url

DOCUMENTATION = r"""
name: database_service
author: the django_vps.stack authors (!UNKNOWN)
version_added: 1.0.0
short_description: Connection parameters of libpq from the URL of a database
description:
  - The certificate of the server is verified unless the URL has C(sslmode=disable).
options:
  _input:
    description: URL of the database, C(postgres://USER:PASSWORD@HOST:PORT/DATABASE?PARAMETER=VALUE).
    type: str
    required: true
  passfile:
    description: Password file on the host.
    type: str
    required: true
  certificates:
    description: File on the host with the certificates of CAs. By default those of the system.
    type: str
    default: ""
"""

EXAMPLES = r"""
host: "{{ (site_database_url | django_vps.stack.database_service('/etc/shop/pgpass')).parameters.host }}"
"""

RETURN = r"""
_value:
  description: The connection.
  type: dict
  contains:
    parameters:
      description: Parameters of a service in C(pg_service.conf), without the password.
      type: dict
    password_line:
      description: The line for a password file.
      type: str
"""


def database_service(url: str, passfile: str, certificates: str = "") -> dict[str, Any]:
    return read_database_url(url, passfile, certificates)._asdict()


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {"database_service": database_service}
