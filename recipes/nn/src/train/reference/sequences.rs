//! The layers of sequences, there and back, in plain loops.

/// What an attention's weights are multiplied by: of a query's row, a head, and a key's place in its sequence.
pub(crate) type Left<'a> = &'a dyn Fn(usize, usize, usize) -> f64;

/// Values, and what a loss changes with each of those that they are made of.
type Gradients = Vec<Vec<f64>>;

/// LayerNorm of rows.
pub(crate) struct LayerNorm<'a> {
    pub(crate) weight: &'a [f64],
    pub(crate) bias: &'a [f64],
    pub(crate) eps: f64,
}

impl LayerNorm<'_> {
    pub(crate) fn forward(&self, x: &[f64]) -> Vec<f64> {
        let rows = x.chunks_exact(self.weight.len());
        rows.flat_map(|x| {
            let (normal, _) = self.normal(x);
            let parts = normal.into_iter().zip(self.weight).zip(self.bias);
            parts.map(|((x, weight), bias)| x * weight + bias)
        })
        .collect()
    }

    /// Of `x`, weight and bias.
    pub(crate) fn backward(&self, x: &[f64], dy: &[f64]) -> Gradients {
        let features = self.weight.len();
        let mut gradients = [0, features, features].map(|len| vec![0.0; len]);
        let [dx, dweight, dbias] = &mut gradients;
        for (x, dy) in x.chunks_exact(features).zip(dy.chunks_exact(features)) {
            let (normal, deviation) = self.normal(x);
            let inner: Vec<f64> = dy.iter().zip(self.weight).map(|(dy, w)| dy * w).collect();
            let mean =
                |f: &dyn Fn(usize) -> f64| (0..features).map(f).sum::<f64>() / features as f64;
            let [plain, turned] = [mean(&|i| inner[i]), mean(&|i| inner[i] * normal[i])];
            let parts = inner.iter().zip(&normal);
            dx.extend(parts.map(|(inner, normal)| (inner - plain - normal * turned) / deviation));
            for ((dweight, dy), normal) in dweight.iter_mut().zip(dy).zip(&normal) {
                *dweight += dy * normal;
            }
            for (dbias, dy) in dbias.iter_mut().zip(dy) {
                *dbias += dy;
            }
        }
        gradients.into()
    }

    /// A row without its mean and in parts of its deviation, and that.
    fn normal(&self, x: &[f64]) -> (Vec<f64>, f64) {
        let count = x.len() as f64;
        let mean = x.iter().sum::<f64>() / count;
        let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
        let deviation = (variance + self.eps).sqrt();
        let normal = x.iter().map(|x| (x - mean) / deviation);
        (normal.collect(), deviation)
    }
}

/// Attention of sequences that lie end to end.
pub(crate) struct Attention<'a> {
    pub(crate) offsets: &'a [usize],
    pub(crate) heads: usize,
    pub(crate) causal: bool,
    pub(crate) left: Left<'a>,
}

impl Attention<'_> {
    /// The outputs `[tokens, width]`, and the logarithm of each sum of powers, `[heads, tokens]`.
    pub(crate) fn forward(&self, qkv: &[f64]) -> [Vec<f64>; 2] {
        let tokens = self.offsets[self.offsets.len() - 1];
        let mut out = vec![0.0; qkv.len() / 3];
        let mut log_sums = vec![0.0; self.heads * tokens];
        self.each(qkv, |query, head, log_sum, key, weight| {
            log_sums[head * tokens + query] = log_sum;
            let dim = self.dim(qkv);
            let value = &qkv[self.place(qkv, 2, key, head)..][..dim];
            let out = &mut out[(query * self.heads + head) * dim..][..dim];
            for (out, value) in out.iter_mut().zip(value) {
                *out += weight[0] * weight[1] * value;
            }
        });
        [out, log_sums]
    }

    /// Of `qkv`.
    pub(crate) fn backward(&self, qkv: &[f64], dout: &[f64]) -> Gradients {
        let dim = self.dim(qkv);
        let scale = 1.0 / (dim as f64).sqrt();
        let width = self.heads * dim;
        let dy = |query: usize, head: usize| &dout[query * width + head * dim..][..dim];
        let value = |key: usize, head: usize| &qkv[self.place(qkv, 2, key, head)..][..dim];
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        // Of each query and head, what the softmax takes from all of its weights' gradients.
        let mut means = vec![0.0; dout.len() / dim];
        self.each(qkv, |query, head, _, key, [weight, left]| {
            means[query * self.heads + head] +=
                weight * left * dot(dy(query, head), value(key, head));
        });
        let mut dqkv = vec![0.0; qkv.len()];
        self.each(qkv, |query, head, _, key, [weight, left]| {
            let gradient = left * dot(dy(query, head), value(key, head));
            let score = weight * (gradient - means[query * self.heads + head]) * scale;
            let [q, k, v] = [(0, query), (1, key), (2, key)]
                .map(|(part, token)| self.place(qkv, part, token, head));
            for i in 0..dim {
                dqkv[q + i] += score * qkv[k + i];
                dqkv[k + i] += score * qkv[q + i];
                dqkv[v + i] += weight * left * dy(query, head)[i];
            }
        });
        vec![dqkv]
    }

    /// Calls `f` with each query, head, the logarithm of its sum, each key that it sees, the weight of that and what it is multiplied
    /// by.
    fn each(&self, qkv: &[f64], mut f: impl FnMut(usize, usize, f64, usize, [f64; 2])) {
        let dim = self.dim(qkv);
        for bounds in self.offsets.windows(2) {
            for query in bounds[0]..bounds[1] {
                for head in 0..self.heads {
                    let end = if self.causal { query + 1 } else { bounds[1] };
                    let score = |key: usize| -> f64 {
                        let [q, k] = [(0, query), (1, key)]
                            .map(|(part, token)| &qkv[self.place(qkv, part, token, head)..][..dim]);
                        q.iter().zip(k).map(|(q, k)| q * k).sum::<f64>() / (dim as f64).sqrt()
                    };
                    let scores: Vec<f64> = (bounds[0]..end).map(score).collect();
                    let log_sum = scores.iter().map(|x| x.exp()).sum::<f64>().ln();
                    for (i, score) in scores.into_iter().enumerate() {
                        let weight = (score - log_sum).exp();
                        let left = (self.left)(query, head, i);
                        f(query, head, log_sum, bounds[0] + i, [weight, left]);
                    }
                }
            }
        }
    }

    fn dim(&self, qkv: &[f64]) -> usize {
        let tokens = self.offsets[self.offsets.len() - 1];
        qkv.len() / (3 * self.heads * tokens).max(1)
    }

    /// Where a head's query (0), key (1) or value (2) of a token begins.
    fn place(&self, qkv: &[f64], part: usize, token: usize, head: usize) -> usize {
        let dim = self.dim(qkv);
        ((3 * token + part) * self.heads + head) * dim
    }
}

/// A layer of an LSTM, its tensors in torch's order and gates.
#[derive(Clone, Copy)]
pub(crate) struct Lstm<'a> {
    pub(crate) steps: usize,
    pub(crate) hidden: usize,
    /// `weight_ih`, `weight_hh`, `bias_ih`, `bias_hh`.
    pub(crate) tensors: [&'a [f64]; 4],
}

/// A step as it was: gates, cells before and after, states before and after.
struct Was {
    gates: [Vec<f64>; 4],
    cells: [Vec<f64>; 2],
    states: [Vec<f64>; 2],
}

impl Lstm<'_> {
    /// `[sequences, steps, hidden]`.
    pub(crate) fn forward(&self, x: &[f64]) -> Vec<f64> {
        let steps = self.run(x);
        steps
            .into_iter()
            .flat_map(|was| was.states[1].clone())
            .collect()
    }

    /// Of `x` and all tensors.
    pub(crate) fn backward(&self, x: &[f64], dy: &[f64]) -> Gradients {
        let hidden = self.hidden;
        let [input, recurrent, ..] = self.tensors;
        let inputs = input.len() / (4 * hidden);
        let mut dx = vec![0.0; x.len()];
        let mut gradients = self.tensors.map(|tensor| vec![0.0; tensor.len()]);
        let (mut dh, mut dc) = (vec![0.0; hidden], vec![0.0; hidden]);
        for (row, was) in self.run(x).iter().enumerate().rev() {
            if (row + 1).is_multiple_of(self.steps) {
                dh.fill(0.0);
                dc.fill(0.0);
            }
            let mut next = vec![0.0; hidden];
            for (unit, (dh, dc)) in dh.iter().zip(&mut dc).enumerate() {
                let [i, f, g, o] = was.gates.each_ref().map(|gate| gate[unit]);
                let tanh = was.cells[1][unit].tanh();
                let dh = dy[row * hidden + unit] + dh;
                let dcell = *dc + dh * o * (1.0 - tanh * tanh);
                *dc = dcell * f;
                let dgates = [
                    dcell * g * i * (1.0 - i),
                    dcell * was.cells[0][unit] * f * (1.0 - f),
                    dcell * i * (1.0 - g * g),
                    dh * tanh * o * (1.0 - o),
                ];
                for (gate, dgate) in dgates.into_iter().enumerate() {
                    let gate = gate * hidden + unit;
                    for i in 0..inputs {
                        gradients[0][gate * inputs + i] += dgate * x[row * inputs + i];
                        dx[row * inputs + i] += dgate * input[gate * inputs + i];
                    }
                    for (i, next) in next.iter_mut().enumerate() {
                        gradients[1][gate * hidden + i] += dgate * was.states[0][i];
                        *next += dgate * recurrent[gate * hidden + i];
                    }
                    gradients[2][gate] += dgate;
                    gradients[3][gate] += dgate;
                }
            }
            dh = next;
        }
        [dx].into_iter().chain(gradients).collect()
    }

    /// All steps of all sequences.
    fn run(&self, x: &[f64]) -> Vec<Was> {
        let hidden = self.hidden;
        let [input, recurrent, input_bias, recurrent_bias] = self.tensors;
        let inputs = input.len() / (4 * hidden);
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let mut steps: Vec<Was> = Vec::new();
        for (row, x) in x.chunks_exact(inputs).enumerate() {
            let before = steps.last().filter(|_| !row.is_multiple_of(self.steps));
            let zeros = || vec![0.0; hidden];
            let h = before.map_or_else(zeros, |was| was.states[1].clone());
            let c = before.map_or_else(zeros, |was| was.cells[1].clone());
            let gates: [Vec<f64>; 4] = std::array::from_fn(|part| {
                let of = |unit| {
                    let gate = part * hidden + unit;
                    let sum: f64 = dot(&input[gate * inputs..][..inputs], x)
                        + dot(&recurrent[gate * hidden..][..hidden], &h)
                        + input_bias[gate]
                        + recurrent_bias[gate];
                    match part {
                        2 => sum.tanh(),
                        _ => 1.0 / (1.0 + (-sum).exp()),
                    }
                };
                (0..hidden).map(of).collect()
            });
            let [i, f, g, o] = &gates;
            let cell: Vec<f64> = (0..hidden).map(|n| f[n] * c[n] + i[n] * g[n]).collect();
            let state = (0..hidden).map(|n| o[n] * cell[n].tanh()).collect();
            steps.push(Was {
                gates,
                cells: [c, cell],
                states: [h, state],
            });
        }
        steps
    }
}
