//! One command and its arguments. It knows no Redis command in particular.

use crate::{Channel, Key};
use bytes::Bytes;
use fred::types::Value as FredValue;

/// A command to be sent with [`Generation::call`](crate::Generation::call).
///
/// ```
/// use redis_link::Command;
/// let command = Command::new("SET").arg("key").arg("value").arg("PX").arg(1500);
/// assert_eq!(command.name(), "SET");
/// ```
#[derive(Clone, Debug)]
#[must_use = "a command does nothing until it is sent"]
pub struct Command {
    name: &'static str,
    pub(crate) arguments: Vec<FredValue>,
    size: usize,
    /// Place of the first key, which says where it goes on a cluster.
    key: Option<usize>,
}

impl Command {
    /// A command without arguments. A subcommand may stand in the name: `"XINFO STREAM"`.
    pub const fn new(name: &'static str) -> Self {
        Self { name, arguments: Vec::new(), size: 0, key: None }
    }

    /// With one more argument.
    pub fn arg(mut self, argument: impl Argument) -> Self {
        self.add(argument);
        self
    }

    /// With more arguments of one kind.
    pub fn args<A: Argument>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        arguments.into_iter().for_each(|argument| self.add(argument));
        self
    }

    /// The command's name, as given.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Bytes of all arguments.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.size
    }

    pub(crate) fn of_keys<'a>(name: &'static str, keys: impl IntoIterator<Item = &'a Key>) -> Self {
        let keys = keys.into_iter();
        let arguments = Vec::with_capacity(keys.size_hint().0);
        keys.fold(Self { name, arguments, size: 0, key: None }, Self::arg)
    }

    /// The hash slot of its first key.
    pub(crate) fn slot(&self) -> Option<u16> {
        let key = self.arguments.get(self.key?)?;
        key.as_bytes().map(fred::util::redis_keyslot)
    }

    fn add(&mut self, argument: impl Argument) {
        if self.key.is_none() && argument.is_key() {
            self.key = Some(self.arguments.len());
        }
        let bytes = argument.into_bytes();
        self.size += bytes.len();
        self.arguments.push(FredValue::Bytes(bytes));
    }
}

/// What can be an argument of a command.
pub trait Argument {
    /// The bytes that are sent; numbers in decimal.
    fn into_bytes(self) -> Bytes;

    /// Whether it is a key, whose hash slot decides where the command goes on a cluster.
    fn is_key(&self) -> bool {
        false
    }
}

impl Argument for Bytes {
    fn into_bytes(self) -> Bytes {
        self
    }
}

impl Argument for &Bytes {
    fn into_bytes(self) -> Bytes {
        self.clone()
    }
}

impl Argument for Vec<u8> {
    fn into_bytes(self) -> Bytes {
        Bytes::from(self)
    }
}

impl Argument for &[u8] {
    fn into_bytes(self) -> Bytes {
        Bytes::copy_from_slice(self)
    }
}

impl Argument for String {
    fn into_bytes(self) -> Bytes {
        Bytes::from(self)
    }
}

impl Argument for &str {
    fn into_bytes(self) -> Bytes {
        Bytes::copy_from_slice(self.as_bytes())
    }
}

impl Argument for &Key {
    fn into_bytes(self) -> Bytes {
        self.as_bytes().clone()
    }

    fn is_key(&self) -> bool {
        true
    }
}

impl Argument for &Channel {
    fn into_bytes(self) -> Bytes {
        self.as_bytes().clone()
    }
}

macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl Argument for $number {
            fn into_bytes(self) -> Bytes {
                Bytes::from(self.to_string())
            }
        }
    )*};
}
numbers!(i32, u32, i64, u64, usize);
