//! API keys: which there are, and whether a caller has one.
//!
//! Only digests are kept, so that no dump of memory and no slip in a log gives a key away. A presented key is digested
//! and compared with every one in constant time. An unsalted fast digest is enough because keys are random and long,
//! unlike passwords; [`MIN_KEY`] sees to the length.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use sha2::{Digest, Sha256};
use subtle::{ConditionallySelectable, ConstantTimeEq};

use super::{AccessError, read};

/// The fewest characters of a key.
const MIN_KEY: usize = 16;
/// The most characters of a key's name.
const MAX_NAME: usize = 64;

/// One key.
struct Key {
    /// Fit for logs: the file's name for it, or its line.
    name: Arc<str>,
    digest: [u8; 32],
}

/// The keys of a file: one a line, `KEY` or `NAME KEY`; empty lines and what follows a `#` do not count.
pub struct Keyring {
    path: PathBuf,
    keys: RwLock<Arc<[Key]>>,
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keyring")
            .field("path", &self.path)
            .field("keys", &self.current().len())
            .finish()
    }
}

impl Keyring {
    /// Reads a file of keys.
    ///
    /// # Errors
    /// It cannot be read, has no key in it, or a line that is none.
    pub fn open(path: &Path) -> Result<Self, AccessError> {
        Ok(Self {
            keys: RwLock::new(parse(path)?),
            path: path.into(),
        })
    }

    /// Reads the file again, and says how many keys there are now.
    ///
    /// # Errors
    /// As [`Keyring::open`]; the keys are then what they were.
    pub fn reload(&self) -> Result<usize, AccessError> {
        let keys = parse(&self.path)?;
        let count = keys.len();
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
        Ok(count)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The name of the key that was presented, if there is such a key. Takes as long for a wrong key as for a right
    /// one, whichever it is.
    pub fn admits(&self, presented: &[u8]) -> Option<Arc<str>> {
        let digest: [u8; 32] = Sha256::digest(presented).into();
        let keys = self.current();
        let none = keys.len() as u64;
        let mut found = none;
        for (place, key) in (0..none).zip(keys.iter()) {
            found.conditional_assign(&place, key.digest.ct_eq(&digest));
        }
        let place = usize::try_from(found).ok()?;
        keys.get(place).map(|key| Arc::clone(&key.name))
    }

    fn current(&self) -> Arc<[Key]> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn parse(path: &Path) -> Result<Arc<[Key]>, AccessError> {
    const OPTION: &str = "--api-key-file";
    let content = |reason: &str| AccessError::Content {
        option: OPTION,
        path: path.into(),
        reason: reason.into(),
    };
    let bytes = read(OPTION, path)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| content("expected text in UTF-8"))?;
    let mut keys: Vec<Key> = Vec::new();
    for (line, text) in (1..).zip(text.lines()) {
        let wrong = |expected: String| AccessError::Line {
            path: path.into(),
            line,
            expected,
        };
        if let Some(key) = parse_line(line, text).map_err(wrong)? {
            if let Some(twin) = keys.iter().find(|other| other.digest == key.digest) {
                return Err(wrong(format!("another key than that of {}", twin.name)));
            }
            keys.push(key);
        }
    }
    if keys.is_empty() {
        return Err(content("expected at least one key, on a line of its own"));
    }
    Ok(keys.into())
}

fn parse_line(line: usize, text: &str) -> Result<Option<Key>, String> {
    let words: Vec<&str> = text
        .split_whitespace()
        .take_while(|word| !word.starts_with('#'))
        .collect();
    let (name, key) = match words[..] {
        [] => return Ok(None),
        [key] => (format!("line {line}"), key),
        [name, key] => (name.to_owned(), key),
        _ => return Err("KEY or NAME KEY".into()),
    };
    let is_simple = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if words.len() == 2 && (name.len() > MAX_NAME || !name.chars().all(is_simple)) {
        return Err(format!(
            "a name of at most {MAX_NAME} letters, digits, dots, hyphens and underscores before the key"
        ));
    }
    if key.len() < MIN_KEY || !key.chars().all(|c| c.is_ascii_graphic()) {
        return Err(format!(
            "a key of at least {MIN_KEY} printable ASCII characters, such as openssl rand -hex 32 gives"
        ));
    }
    Ok(Some(Key {
        name: name.into(),
        digest: Sha256::digest(key).into(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &str = "0123456789abcdef0123456789abcdef";
    const SECOND: &str = "fedcba9876543210fedcba9876543210";

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn keys_have_names_and_comments_are_none() {
        let text = format!("# ours\n\n{FIRST} # until spring\r\n  mobile-app\t{SECOND}\n");
        let keys = Keyring::open(file(&text).path()).unwrap();
        assert_eq!(keys.admits(FIRST.as_bytes()).as_deref(), Some("line 3"));
        assert_eq!(
            keys.admits(SECOND.as_bytes()).as_deref(),
            Some("mobile-app")
        );
        let longer = format!("{FIRST}0");
        for wrong in [
            "",
            "#",
            "mobile-app",
            "until",
            &FIRST[1..],
            &longer,
            &FIRST.to_uppercase(),
        ] {
            assert_eq!(keys.admits(wrong.as_bytes()), None, "{wrong}");
        }
        let shown = format!("{keys:?}");
        assert!(
            shown.contains("keys: 2") && !shown.contains(FIRST),
            "{shown}"
        );
    }

    #[test]
    fn what_is_wrong_with_a_file_is_named_and_not_quoted() {
        for (text, named) in [
            ("", "at least one key"),
            ("# 0123456789abcdef0123456789abcdef", "at least one key"),
            ("short", "line 1: expected a key of at least 16"),
            (
                "a-name short-secret",
                "line 1: expected a key of at least 16",
            ),
            (
                "\nschlüssel-schlüssel",
                "line 2: expected a key of at least 16",
            ),
            (&format!("a/name {FIRST}"), "line 1: expected a name"),
            (&format!("two words {FIRST}"), "KEY or NAME KEY"),
            (
                &format!("a {FIRST}\nb {FIRST}"),
                "line 2: expected another key than that of a",
            ),
        ] {
            let file = file(text);
            let error = Keyring::open(file.path()).unwrap_err().to_string();
            assert!(
                error.contains(named) && error.contains("--api-key-file"),
                "{error}"
            );
            for secret in [FIRST, "short-secret", "schl"] {
                assert!(!error.contains(secret), "{error}");
            }
        }
        let missing = Keyring::open(Path::new("/no/such/file")).unwrap_err();
        assert!(missing.to_string().contains("/no/such/file"), "{missing}");
        let file = file("");
        std::fs::write(file.path(), b"\xff\xfe").unwrap();
        let error = Keyring::open(file.path()).unwrap_err().to_string();
        assert!(error.contains("UTF-8"), "{error}");
        std::fs::write(file.path(), "#".repeat(2 << 20)).unwrap();
        let error = Keyring::open(file.path()).unwrap_err().to_string();
        assert!(error.contains("at most"), "{error}");
    }

    #[test]
    fn a_file_that_went_bad_leaves_the_old_keys() {
        let file = file(FIRST);
        let keys = Keyring::open(file.path()).unwrap();
        std::fs::write(file.path(), "no good").unwrap();
        keys.reload().unwrap_err();
        assert!(keys.admits(FIRST.as_bytes()).is_some());
        std::fs::write(file.path(), format!("{SECOND}\n")).unwrap();
        assert_eq!(keys.reload().unwrap(), 1);
        assert!(keys.admits(FIRST.as_bytes()).is_none());
        assert!(keys.admits(SECOND.as_bytes()).is_some());
    }
}
