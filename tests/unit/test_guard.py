"""The way back: what is kept, and that it comes back whole, or stays away once the login has succeeded."""

from __future__ import annotations

import os
import subprocess

import pytest
from ansible_collections.django_vps.stack.plugins.module_utils import atomic_change
from ansible_collections.django_vps.stack.plugins.module_utils import guard as module
from ansible_collections.django_vps.stack.plugins.module_utils.file_entries import ChangeError
from ansible_collections.django_vps.stack.plugins.module_utils.guard import Guard
from ansible_collections.django_vps.stack.plugins.module_utils.units import UnitError
from ansible_collections.django_vps.stack.plugins.modules import config_files


@pytest.fixture
def etc(tmp_path):
    folder = tmp_path / "etc"
    folder.mkdir()
    return folder


@pytest.fixture
def guard(tmp_path, monkeypatch):
    """One whose unit runs when it is started, without systemd."""
    (tmp_path / "units").mkdir()
    guard = Guard(str(tmp_path / "guard"), str(tmp_path / "units"))
    guard.calls = []
    real = module.run

    def run(*argv, check=True):
        guard.calls.append(" ".join(argv))
        if argv[0] == "tar":
            real(*argv)
        elif argv == ("systemctl", "start", module.UNIT):
            subprocess.run(["/bin/sh", tmp_path / "guard/take_back"], check=False)

    monkeypatch.setattr(module, "run", run)
    return guard


def picture(top):
    return {
        path: (path.readlink() if path.is_symlink() else path.is_file() and path.read_text(), oct(path.lstat().st_mode))
        for path in sorted(top.rglob("*"))
    }


def test_guard_reverts_all_paths(guard, etc):
    (etc / "kept").write_text("old")
    (etc / "kept").chmod(0o640)
    (etc / "link").symlink_to("kept")
    (etc / "folder").mkdir(mode=0o700)
    (etc / "folder/others").write_text("theirs")
    before = picture(etc)
    paths = [str(etc / name) for name in ("kept", "link", "folder", "new", "made", "made/in it")]

    guard.arm(paths, "", "true")
    (etc / "kept").write_text("new")
    (etc / "link").unlink()
    (etc / "link").write_text("a file now")
    (etc / "folder").chmod(0o755)
    (etc / "new").write_text("new")
    (etc / "made").mkdir()
    (etc / "made/in it").write_text("new")
    guard.take_back()

    assert picture(etc) == before
    assert not guard.is_armed
    assert any("--on-active=30" in call for call in guard.calls)


def test_guard_keeps_and_restores_the_running_state(guard, etc):
    (etc / "state").write_text("running so")
    guard.arm([str(etc / "file")], f"cat {etc}/state > state", f"false\ncp going/state {etc}/follows")
    guard.take_back()
    assert (etc / "follows").read_text() == "running so"


def test_change_proved_by_a_login_stays(guard, etc):
    guard.arm([str(etc / "file")], "", f"touch {etc}/taken")
    (etc / "file").write_text("new")
    assert guard.disarm()
    guard.take_back()
    assert [path.name for path in etc.iterdir()] == ["file"]
    assert not guard.folder.exists()


def test_login_after_the_revert_is_too_late(guard, etc):
    guard.arm([str(etc / "file")], "", "true")
    guard.take_back()
    assert not guard.disarm()


def test_unproved_change_is_reverted_before_the_next(guard, etc):
    (etc / "file").write_text("proved")
    guard.arm([str(etc / "file")], "", "true")
    (etc / "file").write_text("by a run that died")
    guard.arm([str(etc / "other")], "", "true")
    assert (etc / "file").read_text() == "proved"


def test_incomplete_copies_are_not_restored(guard, etc):
    (etc / "file").write_text("old")
    guard.arm([], "", "true")
    guard.disarm()
    (guard.folder / "new").mkdir(parents=True)
    (guard.folder / "new/absent").write_text(f"{etc}/file\n")
    guard.take_back()
    assert (etc / "file").read_text() == "old"


def test_failed_revert_removes_nothing_and_can_be_repeated(guard, etc):
    (etc / "file").write_text("old")
    guard.arm([str(etc / "file"), str(etc / "made")], "", "true")
    copies = (guard.armed / "kept.tar").read_bytes()
    (guard.armed / "kept.tar").write_bytes(copies[:100])
    (etc / "file").write_text("new")
    (etc / "made").write_text("new")
    guard.take_back()
    assert {path.name for path in etc.iterdir()} == {"file", "made"}
    (guard.folder / "going/kept.tar").write_bytes(copies)
    guard.take_back()
    assert [path.read_text() for path in etc.iterdir()] == ["old"]


# The module


def options(path, content, **more):
    unset = {"state": None, "target": None, "mode": None, "secret": False, "pristine": None}
    me = {"owner": str(os.geteuid()), "group": str(os.getegid())}
    spec = {"path": str(path), "content": content, **unset, **me}
    return {"files": [spec], "validate": None, "units": [], "guard": {"keep": "", "take_back": "true"}, **more}


def test_no_login_is_needed_if_nothing_changes(guard, etc):
    config_files.apply(options(etc / "file", "new"), False, guard)
    guard.disarm()
    assert config_files.apply(options(etc / "file", "new"), False, guard)["prove"] is False


def test_change_of_a_killed_run_is_proved_by_the_next(guard, etc):
    assert config_files.apply(options(etc / "file", "new"), False, guard)["prove"]
    again = config_files.apply(options(etc / "file", "new"), False, guard)
    assert (again["changed"], again["prove"]) == (False, True)


def test_a_dry_run_arms_nothing(guard, etc):
    assert config_files.apply(options(etc / "file", "new"), True, guard)["changed"]
    assert not (etc / "file").exists()
    assert guard.calls == []


@pytest.fixture
def server(monkeypatch, etc):
    """A unit that reads the file when it starts; how it went. With "bad" it does not start, and says why."""
    state = {"runs": "old", "starts": []}

    def run(name, check_mode=False, **_):
        text = (etc / "file").read_text() if (etc / "file").exists() else ""
        if text == state["runs"]:
            return {"action": []}
        state["starts"].append(text)
        if text == "bad" or state.get("broken"):
            state["runs"] = None
            raise UnitError(f"{name} is down\nFATAL: no such setting")
        state["runs"] = text
        return {"action": ["restart"]}

    monkeypatch.setattr(config_files.units, "run", run)
    monkeypatch.setattr(config_files.units, "is_up", lambda name: state["runs"] is not None)
    (etc / "file").write_text("old")
    return state


def unguarded(path, content):
    return options(path, content, units=[{"name": "a.service"}], guard=None)


def failure(wanted, guard) -> str:
    with pytest.raises(UnitError) as told:
        config_files.apply(wanted, False, guard)
    return str(told.value)


def test_server_that_fails_with_new_files_runs_with_the_old(server, etc, guard):
    assert failure(unguarded(etc / "file", "bad"), guard).splitlines() == [
        "a.service is down",
        "FATAL: no such setting",
        "The files are as they were, and a.service runs with them again",
    ]
    assert (etc / "file").read_text() == server["runs"] == "old"
    assert server["starts"] == ["bad", "old"]


def test_server_that_fails_with_the_old_files_too_is_reported(server, etc, guard):
    server["broken"] = True
    said = failure(unguarded(etc / "file", "new"), guard)
    assert "The files are as they were, and still: a.service is down" in said
    assert (etc / "file").read_text() == "old"


def test_new_folder_is_removed_with_its_files(server, etc, guard):
    folder = {**unguarded(etc / "new.d", None)["files"][0], "state": "directory"}
    wanted = unguarded(etc / "file", "bad")
    wanted["files"] = [folder, *unguarded(etc / "new.d/a.conf", "a")["files"], *wanted["files"]]
    before = sorted(etc.rglob("*"))
    assert "The files are as they were" in failure(wanted, guard)
    assert sorted(etc.rglob("*")) == before
    assert (etc / "file").read_text() == server["runs"] == "old"


def test_failed_revert_is_reported_and_server_is_started(server, etc, guard, monkeypatch):
    def take_back(changes):
        return ["/etc/x: No space left on device"]

    monkeypatch.setattr(atomic_change, "take_back", take_back)
    said = failure(unguarded(etc / "file", "bad"), guard)
    assert "These could NOT be put back: /etc/x: No space left on device, and still: " in said


def test_files_of_a_server_that_was_down_are_kept(server, etc, guard):
    server["runs"] = None
    assert failure(unguarded(etc / "file", "bad"), guard).endswith("FATAL: no such setting")
    assert (etc / "file").read_text() == "bad"


def test_server_restarts_once_for_new_files(server, etc, guard):
    result = config_files.apply(unguarded(etc / "file", "new"), False, guard)
    assert (result["changed"], result["action"]) == (True, ["restart a.service"])
    assert not config_files.apply(unguarded(etc / "file", "new"), False, guard)["changed"]
    assert server["starts"] == ["new"]


def test_refused_change_leaves_the_guard_disarmed(guard, etc):
    with pytest.raises(ChangeError):
        config_files.apply(options(etc / "file", "new", validate=["false"]), False, guard)
    assert not guard.is_armed
    assert not (etc / "file").exists()


def test_failed_unit_reverts_the_change(guard, etc, monkeypatch):
    def run(name, check_mode, **_):
        if not check_mode:
            raise UnitError(f"{name} is down")
        return {"action": []}

    monkeypatch.setattr(config_files.units, "run", run)
    (etc / "file").write_text("old")
    with pytest.raises(UnitError):
        config_files.apply(options(etc / "file", "new", units=[{"name": "a.service"}]), False, guard)
    assert (etc / "file").read_text() == "old"
    assert not guard.is_armed
