//! One way to read weights, whatever they are stored in: each function gives candle's `VarBuilder`, with tensors of f32 on
//! the host, from which networks lay them out for their device.
//!
//! Never pickle: a weight file is data, and reading it runs nothing.

use std::{
    collections::HashMap,
    fs::File,
    io::{Cursor, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::Mutex,
};

use candle_core::{DType, Device, Shape, Tensor, quantized::gguf_file};
use candle_nn::{Init, VarBuilder, var_builder::SimpleBackend};
use safetensors::tensor::{Metadata, TensorInfo};

use crate::LoadError;

/// The largest safetensors header that is read, in bytes; the format's own library has the same bound.
const MAX_HEADER: u64 = 100_000_000;

/// Safetensors in memory, for bundled weights.
///
/// # Errors
/// The bytes are not a safetensors file.
pub fn safetensors_bytes(bytes: &'static [u8]) -> Result<VarBuilder<'static>, LoadError> {
    Ok(VarBuilder::from_slice_safetensors(
        bytes,
        DType::F32,
        &Device::Cpu,
    )?)
}

/// Safetensors files in a folder: `model.safetensors`, or the shards that `model.safetensors.index.json` lists.
///
/// Tensors are read one at a time as the model asks for them, so that loading takes the model's own memory and little more.
///
/// # Errors
/// A file is missing, truncated or not safetensors.
pub fn safetensors_dir(dir: &Path) -> Result<VarBuilder<'static>, LoadError> {
    let index = dir.join("model.safetensors.index.json");
    let names = if index.is_file() {
        shards(&index)?
    } else {
        vec!["model.safetensors".into()]
    };
    let mut files = Files {
        tensors: HashMap::new(),
        files: Vec::new(),
    };
    for name in names {
        files.add(dir.join(name))?;
    }
    Ok(VarBuilder::from_backend(
        Box::new(files),
        DType::F32,
        Device::Cpu,
    ))
}

/// A GGUF file in memory, every tensor dequantised.
///
/// # Errors
/// The bytes are not GGUF, or hold a quantisation that candle does not know.
pub fn gguf_bytes(bytes: &[u8]) -> Result<VarBuilder<'static>, LoadError> {
    let mut reader = Cursor::new(bytes);
    let content = gguf_file::Content::read(&mut reader)?;
    let mut tensors = HashMap::new();
    for name in content.tensor_infos.keys() {
        let tensor = content
            .tensor(&mut reader, name, &Device::Cpu)?
            .dequantize(&Device::Cpu)?;
        tensors.insert(name.clone(), tensor.to_dtype(DType::F32)?);
    }
    Ok(VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu))
}

/// Reads a whole small file, such as a `config.json`.
///
/// # Errors
/// The file is missing or cannot be read.
pub fn read_file(path: &Path) -> Result<Vec<u8>, LoadError> {
    std::fs::read(path).map_err(|source| LoadError::Read {
        path: path.into(),
        source,
    })
}

fn shards(index: &Path) -> Result<Vec<PathBuf>, LoadError> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: HashMap<String, PathBuf>,
    }
    let index_name = || index.display().to_string();
    let parsed: Index = serde_json::from_slice(&read_file(index)?)
        .map_err(|error| LoadError::invalid(index_name(), error))?;
    let mut names: Vec<_> = parsed.weight_map.into_values().collect();
    names.sort();
    names.dedup();
    match names
        .iter()
        .find(|name| name.components().count() != 1 || name.file_name().is_none())
    {
        Some(name) => Err(LoadError::invalid(
            index_name(),
            format!("expected file names, got {}", name.display()),
        )),
        None => Ok(names),
    }
}

/// Safetensors files whose headers have been read, and whose tensors stay on disk until asked for.
struct Files {
    tensors: HashMap<String, Place>,
    files: Vec<Mutex<File>>,
}

struct Place {
    file: usize,
    /// Where the file's tensor data begin.
    data: u64,
    info: TensorInfo,
}

impl Files {
    fn add(&mut self, path: PathBuf) -> Result<(), LoadError> {
        let unreadable = |source| LoadError::Read {
            path: path.clone(),
            source,
        };
        let invalid = |reason: String| LoadError::invalid(path.display().to_string(), reason);
        let mut file = File::open(&path).map_err(unreadable)?;
        let size = file.metadata().map_err(unreadable)?.len();
        let mut header = vec![0; 8];
        file.read_exact(&mut header).map_err(unreadable)?;
        let length = u64::from_le_bytes(header[..8].try_into().expect("eight bytes were read"));
        if length > MAX_HEADER || length + 8 > size {
            return Err(invalid(format!(
                "expected a safetensors file, got a header of {length} bytes in a file of {size}"
            )));
        }
        (&mut file)
            .take(length)
            .read_to_end(&mut header)
            .map_err(unreadable)?;
        // The library's own reader of headers wants the rest of the file in memory too; this checks all but its length.
        let metadata: Metadata =
            serde_json::from_slice(&header[8..]).map_err(|error| invalid(error.to_string()))?;
        let end = metadata
            .tensors()
            .values()
            .map(|info| info.data_offsets.1)
            .max()
            .unwrap_or(0);
        let expected = 8 + length + end as u64;
        if expected != size {
            return Err(invalid(format!(
                "expected {expected} bytes as its header says, got {size}: is the file truncated?"
            )));
        }
        for (name, info) in metadata.tensors() {
            self.tensors.insert(
                name,
                Place {
                    file: self.files.len(),
                    data: 8 + length,
                    info: info.clone(),
                },
            );
        }
        self.files.push(Mutex::new(file));
        Ok(())
    }
}

impl SimpleBackend for Files {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let tensor = self.get_unchecked(name, dtype, device)?;
        if tensor.shape() != &shape {
            candle_core::bail!(
                "tensor {name}: expected shape {shape:?}, got {:?}",
                tensor.shape()
            )
        }
        Ok(tensor)
    }

    fn get_unchecked(
        &self,
        name: &str,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let Some(place) = self.tensors.get(name) else {
            candle_core::bail!("tensor {name} is missing")
        };
        let (start, end) = place.info.data_offsets;
        let mut bytes = vec![0; end - start];
        {
            let mut file = self.files[place.file]
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            file.seek(SeekFrom::Start(place.data + start as u64))?;
            file.read_exact(&mut bytes)?;
        }
        let stored: DType = place.info.dtype.try_into()?;
        Tensor::from_raw_buffer(&bytes, stored, &place.info.shape, device)?.to_dtype(dtype)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder's `model.safetensors`: a header, and `data` zeros after it.
    fn load(header: &str, data: usize) -> Result<VarBuilder<'static>, LoadError> {
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        std::fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
        safetensors_dir(dir.path())
    }

    const HEADER: &str = r#"{"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},
        "b":{"dtype":"I64","shape":[1],"data_offsets":[24,32]},"__metadata__":{"format":"pt"}}"#;

    #[test]
    fn tensors_are_read_from_a_folder_by_name() {
        let vb = load(HEADER, 32).unwrap();
        assert_eq!(
            vb.get((2, 3), "a").unwrap().to_vec2::<f32>().unwrap(),
            [[0.0; 3]; 2]
        );
        assert!(vb.contains_tensor("b"));
        assert!(vb.get((3, 2), "a").is_err());
        assert!(vb.get(1, "c").is_err());
    }

    #[test]
    fn files_that_are_not_whole_or_contradict_themselves_are_refused() {
        for (header, data, reason) in [
            (HEADER, 31, "truncated"),
            (HEADER, 33, "truncated"),
            ("{", 0, "EOF"),
            (&HEADER.replace("[2,3]", "[2,4]"), 32, "invalid shape"),
            (&HEADER.replace("[24,32]", "[32,24]"), 32, "invalid"),
        ] {
            let error = load(header, data).err().unwrap().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
