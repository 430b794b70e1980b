//! The pickle of a saved state dict, read by an allow-list of opcodes and of names.
//!
//! Nothing is ever imported, called or executed. The machine knows the opcodes that `torch.save`
//! uses for a dict of tensors (pickle protocol 2, described in CPython's `pickletools`), the
//! three names below, and torch's storage types; anything else is refused by name. Containers
//! live in arenas and values are indices into them, so no input makes the reader recurse, and it
//! holds no more than a few words for each byte of the pickle.

use std::collections::HashMap;
use std::fmt;

use super::Dtype;

const REBUILD_TENSOR: (&str, &str) = ("torch._utils", "_rebuild_tensor_v2");
const ORDERED_DICT: (&str, &str) = ("collections", "OrderedDict");

/// torch's storage types and the elements they hold.
const STORAGES: [(&str, &str); 10] = [
    ("HalfStorage", "F16"),
    ("BFloat16Storage", "BF16"),
    ("FloatStorage", "F32"),
    ("DoubleStorage", "F64"),
    ("ByteStorage", "U8"),
    ("CharStorage", "I8"),
    ("ShortStorage", "I16"),
    ("IntStorage", "I32"),
    ("LongStorage", "I64"),
    ("BoolStorage", "BOOL"),
];

/// A run of elements in the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Storage {
    /// Its entry is `data/KEY`.
    pub key: String,
    /// Element type, in safetensors' names.
    element: &'static str,
    /// How many elements it has.
    pub numel: u64,
}

impl Storage {
    /// Element type.
    pub fn dtype(&self) -> Dtype {
        Dtype::from_safetensors(self.element)
    }
}

/// A tensor as the pickle describes it: a view of a storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorRef {
    /// What it views.
    pub storage: Storage,
    /// First element.
    pub offset: u64,
    /// Dimensions, outermost first.
    pub shape: Vec<u64>,
    /// Elements from one index to the next, a dimension each.
    pub stride: Vec<u64>,
}

impl TensorRef {
    /// Whether the elements lie in row-major order without gaps. The stride of a dimension of
    /// size 1 says nothing.
    pub fn is_contiguous(&self) -> bool {
        let mut expected = 1u64;
        self.shape.len() == self.stride.len()
            && self.shape.iter().zip(&self.stride).rev().all(|(&d, &s)| {
                let holds = d <= 1 || s == expected;
                expected = expected.saturating_mul(d);
                holds
            })
    }
}

/// Why a pickle was not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PickleError(String);

impl fmt::Display for PickleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn err<T>(message: impl Into<String>) -> Result<T, PickleError> {
    Err(PickleError(message.into()))
}

/// What the stack and the memo hold; containers are indices into the machine's arenas.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Value {
    None,
    Bool,
    Int(i64),
    Text(usize),
    Tuple(usize),
    Dict(usize),
    Tensor(usize),
    Storage(usize),
    /// A name of the allow-list.
    Global(Global),
    Mark,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Global {
    RebuildTensor,
    OrderedDict,
    Storage(&'static str),
}

impl Value {
    fn kind(self) -> &'static str {
        match self {
            Value::None => "None",
            Value::Bool => "a bool",
            Value::Int(_) => "an integer",
            Value::Text(_) => "a string",
            Value::Tuple(_) => "a tuple",
            Value::Dict(_) => "a dict",
            Value::Tensor(_) => "a tensor",
            Value::Storage(_) => "a storage",
            Value::Global(_) => "a class or function",
            Value::Mark => "a mark",
        }
    }
}

/// The tensors of a pickled state dict, in its order.
///
/// # Errors
/// Where an opcode or a name is not on the list, the bytes end early, or the result is no dict
/// from strings to tensors.
pub fn parse_state_dict(bytes: &[u8]) -> Result<Vec<(String, TensorRef)>, PickleError> {
    let mut machine = Machine {
        bytes,
        at: 0,
        stack: Vec::new(),
        memo: HashMap::new(),
        texts: Vec::new(),
        tuples: Vec::new(),
        dicts: Vec::new(),
        tensors: Vec::new(),
        storages: Vec::new(),
    };
    let root = machine.run()?;
    let Value::Dict(root) = root else {
        return err(format!("holds {}, expected a dict of tensors", root.kind()));
    };
    let mut state = Vec::new();
    for &(key, value) in machine.dict(root)? {
        let name = machine.text(key)?;
        match value {
            Value::Tensor(i) => match machine.tensors.get(i) {
                Some(tensor) => state.push((name.to_string(), tensor.clone())),
                None => return err("a tensor is missing"),
            },
            other => {
                return err(format!(
                    "key '{name}' holds {}, expected a tensor: this is no plain state dict",
                    other.kind()
                ));
            }
        }
    }
    Ok(state)
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value>,
    memo: HashMap<u32, Value>,
    texts: Vec<&'a str>,
    tuples: Vec<Vec<Value>>,
    dicts: Vec<Vec<(Value, Value)>>,
    tensors: Vec<TensorRef>,
    storages: Vec<Storage>,
}

impl<'a> Machine<'a> {
    fn run(&mut self) -> Result<Value, PickleError> {
        loop {
            let start = self.at;
            let [opcode] = self.take_array()?;
            match opcode {
                0x80 => {
                    let [protocol] = self.take_array()?;
                    if protocol != 2 {
                        return err(format!(
                            "has pickle protocol {protocol}; torch.save writes protocol 2"
                        ));
                    }
                }
                b'.' => return self.pop(),
                b'(' => self.stack.push(Value::Mark),
                b'N' => self.stack.push(Value::None),
                0x88 | 0x89 => self.stack.push(Value::Bool),
                b'J' => {
                    let n = i32::from_le_bytes(self.take_array()?);
                    self.stack.push(Value::Int(n.into()));
                }
                b'K' => {
                    let [n] = self.take_array()?;
                    self.stack.push(Value::Int(n.into()));
                }
                b'M' => {
                    let n = u16::from_le_bytes(self.take_array()?);
                    self.stack.push(Value::Int(n.into()));
                }
                0x8a => {
                    let n = self.long()?;
                    self.stack.push(Value::Int(n));
                }
                b'X' => {
                    let length = u32::from_le_bytes(self.take_array()?);
                    let text = std::str::from_utf8(self.take(length as usize)?)
                        .map_err(|_| PickleError("a string is not UTF-8".into()))?;
                    self.texts.push(text);
                    self.stack.push(Value::Text(self.texts.len() - 1));
                }
                b')' => self.push_tuple(Vec::new()),
                b't' => {
                    let items = self.pop_to_mark()?;
                    self.push_tuple(items);
                }
                0x85..=0x87 => {
                    let items = self.pop_n(usize::from(opcode - 0x84))?;
                    self.push_tuple(items);
                }
                b'}' => self.push_dict(),
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    self.top_dict()?.push((key, value));
                }
                b'u' => {
                    let items = self.pop_to_mark()?;
                    let dict = self.top_dict()?;
                    for pair in items.chunks(2) {
                        let &[key, value] = pair else {
                            return err("a dict has a key without a value");
                        };
                        dict.push((key, value));
                    }
                }
                b'q' => {
                    let [slot] = self.take_array()?;
                    self.remember(slot.into())?;
                }
                b'r' => {
                    let slot = u32::from_le_bytes(self.take_array()?);
                    self.remember(slot)?;
                }
                b'h' => {
                    let [slot] = self.take_array()?;
                    self.recall(slot.into())?;
                }
                b'j' => {
                    let slot = u32::from_le_bytes(self.take_array()?);
                    self.recall(slot)?;
                }
                b'c' => {
                    let global = self.global()?;
                    self.stack.push(Value::Global(global));
                }
                b'Q' => {
                    let id = self.pop()?;
                    let storage = self.storage(id)?;
                    self.storages.push(storage);
                    self.stack.push(Value::Storage(self.storages.len() - 1));
                }
                b'R' => {
                    let (arguments, callee) = (self.pop()?, self.pop()?);
                    self.reduce(callee, arguments)?;
                }
                b'b' => {
                    // An OrderedDict's attributes (a state dict's `_metadata`): of no use here.
                    let (state, target) = (self.pop()?, self.peek()?);
                    if !matches!((target, state), (Value::Dict(_), Value::Dict(_))) {
                        return err(format!(
                            "sets the state of {} from {}, which is not allowed",
                            target.kind(),
                            state.kind()
                        ));
                    }
                }
                other => {
                    return err(format!(
                        "has the forbidden opcode {} at byte {start}: only what torch.save uses \
                         for a dict of tensors is read, and nothing is executed",
                        opcode_name(other)
                    ));
                }
            }
        }
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], PickleError> {
        let end = self.at.checked_add(n);
        match end.and_then(|end| Some((end, self.bytes.get(self.at..end)?))) {
            Some((end, bytes)) => {
                self.at = end;
                Ok(bytes)
            }
            None => err(format!("is truncated at byte {}", self.at)),
        }
    }

    fn take_array<const N: usize>(&mut self) -> Result<[u8; N], PickleError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    /// LONG1: a length byte, then a little-endian two's complement number.
    fn long(&mut self) -> Result<i64, PickleError> {
        let [length] = self.take_array()?;
        let bytes = self.take(length.into())?;
        if bytes.len() > 8 {
            return err(format!(
                "has an integer of {length} bytes, expected 8 at most"
            ));
        }
        let sign = if bytes.last().is_some_and(|b| b & 0x80 != 0) {
            0xff
        } else {
            0
        };
        let mut wide = [sign; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        Ok(i64::from_le_bytes(wide))
    }

    fn line(&mut self) -> Result<&'a str, PickleError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        // A name of the allow-list is short; do not search a whole file for its end.
        let rest = &rest[..rest.len().min(256)];
        let Some(length) = rest.iter().position(|&b| b == b'\n') else {
            return err(format!(
                "has an overlong or truncated name at byte {}",
                self.at
            ));
        };
        let line = self.take(length)?;
        self.at += 1;
        std::str::from_utf8(line).map_err(|_| PickleError("a name is not UTF-8".into()))
    }

    fn global(&mut self) -> Result<Global, PickleError> {
        let name = (self.line()?, self.line()?);
        if name == REBUILD_TENSOR {
            return Ok(Global::RebuildTensor);
        }
        if name == ORDERED_DICT {
            return Ok(Global::OrderedDict);
        }
        let storage = STORAGES.iter().find(|(class, _)| name == ("torch", *class));
        match storage {
            Some((_, element)) => Ok(Global::Storage(element)),
            None => err(format!(
                "asks for {}.{}, which is not allowed: only tensors are read, nothing is executed",
                name.0.escape_debug(),
                name.1.escape_debug()
            )),
        }
    }

    fn pop(&mut self) -> Result<Value, PickleError> {
        self.stack
            .pop()
            .ok_or_else(|| PickleError("takes from an empty stack".into()))
    }

    fn peek(&self) -> Result<Value, PickleError> {
        self.stack
            .last()
            .copied()
            .ok_or_else(|| PickleError("looks at an empty stack".into()))
    }

    fn pop_n(&mut self, n: usize) -> Result<Vec<Value>, PickleError> {
        match self.stack.len().checked_sub(n) {
            Some(from) => Ok(self.stack.split_off(from)),
            None => err("takes from an empty stack"),
        }
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value>, PickleError> {
        match self.stack.iter().rposition(|&v| v == Value::Mark) {
            Some(mark) => {
                let items = self.stack.split_off(mark + 1);
                self.stack.pop();
                Ok(items)
            }
            None => err("takes up to a mark that is not there"),
        }
    }

    fn push_tuple(&mut self, items: Vec<Value>) {
        self.tuples.push(items);
        self.stack.push(Value::Tuple(self.tuples.len() - 1));
    }

    fn push_dict(&mut self) {
        self.dicts.push(Vec::new());
        self.stack.push(Value::Dict(self.dicts.len() - 1));
    }

    fn top_dict(&mut self) -> Result<&mut Vec<(Value, Value)>, PickleError> {
        match self.peek()? {
            Value::Dict(i) => self
                .dicts
                .get_mut(i)
                .ok_or_else(|| PickleError("a dict is missing".into())),
            other => err(format!("sets items of {}, expected a dict", other.kind())),
        }
    }

    fn remember(&mut self, slot: u32) -> Result<(), PickleError> {
        let value = self.peek()?;
        self.memo.insert(slot, value);
        Ok(())
    }

    fn recall(&mut self, slot: u32) -> Result<(), PickleError> {
        match self.memo.get(&slot) {
            Some(&value) => {
                self.stack.push(value);
                Ok(())
            }
            None => err(format!("recalls memo slot {slot}, which is not set")),
        }
    }

    fn dict(&self, i: usize) -> Result<&[(Value, Value)], PickleError> {
        self.dicts
            .get(i)
            .map(Vec::as_slice)
            .ok_or_else(|| PickleError("a dict is missing".into()))
    }

    fn tuple(&self, value: Value) -> Result<&[Value], PickleError> {
        match value {
            Value::Tuple(i) => self
                .tuples
                .get(i)
                .map(Vec::as_slice)
                .ok_or_else(|| PickleError("a tuple is missing".into())),
            other => err(format!("found {}, expected a tuple", other.kind())),
        }
    }

    fn text(&self, value: Value) -> Result<&'a str, PickleError> {
        match value {
            Value::Text(i) => self
                .texts
                .get(i)
                .copied()
                .ok_or_else(|| PickleError("a string is missing".into())),
            other => err(format!("found {}, expected a string", other.kind())),
        }
    }

    /// `('storage', type, key, location, numel)`.
    fn storage(&self, id: Value) -> Result<Storage, PickleError> {
        match self.tuple(id)? {
            &[tag, Value::Global(Global::Storage(element)), key, _, numel]
                if self.text(tag)? == "storage" =>
            {
                Ok(Storage {
                    key: self.text(key)?.to_string(),
                    element,
                    numel: unsigned(numel)?,
                })
            }
            _ => err("has a persistent id that is no storage"),
        }
    }

    fn reduce(&mut self, callee: Value, arguments: Value) -> Result<(), PickleError> {
        let arguments = self.tuple(arguments)?;
        match (callee, arguments) {
            (Value::Global(Global::OrderedDict), []) => self.push_dict(),
            (
                Value::Global(Global::RebuildTensor),
                &[
                    Value::Storage(storage),
                    offset,
                    shape,
                    stride,
                    _requires_grad,
                    _hooks,
                    ..,
                ],
            ) => {
                let tensor = self.rebuild(storage, offset, shape, stride)?;
                self.tensors.push(tensor);
                self.stack.push(Value::Tensor(self.tensors.len() - 1));
            }
            (Value::Global(Global::OrderedDict), _) => {
                return err("builds an OrderedDict from arguments, which torch.save does not");
            }
            (Value::Global(Global::RebuildTensor), _) => {
                return err("describes a tensor with arguments that torch.save does not write");
            }
            (other, _) => {
                return err(format!("calls {}, which is not allowed", other.kind()));
            }
        }
        Ok(())
    }

    fn rebuild(
        &self,
        storage: usize,
        offset: Value,
        shape: Value,
        stride: Value,
    ) -> Result<TensorRef, PickleError> {
        let Some(storage) = self.storages.get(storage) else {
            return err("a storage is missing");
        };
        let numbers = |value| -> Result<Vec<u64>, PickleError> {
            self.tuple(value)?.iter().map(|&v| unsigned(v)).collect()
        };
        Ok(TensorRef {
            storage: storage.clone(),
            offset: unsigned(offset)?,
            shape: numbers(shape)?,
            stride: numbers(stride)?,
        })
    }
}

fn unsigned(value: Value) -> Result<u64, PickleError> {
    match value {
        Value::Int(n) => {
            u64::try_from(n).map_err(|_| PickleError(format!("found {n}, expected 0 or more")))
        }
        other => err(format!("found {}, expected an integer", other.kind())),
    }
}

/// What CPython calls the opcodes that a hostile or foreign pickle is likely to hold.
fn opcode_name(opcode: u8) -> String {
    let name = match opcode {
        b'i' => "INST",
        b'o' => "OBJ",
        0x81 => "NEWOBJ",
        0x92 => "NEWOBJ_EX",
        0x93 => "STACK_GLOBAL",
        0x82..=0x84 => "EXT",
        b'P' => "PERSID",
        b'G' => "BINFLOAT",
        b'F' => "FLOAT",
        b'I' => "INT",
        b'L' => "LONG",
        b'S' => "STRING",
        b'T' => "BINSTRING",
        b'U' => "SHORT_BINSTRING",
        b'V' => "UNICODE",
        b'B' => "BINBYTES",
        b'C' => "SHORT_BINBYTES",
        0x8b => "LONG4",
        0x8c => "SHORT_BINUNICODE",
        0x8d => "BINUNICODE8",
        0x8e => "BINBYTES8",
        0x8f => "EMPTY_SET",
        0x90 => "ADDITEMS",
        0x91 => "FROZENSET",
        0x94 => "MEMOIZE",
        0x95 => "FRAME",
        0x96 => "BYTEARRAY8",
        b'd' => "DICT",
        b'l' => "LIST",
        b']' => "EMPTY_LIST",
        b'a' => "APPEND",
        b'e' => "APPENDS",
        b'0' => "POP",
        b'1' => "POP_MARK",
        b'2' => "DUP",
        b'p' => "PUT",
        b'g' => "GET",
        _ => return format!("0x{opcode:02x}"),
    };
    format!("{name} (0x{opcode:02x})")
}
