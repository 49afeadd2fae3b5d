//! WebDataset archives: members that share a key (their path up to the first dot of the base name)
//! form one record.
//!
//! Members of a key are normally adjacent. If they are apart (all images, then all captions), a
//! record without a partner is set aside. In a plain tar its place is stored; in a compressed one
//! its content, in bounded memory. A record that never finds a partner is rejected at the end, so
//! that the order of the items depends on the archive alone.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use diptych_schemas::Reason;

use super::columns::Wanted;
use super::item::{
    Fault, Item, MAX_CAPTION_BYTES, MAX_COLUMN_BYTES, MAX_RECORD_BYTES, Outcome, ReadOptions,
    Record, Rejection, Sink,
};
use super::packing::Packing;
use super::tar_group::{CAPTION_EXTENSIONS, Content, Group, Part, is_image_extension};
use super::tar_members::{Broken, Member, Members};
use super::{IngestError, json, own_value, text};

/// Most bytes that are set aside in memory until their partner comes.
const MAX_ASIDE_BYTES: usize = 512 << 20;
/// Samples that are checked before anything is written, to detect a missing caption field.
const PEEK_SAMPLES: usize = 64;
const PEEK_BYTES: u64 = 64 << 20;

/// Describes an archive.
pub(super) fn describe(packing: Packing) -> String {
    format!("WebDataset tar{}", packing.suffix())
}

/// Refuses a caption field or an extension that no sample at the start of the archive has.
pub(super) fn check(
    path: &Path,
    packing: Packing,
    options: &ReadOptions,
) -> Result<(), IngestError> {
    if options.caption_column.is_none() && options.image_column.is_none() {
        return Ok(());
    }
    let Ok((_, reader)) = open(path, packing) else { return Ok(()) };
    let mut members = Members::new(reader.take(PEEK_BYTES));
    let mut keys = std::collections::HashSet::new();
    let mut names: Vec<String> = Vec::new();
    let mut note = |name: String| {
        if !names.contains(&name) && names.len() < MAX_COLUMN_BYTES {
            names.push(name);
        }
    };
    while let Ok(Some(member)) = members.next() {
        let Some((key, extension)) = split_name(&member.name, options.dotted_keys) else {
            continue;
        };
        keys.insert(key);
        if keys.len() > PEEK_SAMPLES {
            break;
        }
        if extension == "json" && member.size <= MAX_RECORD_BYTES {
            let Ok(content) = members.content() else { break };
            if let Ok(fields) = json::object(&content) {
                fields.keys().for_each(|field| note(field.clone()));
            }
        }
        note(extension);
    }
    for (wanted, given) in
        [(Wanted::Image, options.image_column), (Wanted::Caption, options.caption_column)]
    {
        let found =
            given.is_none() || wanted.find(&names.iter().map(String::as_str), given).is_some();
        if !found && !keys.is_empty() {
            return Err(wanted.missing(path, names.iter().map(String::as_str), given));
        }
    }
    Ok(())
}

fn open(path: &Path, packing: Packing) -> std::io::Result<(File, Box<dyn Read>)> {
    let file = File::open(path)?;
    let stream = BufReader::with_capacity(1 << 20, file.try_clone()?);
    Ok((file, packing.unpacked(stream)?))
}

/// Splits a name into key and extension. Returns `None` for a name without either: hidden files,
/// files without a dot. The key ends at the first dot of the file's name or, with `dotted_keys`, at
/// the last.
fn split_name(name: &str, dotted_keys: bool) -> Option<(String, String)> {
    let base = name.rfind('/').map_or(0, |slash| slash + 1);
    let file = &name[base..];
    let dot = base + if dotted_keys { file.rfind('.')? } else { file.find('.')? };
    if dot == base || dot + 1 == name.len() {
        return None;
    }
    Some((name[..dot].to_owned(), name[dot + 1..].to_lowercase()))
}

/// Reads an archive from its start.
pub(super) fn read(
    path: &Path,
    packing: Packing,
    options: &ReadOptions,
    sink: &mut Sink,
) -> Result<Outcome, IngestError> {
    let (file, stream) = match open(path, packing) {
        Ok(opened) => opened,
        Err(error) => {
            return Archive::new(*options, None, sink)
                .unreadable(error.to_string(), Reason::TruncatedSource);
        }
    };
    let mut members = Members::new(stream);
    let mut archive = Archive::new(*options, (packing == Packing::Plain).then_some(file), sink);
    loop {
        match members.next() {
            Ok(Some(member)) => {
                if let Err(broken) = archive.member(&mut members, &member)? {
                    return archive.broken(&broken);
                }
            }
            Ok(None) => return archive.finish(members.note_of_end()),
            Err(broken) => return archive.broken(&broken),
        }
    }
}

/// The reading of one archive.
struct Archive<'a, 'b> {
    options: ReadOptions<'a>,
    /// The archive itself, if it can be read at any place.
    file: Option<File>,
    sink: &'a mut Sink<'b>,
    records: u64,
    current: Option<Group>,
    aside: HashMap<String, Group>,
    /// Keys in the order in which they were set aside. A key may have left `aside` since.
    aside_order: VecDeque<String>,
    aside_bytes: usize,
    /// Members that were not kept, by extension.
    unkept: BTreeMap<String, u64>,
}

impl<'a, 'b> Archive<'a, 'b> {
    fn new(options: ReadOptions<'a>, file: Option<File>, sink: &'a mut Sink<'b>) -> Self {
        Self {
            options,
            file,
            sink,
            records: 0,
            current: None,
            aside: HashMap::new(),
            aside_order: VecDeque::new(),
            aside_bytes: 0,
            unkept: BTreeMap::new(),
        }
    }

    fn hand_on(&mut self, item: Item) -> Result<(), IngestError> {
        self.records += 1;
        (self.sink)(item, self.records)
    }

    fn reject(
        &mut self,
        position: String,
        key: &str,
        reason: Reason,
        detail: impl Into<String>,
    ) -> Result<(), IngestError> {
        self.hand_on(Item::Rejected(Rejection {
            position,
            key: key.into(),
            reason,
            detail: detail.into(),
        }))
    }

    /// Adds a member to its group. The inner error is the archive's, the outer one is the sink's.
    fn member<R: Read>(
        &mut self,
        members: &mut Members<R>,
        member: &Member,
    ) -> Result<Result<(), Broken>, IngestError> {
        let place = format!("member {} at byte {}", member.name, member.offset);
        if member.kind.is_dir() {
            return Ok(Ok(()));
        }
        if !(member.kind.is_file() || member.kind.is_contiguous()) {
            self.reject(
                place,
                "",
                Reason::BadRecord,
                "it is a link or a special file, not a regular one",
            )?;
            return Ok(Ok(()));
        }
        let Some((key, extension)) = split_name(&member.name, self.options.dotted_keys) else {
            self.reject(place, "", Reason::BadRecord, "the name has no key or no extension")?;
            return Ok(Ok(()));
        };
        let begins =
            self.current.as_ref().is_none_or(|group| group.key != key || group.holds(&extension));
        if begins {
            self.close_current()?;
            self.current = Some(Group { key, parts: Vec::new() });
        }
        let limit = if is_image_extension(&extension) || self.is_given(&extension) {
            self.options.max_image_bytes
        } else if extension == "json" {
            MAX_RECORD_BYTES
        } else if CAPTION_EXTENSIONS.contains(&extension.as_str()) {
            MAX_CAPTION_BYTES as u64
        } else if member.size > MAX_COLUMN_BYTES as u64 {
            *self.unkept.entry(extension).or_default() += 1;
            return Ok(Ok(()));
        } else {
            MAX_COLUMN_BYTES as u64
        };
        let content = if member.size > limit {
            Content::Flawed((
                Reason::TooManyBytes,
                format!("{} has {} bytes, above the limit of {limit}", member.name, member.size),
            ))
        } else {
            match members.content() {
                Ok(bytes) => Content::Held(bytes),
                Err(broken) => return Ok(Err(broken)),
            }
        };
        if let Some(group) = &mut self.current {
            group.parts.push(Part {
                extension,
                place,
                at: member.content,
                size: member.size,
                content,
            });
        }
        Ok(Ok(()))
    }

    fn is_given(&self, extension: &str) -> bool {
        self.options.image_column.is_some_and(|given| given.eq_ignore_ascii_case(extension))
    }

    /// Emits the current group, or sets it aside until its partner comes.
    fn close_current(&mut self) -> Result<(), IngestError> {
        let Some(mut group) = self.current.take() else { return Ok(()) };
        if let Some(mut earlier) = self.aside.remove(&group.key) {
            self.aside_bytes -= earlier.bytes();
            if group.parts.iter().any(|part| earlier.holds(&part.extension)) {
                self.emit(earlier)?;
            } else {
                for part in &mut earlier.parts {
                    // Small texts are needed in memory to see what the record lacks.
                    if matches!(part.content, Content::InFile { .. })
                        && !is_image_extension(&part.extension)
                    {
                        let content =
                            std::mem::replace(&mut part.content, Content::Held(Vec::new()));
                        part.content = content
                            .take(self.file.as_ref())
                            .map_or_else(Content::Flawed, Content::Held);
                    }
                }
                earlier.parts.append(&mut group.parts);
                group = earlier;
            }
        }
        if group.is_complete(&self.options) {
            return self.emit(group);
        }
        self.set_aside(group)
    }

    fn set_aside(&mut self, mut group: Group) -> Result<(), IngestError> {
        if self.file.is_some() {
            for part in &mut group.parts {
                if matches!(part.content, Content::Held(_)) {
                    part.content = Content::InFile { at: part.at, size: part.size };
                }
            }
        }
        self.aside_bytes += group.bytes();
        self.aside_order.push_back(group.key.clone());
        self.aside.insert(group.key.clone(), group);
        while self.aside_bytes > MAX_ASIDE_BYTES {
            let Some(oldest) = self.aside_order.pop_front() else { break };
            if let Some(group) = self.aside.remove(&oldest) {
                self.aside_bytes -= group.bytes();
                self.emit(group)?;
            }
        }
        Ok(())
    }

    fn emit(&mut self, mut group: Group) -> Result<(), IngestError> {
        for part in &mut group.parts {
            let content = std::mem::replace(&mut part.content, Content::Held(Vec::new()));
            part.content =
                content.take(self.file.as_ref()).map_or_else(Content::Flawed, Content::Held);
        }
        let position = group.parts.first().map(|part| part.place.clone()).unwrap_or_default();
        let key = group.key.clone();
        let present = group.describe(&self.options);
        let fields = group.json();
        let mut columns = Vec::new();
        let mut caption = None;
        match fields {
            Some(Ok(fields)) => {
                let found = Wanted::Caption
                    .find(&fields.keys().map(String::as_str), self.options.caption_column);
                let by_member = group.caption_part(&self.options).is_some();
                for (index, (name, value)) in fields.iter().enumerate() {
                    if !by_member && found == Some(index) {
                        caption = self.options.captions.of_json(value, &mut columns).map(Ok);
                    } else if let Some(value) = own_value::of_json(value) {
                        columns.push((name.clone(), value));
                    }
                }
            }
            // The pair can exist without it: the flaw is reported and the record continues.
            Some(Err((reason, detail))) => {
                caption = Some(Err((reason, detail.clone())));
                if group.caption_part(&self.options).is_some() {
                    self.reject(
                        position.clone(),
                        &key,
                        reason,
                        format!("{detail}; the pair is kept without its fields"),
                    )?;
                }
            }
            None => {}
        }
        let image_at = group.image(&self.options);
        let caption_at = group.caption_part(&self.options);
        let mut image = None;
        for (index, part) in group.parts.into_iter().enumerate() {
            let Part { extension, place, content, .. } = part;
            let bytes = content.take(None);
            if Some(index) == image_at {
                image = Some(bytes);
            } else if Some(index) == caption_at {
                caption = Some(bytes.and_then(|bytes| text::of_caption(&extension, bytes, &place)));
            } else if is_image_extension(&extension) {
                self.reject(
                    place,
                    &key,
                    Reason::BadRecord,
                    "it is another image of the same key; only one is used",
                )?;
            } else if extension != "json" {
                match bytes.and_then(|bytes| text::of_bytes(bytes, &place)) {
                    Ok(value) => columns.push((extension, own_value::text(value.trim()))),
                    Err(_) => *self.unkept.entry(extension).or_default() += 1,
                }
            }
        }
        if let Some(Ok(caption)) = &caption {
            // The JSON repeats the caption under its own name.
            columns.retain(|(name, value)| {
                !(name.eq_ignore_ascii_case("caption")
                    && own_value::shown(value).trim() == caption.trim())
            });
        }
        let image = image
            .unwrap_or_else(|| Err((Reason::MissingImage, format!("the key has only {present}"))));
        let caption = caption.unwrap_or_else(|| {
            Err((Reason::MissingCaption, format!("the key has only {present}")))
        });
        self.hand_on(Item::Record(Record { position, key, image, caption, columns }))
    }

    /// Emits all groups that never found their partner.
    fn finish(mut self, note: Option<String>) -> Result<Outcome, IngestError> {
        self.close_current()?;
        while let Some(key) = self.aside_order.pop_front() {
            if let Some(group) = self.aside.remove(&key) {
                self.emit(group)?;
            }
        }
        let mut outcome = self.outcome(None);
        outcome.notes.extend(note);
        Ok(outcome)
    }

    /// Ends an archive that is truncated or damaged. Groups that wait for a partner may find it
    /// when the archive is complete, so the one row about the damage covers them.
    fn broken(mut self, broken: &Broken) -> Result<Outcome, IngestError> {
        let complete = self.current.as_ref().is_some_and(|group| group.is_complete(&self.options));
        if complete {
            self.close_current()?;
        }
        let waiting = self.aside.len() + usize::from(self.current.is_some());
        let message = format!("{} (byte {})", broken.detail, broken.at);
        if self.records == 0 {
            return self.unreadable(
                message,
                if broken.cut { Reason::TruncatedSource } else { Reason::BadRecord },
            );
        }
        let message = match waiting {
            0 => message,
            waiting => {
                format!("{message}; {waiting} keys were still waiting for an image or a caption")
            }
        };
        let reason = if broken.cut { Reason::TruncatedSource } else { Reason::BadRecord };
        self.reject(format!("byte {}", broken.at), "", reason, message.clone())?;
        Ok(self.outcome(Some(Fault::Partial(message))))
    }

    fn unreadable(mut self, message: String, reason: Reason) -> Result<Outcome, IngestError> {
        self.reject("the beginning".into(), "", reason, message.clone())?;
        Ok(self.outcome(Some(Fault::Unreadable(message))))
    }

    fn outcome(self, fault: Option<Fault>) -> Outcome {
        let unkept = self.unkept.iter().map(|(extension, count)| {
            format!("{count} .{extension} members are not text and were not kept")
        });
        Outcome { records: self.records, fault, notes: unkept.collect() }
    }
}
