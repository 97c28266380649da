# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Options of the module release about the interpreter and the packages of a release."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  python:
    description:
      - Interpreter of the virtual environment, as the path of an interpreter on the host or as versions such as V(3.12)
        or V(>=3.11,<3.13).
      - The default is the version that C(.python-version), C(requires-python), Poetry's dependencies, C(Pipfile.lock)
        or C(runtime.txt) in the source require.
      - The module uses the interpreter of the distribution where it fits, else another one on the host, else uv fetches
        one that all sites share.
    type: str
    default: ""
  installer:
    description: Installer of the packages. V(pip) cannot read C(uv.lock).
    type: str
    choices: [uv, pip]
    default: uv
  uv:
    description: The pinned uv as a line of a requirements file with its hashes. Not used with O(installer=pip).
    type: str
    default: ""
  requirements:
    description:
      - Requirements file inside the source, such as V(requirements/production.txt).
      - The default is the file in the folder nearest to C(manage.py). In one folder C(uv.lock) comes first, then
        C(poetry.lock), C(Pipfile.lock), C(requirements.txt) and C(pyproject.toml).
    type: str
    default: ""
  groups:
    description:
      - Groups of packages to install in addition to the main one, which are those of C(uv.lock), C(poetry.lock) and
        C([dependency-groups]), or the categories of C(Pipfile.lock).
    type: list
    elements: str
    default: []
  extras:
    description: Extras to install, in the same way.
    type: list
    elements: str
    default: []
  extra_packages:
    description: Additional packages that the project does not require, each as a line of C(requirements.txt).
    type: list
    elements: str
    default: []
  fetch_environment:
    description: Environment of the programs that use the network during a build, such as a proxy.
    type: dict
    default: {}
  build_environment:
    description: >-
      Additional environment of these programs for this project, such as the credentials of its package index. No
      release contains it.
    type: dict
    default: {}
  git_key:
    description:
      - Text of a private SSH key, with which git fetches packages. No release contains it.
      - The host key of a server that is not in C(/etc/ssh/ssh_known_hosts) is trusted at the first connection, and must
        be the same from then on.
    type: str
    default: ""
  packages:
    description: >-
      Packages that the stack needs, each as C(name==version), installed when the requirements of the project do not
      include them.
    type: list
    elements: str
    default: []
"""
