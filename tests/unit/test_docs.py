# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The documentation, as far as a program can read it."""

from __future__ import annotations

import ast
import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from ansible import context
from ansible.cli.playbook import PlaybookCLI
from ansible_collections.django_vps.stack.plugins.plugin_utils.engine import OF_PLAYBOOKS
from ansible_collections.django_vps.stack.plugins.plugin_utils.role_specs import read_specs, roles

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("roles/*/README.md"), ROOT / "benchmarks/README.md"]


PREFIXES = "|".join(roles())


def anchors(page: Path) -> set[str]:
    """The anchors of the headings, as forges make them, and those of the page's own."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    made = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return made | set(re.findall(r'<a id="([\w-]+)">', page.read_text()))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"\w+:", target):
            continue
        path, _sign, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/*.md")), ids=lambda page: page.name)
def test_every_page_is_reached_from_the_readme(page):
    assert f"(docs/{page.name})" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/*.md")), ids=lambda page: page.name)
def test_every_page_is_on_the_map(page):
    assert page.name == "index.md" or f"({page.name})" in (ROOT / "docs/index.md").read_text()


def code_of(page: Path) -> list[str]:
    """What is code on a page: lines of blocks, and spans."""
    text = page.read_text()
    fenced = re.compile(r"^ *```\w*$(.*?)^ *```$", re.MULTILINE | re.DOTALL)
    blocks = [line for block in fenced.findall(text) for line in block.splitlines()]
    rest = fenced.sub("", text)
    return [*blocks, *re.findall(r"^ {4,}(.*)$", rest, re.MULTILINE), *re.findall(r"`([^`\n]+)`", rest)]


#: What the inventory and the command line can set, and what roles derive from it for others.
VARIABLES = {
    *read_specs(),
    *OF_PLAYBOOKS,
    *(
        name
        for file in ROOT.glob("roles/*/vars/main.yml")
        for name in yaml.safe_load(file.read_text())
        if name[0] != "_"
    ),
}
COMMAND = re.compile(r"ansible-playbook +(-?[^#|]*)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_playbook_commands_exist(page):
    for command in (found[1] for line in code_of(page) if (found := COMMAND.match(line.removeprefix("$ ")))):
        # Ansible's parser ends with an error at an option that does not exist.
        PlaybookCLI(["ansible-playbook", *shlex.split(command)]).parse()
        for playbook in context.CLIARGS["args"]:
            name = playbook.removeprefix("django_vps.stack.")
            assert (ROOT / (playbook if name == playbook else f"playbooks/{name}.yml")).is_file(), command
        for given in context.CLIARGS["extra_vars"]:
            names = json.loads(given) if given.startswith("{") else [given.partition("=")[0]]
            assert set(names) <= VARIABLES, command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_names_in_code_of_the_docs_exist(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in code_of(page):
        for target in re.findall(r"^make ([a-z-]+)", line):
            assert target in targets, line
        for scenario in re.findall(r"\bSCENARIO=(\w+)", line):
            assert scenario == "name" or (ROOT / "molecule" / scenario).is_dir(), line
        for tool in re.findall(r"^((?:tools|tests|benchmarks|playbooks)/[\w/.-]+)", line):
            assert (ROOT / tool).exists(), line
        for name in re.findall(r"-e (\w+)=", line):
            assert name in VARIABLES, line
        for name in re.findall(rf"(?<![\w/.-])(?:{PREFIXES})_[a-z_]+\b(?![*/.-])", line):
            assert name in VARIABLES, line


#: What has the form of a variable's name, and is another one's.
OTHER_NAMES = {
    *("django_vps", "postgres_upgrade", "host_vars"),
    # Types of values, and facts of a host.
    *("postgres_name", "valkey_url", "nginx_sites", "valkey_password"),
    # django_groups or django_extras.
    "django_{kind}",
}


@pytest.mark.parametrize(
    "file",
    [file for part in ("plugins/[amp]*/*.py", "roles/*/files/*.py") for file in sorted(ROOT.glob(part))],
    ids=lambda file: str(file.relative_to(ROOT)),
)
def test_names_in_strings_of_the_code_exist(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str)):
            text = ast.unparse(node).replace("\\n", " ") if isinstance(node, ast.JoinedStr) else node.value
            named = re.findall(rf"(?<![\w/.{{-])(?:{PREFIXES})_[a-z_{{}}]+(?![*/\w-]|\.\w)", text)
            assert set(named) <= VARIABLES | OTHER_NAMES, text


def flattened(files: list[Path]) -> str:
    """The code with strings that go on in the next line joined."""
    text = " ".join(file.read_text() for file in files if file.is_file())
    return re.sub(r"\s+", " ", re.sub(r'"\s*\n\s*f?"', "", text))


#: Parts of messages that are made of several strings, or that another program prints.
COMPOSED = {"problems in the inventory", "belongs to site", "too many certificates", "No such file or directory"}


def test_troubleshooting_has_messages_that_are_printed():
    parts = (
        "plugins/**/*.py",
        "playbooks/**/*.yml",
        "roles/*/tasks/*.yml",
        "roles/*/vars/*.yml",
        "roles/*/templates/*",
        "roles/*/files/*.py",
    )
    code = flattened([file for part in parts for file in ROOT.glob(part)])
    rows = re.findall(r"^\| (.*?) \|", (ROOT / "docs/troubleshooting.md").read_text(), re.MULTILINE)
    messages = [message for row in rows for message in re.findall("`([^`]+)`", row)]
    # Capitals and numbers stand for what differs.
    pieces = [
        piece.strip(" !") for text in messages for piece in re.split(r"…|\b[A-Z][A-Z0-9]*\b|\d[\w.]*|[():,;']", text)
    ]
    assert [piece for piece in pieces if piece.count(" ") > 1 and piece not in code and piece not in COMPOSED] == []


def test_troubleshooting_has_each_step():
    code = flattened([*ROOT.glob("plugins/module*/*.py")])
    steps = set(re.findall(r'(?:StepError|\brun|sandboxed|ask_project)\( ?"([a-z]+)"', code))
    assert len(steps) > 15
    # A message ends with a link to the section of its step.
    assert steps - anchors(ROOT / "docs/troubleshooting.md") == set()


def test_messages_link_to_sections_of_troubleshooting():
    files = [
        file for part in ("plugins/**/*.py", "playbooks/**/*.yml", "roles/*/tasks/*.yml") for file in ROOT.glob(part)
    ]
    code = "\n".join(file.read_text() for file in files)
    links = set(re.findall(r"docs/troubleshooting\.md#([\w-]+)|\brefer\([\"']([\w-]+)[\"']\)", code))
    sections = {"".join(link) for link in links} | {"inventory", "source"}
    assert len(sections) > 5
    assert sections - anchors(ROOT / "docs/troubleshooting.md") == set()


def test_messages_link_to_sections_of_other_pages():
    code = "\n".join(file.read_text() for file in ROOT.glob("plugins/**/*.py"))
    links = set(re.findall(r"docs/([\w-]+\.md)#([\w-]+)", code))
    assert links
    assert {link for link in links if link[1] not in anchors(ROOT / "docs" / link[0])} == set()


CODE = ("roles/*/*/*", "playbooks/**/*.yml", "plugins/**/*.py", "inventories/**/*", "examples/**/*", "tools/*")
TEXTS = [*PAGES, *(path for part in CODE for path in sorted(ROOT.glob(part)) if path.is_file())]
#: Words for which docs/glossary.md or the manual of the tool has a term.
OLD_WORDS = re.compile(
    r"\b(somebody|nobody|whoever|meanwhile|mend(s|ed|ing)?|colleagues?|followers?|(who|which) guess(es)?|who scans"
    r"|hears? of|let (nobody|another one)|one to start with|the release before|whole release|second pair of eyes"
    r"|comes? in as|would believe|unprotected line|a whole number|is no name of|ask for so often)\b",
    re.IGNORECASE,
)
#: In docs/ and the README also these, which other texts, and so variables.md, still have.
OLD_WORDS_OF_DOCS = re.compile(
    r"\b(the one before|takes? the writes|believed|on whose behalf|under way|in force|took back|taken back"
    r"|goes on serving|vouches|obeyed|for ever|ought to|comes to)\b",
    re.IGNORECASE,
)
#: Where old words are quoted, or are names.
QUOTED = {
    "docs/glossary.md": r"\| [^|]* \|$",
    "docs/troubleshooting.md": "`[^`]*`",
    "docs/project.md": "^    .*$",
    # A user of Debian.
    "plugins/plugin_utils/system_types.py": " nobody$",
}


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: str(text.relative_to(ROOT)))
def test_words_are_the_terms_of_the_glossary(text):
    name = str(text.relative_to(ROOT))
    prose = re.sub(QUOTED[name], "", text.read_text(), flags=re.MULTILINE) if name in QUOTED else text.read_text()
    assert not OLD_WORDS.findall(prose)
    if name == "README.md" or (name.startswith("docs/") and name != "docs/variables.md"):
        assert not OLD_WORDS_OF_DOCS.findall(prose)


@pytest.mark.parametrize("example", sorted(ROOT.glob("examples/*.yml")), ids=lambda example: example.name)
def test_example_uses_a_command_of_the_deployer(example):
    yaml.safe_load(example.read_text())
    command = re.search(r"git archive --format=tar\.gz HEAD \| ssh .*\bshop-deploy@\S+ (\w+) \S+$", flat(example), re.M)
    assert command[1] == "deploy"
    assert f"({example.relative_to(ROOT)})" in (ROOT / "docs/deploy.md").read_text().replace("../", "")


def flat(example: Path) -> str:
    """The text with folded lines joined."""
    return re.sub(r"\n\s+(?=shop-deploy@)", " ", example.read_text())


@pytest.mark.parametrize("form", ["bug", "project"])
def test_issue_form_is_complete(form):
    fields = yaml.safe_load((ROOT / f".github/ISSUE_TEMPLATE/{form}.yml").read_text())
    assert {"name", "description", "body"} <= set(fields)
    inputs = [field for field in fields["body"] if field["type"] != "markdown"]
    assert {"inventory", "versions"} <= {field["id"] for field in inputs}
    assert all(field["attributes"]["label"] for field in inputs)
    pages = re.findall(r"\b[\w/]+\.md\b", str(fields))
    assert pages
    assert all((ROOT / page).is_file() for page in pages)


def numbers(version: str) -> list[int]:
    return [int(number) for number in version.split(".")]


def test_version_is_the_same_everywhere():
    version = yaml.safe_load((ROOT / "galaxy.yml").read_text())["version"]
    assert re.search(r"^## v(\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1] == version
    known = list(yaml.safe_load((ROOT / "changelogs/changelog.yaml").read_text())["releases"])
    for module in ROOT.glob("plugins/modules/*.py"):
        known += re.findall(r"^version_added: (\S+)$", module.read_text(), re.MULTILINE)
    assert max(map(numbers, known)) <= numbers(version)
