//! What a value of a field says: clients write numbers as text, one string for a list of one, and
//! JSON in strings. Each reader says what it expected where it cannot.

use serde_json::{Map, Value};

use super::refusal::Refusal;

/// A JSON object.
pub type Object = Map<String, Value>;

/// Stop strings, banned words and biases of one request.
pub const MAX_ENTRIES: usize = 1024;

/// The refusal of `name` with a value of a wrong type.
pub fn wrong(name: &str, found: &Value, expected: &str) -> Refusal {
    let mut found = found.to_string();
    if found.chars().count() > 80 {
        found = found.chars().take(80).chain("...".chars()).collect();
    }
    Refusal::Invalid(format!("{name}: found {found}, expected {expected}"))
}

/// Whether clients write it for a field that they do not mean.
pub fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// A number, or text of one.
pub fn number(value: &Value) -> Result<f64, &'static str> {
    let number = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    number.filter(|n| !n.is_nan()).ok_or("a number")
}

/// Sets `field` to a number, clamped to `min` to `max`.
pub fn set(field: &mut f32, value: &Value, min: f64, max: f64) -> Result<(), &'static str> {
    *field = number(value)?.clamp(min, max) as f32;
    Ok(())
}

/// A count; `None` for a negative number, which means no limit.
pub fn count(value: &Value) -> Result<Option<usize>, &'static str> {
    let number = number(value)?;
    // A cast saturates; no count of ours is near 2^32.
    Ok((number >= 0.0).then(|| number.min(f64::from(u32::MAX)) as usize))
}

/// A seed of 64 bits; `None` for a negative number, which means any.
pub fn seed(value: &Value) -> Result<Option<u64>, &'static str> {
    match value.as_u64() {
        Some(seed) => Ok(Some(seed)),
        None => Ok(count(value)?.map(|n| n as u64)),
    }
}

/// Whether it is so; clients write all sorts.
pub fn flag(value: &Value) -> Result<bool, &'static str> {
    match value {
        Value::Bool(flag) => Ok(*flag),
        Value::Number(_) => Ok(number(value)? != 0.0),
        Value::String(text) if text == "true" || text == "false" => Ok(text == "true"),
        _ => Err("true or false"),
    }
}

/// A string or several; empty ones count for nothing.
pub fn strings(value: &Value) -> Result<Vec<String>, &'static str> {
    const EXPECTED: &str = "a string, or at most 1024 of them";
    let list = match value {
        Value::String(text) => vec![text.clone()],
        Value::Array(list) => (list.iter())
            .map(|item| item.as_str().map(str::to_string))
            .collect::<Option<_>>()
            .ok_or(EXPECTED)?,
        _ => return Err(EXPECTED),
    };
    let list: Vec<String> = list.into_iter().filter(|text| !text.is_empty()).collect();
    match list.len() <= MAX_ENTRIES {
        true => Ok(list),
        false => Err(EXPECTED),
    }
}

/// A token id.
pub fn id(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|id| u32::try_from(id).ok())
}

/// A JSON schema, or JSON of one.
pub fn schema(value: &Value) -> Result<Value, &'static str> {
    const EXPECTED: &str = "a JSON schema";
    let schema = match value {
        Value::String(text) => serde_json::from_str(text).map_err(|_| EXPECTED)?,
        value => value.clone(),
    };
    match schema {
        Value::Object(_) | Value::Bool(true) => Ok(schema),
        _ => Err(EXPECTED),
    }
}

/// Strings, or JSON of a list of them.
pub fn breakers(value: &Value) -> Result<Vec<String>, &'static str> {
    let list = match value {
        Value::String(text) => serde_json::from_str(text).unwrap_or_else(|_| value.clone()),
        _ => value.clone(),
    };
    strings(&list)
}
