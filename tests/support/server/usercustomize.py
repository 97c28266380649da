"""Run modules of Ansible cheaply; Python imports this at its start on the servers of scenarios.

A module comes as a zip of source, and Python compiles all of it each time, which is half of what a module takes: stat
needs 198 ms of processor time, and 102 ms where the compiled code is kept. Only zips are concerned. Root writes the
compiled code; modules of other users, such as those of PostgreSQL, read it.
"""

import marshal
import os
import zipimport
from _imp import source_hash

FOLDER = "/run/compiled-modules"

compile_source = zipimport._compile_source


def kept(pathname, source):
    path = f"{FOLDER}/{source_hash(0, bytes(source)).hex()}"
    try:
        with open(path, "rb") as file:
            return marshal.load(file)
    except (OSError, EOFError, ValueError, TypeError):
        code = compile_source(pathname, source)
    if os.geteuid() == 0:
        keep(path, code)
    return code


def keep(path, code):
    new = f"{path}.{os.getpid()}"
    try:
        os.makedirs(FOLDER, exist_ok=True)
        with open(new, "wb") as file:
            marshal.dump(code, file)
        # The umask of a server that is built is 0077.
        os.chmod(FOLDER, 0o755)
        os.chmod(new, 0o644)
        os.replace(new, path)
    except OSError:
        # The disk may be full, or read-only, by what a test does.
        pass


zipimport._compile_source = kept
