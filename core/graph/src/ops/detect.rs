//! From the raw output of a one-stage detector to boxes.

use super::image::placement;
use crate::{Dim, EvalArgs, Fact, InferArgs, Operator, Value, op};
use deepseek_tensor::{DType, Result, Tensor, bail, ensure};

op! {
    /// The boxes of a detector without anchors (YOLOv8, YOLO11): those whose best class scores more than
    /// `score_threshold`, by descending score, each kept unless it overlaps a kept one of its class by more than
    /// `iou_threshold`. Inputs: `f32[1, 4 + classes + extra, n]`, for each of `n` places a box (centre, width and height
    /// in pixels of the image that the model saw), scores of the classes and further numbers; the placement of that image
    /// (see [`super::ImageResize`]), by which boxes return to the first image and are clipped to it. Output:
    /// `f32[kept, 6 + extra]`, rows of `x1, y1, x2, y2, score, class` and what is further.
    ///
    /// The order of equal scores is that of the places. Overlaps are computed in `f32` on boxes that are moved apart by
    /// 7680 pixels a class, as the reference implementation does (ultralytics, `non_max_suppression`), so decisions are
    /// the same.
    DetectBoxes {
        score_threshold: f32 = 0.25,
        iou_threshold: f32 = 0.7,
        /// Most boxes that are kept.
        max_boxes: i64 = 300,
        /// Classes that count; empty is all.
        classes: Vec<i64> = vec![],
        /// Whether boxes of different classes suppress each other.
        agnostic: bool = false,
        /// Numbers of a place after its scores.
        extra: i64 = 0,
        /// Numbers of a key point, 2 or 3, of which the first two are coordinates, if the further numbers are key
        /// points; else 0.
        point: i64 = 0
    }
}

/// Boxes that are looked at, the best ones.
const MAX_CANDIDATES: usize = 30_000;

/// How far the boxes of a class are moved from those of the class before, in pixels.
const CLASS_OFFSET: f32 = 7680.0;

/// A place with its best class, the first of equal ones.
#[derive(Clone, Copy)]
struct Candidate {
    place: usize,
    class: usize,
    score: f32,
}

impl DetectBoxes {
    /// Number of classes among `rows` numbers of a place.
    ///
    /// # Errors
    /// `ShapeMismatch` if there are none; `InvalidArgument` for an attribute out of range.
    fn class_count(&self, rows: usize) -> Result<usize> {
        let extra = usize::try_from(self.extra).unwrap_or(usize::MAX);
        let count = rows.checked_sub(extra.saturating_add(4)).filter(|&n| n > 0);
        let Some(count) = count else {
            bail!(
                ShapeMismatch,
                "a place has {rows} numbers, expected 4 of a box, one a class and {} more",
                self.extra
            )
        };
        for (name, x) in [("score", self.score_threshold), ("iou", self.iou_threshold)] {
            ensure!(
                (0.0..=1.0).contains(&x),
                InvalidArgument,
                "the {name} threshold is {x}, expected 0 to 1"
            );
        }
        ensure!(self.max_boxes >= 0, InvalidArgument, "max_boxes is {}", self.max_boxes);
        let point = self.point;
        ensure!(
            point == 0 || (matches!(point, 2 | 3) && self.extra % point == 0),
            InvalidArgument,
            "{} further numbers are no key points of {point}",
            self.extra
        );
        if let Some(c) = self.classes.iter().find(|&&c| c < 0 || c as usize >= count) {
            bail!(InvalidArgument, "class {c} is not among 0 to {}", count - 1);
        }
        Ok(count)
    }

    /// The places whose best class counts and scores enough, in order.
    fn candidates(&self, x: &[f32], n: usize, classes: usize) -> Vec<Candidate> {
        let row = |class: usize| &x[(4 + class) * n..][..n];
        let candidate = |place: usize| Candidate { place, class: 0, score: row(0)[place] };
        let mut best: Vec<Candidate> = (0..n).map(candidate).collect();
        for class in 1..classes {
            for (best, &score) in best.iter_mut().zip(row(class)) {
                if score > best.score {
                    (best.class, best.score) = (class, score);
                }
            }
        }
        let counts =
            |class: usize| self.classes.is_empty() || self.classes.contains(&(class as i64));
        best.retain(|c| c.score > self.score_threshold && counts(c.class));
        best
    }

    /// The rows that are kept of `candidates`. `x` holds numbers for each of `n` places, those of one kind together.
    fn keep(
        &self,
        x: &[f32],
        n: usize,
        mut candidates: Vec<Candidate>,
        place: Option<[f32; 6]>,
    ) -> Vec<f32> {
        candidates.sort_by(|a, b| b.score.total_cmp(&a.score));
        candidates.truncate(MAX_CANDIDATES);
        let corners = |p: usize| {
            let [cx, cy, w, h] = [0, 1, 2, 3].map(|i| x[i * n + p]);
            let (w, h) = (w / 2.0, h / 2.0);
            [cx - w, cy - h, cx + w, cy + h]
        };
        // The threshold as it was written, which f32 may not hold.
        let threshold: f64 = self.iou_threshold.to_string().parse().unwrap_or(f64::NAN);
        let limit = usize::try_from(self.max_boxes).unwrap_or(usize::MAX);
        let rows = x.len() / n.max(1);
        let extra = rows.saturating_sub(usize::try_from(self.extra).unwrap_or(0))..rows;
        let mut kept: Vec<([f32; 4], f32)> = Vec::new();
        let mut out = Vec::new();
        for c in candidates {
            if kept.len() >= limit {
                break;
            }
            let corners = corners(c.place);
            let offset = if self.agnostic { 0.0 } else { c.class as f32 * CLASS_OFFSET };
            let moved = corners.map(|v| v + offset);
            let area = (moved[2] - moved[0]) * (moved[3] - moved[1]);
            let suppressed = kept.iter().any(|(k, k_area)| {
                let w = (k[2].min(moved[2]) - k[0].max(moved[0])).max(0.0);
                let h = (k[3].min(moved[3]) - k[1].max(moved[1])).max(0.0);
                let both = w * h;
                f64::from(both / (k_area + area - both)) > threshold
            });
            if suppressed {
                continue;
            }
            kept.push((moved, area));
            out.extend(back(corners, place));
            out.extend([c.score, c.class as f32]);
            out.extend(extra.clone().enumerate().map(|(i, row)| {
                let v = x[row * n + c.place];
                match (self.point, place) {
                    (point @ (2 | 3), Some(p)) if i as i64 % point < 2 => {
                        axis(v, i % point as usize, p)
                    }
                    _ => v,
                }
            }));
        }
        out
    }
}

/// A coordinate of the image that the model saw, in the first image: `x` where `axis` is 0, else `y`.
fn axis(v: f32, axis: usize, place: [f32; 6]) -> f32 {
    let limit = place[4 + axis];
    ((v - place[2 + axis]) / place[axis]).clamp(0.0, limit.max(0.0))
}

fn back(corners: [f32; 4], place: Option<[f32; 6]>) -> [f32; 4] {
    let Some(p) = place else { return corners };
    std::array::from_fn(|i| axis(corners[i], i % 2, p))
}

impl Operator for DetectBoxes {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(1, 2)?;
        for i in 0..args.len() {
            if args.get(i).is_some() {
                let dtype = args.dtype(i)?;
                ensure!(dtype == DType::F32, DTypeMismatch, "input {i} is {dtype}, expected f32");
            }
        }
        if let Some(s) = args.shape(0) {
            let one = s.first().and_then(Dim::as_const).is_none_or(|n| n == 1);
            ensure!(
                s.len() == 3 && one,
                ShapeMismatch,
                "raw detections are [1, 4 + classes, places], got rank {}",
                s.len()
            );
            if let Some(rows) = s[1].as_const() {
                self.class_count(usize::try_from(rows).unwrap_or(0))?;
            }
        }
        let columns = Dim::from(self.extra.clamp(0, 1 << 20) + 6);
        Ok(vec![Fact::tensor(DType::F32, [args.fresh("kept"), columns])])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let x = args.tensor(0)?;
        let &[1, rows, n] = x.shape() else {
            bail!(
                ShapeMismatch,
                "raw detections are [1, 4 + classes, places], got {:?}",
                x.shape()
            );
        };
        let classes = self.class_count(rows)?;
        let place = args.opt(1)?.map(placement).transpose()?;
        let x = x.to_contiguous()?;
        let x = x.as_slice::<f32>()?;
        let out = self.keep(x, n, self.candidates(x, n, classes), place);
        let columns = self.extra.max(0) as usize + 6;
        Ok(vec![Tensor::from_vec(&[out.len() / columns, columns], out)?.into()])
    }
}
