//! Files that users bring to `diptych ingest`, and the queries they then ask.
//! `pipeline/tests/ingest` tests the layouts themselves.

use std::fmt::Write;
use std::path::Path;

use diptych_test_support::needs;
use diptych_tests::service::Service;
use diptych_tests::{Work, messages, pairs};

/// Makes a folder with the images `0.png` to `4.png`.
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
    work.diptych(&["retype", "--dataset", "data"]).ok().names(&["score", "Float64"]);
    assert_eq!(ask("SELECT max(score) FROM meta"), "12.0");
    assert_eq!(ask("SELECT caption FROM scored WHERE score > 10"), "b");
    work.diptych(&["retype", "--dataset", "data", "--columns", "nothing"])
        .fails(1, "no_such_column")
        .names(&["score"]);
}

#[test]
fn message_names_the_option_that_reads_the_list() {
    let work = work();
    work.write("bare.csv", "zero,x,0.png\none,y,1.png\n");
    work.diptych(&["ingest", "bare.csv", "--dataset", "data"])
        .fails(1, "list_without_a_header")
        .names(&["--columns", "0.png"]);
    work.diptych(&["ingest", "bare.csv", "--dataset", "data", "--columns", "caption,class,file"])
        .ok();
    assert_eq!(work.sql(&["--dataset", "data"], "SELECT count(*) FROM meta"), "2");

    work.write("lists/list.tsv", "filepath\ttitle\n../2.png\t\"two\n../3.png\tthree\n");
    work.diptych(&["ingest", "lists/list.tsv", "--dataset", "other"])
        .fails(1, "paths_outside_of_the_folder")
        .names(&["--images-root", "--allow-outside"]);
    work.diptych(&["ingest", "lists/list.tsv", "--dataset", "other", "--allow-outside"]).ok();
    assert_eq!(
        work.sql(&["--dataset", "other"], "SELECT string_agg(caption, '/') FROM meta"),
        "\"\"\"two/three\""
    );
    work.diptych(&["ingest", "bare.csv", "--dataset", "x", "--encoding", "martian"])
        .fails(1, "unknown_encoding")
        .names(&["martian", "windows-1252"]);
    work.diptych(&["ingest", "bare.csv", "--dataset", "x", "--separator", "ab"])
        .fails(2, "separator_of_two_characters")
        .names(&["ab"]);
}

/// Returns a picture of the decoder's own test data.
fn own(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../pipeline/sample/testdata");
    std::fs::read(folder.join(name)).unwrap()
}

/// A file of each format, with an extension in common use.
const FORMATS: [(&str, &str, &str); 12] = [
    ("rgb.bmp", "bmp", "bmp"),
    ("lzw.tiff", "tif", "tiff"),
    ("cmyk.tiff", "tiff", "tiff"),
    ("sub420.avif", "avif", "avif"),
    ("lossless.jxl", "jxl", "jxl"),
    ("lossless.jp2", "jp2", "jp2"),
    ("sizes.ico", "ico", "ico"),
    ("rgb.ppm", "ppm", "pnm"),
    ("bits1.pbm", "pbm", "pnm"),
    ("rgb.qoi", "qoi", "qoi"),
    ("sub0.jpg", "jfif", "jpeg"),
    ("sub1.jpg", "jpe", "jpeg"),
];

#[test]
fn pictures_of_every_format_are_read_from_folders_tars_and_lists() {
    let work = Work::new();
    let mut members = Vec::new();
    let mut list = "file,caption\n".to_owned();
    for (number, (file, extension, _)) in FORMATS.iter().enumerate() {
        let name = format!("{number:02}.{extension}");
        work.write(&format!("folder/{name}"), own(file));
        work.write(&format!("folder/{number:02}.txt"), format!("in a folder {number}"));
        members.push((name.clone(), own(file)));
        members.push((format!("{number:02}.txt"), format!("in a tar {number}").into_bytes()));
        // No extension at all.
        work.write(&format!("bare/{number:02}"), own(file));
        let _ = writeln!(list, "bare/{number:02},in a list {number}");
    }
    // Found by its bytes alone.
    work.write("folder/odd.jpg_large", own("sub2.jpg"));
    work.write("folder/odd.txt", "an odd name");
    let members: Vec<(&str, Vec<u8>)> =
        members.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
    work.write("shard.tar", pairs::tar(&members));
    work.write("list.csv", list);
    for source in ["folder", "shard.tar", "list.csv"] {
        work.diptych(&["ingest", source, "--dataset", "data", "--verify"]).ok();
    }
    let ask = |query: &str| work.sql(&["--dataset", "data"], query);
    assert_eq!(ask("SELECT count(*) FROM ledger"), "0");
    for (number, (_, _, format)) in FORMATS.iter().enumerate() {
        for place in ["folder", "tar", "list"] {
            let found =
                ask(&format!("SELECT format FROM meta WHERE caption = 'in a {place} {number}'"));
            assert_eq!(&found, format, "{place} {number}");
        }
    }
    assert_eq!(ask("SELECT format FROM meta WHERE caption = 'an odd name'"), "jpeg");

    // Every one can be shown by a browser, with one kind of content.
    work.write(
        "diptych.toml",
        "state = \"state\"\nlisten = \"127.0.0.1:0\"\n[[dataset]]\nname = \"d\"\npath = \"data\"\n",
    );
    let service = Service::start(&work);
    let samples = service.get("/v1/datasets/d/samples?limit=50");
    let items = samples["items"].as_array().unwrap();
    assert_eq!(items.len(), 3 * FORMATS.len() + 1);
    for item in items {
        let answer = service.send("GET", item["image"].as_str().unwrap(), &[], None);
        assert!(answer.bytes.starts_with(b"\x89PNG"), "{item}");
        let shown = image::load_from_memory(&answer.bytes).unwrap();
        // Whole, with its proportions.
        let (width, height) = (item["width"].as_u64(), item["height"].as_u64());
        assert_eq!((Some(shown.width().into()), Some(shown.height().into())), (width, height));
    }
    service.send("GET", "/metrics", &[], None);
}

#[test]
fn picture_of_a_format_that_is_not_read_is_named_with_the_way_out() {
    let work = Work::new();
    for (name, bytes, message) in [
        ("a.heic", &b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"[..], "picture_of_heic"),
        ("b.psd", b"8BPS\0\x01", "picture_of_photoshop"),
        ("c.jpg", b"<!DOCTYPE html><html>gone</html>", "picture_that_is_html"),
        ("d.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "picture_of_svg"),
    ] {
        work.write(&format!("one/{name}"), bytes);
        work.write(&format!("one/{}.txt", &name[..1]), "a caption");
        let ran = work.diptych(&["ingest", "one", "--dataset", "data"]);
        ran.fails(1, message).names(&[name, "unsupported_format"]);
        std::fs::remove_dir_all(work.path("data")).unwrap();
        std::fs::remove_dir_all(work.path("one")).unwrap();
    }
}

#[test]
fn images_without_captions_leave_no_dataset_and_say_what_was_looked_for() {
    let work = work();
    std::fs::create_dir(work.path("only")).unwrap();
    std::fs::copy(work.path("0.png"), work.path("only/0.png")).unwrap();
    work.diptych(&["ingest", "only", "--dataset", "data"])
        .fails(1, "images_without_captions")
        .names(&["0.txt", "0.caption", "0.json"]);
    assert!(!work.path("data").exists());
    // A dataset of before stays.
    work.write("list.csv", "file,caption\n0.png,a\n");
    work.diptych(&["ingest", "list.csv", "--dataset", "data"]).ok();
    work.diptych(&["ingest", "only", "--dataset", "data"]);
    assert_eq!(work.sql(&["--dataset", "data"], "SELECT count(*) FROM meta"), "1");
}

#[test]
fn models_runs_files_and_columns_that_do_not_exist_come_with_the_nearest_name() {
    let work = Work::new().with_demo_data(120);
    let refused = |call: &[&str], message: &str, names: &[&str]| {
        work.diptych(call).fails(1, message).names(names);
    };
    refused(&["config", "--model", "ViT-B/32"], "mistyped_model", &["ViT-B-32?"]);
    refused(&["config", "--model", "RN50"], "model_that_is_a_resnet", &["RN50"]);
    refused(
        &["config", "--model", "hf-hub:laion/CLIP-x"],
        "model_of_the_hub",
        &["hf download laion/CLIP-x"],
    );
    work.write(
        "run.toml",
        diptych_tests::tiny_config("tiny", 1, "").replace("train.parquet", "trian.parquet"),
    );
    let names = ["data.selection", "trian.parquet", "train.parquet"];
    refused(&["train", "run.toml"], "mistyped_selection", &names);
    work.write("run.toml", diptych_tests::tiny_config("tiny", 1, ""));
    work.diptych(&["train", "run.toml"]).ok();
    refused(
        &["report", "tinny", "--state", "state", "--output", "x.html"],
        "mistyped_run",
        &["tiny?"],
    );
    refused(&["plot", "tinny", "--state", "state", "--output", "x.png"], "no_such_run", &["tiny?"]);
    work.write("classes.txt", "red circle\nblue square\n");
    let labels = ["--classes", "classes.txt", "--label-column", "labl"];
    let eval = ["eval", "--model", "tiny", "--dataset", "data", "--selection", "heldout.parquet"];
    refused(&[&eval[..], &labels].concat(), "mistyped_label_column", &["labl", "label?"]);
}

#[needs(mounts)]
#[test]
fn full_disk_says_where_to_make_room_in_ingest_and_export() {
    let work = Work::new();
    let images: Vec<Vec<u8>> = (0..40).map(|seed| pairs::noise(seed, 64)).collect();
    let names: Vec<String> = (0..40).map(|number| format!("{number}.png")).collect();
    for (name, image) in names.iter().zip(images) {
        work.write(&format!("pictures/{name}"), image);
        work.write(&format!("pictures/{}", name.replace("png", "txt")), name);
    }
    std::fs::create_dir(work.path("small")).unwrap();
    let model = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../trainer/tests/data/torch/openclip_safetensors");
    for (verb, command, place) in [
        ("ingest", "ingest pictures --dataset small/data".to_owned(), "small/data"),
        (
            "export",
            format!("export --model {} --format hf --output small/model", model.display()),
            "small/model",
        ),
    ] {
        let script = format!(
            "mount -t tmpfs -o size=16k tmpfs small && {} {command}",
            diptych_tests::binary().display()
        );
        let ran = std::process::Command::new("unshare")
            .args(["-rm", "sh", "-c", &script])
            .current_dir(work.path(""))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&ran.stderr);
        assert_eq!(ran.status.code(), Some(1), "{said}");
        assert!(said.contains(place), "{said}");
        messages::check(verb, "full_disk", &said);
    }
}
