//! cuDNN's enumerations, as `cudnn_graph.h` has them.

use std::ffi::c_int;

/// `cudnnBackendDescriptorType_t`.
pub(super) mod kind {
    use super::c_int;

    pub(in crate::cuda::handles) const CONVOLUTION: c_int = 1;
    pub(in crate::cuda::handles) const ENGINE: c_int = 2;
    pub(in crate::cuda::handles) const ENGINE_CONFIG: c_int = 3;
    pub(in crate::cuda::handles) const HEURISTICS: c_int = 4;
    pub(in crate::cuda::handles) const PLAN: c_int = 5;
    pub(in crate::cuda::handles) const FORWARD: c_int = 10;
    pub(in crate::cuda::handles) const WEIGHT: c_int = 11;
    pub(in crate::cuda::handles) const INPUT: c_int = 12;
    pub(in crate::cuda::handles) const GRAPH: c_int = 15;
    /// A variant pack.
    pub(in crate::cuda::handles) const PLACES: c_int = 16;
    pub(in crate::cuda::handles) const TENSOR: c_int = 17;
}

/// `cudnnBackendAttributeName_t`.
pub(super) mod attribute {
    use super::c_int;

    pub(in crate::cuda::handles) const CONVOLUTION_TYPE: c_int = 100;
    pub(in crate::cuda::handles) const CONVOLUTION_MODE: c_int = 101;
    pub(in crate::cuda::handles) const CONVOLUTION_DILATIONS: c_int = 102;
    pub(in crate::cuda::handles) const CONVOLUTION_STRIDES: c_int = 103;
    pub(in crate::cuda::handles) const CONVOLUTION_AFTER: c_int = 104;
    pub(in crate::cuda::handles) const CONVOLUTION_BEFORE: c_int = 105;
    pub(in crate::cuda::handles) const CONVOLUTION_AXES: c_int = 106;
    pub(in crate::cuda::handles) const HEURISTICS_MODE: c_int = 200;
    pub(in crate::cuda::handles) const HEURISTICS_GRAPH: c_int = 201;
    pub(in crate::cuda::handles) const HEURISTICS_RESULTS: c_int = 202;
    pub(in crate::cuda::handles) const ENGINE_CONFIG_ENGINE: c_int = 300;
    pub(in crate::cuda::handles) const PLAN_HANDLE: c_int = 400;
    pub(in crate::cuda::handles) const PLAN_ENGINE: c_int = 401;
    pub(in crate::cuda::handles) const PLAN_WORKSPACE: c_int = 402;
    pub(in crate::cuda::handles) const GRAPH_HANDLE: c_int = 800;
    pub(in crate::cuda::handles) const GRAPH_OPERATIONS: c_int = 801;
    pub(in crate::cuda::handles) const TENSOR_ALIGNMENT: c_int = 900;
    pub(in crate::cuda::handles) const TENSOR_TYPE: c_int = 901;
    pub(in crate::cuda::handles) const TENSOR_SIZES: c_int = 902;
    pub(in crate::cuda::handles) const TENSOR_STRIDES: c_int = 903;
    pub(in crate::cuda::handles) const TENSOR_NAME: c_int = 906;
    pub(in crate::cuda::handles) const PLACES_NAMES: c_int = 1000;
    pub(in crate::cuda::handles) const PLACES_POINTERS: c_int = 1001;
    pub(in crate::cuda::handles) const PLACES_WORKSPACE: c_int = 1003;
    pub(in crate::cuda::handles) const ENGINE_NOTES: c_int = 1303;

    /// Of a convolution or one of its gradients.
    pub(in crate::cuda::handles) struct Operation {
        /// What the result is multiplied by, and what was there before.
        pub(in crate::cuda::handles) factor: c_int,
        pub(in crate::cuda::handles) before: c_int,
        pub(in crate::cuda::handles) convolution: c_int,
        pub(in crate::cuda::handles) x: c_int,
        pub(in crate::cuda::handles) weight: c_int,
        pub(in crate::cuda::handles) y: c_int,
    }

    pub(in crate::cuda::handles) const FORWARD: Operation = Operation {
        factor: 700,
        before: 701,
        convolution: 702,
        weight: 703,
        x: 704,
        y: 705,
    };
    pub(in crate::cuda::handles) const INPUT: Operation = Operation {
        factor: 706,
        before: 707,
        convolution: 708,
        weight: 709,
        x: 710,
        y: 711,
    };
    pub(in crate::cuda::handles) const WEIGHT: Operation = Operation {
        factor: 712,
        before: 713,
        convolution: 714,
        weight: 715,
        x: 716,
        y: 717,
    };
}

/// `cudnnBackendAttributeType_t`, and those of its kinds that are enumerations themselves.
pub(super) mod value {
    use super::c_int;

    pub(in crate::cuda::handles) const HANDLE: c_int = 0;
    pub(in crate::cuda::handles) const DATA_TYPE: c_int = 1;
    pub(in crate::cuda::handles) const INT64: c_int = 3;
    pub(in crate::cuda::handles) const FLOAT: c_int = 4;
    pub(in crate::cuda::handles) const POINTER: c_int = 6;
    pub(in crate::cuda::handles) const CONVOLUTION_MODE: c_int = 7;
    pub(in crate::cuda::handles) const HEURISTICS_MODE: c_int = 8;
    pub(in crate::cuda::handles) const NOTE: c_int = 11;
    pub(in crate::cuda::handles) const DESCRIPTOR: c_int = 15;

    /// `cudnnDataType_t`.
    pub(in crate::cuda::handles) const SINGLE: c_int = 0;
    pub(in crate::cuda::handles) const HALF: c_int = 2;

    /// `cudnnConvolutionMode_t`: filters are not turned.
    pub(in crate::cuda::handles) const CROSS_CORRELATION: c_int = 1;

    /// `cudnnBackendHeurMode_t`.
    pub(in crate::cuda::handles) const HEURISTICS_FALLBACK: c_int = 2;
    pub(in crate::cuda::handles) const HEURISTICS_FAST: c_int = 3;

    /// `cudnnBackendNumericalNote_t`: of f32, tensor cores multiply TF32.
    pub(in crate::cuda::handles) const NOTE_TENSOR_CORES: c_int = 0;
    pub(in crate::cuda::handles) const NOTE_ROUNDED_INPUTS: c_int = 1;
    pub(in crate::cuda::handles) const NOTE_REDUCED_SUMS: c_int = 2;
    /// Not the same bits each time.
    pub(in crate::cuda::handles) const NOTE_RANDOM: c_int = 4;
}
