//! Functions of the file: a call becomes the function's nodes, in place.

use super::attrs::{Bound, resolve};
use super::import::{Frame, Importer, canonical_domain, opsets};
use super::proto::{FunctionProto, NodeProto, attribute_type};
use deepseek_graph::{Graph, ValueId};
use deepseek_tensor::{Result, bail, ensure};
use std::collections::HashMap;
use std::rc::Rc;

/// Deepest nesting of function calls.
const MAX_CALLS: usize = 32;

impl<'m> Importer<'m> {
    /// Imports the nodes of `function` with `inputs` as its inputs, and returns a
    /// value for each output of `node`.
    pub fn call_function(
        &mut self,
        g: &mut Graph,
        frame: &Frame,
        node: &NodeProto,
        label: &str,
        function: &'m FunctionProto,
        inputs: Vec<Option<ValueId>>,
    ) -> Result<Vec<Option<ValueId>>> {
        let name = &function.name;
        let key = (canonical_domain(&function.domain), name.as_str(), function.overload.as_str());
        ensure!(!self.calls.contains(&key), InvalidGraph, "the function '{name}' calls itself");
        ensure!(
            self.calls.len() < MAX_CALLS,
            Unsupported,
            "functions are nested deeper than {MAX_CALLS} calls"
        );
        ensure!(
            inputs.len() <= function.input.len() && node.output.len() <= function.output.len(),
            InvalidGraph,
            "the function '{name}' has {} inputs and {} outputs, the call {} and {}",
            function.input.len(),
            function.output.len(),
            inputs.len(),
            node.output.len()
        );
        let mut own = opsets(&function.opset_import)?;
        for (domain, version) in self.opsets.iter() {
            own.entry(domain.clone()).or_insert(*version);
        }
        let mut body = Frame {
            names: HashMap::new(),
            prefix: format!("{label}/"),
            opsets: Rc::new(own),
            bound: Some(Rc::new(bind(node, frame.bound.as_deref(), function)?)),
        };
        let inputs = inputs.into_iter().chain(std::iter::repeat(None));
        for (formal, value) in function.input.iter().zip(inputs) {
            let twice = body.names.insert(formal.clone(), value).is_some();
            ensure!(!twice, InvalidGraph, "the function '{name}' has two inputs '{formal}'");
        }
        self.calls.push(key);
        let done = self.nodes(g, &mut body, &function.node, &HashMap::new());
        self.calls.pop();
        done?;
        let mut values = Vec::with_capacity(node.output.len());
        for formal in function.output.iter().take(node.output.len()) {
            match body.names.get(formal) {
                Some(value) => values.push(*value),
                None => bail!(
                    InvalidGraph,
                    "the function '{name}' does not define its output '{formal}'"
                ),
            }
        }
        Ok(values)
    }
}

/// The function's attributes: defaults, overridden by those of the call.
fn bind(node: &NodeProto, outer: Option<&Bound>, function: &FunctionProto) -> Result<Bound> {
    let mut bound: Bound =
        function.attribute_proto.iter().map(|a| (a.name.clone(), a.clone())).collect();
    for attr in &node.attribute {
        ensure!(
            bound.contains_key(&attr.name) || function.attribute.contains(&attr.name),
            Unsupported,
            "the function '{}' has no attribute '{}'",
            function.name,
            attr.name
        );
        let Some(value) = resolve(attr, outer)? else { continue };
        ensure!(
            value.g.is_none() && value.r#type != attribute_type::GRAPH,
            Unsupported,
            "the function '{}' takes a subgraph as attribute '{}'; inline it before export",
            function.name,
            attr.name
        );
        bound.insert(attr.name.clone(), value.clone());
    }
    Ok(bound)
}
