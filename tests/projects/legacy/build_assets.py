"""What a Sass compiler would do."""

from pathlib import Path

import django  # noqa: F401  # It is built with the project's packages at hand.

TOP = Path(__file__).parent
(TOP / "build").mkdir(exist_ok=True)
variable, _, rules = (TOP / "assets/theme.txt").read_text().partition(";")
name, _, value = variable.partition(":")
(TOP / "build/theme.css").write_text(rules.replace(name.strip(), value.strip()))
