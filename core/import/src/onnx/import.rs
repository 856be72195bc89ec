//! From messages to a graph: the model, its main graph and node after node.

use super::attrs::{self, Bound};
use super::call::Call;
use super::order::{NAME_STEP, Steps, label, topological};
use super::proto::{
    FunctionProto, GraphProto, Kind, ModelProto, NodeProto, OperatorSetIdProto, TypeProto,
    ValueInfoProto, decode,
};
use super::tensor::{ExternalFiles, sparse, tensor};
use super::types::{compatible, declared};
use super::{NEWEST_IR_VERSION, registry};
use bytes::Bytes;
use deepseek_graph::{Attrs, Dim, Graph, Type, ValueId, build_op};
use deepseek_tensor::{Error, Result, bail, ensure, err};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::rc::Rc;

/// Imports a whole file.
pub(super) fn model(bytes: Bytes, base: Option<&Path>) -> Result<Graph> {
    let model: ModelProto = decode(bytes, Kind::Model)?;
    ensure!(
        model.ir_version <= NEWEST_IR_VERSION,
        Unsupported,
        "format version {} is newer than {NEWEST_IR_VERSION}; export the model with an older one",
        model.ir_version
    );
    let Some(graph) = &model.graph else { bail!(InvalidFile, "the file holds no graph") };
    let mut importer = Importer::new(&model, base)?;
    importer.main_graph(graph)
}

/// Domain → version of the operator sets in force.
pub(super) type Opsets = HashMap<String, i64>;

/// What is shared by all graphs of one import.
pub(super) struct Importer<'m> {
    /// Functions of the file, by domain, name and overload.
    pub functions: HashMap<(&'m str, &'m str, &'m str), &'m FunctionProto>,
    /// Operator sets of the model.
    pub opsets: Rc<Opsets>,
    /// External data.
    pub files: ExternalFiles,
    /// Work done so far.
    pub steps: Steps,
    /// Functions being inlined, outermost first.
    pub calls: Vec<(&'m str, &'m str, &'m str)>,
}

/// Names in force while nodes are imported: those of one graph or one function call.
pub(super) struct Frame {
    /// ONNX name → value; `None` for an optional input that the caller left out.
    pub names: HashMap<String, Option<ValueId>>,
    /// Put before the names of nodes and values.
    pub prefix: String,
    /// Operator sets.
    pub opsets: Rc<Opsets>,
    /// Attributes of the function, inside one.
    pub bound: Option<Rc<Bound>>,
}

/// The domain as it is looked up: `ai.onnx` is the empty one's other name.
pub(super) fn canonical_domain(domain: &str) -> &str {
    if domain == "ai.onnx" { "" } else { domain }
}

/// Collects operator set imports.
///
/// # Errors
/// `InvalidFile` if one domain is imported at two versions.
pub(super) fn opsets(imports: &[OperatorSetIdProto]) -> Result<Opsets> {
    let mut map = Opsets::new();
    for import in imports {
        let domain = canonical_domain(&import.domain);
        if let Some(old) = map.insert(domain.to_owned(), import.version)
            && old != import.version
        {
            bail!(
                InvalidFile,
                "domain '{domain}' is imported at versions {old} and {}",
                import.version
            );
        }
    }
    Ok(map)
}

impl<'m> Importer<'m> {
    fn new(model: &'m ModelProto, base: Option<&Path>) -> Result<Self> {
        let mut functions = HashMap::new();
        for f in &model.functions {
            let key = (canonical_domain(&f.domain), f.name.as_str(), f.overload.as_str());
            ensure!(
                functions.insert(key, f).is_none(),
                InvalidFile,
                "function '{}' of domain '{}' is defined twice",
                f.name,
                f.domain
            );
        }
        Ok(Importer {
            functions,
            opsets: Rc::new(opsets(&model.opset_import)?),
            files: ExternalFiles::new(base),
            steps: Steps::default(),
            calls: Vec::new(),
        })
    }

    fn main_graph(&mut self, proto: &'m GraphProto) -> Result<Graph> {
        let mut g = Graph::new(&proto.name);
        let mut frame = Frame {
            names: HashMap::new(),
            prefix: String::new(),
            opsets: self.opsets.clone(),
            bound: None,
        };
        let constants = constant_names(proto);
        let inputs: Vec<_> =
            proto.input.iter().filter(|v| !constants.contains(v.name.as_str())).collect();
        let mut types = Vec::with_capacity(inputs.len());
        for input in &inputs {
            let ty = declared(&input.name, input.r#type.as_ref())?.ok_or_else(|| {
                err!(Unsupported, "the input '{}' has no element type; declare it", input.name)
            })?;
            types.push(ty);
        }
        parse_formulas(&mut types);
        for (input, ty) in inputs.iter().zip(types) {
            let id = g.add_input(&input.name, ty)?;
            frame.names.insert(input.name.clone(), Some(id));
        }
        self.constants(&mut g, &mut frame, proto)?;
        self.nodes(&mut g, &mut frame, &proto.node, &value_info(proto))?;
        self.outputs(&mut g, &frame, &proto.output, &[])?;
        Ok(g)
    }

    /// Adds the initializers of a graph.
    pub fn constants(&self, g: &mut Graph, frame: &mut Frame, proto: &GraphProto) -> Result<()> {
        let mut add = |name: &str, t| {
            ensure!(!name.is_empty(), InvalidGraph, "an initializer has no name");
            ensure!(
                !frame.names.contains_key(name),
                InvalidGraph,
                "the value '{name}' is defined twice"
            );
            let id = g.add_constant(&g.unique_name(name), t)?;
            frame.names.insert(name.to_owned(), Some(id));
            Ok(())
        };
        for t in &proto.initializer {
            add(&t.name, tensor(t, &self.files)?)?;
        }
        for s in &proto.sparse_initializer {
            let name = s.values.as_ref().map_or("", |v| &v.name);
            add(name, sparse(s, &self.files)?)?;
        }
        Ok(())
    }

    /// Imports nodes, in topological order.
    pub fn nodes(
        &mut self,
        g: &mut Graph,
        frame: &mut Frame,
        nodes: &[NodeProto],
        info: &HashMap<&str, &TypeProto>,
    ) -> Result<()> {
        for i in topological(nodes, |n| frame.names.contains_key(n), &self.steps)? {
            let node = &nodes[i];
            let names = label(node).len() + node.output.iter().map(String::len).sum::<usize>();
            let prefixes = frame.prefix.len() * (1 + node.output.len());
            self.steps.take(1 + (names + prefixes) / NAME_STEP)?;
            let label = format!("{}{}", frame.prefix, label(node));
            let values = self.node(g, frame, node, &label).map_err(|e| at(e, &label))?;
            for (name, value) in node.output.iter().zip(values) {
                if name.is_empty() {
                    continue;
                }
                if let (Some(value), Some(ty)) = (value, info.get(name.as_str())) {
                    refine(g, value, name, ty);
                }
                frame.names.insert(name.clone(), value);
            }
        }
        Ok(())
    }

    /// Imports one node and returns a value for each of its outputs.
    fn node(
        &mut self,
        g: &mut Graph,
        frame: &Frame,
        node: &NodeProto,
        label: &str,
    ) -> Result<Vec<Option<ValueId>>> {
        let bound = frame.bound.clone();
        let inputs = node
            .input
            .iter()
            .map(|name| match name.as_str() {
                "" => Ok(None),
                name => frame
                    .names
                    .get(name)
                    .copied()
                    .ok_or_else(|| err!(InvalidGraph, "reads '{name}', which nothing defines")),
            })
            .collect::<Result<Vec<_>>>()?;
        let domain = canonical_domain(&node.domain);
        if let Some(function) =
            self.functions.get(&(domain, node.op_type.as_str(), node.overload.as_str()))
        {
            let function = *function;
            return self.call_function(g, frame, node, label, function, inputs);
        }
        let found = registry::find(domain, &node.op_type, &frame.opsets)?;
        let converted = attrs::convert(node, bound.as_deref(), &self.files)?;
        let mut call =
            Call::new(self, g, frame, node, label.to_owned(), found.version, inputs, converted);
        let values = (found.import)(&mut call)?;
        call.finish_attrs()?;
        ensure!(
            values.len() == node.output.len(),
            Internal,
            "the importer of {} gave {} outputs for {}",
            node.op_type,
            values.len(),
            node.output.len()
        );
        Ok(values)
    }

    /// Names the graph's outputs and checks them against their declarations. Those marked
    /// in `optional` are wrapped in an optional if they are none.
    pub fn outputs(
        &self,
        g: &mut Graph,
        frame: &Frame,
        outputs: &[ValueInfoProto],
        optional: &[bool],
    ) -> Result<()> {
        for (i, output) in outputs.iter().enumerate() {
            let name = &output.name;
            let Some(mut value) = frame.names.get(name).copied().flatten() else {
                bail!(InvalidGraph, "the output '{name}' is not defined by any node");
            };
            if let Some(want) = declared(name, output.r#type.as_ref())? {
                check_output(name, &g.fact(value).ty, &want)?;
                if let Some(ty) = &output.r#type {
                    refine(g, value, name, ty);
                }
            }
            if optional.get(i) == Some(&true) && !matches!(g.fact(value).ty, Type::Optional(_)) {
                let op = build_op("Optional", Attrs::new())?;
                let some = g.unique_name(&format!("{name}/Optional"));
                let made = g.add_node(&some, op, &[Some(value)], &[Some(&some)])?;
                value = made.into_iter().flatten().next().unwrap_or(value);
            }
            g.add_output(name, value)?;
        }
        Ok(())
    }
}

/// Adds the node to an error that does not name it yet.
pub(super) fn at(e: Error, label: &str) -> Error {
    if e.node().is_some_and(|n| n.starts_with(label)) { e } else { e.at_node(label) }
}

/// Names of the graph's initializers.
pub(super) fn constant_names(proto: &GraphProto) -> HashSet<&str> {
    let dense = proto.initializer.iter().map(|t| t.name.as_str());
    let sparse = proto.sparse_initializer.iter().filter_map(|s| Some(&s.values.as_ref()?.name[..]));
    dense.chain(sparse).collect()
}

/// Declared types of inner values, by name.
pub(super) fn value_info(proto: &GraphProto) -> HashMap<&str, &TypeProto> {
    proto.value_info.iter().filter_map(|v| Some((&v.name[..], v.r#type.as_ref()?))).collect()
}

/// Takes over a declared shape where inference found none. Declarations that
/// contradict inference are ignored: exporters let them go stale.
fn refine(g: &mut Graph, value: ValueId, name: &str, ty: &TypeProto) {
    let inferred = &g.fact(value).ty;
    if matches!(inferred, Type::Tensor(_, None))
        && let Ok(Some(ty @ Type::Tensor(_, Some(_)))) = declared(name, Some(ty))
        && compatible(inferred, &ty)
    {
        g.refine_type(value, ty);
    }
}

/// Element type and kind of a declared output must be right; its shape may be stale.
fn check_output(name: &str, inferred: &Type, want: &Type) -> Result<()> {
    match (inferred, want) {
        (Type::Tensor(a, _), Type::Tensor(b, _)) if a == b => Ok(()),
        (Type::Sequence(a), Type::Sequence(b)) | (Type::Optional(a), Type::Optional(b)) => {
            check_output(name, a, b)
        }
        _ => bail!(
            InvalidGraph,
            "the output '{name}' is declared {want}, but its node gives {inferred}"
        ),
    }
}

/// Extents such as `past + seq` become formulas where every symbol in them is an
/// extent of its own elsewhere; other names are symbols as they are.
fn parse_formulas(types: &mut [Type]) {
    fn each(ty: &mut Type, f: &mut impl FnMut(&mut Dim)) {
        match ty {
            Type::Tensor(_, shape) => shape.iter_mut().flatten().for_each(f),
            Type::Sequence(t) | Type::Optional(t) => each(t, f),
        }
    }
    let mut lone = BTreeSet::new();
    for ty in types.iter_mut() {
        each(ty, &mut |d| lone.extend(d.as_symbol().map(|s| s.name().to_owned())));
    }
    for ty in types.iter_mut() {
        each(ty, &mut |d| {
            if let Some(text) = d.as_symbol().map(|s| s.name().to_owned())
                && text.contains(['+', '-', '*', '/', '('])
                && let Ok(formula) = Dim::parse(&text)
                && formula.as_symbol().is_none()
                && formula.symbols().iter().all(|s| lone.contains(s.name()))
            {
                *d = formula;
            }
        });
    }
}
