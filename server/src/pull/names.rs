//! Text from the hub or the command line that is about to become a path name: checked here, once, and typed from then on.
//!
//! An endpoint may be hostile. As an [`Etag`] and a [`Commit`] are hexadecimal and a [`Revision`] has no `..` in it,
//! none of them can name a place outside of the cache.

use std::fmt;

use super::PullError;

/// Hexadecimal digits of a SHA-1, hence of a commit and of a git blob.
const SHA1_DIGITS: usize = 40;
/// Hexadecimal digits of a SHA-256.
const SHA256_DIGITS: usize = 64;

/// A file's etag: on the hub it is a hash of the content, and it is the name of the blob in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Etag {
    /// Of a large file: SHA-256 of the content.
    Sha256(String),
    /// Of a file in git itself: its blob's name there, SHA-1 of `blob LENGTH\0` and the content.
    GitBlob(String),
}

impl Etag {
    /// Reads a header such as `"0a1b..."` or `W/"0a1b..."`.
    pub(super) fn parse(header: &str) -> Option<Self> {
        let text = header.trim();
        let text = text.strip_prefix("W/").unwrap_or(text).trim_matches('"');
        if is_hex(text, SHA256_DIGITS) {
            Some(Self::Sha256(text.into()))
        } else if is_hex(text, SHA1_DIGITS) {
            Some(Self::GitBlob(text.into()))
        } else {
            None
        }
    }

    pub(super) fn as_str(&self) -> &str {
        match self {
            Self::Sha256(hex) | Self::GitBlob(hex) => hex,
        }
    }
}

/// The full name of a git commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Commit(String);

impl Commit {
    pub(super) fn parse(text: &str) -> Option<Self> {
        is_hex(text, SHA1_DIGITS).then(|| Self(text.into()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// A branch, tag, `refs/pr/N` or commit, as the user names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Revision(String);

impl Revision {
    /// # Errors
    /// The text is no name of a git reference that is also a safe path below `refs/`.
    pub(super) fn parse(text: &str) -> Result<Self, PullError> {
        let safe = |part: &str| {
            !part.is_empty()
                && !part.starts_with(['.', '-'])
                && part
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"._-+".contains(&byte))
        };
        if text.len() <= 255 && text.split('/').all(safe) {
            Ok(Self(text.into()))
        } else {
            Err(PullError::BadRevision {
                revision: text.into(),
            })
        }
    }

    /// The commit, where the revision is a commit's full name already.
    pub(super) fn commit(&self) -> Option<Commit> {
        Commit::parse(&self.0)
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Lower case only, as git and the hub write it: on a case-insensitive file system two spellings are one file.
fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etags_are_hashes_and_nothing_else() {
        let sha256 = "a0".repeat(32);
        let sha1 = "b1".repeat(20);
        assert_eq!(
            Etag::parse(&format!("\"{sha256}\"")),
            Some(Etag::Sha256(sha256.clone()))
        );
        assert_eq!(
            Etag::parse(&format!(" W/\"{sha1}\" ")),
            Some(Etag::GitBlob(sha1))
        );
        for bad in [
            "",
            "\"../../../etc/passwd\"",
            &sha256[1..],
            &format!("{sha256}00"),
            &sha256.to_uppercase(),
            &format!("{}/..", &sha256[..61]),
        ] {
            assert_eq!(Etag::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn revisions_stay_below_refs() {
        for good in ["main", "v1.0", "refs/pr/12", "feature/new-head", "0a1b2c3"] {
            assert_eq!(Revision::parse(good).unwrap().as_str(), good);
        }
        for bad in [
            "", "..", "a/../b", "/etc", "a//b", "a/", ".hidden", "a b", "a\\b", "-x", "a:b", "ä",
        ] {
            assert!(Revision::parse(bad).is_err(), "{bad:?}");
        }
    }
}
