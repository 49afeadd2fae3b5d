//! The zip archive that `torch.save` writes, validated before its content is used.
//!
//! Only the form that `torch.save` writes is accepted. Every member is stored uncompressed within
//! the file, no two overlap, and all are in one folder. So nothing can grow when it is read, and no
//! two readers can see different members. Checksums are left to the crate that reads the members.

use std::collections::HashMap;

/// The first four bytes of every such file.
pub(super) const MAGIC: &[u8] = b"PK\x03\x04";

const END: u32 = 0x0605_4b50;
const END_BYTES: usize = 22;
const LOCATOR_64: u32 = 0x0706_4b50;
const LOCATOR_64_BYTES: usize = 20;
const END_64: u32 = 0x0606_4b50;
const END_64_BYTES: usize = 56;
const CENTRAL: u32 = 0x0201_4b50;
const LOCAL: u32 = 0x0403_4b50;
/// Kind of the extra field for sizes that do not fit into 32 bits.
const EXTRA_64: u16 = 1;

/// Members by their path below the archive's one folder.
pub(super) struct Archive<'a>(HashMap<&'a str, &'a [u8]>);

impl<'a> Archive<'a> {
    pub(super) fn open(file: &'a [u8]) -> Result<Self, String> {
        let members = members(file)?;
        let root = members
            .first()
            .and_then(|member| member.name.split_once('/'))
            .map_or("", |(root, _)| root);
        let mut by_name = HashMap::with_capacity(members.len());
        for member in &members {
            let Some(name) = member.name.strip_prefix(root).and_then(|name| name.strip_prefix('/'))
            else {
                return Err(format!(
                    "member {:?} is outside the folder {root:?} of the others",
                    member.name
                ));
            };
            if by_name.insert(name, member.bytes).is_some() {
                return Err(format!("member {:?} occurs twice", member.name));
            }
        }
        Ok(Self(by_name))
    }

    pub(super) fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.0.get(name).copied()
    }
}

struct Member<'a> {
    name: &'a str,
    /// Where its header begins.
    start: usize,
    /// Where its bytes end.
    end: usize,
    bytes: &'a [u8],
}

fn members(file: &[u8]) -> Result<Vec<Member<'_>>, String> {
    let (entries, directory, directory_end) = directory(file)?;
    // An entry takes at least 46 bytes, so the file's length bounds this list.
    let mut members = Vec::new();
    let mut at = directory;
    for _ in 0..entries {
        let (member, next) = member(file, at, directory_end)?;
        if member.end > directory {
            return Err(format!("member {:?} extends beyond the end of the members", member.name));
        }
        members.push(member);
        at = next;
    }
    if at != directory_end {
        return Err("the length of the directory does not match its entries".into());
    }
    let mut by_place: Vec<&Member<'_>> = members.iter().collect();
    by_place.sort_by_key(|member| member.start);
    for pair in by_place.windows(2) {
        if pair[0].end > pair[1].start {
            return Err(format!("members {:?} and {:?} overlap", pair[0].name, pair[1].name));
        }
    }
    Ok(members)
}

/// Finds the number of entries and the range of the directory.
///
/// The directory must end where the end records begin, and those at the end of the file.
fn directory(file: &[u8]) -> Result<(u64, usize, usize), String> {
    const SHORT: &str = "truncated: the directory at the end of the archive is missing";
    let end = file.len().checked_sub(END_BYTES).ok_or(SHORT)?;
    if u32_at(file, end) != Some(END) || u16_at(file, end + 20) != Some(0) {
        return Err(SHORT.into());
    }
    let fields = (
        u16_at(file, end + 8),
        u16_at(file, end + 10),
        u32_at(file, end + 12),
        u32_at(file, end + 16),
    );
    let (Some(here), Some(entries), Some(bytes), Some(offset)) = fields else {
        return Err(SHORT.into());
    };
    if file.get(end + 4..end + 8) != Some(&[0; 4]) || here != entries {
        return Err("the archive is split over several files".into());
    }
    let mut found = (u64::from(entries), u64::from(bytes), u64::from(offset));
    let mut directory_end = end;
    let locator =
        end.checked_sub(LOCATOR_64_BYTES).filter(|&at| u32_at(file, at) == Some(LOCATOR_64));
    if let Some(locator) = locator {
        let end_64 = locator.checked_sub(END_64_BYTES).ok_or(SHORT)?;
        let fields = (
            u64_at(file, end_64 + 24),
            u64_at(file, end_64 + 32),
            u64_at(file, end_64 + 40),
            u64_at(file, end_64 + 48),
        );
        let (Some(here), Some(entries_64), Some(bytes_64), Some(offset_64)) = fields else {
            return Err(SHORT.into());
        };
        let where_it_says = u64_at(file, locator + 8) == Some(end_64 as u64);
        if u32_at(file, end_64) != Some(END_64) || !where_it_says || here != entries_64 {
            return Err("the two end records of the archive do not match".into());
        }
        // Unless a short field is at its maximum, both records must agree.
        let agree = |short: u64, full: u64, long: u64| short == full || short == long;
        if !agree(found.0, 0xffff, entries_64)
            || !agree(found.1, 0xffff_ffff, bytes_64)
            || !agree(found.2, 0xffff_ffff, offset_64)
        {
            return Err("the two end records of the archive contradict each other".into());
        }
        found = (entries_64, bytes_64, offset_64);
        directory_end = end_64;
    }
    let (entries, bytes, offset) = found;
    match offset.checked_add(bytes) {
        Some(reach) if reach == directory_end as u64 => {
            Ok((entries, offset as usize, directory_end))
        }
        _ => Err("the directory of the archive is not where the end record says".into()),
    }
}

/// Reads the directory's entry at `at`. Returns its member and where the next entry begins.
fn member(file: &[u8], at: usize, directory_end: usize) -> Result<(Member<'_>, usize), String> {
    let damaged = || format!("the directory of the archive is damaged at byte {at}");
    let short = |offset: usize| u16_at(file, at + offset).ok_or_else(damaged);
    let long = |offset: usize| u32_at(file, at + offset).map(u64::from).ok_or_else(damaged);
    if long(0)? != u64::from(CENTRAL) {
        return Err(damaged());
    }
    let (flags, method) = (short(8)?, short(10)?);
    let name_start = at + 46;
    let name_end = name_start + short(28)? as usize;
    let extra_end = name_end + short(30)? as usize;
    let next = extra_end + short(32)? as usize;
    if next > directory_end {
        return Err(damaged());
    }
    let name = checked_name(file.get(name_start..name_end).ok_or_else(damaged)?)?;
    if name.split('/').nth(1) == Some("code") {
        return Err(
            "this is a TorchScript archive (as OpenAI published CLIP), which is a program with its \
             weights; load it in Python with open_clip.create_model(…, pretrained=FILE) and save \
             its state_dict()"
                .into(),
        );
    }
    if flags & 1 != 0 {
        return Err(format!("member {name:?} is encrypted"));
    }
    if method != 0 {
        return Err(format!(
            "member {name:?} is compressed, which torch.save does not do; load the file in Python \
             with torch.load(…, weights_only=True) and save it again"
        ));
    }
    let mut sizes = [long(24)?, long(20)?, long(42)?];
    let extra = file.get(name_end..extra_end).ok_or_else(damaged)?;
    fill_from_extra(extra, &mut sizes).ok_or_else(damaged)?;
    let [size, stored, offset] = sizes;
    if size != stored {
        return Err(format!("member {name:?} declares {size} bytes and stores {stored}"));
    }
    let beyond = || format!("member {name:?} is outside the file");
    let start = usize::try_from(offset).map_err(|_| beyond())?;
    let header = file.get(start..).filter(|rest| rest.len() >= 30).ok_or_else(beyond)?;
    let (Some(local_name), Some(local_extra)) = (u16_at(header, 26), u16_at(header, 28)) else {
        return Err(beyond());
    };
    let name_bytes = header.get(30..30 + local_name as usize);
    if u32_at(header, 0) != Some(LOCAL)
        || name_bytes != Some(name.as_bytes())
        || u16_at(header, 8) != Some(0)
    {
        return Err(format!("member {name:?} does not match its entry in the directory"));
    }
    let data = start + 30 + local_name as usize + local_extra as usize;
    let end =
        usize::try_from(size).ok().and_then(|size| data.checked_add(size)).ok_or_else(beyond)?;
    let bytes = file.get(data..end).ok_or_else(beyond)?;
    Ok((Member { name, start, end, bytes }, next))
}

/// Fills in sizes and an offset that are too large for 32 bits.
fn fill_from_extra(mut extra: &[u8], sizes: &mut [u64; 3]) -> Option<()> {
    while !extra.is_empty() {
        let (kind, length) = (u16_at(extra, 0)?, u16_at(extra, 2)? as usize);
        let mut field = extra.get(4..4 + length)?;
        extra = extra.get(4 + length..)?;
        if kind == EXTRA_64 {
            for value in sizes.iter_mut().filter(|value| **value == 0xffff_ffff) {
                *value = u64_at(field, 0)?;
                field = field.get(8..)?;
            }
        }
    }
    Some(())
}

fn checked_name(bytes: &[u8]) -> Result<&str, String> {
    let name = std::str::from_utf8(bytes).map_err(|_| "a member's name is not UTF-8".to_owned())?;
    let bad = name.is_empty()
        || name.starts_with('/')
        || name.ends_with('/')
        || name.contains(['\\', '\0'])
        || name.split('/').any(|part| part == ".." || part.is_empty());
    if bad {
        Err(format!(
            "{name:?} is not a valid name for a member; torch.save does not write such names"
        ))
    } else {
        Ok(name)
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}
