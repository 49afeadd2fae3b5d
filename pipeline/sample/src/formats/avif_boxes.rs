//! The boxes of an AVIF (ISO/IEC 14496-12 and 23008-12) that a picture needs. Every length is
//! checked, and nothing is allocated by the numbers in a file.

use std::borrow::Cow;
use std::collections::HashMap;

use image::metadata::Orientation;

type Kind = [u8; 4];

/// Most pictures, tiles and masks of one file, more than any encoder writes.
const MAX_ITEMS: usize = 4096;

/// The items of a file and their properties.
pub(super) struct Items<'a> {
    file: &'a [u8],
    /// Bytes inside the header.
    inline: &'a [u8],
    pub(super) primary: u32,
    kinds: HashMap<u32, Kind>,
    places: HashMap<u32, Place>,
    properties: Vec<(Kind, &'a [u8])>,
    /// Indices of properties by item, from 0.
    properties_of: HashMap<u32, Vec<usize>>,
    /// Kind, from, to.
    references: Vec<(Kind, u32, Vec<u32>)>,
}

/// The place of an item's bytes.
struct Place {
    is_inline: bool,
    /// Start and length; a length of 0 means to the end.
    parts: Vec<(u64, u64)>,
}

/// A picture that is composed of others.
pub(super) struct Grid {
    pub(super) columns: u32,
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) tiles: Vec<u32>,
}

/// The colours in a `nclx` property.
pub(super) struct Colours {
    pub(super) matrix: u16,
    pub(super) is_full: bool,
}

impl<'a> Items<'a> {
    /// Parses the boxes of a file. Returns `None` if a required box is missing or broken.
    pub(super) fn parse(file: &'a [u8]) -> Option<Self> {
        let (_, meta) = boxes(file).find(|(kind, _)| kind == b"meta")?;
        let mut items = Self {
            file,
            inline: &[],
            primary: 0,
            kinds: HashMap::new(),
            places: HashMap::new(),
            properties: Vec::new(),
            properties_of: HashMap::new(),
            references: Vec::new(),
        };
        for (kind, content) in boxes(meta.get(4..)?) {
            match &kind {
                b"pitm" => {
                    let mut reader = Reader(content);
                    let version = reader.version()?;
                    items.primary = reader.number(if version == 0 { 2 } else { 4 })? as u32;
                }
                b"idat" => items.inline = content,
                b"iinf" => items.read_kinds(content)?,
                b"iloc" => items.read_places(content)?,
                b"iref" => items.read_references(content)?,
                b"iprp" => items.read_properties(content)?,
                _ => {}
            }
        }
        Some(items)
    }

    fn read_kinds(&mut self, content: &[u8]) -> Option<()> {
        let mut reader = Reader(content);
        let version = reader.version()?;
        reader.number(if version == 0 { 2 } else { 4 })?;
        for (_, entry) in boxes(reader.0).filter(|(kind, _)| kind == b"infe").take(MAX_ITEMS) {
            let mut reader = Reader(entry);
            let version = reader.version()?;
            let id = reader.number(if version == 3 { 4 } else { 2 })? as u32;
            reader.number(2)?;
            self.kinds.insert(id, reader.take(4)?.try_into().ok()?);
        }
        Some(())
    }

    fn read_places(&mut self, content: &[u8]) -> Option<()> {
        let mut reader = Reader(content);
        let version = reader.version()?;
        let lengths = reader.number(2)?;
        let length = |shift: u32| ((lengths >> shift) & 15) as usize;
        let (offset, size, base) = (length(12), length(8), length(4));
        let index = if version == 0 { 0 } else { length(0) };
        let long = if version < 2 { 2 } else { 4 };
        let count = reader.number(long)? as usize;
        for _ in 0..count.min(MAX_ITEMS) {
            let id = reader.number(long)? as u32;
            let construction = if version == 0 { 0 } else { reader.number(2)? & 15 };
            reader.number(2)?;
            let start = reader.number(base)?;
            let parts = reader.number(2)? as usize;
            let mut place = Place { is_inline: construction == 1, parts: Vec::new() };
            for _ in 0..parts.min(MAX_ITEMS) {
                reader.number(index)?;
                let from = start.checked_add(reader.number(offset)?)?;
                place.parts.push((from, reader.number(size)?));
            }
            // Bytes in other items are not supported.
            if construction < 2 {
                self.places.insert(id, place);
            }
        }
        Some(())
    }

    fn read_references(&mut self, content: &[u8]) -> Option<()> {
        let mut reader = Reader(content);
        let long = if reader.version()? == 0 { 2 } else { 4 };
        for (kind, content) in boxes(reader.0).take(MAX_ITEMS) {
            let mut reader = Reader(content);
            let from = reader.number(long)? as u32;
            let count = reader.number(2)? as usize;
            let to: Option<Vec<u32>> = (0..count.min(MAX_ITEMS))
                .map(|_| reader.number(long).map(|id| id as u32))
                .collect();
            self.references.push((kind, from, to?));
        }
        Some(())
    }

    fn read_properties(&mut self, content: &'a [u8]) -> Option<()> {
        for (kind, content) in boxes(content) {
            if &kind == b"ipco" {
                self.properties = boxes(content).take(MAX_ITEMS).collect();
            } else if &kind == b"ipma" {
                let mut reader = Reader(content);
                let head = reader.number(4)?;
                let (version, is_wide) = (head >> 24, head & 1 == 1);
                let count = reader.number(4)? as usize;
                for _ in 0..count.min(MAX_ITEMS) {
                    let id = reader.number(if version == 0 { 2 } else { 4 })? as u32;
                    let of_item = self.properties_of.entry(id).or_default();
                    for _ in 0..reader.number(1)? {
                        // The highest bit says that a reader must understand it.
                        let number = if is_wide {
                            reader.number(2)? & 0x7fff
                        } else {
                            reader.number(1)? & 0x7f
                        };
                        if let Some(index) = (number as usize).checked_sub(1) {
                            of_item.push(index);
                        }
                    }
                }
            }
        }
        Some(())
    }

    pub(super) fn kind(&self, id: u32) -> Option<&Kind> {
        self.kinds.get(&id)
    }

    /// Returns the bytes of an item.
    pub(super) fn data(&self, id: u32) -> Option<Cow<'a, [u8]>> {
        let place = self.places.get(&id)?;
        let whole = if place.is_inline { self.inline } else { self.file };
        let part = |&(from, length): &(u64, u64)| {
            let rest = whole.get(usize::try_from(from).ok()?..)?;
            if length == 0 { Some(rest) } else { rest.get(..usize::try_from(length).ok()?) }
        };
        match place.parts.as_slice() {
            [one] => part(one).map(Cow::Borrowed),
            parts => {
                let mut all = Vec::new();
                for one in parts {
                    all.extend_from_slice(part(one)?);
                    // Parts may overlap, so that few bytes name many.
                    if all.len() > self.file.len() {
                        return None;
                    }
                }
                Some(Cow::Owned(all))
            }
        }
    }

    fn property(&self, id: u32, kind: Kind) -> Option<&'a [u8]> {
        let numbers = self.properties_of.get(&id)?;
        let mut all = numbers.iter().filter_map(|&index| self.properties.get(index));
        all.find(|(found, _)| *found == kind).map(|(_, content)| *content)
    }

    /// Returns the stored width and height of an item.
    pub(super) fn size(&self, id: u32) -> Option<(u32, u32)> {
        let mut reader = Reader(self.property(id, *b"ispe")?);
        reader.version()?;
        Some((reader.number(4)? as u32, reader.number(4)? as u32))
    }

    pub(super) fn orientation(&self, id: u32) -> Orientation {
        let first =
            |kind: &Kind| self.property(id, *kind).and_then(|content| content.first()).copied();
        // Quarter turns counterclockwise, then the mirrored sides: 0 top and bottom, 1 left and
        // right.
        let turns = first(b"irot").unwrap_or(0) & 3;
        let exif = match (turns, first(b"imir").map(|axis| axis & 1)) {
            (0, None) => 1,
            (0, Some(1)) | (2, Some(0)) => 2,
            (2, None) => 3,
            (0 | 2, Some(_)) => 4,
            (1, Some(0)) | (3, Some(1)) => 5,
            (3, None) => 6,
            (1 | 3, Some(_)) => 7,
            (_, _) => 8,
        };
        Orientation::from_exif(exif).unwrap_or(Orientation::NoTransforms)
    }

    pub(super) fn colours(&self, id: u32) -> Option<Colours> {
        let numbers = self.properties_of.get(&id)?.iter();
        let mut profiles = numbers.filter_map(|&index| self.properties.get(index));
        let (_, content) =
            profiles.find(|(kind, content)| kind == b"colr" && content.starts_with(b"nclx"))?;
        let mut reader = Reader(content.get(8..)?);
        let matrix = reader.number(2)? as u16;
        Some(Colours { matrix, is_full: reader.number(1)? & 0x80 != 0 })
    }

    /// Returns the item that holds the transparency of another, and whether the colours were
    /// multiplied by it.
    pub(super) fn alpha(&self, of: u32) -> Option<(u32, bool)> {
        const NAMES: [&[u8]; 2] =
            [b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha", b"urn:mpeg:hevc:2015:auxid:1"];
        let is_alpha = |id: u32| {
            let name = self.property(id, *b"auxC").and_then(|content| content.get(4..));
            name.is_some_and(|name| NAMES.iter().any(|known| name.starts_with(known)))
        };
        let (_, alpha, _) = self
            .references
            .iter()
            .find(|(kind, from, to)| kind == b"auxl" && to.contains(&of) && is_alpha(*from))?;
        let multiplied = self
            .references
            .iter()
            .any(|(kind, from, to)| kind == b"prem" && *from == of && to.contains(alpha));
        Some((*alpha, multiplied))
    }

    pub(super) fn grid(&self, id: u32) -> Option<Grid> {
        let data = self.data(id)?;
        let mut reader = Reader(&data);
        let head = reader.number(4)?;
        let is_wide = (head >> 16) & 1 == 1;
        let rows = ((head >> 8) & 255) as usize + 1;
        let columns = (head & 255) as u32 + 1;
        let long = if is_wide { 4 } else { 2 };
        let (width, height) = (reader.number(long)? as u32, reader.number(long)? as u32);
        let (_, _, tiles) =
            self.references.iter().find(|(kind, from, _)| kind == b"dimg" && *from == id)?;
        let tiles = tiles.clone();
        (tiles.len() == rows * columns as usize).then_some(Grid { columns, width, height, tiles })
    }
}

/// Iterates over consecutive boxes. Ends at a box that is longer than the rest.
fn boxes(mut bytes: &[u8]) -> impl Iterator<Item = (Kind, &[u8])> {
    std::iter::from_fn(move || {
        let mut reader = Reader(bytes);
        let short = reader.number(4)?;
        let kind: Kind = reader.take(4)?.try_into().ok()?;
        let (length, head) = match short {
            0 => (bytes.len() as u64, 8),
            1 => (reader.number(8)?, 16),
            length => (length, 8),
        };
        let content = bytes.get(head..usize::try_from(length).ok()?)?;
        bytes = &bytes[head + content.len()..];
        Some((kind, content))
    })
}

/// A reader of consecutive big-endian numbers.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    /// Reads a number of up to 8 bytes; of 0 bytes it is 0.
    fn number(&mut self, length: usize) -> Option<u64> {
        let bytes = self.take(length).filter(|bytes| bytes.len() <= 8)?;
        Some(bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    /// Reads the version of a box that has one.
    fn version(&mut self) -> Option<u64> {
        self.number(4).map(|head| head >> 24)
    }
}
