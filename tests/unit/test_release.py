"""Packing a source, reading what it requires, and what a release is known by."""

from __future__ import annotations

import errno
import gzip
import io
import itertools
import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from ansible.errors import AnsibleActionFail
from ansible.module_utils.testing import patch_module_args
from ansible.plugins.action import ActionBase
from ansible_collections.django_vps.stack.plugins.action.release import ActionModule
from ansible_collections.django_vps.stack.plugins.module_utils import build as build_module
from ansible_collections.django_vps.stack.plugins.module_utils import (
    disk_space,
    packages,
    project_scripts,
    sandbox,
    settings_check,
    shared_folders,
    static_files,
    uv,
)
from ansible_collections.django_vps.stack.plugins.module_utils import site as site_utils
from ansible_collections.django_vps.stack.plugins.module_utils.advice import find_advice
from ansible_collections.django_vps.stack.plugins.module_utils.assets import list_hashed_assets
from ansible_collections.django_vps.stack.plugins.module_utils.build import Build, remove_incomplete_releases
from ansible_collections.django_vps.stack.plugins.module_utils.commands import run
from ansible_collections.django_vps.stack.plugins.module_utils.disk_space import require_space
from ansible_collections.django_vps.stack.plugins.module_utils.errors import StepError
from ansible_collections.django_vps.stack.plugins.module_utils.file_system import replace_link, write_file
from ansible_collections.django_vps.stack.plugins.module_utils.locks import lock_site
from ansible_collections.django_vps.stack.plugins.module_utils.mounts import is_shared
from ansible_collections.django_vps.stack.plugins.module_utils.output import explain
from ansible_collections.django_vps.stack.plugins.module_utils.packages import Packages
from ansible_collections.django_vps.stack.plugins.module_utils.project_shell import compose_program, parse_answers
from ansible_collections.django_vps.stack.plugins.module_utils.release_identity import compute_fingerprint, next_id
from ansible_collections.django_vps.stack.plugins.module_utils.requirements import (
    find_requirements,
    is_package,
    read_inputs,
    requirements_of,
)
from ansible_collections.django_vps.stack.plugins.module_utils.settings_check import Settings
from ansible_collections.django_vps.stack.plugins.module_utils.shared_folders import link_shared_paths, move_media
from ansible_collections.django_vps.stack.plugins.module_utils.site import MARKER, Site
from ansible_collections.django_vps.stack.plugins.modules import release
from ansible_collections.django_vps.stack.plugins.plugin_utils.private_files import shorten
from ansible_collections.django_vps.stack.plugins.plugin_utils.source import pack, untranslated


def packed(path, files=None):
    archive = io.BytesIO()
    digest = pack(path, archive, files or {}, []).digest
    archive.seek(0)
    with tarfile.open(fileobj=archive) as tar:
        return digest, {member.name: member for member in tar}


def write(top, *names, content=""):
    for name in names:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(content)


def nest(top: Path, folders: int) -> None:
    """So many of them, one in the other; by their whole path nobody comes to the last ones."""
    script = f"import os\nfor _ in range({folders}):\n    os.mkdir('deep')\n    os.chdir('deep')\n"
    subprocess.run([sys.executable, "-c", script], cwd=top, check=True)


def in_git(top, *argvs):
    for argv in argvs:
        subprocess.run(["git", "-c", "user.name=x", "-c", "user.email=x@x", *argv.split()], cwd=top, check=True)


@pytest.fixture
def project(tmp_path):
    top = tmp_path / "project"
    (top / "shop").mkdir(parents=True)
    (top / "manage.py").write_text("#!/usr/bin/env python\n")
    (top / "manage.py").chmod(0o755)
    (top / "shop/settings.py").write_text("DEBUG = False\n")
    return top


def test_digest_does_not_depend_on_file_times(project):
    before, names = packed(project)
    os.utime(project / "manage.py", (0, 0))
    assert packed(project)[0] == before
    assert sorted(names) == ["manage.py", "shop/settings.py"]
    assert names["manage.py"].mode == 0o755


@pytest.mark.parametrize("change", ["content", "mode", "name"])
def test_another_content_mode_or_name_is_another_source(project, change):
    before = packed(project)[0]
    if change == "content":
        (project / "shop/settings.py").write_text("DEBUG = True_\n")
    elif change == "mode":
        (project / "manage.py").chmod(0o644)
    else:
        (project / "shop/settings.py").rename(project / "shop/base.py")
    assert packed(project)[0] != before


def test_clutter_in_a_folder_without_git_is_not_packed(project):
    for name in (".venv/bin/python", "shop/__pycache__/x.pyc", "node_modules/a.js", "db.sqlite3"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text("")
    assert sorted(packed(project)[1]) == ["manage.py", "shop/settings.py"]


def test_virtual_environment_of_any_name_is_not_packed(project):
    (project / "env/bin").mkdir(parents=True)
    (project / "env/pyvenv.cfg").write_text("")
    (project / "env/bin/python").symlink_to("/usr/bin/python3")
    assert sorted(packed(project)[1]) == ["manage.py", "shop/settings.py"]


def test_unreadable_git_work_tree_is_not_packed(project):
    (project / ".git").write_text("gitdir: nowhere\n")
    with pytest.raises(ValueError, match="repository"):
        packed(project)


def test_git_work_tree_is_packed_without_ignored_files(project):
    (project / ".gitignore").write_text("*.log\n")
    (project / "debug.log").write_text("")
    (project / "new.py").write_text("")
    subprocess.run(["git", "init", "-q", project], check=True)
    assert sorted(packed(project)[1]) == [".gitignore", "manage.py", "new.py", "shop/settings.py"]


def test_a_submodule_that_is_not_checked_out_is_named(project):
    for argv in (["init", "--quiet"], ["add", "--all"]):
        subprocess.run(["git", *argv], cwd=project, check=True)
    gitlink = ["update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},theme"]
    subprocess.run(["git", *gitlink], cwd=project, check=True)
    (project / "theme").mkdir()
    with pytest.raises(ValueError, match="submodule theme is not checked out"):
        packed(project)


def archived(top: Path, path: Path, arcname: str = "shop-1.2") -> Path:
    with tarfile.open(path, "w:gz") as tar:
        tar.add(top, arcname=arcname)
    return path


@pytest.mark.parametrize("packed_by_hand", [False, True])
def test_empty_submodule_outside_of_git_is_refused(project, tmp_path, packed_by_hand):
    write(project, ".gitmodules", content='[submodule "theme"]\n\tpath = lib/theme\n\turl = ../theme.git\n')
    (project / "lib/theme").mkdir(parents=True)
    with pytest.raises(ValueError, match="the submodule lib/theme is empty, as in archives of forges"):
        packed(archived(project, tmp_path / "source.tar.gz") if packed_by_hand else project)
    write(project, "lib/theme/base.css")
    assert "lib/theme/base.css" in packed(archived(project, tmp_path / "b.tar.gz") if packed_by_hand else project)[1]


@pytest.mark.parametrize("packed_by_hand", [False, True])
def test_submodule_that_is_left_out_is_accepted(project, tmp_path, packed_by_hand):
    write(project, ".gitmodules", content='[submodule "docs"]\n\tpath = docs\n')
    assert ".gitmodules" in packed(archived(project, tmp_path / "a.tar.gz") if packed_by_hand else project)[1]


def test_archive_has_the_digest_of_its_folder(project, tmp_path):
    for prefix in ("", "project-1.0/"):
        path = tmp_path / "source.tar.gz"
        with tarfile.open(path, "w:gz") as tar:
            for name in ("manage.py", "shop/settings.py"):
                tar.add(project / name, arcname=prefix + name)
        assert packed(path)[0] == packed(project)[0]


def test_inventory_files_replace_those_of_the_source(project):
    before, _ = packed(project)
    digest, names = packed(project, {"shop/settings.py": "SECRET = 'geheim'\n", "new.json": "{}"})
    assert {"manage.py", "shop/settings.py", "new.json"} == names.keys()
    assert names["shop/settings.py"].size == len("SECRET = 'geheim'\n")
    assert digest != before
    assert packed(project, {"shop/settings.py": "SECRET = 'other!'\n", "new.json": "{}"})[0] != digest


def test_a_file_of_the_inventory_behind_a_link_is_refused(project):
    (project / "conf").symlink_to("shop")
    with pytest.raises(ValueError, match="conf is a link"):
        packed(project, {"conf/local.py": ""})


def test_a_file_that_git_lfs_has_not_fetched_is_named(project):
    (project / "shop/logo.png").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    with pytest.raises(ValueError, match=r"shop/logo\.png: .* git lfs pull"):
        packed(project)


@pytest.mark.parametrize("repository", ["", ".", ".."])
def test_git_is_needed_only_for_a_work_tree(project, monkeypatch, repository):
    monkeypatch.setenv("PATH", "/nowhere")
    if not repository:
        assert sorted(packed(project)[1]) == ["manage.py", "shop/settings.py"]
        return
    (project / repository / ".git").mkdir()
    with pytest.raises(ValueError, match="is not installed on this machine"):
        packed(project)


SECRETS = [
    *(".env", ".env.production", "deploy/prod.env", ".envrc", ".ssh/config", "keys/id_ed25519", ".git-credentials"),
    *(
        ".netrc",
        "shop/secrets.json",
        "db/shop.dump",
        "db/2026.sql.gz",
        "db_backup.sql",
        "shop.sqlite3",
        ".npmrc",
        "gcp/credentials.json",
        ".docker/config.json",
        ".vault_pass",
        ".aws/credentials",
    ),
]
HARMLESS = [
    *(".env.example", "shop/env.py", "prod.env.sample", "shop/sql/view.sql", "keys/id_ed25519.pub", "ca.pem"),
    *("shop/secrets.py", "shop/dump.py", "environment.yml", ".docker/Dockerfile", "theme/config.json", "cello.key"),
]


@pytest.mark.parametrize("git", [False, True])
def test_secrets_and_dumps_are_reported_and_not_packed(project, git):
    write(project, *SECRETS, *HARMLESS)
    write(project, "server.pem", content="-----BEGIN EC PRIVATE KEY-----\n")
    (project / "server.key").write_bytes(b"\x30\x82\x04\xa4")
    write(project, "data/old", content="PGDMP")
    write(project, "data/new", content="--\n-- PostgreSQL database cluster dump\n--\n")
    write(project, "data/mysql", content="/*M!999999\\- enable the sandbox mode */ \n-- MariaDB dump 10.19\n")
    if git:
        in_git(project, "init -q", "add manage.py")
    done = pack(project, io.BytesIO(), {}, [])
    assert done.kept_back == sorted([*SECRETS, "server.pem", "server.key", "data/mysql", "data/new", "data/old"])
    assert sorted(done.names) == sorted([*HARMLESS, "manage.py", "shop/settings.py"])


def test_file_names_are_shown_without_control_characters(project, monkeypatch):
    said = []
    monkeypatch.setattr(ActionBase, "run", lambda *_: {})
    action = object.__new__(ActionModule)
    action._task = SimpleNamespace(args={"source": str(project)}, check_mode=False)
    action._loader = SimpleNamespace(path_dwim=str)
    action._execute_module = lambda *_, **__: {"changed": True}
    action._display = SimpleNamespace(warning=said.append)
    write(project, "\x1b[2Jprod.env", "\x9b1mshop/locale/de/LC_MESSAGES/django.po")
    action.run()
    assert len(said) == 2
    write(project, "\x1b[2Jlogo.png", content="version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1\n")
    with pytest.raises(AnsibleActionFail, match=r"logo\.png: .* git lfs pull") as failed:
        action.run()
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", "".join([*said, str(failed.value)]))


def test_committed_and_included_secrets_are_packed(project):
    write(project, *SECRETS)
    done = pack(project, io.BytesIO(), {}, ["deploy/*", ".env"])
    assert {".env", "deploy/prod.env"} < set(done.names)
    assert ".env.production" in done.kept_back
    with pytest.raises(ValueError, match=r"nothing in it fits nowhere/\*, of django_source_includes"):
        pack(project, io.BytesIO(), {}, ["nowhere/*"])
    in_git(project, "init -q", "add .", "commit -qm x")
    done = pack(project, io.BytesIO(), {}, [])
    assert done.kept_back == []
    assert set(SECRETS) < set(done.names)


@pytest.mark.parametrize("arcname", [".", "shop-1.2"])
def test_archive_made_by_hand_is_packed_like_a_folder(project, tmp_path, arcname):
    write(project, *SECRETS, *HARMLESS, ".venv/bin/activate", "env/pyvenv.cfg", "env/bin/activate", "shop/urls.pyc")
    write(project, "server.pem", content="-----BEGIN EC PRIVATE KEY-----\n")
    in_git(project, "init -q", "add .", "commit -qm x")
    done = pack(archived(project, tmp_path / "a.tar.gz", arcname), io.BytesIO(), {}, [".env", "env/bin/*"])
    assert done.kept_back == sorted({*SECRETS, "server.pem"} - {".env"})
    assert done.names == sorted([*HARMLESS, "manage.py", "shop/settings.py", ".env", "env/bin/activate"])
    with pytest.raises(ValueError, match=r"nothing in it fits nowhere/\*, of django_source_includes"):
        pack(tmp_path / "a.tar.gz", io.BytesIO(), {}, ["nowhere/*"])


def test_archive_made_by_git_is_packed_completely(project, tmp_path):
    write(project, *SECRETS, "db.sqlite3", ".idea/shop.iml")
    in_git(project, "init -q", "add .", "commit -qm x", f"archive --prefix=a/ -o {tmp_path}/a.tar.gz HEAD")
    # The inventory lists what a folder needs; git has no more than this.
    done = pack(tmp_path / "a.tar.gz", io.BytesIO(), {}, ["nowhere/*"])
    assert done.kept_back == []
    assert done.names == sorted([*SECRETS, "db.sqlite3", ".idea/shop.iml", "manage.py", "shop/settings.py"])


def test_untracked_caches_in_git_are_named_and_not_packed(project):
    tracked = ["node_modules/own.js", "shop/fixture.sqlite3"]
    write(project, *tracked)
    in_git(project, "init -q", "add .", "commit -qm x")
    write(project, "web/node_modules/a/b.js", "db.sqlite3", "test.sqlite3", "shop/urls.pyc", "env/pyvenv.cfg")
    write(project, "shop/__pycache__/a.pyc", "tests/__pycache__/b.pyc", ".venv/pyvenv.cfg", ".env", "new.py")
    for name in (".venv", "env"):
        write(project, f"{name}/lib/secrets.json", f"{name}/lib/a.py")
        (project / name / "bin").mkdir()
        (project / name / "bin/python").symlink_to("/usr/bin/python3")
    done = pack(project, io.BytesIO(), {}, ["env/lib/*.py"])
    caches = ["*.pyc", ".venv", "db.sqlite3", "env", "shop/__pycache__", "web/node_modules"]
    assert done.kept_back == [".env", "test.sqlite3", *caches]
    assert done.names == sorted([*tracked, "manage.py", "shop/settings.py", "new.py", "env/lib/a.py"])


def test_long_list_of_names_ends_with_their_number():
    assert shorten(["a", "b"], 2) == "a, b"
    assert shorten([f".env.{number}" for number in range(13)]).endswith(".env.8, .env.9 and 3 more")


def test_included_files_are_packed_though_git_ignores_them(project):
    write(project, ".gitignore", content=".env\nbuild/\n")
    write(project, ".env", "build/app.css", "build/app.js")
    in_git(project, "init -q", "add .")
    names = pack(project, io.BytesIO(), {}, [".env", "build/*.css"]).names
    assert names == [".env", ".gitignore", "build/app.css", "manage.py", "shop/settings.py"]


@pytest.mark.parametrize("git", [False, True])
def test_export_ignored_files_are_not_packed(project, git):
    write(project, "docs/a/b.md", "tests/test_shop.py", "shop/data/large.bin", "shop/data/small.txt")
    write(project, ".gitattributes", content="docs export-ignore\n/tests/ export-ignore\n*.txt text\n")
    write(project, "shop/.gitattributes", content="*.bin export-ignore\n*.txt -export-ignore\n")
    if git:
        in_git(project, "init -q")
    names = set(pack(project, io.BytesIO(), {}, []).names)
    assert names == {*("manage.py", "shop/settings.py", "shop/data/small.txt", ".gitattributes", "shop/.gitattributes")}


def test_git_starts_no_program_that_the_source_names(project):
    trap = project.parent / "trap"
    trap.write_text(f"#!/bin/sh\ntouch {project.parent}/sprung\n")
    trap.chmod(0o755)
    write(project, ".gitattributes", content="* filter=trap export-ignore\nmanage.py -export-ignore\n")
    write(project, ".gitignore", content="*.log\n")
    in_git(project, "init -q", "add .", "commit -qm x")
    (project / ".git/hooks").mkdir(exist_ok=True)
    for hook in ("post-index-change", "query-watchman", "pre-auto-gc"):
        (project / ".git/hooks" / hook).symlink_to(trap)
    for name in ("core.fsmonitor", "filter.trap.clean", "filter.trap.smudge", "core.sshCommand", "core.pager"):
        in_git(project, f"config {name} {trap}")
    in_git(project, "config remote.origin.url ssh://x/y", f"config remote.origin.uploadpack {trap}")
    in_git(project, "config remote.origin.promisor true", "config extensions.partialClone origin")
    # What git would fetch again.
    in_git(project, "update-index --skip-worktree .gitignore")
    (project / ".gitignore").unlink()
    for path in (project / ".git/objects").rglob("*"):
        if path.is_file():
            path.unlink()
    (project.parent / "sprung").unlink(missing_ok=True)
    assert "manage.py" in pack(project, io.BytesIO(), {}, []).names
    assert not (project.parent / "sprung").exists()


def test_uncompiled_translations_are_reported():
    names = ["a/locale/de/LC_MESSAGES/django.po", "locale/fr/LC_MESSAGES/django.po", "locale/fr/LC_MESSAGES/django.mo"]
    assert untranslated(names, []) == names[:1]
    assert untranslated(names, ["make css"]) == names[:1]
    assert untranslated(names, ["python manage.py compilemessages -l de"]) == []


def test_archive_with_a_path_outside_itself_is_refused(tmp_path):
    path = tmp_path / "source.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("../../etc/cron.d/x"))
    with pytest.raises(ValueError, match="leads out"):
        packed(path)


def in_archive(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(b"x" * member.size))
    return path


def test_archive_with_a_dangling_link_is_refused(tmp_path):
    link = tarfile.TarInfo("settings.py")
    link.type, link.linkname = tarfile.LNKTYPE, "gone.py"
    with pytest.raises(ValueError, match=r"settings\.py is a link to gone\.py, which is no file of it"):
        packed(in_archive(tmp_path / "source.tar.gz", link))


def test_a_name_that_is_not_utf_8_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"'caf\\udce9', or what it links to, is not in UTF-8"):
        packed(in_archive(tmp_path / "source.tar.gz", tarfile.TarInfo(os.fsdecode(b"caf\xe9"))))


def test_oversized_source_is_refused_before_it_is_read(project, tmp_path):
    with (project / "rows.db").open("wb") as file:
        file.truncate(3 << 30)
    with pytest.raises(ValueError, match=r"more than 1024 MiB of files.*rows.db with 3072 MiB"):
        packed(project)
    # Of an archive the header says it.
    member = tarfile.TarInfo("rows.db")
    member.size = 3 << 30
    with gzip.open(tmp_path / "source.tar.gz", "wb") as file:
        file.write(member.tobuf())
    with pytest.raises(ValueError, match=r"rows.db with 3072 MiB"):
        packed(tmp_path / "source.tar.gz")


@pytest.mark.parametrize("target", ["/etc/passwd", "../secret", "deep/up/../secret", "deep/up/..", "link"])
def test_a_link_that_leads_out_of_the_source_is_refused(project, target):
    (project / "deep").mkdir()
    (project / "deep/up").symlink_to("..")
    (project / "link").symlink_to(target)
    with pytest.raises(ValueError, match="the link link leads out"):
        packed(project)


def test_chained_link_inside_the_source_is_packed(project):
    (project / "assets/v1").mkdir(parents=True)
    (project / "assets/v1/a.css").touch()
    (project / "assets/current").symlink_to("v1")
    (project / "style.css").symlink_to("assets/current/../current/a.css")
    packed(project)


def test_a_missing_or_empty_source_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        packed(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="empty"):
        packed(tmp_path)


def test_requested_file_then_lock_files_come_before_others(tmp_path):
    for name in ("requirements.txt", "poetry.lock", "Pipfile.lock"):
        (tmp_path / name).write_text("")
    assert find_requirements(tmp_path, tmp_path, "").name == "poetry.lock"
    assert find_requirements(tmp_path, tmp_path, "requirements.txt").name == "requirements.txt"
    with pytest.raises(StepError, match=r"no prod\.txt"):
        find_requirements(tmp_path, tmp_path, "prod.txt")


def test_pyproject_with_tool_settings_only_does_not_count(tmp_path):
    (tmp_path / "pyproject.toml").write_text("[tool.ruff]\n")
    with pytest.raises(StepError, match=r"no uv\.lock"):
        find_requirements(tmp_path, tmp_path, "")


def test_pipfile_lock_gives_requirements_with_markers_and_hashes(tmp_path):
    lock = {
        "default": {
            "django": {"version": "==5.2.1", "hashes": ["sha256:b", "sha256:a"], "markers": "python_version >= '3.10'"},
            "psycopg": {"version": "==3.2.6", "extras": ["binary"]},
            "own": {"git": "https://git.example.org/own.git", "ref": "abc"},
        },
        "develop": {"pytest": {"version": "==8.0"}},
    }
    (tmp_path / "Pipfile.lock").write_text(json.dumps(lock))
    assert requirements_of(tmp_path / "Pipfile.lock") == (
        "django==5.2.1 ; python_version >= '3.10' \\\n    --hash=sha256:a \\\n    --hash=sha256:b\n"
        "psycopg[binary]==3.2.6\n"
        "own @ git+https://git.example.org/own.git@abc\n"
    )


def test_the_main_group_of_a_poetry_lock_becomes_requirements(tmp_path):
    (tmp_path / "poetry.lock").write_text(
        """
[[package]]
name = "django"
version = "5.2.1"
optional = false
groups = ["main"]
files = [{file = "django.whl", hash = "sha256:aa"}]

[[package]]
name = "tzdata"
version = "2025.1"
optional = false
groups = ["main"]
markers = "sys_platform == 'win32'"
files = []

[[package]]
name = "pytest"
version = "8.0"
optional = false
groups = ["dev"]
files = []
"""
    )
    assert requirements_of(tmp_path / "poetry.lock") == (
        "django==5.2.1 \\\n    --hash=sha256:aa\ntzdata==2025.1 ; sys_platform == 'win32'\n"
    )


def test_a_lock_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "poetry.lock").write_text("<<<<<<< HEAD\n")
    with pytest.raises(StepError, match=r"poetry\.lock cannot be read"):
        requirements_of(tmp_path / "poetry.lock")


def test_project_with_src_or_dynamic_dependencies_is_a_package(tmp_path):
    path = tmp_path / "pyproject.toml"
    path.write_text('[project]\nname = "shop"\ndependencies = ["django"]\n[build-system]\nrequires = []\n')
    assert not is_package(path)
    (tmp_path / "src").mkdir()
    assert is_package(path)
    (tmp_path / "src").rmdir()
    path.write_text('[project]\nname = "shop"\ndynamic = ["dependencies"]\n[build-system]\nrequires = []\n')
    assert is_package(path)


def test_hashed_assets_are_plain_files_in_the_static_folder(tmp_path):
    static = tmp_path / "static"
    static.mkdir()
    (static / "site.0123456789ab.css").write_text("")
    (static / "site.0123456789ab.css.br").write_text("")
    (tmp_path / "secret").write_text("")
    names = ["site.0123456789ab.css", "../secret", "/etc/passwd", "gone.css", 7]
    (static / "staticfiles.json").write_text(json.dumps({"paths": {str(key): key for key in names}}))
    assert list_hashed_assets(static) == ["site.0123456789ab.css", "site.0123456789ab.css.br"]


def test_requirements_file_is_left_to_the_installer(tmp_path):
    assert requirements_of(tmp_path / "requirements.txt") is None


OPTIONS = {
    **dict.fromkeys(("digest", "user", "python", "installer", "requirements", "packages", "subdirectory"), "x"),
    **dict.fromkeys(("settings_module", "application", "static_url", "media_url", "media", "environment"), "x"),
    **dict.fromkeys(("groups", "extras", "extra_packages", "build_environment", "git_key", "shared_paths"), "x"),
    **dict.fromkeys(("before_collectstatic", "after_collectstatic", "collectstatic", "after_migrate"), "x"),
    "check_level": "ERROR",
    "copies": [],
    "depends_on": [],
}


@pytest.mark.parametrize("changed", ["secret_key_file", "depends_on"])
def test_fingerprint_changes_with_secret_key_and_dependencies(tmp_path, changed):
    paths = {name: tmp_path / name for name in ("secret_key_file", "depends_on")}
    for path in paths.values():
        path.write_text("before")
    options = {**OPTIONS, "secret_key_file": str(paths["secret_key_file"]), "depends_on": [str(paths["depends_on"])]}
    before = compute_fingerprint(options)
    assert compute_fingerprint(options) == before
    assert compute_fingerprint({**options, "environment": "y"}) != before
    assert compute_fingerprint({**options, "check_level": "WARNING"}) != before
    paths[changed].write_text("after")
    assert compute_fingerprint(options) != before


def test_release_without_its_marker_is_incomplete(tmp_path):
    site = Site(str(tmp_path))
    for name in ("a", "b"):
        (site.releases / name).mkdir(parents=True)
    write_file(site.releases / "b/release.json", "{}")
    replace_link(site.current, "releases/b")
    assert site.complete_releases() == ["b"]
    assert site.live == "b"


CONTROLLED = [
    ("\x1b[31mred\x1b[0m and \x1b[2J\x1b[1;1Hgone", "red and gone"),
    ("\x1b]0;title\x07a\x1b]8;;https://evil.example\x1b\\link\x1b]8;;\x1b\\", "alink"),
    ("\x1b]0;no end", ""),
    ("\x1bc\x1b(Ba\x1bPq#1\x1b\\b\x9b31mc\x9d0;t\x9cd", "abcd"),
    ("10%\x0b20%\x08\x7f\x00", "10%20%"),
    ("ab\u202ecd\u2066e", "abcde"),
    ("tab\tand\nline, ünïcode \U0001f600", "tab\tand\nline, ünïcode \U0001f600"),
]


@pytest.mark.parametrize(("said", "shown"), CONTROLLED)
def test_terminal_control_sequences_are_removed(said, shown):
    program = f"import sys; sys.stdout.buffer.write({said.encode()!r}); sys.exit(3)"
    with pytest.raises(StepError) as told:
        run("build", [sys.executable, "-c", program])
    assert str(told.value) == f"build: {shown.strip() or 'exit status 3'}\nMore: docs/troubleshooting.md#build"
    assert str(StepError("a", f"x{said}", f"x{said}", details=f"x{said}")) == "\n".join(
        (f"a: x{shown}".rstrip(), f"x{shown}", f"x{shown}", "More: docs/troubleshooting.md#a")
    )
    assert parse_answers(f"DJANGO_VPS {json.dumps({'a': [{'b': said}]})}") == {"a": [{"b": shown}]}


def test_two_steps_do_not_work_at_once(tmp_path):
    with lock_site(tmp_path), pytest.raises(StepError, match="still works"), lock_site(tmp_path, timeout_seconds=0):
        pass
    with lock_site(tmp_path, timeout_seconds=0):
        # Anybody who can open it can lock it.
        assert (tmp_path / ".lock").stat().st_mode & 0o777 == 0o600


@pytest.fixture
def site(tmp_path):
    """A site with releases a, b, c and what was switched to after what; "!" marks a bad one."""

    def make(releases: str, *switches: str) -> Site:
        made = Site(str(tmp_path))
        for name in releases.replace("!", ""):
            (made.releases / name).mkdir(parents=True)
            facts = {"bad": "health: 500"} if f"{name}!" in releases else {}
            write_file(made.releases / name / "release.json", json.dumps(facts))
        lines = [{"from": switch[:-1], "to": switch[-1]} for switch in switches]
        made.journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return made

    return make


@pytest.mark.parametrize(
    ("releases", "switches", "live", "before"),
    [
        ("a", ("a",), "a", None),
        ("abc", ("a", "ab", "bc"), "c", "b"),
        # From where a rollback led, the next one leads further back.
        ("abc", ("a", "ab", "bc", "cb"), "b", "a"),
        ("abc", ("a", "ab", "bc", "cb", "ba"), "a", None),
        # What was gone back from does not become the one before.
        ("abc", ("a", "ab", "ba", "ac"), "c", "a"),
        ("ab!c", ("a", "ab", "bc"), "c", "a"),
        ("ac", ("a", "ab", "bc"), "c", "a"),
        ("ab", (), "b", None),
    ],
)
def test_previous_release_is_the_last_good_live_release(site, releases, switches, live, before):
    assert site(releases, *switches).previous(live) == before


def test_note_about_a_release_keeps_its_other_facts(site):
    made = site("a")
    made.note("a", version="1")
    made.note("a", bad="start")
    assert made.facts("a") == {"version": "1", "bad": "start"}


def test_a_clock_that_was_set_back_makes_no_older_release(tmp_path):
    site = Site(str(tmp_path))
    (site.releases / "29991231T235959Z").mkdir(parents=True)
    assert next_id(site) == "30000101T000000Z"


def test_changed_included_requirements_change_the_packages(tmp_path):
    path = tmp_path / "requirements.txt"
    path.write_text("-r base.txt\nshop==1\n")
    (tmp_path / "base.txt").write_text("django==5.2\n")
    before = read_inputs(path)
    (tmp_path / "base.txt").write_text("django==5.3\n")
    assert before
    assert read_inputs(path) != before


@pytest.mark.parametrize(
    "line",
    [
        *("-e .", "./wheels/shop.whl", "shop @ file:///srv/shop", "-r gone.txt", "-r requirements.txt"),
        *("git+https://git.example.org/shop.git@main", "shop @ git+ssh://git@git.example.org/shop", "shop-1.tar.gz"),
    ],
)
def test_unpinned_requirements_are_installed_again(tmp_path, line):
    (tmp_path / "requirements.txt").write_text(f"django==5.2\n{line}\n")
    assert read_inputs(tmp_path / "requirements.txt") is None


@pytest.mark.parametrize("line", [f"shop @ git+https://git.example.org/shop.git@{'a' * 40}", "django==5.2 # ./comment"])
def test_pinned_requirements_are_not_installed_again(tmp_path, line):
    (tmp_path / "requirements.txt").write_text(f"{line}\n")
    assert read_inputs(tmp_path / "requirements.txt")


@pytest.mark.parametrize(
    ("free", "wanted"),
    [(10 << 20, "10 MB free, and 100 MB are needed"), (150 << 20, "150 MB free, and 200 MB"), (300 << 20, "")],
)
def test_a_disk_without_room_for_two_releases_stops_the_build(site, monkeypatch, free, wanted):
    made = site("a")
    if free > 20 << 20:
        made.note("a", bytes=100 << 20, files=10)
    disk = SimpleNamespace(f_bavail=free, f_frsize=1, f_files=100000, f_favail=90000)
    monkeypatch.setattr(disk_space.os, "statvfs", lambda path: disk)
    if wanted:
        with pytest.raises(StepError, match=wanted):
            require_space(made)
    else:
        require_space(made)


def test_build_stops_without_inodes_if_the_disk_counts_them(site, monkeypatch):
    disk = SimpleNamespace(f_bavail=1 << 40, f_frsize=1, f_files=100000, f_favail=12)
    monkeypatch.setattr(disk_space.os, "statvfs", lambda path: disk)
    with pytest.raises(StepError, match="12 inodes free"):
        require_space(site("a"))
    disk.f_files = 0
    require_space(site(""))


def test_answers_are_separated_from_output_of_the_project():
    said = 'hello\n\nDJANGO_VPS {"step": "check", "a": 1}\nnoise DJANGO_VPS {"a": 9}\n\nDJANGO_VPS {"a": 2}\n'
    assert parse_answers(said) == {"step": "check", "a": 2}


FINE = {
    "module": "shop.settings",
    "debug": False,
    "key": "",
    "weak_key": False,
    "answers": True,
    "hosts": ["shop.example.com"],
    "sqlite": [],
    "parts": {"PGHOST": "/run/postgresql", "PGDATABASE": "shop", "PGUSER": "me"},
    "collects": True,
    "static_url": "static/",
    "static_root": "",
    "media_url": "/media/",
    "media_root": "",
    "stored": {},
    "storages": {},
    "scratch": {},
    "others": [],
    "kept": [],
    "pooler": {"breaks": [], "useless": []},
}


def settings(build, **facts) -> Settings:
    return Settings(
        {**FINE, **facts}, build.options, build.code, build.project, build.static, build.site.home / "shared"
    )


@pytest.fixture
def build(tmp_path):
    """A build of which nothing is there but its folders."""
    made = object.__new__(Build)
    made.path = tmp_path / "releases/a"
    made.code, made.static = made.path / "code", made.path / "static"
    made.code.mkdir(parents=True)
    made.site = Site(str(tmp_path))
    made.options = {
        "host": "shop.example.com",
        "static_url": "/static/",
        "media_url": "/media/",
        "media": str(tmp_path / "media"),
        "collectstatic": True,
        "several": False,
        "shared_paths": [],
        "user": "me",
    }
    made.moved = []
    made.project = made.code
    made.run_sandboxed = lambda step, *argv, **_: made.moved.append((step, *argv[-2:]))
    return made


@pytest.mark.parametrize(
    ("facts", "finding"),
    [
        ({"debug": True}, "DEBUG is on"),
        ({"key": "ab", "weak_key": True}, "one that can be guessed"),
        ({"key": "ab", "weak_key": True, "changing_key": True}, "SECRET_KEY is another one at each start"),
        ({"sqlite": ["/tmp/db.sqlite3"]}, "SQLite in /tmp/db.sqlite3"),
        ({"sqlite": ["/tmp/db.sqlite3"]}, "host /run/postgresql, name shop, user me, password and port empty"),
        ({"answers": False, "hosts": []}, "ALLOWED_HOSTS is [], without shop.example.com"),
    ],
)
def test_settings_that_would_harm_are_refused(build, facts, finding):
    assert list(settings(build).unsafe()) == []
    assert settings(build).advice == ""
    [found] = settings(build, **facts).unsafe()
    assert "django_files (docs/project.md#" in settings(build, **facts).advice
    assert found.startswith(finding) or finding in found


@pytest.mark.parametrize(
    ("key", "finding", "warning"),
    [
        ("os.environ['SECRET_KEY']", "", ""),
        ("get_random_secret_key()", "SECRET_KEY is another one at each start", ""),
        ("'django-insecure-k$7d0x9q+5w(zr@8c^n3v!m2b=t6y_l4h1g&f)s#ajpeiu'", "and one that can be guessed", ""),
        (f"'{'k$7d0x9q' * 8}'", "", "shop does not use the SECRET_KEY of its environment"),
    ],
)
def test_weak_or_changing_secret_key_of_a_project_is_found(build, tmp_path, key, finding, warning):
    write(
        tmp_path,
        "shop.py",
        content=(
            "import os\nfrom django.core.management.utils import get_random_secret_key\n"
            f"SECRET_KEY = {key}\nALLOWED_HOSTS = ['shop.example.com']\nWSGI_APPLICATION = 'shop.wsgi.application'\n"
        ),
    )
    write(
        tmp_path,
        "manage",
        content=(
            f"#!/bin/sh\nshift 2\ncd {tmp_path}\nexport SECRET_KEY={'of-the-site' * 6} DJANGO_SETTINGS_MODULE=shop\n"
            f'exec {sys.executable} -m django "$@"\n'
        ),
    )
    (tmp_path / "manage").chmod(0o755)
    warnings = []
    build.module, build.release, build.application = SimpleNamespace(warn=warnings.append), "a", ""
    build.generated, build.options = "", {**build.options, "check_level": "ERROR", "environment": ""}
    build.options["manage"] = str(tmp_path / "manage")
    if finding:
        with pytest.raises(StepError, match=finding):
            build._examine()
    else:
        build._examine()
        assert [line for line in warnings if "SECRET_KEY" in line] == ([warning] if warning else [])


def test_persistent_connections_under_asgi_are_a_warning(build):
    applications = ("shop.wsgi:application", "shop.asgi:application")
    [warning] = [
        warning
        for application, databases in itertools.product(applications, ([], ["default"]))
        for warning in settings(build, kept=databases).warnings(application)
    ]
    assert warning.startswith("CONN_MAX_AGE is not 0 for default: under ASGI")


@pytest.mark.parametrize(
    ("database", "breaks", "useless"),
    [
        ({"DISABLE_SERVER_SIDE_CURSORS": True, "CONN_MAX_AGE": 0}, [], []),
        ({"DISABLE_SERVER_SIDE_CURSORS": True, "OPTIONS": {"host": "/run/x", "prepare_threshold": None}}, [], []),
        ({}, ["DISABLE_SERVER_SIDE_CURSORS"], []),
        ({"DISABLE_SERVER_SIDE_CURSORS": True, "OPTIONS": {"prepare_threshold": 0}}, ["prepare_threshold"], []),
        (
            {"DISABLE_SERVER_SIDE_CURSORS": True, "OPTIONS": {"options": "-c x=1", "assume_role": "shop"}},
            ["assume_role", "options"],
            [],
        ),
        (
            {"DISABLE_SERVER_SIDE_CURSORS": True, "CONN_MAX_AGE": None, "OPTIONS": {"pool": True}},
            [],
            ["CONN_MAX_AGE", "pool"],
        ),
    ],
)
def test_settings_that_a_pooler_breaks_are_refused(build, monkeypatch, database, breaks, useless):
    # Without a pooler all of them work.
    monkeypatch.delenv("DISABLE_SERVER_SIDE_CURSORS", raising=False)
    assert project_scripts.settings_for_pooler(database) == {"breaks": [], "useless": []}
    monkeypatch.setenv("DISABLE_SERVER_SIDE_CURSORS", "True")
    found = project_scripts.settings_for_pooler(database)
    assert found == {"breaks": breaks, "useless": useless}
    checked = settings(build, pooler=found)
    assert [line.split()[0] for line in checked.findings() if "behind a pooler" in line] == breaks
    assert [line.split()[0] for line in checked.warnings("shop.wsgi:application")] == useless


@pytest.mark.parametrize(("url", "fine"), [("static/", True), ("/static/", True), ("", True), ("/assets/", False)])
def test_static_url_must_match_the_project(build, url, fine):
    found = settings(build, static_url=url, static_root=str(build.static)).findings()
    assert found == (
        []
        if fine
        else [f"STATIC_URL is {url!r}, but the site serves '/static/'; set site_static_url: {url} and run site.yml"]
    )


def test_media_url_must_match_the_project(build):
    [found] = settings(
        build, static_root=str(build.static), media_url="files/", media_root=build.options["media"]
    ).findings()
    assert found.endswith("but the site serves '/media/'; set site_media_url: /files/ and run site.yml")


def test_static_url_of_another_server_is_not_checked(build):
    assert list(settings(build).wrong_url("STATIC_URL", "https://cdn.example.com/static/", "site_static_url")) == []


@pytest.mark.parametrize(
    ("root", "fine"),
    [("{static}", True), ("{code}/staticfiles", True), ("{code}/../static", True), ("", False), ("/var/www", False)],
)
def test_static_root_must_be_inside_the_release(build, root, fine):
    found = settings(build, static_root=root.format(static=build.static, code=build.code)).static_findings()
    assert (list(found) == []) == fine


@pytest.mark.parametrize("root", ["", "{code}/staticfiles"])
def test_static_files_on_another_server_need_no_folder(build, root):
    facts = {"static_url": "https://cdn.example.com/static/", "static_root": root.format(code=build.code)}
    checked = settings(build, **facts)
    assert list(checked.static_findings()) == []
    assert not checked.serves_static


def test_project_without_collectstatic_needs_its_static_files(build):
    build.options["collectstatic"] = False
    root = build.code / "public"
    [finding] = settings(build, static_root=str(root)).static_findings()
    assert "where nothing is" in finding
    root.mkdir()
    (root / "site.css").touch()
    checked = settings(build, static_root=str(root), collects=False)
    assert list(checked.static_findings()) == []
    assert checked.serves_static
    assert checked.static_root == root


def test_advice_on_sqlite_omits_incomplete_database_parameters(build):
    [finding] = settings(build, sqlite=["/tmp/db.sqlite3"], parts={"PGUSER": "me"}).unsafe()
    assert "django_env" not in finding


def test_site_behind_a_symlink_has_no_findings(build, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    build.path = tmp_path / "link/releases/a"
    build.code, build.static = build.path / "code", build.path / "static"
    build.options["media"] = str(tmp_path / "link/media")
    media = tmp_path / "media"
    checked = settings(build, static_root=str(build.static), media_root=str(media))
    assert [*checked.static_findings(), *checked.media_findings()] == []


def test_static_root_that_leads_outside_is_refused(build, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (build.code / "way").symlink_to(tmp_path / "elsewhere")
    for root in (f"{build.code}/../../../elsewhere", f"{build.code}/way/out"):
        assert list(settings(build, static_root=root).static_findings())


def test_media_root_in_the_source_moves_to_the_shared_folder(build):
    (build.code / "media").mkdir()
    (build.code / "media/.gitkeep").write_text("")
    checked = settings(build, media_root=str(build.code / "media"))
    assert list(checked.media_findings()) == []
    move_media(build, checked.media_inside)
    assert build.moved == [("media", str(build.code / "media"), build.options["media"])]


def test_media_root_with_default_files_copies_them(build):
    (build.code / "media").mkdir()
    (build.code / "media/default.jpg").write_text("")
    checked = settings(build, media_root=str(build.code / "media"))
    assert list(checked.media_findings()) == []
    move_media(build, checked.media_inside)
    shared = build.options["media"]
    assert build.moved == [("media", f"{build.code}/media/.", shared), ("media", str(build.code / "media"), shared)]


@pytest.mark.parametrize("root", ["/var/www/media", "{path}/media"])
def test_unusable_media_root_is_refused(build, root):
    checked = settings(build, media_root=root.format(path=build.path, code=build.code))
    [found] = checked.media_findings()
    assert "MEDIA_ROOT" in found
    assert checked.media_inside is None


@pytest.mark.parametrize(
    ("location", "advice"),
    [
        ("{media}/private", ""),
        ("{home}/shared/private", ""),
        ("{code}/private", "write django_shared_paths: [private]"),
        ("/var/private", "a folder of the source, such as private, and django_shared_paths: [private]"),
    ],
)
def test_files_of_a_custom_storage_need_a_shared_folder(build, tmp_path, location, advice):
    location = location.format(media=build.options["media"], home=tmp_path, code=build.code)
    findings = list(settings(build, stored={"shop.Invoice.pdf": location}).storage_findings())
    assert len(findings) == bool(advice)
    assert all(finding.startswith("shop.Invoice.pdf is kept in") and advice in finding for finding in findings)


@pytest.mark.parametrize(
    ("kind", "name", "folder", "findings"),
    [
        ("storages", "STORAGES['private']", "{code}/private", 1),
        ("storages", "STORAGES['private']", "/tmp/private", 1),
        ("storages", "STORAGES['private']", "{media}/private", 0),
        ("storages", "STORAGES['default']", "{code}", 0),
        ("storages", "STORAGES['staticfiles']", "{code}/public", 0),
        # Files of the source, which the project may read only.
        ("storages", "STORAGES['books']", "{code}/books", 0),
        ("scratch", "CACHES['pages']", "{code}/cache", 1),
        ("scratch", "CACHES['pages']", "/var/cache/shop", 1),
        ("scratch", "CACHES['pages']", "/var/tmp/pages", 0),
        ("scratch", "CACHES['pages']", "/dev/shm/pages", 0),
        ("scratch", "SESSION_FILE_PATH", "{code}/sessions", 1),
        ("scratch", "SESSION_FILE_PATH", "{home}/shared/sessions", 0),
    ],
)
def test_storages_caches_and_sessions_need_writable_folders(build, tmp_path, monkeypatch, kind, name, folder, findings):
    # pytest has its folders in /tmp.
    monkeypatch.setattr(settings_check, "TEMPORARY", settings_check.TEMPORARY[1:])
    write(build.code, "books/1.txt")
    folder = folder.format(media=build.options["media"], home=tmp_path, code=build.code)
    checked = settings(build, static_root=str(build.code / "public"), **{kind: {name: folder}})
    found = checked.findings()
    assert len(found) == findings
    assert all(finding.startswith(f"{name} is kept in {folder}, where the site may not write") for finding in found)
    assert list(checked.warnings("shop.wsgi:application")) == []


def test_caches_need_not_be_shared_by_several_hosts(build):
    build.options["several"] = True
    folders = {"scratch": {"CACHES['a']": "/tmp/a"}, "storages": {"STORAGES['b']": f"{build.options['media']}/b"}}
    [finding] = settings(build, static_root=str(build.static), **folders).findings()
    assert finding.startswith("STORAGES['b'] would be kept on the host that takes it")


def ask_django(call: str, **options) -> list[dict]:
    """Return what a script of the stack answers in a Django process with these settings."""
    setup = (
        f"import django, json\nfrom django.conf import settings\nsettings.configure(**{options!r})\ndjango.setup()\n"
    )
    program = compose_program(project_scripts.examine, f"{setup}answers = []\n{call}\nprint(json.dumps(answers))")
    argv = [sys.executable, "-c", program]
    return json.loads(subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout)


def test_folders_of_storages_caches_and_sessions_are_found(tmp_path):
    in_files = "django.core.files.storage.FileSystemStorage"
    [facts] = ask_django(
        "answers.append(settings_of_release('shop.example.com'))",
        MEDIA_ROOT=str(tmp_path),
        STORAGES={
            "default": {"BACKEND": in_files},
            "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
            "private": {"BACKEND": in_files, "OPTIONS": {"location": "/srv/private"}},
            "memory": {"BACKEND": "django.core.files.storage.InMemoryStorage"},
            "broken": {"BACKEND": "storages.backends.s3.S3Storage"},
        },
        CACHES={
            "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
            "pages": {"BACKEND": "django.core.cache.backends.filebased.FileBasedCache", "LOCATION": "/srv/pages"},
        },
        SESSION_ENGINE="django.contrib.sessions.backends.file",
        SESSION_FILE_PATH="/srv/sessions",
    )
    assert facts["storages"] == {"STORAGES['default']": str(tmp_path), "STORAGES['private']": "/srv/private"}
    assert facts["scratch"] == {"CACHES['pages']": "/srv/pages", "SESSION_FILE_PATH": "/srv/sessions"}


def test_file_field_without_media_root_is_a_warning(build):
    checked = settings(build, media_root="", stored={"shop.Invoice.pdf": str(build.code)})
    assert list(checked.storage_findings()) == []
    [warning] = checked.warnings("shop.wsgi:application")
    assert warning.startswith("MEDIA_ROOT is not set, so nothing can be uploaded to shop.Invoice.pdf")


def test_moved_uploads_of_the_source_need_no_other_folder(build):
    (build.code / "media").symlink_to(build.options["media"])
    media = str(build.code / "media")
    assert list(settings(build, media_root=media, stored={"a.B.c": media}).storage_findings()) == []


@pytest.mark.parametrize("before", ["", "empty", "data/index"])
def test_shared_folder_replaces_only_an_empty_folder(build, tmp_path, monkeypatch, before):
    monkeypatch.setattr(shared_folders.pwd, "getpwnam", lambda name: (name, "x", os.getuid(), os.getgid()))
    build.options["shared_paths"] = ["data/index"]
    if before:
        (build.code / "data/index").mkdir(parents=True)
        (build.code / "data/index" / (".gitkeep" if before == "empty" else "words")).touch()
    if before == "data/index":
        with pytest.raises(StepError, match="data/index holds files of the source"):
            link_shared_paths(build)
        return
    link_shared_paths(build)
    # Again, as for the next release.
    link_shared_paths(build)
    assert build.moved[1:] == [("source", str(build.code / "data/index"), str(tmp_path / "shared/data/index"))]
    assert (tmp_path / "shared/data/index").is_dir()


def test_shared_folder_is_not_made_behind_a_link_of_the_site(build, tmp_path, monkeypatch):
    monkeypatch.setattr(shared_folders.pwd, "getpwnam", lambda name: (name, "x", os.getuid(), os.getgid()))
    (tmp_path / "shared").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "shared/data").symlink_to(tmp_path / "elsewhere")
    build.options["shared_paths"] = ["data/index"]
    with pytest.raises(StepError, match="is the site's own"):
        link_shared_paths(build)
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.fixture
def install(build, monkeypatch):
    """Runs the installation of a build's packages; gives the arguments of each call, and what was written for it."""
    monkeypatch.setattr(packages.shutil, "chown", lambda *_, **__: None)
    monkeypatch.setattr(packages, "install_uv", lambda options: "/uv")
    build.options.update(
        {"installer": "uv", "uv": "uv==1", "requirements": "", "extra_packages": [], "packages": [], "force": False},
        groups=[],
        extras=[],
        fetch_environment={},
        build_environment={},
    )
    build.project, build.venv = build.code, build.path / "venv"
    build.protect = lambda folder: None
    build.written = []

    def run_sandboxed(step, *argv):
        build.moved.append(argv)
        if "-r" in argv:
            path = Path(argv[argv.index("-r") + 1])
            build.written.append((path.stat().st_mode & 0o777, path.read_text()))

    build.run_sandboxed = run_sandboxed

    def calls(installer="uv", **files):
        build.options["installer"] = installer
        for name, text in files.items():
            (build.code / name.replace("__", ".")).write_text(text)
        Packages(build, "/usr/bin/python3").install()
        return [" ".join(argv) for argv in build.moved[1:]]

    return calls


PRIVATE_LOCK = json.dumps(
    {"_meta": {"sources": [{"url": "https://me:word@example.com"}]}, "default": {"a": {"version": "==1"}}}
)


def test_written_requirements_are_private_and_removed(build, install):
    install(Pipfile__lock=PRIVATE_LOCK)
    assert build.written == [(0o640, "--extra-index-url https://me:word@example.com\na==1\n")]
    assert not (build.path / "requirements.txt").exists()


@pytest.mark.parametrize(
    ("installer", "files", "given"),
    [
        ("uv", {"Pipfile__lock": PRIVATE_LOCK}, True),
        ("pip", {"Pipfile__lock": PRIVATE_LOCK}, False),
        ("uv", {"Pipfile__lock": '{"default": {}}'}, False),
        ("uv", {"requirements__txt": "--extra-index-url https://example.com\na\n"}, False),
    ],
)
def test_pinned_packages_come_from_any_index(install, installer, files, given):
    [call] = install(installer, **files)
    assert ("--index-strategy unsafe-best-match" in call) is given


UV_INDEX = '[project]\nname = "a"\ndependencies = ["own"]\n[tool.uv]\nextra-index-url = ["https://example.com"]\n'


def test_indexes_of_uv_are_refused_only_for_pip_alone(build, install):
    assert len(install("uv", pyproject__toml=UV_INDEX)) == 1
    with pytest.raises(StepError, match="extra-index-url where packages come from, and pip does not read it"):
        install("pip")
    build.options["build_environment"] = {"PIP_EXTRA_INDEX_URL": "https://example.com"}
    assert install("pip")


@pytest.mark.parametrize("installer", ["uv", "pip"])
def test_own_packages_ignore_the_configuration_of_uv(build, install, installer):
    build.options.update(packages=["gunicorn==27"], extra_packages=["whitenoise"])
    _, extra, own = install(installer, requirements__txt="django\n")
    assert extra.endswith("whitenoise")
    assert "--no-config" not in extra
    assert own.endswith("gunicorn==27")
    assert ("--no-config" in own) is (installer == "uv")


def test_installed_own_packages_are_kept(build, install):
    (build.venv / "lib/python3.11/site-packages/zope.Interface-7.0.dist-info").mkdir(parents=True)
    build.options["packages"] = ["zope-interface==7.0"]
    assert len(install(requirements__txt="django\n")) == 1


def test_relative_paths_are_installed_from_their_file(build, install):
    build.project = build.code / "web"
    build.project.mkdir()
    (build.code / "setup.py").touch()
    [call] = install(requirements__txt="-e .\n")
    assert call.startswith(f"env --chdir={build.code} /uv pip install")


def test_root_of_a_poetry_project_is_installed_alone(build, install):
    (build.code / "src/shop").mkdir(parents=True)
    text = '[tool.poetry]\nname = "shop"\n[tool.poetry.dependencies]\n[build-system]\nrequires = []\n'
    _, root = install(pyproject__toml=text, poetry__lock="")
    assert root.endswith(f"--no-deps --editable {build.code}")


@pytest.mark.parametrize("key", ["", "-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----"])
def test_key_for_git_is_given_to_the_build_and_to_no_release(build, monkeypatch, key):
    ran = []
    monkeypatch.setattr(sandbox, "run", lambda step, argv, **_: ran.append(argv))
    monkeypatch.setattr(build_module.shutil, "chown", lambda *_, **__: None)
    build.options.update(fetch_environment={}, build_environment={}, git_key=key)
    build.cache, build.venv = Path("/var/cache/me"), build.path / "venv"
    build.build_environment, build.git_key = build.path / "build_env", build.path / "git_key"
    build.code.rmdir()
    build.path.rmdir()
    build._lay_out()
    assert build.git_key.exists() == bool(key)
    if key:
        assert (build.git_key.stat().st_mode & 0o777, build.git_key.read_text()) == (0o600, f"{key}\n")
    Build.run_sandboxed(build, "install", "true")
    assert any(word.startswith(f"--setenv=GIT_SSH_COMMAND=ssh -i {build.git_key} ") for word in ran[0]) == bool(key)
    assert not any("abc" in word for word in ran[0])


@pytest.mark.parametrize("hidden", ["/root/.pyenv/versions/3.12/bin/python", "/home/me/python"])
def test_python_that_the_build_cannot_read_is_passed_over(build, monkeypatch, hidden):
    build.options.update(fetch_environment={}, build_environment={})
    monkeypatch.setattr(uv, "install_uv", lambda options: "/uv")
    fetched = []

    def run(step, argv, env, **_):
        if argv[2] == "install":
            fetched.append(argv[-1])
        elif env["UV_PYTHON_PREFERENCE"] == "system":
            return f"{hidden}\n"
        elif not fetched:
            raise StepError("python", "none")
        return "/usr/local/lib/django_vps/python/bin/python\n"

    monkeypatch.setattr(uv, "run", run)
    assert uv.find_python(build.options, "==3.12.*") == "/usr/local/lib/django_vps/python/bin/python"
    assert fetched == ["==3.12.*"]


def test_secret_key_with_special_characters_is_escaped(tmp_path):
    (tmp_path / "manage.py").touch()
    (tmp_path / "key").write_text('a"b$c\\d`e')
    build = object.__new__(Build)
    build.options = {
        "secret_key_file": str(tmp_path / "key"),
        "settings_module": "shop.settings",
        "environment": "",
        "copies": [],
    }
    build.path = build.project = build.static = tmp_path
    build.release = "r1"
    Build._write_environment(build)
    # As systemd reads it.
    assert 'SECRET_KEY="a\\"b\\$c\\\\d\\`e"' in (tmp_path / "env").read_text().splitlines()


def share_packages(build: Build) -> bool:
    wanted = Packages(build, "")
    wanted.fingerprint = "same"
    return wanted._share_installed()


@pytest.mark.parametrize("bin_is_a_link", [False, True])
def test_packages_are_shared_unless_their_bin_is_a_link(tmp_path, monkeypatch, bin_is_a_link):
    monkeypatch.setattr(packages.shutil, "chown", lambda *_: None)
    earlier, elsewhere = tmp_path / "releases/1/venv", tmp_path / "media"
    (elsewhere if bin_is_a_link else earlier / "bin").mkdir(parents=True)
    earlier.mkdir(exist_ok=True, parents=True)
    if bin_is_a_link:
        (earlier / "bin").symlink_to(elsewhere)
    (earlier / "bin/django-admin").write_text(f"#!{earlier}/bin/python\n")
    (earlier / "pyvenv.cfg").write_text("home = /usr/bin\n")
    write_file(tmp_path / "releases/1/release.json", json.dumps({"packages": "same"}))
    params = {"user": "shop", "application": "", "force": False, "groups": [], "extras": []}
    build = Build(SimpleNamespace(params=params), Site(str(tmp_path)), "2", "")
    build.venv.mkdir(parents=True)
    assert share_packages(build) is not bin_is_a_link
    assert (earlier / "bin/django-admin").read_text() == f"#!{earlier}/bin/python\n"
    if not bin_is_a_link:
        assert (build.venv / "bin/django-admin").read_text() == f"#!{build.venv}/bin/python\n"


def test_failed_build_keeps_its_packages_for_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr(packages.shutil, "chown", lambda *_: None)
    site = Site(str(tmp_path))

    def build(name):
        params = {"user": "shop", "application": "", "force": False, "groups": [], "extras": []}
        made = Build(SimpleNamespace(params=params), site, name, "")
        (made.venv / "bin").mkdir(parents=True)
        (made.code / "shop").mkdir(parents=True)
        return made

    first = build("1")
    (first.venv / "bin/django-admin").write_text(f"#!{first.venv}/bin/python\n")
    (first.venv / "pyvenv.cfg").write_text("")
    (first.path / "current").symlink_to(tmp_path)
    first.packages = "same"
    first._keep_packages()
    assert sorted(path.name for path in first.path.iterdir()) == ["packages", "venv"]
    assert site.complete_releases() == []

    remove_incomplete_releases(site, "2")
    second = build("2")
    (second.venv / "bin").rmdir()
    assert share_packages(second)
    assert (second.venv / "bin/django-admin").read_text() == f"#!{second.venv}/bin/python\n"

    assert second.packages == ""
    second._keep_packages()
    assert not second.path.exists()
    # The next build may have the id of the failed one.
    remove_incomplete_releases(site, "1")
    assert list(site.releases.iterdir()) == []


def test_deeply_nested_build_is_removed(tmp_path):
    site = Site(str(tmp_path))
    (site.releases / "1").mkdir(parents=True)
    nest(site.releases / "1", 3000)
    assert remove_incomplete_releases(site, None) == []
    assert not (site.releases / "1").exists()


def test_unremovable_release_is_set_aside_and_reported(tmp_path, monkeypatch):
    def refuse(path):
        raise StepError("disk", f"rm: cannot remove '{path}': Operation not permitted")

    monkeypatch.setattr(site_utils, "remove_tree", refuse)
    site = Site(str(tmp_path))
    (site.releases / "1/code").mkdir(parents=True)
    (said,) = remove_incomplete_releases(site, None)
    assert re.match(rf"{site.releases}/1 cannot be removed, and is {site.removed}/1\.\d+ now: rm: cannot", said)
    assert not (site.releases / "1").exists()


@pytest.mark.parametrize("error", [RecursionError(), OSError(errno.ENAMETOOLONG, "File name too long", "a" * 5000)])
def test_too_deeply_nested_build_fails_with_a_message(build, monkeypatch, error):
    def seal():
        nest(build.code, 3000)
        raise error

    monkeypatch.setattr(build, "_lay_out", seal)
    with pytest.raises(StepError, match="build: folders are nested so deep"):
        build.run()
    assert not build.path.exists()


@pytest.mark.parametrize("program", ["gzip", "brotli"])
def test_full_disk_during_compression_is_reported(build, tmp_path, monkeypatch, program):
    write(
        tmp_path, "bin/brotli", content="#!/bin/sh\necho 'failed to write output: No space left on device' >&2\nexit 1"
    )
    (tmp_path / "bin/brotli").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    write(build.path, "static/site.css", content="a { color: teal }\n" * 100)
    build.venv, build.packages = build.path / "venv", ""
    (build.venv / "bin").mkdir(parents=True)
    (build.venv / "bin/python").symlink_to(sys.executable)

    # The kernel answers writes to this device as those to a full disk.
    full = "import io\ndef open(path, mode):\n    return io.open('/dev/full' if mode == 'wb' else path, mode)\n"
    if program == "gzip":
        monkeypatch.setattr(static_files, "compose_program", lambda script, call: compose_program(script, full + call))
    build.run_sandboxed = lambda step, *argv, **options: run(step, list(argv), **options)
    monkeypatch.setattr(build, "_lay_out", lambda: static_files.compress_static_files(build))
    with pytest.raises(StepError, match=r"^collectstatic: .*No space left on device") as failed:
        build.run()
    assert failed.value.advice.startswith("The disk is full")
    assert not build.path.exists()


def dry_run(home: Path, capsys, **more) -> dict:
    args = {"source": str(home), "home": str(home), "user": "shop", "manage": "/bin/true", "environment": "A=1"}
    args |= {"secret_key_file": str(home / "key"), "media": str(home), "host": "shop.example.com", "digest": "a"}
    with patch_module_args({**args, **more, "_ansible_check_mode": True}), pytest.raises(SystemExit):
        release.main()
    return json.loads(capsys.readouterr().out)


def test_short_secrets_leave_the_release_id_readable(tmp_path, capsys):
    told = dry_run(tmp_path, capsys, build_environment={"GIT_CONFIG_COUNT": "1", "X": "2"})
    assert re.fullmatch(r"[0-9]{8}T[0-9]{6}Z", told["next"])


def test_release_without_its_python_is_built_again(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(release, "compute_fingerprint", lambda _: "the same")
    made, python = tmp_path / "releases/20260101T000000Z", tmp_path / "python"
    (made / "venv/bin").mkdir(parents=True)
    (made / MARKER).write_text(json.dumps({"fingerprint": "the same"}))
    python.touch(mode=0o755)
    (made / "venv/bin/python").symlink_to(python)
    assert dry_run(tmp_path, capsys)["same"] == [made.name]
    python.unlink()
    assert dry_run(tmp_path, capsys)["same"] == []


@pytest.mark.parametrize(
    ("folder", "shared"),
    [
        ("/srv/shop/media", True),
        ("/srv/shop/media/private", True),
        ("/srv/shop", False),
        ("/srv/shop/media2", False),
        ("/mnt/two words", True),
        ("/mnt/encrypted", False),
        ("/mnt/over", False),
    ],
)
def test_folder_on_a_network_file_system_is_shared(tmp_path, folder, shared):
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        "30 22 0:40 / /srv/shop/media rw,relatime shared:9 - nfs4 10.0.0.5:/media rw,vers=4.2\n"
        "31 22 0:41 / /mnt/two\\040words rw - fuse.sshfs root@files:/media rw\n"
        "32 22 0:42 / /mnt/encrypted rw - fuse.gocryptfs /srv/x rw\n"
        "33 22 0:43 / /mnt/over rw - cifs //files/x rw\n"
        "34 33 8:2 / /mnt/over rw - xfs /dev/sdb1 rw\n"
    )
    assert is_shared(folder, str(mounts)) is shared


SETTINGS_ERROR = """reading the settings
Traceback (most recent call last):
  File "/srv/shop/releases/1/code/manage.py", line 22, in <module>
    main()
  File "/srv/shop/releases/1/venv/lib/python3.13/site-packages/django/core/management/__init__.py", line 442, in execute
    utility.execute()
    ~~~~~~~~~~~~~~~^^
  File "/usr/lib/python3.13/importlib/__init__.py", line 88, in import_module
    return _bootstrap._gcd_import(name[level:], package, level)
  File "<frozen importlib._bootstrap>", line 1387, in _gcd_import
  File "/srv/shop/releases/1/venv/lib/python3.13/site-packages/environ/environ.py", line 7, in get_value
    raise
  File "/srv/shop/releases/1/code/shop/settings.py", line 9, in <module>
    KEY = os.environ["MAIL_KEY"]
          ~~~~~~~~~~^^^^^^^^^^^^
KeyError: 'MAIL_KEY'
"""


def test_message_has_error_then_advice_then_project_frames():
    cause, details = explain(SETTINGS_ERROR)
    assert cause == "KeyError: 'MAIL_KEY'"
    lines = str(StepError("settings", cause, "Set django_env.", details=details)).splitlines()
    assert lines[:3] == ["settings: KeyError: 'MAIL_KEY'", "Set django_env.", "reading the settings"]
    files = [line.split('"')[1].removeprefix("/srv/shop/releases/1/") for line in lines if line.startswith("  File")]
    assert files == ["code/manage.py", "venv/lib/python3.13/site-packages/environ/environ.py", "code/shop/settings.py"]
    assert [line.strip() for line in lines[-2:]] == ["~~~~~~~~~~^^^^^^^^^^^^", "More: docs/troubleshooting.md#settings"]


def test_cause_without_a_traceback_is_the_end_of_the_output():
    assert explain("\n".join(map(str, range(100)))) == ("\n".join(map(str, range(75, 100))), "")
    assert explain("") == ("", "")


@pytest.mark.parametrize(
    ("said", "packages"),
    [
        ("error: command 'gcc' failed: No such file or directory", "[build-essential, python3-dev]"),
        ("fatal error: Python.h: No such file\ngcc failed", "[build-essential, python3-dev]"),
        (
            "Error: Please make sure the libxml2 and libxslt development packages are installed.",
            "libxml2-dev, libxslt1-dev]",
        ),
        ("mysql_config not found", "[build-essential, python3-dev, default-libmysqlclient-dev, pkg-config]"),
        ("pg_config executable not found.", "[build-essential, python3-dev, libpq-dev]"),
    ],
)
def test_compile_error_has_advice_on_missing_packages(said, packages):
    assert packages in find_advice(f"install: {said}")


def test_command_whose_checks_miss_tables_has_advice():
    cause = 'python manage.py bundle:\ndjango.db.utils.ProgrammingError: relation "tickets_ticket" does not exist'
    assert "add --skip-checks to the command" in find_advice(f"build: {cause}")


#: What uv 0.13.8 prints on a host without a compiler and without libpq.
FAILED_BUILD = """Using Python 3.11.2 environment at: v
Resolved 4 packages in 623ms
   Building psycopg2-binary==2.9.3
error: Failed to build `psycopg2-binary==2.9.3`
  cause: The build backend returned an error
  cause: Call to `setuptools.build_meta:__legacy__.get_requires_for_build_wheel` failed (exit status: 1)

         [stdout]
         running egg_info

         [stderr]
         Error: pg_config executable not found.

         pg_config is required to build psycopg2 from source.  Please add the directory

hint: Build failures usually indicate a problem with the package or the build environment
"""
WHEEL = """Using Python 3.11.2 environment at: v
Resolved 1 package in 326ms
Would download 1 package
Would install 1 package
 + psycopg2-binary==2.9.13
"""
NO_WHEEL = """error: No solution found when resolving dependencies
  cause: Because all versions of psycopg2-binary have no usable wheels and you require psycopg2-binary, we can conclude
hint: Wheels are required for `psycopg2-binary` because building from source is disabled for `psycopg2-binary`
"""


@pytest.mark.parametrize(
    ("installer", "requirements", "answer", "advice"),
    [
        ("uv", "", WHEEL, "or require psycopg2-binary==2.9.13, which has a wheel."),
        ("uv", "", NO_WHEEL, "or require psycopg[binary] or psycopg2-binary, which are compiled."),
        # Another index has the package.
        ("uv", "--extra-index-url https://example.com\n", "", ""),
        ("pip", "", "", ""),
    ],
)
def test_failed_compilation_names_a_version_with_a_wheel(build, install, installer, requirements, answer, advice):
    asked = []

    def run_sandboxed(step, *argv):
        if "--dry-run" in argv:
            asked.append(" ".join(argv))
            if answer == NO_WHEEL:
                raise StepError(step, answer, output=answer)
            return answer
        if "-r" in argv:
            raise StepError(step, "\n".join(FAILED_BUILD.splitlines()[-9:]), output=FAILED_BUILD)
        return ""

    build.run_sandboxed = run_sandboxed
    with pytest.raises(StepError) as failed:
        install(installer, requirements__txt=f"{requirements}psycopg2-binary==2.9.3\n")
    assert failed.value.advice.endswith(advice)
    assert bool(failed.value.advice) is bool(asked) is bool(advice)
    assert all(call.endswith("--dry-run --no-deps --only-binary psycopg2-binary psycopg2-binary") for call in asked)


def test_advice_on_a_wheel_follows_what_the_index_has():
    complaint = "install: error: command 'gcc' failed"
    assert find_advice(complaint).endswith("or require a version that has a wheel.")
    assert find_advice(complaint, "").endswith("and run site.yml.")
    assert find_advice(complaint, "lxml==6.1.3").endswith("or require lxml==6.1.3, which has a wheel.")
    distutils = "install: ModuleNotFoundError: No module named 'distutils'"
    assert find_advice(distutils, "lxml==6.1.3") == "A package cannot be built: require lxml==6.1.3, which has a wheel."
    assert find_advice(distutils, "") == find_advice(distutils)


def test_psycopg2_build_error_has_advice_on_its_wheel():
    assert "or require psycopg[binary] or psycopg2-binary" in find_advice("install: pg_config not found. gcc")
