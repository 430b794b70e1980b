//! Metadata: typed values under string keys, in file order.

use std::collections::HashMap;

use crate::Error;

/// One metadata value.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)] // each variant is the GGUF type of its name
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// An array of values of one type. Arrays of arrays are kept as [`Array::Nested`].
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
    String(Vec<String>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F64(Vec<f64>),
    Nested(Vec<Array>),
}

/// Metadata in file order, found by key.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata {
    entries: Vec<(String, Value)>,
    index: HashMap<String, usize>,
}

impl Metadata {
    /// No entries.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets `key`, in place if it is there already, else at the end.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<Value>) {
        let (key, value) = (key.into(), value.into());
        match self.index.get(&key) {
            Some(&i) => self.entries[i].1 = value,
            None => {
                self.index.insert(key.clone(), self.entries.len());
                self.entries.push((key, value));
            }
        }
    }

    /// The value under `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.index.get(key).map(|&i| &self.entries[i].1)
    }

    /// All entries in file order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(k, v)| (k.as_str(), v))
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// Typed access: `opt::<T>` is `None` where the key is absent and an error where it holds
/// another type; `need::<T>` is an error where it is absent too.
///
/// Integer types convert among themselves where the value fits, as files in the wild differ.
pub trait FromValue<'a>: Sized {
    /// How the type is called in errors.
    const NAME: &'static str;
    /// `None` where `value` is of another type or out of range.
    fn from_value(value: &'a Value) -> Option<Self>;
}

impl Metadata {
    /// The value under `key`, if there is one, as `T`.
    pub fn opt<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<Option<T>, Error> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        T::from_value(value)
            .map(Some)
            .ok_or_else(|| Error::WrongType {
                key: key.to_string(),
                found: value.type_name(),
                expected: T::NAME,
            })
    }

    /// The value under `key` as `T`.
    pub fn need<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<T, Error> {
        self.opt(key)?.ok_or_else(|| Error::MissingKey {
            key: key.to_string(),
            expected: T::NAME,
        })
    }
}

impl Value {
    /// What the type is called in errors.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::U8(_) => "a u8",
            Value::I8(_) => "an i8",
            Value::U16(_) => "a u16",
            Value::I16(_) => "an i16",
            Value::U32(_) => "a u32",
            Value::I32(_) => "an i32",
            Value::F32(_) => "an f32",
            Value::Bool(_) => "a bool",
            Value::String(_) => "a string",
            Value::U64(_) => "a u64",
            Value::I64(_) => "an i64",
            Value::F64(_) => "an f64",
            Value::Array(_) => "an array",
        }
    }
}
