"""Print the requirements of pgembed-kit with some extras, one a line.

So that the image's packages are a layer that changes with pyproject.toml and
constraints.txt only, and not with every edit of the code.

    python requirements.py encoder,api
"""

import sys
import tomllib
from pathlib import Path

with Path("pyproject.toml").open("rb") as file:
    project = tomllib.load(file)["project"]
extras = project["optional-dependencies"]
wanted = list(project["dependencies"])
for name in filter(None, sys.argv[1].split(",")):
    if name not in extras:
        sys.exit(f"pgembed-kit has no extra {name!r}; it has: {', '.join(extras)}")
    wanted += extras[name]
print("\n".join(wanted))
