"""Tests Flight SQL with ADBC's driver. tests.rs runs it: client.py SCENARIO HOST:PORT TOKEN EXPECTED"""
import json
import sys
import threading

import adbc_driver_flightsql
import adbc_driver_flightsql.dbapi as flightsql
import adbc_driver_manager
import pyarrow

SCENARIO, ADDRESS, TOKEN, EXPECTED = sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4])


def connect(**more):
    # The driver sends options that it does not know as headers.
    header = adbc_driver_flightsql.DatabaseOptions.RPC_CALL_HEADER_PREFIX.value + "dataset"
    return flightsql.connect(f"grpc://{ADDRESS}", db_kwargs={header: "scenes", **more}, autocommit=True)


def refused(ask, words, status=None):
    try:
        ask()
    except adbc_driver_manager.Error as error:
        assert words in str(error), f"{words!r} is not in {error}"
        assert status is None or error.status_code == status, f"{error.status_code!r}, not {status!r}: {error}"
        return
    raise AssertionError(f"was not refused: {words}")


def rows(cursor, sql, parameters=None):
    cursor.execute(sql, parameters)
    return cursor.fetchall()


def reads():
    with connect() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT caption, width FROM meta ORDER BY uid")
        table = cursor.fetch_arrow_table()
        assert table["caption"].to_pylist() == EXPECTED["captions"] and table["width"].to_pylist() == EXPECTED["widths"]
        assert table.schema.types == [pyarrow.string(), pyarrow.uint32()], table.schema
        assert rows(cursor, "SELECT caption FROM meta WHERE false") == []
        images = rows(cursor, "SELECT image FROM blob LIMIT 1")
        assert len(images[0][0]) > 100

        # Prepared statements, with both notations for a parameter.
        wide = sum(width > 40 for width in EXPECTED["widths"])
        for sql in ["SELECT count(*) FROM meta WHERE width > ?", "SELECT count(*) FROM meta WHERE width > $1"]:
            assert rows(cursor, sql, (40,)) == [(wide,)]
            assert rows(cursor, sql, (10**6,)) == [(0,)]
        injected = "' OR 1 = 1 --"
        assert rows(cursor, "SELECT count(*) FROM meta WHERE caption = ?", (injected,)) == [(0,)]
        assert rows(cursor, "SELECT ? AS a, ? AS b, ? AS c", (1.5, "x", None)) == [(1.5, "x", None)]
        cursor.adbc_prepare("SELECT caption FROM meta WHERE width > ? AND caption LIKE ?")
        refused(lambda: cursor.execute("SELECT ? + 1", (1, 2)), "1 parameters, but 2 values")

        # Metadata.
        tree = connection.adbc_get_objects(depth="columns", table_name_filter="meta").read_all().to_pylist()
        found = [
            (catalog["catalog_name"], schema["db_schema_name"], table["table_name"], table["table_type"],
             [column["column_name"] for column in table["table_columns"]])
            for catalog in tree for schema in catalog["catalog_db_schemas"] for table in schema["db_schema_tables"]]
        assert [table[:4] for table in found] == [("datafusion", "public", "meta", "TABLE")], found
        assert found[0][4][:4] == ["uid", "caption", "width", "height"], found
        everything = connection.adbc_get_objects(depth="tables").read_all().to_pylist()
        names = {table["table_name"] for table in everything[0]["catalog_db_schemas"][0]["db_schema_tables"]}
        assert {"meta", "blob", "ledger", "scores", "scored", "embeddings", "runs"} <= names, names
        assert {"TABLE", "VIEW"} <= set(connection.adbc_get_table_types())
        columns = connection.adbc_get_table_schema("meta")
        assert columns.field("caption").type == pyarrow.string() and columns.field("uid").type == pyarrow.binary(16)
        about = connection.adbc_get_info()
        assert about["vendor_name"] == "Diptych" and about["vendor_version"] == "1.2.3", about

        # Writing is refused.
        for sql in ["INSERT INTO meta SELECT * FROM meta", "DROP TABLE meta", "COPY meta TO '/tmp/x.parquet'", "SET a.b = 1"]:
            refused(lambda: cursor.execute(sql), "", adbc_driver_manager.AdbcStatusCode.INVALID_ARGUMENT)
        refused(lambda: cursor.execute("DELETE FROM meta"), "only reading is allowed")
        refused(lambda: cursor.adbc_ingest("new", pyarrow.table({"a": [1]})), "only reading is allowed")
        refused(lambda: cursor.execute("SELECT * FROM '/etc/passwd.csv'"), "there is no table")
        refused(lambda: cursor.execute("SELECT captoin FROM meta"), "did you mean caption?")

    # A user and a token instead of a header: the handshake.
    with connect(username="anybody", password=TOKEN) as connection, connection.cursor() as cursor:
        assert rows(cursor, "SELECT 1") == [(1,)]
    refused(lambda: connect(username="anybody", password="guessed").cursor().execute("SELECT 1"), "not a token")


def at_once():
    wrong = []

    def ask(number):
        try:
            with connect() as connection, connection.cursor() as cursor:
                for n in range(5):
                    last = 1000 * (number + 1) + n
                    found = rows(cursor, f"SELECT sum(value) FROM generate_series(1, {last})")
                    if found != [(last * (last + 1) // 2,)]:
                        wrong.append((number, n, found))
        except Exception as error:
            wrong.append((number, error))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong, wrong


def cancels():
    with connect() as connection, connection.cursor() as cursor:
        cursor.execute(EXPECTED["endless"])
        reader = cursor.fetch_record_batch()
        assert reader.read_next_batch().num_rows > 0
        cursor.adbc_cancel()

        def rest():
            for _ in reader:
                pass

        # Here pyarrow reads, and turns the driver's error into one of its own.
        try:
            rest()
        except OSError as error:
            assert "ancel" in str(error), error
        else:
            raise AssertionError("the query was not cancelled")
    # A query without rows, cancelled as soon as possible: before it runs, cancelling has no effect.
    with connect() as connection, connection.cursor() as cursor:
        ended = threading.Event()

        def cancel():
            while not ended.wait(0.05):
                cursor.adbc_cancel()

        thread = threading.Thread(target=cancel)
        thread.start()
        try:
            refused(lambda: rows(cursor, EXPECTED["slow"]), "", adbc_driver_manager.AdbcStatusCode.CANCELLED)
        finally:
            ended.set()
            thread.join()
    # The only slot is free again.
    with connect() as connection, connection.cursor() as cursor:
        assert rows(cursor, "SELECT 1") == [(1,)]


def limits():
    with connect() as connection, connection.cursor() as cursor:
        refused(lambda: rows(cursor, EXPECTED["slow"]), "5 seconds (sql.max_seconds)")
        refused(lambda: rows(cursor, "SELECT array_agg(value) FROM generate_series(1, 100000000)"), "more memory")
        assert rows(cursor, "SELECT 1") == [(1,)]


{"reads": reads, "at_once": at_once, "cancels": cancels, "limits": limits}[SCENARIO]()
