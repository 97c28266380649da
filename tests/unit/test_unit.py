"""What a unit is against what it should be: each decision, its order, and its clocks."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from ansible_collections.django_vps.stack.plugins.module_utils import units as unit
from ansible_collections.django_vps.stack.plugins.module_utils.units import UnitError, wall_stamp

SECOND = 10**9
NAME = "web.service"


class Systemd:
    """As much of systemd as one unit needs. Its clocks stand still unless they are moved."""

    def __init__(self):
        self.wall = 2_000_000_000 * SECOND
        self.boot = 500_000 * SECOND
        self.calls = []
        self.fails = {}
        self.dies = False
        self.on_reload = {}
        self.stamps = dict.fromkeys(unit.STAMPS)
        self.properties = {
            "LoadState": "loaded",
            "ActiveState": "active",
            "SubState": "running",
            "UnitFileState": "enabled",
            "NeedDaemonReload": "no",
            "CanReload": "yes",
            "Type": "notify",
            "Result": "success",
            "ReloadResult": "success",
        }
        self.stamp(*unit.STAMPS)

    def set(self, **properties):
        self.properties.update(properties)

    def stamp(self, *names):
        self.stamps.update(dict.fromkeys(names, (self.wall, self.boot)))

    def pass_time(self, seconds):
        self.wall += int(seconds * SECOND)
        self.boot += int(seconds * SECOND)

    def step_clock(self, seconds):
        self.wall += int(seconds * SECOND)

    @property
    def verbs(self):
        return [argv[1] for argv in self.calls if argv[0] == "systemctl" and argv[1] != "show"]

    def call(self, *argv):
        self.calls.append(argv)
        if argv[0] == "journalctl":
            return 0, "first line\nlast line\n", ""
        verb = argv[1]
        if verb == "show":
            return 0, self.show(), ""
        if verb != "daemon-reload":
            assert argv[2:] == ("--", NAME)
        if verb in self.fails:
            return 1, "", self.fails[verb]
        getattr(self, verb.replace("-", "_"))()
        return 0, "", ""

    def show(self):
        properties = dict(self.properties)
        for name, stamp in self.stamps.items():
            wall, boot = stamp or (0, 0)
            moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=wall // 1000)
            text = moment.strftime("%a %Y-%m-%d %H:%M:%S.%f UTC") if stamp else ""
            properties |= {name: text, f"{name}Monotonic": str(boot // 1000)}
        return "".join(f"{key}={value}\n" for key, value in properties.items())

    def daemon_reload(self):
        self.set(NeedDaemonReload="no", **self.on_reload)

    def reset_failed(self):
        self.set(ActiveState="inactive")

    def enable(self):
        self.set(UnitFileState="enabled")

    def disable(self):
        self.set(UnitFileState="disabled")

    def start(self):
        self.pass_time(1)
        self.stamp("InactiveExitTimestamp")
        self.pass_time(1)
        self.stamp("ActiveEnterTimestamp", "StateChangeTimestamp")
        self.set(ActiveState="failed" if self.dies else "active", SubState="whatever")

    restart = start

    def reload(self):
        self.pass_time(1)
        self.stamp("StateChangeTimestamp")
        self.set(ReloadResult="success")


@pytest.fixture
def systemd(monkeypatch):
    fake = Systemd()
    monkeypatch.setattr(unit, "call", fake.call)
    monkeypatch.setattr(unit, "wall_ns", lambda: fake.wall)
    monkeypatch.setattr(unit, "monotonic_ns", lambda: fake.boot)
    return fake


@pytest.fixture
def write(systemd, monkeypatch):
    """Write a file at the time of the fake clock: no program can set a ctime."""
    stamps = {}

    class Os:
        """The module's own `os`; everybody else's is left alone."""

        def __getattr__(self, name):
            return getattr(os, name)

        def stat(self, path, follow_symlinks=True):
            st = os.stat(path, follow_symlinks=follow_symlinks)
            names = ("st_mode", "st_dev", "st_ino", "st_atime_ns", "st_mtime_ns")
            known = {name: getattr(st, name) for name in names}
            return SimpleNamespace(**known, st_ctime_ns=stamps.get((st.st_dev, st.st_ino), 0))

        def utime(self, path, ns=None, follow_symlinks=True):
            st = os.stat(path, follow_symlinks=follow_symlinks)
            stamps[st.st_dev, st.st_ino] = systemd.wall

    def write(path):
        if not path.is_symlink():
            path.write_text("")
        unit.os.utime(path, follow_symlinks=False)
        return path

    monkeypatch.setattr(unit, "os", Os())
    return write


def run(enabled=True, restart=(), reload=(), **more):
    return unit.run(NAME, enabled, [str(path) for path in restart], [str(path) for path in reload], **more)


def test_unit_in_the_wanted_state_is_queried_once_and_kept(systemd):
    result = run()
    assert (result["changed"], result["action"]) == (False, [])
    assert [argv[:2] for argv in systemd.calls] == [("systemctl", "show")]


def test_a_new_unit_is_loaded_enabled_and_started_in_this_order(systemd):
    systemd.set(LoadState="not-found", ActiveState="inactive", UnitFileState="")
    systemd.stamps = dict.fromkeys(unit.STAMPS)
    systemd.on_reload = {"LoadState": "loaded", "UnitFileState": "disabled"}
    result = run()
    assert result["action"] == systemd.verbs == ["daemon-reload", "enable", "start"]
    assert result["diff"] == {
        "before": {"enabled": "", "active": "inactive", "action": []},
        "after": {"enabled": "enabled", "active": "active", "action": result["action"]},
    }
    assert not run()["changed"]


def test_a_unit_that_stays_unknown_is_a_failure(systemd):
    systemd.set(LoadState="not-found", ActiveState="inactive", UnitFileState="")
    with pytest.raises(UnitError, match=f"There is no unit {NAME}"):
        run()


def test_missing_unit_is_a_change_in_check_mode(systemd):
    systemd.set(LoadState="not-found", ActiveState="inactive", UnitFileState="")
    result = run(check_mode=True)
    assert result["changed"]
    assert "would be enabled and started" in result["msg"]
    assert systemd.verbs == []


def test_changed_unit_files_are_loaded_first(systemd):
    systemd.set(NeedDaemonReload="yes", UnitFileState="disabled", ActiveState="inactive")
    assert run()["action"] == ["daemon-reload", "enable", "start"]


@pytest.mark.parametrize(
    ("enabled", "state", "action"),
    [
        (True, "disabled", ["enable"]),
        (True, "enabled-runtime", ["enable"]),
        *((True, state, []) for state in ("enabled", "static", "generated", "alias", "indirect")),
        (False, "enabled", ["disable"]),
        (False, "disabled", []),
        (False, "static", []),
        (None, "enabled", []),
        (None, "disabled", []),
    ],
)
def test_unit_is_enabled_or_disabled_only_where_needed(systemd, enabled, state, action):
    systemd.set(UnitFileState=state)
    assert run(enabled=enabled)["action"] == action


@pytest.mark.parametrize("state", ["inactive", "deactivating"])
def test_stopped_unit_is_started(systemd, state):
    systemd.set(ActiveState=state)
    assert run()["action"] == systemd.verbs == ["start"]


def test_unit_at_its_start_limit_is_reset_and_started(systemd):
    systemd.set(ActiveState="failed", Result="start-limit-hit")
    assert run()["action"] == ["start"]
    assert systemd.verbs == ["reset-failed", "start"]


def test_start_in_progress_is_awaited_without_a_change(systemd):
    systemd.set(ActiveState="activating", SubState="start")
    assert run()["action"] == []
    assert systemd.verbs == ["start"]


def test_start_in_progress_is_ignored_in_check_mode(systemd):
    systemd.set(ActiveState="activating", SubState="start")
    assert not run(check_mode=True)["changed"]
    assert systemd.verbs == []


def test_a_unit_between_two_crashes_counts_as_down(systemd):
    systemd.set(ActiveState="activating", SubState="auto-restart")
    assert run()["action"] == ["start"]


def test_completed_oneshot_unit_is_not_started_again(systemd, write, tmp_path):
    systemd.set(Type="oneshot", ActiveState="inactive", SubState="dead")
    assert run()["action"] == []
    systemd.pass_time(60)
    assert run(restart=[write(tmp_path / "a")])["action"] == ["restart"]


def test_oneshot_unit_that_never_ran_since_boot_is_started(systemd):
    systemd.set(Type="oneshot", ActiveState="inactive", SubState="dead")
    systemd.stamps = dict.fromkeys(unit.STAMPS)
    assert run()["action"] == ["start"]


def test_files_older_than_the_start_need_no_action(systemd, write, tmp_path):
    old = write(tmp_path / "a")
    systemd.pass_time(60)
    systemd.restart()
    assert run(restart=[old], reload=[old, tmp_path / "missing"])["action"] == []


@pytest.mark.parametrize("kind", ["restart", "reload"])
def test_a_newer_file_is_acted_on_once(systemd, write, tmp_path, kind):
    systemd.pass_time(60)
    wish = {kind: [write(tmp_path / "a")]}
    systemd.pass_time(60)
    assert run(**wish, check_mode=True)["action"] == [kind]
    assert systemd.verbs == []
    assert run(**wish)["action"] == systemd.verbs == [kind]
    assert not run(**wish)["changed"]


def test_a_restart_makes_a_reload_needless(systemd, write, tmp_path):
    systemd.pass_time(60)
    new = write(tmp_path / "a")
    assert run(restart=[new], reload=[new])["action"] == ["restart"]


def test_start_makes_restart_and_reload_needless(systemd, write, tmp_path):
    systemd.pass_time(60)
    systemd.set(ActiveState="inactive")
    new = write(tmp_path / "a")
    assert run(restart=[new], reload=[new])["action"] == ["start"]


def test_unit_without_reload_is_restarted_for_new_files(systemd, write, tmp_path):
    systemd.set(CanReload="no")
    systemd.pass_time(60)
    new = write(tmp_path / "a")
    systemd.pass_time(60)
    systemd.stamp("StateChangeTimestamp")  # such as a timer that elapsed
    assert run(reload=[new])["action"] == ["restart"]


def test_file_written_during_the_start_counts_as_new(systemd, write, tmp_path):
    systemd.pass_time(60)
    systemd.stamp("InactiveExitTimestamp")
    systemd.pass_time(5)
    new = write(tmp_path / "a")
    systemd.pass_time(5)
    systemd.stamp("ActiveEnterTimestamp", "StateChangeTimestamp")
    assert run(restart=[new])["action"] == ["restart"]
    systemd.stamps["InactiveExitTimestamp"] = (systemd.wall - 10 * SECOND, systemd.boot - 10 * SECOND)
    touched = write(tmp_path / "a")
    assert run(reload=[touched])["action"] == ["reload"]


def test_a_reload_does_not_hide_that_a_restart_is_due(systemd, write, tmp_path):
    systemd.pass_time(60)
    new = write(tmp_path / "a")
    systemd.pass_time(60)
    systemd.reload()
    assert run(restart=[new])["action"] == ["restart"]


def test_a_failed_reload_is_due_again_in_the_next_run(systemd, write, tmp_path):
    systemd.pass_time(60)
    new = write(tmp_path / "a")
    systemd.pass_time(60)
    systemd.fails["reload"] = "Job for web.service failed."
    with pytest.raises(UnitError, match=r"(?s)systemctl reload -- web\.service failed.*last line") as failed:
        run(reload=[new])
    assert failed.value.result["journal"] == ["first line", "last line"]
    systemd.fails.clear()
    systemd.stamp("StateChangeTimestamp")
    systemd.set(ReloadResult="exit-code")
    assert run(reload=[new])["action"] == ["reload"]
    assert not run(reload=[new])["changed"]


@pytest.mark.parametrize("verb", ["start", "restart", "enable", "daemon-reload"])
def test_failed_command_is_reported_with_the_journal(systemd, write, tmp_path, verb):
    systemd.set(NeedDaemonReload="yes", UnitFileState="disabled")
    systemd.set(ActiveState="inactive" if verb == "start" else "active")
    systemd.fails[verb] = "no such luck"
    systemd.pass_time(60)
    with pytest.raises(UnitError, match=r"(?s)no such luck.*last line") as failed:
        run(restart=[write(tmp_path / "a")])
    assert failed.value.result["stderr"] == "no such luck"


def test_a_unit_that_dies_after_a_good_start_is_a_failure(systemd):
    systemd.set(ActiveState="inactive")
    systemd.dies = True
    with pytest.raises(UnitError, match=r"(?s)web\.service is failed .* after start.*last line"):
        run()


@pytest.mark.parametrize("kind", ["simple", "exec"])
def test_unit_without_readiness_is_watched_after_its_start(systemd, monkeypatch, kind):
    systemd.set(Type=kind, ActiveState="inactive")
    monkeypatch.setattr(unit.time, "sleep", lambda seconds: systemd.set(ActiveState="failed"))
    with pytest.raises(UnitError, match="is failed"):
        run()


@pytest.mark.parametrize("check_mode", [False, True])
def test_unmet_condition_is_no_change_for_conditional_unit(systemd, check_mode):
    systemd.set(ActiveState="inactive", ConditionResult="no")
    systemd.start = lambda: None
    result = run(conditional=True, check_mode=check_mode)
    assert (result["changed"], result["action"]) == (False, [])
    assert "has a condition that is not met" in result["msg"]


def test_unmet_condition_is_a_failure_by_default(systemd):
    systemd.set(ActiveState="inactive", ConditionResult="no")
    systemd.start = lambda: None
    with pytest.raises(UnitError, match="inactive"):
        run()


def test_unit_starts_once_its_condition_is_met(systemd):
    systemd.set(ActiveState="inactive", ConditionResult="no")
    assert run(conditional=True)["action"] == ["start"]


@pytest.mark.parametrize("folder", ["web@.service.d", "web@1.service.d"])
def test_unknown_drop_in_is_loaded(systemd, monkeypatch, tmp_path, folder):
    drop_in = tmp_path / folder / "restart.conf"
    drop_in.parent.mkdir()
    drop_in.touch()
    monkeypatch.setattr(unit, "DROP_INS", str(tmp_path))
    monkeypatch.setitem(globals(), "NAME", "web@1.service")
    systemd.on_reload = {"DropInPaths": f"/usr/lib/x.conf {drop_in}"}
    assert run()["action"] == ["daemon-reload"]
    assert run()["action"] == []


def test_a_manager_that_does_not_answer_is_a_failure(systemd, monkeypatch):
    monkeypatch.setattr(unit, "call", lambda *argv: (1, "", "Failed to connect to bus\n"))
    with pytest.raises(UnitError, match=r"systemctl show web\.service failed: Failed to connect to bus"):
        run()


def test_link_and_its_target_both_count(systemd, write, tmp_path):
    target, link = write(tmp_path / "target"), tmp_path / "link"
    link.symlink_to(target)
    write(link)
    systemd.pass_time(60)
    systemd.restart()
    assert run(restart=[link])["action"] == []
    systemd.pass_time(60)
    write(target)
    assert run(restart=[link])["action"] == ["restart"]
    systemd.pass_time(60)
    write(link)
    assert run(restart=[link])["action"] == ["restart"]


def test_files_of_a_folder_count_at_any_depth(systemd, write, tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/circle").symlink_to("../..")
    (tmp_path / "a/dangling").symlink_to("nowhere")
    assert run(restart=[tmp_path])["action"] == []
    systemd.pass_time(60)
    write(tmp_path / "a/b/.hidden")
    assert run(restart=[tmp_path])["action"] == ["restart"]


def test_a_clock_stepped_back_after_the_start_hides_no_change(systemd, write, tmp_path):
    systemd.pass_time(60)
    systemd.step_clock(-3600)
    assert run(restart=[write(tmp_path / "a")])["action"] == ["restart"]
    assert run(restart=[tmp_path / "a"])["action"] == []


def test_a_clock_stepped_forward_after_the_start_hides_no_change(systemd, write, tmp_path):
    systemd.pass_time(60)
    new = write(tmp_path / "a")
    systemd.step_clock(+3600)
    assert run(restart=[new])["action"] == ["restart"]
    assert run(restart=[new])["action"] == []


@pytest.mark.parametrize("kind", ["restart", "reload"])
def test_a_file_from_the_future_is_acted_on_only_once(systemd, write, tmp_path, kind):
    new = write(tmp_path / "a")
    systemd.step_clock(-3600)
    systemd.restart()
    assert run(**{kind: [new]})["action"] == [kind]
    assert run(**{kind: [new]})["action"] == []


def test_a_file_from_the_future_is_not_touched_in_check_mode(systemd, write, tmp_path):
    new = write(tmp_path / "a")
    before = unit.os.stat(new).st_ctime_ns
    systemd.step_clock(-3600)
    assert run(reload=[new], check_mode=True)["action"] == ["reload"]
    assert unit.os.stat(new).st_ctime_ns == before


@pytest.mark.parametrize(
    ("text", "stamp"),
    [
        ("Thu 1970-01-01 00:00:01.000001 UTC", SECOND + 1000),
        ("Tue 2026-01-06 12:00:00.123456 UTC", 1_767_700_800_123_456_000),
        ("Tue 2026-01-06 12:00:00 UTC", 1_767_700_800_000_000_000),
    ],
)
def test_stamps_are_read_to_the_microsecond(text, stamp):
    assert wall_stamp(text) == stamp


def test_a_real_change_moves_the_real_ctime(tmp_path):
    path = tmp_path / "a"
    path.write_text("")
    ((_, st, _), *_) = unit.newer([str(path)], unit.wall_ns() - SECOND)
    os.utime(path, (0, 0))
    assert unit.newer([str(path)], st.st_ctime_ns)
    assert not unit.newer([str(path)], unit.wall_ns() + SECOND)
