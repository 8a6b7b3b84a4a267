//! On a device, if there is one.

use super::*;
use crate::{cuda::tests::device, image::cuda::Network as OnDevice};

fn scores(network: &OnDevice, images: &[&[u8]], size: Size) -> Vec<f32> {
    network.forward_pictures(images, &[], size).unwrap().logits
}

fn compare(element: Element) {
    let Some(gpu) = device(element) else { return };
    for layers in networks() {
        let cpu = Network::new(&layers, &Backend::from(Precision::F32)).unwrap();
        let cuda = OnDevice::new(&gpu, &layers).unwrap();
        for size in SIZES {
            let image = size.pixels() * 3;
            let decoded = bytes(40, size);
            let each: Vec<&[u8]> = decoded.chunks_exact(image).collect();
            let expected = cpu.forward_bytes(&each, (size.height, size.width)).unwrap();
            let mut meant = vec![0.0; decoded.len()];
            COLOURS.table().apply(&decoded, &mut meant);
            let together = scores(&cuda, &each, size);
            // Three times: one by one, recorded, and played back.
            for _ in 0..3 {
                for images in [1, 2, 7, 32, 40] {
                    let what = format!("{element:?} {size:?} {images} {:?}", layers.activation);
                    let logits = images * cuda.classes();
                    let got = scores(&cuda, &each[..images], size);
                    assert_near(&what, &got, &expected[..logits], tolerance(element));
                    assert_eq!(got, together[..logits], "{what}: batch-mates");
                    let got = cuda
                        .forward(images, size, &meant[..images * image])
                        .unwrap();
                    assert_near(&what, &got, &expected[..logits], tolerance(element));
                }
            }
        }
        assert!(scores(&cuda, &[], SIZES[0]).is_empty());
    }
}

#[test]
fn networks_in_f32_match_the_cpu() {
    compare(Element::F32);
}

#[test]
fn networks_in_f16_match_the_cpu() {
    compare(Element::F16);
}

/// Two threads at once, each in a lane of its own.
#[test]
fn passes_at_the_same_time_do_not_disturb_each_other() {
    let Some(gpu) = device(Element::F16) else {
        return;
    };
    let network = OnDevice::new(&gpu, &networks()[0]).unwrap();
    let size = SIZES[0];
    let decoded = bytes(8, size);
    let each: Vec<&[u8]> = decoded.chunks_exact(size.pixels() * 3).collect();
    let expected = scores(&network, &each, size);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..20 {
                    assert_eq!(scores(&network, &each, size), expected);
                }
            });
        }
    });
}
