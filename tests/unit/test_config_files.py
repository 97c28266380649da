"""Several files as one change: all of them stand and are accepted, or none was ever there."""

from __future__ import annotations

import errno
import grp
import hashlib
import json
import os
import pwd
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.django_vps.stack.plugins.action.config_files import ActionModule
from ansible_collections.django_vps.stack.plugins.module_utils import atomic_change, file_entries
from ansible_collections.django_vps.stack.plugins.module_utils.atomic_change import hidden_name, run
from ansible_collections.django_vps.stack.plugins.module_utils.file_entries import ChangeError

ROOT = Path(__file__).parents[2]
ME = {"owner": pwd.getpwuid(os.geteuid())[0], "group": grp.getgrgid(os.getegid())[0]}
UNSET = {"state": None, "content": None, "target": None, "mode": None, "secret": False, "pristine": None}
YES, NO = ["true"], ["false"]


def entry(path, **options):
    return {"path": str(path), **UNSET, **ME, **options}


def picture(top):
    """All that can be seen of a tree, except when it was written."""
    seen = {}
    for path in sorted([top, *top.rglob("*")]):
        st = path.lstat()
        what = path.readlink() if path.is_symlink() else path.is_file() and path.read_bytes()
        seen[path] = (what, oct(st.st_mode), st.st_uid, st.st_gid)
    return seen


def mode(path):
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture(autouse=True)
def lock(tmp_path, monkeypatch):
    """Its file, as that of the host is root's."""
    path = tmp_path / "lock"
    monkeypatch.setattr(atomic_change, "LOCK", path)
    return path


@pytest.fixture
def etc(tmp_path):
    """A folder with one of each kind."""
    top = tmp_path / "etc"
    top.mkdir()
    (top / "site.conf").write_text("old\n")
    (top / "site.conf").chmod(0o640)
    (top / "enabled").symlink_to("site.conf")
    (top / "default").symlink_to("/usr/share/default")
    (top / "stale.conf").write_text("stale\n")
    (top / "conf.d").mkdir(mode=0o755)
    (top / "empty").mkdir(mode=0o700)
    return top


@pytest.fixture
def whole_change(etc):
    """A change that does everything the module can do."""
    return [
        entry(etc / "site.conf", content="new\n"),
        entry(etc / "enabled", content="a file now\n"),
        entry(etc / "default", target="site.conf"),
        entry(etc / "stale.conf", state="absent"),
        entry(etc / "conf.d", state="directory", mode="0700"),
        entry(etc / "empty", state="absent"),
        entry(etc / "deep/er/new.conf", content="new\n"),
        entry(etc / "made", state="directory", mode="0750"),
        entry(etc / "link", target="made"),
    ]


def test_change_is_applied_and_leaves_no_other_files(etc, whole_change):
    result = run(whole_change, YES)
    assert result["changed"]
    assert result["paths"] == [spec["path"] for spec in whole_change]
    assert (etc / "site.conf").read_text() == "new\n"
    assert mode(etc / "site.conf") == 0o644
    assert (etc / "enabled").read_text() == "a file now\n"
    assert os.readlink(etc / "default") == "site.conf"
    assert mode(etc / "conf.d") == 0o700
    assert mode(etc / "made") == 0o750
    assert mode(etc / "deep") == mode(etc / "deep/er") == 0o755
    names = {str(path.relative_to(etc)) for path in etc.rglob("*")}
    assert names == {
        *("site.conf", "enabled", "default", "conf.d", "made", "link"),
        *("deep", "deep/er", "deep/er/new.conf"),
    }


def test_the_same_change_again_changes_nothing(etc, whole_change):
    run(whole_change, YES)
    before = (etc / "site.conf").stat()
    result = run(whole_change, YES)
    assert (result["changed"], result["paths"], result["diff"]) == (False, [], [])
    assert (etc / "site.conf").stat() == before


def test_refused_files_are_restored_exactly(etc, whole_change):
    before, inode = picture(etc), (etc / "site.conf").stat().st_ino
    refusal = [sys.executable, "-c", "import sys; print('line 3 is bad'); sys.exit(4)"]
    with pytest.raises(ChangeError, match=r"rc 4\): line 3 is bad - everything was put back") as refused:
        run(whole_change, refusal)
    assert refused.value.result == {"cmd": refusal, "rc": 4, "validation": "line 3 is bad"}
    assert picture(etc) == before
    assert (etc / "site.conf").stat().st_ino == inode


def test_validator_sees_the_new_files(etc, whole_change):
    run(whole_change, ["grep", "-q", "new", str(etc / "site.conf"), str(etc / "deep/er/new.conf")])


def test_missing_validator_fails_and_reverts_the_change(etc, whole_change):
    before = picture(etc)
    with pytest.raises(ChangeError, match="/no/such-judge -t cannot be run: No such file") as refused:
        run(whole_change, "/no/such-judge -t")
    assert refused.value.result["rc"] == 127
    assert picture(etc) == before


def test_validator_runs_when_nothing_changed(etc, whole_change):
    run(whole_change, YES)
    before = picture(etc)
    with pytest.raises(ChangeError, match="false refused the files") as refused:
        run(whole_change, NO)
    assert "put back" not in str(refused.value)
    assert picture(etc) == before


@pytest.mark.parametrize(
    ("content", "replaced"),
    [("# Ansible managed\ntheirs", False), ("# table ours", True), ("as shipped", True), (None, True)],
)
def test_pristine_file_is_replaced_only_if_unmodified(etc, tmp_path, monkeypatch, content, replaced):
    path, status = etc / "daemon.conf", tmp_path / "status"
    status.write_text(f"Package: daemon\nConffiles:\n {path} {hashlib.md5(b'as shipped').hexdigest()}\n")
    monkeypatch.setattr(file_entries, "DPKG_STATUS", str(status))
    if content:
        path.write_text(content)
    new = [entry(etc / "other", content="other"), entry(path, content="new", pristine="table ours")]
    if replaced:
        run(new, YES)
        assert path.read_text() == "new"
        return
    with pytest.raises(ChangeError, match="the file is not that of its package"):
        run(new, YES)
    assert path.read_text() == content
    assert not (etc / "other").exists()


def test_output_of_the_validator_is_returned(etc):
    result = run([entry(etc / "a", content="")], "sh -c 'echo fine; echo really >&2'")
    assert result["validation"] == "fine\nreally"


def test_full_disk_midway_reverts_everything(etc, whole_change, monkeypatch):
    before, real, calls = picture(etc), atomic_change.create_file, []

    def create_file(path, content, mode, owner):
        calls.append(path)
        if len(calls) == 3:
            real(path, b"ne", 0o600, (os.geteuid(), os.getegid()))
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, content, mode, owner)

    monkeypatch.setattr(atomic_change, "create_file", create_file)
    with pytest.raises(ChangeError, match=r"Cannot write .*/new\.conf: No space left on device - every"):
        run(whole_change, YES)
    assert picture(etc) == before


def test_path_that_cannot_be_reverted_is_named(etc, monkeypatch):
    def put_back(path):
        # Once before the change, when there is nothing to mend, then for real.
        if os.path.lexists(hidden_name(path, "before")):
            raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(atomic_change, "put_back", put_back)
    why = r"these could NOT be put back: .*/site\.conf \(Read-only file system\)"
    with pytest.raises(ChangeError, match=why):
        run([entry(etc / "site.conf", content="new\n")], NO)


def test_killed_change_is_reverted_by_the_next_run(etc):
    change = [entry(etc / "site.conf", content="bad\n"), entry(etc / "new", content="bad\n")]
    before = picture(etc)
    killer = f"""
import os, sys
from ansible_collections.django_vps.stack.plugins.module_utils import atomic_change
atomic_change.validate = lambda argv: os.kill(os.getpid(), 9)
atomic_change.run({change!r}, ["true"])
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", killer], check=False, env=env).returncode == -9
    assert (etc / "site.conf").read_text() == "bad\n"

    with pytest.raises(ChangeError):
        run(change, NO)
    assert picture(etc) == before
    assert run(change, YES)["paths"] == [str(etc / "site.conf"), str(etc / "new")]


def test_check_mode_writes_nothing_and_runs_no_validator(etc, whole_change):
    before, stamp = picture(etc), etc.stat().st_ctime_ns
    result = run(whole_change, NO, check_mode=True)
    assert result["paths"] == [spec["path"] for spec in whole_change]
    assert (picture(etc), etc.stat().st_ctime_ns) == (before, stamp)


def test_check_mode_validates_if_nothing_would_change(etc):
    with pytest.raises(ChangeError):
        run([entry(etc / "nothing", state="absent")], NO, check_mode=True)


def test_an_unknown_owner_is_refused_before_anything_is_touched(etc):
    before = picture(etc)
    change = [entry(etc / "a", content="a"), entry(etc / "b", content="b", owner="no-such-user")]
    with pytest.raises(ChangeError, match="There is no user 'no-such-user' on this host"):
        run(change, YES)
    assert picture(etc) == before


def test_unknown_owner_is_a_change_in_check_mode(etc):
    change = [entry(etc / "site.conf", content="old\n", mode="0640", group="no-such-group")]
    result = run(change, YES, check_mode=True)
    assert result["paths"] == [str(etc / "site.conf")]
    assert "unknown" in result["diff"][0]["after_header"]


def test_only_a_new_mode_is_a_change_too(etc):
    result = run([entry(etc / "site.conf", content="old\n", mode="0600")], YES)
    assert result["changed"]
    assert mode(etc / "site.conf") == 0o600
    assert "0640" in result["diff"][0]["before"]
    assert "0600" in result["diff"][0]["after"]


def test_the_diff_shows_before_and_after(etc):
    diff = run([entry(etc / "site.conf", content="new\n")], YES)["diff"]
    assert [(one["before"], one["after"]) for one in diff] == [("old\n", "new\n")]
    assert diff[0]["before_header"].startswith(f"{etc}/site.conf (0640 ")


def test_the_diff_hides_secrets_old_and_new(etc):
    diff = run([entry(etc / "site.conf", content="hunter2\n", secret=True)], YES)["diff"]
    assert "hunter2" not in str(diff)
    assert "old\\n" not in str(diff)
    assert diff[0]["before"] != diff[0]["after"]


def test_diff_hides_binary_content(etc):
    (etc / "site.conf").write_bytes(b"\xff\0")
    diff = run([entry(etc / "site.conf", content="text\n")], YES)["diff"]
    assert diff[0]["before"] == "(binary content)\n"


def test_link_in_place_of_a_file_is_replaced_and_not_followed(etc):
    run([entry(etc / "enabled", content="new\n")], YES)
    assert not (etc / "enabled").is_symlink()
    assert (etc / "site.conf").read_text() == "old\n"


@pytest.mark.parametrize("again", ["site.conf", "conf.d/../site.conf", "alias/site.conf"])
def test_a_path_given_twice_is_refused(etc, again):
    (etc / "alias").symlink_to(".")
    with pytest.raises(ChangeError, match="is given twice"):
        run([entry(etc / "site.conf", content="a"), entry(f"{etc}/{again}", content="b")], YES)


@pytest.mark.parametrize("bad", ["644", "0999", "u=rw", "rw-r--r--", "", "00644", 0o644, 644])
def test_a_mode_that_is_not_four_octal_digits_is_refused(etc, bad):
    before = picture(etc)
    with pytest.raises(ChangeError, match="four octal digits in quotes"):
        run([entry(etc / "site.conf", content="new\n", mode=bad)], YES)
    assert picture(etc) == before


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({}, "give content, target or state"),
        ({"state": "file"}, "content and state: file"),
        ({"state": "link"}, "target and state: link"),
        ({"target": ""}, "target and state: link"),
        ({"content": "a", "target": "b"}, "content and state: file"),
        ({"state": "directory", "content": "a"}, "content and state: file"),
    ],
)
def test_options_that_contradict_each_other_are_refused(etc, options, why):
    with pytest.raises(ChangeError, match=why):
        run([entry(etc / "a", **options)], YES)


@pytest.mark.parametrize("path", ["relative.conf", "/", ""])
def test_a_path_that_names_no_file_is_refused(path):
    with pytest.raises(ChangeError, match="no absolute path"):
        run([entry(path, content="a")], YES)


@pytest.mark.parametrize(
    ("name", "options", "why"),
    [
        ("conf.d", {"content": "a"}, "a directory stands where a file is wanted"),
        ("conf.d", {"target": "a"}, "a directory stands where a link is wanted"),
        ("site.conf", {"state": "directory"}, "a file stands where a directory is wanted"),
        ("enabled", {"state": "directory"}, "a link stands where a directory is wanted"),
        ("site.conf/a", {"content": "a"}, "site.conf is no folder"),
        ("full", {"state": "absent"}, "the folder is not empty"),
        ("pipe", {"content": "a"}, "neither a file, a link nor a folder"),
    ],
)
def test_an_obstacle_is_found_before_anything_is_touched(etc, name, options, why):
    (etc / "full").mkdir()
    (etc / "full/of").touch()
    os.mkfifo(etc / "pipe")
    before = picture(etc)
    with pytest.raises(ChangeError, match=why):
        run([entry(etc / "first", content="a"), entry(etc / name, **options)], YES)
    assert picture(etc) == before


def test_absent_file_stays_absent_without_a_change(etc):
    change = [entry(etc / "no/such", state="absent"), entry(etc / "site.conf/a", state="absent")]
    assert not run(change, YES)["changed"]


def test_a_second_change_waits_for_the_first(etc, lock):
    lock.touch(0o644)
    first = f"""
import fcntl, os, pathlib, time
fcntl.flock(os.open({str(lock)!r}, os.O_RDONLY), fcntl.LOCK_EX)
print(flush=True)
time.sleep(0.3)
pathlib.Path({str(etc / "ended")!r}).touch()
"""
    with subprocess.Popen([sys.executable, "-c", first], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        run([entry(etc / "a", content="a")], ["test", "-e", str(etc / "ended")])
    # Anybody who can open it can lock it.
    assert lock.stat().st_mode & 0o777 == 0o600


def test_template_becomes_the_content(tmp_path):
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates/site.conf.j2").write_text("server_name {{ site_name }};\n")
    wished = [
        {"path": f"{tmp_path}/{{{{ site_name }}}}.conf", "template": "site.conf.j2", **ME},
        {"path": f"{tmp_path}/gone.conf", "template": "none.j2", "state": "absent"},
    ]
    task = {"django_vps.stack.config_files": {"files": wished}, "vars": {"site_name": "shop"}}
    play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": [task]}
    (tmp_path / "play.yml").write_text(json.dumps([play]))
    argv = [f"{Path(sys.executable).parent}/ansible-playbook", "play.yml", "-i", "localhost,"]
    environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections")}
    python = ["-e", f"ansible_python_interpreter={sys.executable}"]
    done = subprocess.run([*argv, *python], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "shop.conf").read_text() == "server_name shop;\n"


def test_template_beside_content_is_refused():
    with pytest.raises(AnsibleActionFail, match="/etc/x: content and template exclude each other"):
        ActionModule.rendered(None, {"path": "/etc/x", "content": "a", "template": "site.conf.j2"})
