"""Fails when the package promises a compiler older than one of its dependencies needs.

Reads `cargo metadata --format-version 1` on standard input.
"""

import json
import sys


def version(text: str) -> tuple[int, ...]:
    numbers = tuple(int(number) for number in text.split("."))
    return numbers + (0,) * (3 - len(numbers))


metadata = json.load(sys.stdin)
resolved = {node["id"] for node in metadata["resolve"]["nodes"]}
own = set(metadata["workspace_members"])
packages = [package for package in metadata["packages"] if package["id"] in resolved]
needed = [
    (version(package["rust_version"]), package["name"], package["version"])
    for package in packages
    if package["id"] not in own and package["rust_version"]
]
newest = max(needed)
wrong = False
for package in packages:
    if package["id"] not in own:
        continue
    promised = package["rust_version"]
    print(f"{package['name']} promises {promised}; {newest[1]} {newest[2]} needs {'.'.join(map(str, newest[0]))}")
    if promised is None or version(promised) < newest[0]:
        wrong = True
if wrong:
    sys.exit("msrv: raise rust-version in Cargo.toml, or take an older version of that dependency")
