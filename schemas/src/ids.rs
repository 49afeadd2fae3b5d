//! Identities of pairs, of contents and of places in the training stream.
//!
//! They are newtypes, so that a step cannot be mistaken for a sample. Nothing here does I/O.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::SchemaError;

/// The identity of an image-text pair in 128 bits. Equal image bytes with an equal caption have an
/// equal uid in any dataset.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uid(pub [u8; 16]);

impl Uid {
    /// Returns the first 128 bits of sha256(sha256(image bytes) ‖ caption in UTF-8).
    ///
    /// The inner hash has a fixed length, so the border between image and caption is unambiguous.
    pub fn of(image_sha256: &ContentHash, caption: &str) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(image_sha256.0);
        hasher.update(caption.as_bytes());
        let digest: [u8; 32] = hasher.finalize().into();
        let mut uid = [0; 16];
        uid.copy_from_slice(&digest[..16]);
        Self(uid)
    }
}

/// A sha256 hash, for example of an image, a file or a configuration.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentHash(pub [u8; 32]);

impl ContentHash {
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Hashes the concatenation of `parts`.
    pub fn of_parts(parts: &[&[u8]]) -> Self {
        let mut hasher = Sha256::new();
        for part in parts {
            hasher.update(part);
        }
        Self(hasher.finalize().into())
    }

    /// Returns the first 64 bits, big endian, as a seed for functions of this content.
    pub fn seed(&self) -> u64 {
        let mut first = [0; 8];
        first.copy_from_slice(&self.0[..8]);
        u64::from_be_bytes(first)
    }
}

macro_rules! hexadecimal {
    ($name:ident, $bytes:literal) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = SchemaError;

            fn from_str(text: &str) -> Result<Self, SchemaError> {
                let mut bytes = [0; $bytes];
                hex::decode_to_slice(text, &mut bytes).map_err(|_| {
                    SchemaError::NotHexadecimal {
                        what: stringify!($name),
                        digits: 2 * $bytes,
                        found: text.to_owned(),
                    }
                })?;
                Ok(Self(bytes))
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = SchemaError;

            fn try_from(bytes: &[u8]) -> Result<Self, SchemaError> {
                bytes.try_into().map(Self).map_err(|_| SchemaError::NotHexadecimal {
                    what: stringify!($name),
                    digits: 2 * $bytes,
                    found: hex::encode(bytes),
                })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

hexadecimal!(Uid, 16);
hexadecimal!(ContentHash, 32);

/// The index of a sample in a run, counted from 0 over all epochs. It is the whole state of the
/// data.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct SampleIndex(pub u64);

/// The number of finished optimizer steps.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Step(pub u64);

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for SampleIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uid_depends_on_image_and_caption_and_on_nothing_else() {
        let image = ContentHash::of(b"image");
        assert_eq!(Uid::of(&image, "a cat"), Uid::of(&image, "a cat"));
        assert_ne!(Uid::of(&image, "a cat"), Uid::of(&image, "a dog"));
        assert_ne!(Uid::of(&image, "a cat"), Uid::of(&ContentHash::of(b"other"), "a cat"));
    }

    #[test]
    fn identities_survive_their_text_form() {
        let uid = Uid::of(&ContentHash::of(b"x"), "y");
        assert_eq!(uid.to_string().parse::<Uid>().unwrap(), uid);
        // sha256 of the empty string, FIPS 180-4.
        assert_eq!(
            ContentHash::of(b"").to_string(),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        assert!("zz".parse::<Uid>().unwrap_err().to_string().contains("32 hexadecimal digits"));
    }
}
