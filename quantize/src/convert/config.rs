//! config.json's values, found under any of their spellings, with errors that name the key.

use std::path::Path;

use serde_json::Value;

use crate::Error;

/// Widest and deepest that a configuration may claim; published models stay far below.
const MAX_SIZE: u64 = 1 << 20;

/// A JSON object of settings and the file it came from.
pub struct Config<'a> {
    path: &'a Path,
    json: &'a Value,
}

impl<'a> Config<'a> {
    /// Settings `json` of the file at `path`.
    pub fn new(path: &'a Path, json: &'a Value) -> Self {
        Config { path, json }
    }

    /// A nested object; null and absent are none.
    pub fn opt_object(&self, key: &str) -> Result<Option<Config<'a>>, Error> {
        match self.get(&[key]) {
            None => Ok(None),
            Some(json) if json.is_object() => Ok(Some(Config {
                path: self.path,
                json,
            })),
            Some(other) => Err(self.wrong(&[key], other, "an object")),
        }
    }

    /// The first of `keys` that is there and not null.
    fn get(&self, keys: &[&str]) -> Option<&'a Value> {
        keys.iter()
            .find_map(|key| self.json.get(key).filter(|v| !v.is_null()))
    }

    /// Whether `key` is there, even as null.
    pub fn contains(&self, key: &str) -> bool {
        self.json.get(key).is_some()
    }

    /// The first entry of `architectures`.
    pub fn first_architecture(&self) -> Option<&'a str> {
        self.json.get("architectures")?.get(0)?.as_str()
    }

    /// An error about a key, by its usual spelling.
    pub fn wrong(&self, keys: &[&str], found: impl std::fmt::Display, expected: &str) -> Error {
        let key = keys
            .iter()
            .find(|key| self.json.get(key).is_some())
            .or(keys.first())
            .unwrap_or(&"");
        Error::file(
            self.path,
            format!("'{key}' is {found}, expected {expected}"),
        )
    }

    /// A size: 1 to [`MAX_SIZE`].
    pub fn size(&self, keys: &[&str]) -> Result<usize, Error> {
        self.opt_size(keys)?
            .ok_or_else(|| self.wrong(keys, "absent", "a positive integer"))
    }

    /// A size, if it is there.
    pub fn opt_size(&self, keys: &[&str]) -> Result<Option<usize>, Error> {
        let Some(value) = self.get(keys) else {
            return Ok(None);
        };
        // Some exports write whole numbers as floats.
        let whole = value.as_u64().or_else(|| {
            value
                .as_f64()
                .filter(|x| x.fract() == 0.0 && *x > 0.0 && *x <= MAX_SIZE as f64)
                .map(|x| x as u64)
        });
        match whole {
            Some(n @ 1..=MAX_SIZE) => Ok(Some(n as usize)),
            _ => Err(self.wrong(keys, value, &format!("an integer from 1 to {MAX_SIZE}"))),
        }
    }

    /// A positive number, if it is there.
    pub fn opt_positive(&self, keys: &[&str]) -> Result<Option<f64>, Error> {
        let Some(value) = self.get(keys) else {
            return Ok(None);
        };
        match value.as_f64() {
            Some(x) if x.is_finite() && x > 0.0 => Ok(Some(x)),
            _ => Err(self.wrong(keys, value, "a positive number")),
        }
    }

    /// A string, if it is there.
    pub fn opt_str(&self, keys: &[&str]) -> Result<Option<&'a str>, Error> {
        let Some(value) = self.get(keys) else {
            return Ok(None);
        };
        match value.as_str() {
            Some(text) => Ok(Some(text)),
            None => Err(self.wrong(keys, value, "a string")),
        }
    }

    /// A bool, `default` where it is absent.
    pub fn bool(&self, key: &str, default: bool) -> Result<bool, Error> {
        match self.get(&[key]) {
            None => Ok(default),
            Some(Value::Bool(b)) => Ok(*b),
            Some(other) => Err(self.wrong(&[key], other, "true or false")),
        }
    }

    /// Refuses `key` unless it is absent or `honoured`.
    pub fn refuse_unless(&self, key: &str, honoured: bool, why: &str) -> Result<(), Error> {
        if self.bool(key, honoured)? == honoured {
            return Ok(());
        }
        Err(Error::file(
            self.path,
            format!("'{key}' is {}: {why}, which is not supported", !honoured),
        ))
    }

    /// Refuses `key` unless it is absent or null.
    pub fn refuse_set(&self, key: &str, why: &str) -> Result<(), Error> {
        match self.get(&[key]) {
            None => Ok(()),
            Some(_) => Err(Error::file(self.path, format!("'{key}' is set: {why}"))),
        }
    }
}
