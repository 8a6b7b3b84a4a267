//! Operators of convolutional image networks built of inverted bottlenecks (MobileNet, EfficientNet).
//!
//! Images are f32 and channels-last, `[n, h, w, c]`: a pointwise convolution is then one matrix product, and a depthwise
//! one works on vectors of neighbouring channels. Each operator does bias, activation and what else follows in one
//! pass, for on a CPU such a network spends as long moving images as computing. BatchNorm is folded into the
//! weights at load ([`BatchNorm::fold`]).
//!
//! An operator is a layer (weights, laid out once for its kernel), a candle `CustomOp1` that checks and hands over
//! slices, and a kernel that knows neither tensors nor candle. Threads are those of rayon's global pool.

mod depthwise;
mod fold;
mod padding;
mod pointwise;
mod pool;
mod squeeze_excite;
mod stem;

use candle_core::{Device, Result, Tensor};

pub use crate::activation::Activation;
pub use depthwise::{Depthwise, Window};
pub use fold::BatchNorm;
pub use padding::Padding;
pub use pointwise::{Extras, Pointwise};
pub use pool::global_average_pool;
pub use squeeze_excite::SqueezeExcite;
pub use stem::Stem;

use crate::bench::OperatorCase;

/// The operators at the shapes of EfficientNet-B2 at 288 pixels.
///
/// # Errors
/// Making the inputs failed.
pub fn bench_cases() -> Result<Vec<OperatorCase>> {
    let mut cases = Vec::new();
    for batch in [1, 8] {
        for (operator, kernel, stride, size, channels) in [
            ("depthwise 3x3", 3, 1, 72, 144),
            ("depthwise 3x3 stride 2", 3, 2, 144, 96),
            ("depthwise 5x5", 5, 1, 36, 288),
            ("depthwise 5x5", 5, 1, 18, 720),
        ] {
            let layer = depthwise::made_up(channels, kernel, stride)?;
            let shape = [size, size, channels];
            cases.push(case(operator, shape, batch, move |x| layer.forward(x))?);
        }
        for (size, cin, cout) in [(144, 16, 96), (72, 144, 24), (18, 120, 720), (9, 352, 1408)] {
            let layer = pointwise::made_up(cin, cout, Activation::Silu)?;
            let shape = [size, size, cin];
            cases.push(case("pointwise", shape, batch, move |x| layer.forward(x))?);
        }
    }
    Ok(cases)
}

fn case(
    operator: &'static str,
    shape: [usize; 3],
    batch: usize,
    run: impl Fn(&Tensor) -> Result<Tensor> + 'static,
) -> Result<OperatorCase> {
    let [h, w, c] = shape;
    let x = Tensor::randn(0f32, 1.0, (batch, h, w, c), &Device::Cpu)?;
    Ok(OperatorCase {
        operator,
        shape: shape.to_vec(),
        batch,
        run: Box::new(move || run(&x).map(drop)),
    })
}
