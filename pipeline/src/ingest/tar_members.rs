//! The members of a tar, in sequence, from any stream: headers, long names, sizes, the end mark.
//!
//! The tar crate parses the header's fields, but the walk is ours. An ingest must distinguish a
//! complete archive from one that was truncated at a member's end, and must not trust sizes.
//! Nothing is allocated by the numbers in a header.

use std::io::{self, Read};

use tar::{EntryType, Header, PaxExtensions};

const BLOCK: u64 = 512;
/// Longest name, and longest set of extended attributes, in bytes.
const MAX_NAME_BYTES: u64 = 64 << 10;

/// A member. Its content is read with [`Members::content`], or skipped by the next call of
/// [`Members::next`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) name: String,
    /// Start of its header, in bytes of the decompressed archive.
    pub(super) offset: u64,
    /// Start of its content.
    pub(super) content: u64,
    pub(super) size: u64,
    pub(super) kind: EntryType,
}

/// The reason why the walk ended before the archive's end mark.
#[derive(Debug)]
pub(super) struct Broken {
    /// Byte of the decompressed archive.
    pub(super) at: u64,
    pub(super) detail: String,
    /// Whether the archive ends here. Otherwise, the data here is not a tar header.
    pub(super) cut: bool,
}

pub(super) struct Members<R> {
    reader: R,
    /// Bytes of the decompressed archive that have been read.
    at: u64,
    /// Unread content and padding of the current member.
    rest: u64,
    padding: u64,
    /// Number of end marks after which another archive started.
    joined: u64,
    /// Start of data after the last end mark that is not an archive.
    unread_from: Option<u64>,
}

impl<R: Read> Members<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, at: 0, rest: 0, padding: 0, joined: 0, unread_from: None }
    }

    /// Returns a note on the archive's end for the user, once [`Self::next`] has reached it.
    pub(super) fn note_of_end(&self) -> Option<String> {
        let joined = (self.joined > 0)
            .then(|| format!("{} joined archives; all of them are read", self.joined + 1));
        let unread = self.unread_from.map(|at| {
            format!("the data after the end mark, from byte {at} on, is not a tar and was not read")
        });
        match (joined, unread) {
            (Some(joined), Some(unread)) => Some(format!("{joined}; {unread}")),
            (joined, unread) => joined.or(unread),
        }
    }

    /// Returns the next member, or `None` after the last end mark. `cat a.tar b.tar` makes an
    /// archive with two end marks.
    pub(super) fn next(&mut self) -> Result<Option<Member>, Broken> {
        let mut long_name = None;
        let mut long_size = None;
        let mut ended = false;
        loop {
            self.skip(self.rest.saturating_add(self.padding))?;
            (self.rest, self.padding) = (0, 0);
            let offset = self.at;
            let block = match self.block() {
                Ok(Some(block)) => block,
                Ok(None) if ended => return Ok(None),
                Ok(None) => return Err(self.cut("the archive ends without its end mark")),
                Err(_) if ended => {
                    self.unread_from = Some(offset);
                    return Ok(None);
                }
                Err(broken) => return Err(broken),
            };
            if block.iter().all(|&byte| byte == 0) {
                ended = true;
                continue;
            }
            let header = Header::from_byte_slice(&block);
            if ended && !checksum_holds(header) {
                self.unread_from = Some(offset);
                return Ok(None);
            }
            self.joined += u64::from(std::mem::take(&mut ended));
            if !checksum_holds(header) {
                return Err(
                    self.not_tar(offset, "the header that should be here has a wrong checksum")
                );
            }
            let size = match long_size.take() {
                Some(size) => size,
                None => header.entry_size().map_err(|e| self.not_tar(offset, &e.to_string()))?,
            };
            let kind = header.entry_type();
            // Links and folders have no content, whatever their size field says.
            let size =
                if kind.is_hard_link() || kind.is_symlink() || kind.is_dir() { 0 } else { size };
            self.rest = size;
            self.padding = (BLOCK - size % BLOCK) % BLOCK;
            match kind {
                EntryType::GNULongName => {
                    let mut name = self.small_content(offset)?;
                    while name.last() == Some(&0) {
                        name.pop();
                    }
                    long_name = Some(name);
                }
                EntryType::XHeader => {
                    let attributes = self.small_content(offset)?;
                    for attribute in PaxExtensions::new(&attributes).flatten() {
                        match attribute.key_bytes() {
                            b"path" => long_name = Some(attribute.value_bytes().to_vec()),
                            b"size" => {
                                long_size =
                                    attribute.value().ok().and_then(|value| value.parse().ok());
                            }
                            _ => {}
                        }
                    }
                }
                EntryType::GNULongLink | EntryType::XGlobalHeader => {}
                _ => {
                    let name = long_name.take().unwrap_or_else(|| header.path_bytes().into_owned());
                    let name = String::from_utf8_lossy(&name).into_owned();
                    return Ok(Some(Member { name, offset, content: self.at, size, kind }));
                }
            }
        }
    }

    /// Returns the whole content of the current member. The caller has checked its size.
    pub(super) fn content(&mut self) -> Result<Vec<u8>, Broken> {
        let wanted = self.rest;
        let mut bytes = Vec::new();
        let read = (&mut self.reader).take(wanted).read_to_end(&mut bytes);
        self.at += bytes.len() as u64;
        self.rest -= bytes.len() as u64;
        match read {
            Ok(_) if bytes.len() as u64 == wanted => Ok(bytes),
            Ok(_) => Err(self.cut(&format!(
                "the archive ends within a member, {} bytes of it are missing",
                self.rest
            ))),
            Err(error) => Err(self.failed(&error)),
        }
    }

    fn small_content(&mut self, offset: u64) -> Result<Vec<u8>, Broken> {
        if self.rest > MAX_NAME_BYTES {
            return Err(self.not_tar(
                offset,
                &format!("a name of {} bytes, above the limit of {MAX_NAME_BYTES}", self.rest),
            ));
        }
        self.content()
    }

    fn skip(&mut self, bytes: u64) -> Result<(), Broken> {
        match io::copy(&mut (&mut self.reader).take(bytes), &mut io::sink()) {
            Ok(skipped) => {
                self.at += skipped;
                if skipped == bytes {
                    return Ok(());
                }
                Err(self.cut(&format!(
                    "the archive ends within a member, {} bytes of it are missing",
                    bytes - skipped
                )))
            }
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// Reads a header block, or `None` at the end of the stream.
    fn block(&mut self) -> Result<Option<[u8; BLOCK as usize]>, Broken> {
        let mut block = [0; BLOCK as usize];
        let mut filled = 0;
        while filled < block.len() {
            match self.reader.read(&mut block[filled..]) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(&error)),
            }
        }
        self.at += filled as u64;
        match filled as u64 {
            0 => Ok(None),
            BLOCK => Ok(Some(block)),
            _ => Err(self.cut("the archive ends within a header")),
        }
    }

    fn cut(&self, detail: &str) -> Broken {
        Broken { at: self.at, detail: detail.into(), cut: true }
    }

    #[expect(clippy::unused_self, reason = "reads as its sibling `cut`")]
    fn not_tar(&self, at: u64, detail: &str) -> Broken {
        Broken { at, detail: detail.into(), cut: false }
    }

    fn failed(&self, error: &io::Error) -> Broken {
        self.cut(&format!("reading failed here: {error}"))
    }
}

/// Checks the checksum. POSIX: the sum of all bytes of the header, with its own field as spaces.
/// Old writers summed signed bytes.
fn checksum_holds(header: &Header) -> bool {
    let Ok(stored) = header.cksum() else { return false };
    let bytes = header.as_bytes();
    let counted = || {
        bytes
            .iter()
            .enumerate()
            .map(|(at, &byte)| if (148..156).contains(&at) { b' ' } else { byte })
    };
    let unsigned: u32 = counted().map(u32::from).sum();
    let signed: i32 = counted().map(|byte| i32::from(byte as i8)).sum();
    stored == unsigned || i64::from(stored) == i64::from(signed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, content) in members {
            let mut header = Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, *content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn walk(bytes: &[u8]) -> (Vec<(String, Vec<u8>)>, Option<Broken>) {
        let mut members = Members::new(bytes);
        let mut found = Vec::new();
        loop {
            match members.next() {
                Ok(Some(member)) => match members.content() {
                    Ok(content) => found.push((member.name, content)),
                    Err(broken) => return (found, Some(broken)),
                },
                Ok(None) => return (found, None),
                Err(broken) => return (found, Some(broken)),
            }
        }
    }

    #[test]
    fn members_come_with_their_content_and_long_names() {
        let long = format!("{}/a.jpg", "folder".repeat(40));
        let bytes = archive(&[("a.txt", b"one"), (&long, b""), ("b.txt", &[7; 1000])]);
        let (found, broken) = walk(&bytes);
        assert!(broken.is_none());
        let expected = [
            ("a.txt".into(), b"one".to_vec()),
            (long, Vec::new()),
            ("b.txt".into(), vec![7; 1000]),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn extended_attributes_give_name_and_size() {
        let mut builder = tar::Builder::new(Vec::new());
        let long = format!("{}.txt", "é".repeat(200));
        builder.append_pax_extensions([("path", long.as_bytes()), ("size", b"5")]).unwrap();
        let mut header = Header::new_ustar();
        // A header whose fields cannot hold the real values.
        header.set_path("short").unwrap();
        header.set_size(0);
        header.set_cksum();
        let mut bytes = builder.into_inner().unwrap();
        bytes.truncate(bytes.len() - 1024);
        bytes.extend(header.as_bytes());
        bytes.extend(b"hello");
        bytes.resize(bytes.len() + 507 + 1024, 0);
        let (found, broken) = walk(&bytes);
        assert!(broken.is_none(), "{broken:?}");
        assert_eq!(found, [(long, b"hello".to_vec())]);
    }

    #[test]
    fn sizes_that_lie_allocate_nothing_and_end_as_a_cut() {
        let mut header = Header::new_gnu();
        header.set_path("a.txt").unwrap();
        header.set_size(u64::MAX / 2);
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend(b"few bytes");
        let (found, broken) = walk(&bytes);
        assert!(found.is_empty() && broken.unwrap().cut);
        let mut members = Members::new(bytes.as_slice());
        assert_eq!(members.next().unwrap().unwrap().size, u64::MAX / 2);
        assert!(members.next().unwrap_err().cut);
    }

    #[test]
    fn wherever_an_archive_is_cut_the_cut_is_noticed_and_what_is_whole_is_read() {
        let bytes = archive(&[("a.txt", b"one"), ("b.txt", &[7; 700])]);
        // Members end at 1024 and 2560; the end mark is the block after that.
        for length in 0..2560 + 512 {
            let (found, broken) = walk(&bytes[..length]);
            let broken = broken.unwrap();
            assert!(broken.cut && broken.at == length as u64, "{length}: {broken:?}");
            // The content of `a.txt` is complete with its third byte, that of `b.txt` with its
            // 700th.
            let whole = usize::from(length >= 512 + 3) + usize::from(length >= 1536 + 700);
            assert_eq!(found.len(), whole, "{length}");
        }
        assert!(walk(&bytes[..2560 + 512]).1.is_none());
    }

    #[test]
    fn archives_one_behind_the_other_are_read_and_what_is_none_is_told() {
        let (first, second) = (archive(&[("a.txt", b"one")]), archive(&[("b.txt", b"two")]));
        let (found, broken) = walk(&[first.clone(), vec![0; 7 * 512], second].concat());
        assert!(broken.is_none());
        assert_eq!(found, [("a.txt".into(), b"one".to_vec()), ("b.txt".into(), b"two".to_vec())]);

        let bytes = [first, vec![b'x'; 700]].concat();
        let mut members = Members::new(bytes.as_slice());
        assert!(members.next().unwrap().is_some() && members.next().unwrap().is_none());
        assert!(members.note_of_end().unwrap().contains("byte 2048"));
    }

    #[test]
    fn something_else_is_not_taken_for_a_tar() {
        let (found, broken) = walk(&[b'x'; 2048]);
        assert!(found.is_empty() && !broken.unwrap().cut);
    }
}
