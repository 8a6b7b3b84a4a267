//! Batches of which a device decodes a part.

use bytes::Bytes;
use galley_core::InputKind;

use super::*;

const GREY: &[u8] = include_bytes!("../../tests/data/compressed/grey_16x8.jpg");
const COLOURED: &[u8] = include_bytes!("../../tests/data/compressed/colour_48x32.jpg");

/// Scores an image by its bytes, and a picture by its file, which this part of it decodes. It refuses coloured ones.
struct Device(Unit);

impl Device {
    fn score(bytes: &[u8]) -> [f32; 2] {
        [
            bytes.len() as f32,
            bytes.iter().map(|&x| f32::from(x)).sum(),
        ]
    }
}

impl Scorer for Device {
    fn forward(&self, _: &Tensor) -> candle_core::Result<Tensor> {
        candle_core::bail!("expected bytes")
    }

    fn forward_pictures(
        &self,
        images: &[&[u8]],
        pictures: &[Picture<'_>],
        _: usize,
    ) -> candle_core::Result<Scored> {
        let refused = (0..pictures.len()).filter(|&i| pictures[i].file == COLOURED);
        let files = pictures.iter().map(|picture| picture.file);
        let all = images.iter().copied().chain(files);
        Ok(Scored {
            logits: all.flat_map(Self::score).collect(),
            refused: refused.collect(),
        })
    }

    fn decoder(&self) -> Option<Unit> {
        Some(self.0)
    }

    fn classes(&self) -> usize {
        2
    }
}

fn classifier(jpeg: &str) -> Classifier {
    classifier_on(Unit::Processors, Some(jpeg))
}

fn classifier_on(unit: Unit, jpeg: Option<&str>) -> Classifier {
    let entry = Entry {
        name: "test",
        summary: "",
        samples: &[],
        input_kind: InputKind::File,
        bundled: None,
        hub: None,
        synthetic_seed: None,
        options: OPTIONS,
        benchmark: None,
        load: |_, _| unreachable!("it is there"),
    };
    let jpeg = jpeg.map(|jpeg| (JPEG.to_owned(), jpeg.to_owned()));
    let options = LoadOptions {
        options: jpeg.into_iter().collect(),
        ..LoadOptions::default()
    };
    let parts = Parts {
        network: Box::new(Device(unit)),
        labels: Vec::new(),
        view: View {
            resize: 10,
            crop: 8,
        },
        parameters: 0,
    };
    Classifier::new(&entry, &options, String::new(), parts).unwrap()
}

fn logits(classifier: &Classifier, files: &[&[u8]]) -> Vec<Vec<f32>> {
    let prepare = |file: &&[u8]| classifier.prepare(Input::File(Bytes::copy_from_slice(file)));
    let prepared: Vec<Square> = files.iter().map(|file| prepare(file).unwrap()).collect();
    let batch: Vec<&Square> = prepared.iter().collect();
    classifier.forward(&batch).unwrap()
}

#[test]
fn a_device_decodes_unasked_only_with_engines_for_it() {
    let decoder = |unit, jpeg| Recipe::decoder(&classifier_on(unit, jpeg));
    assert_eq!(decoder(Unit::Engines, None), Some(Unit::Engines.name()));
    assert_eq!(decoder(Unit::Engines, Some("cpu")), None);
    assert_eq!(decoder(Unit::Processors, None), None);
    let asked = decoder(Unit::Processors, Some("device"));
    assert_eq!(asked, Some(Unit::Processors.name()));
}

#[test]
fn what_a_device_refuses_the_cpu_decodes() {
    let files = [COLOURED, GREY, COLOURED, crate::EXAMPLE];
    let here = classifier("cpu");
    let expected = logits(&here, &files);
    let (on_device, on_cpu) = (0, 4);
    assert_eq!(here.decoded(), Decoded { on_device, on_cpu });
    let there = classifier("device");
    let got = logits(&there, &files);
    let (on_device, on_cpu) = (2, 2);
    assert_eq!(there.decoded(), Decoded { on_device, on_cpu });
    assert_eq!([&got[0], &got[2]], [&expected[0], &expected[2]]);
    assert_eq!(got[1], Device::score(GREY));
    assert_eq!(got[3], Device::score(crate::EXAMPLE));
}

#[test]
fn a_batch_of_all_kinds_keeps_its_order() {
    // The same as an extended frame, which the CPU decodes.
    let mut extended = GREY.to_vec();
    let frame = extended.windows(2).position(|bytes| bytes == [0xFF, 0xC0]);
    extended[frame.unwrap() + 1] = 0xC1;
    let files = [GREY, COLOURED, &extended, crate::EXAMPLE];
    let there = classifier("device");
    for turn in 0..files.len() {
        let mut files = files;
        files.rotate_left(turn);
        let one_by_one: Vec<_> = files
            .iter()
            .flat_map(|file| logits(&there, &[file]))
            .collect();
        assert_eq!(logits(&there, &files), one_by_one);
    }
}
