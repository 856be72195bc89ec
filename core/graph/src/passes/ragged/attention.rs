//! Attention, the one place where rows of a sequence meet.

use super::class::{Axes, Class, Cover, Even, Places, Step, Stop, refuse};
use super::mixing::HIDDEN;
use super::moves::required;
use super::packer::{Packer, lead, with_attr};
use crate::{Attr, Dim, Node, ValueId, ops};
use deepseek_tensor::DType;
use std::sync::Arc;

impl Packer<'_> {
    pub(super) fn attention(&mut self, node: &Node, classes: &[Option<Class>]) -> Step<Class> {
        let Some(op) = node.op.downcast::<ops::Attention>() else {
            refuse!("it is another operator of this name")
        };
        if classes.iter().skip(4).any(Option::is_some) {
            refuse!("it reads a cache or lengths");
        }
        if node.outputs.iter().skip(1).any(Option::is_some) {
            refuse!("more than its result is read");
        }
        let rank = self.shape(self.input(node, 0)?)?.len();
        let want =
            if rank == 3 { Axes::new(Some(0), Some(1)) } else { Axes::new(Some(0), Some(2)) };
        let mut inputs = Vec::with_capacity(5);
        let mut heads = [0i64; 3];
        for (i, heads) in heads.iter_mut().enumerate() {
            let shape = self.shape(self.input(node, i)?)?.to_vec();
            let l = self.lead(required(classes[i].clone())?, &shape)?;
            if l.axes != want || shape.len() != rank {
                refuse!(
                    "input {i} is {shape:?}, expected batch and sequence at axes 0 and {}",
                    rank - 2
                );
            }
            let (count, value) = if rank == 3 {
                let count = if i == 0 { op.q_num_heads } else { op.kv_num_heads };
                (count, l.value)
            } else {
                let width = (shape[1].as_const(), shape[3].as_const());
                let (Some(h), Some(d)) = width else {
                    refuse!("heads of input {i} are not numbers: {shape:?}")
                };
                let flat = self.list("shape", &[0, h * d])?;
                (Some(h), self.add("flat_heads", ops::Reshape::default(), &[l.value, flat])?)
            };
            let Some(count) = count else { refuse!("the number of heads is not known") };
            *heads = count;
            inputs.push(value);
        }
        if heads[1] != heads[2] {
            refuse!("keys have {} heads, values {}", heads[1], heads[2]);
        }
        inputs.push(self.offsets);
        if let Some(mask) = classes.get(3).cloned().flatten() {
            let id = self.input(node, 3)?;
            let shape = self.shape(id)?.to_vec();
            let dtype = self.old.fact(id).dtype()?;
            if let Some(bias) = self.bias(mask, &shape, dtype, heads[0])? {
                inputs.push(bias);
            }
        }
        let packed = ops::PackedAttention {
            is_causal: op.is_causal,
            kv_num_heads: heads[1],
            left_window_size: op.left_window_size,
            q_num_heads: heads[0],
            right_window_size: op.right_window_size,
            scale: op.scale,
            softcap: op.softcap,
        };
        let name = node.outputs[0].map(|id| self.new.unique_name(&self.old.value(id).name));
        let inputs: Vec<_> = inputs.into_iter().map(Some).collect();
        let out = self.new.add_node(&node.name, Arc::new(packed), &inputs, &[name.as_deref()])?;
        let Some(mut value) = out[0] else { refuse!("nothing reads it") };
        if rank == 4 {
            let shape =
                self.output_shape(&Node { outputs: node.outputs[..1].to_vec(), ..node.clone() })?;
            let Some(width) = shape[3].as_const() else {
                refuse!("the head size of {shape:?} is not a number")
            };
            let target = self.list("shape", &[0, heads[0], width])?;
            value = self.add("by_head", ops::Reshape::default(), &[value, target])?;
        }
        Ok(lead(want, value))
    }

    /// Rotary embedding: each row by the angles of its place.
    pub(super) fn rotary(&mut self, node: &Node, classes: &[Option<Class>]) -> Step<Class> {
        let shape = self.shape(self.input(node, 0)?)?.to_vec();
        let rank = shape.len();
        let l = self.rows(node, required(classes[0].clone())?)?;
        if l.axes.batch != Some(0) || l.axes.seq != Some(rank - 2) || l.axes.merged() {
            refuse!("its rows are {shape:?}");
        }
        // One sequence of all rows: what a row becomes depends on its angles alone.
        let (x, heads) = if rank == 4 {
            let (Some(h), Some(d)) = (shape[1].as_const(), shape[3].as_const()) else {
                refuse!("heads are not numbers: {shape:?}")
            };
            let flat = self.list("shape", &[0, h * d])?;
            (self.add("flat_heads", ops::Reshape::default(), &[l.value, flat])?, Some((h, d)))
        } else {
            (l.value, None)
        };
        let mut inputs = vec![self.unsqueeze(x, &[0])?];
        let by_position = classes.get(3).is_some_and(Option::is_some);
        for (i, class) in classes.iter().enumerate().skip(1) {
            let Some(class) = class.clone() else { continue };
            let value = match class {
                Class::Whole(v) if by_position && i < 3 => v,
                class => {
                    let shape = self.shape(self.input(node, i)?)?.to_vec();
                    let angles = self.lead(class, &shape)?;
                    let features = angles.axes.features(shape.len());
                    // Places may have a batch axis of extent 1.
                    let keep = usize::from(i < 3);
                    let unit: Vec<usize> = features[..features.len().saturating_sub(keep)]
                        .iter()
                        .filter(|&&a| shape[a].as_const() == Some(1))
                        .map(|&a| angles.axes.packed(a))
                        .collect();
                    let rows = self.squeeze(angles.value, &unit)?;
                    if self.fact(rows).rank() != Some(1 + keep) {
                        refuse!("input {i} is {shape:?}, expected a row for each token");
                    }
                    self.unsqueeze(rows, &[0])?
                }
            };
            inputs.push(value);
        }
        let op = match heads {
            Some((h, _)) => with_attr(node, "num_heads", Attr::Int(h))?,
            None => node.op.clone(),
        };
        let y = self.emit_one(node, op, &inputs)?;
        let mut value = self.squeeze(y, &[0])?;
        if let Some((h, d)) = heads {
            let target = self.list("shape", &[0, h, d])?;
            value = self.add("by_head", ops::Reshape::default(), &[value, target])?;
        }
        Ok(lead(l.axes, value))
    }

    /// What is left of an attention mask of the padded shape `shape` when sequences are alone:
    /// nothing, or a mask by position `[heads, longest, longest]`.
    fn bias(
        &mut self,
        mask: Class,
        shape: &[Dim],
        dtype: DType,
        q_heads: i64,
    ) -> Step<Option<ValueId>> {
        let rank = shape.len();
        let even = match mask {
            Class::Whole(v) => Even::Whole(v),
            Class::Places(p) => Even::Places(p),
            Class::Cover(c) => self.hiding(c, rank, dtype)?,
            Class::Lead(_) => refuse!("its mask depends on the data of the rows"),
            Class::Extents | Class::Opaque(_) => refuse!("its mask is made of extents"),
        };
        let p = match even {
            Even::Whole(v) => {
                let span = self.span(v);
                let nothing = if dtype == DType::Bool { 1.0 } else { 0.0 };
                if span.as_point() != Some(nothing) {
                    refuse!("its mask adds {} to {} for every pair", span.lo, span.hi);
                }
                return Ok(None);
            }
            Even::Places(p) => p,
        };
        self.square(p, rank, q_heads).map(Some)
    }

    /// The mask where the mask inputs are 1, which must hide keys where they are 0.
    fn hiding(&mut self, c: Cover, rank: usize, dtype: DType) -> Step<Even> {
        let by_key =
            c.axes.seq == Some(rank - 1) && c.axes.batch.is_none_or(|b| b == 0 && rank == 4);
        let hides = match dtype {
            DType::Bool => c.zero.as_point() == Some(0.0),
            _ => c.zero.hi <= HIDDEN,
        };
        if let Some(&input) = c.masks.first()
            && !(by_key && hides)
        {
            let why = if by_key {
                format!("does not hide keys where it is 0: {} is added", c.zero.hi)
            } else {
                "reads it otherwise than by key".to_owned()
            };
            return Err(Stop::Data { input, why });
        }
        if !by_key {
            refuse!("its mask is not one by key");
        }
        Ok(c.one)
    }

    /// A mask by position as `[heads, longest, longest]`.
    fn square(&mut self, p: Places, rank: usize, q_heads: i64) -> Step<ValueId> {
        if rank < 2 || p.axes.iter().any(|&a| a + 2 < rank) {
            refuse!("its mask has places at the axes {:?}", p.axes);
        }
        let mut value = p.value;
        let Some(have) = self.fact(value).shape().map(<[Dim]>::to_vec) else {
            refuse!("the rank of its mask is not known")
        };
        // Ahead of the two axes of places: at most heads, and a batch of 1.
        let leading = &have[..rank - 2];
        let heads = match leading {
            [] => 1,
            [h] => h.as_const().unwrap_or(0),
            [b, h] if b.as_const() == Some(1) => h.as_const().unwrap_or(0),
            _ => refuse!("its mask is {have:?}"),
        };
        if heads != 1 && heads != q_heads {
            refuse!("its mask has {heads} heads of {q_heads}");
        }
        match rank {
            2 => value = self.unsqueeze(value, &[0])?,
            4 => value = self.squeeze(value, &[0])?,
            _ => {}
        }
        let seq = self.seq.clone();
        let want = self.prefix_shape(&[Dim::from(heads), seq.clone(), seq]);
        if self.fact(value).shape() != Some(&want[..]) {
            value = self.fill_places(value, &want)?;
        }
        Ok(value)
    }
}
