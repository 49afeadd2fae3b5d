//! Bearer tokens. A token allows whatever its scope says. Only hashes are stored, and they are
//! compared in constant time.

use std::path::Path;

use anyhow::{Context, bail};
use diptych_schemas::{SchemaError, Scope, durable};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// Prefix of all tokens, so that a token that is found somewhere can be recognized.
const PREFIX: &str = "dpt_";
/// Random bytes in a token.
const RANDOM_BYTES: usize = 32;

/// Contents of the token file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default, rename = "token")]
    tokens: Vec<Entry>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    scope: Scope,
    /// Hash of the whole token, hexadecimal. A token has 256 random bits, so a fast hash without
    /// salt reveals nothing.
    sha256: String,
}

/// The access rules of a service.
#[derive(Clone, Debug)]
pub enum Tokens {
    /// Anyone who reaches the address may do everything. Allowed only for loopback and Unix
    /// sockets.
    NotRequired,
    Required(Vec<([u8; 32], Scope)>),
}

impl Tokens {
    pub fn read(path: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = path else { return Ok(Self::NotRequired) };
        let file = read_file(path)?;
        if file.tokens.is_empty() {
            bail!(
                "{}: has no tokens, so nobody could send requests; make one with `diptych token \
                 NAME --file {0}`",
                path.display()
            );
        }
        let parsed = file.tokens.iter().map(|entry| {
            let mut hash = [0; 32];
            hex::decode_to_slice(&entry.sha256, &mut hash).with_context(|| {
                format!(
                    "{}: token {}: sha256 must have 64 hexadecimal digits",
                    path.display(),
                    entry.name
                )
            })?;
            Ok((hash, entry.scope))
        });
        Ok(Self::Required(parsed.collect::<anyhow::Result<_>>()?))
    }

    /// Returns the scope of a request with this token or without one. `None` means that nothing is
    /// allowed.
    pub fn scope(&self, token: Option<&str>) -> Option<Scope> {
        match self {
            Self::NotRequired => Some(Scope::Admin),
            Self::Required(_) => self.holder(token).map(|(_, scope)| scope),
        }
    }

    /// Returns the hash and scope of a known token.
    pub(crate) fn holder(&self, token: Option<&str>) -> Option<([u8; 32], Scope)> {
        let Self::Required(known) = self else { return None };
        let hash: [u8; 32] = Sha256::digest(token?).into();
        // Every hash is compared completely, so the time of the comparison reveals nothing about a
        // token.
        known.iter().fold(None, |found, (other, scope)| {
            if bool::from(other.ct_eq(&hash)) { Some((hash, *scope)) } else { found }
        })
    }

    /// Adds one more token that is stored nowhere: this process's own, for the jobs that it starts.
    pub fn with_own(mut self, own: &str) -> Self {
        if let Self::Required(known) = &mut self {
            known.push((Sha256::digest(own).into(), Scope::Submit));
        }
        self
    }

    pub fn are_required(&self) -> bool {
        matches!(self, Self::Required(_))
    }
}

/// Makes a token and adds its hash to a file. Only the return value contains the token itself.
pub fn make(path: &Path, name: &str, scope: Scope) -> anyhow::Result<String> {
    let mut file = if path.exists() { read_file(path)? } else { File::default() };
    if file.tokens.iter().any(|entry| entry.name == name) {
        bail!(
            "{}: a token named {name} exists already; remove its entry first, or choose another \
             name",
            path.display()
        );
    }
    let token = new_token();
    file.tokens.push(Entry {
        name: name.to_owned(),
        scope,
        sha256: hex::encode(Sha256::digest(&token)),
    });
    let text = toml::to_string(&file).context("cannot write tokens as TOML")?;
    durable::write(path, text.as_bytes())?;
    Ok(token)
}

/// Returns a new random token.
pub fn new_token() -> String {
    let mut random = [0_u8; RANDOM_BYTES];
    rand::fill(&mut random);
    format!("{PREFIX}{}", hex::encode(random))
}

fn read_file(path: &Path) -> anyhow::Result<File> {
    let text = std::fs::read_to_string(path).map_err(SchemaError::io(path))?;
    toml::from_str(&text)
        .map_err(|error| anyhow::anyhow!("{}: {}", path.display(), error.message().trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_opens_what_its_scope_says_and_its_file_does_not_give_it_away() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.toml");
        let read = make(&path, "grafana", Scope::Read).unwrap();
        let admin = make(&path, "me", Scope::Admin).unwrap();
        assert!(make(&path, "me", Scope::Read).is_err());
        let tokens = Tokens::read(Some(&path)).unwrap();
        assert_eq!(tokens.scope(Some(&read)), Some(Scope::Read));
        assert_eq!(tokens.scope(Some(&admin)), Some(Scope::Admin));
        for bad in [
            None,
            Some(""),
            Some("dpt_"),
            Some(&admin[..admin.len() - 1]),
            Some(&*format!("{admin}0")),
        ] {
            assert_eq!(tokens.scope(bad), None, "{bad:?}");
        }
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            !text.contains(&admin) && !text.contains(&admin[4..]) && text.contains("grafana"),
            "{text}"
        );
    }

    #[test]
    fn an_empty_or_broken_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.toml");
        for text in [
            "",
            "[[token]]\nname = \"a\"\nscope = \"read\"\nsha256 = \"12\"\n",
            "[[token]]\nname = \"a\"\nscope = \"all\"\n",
        ] {
            durable::write(&path, text.as_bytes()).unwrap();
            assert!(Tokens::read(Some(&path)).is_err(), "{text}");
        }
        assert!(Tokens::read(None).unwrap().scope(None) == Some(Scope::Admin));
    }
}
