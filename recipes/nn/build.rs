//! Compiles the CUDA kernels to PTX, where the feature `cuda` asks for them.

#[cfg(not(feature = "cuda"))]
fn main() {}

#[cfg(feature = "cuda")]
fn main() -> cudaforge::Result<()> {
    use std::{env, path::PathBuf};

    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=cuda");
    // As candle's own kernels: for the card in this machine, or for CUDA_COMPUTE_CAP. What comes out says so.
    let arch = cudaforge::detect_compute_cap()?;
    assert!(
        arch.base() >= 80,
        "the kernels need compute capability 8.0, got CUDA_COMPUTE_CAP={arch}"
    );
    println!("cargo::rustc-env=GALLEY_CUDA_ARCH={arch}");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    cudaforge::KernelBuilder::new()
        .source_dir("cuda")
        .watch(["cuda"])
        .out_dir(&out)
        // Used on such cards alone, also by a build for older ones.
        .with_compute_override_arch("matmul_sm90.cu", "90a")
        .arg("-std=c++17")
        .arg("-O3")
        .arg("--expt-relaxed-constexpr")
        .build_ptx()?
        .write(out.join("ptx.rs"))
}
