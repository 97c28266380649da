"""Run modules of Ansible cheaply; Python imports this at its start on the servers of scenarios.

A module comes as a zip of source, and Python compiles all of it each time, which is half of what a module takes: stat
needs 198 ms of processor time, and 102 ms where the compiled code is kept. Only zips are concerned, of root alone.
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
    try:
        os.makedirs(FOLDER, mode=0o700, exist_ok=True)
        with open(f"{path}.{os.getpid()}", "wb") as file:
            marshal.dump(code, file)
        os.replace(file.name, path)
    except OSError:
        # The disk may be full, or read-only, by what a test does.
        pass
    return code


if os.geteuid() == 0:
    zipimport._compile_source = kept
