"""Which Python and which packages a project asks for, by whatever tool it says so."""

from __future__ import annotations

import json

import pytest
from ansible_collections.django_vps.stack.plugins.module_utils.errors import StepError
from ansible_collections.django_vps.stack.plugins.module_utils.poetry import allows, python_marker
from ansible_collections.django_vps.stack.plugins.module_utils.python import fits, wanted
from ansible_collections.django_vps.stack.plugins.module_utils.requirements import (
    Wish,
    find_base,
    find_member,
    find_requirements,
    find_root_package,
    read_inputs,
    refuse_indexes_of_uv,
    requirements_of,
)


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
        ({"Pipfile.lock": '{"_meta": {"requires": {"python_version": "3.12"}}}'}, "==3.12.*"),
        ({"Pipfile.lock": '{"_meta": {"requires": {"python_full_version": "3.12.4"}}}'}, "==3.12.*"),
        ({"Pipfile.lock": '{"_meta": {"requires": {}}}'}, ""),
        ({"runtime.txt": "python-3.11.9\n"}, "==3.11.*"),
        ({"runtime.txt": "python-3.11.x\n"}, "==3.11.*"),
        ({"runtime.txt": "pypy3.9-7.3\n"}, ""),
        ({"runtime.txt": "python-3.9.1", "pyproject.toml": '[project]\nrequires-python = ">=3.12"\n'}, ">=3.12"),
    ],
)
def test_python_version_is_read_from_the_source(tmp_path, files, versions):
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
def test_version_is_compared_with_the_requirement(version, versions, fit):
    assert fits(version, versions, "django_python") is fit


def test_invalid_version_specifier_is_refused():
    with pytest.raises(StepError, match="set django_python"):
        fits("3.11.2", "three", "django_python")


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


def test_pyproject_gives_requested_groups_and_extras(tmp_path):
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
def test_unknown_group_is_refused_with_the_known_groups(tmp_path, wish, said):
    path = write(tmp_path, pyproject__toml=PYPROJECT) / "pyproject.toml"
    with pytest.raises(StepError, match=said):
        requirements_of(path, wish)


def test_requirements_file_has_no_groups(tmp_path):
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


def test_poetry_lock_gives_groups_extras_and_indexes(tmp_path):
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


def test_pipfile_lock_gives_categories_and_indexes(tmp_path):
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
        (
            {"pyproject__toml": '[project]\nname = "a"\n[[tool.pdm.source]]\nurl = "https://packages.example.com"\n'},
            "Run pdm export --prod -o requirements.txt",
        ),
        (
            {"pyproject__toml": '[project]\nname = "a"\ndependencies = ["django"]\n', "pdm__lock": ""},
            "the versions in pdm.lock are for PDM alone",
        ),
        (
            {"pyproject__toml": '[project]\nname = "a"\n', "pdm__lock": ""},
            "or set django_requirements to pyproject.toml",
        ),
        ({"README": ""}, "Write a requirements.txt"),
        ({"requirements-dev__txt": ""}, "the one that is meant: requirements-dev.txt"),
    ],
)
def test_unlocked_and_unsupported_requirements_are_refused(tmp_path, files, said):
    write(tmp_path, **files)
    with pytest.raises(StepError) as refused:
        find_requirements(tmp_path, tmp_path, "")
    assert said in str(refused.value)


HEAD = '[project]\nname = "a"\ndependencies = ["own"]\n'


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"pyproject__toml": f'{HEAD}[tool.uv]\nindex-url = "x"\n'}, "pyproject.toml says in tool.uv.index-url where"),
        ({"pyproject__toml": f'{HEAD}[tool.uv]\nfind-links = ["x"]\n'}, "tool.uv.find-links"),
        ({"pyproject__toml": f'{HEAD}[tool.uv.pip]\nextra-index-url = ["x"]\n'}, "tool.uv.extra-index-url"),
        ({"pyproject__toml": HEAD, "uv__toml": 'extra-index-url = ["x"]\n'}, "uv.toml says in extra-index-url where"),
        ({"pyproject__toml": HEAD, "uv__toml": '[[index]]\nurl = "x"\n'}, "uv.toml says in index where"),
    ],
)
def test_indexes_that_pip_does_not_read_are_refused(tmp_path, files, said):
    web = tmp_path / "web"
    web.mkdir()
    write(tmp_path, **files)
    path = find_requirements(tmp_path, tmp_path, "")
    with pytest.raises(StepError, match=said.replace(".", r"\.")):
        refuse_indexes_of_uv(path, tmp_path, set())
    # uv reads them in the folders above, too.
    write(web, pyproject__toml=HEAD)
    with pytest.raises(StepError):
        refuse_indexes_of_uv(web / "pyproject.toml", tmp_path, set())
    refuse_indexes_of_uv(path, tmp_path, {"PIP_EXTRA_INDEX_URL"})


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("pyproject.toml", {"pyproject__toml": f"{HEAD}[tool.uv]\nmanaged = true\n"}),
        # A file of pip's own says by itself where packages come from.
        ("requirements.txt", {"requirements__txt": "own\n", "uv__toml": 'index-url = "x"\n'}),
        ("poetry.lock", {"poetry__lock": "", "uv__toml": 'index-url = "x"\n'}),
    ],
)
def test_requirements_that_pip_reads_are_accepted(tmp_path, name, files):
    refuse_indexes_of_uv(write(tmp_path, **files) / name, tmp_path, set())


def test_python_constraint_is_not_a_package(tmp_path):
    text = '[project]\nname = "a"\n[tool.poetry.dependencies]\npython = "^3.11"\n'
    write(tmp_path, pyproject__toml=text)
    assert find_requirements(tmp_path, tmp_path, "") == tmp_path / "pyproject.toml"


def test_lock_above_manage_py_is_found_with_its_member(tmp_path):
    web = tmp_path / "services/web/src"
    web.mkdir(parents=True)
    write(tmp_path, uv__lock="", pyproject__toml="[tool.uv.workspace]\nmembers = ['services/*']\n")
    write(web.parent, pyproject__toml='[project]\nname = "web"\n')
    lock = find_requirements(web, tmp_path, "")
    assert lock == tmp_path / "uv.lock"
    assert find_member(lock, web) == web.parent
    before = read_inputs(lock, Wish(), web)
    write(web.parent, pyproject__toml='[project]\nname = "web"\ndependencies = ["django"]\n')
    assert read_inputs(lock, Wish(), web) != before


def test_workspace_member_uses_the_lock_of_its_root(tmp_path):
    web = tmp_path / "services/web"
    web.mkdir(parents=True)
    write(tmp_path, uv__lock="", pyproject__toml="[tool.uv.workspace]\nmembers = ['services/*']\n")
    write(web, pyproject__toml='[project]\nname = "web"\ndependencies = ["django"]\n')
    assert find_requirements(web, tmp_path, "") == tmp_path / "uv.lock"


def test_lock_of_a_foreign_project_above_is_passed_over(tmp_path):
    (tmp_path / "backend").mkdir()
    write(tmp_path, uv__lock="", pyproject__toml='[project]\nname = "tooling"\n')
    backend = write(tmp_path / "backend", pyproject__toml='[project]\nname = "web"\ndependencies = ["django"]\n')
    assert find_requirements(backend, tmp_path, "") == backend / "pyproject.toml"
    write(backend, pyproject__toml='[project]\nname = "web"\n')
    assert find_member(find_requirements(backend, tmp_path, ""), backend) == tmp_path


def test_nearest_folder_comes_before_the_order_of_names(tmp_path):
    (tmp_path / "backend").mkdir()
    write(tmp_path, uv__lock="", pyproject__toml='[project]\nname = "tooling"\n')
    backend = write(tmp_path / "backend", requirements__txt="django\n")
    assert find_requirements(backend, tmp_path, "") == backend / "requirements.txt"


def test_pyproject_yields_to_a_lock_above_it(tmp_path):
    (tmp_path / "backend").mkdir()
    write(tmp_path, Pipfile__lock="{}")
    backend = write(tmp_path / "backend", pyproject__toml='[project]\nname = "a"\ndependencies = ["django"]\n')
    assert find_requirements(backend, tmp_path, "") == tmp_path / "Pipfile.lock"


def test_pyproject_without_dependencies_yields_unless_requested(tmp_path):
    (tmp_path / "web").mkdir()
    write(tmp_path, requirements__txt="django\n")
    web = write(tmp_path / "web", pyproject__toml='[project]\nname = "a"\n[dependency-groups]\nprod = ["django"]\n')
    assert find_requirements(web, tmp_path, "") == tmp_path / "requirements.txt"
    assert find_requirements(web, tmp_path, "", Wish(groups=("prod",))) == web / "pyproject.toml"


POETRY_1_PROJECT = """
[tool.poetry.dependencies]
python = "^3.9"
celery = {version = "^5", extras = ["redis"]}
django = [{version = "~4.2", python = "<3.10"}, {version = "~5.1", python = ">=3.10"}]
drf = "*"
psycopg = {version = "^3", optional = true}
lab = {path = "libs/lab", develop = true}

[tool.poetry.group.prod.dependencies]
gunicorn = {version = "*", markers = "sys_platform != 'win32'"}

[tool.poetry.group.dev.dependencies]
pytest = "*"
"""

POETRY_1 = """
[[package]]
name = "celery"
version = "5.6"
optional = false
[package.dependencies]
click = ">=8"
redis = {version = ">=4", optional = true, markers = "extra == \\"redis\\""}
tzdata = {version = "*", markers = "python_version < '3.9'"}
boto = {version = "*", optional = true, markers = "extra == \\"sqs\\""}

[[package]]
name = "boto"
version = "1.0"
optional = true

[[package]]
name = "click"
version = "8.1"
optional = false
[package.dependencies]
colorama = {version = "*", markers = "platform_system == \\"Windows\\""}

[[package]]
name = "colorama"
version = "0.4"
optional = false

[[package]]
name = "django"
version = "4.2"
optional = false
python-versions = ">=3.8"
[package.dependencies]
sqlparse = ">=0.3"
tzdata = {version = "*", markers = "sys_platform == 'win32'"}

[[package]]
name = "django"
version = "5.1"
optional = false
python-versions = ">=3.10"
[package.dependencies]
sqlparse = ">=0.3"

[[package]]
name = "drf"
version = "3.16"
optional = false
[package.dependencies]
django = ">=4"
pytz = "*"

[[package]]
name = "gunicorn"
version = "23.0"
optional = false

[[package]]
name = "lab"
version = "1.0"
optional = false
develop = true
[package.source]
type = "directory"
url = "libs/lab"

[[package]]
name = "psycopg"
version = "3.2"
optional = true

[[package]]
name = "pytest"
version = "8.0"
optional = false

[[package]]
name = "pytz"
version = "2025.1"
optional = false
[package.dependencies]
drf = "*"

[[package]]
name = "redis"
version = "6.4"
optional = true
files = [{file = "r", hash = "sha256:aa"}]

[[package]]
name = "sqlparse"
version = "0.5"
optional = false
python-versions = ">=3.8"

[[package]]
name = "sqlparse"
version = "0.6"
optional = false
python-versions = ">=3.10"

[[package]]
name = "tzdata"
version = "2025.2"
optional = false

[extras]
post_gres = ["psycopg"]

[metadata]
lock-version = "2.0"
"""


def test_poetry_1_lock_is_walked_from_its_pyproject(tmp_path):
    path = write(tmp_path, pyproject__toml=POETRY_1_PROJECT, poetry__lock=POETRY_1) / "poetry.lock"
    assert requirements_of(path).splitlines() == [
        "celery==5.6",
        "click==8.1",
        'colorama==0.4 ; platform_system == "Windows"',
        'django==4.2 ; python_version < "3.10"',
        'django==5.1 ; python_version >= "3.10"',
        "drf==3.16",
        f"-e {tmp_path}/libs/lab",
        "pytz==2025.1",
        'redis==6.4 ; python_version >= "3" \\',
        "    --hash=sha256:aa",
        # Both fulfil what both versions of Django require: the newest that supports the Python.
        'sqlparse==0.5 ; python_version < "3.10" and python_version >= "3.8"',
        'sqlparse==0.6 ; python_version >= "3.10"',
        # Several ways lead to one package.
        "tzdata==2025.2 ; (python_version < \"3.10\" and sys_platform == 'win32') or python_version < '3.9'",
    ]


def test_poetry_1_groups_and_extras_are_added_on_request(tmp_path):
    path = write(tmp_path, pyproject__toml=POETRY_1_PROJECT, poetry__lock=POETRY_1) / "poetry.lock"
    lines = requirements_of(path, Wish(("prod",), ("post-gres",))).splitlines()
    assert "gunicorn==23.0 ; sys_platform != 'win32'" in lines
    assert "psycopg==3.2" in lines
    with pytest.raises(StepError, match="has no group qa; it has dev, main, prod"):
        requirements_of(path, Wish(groups=("qa",)))


def test_poetry_1_lock_without_its_pyproject_is_refused(tmp_path):
    path = write(tmp_path, poetry__lock=POETRY_1) / "poetry.lock"
    with pytest.raises(StepError, match=r"no pyproject\.toml beside it has \[tool\.poetry\.dependencies\]"):
        requirements_of(path)


@pytest.mark.parametrize(
    ("constraint", "version", "allowed"),
    [
        ("^1.2", "1.9.3", True),
        ("^1.2", "2.0", False),
        ("^0.2.3", "0.3.0", False),
        ("^0.0.3", "0.0.3", True),
        ("~1.2", "1.3", False),
        ("~1", "1.3", True),
        ("~=1.2.1", "1.2.9", True),
        ("~=1.2.1", "1.3", False),
        (">=3.2,<4.0.dev0 || >4.1", "4.2", True),
        (">=1.2,!=1.3", "1.3.0", False),
        ("1.2.*", "1.2.7", True),
        ("1.2", "1.2.0", True),
        ("*", "9", True),
    ],
)
def test_poetry_constraint_admits_a_version(constraint, version, allowed):
    assert allows(constraint, version) is allowed


@pytest.mark.parametrize(
    ("constraint", "marker"),
    [
        ("*", ""),
        ("^3.9", 'python_version >= "3.9" and python_version < "4"'),
        ("3.11.*", 'python_full_version == "3.11.*"'),
        (
            ">=3.8,<3.9.7 || >3.9.7",
            '(python_version >= "3.8" and python_full_version < "3.9.7") or python_full_version > "3.9.7"',
        ),
    ],
)
def test_poetry_constraint_on_python_is_a_marker(constraint, marker):
    assert python_marker(constraint) == marker


def poetry_source(name: str, source: str) -> str:
    return f"""
[[package]]
name = "{name}"
version = "1.0"
groups = ["main"]
[package.source]
{source}
"""


@pytest.mark.parametrize(
    ("source", "line"),
    [
        (
            'type = "git"\nurl = "git@github.com:me/a.git"\nresolved_reference = "abc"\nsubdirectory = "lib"',
            "a @ git+ssh://git@github.com/me/a.git@abc#subdirectory=lib",
        ),
        (
            'type = "git"\nurl = "ssh://git@example.com:22/a.git"\nresolved_reference = "abc"',
            "a @ git+ssh://git@example.com:22/a.git@abc",
        ),
        (
            'type = "url"\nurl = "https://example.com/a.zip"\nsubdirectory = "lib"',
            "a @ https://example.com/a.zip#subdirectory=lib",
        ),
        ('type = "directory"\nurl = "../a"', "a @ file://{parent}/a"),
        ('type = "file"\nurl = "wheels/a.whl"', "a @ file://{folder}/wheels/a.whl"),
    ],
)
def test_poetry_sources_are_named_in_full(tmp_path, source, line):
    path = write(tmp_path, poetry__lock=poetry_source("a", source)) / "poetry.lock"
    assert requirements_of(path) == line.format(folder=tmp_path, parent=tmp_path.parent) + "\n"


@pytest.mark.parametrize(
    ("package", "line"),
    [
        ({"path": "./libs/a", "editable": True, "extras": ["x", "y"]}, "-e {folder}/libs/a[x,y]"),
        ({"path": ".", "editable": True, "markers": "python_version >= '3.9'"}, "{folder} ; python_version >= '3.9'"),
        ({"file": "https://example.com/a.zip", "extras": ["x"]}, "a[x] @ https://example.com/a.zip"),
        ({"git": "git@github.com:me/a.git", "ref": "abc"}, "a @ git+ssh://git@github.com/me/a.git@abc"),
        (
            {"git": "https://example.com/a.git", "ref": "abc", "subdirectory": "lib", "extras": ["x"]},
            "a[x] @ git+https://example.com/a.git@abc#subdirectory=lib",
        ),
    ],
)
def test_pipfile_sources_are_named_in_full(tmp_path, package, line):
    path = write(tmp_path, Pipfile__lock=json.dumps({"default": {"a": package}})) / "Pipfile.lock"
    assert requirements_of(path) == line.format(folder=tmp_path) + "\n"


@pytest.mark.parametrize(("package", "cause"), [({"hg": "https://x"}, "a comes from hg"), ({}, "a has no version")])
def test_pipfile_entry_without_version_is_refused(tmp_path, package, cause):
    path = write(tmp_path, Pipfile__lock=json.dumps({"default": {"a": package}})) / "Pipfile.lock"
    with pytest.raises(StepError, match=cause):
        requirements_of(path)


def test_pyproject_without_project_is_refused(tmp_path):
    path = write(tmp_path, pyproject__toml='[dependency-groups]\nprod = ["django"]\n') / "pyproject.toml"
    with pytest.raises(StepError, match=r"has no \[project\]"):
        requirements_of(path)
    assert requirements_of(path, Wish(groups=("prod",))) == "django\n"


def test_extra_naming_the_project_itself_is_expanded(tmp_path):
    text = """
[project]
name = "My_Shop"
dependencies = ["django"]
[project.optional-dependencies]
postgres = ["psycopg ; python_version > '3'"]
"image.files" = ["pillow", "my-shop[all]"]
all = ["my.shop[postgres, Image-Files] ; sys_platform == 'linux'", "my-shop-theme"]
[dependency-groups]
Prod_Server = ["gunicorn", "my-shop[postgres]"]
deploy = [{include-group = "prod-server"}]
"""
    path = write(tmp_path, pyproject__toml=text) / "pyproject.toml"
    assert requirements_of(path, Wish(("deploy",), ("All",))).splitlines() == [
        "django",
        "psycopg ; python_version > '3' and sys_platform == 'linux'",
        "pillow ; sys_platform == 'linux'",
        # By way of itself; each extra once on each way.
        "psycopg ; python_version > '3' and sys_platform == 'linux' and sys_platform == 'linux'",
        "my-shop-theme ; sys_platform == 'linux'",
        "my-shop-theme",
        "gunicorn",
        "psycopg ; python_version > '3'",
    ]


@pytest.mark.parametrize(
    ("line", "folder"),
    [
        ("-e .", "."),
        ("--editable=./libs/lab[x]", "."),
        ("./libs/lab ; python_version > '3'", "."),
        ("lab @ file:./libs/lab", "."),
        ("-e ../lab", "requirements"),
        ("-r more.txt", "."),
        ("-e ./gone", "requirements"),
        ("django", "web"),
        ("-e git+https://example.com/a.git#egg=a", "web"),
        ("-e /srv/a", "web"),
        ("a.b==1.0  # see ./libs", "web"),
        ("-e ./plugin", "web"),
    ],
)
def test_relative_paths_start_at_the_folder_where_they_exist(tmp_path, line, folder):
    for name in (".", "libs/lab", "web/plugin", "lab"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / name / "setup.py").touch()
    (tmp_path / "requirements").mkdir()
    write(tmp_path / "requirements", production__txt=f"{line}\n", more__txt="-e ./libs/lab\n")
    base = find_base(tmp_path / "requirements/production.txt", tmp_path / "web", tmp_path)
    assert base == tmp_path / folder


POETRY_ROOT = '[tool.poetry]\nname = "my-shop"\n{more}\n[build-system]\nrequires = []\n'
FROM_LIB = 'packages = [{include = "shop", from = "lib"}]'


@pytest.mark.parametrize(
    ("text", "package", "project", "installed"),
    [
        (POETRY_ROOT.format(more=FROM_LIB), "lib/shop", ".", True),
        (POETRY_ROOT.format(more=FROM_LIB), "lib/shop", "lib", False),
        (POETRY_ROOT.format(more='packages = [{include = "shop"}]'), "src/my_shop", ".", False),
        (POETRY_ROOT.format(more=""), "src/my_shop", ".", True),
        (POETRY_ROOT.format(more=""), "src/my_shop", "src", False),
        (POETRY_ROOT.format(more=""), "src/other", ".", False),
        (POETRY_ROOT.format(more=""), "my_shop", ".", False),
        (POETRY_ROOT.format(more="package-mode = false"), "src/my_shop", ".", False),
        ('[tool.poetry]\nname = "my-shop"\n', "src/my_shop", ".", False),
        ('[project]\nname = "my-shop"\n[build-system]\nrequires = []\n', "src/my_shop", ".", True),
    ],
)
def test_poetry_root_is_installed_when_out_of_reach(tmp_path, text, package, project, installed):
    (tmp_path / package).mkdir(parents=True)
    path = write(tmp_path, pyproject__toml=text, poetry__lock="") / "poetry.lock"
    assert find_root_package(path, tmp_path / project) == (tmp_path if installed else None)
    # Its code is not what the lock says.
    assert (read_inputs(path, Wish(), tmp_path / project) is None) is installed
