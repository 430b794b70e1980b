"""Writes the licences of the crates that the program links.

Reads what `cargo metadata` prints from standard input. A crate without a licence file is named
with what its manifest says.
"""

import json
import pathlib
import sys

metadata = json.load(sys.stdin)
packages = {package["id"]: package for package in metadata["packages"]}
nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}

waiting, linked = [metadata["resolve"]["root"]], set()
while waiting:
    crate = waiting.pop()
    if crate in linked:
        continue
    linked.add(crate)
    for dependency in nodes[crate]["deps"]:
        if any(kind["kind"] is None for kind in dependency["dep_kinds"]):
            waiting.append(dependency["pkg"])

print("katari links these crates, and Rust's standard library (MIT OR Apache-2.0).")
for package in sorted((packages[crate] for crate in linked), key=lambda p: (p["name"], p["version"])):
    if package["source"] is None:  # ours
        continue
    licence = package["license"] or package["license_file"]
    print(f"\n{'=' * 78}\n{package['name']} {package['version']}: {licence}")
    if package["repository"]:
        print(package["repository"])
    folder = pathlib.Path(package["manifest_path"]).parent
    for file in sorted(folder.iterdir()):
        if file.is_file() and file.name.upper().startswith(("LICEN", "COPYING", "NOTICE", "UNLICENSE")):
            print(f"\n--- {file.name}\n")
            print(file.read_text(encoding="utf-8", errors="replace").strip())
