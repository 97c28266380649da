"""What people are told of the releases, and which one they may go back to."""

from __future__ import annotations

import fcntl
import json

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.django_vps.stack.plugins.module_utils.commands import Outcome
from ansible_collections.django_vps.stack.plugins.module_utils.errors import StepError
from ansible_collections.django_vps.stack.plugins.module_utils.file_system import replace_link, write_file
from ansible_collections.django_vps.stack.plugins.module_utils.site import Site
from ansible_collections.django_vps.stack.plugins.modules import releases
from ansible_collections.django_vps.stack.plugins.modules.lock import holder, is_held
from ansible_collections.django_vps.stack.plugins.modules.releases import choose, leaves, lines, read


@pytest.fixture
def site(tmp_path):
    """Releases a to d, of which d is live after c, and b is bad."""
    made = Site(str(tmp_path))
    for name in "abcd":
        (made.releases / name).mkdir(parents=True)
        write_file(made.releases / name / "release.json", json.dumps({"version": f"v{name}"}))
        give_python(made.releases / name, "python3.11")
    made.note("b", bad="health: answers 500")
    replace_link(made.current, "releases/d")
    entries = [
        {"at": "now", "who": "ana", "what": f"v{after}", "from": before, "to": after, "seconds": 4.2}
        for before, after in ("-a", "ac", "cd")
    ]
    made.journal.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return made


def give_python(release, built_for):
    """A virtual environment, and the interpreter of the host."""
    host = release.parents[1] / "usr/bin"
    host.mkdir(parents=True, exist_ok=True)
    (host / "python3.11").touch(0o755)
    (release / "venv/bin").mkdir(parents=True)
    (release / "venv/bin/python").symlink_to(host / "python3.11")
    (release / "venv/lib" / built_for).mkdir(parents=True)


def test_release_without_its_python_cannot_be_selected(site):
    for name, way in (("a", "gone"), ("c", "another version")):
        folder = site.releases / name / "venv"
        if way == "gone":
            (folder / "bin/python").unlink()
            (folder / "bin/python").symlink_to("/usr/bin/python3.2")
        else:
            (folder / "lib/python3.11").rename(folder / "lib/python3.9")
        with pytest.raises(StepError, match=f"{name} cannot run: the Python") as refused:
            choose(site, read(site, {}), name)
    assert "-e django_version=vc" in str(refused.value)
    assert "There is no other good one." in str(refused.value)
    with pytest.raises(StepError, match="c cannot run"):
        choose(site, read(site, {}), "")
    assert "a  va  its Python is gone" in lines(read(site, {}), "c", [])


def test_list_includes_a_previous_release_that_cannot_run(site, monkeypatch, capsys):
    monkeypatch.setattr(releases, "count_restarts", dict)
    (site.releases / "c/venv/lib/python3.11").rename(site.releases / "c/venv/lib/python3.9")
    for required in (False, True):
        with patch_module_args({"home": str(site.home), "required": required}), pytest.raises(SystemExit):
            releases.main()
        told = json.loads(capsys.readouterr().out)
        assert bool(told.get("failed")) == required
        assert told["live"] == "d"


def test_repeatedly_restarting_unit_is_listed_with_its_release(site, monkeypatch):
    states = {
        "shop.worker@d.service": "active",
        "shop.beat@d.service": "activating",
        "shop.worker@b.service": "inactive",
    }
    counts = {**dict.fromkeys(states, 3), "shop.mail@d.service": 2}

    def call(program, *argv):
        if program == "journalctl":
            return Outcome(0, "".join(f"{unit}\n" * count for unit, count in counts.items()), "")
        return Outcome(0, states[argv[-1]] + "\n", "")

    monkeypatch.setattr(releases, "call", call)
    found = releases.count_restarts()
    assert found == {"shop.worker@d.service": 3, "shop.beat@d.service": 3}
    [live] = [line for line in lines(read(site, found), "c", []) if line.startswith("d ")]
    assert "live, shop.beat@d.service restarted 3 times in the last hour, shop.worker@d.service restarted 3" in live


def test_default_rollback_target_is_the_previous_release(site):
    assert choose(site, read(site, {}), "") == "c"


def test_good_release_can_be_selected(site):
    assert choose(site, read(site, {}), "a") == "a"


@pytest.mark.parametrize(("wanted", "why"), [("b", "b is bad: health: answers 500"), ("x", "there is no release 'x'")])
def test_bad_or_unknown_release_is_refused_with_good_releases(site, wanted, why):
    with pytest.raises(StepError) as refused:
        choose(site, read(site, {}), wanted)
    assert why in str(refused.value)
    assert "Good ones: c, a." in str(refused.value)


def test_first_release_has_no_previous_release(site):
    replace_link(site.current, "releases/a")
    assert choose(site, read(site, {}), "") == ""


def test_a_rollback_leaves_the_live_release(site):
    assert leaves(site, "c") == "d"
    assert leaves(site, "a") == "d"


@pytest.mark.parametrize("noted", [True, False])
def test_interrupted_rollback_leaves_the_former_live_release(site, noted):
    replace_link(site.current, "releases/c")
    if noted:
        with site.journal.open("a") as journal:
            journal.write(json.dumps({"from": "d", "to": "c"}) + "\n")
    assert leaves(site, "c") == "d"


def test_removed_release_does_not_count_as_left(site):
    (site.releases / "c/release.json").unlink()
    assert leaves(site, "d") == "d"
    site.journal.unlink()
    assert leaves(site, "d") == "d"


POINTS = [{"set": "1a2b", "time": "monday"}, {"set": "3c4d", "time": "tuesday"}]


def test_journal_of_the_next_switch_has_the_restore_points(site):
    # The first deploy has failed after its migrations.
    for point in (*POINTS, POINTS[1]):
        site.add_restore_point("d", {**point, "message": "set", "failures": []})
    (site.releases / "e").mkdir()
    site.record_switch("d", "e", "ana", 1)
    site.record_switch("e", "d", "ana", 1)
    site.record_switch("d", "e", "ana", 1)
    assert [entry.get("restore_points") for entry in site.switches()[-3:]] == [POINTS, None, None]
    assert ", restore point 1a2b, restore point 3c4d" in lines(read(site, {}), "c", site.switches()[-3:])[-3]


def test_restore_points_are_those_since_the_release_was_live(site):
    for release, point in zip("cd", POINTS, strict=True):
        site.add_restore_point(release, point)
    site.record_switch("c", "d", "ana", 1)
    assert site.restore_points("d") == []
    site.record_switch("d", "e", "ana", 1)
    assert site.restore_points("d") == POINTS[1:]
    assert site.restore_points("c") == POINTS
    assert site.restore_points("b") == []
    # It is live again, and was left for a release that the database was not migrated for.
    site.record_switch("e", "c", "ana", 1)
    assert site.restore_points("c") == POINTS
    site.record_switch("c", "e", "ana", 1)
    assert site.restore_points("c") == []


def test_list_has_live_previous_and_bad_releases_and_switches(site):
    said = lines(read(site, {}), "c", site.switches()[::-1])
    assert said[:4] == ["d  vd  live", "c  vc  the one before", "b  vb  bad: health: answers 500", "a  va"]
    assert said[4:6] == ["switches:", "now  ana  c -> d  vd  in 4.2 s"]


def test_list_of_a_site_without_releases_has_a_message(tmp_path):
    site = Site(str(tmp_path))
    assert lines(read(site, {}), "", []) == ["there is no release yet"]


def test_lock_counts_only_while_a_process_holds_it(tmp_path):
    path = tmp_path / "lock"
    assert not is_held(path)
    assert holder(path) == {}
    path.write_text('{"run": "one", "who": "ana@laptop", "process": 1}')
    assert holder(path) == {}
    assert not is_held(path)
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert is_held(path)
    assert not is_held(path)
