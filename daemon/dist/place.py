#!/usr/bin/env python3
"""Copies a built diptych and the libtorch that it is linked against into one folder, from which it runs by itself.

The build's binary names the cache as the place of its libraries (RUNPATH), which another user cannot read, and which must not
decide what root runs. The copy names its own folder: $ORIGIN, written over the longer path, so nothing in the file moves.
CUDA's libraries come along where trainer/setup/setup.py fetched them beside libtorch. Files are replaced, never written into:
a service that still runs keeps those that it has open.

Run by make install; by hand: python3 daemon/dist/place.py target/release/diptych FOLDER
"""
import os
import pathlib
import re
import shutil
import subprocess
import sys

HERE = b"$ORIGIN"


def stop(text):
    sys.exit(f"install: {text}")


def put(target, mode, write):
    unfinished = target.with_name(target.name + ".incomplete")
    write(unfinished)
    unfinished.chmod(mode)
    os.replace(unfinished, target)


def runpath(binary):
    printed = subprocess.run(["readelf", "-d", str(binary)], capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
    found = re.search(r"\((?:RUNPATH|RPATH)\).*\[(.*)\]", printed.stdout)
    if found is None:
        stop(f"{binary} does not say where its libtorch is: is it what `make build` made?")
    return found.group(1)


def with_runpath_here(content, old):
    """The file's bytes with its RUNPATH replaced: a string in the table of names, with a zero on either side."""
    old = old.encode()
    if old == HERE:
        return content
    places = [match.start() for match in re.finditer(re.escape(b"\0" + old + b"\0"), content)]
    if len(places) != 1 or len(old) < len(HERE):
        stop(f"the RUNPATH {old.decode()!r} cannot be replaced: build with LIBTORCH in a folder of a longer name")
    at = places[0] + 1
    return content[:at] + HERE.ljust(len(old), b"\0") + content[at + len(old):]


def main():
    if len(sys.argv) != 3:
        stop("wants a binary and a folder")
    binary, folder = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2])
    if not binary.is_file():
        stop(f"{binary} is not there: run `make build` first, as the user who has Rust")
    path = runpath(binary)
    libraries = [pathlib.Path(part.replace("$ORIGIN", str(binary.parent))) for part in path.split(":")]
    libtorch = next((place for place in libraries if (place / "libtorch_cpu.so").is_file()), None)
    if libtorch is None:
        stop(f"libtorch_cpu.so is not in {path}, where {binary} looks for it: run `make build` again")
    folder.mkdir(parents=True, exist_ok=True)
    cuda = libtorch.parent.with_name(libtorch.parent.name + "-cuda")
    for source in [*libtorch.iterdir(), *(cuda.iterdir() if cuda.is_dir() else [])]:
        if ".so" in source.name and source.is_file():
            put(folder / source.name, 0o644, lambda to: shutil.copyfile(source, to))
    content = with_runpath_here(binary.read_bytes(), path)
    put(folder / "diptych", 0o755, lambda to: to.write_bytes(content))


if __name__ == "__main__":
    main()
