"""What of a host belongs to somebody else, by the files of other sites and by what is there."""

from __future__ import annotations

import errno
import json
import os
import pwd
from types import SimpleNamespace

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.django_vps.stack.plugins.modules import claim as module
from ansible_collections.django_vps.stack.plugins.modules.claim import Claim


@pytest.fixture
def host(tmp_path, monkeypatch):
    """The folders of a host, and how a site claims something of it."""
    places = {name: tmp_path / name for name in ("sites", "conf.d", "units", "vendor", "srv")}
    for folder in places.values():
        folder.mkdir()
    monkeypatch.setattr(module, "SITES", places["sites"])
    monkeypatch.setattr(module, "NGINX", {places["conf.d"]: "*.conf"})
    monkeypatch.setattr(module, "LOCK", tmp_path / "lock")
    monkeypatch.setattr(module, "is_shared", lambda folder: False)
    monkeypatch.setattr(module, "ROOT", os.geteuid())
    monkeypatch.setattr(module, "UNITS", places["units"])
    monkeypatch.setattr(module, "OTHER_UNITS", (places["vendor"],))

    def problems(site="shop", **claims) -> list[str]:
        return Claim(site, {name: [value] for name, value in claims.items()}, ["shop", "shop_owner"]).problems()

    return SimpleNamespace(**{name.replace(".", ""): path for name, path in places.items()}, problems=problems)


@pytest.mark.parametrize(
    ("name", "theirs", "ours"),
    [
        ("site_domains", "a.example.com", "a.example.com"),
        ("site_user", "web", "web"),
        ("site_service", "web", "web"),
        ("site_database", "web", "web"),
        ("valkey_port", 6380, 6380),
        ("site_home", "/srv/web", "/srv/web"),
        ("site_home", "/srv/web", "/srv/web/inner"),
        ("site_media_root", "/data/web/media", "/data/web"),
    ],
)
def test_claim_of_another_site_is_refused_with_its_name(host, name, theirs, ours):
    (host.sites / "other.json").write_text(json.dumps({name: ["else", str(theirs)]}))
    (said,) = host.problems(**{name: ours})
    assert said.startswith(f"{name}: {ours} ")
    assert " site other. Fix: " in said
    # Its own file says nothing against a site.
    assert host.problems(site="other", **{name: theirs}) == []


def test_folders_of_different_kinds_cannot_overlap(host):
    (host.sites / "other.json").write_text(json.dumps({"site_home": ["/srv/web"]}))
    (said,) = host.problems(site_media_root="/srv/web/media")
    assert "overlaps with /srv/web of site other" in said


@pytest.mark.parametrize(
    ("name", "theirs", "other", "ours"),
    [
        ("valkey_port", "8444", "letsencrypt_share_port", "8444"),
        ("site_user", "blog-deploy", "deployer_keys", "blog-deploy"),
        ("deployer_keys", "shop-deploy", "site_user", "shop-deploy"),
        ("site_user", "blog", "host_admins", "blog"),
        ("deployer_keys", "blog-deploy", "host_admins", "blog-deploy"),
        ("backup_repository", "/srv/sets", "site_media_root", "/srv/sets/media"),
        ("backup_repository", "/srv/sets", "backup_repository", "/srv/sets"),
    ],
)
def test_claim_of_another_kind_that_meets_is_refused(host, name, theirs, other, ours):
    (host.sites / "other.json").write_text(json.dumps({name: [theirs]}))
    (said,) = host.problems(**{other: ours})
    assert said.startswith(f"{other}: {ours} ")
    assert " site other. Fix: " in said


def test_sites_can_have_the_same_administrators(host):
    (host.sites / "other.json").write_text(json.dumps({"host_admins": ["ada"], "site_user": ["blog"]}))
    assert host.problems(host_admins="ada") == []


@pytest.mark.parametrize(
    ("theirs", "ours", "refused"),
    [
        ("*.example.com", "shop.example.com", True),
        ("*.example.com", "a.shop.example.com", True),
        ("*.example.com", "*.shop.example.com", True),
        ("*.example.com", "*.example.com", True),
        ("*.example.com", "example.com", False),
        ("*.example.com", "shop-example.com", False),
        # Their visitors stay with them.
        ("shop.example.com", "*.example.com", False),
        ("*.shop.example.com", "*.example.com", False),
    ],
)
def test_name_in_a_wildcard_of_another_site_is_refused(host, theirs, ours, refused):
    (host.sites / "other.json").write_text(json.dumps({"site_domains": [theirs]}))
    assert [line.partition(" site other")[0] for line in host.problems(site_domains=ours)] == [
        f"site_domains: {ours} {'belongs to' if ours == theirs else f'overlaps with {theirs} of'}"
    ] * refused


def test_claimed_name_stays_when_another_site_has_a_wildcard(host):
    (host.sites / "shop.json").write_text(json.dumps({"site_domains": ["shop.example.com"]}))
    (host.sites / "other.json").write_text(json.dumps({"site_domains": ["*.example.com"]}))
    assert host.problems(site_domains="shop.example.com") == []


def test_sites_of_the_same_inventory_are_not_compared_again(host):
    (host.sites / "other.json").write_text(json.dumps({"site_domains": ["a.example.com"]}))
    (host.confd / "other.conf").write_text("server { server_name a.example.com; }")
    claims = {"site_domains": ["a.example.com"]}
    assert Claim("shop", claims, ["shop"], ["other"]).problems() == []
    assert len(Claim("shop", claims, ["shop"]).problems()) == 1


@pytest.mark.parametrize("content", ["", "[]", "{"])
def test_a_broken_file_of_another_site_claims_nothing(host, content):
    (host.sites / "other.json").write_text(content)
    assert host.problems(site_domains="a.example.com") == []


def test_different_claims_are_accepted(host):
    (host.sites / "other.json").write_text(
        json.dumps({"site_domains": ["a.example.com"], "site_home": ["/srv/web"], "valkey_port": ["6379"]})
    )
    assert host.problems(site_domains="b.example.com", site_home=f"{host.srv}/web2", valkey_port=6380) == []


@pytest.mark.parametrize("name", ["site_home", "site_media_root", "site_config_dir"])
def test_a_folder_with_the_files_of_others_is_refused(host, name):
    folder = host.srv / "taken"
    folder.mkdir()
    assert host.problems(**{name: folder}) == []
    (folder / "rows.sql").touch()
    (said,) = host.problems(**{name: folder})
    assert said.startswith(f"{name}: {folder} exists and contains other files (rows.sql). Fix: ")
    (host.srv / "file").touch()
    (said,) = host.problems(**{name: host.srv / "file"})
    assert "exists and is not a folder" in said


@pytest.mark.parametrize(
    ("name", "entries"),
    [
        ("site_home", ["releases/1", "journal", "current"]),
        ("site_home", ["media/2026", ".profile", "lost+found"]),
        ("site_config_dir", ["secret_key", "notes.txt"]),
        ("site_media_root", ["lost+found"]),
    ],
)
def test_folder_of_the_site_without_a_claim_belongs_to_it(host, name, entries):
    for entry in entries:
        (host.srv / "shop" / entry).mkdir(parents=True)
    assert host.problems(**{name: host.srv / "shop"}) == []


def test_restored_uploads_in_the_home_belong_to_the_site(host, monkeypatch):
    (host.srv / "shop/media").mkdir(parents=True)
    (host.srv / "shop/media/a.jpg").touch()
    claims = {"site_home": [f"{host.srv}/shop"], "site_media_root": [f"{host.srv}/shop/media"]}
    assert Claim("shop", claims, ["shop"]).problems() == []


@pytest.mark.parametrize("name", ["site_home", "site_media_root", "site_config_dir"])
def test_folder_of_another_user_is_refused(host, monkeypatch, name):
    folder = host.srv / "ada"
    (folder / (".ssh" if name == "site_home" else "lost+found")).mkdir(parents=True)
    own = pwd.getpwuid(os.geteuid()).pw_name
    monkeypatch.setattr(module, "ROOT", -1)
    (said,) = host.problems(**{name: folder})
    fix = f"Fix: choose another folder, or run chown root: {folder} on the host"
    assert said == f"{name}: {folder} belongs to the user {own}. {fix}"
    monkeypatch.setattr(Claim, "user", lambda *_: "")
    assert Claim("shop", {name: [str(folder)], "site_user": [own]}, "shop").problems() == []


@pytest.mark.parametrize(("account", "refused"), [("ada", True), ("", False)])
def test_mount_with_foreign_files_is_refused(host, monkeypatch, account, refused):
    (host.srv / "disk/letters").mkdir(parents=True)
    monkeypatch.setattr(module.Path, "is_mount", lambda path: True)
    # Uploads that came from another host have a number as owner.
    monkeypatch.setattr(module, "account_of", lambda uid: account)
    said = host.problems(site_media_root=host.srv / "disk")
    assert ["contains other files" in line for line in said] == [True] * refused


def test_unreadable_folder_is_refused_unless_shared(host, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied")

    (host.srv / "media").mkdir()
    monkeypatch.setattr(module.Path, "iterdir", refuse)
    (said,) = host.problems(site_media_root=host.srv / "media")
    assert "cannot be read (Permission denied)" in said
    monkeypatch.setattr(module, "is_shared", lambda folder: True)
    assert host.problems(site_media_root=host.srv / "media") == []


def test_existing_uploads_need_the_site_user_or_a_shared_mount(host, monkeypatch):
    folder = host.srv / "media"
    folder.mkdir()
    (folder / "a.jpg").touch()
    own = pwd.getpwuid(os.geteuid()).pw_name
    claims = {"site_media_root": [str(folder)], "site_user": [own]}
    # A user that can log in is another matter.
    monkeypatch.setattr(Claim, "user", lambda *_: "")
    assert Claim("shop", claims, ["shop"]).problems() == []
    monkeypatch.setattr(module, "exists", lambda user: False)
    assert len(Claim("shop", claims, ["shop"]).problems()) == 1
    monkeypatch.setattr(module, "is_shared", lambda folder: True)
    assert Claim("shop", claims, ["shop"]).problems() == []


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("server { listen 80; server_name b.example.com A.example.com; }", True),
        ("server {\n  server_name\n    a.example.com;\n}", True),
        ("# server_name a.example.com;\nserver { server_name aa.example.com; }", False),
        ("map $server_name $x { a.example.com 1; }", False),
    ],
)
def test_name_served_by_nginx_is_refused_with_the_file(host, text, refused):
    (host.confd / "blog.conf").write_text(text)
    (host.confd / "shop.conf").write_text("server { server_name a.example.com; }")
    (host.confd / "gone.conf").symlink_to("nowhere")
    # nginx reads neither.
    (host.confd / "old.conf.bak").write_text("server { server_name a.example.com; }")
    (host.confd / ".shop.conf").write_text("server { server_name a.example.com; }")
    said = host.problems(site_domains="a.example.com")
    assert [line.partition(". Fix")[0] for line in said] == [
        f"site_domains: a.example.com is already served by nginx, in {host.confd}/blog.conf"
    ] * refused


@pytest.mark.parametrize(
    ("shell", "refused"), [("/bin/bash", True), ("/usr/sbin/nologin", False), ("/bin/false", False)]
)
def test_an_account_of_a_person_is_refused(host, monkeypatch, shell, refused):
    monkeypatch.setattr(module.pwd, "getpwnam", lambda name: SimpleNamespace(pw_shell=shell, pw_uid=1000))
    assert [line.split(". ")[0] for line in host.problems(site_user="ana")] == [
        "site_user: ana is an account with a login shell"
    ] * refused


def test_missing_user_is_accepted(host):
    assert host.problems(site_user="nobody-has-this-name") == []


@pytest.mark.parametrize(
    "file", ["vendor/user@.service", "vendor/user@.socket", "units/user.service", "units/user@.service"]
)
def test_existing_unit_of_another_owner_is_refused(host, file):
    path = host.units.parent / file
    path.write_text("[Unit]\nDescription=Something else\n")
    (said,) = host.problems(site_service="user")
    assert said.startswith(f"site_service: user is the name of {path}")


@pytest.mark.parametrize(
    ("owner", "refused"), [("shop", False), ("shop_owner", False), ("blog", True), ("", False), ("postgres", False)]
)
def test_a_database_of_another_role_is_refused(host, monkeypatch, owner, refused):
    monkeypatch.setattr(module, "exists", lambda user: True)
    monkeypatch.setattr(module.shutil, "which", lambda name: name)
    done = SimpleNamespace(stdout=f"{owner}\n")
    monkeypatch.setattr(module.subprocess, "run", lambda *_, **__: done)
    assert [line.split(". ")[0] for line in host.problems(site_database="rows")] == [
        "site_database: rows is a database of role blog"
    ] * refused


def unit_file(host, name: str, home: str) -> None:
    text = f"[Unit]\nDescription=The live release of {name}\nRequiresMountsFor={home}\n"
    (host.units / f"{name}.service").write_text(text)


def test_former_units_of_the_site_are_found(host):
    unit_file(host, "shop-web", "/srv/shop")
    unit_file(host, "shop-gunicorn", "/srv/shop")
    unit_file(host, "blog-gunicorn", "/srv/blog")
    (host.units / "mine.service").write_text("[Unit]\nRequiresMountsFor=/srv/shop\n")
    claims = {"site_home": ["/srv/shop"], "site_service": ["shop-gunicorn"]}
    assert Claim("shop", claims, ["shop"]).former_services() == ["shop-web"]
    # A host that runs no site has none.
    assert Claim("shop", {"site_database": ["shop"]}, "shop").former_services() == []


def run(capsys, check: bool = False, **claims) -> dict:
    args = {"site": "shop", "claims": {name: [value] for name, value in claims.items()}, "_ansible_check_mode": check}
    with patch_module_args(args), pytest.raises(SystemExit):
        module.main()
    return json.loads(capsys.readouterr().out)


def test_claims_are_recorded_once_and_not_in_a_dry_run(host, capsys):
    assert run(capsys, check=True, valkey_port=6379)["changed"]
    assert list(host.sites.iterdir()) == []
    assert run(capsys, valkey_port=6379)["changed"]
    assert not run(capsys, valkey_port=6379)["changed"]
    assert (host.sites / "shop.json").stat().st_mode & 0o777 == 0o600
    assert json.loads((host.sites / "shop.json").read_text()) == {"valkey_port": ["6379"]}


def test_refused_claim_is_not_recorded(host, capsys):
    (host.sites / "other.json").write_text(json.dumps({"valkey_port": ["6379"]}))
    result = run(capsys, valkey_port=6379)
    assert result["failed"]
    assert "valkey_port: 6379 belongs to site other" in result["msg"]
    assert not (host.sites / "shop.json").exists()


def test_claimed_folder_stays_with_its_site(host, capsys):
    (host.srv / "shop").mkdir()
    run(capsys, site_home=str(host.srv / "shop"))
    (host.srv / "shop/notes.txt").touch()
    assert not run(capsys, site_home=str(host.srv / "shop")).get("failed")
