# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Revert changes that make logins impossible, without a connection to the controller."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

from ansible_collections.django_vps.stack.plugins.module_utils.commands import execute
from ansible_collections.django_vps.stack.plugins.module_utils.errors import ModuleError
from ansible_collections.django_vps.stack.plugins.module_utils.file_system import write_file

#: Seconds that the host waits for the login. The attempts take 18 seconds at most.
LOGIN_SECONDS = 30
UNIT = "django_vps-guard.service"
TIMER = "django_vps-guard-due"

SERVICE = """\
# Takes changes back that no login has proved: by a timer, and at boot where the host died before.
[Unit]
Description=Take back what keeps people from logging in
ConditionDirectoryNotEmpty={folder}
DefaultDependencies=no
After=local-fs.target
Before=nftables.service ssh.service

[Service]
Type=oneshot
ExecStart=/bin/sh {folder}/take_back

[Install]
WantedBy=sysinit.target
"""

# This script and the login that proves the changes can come at the same moment; the rename succeeds for one of them.
TAKE_BACK = """\
cd {folder} || exit
mv armed going 2> /dev/null
[ -d going ] || exit 0
# Where it fails, as on a full disk, the next boot tries again.
tar -C / --acls --xattrs -xpf going/kept.tar || exit
while IFS= read -r path; do
  if [ -d "$path" ] && [ ! -L "$path" ]; then rmdir "$path" 2> /dev/null; else rm -f "$path"; fi
done < going/absent
sync
{commands}
mv going gone
rm -rf gone
"""


class Guard:
    """The copies of the files, and the unit that restores them unless a login proves the change."""

    def __init__(self, folder: str = "/var/lib/django_vps/guard", units: str = "/etc/systemd/system") -> None:
        self.folder, self.units = Path(folder), Path(units)
        self.armed = self.folder / "armed"

    @property
    def is_armed(self) -> bool:
        return self.armed.is_dir()

    def arm(self, paths: list[str], keep: str, take_back: str) -> None:
        """Copy the paths, in the order of their change, and schedule their restoration after LOGIN_SECONDS."""
        self.take_back()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_file(self.folder / "take_back", TAKE_BACK.format(folder=self.folder, commands=take_back.strip()))
        write_file(self.units / UNIT, SERVICE.format(folder=self.folder), 0o644)
        run("systemctl", "daemon-reload")
        run("systemctl", "enable", "--quiet", UNIT)
        self.keep(paths, keep)
        run(
            *("systemd-run", "--quiet", f"--unit={TIMER}", f"--on-active={LOGIN_SECONDS}"),
            *("--timer-property=AccuracySec=100ms", "systemctl", "start", UNIT),
        )

    def keep(self, paths: list[str], command: str) -> None:
        """Copy the paths to a folder, which gets its final name once it is complete."""
        new = self.folder / "new"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        # The content of a folder is removed before the folder.
        absent = [path for path in reversed(paths) if not os.path.lexists(path)]
        (new / "absent").write_text("".join(f"{path}\n" for path in absent))
        there = [path.lstrip("/") for path in paths if os.path.lexists(path)]
        (new / "there").write_text("".join(f"{path}\0" for path in there))
        run(
            *("tar", "-C", "/", "--acls", "--xattrs", "--no-recursion", "-cpf", str(new / "kept.tar")),
            *("--null", f"--files-from={new / 'there'}"),
        )
        subprocess.run(["/bin/sh", "-c", command], cwd=new, capture_output=True, check=False)
        os.sync()
        new.rename(self.armed)
        os.sync()

    def disarm(self) -> bool:
        """Make the changes permanent; False when they have been reverted."""
        proven = self.folder / "proven"
        shutil.rmtree(proven, ignore_errors=True)
        try:
            self.armed.rename(proven)
        except FileNotFoundError:
            return False
        stop_timer()
        shutil.rmtree(self.folder)
        return True

    def take_back(self) -> None:
        if self.is_armed or (self.folder / "going").is_dir():
            run("systemctl", "start", UNIT)
        stop_timer()


def stop_timer() -> None:
    run("systemctl", "stop", f"{TIMER}.timer", f"{TIMER}.service", check=False)


def run(*argv: str, check: bool = True) -> None:
    done = execute(*argv)
    if check and done.code:
        raise ModuleError(f"{shlex.join(argv)}: {done.stderr.strip() or f'exit status {done.code}'}")
