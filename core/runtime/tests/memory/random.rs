//! Random graphs in text form over `f32[b, s, 8]` and what becomes of it.

use std::fmt::Write;

/// Knuth's MMIX generator.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        let mut r = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) + 1);
        r.below(2);
        r
    }

    /// Less than `n`.
    pub fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) as usize) % n
    }

    /// From -1 to 1.
    pub fn unit(&mut self) -> f32 {
        self.below(2001) as f32 / 1000.0 - 1.0
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        let i = self.below(of.len());
        &of[i]
    }
}

/// A value: name, extents of its leading axes as text, extent of the last.
#[derive(Clone)]
struct Val {
    name: String,
    lead: Vec<String>,
    last: usize,
}

/// A graph under construction.
struct Draft<'r> {
    random: &'r mut Random,
    text: String,
    values: Vec<Val>,
    count: usize,
}

type Op = fn(&mut Draft, Val) -> Option<()>;

/// What a node may be, given one value.
const OPS: &[Op] = &[
    |d, x| {
        let op = *d.random.pick(&["Relu", "Tanh", "Sigmoid", "Neg", "Abs", "Gelu"]);
        d.unary(op, "", x)
    },
    // Without a kernel: their results are beside the arena.
    |d, x| {
        let op = *d.random.pick(&["Atan", "Softsign"]);
        d.unary(op, "", x)
    },
    |d, x| {
        let other = d.same_extents(&x)?;
        let op = *d.random.pick(&["Add", "Sub", "Max", "Min"]);
        d.node(&format!("{op}(%{}, %{})", x.name, other.name), x)
    },
    |d, x| {
        let gate = d.same_extents(&x)?;
        d.unary("Sigmoid", "", gate)?;
        let gate = d.values.last()?.name.clone();
        d.node(&format!("Mul(%{}, %{gate})", x.name), x)
    },
    |d, x| d.unary("Softmax", " {axis = -1}", x),
    |d, x| {
        let w = d.constant(&[x.last]);
        let b = d.constant(&[x.last]);
        let of =
            format!("LayerNormalization(%{}, %{w}, %{b}) {{axis = -1, epsilon = 1.0}}", x.name);
        d.node(&of, x)
    },
    |d, x| {
        let to = *d.random.pick(&[4, 8, 16]);
        let w = d.constant(&[x.last, to]);
        let of = format!("MatMul(%{}, %{w})", x.name);
        d.node(&of, Val { last: to, ..x })
    },
    |d, x| {
        // [b, s, s'] from x and a transposed twin.
        let other = d.same_extents(&x).filter(|_| x.lead.len() == 2)?;
        let of = format!("Transpose(%{}) {{perm = [0, 2, 1]}}", other.name);
        let t = d.fresh();
        writeln!(d.text, "  %{t} = {of}").ok()?;
        let product = d.fresh();
        writeln!(d.text, "  %{product} = MatMul(%{}, %{t})", x.name).ok()?;
        let soft = d.fresh();
        writeln!(d.text, "  %{soft} = Softmax(%{product}) {{axis = -1}}").ok()?;
        let of = format!("MatMul(%{soft}, %{})", x.name);
        d.node(&of, x)
    },
    |d, x| {
        let other = d.same_extents(&x).filter(|_| x.last <= 16)?;
        let of = format!("Concat(%{}, %{}) {{axis = -1}}", x.name, other.name);
        d.node(&of, Val { last: 2 * x.last, ..x })
    },
    |d, x| {
        if x.last < 8 {
            return None;
        }
        let (a, b) = (d.fresh(), d.fresh());
        let axis = x.lead.len();
        writeln!(d.text, "  %{a}, %{b} = Split(%{}) {{axis = {axis}, num_outputs = 2}}", x.name)
            .ok()?;
        for name in [a, b] {
            d.values.push(Val { name, lead: x.lead.clone(), last: x.last / 2 });
        }
        Some(())
    },
    |d, x| {
        // Rows: a view.
        if x.lead.len() != 2 {
            return None;
        }
        let shape = d.fresh();
        writeln!(d.text, "  const %{shape}: i64[2] = [-1, {}]", x.last).ok()?;
        let of = format!("Reshape(%{}, %{shape})", x.name);
        let rows = format!("{}*{}", x.lead[0], x.lead[1]);
        d.node(&of, Val { lead: vec![rows], ..x })
    },
    |d, x| {
        // Blocks of rows, which widen to twice the columns in between.
        let (rows, axes, last) = (d.random.below(5) + 1, x.lead.len(), x.last);
        let end = *d.random.pick(&["Add(%p, %x)", "Mul(%p, %q)", "Atan(%q)"]);
        let body = format!(
            "graph \"b\" {{ input %x: f32[r, {last}] %h = Concat(%x, %x) {{axis = 1}} \
             %g = Tanh(%h) %p, %q = Split(%g) {{axis = 1, num_outputs = 2}} %y = {end} \
             output \"y\" = %y }}"
        );
        let attrs = format!("rows = {rows}, axes = [{axes}], body = {body}");
        d.node(&format!("RowBlocks(%{}) {{{attrs}}}", x.name), x)
    },
    |d, x| {
        // The mean of each row, put back onto the rows by broadcasting.
        let (axes, mean) = (d.fresh(), d.fresh());
        writeln!(d.text, "  const %{axes}: i64[1] = [{}]", x.lead.len()).ok()?;
        writeln!(d.text, "  %{mean} = ReduceMean(%{}, %{axes})", x.name).ok()?;
        let op = *d.random.pick(&["Sub", "Add"]);
        let pair = match d.random.below(2) {
            0 => format!("{op}(%{}, %{mean})", x.name),
            _ => format!("{op}(%{mean}, %{})", x.name),
        };
        d.node(&pair, x)
    },
];

impl Draft<'_> {
    fn fresh(&mut self) -> String {
        self.count += 1;
        format!("v{}", self.count)
    }

    fn node(&mut self, of: &str, like: Val) -> Option<()> {
        let name = self.fresh();
        writeln!(self.text, "  %{name} = {of}").ok()?;
        self.values.push(Val { name, ..like });
        Some(())
    }

    fn unary(&mut self, op: &str, attrs: &str, x: Val) -> Option<()> {
        self.node(&format!("{op}(%{}){attrs}", x.name), x)
    }

    fn same_extents(&mut self, x: &Val) -> Option<Val> {
        let like = |v: &&Val| v.lead == x.lead && v.last == x.last;
        let all: Vec<Val> = self.values.iter().filter(like).cloned().collect();
        (!all.is_empty()).then(|| self.random.pick(&all).clone())
    }

    fn constant(&mut self, shape: &[usize]) -> String {
        let name = self.fresh();
        let n: usize = shape.iter().product();
        let scale = 1.0 / shape[0] as f32;
        let data: Vec<String> =
            (0..n).map(|_| format!("{:?}", self.random.unit() * scale)).collect();
        let shape: Vec<String> = shape.iter().map(usize::to_string).collect();
        let line = format!("  const %{name}: f32[{}] = [{}]", shape.join(", "), data.join(", "));
        writeln!(self.text, "{line}").expect("a string grows");
        name
    }
}

/// A graph of up to thirty nodes over `b` and `s`, with up to three outputs.
pub fn graph(random: &mut Random) -> String {
    let mut draft = Draft { random, text: String::new(), values: Vec::new(), count: 0 };
    for name in ["x", "y"] {
        writeln!(draft.text, "  input %{name}: f32[b, s, 8]").expect("a string grows");
        let lead = vec!["b".to_owned(), "s".to_owned()];
        draft.values.push(Val { name: name.to_owned(), lead, last: 8 });
    }
    let nodes = 3 + draft.random.below(28);
    for _ in 0..nodes {
        // Later values are read more often, as in a model.
        let newest = draft.values.len() - 1;
        let back = draft.random.below(4).min(newest);
        let x = match draft.random.below(4) {
            0 => draft.random.pick(&draft.values.clone()).clone(),
            _ => draft.values[newest - back].clone(),
        };
        let op = *draft.random.pick(OPS);
        op(&mut draft, x);
    }
    let values = draft.values.clone();
    let mut outputs = vec![values[values.len() - 1].name.clone()];
    for _ in 0..draft.random.below(3) {
        outputs.push(draft.random.pick(&values).name.clone());
    }
    for (i, name) in outputs.iter().enumerate() {
        writeln!(draft.text, "  output \"o{i}\" = %{name}").expect("a string grows");
    }
    format!("graph \"random\" {{\n{}}}\n", draft.text)
}
