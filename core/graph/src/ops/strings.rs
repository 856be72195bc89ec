//! Text: joining, splitting, cleaning and matching.

use super::arith::infer_broadcast;
use super::util::{Kind, broadcast_shapes_all, shaped_like, vec_for};
use crate::{Dim, EvalArgs, Fact, InferArgs, Operator, Value, attr_enum, op};
use deepseek_tensor::{DType, Result, Tensor, bail, ensure, err};
use std::collections::HashSet;

op! {
    /// `a` followed by `b`, shapes broadcast. (ONNX StringConcat-20.)
    StringConcat {}
}

impl Operator for StringConcat {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(2, 2)?;
        Kind::Text.expect(args, 0)?;
        Kind::Text.expect(args, 1)?;
        Ok(vec![infer_broadcast(args, DType::String)?])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let (a, b) = (args.tensor(0)?, args.tensor(1)?);
        let shape = broadcast_shapes_all([a.shape(), b.shape()])?;
        let (a, b) = (a.broadcast_to(&shape)?, b.broadcast_to(&shape)?);
        let mut out: Vec<String> = vec_for(&shape)?;
        out.extend(a.as_strings()?.iter().zip(b.as_strings()?).map(|(a, b)| format!("{a}{b}")));
        Ok(vec![Tensor::from_strings(&shape, out)?.into()])
    }
}

attr_enum! {
    /// What [`StringNormalizer`] does to letters.
    CaseChange {
        /// Keeps them.
        None = "NONE",
        /// Makes them small.
        Lower = "LOWER",
        /// Makes them capital.
        Upper = "UPPER",
    }
}

op! {
    /// Removes stop words from a list of words `[n]` or `[1, n]`, then changes the case of the
    /// rest. If nothing is left the result is one empty string. Letters map by Unicode's
    /// default rules. (ONNX StringNormalizer-10.)
    StringNormalizer {
        /// What happens to letters.
        case_change_action: CaseChange = CaseChange::None,
        /// Whether stop words match in one case only.
        is_case_sensitive: bool = false,
        /// Language whose case rules hold; the ones that differ from Unicode's are unsupported.
        locale: Option<String> = None,
        /// Words that are removed.
        stopwords: Vec<String> = Vec::new(),
    }
}

impl StringNormalizer {
    fn check_locale(&self) -> Result<()> {
        let locale = self.locale.as_deref().unwrap_or_default();
        let language = locale.split(['_', '-', '.']).next().unwrap_or_default();
        let special = matches!(language.to_lowercase().as_str(), "tr" | "az" | "lt");
        ensure!(
            !special || self.case_change_action == CaseChange::None,
            Unsupported,
            "case rules of locale '{locale}'; use en_US, whose rules are Unicode's default"
        );
        Ok(())
    }
}

impl Operator for StringNormalizer {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(1, 1)?;
        Kind::Text.expect(args, 0)?;
        self.check_locale()?;
        let shape = match args.shape(0) {
            None => None,
            Some(shape) => {
                ensure!(
                    matches!(shape.len(), 1 | 2),
                    ShapeMismatch,
                    "expected [n] or [1, n], got rank {}",
                    shape.len()
                );
                let mut shape = shape.to_vec();
                let kept = self.stopwords.is_empty()
                    && shape.last().and_then(Dim::as_const).is_some_and(|n| n > 0);
                if !kept && let Some(last) = shape.last_mut() {
                    *last = args.fresh("words");
                }
                Some(shape)
            }
        };
        Ok(vec![Fact::maybe_ranked(DType::String, shape)])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        self.check_locale()?;
        let x = args.tensor(0)?;
        ensure!(
            matches!(x.shape(), [_] | [1, _]),
            ShapeMismatch,
            "expected shape [n] or [1, n], got {:?}",
            x.shape()
        );
        let fold = |s: &str| {
            if self.is_case_sensitive { s.to_owned() } else { s.to_lowercase() }
        };
        let stop: HashSet<String> = self.stopwords.iter().map(|s| fold(s)).collect();
        let mut words: Vec<String> = x
            .as_strings()?
            .into_iter()
            .filter(|s| !stop.contains(&fold(s)))
            .map(|s| match self.case_change_action {
                CaseChange::None => s.to_owned(),
                CaseChange::Lower => s.to_lowercase(),
                CaseChange::Upper => s.to_uppercase(),
            })
            .collect();
        if words.is_empty() {
            words.push(String::new());
        }
        let shape = if x.rank() == 1 { vec![words.len()] } else { vec![1, words.len()] };
        Ok(vec![Tensor::from_strings(&shape, words)?.into()])
    }
}

op! {
    /// Splits each string: outputs the parts, with one axis more than the input, padded with
    /// empty strings, and the number of parts (i64). An empty delimiter splits at runs of
    /// white space and drops those at the ends. (ONNX StringSplit-20.)
    StringSplit {
        /// Text between parts.
        delimiter: String = String::new(),
        /// Most splits per string, from the left; the rest stays one part. All by default.
        maxsplit: Option<i64> = None,
    }
}

impl StringSplit {
    fn parts<'a>(&self, text: &'a str) -> Vec<&'a str> {
        let limit = self.maxsplit.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX - 1);
        if !self.delimiter.is_empty() {
            return text.splitn(limit + 1, self.delimiter.as_str()).collect();
        }
        let mut parts = Vec::new();
        let mut rest = text.trim_start();
        while !rest.is_empty() {
            match rest.find(char::is_whitespace) {
                Some(end) if parts.len() < limit => {
                    parts.push(&rest[..end]);
                    rest = rest[end..].trim_start();
                }
                // The last part: without a limit there is no white space left in it.
                _ => {
                    parts.push(rest.trim_end());
                    break;
                }
            }
        }
        parts
    }
}

impl Operator for StringSplit {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(1, 1)?;
        Kind::Text.expect(args, 0)?;
        let parts = args.shape(0).map(|s| s.iter().cloned().chain([args.fresh("parts")]).collect());
        Ok(vec![Fact::maybe_ranked(DType::String, parts), shaped_like(args, 0, DType::I64)?])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let x = args.tensor(0)?;
        let texts = x.as_strings()?;
        let split: Vec<Vec<&str>> = texts.iter().map(|s| self.parts(s)).collect();
        let most = split.iter().map(Vec::len).max().unwrap_or(0);
        let shape: Vec<usize> = x.shape().iter().copied().chain([most]).collect();
        let mut out: Vec<String> = vec_for(&shape)?;
        for parts in &split {
            let padding = std::iter::repeat_n("", most - parts.len());
            out.extend(parts.iter().copied().chain(padding).map(str::to_owned));
        }
        let counts = split.iter().map(|parts| parts.len() as i64).collect();
        Ok(vec![
            Tensor::from_strings(&shape, out)?.into(),
            Tensor::from_vec(x.shape(), counts)?.into(),
        ])
    }
}

op! {
    /// Whether the whole of each string matches a regular expression in RE2's syntax: `bool`
    /// of the input's shape. Matching takes time linear in the text. (ONNX RegexFullMatch-20.)
    RegexFullMatch {
        /// The expression.
        pattern: String = String::new(),
    }
}

impl RegexFullMatch {
    fn compile(&self) -> Result<regex::Regex> {
        // The pattern alone first, so that it cannot close the group it is put in.
        let compiled = regex::Regex::new(&self.pattern)
            .and_then(|_| regex::Regex::new(&format!(r"\A(?:{})\z", self.pattern)));
        match compiled {
            Ok(regex) => Ok(regex),
            Err(regex::Error::CompiledTooBig(limit)) => {
                bail!(Unsupported, "the pattern compiles to more than {limit} bytes")
            }
            Err(e) => {
                let reason = e.to_string();
                let last = reason.lines().last().unwrap_or_default();
                Err(err!(InvalidGraph, "'{}' is not a regular expression: {last}", self.pattern))
            }
        }
    }
}

impl Operator for RegexFullMatch {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(1, 1)?;
        Kind::Text.expect(args, 0)?;
        self.compile()?;
        Ok(vec![shaped_like(args, 0, DType::Bool)?])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let x = args.tensor(0)?;
        let regex = self.compile()?;
        let out = x.as_strings()?.into_iter().map(|s| regex.is_match(s)).collect();
        Ok(vec![Tensor::from_vec(x.shape(), out)?.into()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NoSubgraphs;

    fn text(shape: &[usize], v: &[&str]) -> Value {
        Tensor::from_strings(shape, v.iter().map(|s| s.to_string()).collect()).unwrap().into()
    }

    #[test]
    fn splitting_follows_the_delimiter_and_the_limit() {
        struct Case(&'static str, Option<i64>, &'static str, &'static [&'static str]);
        for Case(delimiter, maxsplit, given, want) in [
            Case("", None, "  a  b\tc ", &["a", "b", "c"]),
            Case("", Some(1), " a  b  c ", &["a", "b  c"]),
            Case("", None, "   ", &[]),
            Case("-", None, "a--b-", &["a", "", "b", ""]),
            Case("-", None, "", &[""]),
            Case("-", Some(1), "a-b-c", &["a", "b-c"]),
            Case("::", Some(0), "a::b", &["a::b"]),
        ] {
            let op = StringSplit { delimiter: delimiter.into(), maxsplit };
            assert_eq!(op.parts(given), want, "{delimiter:?} {maxsplit:?} {given:?}");
        }
    }

    #[test]
    fn words_are_removed_in_any_case_unless_told_otherwise() {
        let run = |op: StringNormalizer, x: Value| {
            let args = EvalArgs { inputs: &[Some(x)], outputs: 1, env: &NoSubgraphs };
            op.eval(&args).unwrap()[0].tensor().unwrap().clone()
        };
        let op = |is_case_sensitive| StringNormalizer {
            case_change_action: CaseChange::Upper,
            is_case_sensitive,
            locale: None,
            stopwords: vec!["Monday".into()],
        };
        let words = text(&[1, 3], &["monday", "straße", "Monday"]);
        assert_eq!(run(op(false), words.clone()).as_strings().unwrap(), ["STRASSE"]);
        let got = run(op(true), words);
        assert_eq!(
            (got.shape(), got.as_strings().unwrap()),
            (&[1, 2][..], vec!["MONDAY", "STRASSE"])
        );
        let got = run(op(true), text(&[1], &["Monday"]));
        assert_eq!((got.shape(), got.as_strings().unwrap()), (&[1][..], vec![""]));
    }

    #[test]
    fn a_pattern_must_match_the_whole_text() {
        let run = |pattern: &str| {
            let op = RegexFullMatch { pattern: pattern.into() };
            let inputs = [Some(text(&[3], &["ab", "abc", "a\nb"]))];
            let args = EvalArgs { inputs: &inputs, outputs: 1, env: &NoSubgraphs };
            op.eval(&args).map(|v| v[0].tensor().unwrap().to_vec::<bool>().unwrap())
        };
        assert_eq!(run("a|ab").unwrap(), [true, false, false]);
        assert_eq!(run("a.*").unwrap(), [true, true, false]);
        assert!(run("a)|(b").is_err() && run("(").is_err());
    }
}
