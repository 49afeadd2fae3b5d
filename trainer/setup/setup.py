#!/usr/bin/env python3
"""Fetches what a build of Diptych needs besides Rust and a C++ compiler, and tells cargo where it is.

  libtorch 2.11.0   from PyPI's torch wheel: the CPU's libraries (0.45 GB) and headers. CUDA's too if
                    nvidia-smi answers, in a separate folder, so that linking never sees them and one
                    binary serves both
  cmake, nasm       for libjpeg-turbo with SIMD, if missing: cmake from PyPI, nasm from the distribution
  onnxruntime, onnx for the test of ONNX exports, only with --tests
  ADBC's driver     for the test of Flight SQL, only with --tests; tests that lack either are ignored

Tests may need other things that not every machine has (strace, name spaces, systemd, the data next to
the project). Tests that lack one of them are ignored, with the reason.

Everything is in the user's cache ($XDG_CACHE_HOME/diptych), so a second checkout fetches nothing and
works offline. An existing LIBTORCH, or LIBTORCH_USE_PYTORCH, is respected. The paths are written to
.cargo/config.local.toml, which .cargo/config.toml includes.

Run by make; by hand: python3 trainer/setup/setup.py [--cuda yes|no] [--tests]
"""
import argparse
import ctypes
import glob
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile

TORCH = "2.11.0"
# Each of these supports opset 18. Which one pip chooses depends on the Python.
ONNX_PACKAGES = ["onnx>=1.15", "onnxruntime>=1.17"]
ADBC_PACKAGES = ["adbc-driver-flightsql>=1.2", "adbc-driver-manager>=1.2", "pyarrow>=15"]
ROOT = pathlib.Path(__file__).resolve().parents[2]
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "diptych"

# The files that a library linked against libtorch for the CPU loads, found by opening one.
CPU_LIBRARIES = {"libc10.so", "libtorch.so", "libtorch_cpu.so", "libtorch_global_deps.so", "libshm.so"}
CPU_WHEELS = {"nvidia-cuda-runtime==13.0.*": ["libcudart.so.13"], "nvidia-cuda-cupti==13.0.*": ["libcupti.so.13"]}


def say(text):
    print(f"setup: {text}", file=sys.stderr, flush=True)


def stop(text):
    sys.exit(f"setup: {text}")


def pip_download(requirements, folder, deps=False):
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--only-binary=:all:"]
    command += [] if deps else ["--no-deps"]
    command += ["-d", str(folder), *requirements]
    if subprocess.run(command).returncode != 0:
        stop(f"could not download {', '.join(requirements)}: is PyPI reachable, and is this Python's pip current?")
    return sorted(pathlib.Path(folder).glob("*.whl"))


def extract(wheel, wanted, into):
    """Copies the members for which wanted(name) returns a relative path into a folder."""
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            target = wanted(member)
            if target is None or member.endswith("/"):
                continue
            path = into / target
            path.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, open(path, "wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)


def install(folder, fill):
    """Fills a temporary folder and renames it into place, so that a killed set-up leaves nothing incomplete."""
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".incoming-") as scratch:
        scratch = pathlib.Path(scratch)
        (scratch / "wheels").mkdir()
        (scratch / "out").mkdir()
        fill(scratch / "wheels", scratch / "out")
        try:
            os.rename(scratch / "out", folder)
        except OSError:
            if not folder.is_dir():
                raise


def cpu_libtorch():
    """Fetches libtorch's headers and CPU libraries. Returns the folder for LIBTORCH."""
    folder = CACHE / f"libtorch-{TORCH}"

    def fill(wheels, out):
        say(f"fetching libtorch {TORCH} (530 MB, once; kept in {folder})")
        pip_download([f"torch=={TORCH}", *CPU_WHEELS], wheels)

        def torch_member(name):
            base = os.path.basename(name)
            if name.startswith("torch/include/"):
                return name[len("torch/"):]
            if name.startswith("torch/lib/") and (base in CPU_LIBRARIES or base.startswith("libgomp")):
                return f"lib/{base}"
            if name == "torch/version.py":
                return "version.py"
            return None

        extract(next(wheels.glob("torch-*.whl")), torch_member, out)
        small = {library for libraries in CPU_WHEELS.values() for library in libraries}
        for wheel in wheels.glob("nvidia*.whl"):
            extract(wheel, lambda name: f"lib/{os.path.basename(name)}" if os.path.basename(name) in small else None, out)
        missing = (CPU_LIBRARIES | small) - {path.name for path in (out / "lib").iterdir()}
        if missing:
            stop(f"the torch wheel lacks {', '.join(sorted(missing))}: is it torch {TORCH} for Linux from PyPI?")

    install(folder, fill)
    return folder


def cuda_libraries():
    """Fetches libtorch_cuda.so and its dependencies into the folder that the trainer searches for CUDA."""
    folder = CACHE / f"libtorch-{TORCH}-cuda"

    def fill(wheels, out):
        say(f"a GPU answers: fetching CUDA's libraries for libtorch {TORCH} (about 3 GB, once; kept in {folder})")
        for wheel in pip_download([f"torch=={TORCH}"], wheels, deps=True):
            if wheel.name.startswith(("torch-", "nvidia_")):
                extract(wheel, lambda name: os.path.basename(name) if ".so" in os.path.basename(name)
                        and os.path.basename(name) not in CPU_LIBRARIES else None, out)

    install(folder, fill)
    return folder


def gpu_answers():
    tool = shutil.which("nvidia-smi")
    return tool is not None and subprocess.run([tool, "-L"], capture_output=True).returncode == 0


def cmake():
    found = shutil.which("cmake")
    if found:
        return found
    folder = CACHE / "cmake"

    def fill(wheels, out):
        say("fetching cmake from PyPI")
        extract(pip_download(["cmake>=3.20"], wheels)[0], lambda name: name, out)

    install(folder, fill)
    program = folder / "cmake" / "data" / "bin" / "cmake"
    for tool in program.parent.iterdir():
        tool.chmod(0o755)
    return str(program)


def nasm():
    """Fetches nasm, which libjpeg-turbo's SIMD code needs on x86. A .deb unpacks without root, and PyPI has no nasm."""
    if os.uname().machine not in ("x86_64", "i686"):
        return None
    for name in ("nasm", "yasm"):
        if shutil.which(name):
            return shutil.which(name)
    folder = CACHE / "nasm"

    def fill(debs, out):
        say("fetching nasm from the distribution's packages")
        lists = debs / "lists"
        (lists / "partial").mkdir(parents=True)
        options = ["-oDir::State::Lists=" + str(lists)]
        tries = [[["apt-get", "-qq", "download", "nasm"]],
                 [["apt-get", "-qq", *options, "update"], ["apt-get", "-qq", *options, "download", "nasm"]]]
        for commands in tries if shutil.which("apt-get") and shutil.which("dpkg") else []:
            if all(subprocess.run(c, cwd=debs, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0 for c in commands):
                break
        found = glob.glob(str(debs / "nasm_*.deb"))
        if not found or subprocess.run(["dpkg", "-x", found[0], str(out)]).returncode != 0:
            stop("libjpeg-turbo's SIMD code needs nasm and it could not be fetched: install it (apt-get install nasm) and run again")

    install(folder, fill)
    return str(folder / "usr" / "bin" / "nasm")


def test_packages(fetch, name, packages, what):
    """Fetches packages and dependencies into a folder for PYTHONPATH. Returns None if there are none for this Python."""
    folder = CACHE / f"{name}-{sys.implementation.cache_tag}"

    def fill(_, out):
        say(f"fetching {', '.join(packages)} for the tests (once; kept in {folder})")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:"]
        command += ["--no-compile", "--target", str(out), *packages]
        if subprocess.run(command).returncode != 0:
            raise OSError("pip could not install them")

    if fetch:
        try:
            install(folder, fill)
        except OSError as error:
            say(f"the test of {what} will be ignored: {error}")
    return str(folder) if folder.is_dir() else None


def works(*command):
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0
    except OSError:
        return False


def has_landlock():
    """Returns whether the kernel can confine processes, which it shows by the version of that interface."""
    create_ruleset, version = 444, 1
    return ctypes.CDLL(None).syscall(create_ruleset, None, 0, version) > 0


def what_tests_find():
    """Returns variables that say what this machine has. `tests/needs` ignores tests whose variable is missing."""
    data = ROOT.parent / "shared/data"
    return {
        "DIPTYCH_TEST_DATA": str(data) if data.is_dir() else None,
        "DIPTYCH_TEST_STRACE": "yes" if works("strace", "-f", "-o", "/dev/null", "true") else None,
        "DIPTYCH_TEST_MOUNTS": "yes" if works("unshare", "-rm", "mount", "-t", "tmpfs", "none", "/tmp") else None,
        "DIPTYCH_TEST_LANDLOCK": "yes" if has_landlock() else None,
        "DIPTYCH_TEST_SYSTEMD": "yes" if works("bash", str(ROOT / "tests/systemd/boot.sh"), "--check") else None,
        "DIPTYCH_TEST_SYSTEMD_ANALYZE": "yes" if works("systemd-analyze", "--version") else None,
    }


def cargo_config(libtorch, tools):
    quote = json.dumps  # a JSON string is a TOML basic string
    lines = ["# Written by trainer/setup/setup.py for this machine. Not in git.", "[env]"]
    if libtorch is not None and "LIBTORCH" not in os.environ:
        lines.append(f"LIBTORCH = {quote(str(libtorch))}")
    lines += [f"{name} = {quote(value)}" for name, value in tools.items() if value]
    text = "\n".join(lines) + "\n"
    path = ROOT / ".cargo" / "config.local.toml"
    if not path.is_file() or path.read_text() != text:
        path.write_text(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cuda", choices=["auto", "yes", "no"], default="auto", help="fetch CUDA's libraries (auto: where nvidia-smi answers)")
    parser.add_argument("--tests", action="store_true", help="fetch what only tests need, too")
    arguments = parser.parse_args()
    if os.environ.get("LIBTORCH"):
        libtorch = pathlib.Path(os.environ["LIBTORCH"])
        if not (libtorch / "include").is_dir():
            stop(f"LIBTORCH is {libtorch}, which has no include folder: point it at an unpacked libtorch {TORCH}, or unset it")
    elif os.environ.get("LIBTORCH_USE_PYTORCH"):
        # The folder becomes LIBTORCH for trainer/torch-api.
        found = subprocess.run([sys.executable, "-c", "import os, torch; print(os.path.dirname(torch.__file__))"], capture_output=True, text=True)
        if found.returncode != 0:
            stop("LIBTORCH_USE_PYTORCH is set, but this Python has no torch: install torch==2.11.0 or unset it")
        libtorch = pathlib.Path(found.stdout.strip())
    else:
        libtorch = cpu_libtorch()
        if arguments.cuda == "yes" or (arguments.cuda == "auto" and gpu_answers()):
            cuda_libraries()
    onnx = test_packages(arguments.tests, "onnx", ONNX_PACKAGES, "ONNX exports")
    adbc = test_packages(arguments.tests, "adbc", ADBC_PACKAGES, "Flight SQL")
    cargo_config(libtorch, {
        "CMAKE": cmake(),
        "ASM_NASM": nasm(),
        "DIPTYCH_ONNX_PACKAGES": onnx,
        "DIPTYCH_ONNX_PYTHON": sys.executable if onnx else None,
        "DIPTYCH_ADBC_PACKAGES": adbc,
        "DIPTYCH_ADBC_PYTHON": sys.executable if adbc else None,
        **what_tests_find(),
    })


if __name__ == "__main__":
    main()
