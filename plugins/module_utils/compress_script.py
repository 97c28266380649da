# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Run by the Python of a release to compress its static files.

`compose_program` of module_utils/project_shell.py sends the text of this file, so it must not import modules of the
collection.
"""

from __future__ import annotations

import filecmp
import gzip
import os
import shutil
import subprocess
import sys


def compress(folder, kept):
    """Compress the files named on the standard input, or copy the compressed file of an earlier release from `kept`."""
    brotli = shutil.which("brotli")
    for name in os.fsdecode(sys.stdin.buffer.read()).split("\n")[:-1]:
        path, before = os.path.join(folder, name), os.path.join(kept, name)
        same = os.path.isfile(before) and filecmp.cmp(path, before, shallow=False)
        for kind in ("gz", "br"):
            packed, earlier = f"{path}.{kind}", f"{before}.{kind}"
            if os.path.exists(packed):
                continue
            if same and os.path.isfile(earlier):
                shutil.copyfile(earlier, packed)
            elif kind == "gz":
                with open(path, "rb") as file, open(packed, "wb") as out:
                    out.write(gzip.compress(file.read(), mtime=0))
            elif brotli:
                argv = [brotli, "--best", "--keep", "--", path]
                done = subprocess.run(argv, stderr=subprocess.PIPE, text=True, check=False)
                if done.returncode:
                    raise SystemExit(f"brotli: {done.stderr}")
