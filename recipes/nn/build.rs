//! Compiles the CUDA kernels, where the feature `cuda` asks for them: for the card that they are built for, so that a start
//! compiles nothing, and as PTX beside it, which the driver of a later card compiles.

#[cfg(not(feature = "cuda"))]
fn main() {}

#[cfg(feature = "cuda")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    kernels::compile()
}

#[cfg(feature = "cuda")]
mod kernels {
    use std::{
        env,
        error::Error,
        ffi::OsStr,
        fs, io,
        path::{Path, PathBuf},
        process::Command,
        sync::Mutex,
        thread,
    };

    use cudaforge::{CudaToolkit, GpuArch};

    const FOLDER: &str = "cuda";
    /// How the names of sources end that are written for cards of 9.0, and used on no others, also by a build for older ones.
    const HOPPER: &str = "_sm90";

    pub(crate) fn compile() -> Result<(), Box<dyn Error>> {
        println!("cargo::rerun-if-changed=build.rs");
        println!("cargo::rerun-if-changed={FOLDER}");
        for name in ["CUDA_COMPUTE_CAP", "CUDA_HOME", "NVCC", "NVCC_CCBIN"] {
            println!("cargo::rerun-if-env-changed={name}");
        }
        // As candle's own kernels: for the card in this machine, or for CUDA_COMPUTE_CAP. What comes out says so.
        let arch = cudaforge::detect_compute_cap()?;
        if arch.base() < 80 {
            return Err(format!(
                "the kernels need compute capability 8.0, got CUDA_COMPUTE_CAP={arch}"
            )
            .into());
        }
        println!("cargo::rustc-env=GALLEY_CUDA_ARCH={}", arch.base());
        let build = Build {
            nvcc: CudaToolkit::detect()?.nvcc_path,
            arch,
            out: env::var_os("OUT_DIR").ok_or("expected OUT_DIR")?.into(),
        };
        let sources = Mutex::new(sources()?);
        let workers = env::var("NUM_JOBS")?.parse()?;
        thread::scope(|scope| {
            let worker = || {
                let next = || sources.lock().ok()?.pop();
                while let Some(source) = next() {
                    build.fatbin(&source).map_err(|error| error.to_string())?;
                }
                Ok::<(), String>(())
            };
            let workers: Vec<_> = (0..workers).map(|_| scope.spawn(worker)).collect();
            workers.into_iter().try_for_each(|worker| {
                worker
                    .join()
                    .unwrap_or_else(|_| Err("a compilation panicked".into()))
            })
        })?;
        Ok(())
    }

    /// The source files, the one that takes longest at the end.
    fn sources() -> io::Result<Vec<PathBuf>> {
        let mut sources = Vec::new();
        for entry in fs::read_dir(FOLDER)? {
            let path = entry?.path();
            if path.extension() == Some(OsStr::new("cu")) {
                sources.push((fs::metadata(&path)?.len(), path));
            }
        }
        sources.sort();
        Ok(sources.into_iter().map(|(_, path)| path).collect())
    }

    struct Build {
        nvcc: PathBuf,
        arch: GpuArch,
        out: PathBuf,
    }

    impl Build {
        /// Compiles a source to `OUT_DIR/NAME.fatbin`, and leaves its PTX at `OUT_DIR/NAME.ptx` for tests to read.
        fn fatbin(&self, source: &Path) -> Result<(), Box<dyn Error>> {
            let name = source.file_stem().ok_or("expected a file's name")?;
            let codes = if name.to_str().is_some_and(|name| name.ends_with(HOPPER)) {
                codes("90a", "90a")
            } else {
                codes(&self.arch.to_string(), &self.arch.base().to_string())
            };
            let file = |extension| self.out.join(name).with_extension(extension);
            let steps = file("steps");
            fs::create_dir_all(&steps)?;
            let compiled = Command::new(&self.nvcc)
                .args(["--fatbin", "-std=c++17", "-O3", "--expt-relaxed-constexpr"])
                .args(codes)
                .args(["--keep", "--keep-dir"])
                .arg(&steps)
                .arg("-o")
                .args([&file("fatbin"), source])
                .output()?;
            if !compiled.status.success() {
                return Err(format!(
                    "nvcc cannot compile {}:\n{}{}",
                    source.display(),
                    String::from_utf8_lossy(&compiled.stdout),
                    String::from_utf8_lossy(&compiled.stderr),
                )
                .into());
            }
            let kept: Vec<_> = fs::read_dir(&steps)?.collect::<Result<_, _>>()?;
            // Whichever it is for: kernels have the same names and parameters on all cards.
            let text = (kept.iter().map(fs::DirEntry::path))
                .find(|path| path.extension() == Some(OsStr::new("ptx")))
                .ok_or("expected nvcc to keep its PTX")?;
            fs::rename(text, file("ptx"))?;
            fs::remove_dir_all(&steps)?;
            Ok(())
        }
    }

    /// Machine code for the cards of one kind, which may use all that these have (`90a`), and PTX, which runs on all later
    /// cards where it does not (`90`).
    fn codes(sass: &str, ptx: &str) -> [String; 2] {
        [
            format!("-gencode=arch=compute_{sass},code=sm_{sass}"),
            format!("-gencode=arch=compute_{ptx},code=compute_{ptx}"),
        ]
    }
}
