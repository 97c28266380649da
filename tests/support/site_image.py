"""Make an image of a bare server on which site.yml has just built the test site; tools/setup calls this.

    python -m support.site_image SUITE IMAGE RECIPE

It also writes the state of the host before the shutdown to .cache/site-SUITE.state.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from .host import ROOT, Failed, Host, run


def main(suite: str, image: str, recipe: str) -> None:
    # A signal must remove the containers too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with Host("build", ROOT / ".cache", suite) as host:
        host.playbook(f"site-{suite}")
        state = host.state()
        host.disconnect()
        run("docker", "stop", "--time", "60", host.container)
        # Without a state tools/setup builds again, so the new image never has the state of the old one.
        state_file(suite).unlink(missing_ok=True)
        run("docker", "commit", "--change", f"LABEL django-vps.recipe={recipe}", host.container, image)
    state_file(suite).write_text("\n".join(state))


def state_file(suite: str) -> Path:
    return ROOT / f".cache/site-{suite}.state"


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Failed as error:
        sys.exit(f"error: {error}")
