# Copyright: the django_vps.stack authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Let links that leave docs/ lead to the repository, because the mkdocs site has only the pages of docs/."""

import re


def on_page_markdown(markdown: str, config, **_options) -> str:
    return re.sub(r"\]\(\.\./", f"]({config.repo_url.rstrip('/')}/blob/main/", markdown)
