//! What the vendor's libraries compute: products by cublasLt, convolutions by cuDNN where that is there, and averages over devices by
//! NCCL.
//!
//! Their work keeps to the order of the stream that it is started on, also while that is recorded. Which algorithm computes
//! what is chosen when a program is made ready, once for each shape; all that are considered give the same bits each time.

mod average;
mod choice;
mod convolution;
mod product;

pub(super) use average::Averaging;
pub(super) use convolution::Convolving;
pub(super) use product::Multiplication;

/// Bytes of device memory that the libraries get to work in.
pub(super) const WORKSPACE: usize = 256 << 20;
