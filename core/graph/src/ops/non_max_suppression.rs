//! Choosing among overlapping boxes.

use super::util::{scalar_i64, to_f64};
use crate::{Dim, EvalArgs, Fact, InferArgs, Operator, Value, op};
use deepseek_tensor::{DType, Result, Tensor, bail, ensure};

op! {
    /// Per batch entry and class, boxes by descending score, each kept unless it overlaps
    /// a kept one by more than `iou_threshold`. Inputs: boxes `[batch, n, 4]`, scores
    /// `[batch, classes, n]`, most boxes per class (0, nothing, where absent), IoU threshold
    /// (0), score threshold (none; a box must score more). Output: `i64[selected, 3]`, rows of
    /// batch, class, box. (ONNX NonMaxSuppression-11.)
    NonMaxSuppression {
        /// 1 if boxes are `[x, y, width, height]` around a centre, 0 if `[y1, x1, y2, x2]`
        /// between any two opposite corners.
        center_point_box: bool = false
    }
}

/// Corners `[y1, x1, y2, x2]`, in order.
type Corners = [f64; 4];

impl NonMaxSuppression {
    fn corners(&self, b: &[f64]) -> Corners {
        if self.center_point_box {
            let (x, y, w, h) = (b[0], b[1], b[2] / 2.0, b[3] / 2.0);
            [y - h, x - w, y + h, x + w]
        } else {
            [b[0].min(b[2]), b[1].min(b[3]), b[0].max(b[2]), b[1].max(b[3])]
        }
    }
}

/// Intersection over union; 0 where either box is empty.
fn overlap(a: &Corners, b: &Corners) -> f64 {
    let area = |c: &Corners| (c[2] - c[0]) * (c[3] - c[1]);
    let height = (a[2].min(b[2]) - a[0].max(b[0])).max(0.0);
    let width = (a[3].min(b[3]) - a[1].max(b[1])).max(0.0);
    let both = height * width;
    let union = area(a) + area(b) - both;
    if area(a) > 0.0 && area(b) > 0.0 && union > 0.0 { both / union } else { 0.0 }
}

impl Operator for NonMaxSuppression {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(2, 5)?;
        for i in 0..2 {
            let rank = args.shape(i).map_or(3, <[_]>::len);
            ensure!(rank == 3, ShapeMismatch, "input {i} must have rank 3, got {rank}");
        }
        Ok(vec![Fact::tensor(DType::I64, [args.fresh("selected"), Dim::from(3i64)])])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let (boxes, scores) = (args.tensor(0)?, args.tensor(1)?);
        let (&[batch, count, 4], &[score_batch, classes, score_count]) =
            (boxes.shape(), scores.shape())
        else {
            bail!(
                ShapeMismatch,
                "boxes {:?} and scores {:?} must be [batch, n, 4] and [batch, classes, n]",
                boxes.shape(),
                scores.shape()
            );
        };
        ensure!(
            (batch, count) == (score_batch, score_count),
            ShapeMismatch,
            "{batch} batches of {count} boxes against {score_batch} of {score_count} scores"
        );
        let limit = match args.opt(2)? {
            Some(t) => usize::try_from(scalar_i64(t, "the most boxes per class")?).unwrap_or(0),
            None => 0,
        };
        let threshold = |i: usize| match args.opt(i)?.map(to_f64).transpose()?.as_deref() {
            None => Ok(None),
            Some([x]) => Ok(Some(*x)),
            Some(_) => bail!(InvalidArgument, "input {i}, a threshold, must be one number"),
        };
        let (iou, least) = (threshold(3)?.unwrap_or(0.0), threshold(4)?);
        let corners: Vec<Corners> =
            to_f64(boxes)?.chunks_exact(4).map(|b| self.corners(b)).collect();
        let scores = to_f64(scores)?;
        let mut selected = Vec::new();
        for b in 0..batch {
            let corners = &corners[b * count..][..count];
            for class in 0..classes {
                args.env.check()?;
                let scores = &scores[(b * classes + class) * count..][..count];
                let passes = |i: &usize| least.is_none_or(|t| scores[*i] > t);
                let mut order: Vec<usize> = (0..count).filter(passes).collect();
                order.sort_by(|&i, &j| scores[j].total_cmp(&scores[i]));
                let mut kept: Vec<usize> = Vec::new();
                for i in order {
                    if kept.len() >= limit {
                        break;
                    }
                    if kept.iter().all(|&k| overlap(&corners[k], &corners[i]) <= iou) {
                        kept.push(i);
                        selected.extend([b as i64, class as i64, i as i64]);
                    }
                }
            }
        }
        Ok(vec![Tensor::from_vec(&[selected.len() / 3, 3], selected)?.into()])
    }
}
