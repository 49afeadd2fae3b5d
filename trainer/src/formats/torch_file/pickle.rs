//! The pickle of a `torch.save` file, walked before anything is read: the tensors that it declares,
//! by name.
//!
//! The walk knows the operations in a state dict and the few names of Python that one needs. Any
//! other name, such as `posix.system`, ends it with an error. Nothing is ever called. A value is a
//! place in one list that grows by at most one per operation, and texts stay in the file's bytes.
//! So memory is bounded by the number of operations.

use std::collections::HashMap;

/// The largest accepted number of operations. The largest state dict with its optimizer (ViT-bigG)
/// has about 120,000.
const MOST_OPERATIONS: usize = 2_000_000;
/// The longest tuple whose items are read: arguments, references and shapes.
const LONGEST_TUPLE: usize = 16;
/// The protocol that `torch.save` writes.
const PROTOCOL: u8 = 2;

/// Names of Python that a state dict needs, in addition to storages.
const ORDERED_DICT: &str = "collections OrderedDict";
const REBUILD_TENSOR: &str = "torch._utils _rebuild_tensor_v2";
const REBUILD_PARAMETER: &str = "torch._utils _rebuild_parameter";

/// Classes of storages (in module `torch`), the type of their numbers, and the bytes of a number.
const STORAGES: [(&str, &str, usize); 10] = [
    ("torch FloatStorage", "float32", 4),
    ("torch HalfStorage", "float16", 2),
    ("torch BFloat16Storage", "bfloat16", 2),
    ("torch DoubleStorage", "float64", 8),
    ("torch LongStorage", "int64", 8),
    ("torch IntStorage", "int32", 4),
    ("torch ShortStorage", "int16", 2),
    ("torch CharStorage", "int8", 1),
    ("torch ByteStorage", "uint8", 1),
    ("torch BoolStorage", "bool", 1),
];

/// A range of the archive that holds numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Storage<'a> {
    pub(super) key: &'a str,
    pub(super) holds: &'static str,
    /// Bytes of one number.
    pub(super) width: usize,
    /// Number of numbers.
    pub(super) count: i64,
}

/// A view of a storage as the pickle declares it, not checked yet.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Declared<'a> {
    pub(super) storage: Storage<'a>,
    pub(super) offset: i64,
    pub(super) shape: Vec<i64>,
    pub(super) strides: Vec<i64>,
}

/// Tensors by name, in the order of the file.
pub(super) struct StateDict<'a> {
    /// The key of the outer dictionary that holds them, as in a training checkpoint.
    pub(super) under: Option<&'static str>,
    pub(super) tensors: Vec<(&'a str, Declared<'a>)>,
}

/// The key under which OpenCLIP's training checkpoints hold their weights.
const STATE_DICT: &str = "state_dict";

#[derive(Clone, Debug)]
enum Value<'a> {
    None,
    /// A number or truth value that nothing depends on.
    Other,
    Integer(i64),
    Text(&'a str),
    Name(&'static str),
    Tuple(Vec<usize>),
    /// Items of a list are never read.
    List,
    Dict(Vec<(usize, usize)>),
    Storage(Storage<'a>),
    Tensor(Declared<'a>),
}

impl Value<'_> {
    fn kind(&self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Other | Self::Integer(_) => "a number",
            Self::Text(_) => "a text",
            Self::Name(_) => "a class or function",
            Self::Tuple(_) => "a tuple",
            Self::List => "a list",
            Self::Dict(_) => "a dictionary",
            Self::Storage(_) => "a storage",
            Self::Tensor(_) => "a tensor",
        }
    }
}

/// Walks a pickle to its end. Returns the state dict that it describes.
pub(super) fn state_dict(pickle: &[u8]) -> Result<StateDict<'_>, String> {
    let mut walk = Walk {
        pickle,
        at: 0,
        values: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
    };
    let root =
        walk.run().map_err(|message| format!("its pickle, at byte {}: {message}", walk.at))?;
    let values = &walk.values;
    let Value::Dict(root) = &values[root] else {
        return Err(format!("it holds {} instead of a state dict", values[root].kind()));
    };
    let is_state_dict = |key: usize| matches!(values[key], Value::Text(text) if text == STATE_DICT);
    let inner = root.iter().find(|(key, _)| is_state_dict(*key)).map(|(_, value)| &values[*value]);
    let (under, pairs) = match inner {
        None => (None, root),
        Some(Value::Dict(pairs)) => (Some(STATE_DICT), pairs),
        Some(other) => {
            return Err(format!("its {STATE_DICT} is {} instead of a dictionary", other.kind()));
        }
    };
    let mut tensors: Vec<(&str, Declared<'_>)> = Vec::with_capacity(pairs.len());
    let mut seen = std::collections::HashSet::with_capacity(pairs.len());
    for (key, value) in pairs {
        match (&values[*key], &values[*value]) {
            (Value::Text(name), Value::Tensor(_)) if !seen.insert(*name) => {
                return Err(format!("tensor {name} occurs twice"));
            }
            (Value::Text(name), Value::Tensor(tensor)) => tensors.push((name, tensor.clone())),
            (Value::Text(name), other) => {
                return Err(format!(
                    "{name} is {} instead of a tensor; the file must hold a state dict, or a \
                     training checkpoint with one under {STATE_DICT:?}",
                    other.kind()
                ));
            }
            (other, _) => {
                return Err(format!(
                    "a key of the state dict is {} instead of a text",
                    other.kind()
                ));
            }
        }
    }
    Ok(StateDict { under, tensors })
}

struct Walk<'a> {
    pickle: &'a [u8],
    at: usize,
    values: Vec<Value<'a>>,
    /// Places in `values`.
    stack: Vec<usize>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u32, usize>,
}

impl<'a> Walk<'a> {
    /// Runs the operations. Returns the place of the value that the pickle describes.
    fn run(&mut self) -> Result<usize, String> {
        for _ in 0..MOST_OPERATIONS {
            match self.byte()? {
                0x80 => match self.byte()? {
                    PROTOCOL => {}
                    other => {
                        return Err(format!("protocol {other} instead of torch.save's {PROTOCOL}"));
                    }
                },
                b'.' => return self.pop(),
                b'N' => self.push(Value::None),
                0x88 | 0x89 => self.push(Value::Other),
                b'K' => {
                    let value = self.byte()?;
                    self.push(Value::Integer(value.into()));
                }
                b'M' => {
                    let value = u16::from_le_bytes(self.array()?);
                    self.push(Value::Integer(value.into()));
                }
                b'J' => {
                    let value = i32::from_le_bytes(self.array()?);
                    self.push(Value::Integer(value.into()));
                }
                0x8a => {
                    let value = self.long()?;
                    self.push(value);
                }
                b'G' => {
                    self.take(8)?;
                    self.push(Value::Other);
                }
                b'X' => {
                    let length = u32::from_le_bytes(self.array()?) as usize;
                    self.text(length)?;
                }
                b'U' => {
                    let length = self.byte()? as usize;
                    self.text(length)?;
                }
                b'c' => self.name()?,
                b'(' => self.marks.push(self.stack.len()),
                b')' => self.push(Value::Tuple(Vec::new())),
                b']' => self.push(Value::List),
                b'}' => self.push(Value::Dict(Vec::new())),
                b't' => {
                    let items = self.pop_to_mark()?;
                    self.push(Value::Tuple(items));
                }
                length @ 0x85..=0x87 => {
                    let mut items = Vec::new();
                    for _ in 0..length - 0x84 {
                        items.push(self.pop()?);
                    }
                    items.reverse();
                    self.push(Value::Tuple(items));
                }
                b'a' => {
                    self.pop()?;
                    self.expect_list()?;
                }
                b'e' => {
                    self.pop_to_mark()?;
                    self.expect_list()?;
                }
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    self.set(&[key, value])?;
                }
                b'u' => {
                    let items = self.pop_to_mark()?;
                    self.set(&items)?;
                }
                b'q' => {
                    let place = self.byte()?.into();
                    self.memo.insert(place, self.top()?);
                }
                b'r' => {
                    let place = u32::from_le_bytes(self.array()?);
                    self.memo.insert(place, self.top()?);
                }
                b'h' => {
                    let place = self.byte()?.into();
                    self.recall(place)?;
                }
                b'j' => {
                    let place = u32::from_le_bytes(self.array()?);
                    self.recall(place)?;
                }
                b'Q' => {
                    let id = self.pop()?;
                    let storage = self.storage(id)?;
                    self.push(Value::Storage(storage));
                }
                b'R' => {
                    let (arguments, callable) = (self.pop()?, self.pop()?);
                    let value = self.made_by(callable, arguments)?;
                    self.push(value);
                }
                b'b' => {
                    // The only attribute that torch sets on a state dict is `_metadata`, the
                    // versions of modules.
                    let state = self.pop()?;
                    let object = self.top()?;
                    if !matches!(
                        (&self.values[object], &self.values[state]),
                        (Value::Dict(_), Value::Dict(_))
                    ) {
                        return Err(format!("attributes for {}", self.values[object].kind()));
                    }
                }
                other => {
                    return Err(format!(
                        "operation {other:#04x} does not occur in state dicts; refused, and \
                         nothing was executed"
                    ));
                }
            }
        }
        Err(format!("more than {MOST_OPERATIONS} operations"))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], String> {
        let taken = self.pickle[self.at..].get(..length).ok_or("truncated")?;
        self.at += length;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        self.take(N)?.try_into().map_err(|_| "truncated".into())
    }

    fn byte(&mut self) -> Result<u8, String> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn line(&mut self) -> Result<&'a str, String> {
        let rest = &self.pickle[self.at..];
        let length = rest.iter().position(|&byte| byte == b'\n').ok_or("truncated")?;
        self.at += length + 1;
        std::str::from_utf8(&rest[..length]).map_err(|_| "a name that is not UTF-8".into())
    }

    fn text(&mut self, length: usize) -> Result<(), String> {
        let text =
            std::str::from_utf8(self.take(length)?).map_err(|_| "a text that is not UTF-8")?;
        self.push(Value::Text(text));
        Ok(())
    }

    /// Reads an integer of any length. Values that do not fit into an i64 become `Other`.
    fn long(&mut self) -> Result<Value<'a>, String> {
        let length = self.byte()? as usize;
        let bytes = self.take(length)?;
        if length > 8 {
            return Ok(Value::Other);
        }
        let negative = bytes.last().is_some_and(|last| last & 0x80 != 0);
        let mut value = [if negative { 0xff } else { 0 }; 8];
        value[..length].copy_from_slice(bytes);
        Ok(Value::Integer(i64::from_le_bytes(value)))
    }

    fn name(&mut self) -> Result<(), String> {
        let (module, name) = (self.line()?, self.line()?);
        let known = [ORDERED_DICT, REBUILD_TENSOR, REBUILD_PARAMETER];
        let names = known.into_iter().chain(STORAGES.iter().map(|(name, _, _)| *name));
        let full = format!("{module} {name}");
        match names.into_iter().find(|name| *name == full) {
            Some(name) => {
                self.push(Value::Name(name));
                Ok(())
            }
            None => Err(format!(
                "it names {module}.{name}, which no state dict of floats needs; refused, and \
                 nothing was executed. If you trust the file, load it in Python and save only its \
                 state dict"
            )),
        }
    }

    fn push(&mut self, value: Value<'a>) {
        self.stack.push(self.values.len());
        self.values.push(value);
    }

    fn pop(&mut self) -> Result<usize, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err("an operation without its operands".into());
        }
        self.stack.pop().ok_or_else(|| "an operation without its operands".into())
    }

    fn top(&self) -> Result<usize, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        self.stack
            .get(floor..)
            .and_then(<[usize]>::last)
            .copied()
            .ok_or_else(|| "an operation without its operands".into())
    }

    fn pop_to_mark(&mut self) -> Result<Vec<usize>, String> {
        let mark = self.marks.pop().ok_or("an end without a beginning")?;
        Ok(self.stack.split_off(mark))
    }

    fn recall(&mut self, place: u32) -> Result<(), String> {
        let value = *self.memo.get(&place).ok_or("a reference to nothing")?;
        self.stack.push(value);
        Ok(())
    }

    fn expect_list(&self) -> Result<(), String> {
        match &self.values[self.top()?] {
            Value::List => Ok(()),
            other => Err(format!("items for {}", other.kind())),
        }
    }

    /// Adds alternating keys and values to the dictionary on top.
    fn set(&mut self, items: &[usize]) -> Result<(), String> {
        let top = self.top()?;
        let (pairs, rest) = items.as_chunks::<2>();
        match &mut self.values[top] {
            Value::Dict(found) if rest.is_empty() => {
                found.extend(pairs.iter().map(|[key, value]| (*key, *value)));
                Ok(())
            }
            Value::Dict(_) => Err("a key without a value".into()),
            other => Err(format!("entries for {}", other.kind())),
        }
    }

    fn tuple(&self, value: &Value<'a>) -> Result<Vec<&Value<'a>>, String> {
        match value {
            // A long tuple that is referenced repeatedly would cost its length each time.
            Value::Tuple(items) if items.len() > LONGEST_TUPLE => {
                Err(format!("a tuple of {} instead of a short one", items.len()))
            }
            Value::Tuple(items) => Ok(items.iter().map(|item| &self.values[*item]).collect()),
            other => Err(format!("{} instead of a tuple", other.kind())),
        }
    }

    fn integers(&self, value: &Value<'a>) -> Result<Vec<i64>, String> {
        let integer = |item: &Value<'a>| match item {
            Value::Integer(value) => Ok(*value),
            other => Err(format!("{} in a shape", other.kind())),
        };
        self.tuple(value)?.into_iter().map(integer).collect()
    }

    fn storage(&self, id: usize) -> Result<Storage<'a>, String> {
        let fields = self.tuple(&self.values[id])?;
        let [
            Value::Text("storage"),
            Value::Name(class),
            Value::Text(key),
            Value::Text(_),
            Value::Integer(count),
        ] = fields[..]
        else {
            return Err("a reference outside the pickle that is not a storage".into());
        };
        let (_, holds, width) = STORAGES
            .iter()
            .find(|(name, _, _)| name == class)
            .ok_or_else(|| format!("{class} instead of a storage"))?;
        Ok(Storage { key, holds, width: *width, count: *count })
    }

    /// Returns the value that calling one of the known names would make.
    fn made_by(&self, callable: usize, arguments: usize) -> Result<Value<'a>, String> {
        let name = match self.values[callable] {
            Value::Name(name) => name,
            ref other => return Err(format!("a call of {}", other.kind())),
        };
        let arguments = self.tuple(&self.values[arguments])?;
        match (name, &arguments[..]) {
            (ORDERED_DICT, []) => Ok(Value::Dict(Vec::new())),
            (REBUILD_PARAMETER, [Value::Tensor(tensor), ..]) => Ok(Value::Tensor(tensor.clone())),
            (
                REBUILD_TENSOR,
                [Value::Storage(storage), Value::Integer(offset), shape, strides, _, _, rest @ ..],
            ) => {
                // A seventh argument with content says that the numbers are to be negated or
                // conjugated.
                if rest.iter().any(|value| {
                    !matches!(value, Value::None)
                        && !matches!(value, Value::Dict(pairs) if pairs.is_empty())
                }) {
                    return Err(format!(
                        "a tensor of storage {:?} with flags that change its values",
                        storage.key
                    ));
                }
                let (shape, strides) = (self.integers(shape)?, self.integers(strides)?);
                Ok(Value::Tensor(Declared { storage: *storage, offset: *offset, shape, strides }))
            }
            _ => Err(format!("{name} with arguments that do not occur in a state dict")),
        }
    }
}
