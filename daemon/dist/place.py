#!/usr/bin/env python3
"""Copies a built diptych, its library over libtorch, and libtorch into one folder, where it runs by itself.

The build's binary names libdiptych_torch.so in the build's folder, and that library names the cache as
the place of libtorch (RUNPATH). Other users cannot read either place, and neither must decide what root
runs. So the copies name their own folder instead: $ORIGIN is written over the longer path, and nothing in
the files moves. Symbols and line tables, half of the binary, stay in the build's folder; panic messages
name their place in the source without them.
CUDA's libraries are copied too if trainer/setup/setup.py fetched them next to libtorch. Files are
replaced and never written into, so a running service keeps the files that it has open.

`make install` runs this. By hand: python3 daemon/dist/place.py target/release/diptych FOLDER
"""
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

HERE = b"$ORIGIN"
SECTION = ".diptych_torch"


def stop(text):
    sys.exit(f"install: {text}")


def put(target, mode, write):
    unfinished = target.with_name(target.name + ".incomplete")
    write(unfinished)
    unfinished.chmod(mode)
    os.replace(unfinished, target)


def readelf(option, file):
    command = ["readelf", "--wide", option, str(file)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}).stdout


def library_of(binary, content):
    """Returns the position and text of the path of the library over libtorch.

    The path has a section of its own (trainer/build/trampolines.rs).
    """
    found = re.search(r" " + re.escape(SECTION) + r"\s+PROGBITS\s+[0-9a-f]+\s+([0-9a-f]+)\s+([0-9a-f]+)\s", readelf("-S", binary))
    if found is None:
        stop(f"{binary} does not name its library over libtorch. Use the binary that `make build` makes")
    at, size = (int(number, 16) for number in found.groups())
    return at, content[at:at + size].split(b"\0")[0]


def runpath(file):
    found = re.search(r"\((?:RUNPATH|RPATH)\).*\[(.*)\]", readelf("-d", file))
    return None if found is None else found.group(1)


def over(content, at, old, new):
    """Returns the bytes with a zero-terminated string replaced by another of at most its length."""
    if len(new) > len(old):
        stop(f"cannot replace {old.decode()!r}, because it is too short: use folders with longer names for the build and for LIBTORCH")
    return content[:at] + new.ljust(len(old), b"\0") + content[at + len(old):]


def with_runpath_here(file):
    """Returns a file's bytes with its RUNPATH replaced by $ORIGIN.

    The RUNPATH is a string in the table of names, with a zero on either side.
    """
    content, old = file.read_bytes(), runpath(file)
    if old is None or old.encode() == HERE:
        return content
    places = [match.start() for match in re.finditer(re.escape(b"\0" + old.encode() + b"\0"), content)]
    if len(places) != 1:
        stop(f"{file}: cannot replace the RUNPATH {old!r}")
    return over(content, places[0] + 1, old.encode(), HERE)


def strip(file, to):
    try:
        done = subprocess.run(["strip", "--strip-all", "-o", str(to), str(file)], capture_output=True, text=True)
    except FileNotFoundError:
        stop("`strip` is missing: install binutils")
    if done.returncode != 0:
        stop(f"cannot strip {file}: {done.stderr.strip()}")


def main():
    if len(sys.argv) != 3:
        stop("expected two arguments: a binary and a folder")
    binary, folder = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2])
    if not binary.is_file():
        stop(f"{binary} does not exist: run `make build` first, as the user who has Rust")
    with tempfile.TemporaryDirectory() as scratch:
        small = pathlib.Path(scratch) / "diptych"
        strip(binary, small)
        content = with_runpath_here(small)
        at, path = library_of(small, content)
    library = pathlib.Path(path.decode().replace("$ORIGIN", str(binary.parent)))
    if not library.is_file():
        stop(f"{library}, which {binary} opens, does not exist: run `make build` again")
    libraries = [pathlib.Path(part.replace("$ORIGIN", str(library.parent))) for part in (runpath(library) or "").split(":")]
    libtorch = next((place for place in libraries if (place / "libtorch_cpu.so").is_file()), None)
    if libtorch is None:
        stop(f"libtorch_cpu.so is missing where {library} looks for it: run `make build` again")
    folder.mkdir(parents=True, exist_ok=True)
    cuda = libtorch.parent.with_name(libtorch.parent.name + "-cuda")
    for source in [*libtorch.iterdir(), *(cuda.iterdir() if cuda.is_dir() else [])]:
        if ".so" in source.name and source.is_file():
            put(folder / source.name, 0o644, lambda to: shutil.copyfile(source, to))
    put(folder / library.name, 0o644, lambda to: to.write_bytes(with_runpath_here(library)))
    content = over(content, at, path, HERE + b"/" + library.name.encode())
    put(folder / "diptych", 0o755, lambda to: to.write_bytes(content))


if __name__ == "__main__":
    main()
