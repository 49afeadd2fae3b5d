#!/usr/bin/env python3
"""Copies a built diptych, its library over libtorch, and libtorch into one folder, from which it runs by itself.

The build's binary names libdiptych_torch.so in the build's folder, and that library names the cache as the place of libtorch
(RUNPATH). Another user cannot read either, and neither must decide what root runs. The copies name their own folder: $ORIGIN,
written over the longer path, so nothing in the files moves. Symbols and line tables, half of the binary, stay in the build's folder:
a message about a bug names its place without them.
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
    """The path of the library over libtorch, in a section of its own (trainer/build/trampolines.rs), and where it stands."""
    found = re.search(r" " + re.escape(SECTION) + r"\s+PROGBITS\s+[0-9a-f]+\s+([0-9a-f]+)\s+([0-9a-f]+)\s", readelf("-S", binary))
    if found is None:
        stop(f"{binary} does not say where its library over libtorch is: is it what `make build` made?")
    at, size = (int(number, 16) for number in found.groups())
    return at, content[at:at + size].split(b"\0")[0]


def runpath(file):
    found = re.search(r"\((?:RUNPATH|RPATH)\).*\[(.*)\]", readelf("-d", file))
    return None if found is None else found.group(1)


def over(content, at, old, new):
    """The bytes with a string replaced that ends in a zero."""
    if len(new) > len(old):
        stop(f"{old.decode()!r} is too short to be replaced: build in a folder of a longer name, and LIBTORCH in one, too")
    return content[:at] + new.ljust(len(old), b"\0") + content[at + len(old):]


def with_runpath_here(file):
    """A file's bytes with its RUNPATH replaced: a string in the table of names, with a zero on either side."""
    content, old = file.read_bytes(), runpath(file)
    if old is None or old.encode() == HERE:
        return content
    places = [match.start() for match in re.finditer(re.escape(b"\0" + old.encode() + b"\0"), content)]
    if len(places) != 1:
        stop(f"{file}: the RUNPATH {old!r} cannot be replaced")
    return over(content, places[0] + 1, old.encode(), HERE)


def strip(file, to):
    try:
        done = subprocess.run(["strip", "--strip-all", "-o", str(to), str(file)], capture_output=True, text=True)
    except FileNotFoundError:
        stop("there is no `strip`: install binutils")
    if done.returncode != 0:
        stop(f"{file} cannot be made smaller: {done.stderr.strip()}")


def main():
    if len(sys.argv) != 3:
        stop("wants a binary and a folder")
    binary, folder = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2])
    if not binary.is_file():
        stop(f"{binary} is not there: run `make build` first, as the user who has Rust")
    with tempfile.TemporaryDirectory() as scratch:
        small = pathlib.Path(scratch) / "diptych"
        strip(binary, small)
        content = with_runpath_here(small)
        at, path = library_of(small, content)
    library = pathlib.Path(path.decode().replace("$ORIGIN", str(binary.parent)))
    if not library.is_file():
        stop(f"{library}, which {binary} opens, is not there: run `make build` again")
    libraries = [pathlib.Path(part.replace("$ORIGIN", str(library.parent))) for part in (runpath(library) or "").split(":")]
    libtorch = next((place for place in libraries if (place / "libtorch_cpu.so").is_file()), None)
    if libtorch is None:
        stop(f"libtorch_cpu.so is not where {library} looks for it: run `make build` again")
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
