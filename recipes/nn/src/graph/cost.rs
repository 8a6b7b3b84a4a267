//! What a network's definition asks for, in multiplications that are added up.

use super::{Graph, Node, Op};

impl Graph {
    /// Multiplications, each with an addition, that convolutions and matrices take for one image. Norms, activations, pools and
    /// sums are left out, as is usual; what a plan folds or a kernel saves is not.
    pub fn multiply_adds(&self) -> u64 {
        self.nodes.iter().map(|node| self.of_node(node)).sum()
    }

    fn of_node(&self, node: &Node) -> u64 {
        let input = node.inputs.first().map(|input| self.shape(*input));
        match (&node.op, input) {
            (Op::Convolution(convolution), Some(input)) => {
                let [down, across] = convolution.window.kernel;
                let field = input.channels / convolution.groups * down * across;
                (node.shape.values() * field) as u64
            }
            (Op::Linear, Some(input)) => (node.shape.values() * input.values()) as u64,
            _ => 0,
        }
    }
}
