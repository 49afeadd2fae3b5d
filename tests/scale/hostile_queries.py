"""Attacks a training service with random SQL queries and measures the effects.

The service has memory_mib = 512 in a cgroup of 3 GB. Four clients send random queries: nested calls of
functions with arguments of all sizes. Prints whether the service survived, how late queries ended, how
soon /v1/status answered, the training's speed before, during and after, and the service's memory before
and after.

    python3 tests/scale/hostile_queries.py target/release/diptych FOLDER [QUERIES [SEED]]

Needs root for the cgroup. The clients run on the same machine, so the figures include their load.
"""

import collections
import json
import os
import pathlib
import random
import shutil
import statistics
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

MEMORY_BYTES = 3 << 30
MAX_SECONDS = 10
CLIENTS = 4
SECONDS_ALONE = 60
CONFIG = """name = "load"
seed = 1
[data]
dataset = "scenes-data"
selection = "train.parquet"
[model]
config = "demo"
[train]
batch_size = 64
epochs = 100000
threads = 1
[optimizer]
lr = 1e-3
warmup_steps = 10
"""
SERVICE = f"""state = "state"
listen = "127.0.0.1:0"
folders = ["."]
[[dataset]]
name = "pairs"
path = "scenes-data"
[sql]
memory_mib = 512
max_seconds = {MAX_SECONDS}
concurrent = 3
"""
TEXTS = ["a", "a b ", "ä", "(a+)+", "[[1,2]]", "2024-01-01", "%Y", "List(Int8)", "18446744073709551615"]


def cgroup():
    """Makes a cgroup with the memory limit and returns its folder."""
    for root, limit in [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")]:
        group = pathlib.Path(root) / "diptych-hostile"
        try:
            group.mkdir(exist_ok=True)
            (group / limit).write_text(str(MEMORY_BYTES))
            return group
        except OSError:
            continue
    sys.exit("cannot make a cgroup with a memory controller here")


def call(address, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address + path, data, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=300) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read() or b"null")


def signatures(address):
    known = ("SELECT specific_name, array_agg(data_type ORDER BY ordinal_position) FROM information_schema.parameters"
             " WHERE parameter_mode = 'IN' GROUP BY specific_name, rid ORDER BY 1, rid")
    unknown = ("SELECT DISTINCT routine_name, NULL FROM information_schema.routines WHERE function_type = 'SCALAR' AND routine_name"
               " NOT IN (SELECT specific_name FROM information_schema.parameters WHERE parameter_mode = 'IN') ORDER BY 1")
    rows = [row for sql in (known, unknown) for row in call(address, "/v1/sql", {"query": sql, "dataset": "pairs"})[1]["rows"]]
    return [row for row in rows if row[0].replace("_", "").isalnum()]


def random_call(draw, functions, depth=0):
    name, types = draw.choice(functions)
    types = ["any"] * draw.randrange(4) if types is None else types
    return f"{name}({', '.join(argument(draw, functions, wanted, depth) for wanted in types)})"


def argument(draw, functions, wanted, depth):
    if depth < 3 and draw.randrange(4) == 0:
        return random_call(draw, functions, depth + 1)
    size = 10 ** draw.randrange(10) * draw.randrange(1, 10)
    text = draw.choice(TEXTS)
    of_text = [f"repeat('{text}', {size})", f"'{text}'", "caption", "key"]
    of_number = [str(size), f"-{size}", "width", "1"]
    of_time = ["now()", f"to_timestamp({size})", "date '2024-02-29'"]
    of_rest = [f"make_array({size}, 2, NULL)", f"range(0, {size})", f"generate_series(0, {size})", f"array_repeat('{text}', {size})",
               "INTERVAL '1 month'", "uid", "NULL", "true"]
    if wanted in ("String", "Binary"):
        kind = of_text
    elif wanted.startswith(("Timestamp", "Date")):
        kind = of_time
    elif wanted.startswith(("Int", "UInt", "Float", "Decimal")) and not wanted.startswith("Interval"):
        kind = of_number
    else:
        kind = draw.choice([of_text, of_number, of_time, of_rest])
    return draw.choice(kind)


def query(draw, functions):
    called = random_call(draw, functions)
    return draw.choice([
        nested(draw), f"SELECT {called} FROM meta ORDER BY 1 LIMIT 5", f"SELECT count(*) FROM meta WHERE {called} IS NOT NULL",
        f"SELECT {called} AS a, count(*) FROM meta GROUP BY 1", f"SELECT {called}", f"SELECT array_agg({called}) FROM meta a, meta b",
    ])


def nested(draw):
    inner = "1"
    for _ in range(draw.randrange(1, 40)):
        inner = f"(SELECT {inner} + 1)"
    return f"SELECT {inner}"


def rss_mib(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def main():
    binary, folder = os.path.abspath(sys.argv[1]), sys.argv[2]
    count = int(sys.argv[3]) if len(sys.argv) > 3 else 2000
    seed = int(sys.argv[4]) if len(sys.argv) > 4 else 1
    os.makedirs(folder, exist_ok=True)
    os.chdir(folder)
    if not os.path.isdir("scenes-data"):
        for command in ["demo-data scenes", "ingest scenes/*.tar --dataset scenes-data",
                        "select --file scenes/train.sql --dataset scenes-data --output train.parquet"]:
            subprocess.run([binary, *command.split()], check=True)
    shutil.rmtree("state", ignore_errors=True)
    pathlib.Path("serve.toml").write_text(SERVICE)
    group = cgroup()
    log = open("serve.log", "w")
    service = subprocess.Popen([binary, "serve", "serve.toml"], stdout=log, stderr=log,
                               preexec_fn=lambda: (group / "cgroup.procs").write_text(str(os.getpid())))
    try:
        measure(service, count, seed)
    finally:
        service.terminate()
        service.wait()
        print(f"the service exited with {service.returncode}")


def measure(service, count, seed):
    owner = pathlib.Path("state/owner.json")
    while not owner.exists() or json.loads(owner.read_text()).get("pid") != service.pid or "address" not in json.loads(owner.read_text()):
        time.sleep(0.1)
    address = json.loads(owner.read_text())["address"]
    status, job = call(address, "/v1/jobs", {"kind": "train", "config": CONFIG, "folder": os.getcwd()})
    assert status < 300, job

    def step():
        return next((one.get("step") or 0 for one in call(address, "/v1/status")[1]["running"]), 0)

    while step() < 20:
        time.sleep(0.5)

    def rate(seconds):
        began, first = time.monotonic(), step()
        time.sleep(seconds)
        return (step() - first) / (time.monotonic() - began)

    functions = signatures(address)
    alone = rate(SECONDS_ALONE)
    memory = rss_mib(service.pid)

    answers, took, waits, lock = collections.Counter(), [], [], threading.Lock()
    done = threading.Event()

    def client(number):
        draw = random.Random(seed * 1000 + number)
        for _ in range(count // CLIENTS):
            began = time.monotonic()
            try:
                status, answer = call(address, "/v1/sql", {"query": query(draw, functions), "dataset": "pairs"})
            except Exception as error:
                status, answer = type(error).__name__, None
            with lock:
                answers[status] += 1
                took.append(time.monotonic() - began)
                if not isinstance(status, int) or status >= 500:
                    print("!", status, answer, flush=True)

    def look():
        while not done.wait(0.2):
            began = time.monotonic()
            call(address, "/v1/status")
            waits.append(time.monotonic() - began)

    looking = threading.Thread(target=look)
    looking.start()
    began, first = time.monotonic(), step()
    clients = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for one in clients:
        one.start()
    for one in clients:
        one.join()
    seconds = time.monotonic() - began
    meanwhile = (step() - first) / seconds
    done.set()
    looking.join()
    again = rate(SECONDS_ALONE)
    print(f"{sum(answers.values())} queries with seed {seed} over {len(functions)} signatures in {seconds:.0f} s: {dict(answers)}")
    print(f"service alive: {service.poll() is None}")
    print(f"longest query {max(took):.1f} s including its wait, limit {MAX_SECONDS} s; median {statistics.median(took):.2f} s")
    waits.sort()
    print(f"/v1/status: median {waits[len(waits) // 2] * 1000:.0f} ms, 99% {waits[len(waits) * 99 // 100] * 1000:.0f} ms, "
          f"longest {waits[-1] * 1000:.0f} ms, of {len(waits)}")
    print(f"steps a second: {alone:.2f} before, {meanwhile:.2f} during ({meanwhile / alone:.2f}), {again:.2f} after")
    print(f"memory of the service: {memory:.0f} MiB before, {rss_mib(service.pid):.0f} MiB after")


if __name__ == "__main__":
    main()
