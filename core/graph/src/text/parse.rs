//! Parsing, of text that may be hostile: nesting is limited, nothing is allocated but what the
//! text spells out, and every error says where it is.

use super::is_plain;
use crate::{Attr, Attrs, Dim, Graph, Type, ValueId, build_op};
use deepseek_tensor::{DType, Error, MAX_RANK, Result, Tensor, bail, ensure, err, num_elements};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Deepest nesting of graphs and of types.
const MAX_NESTING: usize = 32;

/// Longest text, in bytes.
const MAX_TEXT: usize = 1 << 28;

/// The graph that `text` spells; see the module for the grammar. `constants` holds what the
/// text refers to by name.
///
/// # Errors
/// `InvalidGraph` for text that is no graph, `NotFound` for a constant that is not there, and
/// whatever building the graph finds, each with line and column.
pub fn parse(text: &str, constants: &BTreeMap<String, Tensor>) -> Result<Graph> {
    ensure!(
        text.len() <= MAX_TEXT,
        Unsupported,
        "the text has {} bytes, more than {MAX_TEXT}",
        text.len()
    );
    let mut parser = Parser { text, at: 0, nesting: 0, constants };
    let graph = parser.nested(Parser::graph)?;
    parser.skip();
    match parser.rest().is_empty() {
        true => Ok(graph),
        false => Err(parser.error("expected the end of the text")),
    }
}

/// The attributes that `text` spells, e.g. `axis = 1, mode = "linear"`; none for an empty text.
///
/// # Errors
/// `InvalidGraph` for text that is no list of attributes, with line and column.
pub fn parse_attrs(text: &str) -> Result<Attrs> {
    let mut parser = Parser { text, at: 0, nesting: 0, constants: &BTreeMap::new() };
    let mut attrs = Attrs::new();
    while parser.peek().is_some() {
        if attrs.iter().next().is_some() {
            parser.expect(",")?;
        }
        let (name, attr) = parser.attr()?;
        ensure!(attrs.get(&name).is_none(), InvalidGraph, "attribute '{name}' is given twice");
        attrs.insert(name, attr);
    }
    Ok(attrs)
}

struct Parser<'a> {
    text: &'a str,
    /// Next byte, on a character boundary.
    at: usize,
    nesting: usize,
    constants: &'a BTreeMap<String, Tensor>,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// `line:column` of a byte, both from 1; columns count characters.
    fn place(&self, at: usize) -> String {
        let before = self.text.get(..at).unwrap_or(self.text);
        let start = before.rfind('\n').map_or(0, |i| i + 1);
        let line = before.matches('\n').count() + 1;
        format!("{line}:{}", before[start..].chars().count() + 1)
    }

    fn error(&self, what: impl std::fmt::Display) -> Error {
        let mut found: String = self.rest().chars().take_while(|c| *c != '\n').take(20).collect();
        if found.is_empty() {
            found = "the end".to_owned();
        }
        err!(InvalidGraph, "{}: {what}, found '{found}'", self.place(self.at))
    }

    /// Adds the place of `start` to an error that has none.
    fn located<T>(&self, start: usize, result: Result<T>) -> Result<T> {
        result.map_err(|e| e.context(self.place(start)))
    }

    /// Passes white space and comments.
    fn skip(&mut self) {
        loop {
            let rest = self.rest();
            self.at += rest.len() - rest.trim_start().len();
            if !self.rest().starts_with("//") {
                return;
            }
            self.at += self.rest().find('\n').unwrap_or(self.rest().len());
        }
    }

    /// Takes `token` if it comes next.
    fn take(&mut self, token: &str) -> bool {
        self.skip();
        let taken = self.rest().starts_with(token);
        if taken {
            self.at += token.len();
        }
        taken
    }

    fn expect(&mut self, token: &str) -> Result<()> {
        if self.take(token) { Ok(()) } else { Err(self.error(format_args!("expected '{token}'"))) }
    }

    fn peek(&mut self) -> Option<char> {
        self.skip();
        self.rest().chars().next()
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let taken = &rest[..rest.find(|c| !wanted(c)).unwrap_or(rest.len())];
        self.at += taken.len();
        taken
    }

    /// Letters, digits and `_`; empty if none come next.
    fn word(&mut self) -> &'a str {
        self.skip();
        self.take_while(|c| c.is_ascii_alphanumeric() || c == '_')
    }

    fn nested<T>(&mut self, body: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.nesting == MAX_NESTING {
            return Err(self.error(format_args!("nesting is deeper than {MAX_NESTING}")));
        }
        self.nesting += 1;
        let result = body(self);
        self.nesting -= 1;
        result
    }

    /// Items separated by commas up to `close`, which is taken.
    fn list<T>(
        &mut self,
        close: &str,
        mut item: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<Vec<T>> {
        let mut items = Vec::new();
        if self.take(close) {
            return Ok(items);
        }
        loop {
            items.push(item(self)?);
            if self.take(close) {
                return Ok(items);
            }
            self.expect(",")?;
        }
    }

    fn string(&mut self) -> Result<String> {
        self.expect("\"")?;
        let mut out = String::new();
        loop {
            out.push_str(self.take_while(|c| !matches!(c, '"' | '\\' | '\n')));
            let mut next = self.rest().chars();
            match (next.next(), next.next()) {
                (Some('"'), _) => {
                    self.at += 1;
                    return Ok(out);
                }
                (Some('\\'), Some('u')) => {
                    self.at += 2;
                    out.push(self.code_point()?);
                }
                (Some('\\'), Some(c)) => {
                    out.push(match c {
                        'n' => '\n',
                        'r' => '\r',
                        't' => '\t',
                        '"' | '\\' => c,
                        _ => return Err(self.error("unknown escape")),
                    });
                    self.at += 1 + c.len_utf8();
                }
                _ => return Err(self.error("the string does not end")),
            }
        }
    }

    /// `{hex}` of an escape.
    fn code_point(&mut self) -> Result<char> {
        if !self.rest().starts_with('{') {
            return Err(self.error("expected '{'"));
        }
        self.at += 1;
        let digits = self.take_while(|c| c.is_ascii_hexdigit());
        let c = u32::from_str_radix(digits, 16).ok().and_then(char::from_u32);
        match c {
            Some(c) if self.rest().starts_with('}') => {
                self.at += 1;
                Ok(c)
            }
            _ => Err(self.error("expected a code point and '}'")),
        }
    }

    /// A plain or quoted name.
    fn name(&mut self) -> Result<String> {
        if self.rest().starts_with('"') {
            return self.string();
        }
        match self.take_while(is_plain) {
            "" => Err(self.error("expected a name")),
            name => Ok(name.to_owned()),
        }
    }

    fn value(&mut self, graph: &Graph) -> Result<ValueId> {
        self.expect("%")?;
        let start = self.at;
        let name = self.name()?;
        let id = graph.find(&name).ok_or_else(|| {
            err!(InvalidGraph, "there is no value '%{name}' yet; define it before its readers")
        });
        self.located(start, id)
    }

    fn integer<T: std::str::FromStr>(&mut self) -> Result<T> {
        self.skip();
        let start = self.at;
        let sign = if self.rest().starts_with('-') { 1 } else { 0 };
        self.at += sign;
        self.take_while(|c| c.is_ascii_digit());
        self.text[start..self.at].parse().map_err(|_| {
            self.at = start;
            self.error("expected an integer that fits")
        })
    }

    fn graph(&mut self) -> Result<Graph> {
        self.expect("graph")?;
        self.skip();
        let mut graph = Graph::new(self.string()?);
        if self.take("where") {
            loop {
                self.bound(&mut graph)?;
                if !self.take(",") {
                    break;
                }
            }
        }
        self.expect("{")?;
        loop {
            self.skip();
            let start = self.at;
            match self.peek() {
                Some('}') => {
                    self.at += 1;
                    return Ok(graph);
                }
                Some('%' | '_' | '(') => self.node(&mut graph)?,
                _ => match self.word() {
                    "input" => {
                        self.expect("%")?;
                        let name = self.name()?;
                        self.expect(":")?;
                        let ty = self.ty()?;
                        let added = graph.add_input(&name, ty);
                        self.located(start, added)?;
                    }
                    "const" => {
                        self.expect("%")?;
                        let name = self.name()?;
                        self.expect(":")?;
                        let tensor = self.tensor("=")?;
                        let added = graph.add_constant(&name, tensor);
                        self.located(start, added)?;
                    }
                    "output" => {
                        self.skip();
                        let name = self.string()?;
                        self.expect("=")?;
                        let value = self.value(&graph)?;
                        let added = graph.add_output(&name, value);
                        self.located(start, added)?;
                    }
                    _ => {
                        self.at = start;
                        return Err(self.error("expected an input, const, node, output or '}'"));
                    }
                },
            }
        }
    }

    /// `symbol in min..max`.
    fn bound(&mut self, graph: &mut Graph) -> Result<()> {
        self.skip();
        let start = self.at;
        self.symbol_text();
        let symbol = self.dim(start, self.at)?;
        self.expect("in")?;
        let min = self.integer()?;
        self.expect("..")?;
        let max = match self.peek() {
            Some(c) if c == '-' || c.is_ascii_digit() => Some(self.integer()?),
            _ => None,
        };
        let set = match symbol.as_symbol() {
            Some(symbol) => graph.set_bound(symbol.name(), min, max),
            None => Err(err!(InvalidGraph, "expected a symbol, got '{symbol}'")),
        };
        self.located(start, set)
    }

    /// Passes one symbol: plain characters, or anything in backticks.
    fn symbol_text(&mut self) {
        if self.rest().starts_with('`') {
            // A doubled backtick inside looks like the end of one name and the start of another.
            while self.rest().starts_with('`') {
                self.at += 1;
                self.take_while(|c| c != '`');
                if self.rest().starts_with('`') {
                    self.at += 1;
                }
            }
        } else {
            self.take_while(|c| !c.is_whitespace());
        }
    }

    fn dim(&self, start: usize, end: usize) -> Result<Dim> {
        let text = self.text.get(start..end).unwrap_or_default().trim();
        if text == "!" {
            return Ok(Dim::overflow());
        }
        let dim = Dim::parse(text)
            .map_err(|e| err!(InvalidGraph, "'{}' is no extent: {e}", shorten(text)));
        self.located(start, dim)
    }

    fn ty(&mut self) -> Result<Type> {
        self.nested(|p| {
            p.skip();
            let start = p.at;
            match p.word() {
                kind @ ("seq" | "optional") => {
                    p.expect("(")?;
                    let inner = Box::new(p.ty()?);
                    p.expect(")")?;
                    Ok(if kind == "seq" { Type::Sequence(inner) } else { Type::Optional(inner) })
                }
                word => {
                    let dtype = DType::parse(word);
                    let dtype = p.located(start, dtype)?;
                    p.expect("[")?;
                    Ok(Type::Tensor(dtype, p.shape()?))
                }
            }
        })
    }

    /// Extents up to `]`, which is taken; `None` for `...`.
    fn shape(&mut self) -> Result<Option<Vec<Dim>>> {
        if self.take("...") {
            self.expect("]")?;
            return Ok(None);
        }
        let mut shape = Vec::new();
        if self.take("]") {
            return Ok(Some(shape));
        }
        loop {
            self.skip();
            let start = self.at;
            let mut brackets = 0usize;
            loop {
                match self.rest().chars().next() {
                    Some('`') => self.symbol_text(),
                    Some(',' | ']') if brackets == 0 => break,
                    Some('\n') | None => return Err(self.error("expected ']'")),
                    Some(c) => {
                        brackets = match c {
                            '(' => brackets + 1,
                            ')' => brackets.saturating_sub(1),
                            _ => brackets,
                        };
                        self.at += c.len_utf8();
                    }
                }
            }
            shape.push(self.dim(start, self.at)?);
            if shape.len() > MAX_RANK {
                return Err(self.error(format_args!("more than {MAX_RANK} extents")));
            }
            if self.take("]") {
                return Ok(Some(shape));
            }
            self.expect(",")?;
        }
    }

    /// `type`, `between`, and elements or a reference.
    fn tensor(&mut self, between: &str) -> Result<Tensor> {
        self.skip();
        let start = self.at;
        let ty = self.ty()?;
        let Type::Tensor(dtype, Some(dims)) = &ty else {
            let e = err!(InvalidGraph, "a constant needs a tensor type with a rank, got {ty}");
            return self.located(start, Err(e));
        };
        let shape: Option<Vec<usize>> =
            dims.iter().map(|d| usize::try_from(d.as_const()?).ok()).collect();
        let Some(shape) = shape else {
            let e = err!(InvalidGraph, "the extents of a constant are numbers, got {ty}");
            return self.located(start, Err(e));
        };
        self.expect(between)?;
        if self.take("@") {
            let at = self.at;
            let name = self.name()?;
            let found = self.constants.get(&name);
            let found = found.ok_or_else(|| {
                err!(
                    NotFound,
                    "the constant '{name}' is not among the {} given",
                    self.constants.len()
                )
            });
            let tensor = self.located(at, found)?;
            if tensor.dtype() != *dtype || tensor.shape() != shape {
                let e =
                    err!(InvalidGraph, "the constant '{name}' is {tensor:?}, the text says {ty}");
                return self.located(at, Err(e));
            }
            return Ok(tensor.clone());
        }
        self.expect("[")?;
        let texts = self.list("]", Self::element)?;
        let tensor = from_elements(*dtype, &shape, &texts);
        self.located(start, tensor)
    }

    /// One element of a tensor, unread.
    fn element(&mut self) -> Result<Element> {
        if self.peek() == Some('"') {
            return Ok(Element::Text(self.string()?));
        }
        let start = self.at;
        self.take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.' | '(' | ')'));
        match &self.text[start..self.at] {
            "" => Err(self.error("expected an element")),
            text => Ok(Element::Plain(text.to_owned())),
        }
    }

    fn node(&mut self, graph: &mut Graph) -> Result<()> {
        let start = self.at;
        let mut outputs: Vec<Option<(String, Option<Type>)>> = Vec::new();
        if self.take("(") {
            self.expect(")")?;
            self.expect("=")?;
        } else {
            outputs = self.list("=", |p| {
                if p.take("_") {
                    return Ok(None);
                }
                p.expect("%")?;
                let name = p.name()?;
                let ty = if p.take(":") { Some(p.ty()?) } else { None };
                Ok(Some((name, ty)))
            })?;
        }
        let op = self.word();
        if op.is_empty() {
            return Err(self.error("expected an operator"));
        }
        self.expect("(")?;
        let inputs =
            self.list(")", |p| if p.take("_") { Ok(None) } else { p.value(graph).map(Some) })?;
        let mut attrs = Attrs::new();
        if self.take("{") {
            for (name, attr) in self.list("}", Self::attr)? {
                if attrs.get(&name).is_some() {
                    return Err(self.error(format_args!("attribute '{name}' is given twice")));
                }
                attrs.insert(name, attr);
            }
        }
        let name = match self.peek() {
            Some('"') => self.string()?,
            _ => match outputs.iter().flatten().next() {
                Some((name, _)) => name.clone(),
                None => op.to_owned(),
            },
        };
        let names: Vec<Option<&str>> =
            outputs.iter().map(|o| o.as_ref().map(|(n, _)| n.as_str())).collect();
        let added = build_op(op, attrs).and_then(|op| graph.add_node(&name, op, &inputs, &names));
        let ids = self.located(start, added)?;
        for (id, output) in ids.into_iter().zip(outputs) {
            if let (Some(id), Some((name, Some(ty)))) = (id, output) {
                let inferred = &graph.fact(id).ty;
                if *inferred != ty {
                    let fits = compatible(inferred, &ty);
                    if !fits {
                        let e =
                            err!(InvalidGraph, "'%{name}' is declared {ty}, inferred {inferred}");
                        return self.located(start, Err(e));
                    }
                    graph.refine_type(id, ty);
                }
            }
        }
        Ok(())
    }

    /// `name = value`.
    fn attr(&mut self) -> Result<(String, Attr)> {
        let name = self.word();
        if name.is_empty() {
            return Err(self.error("expected an attribute"));
        }
        self.expect("=")?;
        self.skip();
        let start = self.at;
        let attr = match self.peek() {
            Some('"') => Attr::Str(self.string()?),
            Some('[') => {
                self.at += 1;
                let items = self.list("]", Self::element)?;
                let list = attr_list(items);
                self.located(start, list)?
            }
            Some('0'..='9' | '-') => self.number()?,
            _ => match self.word() {
                "true" => Attr::Bool(true),
                "false" => Attr::Bool(false),
                "graph" => {
                    self.at = start;
                    Attr::Graph(Arc::new(self.nested(Self::graph)?))
                }
                "floats" => {
                    self.expect("(")?;
                    self.expect(")")?;
                    Attr::Floats(Vec::new())
                }
                "tensor" => {
                    self.expect("(")?;
                    let tensor = self.tensor(",")?;
                    self.expect(")")?;
                    Attr::Tensor(tensor)
                }
                "nan" | "inf" => {
                    self.at = start;
                    self.number()?
                }
                word => {
                    let dtype = DType::parse(word);
                    Attr::DType(self.located(start, dtype)?)
                }
            },
        };
        Ok((name.to_owned(), attr))
    }

    fn number(&mut self) -> Result<Attr> {
        let start = self.at;
        let Element::Plain(text) = self.element()? else {
            return Err(self.error("expected a number"));
        };
        let attr = if is_integer(&text) {
            parse_int::<i64>(&text).map(Attr::Int)
        } else {
            parse_f32(&text).map(Attr::Float)
        };
        self.located(start, attr)
    }
}

/// An element of a list as written.
enum Element {
    Text(String),
    Plain(String),
}

/// At most 40 characters of `text`.
fn shorten(text: &str) -> String {
    text.chars().take(40).collect()
}

fn is_integer(text: &str) -> bool {
    text.strip_prefix('-').unwrap_or(text).bytes().all(|b| b.is_ascii_digit())
}

fn parse_int<T: std::str::FromStr>(text: &str) -> Result<T> {
    text.parse().map_err(|_| err!(InvalidGraph, "'{}' is no integer that fits", shorten(text)))
}

/// The bits in `nan(0x…)`, or `None` if the text is another number.
fn nan_bits(text: &str) -> Option<u64> {
    let hex = text.strip_prefix("nan(0x")?.strip_suffix(')')?;
    u64::from_str_radix(hex, 16).ok()
}

fn not_a_float(text: &str) -> Error {
    err!(InvalidGraph, "'{}' is no float", shorten(text))
}

fn parse_f32(text: &str) -> Result<f32> {
    match nan_bits(text).map(u32::try_from) {
        Some(Ok(bits)) => Ok(f32::from_bits(bits)),
        Some(Err(_)) => Err(not_a_float(text)),
        None if text == "nan" => Ok(f32::NAN),
        None => text.parse().map_err(|_| not_a_float(text)),
    }
}

fn parse_f64(text: &str) -> Result<f64> {
    match nan_bits(text) {
        Some(bits) => Ok(f64::from_bits(bits)),
        None if text == "nan" => Ok(f64::NAN),
        None => text.parse().map_err(|_| not_a_float(text)),
    }
}

/// A 16-bit float: its bits, or what `round` makes of the number.
fn parse_short(text: &str, nan: u16, round: impl Fn(f64) -> u16) -> Result<u16> {
    match nan_bits(text).map(u16::try_from) {
        Some(Ok(bits)) => Ok(bits),
        Some(Err(_)) => Err(not_a_float(text)),
        None if text == "nan" => Ok(nan),
        None => parse_f64(text).map(round),
    }
}

/// `0x3f`.
fn parse_bits(text: &str) -> Result<u8> {
    let hex = text.strip_prefix("0x").and_then(|h| u8::from_str_radix(h, 16).ok());
    hex.ok_or_else(|| {
        err!(InvalidGraph, "'{}' is not the bits of an element, 0x00 to 0xff", shorten(text))
    })
}

/// A list attribute; an empty one counts as integers.
fn attr_list(items: Vec<Element>) -> Result<Attr> {
    let mut strings = Vec::new();
    let mut plain = Vec::new();
    for item in items {
        match item {
            Element::Text(s) => strings.push(s),
            Element::Plain(s) => plain.push(s),
        }
    }
    match (strings.is_empty(), plain.is_empty()) {
        (false, true) => Ok(Attr::Strs(strings)),
        (false, false) => bail!(InvalidGraph, "a list mixes strings and numbers"),
        _ if plain.iter().all(|s| is_integer(s)) => {
            plain.iter().map(|s| parse_int(s)).collect::<Result<_>>().map(Attr::Ints)
        }
        _ => plain.iter().map(|s| parse_f32(s)).collect::<Result<_>>().map(Attr::Floats),
    }
}

fn from_elements(dtype: DType, shape: &[usize], items: &[Element]) -> Result<Tensor> {
    let need = num_elements(shape)?;
    ensure!(
        need == items.len(),
        InvalidGraph,
        "shape {shape:?} has {need} elements, the text lists {}",
        items.len()
    );
    if dtype == DType::String {
        let text = items.iter().map(|item| match item {
            Element::Text(s) => Ok(s.clone()),
            Element::Plain(s) => Err(err!(InvalidGraph, "'{}' is no string", shorten(s))),
        });
        return Tensor::from_strings(shape, text.collect::<Result<_>>()?);
    }
    let plain = |item: &Element| match item {
        Element::Plain(s) => Ok(s.clone()),
        Element::Text(_) => Err(err!(InvalidGraph, "an element of {dtype} is written as a string")),
    };
    let texts = items.iter().map(plain).collect::<Result<Vec<String>>>()?;
    fn each<T>(texts: &[String], f: impl Fn(&str) -> Result<T>) -> Result<Vec<T>> {
        texts.iter().map(|s| f(s)).collect()
    }
    match dtype {
        DType::Bool => Tensor::from_vec(
            shape,
            each(&texts, |s| {
                s.parse::<bool>()
                    .map_err(|_| err!(InvalidGraph, "'{}' is neither true nor false", shorten(s)))
            })?,
        ),
        DType::F32 => Tensor::from_vec(shape, each(&texts, parse_f32)?),
        DType::F64 => Tensor::from_vec(shape, each(&texts, parse_f64)?),
        DType::F16 => {
            let round = |x| half::f16::from_f64(x).to_bits();
            let bits = each(&texts, |s| parse_short(s, half::f16::NAN.to_bits(), round))?;
            Tensor::from_vec(shape, bits.into_iter().map(half::f16::from_bits).collect())
        }
        DType::BF16 => {
            let round = |x| half::bf16::from_f64(x).to_bits();
            let bits = each(&texts, |s| parse_short(s, half::bf16::NAN.to_bits(), round))?;
            Tensor::from_vec(shape, bits.into_iter().map(half::bf16::from_bits).collect())
        }
        d if d.is_packed() && d.is_float() => {
            Tensor::from_unpacked(d, shape, &each(&texts, parse_bits)?)
        }
        d if d.is_float8() => Tensor::from_bytes(d, shape, &each(&texts, parse_bits)?),
        d if d.is_packed() => {
            let (low, high) = match d.is_signed_int() {
                true => (-(1i64 << (d.bits() - 1)), (1i64 << (d.bits() - 1)) - 1),
                false => (0, (1i64 << d.bits()) - 1),
            };
            let bytes = each(&texts, |s| match parse_int::<i64>(s)? {
                x if (low..=high).contains(&x) => Ok(x as u8),
                x => bail!(InvalidGraph, "{x} is outside {d}, {low} to {high}"),
            })?;
            Tensor::from_unpacked(d, shape, &bytes)
        }
        d => crate::for_dtype!(d, T in int => {
            Tensor::from_vec(shape, each(&texts, parse_int::<T>)?)
        }),
    }
}

/// Whether some value may have both types.
fn compatible(a: &Type, b: &Type) -> bool {
    match (a, b) {
        (Type::Tensor(x, s), Type::Tensor(y, t)) => {
            x == y
                && match (s, t) {
                    (Some(s), Some(t)) => {
                        let equal = |(a, b): (&Dim, &Dim)| match (a.as_const(), b.as_const()) {
                            (Some(a), Some(b)) => a == b,
                            _ => true,
                        };
                        s.len() == t.len() && s.iter().zip(t).all(equal)
                    }
                    _ => true,
                }
        }
        (Type::Sequence(x), Type::Sequence(y)) | (Type::Optional(x), Type::Optional(y)) => {
            compatible(x, y)
        }
        _ => false,
    }
}
