//! What people's own files do to `diptych ingest`, and what they can ask of it afterwards. The layouts themselves are tested in
//! `pipeline/tests/ingest`.

use diptych_tests::{Work, pairs};

/// A folder with images `0.png` to `4.png`.
fn work() -> Work {
    let work = Work::new();
    for number in 0..5_u8 {
        work.write(&format!("{number}.png"), pairs::png(8, 8, [40 * number, 9, 9]));
    }
    work
}

#[test]
fn numbers_of_a_list_are_numbers_in_sql() {
    let work = work();
    work.write(
        "list.csv",
        "file,caption,WIDTH,similarity,zip\n0.png,a,96,0.31,00123\n1.png,b,1600,0.2,7\n2.png,c,200,,8\n3.png,d,1000,0.4,9\n",
    );
    work.diptych(&["ingest", "list.csv", "--dataset", "data"]).ok();
    let ask = |query: &str| work.sql(&["--dataset", "data"], query);
    assert_eq!(ask("SELECT max(src_width) FROM meta"), "1600");
    assert_eq!(ask("SELECT count(*) FROM meta WHERE src_width > 200"), "2");
    assert_eq!(
        ask("SELECT string_agg(src_width, ' ' ORDER BY src_width) FROM meta"),
        "96 200 1000 1600"
    );
    assert_eq!(ask("SELECT round(avg(similarity), 4) FROM meta"), "0.3033");
    assert_eq!(ask("SELECT zip FROM scored ORDER BY similarity LIMIT 1"), "7");
    assert_eq!(ask("SELECT caption FROM meta WHERE zip = '00123'"), "a");

    // Fractions come: what was whole is still there, in the shard and in the table.
    work.write("more.csv", "file,caption,width\n4.png,e,0.5\n");
    work.diptych(&["ingest", "more.csv", "--dataset", "data"]).ok();
    assert_eq!(ask("SELECT sum(src_width) FROM meta WHERE src_width < 1000"), "296.5");
    assert_eq!(ask("SELECT sum(src_width) FROM scored"), "2896.5");
}

#[test]
fn dataset_of_before_there_were_types_is_read_and_added_to() {
    let work = work();
    work.write("list.csv", "file,caption,score\n0.png,a,0.5\n1.png,b,12\n");
    work.diptych(&["ingest", "list.csv", "--dataset", "data", "--text-columns", "*"]).ok();
    assert!(!work.read("data/dataset.json").contains("source_types"), "as it was before");
    work.write("more.csv", "file,caption,score\n2.png,c,7\n");
    work.diptych(&["ingest", "more.csv", "--dataset", "data"]).ok();
    let ask = |query: &str| work.sql(&["--dataset", "data"], query);
    assert_eq!(ask("SELECT max(score) FROM meta"), "7");

    // Its values are numbers, and so is the column when that is asked for.
    let ran = work.diptych(&["retype", "--dataset", "data"]).ok();
    assert!(ran.stdout.contains("score: Float64"), "{}", ran.stdout);
    assert_eq!(ask("SELECT max(score) FROM meta"), "12.0");
    assert_eq!(ask("SELECT caption FROM scored WHERE score > 10"), "b");
    work.diptych(&["retype", "--dataset", "data", "--columns", "nothing"]).fails_with(&["score"]);
}

#[test]
fn message_names_the_option_that_reads_the_list() {
    let work = work();
    work.write("bare.csv", "zero,x,0.png\none,y,1.png\n");
    work.diptych(&["ingest", "bare.csv", "--dataset", "data"]).fails_with(&["--columns", "0.png"]);
    work.diptych(&["ingest", "bare.csv", "--dataset", "data", "--columns", "caption,class,file"])
        .ok();
    assert_eq!(work.sql(&["--dataset", "data"], "SELECT count(*) FROM meta"), "2");

    work.write("lists/list.tsv", "filepath\ttitle\n../2.png\t\"two\n../3.png\tthree\n");
    work.diptych(&["ingest", "lists/list.tsv", "--dataset", "other"])
        .fails_with(&["--images-root", "--allow-outside"]);
    work.diptych(&["ingest", "lists/list.tsv", "--dataset", "other", "--allow-outside"]).ok();
    assert_eq!(
        work.sql(&["--dataset", "other"], "SELECT string_agg(caption, '/') FROM meta"),
        "\"\"\"two/three\""
    );
    work.diptych(&["ingest", "bare.csv", "--dataset", "x", "--encoding", "martian"])
        .fails_with(&["martian", "windows-1252"]);
    work.diptych(&["ingest", "bare.csv", "--dataset", "x", "--separator", "ab"])
        .fails_with(&["one character"]);
}
