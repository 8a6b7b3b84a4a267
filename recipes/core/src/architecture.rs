//! What a model is made of, in figures, and counting its parameters while they are read.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::{Init, VarBuilder, var_builder::SimpleBackend};
use serde::{Deserialize, Serialize};

/// A model in figures; what it has not, or does not tell, is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Architecture {
    /// Numbers that training finds.
    pub parameters: Option<u64>,
    /// Layers of its encoder.
    pub layers: Option<usize>,
    /// Features of a token between layers.
    pub hidden_size: Option<usize>,
    /// Attention heads of a layer.
    pub attention_heads: Option<usize>,
}

/// The parameters that have been read through a [`VarBuilder`] of [`counted`].
#[derive(Clone, Debug, Default)]
pub struct ParameterCount(Arc<Mutex<HashMap<String, usize>>>);

impl ParameterCount {
    /// How many there are so far, each tensor once however often it was read.
    pub fn get(&self) -> u64 {
        let tensors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tensors.values().map(|&elements| elements as u64).sum()
    }

    fn add(&self, name: &str, tensor: &Tensor) {
        // Statistics of a batch norm are kept beside parameters, but are none.
        let statistics = ["running_mean", "running_var", "num_batches_tracked"];
        if !statistics.iter().any(|end| name.ends_with(end)) {
            let mut tensors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            tensors.insert(name.to_owned(), tensor.elem_count());
        }
    }
}

/// The same weights, and a count of those that a network takes of them: a file may hold more.
pub fn counted(weights: VarBuilder<'static>) -> (VarBuilder<'static>, ParameterCount) {
    let count = ParameterCount::default();
    let (dtype, device) = (weights.dtype(), weights.device().clone());
    let counting = Counting {
        weights,
        count: count.clone(),
    };
    let weights = VarBuilder::from_backend(Box::new(counting), dtype, device);
    (weights, count)
}

struct Counting {
    weights: VarBuilder<'static>,
    count: ParameterCount,
}

impl SimpleBackend for Counting {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        init: Init,
        dtype: DType,
        _: &Device,
    ) -> candle_core::Result<Tensor> {
        let tensor = self
            .weights
            .get_with_hints_dtype(shape, name, init, dtype)?;
        self.count.add(name, &tensor);
        Ok(tensor)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, _: &Device) -> candle_core::Result<Tensor> {
        let tensor = self.weights.get_unchecked_dtype(name, dtype)?;
        self.count.add(name, &tensor);
        Ok(tensor)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.weights.contains_tensor(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_parameter_counts_once_and_statistics_do_not() {
        let (weights, count) = counted(crate::synthetic::var_builder(1));
        assert_eq!(count.get(), 0);
        let norm = weights.pp("norm");
        for _ in 0..2 {
            let plain = crate::synthetic::var_builder(1);
            let read = norm.get((3, 4), "weight").unwrap();
            let same = plain.get((3, 4), "norm.weight").unwrap();
            assert_eq!(
                read.to_vec2::<f32>().unwrap(),
                same.to_vec2::<f32>().unwrap()
            );
        }
        norm.get(3, "running_mean").unwrap();
        norm.get(3, "bias").unwrap();
        assert_eq!(count.get(), 15);
    }
}
