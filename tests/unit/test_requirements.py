"""Which Python and which packages a project asks for, by whatever tool it says so."""

from __future__ import annotations

import json

import pytest
from ansible_collections.django_vps.stack.plugins.module_utils.python import fits, wanted
from ansible_collections.django_vps.stack.plugins.module_utils.requirements import (
    Wish,
    find_requirements,
    inputs_of,
    member_of,
    requirements_of,
)
from ansible_collections.django_vps.stack.plugins.module_utils.site import StepError


@pytest.mark.parametrize(
    ("files", "versions"),
    [
        ({}, ""),
        ({".python-version": "3.12\n"}, "==3.12.*"),
        ({".python-version": "# pyenv\ncpython-3.12.4\n"}, "==3.12.*"),
        ({".python-version": ">=3.11,<3.14\n"}, ">=3.11,<3.14"),
        ({".python-version": "shop-env\nsystem\n"}, ""),
        ({"pyproject.toml": '[project]\nname = "a"\nrequires-python = ">=3.12"\n'}, ">=3.12"),
        ({".python-version": "3.13", "pyproject.toml": '[project]\nrequires-python = ">=3.12"\n'}, "==3.13.*"),
        ({"pyproject.toml": '[tool.poetry.dependencies]\npython = "^3.11"\n'}, ">=3.11,<4"),
        ({"pyproject.toml": '[tool.poetry.dependencies]\npython = "~3.11"\n'}, ">=3.11,<3.12"),
        ({"pyproject.toml": '[tool.poetry.dependencies]\npython = ">=3.10, <3.13"\n'}, ">=3.10,<3.13"),
        ({"pyproject.toml": '[tool.poetry.dependencies]\npython = "~2.7 || ^3.9.1"\n'}, ">=3.9.1,<4"),
        ({"pyproject.toml": '[tool.poetry.dependencies]\npython = ">= 3.10 <3.13"\n'}, ">=3.10,<3.13"),
        ({"pyproject.toml": '[tool.poetry.dependencies]\npython = "3.11.*"\n'}, "==3.11.*"),
        ({"pyproject.toml": '[tool.poetry.dependencies]\npython = "3.11"\n'}, "==3.11.*"),
        ({"pyproject.toml": '[tool.poetry.dependencies]\npython = "*"\n'}, ""),
    ],
)
def test_the_python_that_the_source_asks_for(tmp_path, files, versions):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert wanted(tmp_path, tmp_path)[0] == versions


def test_the_nearest_file_decides_about_python(tmp_path):
    (tmp_path / "backend/web").mkdir(parents=True)
    (tmp_path / ".python-version").write_text("3.9")
    (tmp_path / "backend/.python-version").write_text("3.12")
    assert wanted(tmp_path / "backend/web", tmp_path) == ("==3.12.*", ".python-version")
    # What a range allows, a file above it chooses from.
    (tmp_path / "backend/web/pyproject.toml").write_text('[project]\nrequires-python = ">=3.10"\n')
    assert wanted(tmp_path / "backend/web", tmp_path) == ("==3.12.*", ".python-version")


@pytest.mark.parametrize(
    ("version", "versions", "fit"),
    [
        ("3.11.2", ">=3.11", True),
        ("3.13.5", ">=3.11,<3.13", False),
        ("3.13.5", "==3.13.*", True),
        ("3.11.2", "==3.12.*", False),
        ("3.14.0rc1", ">=3.14.0rc1", True),
    ],
)
def test_whether_a_version_is_one_of_those(version, versions, fit):
    assert fits(version, versions) is fit


def test_what_names_no_versions_is_refused():
    with pytest.raises(StepError, match="set django_python"):
        fits("3.11.2", "three")


def write(folder, **files):
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


PYPROJECT = """
[project]
name = "shop"
dependencies = ["django"]
[project.optional-dependencies]
postgres = ["psycopg"]
[dependency-groups]
base = ["gunicorn"]
production = ["sentry-sdk", {include-group = "base"}]
"""


def test_groups_and_extras_of_a_pyproject(tmp_path):
    path = write(tmp_path, pyproject__toml=PYPROJECT) / "pyproject.toml"
    assert requirements_of(path) == "django\n"
    wish = Wish(groups=("production",), extras=("postgres",))
    assert requirements_of(path, wish) == "django\npsycopg\nsentry-sdk\ngunicorn\n"


def test_a_package_is_installed_itself_with_its_extras(tmp_path):
    path = write(tmp_path, pyproject__toml=PYPROJECT + "[build-system]\nrequires = []\n") / "pyproject.toml"
    (tmp_path / "src").mkdir()
    wish = Wish(groups=("base",), extras=("postgres",))
    assert requirements_of(path, wish) == f"-e {tmp_path}[postgres]\ngunicorn\n"


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        (Wish(groups=("prod",)), "pyproject.toml has no group prod; it has base, production"),
        (Wish(extras=("mysql",)), "pyproject.toml has no extra mysql; it has postgres"),
    ],
)
def test_a_group_that_is_not_there_is_named_with_those_that_are(tmp_path, wish, said):
    path = write(tmp_path, pyproject__toml=PYPROJECT) / "pyproject.toml"
    with pytest.raises(StepError, match=said):
        requirements_of(path, wish)


def test_a_file_of_requirements_knows_no_groups(tmp_path):
    with pytest.raises(StepError, match=r"requirements\.txt has no group prod; it has none"):
        requirements_of(write(tmp_path, requirements__txt="django\n") / "requirements.txt", Wish(groups=("prod",)))


POETRY = """
[[package]]
name = "django"
version = "5.2.1"
optional = false
groups = ["main", "prod"]
markers = {prod = "python_version < '3.13'"}
files = [{file = "a", hash = "sha256:aa"}]

[[package]]
name = "gunicorn"
version = "23.0"
optional = false
groups = ["prod"]
files = [{file = "g", hash = "sha256:bb"}]

[[package]]
name = "psycopg"
version = "3.2"
optional = true
groups = ["main"]
markers = "extra == 'postgres' and python_version >= '3.8' or extra == 'all'"
files = [{file = "p", hash = "sha256:cc"}]

[[package]]
name = "own"
version = "1.0"
optional = false
groups = ["main"]
files = [{file = "o", hash = "sha256:dd"}]
[package.source]
type = "legacy"
url = "https://packages.example.com/simple"
reference = "own"

[extras]
postgres = ["psycopg"]
all = ["psycopg"]
"""


def test_groups_extras_and_indexes_of_a_poetry_lock(tmp_path):
    path = write(tmp_path, poetry__lock=POETRY) / "poetry.lock"
    own = "own==1.0 \\\n    --hash=sha256:dd\n"
    index = "--extra-index-url https://packages.example.com/simple\n"
    assert requirements_of(path) == f"{index}django==5.2.1 \\\n    --hash=sha256:aa\n{own}"
    lines = requirements_of(path, Wish(groups=("prod",), extras=("postgres",)))
    assert lines == (
        f"{index}django==5.2.1 \\\n    --hash=sha256:aa\ngunicorn==23.0 \\\n    --hash=sha256:bb\n"
        'psycopg==3.2 ; python_version >= "3" and python_version >= \'3.8\' or python_version < "3" \\\n'
        f"    --hash=sha256:cc\n{own}"
    )


def test_categories_and_indexes_of_a_pipfile_lock(tmp_path):
    lock = {
        "_meta": {
            "sources": [{"url": "https://pypi.org/simple"}, {"url": "https://${TOKEN}@packages.example.com/simple"}]
        },
        "default": {"django": {"version": "==5.2.1"}},
        "prod": {"gunicorn": {"version": "==23.0"}, "django": {"version": "==5.2.1"}},
        "develop": {"pytest": {"version": "==8.0"}},
    }
    path = write(tmp_path, Pipfile__lock=json.dumps(lock)) / "Pipfile.lock"
    assert requirements_of(path, Wish(groups=("prod",))) == (
        "--extra-index-url https://${TOKEN}@packages.example.com/simple\ndjango==5.2.1\ngunicorn==23.0\n"
    )


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"Pipfile": "[packages]\n"}, "run pipenv lock"),
        ({"pyproject__toml": '[tool.poetry.dependencies]\ndjango = "^5"\n'}, "run poetry lock"),
        ({"uv__lock": "version = 1\n"}, "no pyproject.toml beside uv.lock"),
        (
            {
                "pyproject__toml": '[project]\nname = "a"\n[tool.uv.sources]\nown = {git = "https://git.example.com/own"}\n'
            },
            "tool.uv.sources where packages come from, and there is no uv.lock",
        ),
        (
            {"pyproject__toml": '[project]\nname = "a"\n[[tool.uv.index]]\nurl = "https://packages.example.com"\n'},
            "tool.uv.index",
        ),
        (
            {
                "pyproject__toml": '[project]\nname = "a"\n[[tool.poetry.source]]\nurl = "https://packages.example.com"\n'
            },
            "there is no poetry.lock",
        ),
        ({"README": ""}, "Write a requirements.txt"),
        ({"requirements-dev__txt": ""}, "the one that is meant: requirements-dev.txt"),
    ],
)
def test_what_is_not_locked_and_what_comes_from_elsewhere_is_refused_in_words(tmp_path, files, said):
    write(tmp_path, **files)
    with pytest.raises(StepError) as refused:
        find_requirements(tmp_path, tmp_path, "")
    assert said in str(refused.value)


def test_which_python_is_no_package(tmp_path):
    text = '[project]\nname = "a"\n[tool.poetry.dependencies]\npython = "^3.11"\n'
    write(tmp_path, pyproject__toml=text)
    assert find_requirements(tmp_path, tmp_path, "") == tmp_path / "pyproject.toml"


def test_a_lock_above_the_folder_of_manage_py_is_found_and_its_member_too(tmp_path):
    web = tmp_path / "services/web/src"
    web.mkdir(parents=True)
    write(tmp_path, uv__lock="", pyproject__toml="[tool.uv.workspace]\nmembers = ['services/*']\n")
    write(web.parent, pyproject__toml='[project]\nname = "web"\n')
    lock = find_requirements(web, tmp_path, "")
    assert lock == tmp_path / "uv.lock"
    assert member_of(lock, web) == web.parent
    before = inputs_of(lock, Wish(), web)
    write(web.parent, pyproject__toml='[project]\nname = "web"\ndependencies = ["django"]\n')
    assert inputs_of(lock, Wish(), web) != before
