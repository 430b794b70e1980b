//! One pass operation by operation: what each gave, to compare two devices with.

use std::cell::RefCell;
use std::ops::Range;

use super::{Activation, Heads, Linear, Norm, Ops, Rope};

/// What one operation of a traced pass gave.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Its name, with the layer's number in the model where it has one: `attend 3`.
    pub operation: String,
    /// Its rows, one after another.
    pub values: Vec<f32>,
}

/// An operation of two traces, and how far it is from being the same.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// The operation, counted from 0.
    pub index: usize,
    /// Its name, or both where the two have different ones.
    pub operation: String,
    /// Root mean square of the differences, relative to that of the first trace's values;
    /// infinite where the two are not one operation or of one shape, or something is no number.
    pub error: f64,
}

/// The relative error of each step of `found` against `expected`, as far as both have the same
/// operations of the same shapes: the first that only one of them has, or has otherwise, ends the
/// list with an infinite error.
pub fn compare(expected: &[Step], found: &[Step]) -> Vec<Difference> {
    let mut differences = Vec::new();
    for index in 0..expected.len().max(found.len()) {
        let (a, b) = (expected.get(index), found.get(index));
        let same = match (a, b) {
            (Some(a), Some(b)) if a.operation == b.operation => Some((&a.values, &b.values)),
            _ => None,
        };
        let same = same.filter(|(a, b)| a.len() == b.len());
        let name = |step: Option<&Step>| step.map_or("nothing".into(), |s| s.operation.clone());
        let (operation, other) = (name(a), name(b));
        differences.push(Difference {
            index,
            error: same.map_or(f64::INFINITY, |(a, b)| relative_error(a, b)),
            operation: match operation == other {
                true => operation,
                false => format!("{operation}, here {other}"),
            },
        });
        if same.is_none() {
            break;
        }
    }
    differences
}

fn relative_error(expected: &[f32], found: &[f32]) -> f64 {
    let pairs = expected.iter().zip(found);
    let error: f64 = pairs
        .map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2))
        .sum();
    let scale: f64 = expected.iter().map(|&a| f64::from(a).powi(2)).sum();
    let relative = (error / scale.max(f64::MIN_POSITIVE)).sqrt();
    match relative.is_nan() {
        true => f64::INFINITY,
        false => relative,
    }
}

/// Operations that name and observe what they give. Hidden states that come from the device before
/// are not observed: they are what its last operation gave.
pub struct Traced<'a, O> {
    ops: &'a O,
    names: &'a RefCell<Vec<String>>,
    first_layer: usize,
}

impl<'a, O: Ops> Traced<'a, O> {
    /// Those of `ops`, on a device whose first layer is the model's `first_layer`; `names` gets a
    /// name for each value that is observed.
    pub fn new(ops: &'a O, names: &'a RefCell<Vec<String>>, first_layer: usize) -> Self {
        Traced {
            ops,
            names,
            first_layer,
        }
    }

    fn note(&self, name: &str, value: O::Value) -> O::Value {
        self.names.borrow_mut().push(name.into());
        self.ops.observe(&value);
        value
    }
}

impl<O: Ops> Ops for Traced<'_, O> {
    type Tensor = O::Tensor;
    type Value = O::Value;

    fn hidden(&self) -> O::Value {
        self.ops.hidden()
    }

    fn embed_tokens(&self, table: &O::Tensor) -> O::Value {
        self.note("embed tokens", self.ops.embed_tokens(table))
    }

    fn embed_positions(&self, table: &O::Tensor) -> O::Value {
        self.note("embed positions", self.ops.embed_positions(table))
    }

    fn linears<const N: usize>(
        &self,
        x: &O::Value,
        layers: [(&Linear<O::Tensor>, Option<Activation>); N],
    ) -> [O::Value; N] {
        let mut i = 0;
        self.ops.linears(x, layers).map(|y| {
            i += 1;
            self.note(&format!("linear {i} of {N}"), y)
        })
    }

    fn layer_norm(&self, x: &O::Value, norm: &Norm<O::Tensor>) -> O::Value {
        self.note("layer norm", self.ops.layer_norm(x, norm))
    }

    fn add(&self, a: O::Value, b: &O::Value) -> O::Value {
        self.note("add", self.ops.add(a, b))
    }

    fn columns(&self, x: &O::Value, columns: Range<usize>) -> O::Value {
        self.note("columns", self.ops.columns(x, columns))
    }

    fn rope(&self, x: O::Value, heads: &Heads, rope: &Rope) -> O::Value {
        self.note("rope", self.ops.rope(x, heads, rope))
    }

    fn attend(
        &self,
        layer: usize,
        heads: &Heads,
        q: &O::Value,
        k: &O::Value,
        v: &O::Value,
    ) -> O::Value {
        let y = self.ops.attend(layer, heads, q, k, v);
        self.note(&format!("attend {}", self.first_layer + layer), y)
    }

    fn select_outputs(&self, x: &O::Value) -> O::Value {
        self.note("select outputs", self.ops.select_outputs(x))
    }

    fn observe(&self, x: &O::Value) {
        self.ops.observe(x);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(operation: &str, values: &[f32]) -> Step {
        Step {
            operation: operation.into(),
            values: values.to_vec(),
        }
    }

    #[test]
    fn a_difference_is_found_where_it_is() {
        let expected = [step("a", &[3.0, 4.0]), step("b", &[1.0]), step("c", &[1.0])];
        let mut found = expected.to_vec();
        found[1].values[0] = 1.5;
        let errors: Vec<f64> = compare(&expected, &found).iter().map(|d| d.error).collect();
        assert_eq!(errors, [0.0, 0.5, 0.0]);
        found[0].values[1] = f32::NAN;
        assert_eq!(compare(&expected, &found)[0].error, f64::INFINITY);
        found[0].operation = "z".into();
        let ends = compare(&expected, &found);
        assert_eq!((ends.len(), ends[0].operation.as_str()), (1, "a, here z"));
    }

    #[test]
    fn an_operation_that_only_one_side_has_is_a_difference() {
        let long = [step("a", &[1.0]), step("b", &[1.0])];
        for (expected, found, name) in [
            (&long[..], &long[..1], "b, here nothing"),
            (&long[..1], &long[..], "nothing, here b"),
        ] {
            let differences = compare(expected, found);
            let last = differences.last().unwrap();
            assert_eq!((last.index, last.operation.as_str()), (1, name));
            assert_eq!(last.error, f64::INFINITY);
        }
        // Of another shape, too.
        let differences = compare(&long, &[step("a", &[1.0, 1.0]), step("b", &[1.0])]);
        assert_eq!(differences.len(), 1);
        assert_eq!(differences[0].error, f64::INFINITY);
    }
}
