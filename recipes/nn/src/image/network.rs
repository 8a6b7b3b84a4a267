//! A network on a device.

use candle_core::{Device, Result, Tensor, bail};

#[cfg(feature = "cuda")]
use super::cuda;
use super::{Layers, colours::Table, cpu, padding::Size};
use crate::{
    backend::{Backend, Kind},
    host,
    picture::{Picture, Scored, Unit},
    pool,
};

/// Values of a pixel.
const COLOURS: usize = 3;

/// [`Layers`], laid out for a device.
///
/// Between the pixels and the logits there are no tensors: each device keeps the images in memory of its own, which it
/// uses again in the next pass. A pass on the CPU runs in the CPU pool; one on another device is waited for by the calling
/// thread.
#[derive(Debug)]
pub struct Network(OnDevice);

#[derive(Debug)]
enum OnDevice {
    Cpu {
        network: Box<cpu::Network>,
        /// What bytes become.
        table: Box<Table>,
    },
    #[cfg(feature = "cuda")]
    Cuda(Box<cuda::Network>),
}

impl Network {
    /// For a device. On the CPU expansions and the head compute in its precision, and everything else in f32.
    ///
    /// # Errors
    /// The shapes do not fit together, a layer is none that there are kernels for, or the device has too little memory.
    pub fn new(layers: &Layers, backend: &Backend) -> Result<Self> {
        Ok(Self(match &backend.0 {
            Kind::Cpu(precision) => OnDevice::Cpu {
                network: Box::new(cpu::Network::new(layers, *precision)?),
                table: Box::new(layers.colours.table()),
            },
            #[cfg(feature = "cuda")]
            Kind::Cuda(gpu) => OnDevice::Cuda(Box::new(cuda::Network::new(gpu, layers)?)),
        }))
    }

    /// Pixels `[n, h, w, 3]` on the host, which mean what they are -> logits `[n, classes]` there, in f32.
    ///
    /// # Errors
    /// The shape does not fit, or the device failed.
    pub fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        let (n, height, width, colours) = pixels.dims4()?;
        if colours != COLOURS {
            bail!("expected pixels [n, h, w, 3], got {:?}", pixels.dims())
        }
        let size = Size { height, width };
        let logits = host::with(&pixels.contiguous()?, |pixels| match &self.0 {
            OnDevice::Cpu { network, .. } => {
                let len = size.pixels() * COLOURS;
                let fill = |i: usize, to: &mut [f32]| to.copy_from_slice(&pixels[i * len..][..len]);
                pool::run(|| network.forward(n, size, &fill))
            }
            #[cfg(feature = "cuda")]
            OnDevice::Cuda(network) => network.forward(n, size, pixels),
        })?;
        Tensor::from_vec(logits, (n, self.classes()), &Device::Cpu)
    }

    /// Images as they were decoded, bytes `[height, width, 3]` each, which mean what the layers' colours say -> logits
    /// `[images * classes]`.
    ///
    /// # Errors
    /// As [`Self::forward`]; an image is of another size.
    pub fn forward_bytes(
        &self,
        images: &[&[u8]],
        (height, width): (usize, usize),
    ) -> Result<Vec<f32>> {
        let scored = self.forward_pictures_of(images, &[], [height, width])?;
        Ok(scored.logits)
    }

    /// What the device decodes pictures with; none where it does not.
    pub fn decoder(&self) -> Option<Unit> {
        match &self.0 {
            OnDevice::Cpu { .. } => None,
            #[cfg(feature = "cuda")]
            OnDevice::Cuda(network) => network.decoder(),
        }
    }

    /// Images as they were decoded, bytes `[side, side, 3]` each, and after them pictures, which become such. A device that decodes
    /// none refuses all pictures.
    ///
    /// # Errors
    /// As [`Self::forward_bytes`].
    ///
    /// # Panics
    /// A picture is to become a square of another size.
    pub fn forward_pictures(
        &self,
        images: &[&[u8]],
        pictures: &[Picture<'_>],
        side: usize,
    ) -> Result<Scored> {
        self.forward_pictures_of(images, pictures, [side; 2])
    }

    fn forward_pictures_of(
        &self,
        images: &[&[u8]],
        pictures: &[Picture<'_>],
        [height, width]: [usize; 2],
    ) -> Result<Scored> {
        expect_size(images, [height, width])?;
        let size = Size { height, width };
        match &self.0 {
            OnDevice::Cpu { network, table } => {
                let fill = |i: usize, to: &mut [f32]| table.apply(images[i], to);
                let logits = pool::run(|| network.forward(images.len(), size, &fill))?;
                Ok(Scored::refusing(logits, pictures.len(), self.classes()))
            }
            #[cfg(feature = "cuda")]
            OnDevice::Cuda(network) => network.forward_pictures(images, pictures, size),
        }
    }

    /// Logits of an image.
    pub fn classes(&self) -> usize {
        match &self.0 {
            OnDevice::Cpu { network, .. } => network.classes(),
            #[cfg(feature = "cuda")]
            OnDevice::Cuda(network) => network.classes(),
        }
    }
}

/// Whether all images have the bytes of such a size.
///
/// # Errors
/// One has not.
pub(crate) fn expect_size(images: &[&[u8]], [height, width]: [usize; 2]) -> Result<()> {
    let len = height * width * COLOURS;
    match images.iter().find(|image| image.len() != len) {
        Some(other) => bail!(
            "expected images of {height} by {width} pixels, {len} bytes, got {}",
            other.len()
        ),
        None => Ok(()),
    }
}
