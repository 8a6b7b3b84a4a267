//! The blocks at the shapes of EfficientNet-B2 at 288 pixels, for `galley bench operators`.

use candle_core::{Device, Result, Tensor};

use super::{Bottleneck, Convolution, Padding, Window, cpu, padding::Size};
use crate::bench::OperatorCase;

/// What the case measures, the kernel, the stride, whether it expands, the image's side, and channels in and out.
type Shape = (&'static str, usize, usize, bool, usize, [usize; 2]);

const SHAPES: [Shape; 9] = [
    ("bottleneck 3x3 plain", 3, 1, false, 144, [32, 16]),
    ("bottleneck 3x3 stride 2", 3, 2, true, 144, [16, 24]),
    ("bottleneck 3x3", 3, 1, true, 72, [24, 24]),
    ("bottleneck 5x5 stride 2", 5, 2, true, 72, [24, 48]),
    ("bottleneck 5x5", 5, 1, true, 36, [48, 48]),
    ("bottleneck 3x3", 3, 1, true, 18, [88, 88]),
    ("bottleneck 5x5", 5, 1, true, 18, [120, 120]),
    ("bottleneck 5x5", 5, 1, true, 9, [208, 208]),
    ("bottleneck 3x3", 3, 1, true, 9, [352, 352]),
];

/// Every kind of block, and the stem.
///
/// # Errors
/// Making the inputs failed.
pub(crate) fn bench_cases() -> Result<Vec<OperatorCase>> {
    let mut cases = Vec::new();
    for batch in [1, 8] {
        let stem = convolution(&[32, 3, 3, 3])?;
        let x = values(&[batch, 288, 288, 3])?;
        cases.push(OperatorCase {
            operator: "stem",
            shape: vec![288, 288, 3],
            batch,
            dtype: "f32",
            run: cpu::timed_stem(&stem, x, batch, square(288))?,
        });
        for (operator, kernel, stride, expands, side, [inputs, outputs]) in SHAPES {
            let wide = if expands { 6 * inputs } else { inputs };
            let squeezed = inputs / 4;
            let layer = Bottleneck {
                expand: match expands {
                    true => Some(convolution(&[wide, inputs])?),
                    false => None,
                },
                depthwise: convolution(&[wide, 1, kernel, kernel])?,
                window: Window {
                    stride,
                    padding: Padding::Symmetric(kernel / 2),
                },
                squeeze_excite: Some([
                    convolution(&[squeezed, wide])?,
                    convolution(&[wide, squeezed])?,
                ]),
                project: convolution(&[outputs, wide])?,
                residual: stride == 1 && inputs == outputs,
            };
            let x = values(&[batch, side, side, inputs])?;
            cases.push(OperatorCase {
                operator,
                shape: vec![side, side, inputs],
                batch,
                dtype: "f32",
                run: cpu::timed_block(&layer, x, batch, square(side))?,
            });
        }
    }
    Ok(cases)
}

fn square(side: usize) -> Size {
    Size {
        height: side,
        width: side,
    }
}

fn values(shape: &[usize]) -> Result<Vec<f32>> {
    Tensor::randn(0f32, 1.0, shape, &Device::Cpu)?
        .flatten_all()?
        .to_vec1()
}

fn convolution(shape: &[usize]) -> Result<Convolution> {
    Ok(Convolution {
        weight: Tensor::randn(0f32, 0.1, shape, &Device::Cpu)?,
        bias: Tensor::zeros(shape[0], candle_core::DType::F32, &Device::Cpu)?,
    })
}
