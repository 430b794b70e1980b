//! Metadata: typed values under string keys, in file order.

use std::collections::HashMap;

use crate::Error;

/// Calls a macro with every GGUF type that an array may hold: variant, Rust type, the
/// specification's type number, what one and what many are called in errors.
macro_rules! each_element {
    ($with:ident) => {
        $with! {
            U8, u8, 0, "a u8", "an array of u8";
            I8, i8, 1, "an i8", "an array of i8";
            U16, u16, 2, "a u16", "an array of u16";
            I16, i16, 3, "an i16", "an array of i16";
            U32, u32, 4, "a u32", "an array of u32";
            I32, i32, 5, "an i32", "an array of i32";
            F32, f32, 6, "an f32", "an array of f32";
            Bool, bool, 7, "a bool", "an array of bools";
            String, String, 8, "a string", "an array of strings";
            U64, u64, 10, "a u64", "an array of u64";
            I64, i64, 11, "an i64", "an array of i64";
            F64, f64, 12, "an f64", "an array of f64";
        }
    };
}
pub(crate) use each_element;

/// The specification's type number of an array.
pub(crate) const ARRAY_ID: u32 = 9;

macro_rules! declare_values {
    ($($variant:ident, $rust:ty, $id:literal, $one:literal, $many:literal;)*) => {
        /// One metadata value.
        #[derive(Debug, Clone, PartialEq)]
        #[allow(missing_docs)] // each variant is the GGUF type of its name
        pub enum Value {
            $($variant($rust),)*
            Array(Array),
        }

        /// An array of values of one type. Arrays of arrays are kept as [`Array::Nested`].
        #[derive(Debug, Clone, PartialEq)]
        #[allow(missing_docs)]
        pub enum Array {
            $($variant(Vec<$rust>),)*
            Nested(Vec<Array>),
        }

        impl Value {
            /// What the type is called in errors.
            pub fn type_name(&self) -> &'static str {
                match self {
                    $(Value::$variant(_) => $one,)*
                    Value::Array(array) => array.type_name(),
                }
            }
        }

        impl Array {
            /// How many elements there are.
            pub fn len(&self) -> usize {
                match self {
                    $(Array::$variant(v) => v.len(),)*
                    Array::Nested(v) => v.len(),
                }
            }

            /// What the type is called in errors.
            pub fn type_name(&self) -> &'static str {
                match self {
                    $(Array::$variant(_) => $many,)*
                    Array::Nested(_) => "an array of arrays",
                }
            }
        }

        $(
            impl From<$rust> for Value {
                fn from(value: $rust) -> Value {
                    Value::$variant(value)
                }
            }

            impl From<Vec<$rust>> for Value {
                fn from(values: Vec<$rust>) -> Value {
                    Value::Array(Array::$variant(values))
                }
            }

            impl From<&[$rust]> for Value {
                fn from(values: &[$rust]) -> Value {
                    Value::from(values.to_vec())
                }
            }

            impl<'a> FromValue<'a> for &'a [$rust] {
                const NAME: &'static str = $many;
                fn from_value(value: &'a Value) -> Option<Self> {
                    match value {
                        Value::Array(Array::$variant(values)) => Some(values),
                        _ => None,
                    }
                }
            }
        )*
    };
}
each_element!(declare_values);

impl Array {
    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Value {
        Value::String(value.to_owned())
    }
}

impl From<Vec<&str>> for Value {
    fn from(values: Vec<&str>) -> Value {
        Value::from(values.into_iter().map(str::to_owned).collect::<Vec<_>>())
    }
}

impl From<Array> for Value {
    fn from(array: Array) -> Value {
        Value::Array(array)
    }
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

impl<K: Into<String>, V: Into<Value>> Extend<(K, V)> for Metadata {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, entries: I) {
        for (key, value) in entries {
            self.set(key, value);
        }
    }
}

impl<K: Into<String>, V: Into<Value>> FromIterator<(K, V)> for Metadata {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut metadata = Metadata::new();
        metadata.extend(entries);
        metadata
    }
}

/// Typed access: `opt::<T>` is `None` where the key is absent and an error where it holds
/// another type; `need::<T>` is an error where it is absent too.
///
/// Integer types convert among themselves where the value fits, as files in the wild differ.
/// An array is only ever given out as what it holds.
pub trait FromValue<'a>: Sized {
    /// How the type is called in errors.
    const NAME: &'static str;
    /// `None` where `value` is of another type or out of range.
    fn from_value(value: &'a Value) -> Option<Self>;
}

impl Metadata {
    /// The value under `key`, if there is one, as `T`.
    ///
    /// # Errors
    /// [`Error::WrongType`] where the key holds another type or a number out of range.
    pub fn opt<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<Option<T>, Error> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        T::from_value(value)
            .map(Some)
            .ok_or_else(|| Error::WrongType {
                key: key.to_string(),
                found: value.describe(),
                expected: T::NAME,
            })
    }

    /// The value under `key` as `T`.
    ///
    /// # Errors
    /// [`Error::MissingKey`] where the key is absent, else as [`Metadata::opt`].
    pub fn need<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<T, Error> {
        self.opt(key)?.ok_or_else(|| Error::MissingKey {
            key: key.to_string(),
            expected: T::NAME,
        })
    }
}

impl Value {
    /// Any of the integer types as the widest one.
    fn integer(&self) -> Option<i128> {
        match *self {
            Value::U8(v) => Some(v.into()),
            Value::I8(v) => Some(v.into()),
            Value::U16(v) => Some(v.into()),
            Value::I16(v) => Some(v.into()),
            Value::U32(v) => Some(v.into()),
            Value::I32(v) => Some(v.into()),
            Value::U64(v) => Some(v.into()),
            Value::I64(v) => Some(v.into()),
            _ => None,
        }
    }

    /// The type, and the value too where it is a number.
    fn describe(&self) -> String {
        match (self, self.integer()) {
            (_, Some(v)) => format!("{} ({v})", self.type_name()),
            (Value::F32(v), _) => format!("an f32 ({v})"),
            (Value::F64(v), _) => format!("an f64 ({v})"),
            _ => self.type_name().to_owned(),
        }
    }
}

macro_rules! integers {
    ($($rust:ty, $name:literal;)*) => {
        $(impl<'a> FromValue<'a> for $rust {
            const NAME: &'static str = $name;
            fn from_value(value: &'a Value) -> Option<Self> {
                value.integer().and_then(|v| v.try_into().ok())
            }
        })*
    };
}
integers! {
    u32, "a u32";
    i32, "an i32";
    u64, "a u64";
    i64, "an i64";
    usize, "a count";
}

impl<'a> FromValue<'a> for f32 {
    const NAME: &'static str = "an f32";
    fn from_value(value: &'a Value) -> Option<Self> {
        match *value {
            Value::F32(v) => Some(v),
            Value::F64(v) => Some(v as f32),
            _ => None,
        }
    }
}

impl<'a> FromValue<'a> for bool {
    const NAME: &'static str = "a bool";
    fn from_value(value: &'a Value) -> Option<Self> {
        match *value {
            Value::Bool(v) => Some(v),
            _ => None,
        }
    }
}

impl<'a> FromValue<'a> for &'a str {
    const NAME: &'static str = "a string";
    fn from_value(value: &'a Value) -> Option<Self> {
        match value {
            Value::String(v) => Some(v),
            _ => None,
        }
    }
}
