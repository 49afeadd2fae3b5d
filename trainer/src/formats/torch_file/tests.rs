//! Malicious archives and pickles, assembled by hand.

use super::archive::Archive;
use super::check;
use super::pickle;

/// Makes a zip archive as torch.save writes it, without checksums.
fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, bytes) in members {
        let start = (file.len() as u32).to_le_bytes();
        let (size, length) =
            ((bytes.len() as u32).to_le_bytes(), (name.len() as u16).to_le_bytes());
        file.extend(b"PK\x03\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        file.extend([&size[..], &size, &length, &[0; 2], name.as_bytes(), bytes].concat());
        directory.extend(b"PK\x01\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        directory.extend([&size[..], &size, &length, &[0; 12], &start, name.as_bytes()].concat());
    }
    let (start, count) = ((file.len() as u32).to_le_bytes(), (members.len() as u16).to_le_bytes());
    file.extend(&directory);
    file.extend(b"PK\x05\x06\0\0\0\0");
    file.extend(
        [&count[..], &count, &(directory.len() as u32).to_le_bytes(), &start, &[0; 2]].concat(),
    );
    file
}

fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

fn integer(value: i32) -> Vec<u8> {
    [b"J", &value.to_le_bytes()[..]].concat()
}

/// Pickles `{"w": a view of four floats}`.
fn one_tensor(key: &str, count: i32, offset: i32, shape: &[i32], strides: &[i32]) -> Vec<u8> {
    let tuple = |items: &[i32]| {
        [&b"("[..], &items.iter().flat_map(|&item| integer(item)).collect::<Vec<_>>(), b"t"]
            .concat()
    };
    [
        &b"\x80\x02}"[..],
        &text("w"),
        b"ctorch._utils\n_rebuild_tensor_v2\n((",
        &text("storage"),
        b"ctorch\nFloatStorage\n",
        &text(key),
        &text("cpu"),
        &integer(count),
        b"tQ",
        &integer(offset),
        &tuple(shape),
        &tuple(strides),
        b"\x89ccollections\nOrderedDict\n)RtRs.",
    ]
    .concat()
}

fn file(pickle: &[u8]) -> Vec<u8> {
    archive(&[("a/data.pkl", pickle), ("a/data/0", &[0; 16])])
}

fn refusal(file: &[u8]) -> String {
    check(file).err().unwrap()
}

#[test]
fn views_are_taken_within_their_storage_alone() {
    for (offset, shape, strides) in [
        (0, &[2, 2][..], &[2, 1][..]),
        (0, &[2, 2], &[1, 2]),
        (3, &[1], &[9]),
        (4, &[0], &[1]),
        (1, &[], &[]),
    ] {
        assert_eq!(
            check(&file(&one_tensor("0", 4, offset, shape, strides))).unwrap().tensors.len(),
            1,
            "{shape:?}"
        );
    }
    for (count, offset, shape, strides, says) in [
        (4, 1, &[2, 2][..], &[2, 1][..], "exceed storage \"0\" of 4 numbers"),
        (4, 5, &[0], &[1], "exceed"),
        (4, 0, &[2], &[4], "exceed"),
        (4, 3, &[2], &[-1], "are not a valid view"),
        (4, -1, &[2], &[1], "are not a valid view"),
        (4, 0, &[-2], &[1], "are not a valid view"),
        (4, 0, &[2], &[1, 1], "are not a valid view"),
        (4, 0, &[i32::MAX, i32::MAX, i32::MAX], &[0, 0, 0], "are too large"),
        (4, 0, &[i32::MAX], &[0], "overlap"),
        (5, 0, &[4], &[1], "should hold 5 numbers (float32) and has 16 bytes"),
        (-4, 0, &[4], &[1], "should hold -4 numbers"),
        (4, 0, &[1; 20], &[1; 20], "a tuple of 20"),
    ] {
        let error = refusal(&file(&one_tensor("0", count, offset, shape, strides)));
        assert!(
            error.contains(says) && (error.contains("tensor w") || says.contains("tuple")),
            "{error}"
        );
    }
    for key in ["1", "../data.pkl", ""] {
        assert!(refusal(&file(&one_tensor(key, 4, 0, &[4], &[1]))).contains("is missing"));
    }
}

#[test]
fn archives_that_torch_does_not_write_are_refused() {
    let pickle = one_tensor("0", 4, 0, &[4], &[1]);
    for (members, says) in [
        (&[("a/data.pkl", &pickle[..]), ("a/data.pkl", &pickle)][..], "occurs twice"),
        (&[("a/data.pkl", &pickle), ("b/data/0", &[0; 16])], "outside the folder \"a\""),
        (&[("a/../data.pkl", &pickle)], "is not a valid name"),
        (&[("/data.pkl", &pickle)], "is not a valid name"),
        (&[("a/data/0", &[0; 16])], "no data.pkl"),
        (&[("a/data.pkl", &pickle), ("a/byteorder", b"big")], "big-endian"),
        (&[("a/code/x.py", b"")], "TorchScript"),
    ] {
        assert!(
            refusal(&archive(members)).contains(says),
            "{says}: {}",
            refusal(&archive(members))
        );
    }

    let good = file(&pickle);
    let directory = good.windows(4).position(|four| four == b"PK\x01\x02").unwrap();
    // Fields of the first entry of the directory, and of the record at the end.
    for (place, value, says) in [
        (directory + 8, 1, "is encrypted"),
        (directory + 10, 8, "is compressed"),
        (directory + 20, 1, "and stores 1"),
        (directory + 42, 7, "does not match its entry"),
        (directory + 28, 200, "is damaged"),
        (good.len() - 22 + 8, 3, "several files"),
        (good.len() - 22 + 12, 1, "is not where the end record says"),
        (good.len() - 2, 1, "truncated"),
    ] {
        let mut bad = good.clone();
        bad[place] = value;
        assert!(refusal(&bad).contains(says), "{says}: {}", refusal(&bad));
    }

    // A second entry for the first one's bytes, as in a zip bomb of overlapping members.
    let mut overlapping = archive(&[("a/x", &[0; 16]), ("a/y", &[0; 16])]);
    let place = overlapping.windows(4).rposition(|four| four == b"PK\x01\x02").unwrap();
    overlapping[place + 42..place + 46].fill(0);
    overlapping[place + 48] = b'x';
    assert!(refusal(&overlapping).contains("overlap"), "{}", refusal(&overlapping));
    // A member that claims the file's whole length, or more.
    for size in [good.len() as u32, u32::MAX - 1] {
        let mut bad = good.clone();
        for field in [20, 24] {
            bad[directory + field..directory + field + 4].copy_from_slice(&size.to_le_bytes());
        }
        assert!(
            refusal(&bad).contains("is outside the file")
                || refusal(&bad).contains("extends beyond"),
            "{}",
            refusal(&bad)
        );
    }
    assert!(Archive::open(b"").is_err());
}

#[test]
fn pickles_that_no_state_dict_needs_are_refused_and_bounded() {
    let repeated = |start: &[u8], part: &[u8], times: usize, end: &[u8]| {
        [start, &part.repeat(times), end].concat()
    };
    for (pickle, says) in [
        (b"\x80\x02cposix\nsystem\nX\x02\0\0\0ls\x85R.".to_vec(), "it names posix.system"),
        (b"\x80\x02cbuiltins\neval\n.".to_vec(), "it names builtins.eval"),
        (b"\x80\x02ctorch\nFloatStorage\n)R.".to_vec(), "torch FloatStorage with arguments"),
        (b"\x80\x04.".to_vec(), "protocol 4"),
        (b"\x80\x02".to_vec(), "truncated"),
        (b"\x80\x02X\xff\xff\xff\xffab".to_vec(), "truncated"),
        (b"\x80\x02.".to_vec(), "an operation without its operands"),
        (b"\x80\x02t.".to_vec(), "an end without a beginning"),
        (b"\x80\x02(R.".to_vec(), "an operation without its operands"),
        (b"\x80\x02h\x07.".to_vec(), "a reference to nothing"),
        (b"\x80\x02}(Nu.".to_vec(), "a key without a value"),
        (b"\x80\x02N.".to_vec(), "it holds None instead of a state dict"),
        (b"\x80\x02}NNs.".to_vec(), "a key of the state dict is None"),
        (b"\x80\x02\x8c\x01a.".to_vec(), "operation 0x8c"),
        // Endless operations, deep nesting, and repeated doubling of an earlier value.
        (repeated(b"\x80\x02", b"N", 2_000_001, b"."), "more than 2000000 operations"),
        (repeated(b"\x80\x02", b"(", 1_000_000, b"."), "an operation without its operands"),
        (repeated(b"\x80\x02)", b"\x85", 1_000_000, b"."), "it holds a tuple"),
        (repeated(b"\x80\x02)q\0", b"h\0h\0\x86q\0", 100_000, b"."), "it holds a tuple"),
        (
            repeated(b"\x80\x02}q\0", b"h\0X\x01\0\0\0ah\0s", 1000, b"."),
            "a is a dictionary instead of a tensor",
        ),
    ] {
        let error = pickle::state_dict(&pickle).err().unwrap();
        assert!(error.contains(says), "{says}: {error}");
    }
}

#[test]
fn any_flipped_bit_of_a_pickle_is_an_error_or_a_state_dict() {
    let good = one_tensor("0", 4, 0, &[2, 2], &[2, 1]);
    let mut read = 0;
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        read += usize::from(check(&file(&bad)).is_ok());
        let _ = pickle::state_dict(&good[..bit / 8]).err().unwrap();
    }
    // Only the names of the tensor and the device, and the strides of nothing may change.
    assert!(read < good.len(), "{read}");
}
