"""Measures a service under load while it trains.

64 clients poll its API, and 8 query 10 million rows of metadata by Flight SQL. Prints the time of a
training step before, during and after the load, and the answers and latencies of the clients.

    pip install adbc-driver-flightsql adbc-driver-manager pyarrow
    python3 tests/scale/serve.py target/release/diptych FOLDER [ROWS [SECONDS]]

The clients run on the same machine, so the figures include their load.
"""

import asyncio
import collections
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
import urllib.request

POLLING_CLIENTS = 64
SQL_CLIENTS = 8
# Seconds between two requests of a client.
POLLS_EVERY = 1.0
PATHS = ["/v1/runs", "/v1/status", "/v1/runs", "/v1/runs/load/metrics?points=200", "/v1/jobs", "/v1/runs", "/metrics", "/v1/datasets"]
QUERIES = [
    "SELECT format, count(*), avg(width) FROM meta GROUP BY format ORDER BY format",
    "SELECT count(*) FROM meta WHERE caption LIKE '%bako%' AND CAST(width AS BIGINT) * height > 100000",
    "SELECT caption, count(*) AS n FROM meta GROUP BY caption ORDER BY n DESC, caption LIMIT 5",
    "SELECT count(DISTINCT sha256) FROM meta WHERE width > 512",
]
CONFIG = """name = "load"
seed = 1
[data]
dataset = "scenes-data"
selection = "train.parquet"
[model]
config = "demo"
[train]
batch_size = 128
epochs = 100000
threads = {threads}
[loader]
threads = 1
[checkpoint]
every_epochs = 0
"""


def prepare(diptych, folder, rows):
    os.makedirs(folder, exist_ok=True)
    os.chdir(folder)
    # The run of an earlier call would continue, and this call could not use its name.
    shutil.rmtree("state", ignore_errors=True)
    if not os.path.isdir("meta10m"):
        subprocess.run([diptych, "synthetic-meta", "meta10m", "--rows", str(rows)], check=True)
    if not os.path.isfile("train.parquet"):
        subprocess.run([diptych, "demo-data", "scenes"], check=True)
        subprocess.run([diptych, "ingest", "scenes/*.tar", "--dataset", "scenes-data"], check=True)
        subprocess.run([diptych, "select", "SELECT uid FROM meta", "--dataset", "scenes-data", "--output", "train.parquet"], check=True)
    with open("run.toml", "w") as file:
        file.write(CONFIG.format(threads=os.cpu_count()))
    with open("diptych.toml", "w") as file:
        file.write('state = "state"\nlisten = "127.0.0.1:0"\nfolders = ["."]\n[[dataset]]\nname = "meta10m"\npath = "meta10m"\n[sql]\nmax_seconds = 600\n')


def ask(address, path, body=None):
    request = urllib.request.Request(address + path, data=body and json.dumps(body).encode(), headers={"content-type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def step_seconds(address, first, last):
    """Returns the seconds of each step between two times: the batch size over the recorded throughput."""
    sql = f"SELECT value FROM metrics WHERE run = 'load' AND name = 'samples_per_second' AND time >= to_timestamp({first}) AND time < to_timestamp({last})"
    return [128 / row[0] for row in ask(address, "/v1/sql", {"query": sql})["rows"]]


async def poll(number, host, port, until, found):
    await asyncio.sleep(POLLS_EVERY * number / POLLING_CLIENTS)
    reader, writer = await asyncio.open_connection(host, port)
    place = number
    while time.time() < until:
        path = PATHS[place % len(PATHS)]
        place += 1
        began = time.perf_counter()
        writer.write(f"GET {path} HTTP/1.1\r\nhost: {host}:{port}\r\n\r\n".encode())
        status = int((await reader.readline()).split()[1])
        length = 0
        while (line := await reader.readline()) not in (b"\r\n", b""):
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        await reader.readexactly(length)
        found.append((path, status, time.perf_counter() - began))
        await asyncio.sleep(max(0.0, POLLS_EVERY - (time.perf_counter() - began)))
    writer.close()


def query(number, address, until, answered):
    import adbc_driver_flightsql.dbapi as flightsql

    options = {"adbc.flight.sql.rpc.call_header.dataset": "meta10m"}
    with flightsql.connect(address.replace("http://", "grpc://"), db_kwargs=options, autocommit=True) as connection:
        place = number
        while time.time() < until:
            began = time.perf_counter()
            try:
                with connection.cursor() as cursor:
                    cursor.execute(QUERIES[place % len(QUERIES)])
                    cursor.fetchall()
                answered.append(("rows", time.perf_counter() - began))
            except Exception as error:
                answered.append((str(error)[:160], time.perf_counter() - began))
            place += 1


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def main(diptych, folder, rows=10_000_000, seconds=90):
    prepare(os.path.realpath(diptych), folder, int(rows))
    seconds = float(seconds)
    service = subprocess.Popen([os.path.realpath(diptych), "serve", "diptych.toml"], stderr=open("serve.log", "a"))
    try:
        address = None
        while not address:
            time.sleep(0.1)
            try:
                owner = json.load(open("state/owner.json"))
                address = owner.get("address") if owner["pid"] == service.pid else None
            except (OSError, ValueError):
                pass
        subprocess.run([os.path.realpath(diptych), "submit", "run.toml", "--state", "state"], check=True)
        while not ask(address, "/v1/status")["running"] or "step" not in ask(address, "/v1/status")["running"][0]:
            time.sleep(0.5)
        time.sleep(10)
        times = [time.time()]

        def quiet():
            time.sleep(seconds)
            times.append(time.time())

        quiet()
        polled, answered, until = [], [], time.time() + seconds
        asking = [threading.Thread(target=query, args=(number, address, until, answered)) for number in range(SQL_CLIENTS)]
        for thread in asking:
            thread.start()
        host, port = address.removeprefix("http://").split(":")

        async def all_poll():
            await asyncio.gather(*(poll(number, host, int(port), until, polled) for number in range(POLLING_CLIENTS)))

        asyncio.run(all_poll())
        times.append(time.time())
        for thread in asking:
            thread.join()
        times.append(time.time())
        quiet()
        before, under, after = (step_seconds(address, times[a], times[b]) for a, b in ((0, 1), (1, 2), (3, 4)))
        for name, steps in (("before", before), ("under load", under), ("after", after)):
            print(f"{name}: {len(steps)} steps, median {statistics.median(steps):.3f} s ({min(steps):.3f} to {max(steps):.3f})")
        quiet_median = statistics.median(before + after)
        print(f"under load a step takes {statistics.median(under) / quiet_median:.3f} times as long (median), or {statistics.mean(under) / statistics.mean(before + after):.3f} times (mean)")
        print("HTTP:", dict(collections.Counter(status for _, status, _ in polled)))
        for path in dict.fromkeys(PATHS):
            took = [1000 * took for asked, _, took in polled if asked == path]
            print(f"  {path}: {len(took)} answers, median {statistics.median(took):.1f} ms, p99 {percentile(took, 0.99):.1f} ms, longest {max(took):.1f} ms")
        print("Flight SQL:", dict(collections.Counter(what for what, _ in answered)))
        took = [took for what, took in answered if what == "rows"]
        if took:
            print(f"  {len(took)} queries, median {statistics.median(took):.1f} s, longest {max(took):.1f} s")
    finally:
        service.terminate()
        print("the service exited with", service.wait())


main(*sys.argv[1:])
