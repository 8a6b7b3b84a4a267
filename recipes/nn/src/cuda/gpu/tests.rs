use super::*;
use crate::cuda::{Argument, Program, memory::alone};

/// The first device, or nothing where there is none, and says so.
pub(crate) fn device(element: Element) -> Option<Gpu> {
    device_at(0, element)
}

/// The device of a number, as [`device`].
pub(crate) fn device_at(ordinal: usize, element: Element) -> Option<Gpu> {
    // Candle makes handles of libraries, which may wait for all of a device.
    let alone = alone();
    let device = CudaDevice::new_with_stream(ordinal).map_err(|error| error.to_string());
    drop(alone);
    match device.and_then(|device| Gpu::new(&device, element)) {
        Ok(gpu) => Some(gpu),
        Err(error) => {
            eprintln!("skipped: no CUDA device {ordinal} ({error})");
            None
        }
    }
}

impl Gpu {
    /// The same, with its memory counted apart from everybody else's.
    pub(crate) fn counted_apart(mut self) -> (Self, Arc<Held>) {
        self.held = Arc::default();
        let held = Arc::clone(&self.held);
        (self, held)
    }
}

/// What a compiled kernel takes, in order.
#[derive(Debug, PartialEq, Eq)]
enum Parameter {
    Pointer,
    Word,
    Map,
}

macro_rules! ptx {
    ($name:literal) => {
        include_str!(concat!(env!("OUT_DIR"), "/", $name, ".ptx"))
    };
}

/// All sources, each with the PTX that its kernels were compiled from.
const SOURCES: [(Source, &str); 37] = [
    (Source::Stem, ptx!("stem")),
    (Source::Depthwise, ptx!("depthwise")),
    (Source::SqueezeExcite, ptx!("squeeze_excite")),
    (Source::LayerNorm, ptx!("layer_norm")),
    (Source::Attention, ptx!("attention")),
    (Source::AttentionPlain, ptx!("attention_plain")),
    (Source::Pooling, ptx!("pooling")),
    (Source::TokenHead, ptx!("token_head")),
    (Source::LstmInputs, ptx!("lstm_inputs")),
    (Source::Lstm, ptx!("lstm")),
    (Source::LstmPlain, ptx!("lstm_plain")),
    (Source::LstmStack, ptx!("lstm_stack")),
    (Source::Crf, ptx!("crf")),
    (Source::Matmul, ptx!("matmul")),
    (Source::MatmulF32, ptx!("matmul_f32")),
    (Source::MatmulSm90, ptx!("matmul_sm90")),
    (Source::Conv, ptx!("conv")),
    (Source::ConvSm90, ptx!("conv_sm90")),
    (Source::Pixels, ptx!("pixels")),
    (Source::Resize, ptx!("resize")),
    (Source::TrainValues, ptx!("train_values")),
    (Source::TrainPool, ptx!("train_pool")),
    (Source::TrainTables, ptx!("train_tables")),
    (Source::TrainUpdate, ptx!("train_update")),
    (Source::TrainNorm, ptx!("train_norm")),
    (Source::TrainNormSm90, ptx!("train_norm_sm90")),
    (Source::TrainLayerNorm, ptx!("train_layer_norm")),
    (Source::TrainAttention, ptx!("train_attention")),
    (Source::TrainAttentionBack, ptx!("train_attention_back")),
    (Source::TrainAttentionPlain, ptx!("train_attention_plain")),
    (Source::TrainLstm, ptx!("train_lstm")),
    (Source::TrainLstmSm90, ptx!("train_lstm_sm90")),
    (Source::TrainConv, ptx!("train_conv")),
    (Source::TrainConvWeight, ptx!("train_conv_weight")),
    (Source::TrainConvWeightSm90, ptx!("train_conv_weight_sm90")),
    (Source::TrainConvLayout, ptx!("train_conv_layout")),
    (Source::TrainConvDepthwise, ptx!("train_conv_depthwise")),
];

/// A compiled kernel's parameters, and the threads of a block that it is compiled for at most.
fn signature(source: Source, kernel: &str) -> (Vec<Parameter>, u32) {
    let entry = format!(".entry {kernel}(");
    let (_, text) = (SOURCES.iter().find(|(one, _)| *one == source))
        .and_then(|(_, text)| text.split_once(&entry))
        .unwrap_or_else(|| panic!("there is no kernel {kernel} in {source:?}"));
    let (parameters, text) = text.split_once(')').expect("parameters end");
    let parameters = parameters.split(',').map(|parameter| {
        if parameter.contains("[128]") {
            Parameter::Map
        } else if parameter.contains(".u64") {
            Parameter::Pointer
        } else {
            let word = [".u32", ".s32", ".f32"]
                .iter()
                .any(|of| parameter.contains(of));
            assert!(word, "{kernel}: {parameter}");
            Parameter::Word
        }
    });
    let (head, _) = text.split_once('{').expect("a body begins");
    let threads = head.split_once(".maxntid").and_then(|(_, numbers)| {
        let mut numbers = numbers.split(|c: char| !c.is_ascii_digit());
        numbers.find(|number| !number.is_empty())?.parse().ok()
    });
    (parameters.collect(), threads.unwrap_or(1024))
}

/// That every launch is of a kernel that there is, with the arguments that it takes and no more threads than it was
/// compiled for.
pub(crate) fn check_signatures(program: &Program) {
    for launch in program.launches() {
        let arguments: Vec<_> = (launch.arguments.iter())
            .map(|argument| match argument {
                Argument::Null | Argument::Read(_) | Argument::Write(_) => Parameter::Pointer,
                Argument::Word(_) => Parameter::Word,
                Argument::ReadMap(_)
                | Argument::WriteMap(_)
                | Argument::ReadPatches(_)
                | Argument::ReadBoxes(_)
                | Argument::WriteBoxes(_) => Parameter::Map,
            })
            .collect();
        let (parameters, threads) = signature(launch.source, &launch.kernel);
        assert_eq!(arguments, parameters, "{}", launch.kernel);
        assert!(launch.grid.threads <= threads, "{}", launch.kernel);
    }
}

/// What a fatbin holds: its kinds, and the capabilities that they are for.
fn images(fatbin: &[u8]) -> Vec<(Image, u32)> {
    /// The head's magic number, version and length; the length of all that follows it comes after these.
    const HEAD: [u8; 8] = [0x50, 0xed, 0x55, 0xba, 1, 0, 16, 0];
    let (head, rest) = fatbin.split_at(16);
    assert!(head.starts_with(&HEAD), "{head:?}");
    let number = |bytes: &[u8], at: usize| {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
    };
    let mut rest = &rest[..number(head, 8)];
    let mut images = Vec::new();
    while !rest.is_empty() {
        let kind = match rest[0] {
            1 => Image::Ptx,
            2 => Image::Machine,
            other => panic!("an image of kind {other}"),
        };
        images.push((kind, number(rest, 28) as u32));
        rest = &rest[number(rest, 4) + number(rest, 8)..];
    }
    images
}

#[derive(Debug, PartialEq, Eq)]
enum Image {
    Ptx,
    Machine,
}

#[test]
fn every_source_is_compiled_for_the_card_with_ptx_for_later_ones() {
    for (source, _) in SOURCES {
        let capability = match source {
            Source::MatmulSm90
            | Source::ConvSm90
            | Source::TrainNormSm90
            | Source::TrainLstmSm90 => 90,
            _ => BUILT_FOR.parse().unwrap(),
        };
        let images = images(source.fatbin());
        assert_eq!(images.len(), 2, "{source:?}: {images:?}");
        for kind in [Image::Machine, Image::Ptx] {
            let image = (kind, capability);
            assert!(
                images.contains(&image),
                "{image:?} of {source:?} in {images:?}"
            );
        }
    }
}

#[test]
fn kernels_run_on_the_card_that_they_were_built_for_and_on_later_ones() {
    for (built_for, card, runs) in [
        ("80", (8, 0), true),
        ("80", (9, 0), true),
        ("90", (9, 0), true),
        ("90", (10, 0), true),
        ("90", (8, 9), false),
        ("86", (8, 0), false),
        ("120", (12, 1), true),
        ("", (9, 0), false),
    ] {
        assert_eq!(runs_on(built_for, card), runs, "{built_for} on {card:?}");
    }
}

#[test]
fn every_source_has_kernels() {
    for (source, text) in SOURCES {
        assert!(text.contains(".entry"), "{source:?}");
    }
}
