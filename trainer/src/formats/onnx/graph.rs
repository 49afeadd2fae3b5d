//! A graph under construction: operators in the order of their execution, weights, inputs and
//! outputs.
//!
//! It knows ONNX's operators and no model. A value is identified by its name. A weight is in the
//! graph once, however often it is used.

use std::collections::BTreeMap;

use tch::Tensor;

use super::proto::{
    ATTRIBUTE_FLOAT, ATTRIBUTE_INT, ATTRIBUTE_INTS, Attribute, Dimension, FLOAT, INT64, Length,
    Node, Shape, TensorType, Type, ValueInfo,
};
use crate::TrainerError;

/// The name of a value.
pub(crate) type Value = String;

#[derive(Default)]
pub(crate) struct Graph {
    pub(crate) nodes: Vec<Node>,
    pub(crate) inputs: Vec<ValueInfo>,
    pub(crate) outputs: Vec<ValueInfo>,
    /// f32 and i64, contiguous, by name.
    pub(crate) weights: BTreeMap<String, Tensor>,
}

impl Graph {
    pub(crate) fn input(&mut self, name: &str, elem_type: i32, lengths: &[Length]) -> Value {
        self.inputs.push(info(name, elem_type, lengths));
        name.to_owned()
    }

    pub(crate) fn output(&mut self, value: &str, name: &str, lengths: &[Length]) {
        self.add(Node { output: vec![name.to_owned()], ..node("Identity", &[value], Vec::new()) });
        self.outputs.push(info(name, FLOAT, lengths));
    }

    fn add(&mut self, node: Node) {
        let name = format!("{}_{}", node.op_type, self.nodes.len());
        self.nodes.push(Node { name, ..node });
    }

    /// Adds an operator with one output.
    pub(crate) fn op(&mut self, kind: &str, inputs: &[&str], attributes: Vec<Attribute>) -> Value {
        let [value] = self.ops(kind, inputs, attributes);
        value
    }

    pub(crate) fn ops<const N: usize>(
        &mut self,
        kind: &str,
        inputs: &[&str],
        attributes: Vec<Attribute>,
    ) -> [Value; N] {
        let number = self.nodes.len();
        let outputs =
            std::array::from_fn(|part| format!("{}_{number}_{part}", kind.to_lowercase()));
        self.add(Node { output: outputs.to_vec(), ..node(kind, inputs, attributes) });
        outputs
    }

    /// Adds a weight under its name.
    pub(crate) fn weight(&mut self, name: &str, tensor: &Tensor) -> Result<Value, TrainerError> {
        if !self.weights.contains_key(name) {
            self.weights.insert(name.to_owned(), tensor.f_detach()?.f_contiguous()?);
        }
        Ok(name.to_owned())
    }

    /// Adds an f32 scalar.
    pub(crate) fn number(&mut self, value: f64) -> Value {
        let name = format!("number_{value}");
        self.weights.entry(name.clone()).or_insert_with(|| Tensor::from(value as f32));
        name
    }

    /// Adds an integer scalar.
    pub(crate) fn integer(&mut self, value: i64) -> Value {
        let name = format!("integer_{value}");
        self.weights.entry(name.clone()).or_insert_with(|| Tensor::from(value));
        name
    }

    /// Adds a list of integers, such as a shape or axes.
    pub(crate) fn integers(&mut self, values: &[i64]) -> Value {
        let name = format!(
            "integers_{}",
            values.iter().map(ToString::to_string).collect::<Vec<_>>().join("_")
        );
        self.weights.entry(name.clone()).or_insert_with(|| Tensor::from_slice(values));
        name
    }

    pub(crate) fn add_up(&mut self, a: &str, b: &str) -> Value {
        self.op("Add", &[a, b], Vec::new())
    }

    pub(crate) fn mul(&mut self, a: &str, b: &str) -> Value {
        self.op("Mul", &[a, b], Vec::new())
    }

    pub(crate) fn scale(&mut self, x: &str, factor: f64) -> Value {
        let factor = self.number(factor);
        self.mul(x, &factor)
    }

    pub(crate) fn matmul(&mut self, a: &str, b: &str) -> Value {
        self.op("MatMul", &[a, b], Vec::new())
    }

    /// Adds a reshape. In the shape, 0 keeps a length and -1 takes the rest.
    pub(crate) fn reshape(&mut self, x: &str, shape: &[i64]) -> Value {
        let shape = self.integers(shape);
        self.op("Reshape", &[x, &shape], Vec::new())
    }

    pub(crate) fn transpose(&mut self, x: &str, order: &[i64]) -> Value {
        self.op("Transpose", &[x], vec![ints("perm", order)])
    }

    /// Selects index `at` of axis 1, which is removed.
    pub(crate) fn select(&mut self, x: &str, at: i64) -> Value {
        let at = self.integer(at);
        self.op("Gather", &[x, &at], vec![int("axis", 1)])
    }

    /// Slices an axis from `start` to `end`, which is a value with one integer.
    pub(crate) fn slice(&mut self, x: &str, start: i64, end: &str, axis: i64) -> Value {
        let (start, axis) = (self.integers(&[start]), self.integers(&[axis]));
        self.op("Slice", &[x, &start, end, &axis], Vec::new())
    }

    /// Returns the length of an axis as a list of one number.
    pub(crate) fn length(&mut self, x: &str, axis: i64) -> Value {
        self.op("Shape", &[x], vec![int("start", axis), int("end", axis + 1)])
    }

    pub(crate) fn cast(&mut self, x: &str, to: i32) -> Value {
        self.op("Cast", &[x], vec![int("to", to.into())])
    }
}

fn node(kind: &str, inputs: &[&str], attribute: Vec<Attribute>) -> Node {
    let input = inputs.iter().map(|&name| name.to_owned()).collect();
    Node { input, op_type: kind.to_owned(), attribute, ..Node::default() }
}

fn info(name: &str, elem_type: i32, lengths: &[Length]) -> ValueInfo {
    let dim = lengths.iter().map(|length| Dimension { length: Some(length.clone()) }).collect();
    let tensor = Some(TensorType { elem_type, shape: Some(Shape { dim }) });
    ValueInfo { name: name.to_owned(), of: Some(Type { tensor }) }
}

pub(crate) fn int(name: &str, value: i64) -> Attribute {
    Attribute { name: name.to_owned(), i: Some(value), kind: ATTRIBUTE_INT, ..Attribute::default() }
}

pub(crate) fn ints(name: &str, values: &[i64]) -> Attribute {
    Attribute {
        name: name.to_owned(),
        ints: values.to_vec(),
        kind: ATTRIBUTE_INTS,
        ..Attribute::default()
    }
}

pub(crate) fn float(name: &str, value: f64) -> Attribute {
    Attribute {
        name: name.to_owned(),
        f: Some(value as f32),
        kind: ATTRIBUTE_FLOAT,
        ..Attribute::default()
    }
}

/// Returns the ONNX type of a weight.
pub(crate) fn type_of(tensor: &Tensor) -> i32 {
    if tensor.kind() == tch::Kind::Int64 { INT64 } else { FLOAT }
}
