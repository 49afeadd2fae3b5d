"""Measures curation at scale on synthetic metadata (`diptych synthetic-meta`).

Measures time and memory of filters and deduplication, in turns with equal SQL over the same files in
DuckDB.

    pip install duckdb
    python3 tests/scale/measure.py target/release/diptych FOLDER 1000000 3000000 10000000
"""

import json
import os
import statistics
import subprocess
import sys
import time

ROUNDS = 3
THREADS = os.cpu_count()

# Both run the same text.
QUERIES = {
    "start": "SELECT 1",
    "threshold": "SELECT count(*), min(clip) FROM scored WHERE clip >= (SELECT percentile_cont(0.7) WITHIN GROUP (ORDER BY clip) FROM scored)"
    " AND least(width, height) >= 200",
    "count by format": "SELECT format, count(*), avg(width) FROM meta GROUP BY format ORDER BY format",
    "words": "SELECT count(*) FROM meta WHERE caption LIKE '%bako%' AND CAST(width AS BIGINT) * height > 100000",
    "equal bytes": "SELECT count(*) FROM (SELECT sha256, max(width) AS width FROM meta GROUP BY sha256)",
    "frequent captions": "SELECT caption, count(*) AS n FROM meta GROUP BY caption ORDER BY n DESC, caption LIMIT 5",
    "best of each image": "SELECT count(*) FROM (SELECT row_number() OVER (PARTITION BY sha256 ORDER BY width DESC, key) AS n FROM meta)"
    " WHERE n = 1",
}

DUCKDB = """
import duckdb, json, sys, time
data, threads, sql, output = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
start = time.perf_counter()
db = duckdb.connect(config={"threads": threads, "memory_limit": "4GiB"})
db.execute("SET enable_progress_bar = false")
db.execute(f"CREATE VIEW meta AS SELECT * FROM read_parquet('{data}/meta/*.parquet')")
db.execute(f"CREATE VIEW scored AS SELECT meta.*, clip.value AS clip FROM meta LEFT JOIN read_parquet('{data}/scores/clip/*.parquet') clip USING (uid)")
if output:
    db.execute(f"COPY (SELECT uid, shard, row_group, row FROM ({sql}) JOIN meta USING (uid) ORDER BY shard, row_group, row) TO '{output}' (FORMAT parquet, COMPRESSION zstd)")
    rows = []
else:
    rows = db.execute(sql).fetchall()
print(json.dumps([time.perf_counter() - start, [[str(value) for value in row] for row in rows]]))
"""


def run(command):
    """Runs a process. Returns its output, seconds, CPU seconds and peak MiB."""
    start = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    output = child.stdout.read()
    errors = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)}\n{output}{errors}")
    return output, time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def compare(name, ours, theirs):
    """Runs both commands in turns and prints their times.

    The seconds of DuckDB leave out Python's start. CPU seconds include everything, and are the fairer
    measure on a machine that does other work.
    """
    found = {"diptych": [], "duckdb": []}
    for _ in range(ROUNDS):
        for who, command in (("diptych", ours), ("duckdb", theirs)):
            output, seconds, busy, peak = run(command)
            if who == "duckdb":
                seconds = json.loads(output)[0]
            found[who].append((seconds, busy, peak))
    middle = {who: [statistics.median(run[index] for run in runs) for index in (0, 1)] for who, runs in found.items()}
    ratios = [middle["diptych"][index] / middle["duckdb"][index] for index in (0, 1)]
    texts = []
    for who, runs in found.items():
        seconds = [run[0] for run in runs]
        texts.append(f"{who} {middle[who][0]:.2f} s ({min(seconds):.2f}..{max(seconds):.2f}), CPU {middle[who][1]:.2f} s, {max(run[2] for run in runs):.0f} MiB")
    print(f"  {name:20} ratio {ratios[0]:.2f}, CPU {ratios[1]:.2f}   {'   '.join(texts)}", flush=True)


def measure(binary, data, rows):
    print(f"{rows:,} rows", flush=True)
    sql = lambda text: [binary, "sql", text, "--dataset", data, "--format", "csv", "--memory-limit", "4GiB"]
    duckdb = lambda text, output="": [sys.executable, "-c", DUCKDB, data, str(THREADS), text, output]
    for name, text in QUERIES.items():
        compare(name, sql(text), duckdb(text))
    chosen = "SELECT uid FROM scored WHERE clip >= (SELECT percentile_cont(0.7) WITHIN GROUP (ORDER BY clip) FROM scored)"
    output = os.path.join(data, "chosen.parquet")
    for name, text in (("select 30%", chosen), ("select all", "SELECT uid FROM meta")):
        ours = [binary, "select", text, "--dataset", data, "--output", output, "--memory-limit", "4GiB"]
        compare(name, ours, duckdb(text, output + ".duckdb"))
    for by, more in (("sha256", []), ("phash", ["--hamming", "4"]), ("caption", []), ("sha256,phash,caption", [])):
        for limit in ("2GiB", "256MiB"):
            command = [binary, "dedup", "--dataset", data, "--by", by, *more, "--output", output, "--memory-limit", limit]
            text, seconds, busy, peak = run(command)
            last = text.splitlines()[-1].split(":", 1)[1].strip()
            print(f"  dedup {by:20} {limit:7} {seconds:7.1f} s, CPU {busy:7.1f} s, {peak:6.0f} MiB   {last}", flush=True)


def main():
    binary, folder, sizes = os.path.abspath(sys.argv[1]), sys.argv[2], [int(size) for size in sys.argv[3:]]
    for rows in sizes:
        data = os.path.abspath(os.path.join(folder, f"synthetic-{rows}"))
        if not os.path.exists(data):
            print(run([binary, "synthetic-meta", data, "--rows", str(rows)])[0], end="")
        measure(binary, data, rows)


main()
