//! What a network's definition asks for, in multiplications that are added up.

use super::{Graph, Node, Op};

impl Graph {
    /// Multiplications, each with an addition, that convolutions, matrices, attention and LSTMs take for one example. Norms,
    /// activations, pools and sums are left out, as is usual; what a plan folds or a kernel saves is not. Of causal attention only
    /// what is not masked counts.
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
            (Op::Attention(attention), Some(input)) => {
                let tokens = input.pixels();
                let pairs = if attention.causal {
                    tokens * (tokens + 1) / 2
                } else {
                    tokens * tokens
                };
                (2 * node.shape.channels * pairs) as u64
            }
            (Op::Lstm(_), Some(input)) => {
                let hidden = node.shape.channels;
                (node.shape.pixels() * 4 * hidden * (input.channels + hidden)) as u64
            }
            _ => 0,
        }
    }
}
