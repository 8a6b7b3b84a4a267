//! The revision of a recipe: what its answers depend on, as a digest. Another one makes other rows.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use anyhow::Context;
use galley_core::{Entry, LoadOptions, Source};
use sha2::{Digest, Sha256};

/// How much of a file is read at once.
const BUFFER: usize = 1 << 20;
/// What of a folder of weights a recipe may read.
const KINDS: [&str; 3] = ["safetensors", "json", "txt"];

/// The digest of a recipe's weights, its options and the dtype that it computes in: 16 hexadecimal digits.
///
/// # Errors
/// The recipe has no such weights, or they cannot be read.
pub fn revision(entry: &Entry, options: &LoadOptions) -> anyhow::Result<String> {
    let mut digest = Sha256::new();
    match entry.source(&options.weights)? {
        Source::Bundled(_) => {
            let files = entry.bundled.map_or(&[][..], |bundled| bundled.files.0);
            for file in files {
                part(&mut digest, file);
            }
        }
        Source::Synthetic(seed) => part(&mut digest, format!("synthetic:{seed}").as_bytes()),
        Source::Dir { path, .. } => {
            for path in weight_files(&path)? {
                of_file(&mut digest, &path)
                    .with_context(|| format!("cannot read {}", path.display()))?;
            }
        }
    }
    part(&mut digest, options.dtype.as_str().as_bytes());
    for (key, value) in &options.options {
        part(&mut digest, key.as_bytes());
        part(&mut digest, value.as_bytes());
    }
    Ok(format!("{:x}", digest.finalize())[..16].to_owned())
}

/// So that where one part ends and the next begins counts too.
fn part(digest: &mut Sha256, bytes: &[u8]) {
    digest.update((bytes.len() as u64).to_le_bytes());
    digest.update(bytes);
}

fn weight_files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let unreadable = || format!("cannot read {}", folder.display());
    let entries = folder.read_dir().with_context(unreadable)?;
    let mut paths = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<io::Result<Vec<_>>>()
        .with_context(unreadable)?;
    paths.retain(|path| {
        let kind = path.extension().and_then(|kind| kind.to_str());
        kind.is_some_and(|kind| KINDS.contains(&kind)) && path.is_file()
    });
    paths.sort();
    Ok(paths)
}

fn of_file(digest: &mut Sha256, path: &Path) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default();
    part(digest, name.as_encoded_bytes());
    let mut file = File::open(path)?;
    digest.update(file.metadata()?.len().to_le_bytes());
    let mut buffer = vec![0; BUFFER];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(()),
            read => digest.update(&buffer[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    use galley_core::WeightSource;

    use super::*;

    fn of(recipe: &str, change: impl FnOnce(&mut LoadOptions)) -> String {
        let mut options = LoadOptions::default();
        change(&mut options);
        revision(galley_catalog::find(recipe).unwrap(), &options).unwrap()
    }

    #[test]
    fn weights_options_and_dtype_make_another_revision() {
        let plain = of("deepsegment_en", |_| {});
        assert_eq!(plain.len(), 16);
        assert_eq!(plain, of("deepsegment_en", |_| {}));
        let others = [
            of("transformers_ner", |_| {}),
            of("deepsegment_en", |options| {
                options.weights = WeightSource::Synthetic(None);
            }),
            of("deepsegment_en", |options| {
                options.weights = WeightSource::Synthetic(Some(7));
            }),
            of("deepsegment_en", |options| {
                options.dtype = candle_core::DType::BF16;
            }),
            of("deepsegment_en", |options| {
                options.options.insert("a".into(), "b".into());
            }),
        ];
        for (place, other) in others.iter().enumerate() {
            assert_ne!(*other, plain);
            assert!(!others[..place].contains(other));
        }
    }

    #[test]
    fn a_folder_is_its_files() {
        let folder = tempfile::tempdir().unwrap();
        let write =
            |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        let now = || {
            of("deepsegment_en", |options| {
                options.weights = WeightSource::Dir(folder.path().into());
            })
        };
        write("model.safetensors", "a");
        let first = now();
        write("README.md", "x");
        assert_eq!(now(), first);
        write("model.safetensors", "b");
        assert_ne!(now(), first);
        write("model.safetensors", "a");
        assert_eq!(now(), first);
        write("config.json", "a");
        assert_ne!(now(), first);
    }
}
