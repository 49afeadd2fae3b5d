//! Own columns keep the types of their sources, and tables and folders may hold images in other
//! forms than bytes.

use std::fs;
use std::sync::Arc;

use crate::build::*;
use crate::disk::*;
use arrow::array::{
    ArrayRef, AsArray, BinaryArray, DictionaryArray, FixedSizeListBuilder, Float32Array,
    Float64Array, Int64Array, RecordBatch, StringBuilder, TimestampMillisecondArray, UInt32Array,
};
use arrow::datatypes::{DataType, Int32Type, TimeUnit};
use arrow::ipc::writer::{FileWriter, StreamWriter};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use diptych_pipeline::ingest::{IngestRequest, ListOptions, SourceOutcome};
use diptych_schemas::{DatasetManifest, meta_path};

fn bytes_of(numbers: &[u32]) -> ArrayRef {
    let images: Vec<Vec<u8>> = numbers.iter().map(|number| png(*number)).collect();
    Arc::new(BinaryArray::from_iter_values(images))
}

fn kind(bench: &Bench, column: &str) -> DataType {
    DatasetManifest::read(&bench.dataset()).unwrap().source_type(column)
}

/// The values of an own column as text, of all shards.
fn values(bench: &Bench, column: &str) -> Vec<Option<String>> {
    pairs(&bench.dataset()).iter().map(|row| row.own.get(column).cloned()).collect()
}

fn some(values: &[&str]) -> Vec<Option<String>> {
    values.iter().map(|value| Some((*value).to_owned())).collect()
}

#[test]
fn parquets_types_are_kept_exactly() {
    let bench = Bench::new();
    let times = TimestampMillisecondArray::from(vec![1_000, 2_000]).with_timezone("UTC");
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("image", bytes_of(&[1, 2])),
        ("caption", strings(&["one", "two"])),
        ("WIDTH", Arc::new(Int64Array::from(vec![1600, 96]))),
        ("similarity", Arc::new(Float32Array::from(vec![0.3125, 0.5]))),
        ("pwatermark", Arc::new(Float64Array::from(vec![Some(0.1), None]))),
        ("small", Arc::new(UInt32Array::from(vec![1, 2]))),
        ("taken", Arc::new(times)),
        ("license", strings(&["a", "b"])),
    ];
    bench.ingest(&[&bench.file("a.parquet", &parquet(columns, 10))]);
    let written = batches(&meta_path(&bench.dataset(), 0)).remove(0);
    for (name, expected) in [
        ("src_width", DataType::Int64),
        ("similarity", DataType::Float32),
        ("pwatermark", DataType::Float64),
        ("small", DataType::UInt32),
        ("taken", DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()))),
        ("license", DataType::Utf8),
    ] {
        assert_eq!(kind(&bench, name), expected, "{name}");
        assert_eq!(written.column_by_name(name).unwrap().data_type(), &expected, "{name}");
    }
    let similarity = written.column_by_name("similarity").unwrap();
    let similarity = similarity.as_primitive::<arrow::datatypes::Float32Type>();
    assert_eq!(similarity.values(), &[0.3125, 0.5]);
}

#[test]
fn json_and_csv_give_numbers_and_sources_that_disagree_a_type_for_both() {
    let bench = Bench::new();
    for number in 0..9 {
        bench.file(&format!("{number}.png"), &png(number));
    }
    let lines = bench.file(
        "a.jsonl",
        b"{\"file\": \"0.png\", \"caption\": \"a\", \"n\": 3, \"mixed\": 1, \"ok\": true}\n\
          {\"file\": \"1.png\", \"caption\": \"b\", \"n\": 0.5, \"mixed\": 2, \"ok\": false}\n",
    );
    bench.ingest(&[&lines]);
    assert_eq!(
        [kind(&bench, "n"), kind(&bench, "mixed"), kind(&bench, "ok")],
        [DataType::Float64, DataType::Int64, DataType::Boolean]
    );
    let csv = bench.file(
        "b.csv",
        b"file,caption,n,mixed,zip,more\n2.png,c,7,x,00123,12\n3.png,d,,y,9,\n4.png,e,1,z,8,13\n",
    );
    let notes = bench.ingest(&[&csv]).notes;
    assert!(notes.len() == 1 && notes[0].contains("mixed was Int64"), "{notes:?}");
    assert_eq!(
        [kind(&bench, "n"), kind(&bench, "mixed"), kind(&bench, "zip"), kind(&bench, "more")],
        [DataType::Float64, DataType::Utf8, DataType::Utf8, DataType::Int64]
    );
    assert_eq!(values(&bench, "mixed"), some(&["1", "2", "x", "y", "z"]));
    let text = ListOptions { text_columns: vec!["LATE".into()], ..ListOptions::default() };
    let csv = bench.file("c.csv", b"file,caption,late\n5.png,f,1\n");
    run(&IngestRequest { lists: text, ..bench.request(&[&csv]) }).unwrap();
    assert_eq!(kind(&bench, "late"), DataType::Utf8);
}

#[test]
fn column_that_was_text_stays_text() {
    let bench = Bench::new();
    bench.file("0.png", &png(0));
    let source = bench.file("a.csv", b"file,caption,score\n0.png,a,high\n");
    bench.ingest(&[&source]);
    let manifest = DatasetManifest::read(&bench.dataset()).unwrap();
    assert!(manifest.source_types.is_empty(), "as datasets of before are");
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("image", bytes_of(&[1])),
        ("caption", strings(&["b"])),
        ("score", Arc::new(Float64Array::from(vec![0.5]))),
    ];
    bench.ingest(&[&bench.file("b.parquet", &parquet(columns, 10))]);
    assert_eq!(kind(&bench, "score"), DataType::Utf8);
    assert_eq!(values(&bench, "score"), some(&["high", "0.5"]));
}

#[test]
fn images_in_parquet_may_be_paths_base64_and_dictionaries_and_captions_fixed_lists() {
    let bench = Bench::new();
    bench.file("pictures/0.png", &png(0));
    bench.file("outside.png", &png(9));
    let dictionary = |bytes: Vec<Vec<u8>>| -> ArrayRef {
        let keys = (0..bytes.len() as i32).collect::<Vec<_>>().into();
        let values: ArrayRef = Arc::new(BinaryArray::from_iter_values(bytes));
        Arc::new(DictionaryArray::<Int32Type>::new(keys, values))
    };
    let mut lists = FixedSizeListBuilder::new(StringBuilder::new(), 2);
    for caption in ["five", "six"] {
        lists.values().append_value(caption);
        lists.values().append_value("another");
        lists.append(true);
    }
    let image = STANDARD.encode(png(1));
    let sources: [(&str, Vec<(&str, ArrayRef)>); 3] = [
        (
            "paths.parquet",
            vec![
                ("image_path", strings(&["0.png", "../outside.png", "none.png"])),
                ("caption", strings(&["zero", "no", "no"])),
            ],
        ),
        (
            "base64.parquet",
            vec![
                (
                    "image",
                    strings(&[
                        &image,
                        &format!("data:image/png;base64,{}", STANDARD.encode(png(2))),
                        &format!("{}!", "iVBORw0KGgo".repeat(9)),
                    ]),
                ),
                ("caption", strings(&["one", "two", "broken"])),
            ],
        ),
        (
            "dictionary.parquet",
            vec![
                ("image", dictionary(vec![png(5), png(6)])),
                ("captions", Arc::new(lists.finish())),
            ],
        ),
    ];
    for (name, columns) in sources {
        bench.ingest(&[&bench.file(&format!("pictures/{name}"), &parquet(columns, 10))]);
    }
    assert_eq!(captions(&bench.dataset()), ["zero", "one", "two", "five", "six"]);
    assert_eq!(reasons(&bench.dataset()), ["bad_record", "missing_image", "bad_record"]);
    let keys: Vec<String> = pairs(&bench.dataset()).into_iter().map(|row| row.key).collect();
    assert_eq!(keys[..2], ["0.png", "0"], "a path is a key, an image is none");
}

#[test]
fn arrow_is_read_as_a_stream_and_as_a_file() {
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("image", bytes_of(&[1, 2])),
        ("text", strings(&["one", "two"])),
        ("n", Arc::new(Int64Array::from(vec![5, 6]))),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut stream = StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    stream.write(&batch).unwrap();
    stream.write(&batch.slice(0, 1)).unwrap();
    let stream = stream.into_inner().unwrap();
    let mut file = FileWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    file.write(&batch).unwrap();
    let file = file.into_inner().unwrap();

    // A dataset with splits, as `save_to_disk` writes it.
    let bench = Bench::new();
    for (name, bytes) in [
        ("disk/train/data-00000-of-00001.arrow", stream.as_slice()),
        ("disk/train/state.json", b"{}"),
        ("disk/dataset_dict.json", b"{}"),
    ] {
        bench.file(name, bytes);
    }
    let report = bench.ingest(&[bench.path("disk").to_str().unwrap()]);
    assert_eq!((report.pairs_added, report.ledger_added["duplicate_pair"]), (2, 1));
    assert_eq!(kind(&bench, "n"), DataType::Int64);
    assert!(bench.ingest(&[&bench.file("x.feather", &file)]).sources[0].layout.contains("Arrow"));
    // Truncated in its second batch: the intact part is read.
    let cut = Bench::new();
    let report = cut.ingest(&[&cut.file("cut.arrow", &stream[..stream.len() - 400])]);
    assert!(report.pairs_added >= 2);
    assert!(matches!(&report.sources[0].outcome, SourceOutcome::Partial(_)), "{report:?}");
}

#[test]
fn folders_of_other_tools_are_what_they_are_there() {
    let bench = Bench::new();
    // img2dataset's `files`: the table next to the folder is not a list to download.
    let urls: Vec<(&str, ArrayRef)> =
        vec![("url", strings(&["http://a.invalid/1.png"])), ("caption", strings(&["zero"]))];
    bench.file("out/00000.parquet", &parquet(urls, 10));
    bench.file("out/00000_stats.json", b"{\"count\": 1}");
    bench.file("out/00000/000000000.png", &png(0));
    bench.file("out/00000/000000000.txt", b"zero");
    bench.file(
        "out/00000/000000000.json",
        b"{\"caption\": \"zero\", \"url\": \"http://a.invalid/1.png\", \"width\": 6, \
          \"similarity\": NaN}",
    );
    bench.file("out/00000/000000001.png", &png(1));
    bench.file("out/00000/000000001.json", b"{\"caption\": \"one\"}");
    let report = bench.ingest(&[bench.path("out").to_str().unwrap()]);
    assert_eq!((report.pairs_added, report.ledger_total), (2, 0));
    let row = &pairs(&bench.dataset())[0];
    assert_eq!(row.own.keys().collect::<Vec<_>>(), ["src_width", "url"]);
    assert_eq!(kind(&bench, "src_width"), DataType::Int64);

    // Hugging Face's `imagefolder` with splits.
    for (split, number) in [("train", 10), ("test", 20)] {
        bench.file(&format!("ds/{split}/0.png"), &png(number));
        let line = format!("{{\"file_name\": \"0.png\", \"text\": \"{split}\"}}\n");
        bench.file(&format!("ds/{split}/metadata.jsonl"), line.as_bytes());
    }
    bench.ingest(&[bench.path("ds").to_str().unwrap()]);
    assert_eq!(captions(&bench.dataset())[2..], ["test", "train"]);

    // kohya's captions, and images without the usual extensions.
    bench.file("kohya/a.jfif", &png(30));
    bench.file("kohya/a.caption", b"a caption");
    bench.file("kohya/b", &png(31));
    bench.file("kohya/b.txt", b"no extension");
    bench.file("kohya/LICENSE", b"words, and no image");
    bench.ingest(&[bench.path("kohya").to_str().unwrap()]);
    assert_eq!(captions(&bench.dataset())[4..], ["a caption", "no extension"]);

    // Kaggle's Flickr8k: a list next to the folder of its images.
    bench.file("flickr/Images/1.jpg", &png(40));
    bench.file("flickr/captions.txt", b"image,caption\n1.jpg,first\n1.jpg,second\n2.jpg,none\n");
    let list = bench.path("flickr/captions.txt");
    let report = bench.ingest(&[list.to_str().unwrap()]);
    assert_eq!((report.pairs_added, report.ledger_added["missing_image"]), (2, 1));
    bench.file("flickr/Other/1.jpg", &png(41));
    bench.file("flickr/again.csv", b"image,caption\n1.jpg,third\n");
    bench.ingest(&[bench.path("flickr/again.csv").to_str().unwrap()]);
    let rows = ledger(&bench.dataset());
    assert!(rows.last().unwrap()[3].contains("--images-root"), "{rows:?}");
}

#[test]
fn one_odd_file_among_good_ones_is_a_row_of_the_ledger() {
    let bench = Bench::new();
    let good = |number: u32| {
        let columns: Vec<(&str, ArrayRef)> =
            vec![("image", bytes_of(&[number])), ("caption", strings(&["good"]))];
        parquet(columns, 10)
    };
    bench.file("in/a.parquet", &good(1));
    bench.file("in/b.parquet", &parquet(vec![("numbers", strings(&["1"]))], 10));
    bench.file("in/c.parquet", &good(2));
    let report = bench.ingest(&[bench.path("in").to_str().unwrap()]);
    assert_eq!((report.pairs_added, report.ledger_total), (2, 1));
    assert!(matches!(&report.sources[1].outcome, SourceOutcome::Unreadable(message) if message
            .contains("numbers")));
    // Named directly it is an error, and so it is alone.
    let odd = bench.path("in/b.parquet").to_str().unwrap().to_owned();
    let good = bench.path("in/a.parquet").to_str().unwrap().to_owned();
    let bench = Bench::new();
    assert!(bench.error(&bench.request(&[&good, &odd])).contains("numbers"));
    fs::create_dir_all(bench.path("alone")).unwrap();
    fs::copy(&odd, bench.path("alone/b.parquet")).unwrap();
    assert!(
        bench.error(&bench.request(&[bench.path("alone").to_str().unwrap()])).contains("numbers")
    );
}

#[test]
fn keys_with_dots_and_compound_extensions_are_told_with_the_option_that_works() {
    let (a, b) = (png(1), png(2));
    let bench = Bench::new();
    let compound = bench.file(
        "compound.tar",
        &tar(&[
            ("s0.input.png", &a),
            ("s0.outputs.txt", b"one"),
            ("s1.input.png", &b),
            ("s1.outputs.txt", b"two"),
        ]),
    );
    bench.ingest(&[&compound]);
    let advice = &ledger(&bench.dataset())[0][3];
    assert!(advice.contains("--image-column input.png --caption-column outputs.txt"), "{advice}");
    let mut request = bench.request(&[&compound]);
    request.image_column = Some("input.png".into());
    request.caption_column = Some("outputs.txt".into());
    assert_eq!(run(&request).unwrap().pairs_added, 2);

    let bench = Bench::new();
    let dotted = bench.file(
        "dotted.tar",
        &tar(&[("v1.0.png", &a), ("v1.0.txt", b"one"), ("v1.1.png", &b), ("v1.1.caption", b"two")]),
    );
    bench.ingest(&[&dotted]);
    assert!(ledger(&bench.dataset())[0][3].contains("--dotted-keys"));
    let request = IngestRequest { dotted_keys: true, ..bench.request(&[&dotted]) };
    assert_eq!(run(&request).unwrap().pairs_added, 2);
    assert_eq!(captions(&bench.dataset()), ["one", "two"]);
}
